"""What did a soak do to one device? Its sensors, its load and its limits in, one record out."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import msgspec

from rigbench.core import stats
from rigbench.core.estimate import Estimate, ratio
from rigbench.core.record import Absent, Column, Figure, SensorSeries, Telemetry
from rigbench.machine.record import Gpu
from rigbench.matmul.record import MatmulPhase
from rigbench.thermals import fit as heatfit
from rigbench.thermals import settling, throttled
from rigbench.thermals.record import HeatCard, HeatFit, HeatLoad, Settled, SteadyState
from rigbench.thermals.watch import too_hot
from rigbench.work import energy
from rigbench.work.frozen import frozen

COLD_SECONDS, HOT_SHARE = 3.0, 1 / 3  # of a load: its first seconds, its last third
LEAST_HOT_SECONDS = 10.0
FEWEST_WINDOWS = 3
POINTS = 60  # into which windows are gathered before throughput is held against temperature or clock
LEAST_RANGE_CELSIUS, LEAST_RANGE_CLOCK = 5.0, 0.01
SENSORS = {
    "temperature_celsius": "temperature",
    "power_watts": "power",
    "sm_clock_hertz": "clock",
    "fan_share": "fan",
    "throttle_bits": "throttle reasons",
}
NO_LOAD = Absent("a replayed rig runs no load")


class Facts(NamedTuple):
    """What is known of a device beside its readings. `began` and `ended` bound its load, on the monotonic clock."""

    name: str
    device_name: str
    gpu: Gpu | None
    load: HeatLoad | Absent
    began: float
    ended: float
    ambient: Figure | Absent
    lost: str = ""


def card(facts: Facts, sensors: Telemetry, series: SensorSeries) -> HeatCard:
    """Everything that one device's soak tells."""
    at, celsius = _column(facts, sensors, series.temperature_celsius)
    absent = series.temperature_celsius if isinstance(series.temperature_celsius, Absent) else None
    fit = absent or heatfit.best_fit(at, celsius)
    cold, hot = _phase(facts, sensors, series, cold=True), _phase(facts, sensors, series, cold=False)
    steady = _steady(facts, sensors, series)
    watts = steady if isinstance(steady, Absent) else steady.watts
    seconds = facts.ended - facts.began
    gpu = facts.gpu
    unknown = Absent("not a GPU")
    return HeatCard(
        name=facts.name,
        device_name=facts.device_name,
        index=gpu.index if gpu else unknown,
        load=facts.load,
        loaded_seconds=seconds,
        fit=fit,
        settled=_settled(facts, at, celsius, fit),
        rise_over_ambient_celsius=_rise(fit, facts.ambient),
        cold=cold,
        hot=hot,
        hot_over_cold=ratio(_rate(hot), _rate(cold)),
        per_celsius=_per_celsius(facts, at, celsius, absent),
        per_clock=_per_clock(facts, sensors, series),
        throttling=throttled.reasons(sensors.at_seconds, series, facts.load, facts.began, facts.ended),
        steady=steady,
        flop_per_joule=ratio(_rate(hot), watts),
        peak_celsius=max(celsius) if celsius else (absent or Absent("no reading under load")),
        slowdown_celsius=gpu.slowdown_celsius if gpu else unknown,
        target_celsius=gpu.target_celsius if gpu else unknown,
        power_limit_watts=gpu.power_limit_watts if gpu else unknown,
        power_limit_min_watts=gpu.power_limit_min_watts if gpu else unknown,
        missing=_missing(series),
        notes=tuple(_notes(facts, sensors, series)),
        faults=tuple(_faults(facts)),
    )


def windows(load: HeatLoad, began: float) -> tuple[list[float], list[float]]:
    """(moments since the load began at which windows ended, their FLOP/s)."""
    rates = [load.flop * count / took for count, took in zip(load.products, load.seconds, strict=True)]
    return [at - began for at in load.ended_at_seconds], rates


def _column(facts: Facts, sensors: Telemetry, column: Column) -> tuple[list[float], list[float]]:
    """(moments since the load began, readings) of the answered ticks under load."""
    if isinstance(column, Absent):
        return [], []
    pairs = [
        (at - facts.began, value)
        for at, value in zip(sensors.at_seconds, column, strict=True)
        if facts.began <= at <= facts.ended and not isinstance(value, Absent)
    ]
    return [at for at, _ in pairs], [value for _, value in pairs]


def _settled(facts: Facts, at: list[float], celsius: list[float], fit: HeatFit | Absent) -> Settled:
    if celsius:
        return settling.temperature(at, celsius, fit)
    if not isinstance(facts.load, Absent):
        return settling.throughput(*windows(facts.load, facts.began))
    why = "neither temperature nor throughput can be read"
    return Settled(settled=False, what="nothing", because=why, left=Absent(why))


def _rise(fit: HeatFit | Absent, ambient: Figure | Absent) -> Estimate | Absent:
    """T∞ less the declared room; the room's own error is not in the interval."""
    if isinstance(ambient, Absent):
        return ambient
    steady = fit if isinstance(fit, Absent) else fit.steady_celsius
    if isinstance(steady, Absent):
        return steady
    less = {name: getattr(steady, name) - ambient.value for name in ("value", "low", "high")}
    return msgspec.structs.replace(steady, **less)


def _phase(facts: Facts, sensors: Telemetry, series: SensorSeries, *, cold: bool) -> MatmulPhase | Absent:
    """The first seconds of the load, or its last third, with the sensors' means over it."""
    if isinstance(facts.load, Absent):
        return facts.load
    at, _ = windows(facts.load, facts.began)
    elapsed = at[-1] if at else 0.0
    if elapsed < LEAST_HOT_SECONDS:
        return Absent(f"{elapsed:.1f} s of load are too short to tell cold from hot")
    chosen = [i for i, end in enumerate(at) if (end <= COLD_SECONDS if cold else end > (1 - HOT_SHARE) * elapsed)]
    chosen = chosen if len(chosen) >= FEWEST_WINDOWS else list(range(len(at)))[slice(3) if cold else slice(-3, None)]
    first, last = chosen[0], chosen[-1]
    seconds = [facts.load.seconds[i] / facts.load.products[i] for i in chosen]
    start = at[first - 1] if first else 0.0
    return MatmulPhase(
        from_seconds=start,
        to_seconds=at[last],
        flops_per_s=stats.rate_estimate(facts.load.flop, seconds),
        temperature_celsius=_mean(facts, sensors, series.temperature_celsius, start, at[last]),
        power_watts=_mean(facts, sensors, series.power_watts, start, at[last]),
        sm_clock_hertz=_mean(facts, sensors, series.sm_clock_hertz, start, at[last]),
    )


def _rate(phase: MatmulPhase | Absent) -> Estimate | Absent:
    return phase if isinstance(phase, Absent) else phase.flops_per_s


def _mean(facts: Facts, sensors: Telemetry, column: Column, start: float, end: float) -> float | Absent:
    if isinstance(column, Absent):
        return column
    at, values = _column(facts, sensors, column)
    inside = [value for moment, value in zip(at, values, strict=True) if start <= moment <= end]
    return math.fsum(inside) / len(inside) if inside else Absent("no reading fell into it")


def _steady(facts: Facts, sensors: Telemetry, series: SensorSeries) -> SteadyState | Absent:
    seconds = facts.ended - facts.began
    if seconds < LEAST_HOT_SECONDS:
        return Absent(f"{seconds:.1f} s of load are too short for a steady state")
    start = (1 - HOT_SHARE) * seconds
    means = {
        name: _mean(facts, sensors, getattr(series, name), start, seconds)
        for name in ("temperature_celsius", "memory_temperature_celsius", "fan_share", "sm_clock_hertz")
    }
    watts, method = _watts(facts, sensors, series, start, seconds)
    return SteadyState(from_seconds=start, to_seconds=seconds, watts=watts, watts_method=method, **means)  # type: ignore[arg-type]


def _watts(
    facts: Facts, sensors: Telemetry, series: SensorSeries, start: float, end: float
) -> tuple[Estimate | Absent, str | Absent]:
    """Joules over seconds; its interval is that of the power readings, where there are any."""
    own = msgspec.structs.replace(sensors, series=(series,))
    used = energy.between(own, facts.began + start, facts.began + end)
    if isinstance(used, Absent):
        return used, used
    at, power = _column(facts, sensors, series.power_watts)
    inside = [value for moment, value in zip(at, power, strict=True) if start <= moment <= end]
    spread = stats.mean(inside) if len(inside) >= stats.BATCHES else None
    half = (spread.high - spread.low) / 2 if spread else 0.0
    watts = Estimate(
        value=used.watts,
        low=max(used.watts - half, 1e-3),
        high=used.watts + half,
        level=spread.level if spread else 0.0,
        method=f"energy over time ({used.method}), interval of the power readings' batch means",
        n=spread.n if spread else 1,
    )
    return watts, used.method


def _per_celsius(facts: Facts, at: list[float], celsius: list[float], absent: Absent | None) -> Estimate | Absent:
    if isinstance(facts.load, Absent) or absent:
        return facts.load if isinstance(facts.load, Absent) else absent or NO_LOAD
    pairs = _beside(facts, at, celsius)
    moved = max(celsius, default=0.0) - min(celsius, default=0.0)
    if moved < LEAST_RANGE_CELSIUS or len(pairs) < stats.BATCHES:
        return Absent(f"the temperature moved by {moved:.0f} °C only")
    level = stats.median([rate for _, rate in pairs])
    return stats.theil_sen([(x, rate / level) for x, rate in pairs])


def _per_clock(facts: Facts, sensors: Telemetry, series: SensorSeries) -> Estimate | Absent:
    if isinstance(facts.load, Absent) or isinstance(series.sm_clock_hertz, Absent):
        return facts.load if isinstance(facts.load, Absent) else series.sm_clock_hertz  # type: ignore[return-value]
    at, clocks = _column(facts, sensors, series.sm_clock_hertz)
    pairs = _beside(facts, at, clocks)
    usual = stats.median(clocks) if clocks else 0.0
    moved = (max(x for x, _ in pairs) - min(x for x, _ in pairs)) / usual if pairs and usual else 0.0
    if moved < LEAST_RANGE_CLOCK or len(pairs) < stats.BATCHES:
        return Absent(f"the clock moved by {moved:.1%} only")
    level = stats.median([rate for _, rate in pairs])
    return stats.theil_sen([(x / usual, rate / level) for x, rate in pairs])


def _beside(facts: Facts, at: list[float], values: list[float]) -> list[tuple[float, float]]:
    """(mean reading, throughput) of as many contiguous pieces of the load."""
    assert not isinstance(facts.load, Absent)
    ended, _ = windows(facts.load, facts.began)
    count = min(POINTS, len(ended) // FEWEST_WINDOWS)
    edges = [index * len(ended) // count for index in range(count + 1)] if count else []
    found = []
    for first, last in itertools.pairwise(edges):
        start, end = ended[first - 1] if first else 0.0, ended[last - 1]
        inside = [value for moment, value in zip(at, values, strict=True) if start <= moment <= end]
        if inside:
            work = facts.load.flop * sum(facts.load.products[first:last])
            found.append((math.fsum(inside) / len(inside), work / math.fsum(facts.load.seconds[first:last])))
    return found


def _missing(series: SensorSeries) -> dict[str, str]:
    columns = {said: getattr(series, name) for name, said in SENSORS.items()}
    if isinstance(series.power_watts, Absent):  # counted energy tells watts too
        columns["power"] = series.energy_joules
    return {said: column.reason for said, column in columns.items() if isinstance(column, Absent)}


def _notes(facts: Facts, sensors: Telemetry, series: SensorSeries) -> list[str]:
    found = frozen(sensors.at_seconds, series, facts.began, facts.ended)
    limit = facts.gpu.slowdown_celsius if facts.gpu else Absent("not a GPU")
    if isinstance(limit, Absent):
        return found
    at, celsius = _column(facts, sensors, series.temperature_celsius)
    hot = [(moment, value) for moment, value in zip(at, celsius, strict=True) if too_hot(value, limit)]
    if hot and isinstance(facts.load, Absent):
        found.append(f"a live soak would have been stopped after {hot[0][0]:.0f} s, at {hot[0][1]:.0f} °C")
    return found


def _faults(facts: Facts) -> list[str]:
    found = []
    if facts.lost:
        found.append(f"{facts.lost} after {facts.ended - facts.began:.0f} s of load; what it told before is kept")
    if not isinstance(facts.load, Absent):
        wrong = [check for check in facts.load.checks if not check.correct]
        if wrong:
            worst = max(check.largest_error_over_bound for check in wrong)
            count = f"{len(wrong)} of {len(facts.load.checks)} checked products were wrong"
            found.append(f"{count}, by up to {worst:.2g} times what rounding allows")
    return found
