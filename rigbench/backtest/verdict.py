"""Did a prediction hold: a log's rows against a stated rate, and how often did such intervals hold so far?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from rigbench.backtest.record import Backtest, Coverage, LogFacts
from rigbench.budget.record import Rate
from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.logs.trainlog import LogRow

METHOD = 1
PAUSE_FACTOR = 10.0  # a stretch this many times slower than the usual is no training: sleep, a crash, a long evaluation
SAME_BATCH = 0.01
FEWEST_STRETCHES = 3
FEWEST_TO_WIDEN = 3
FEWEST_TO_TIGHTEN = 19  # below it no order statistic reaches 95 %: ceil(0.95·(n + 1)) > n
LEAST_FACTOR = 0.5


@dataclass(frozen=True)
class Stretch:
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
    """One log against one stated rate.

    Raises:
        RigbenchError: the log does not tell how long its steps took, or how many tokens they had (exit 2), or has too
            few steps (exit 3).
    """
    stretches, resets, clocked = _stretches(rows, tokens_per_step)
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
    actual = _rate(counted)
    tokens = math.fsum(s.tokens for s in stretches)
    wall_seconds = math.fsum(s.seconds for s in stretches)
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
            resets=resets,
            non_finite_losses=tuple(r.step for r in rows if r.loss is not None and not math.isfinite(r.loss))[:100],
            batch_changes=_batch_changes(stretches),
        ),
        predicted=predicted,
        actual_tokens_per_s=actual,
        wall_tokens_per_s=tokens / wall_seconds if clocked else Absent("the log has no clock, only times of steps"),
        error_share=actual.value / stated.value - 1,
        inside=stated.low <= actual.value <= stated.high,
        hours_predicted=_hours(tokens, stated),
        hours_actual=tokens / actual.value / 3600,
        seconds=tuple(s.seconds for s in counted),
        tokens=tuple(s.tokens for s in counted),
    )


def coverage(backtests: Sequence[Backtest]) -> Coverage:
    """Over all back-tests of one rig; of one log against one run and model only the first counts.

    Raises:
        ValueError: none was given.
    """
    distinct = list({(one.log.sha256, one.run_id, one.model): one for one in reversed(backtests)}.values())
    inside = sum(one.inside for one in distinct)
    low, high = stats.binomial_interval(inside, len(distinct))
    widen_by, why = _widening(distinct)
    return Coverage(
        backtests=len(distinct),
        inside=inside,
        low=low,
        high=high,
        stated=min(one.predicted.tokens_per_s.level for one in distinct),
        median_error_share=stats.median([one.error_share for one in distinct]),
        widen_by=widen_by,
        why=why,
    )


def of_rig(runs: Sequence[Run]) -> list[Backtest]:
    """Every back-test among a rig's runs, which are newest first; oldest first, without those made another way."""
    found = [run.backtest for run in reversed(runs)]
    return [one for one in found if isinstance(one, Backtest) and one.method == METHOD]


def corrected(rate: Rate, history: Coverage) -> Rate:
    """A rate whose interval is as wide as this rig's back-tests ask for."""
    if history.widen_by == 1.0:
        return rate
    its = rate.tokens_per_s
    low, high = (its.value * (bound / its.value) ** history.widen_by for bound in (its.low, its.high))
    line = f"half-width × {history.widen_by:.2f}: {history.why}"
    return msgspec.structs.replace(
        rate,
        tokens_per_s=msgspec.structs.replace(its, low=low, high=high),
        widened_by=(*rate.widened_by, line),
        history_factor=history.widen_by,
    )


def _widening(backtests: Sequence[Backtest]) -> tuple[float, str]:
    """The order statistic of the errors, in units of the stated half-width, that covers the next with 95 %.

    Split conformal prediction (Vovk, Gammerman and Shafer 2005, §2.2): of n exchangeable scores the next lies below
    the ceil(0.95·(n + 1))-th smallest with at least 95 %.
    """
    n = len(backtests)
    scores = sorted(_score(one) for one in backtests)
    if n < FEWEST_TO_WIDEN:
        return 1.0, f"{n} back-test{'' if n == 1 else 's'}: too few to correct an interval by"
    if n < FEWEST_TO_TIGHTEN:
        factor = max(1.0, scores[-1])
        return factor, f"the worst of {n} back-tests; {FEWEST_TO_TIGHTEN} are needed to tighten"
    factor = max(LEAST_FACTOR, scores[math.ceil(0.95 * (n + 1)) - 1])
    return factor, f"95 % of {n} back-tests lie within it"


def _score(one: Backtest) -> float:
    """The error in logarithms over the half-width on its side, as it was before earlier back-tests changed it."""
    stated, actual = one.predicted.tokens_per_s, one.actual_tokens_per_s.value
    side = math.log(stated.high / stated.value) if actual > stated.value else math.log(stated.value / stated.low)
    factor = one.predicted.history_factor or 1.0
    return abs(math.log(actual / stated.value)) / max(side / factor, 1e-6)


def _stretches(rows: Sequence[LogRow], tokens_per_step: float | None) -> tuple[list[Stretch], tuple[int, ...], bool]:
    """Between rows by the clock where there is one, else each row's own step; and where the count went back."""
    timed = [row for row in rows if (row.at_seconds, row.step_seconds, row.tokens_per_s) != (None, None, None)]
    resets = tuple(b.step for a, b in pairwise(timed) if b.step < a.step)
    clocked = sum(row.at_seconds is not None for row in rows) > len(rows) / 2
    if clocked:
        stretches = _by_clock([row for row in rows if row.at_seconds is not None], tokens_per_step)
    else:
        stretches = _by_step(rows, tokens_per_step)
    if rows and not stretches:
        _refuse(rows, tokens_per_step)
    return stretches, resets, clocked


def _by_clock(rows: Sequence[LogRow], tokens_per_step: float | None) -> list[Stretch]:
    found = []
    for a, b in pairwise(rows):
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
            found.append(Stretch(b.step, seconds, tokens, steps))
    return found


def _by_step(rows: Sequence[LogRow], tokens_per_step: float | None) -> list[Stretch]:
    found = []
    for row in rows:
        seconds, tokens = row.step_seconds, tokens_per_step
        if tokens is None and row.tokens_per_s is not None and seconds is not None:
            tokens = row.tokens_per_s * seconds
        if seconds is None and row.tokens_per_s and tokens is not None:
            seconds = tokens / row.tokens_per_s
        if seconds and tokens:
            found.append(Stretch(row.step, seconds, tokens, 1))
    return found


def _refuse(rows: Sequence[LogRow], tokens_per_step: float | None) -> None:
    timed = any(row.step_seconds is not None or row.at_seconds is not None for row in rows)
    if not timed:
        raise RigbenchError("the log does not tell how long its steps took", "name the column or group of the time")
    if tokens_per_step is None:
        raise RigbenchError("the log does not tell how many tokens a step has", "give --tokens-per-step N")


def _rate(stretches: Sequence[Stretch]) -> Estimate:
    """Total tokens over total seconds; its interval from stretches brought to equal tokens."""
    tokens = math.fsum(s.tokens for s in stretches)
    mean = tokens / len(stretches)
    spread = stats.rate_estimate(mean, [s.seconds / s.tokens * mean for s in stretches])
    value = tokens / math.fsum(s.seconds for s in stretches)
    scale = value / spread.value
    return msgspec.structs.replace(spread, value=value, low=spread.low * scale, high=spread.high * scale)


def _hours(tokens: float, rate: Estimate) -> Estimate:
    return msgspec.structs.replace(
        rate,
        value=tokens / rate.value / 3600,
        low=tokens / rate.high / 3600,
        high=tokens / rate.low / 3600,
        method="tokens of the log over predicted tokens/s",
    )


def _batch_changes(stretches: Sequence[Stretch]) -> tuple[tuple[int, float], ...]:
    changes = []
    before = stretches[0].tokens / stretches[0].steps
    for stretch in stretches[1:]:
        now = stretch.tokens / stretch.steps
        if abs(now / before - 1) > SAME_BATCH:
            changes.append((stretch.step, now))
            before = now
    return tuple(changes[:100])
