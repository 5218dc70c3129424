"""Does P2P work between two GPUs? A pure function of what each arm found; no rate ever changes the answer.

An arm is one setting tried in processes of its own. The control has P2P off: where it fails too, nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rigbench.core import units
from rigbench.core.record import Absent, Tally
from rigbench.machine.record import GpuPair
from rigbench.p2p.record import P2pArm, P2pVerdict, PairVerdict, ValueCheck

State = Literal["right", "wrong", "hung", "died", "out of memory", "open"]
WORST_FIRST: tuple[P2pVerdict, ...] = ("broken", "inconclusive", "works", "not available", "not applicable")
DEATHS_THAT_PROVE = 2  # one may have been an administrator's doing
OUT_OF_MEMORY = ("out of memory", "memory runs out")  # says nothing of P2P, however often
WRONG_LISTED = 3
NOT_TOLD = Absent("no arm came as far as asking the driver")
Judged = tuple[P2pVerdict, str]


def pair_verdict(pair: tuple[str, str], arms: Sequence[P2pArm], facts: GpuPair | Absent) -> PairVerdict:
    """Of the two devices, by their names."""
    access = _access(pair, arms)
    verdict, reason = _judged(pair, arms, access)
    evidence = (*_evidence(pair, arms), *_facts(facts))
    return PairVerdict(pair=pair, verdict=verdict, reason=reason, evidence=evidence, access=access, facts=facts)


def overall(pairs: Sequence[PairVerdict]) -> Judged:
    """The worst of all pairs, and how many it holds for. One pair that works outweighs those that cannot."""
    worst = min((pair.verdict for pair in pairs), key=WORST_FIRST.index)
    of_it = [pair for pair in pairs if pair.verdict == worst]
    reasons = list(dict.fromkeys(pair.reason for pair in of_it))
    where = "" if len(pairs) == 1 else f"{len(of_it)} of {len(pairs)} pairs: "
    return worst, where + "; ".join(reasons)


def state(arm: P2pArm, pair: tuple[str, str]) -> State:
    """How an arm ended for two devices; "open" where it never came so far as to say."""
    if any(_concerns(check, pair) for check in arm.wrong):
        return "wrong"
    if arm.right:
        return "right"
    if arm.ended in ("hung", "died") and (not arm.at_devices or set(arm.at_devices) == set(pair)):
        if arm.ended == "died" and any(words in arm.reason for words in OUT_OF_MEMORY):
            return "out of memory"
        return "hung" if arm.ended == "hung" else "died"
    return "open"


def _judged(pair: tuple[str, str], arms: Sequence[P2pArm], access: bool | Absent) -> Judged:
    control = [state(arm, pair) for arm in arms if arm.control]
    tried = [(arm.setting, state(arm, pair)) for arm in arms if not arm.control]
    sound = "right" in control and set(control) <= {"right", "open"}
    if culprit := _proven(tried):
        if sound:
            return "broken", f"{culprit}, and not with P2P off"
        return "inconclusive", f"{culprit}, and the control with P2P off {_failed(control)}"
    deaths = sum(how in ("died", "out of memory") for _, how in tried)
    if deaths:
        memory = " for want of memory" * any(how == "out of memory" for _, how in tried)
        too = "" if sound else f", and the control with P2P off {_failed(control)}"
        return "inconclusive", f"its processes died{memory} {deaths} of {len(tried)} times with P2P on{too}"
    if not any(how == "right" for _, how in tried):
        return "inconclusive", "it ended before everything was checked with P2P on"
    if not sound:
        return "inconclusive", f"right with P2P on, but the control with P2P off {_failed(control)}"
    return _by_permission(access)


def _proven(tried: Sequence[tuple[str, State]]) -> str:
    """What went wrong, and with which setting: wrong data, a hang, or a death each time; "" for none of it."""
    for how, words in (("wrong", "wrong data"), ("hung", "it hung")):
        settings = [setting for setting, found in tried if found == how]
        if settings:
            return f"{words} with {settings[0]}"
    for setting in dict.fromkeys(setting for setting, _ in tried):
        ends = [how for name, how in tried if name == setting]
        if len(ends) >= DEATHS_THAT_PROVE and set(ends) == {"died"}:
            return f"its processes died each of {len(ends)} times with {setting}"
    return ""


def _by_permission(access: bool | Absent) -> Judged:
    """Every arm is right: what does that say of P2P?"""
    if isinstance(access, Absent):
        return "inconclusive", access.reason
    if not access:
        return "not available", "the driver does not allow it; what goes through host memory arrives right"
    return "works", "every value arrived, in both directions, with P2P on and with P2P off"


def _failed(control: Sequence[State]) -> str:
    words = {"wrong": "got wrong data", "hung": "hung", "died": "died", "out of memory": "ran out of memory"}
    return next((word for how, word in words.items() if how in control), "did not come to its end")


def _access(pair: tuple[str, str], arms: Iterable[P2pArm]) -> bool | Absent:
    """The driver's permission, which must hold both ways."""
    one, other = pair
    told = [arm.access.get(way) for arm in arms for way in (f"{one} {other}", f"{other} {one}")]
    known = [answer for answer in told if answer is not None]
    return all(known) if known else NOT_TOLD


def _evidence(pair: tuple[str, str], arms: Sequence[P2pArm]) -> Iterator[str]:
    """A line per setting, then each thing that went wrong in it."""
    for name in dict.fromkeys(arm.setting for arm in arms):
        own = [arm for arm in arms if arm.setting == name]
        checks = [check for arm in own for check in arm.checks if _concerns(check, pair)]
        made, wrong = sum(check.checked for check in checks), sum(check.wrong for check in checks)
        times = "" if len(own) == 1 else f", tried {len(own)} times"
        found = f"{made:,} of {made:,} checks right" if made and not wrong else f"{wrong:,} of {made:,} checks WRONG"
        yield f"{name}{times}: {found if made else 'nothing was checked'}{_carried(own)}"
        yield from dict.fromkeys(f"{name}: {line}" for arm in own for line in _troubles(arm, pair))


def _carried(arms: Sequence[P2pArm]) -> str:
    names = [name for arm in arms if isinstance(arm.transports, Tally) for name in arm.transports.counts]
    return f"; NCCL went over {', '.join(dict.fromkeys(names))}" if names else ""


def _troubles(arm: P2pArm, pair: tuple[str, str]) -> Iterator[str]:
    wrong = [check for check in arm.wrong if _concerns(check, pair)]
    yield from map(_wrong, wrong[:WRONG_LISTED])
    if len(wrong) > WRONG_LISTED:
        yield f"and {len(wrong) - WRONG_LISTED} more of the kind, all of them in the JSON"
    if arm.ended in ("hung", "died"):
        at = f" at {arm.at}" if arm.at else ""
        here = not arm.at_devices or set(arm.at_devices) == set(pair)
        yield f"{arm.ended}{at}: {arm.reason}" if here else f"not checked to the end: it {arm.ended}{at}"
    elif arm.ended == "interrupted":
        yield "interrupted"


def _wrong(check: ValueCheck) -> str:
    """`GPU0 → GPU1, 16 MiB by copy engine: 5 of 5 wrong, 2,097,152 values: nothing arrived, …`."""
    if check.way == "all_reduce":
        what = f"all_reduce over {', '.join(check.sources)}, {_size(check)}, at {check.destination}"
    else:
        source, destination = check.sources[0], check.destination
        while_back = f" while {destination} → {source}" if check.both_ways else ""
        what = f"{source} → {destination}{while_back}, {_size(check)} by {check.way}"
    if not check.checked:
        return f"{what}: not checked"
    signs = [
        (check.unchanged_values, "still what was there before, so nothing arrived"),
        (check.earlier_values, "what an earlier round had sent"),
        (check.returned_values, f"found at {check.sources[0]}, which sent them: mirrored"),
        (check.strayed_values, "changed where nothing was to be written"),
    ]
    told = [f"{count:,} {what_it_means}" for count, what_it_means in signs if count]
    first = "" if isinstance(check.first_wrong_byte, Absent) else f", the first at byte {check.first_wrong_byte:,}"
    head = f"{what}: {check.wrong} of {check.checked} rounds wrong, {check.wrong_values:,} values{first}"
    return "; ".join([head, *told])


def _size(check: ValueCheck) -> str:
    return units.format_bytes(check.size_bytes)


def _concerns(check: ValueCheck, pair: tuple[str, str]) -> bool:
    """A ring does not tell which of its links failed: an all_reduce concerns every pair in it."""
    if check.way == "all_reduce":
        return set(pair) <= set(check.sources)
    return {*check.sources, check.destination} == set(pair)


def _facts(facts: GpuPair | Absent) -> Iterator[str]:
    """What the rig says of the pair: none of it is proof."""
    if isinstance(facts, Absent):
        yield f"the rig's own facts of this pair: n/a ({facts.reason})"
        return
    codes = [("reads", facts.read_code), ("writes", facts.write_code)]
    told = [f"{what} {'OK' if code == 0 else f'refused, code {code}'}" for what, code in codes if isinstance(code, int)]
    yield f"{facts.label} between them; the driver says: {', '.join(told) or 'nothing'}"
    if not isinstance(facts.nccl, Absent):
        yield f"NCCL should take {facts.nccl.transport} by default: {facts.nccl.reason}"
    yield from facts.facts
