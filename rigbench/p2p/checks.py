"""Moves known values between GPUs, by copies, kernels and NCCL, and judges at the destination what arrived.

Posted writes that a bridge drops or turns back leave no error and an excellent rate, and a round trip passes. So the
destination's own device reads what lies there, next to what it works out should; the sender's memory is read too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import msgspec
import torch
import torch.distributed as dist

from rigbench.core.estimate import Timing
from rigbench.core.record import Absent
from rigbench.machine.accelerator import Accelerator
from rigbench.machine.cuda_cards import Cards, Copy, Lane
from rigbench.p2p.record import ReduceTimes, ValueCheck, Way
from rigbench.work.copies import FLOAT_BYTES, VALUE_BYTES, Budget, fill
from rigbench.work.timing import sample_until_tight

# ---- Values: what is sent, and what was found in its place

FLOAT_SHIFT = 44  # leaves 20 bits, sign included: sums of 16 ranks are exact in float32
MULTIPLIER = 0xBF58476D1CE4E5B9 - (1 << 64)  # of splitmix64 (Steele, Lea and Flood 2014), as a signed 64-bit value
EVERY_ROUND, MOST_DEVICES = 1 << 16, 128  # seeds of one round; a sender and a receiver give a seed of their own


def sent_seed(round_number: int, source: int, destination: int = 0) -> int:
    """What one device sends another in one round; no two of a run are alike."""
    return EVERY_ROUND * (round_number + 1) + MOST_DEVICES * (source + 1) + destination


def before_seed(round_number: int, device: int) -> int:
    """What lies in a destination before anything is sent."""
    return EVERY_ROUND * (round_number + 1) + device


def filled_like(buffer: torch.Tensor, seed: int) -> torch.Tensor:
    """The values of a seed, worked out where the buffer lies: [n] of int64, or whole numbers of 20 bits in float32.

    Those are mixed once more: a pattern's leading bits are so regular that sums of two were often equal from one round
    to the next.
    """
    values = fill(torch.empty(buffer.numel(), dtype=torch.int64, device=buffer.device), seed)
    if buffer.dtype == values.dtype:
        return values
    mixed = (values ^ (values >> 32)) * MULTIPLIER
    return ((mixed ^ (mixed << 20)) >> FLOAT_SHIFT).to(buffer.dtype)


class Rounds:
    """The rounds of one check, added up; devices by their CUDA index."""

    def __init__(self, way: Way, sources: Sequence[int], destination: int, both_ways: bool, size_bytes: int) -> None:
        names, at = tuple(f"cuda:{source}" for source in sources), f"cuda:{destination}"
        self.check = ValueCheck(way=way, sources=names, destination=at, both_ways=both_ways, size_bytes=size_bytes)
        self.counts = Counter[str]()  # by the fields of a ValueCheck

    def judge(
        self,
        found: torch.Tensor,
        expected: torch.Tensor,
        *,
        before: torch.Tensor,
        earlier: torch.Tensor | None = None,
        own: torch.Tensor | None = None,
        returned: int = 0,
        strayed: int = 0,
    ) -> None:
        """One round. All tensors are [n] on the destination's device: what `before` lay there, what an `earlier` round
        sent, what the destination itself sent (`own`). Values found elsewhere are counted by the caller.
        """
        self.counts["checked"] += 1
        equal = torch.equal(found, expected)
        if equal and not returned and not strayed:
            return
        self.counts.update(wrong=1, returned_values=returned, strayed_values=strayed)
        if equal:
            return
        differs = found != expected
        self.counts["wrong_values"] += int(differs.sum())
        for name, candidate in (("unchanged_values", before), ("earlier_values", earlier), ("returned_values", own)):
            if candidate is not None:
                self.counts[name] += int(((found == candidate) & differs).sum())
        if isinstance(self.check.first_wrong_byte, Absent):
            first = int(differs.to(torch.uint8).argmax()) * found.element_size()
            self.check = msgspec.structs.replace(self.check, first_wrong_byte=first)

    def record(self) -> ValueCheck:
        return msgspec.structs.replace(self.check, **self.counts)


# ---- Writes of one GPU into another's memory: do all arrive, only there, and as they were sent?

GUARD_VALUES = 512  # on either side of the destination, a page: nothing may change there
KERNEL_STRIDE = 2  # torch copies what has gaps with a kernel of the source's device, which stores into the peer


class Writes(NamedTuple):
    """One direction, or both at once: (source, destination) by CUDA index."""

    ways: tuple[tuple[int, int], ...]
    by: Way
    size_bytes: int

    @property
    def text(self) -> str:
        one, other = self.ways[0]
        return f"cuda:{one} {'↔' if len(self.ways) > 1 else '→'} cuda:{other} by {self.by}"

    @property
    def place(self) -> slice:
        """Where in a destination's memory the values belong."""
        stride = KERNEL_STRIDE if self.by == "kernel" else 1
        return slice(GUARD_VALUES, GUARD_VALUES + stride * (self.size_bytes // VALUE_BYTES), stride)


def planned_writes(pair: tuple[int, int], by: Sequence[Way], sizes: Sequence[int]) -> list[Writes]:
    """Each direction alone, then both at once, small before large."""
    there, back = pair, pair[::-1]
    return [Writes(ways, way, size) for size in sizes for way in by for ways in ((there,), (back,), (there, back))]


def check_writes(cards: Cards, copy: Copy, writes: Writes, rounds: int) -> Iterator[ValueCheck]:
    """Several rounds of it, each with other values; one check for each direction."""
    ends, place, both = writes.ways[0], writes.place, len(writes.ways) > 1
    clock = cards.clock(ends)
    landings = {index: cards.memory(index, place.stop + GUARD_VALUES, torch.int64) for index in ends}
    sends = {index: cards.memory(index, writes.size_bytes // VALUE_BYTES, torch.int64) for index in ends}
    streams = {source: cards.stream(source) for source, _ in writes.ways}
    by_way = {(here, there): Rounds(writes.by, (here,), there, both, writes.size_bytes) for here, there in writes.ways}
    for number in range(rounds):
        for index, landing in landings.items():
            landing.copy_(filled_like(landing, before_seed(number, index)))
        lanes = []
        for source, destination in writes.ways:
            sends[source].copy_(filled_like(sends[source], sent_seed(number, source, destination)))
            lanes.append(Lane(partial(copy, landings[destination][place], sends[source]), streams[source]))
        clock(lanes)
        for (source, destination), result in by_way.items():
            landing, seed = landings[destination], sent_seed(number, source, destination)
            whole = filled_like(landing, before_seed(number, destination))
            before = whole[place].clone()
            expected = filled_like(before, seed)
            whole[place] = expected
            strayed = int((landing != whole).sum()) - int((landing[place] != expected).sum())
            strayed += int((sends[source] != filled_like(sends[source], seed)).sum())
            returned = 0
            if not both:  # nobody wrote to the sender's own landing
                at_sender = landings[source]
                changed = at_sender != filled_like(at_sender, before_seed(number, source))
                came_back = at_sender[place] == filled_like(at_sender[place], seed)
                returned = int((changed[place] & came_back).sum())
                strayed += int(changed.sum()) - returned
            result.judge(
                landing[place],
                expected,
                before=before,
                earlier=filled_like(before, sent_seed(number - 1, source, destination)) if number else None,
                own=filled_like(before, sent_seed(number, destination, source)) if both else None,
                returned=returned,
                strayed=strayed,
            )
    for result in by_way.values():
        yield result.record()


# ---- Exchanges of all ranks. Between them they meet over the host's network, never over the GPUs: so the step that
# hangs is the one that was last announced, and all of them stop at the same place.

NEVER_SECONDS = 1e6  # whoever started the ranks ends a hang; NCCL's own watchdog would make a death of it
LARGEST_SUM_BITS = 100  # a float32 holds 127: an all_reduce in place is repeated until its sums could reach that
VALUE_BITS = 20  # of the patterns
MOST_REPEATS = 16


class TorchRanks:
    """What one rank may ask of the others: `agree` goes over the host, the other two over a group of `backend`."""

    def __init__(self, device: str, backend: str) -> None:
        self.rank, self.count, self.device = dist.get_rank(), dist.get_world_size(), device
        self._group = dist.new_group(backend=backend, timeout=timedelta(seconds=NEVER_SECONDS))
        self._token = torch.zeros(1, device=device)

    def align(self) -> None:
        """On a GPU in its stream: the host does not wait."""
        self.all_reduce(self._token)

    def all_reduce(self, buffer: torch.Tensor) -> None:
        dist.all_reduce(buffer, group=self._group)

    def exchange(self, sends: torch.Tensor, receives: torch.Tensor, peer: int) -> None:
        """Both ways at once, over the communicator of all: one of their own for each pair would have to be made."""
        there = dist.P2POp(dist.isend, sends, peer, self._group)
        back = dist.P2POp(dist.irecv, receives, peer, self._group)
        for work in dist.batch_isend_irecv([there, back]):
            work.wait()

    def agree(self, number: int) -> int:
        """The largest number that any rank gives; all wait for it."""
        largest = torch.tensor([number])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())


class Exchange(NamedTuple):
    """A check that all ranks pass: an all_reduce, or send/recv between two of them, who are then `pair`."""

    size_bytes: int
    pair: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        return f"send/recv cuda:{self.pair[0]} ↔ cuda:{self.pair[1]}" if self.pair else "all_reduce"

    def concerns(self, rank: int) -> bool:
        return self.pair is None or rank in self.pair


def planned_exchanges(count: int, sizes: Sequence[int]) -> list[Exchange]:
    """all_reduce first, since it is the first call in a communicator that all ranks must make together."""
    pairs = itertools.combinations(range(count), 2)
    return [Exchange(size) for size in sizes] + [Exchange(size, pair) for pair in pairs for size in sizes]


def check_exchange(ranks: TorchRanks, exchange: Exchange, rounds: int) -> ValueCheck:
    """As this rank sees it: several rounds, each with other values."""
    peer = None if exchange.pair is None else sum(exchange.pair) - ranks.rank  # the other of the two
    senders = tuple(range(ranks.count)) if peer is None else (peer,)
    way: Way = "all_reduce" if peer is None else "send/recv"
    result = Rounds(way, senders, ranks.rank, peer is not None, exchange.size_bytes)
    sends = torch.empty(exchange.size_bytes // FLOAT_BYTES, dtype=torch.float32, device=ranks.device)
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
        expected = summed(sends, number, senders)
        result.judge(receives, expected, before=before, earlier=earlier, own=None if peer is None else own)
        earlier = expected
    return result.record()


def summed(like: torch.Tensor, number: int, senders: Sequence[int]) -> torch.Tensor:
    """What these ranks send, added: whole numbers of 20 bits, so that the sum of up to 16 is exact in any order."""
    total = filled_like(like, sent_seed(number, senders[0]))
    for sender in senders[1:]:
        total += filled_like(like, sent_seed(number, sender))
    return total


def time_reduces(ranks: TorchRanks, accelerator: Accelerator, size_bytes: int, budget: Budget) -> ReduceTimes:
    """All_reduces of one size until rank 0's median is tight, each entered together; every rank's own seconds."""
    buffer = torch.empty(size_bytes // FLOAT_BYTES, dtype=torch.float32, device=ranks.device)
    repeats, seconds, late = repeats_in_place(ranks.count), list[float](), list[bool]()

    def repeat(count: int) -> list[float]:
        late.clear()
        for start in range(0, count, repeats):
            buffer.normal_()
            work, number = lambda _: ranks.all_reduce(buffer), min(count - start, repeats)
            seconds.extend(accelerator.timed(work, number, align=ranks.align))
            late.extend(accelerator.late)
        return seconds[-count:]

    timing: Timing | Absent = Absent("rank 0 decides when there is enough")
    if ranks.rank == 0:
        timing = sample_until_tight(
            lambda count: repeat(ranks.agree(count)),
            time.perf_counter,
            target_half_width=budget.target_half_width,
            limit_seconds=budget.limit_seconds,
            should_stop=budget.should_stop,
            late=lambda: late,
        )
        ranks.agree(0)
    else:
        while count := ranks.agree(0):
            repeat(count)
    return ReduceTimes(ranks.rank, size_bytes, tuple(seconds), timing)


def repeats_in_place(ranks: int) -> int:
    """How often random sums may be summed again before a float32 overflows."""
    return max(1, min(MOST_REPEATS, int((LARGEST_SUM_BITS - VALUE_BITS) / math.log2(max(2, ranks)))))
