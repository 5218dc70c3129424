"""What do steps that several ranks make together take, and what the same without their exchange?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from rigbench.measure.steps import PARTS, Patience, StepLoop
from rigbench.records import EndedBy, Steps

PAIRS, PAIRS_SHARE = 8, 0.3  # at most, and of the slice's own time
ENDED: tuple[EndedBy | None, ...] = (None, "interval", "time limit", "interrupted")
T = TypeVar("T")


class RankLoop(StepLoop):
    """All ranks make as many steps: rank 0 says when its rate is tight, any rank that it was told to stop."""

    def agree(self, ended: EndedBy | None, chunk: int) -> tuple[EndedBy | None, int]:
        import torch
        import torch.distributed as dist

        leads = dist.get_rank() == 0
        code = ENDED.index(ended)
        own = code if leads or ended == "interrupted" else 0
        word = torch.tensor([own, chunk if leads else 0], device=self.accelerator.torch_device)
        dist.all_reduce(word, dist.ReduceOp.MAX)
        said, size = word.tolist()
        return ENDED[said], max(1, size)


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


def timed_pairs(loop: StepLoop, patience: Patience) -> tuple[list[float], list[float]]:
    """Seconds of steps with and without the exchange of gradients, in turn: as many on every rank."""
    step = loop.columns().seconds[-1]
    allowed = PAIRS_SHARE * (patience.seconds or patience.shortest_seconds)
    pairs = gathered(max(2, min(PAIRS, int(allowed / (2 * step)))))[0]
    with_it, without = [], []
    for _ in range(pairs):
        with_it.append(_from_a_common_start(loop))
        with without_exchange(loop):
            without.append(_from_a_common_start(loop))
    return with_it, without


def _from_a_common_start(loop: StepLoop) -> float:
    """Seconds from when all ranks are there, so that one that was late does not count as waited for."""
    import torch.distributed as dist

    loop.accelerator.synchronize()
    dist.barrier()
    return loop.one_step()


@contextlib.contextmanager
def without_exchange(loop: StepLoop) -> Any:
    """Let every rank keep its gradients; FSDP still gathers its weights."""
    trained = loop.trained
    loop.trained = trained._replace(synchronised=lambda last: trained.synchronised(False))
    try:
        yield
    finally:
        loop.trained = trained
