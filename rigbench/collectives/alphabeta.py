"""Fits the latency α and the bandwidth β in time = α + bytes/β, with their intervals.

Every size has one voice, in proportion: residuals count relative to the time itself, so that small sizes decide α and
large ones β. Times scatter for two reasons, the samples of a size (known from their median's interval) and a line that
is only nearly true (not known: estimated from the residuals, as Paule and Mandel 1982 do); weights and intervals
hold both (a random-effects regression; its intervals take Student's t, as Knapp and Hartung 2003).

A library changes its protocol at some size, so that the sizes about there may lie off any one line. The line begins
from the pair of sizes that most others, and both ends, agree with (as Torr and Zisserman 2000 choose one, all pairs
being tried); sizes that lie far from it, by what the others scatter and by a quarter at least, are named and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from operator import mul
from typing import NamedTuple

from rigbench.collectives.record import AlphaBeta
from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent

FEWEST_SIZES = 4
FAR_DEVIATIONS, FAR_SHARE = 5.0, 0.25
UNTOLD_SHARE = 0.6  # an interval of the bandwidth whose ends differ more than 4-fold tells nothing
COMMON_SAMPLES = 4  # how many samples the scatter of all sizes counts for, beside a size's own
PARAMETERS = 2
REWEIGHTED = 3  # times: errors are shares of the time that the line expects, once there is one
LEAST_VARIANCE = 1e-9  # medians of equal times have no error, and are not infinitely sure
METHOD = "random-effects line through the sizes' medians, relative residuals"


class Point(NamedTuple):
    """One size: its median time, and the standard error of that as a share of it."""

    size_bytes: float
    seconds: float
    error: float


class Line(NamedTuple):
    """time = alpha + size·slope, in seconds and seconds a byte, with the variances of the two."""

    alpha: float
    slope: float
    alpha_variance: float = 0.0
    slope_variance: float = 0.0

    def at(self, size_bytes: float) -> float:
        return self.alpha + size_bytes * self.slope


def fit(samples: Mapping[int, Sequence[float]]) -> AlphaBeta | Absent:
    """The line through the medians of each size's samples, in seconds."""
    points = _points({size: seconds for size, seconds in sorted(samples.items()) if seconds and min(seconds) > 0})
    if len(points) < FEWEST_SIZES:
        return Absent(f"a line needs {FEWEST_SIZES} sizes, and there were {len(points)}")
    kept = _near(points)
    if len(kept) < FEWEST_SIZES:
        return Absent("the times of the sizes lie on no line")
    line = _random_effects(kept)
    reach = stats.student_t_quantile((1 + stats.LEVEL) / 2, len(kept) - PARAMETERS)
    alpha_half, slope_half = (reach * math.sqrt(it) for it in (line.alpha_variance, line.slope_variance))
    if line.slope <= 0 or slope_half > UNTOLD_SHARE * line.slope:
        return Absent("the times scatter too much for a line through them, or the largest size is too small")
    # Nothing takes less than no time: what an interval holds below zero is cut off, which costs no coverage.
    latency, low, high = (max(0.0, line.alpha + it) for it in (0.0, -alpha_half, alpha_half))
    slope = Estimate(line.slope, line.slope - slope_half, line.slope + slope_half, stats.LEVEL, METHOD, len(kept))
    return AlphaBeta(
        latency_seconds=Estimate(latency, low, high, stats.LEVEL, METHOD, len(kept)),
        bytes_per_s=slope.inverse(),
        sizes_left_out=tuple(int(point.size_bytes) for point in points if point not in kept),
    )


def _points(samples: Mapping[int, Sequence[float]]) -> list[Point]:
    """The standard error is the one that would give the median's interval, were it Student's: for normal samples its
    square is then true to a fifth, from 2 samples on (simulated).

    Three samples may agree by chance: the scatter that is usual over all sizes has a say in each.
    """
    medians = {size: stats.median_estimate(seconds) for size, seconds in samples.items()}
    own = {
        size: it.half_width / stats.student_t_quantile((1 + it.level) / 2, it.n - 1)
        for size, it in medians.items()
        if it.n > 1
    }
    common = stats.median([error**2 * medians[size].n for size, error in own.items()]) if own else 0.0
    points = []
    for size, it in medians.items():
        squares = it.n * own.get(size, 0.0) ** 2 + COMMON_SAMPLES * common / it.n
        weight = it.n * (it.n > 1) + COMMON_SAMPLES
        points.append(Point(size, it.value, math.sqrt(squares / weight)))
    return points


def _near(points: Sequence[Point]) -> list[Point]:
    """The points that follow the line that most of them agree with."""
    lines = []
    for a, b in combinations(points, 2):
        slope = (b.seconds - a.seconds) / (b.size_bytes - a.size_bytes)
        lines.append(Line(a.seconds - slope * a.size_bytes, slope))
    near_both_ends = [it for it in lines if max(_residual(it, points[0]), _residual(it, points[-1])) <= FAR_SHARE]
    # Squares of what lies near, and the same for all that lies far: a second protocol may go where it likes.
    best = min(near_both_ends, key=lambda line: math.fsum(min(_residual(line, it), FAR_SHARE) ** 2 for it in points))
    # Rousseeuw and Leroy, Robust Regression and Outlier Detection, §5.1: the middle residual's scale
    scale = stats.MAD_TO_DEVIATION * stats.median([_residual(best, point) for point in points])
    reach = {it: max(FAR_SHARE, FAR_DEVIATIONS * math.hypot(scale, it.error)) for it in points}
    return [point for point in points if _residual(best, point) <= reach[point]]


def _residual(line: Line, point: Point) -> float:
    return abs(line.at(point.size_bytes) / point.seconds - 1)


def _random_effects(points: Sequence[Point]) -> Line:
    """The line whose spread beyond the samples' own makes the weighted squares as many as the degrees of freedom
    (Paule and Mandel's condition); none where the samples' own explains more than all of them.
    """
    freedom = len(points) - PARAMETERS
    if _weighted(points, 0.0)[1] <= freedom:
        return _weighted(points, 0.0)[0]
    low, high = 0.0, 1.0
    while _weighted(points, high)[1] > freedom and high < 1e6:
        high *= 10
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if _weighted(points, middle)[1] > freedom else (low, middle)
    return _weighted(points, high)[0]


def _weighted(points: Sequence[Point], variance: float) -> tuple[Line, float]:
    """Least squares of (time - alpha - slope·size)/time, weighted by the errors; and the weighted sum of squares."""
    sizes, expected = [point.size_bytes for point in points], [point.seconds for point in points]
    line, squares = Line(0.0, 0.0), 0.0
    for _ in range(REWEIGHTED):
        weights = [
            1 / ((point.error**2 + variance + LEAST_VARIANCE) * seconds**2)
            for point, seconds in zip(points, expected, strict=True)
        ]
        total = sum(weights)
        middle = sum(map(mul, weights, sizes)) / total
        away = [size - middle for size in sizes]
        spread = sum(weight * it * it for weight, it in zip(weights, away, strict=True))
        pull = sum(w * it * point.seconds for w, it, point in zip(weights, away, points, strict=True))
        mean, slope = sum(w * point.seconds for w, point in zip(weights, points, strict=True)) / total, pull / spread
        line = Line(mean - slope * middle, slope, 1 / total + middle**2 / spread, 1 / spread)
        now = [line.at(size) for size in sizes]
        squares = sum(w * (p.seconds - it) ** 2 for w, p, it in zip(weights, points, now, strict=True))
        if min(now) <= 0:
            break
        expected = now
    return line, squares
