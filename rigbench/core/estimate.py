"""A number with the interval that its samples support, and its arithmetic."""

from __future__ import annotations

import math

from rigbench.core.record import Absent, EndedBy, Figure, Record

WIDEST = 0.5  # half an interval, as a share of its middle


class Estimate(Record, frozen=True):
    """A value with its interval. Units are those of the field that holds it.

    Arithmetic with plain numbers scales or shifts the ends. `a + b` adds lows and highs: one machine's errors are
    shared, so nothing is assumed to cancel. `a * b` and `a / b` are of independent estimates above zero: what each end
    is away from its middle, in logarithms, is added as squares. This is the one rule for a ratio.
    """

    value: float
    low: float
    high: float
    level: float  # the coverage really achieved: with few samples a median's interval covers less than 0.90
    method: str  # how the interval was made
    n: int  # samples, or batches of them, behind it

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the value (0.01 is ±1 %)."""
        return (self.high - self.low) / 2 / abs(self.value) if self.value else 0.0

    @property
    def has_middle(self) -> bool:
        """Whether a single number may stand for it: over ±50 % only the range says what is known."""
        return self.half_width <= WIDEST

    def __add__(self, other: Estimate | float) -> Estimate:
        if not isinstance(other, Estimate):
            return self._of(self.value + other, self.low + other, self.high + other)
        low, high, method = self.low + other.low, self.high + other.high, "sum of lows and of highs"
        return self._of(self.value + other.value, low, high, method, other)

    def __mul__(self, other: Estimate | float) -> Estimate:
        if isinstance(other, Estimate):
            return self / other.inverse()
        low, high = sorted((self.low * other, self.high * other))
        return self._of(self.value * other, low, high)

    def __truediv__(self, other: Estimate | float) -> Estimate:
        if not isinstance(other, Estimate):
            return self * (1 / other)
        if min(self.low, other.low) <= 0:
            raise ValueError("a ratio of intervals that reach zero")
        value = self.value / other.value
        down = math.hypot(math.log(self.value / self.low), math.log(other.high / other.value))
        up = math.hypot(math.log(self.high / self.value), math.log(other.value / other.low))
        method = "ratio of two estimates, half widths added as squares"
        return self._of(value, value * math.exp(-down), value * math.exp(up), method, other)

    def __rtruediv__(self, work: float) -> Estimate:
        """Work over time, or time from a rate: the ends change places."""
        if self.low <= 0:
            raise ValueError("the inverse of an interval that reaches zero")
        return self._of(work / self.value, work / self.high, work / self.low)

    __radd__, __rmul__ = __add__, __mul__

    def inverse(self) -> Estimate:
        return 1 / self

    def widened(self, factor: float) -> Estimate:
        """Both ends this many times as far from the middle, in logarithms."""
        low, high = (self.value * (end / self.value) ** factor for end in (self.low, self.high))
        return self._of(self.value, low, high)

    def figure(self, basis: str) -> Figure:
        """As a predicted figure that says what it rests on."""
        return Figure(self.value, "predicted", basis, self.low, self.high)

    def _of(self, value: float, low: float, high: float, method: str = "", other: Estimate | None = None) -> Estimate:
        both = (self, other or self)
        return Estimate(value, low, high, min(it.level for it in both), method or self.method, min(it.n for it in both))


def ratio(above: Estimate | Absent, below: Estimate | Absent) -> Estimate | Absent:
    """`above / below`, or why there is none."""
    if isinstance(above, Absent) or isinstance(below, Absent):
        return above if isinstance(above, Absent) else below
    if min(above.low, below.low) <= 0:
        return Absent("an interval reaches zero")
    return above / below


class Timing(Record, frozen=True):
    """Repeated timings of one piece of work."""

    warmup_seconds: tuple[float, ...]
    seconds: tuple[float, ...]  # every sample after the warm-up, in order; nothing is discarded
    estimate: Estimate  # of the median
    target_half_width: float
    ended_by: EndedBy
    outliers: int  # outside Tukey's outer fences
    drift_per_minute: float | Absent  # relative change of a sample (Theil-Sen); Absent where noise could be all of it
    late: int = 0  # of `seconds`: begun before the host had handed over all of it, so that they may hold host time
