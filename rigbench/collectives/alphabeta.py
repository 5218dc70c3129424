"""What are the latency α and the bandwidth β in time = α + bytes/β, and how sure are they?

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
        return Absent(f"{len(points)} sizes are too few for a line ({FEWEST_SIZES} are needed)")
    kept = _near(points)
    if len(kept) < FEWEST_SIZES:
        return Absent("the times of the sizes lie on no line")
    line = _random_effects(kept)
    reach = stats.student_t_quantile((1 + stats.LEVEL) / 2, len(kept) - PARAMETERS)
    slope_half, alpha_half = (reach * math.sqrt(it) for it in (line.slope_variance, line.alpha_variance))
    if line.slope <= 0 or slope_half > UNTOLD_SHARE * line.slope:
        return Absent("the times scatter too much for a line through them, or the largest size is too small")
    left_out = tuple(int(point.size_bytes) for point in points if point not in kept)
    return AlphaBeta(
        latency_seconds=_estimate(line.alpha, line.alpha - alpha_half, line.alpha + alpha_half, len(kept)),
        bytes_per_s=_estimate(1 / line.slope, 1 / (line.slope + slope_half), 1 / (line.slope - slope_half), len(kept)),
        largest_residual_share=max(abs(point.seconds / line.at(point.size_bytes) - 1) for point in kept),
        sizes_left_out=left_out,
    )


def _estimate(value: float, low: float, high: float, n: int) -> Estimate:
    """Nothing takes less than no time: what an interval holds below zero is cut off, which costs no coverage."""
    value, low, high = (max(0.0, it) for it in (value, low, high))
    return Estimate(value=value, low=low, high=high, level=stats.LEVEL, method=METHOD, n=n)


def _points(samples: Mapping[int, Sequence[float]]) -> list[Point]:
    """The standard error is the one that would give the median's interval, were it Student's: for normal samples its
    square is then true to a fifth, from 2 samples on (simulated).

    Three samples may agree by chance: the scatter that is usual over all sizes has a say in each.
    """
    found = {size: stats.median_estimate(seconds) for size, seconds in samples.items()}
    own = {
        size: it.half_width / stats.student_t_quantile((1 + it.level) / 2, it.n - 1)
        for size, it in found.items()
        if it.n > 1
    }
    common = stats.median([error**2 * found[size].n for size, error in own.items()]) if own else 0.0
    points = []
    for size, it in found.items():
        squares = it.n * own.get(size, 0.0) ** 2 * (it.n > 1) + COMMON_SAMPLES * common / it.n
        weight = it.n * (it.n > 1) + COMMON_SAMPLES
        points.append(Point(size, it.value, math.sqrt(squares / weight)))
    return points


def _near(points: Sequence[Point]) -> list[Point]:
    """The points that follow the line that most of them agree with."""
    lines = [_through(a, b) for a, b in combinations(points, 2)]
    near_both_ends = [it for it in lines if max(_residual(it, points[0]), _residual(it, points[-1])) <= FAR_SHARE]
    best = min(near_both_ends, key=lambda line: _disagreement(line, points))
    # Rousseeuw and Leroy, Robust Regression and Outlier Detection, §5.1: the middle residual's scale
    middle = stats.median([_residual(best, point) for point in points])
    scale = stats.MAD_TO_DEVIATION * middle
    return [
        point
        for point in points
        if _residual(best, point) <= max(FAR_SHARE, FAR_DEVIATIONS * math.hypot(scale, point.error))
    ]


def _through(a: Point, b: Point) -> Line:
    slope = (b.seconds - a.seconds) / (b.size_bytes - a.size_bytes)
    return Line(a.seconds - slope * a.size_bytes, slope)


def _residual(line: Line, point: Point) -> float:
    return abs(line.at(point.size_bytes) / point.seconds - 1)


def _disagreement(line: Line, points: Sequence[Point]) -> float:
    """Squares of what lies near, and the same for all that lies far: a second protocol may go where it likes."""
    return math.fsum(min(_residual(line, point), FAR_SHARE) ** 2 for point in points)


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
    sizes = [point.size_bytes for point in points]
    expected = [point.seconds for point in points]
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
        alpha = (
            sum(w * point.seconds for w, point in zip(weights, points, strict=True)) / total - pull / spread * middle
        )
        line = Line(alpha, pull / spread, 1 / total + middle**2 / spread, 1 / spread)
        now = [line.at(size) for size in sizes]
        squares = sum(w * (p.seconds - it) ** 2 for w, p, it in zip(weights, points, now, strict=True))
        if min(now) <= 0:
            break
        expected = now
    return line, squares
