"""Which sensors say the same thing again and again while the card works, as those of a stuck driver do?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rigbench.core.record import Absent, Column, SensorSeries

LEAST_SECONDS, LEAST_TICKS = 30.0, 100
# Power is told to the milliwatt and never stands still under load; a temperature or a clock may.
RESTLESS = {"power_watts": "power", "power_instant_watts": "power now"}
STEADY = {"temperature_celsius": "temperature", "sm_clock_hertz": "clock", "fan_share": "fan"}


def frozen(at_seconds: Sequence[float], series: SensorSeries, began: float, ended: float) -> list[str]:
    """A sentence for power that stands still to the end of the load, or for all sensors that do so together."""
    stuck: dict[str, tuple[float, float]] = {}
    told = 0
    for name, said in (RESTLESS | STEADY).items():
        column: Column = getattr(series, name)
        found = _last_run(at_seconds, column, began, ended)
        if found is None:
            continue
        told += 1
        if found[1] >= LEAST_SECONDS:
            stuck[said] = found
    if "power" not in stuck:
        return []
    if len(stuck) == told > 1:
        seconds = min(length for _, length in stuck.values())
        return [f"all its sensors have said the same for the last {seconds:.0f} s: the driver may be stuck"]
    value, seconds = stuck["power"]
    return [f"its power has read {value:g} W without any change for the last {seconds:.0f} s: do not trust it"]


def _last_run(at_seconds: Sequence[float], column: Column, began: float, ended: float) -> tuple[float, float] | None:
    """(value, seconds) of the run of equal readings that the load ends with; None where nothing was read."""
    if isinstance(column, Absent):
        return None
    pairs = [
        (at, value)
        for at, value in zip(at_seconds, column, strict=True)
        if began <= at <= ended and not isinstance(value, Absent)
    ]
    if not pairs:
        return None
    last = pairs[-1][1]
    run = list(itertools.takewhile(lambda pair: pair[1] == last, reversed(pairs)))
    return float(last), pairs[-1][0] - run[-1][0] if len(run) >= LEAST_TICKS else 0.0
