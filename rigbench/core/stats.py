"""Statistics of samples: middles and rates with intervals, outliers, where the steady part begins, drift, slopes.

Pure functions of sequences of finite floats, in the order in which they were measured. The unit of a result is that of
its samples unless said otherwise. Every function raises ValueError where there are no samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent

LEVEL = 0.90  # of every interval that is shown or stored
STOPPING_LEVEL = 0.95  # of those that decide when to stop sampling
OUTER_FENCE_IQRS = 3.0
LEAST_BATCHES, MOST_BATCHES, BATCH = 5, 20, 16
FEWEST_FOR_WARM_UP, MOST_WARM_UP_BATCHES, WARM_UP_DEVIATIONS = 8, 100, 6.0
MSER_TOLERANCE = 1.25
FEWEST_FOR_DRIFT, MOST_DRIFT_POINTS, DRIFT_P = 10, 300, 0.01
NORMAL_90 = 1.6449  # deviations to either side that hold 90 % of a normal distribution
MAD_TO_DEVIATION = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two."""
    return quantile(samples, 0.5)


def quantile(samples: Sequence[float], q: float) -> float:
    """The q-quantile, linear between order statistics (type 7 of Hyndman and Fan 1996; numpy's default)."""
    _need(samples)
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q is {q}; a quantile lies between 0 and 1")
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@lru_cache(maxsize=256)
def student_t_quantile(p: float, df: float) -> float:
    """The p-quantile of Student's t with df >= 1 degrees of freedom (df need not be whole), to 1e-5 relative.

    Bisects the upper tail, P(T > t) = I_x(df/2, 1/2) / 2 with x = df / (df + t²) (Abramowitz and Stegun 26.7.1). Above
    a million degrees it is that of a million, 1e-6 from the normal distribution's.
    """
    if not 0.0 < p < 1.0 or df < 1.0:
        raise ValueError(f"no Student t quantile at p = {p}, df = {df}")
    tail, df = min(p, 1.0 - p), min(df, 1e6)
    low, high = 0.0, 1.0
    while _t_upper_tail(high, df) > tail:
        low, high = high, 2.0 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_upper_tail(middle, df) > tail else (low, middle)
    return math.copysign((low + high) / 2, p - 0.5)


def median_estimate(samples: Sequence[float], level: float = LEVEL) -> Estimate:
    """The median with the narrowest symmetric pair of order statistics that covers it with at least `level`.

    Needs no distribution, only independent samples: the number of samples below the true median is binomial(n, 1/2)
    (David and Nagaraja, Order Statistics, §7.1). The estimate's level is the coverage reached, a little over what was
    asked; with too few samples (below 5 at 0.90) the interval is minimum to maximum and covers 1 - 2^(1-n), which for
    one sample is 0.
    """
    _need(samples)
    ordered, n = sorted(samples), len(samples)
    rank, reached = _median_rank(n, level)
    method = "median, binomial order statistics"
    if reached < level:
        method = "median, minimum to maximum" if n > 1 else "one sample, no interval"
    return Estimate(median(ordered), ordered[rank], ordered[n - 1 - rank], reached, method, n)


def rate_estimate(work_per_sample: float, seconds: Sequence[float], level: float = LEVEL) -> Estimate:
    """Total work over total seconds, in work per second, with an interval by batch means and Student's t.

    Consecutive samples resemble each other, so the spread is taken between means of contiguous batches, which do so
    less (Law, Simulation Modeling and Analysis, §9.5.3). There are n/16 batches, but at least 5 (or n) and at most 20:
    with fewer than 5 Student's t explodes (t(4) = 2.13, t(1) = 6.31), with more than 20 it gains nothing (t(19) = 1.73)
    and longer batches forget more (Schmeiser 1982). Batches differ by at most one sample, so the variance of the mean
    is that of a ratio, k/(k-1)·Σ(S_j - m_j·mean)²/n² (Cochran, Sampling Techniques, §6.4). With a correlation of 0.5
    between neighbours the interval holds the truth 75 times in 100 at 8 samples, 80 at 12, 87 at 50.

    The interval is of the mean seconds, inverted. Where it is so wide that the mean could be under half of what was
    seen, its fast end stays at the fastest sample, which no mean can beat. One sample has no interval (level 0),
    two give their range (level 0.5).
    """
    _need(seconds)
    n, total = len(seconds), math.fsum(seconds)
    if total <= 0:
        raise ValueError("no time passed: a rate needs durations above zero")
    mean = total / n
    fastest = max(min(seconds), 1e-6 * mean)  # a duration of zero is the clock's, not the work's
    if n < 3:
        low_mean, high_mean, level = fastest, max(seconds), 0.0 if n == 1 else 0.5
        method = "one sample, no interval" if n == 1 else "range of two samples"
        batches = n
    else:
        batches = min(n, max(LEAST_BATCHES, min(MOST_BATCHES, n // BATCH)))
        half = _half_width_of_mean(seconds, batches, level)
        low_mean, high_mean = max(mean - half, min(fastest, mean / 2)), mean + half
        method = f"total work over total time, Student t over {batches} batch means"
    value, low, high = (work_per_sample / it for it in (mean, high_mean, low_mean))
    return Estimate(value, low, high, level, method, batches)


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Geometric mean of a_i / b_i (no unit), with a Student t interval on the logarithms."""
    _need(a)
    if len(a) != len(b) or min(*a, *b) <= 0:
        raise ValueError("pairs need equally many values on both sides, all above zero")
    logs, n = [math.log(x / y) for x, y in zip(a, b, strict=True)], len(a)
    middle = math.fsum(logs) / n
    half, level, method = 0.0, 0.0, "one pair, no interval"
    if n > 1:
        half, level = _half_width_of_mean(logs, n, LEVEL), LEVEL
        method = "geometric mean of paired ratios, Student t on logarithms"
    return Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half), level, method, n)


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """The 90 % interval of a share from `successes` of n (Clopper and Pearson 1934): never narrower than it says."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n}")
    tail = (1 - LEVEL) / 2

    def at_least(k: int, p: float) -> float:
        return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))

    def share(k: int, probability: float) -> float:
        """Where k or more of n have this probability."""
        low, high = 0.0, 1.0
        while high - low > 1e-12:
            middle = (low + high) / 2
            low, high = (middle, high) if at_least(k, middle) < probability else (low, middle)
        return (low + high) / 2

    return (share(successes, tail) if successes else 0.0), (share(successes + 1, 1 - tail) if successes < n else 1.0)


def outliers(samples: Sequence[float]) -> tuple[int, ...]:
    """Indices of samples beyond Tukey's outer fences, 3 interquartile ranges outside the quartiles (Tukey 1977)."""
    lower, upper = quantile(samples, 0.25), quantile(samples, 0.75)
    reach = OUTER_FENCE_IQRS * (upper - lower)
    return tuple(i for i, x in enumerate(samples) if not lower - reach <= x <= upper + reach)


def steady_start(samples: Sequence[float]) -> int:
    """Index of the first sample of the steady window, never beyond half of the samples; 0 below 8 samples.

    MSER (White 1997): cut where the squared error of the mean of what remains is least, or as early as it comes within
    25 % of that. Samples are averaged in at most 100 batches. Two things are added, because a stall in mid-run is part
    of the rate and must not be cut away: single spikes are smoothed (running median of 3), and a cut counts only if the
    median before it is 6 standard errors (from the median absolute deviation) from the median after it, either way.
    """
    _need(samples)
    n = len(samples)
    if n < FEWEST_FOR_WARM_UP:
        return 0
    size = math.ceil(n / MOST_WARM_UP_BATCHES)
    means = [math.fsum(samples[i : i + size]) / size for i in range(0, n - size + 1, size)]
    smooth = [means[0], *(sorted(means[i - 1 : i + 2])[1] for i in range(1, len(means) - 1)), means[-1]]
    cuts = [0, *(cut for cut in range(1, n // 2 // size + 1) if _differ(means[:cut], means[cut:]))]
    errors = [_mser(smooth[cut:]) for cut in cuts]
    least = min(errors)
    return size * next(cut for cut, error in zip(cuts, errors, strict=True) if error <= MSER_TOLERANCE * least)


def drift_per_minute(samples: Sequence[float]) -> float | Absent:
    """Relative change of a sample per minute of accumulated samples (durations in seconds); 0.01 is 1 % slower.

    Theil-Sen slope over the median (Sen 1968), Absent unless a Mann-Kendall test with ties (Kendall 1975) gives
    p < 0.01. More than 300 samples are taken as the medians of 300 contiguous blocks.
    """
    _need(samples)
    middle = median(samples)
    if len(samples) < FEWEST_FOR_DRIFT or middle <= 0:
        return Absent(f"fewer than {FEWEST_FOR_DRIFT} samples" if middle > 0 else "no time passed")
    blocks = _blocks(samples, min(len(samples), MOST_DRIFT_POINTS))
    points, elapsed = [], 0.0
    for block in blocks:
        took = math.fsum(block)
        points.append((elapsed + took / 2, median(block)))
        elapsed += took
    if _mann_kendall_p([value for _, value in points]) >= DRIFT_P:
        return Absent("no different from noise")
    slopes = [(y2 - y1) / (t2 - t1) for (t1, y1), (t2, y2) in combinations(points, 2) if t2 > t1]
    return median(slopes) * 60.0 / middle


def _need(samples: Sequence[float]) -> None:
    if not samples:
        raise ValueError("no samples")


def _blocks(samples: Sequence[float], count: int) -> list[Sequence[float]]:
    """Contiguous blocks whose lengths differ by at most one."""
    n = len(samples)
    return [samples[i * n // count : (i + 1) * n // count] for i in range(count)]


def _half_width_of_mean(samples: Sequence[float], batches: int, level: float) -> float:
    """Half of the interval of the mean, from the spread of `batches` >= 2 contiguous batches."""
    n = len(samples)
    mean = math.fsum(samples) / n
    squares = math.fsum((math.fsum(batch) - len(batch) * mean) ** 2 for batch in _blocks(samples, batches))
    standard_error = math.sqrt(batches / (batches - 1) * squares) / n
    return student_t_quantile((1 + level) / 2, batches - 1) * standard_error


@lru_cache(maxsize=64)
def _median_rank(n: int, level: float) -> tuple[int, float]:
    """Index from either end of n ordered samples, and with what probability the pair holds the true median."""
    best, tail = (0, 1.0 - 2.0 ** (1 - n)), 0.0
    for rank in range(max(0, int(n / 2 - 5 * math.sqrt(n))), n // 2):  # 10 deviations below: nothing is lost
        ways = math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1)
        tail += math.exp(ways - n * math.log(2))
        if 1.0 - 2.0 * tail < level:
            break
        best = rank, 1.0 - 2.0 * tail
    return best


def _t_upper_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0; of the two forms of the beta integral, the one whose fraction converges."""
    below, above = df / (df + t * t), t * t / (df + t * t)
    if below > (df / 2 + 1) / (df / 2 + 2.5):
        return 0.5 - _incomplete_beta(above, below, 0.5, df / 2) / 2
    return _incomplete_beta(below, above, df / 2, 0.5) / 2


def _incomplete_beta(x: float, one_less_x: float, a: float, b: float) -> float:
    """Regularised I_x(a, b) for 0 <= x <= (a+1)/(a+b+2), by Lentz's continued fraction (Numerical Recipes, §6.4)."""
    if x == 0.0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(one_less_x)
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return math.exp(log_front) * fraction / a


def _mser(rest: Sequence[float]) -> float:
    """Squared standard error of the mean of what remains after a cut."""
    mean = math.fsum(rest) / len(rest)
    return math.fsum((x - mean) ** 2 for x in rest) / len(rest) ** 2


def _differ(before: Sequence[float], after: Sequence[float]) -> bool:
    middle = median(after)
    deviation = MAD_TO_DEVIATION * median([abs(x - middle) for x in after])
    return abs(median(before) - middle) > WARM_UP_DEVIATIONS * deviation * math.sqrt(1 / len(before) + 1 / len(after))


def _mann_kendall_p(values: Sequence[float]) -> float:
    """Two-sided p of no trend, normal approximation with the correction for ties and for continuity."""
    n = len(values)
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    variance = n * (n - 1) * (2 * n + 5) - sum(m * (m - 1) * (2 * m + 5) for m in counts.values())
    if variance <= 0:
        return 1.0
    z = max(0, abs(score) - 1) / math.sqrt(variance / 18)
    return math.erfc(z / math.sqrt(2))


BATCHES = 10


def slope(at_seconds: Sequence[float], values: Sequence[float]) -> Estimate:
    """Per second, by least squares through means of ten contiguous batches, in which neighbours' noise averages out."""
    if len(values) < BATCHES or at_seconds[-1] <= at_seconds[0]:
        raise ValueError(f"a slope needs {BATCHES} values at different moments")
    moments, means = batch_means(at_seconds, BATCHES), batch_means(values, BATCHES)
    middle, level = math.fsum(moments) / BATCHES, math.fsum(means) / BATCHES
    spread = math.fsum((moment - middle) ** 2 for moment in moments)
    value = math.fsum((x - middle) * y for x, y in zip(moments, means, strict=True)) / spread
    errors = (y - level - value * (x - middle) for x, y in zip(moments, means, strict=True))
    half = math.sqrt(math.fsum(error**2 for error in errors) / (BATCHES - 2) / spread)
    half *= student_t_quantile((1 + LEVEL) / 2, BATCHES - 2)
    method = "least squares through 10 batch means, Student t"
    return Estimate(value, value - half, value + half, LEVEL, method, BATCHES)


def mean(values: Sequence[float]) -> Estimate:
    """The mean with its interval by batch means; one value has none."""
    _need(values)
    n = len(values)
    middle, count = math.fsum(values) / n, min(n, BATCHES)
    if count < 3:
        return Estimate(middle, min(values), max(values), 0.0, "too few values", n)
    means = batch_means(values, count)
    spread = math.sqrt(math.fsum((it - middle) ** 2 for it in means) / (count - 1) / count)
    half = student_t_quantile((1 + LEVEL) / 2, count - 1) * spread
    return Estimate(middle, middle - half, middle + half, LEVEL, f"mean, Student t over {count} batch means", count)


def batch_means(values: Sequence[float], count: int) -> list[float]:
    """Means of contiguous batches whose sizes differ by at most one."""
    return [math.fsum(batch) / len(batch) for batch in _blocks(values, count)]


def theil_sen(points: Sequence[tuple[float, float]]) -> Estimate | Absent:
    """The median of all pairs' slopes, with Kendall's interval (Sen 1968; Hollander and Wolfe, §9.3)."""
    slopes = sorted((b - d) / (a - c) for (a, b), (c, d) in combinations(points, 2) if a != c)
    n = len(points)
    if len(slopes) < n:
        return Absent("too few different readings")
    reach = NORMAL_90 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    rank = max(1, math.floor((len(slopes) - reach) / 2))  # from either end
    ends = slopes[rank - 1], slopes[-rank]
    return Estimate(median(slopes), *ends, LEVEL, "Theil-Sen over pieces of the load, Kendall's interval", n)
