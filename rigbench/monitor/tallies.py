"""How do readings add up without being kept: means, extremes and joules?"""

from __future__ import annotations

from rigbench.core.record import Absent
from rigbench.monitor.record import NOT_READ, Watched, WatchedEnergy

GAP_TICKS = 3.0  # a longer gap between two readings of power is not bridged


class Tally:
    """A reading's sum and extremes so far."""

    def __init__(self) -> None:
        self.now: float | Absent = NOT_READ
        self._sum = self._rest = 0.0
        self._low, self._high, self._n = float("inf"), float("-inf"), 0

    def add(self, value: float | Absent) -> None:
        self.now = value
        if isinstance(value, Absent):
            return
        self._n += 1
        self._low, self._high = min(self._low, value), max(self._high, value)
        step = value - self._rest  # Kahan 1965: a week of bytes must not round away
        total = self._sum + step
        self._rest = (total - self._sum) - step
        self._sum = total

    def record(self) -> Watched | Absent:
        """What it came to; the last reason where nothing was ever answered."""
        if not self._n:
            return self.now if isinstance(self.now, Absent) else NOT_READ
        return Watched(now=self.now, mean=self._sum / self._n, low=self._low, high=self._high, n=self._n)


class EnergyTally:
    """Joules since the first tick: what a counter rose by, or power over time where there is no counter."""

    def __init__(self, period_seconds: float) -> None:
        self._longest = GAP_TICKS * period_seconds
        self._counter: tuple[float, float] | None = None
        self._counted, self._counted_seconds = 0.0, 0.0
        self._power: tuple[float, float] | None = None
        self._area, self._area_seconds = 0.0, 0.0
        self._why: Absent = NOT_READ

    def add(self, at: float, joules: float | Absent, watts: float | Absent) -> None:
        if isinstance(joules, Absent):
            self._why = joules
        else:
            if self._counter and joules >= self._counter[1]:  # a counter that starts again is not negative work
                self._counted += joules - self._counter[1]
                self._counted_seconds += at - self._counter[0]
            self._counter = at, joules
        if isinstance(watts, Absent):
            return
        if self._power and at - self._power[0] <= self._longest:
            self._area += (at - self._power[0]) * (watts + self._power[1]) / 2
            self._area_seconds += at - self._power[0]
        self._power = at, watts

    def record(self) -> WatchedEnergy | Absent:
        """0 J is missing, not free."""
        if self._counted > 0 and self._counted_seconds >= self._area_seconds / 2:
            return WatchedEnergy(self._counted, self._counted_seconds, "counter")
        if self._area > 0:
            return WatchedEnergy(self._area, self._area_seconds, "integrated")
        if self._counter is not None:
            return Absent("its energy counter has not counted yet")
        return self._why
