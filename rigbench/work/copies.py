"""Times copies inside a memory and between two, and reads every byte back where it arrived.

Each destination is cleared before a sample and afterwards compared, by the device that holds it, with what that device
itself worked out should be there. The checks are outside the timed part.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from rigbench.bandwidth.record import CopyCheck, HostMemory, Operation, Transfer
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.machine.cuda_cards import Cards, Clock, Copy, Lane, enqueued, waited_for
from rigbench.work.timing import sample_until_tight

MIB = 1 << 20
VALUE_BYTES, FLOAT_BYTES = 8, 4
# Patterns are made in pieces that stay in a cache: 256 KiB on a CPU, 32 MiB where a launch costs more than the work.
CHUNK_VALUES = {"cpu": 1 << 15, "cuda": 1 << 22}
MOST_SAMPLES = 200  # every one is stored, and there may be hundreds of rows
# Odd constants whose bits look random, as signed 64-bit values: 2^64 over the golden ratio (Knuth, The Art of Computer
# Programming 3, §6.4) and the second multiplier of splitmix64 (Steele, Lea and Flood 2014).
STEP, SEED_STEP = 0x9E3779B97F4A7C15 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
TRIAD_FACTOR = 3
TRIAD_SHIFT = 44  # leaves 20 bits of a pattern: b + 3·c is then exact in fp32
SMALL_BYTES = 64  # a message whose time is all latency
HOST_SIZES = (SMALL_BYTES, 4 << 10, 64 << 10, 1 * MIB, 16 * MIB, 128 * MIB)  # and the largest
PEER_SIZES = (SMALL_BYTES, 4 << 10, 1 * MIB, 64 * MIB)  # and the largest
THREADS_PAY_FROM = 1 * MIB  # below it, two pageable copies at once would time how threads are started
BEYOND_CACHE_BYTES = 128 * MIB  # for copies over a link, whose rate a cache hardly changes
# STREAM's rule for copies inside a memory: each array at least four times the last-level cache (stream.c, 1).
TIMES_THE_CACHE = 4
SHARE_OF_FREE = 8  # one array takes at most an eighth of the free memory of its place; there are up to four
NOT_HOST = Absent("host memory takes no part")
NO_PEERS = Absent("no two GPUs take part")

Way = Literal["there", "back", "both"]
WAYS: tuple[Way, ...] = ("there", "back", "both")


@dataclass
class Move:
    """One transfer, its destination, and what belongs there, worked out by the destination's own device."""

    work: Callable[[], object]
    destination: torch.Tensor
    expected: torch.Tensor
    stream: Any = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a row may take, and who may end it sooner."""

    limit_seconds: float
    target_half_width: float
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Group:
    """Rows that share buffers, made once, on the CPUs that the host's part of them should lie next to.

    `made_bytes`: of all its buffers together.
    """

    label: str
    cpus: str | Absent
    make: Callable[[], Any]
    rows: Sequence[tuple[str, Callable[[Any, Budget], Transfer]]]
    made_bytes: int = 0


class Verdict:
    """What the checks of one row found so far."""

    def __init__(self) -> None:
        self.checked = self.wrong = self.wrong_values = 0
        self.first_wrong_byte: int | Absent = Absent("every value was right")

    def check(self, move: Move) -> None:
        """Read the destination back."""
        self.checked += 1
        if torch.equal(move.destination, move.expected):
            return
        differs = (move.destination != move.expected).flatten()
        self.wrong += 1
        self.wrong_values += int(differs.sum())
        if isinstance(self.first_wrong_byte, Absent):
            first = int(differs.to(torch.uint8).argmax())
            self.first_wrong_byte = first * move.destination.element_size()

    def record(self) -> CopyCheck:
        return CopyCheck(self.checked, self.wrong, self.wrong_values, self.first_wrong_byte)


def measure(moves: Sequence[Move], clock: Clock, budget: Budget, *, counted_bytes: int, **facts: Any) -> Transfer:
    """Sample the moves, all at once, until the median is tight; every sample is checked at every destination.

    `counted_bytes` is what one sample moves; `facts` are the other fields of the Transfer.
    """
    verdict = Verdict()
    lanes = [Lane(move.work, move.stream) for move in moves]
    late: list[bool] = []  # of the last samples

    def sample(count: int) -> list[float]:
        late.clear()
        seconds = []
        for _ in range(count):
            for move in moves:
                move.destination.zero_()
            seconds.append(clock(lanes))
            late.append(clock.late)
            for move in moves:
                verdict.check(move)
        return seconds

    timing = sample_until_tight(
        sample,
        time.perf_counter,
        target_half_width=budget.target_half_width,
        limit_seconds=budget.limit_seconds,
        max_samples=MOST_SAMPLES,
        should_stop=budget.should_stop,
        late=lambda: late,
    )
    return Transfer(
        **facts,
        counted_bytes=counted_bytes,
        clock=clock.name,
        timing=timing,
        bytes_per_s=counted_bytes / timing.estimate,
        check=verdict.record(),
    )


def fill(buffer: torch.Tensor, seed: int) -> torch.Tensor:
    """Values that depend on index and seed, made on the buffer's own device: int64 [n], or float32 [n] for a triad."""
    whole = not buffer.dtype.is_floating_point
    for where, values in pattern(buffer.numel(), seed, buffer.device):
        buffer[where].copy_(values if whole else values >> TRIAD_SHIFT)
    return buffer


def fill_triad(buffer: torch.Tensor, seed_b: int, seed_c: int) -> torch.Tensor:
    """What b + 3·c of two such buffers holds, worked out in whole numbers: another way than the one that is timed."""
    patterns = (pattern(buffer.numel(), seed, buffer.device) for seed in (seed_b, seed_c))
    for (where, b), (_, c) in zip(*patterns, strict=True):
        buffer[where].copy_((b >> TRIAD_SHIFT) + TRIAD_FACTOR * (c >> TRIAD_SHIFT))
    return buffer


def pattern(count: int, seed: int, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """Piece by piece, (where, int64 values of indices there); products wrap at 64 bits. A piece lasts until the next.

    x = (index + 1)·STEP + (seed + 1)·SEED_STEP, then x xor (x >> 29).
    """
    size = min(count, CHUNK_VALUES[device.type])
    first = torch.arange(1, size + 1, dtype=torch.int64, device=device)
    first.mul_(STEP).add_(_wrapped((seed + 1) * SEED_STEP))
    values, shifted = torch.empty_like(first), torch.empty_like(first)
    for start in range(0, count, size):
        n = min(size, count - start)
        torch.add(first[:n], _wrapped(start * STEP), out=values[:n])
        torch.bitwise_right_shift(values[:n], 29, out=shifted[:n])
        yield slice(start, start + n), values[:n].bitwise_xor_(shifted[:n])


def _wrapped(number: int) -> int:
    """As a signed 64-bit value."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def inside_buffers(
    operation: Operation, size_bytes: int, memory: Callable[[int, torch.dtype], torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """(destination, its inputs, what belongs there) for a = b, or a = b + 3·c, inside one memory."""
    if operation == "copy":
        a, b, expected = (memory(size_bytes // VALUE_BYTES, torch.int64) for _ in range(3))
        return a, fill(b, 1), fill(expected, 1)
    a, b, c, expected = (memory(size_bytes // FLOAT_BYTES, torch.float32) for _ in range(4))
    return a, fill(b, 2), fill(c, 3), fill_triad(expected, 2, 3)


def inside(
    place: str,
    buffers: Sequence[torch.Tensor],
    clock: Clock,
    budget: Budget,
    copy: Copy,
    stream: Any = None,
    **facts: Any,
) -> Transfer:
    """A row inside one memory, with such buffers; `facts` are other fields of the Transfer."""
    destination, first, *others, expected = buffers
    size_bytes = destination.numel() * destination.element_size()

    def work() -> object:
        return torch.add(first, others[0], alpha=TRIAD_FACTOR, out=destination) if others else copy(destination, first)

    given = {"host_memory": NOT_HOST, "counted_bytes": (3 if others else 2) * size_bytes, "threads": 1, **facts}
    return measure(
        [Move(work, destination, expected, stream)],
        clock,
        budget,
        operation="triad" if others else "copy",
        source=place,
        destination=place,
        both_ways=False,
        peer_access=NO_PEERS,
        size_bytes=size_bytes,
        **given,
    )


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

    def row(self, way: Way, size_bytes: int, lanes: dict[Way, OneWay], budget: Budget) -> Transfer:
        used = list(lanes.values()) if way == "both" else [lanes[way]]
        source, destination = (self.other, self.one) if way == "back" else (self.one, self.other)
        return measure(
            [lane.move(self.copy, size_bytes) for lane in used],
            self.clock,
            budget,
            **self.facts,
            operation="copy",
            source=source,
            destination=destination,
            both_ways=way == "both",
            size_bytes=size_bytes,
            counted_bytes=size_bytes * len(used),
            threads=1 if self.clock.name == "device" else len(used),
            warm=size_bytes < BEYOND_CACHE_BYTES,
        )


def largest(
    cards: Cards, wanted_bytes: int, free_host_bytes: int | Absent, indices: Sequence[int]
) -> tuple[int, list[str]]:
    """The largest array, as asked for or as memory allows, and a word where it is less."""
    free = {f"cuda:{index}": cards.free_bytes(index) for index in indices}
    free |= {} if isinstance(free_host_bytes, Absent) else {"the host": free_host_bytes}
    place, least = min(free.items(), key=lambda entry: entry[1])
    size = max(MIB, min(wanted_bytes, least // SHARE_OF_FREE) // MIB * MIB)
    if size >= wanted_bytes // MIB * MIB:
        return size, []
    return size, [f"copies above {units.format_bytes(size)}, an eighth of the free memory of {place}"]


def plan_device(cards: Cards, index: int, cpus: str | Absent, largest_bytes: int) -> list[Group]:
    """One GPU with the host and with itself."""
    card, groups = f"cuda:{index}", []
    memories: dict[HostMemory, tuple[Copy, Clock]] = {
        "pinned": (enqueued, cards.clock([index])),
        "pageable": (waited_for, cards.host_clock(index)),
    }
    for memory, (copy, clock) in memories.items():
        link = Link("host", card, copy, clock, {"host_memory": memory, "peer_access": NO_PEERS})
        rows = [
            (f"{card} {memory}, {units.format_bytes(size)}", partial(link.row, way, size))
            for size in (*(it for it in HOST_SIZES if it < largest_bytes), largest_bytes)
            for way in WAYS
            if not (way == "both" and memory == "pageable" and size < THREADS_PAY_FROM)
        ]
        make = partial(host_buffers, cards, index, memory == "pinned", largest_bytes)
        groups.append(Group(f"{card} {memory}", cpus, make, rows, 6 * largest_bytes))

    def own(buffers: Sequence[torch.Tensor], budget: Budget) -> Transfer:
        warm = largest_bytes < TIMES_THE_CACHE * cards.cache_bytes(index)
        return inside(card, buffers, cards.clock([index]), budget, enqueued, cards.stream(index), warm=warm)

    operations: tuple[Operation, ...] = ("copy", "triad")
    for operation in operations:
        label = f"{operation} in {card}"
        make_own = partial(inside_buffers, operation, largest_bytes, partial(cards.memory, index))
        groups.append(Group(label, NOT_HOST, make_own, [(label, own)], 4 * largest_bytes))
    return groups


def plan_peers(
    cards: Cards, indices: Sequence[int], peer_access: bool, largest_bytes: int
) -> tuple[list[Group], list[str]]:
    """Every pair of these GPUs, and in words the pairs that cannot be had."""
    groups, refused = [], []
    copy = cards.peer_copy(1 + max(indices), peer_access)
    for one, other in itertools.combinations(indices, 2):
        label = f"cuda:{one} and cuda:{other}"
        if peer_access and not (cards.may_access(one, other) and cards.may_access(other, one)):
            refused.append(f"{label}: the driver does not allow them peer access")
            continue
        facts = {"host_memory": NOT_HOST, "peer_access": peer_access}
        link = Link(f"cuda:{one}", f"cuda:{other}", copy, cards.clock([one, other]), facts)

        def lane(here: int, there: int, seed: int) -> OneWay:
            """A copy runs on a stream of the card that it comes from."""
            source, destination, expected = (
                cards.memory(card, largest_bytes // VALUE_BYTES, torch.int64) for card in (here, there, there)
            )
            return OneWay(fill(source, seed), destination, fill(expected, seed), cards.stream(here))

        def make(one: int = one, other: int = other) -> dict[Way, OneWay]:
            return {"there": lane(one, other, 21), "back": lane(other, one, 22)}

        rows = [
            (f"{label}, {units.format_bytes(size)}", partial(link.row, way, size))
            for size in (*(it for it in PEER_SIZES if it < largest_bytes), largest_bytes)
            for way in WAYS
        ]
        groups.append(Group(label, NOT_HOST, make, rows, 6 * largest_bytes))
    return groups, refused


def host_buffers(cards: Cards, index: int, pinned: bool, size_bytes: int) -> dict[Way, OneWay]:
    """Host memory is taken and written here, on the CPUs that the caller has chosen: it lies next to them then."""
    count = size_bytes // VALUE_BYTES
    out, back, back_expected = (cards.host_memory(index, count, pinned).zero_() for _ in range(3))
    there, there_expected, own = (cards.memory(index, count, torch.int64) for _ in range(3))
    return {
        "there": OneWay(fill(out, 11), there, fill(there_expected, 11), cards.stream(index)),
        "back": OneWay(fill(own, 12), back, fill(back_expected, 12), cards.stream(index)),
    }
