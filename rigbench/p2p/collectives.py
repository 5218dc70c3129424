"""Do all_reduce and send/recv bring the right values to every rank, and how long does an all_reduce take?

All ranks make the same steps. Between them they meet over the host's network, never over the GPUs: so the step that
hangs is the one that was last announced, and all of them stop at the same place.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rigbench.core.estimate import Timing
from rigbench.core.record import Absent
from rigbench.machine.accelerator import Accelerator
from rigbench.p2p.record import ReduceTimes, ValueCheck
from rigbench.p2p.values import Rounds, before_seed, filled_like, sent_seed
from rigbench.work.copies import FLOAT_BYTES, Budget
from rigbench.work.timing import sample_until_tight

if TYPE_CHECKING:
    import torch

NEVER_SECONDS = 1e6  # whoever started the ranks ends a hang; NCCL's own watchdog would make a death of it
LARGEST_SUM_BITS = 100  # a float32 holds 127: an all_reduce in place is repeated until its sums could reach that
VALUE_BITS = 20  # of the patterns
MOST_REPEATS = 16
NOT_FIRST = Absent("rank 0 decides when there is enough")


class Ranks(Protocol):
    """What one rank may ask of the others. `meet` and `agree` go over the host, the other two over the GPUs."""

    rank: int
    count: int
    device: str

    def all_reduce(self, buffer: torch.Tensor) -> None: ...

    def exchange(self, sends: torch.Tensor, receives: torch.Tensor, peer: int) -> None: ...

    def agree(self, number: int) -> int:
        """The largest number that any rank gives; all wait for it."""
        ...


class TorchRanks:
    """torch.distributed: the default group on the host, and one of the backend that is asked about."""

    def __init__(self, device: str, backend: str) -> None:
        """The default group is for the meetings: it must be one on the host. `backend` is for `device`."""
        import torch.distributed as dist

        self.rank, self.count, self.device = dist.get_rank(), dist.get_world_size(), device
        self._group = dist.new_group(backend=backend, timeout=timedelta(seconds=NEVER_SECONDS))

    def all_reduce(self, buffer: torch.Tensor) -> None:
        import torch.distributed as dist

        dist.all_reduce(buffer, group=self._group)

    def exchange(self, sends: torch.Tensor, receives: torch.Tensor, peer: int) -> None:
        """Both ways at once, over the communicator of all: one of their own for each pair would have to be made."""
        import torch.distributed as dist

        there = dist.P2POp(dist.isend, sends, peer, self._group)
        back = dist.P2POp(dist.irecv, receives, peer, self._group)
        for work in dist.batch_isend_irecv([there, back]):
            work.wait()

    def agree(self, number: int) -> int:
        import torch
        import torch.distributed as dist

        told = torch.tensor([number])
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return int(told.item())


class Exchange(NamedTuple):
    """A check that all ranks pass: an all_reduce, or send/recv between two of them, who are then `pair`."""

    size_bytes: int
    pair: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        if self.pair is None:
            return "all_reduce"
        return f"send/recv cuda:{self.pair[0]} ↔ cuda:{self.pair[1]}"

    def concerns(self, rank: int) -> bool:
        return self.pair is None or rank in self.pair


def plan(count: int, sizes: Sequence[int]) -> list[Exchange]:
    """all_reduce first, since it is the first call in a communicator that all ranks must make together."""
    pairs = list(itertools.combinations(range(count), 2))
    return [Exchange(size) for size in sizes] + [Exchange(size, pair) for pair in pairs for size in sizes]


def perform(ranks: Ranks, exchange: Exchange, rounds: int) -> ValueCheck:
    """One check as this rank sees it: several rounds, each with other values."""
    import torch

    values, peer = exchange.size_bytes // FLOAT_BYTES, _peer(ranks, exchange)
    others = tuple(range(ranks.count)) if peer is None else (peer,)
    rounds_seen = Rounds(
        "all_reduce" if peer is None else "send/recv",
        tuple(f"cuda:{other}" for other in others),
        f"cuda:{ranks.rank}",
        peer is not None,
        exchange.size_bytes,
    )
    sends = torch.empty(values, dtype=torch.float32, device=ranks.device)
    receives = sends if peer is None else torch.empty_like(sends)
    earlier = None
    for number in range(rounds):
        receives.copy_(filled_like(receives, before_seed(number, ranks.rank)))
        sends.copy_(filled_like(sends, sent_seed(number, ranks.rank)))
        before, own = receives.clone(), sends.clone()
        if peer is None:
            ranks.all_reduce(receives)
        else:
            ranks.exchange(sends, receives, peer)
        expected = _summed(sends, number, others)
        rounds_seen.judge(receives, expected, before=before, earlier=earlier, own=None if peer is None else own)
        earlier = expected
    return rounds_seen.record()


def _peer(ranks: Ranks, exchange: Exchange) -> int | None:
    if exchange.pair is None:
        return None
    one, other = exchange.pair
    return other if ranks.rank == one else one


def _summed(like: torch.Tensor, number: int, senders: Sequence[int]) -> torch.Tensor:
    """What these ranks send, added: whole numbers of 20 bits, so that the sum of up to 16 is exact in any order."""
    total = filled_like(like, sent_seed(number, senders[0]))
    for sender in senders[1:]:
        total += filled_like(like, sent_seed(number, sender))
    return total


def timed(ranks: Ranks, accelerator: Accelerator, size_bytes: int, budget: Budget) -> ReduceTimes:
    """All_reduces of one size until rank 0's median is tight; every rank's own seconds.

    Ranks enter each all_reduce together, held by the one before it. A step's time is the slowest rank's.
    """
    import torch

    buffer = torch.empty(size_bytes // FLOAT_BYTES, dtype=torch.float32, device=ranks.device)
    seconds: list[float] = []

    def repeat(wanted: int) -> list[float]:
        taken: list[float] = []
        for start in range(0, wanted, _repeats(ranks.count)):
            buffer.normal_()
            taken += accelerator.timed(lambda _: ranks.all_reduce(buffer), min(wanted - start, _repeats(ranks.count)))
        seconds.extend(taken)
        return taken

    timing = _lead(ranks, repeat, budget) if ranks.rank == 0 else _follow(ranks, repeat)
    return ReduceTimes(ranks.rank, size_bytes, tuple(seconds), timing)


def _lead(ranks: Ranks, repeat: Callable[[int], list[float]], budget: Budget) -> Timing:
    def sample(wanted: int) -> list[float]:
        return repeat(ranks.agree(wanted))

    timing = sample_until_tight(
        sample,
        time.perf_counter,
        target_half_width=budget.target_half_width,
        limit_seconds=budget.limit_seconds,
        should_stop=budget.should_stop,
    )
    ranks.agree(0)
    return timing


def _follow(ranks: Ranks, repeat: Callable[[int], list[float]]) -> Absent:
    while wanted := ranks.agree(0):
        repeat(wanted)
    return NOT_FIRST


def _repeats(count: int) -> int:
    return max(1, min(MOST_REPEATS, int((LARGEST_SUM_BITS - VALUE_BITS) / math.log2(max(2, count)))))
