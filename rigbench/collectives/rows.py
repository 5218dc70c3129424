"""How long did one collective, or messages between some ranks, take at one size, and was all right that it brought?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rigbench.collectives import operations as ops
from rigbench.collectives.alphabeta import fit
from rigbench.collectives.operations import Flows, Operation
from rigbench.collectives.record import Collective, CollectiveName, CollectiveSize, PairTimes
from rigbench.collectives.timing import Times, Together, both
from rigbench.core import stats
from rigbench.core.record import Absent

NOT_SUPPORTED = ("not support", "not implemented", "unsupported")
B = TypeVar("B")


def collective(
    name: CollectiveName, ranks: int, sizes: Sequence[CollectiveSize], not_run: str, finished: bool
) -> Collective:
    """What there is of an operation; with its line once it is finished."""
    line = fit({row.size_bytes: row.timing.seconds for row in sizes}) if finished else Absent("it was not finished")
    return Collective(
        operation=name,
        bus_factor=ops.bus_factor(name, ranks),
        in_place=name not in ops.OUT_OF_PLACE,
        sizes=tuple(sizes),
        fit=line,
        not_run=not_run,
    )


def of_size(
    together: Together, name: CollectiveName, size_bytes: int, limit_seconds: float, target_half_width: float
) -> CollectiveSize | str:
    """One operation at one size; why not, where the backend or the memory refuses it, on whichever rank."""
    device = together.accelerator.torch_device
    place = (size_bytes, together.rank, together.size, device, together.group)
    made, refusal = _agreed(together, lambda: Operation(name, *place))
    if made is None:
        return refusal
    first, refusal = _agreed(together, lambda: made.wrong_values(0))
    if first is None:
        return refusal
    check = together.checked([lambda: first])
    made.randomize()
    times = together.sample(made.prepare, made.work, limit_seconds, target_half_width)
    check = both(check, together.checked([lambda: made.wrong_values(1)]))
    bus = ops.bus_factor(name, together.size) * size_bytes
    return CollectiveSize(
        size_bytes=size_bytes,
        rank_seconds=times.rank_seconds,
        timing=times.timing,
        algorithm_bytes_per_s=size_bytes / times.timing.estimate,
        bus_bytes_per_s=bus / times.timing.estimate if bus else Absent("one rank has no bus"),
        check=check,
    )


def of_flows(
    together: Together,
    flows: Sequence[tuple[int, int]],
    size_bytes: int,
    limit_seconds: float,
    target_half_width: float,
) -> PairTimes:
    """Messages from some ranks to others, all at once."""
    device = together.accelerator.torch_device
    made = Flows(flows, size_bytes, together.rank, together.size, device, together.group)
    check = together.checked([lambda: made.wrong_values(0)])
    made.randomize()
    times = together.sample(lambda: None, made.work, limit_seconds, target_half_width)
    check = both(check, together.checked([lambda: made.wrong_values(1)]))
    return PairTimes(
        flows=tuple(flows),
        size_bytes=size_bytes,
        rank_seconds=times.rank_seconds,
        timing=times.timing,
        bytes_per_s=tuple(size_bytes / stats.median_estimate(_slower(times, flow)) for flow in flows),
        check=check,
    )


def rounds_of_pairs(ranks: int) -> list[list[tuple[int, int]]]:
    """Rounds of disjoint pairs in which every two ranks meet once: all but one stand in a circle that turns."""
    circle = list(range(ranks)) + [-1] * (ranks % 2)  # with an odd number one rests in each round
    rounds = []
    for _ in range(len(circle) - 1):
        facing = zip(circle[: len(circle) // 2], reversed(circle[len(circle) // 2 :]), strict=True)
        rounds.append([(min(pair), max(pair)) for pair in facing if -1 not in pair])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def shares(rows: int) -> list[float]:
    """Of the time that is left, how much goes to each row; the last counts four times as much as the first."""
    weights = [1 + 3 * index / max(1, rows - 1) for index in range(rows)]
    return [weight / sum(weights[index:]) for index, weight in enumerate(weights)]


def expected_seconds(rows: Sequence[CollectiveSize], size_bytes: int) -> float:
    """What one of the next size should take: what two sizes say of a byte, at most in proportion to the last."""
    if not rows:
        return 0.0
    last, growth = rows[-1].timing.estimate.value, size_bytes / rows[-1].size_bytes
    if len(rows) < 2:
        return last
    slope = (last - rows[-2].timing.estimate.value) / (rows[-1].size_bytes - rows[-2].size_bytes)
    return min(max(last + slope * (size_bytes - rows[-1].size_bytes), last), last * growth)


def _slower(times: Times, flow: tuple[int, int]) -> list[float]:
    """The slower of two ranks in each repeat after the warm-up."""
    steps = zip(*(times.rank_seconds[rank] for rank in flow), strict=True)
    return [max(each) for each in steps][len(times.timing.warmup_seconds) :]


def _agreed(together: Together, make: Callable[[], B]) -> tuple[B | None, str]:
    """What it makes on this rank, where it can be made on all; else why not."""
    made, refusal = _or_refusal(make)
    if any(row[0] for row in together.exchange([float(bool(refusal))])):
        return None, refusal or "another rank refused it, or had no memory for its buffers"
    return made, ""


def _or_refusal(make: Callable[[], B]) -> tuple[B | None, str]:
    """What it makes, or why the backend or the memory would not have it."""
    import torch

    try:
        return make(), ""
    except torch.OutOfMemoryError:
        return None, "no memory for its buffers"
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in NOT_SUPPORTED):
            raise
        return None, str(error).splitlines()[0]
