"""Which copies show what a GPU's links and memory move: to and from the host, inside the card, to every other card?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from rigbench.bandwidth.record import HostMemory, Transfer
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.machine.cuda_cards import Cards, Clock, Copy, enqueued, waited_for
from rigbench.work.copies import FLOAT_BYTES, TRIAD_FACTOR, VALUE_BYTES, Budget, Group, Move, fill, fill_triad, measure

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
SMALL_BYTES = 64  # a message whose time is all latency
HOST_SIZES = (SMALL_BYTES, 4 << 10, 64 << 10, 1 * MIB, 16 * MIB, 128 * MIB)  # and the largest
PEER_SIZES = (SMALL_BYTES, 4 << 10, 1 * MIB, 64 * MIB)  # and the largest
THREADS_PAY_FROM = 1 * MIB  # below it, two pageable copies at once would time how threads are started
BEYOND_CACHE_BYTES = 128 * MIB  # for copies over a link, whose rate a cache hardly changes
TIMES_THE_CACHE = 4  # for copies inside a card: STREAM's rule
SHARE_OF_FREE = 8  # one array takes at most an eighth of the free memory of its place; there are up to four
NOT_HOST = Absent("host memory takes no part")
NO_PEERS = Absent("no two GPUs take part")

Way = Literal["there", "back", "both"]
WAYS: tuple[Way, ...] = ("there", "back", "both")


@dataclass(frozen=True)
class OneWay:
    """One direction's buffers and the stream that its copies run on."""

    source: torch.Tensor
    destination: torch.Tensor
    expected: torch.Tensor
    stream: Any

    def move(self, copy: Copy, size_bytes: int) -> Move:
        """Of the first `size_bytes` of the buffers."""
        count = size_bytes // VALUE_BYTES
        source, destination, expected = (part[:count] for part in (self.source, self.destination, self.expected))
        return Move(lambda: copy(destination, source), destination, expected, self.stream)


@dataclass(frozen=True)
class Link:
    """What joins two places, and how bytes are sent over it. `facts` are fields of the Transfer."""

    one: str
    other: str
    copy: Copy
    clock: Clock
    facts: Mapping[str, object]


def largest(
    cards: Cards, wanted_bytes: int, free_host_bytes: int | Absent, indices: Sequence[int]
) -> tuple[int, list[str]]:
    """The largest array, as asked for or as memory allows, and a word where it is less."""
    free = {_name(index): cards.free_bytes(index) for index in indices}
    free |= {} if isinstance(free_host_bytes, Absent) else {"the host": free_host_bytes}
    place, least = min(free.items(), key=lambda entry: entry[1])
    size = max(MIB, min(wanted_bytes, least // SHARE_OF_FREE) // MIB * MIB)
    if size >= wanted_bytes // MIB * MIB:
        return size, []
    return size, [f"copies above {units.format_bytes(size)}, an eighth of the free memory of {place}"]


def plan_device(cards: Cards, index: int, cpus: str | Absent, largest_bytes: int) -> list[Group]:
    """One GPU with the host and with itself."""
    card = _name(index)
    groups = []
    memories: dict[HostMemory, tuple[Copy, Clock]] = {
        "pinned": (enqueued, cards.clock([index])),
        "pageable": (waited_for, cards.host_clock(index)),
    }
    for memory, (copy, clock) in memories.items():
        link = Link("host", card, copy, clock, {"host_memory": memory, "peer_access": NO_PEERS})
        rows = [
            (f"{card} {memory}, {units.format_bytes(size)}", partial(_link_row, link, way, size))
            for size in sizes(HOST_SIZES, largest_bytes)
            for way in WAYS
            if not (way == "both" and memory == "pageable" and size < THREADS_PAY_FROM)
        ]
        make = partial(_host_buffers, cards, index, memory == "pinned", largest_bytes)
        groups.append(Group(f"{card} {memory}", cpus, make, rows))
    for operation, make_own, row in (("copy", _copy_buffers, _copy_row), ("triad", _triad_buffers, _triad_row)):
        label = f"{operation} in {card}"
        rows = [(label, partial(row, cards, index))]
        groups.append(Group(label, NOT_HOST, partial(make_own, cards, index, largest_bytes), rows))
    return groups


def plan_peers(cards: Cards, count: int, peer_access: bool, largest_bytes: int) -> tuple[list[Group], list[str]]:
    """Every pair of GPUs, and in words the pairs that cannot be had."""
    groups, refused = [], []
    copy = cards.peer_copy(count, peer_access)
    for one, other in itertools.combinations(range(count), 2):
        label = f"{_name(one)} and {_name(other)}"
        if peer_access and not (cards.may_access(one, other) and cards.may_access(other, one)):
            refused.append(f"{label}: the driver does not allow them peer access")
            continue
        facts = {"host_memory": NOT_HOST, "peer_access": peer_access}
        link = Link(_name(one), _name(other), copy, cards.clock([one, other]), facts)
        rows = [
            (f"{label}, {units.format_bytes(size)}", partial(_link_row, link, way, size))
            for size in sizes(PEER_SIZES, largest_bytes)
            for way in WAYS
        ]
        groups.append(Group(label, NOT_HOST, partial(_peer_buffers, cards, one, other, largest_bytes), rows))
    return groups, refused


def sizes(usual: Sequence[int], largest_bytes: int) -> list[int]:
    return [*(size for size in usual if size < largest_bytes), largest_bytes]


def _name(index: int) -> str:
    return f"cuda:{index}"


def _link_row(link: Link, way: Way, size_bytes: int, lanes: dict[Way, OneWay], budget: Budget) -> Transfer:
    used = list(lanes.values()) if way == "both" else [lanes[way]]
    source, destination = (link.other, link.one) if way == "back" else (link.one, link.other)
    return measure(
        [lane.move(link.copy, size_bytes) for lane in used],
        link.clock,
        budget,
        **link.facts,
        operation="copy",
        source=source,
        destination=destination,
        both_ways=way == "both",
        size_bytes=size_bytes,
        counted_bytes=size_bytes * len(used),
        threads=1 if link.clock.name == "device" else len(used),
        warm=size_bytes < BEYOND_CACHE_BYTES,
    )


def _host_buffers(cards: Cards, index: int, pinned: bool, size_bytes: int) -> dict[Way, OneWay]:
    """Host memory is taken and written here, on the CPUs that the caller has chosen: it lies next to them then."""
    import torch

    count = size_bytes // VALUE_BYTES
    out, back, back_expected = (cards.host_memory(index, count, pinned).zero_() for _ in range(3))
    there, there_expected, own = (cards.memory(index, count, torch.int64) for _ in range(3))
    return {
        "there": OneWay(fill(out, 11), there, fill(there_expected, 11), cards.stream(index)),
        "back": OneWay(fill(own, 12), back, fill(back_expected, 12), cards.stream(index)),
    }


def _peer_buffers(cards: Cards, one: int, other: int, size_bytes: int) -> dict[Way, OneWay]:
    """A copy runs on a stream of the card that it comes from."""
    import torch

    def lane(here: int, there: int, seed: int) -> OneWay:
        count = size_bytes // VALUE_BYTES
        source = cards.memory(here, count, torch.int64)
        destination, expected = (cards.memory(there, count, torch.int64) for _ in range(2))
        return OneWay(fill(source, seed), destination, fill(expected, seed), cards.stream(here))

    return {"there": lane(one, other, 21), "back": lane(other, one, 22)}


def _copy_buffers(cards: Cards, index: int, size_bytes: int) -> OneWay:
    import torch

    source, destination, expected = (cards.memory(index, size_bytes // VALUE_BYTES, torch.int64) for _ in range(3))
    return OneWay(fill(source, 13), destination, fill(expected, 13), cards.stream(index))


def _copy_row(cards: Cards, index: int, lane: OneWay, budget: Budget) -> Transfer:
    size_bytes = lane.source.numel() * VALUE_BYTES
    return _own_memory(cards, index, lane.move(enqueued, size_bytes), budget, "copy", size_bytes, 2 * size_bytes)


def _triad_buffers(cards: Cards, index: int, size_bytes: int) -> tuple[torch.Tensor, ...]:
    import torch

    a, b, c, expected = (cards.memory(index, size_bytes // FLOAT_BYTES, torch.float32) for _ in range(4))
    return a, fill(b, 14), fill(c, 15), fill_triad(expected, 14, 15)


def _triad_row(cards: Cards, index: int, buffers: Sequence[torch.Tensor], budget: Budget) -> Transfer:
    import torch

    a, b, c, expected = buffers
    size_bytes = a.numel() * FLOAT_BYTES
    move = Move(lambda: torch.add(b, c, alpha=TRIAD_FACTOR, out=a), a, expected, cards.stream(index))
    return _own_memory(cards, index, move, budget, "triad", size_bytes, 3 * size_bytes)


def _own_memory(
    cards: Cards, index: int, move: Move, budget: Budget, operation: str, size_bytes: int, counted_bytes: int
) -> Transfer:
    return measure(
        [move],
        cards.clock([index]),
        budget,
        operation=operation,
        source=_name(index),
        destination=_name(index),
        both_ways=False,
        host_memory=NOT_HOST,
        peer_access=NO_PEERS,
        size_bytes=size_bytes,
        counted_bytes=counted_bytes,
        threads=1,
        warm=size_bytes < TIMES_THE_CACHE * cards.cache_bytes(index),
    )
