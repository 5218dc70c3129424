"""Which of the settings that are right is faster, and how sure is that? Ratios of processes that took turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rigbench.bandwidth.record import Transfer
from rigbench.core import stats
from rigbench.p2p.record import P2pArm, SpeedRatio

AMBIGUOUS = "ambiguous"
ALL_REDUCE = "all_reduce"


class Timed(NamedTuple):
    """Median seconds of one piece of work by round, and the bytes that it is said to move."""

    seconds: dict[int, float]
    counted_bytes: int


def settings_right(arms: Sequence[P2pArm]) -> tuple[str, ...]:
    """Settings that came through right at least once and never otherwise; NCCL's default first."""
    names = dict.fromkeys(arm.setting for arm in sorted(arms, key=lambda arm: bool(arm.environment)))
    return tuple(name for name in names if _never_wrong([arm for arm in arms if arm.setting == name]))


def speeds(arms: Sequence[P2pArm], size_bytes: int) -> tuple[SpeedRatio, ...]:
    """Every setting against P2P off: in all_reduces of this size, and in copies where both arms made them.

    Where the driver refuses P2P, NCCL's default goes the same way as P2P off: there is nothing to compare.
    """
    right = settings_right(arms)
    control = next((arm.setting for arm in arms if arm.control and arm.setting in right), None)
    allowed = any(any(arm.access.values()) for arm in arms)
    others = [name for name in right if not _of(arms, name)[0].control and (allowed or _of(arms, name)[0].environment)]
    if control is None:
        return ()
    found = [reduce_ratio(arms, name, control, size_bytes) for name in others]
    found += [ratio for name in others for ratio in _copy_ratios(arms, name, control)]
    return tuple(ratio for ratio in found if ratio is not None)


def reduce_ratio(arms: Sequence[P2pArm], setting: str, against: str, size_bytes: int) -> SpeedRatio | None:
    """None where no round has both."""
    own, other = (reduce_times(arms, name, size_bytes) for name in (setting, against))
    return _ratio(ALL_REDUCE, setting, own, against, other, size_bytes)


def reduce_times(arms: Sequence[P2pArm], setting: str, size_bytes: int) -> Timed:
    samples = {arm.round: arm.reduce_seconds(size_bytes) for arm in _of(arms, setting) if arm.right}
    return Timed({number: stats.median(seconds) for number, seconds in samples.items() if seconds}, size_bytes)


def _copy_ratios(arms: Sequence[P2pArm], setting: str, against: str) -> Iterator[SpeedRatio | None]:
    own, other = (_copy_times(_of(arms, name)) for name in (setting, against))
    for (what, size_bytes), timed in own.items():
        if (what, size_bytes) in other:
            yield _ratio(what, setting, timed, against, other[what, size_bytes], size_bytes)


def _copy_times(arms: Iterable[P2pArm]) -> dict[tuple[str, int], Timed]:
    found: dict[tuple[str, int], Timed] = {}
    for arm in arms:
        for copy in arm.copies if arm.right else ():
            timed = found.setdefault((_way(copy), copy.size_bytes), Timed({}, copy.counted_bytes))
            timed.seconds[arm.round] = copy.timing.estimate.value
    return found


def _way(copy: Transfer) -> str:
    return f"copy {copy.source} {'↔' if copy.both_ways else '→'} {copy.destination}"


def _ratio(what: str, setting: str, own: Timed, against: str, other: Timed, size_bytes: int) -> SpeedRatio | None:
    rounds = sorted(own.seconds.keys() & other.seconds.keys())
    if not rounds:
        return None
    ours, theirs = ([timed.seconds[number] for number in rounds] for timed in (own, other))
    ratio = stats.paired_ratio(theirs, ours)
    sure = ratio.level >= stats.LEVEL
    return SpeedRatio(
        what=what,
        setting=setting,
        against=against,
        size_bytes=size_bytes,
        bytes_per_s=own.counted_bytes / stats.median(ours),
        against_bytes_per_s=other.counted_bytes / stats.median(theirs),
        ratio=ratio,
        faster=setting if sure and ratio.low > 1 else against if sure and ratio.high < 1 else AMBIGUOUS,
    )


def _of(arms: Iterable[P2pArm], setting: str) -> list[P2pArm]:
    return [arm for arm in arms if arm.setting == setting]


def _never_wrong(arms: Sequence[P2pArm]) -> bool:
    clean = all(arm.right or (arm.ended == "interrupted" and not arm.wrong) for arm in arms)
    return clean and any(arm.right for arm in arms)
