"""Judges P2P by what the arms found: the verdict for each pair and its evidence, speeds, advice and findings.

An arm is one setting tried in processes of its own. The control has P2P off: where it fails too, nothing is known. No
rate ever changes a verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from rigbench.core import stats, units
from rigbench.core.finding import Finding, cost, finding, merged
from rigbench.core.record import Absent, Tally
from rigbench.machine.record import GpuPair
from rigbench.p2p.record import P2p, P2pAdvice, P2pArm, P2pVerdict, PairVerdict, SpeedRatio, ValueCheck

WORST_FIRST: tuple[P2pVerdict, ...] = ("broken", "inconclusive", "works", "not available", "not applicable")
NO_FACTS = Absent("the driver does not list this pair")
Pair = tuple[str, str]


def judged(result: P2p, known: Sequence[GpuPair], inherited: Mapping[str, str]) -> P2p:
    """With verdicts, speeds (at the largest all_reduce) and advice by its arms, of which there is at least one.

    The verdict is the worst of all pairs, and says how many it holds for. One pair that works outweighs those that
    cannot.
    """
    by_pair = {frozenset((f"GPU{pair.one}", f"GPU{pair.other}")): pair for pair in known}
    pairs = tuple(
        pair_verdict(pair, result.arms, by_pair.get(frozenset(pair), NO_FACTS))
        for pair in itertools.combinations(result.devices, 2)
    )
    worst = min((pair.verdict for pair in pairs), key=WORST_FIRST.index)
    reasons = [pair.reason for pair in pairs if pair.verdict == worst]
    where = "" if len(pairs) == 1 else f"{len(reasons)} of {len(pairs)} pairs: "
    size_bytes = max((times.size_bytes for arm in result.arms for times in arm.reduces), default=0)
    reason, speeds = where + "; ".join(dict.fromkeys(reasons)), _speeds(result.arms, size_bytes)
    result = msgspec.structs.replace(result, verdict=worst, reason=reason, pairs=pairs, speeds=speeds)
    return msgspec.structs.replace(result, advice=_advice(result, size_bytes, inherited))


# ---- The verdict for one pair

State = Literal["right", "wrong", "hung", "died", "out of memory", "open"]
DEATHS_THAT_PROVE = 2  # one may have been an administrator's doing
OUT_OF_MEMORY = ("out of memory", "memory runs out")  # says nothing of P2P, however often


def pair_verdict(pair: Pair, arms: Sequence[P2pArm], facts: GpuPair | Absent) -> PairVerdict:
    verdict, reason = _verdict(pair, arms)
    return PairVerdict(pair, verdict, reason, (*_evidence(pair, arms), *_rig_facts(facts)), facts)


def _verdict(pair: Pair, arms: Sequence[P2pArm]) -> tuple[P2pVerdict, str]:
    control = [_state(arm, pair) for arm in arms if arm.control]
    tried = [(arm.setting, _state(arm, pair)) for arm in arms if not arm.control]
    sound = "right" in control and set(control) <= {"right", "open"}
    failures = {"wrong": "got wrong data", "hung": "hung", "died": "died", "out of memory": "ran out of memory"}
    failed = next((words for how, words in failures.items() if how in control), "did not come to its end")
    if proof := _proof(tried):
        if sound:
            return "broken", f"{proof}, and not with P2P off"
        return "inconclusive", f"{proof}, and the control with P2P off {failed}"
    if deaths := sum(how in ("died", "out of memory") for _, how in tried):
        memory = " for want of memory" * any(how == "out of memory" for _, how in tried)
        too = "" if sound else f", and the control with P2P off {failed}"
        return "inconclusive", f"its processes died{memory} {deaths} of {len(tried)} times with P2P on{too}"
    if not any(how == "right" for _, how in tried):
        return "inconclusive", "it ended before everything was checked with P2P on"
    if not sound:
        return "inconclusive", f"right with P2P on, but the control with P2P off {failed}"
    answers = [arm.access.get(way) for arm in arms for way in (" ".join(pair), " ".join(pair[::-1]))]
    if answers.count(None) == len(answers):
        return "inconclusive", "no setting came as far as asking the driver"
    if False in answers:
        return "not available", "the driver does not allow it; what goes through host memory arrives right"
    return "works", "every value arrived, in both directions, with P2P on and with P2P off"


def _state(arm: P2pArm, pair: Pair) -> State:
    """How an arm ended for two devices; "open" where it never came so far as to say."""
    if any(_concerns(check, pair) for check in arm.wrong):
        return "wrong"
    if arm.right:
        return "right"
    if arm.ended not in ("hung", "died") or set(arm.at_devices or pair) != set(pair):
        return "open"
    if arm.ended == "hung":
        return "hung"
    return "out of memory" if any(words in arm.reason for words in OUT_OF_MEMORY) else "died"


def _proof(tried: Sequence[tuple[str, State]]) -> str:
    """What went wrong, and with which setting: wrong data, a hang, or a death each time; "" for none of it."""
    for how, words in (("wrong", "wrong data"), ("hung", "it hung")):
        for setting, end in tried:
            if end == how:
                return f"{words} with {setting}"
    for setting in dict.fromkeys(setting for setting, _ in tried):
        ends = [how for name, how in tried if name == setting]
        if len(ends) >= DEATHS_THAT_PROVE and set(ends) == {"died"}:
            return f"its processes died each of {len(ends)} times with {setting}"
    return ""


def _concerns(check: ValueCheck, pair: Pair) -> bool:
    """A ring does not tell which of its links failed: an all_reduce concerns every pair in it."""
    if check.way == "all_reduce":
        return set(pair) <= set(check.sources)
    return {*check.sources, check.destination} == set(pair)


# ---- Its evidence

WRONG_LISTED = 3


def _evidence(pair: Pair, arms: Sequence[P2pArm]) -> Iterator[str]:
    """A line per setting, then each thing that went wrong in it."""
    for name in dict.fromkeys(arm.setting for arm in arms):
        own = [arm for arm in arms if arm.setting == name]
        checks = [check for arm in own for check in arm.checks if _concerns(check, pair)]
        made, wrong = sum(check.checked for check in checks), sum(check.wrong for check in checks)
        times = "" if len(own) == 1 else f", tried {len(own)} times"
        counts = f"{wrong:,} of {made:,} checks WRONG" if wrong else f"{made:,} of {made:,} checks right"
        transports = [it for arm in own if isinstance(arm.transports, Tally) for it in arm.transports.counts]
        over = f"; NCCL went over {', '.join(dict.fromkeys(transports))}" if transports else ""
        yield f"{name}{times}: {counts if made else 'nothing was checked'}{over}"
        yield from dict.fromkeys(f"{name}: {line}" for arm in own for line in _troubles(arm, pair))


def _troubles(arm: P2pArm, pair: Pair) -> Iterator[str]:
    wrong = [check for check in arm.wrong if _concerns(check, pair)]
    yield from map(_wrong, wrong[:WRONG_LISTED])
    if len(wrong) > WRONG_LISTED:
        yield f"and {len(wrong) - WRONG_LISTED} more of the kind, all of them in the JSON"
    if arm.ended in ("hung", "died"):
        at = f" at {arm.at}" if arm.at else ""
        here = set(arm.at_devices or pair) == set(pair)  # the step at which it ended was about these two
        yield f"{arm.ended}{at}: {arm.reason}" if here else f"not checked to the end: it {arm.ended}{at}"
    elif arm.ended == "interrupted":
        yield "interrupted"


def _wrong(check: ValueCheck) -> str:
    """`GPU0 → GPU1, 16 MiB by copy engine: 5 of 5 wrong, 2,097,152 values: nothing arrived, …`."""
    source, destination, size = check.sources[0], check.destination, units.format_bytes(check.size_bytes)
    if check.way == "all_reduce":
        what = f"all_reduce over {', '.join(check.sources)}, {size}, at {destination}"
    else:
        while_back = f" while {destination} → {source}" if check.both_ways else ""
        what = f"{source} → {destination}{while_back}, {size} by {check.way}"
    if not check.checked:
        return f"{what}: not checked"
    signs = {
        "still what was there before, so nothing arrived": check.unchanged_values,
        "what an earlier round had sent": check.earlier_values,
        f"found at {source}, which sent them: mirrored": check.returned_values,
        "changed where nothing was to be written": check.strayed_values,
    }
    first = "" if isinstance(check.first_wrong_byte, Absent) else f", the first at byte {check.first_wrong_byte:,}"
    head = f"{what}: {check.wrong} of {check.checked} rounds wrong, {check.wrong_values:,} values{first}"
    return "; ".join([head, *(f"{count:,} {meaning}" for meaning, count in signs.items() if count)])


def _rig_facts(facts: GpuPair | Absent) -> Iterator[str]:
    """What the rig says of the pair: none of it is proof."""
    if isinstance(facts, Absent):
        yield f"the rig's own facts of this pair: n/a ({facts.reason})"
        return
    codes = {"reads": facts.read_code, "writes": facts.write_code}
    known = {what: code for what, code in codes.items() if isinstance(code, int)}
    answers = [f"{what} refused, code {code}" if code else f"{what} OK" for what, code in known.items()]
    yield f"{facts.label} between them; the driver says: {', '.join(answers) or 'nothing'}"
    if not isinstance(facts.nccl, Absent):
        yield f"NCCL should take {facts.nccl.transport} by default: {facts.nccl.reason}"
    yield from facts.facts


# ---- Speeds: which of the settings that are right is faster, and how sure is that?

ALL_REDUCE = "all_reduce"


class Timed(NamedTuple):
    counted_bytes: int  # that it is said to move
    seconds: dict[int, float]  # the median, by round


def _settings_right(arms: Sequence[P2pArm]) -> list[str]:
    """Settings that came through right at least once and never otherwise; NCCL's default first."""
    names = dict.fromkeys(arm.setting for arm in sorted(arms, key=lambda arm: bool(arm.environment)))
    failed = {arm.setting for arm in arms if not arm.right and (arm.ended != "interrupted" or arm.wrong)}
    return [name for name in names if name not in failed and any(it.right for it in arms if it.setting == name)]


def _speeds(arms: Sequence[P2pArm], size_bytes: int) -> tuple[SpeedRatio, ...]:
    """Every setting against P2P off: in all_reduces of this size, and in copies where both arms made them.

    Where the driver refuses P2P, NCCL's default goes the same way as P2P off: there is nothing to compare.
    """
    right = {name: next(arm for arm in arms if arm.setting == name) for name in _settings_right(arms)}
    control = next((arm.setting for arm in arms if arm.control and arm.setting in right), None)
    if control is None:
        return ()
    allowed = any(any(arm.access.values()) for arm in arms)
    others = [name for name, arm in right.items() if not arm.control and (allowed or arm.environment)]
    ratios = [ratio for name in others for ratio in _ratios(arms, name, control, size_bytes)]
    return tuple(sorted(ratios, key=lambda ratio: ratio.what != ALL_REDUCE))


def _ratios(arms: Sequence[P2pArm], setting: str, against: str, size_bytes: int) -> Iterator[SpeedRatio]:
    """Of each work that both made in one round at least."""
    works, others = (_timed(arms, name, size_bytes) for name in (setting, against))
    for (what, work_bytes), own in works.items():
        other = others.get((what, work_bytes))
        rounds = sorted(own.seconds.keys() & other.seconds.keys()) if other else []
        if other is None or not rounds:
            continue
        seconds, other_seconds = ([timed.seconds[number] for number in rounds] for timed in (own, other))
        ratio = stats.paired_ratio(other_seconds, seconds)
        sure = ratio.level >= stats.LEVEL
        yield SpeedRatio(
            what=what,
            setting=setting,
            against=against,
            size_bytes=work_bytes,
            bytes_per_s=own.counted_bytes / stats.median(seconds),
            against_bytes_per_s=other.counted_bytes / stats.median(other_seconds),
            ratio=ratio,
            faster=setting if sure and ratio.low > 1 else against if sure and ratio.high < 1 else "ambiguous",
        )


def _timed(arms: Iterable[P2pArm], setting: str, size_bytes: int) -> dict[tuple[str, int], Timed]:
    """All_reduces of this size and copies, by what they are and their size, of the tries in which all was right."""
    works: dict[tuple[str, int], Timed] = {}
    for arm in arms:
        if arm.setting != setting or not arm.right:
            continue
        if reduces := arm.reduce_seconds(size_bytes):
            timed = works.setdefault((ALL_REDUCE, size_bytes), Timed(size_bytes, {}))
            timed.seconds[arm.round] = stats.median(reduces)
        for copy in arm.copies:
            what = f"copy {copy.source} {'↔' if copy.both_ways else '→'} {copy.destination}"
            timed = works.setdefault((what, copy.size_bytes), Timed(copy.counted_bytes, {}))
            timed.seconds[arm.round] = copy.timing.estimate.value
    return works


# ---- Advice: what to export before training on this rig

IN_PROCESS = (
    "torch's own copies between GPUs inside one process (.to, DataParallel) use peer access whatever is exported; "
    "go through the host there"
)
CAUSES = (  # how a fact of the rig begins, and the code that explains it
    (("ACS redirects", "ACS isolates"), "acs-redirect"),
    (("IOMMU: translating",), "iommu-translating"),
)


def _advice(result: P2p, size_bytes: int, inherited: Mapping[str, str]) -> P2pAdvice | Absent:
    """The environment to train with. A setting that failed once is never advised, however fast it is."""
    arms = result.arms
    right = _settings_right(arms)
    if not right:
        return Absent("no setting came through to its end with the right data")
    if result.verdict == "inconclusive":  # it is not known what fails: whatever came through right, the fastest or not
        failed = len({arm.setting for arm in arms}) - len(right)
        others = f"; {failed} of the settings tried did not" if failed else ""
        setting, reason = right[0], f"{right[0]} came through right{others}"
    else:
        setting, reason = _fastest(right, arms, size_bytes)
    environment = next(arm.environment for arm in arms if arm.setting == setting)
    notes = []
    if result.verdict == "broken":
        if any(check.way in ("copy engine", "kernel") for arm in arms if not arm.control for check in arm.wrong):
            notes.append(IN_PROCESS)
        facts = [fact for pair in result.pairs if isinstance(pair.facts, GpuPair) for fact in pair.facts.facts]
        codes = [code for words, code in CAUSES if any(fact.startswith(words) for fact in facts)]
        notes += [f"a known cause is present here: `rigbench explain {code}`" for code in codes]
    for name, value in inherited.items():
        if environment.get(name) != value:
            unset = "" if name in environment else ": unset it"
            notes.append(f"this shell sets {name}={value}, which is not advised{unset}")
    return P2pAdvice(environment, reason, tuple(notes))


def _fastest(right: Sequence[str], arms: Sequence[P2pArm], size_bytes: int) -> tuple[str, str]:
    """Of the settings that are right, if it is surely faster than the first of them, NCCL's default; and why."""
    works = {name: _timed(arms, name, size_bytes).get((ALL_REDUCE, size_bytes)) for name in right}
    medians = {name: stats.median([*timed.seconds.values()]) for name, timed in works.items() if timed}
    first, best = right[0], min(medians, key=lambda name: medians[name], default=right[0])
    for compared in _ratios(arms, best, first, size_bytes) if best != first else ():
        if compared.what == ALL_REDUCE and compared.faster == best:
            return best, f"{best} is {_times_as_fast(compared, f'{first} in all_reduce')}"
    others = "" if len(medians) < 2 else ", and nothing else is surely faster"
    return first, f"{first} came through right{others}"


def _times_as_fast(ratio: SpeedRatio, against: str) -> str:
    return f"{ratio.ratio.value:.2f} times as fast as {against} ({ratio.ratio.low:.2f} to {ratio.ratio.high:.2f})"


# ---- Findings: what of it is a fault, or speed that is left lying

TRUST = "the trust in whatever crosses between these cards, and the run that hangs"
NO_TRUST = "nothing can be said of P2P, and nothing that crosses between these cards can be trusted"
BASIS = "all_reduce in processes that took turns"


def diagnose(result: P2p) -> tuple[Finding, ...]:
    """Broken pairs, what could not be told, and a setting that is surely faster than NCCL's default."""
    advice = {} if isinstance(result.advice, Absent) else result.advice.environment
    exports = [f"export {name}={value}" for name, value in advice.items()]
    # A control that failed is worth telling; a measurement that was stopped is not.
    control_failed = any(arm.control and (arm.wrong or arm.ended in ("hung", "died")) for arm in result.arms)
    broken, unsure = list[Finding](), list[Finding]()
    for it in result.pairs:
        evidence, where = (it.reason, *it.evidence), ["-".join(it.pair)]
        if it.verdict == "broken":
            cures = exports or ["export NCCL_P2P_DISABLE=1"]
            broken.append(finding("p2p-broken", "fault", evidence, where, TRUST, cures))
        elif it.verdict == "inconclusive" and control_failed:
            unsure.append(finding("p2p-control-fails", "warning", evidence, where, NO_TRUST, exports))
    # What is broken is not weighed by its speed.
    faster = _faster(result, advice, exports) if advice and result.verdict in ("works", "not available") else ()
    return (*merged(broken), *merged(unsure), *faster)


def _faster(result: P2p, advice: Mapping[str, str], exports: Sequence[str]) -> Iterator[Finding]:
    advised = next(arm for arm in result.arms if arm.environment == advice)
    default = next((arm.setting for arm in result.arms if not arm.environment), "")
    reduces = [ratio for ratio in result.speeds if ratio.what == ALL_REDUCE]
    rates = {ratio.setting: ratio.bytes_per_s for ratio in reduces}
    rates |= {ratio.against: ratio.against_bytes_per_s for ratio in reduces}
    if default not in rates or advised.setting not in rates:
        return
    now, possible = rates[default], rates[advised.setting]
    sentence = f"all_reduce at {units.format_bytes_per_s(now)} instead of {units.format_bytes_per_s(possible)}"
    lost = cost(sentence, "bytes/s", now, possible, BASIS, "measured")
    evidence = [] if isinstance(result.advice, Absent) else [result.advice.reason]
    evidence += [f"{it.what}: {it.setting} {_times_as_fast(it, it.against)}" for it in result.speeds]
    code = "p2p-slower" if advised.control else "nccl-default-slower"
    yield finding(code, "warning", evidence, ["-".join(it.pair) for it in result.pairs], lost, exports)
