"""How does one device's soak look on a screen: what held it down, its heat, its speed, and both over time?"""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.core.screen import plus_minus, spark
from rigbench.thermals.record import HeatCard, HeatFit, SteadyState, Thermals, Throttling
from rigbench.work.throttle import REASONS

CURES = {
    "sw_thermal": "more air (space between cards, dust, case fans, fan curve)",
    "hw_slowdown": "too hot, or its power is cut: check cooling, then cables and power supply, before any long run",
    "hw_thermal": "its cooling fails: check fans, paste, pads and airflow before any long run",
    "hw_power_brake": "its power is cut from outside: check power supply, cables and connectors before any long run",
}
STYLES = {"fault": "bold red", "warning": "yellow", "information": ""}
CHARTS = {  # unit, scale, and the least range that is drawn at full height: noise is no news
    "temperature_celsius": ("°C", 1.0, 2.0),
    "sm_clock_hertz": ("MHz", 1e-6, 50.0),
    "power_watts": ("W", 1.0, 20.0),
}
LEAST_RATE_RANGE = 0.05
CHART_ENDS = 17  # columns for a chart's first and last value and unit


Row = tuple[str, str, str]


def rows(result: Thermals, card: HeatCard, width: int) -> Iterator[Row]:
    """(label, text, style) of every line about a card, worst first; charts are `width` columns wide."""
    for fault in card.faults:
        yield "FAULT", fault, STYLES["fault"]
    for held in card.throttling:
        yield _held(held, card)
    yield from _heat(result, card)
    if isinstance(card.steady, SteadyState) and (said := _steady(card, card.steady)):
        yield "steady", said, ""
    yield from _speed(card)
    series = next((it for it in result.telemetry.series if it.device == card.name), None)
    if series is not None:
        yield from _charts(result, card, series, width)
    if card.missing:
        reasons: dict[str, list[str]] = {}
        for sensor, reason in card.missing.items():
            reasons.setdefault(reason, []).append(sensor)
        yield "missing", "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items()), "dim"
    for note in card.notes:
        yield "note", note, "yellow"


def _held(held: Throttling, card: HeatCard) -> Row:
    name = f"{REASONS.get(held.reason, held.reason)} ({held.bit:#x})"
    said = f"{name} {units.format_share(held.share)} of the time, first after {moment(held.first_seconds)}"
    costs = (("clock", held.clock_ratio), ("throughput", held.throughput_ratio))
    lower = [
        f"{what} {units.format_share(1 - ratio)} lower"
        for what, ratio in costs
        if isinstance(ratio, float) and ratio < 0.995
    ]
    said += f": {', '.join(lower)} meanwhile" if lower else ""
    cure = CURES.get(held.reason, "")
    if held.severity == "information":
        return "held", f"{said}; normal under load" if held.reason == "sw_power_cap" else said, ""
    if held.reason == "sw_thermal":
        cure += _cap(card)
    return (
        held.severity.upper() if held.severity == "fault" else "warning",
        f"{said}; cure: {cure}",
        STYLES[held.severity],
    )


def moment(seconds: float) -> str:
    """ "3 s", "1 min 40 s"; a fraction of a second only where it is one."""
    return (
        f"{seconds:.0f} s"
        if seconds < 59.5 and (seconds >= 10 or seconds == int(seconds))
        else units.format_seconds(seconds)
    )


def _cap(card: HeatCard) -> str:
    """A power limit near what the card draws when it is held: as fast, and the fans rest."""
    if isinstance(card.steady, Absent) or isinstance(card.steady.watts, Absent) or isinstance(card.index, Absent):
        return ""
    watts = round(card.steady.watts.value / 5) * 5
    lowest = card.power_limit_min_watts
    if isinstance(lowest, float) and watts < lowest:
        return ""
    return f", or about the watts that it can cool: sudo nvidia-smi -i {card.index} -pl {watts:g}"


def _heat(result: Thermals, card: HeatCard) -> Iterator[Row]:
    limits = [
        f"{what} {value:.0f}"
        for what, value in (("target", card.target_celsius), ("slows down at", card.slowdown_celsius))
        if isinstance(value, float)
    ]
    peak = f"; peak {card.peak_celsius:.0f} °C" if isinstance(card.peak_celsius, float) else ""
    around = peak + (f", {', '.join(limits)}" if limits else "")
    if isinstance(card.fit, HeatFit):
        yield "heat", _fit(card.fit) + _regulated(card, card.fit) + around, ""
    rise = card.rise_over_ambient_celsius
    if isinstance(rise, Estimate) and not isinstance(result.ambient_celsius, Absent):
        room = f"the room's {result.ambient_celsius.value:g} °C ({result.ambient_celsius.basis})"
        yield "rise", f"{rise.value:.1f} °C ({rise.low:.1f} to {rise.high:.1f}) over {room}", ""
    verdict = f"yes, the {card.settled.what}" if card.settled.settled else "no"
    yield "settled", f"{verdict}: {card.settled.because}", ""


def _regulated(card: HeatCard, fit: HeatFit) -> str:
    """A card at its target heads nowhere else: it slows down to stay there."""
    held = any(it.reason == "sw_thermal" for it in card.throttling)
    steady, target = fit.steady_celsius, card.target_celsius
    if not held or isinstance(steady, Absent) or isinstance(target, Absent) or abs(steady.value - target) > 1.0:
        return ""
    return ", its target: held there by slowing down"


def _fit(fit: HeatFit) -> str:
    if isinstance(fit.steady_celsius, Absent):
        return f"T∞ n/a ({fit.steady_celsius.reason})"
    steady, tau = fit.steady_celsius, fit.tau_seconds
    said = f"T∞ {steady.value:.1f} °C ({steady.low:.1f} to {steady.high:.1f})"
    if isinstance(tau, Estimate):
        said += f", tau {units.format_seconds(tau.value)} ({tau.low:.0f} to {tau.high:.0f})"
    else:
        said += f", tau n/a ({tau.reason})"
    if fit.trend:
        said += ", but the residuals show a trend"
    return f"{said}, from {units.format_seconds(fit.from_seconds)} on" if fit.from_seconds > 0 else said


def _steady(card: HeatCard, steady: SteadyState) -> str:
    limit = card.power_limit_watts
    parts = [
        f"{steady.temperature_celsius:.1f} °C" if isinstance(steady.temperature_celsius, float) else "",
        f"memory {steady.memory_temperature_celsius:.0f} °C"
        if isinstance(steady.memory_temperature_celsius, float)
        else "",
        f"fan {units.format_share(steady.fan_share)}" if isinstance(steady.fan_share, float) else "",
        units.format_watts(steady.watts.value) if isinstance(steady.watts, Estimate) else "",
        f"{steady.sm_clock_hertz / 1e6:,.0f} MHz" if isinstance(steady.sm_clock_hertz, float) else "",
    ]
    if parts[3]:
        of = f" of {units.format_watts(limit)}" if isinstance(limit, float) else ""
        parts[3] += f"{of} ({steady.watts_method})"
    known = [part for part in parts if part]
    length = moment(steady.to_seconds - steady.from_seconds)
    return f"last {length}: {', '.join(known)}" if known else ""


def _speed(card: HeatCard) -> Iterator[Row]:
    if isinstance(card.load, Absent):
        return
    if isinstance(card.hot, Absent):
        yield "speed", f"n/a ({card.hot.reason})", "dim"
        return
    rate = card.hot.flops_per_s
    said = f"hot {units.format_flops_per_s(rate.value)} {plus_minus(rate)}"
    change = card.hot_over_cold
    if isinstance(change, Estimate):
        said += f", {change.value:.3f} of cold ({change.low:.3f} to {change.high:.3f})"
    if isinstance(card.flop_per_joule, Estimate):
        said += f", {units.format_flop(card.flop_per_joule.value)} per joule"
    yield "speed", said, ""
    slopes = [
        f"{100 * it.value:+.2f} % {what} ({100 * it.low:+.2f} to {100 * it.high:+.2f})"
        for what, it in (("per °C", card.per_celsius), ("per % of clock", _percent(card.per_clock)))
        if isinstance(it, Estimate)
    ]
    if slopes:
        yield "", f"throughput over this load: {', '.join(slopes)}", "dim"


def _percent(per_clock: Estimate | Absent) -> Estimate | Absent:
    """Per one percent instead of per whole."""
    if isinstance(per_clock, Absent):
        return per_clock
    value, low, high = (it / 100 for it in (per_clock.value, per_clock.low, per_clock.high))
    return Estimate(value, low, high, per_clock.level, per_clock.method, per_clock.n)


def _charts(result: Thermals, card: HeatCard, series: SensorSeries, width: int) -> Iterator[Row]:
    began, ended = _span(card, result.telemetry)
    room = max(8, width - CHART_ENDS)
    for name, (unit, scale, least) in CHARTS.items():
        column = getattr(series, name)
        if isinstance(column, Absent):
            continue
        ticks = zip(result.telemetry.at_seconds, column, strict=True)
        points = [(at, value * scale) for at, value in ticks if began <= at <= ended and not isinstance(value, Absent)]
        if len(points) > 1:
            yield _chart(points, room, unit, began, ended, least)
    if not isinstance(card.load, Absent):
        load = card.load
        rates = [load.flop * n / took for n, took in zip(load.products, load.seconds, strict=True)]
        unit, scale = ("TFLOP/s", 1e-12) if max(rates, default=0.0) >= 1e12 else ("GFLOP/s", 1e-9)
        points = [(at, rate * scale) for at, rate in zip(load.ended_at_seconds, rates, strict=True)]
        if len(points) > 1:
            yield _chart(points, room, unit, began, ended, LEAST_RATE_RANGE * points[-1][1])


def _chart(points: list[tuple[float, float]], room: int, unit: str, began: float, ended: float, least: float) -> Row:
    first, last = (units.format_significant(value) for value in (points[0][1], points[-1][1]))
    return unit, f"{first:>6} {spark(points, room, began, ended, least)} {last}", ""


def _span(card: HeatCard, sensors: Telemetry) -> tuple[float, float]:
    if not isinstance(card.load, Absent):
        return card.load.began_at_seconds, card.load.ended_at_seconds[-1]
    start = sensors.at_seconds[0] if sensors.at_seconds else 0.0
    return start, start + card.loaded_seconds
