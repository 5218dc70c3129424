"""How is one transfer timed, and how is it known that every byte arrived?

Each destination is cleared before a sample and afterwards compared, by the device that holds it, with what that device
itself worked out should be there. The checks are outside the timed part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rigbench.bandwidth.record import CopyCheck, Transfer
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.machine.cuda_cards import Clock, Lane
from rigbench.work.timing import sample_until_tight

if TYPE_CHECKING:
    import torch

VALUE_BYTES, FLOAT_BYTES = 8, 4
# Patterns are made in pieces that stay in a cache: 256 KiB on a CPU, 32 MiB where a launch costs more than the work.
CHUNK_VALUES = {"cpu": 1 << 15, "cuda": 1 << 22}
MOST_SAMPLES = 200  # every one is stored, and there may be hundreds of rows
# Odd constants whose bits look random, as signed 64-bit values: 2^64 over the golden ratio (Knuth, The Art of Computer
# Programming 3, §6.4) and the second multiplier of splitmix64 (Steele, Lea and Flood 2014).
STEP, SEED_STEP = 0x9E3779B97F4A7C15 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
TRIAD_FACTOR = 3
TRIAD_SHIFT = 44  # leaves 20 bits of a pattern: b + 3·c is then exact in fp32


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
    """Rows that share buffers, made once, on the CPUs that the host's part of them should lie next to."""

    label: str
    cpus: str | Absent
    make: Callable[[], Any]
    rows: Sequence[tuple[str, Callable[[Any, Budget], Transfer]]]


class Verdict:
    """What the checks of one row found so far."""

    def __init__(self) -> None:
        self.checked = self.wrong = self.wrong_values = 0
        self.first_wrong_byte: int | Absent = Absent("every value was right")

    def check(self, move: Move) -> None:
        """Read the destination back."""
        import torch

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

    def sample(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            for move in moves:
                move.destination.zero_()
            seconds.append(clock(lanes))
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
    )
    return Transfer(
        **facts,
        counted_bytes=counted_bytes,
        clock=clock.name,
        timing=timing,
        bytes_per_s=_rate(timing.estimate, counted_bytes),
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
    import torch

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


def _rate(seconds: Estimate, counted_bytes: int) -> Estimate:
    """Bytes over time: the ends of the interval change places."""
    return Estimate(
        value=counted_bytes / seconds.value,
        low=counted_bytes / seconds.high,
        high=counted_bytes / seconds.low,
        level=seconds.level,
        method=seconds.method,
        n=seconds.n,
    )
