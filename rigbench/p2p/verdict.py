"""What do the arms of a P2P measurement add up to, and what of it is a fault, or speed that is left lying?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from rigbench.core import units
from rigbench.core.finding import Finding
from rigbench.core.record import Absent
from rigbench.core.verdict import cost, finding
from rigbench.machine.record import GpuPair
from rigbench.p2p.advice import advise
from rigbench.p2p.pairs import overall, pair_verdict
from rigbench.p2p.record import P2p, PairVerdict, SpeedRatio
from rigbench.p2p.speeds import ALL_REDUCE, speeds

TRUST = "the trust in whatever crosses between these cards, and the run that hangs"
BASIS = "all_reduce in processes that took turns"
NO_FACTS = Absent("the driver does not list this pair")


def judged(result: P2p, known: Sequence[GpuPair], inherited: Mapping[str, str]) -> P2p:
    """With verdicts, speeds (at the largest all_reduce) and advice by its arms, of which there is at least one."""
    by_pair = {frozenset((f"GPU{pair.one}", f"GPU{pair.other}")): pair for pair in known}
    pairs = tuple(
        pair_verdict(pair, result.arms, by_pair.get(frozenset(pair), NO_FACTS))
        for pair in itertools.combinations(result.devices, 2)
    )
    verdict, reason = overall(pairs)
    size_bytes = max((times.size_bytes for arm in result.arms for times in arm.reduces), default=0)
    return msgspec.structs.replace(
        result,
        verdict=verdict,
        reason=reason,
        pairs=pairs,
        speeds=speeds(result.arms, size_bytes),
        advice=advise(verdict, pairs, result.arms, size_bytes, inherited),
    )


def diagnose(result: P2p) -> tuple[Finding, ...]:
    """Broken pairs, what could not be told, and a setting that is surely faster than NCCL's default."""
    return (*_broken(result), *_open(result), *_faster(result))


def _broken(result: P2p) -> Iterator[Finding]:
    pairs = [pair for pair in result.pairs if pair.verdict == "broken"]
    if pairs:
        commands = _exports(result) or ["export NCCL_P2P_DISABLE=1"]
        yield finding("p2p-broken", "fault", _evidence(pairs), map(_label, pairs), TRUST, commands)


def _open(result: P2p) -> Iterator[Finding]:
    """A control that failed is worth telling; a measurement that was stopped is not."""
    pairs = [pair for pair in result.pairs if pair.verdict == "inconclusive"]
    failed = [arm for arm in result.arms if arm.control and (arm.wrong or arm.ended in ("hung", "died"))]
    if pairs and failed:
        why = "nothing can be said of P2P, and nothing that crosses between these cards can be trusted"
        yield finding("p2p-control-fails", "warning", _evidence(pairs), map(_label, pairs), why, _exports(result))


def _faster(result: P2p) -> Iterator[Finding]:
    """Only where everything is right: what is broken is not weighed by its speed."""
    advice = result.advice
    if isinstance(advice, Absent) or not advice.environment or result.verdict not in ("works", "not available"):
        return
    advised = next(arm for arm in result.arms if arm.environment == advice.environment)
    default = next((arm.setting for arm in result.arms if not arm.environment), "")
    rates = {ratio.setting: ratio.bytes_per_s for ratio in result.speeds if ratio.what == ALL_REDUCE}
    rates |= {ratio.against: ratio.against_bytes_per_s for ratio in result.speeds if ratio.what == ALL_REDUCE}
    if default not in rates or advised.setting not in rates:
        return
    now, possible = rates[default], rates[advised.setting]
    told = cost(
        f"all_reduce at {units.format_bytes_per_s(now)} instead of {units.format_bytes_per_s(possible)}",
        "bytes/s",
        now,
        possible,
        BASIS,
        "measured",
    )
    code = "p2p-slower" if advised.control else "nccl-default-slower"
    evidence = [advice.reason, *(_ratio(ratio) for ratio in result.speeds)]
    yield finding(code, "warning", evidence, map(_label, result.pairs), told, _exports(result))


def _ratio(ratio: SpeedRatio) -> str:
    low, high = ratio.ratio.low, ratio.ratio.high
    times = f"{ratio.ratio.value:.2f} times as fast as {ratio.against} ({low:.2f} to {high:.2f})"
    return f"{ratio.what}: {ratio.setting} {times}"


def _exports(result: P2p) -> list[str]:
    if isinstance(result.advice, Absent):
        return []
    return [f"export {name}={value}" for name, value in result.advice.environment.items()]


def _evidence(pairs: list[PairVerdict]) -> list[str]:
    """What all pairs share is said once, what one has says whose it is."""
    lines = dict.fromkeys(line for pair in pairs for line in (pair.reason, *pair.evidence))
    owners = {line: [_label(pair) for pair in pairs if line in (pair.reason, *pair.evidence)] for line in lines}
    return [line if len(owners[line]) == len(pairs) else f"{', '.join(owners[line])}: {line}" for line in lines]


def _label(pair: PairVerdict) -> str:
    return f"{pair.pair[0]}-{pair.pair[1]}"
