"""Do writes from one GPU into another's memory arrive, all of them, only there, and as they were sent?

Posted writes that a bridge drops or turns back leave no error and an excellent rate, and a round trip passes. So the
destination's own device reads what lies there, next to what it works out should; the sender's memory is read too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rigbench.machine.cuda_cards import Cards, Copy, Lane
from rigbench.p2p.record import ValueCheck, Way
from rigbench.p2p.values import Rounds, before_seed, filled_like, sent_seed
from rigbench.work.copies import VALUE_BYTES

if TYPE_CHECKING:
    import torch

GUARD_VALUES = 512  # on either side of the destination, a page: nothing may change there
KERNEL_STRIDE = 2  # torch copies what has gaps with a kernel of the source's device, which stores into the peer


class Writes(NamedTuple):
    """One direction, or both at once: (source, destination) by CUDA index."""

    ways: tuple[tuple[int, int], ...]
    by: Way
    size_bytes: int

    @property
    def text(self) -> str:
        arrow = "↔" if len(self.ways) > 1 else "→"
        one, other = self.ways[0]
        return f"cuda:{one} {arrow} cuda:{other} by {self.by}"


class Side(NamedTuple):
    """What one device holds: where the other writes, and what it sends."""

    landing: torch.Tensor
    sends: torch.Tensor


def plan(pairs: Sequence[tuple[int, int]], by: Sequence[Way], sizes: Sequence[int]) -> list[Writes]:
    """Each direction alone, then both at once, small before large."""
    return [
        Writes(ways, way, size)
        for one, other in pairs
        for size in sizes
        for way in by
        for ways in (((one, other),), ((other, one),), ((one, other), (other, one)))
    ]


def checks_of(writes: Sequence[Writes]) -> int:
    return sum(len(item.ways) for item in writes)


def pairs_of(count: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(count), 2))


def perform(cards: Cards, copy: Copy, writes: Writes, rounds: int) -> Iterator[ValueCheck]:
    """Several rounds of it, each with other values; one check for each direction."""
    ends = writes.ways[0]
    clock = cards.clock(ends)
    sides = {index: _side(cards, index, writes) for index in ends}
    streams = {source: cards.stream(source) for source, _ in writes.ways}
    both = len(writes.ways) > 1
    seen = {
        way: Rounds(writes.by, (f"cuda:{way[0]}",), f"cuda:{way[1]}", both, writes.size_bytes) for way in writes.ways
    }
    for number in range(rounds):
        for index, side in sides.items():
            side.landing.copy_(filled_like(side.landing, before_seed(number, index)))
        lanes = []
        for source, destination in writes.ways:
            sends = sides[source].sends
            sends.copy_(filled_like(sends, sent_seed(number, source, destination)))
            target = sides[destination].landing[_place(writes)]
            lanes.append(Lane(lambda target=target, sends=sends: copy(target, sends), streams[source]))  # type: ignore[misc]
        clock(lanes)
        for way in writes.ways:
            _judge(seen[way], writes, way, sides, number)
    for rounds_seen in seen.values():
        yield rounds_seen.record()


def _side(cards: Cards, index: int, writes: Writes) -> Side:
    import torch

    values = writes.size_bytes // VALUE_BYTES
    landing = cards.memory(index, 2 * GUARD_VALUES + _stride(writes) * values, torch.int64)
    return Side(landing, cards.memory(index, values, torch.int64))


def _stride(writes: Writes) -> int:
    return KERNEL_STRIDE if writes.by == "kernel" else 1


def _place(writes: Writes) -> slice:
    """Where in a landing the values belong."""
    stride = _stride(writes)
    return slice(GUARD_VALUES, GUARD_VALUES + stride * (writes.size_bytes // VALUE_BYTES), stride)


def _judge(rounds_seen: Rounds, writes: Writes, way: tuple[int, int], sides: dict[int, Side], number: int) -> None:
    source, destination = way
    place, landing = _place(writes), sides[destination].landing
    whole = filled_like(landing, before_seed(number, destination))
    before = whole[place].clone()
    expected = filled_like(before, sent_seed(number, source, destination))
    whole[place] = expected
    strayed = int((landing != whole).sum()) - int((landing[place] != expected).sum())
    strayed += _changed(sides[source].sends, sent_seed(number, source, destination))
    returned = 0
    if len(writes.ways) == 1:
        returned, elsewhere = _at_the_sender(sides[source].landing, writes, way, number)
        strayed += elsewhere
    rounds_seen.judge(
        landing[place],
        expected,
        before=before,
        earlier=filled_like(before, sent_seed(number - 1, source, destination)) if number else None,
        own=filled_like(before, sent_seed(number, destination, source)) if len(writes.ways) > 1 else None,
        returned=returned,
        strayed=strayed,
    )


def _at_the_sender(landing: torch.Tensor, writes: Writes, way: tuple[int, int], number: int) -> tuple[int, int]:
    """(values that came back to where they were sent from, other values that changed there); nobody wrote to it."""
    source, destination = way
    place = _place(writes)
    changed = landing != filled_like(landing, before_seed(number, source))
    came_back = landing[place] == filled_like(landing[place], sent_seed(number, source, destination))
    returned = int((changed[place] & came_back).sum())
    return returned, int(changed.sum()) - returned


def _changed(buffer: torch.Tensor, seed: int) -> int:
    return int((buffer != filled_like(buffer, seed)).sum())
