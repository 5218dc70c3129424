"""What do steps that several ranks make together take, and what the same without their exchange?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from rigbench.core import stats
from rigbench.core.record import Absent, EndedBy
from rigbench.train.parallel import Around
from rigbench.train.record import Exchange, Steps
from rigbench.train.steps import PARTS, Patience, StepLoop
from rigbench.work.process import Report

FEWEST_PAIRS, PAIRS, PAIRS_SHARE = 3, 8, 0.3  # at most, and of the slice's own time
ENDED: tuple[EndedBy | None, ...] = (None, "interval", "time limit", "interrupted")
T = TypeVar("T")


class RankLoop(StepLoop):
    """All ranks make as many steps: rank 0 says when its rate is tight, any rank that it was told to stop.

    It also says how far they are: ranks that have made as many steps must tell the same, for the one that has come
    less far than others is blamed where they hang.
    """

    _millionths = 0

    def run(self, report: Report, partial: Callable[[], None]) -> EndedBy:
        return super().run(_Together(report, self), partial)

    @property
    def share(self) -> float:
        return self._millionths / 1e6

    def agree(self, ended: EndedBy | None, chunk: int) -> tuple[EndedBy | None, int]:
        import torch
        import torch.distributed as dist

        leads = dist.get_rank() == 0
        code = ENDED.index(ended)
        own = code if leads or ended == "interrupted" else 0
        passed = (time.perf_counter() - self.watch.clock_start) / self.watch.limit_seconds
        led = [chunk, int(1e6 * passed)] if leads else [0, 0]
        word = torch.tensor([own, *led], device=self.accelerator.torch_device)
        dist.all_reduce(word, dist.ReduceOp.MAX)
        said, size, self._millionths = word.tolist()
        return ENDED[said], max(1, size)


class _Together(Report):
    """A report whose progress is that of all ranks."""

    def __init__(self, report: Report, loop: RankLoop) -> None:
        self._report, self._loop = report, loop

    def progress(self, share: float, text: str) -> None:
        self._report.progress(self._loop.share, text)

    def should_stop(self) -> bool:
        return self._report.should_stop()


def gathered(own: T) -> list[T]:
    """Every rank's value, by rank."""
    import torch.distributed as dist

    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def slowest(ranks: Sequence[Steps]) -> Steps:
    """Each step as its slowest rank saw it; the loss is the mean of all, where each is a number."""
    seconds = list(zip(*(one.seconds for one in ranks), strict=True))
    by = [max(range(len(ranks)), key=lambda rank: its[rank]) for its in seconds]

    def of(name: str) -> tuple[float, ...]:
        return tuple(getattr(ranks[rank], name)[index] for index, rank in enumerate(by))

    losses = zip(*(one.loss for one in ranks), strict=True)
    return msgspec.structs.replace(
        ranks[0],
        **{name: of(name) for name in ("seconds", *(f"{part}_seconds" for part in PARTS))},
        loss=tuple(_mean(its) for its in losses),
    )


def _mean(losses: Sequence[Any]) -> Any:
    missing = next((loss for loss in losses if not isinstance(loss, float)), None)
    return missing if missing is not None else sum(losses) / len(losses)


def timed_pairs(loop: StepLoop, patience: Patience, apart: Around) -> tuple[list[float], list[float]]:
    """Seconds of steps with and without the exchange of gradients and weights, in turn: as many on every rank."""
    step = loop.columns().seconds[-1]
    allowed = PAIRS_SHARE * (patience.seconds or patience.shortest_seconds)
    pairs = gathered(max(FEWEST_PAIRS, min(PAIRS, int(allowed / (2 * step)))))[0]
    with_it, without = [], []
    for pair in range(1 + pairs):
        with apart():
            without.append(_from_a_common_start(loop))
        with_it.append(_from_a_common_start(loop))
        if pair == 0:  # the first of its kind, and what follows it, may build what the others find
            with_it.clear()
            without.clear()
    return with_it, without


def _from_a_common_start(loop: StepLoop) -> float:
    """Seconds from when all ranks are there, so that one that was late does not count as waited for."""
    import torch.distributed as dist

    loop.accelerator.synchronize()
    dist.barrier()
    return loop.one_step()


def split(
    method: str,
    step_seconds: float,
    hosts: tuple[str, ...],
    with_samples: Sequence[tuple[float, ...]],
    without_samples: Sequence[tuple[float, ...]],
    alone: tuple[float, ...] | Absent,
) -> Exchange:
    """Where a step of all ranks goes, from seconds by rank and step; the parts add up to `step_seconds`.

    Each step in turn is that of its slowest rank; `alone` are rank 0's while the others waited.
    """
    with_all, without_all = ([max(its) for its in zip(*by, strict=True)] for by in (with_samples, without_samples))
    exposed = stats.median_estimate([a - b for a, b in zip(with_all, without_all, strict=True)])
    by_rank = [stats.median(its) for its in without_samples]
    middle, slow = stats.median(by_rank), max(by_rank)
    one = alone if isinstance(alone, Absent) else stats.median_estimate(alone)
    return Exchange(
        method=method,
        hosts=hosts,
        with_seconds=tuple(with_all),
        without_seconds=tuple(without_all),
        exposed_seconds=exposed.value,
        without_by_rank=tuple(by_rank),
        alone_seconds=one,
        shared_seconds=one if isinstance(one, Absent) else middle - one.value,
        imbalance_seconds=slow - middle,
        efficiency=one if isinstance(one, Absent) else one.value / step_seconds,
        unexplained_seconds=step_seconds - slow - exposed.value,
        exposed=exposed,
        with_samples=tuple(with_samples),
        without_samples=tuple(without_samples),
        alone_samples=() if isinstance(alone, Absent) else alone,
    )
