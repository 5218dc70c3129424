"""Does a loop's memory fit into so much room, and how much more fits? Answers that only grow with the room."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property

from rigbench.predict import allocator
from rigbench.predict.allocator import OutOfMemory, Peaks
from rigbench.predict.record import Target
from rigbench.predict.script import Script

ROOM_STEP_BYTES = 32 << 20  # how finely the least room that a step needs is told
# What a CPU process holds at its peak, as a multiple of what is live: glibc's heap keeps freed blocks and fits new ones
# badly between them. Three slices (5M and 15M, micro-batch 4 and 8, fp32 and bf16) held 1.5, 1.6 and 2.0 times.
HOST_HELD = (1.0, 1.7, 2.0)
MOST_WASTE = 2  # no loop's reserved memory comes near twice what is live: that much room needs no replay


class Case:
    """One loop's allocations on a target: its peaks, worked out when first asked for."""

    def __init__(self, script: Script, target: Target) -> None:
        self.script, self.on_gpu = script, target.kind == "cuda"
        # The allocator rounds too little to need less than what is live; the bounds of the least room that suffices.
        self._too_little, self._enough = self.live.allocated_bytes - 1, -1

    @cached_property
    def live(self) -> Peaks:
        return _live_peak(self.script)

    @cached_property
    def unlimited(self) -> Peaks:
        """With as much room as it likes: through the allocator on a GPU, by the usual share on a CPU."""
        if self.on_gpu:
            return allocator.replay(self.script.sizes, self.script.events)
        return self.live._replace(reserved_bytes=round(HOST_HELD[2] * self.live.allocated_bytes))

    def fits(self, room: int) -> bool:
        """Whether it runs in so much room. What counts is the least room in which it was found to run, searched on a
        path that does not depend on `room`: so more room never fits less."""
        live = self.live.allocated_bytes
        if room < live:
            return False
        return room >= MOST_WASTE * live or room >= self._narrowed(room)

    def needed_bytes(self) -> int:
        """The least room in which it was found to run, to 32 MiB."""
        return self._narrowed(None)

    def short(self, room: int) -> int:
        """The bytes that are missing, 0 where it fits."""
        return 0 if self.fits(room) else max(1, self.needed_bytes() - room)

    def peaks(self, room: int) -> Peaks:
        """In so much room, in which it fits, or with as much as it likes."""
        if not self.fits(room) or room >= self.unlimited.reserved_bytes:
            return self.unlimited
        for limit in (room, self._enough):
            with contextlib.suppress(OutOfMemory):
                return allocator.replay(self.script.sizes, self.script.events, limit)
        return self.unlimited

    def _narrowed(self, room: int | None) -> int:
        """The least room known to be enough, searched until it is told from `room`."""
        if self._enough < 0:
            self._enough = self.unlimited.reserved_bytes
        while self.on_gpu and self._enough - self._too_little > ROOM_STEP_BYTES:
            if room is not None and not self._too_little < room < self._enough:
                break
            middle = (self._enough + self._too_little) // 2
            try:
                allocator.replay(self.script.sizes, self.script.events, middle)
            except OutOfMemory:
                self._too_little = middle
            else:
                self._enough = middle
        return self._enough


def most(fits: Callable[[int], bool], limit: int, start: int = 1) -> int:
    """The largest n up to `limit` that fits, 0 where none does: doubled from `start` until it does not, then halved.

    The path is the same for every card as far as its answers are, so one that fits more at each n gets no less.
    """
    start = min(start, limit)
    low, high = (start, 2 * start) if fits(start) else (0, start)
    while start <= low < high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _live_peak(script: Script) -> Peaks:
    live = peak = peak_at = 0
    for position, event in enumerate(script.events):
        live += script.sizes[event] if event >= 0 else -script.sizes[~event]
        if live > peak:
            peak, peak_at = live, position
    return Peaks(peak, peak, 0, peak_at)
