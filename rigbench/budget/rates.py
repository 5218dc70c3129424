"""Tokens per second of a model on a rig, from its slices and those of other sizes, corrected by back-tests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from rigbench.backtest.record import METHOD as BACKTEST_METHOD
from rigbench.backtest.record import Backtest, Coverage
from rigbench.budget.record import Rate
from rigbench.budget.slices import Chosen, family, mean_log_rate, trains
from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.index import Entry
from rigbench.model.record import Model
from rigbench.train.record import FEWEST_STEPS, StoredSlice

# All widths below are half-widths of a 90 % interval in natural logarithms: 0.05 is about ±5 %.

# What one process cannot know of the next: memory layout, neighbours, clocks. Within a steady window a neighbour
# costs up to 40 % of a step and batch means show it; between processes on a quiet machine a few per cent remain.
ASSUMED_BETWEEN_PROCESSES = 0.05
FEWEST_RUNS_FOR_A_SPREAD = 3
ASSUMED_WITHIN_ONE_STEP = 0.30  # a slice too short for an interval: single steps sit 10 to 30 % off (METHODS.md)

# Between measured sizes the efficiency is not a straight line, however well three points happen to lie on one. Sizes of
# the series tiny left out between their neighbours, on two CPUs: 3 to 17 % off, five of six within 15 %; with 0.8 % for
# the one size that three leave to be left out, another was 15 % off (reports/bench/2026-11-29-scaling-hours.txt).
INTERPOLATION_ERROR = 0.15

# Beyond the measured sizes the nearest efficiency is held. It mostly rises with size, so the interval reaches further
# that way. Log change per factor of 4 in FLOP per token: -0.3 to +0.4, median 0.13, in 64 pairs of sizes from published
# GPU rows, all above 1 GFLOP per token; 0.5 on a CPU from 7M to 124M parameters; up to ln 4 = 1.39 where a small model
# on a GPU waits for launches, so that tokens/s no longer depend on size; most of that is allowed for.
BEYOND_RANGE = 0.15
AGAINST_THE_TREND_PER_FACTOR_4 = 0.25
WITH_THE_TREND_PER_FACTOR_4 = {"cpu": 0.50, "cuda": 1.00}
FURTHEST_FACTOR = 16.0

FEWEST_TO_WIDEN = 3
FEWEST_TO_TIGHTEN = 9  # below it no order statistic reaches 90 %: ceil(0.90·(n + 1)) > n
LEAST_FACTOR = 0.5


class Point(NamedTuple):
    """A measured size: effective FLOP/s at this FLOP per token, and the slices it comes from."""

    model: Model
    flops_per_s: Estimate
    rests_on: tuple[str, ...]
    widened_by: tuple[str, ...]

    @property
    def log_size(self) -> float:
        return math.log(self.model.flop_per_token)


def rate(model: Model, chosen: Chosen) -> Rate:
    """Measured where a slice of this very shape is stored, else interpolated on FLOP per token.

    Raises:
        RigbenchError: every measured size is more than 16 times away; exit 3.
    """
    by_shape: dict[object, list[StoredSlice]] = defaultdict(list)
    for stored in chosen.slices:
        if family(stored.slice.model) == family(model):
            by_shape[stored.slice.model.shape].append(stored)
    by_size = {slices[0].slice.model.flop_per_token: slices for slices in by_shape.values()}
    if model.shape in by_shape:  # sizes of equal FLOP per token count once, the model's own shape first
        by_size[model.flop_per_token] = by_shape[model.shape]
    points = sorted(map(_point, by_size.values()), key=lambda point: point.log_size)
    exact = next((point for point in points if point.model.shape == model.shape), None)
    if exact:
        estimate = exact.flops_per_s / model.flop_per_token
        enough = all(stored.steady_steps >= FEWEST_STEPS for stored in by_size[model.flop_per_token])
        took = math.fsum(it.slice.seconds for it in by_size[model.flop_per_token])
        known = f"trained here {units.format_seconds(round(took)) if took >= 59.5 else f'{took:.0f} s'}"
        return Rate(estimate, "measured", exact.rests_on, exact.widened_by, has_middle=enough, known_from=known)
    size, cure = (
        math.log(model.flop_per_token),
        f"run {trains(model, chosen.its, chosen.configuration.recipe.strategy)}",
    )
    if not points:
        raise RigbenchError(f"no short training run of {model.name} or of its kind is stored", cure, exit_code=NOTHING)
    nearest = min(points, key=lambda point: abs(point.log_size - size))
    factor = math.exp(abs(nearest.log_size - size))
    if factor > FURTHEST_FACTOR:
        away = f"{model.name} is {factor:.0f} times away in FLOP per token from {nearest.model.name}"
        what = f"{away}, the nearest measured size: too far to carry its efficiency"
        raise RigbenchError(what, cure, exit_code=NOTHING)
    if points[0].log_size <= size <= points[-1].log_size:
        flops_per_s, used, why = _between(size, points)
        method = "effective FLOP/s between measured sizes, log-log"
    else:
        flops_per_s, used, why = _beyond(size, nearest, chosen.configuration.device.kind)
        method = "effective FLOP/s of the nearest measured size"
    rests_on = tuple(name for point in used for name in point.rests_on)
    estimate = msgspec.structs.replace(flops_per_s / model.flop_per_token, method=method, n=len(rests_on))
    reasons = dict.fromkeys((why, *(reason for point in used for reason in point.widened_by)))
    sizes = [point.model.name for point in used]
    known = f"between {' and '.join(sizes)}" if len(sizes) > 1 else f"carried over from {sizes[0]}"
    return Rate(estimate, "predicted", rests_on, tuple(reasons), known_from=known)


def of_slices(slices: Sequence[StoredSlice]) -> Estimate:
    """Tokens per second that one more run of their model would show."""
    return _point(slices).flops_per_s / slices[0].slice.model.flop_per_token


def _point(slices: Sequence[StoredSlice]) -> Point:
    """The rate that one more run of this model would show, from its slices: each run is one process or a few."""
    by_run: dict[str, list[StoredSlice]] = defaultdict(list)
    for stored in slices:
        by_run[stored.run_id].append(stored)
    logs = [mean_log_rate(run) for run in by_run.values()]
    runs = [[math.hypot(*sides) / len(run) for sides in zip(*map(_sides, run), strict=True)] for run in by_run.values()]
    down, up = (math.hypot(*sides) / len(runs) for sides in zip(*runs, strict=True))
    between, why = _between_runs(logs)
    if len(runs) >= FEWEST_RUNS_FOR_A_SPREAD:  # the spread of runs has the noise within them in it already
        down, up = max(down, between), max(up, between)
    else:
        down, up = math.hypot(down, between), math.hypot(up, between)
    model = slices[0].slice.model
    flops_per_s = math.exp(math.fsum(logs) / len(logs)) * model.flop_per_token
    ends = flops_per_s * math.exp(-down), flops_per_s * math.exp(up)
    estimate = Estimate(flops_per_s, *ends, stats.LEVEL, "geometric mean of short runs", len(slices))
    reasons: tuple[str, ...] = (why,)
    if any(stored.slice.tokens_per_s.level < stats.LEVEL for stored in slices):
        assumed = units.format_plus_minus(ASSUMED_WITHIN_ONE_STEP)
        reasons += (f"{assumed} within a run too short for an interval is assumed",)
    return Point(model, estimate, tuple(f"{stored.run_id} {model.name}" for stored in slices), reasons)


def _sides(stored: StoredSlice) -> tuple[float, float]:
    """Half-widths below and above."""
    its = stored.slice.tokens_per_s
    if its.level < stats.LEVEL:
        return ASSUMED_WITHIN_ONE_STEP, ASSUMED_WITHIN_ONE_STEP
    # A very noisy slice's interval may reach zero, which has no logarithm: a tenth of the rate is wide enough.
    return math.log(its.value / max(its.low, its.value / 10)), math.log(max(its.high, its.value) / its.value)


def _between_runs(logs: Sequence[float]) -> tuple[float, str]:
    """Half-width for one more run, and how it was obtained."""
    k = len(logs)
    if k >= FEWEST_RUNS_FOR_A_SPREAD:
        mean = math.fsum(logs) / k
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (k - 1))
        # The interval of the next run, not of the mean: the budget will be spent in one.
        half = stats.student_t_quantile((1 + stats.LEVEL) / 2, k - 1) * deviation * math.sqrt(1 + 1 / k)
        return half, f"{units.format_plus_minus(half)} between {k} runs (Student t, for one more run)"
    apart = (max(logs) - min(logs)) / 2
    if apart > ASSUMED_BETWEEN_PROCESSES:
        return apart, f"{units.format_plus_minus(apart)}: two runs were {units.format_share(2 * apart)} apart"
    half, runs = ASSUMED_BETWEEN_PROCESSES, "1 run" if k == 1 else f"{k} runs"
    return half, f"{units.format_plus_minus(half)} between processes is assumed ({runs} stored)"


def _widened(its: Estimate, down: float, up: float) -> Estimate:
    """With an independent error on top."""
    return its * Estimate(1.0, math.exp(-down), math.exp(up), stats.LEVEL, "", its.n)


def _between(size: float, points: Sequence[Point]) -> tuple[Estimate, tuple[Point, ...], str]:
    below, above = next((a, b) for a, b in pairwise([points[0], *points]) if a.log_size <= size <= b.log_size)
    if len(points) < 3:
        half = INTERPOLATION_ERROR
        why = f"{units.format_plus_minus(half)} between sizes is assumed ({len(points)} measured)"
    else:  # the worst error of predicting each interior measured size from its two neighbours
        left_out = [
            abs(math.log(_interpolated(point.log_size, a, b).value / point.flops_per_s.value))
            for a, point, b in zip(points, points[1:], points[2:], strict=False)
        ]
        worst = max(left_out)
        half = max(INTERPOLATION_ERROR, worst)
        off = f"measured sizes left out one at a time were at most {units.format_share(worst)} off"
        why = f"{units.format_plus_minus(half)} between sizes ({off})"
    return _widened(_interpolated(size, below, above), half, half), tuple(dict.fromkeys((below, above))), why


def _interpolated(size: float, below: Point, above: Point) -> Estimate:
    """Log-log between two sizes. One machine's errors are shared, so the neighbours' widths add without cancelling."""
    span = above.log_size - below.log_size
    weight = (size - below.log_size) / span if span else 0.0
    a, b = below.flops_per_s, above.flops_per_s
    value, low, high = (
        x ** (1 - weight) * y**weight for x, y in ((a.value, b.value), (a.low, b.low), (a.high, b.high))
    )
    return Estimate(value, low, high, stats.LEVEL, a.method, a.n + b.n)


def _beyond(size: float, nearest: Point, kind: str) -> tuple[Estimate, tuple[Point, ...], str]:
    factors_of_4 = abs(size - nearest.log_size) / math.log(4)
    against = BEYOND_RANGE + AGAINST_THE_TREND_PER_FACTOR_4 * factors_of_4
    along = BEYOND_RANGE + WITH_THE_TREND_PER_FACTOR_4[kind] * factors_of_4
    larger = size > nearest.log_size
    down, up = (against, along) if larger else (along, against)
    away = f"{4**factors_of_4:.1f} times {'larger' if larger else 'smaller'}"
    sides = f"{units.format_share(math.expm1(-down))} to +{units.format_share(math.expm1(up))}"
    why = f"{sides}: {away} than {nearest.model.name}, the nearest measured size"
    return _widened(nearest.flops_per_s, down, up), (nearest,), why


def backtests(runs: Sequence[Entry], rig: str = "") -> list[Backtest]:
    """Those of one rig's runs, which are newest first: oldest first, without those made another way.

    Of predictions for that rig itself, or for the hardware named.
    """
    tests = [run.backtest for run in reversed(runs)]
    return [one for one in tests if one is not None and one.method == BACKTEST_METHOD and one.rig == rig]


def coverage(backtests: Sequence[Backtest]) -> Coverage:
    """Over all back-tests of one rig; of one log only the last counts."""
    distinct = list({one.log.sha256: one for one in backtests}.values())
    n, inside = len(distinct), sum(one.inside for one in distinct)
    low, high = stats.binomial_interval(inside, n)
    # Split conformal prediction (Vovk, Gammerman and Shafer 2005, §2.2): of n exchangeable scores, here errors in units
    # of the stated half-width, the next lies below the ceil(0.90·(n + 1))-th smallest with at least 90 %.
    scores = []
    for one in distinct:
        stated, actual = one.predicted.tokens_per_s, one.actual_tokens_per_s.value
        side = math.log(stated.high / stated.value) if actual > stated.value else math.log(stated.value / stated.low)
        side /= one.predicted.history_factor  # as it was before earlier back-tests changed it
        scores.append(abs(math.log(actual / stated.value)) / max(side, 1e-6))
    scores.sort()
    if n < FEWEST_TO_WIDEN:
        widen_by, why = 1.0, f"{n} back-test{'' if n == 1 else 's'}: too few to correct an interval by"
    elif n < FEWEST_TO_TIGHTEN:
        widen_by = max(1.0, scores[-1])
        why = f"the worst of {n} back-tests; {FEWEST_TO_TIGHTEN} are needed to tighten"
    else:
        widen_by = max(LEAST_FACTOR, scores[math.ceil(stats.LEVEL * (n + 1) - 1e-9) - 1])
        why = f"90 % of {n} back-tests lie within it"
    return Coverage(
        backtests=n,
        inside=inside,
        low=low,
        high=high,
        stated=min(one.predicted.tokens_per_s.level for one in distinct),
        median_error_share=stats.median([one.error_share for one in distinct]),
        widen_by=widen_by,
        why=why,
    )


def corrected(rate: Rate, history: Coverage) -> Rate:
    """A rate whose interval is as wide as the rig's back-tests ask for."""
    if history.widen_by == 1.0:
        return rate
    return msgspec.structs.replace(
        rate,
        tokens_per_s=rate.tokens_per_s.widened(history.widen_by),
        widened_by=(*rate.widened_by, f"half-width × {history.widen_by:.2f}: {history.why}"),
        history_factor=history.widen_by,
    )
