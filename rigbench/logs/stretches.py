"""Stretches of training between a log's rows: their seconds, their tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate

COARSE = 20  # a stretch lasts at least as many times what the clock's last digit stands for
TOO_COARSE = 40  # and the log as many times
PAUSE_FACTOR = 10.0  # a stretch this many times slower than the usual is no training: sleep, a crash, a long evaluation
WARM = 1.5  # times the usual: above it, stretches at the start still compile or warm up
TWO_RUNS = 1.2  # times as fast before a restart as behind it: no run that went on, but another
JUMP_FACTOR = 3.0  # a stretch this many times faster than the usual was not trained: a resumed run's count jumped
FEWEST_STRETCHES = 3


class LogRow(NamedTuple):
    """One logged step; None is what the log does not say."""

    step: int
    at_seconds: float | None = None  # a clock of any origin
    step_seconds: float | None = None  # a step's time at this row: its own, or the mean since the row before
    tokens: float | None = None  # all seen so far
    tokens_per_s: float | None = None
    loss: float | None = None  # NaN or infinite where it was
    after_break: bool = False  # an evaluation, a checkpoint or the like stands before it


class Stretch(NamedTuple):
    """From one logged step to the next."""

    step: int  # at its end
    seconds: float
    tokens: float
    steps: int
    after_break: bool = False


class Reading(NamedTuple):
    """A log as it is understood. `said` tells how, for people."""

    format: str
    rows: Sequence[LogRow]
    tokens_per_step: float | None
    resolution_seconds: float = 0.0
    said: tuple[str, ...] = ()
    of_one_device: bool = False  # the rate is that of one device, and how many there were is not known
    parameters: int | None = None  # of the model, where the log says it
    in_doubt: str = ""  # a second way to read its rate, which nothing in it excludes


def between_rows(reading: Reading) -> list[Stretch]:
    """Training between rows: from each row's own time, else from the clock, else from rates alone (a second each)."""
    rows = reading.rows
    owning = sum(row.step_seconds is not None for row in rows)
    clocked = sum(row.at_seconds is not None for row in rows)
    told = (row.tokens is not None or row.tokens_per_s is not None for row in rows)
    if reading.tokens_per_step is None and rows and not any(told) and (owning or clocked):
        raise RigbenchError("the log does not say how many tokens a step has", "give --tokens-per-step N")
    if owning >= max(1, len(rows) / 2):
        return _by_own_time(reading)
    if clocked > len(rows) / 2:
        made = by_clock(reading)
        if not made and reading.resolution_seconds >= 1:
            what = "the log's clock shows whole seconds, and too few pass for a rate"
            raise RigbenchError(what, "give a longer log", NOTHING)
        return made
    if owning:
        return _by_own_time(reading)
    if rows and not any(row.tokens_per_s for row in rows):
        raise RigbenchError("the log does not say how long its steps took", "name the column or group of the time")
    gaps = _gaps(rows)
    return [
        Stretch(row.step, float(gap), row.tokens_per_s * gap, gap, row.after_break)
        for row, gap in zip(rows, gaps, strict=True)
        if row.tokens_per_s and gap > 0
    ]


def _gaps(rows: Sequence[LogRow]) -> list[int]:
    """Steps that each row stands for: since the row before; the first, and the first after a restart, for the usual."""
    gaps = [b.step - a.step for a, b in pairwise(rows)]
    ups = [gap for gap in gaps if gap > 0]
    usual = round(stats.median([float(gap) for gap in ups])) if ups else 1
    return [max(1, min(usual, rows[0].step + 1)), *(gap if gap > 0 else usual for gap in gaps)] if rows else []


def _by_own_time(reading: Reading) -> list[Stretch]:
    made = []
    before: LogRow | None = None
    for row, steps in zip(reading.rows, _gaps(reading.rows), strict=True):
        if row.step_seconds:
            tokens = _between(before, row, steps, row.step_seconds * steps, reading.tokens_per_step)
            if tokens:
                made.append(Stretch(row.step, row.step_seconds * steps, tokens, steps, row.after_break))
        before = row
    return made


def by_clock(reading: Reading) -> list[Stretch]:
    """Between rows that tell the time, as many together as the clock needs to tell them apart."""
    rows = [row for row in reading.rows if row.at_seconds is not None]
    runs: list[list[LogRow]] = [[]]
    for row in rows:  # a restart, or a clock that was set, ends a run
        last = runs[-1][-1] if runs[-1] else None
        if last is not None and (row.step <= last.step or _at(row) < _at(last)):
            runs.append([])
        runs[-1].append(row)
    span = math.fsum(_at(run[-1]) - _at(run[0]) for run in runs if run)
    if rows and span < TOO_COARSE * reading.resolution_seconds:
        return []
    least = min(COARSE * reading.resolution_seconds, max(span / 12, 4 * reading.resolution_seconds))
    breaks = sum(row.after_break for row in rows)
    fine = not breaks or span / (breaks + 1) > COARSE * reading.resolution_seconds  # breaks can be told apart
    made: list[Stretch] = []
    for run in runs:
        start, broken = 0, False
        for end in range(1, len(run)):
            row = run[end]
            if row.after_break and fine and end - 1 > start and (it := _stretch(run[start], run[end - 1], reading)):
                made.append(it)
                start = end - 1
            broken |= row.after_break
            enough = end == len(run) - 1 or (row.after_break and fine) or _at(row) - _at(run[start]) >= 0.999 * least
            if enough and (it := _stretch(run[start], row, reading)):
                made.append(it._replace(after_break=broken))
                start, broken = end, False
    return made


def _stretch(a: LogRow, b: LogRow, reading: Reading) -> Stretch | None:
    """None where no time passed that the clock could tell."""
    steps, seconds = b.step - a.step, _at(b) - _at(a)
    tokens = _between(a, b, steps, seconds, reading.tokens_per_step) if seconds > 0 else None
    return Stretch(b.step, seconds, tokens, steps) if tokens else None


def _at(row: LogRow) -> float:
    return row.at_seconds if row.at_seconds is not None else math.nan


def _between(a: LogRow | None, b: LogRow, steps: int, seconds: float, per_step: float | None) -> float | None:
    if a is not None and a.tokens is not None and b.tokens is not None and b.tokens > a.tokens:
        return b.tokens - a.tokens
    if per_step is not None:
        return per_step * steps
    return b.tokens_per_s * seconds if b.tokens_per_s else None


class Steady(NamedTuple):
    """The rate of steady training, and what was left out of it."""

    rate: Estimate
    counted: list[Stretch]
    pauses: list[Stretch]
    jumps: int
    warmup: int
    breaks: int
    breaks_within: int


def _refuse_two_runs(parts: Sequence[Stretch], name: str) -> None:
    """Where the step count goes back another run begins, which may be of another machine."""
    runs: list[list[float]] = [[]]
    for before, part in zip([None, *parts], parts, strict=False):
        if before is not None and part.step < before.step:
            runs.append([])
        runs[-1].append(part.tokens / part.seconds)
    rates = [stats.median(run) for run in runs if len(run) > 2 * FEWEST_STRETCHES]
    if rates and max(rates) > TWO_RUNS * min(rates):
        slow, fast = units.format_rate(min(rates)), units.format_rate(max(rates))
        raise RigbenchError(
            f"{name} goes back in its steps, and trains at {slow} and at {fast}: two runs in one log",
            "hand back one's lines", NOTHING,
        )  # fmt: skip


def steady(parts: Sequence[Stretch], name: str) -> Steady:
    """Total tokens over total seconds of a log's stretches without its start, its pauses and its evaluations."""
    if len(parts) < FEWEST_STRETCHES + 1:
        raise RigbenchError(
            f"{name} has {len(parts)} usable stretches between steps; {FEWEST_STRETCHES + 1} are needed",
            "give a longer log",
            exit_code=NOTHING,
        )
    _refuse_two_runs(parts, name)
    usual = stats.median([s.seconds / s.tokens for s in parts])  # a token's, since batches may grow
    pauses = [s for s in parts if s.seconds / s.tokens > PAUSE_FACTOR * usual]
    jumps = [s for s in parts if s.seconds / s.tokens < usual / JUMP_FACTOR]
    odd = {*pauses, *jumps}
    rest = [s for s in parts[1:] if s not in odd]  # the first holds compilation and first allocations
    warmup = next((i for i, s in enumerate(rest) if s.seconds / s.tokens < WARM * usual), 0)
    warmup = min(warmup, len(rest) // 3)
    plain = [s for s in rest[warmup:] if not s.after_break]
    counted = plain if len(plain) >= FEWEST_STRETCHES and 3 * len(plain) >= len(rest) else rest[warmup:]
    if len(counted) < FEWEST_STRETCHES:
        raise RigbenchError(f"{name} is mostly pauses", "give a log of steady training", exit_code=NOTHING)
    # The interval from stretches brought to equal tokens.
    mean = math.fsum(s.tokens for s in counted) / len(counted)
    spread = stats.rate_estimate(mean, [s.seconds / s.tokens * mean for s in counted])
    total = math.fsum(s.tokens for s in counted) / math.fsum(s.seconds for s in counted)
    breaks, within = len(rest) - warmup - len(counted), sum(s.after_break for s in counted)
    return Steady(spread * (total / spread.value), counted, pauses, len(jumps), warmup, breaks, within)
