"""How does one thing move with another, or with time, and how sure is that, when neighbours resemble each other?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from rigbench.core import stats
from rigbench.core.record import Absent, Estimate

BATCHES = 10


def slope(at_seconds: Sequence[float], values: Sequence[float]) -> Estimate:
    """Per second, by least squares through means of ten contiguous batches, in which neighbours' noise averages out.

    Raises:
        ValueError: fewer values than batches, or all of one moment.
    """
    if len(values) < BATCHES or at_seconds[-1] <= at_seconds[0]:
        raise ValueError(f"a slope needs {BATCHES} values at different moments")
    moments, means = batch_means(at_seconds, BATCHES), batch_means(values, BATCHES)
    middle, level = math.fsum(moments) / BATCHES, math.fsum(means) / BATCHES
    spread = math.fsum((moment - middle) ** 2 for moment in moments)
    value = math.fsum((x - middle) * y for x, y in zip(moments, means, strict=True)) / spread
    errors = (y - level - value * (x - middle) for x, y in zip(moments, means, strict=True))
    half = math.sqrt(math.fsum(error**2 for error in errors) / (BATCHES - 2) / spread)
    half *= stats.student_t_quantile(0.975, BATCHES - 2)
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        confidence=stats.CONFIDENCE,
        method="least squares through 10 batch means, Student t",
        n=BATCHES,
    )


def mean(values: Sequence[float]) -> Estimate:
    """The mean with its interval by batch means; one value has none.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    middle = math.fsum(values) / n if n else math.nan
    if not n:
        raise ValueError("no values")
    count = min(n, BATCHES)
    if count < 3:
        return Estimate(value=middle, low=min(values), high=max(values), confidence=0.0, method="too few values", n=n)
    means = batch_means(values, count)
    spread = math.sqrt(math.fsum((it - middle) ** 2 for it in means) / (count - 1) / count)
    half = stats.student_t_quantile(0.975, count - 1) * spread
    method = f"mean, Student t over {count} batch means"
    return Estimate(
        value=middle, low=middle - half, high=middle + half, confidence=stats.CONFIDENCE, method=method, n=count
    )


def batch_means(values: Sequence[float], count: int) -> list[float]:
    """Means of contiguous batches whose sizes differ by at most one."""
    n = len(values)
    edges = [index * n // count for index in range(count + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def theil_sen(points: Sequence[tuple[float, float]]) -> Estimate | Absent:
    """The median of all pairs' slopes, with Kendall's interval (Sen 1968; Hollander and Wolfe, §9.3)."""
    slopes = sorted((b - d) / (a - c) for (a, b), (c, d) in itertools.combinations(points, 2) if a != c)
    n = len(points)
    if len(slopes) < n:
        return Absent("too few different readings")
    reach = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = math.floor((len(slopes) - reach) / 2), math.ceil((len(slopes) + reach) / 2)
    return Estimate(
        value=stats.median(slopes),
        low=slopes[max(0, low)],
        high=slopes[min(len(slopes) - 1, high)],
        confidence=stats.CONFIDENCE,
        method="Theil-Sen over pieces of the load, Kendall's interval",
        n=n,
    )


def ratio(above: Estimate | Absent, below: Estimate | Absent) -> Estimate | Absent:
    """Of two estimates above zero: their half widths added as squares, on logarithms."""
    if isinstance(above, Absent) or isinstance(below, Absent):
        return above if isinstance(above, Absent) else below
    if min(above.low, below.low) <= 0:
        return Absent("an interval reaches zero")
    half = math.hypot(*(math.log(it.high / it.low) / 2 for it in (above, below)))
    value = above.value / below.value
    return Estimate(
        value=value,
        low=value * math.exp(-half),
        high=value * math.exp(half),
        confidence=min(above.confidence, below.confidence),
        method="ratio of two estimates, half widths added as squares",
        n=min(above.n, below.n),
    )
