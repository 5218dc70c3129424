"""Times one collective, or messages between some ranks, at one size, on all ranks together; checks what it brought.

Every repeat begins with a meeting, so that no rank runs ahead; on GPUs all of it is handed over behind a hold, so that
no host's time is in it. After each batch all ranks exchange their own times, how long it has taken, and whether one was
told to stop: so all of them know the same, and come to the same decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from rigbench.collectives.operations import Flows, Operation, bus_factor
from rigbench.collectives.record import CollectiveName, CollectiveSize, PairTimes, RankCheck
from rigbench.core import stats
from rigbench.core.estimate import Timing
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent
from rigbench.machine.accelerator import Accelerator
from rigbench.work.process import Report
from rigbench.work.timing import sample_until_tight

MOST_SAMPLES = 100  # those of every rank are stored
NO_MEMORY = "no memory for its buffers"
NOT_SUPPORTED = ("not support", "not implemented", "unsupported")
T = TypeVar("T")


class Times(NamedTuple):
    """Every rank's own seconds of each repeat, warm-up first; `timing` is of the slowest in each."""

    rank_seconds: tuple[tuple[float, ...], ...]
    timing: Timing
    check: RankCheck


class Together:
    """One rank among the others. They exchange what they know over the host, and begin a repeat on the device."""

    def __init__(self, accelerator: Accelerator, report: Report, group: Any, target_half_width: float) -> None:
        """The default process group must be one on the host; `group` is the one that is measured."""
        self.accelerator, self.report, self.group = accelerator, report, group
        self.target_half_width = target_half_width
        self.size = dist.get_world_size()
        self.place = (dist.get_rank(), self.size, accelerator.torch_device, group)
        self.elapsed_seconds, self.stopping = 0.0, False
        self._started = time.perf_counter()
        self._token = torch.zeros(1, device=accelerator.torch_device)

    def align(self) -> None:
        """All ranks meet: on GPUs in their streams, where no host waits."""
        if self.accelerator.device.kind == "cpu":
            dist.barrier()
        else:
            dist.all_reduce(self._token, group=self.group)

    def exchange(self, own: Sequence[float]) -> list[list[float]]:
        """What every rank has to tell, as many numbers each, by rank; and the common clock goes on."""
        stop = float(self.report.should_stop())
        sent = torch.tensor([*own, time.perf_counter() - self._started, stop], dtype=torch.float64)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent)
        rows = [row.tolist() for row in received]
        self.elapsed_seconds = max(row[-2] for row in rows)
        self.stopping = any(row[-1] for row in rows)
        return [row[:-2] for row in rows]

    def agreed(self, make: Callable[[], T]) -> tuple[T | None, str]:
        """What it makes on this rank, where it can be made on all; else why the backend or the memory refuses it."""
        made, refusal = None, ""
        try:
            made = make()
        except RuntimeError as error:
            if not is_out_of_memory(error) and not any(words in str(error).lower() for words in NOT_SUPPORTED):
                raise
            refusal = NO_MEMORY if is_out_of_memory(error) else str(error).splitlines()[0]
        if any(row[0] for row in self.exchange([float(bool(refusal))])):
            return None, refusal or "another rank refused it, or had no memory for its buffers"
        return made, ""

    def checked(self, work: Operation | Flows) -> tuple[int, str]:
        """How many values are wrong here when it is made for the first time; else why it is refused.

        All agree after each step: a rank that finds no memory then leaves none waiting in the operation itself.
        """
        for step in (lambda: work.load(0), work.work):
            _, refusal = self.agreed(step)
            if refusal:
                return 0, refusal
        wrong, refusal = self.agreed(lambda: work.wrong_values(0))
        return wrong or 0, refusal

    def measure(self, work: Operation | Flows, limit_seconds: float, first_wrong: int) -> Times:
        """Repeat it until the slowest rank's median is known tightly, between two checks of what it brings.

        `first_wrong` is how many values were wrong here when it was made for the first time.
        """
        ranks: list[list[float]] = [[] for _ in range(self.size)]
        late: list[bool] = []  # of the last repeats: whether the host of any rank was, and so made all of them wait
        wrong = self.exchange([float(first_wrong)])
        work.randomize()
        self.exchange([])  # what came before is not charged to this

        def repeat(count: int) -> list[float]:
            nonlocal late
            own = self.accelerator.timed(lambda _: work.work(), count, lambda _: work.prepare(), self.align)
            flags = self.accelerator.late or (False,) * count
            rows = self.exchange([*own, *map(float, flags)])
            late = [any(row[count + index] for row in rows) for index in range(count)]
            for seconds, row in zip(ranks, rows, strict=True):
                seconds.extend(row[:count])
            return [max(row[index] for row in rows) for index in range(count)]

        timing = sample_until_tight(
            repeat,
            lambda: self.elapsed_seconds,
            target_half_width=self.target_half_width,
            limit_seconds=limit_seconds,
            max_samples=MOST_SAMPLES,
            should_stop=lambda: self.stopping,
            late=lambda: late,
        )
        work.load(1)
        work.work()
        again = self.exchange([float(work.wrong_values(1))])
        counts = [[int(first), int(last)] for (first,), (last,) in zip(wrong, again, strict=True)]
        check = RankCheck(
            checked=2 * self.size,
            wrong=sum(count > 0 for row in counts for count in row),
            wrong_values=sum(map(sum, counts)),
            wrong_ranks=tuple(rank for rank, row in enumerate(counts) if any(row)),
        )
        return Times(tuple(map(tuple, ranks)), timing, check)


def of_size(together: Together, name: CollectiveName, size_bytes: int, limit_seconds: float) -> CollectiveSize | str:
    """One operation at one size; why not, where the backend or the memory refuses it, on whichever rank."""
    made, refusal = together.agreed(lambda: Operation(name, size_bytes, *together.place))
    if made is None:
        return refusal
    wrong, refusal = together.checked(made)
    if refusal:
        return refusal
    times = together.measure(made, limit_seconds, wrong)
    bus_bytes = bus_factor(name, together.size) * size_bytes
    return CollectiveSize(
        size_bytes=size_bytes,
        algorithm_bytes_per_s=size_bytes / times.timing.estimate,
        bus_bytes_per_s=bus_bytes / times.timing.estimate if bus_bytes else Absent("one rank has no bus"),
        **times._asdict(),
    )


def of_flows(
    together: Together, flows: Sequence[tuple[int, int]], size_bytes: int, limit_seconds: float
) -> PairTimes | str:
    """Messages from some ranks to others, all at once; why not, where it is refused, on whichever rank."""
    made, refusal = together.agreed(lambda: Flows(flows, size_bytes, *together.place))
    if made is None:
        return refusal
    wrong, refusal = together.checked(made)
    if refusal:
        return refusal
    times = together.measure(made, limit_seconds, wrong)
    rates = []
    for flow in flows:
        slower = [max(pair) for pair in zip(*(times.rank_seconds[rank] for rank in flow), strict=True)]
        rates.append(size_bytes / stats.median_estimate(slower[len(times.timing.warmup_seconds) :]))
    return PairTimes(flows=tuple(flows), size_bytes=size_bytes, bytes_per_s=tuple(rates), **times._asdict())


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
