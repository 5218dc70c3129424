"""Replays allocations by the default rules of torch's CUDA allocator, for the memory that it reserves.

The constants and rules are those of torch's CUDACachingAllocator with default settings (c10/core/AllocatorConfig.h):
sizes rounded to 512 B; requests up to 1 MiB are cut from 2 MiB segments, those below 10 MiB from 20 MiB segments, and
larger ones get a segment of their own size in steps of 2 MiB; the best fitting free block is taken and split, of equal
ones that at the lowest address, a freed block merges with its free neighbours, and cached segments go back to the
driver only when memory runs out. The driver places each new segment below those before it, as the peaks of 20 loops on
an H200 under driver 580 tell: going upwards, those of 5 would be off, by up to 4 %.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

MIB = 1 << 20
ROUNDING = 512
SMALL_REQUEST = MIB  # at most this comes from the small pool
SMALL_SEGMENT = 2 * MIB
LARGE_REQUEST = 10 * MIB  # below this a large request shares a segment
LARGE_SEGMENT = 20 * MIB
SEGMENT_STEP = 2 * MIB


class OutOfMemory(Exception):
    """A request that did not fit after every cached segment had been released."""

    def __init__(self, wanted_bytes: int, allocated_bytes: int, reserved_bytes: int) -> None:
        super().__init__(f"{wanted_bytes:,} B wanted, {allocated_bytes:,} allocated, {reserved_bytes:,} reserved")
        self.wanted_bytes, self.allocated_bytes, self.reserved_bytes = wanted_bytes, allocated_bytes, reserved_bytes


class Peaks(NamedTuple):
    """What `torch.cuda.max_memory_allocated`, `max_memory_reserved` and `num_alloc_retries` would say.

    `peak_at` is the index of the event at which the allocated peak was first reached.
    """

    allocated_bytes: int
    reserved_bytes: int
    retries: int
    peak_at: int


class Block:
    """A piece of a segment, between its neighbours."""

    __slots__ = ("address", "following", "previous", "size", "small", "used")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address, self.size, self.small, self.used = address, size, small, False
        self.previous: Block | None = None
        self.following: Block | None = None


Free = tuple[int, int, Block]  # best fit is the smallest size, then the lowest address


class Allocator:
    """One device's caching allocator. `capacity_bytes` is what the driver would give it in all; None: any amount."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = self.reserved_bytes = 0
        self.peak_allocated_bytes = self.peak_reserved_bytes = self.retries = 0
        self._free: tuple[list[Free], list[Free]] = ([], [])  # large blocks, small blocks
        self._lowest_address = 0

    def allocate(self, size_bytes: int) -> Block:
        """
        Raises:
            OutOfMemory: also after releasing what was cached.
        """
        size = -(-size_bytes // ROUNDING) * ROUNDING or ROUNDING
        small = size <= SMALL_REQUEST
        free = self._free[small]
        index = bisect_left(free, (size,))
        block = free.pop(index)[2] if index < len(free) else self._segment(size, small)
        rest = block.size - size
        if rest >= ROUNDING if small else rest > SMALL_REQUEST:
            self._split(block, size)
        block.used = True
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block

    def release(self, block: Block) -> None:
        """Give a block back to the cache, merged with its free neighbours."""
        block.used = False
        self.allocated_bytes -= block.size
        for neighbour in (block.previous, block.following):
            if neighbour is not None and not neighbour.used:
                self._forget(neighbour)
                block = _merged(block, neighbour)
        self._remember(block)

    def _segment(self, size: int, small: bool) -> Block:
        segment = segment_bytes(size)
        if self.capacity_bytes is not None and self.reserved_bytes + segment > self.capacity_bytes:
            self.retries += 1
            self._release_cached()
            if self.reserved_bytes + segment > self.capacity_bytes:
                raise OutOfMemory(size, self.allocated_bytes, self.reserved_bytes)
        self.reserved_bytes += segment
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        self._lowest_address -= segment
        return Block(self._lowest_address, segment, small)

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.small)
        rest.previous, rest.following = block, block.following
        if rest.following is not None:
            rest.following.previous = rest
        block.following, block.size = rest, size
        self._remember(rest)

    def _release_cached(self) -> None:
        for free in self._free:
            pieces = [entry for entry in free if entry[2].previous is not None or entry[2].following is not None]
            self.reserved_bytes -= sum(size for size, _, _ in free) - sum(size for size, _, _ in pieces)
            free[:] = pieces

    def _remember(self, block: Block) -> None:
        insort(self._free[block.small], (block.size, block.address, block))

    def _forget(self, block: Block) -> None:
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.address))]


def segment_bytes(size: int) -> int:
    """What is asked of the driver for a request of `size` bytes (already rounded)."""
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < LARGE_REQUEST else -(-size // SEGMENT_STEP) * SEGMENT_STEP


def replay(sizes: Sequence[int], events: Sequence[int], capacity_bytes: int | None = None) -> Peaks:
    """The peaks of a sequence of events: `n` allocates storage n of `sizes[n]` bytes, `~n` frees it.

    Raises:
        OutOfMemory: it does not fit into `capacity_bytes`.
    """
    allocator = Allocator(capacity_bytes)
    live: dict[int, Block] = {}
    peak = peak_at = 0
    for position, event in enumerate(events):
        if event < 0:
            allocator.release(live.pop(~event))
            continue
        live[event] = allocator.allocate(sizes[event])
        if allocator.allocated_bytes > peak:
            peak, peak_at = allocator.allocated_bytes, position
    return Peaks(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes, allocator.retries, peak_at)


def live_at(events: Sequence[int], position: int) -> set[int]:
    """The storages that are live right after the event at `position`."""
    live = set[int]()
    for event in events[: position + 1]:
        if event < 0:
            live.remove(~event)
        else:
            live.add(event)
    return live


def _merged(block: Block, neighbour: Block) -> Block:
    first, second = (neighbour, block) if neighbour.address < block.address else (block, neighbour)
    first.size += second.size
    first.following = second.following
    if second.following is not None:
        second.following.previous = first
    first.used = False
    return first
