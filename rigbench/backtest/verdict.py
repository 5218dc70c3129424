"""Compares a log's rows with a stated rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from rigbench.backtest.record import METHOD, Backtest, LogFacts
from rigbench.budget.record import Rate
from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.logs.trainlog import LogRow

PAUSE_FACTOR = 10.0  # a stretch this many times slower than the usual is no training: sleep, a crash, a long evaluation
SAME_BATCH = 0.01
FEWEST_STRETCHES = 3
MOST_NAMED = 100


class Stretch(NamedTuple):
    """From one logged step to the next, or one step whose own time was logged."""

    step: int
    seconds: float
    tokens: float
    steps: int


def compare(
    run_id: str,
    model: str,
    predicted: Rate,
    rows: Sequence[LogRow],
    log: LogFacts,
    tokens_per_step: float | None,
    started_at: str,
) -> Backtest:
    """One log against one stated rate."""
    clocked = sum(row.at_seconds is not None for row in rows) > len(rows) / 2
    stretches = (_by_clock if clocked else _by_step)(rows, tokens_per_step)
    if rows and not stretches:
        if not any(row.step_seconds is not None or row.at_seconds is not None for row in rows):
            raise RigbenchError("the log does not tell how long its steps took", "name the column or group of the time")
        if tokens_per_step is None:
            raise RigbenchError("the log does not tell how many tokens a step has", "give --tokens-per-step N")
    if len(stretches) < FEWEST_STRETCHES + 1:
        raise RigbenchError(
            f"{log.name} has {len(stretches)} usable stretches between steps; {FEWEST_STRETCHES + 1} are needed",
            "give a longer log",
            exit_code=NOTHING,
        )
    usual = stats.median([stretch.seconds / stretch.steps for stretch in stretches])
    pauses = [s for s in stretches if s.seconds / s.steps > PAUSE_FACTOR * usual]
    counted = [s for s in stretches[1:] if s not in pauses]  # the first holds compilation and first allocations
    if len(counted) < FEWEST_STRETCHES:
        raise RigbenchError(f"{log.name} is mostly pauses", "give a log of steady training", exit_code=NOTHING)
    # Total tokens over total seconds; the interval from stretches brought to equal tokens.
    mean = math.fsum(s.tokens for s in counted) / len(counted)
    spread = stats.rate_estimate(mean, [s.seconds / s.tokens * mean for s in counted])
    total = math.fsum(s.tokens for s in counted) / math.fsum(s.seconds for s in counted)
    actual = spread * (total / spread.value)
    bad_losses = tuple(row.step for row in rows if row.loss is not None and not math.isfinite(row.loss))
    timed = [row for row in rows if (row.at_seconds, row.step_seconds, row.tokens_per_s) != (None, None, None)]
    tokens, wall_seconds = math.fsum(s.tokens for s in stretches), math.fsum(s.seconds for s in stretches)
    stated = predicted.tokens_per_s
    return Backtest(
        method=METHOD,
        started_at=started_at,
        run_id=run_id,
        model=model,
        log=msgspec.structs.replace(
            log,
            rows=len(rows),
            pauses=tuple((s.step, s.seconds) for s in pauses),
            resets=tuple(b.step for a, b in pairwise(timed) if b.step < a.step),
            non_finite_losses=bad_losses[:MOST_NAMED],
            batch_changes=_batch_changes(stretches)[:MOST_NAMED],
        ),
        predicted=predicted,
        actual_tokens_per_s=actual,
        wall_tokens_per_s=tokens / wall_seconds if clocked else Absent("the log has no clock, only times of steps"),
        error_share=actual.value / stated.value - 1,
        inside=stated.low <= actual.value <= stated.high,
        hours_predicted=tokens / stated / 3600,
        hours_actual=tokens / actual.value / 3600,
        seconds=tuple(s.seconds for s in counted),
        tokens=tuple(s.tokens for s in counted),
    )


def _by_clock(rows: Sequence[LogRow], tokens_per_step: float | None) -> list[Stretch]:
    """Between rows that tell the time."""
    stretches = []
    for a, b in pairwise(row for row in rows if row.at_seconds is not None):
        assert a.at_seconds is not None
        assert b.at_seconds is not None
        steps, seconds = b.step - a.step, b.at_seconds - a.at_seconds
        if steps <= 0 or seconds <= 0:
            continue  # a restart, or a clock that was set
        tokens = b.tokens - a.tokens if a.tokens is not None and b.tokens is not None else None
        if tokens is None and tokens_per_step is not None:
            tokens = tokens_per_step * steps
        if tokens is None and b.tokens_per_s is not None:
            tokens = b.tokens_per_s * seconds
        if tokens is not None and tokens > 0:
            stretches.append(Stretch(b.step, seconds, tokens, steps))
    return stretches


def _by_step(rows: Sequence[LogRow], tokens_per_step: float | None) -> list[Stretch]:
    """Each row's own step."""
    stretches = []
    for row in rows:
        seconds, tokens = row.step_seconds, tokens_per_step
        if tokens is None and row.tokens_per_s is not None and seconds is not None:
            tokens = row.tokens_per_s * seconds
        if seconds is None and row.tokens_per_s and tokens is not None:
            seconds = tokens / row.tokens_per_s
        if seconds and tokens:
            stretches.append(Stretch(row.step, seconds, tokens, 1))
    return stretches


def _batch_changes(stretches: Sequence[Stretch]) -> tuple[tuple[int, float], ...]:
    changes = []
    before = stretches[0].tokens / stretches[0].steps
    for stretch in stretches[1:]:
        now = stretch.tokens / stretch.steps
        if abs(now / before - 1) > SAME_BATCH:
            changes.append((stretch.step, now))
            before = now
    return tuple(changes)
