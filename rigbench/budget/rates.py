"""How many tokens per second will a model train at on this rig, going by the slices stored of it and of others?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rigbench.budget.comparable import Chosen, StoredSlice, family, mean_log_rate
from rigbench.budget.record import Rate
from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.model.record import Model

# All widths below are half-widths of a 95 % interval in natural logarithms: 0.05 is about ±5 %.

# What one process cannot know of the next: memory layout, neighbours, clocks. Within a steady window a neighbour
# costs up to 40 % of a step and batch means show it; between processes on a quiet machine a few per cent remain.
ASSUMED_BETWEEN_PROCESSES = 0.05
FEWEST_RUNS_FOR_A_SPREAD = 3
ASSUMED_WITHIN_ONE_STEP = 0.30  # a slice too short for an interval: single steps sit 10 to 30 % off (METHODS.md)

# Between measured sizes the efficiency is not a straight line, however well three points happen to lie on one.
LEAST_INTERPOLATION_ERROR = 0.05
ASSUMED_INTERPOLATION_ERROR = 0.15  # where two sizes leave none to leave out

# Beyond the measured sizes the nearest efficiency is held. It mostly rises with size, so the interval reaches further
# that way. Log change per factor of 4 in FLOP per token: -0.3 to +0.4, median 0.13, in 64 pairs of sizes from published
# GPU rows, all above 1 GFLOP per token; 0.5 on a CPU from 7M to 124M parameters; up to ln 4 = 1.39 where a small model
# on a GPU waits for launches, so that tokens/s no longer depend on size; most of that is allowed for.
BEYOND_RANGE = 0.15
AGAINST_THE_TREND_PER_FACTOR_4 = 0.25
WITH_THE_TREND_PER_FACTOR_4 = {"cpu": 0.50, "cuda": 1.00}
FURTHEST_FACTOR = 16.0


@dataclass(frozen=True)
class LogRate:
    """A positive quantity with its interval in logarithms, where the errors of a rate are symmetric and add."""

    middle: float
    down: float
    up: float

    def widened(self, down: float, up: float) -> LogRate:
        """With an independent error on top: root of the sum of squares."""
        return LogRate(self.middle, math.hypot(self.down, down), math.hypot(self.up, up))

    def estimate(self, unit: float, method: str, n: int) -> Estimate:
        low, value, high = (math.exp(x) / unit for x in (self.middle - self.down, self.middle, self.middle + self.up))
        return Estimate(value=value, low=low, high=high, level=stats.LEVEL, method=method, n=n)


@dataclass(frozen=True)
class Point:
    """A measured size: effective FLOP/s at this FLOP per token, and the slices it comes from."""

    model: Model
    flops_per_s: LogRate
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
    points = sorted(measured_points(model, chosen), key=lambda point: point.log_size)
    exact = next((point for point in points if point.model.shape == model.shape), None)
    if exact:
        method = "geometric mean of slices"
        estimate = exact.flops_per_s.estimate(model.flop_per_token, method, len(exact.rests_on))
        return Rate(tokens_per_s=estimate, source="measured", rests_on=exact.rests_on, widened_by=exact.widened_by)
    _refuse_far(model, points)
    size = math.log(model.flop_per_token)
    if points[0].log_size <= size <= points[-1].log_size:
        flops_per_s, used, why = _between(size, points)
        method = "effective FLOP/s between measured sizes, log-log"
    else:
        flops_per_s, used, why = _beyond(size, points, chosen.configuration.device.kind)
        method = "effective FLOP/s of the nearest measured size"
    rests_on = tuple(name for point in used for name in point.rests_on)
    estimate = flops_per_s.estimate(model.flop_per_token, method, len(rests_on))
    reasons = dict.fromkeys((why, *(reason for point in used for reason in point.widened_by)))
    return Rate(tokens_per_s=estimate, source="predicted", rests_on=rests_on, widened_by=tuple(reasons))


def measured_points(model: Model, chosen: Chosen) -> list[Point]:
    """One point per measured size of this model's family; sizes of equal FLOP per token count once, the model's own
    shape first."""
    by_shape: dict[object, list[StoredSlice]] = defaultdict(list)
    for stored in chosen.slices:
        if family(stored.slice.model) == family(model):
            by_shape[stored.slice.model.shape].append(stored)
    by_size = {slices[0].slice.model.flop_per_token: slices for slices in by_shape.values()}
    if model.shape in by_shape:
        by_size[model.flop_per_token] = by_shape[model.shape]
    return [_point(slices) for slices in by_size.values()]


def _point(slices: Sequence[StoredSlice]) -> Point:
    """The rate that one more run of this model would show, from its slices: each run is one process or a few."""
    by_run: dict[str, list[StoredSlice]] = defaultdict(list)
    for stored in slices:
        by_run[stored.run_id].append(stored)
    runs = list(by_run.values())
    logs = [mean_log_rate(run) for run in runs]
    within = [_within(run) for run in runs]
    down, up = (math.sqrt(math.fsum(side**2 for side in sides)) / len(runs) for sides in zip(*within, strict=True))
    model = slices[0].slice.model
    middle = math.fsum(logs) / len(logs) + math.log(model.flop_per_token)
    between, why = _between_runs(logs)
    if len(runs) >= FEWEST_RUNS_FOR_A_SPREAD:  # the spread of runs has the noise within them in it already
        flops_per_s = LogRate(middle, max(down, between), max(up, between))
    else:
        flops_per_s = LogRate(middle, down, up).widened(between, between)
    return Point(
        model=model,
        flops_per_s=flops_per_s,
        rests_on=tuple(f"{stored.run_id} {model.name}" for stored in slices),
        widened_by=(why, *_too_short(slices)),
    )


def _within(run: Sequence[StoredSlice]) -> tuple[float, float]:
    """Half-widths below and above of one run's mean log rate, from the intervals of its slices."""
    downs, ups = zip(*(_sides(stored.slice.tokens_per_s) for stored in run), strict=True)
    return math.hypot(*downs) / len(run), math.hypot(*ups) / len(run)


def _sides(tokens_per_s: Estimate) -> tuple[float, float]:
    if not _has_interval(tokens_per_s):
        return ASSUMED_WITHIN_ONE_STEP, ASSUMED_WITHIN_ONE_STEP
    # A very noisy slice's interval may reach zero, which has no logarithm: a tenth of the rate is wide enough.
    low = max(tokens_per_s.low, tokens_per_s.value / 10)
    return math.log(tokens_per_s.value / low), math.log(max(tokens_per_s.high, tokens_per_s.value) / tokens_per_s.value)


def _has_interval(tokens_per_s: Estimate) -> bool:
    return tokens_per_s.level >= stats.LEVEL


def _too_short(slices: Sequence[StoredSlice]) -> tuple[str, ...]:
    if all(_has_interval(stored.slice.tokens_per_s) for stored in slices):
        return ()
    return (f"{units.format_plus_minus(ASSUMED_WITHIN_ONE_STEP)} within a slice too short for an interval is assumed",)


def _between_runs(logs: Sequence[float]) -> tuple[float, str]:
    """Half-width for one more run, and how it was obtained."""
    k = len(logs)
    if k >= FEWEST_RUNS_FOR_A_SPREAD:
        mean = math.fsum(logs) / k
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (k - 1))
        # The interval of the next run, not of the mean: the budget will be spent in one.
        half = stats.student_t_quantile(0.975, k - 1) * deviation * math.sqrt(1 + 1 / k)
        return half, f"{units.format_plus_minus(half)} between {k} runs (Student t, for one more run)"
    apart = (max(logs) - min(logs)) / 2
    if apart > ASSUMED_BETWEEN_PROCESSES:
        return apart, f"{units.format_plus_minus(apart)}: two runs were {units.format_share(2 * apart)} apart"
    runs = "1 run" if k == 1 else f"{k} runs"
    half = ASSUMED_BETWEEN_PROCESSES
    return half, f"{units.format_plus_minus(half)} between processes is assumed ({runs} stored)"


def _between(size: float, points: Sequence[Point]) -> tuple[LogRate, tuple[Point, ...], str]:
    below, above = next((a, b) for a, b in pairwise([points[0], *points]) if a.log_size <= size <= b.log_size)
    neighbours = _interpolate(size, below, above)
    error, why = _interpolation_error(points)
    return neighbours.widened(error, error), tuple(dict.fromkeys((below, above))), why


def _interpolate(size: float, below: Point, above: Point) -> LogRate:
    """Log-log between two sizes. One machine's errors are shared, so the neighbours' widths add without cancelling."""
    span = above.log_size - below.log_size
    weight = (size - below.log_size) / span if span else 0.0
    a, b = below.flops_per_s, above.flops_per_s
    return LogRate(
        a.middle + weight * (b.middle - a.middle), a.down + weight * (b.down - a.down), a.up + weight * (b.up - a.up)
    )


def _interpolation_error(points: Sequence[Point]) -> tuple[float, str]:
    """The worst error of predicting each interior measured size from its two neighbours."""
    if len(points) < 3:
        half = ASSUMED_INTERPOLATION_ERROR
        return half, f"{units.format_plus_minus(half)} between sizes is assumed ({len(points)} measured)"
    left_out = [
        abs(_interpolate(point.log_size, below, above).middle - point.flops_per_s.middle)
        for below, point, above in zip(points, points[1:], points[2:], strict=False)
    ]
    worst = max(left_out)
    half = max(LEAST_INTERPOLATION_ERROR, worst)
    why = f"measured sizes left out one at a time were at most {units.format_share(worst)} off"
    return half, f"{units.format_plus_minus(half)} between sizes ({why})"


def _beyond(size: float, points: Sequence[Point], kind: str) -> tuple[LogRate, tuple[Point, ...], str]:
    nearest = min(points, key=lambda point: abs(point.log_size - size))
    factors_of_4 = abs(size - nearest.log_size) / math.log(4)
    against = BEYOND_RANGE + AGAINST_THE_TREND_PER_FACTOR_4 * factors_of_4
    along = BEYOND_RANGE + WITH_THE_TREND_PER_FACTOR_4[kind] * factors_of_4
    larger = size > nearest.log_size
    down, up = (against, along) if larger else (along, against)
    away = f"{4**factors_of_4:.1f} times {'larger' if larger else 'smaller'}"
    sides = f"{units.format_share(math.expm1(-down))} to +{units.format_share(math.expm1(up))}"
    why = f"{sides}: {away} than {nearest.model.name}, the nearest measured size"
    return nearest.flops_per_s.widened(down, up), (nearest,), why


def _refuse_far(model: Model, points: Sequence[Point]) -> None:
    cure = f"run rigbench train-probe --params {model.name}"
    if not points:
        raise RigbenchError(f"no slice of {model.name} or of its kind is stored", cure, exit_code=NOTHING)
    factors = {point.model.name: abs(point.log_size - math.log(model.flop_per_token)) for point in points}
    nearest = min(factors, key=lambda name: factors[name])
    if factors[nearest] > math.log(FURTHEST_FACTOR):
        raise RigbenchError(
            f"{model.name} is {math.exp(factors[nearest]):.0f} times away in FLOP per token from {nearest}, "
            f"the nearest measured size: too far to carry its efficiency",
            cure,
            exit_code=NOTHING,
        )
