"""How do all ranks time one piece of work, and decide alike when it is known well enough?

Every repeat begins with a meeting, so that no rank runs ahead. After each batch all ranks exchange their own times, how
long it has taken, and whether one was told to stop: so all of them know the same, and come to the same decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rigbench.collectives.record import RankCheck
from rigbench.core.estimate import Timing
from rigbench.machine.accelerator import Accelerator
from rigbench.work.process import Report
from rigbench.work.timing import sample_until_tight

MOST_SAMPLES = 100  # those of every rank are stored


class Times(NamedTuple):
    """Every rank's own seconds of each repeat, warm-up first; `timing` is of the slowest in each."""

    rank_seconds: tuple[tuple[float, ...], ...]
    timing: Timing


class Together:
    """One rank among the others. They exchange what they know over the host, and begin a repeat on the device."""

    def __init__(self, accelerator: Accelerator, report: Report, group: Any) -> None:
        """The default process group must be one on the host; `group` is the one that is measured."""
        import torch.distributed as dist

        self.accelerator, self.report, self.group = accelerator, report, group
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.elapsed_seconds, self.stopping = 0.0, False
        self._started = time.perf_counter()

    def exchange(self, own: Sequence[float]) -> list[list[float]]:
        """What every rank has to tell, as many numbers each, by rank; and the common clock goes on."""
        import torch
        import torch.distributed as dist

        stop = float(self.report.should_stop())
        told = torch.tensor([*own, time.perf_counter() - self._started, stop], dtype=torch.float64)
        heard = [torch.empty_like(told) for _ in range(self.size)]
        dist.all_gather(heard, told)
        rows = [row.tolist() for row in heard]
        self.elapsed_seconds = max(row[-2] for row in rows)
        self.stopping = any(row[-1] for row in rows)
        return [row[:-2] for row in rows]

    def sample(
        self, prepare: Callable[[], object], work: Callable[[], object], limit_seconds: float, target_half_width: float
    ) -> Times:
        """Repeat the work until the slowest rank's median is known tightly; `prepare` is not timed."""
        ranks: list[list[float]] = [[] for _ in range(self.size)]
        self.exchange([])  # what came before is not charged to this

        def repeat(count: int) -> list[float]:
            batch = self.exchange(self._repeat(prepare, work, count))
            for seconds, more in zip(ranks, batch, strict=True):
                seconds.extend(more)
            return [max(each) for each in zip(*batch, strict=True)]

        timing = sample_until_tight(
            repeat,
            lambda: self.elapsed_seconds,
            target_half_width=target_half_width,
            limit_seconds=limit_seconds,
            max_samples=MOST_SAMPLES,
            should_stop=lambda: self.stopping,
        )
        return Times(tuple(map(tuple, ranks)), timing)

    def _repeat(self, prepare: Callable[[], object], work: Callable[[], object], count: int) -> list[float]:
        marks = []
        for _ in range(count):
            prepare()
            self._align()
            start = self.accelerator.mark()
            work()
            marks.append((start, self.accelerator.mark()))
        self.accelerator.synchronize()
        return [self.accelerator.seconds_between(start, end) for start, end in marks]

    def _align(self) -> None:
        """On a GPU a small all_reduce in the stream: the host does not wait, and the ranks' streams do."""
        import torch
        import torch.distributed as dist

        if self.accelerator.device.kind == "cpu":
            dist.barrier()
        else:
            dist.all_reduce(torch.zeros(1, device=self.accelerator.torch_device), group=self.group)

    def checked(self, rounds: Sequence[Callable[[], int]]) -> RankCheck:
        """Each round brings values and tells how many of them are wrong here; all ranks' findings, added up."""
        heard = self.exchange([float(wrong()) for wrong in rounds])
        return RankCheck(
            checked=len(rounds) * self.size,
            wrong=sum(count > 0 for row in heard for count in row),
            wrong_values=int(sum(map(sum, heard))),
            wrong_ranks=tuple(rank for rank, row in enumerate(heard) if any(row)),
        )


def both(one: RankCheck, other: RankCheck) -> RankCheck:
    """Two checks of one thing as one."""
    ranks = tuple(sorted({*one.wrong_ranks, *other.wrong_ranks}))
    return RankCheck(one.checked + other.checked, one.wrong + other.wrong, one.wrong_values + other.wrong_values, ranks)
