"""What is to be exported before training on this rig: which setting is right, and surely faster than NCCL's default?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rigbench.core import stats
from rigbench.core.record import Absent
from rigbench.p2p.record import P2pAdvice, P2pArm, P2pVerdict, PairVerdict
from rigbench.p2p.speeds import reduce_ratio, reduce_times, settings_right

IN_PROCESS = (
    "torch's own copies between GPUs inside one process (.to, DataParallel) use peer access whatever is exported; "
    "go through the host there"
)
CAUSES = {  # how a fact of the rig begins, and the code that explains it
    "ACS redirects": "acs-redirect",
    "ACS isolates": "acs-redirect",
    "IOMMU: translating": "iommu-translating",
}


def advise(
    verdict: P2pVerdict,
    pairs: Sequence[PairVerdict],
    arms: Sequence[P2pArm],
    size_bytes: int,
    inherited: Mapping[str, str],
) -> P2pAdvice | Absent:
    """The environment to train with. A setting that failed once is never advised, however fast it is."""
    right = settings_right(arms)
    if not right:
        return Absent("no setting came through to its end with the right data")
    setting, reason = _first_right(right, arms) if verdict == "inconclusive" else _choice(right, arms, size_bytes)
    environment = next((arm.environment for arm in arms if arm.setting == setting), {})
    notes = [*(_causes(pairs, arms) if verdict == "broken" else ()), *_against(inherited, environment)]
    return P2pAdvice(environment=environment, reason=reason, notes=tuple(notes), inherited=dict(inherited))


def _first_right(right: Sequence[str], arms: Sequence[P2pArm]) -> tuple[str, str]:
    """Where it is not known what fails, whatever came through right, whether it is the fastest or not."""
    failed = len({arm.setting for arm in arms}) - len(right)
    others = f"; {failed} of the settings tried did not" if failed else ""
    return right[0], f"{right[0]} came through right{others}"


def _choice(right: Sequence[str], arms: Sequence[P2pArm], size_bytes: int) -> tuple[str, str]:
    """The fastest of those that are right, if it is surely faster than the first of them, NCCL's default."""
    seconds = {name: reduce_times(arms, name, size_bytes).seconds.values() for name in right}
    timed = [name for name in right if seconds[name]]
    first = right[0]
    best = min(timed, key=lambda name: stats.median(list(seconds[name])), default=first)
    compared = reduce_ratio(arms, best, first, size_bytes) if best != first else None
    if compared and compared.faster == best:
        low, high = compared.ratio.low, compared.ratio.high
        times = f"{compared.ratio.value:.2f} times as fast as {first} in all_reduce ({low:.2f} to {high:.2f})"
        return best, f"{best} is {times}"
    others = "" if len(timed) < 2 else ", and nothing else is surely faster"
    return first, f"{first} came through right{others}"


def _causes(pairs: Sequence[PairVerdict], arms: Sequence[P2pArm]) -> Iterator[str]:
    if any(check.way in ("copy engine", "kernel") for arm in arms if not arm.control for check in arm.wrong):
        yield IN_PROCESS
    told = [fact for pair in pairs if not isinstance(pair.facts, Absent) for fact in pair.facts.facts]
    codes = [code for words, code in CAUSES.items() if any(fact.startswith(words) for fact in told)]
    for code in dict.fromkeys(codes):
        yield f"a known cause is present here: `rigbench explain {code}`"


def _against(inherited: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[str]:
    """What this shell sets otherwise."""
    for name, value in inherited.items():
        if environment.get(name) != value:
            yield f"this shell sets {name}={value}, which is not advised{'' if name in environment else ': unset it'}"
