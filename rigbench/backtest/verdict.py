"""Compares a log's rows with a stated rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from rigbench.backtest.record import METHOD, Backtest, Cause, LogFacts, Reach
from rigbench.budget.record import Rate
from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Absent
from rigbench.logs import stretches
from rigbench.logs.stretches import Reading, Stretch

SAME_BATCH = 0.01
MOST_NAMED = 100


def compare(
    run_id: str,
    model: str,
    predicted: Rate,
    reading: Reading,
    log: LogFacts,
    started_at: str,
    cards: int = 1,
    rig: str = "",
) -> Backtest:
    """One log against one stated rate, of so many cards; `rig` is the hardware that the prediction named."""
    if reading.of_one_device and cards > 1:
        raise RigbenchError(
            f"{log.name} reports the tokens of one device, and the prediction is for {cards}",
            "give --tokens-per-step N, the tokens of all devices",
        )
    rows = reading.rows
    parts = stretches.between_rows(reading)
    measured = stretches.steady(parts, log.name)
    actual = measured.rate
    bad_losses = tuple(row.step for row in rows if row.loss is not None and not math.isfinite(row.loss))
    timed = [row for row in rows if (row.at_seconds, row.step_seconds, row.tokens_per_s) != (None, None, None)]
    clocked = stretches.by_clock(reading)
    whole = math.fsum(s.tokens for s in clocked), math.fsum(s.seconds for s in clocked)
    only_rates = not any(row.step_seconds is not None or row.at_seconds is not None for row in rows)
    tokens = math.fsum(s.tokens for s in parts)
    counted = any(row.tokens is not None for row in rows)  # and no product of a rate and a time, both rounded
    stated = predicted.tokens_per_s
    untold = Absent("the log has no times, only rates")
    return Backtest(
        method=METHOD,
        started_at=started_at,
        run_id=run_id,
        model=model,
        log=msgspec.structs.replace(
            log,
            rows=len(rows),
            pauses=tuple((s.step, s.seconds) for s in measured.pauses),
            resets=tuple(b.step for a, b in pairwise(timed) if b.step < a.step)[:MOST_NAMED],
            non_finite_losses=bad_losses[:MOST_NAMED],
            batch_changes=_batch_changes(parts)[:MOST_NAMED] if counted else (),
            reading=reading.said,
            warmup=measured.warmup,
            breaks=measured.breaks,
            breaks_within=measured.breaks_within,
            jumps=measured.jumps,
        ),
        predicted=predicted,
        actual_tokens_per_s=actual,
        wall_tokens_per_s=whole[0] / whole[1] if whole[1] else Absent("the log has no clock, only times of steps"),
        error_share=actual.value / stated.value - 1,
        inside=stated.low <= actual.value <= stated.high,
        hours_predicted=untold if only_rates else tokens / stated / 3600,
        hours_actual=untold if only_rates else tokens / actual.value / 3600,
        seconds=tuple(s.seconds for s in measured.counted),
        tokens=tuple(s.tokens for s in measured.counted),
        rig=rig,
    )


def reach(
    rig: RigProfile,
    model: str,
    recipe: str,
    expected: Rate,
    variants: Callable[[], Sequence[Cause]],
    reading: Reading,
    log: LogFacts,
    started_at: str,
) -> Reach:
    """A log's rate beside the rate predicted for a rig; `variants` predicts the same done otherwise."""
    parts = stretches.between_rows(reading)
    try:
        actual = stretches.steady(parts, log.name).rate
    except RigbenchError:  # a pasted line or a few
        if not parts or len(parts) > stretches.FEWEST_STRETCHES:
            raise
        mean = math.fsum(s.tokens for s in parts) / len(parts)
        actual = stats.rate_estimate(mean, [s.seconds / s.tokens * mean for s in parts])
    said = reading.said
    if reading.of_one_device and rig.count > 1:
        actual = actual * float(rig.count)
        said += (f"of {rig.count} such devices, as {rig.name} has",)
    stated = expected.tokens_per_s
    share = actual.value / stated.value
    inside = stated.low <= actual.value <= stated.high
    causes = [] if inside or share > 1 else variants()
    causes = [it for it in causes if it.tokens_per_s.low <= actual.value <= it.tokens_per_s.high]
    return Reach(
        method=METHOD,
        started_at=started_at,
        rig=rig.name,
        cards=rig.count,
        model=model,
        recipe=recipe,
        log=msgspec.structs.replace(log, rows=len(reading.rows), reading=said),
        expected=expected,
        actual_tokens_per_s=actual,
        share=share,
        causes=tuple(sorted(causes, key=lambda it: abs(math.log(it.tokens_per_s.value / actual.value)))),
        hints=() if inside else _hints(share, stated, 1 if reading.of_one_device else rig.count),
    )


def _hints(share: float, stated: Estimate, cards: int) -> tuple[str, ...]:
    """What a factor that no way of training explains usually is, by whether a whole number stands in it."""
    hints = []
    if share > 1:
        whole = [n for n in range(2, 17) if stated.low * n <= share * stated.value <= stated.high * n]
        if whole:
            hints.append(f"as fast as {_numbers(whole)} of these rigs: is the log of more cards than --on names?")
        hints.append("faster than predicted: fewer parameters, a shorter sequence, or tokens a step counted too high?")
        return tuple(hints)
    if cards > 1 and stated.low <= cards * share * stated.value <= stated.high:
        hints.append(f"the rate of one card, of which there are {cards}")
    hints.append("a micro-batch's tokens, or one card's, counted as the whole step's")
    hints.append("data that does not keep up (rigbench dataloader), heat or a power cap (rigbench monitor beside it)")
    return tuple(hints)


def _numbers(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _batch_changes(stretches: Sequence[Stretch]) -> tuple[tuple[int, float], ...]:
    changes = []
    before = stretches[0].tokens / stretches[0].steps
    for stretch in stretches[1:]:
        now = stretch.tokens / stretch.steps
        if abs(now / before - 1) > SAME_BATCH:
            changes.append((stretch.step, now))
            before = now
    return tuple(changes)
