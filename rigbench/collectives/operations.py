"""Makes each collective on a buffer, and knows what belongs in it afterwards.

Sizes are those of the whole that an operation is about: of the buffer that every rank holds, or of all parts together
where each rank has one. In place: the result lies where the input lay, as far as the operation and torch allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from rigbench.collectives.record import CollectiveName
from rigbench.work.copies import FLOAT_BYTES, fill

ROOT = 0
SUMMED = ("all_reduce", "reduce_scatter", "reduce")
PARTED = ("all_gather", "reduce_scatter", "all_to_all")  # each rank has a part: sizes are multiples of their number
OUT_OF_PLACE = ("all_to_all", "send_recv")  # torch has them between two buffers only
EXACT_RANKS = 16  # patterns are whole numbers of 20 bits: so many of them add up exactly in float32 (24 bits)
ROUND_SEEDS = 1 << 16


def bus_factor(name: CollectiveName, ranks: int) -> float:
    """Bytes that every link must carry at least, over the bytes of the operation (nccl-tests, PERFORMANCE.md)."""
    if name == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if name in PARTED else 1.0


def sizes(smallest: int, largest: int, ranks: int) -> tuple[int, ...]:
    """Powers of four times the smallest, and the largest; each so that every rank has a whole number of values."""
    steps = math.ceil(math.log(largest / smallest, 4)) if largest > smallest else 0
    return whole([*(smallest * 4**step for step in range(steps)), largest], ranks)


def whole(wanted: Sequence[int], ranks: int) -> tuple[int, ...]:
    """Rounded up to what all ranks can share evenly, in order, each once."""
    grain = FLOAT_BYTES * ranks
    return tuple(sorted({max(1, math.ceil(size / grain)) * grain for size in wanted}))


def values(count: int, sender: int, round_number: int, ranks: int, device: str) -> torch.Tensor:
    """What a rank brings to a round: float32 [count], whole numbers whose sum over all ranks is exact."""
    made = fill(torch.empty(count, dtype=torch.float32, device=device), ROUND_SEEDS * (round_number + 1) + sender)
    spare_bits = max(0, math.ceil(math.log2(ranks / EXACT_RANKS)))
    return made.mul_(0.5**spare_bits).floor_() if spare_bits else made


class Operation:
    """One collective on buffers of one size, on this rank. All ranks make the same one."""

    def __init__(self, name: CollectiveName, size_bytes: int, rank: int, ranks: int, device: str, group: Any) -> None:
        self.name, self.rank, self.ranks, self.device, self.group = name, rank, ranks, device, group
        self.count = size_bytes // FLOAT_BYTES
        self._input = torch.empty(self.count, dtype=torch.float32, device=device)
        self._other = torch.empty_like(self._input) if name in (*OUT_OF_PLACE, *SUMMED) else self._input
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # renamed in torch 2.13
        whole, own, other = self._input, self._input[self._part(rank)], self._other
        to_next, from_before = (rank + 1) % ranks, (rank - 1) % ranks
        works: dict[CollectiveName, Callable[[], object]] = {
            "all_reduce": lambda: dist.all_reduce(whole, group=group),
            "all_gather": lambda: gather(whole, own, group=group),
            "reduce_scatter": lambda: scatter(own, whole, group=group),
            "broadcast": lambda: dist.broadcast(whole, ROOT, group=group),
            "reduce": lambda: dist.reduce(whole, ROOT, group=group),
            "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
            "send_recv": lambda: transfer([(whole, to_next)], [(other, from_before)], group),
        }
        self.work = works[name] if name != "send_recv" or ranks > 1 else lambda: other.copy_(whole)

    def randomize(self) -> None:
        """Random normal data, as gradients have; what is summed in place is kept aside."""
        self._input.normal_()
        self._other.normal_()

    def prepare(self) -> None:
        """Before each timed repeat: sums in place would otherwise grow until they overflow."""
        if self.name in SUMMED:
            self._input.copy_(self._other)

    def load(self, round_number: int) -> None:
        """Put known values where the operation takes its own from, and others where its result will lie."""
        self._input.copy_(self._sent(self.rank, round_number))
        own_part = self._part(self.rank)
        if self.name in OUT_OF_PLACE:
            self._other.fill_(-1.0)
        elif self.name == "all_gather":
            kept = self._input[own_part].clone()
            self._input.fill_(-1.0)
            self._input[own_part] = kept
        elif self.name == "broadcast" and self.rank != ROOT:
            self._input.fill_(-1.0)

    def wrong_values(self, round_number: int) -> int:
        """After it was made on what `load` put there: how many of the results on this rank do not belong there."""
        if self.name == "reduce" and self.rank != ROOT:
            return 0
        result = self._other if self.name in OUT_OF_PLACE else self._input
        if self.name == "reduce_scatter":
            result = self._input[self._part(self.rank)]
        return int((result != self._expected(round_number)).sum())

    def _sent(self, sender: int, round_number: int) -> torch.Tensor:
        return values(self.count, sender, round_number, self.ranks, self.device)

    def _part(self, rank: int) -> slice:
        each = self.count // self.ranks
        return slice(rank * each, (rank + 1) * each)

    def _expected(self, round_number: int) -> torch.Tensor:
        """Worked out on this rank, from what every other one must have sent, one after the other: the memory that it
        takes is that of the result and of one rank's values, however many ranks there are.
        """
        own = self._part(self.rank)
        if self.name == "broadcast":
            return self._sent(ROOT, round_number)
        if self.name == "send_recv":
            return self._sent((self.rank - 1) % self.ranks, round_number)
        if self.name in ("all_gather", "all_to_all"):
            result = torch.empty_like(self._input)
            for sender in range(self.ranks):
                what = self._part(sender) if self.name == "all_gather" else own
                result[self._part(sender)] = self._sent(sender, round_number)[what]
            return result
        where = own if self.name == "reduce_scatter" else slice(None)
        total = torch.zeros_like(self._input[where])
        for sender in range(self.ranks):
            total += self._sent(sender, round_number)[where]
        return total


def transfer(sends: Sequence[tuple[Any, int]], receives: Sequence[tuple[Any, int]], group: Any) -> None:
    """Everything at once; returns when it is done, or enqueued on a GPU's stream."""
    messages = [dist.P2POp(dist.isend, tensor, peer, group) for tensor, peer in sends]
    messages += [dist.P2POp(dist.irecv, tensor, peer, group) for tensor, peer in receives]
    for work in dist.batch_isend_irecv(messages) if messages else ():
        work.wait()


class Flows:
    """Messages of one size between some pairs of ranks at once; ranks without one rest."""

    def __init__(
        self, flows: Sequence[tuple[int, int]], size_bytes: int, rank: int, ranks: int, device: str, group: Any
    ) -> None:
        self.rank, self.ranks, self.device, self.group = rank, ranks, device, group
        self.count = size_bytes // FLOAT_BYTES

        def buffer() -> torch.Tensor:
            return torch.empty(self.count, dtype=torch.float32, device=device)

        self._sends = [(buffer(), there) for here, there in flows if here == rank]
        self._receives = [(buffer(), here) for here, there in flows if there == rank]

    def randomize(self) -> None:
        for tensor, _ in self._sends:
            tensor.normal_()

    def prepare(self) -> None:
        """Nothing: what is sent stays as it is."""

    def work(self) -> None:
        transfer(self._sends, self._receives, self.group)

    def load(self, round_number: int) -> None:
        """Known values to send."""
        for tensor, _ in self._sends:
            tensor.copy_(values(self.count, self.rank, round_number, self.ranks, self.device))
        for tensor, _ in self._receives:
            tensor.fill_(-1.0)

    def wrong_values(self, round_number: int) -> int:
        """After they were sent: how many of those that came here are not what belongs there."""
        facts = (round_number, self.ranks, self.device)
        return sum(int((it != values(self.count, sender, *facts)).sum()) for it, sender in self._receives)
