"""Shows a heat soak: the verdict, each device's heat, speed and charts, what held it down, where watts stop paying."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Telemetry
from rigbench.core.screen import (
    SEVERITY_STYLES,
    Fact,
    Headline,
    LivePicture,
    Mark,
    closing,
    grid,
    headline,
    if_known,
    known,
    listed,
    mapped,
    marked,
    of_limit,
    printable,
    span,
    spark,
    table,
)
from rigbench.thermals.record import HeatCard, HeatFit, PowerAdvice, PowerSteps, SteadyState, Thermals, Throttling
from rigbench.work.telemetry import REASONS

LABEL = 10  # columns
CHART_ENDS = 17  # columns for a chart's first and last value and unit
CHARTS = {  # unit, scale, and the least range that is drawn at full height: noise is no news
    "temperature_celsius": ("°C", 1.0, 2.0),
    "sm_clock_hertz": ("MHz", 1e-6, 50.0),
    "power_watts": ("W", 1.0, 20.0),
}
LEAST_RATE_RANGE = 0.05
CURES = {
    "sw_power_cap": "its own limit does not hold it: look for a server's cap, the supply, its cables",
    "sw_thermal": "more air (space between cards, dust, case fans, fan curve)",
    "hw_slowdown": "too hot, or its power is cut: check cooling, then cables and power supply, before any long run",
    "hw_thermal": "its cooling fails: check fans, paste, pads and airflow before any long run",
    "hw_power_brake": "its power is cut from outside: check power supply, cables and connectors before any long run",
}

Row = tuple[str, str, str]  # label, text, style
CHARTED = 2  # cards, of which a first screen has charts


def verdict(result: Thermals) -> Headline:
    """What is worst: a fault, a card that slows itself down, heat that is not over; else where it settles."""
    if not result.cards:
        return "warn", f"nothing was measured: {result.ended_because}"
    for card in result.cards:
        if card.faults:
            return "fault", f"{card.name}: {card.faults[0]}"
    if result.ended_by in ("safety stop", "sensors silent"):
        return "fault", f"stopped for the sake of the cards: {result.ended_because}"
    held = [(it, card) for card in result.cards for it in card.throttling if it.severity != "information"]
    if held:
        worst, card = min(held, key=lambda pair: (pair[0].severity != "fault", -pair[0].share))
        return ("fault" if worst.severity == "fault" else "warn"), _slowed(worst, card)
    if result.ended_by in ("interrupted", "worker died"):
        return "warn", f"ended before it was settled: {result.ended_because}"
    unsettled = [card for card in result.cards if not card.settled.settled and not _at_target(card)]
    if unsettled:
        after = moment(unsettled[0].loaded_seconds)
        return (
            "note",
            f"{listed([it.name for it in unsettled])} had not settled after {after}: {unsettled[0].settled.because}",
        )
    ends = [it.fit.steady_celsius for it in result.cards if isinstance(it.fit, HeatFit)]
    celsius = sorted({f"{end.value:.0f}" for end in ends if isinstance(end, Estimate)}, key=float)
    names = listed([card.name for card in result.cards])
    if not celsius:
        return "ok", f"{names} settled in throughput, and no temperature can be read"
    verb = "settles" if len(result.cards) == 1 else "settle"
    return "ok", f"{names} {verb} at {' to '.join(dict.fromkeys((celsius[0], celsius[-1])))} °C, and nothing slows down"


def _slowed(held: Throttling, card: HeatCard) -> str:
    """ "GPU1 slows itself down at 84 °C, 58 % of the time, its clock 13 % lower"."""
    steady = card.steady
    at = "" if isinstance(steady, Absent) else if_known(mapped(steady.temperature_celsius, "{:.0f} °C".format))
    how = f"slows itself down{at and f' at {at}'}" if held.reason == "sw_thermal" else "is slowed down"
    why = "" if held.reason == "sw_thermal" else f" by {REASONS.get(held.reason, held.reason)}{_watts(held, card)}"
    lower = _lower(held)
    return f"{card.name} {how}{why}, {units.format_share(held.share)} of the time{lower and f', {lower} lower'}"


def _lower(held: Throttling) -> str:
    """ "its clock 13 %": what is lower meanwhile."""
    ratios = (("its clock", held.clock_ratio), ("its throughput", held.throughput_ratio))
    return ", ".join(
        f"{what} {units.format_share(1 - ratio)}"
        for what, ratio in ratios
        if isinstance(ratio, float) and ratio < 0.995
    )


def _cost(held: Throttling) -> str:
    """In time, by the throughput where it was measured, else at most by the clock."""
    if isinstance(held.throughput_ratio, float) and held.throughput_ratio < 0.995:
        return f"work takes {units.format_share(1 / held.throughput_ratio - 1)} longer meanwhile"
    if isinstance(held.clock_ratio, float) and held.clock_ratio < 0.995:
        return f"work that follows the clock takes {units.format_share(1 / held.clock_ratio - 1)} longer meanwhile"
    return ""


def brief(result: Thermals | PowerSteps, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    if isinstance(result, PowerSteps):
        _show_steps(result, console)
        return
    headline("thermals", verdict(result), console)
    if not result.cards:
        return
    loads = any(not isinstance(card.load, Absent) for card in result.cards)
    headings = ("card", ">°C", ">settles at", ">target", ">W", ">limit", ">MHz", ">fan", ">hot ÷ cold")
    rows = [_card(card) for card in result.cards]
    shown = [place for place, _ in enumerate(headings) if not place or any(row[place] for row in rows)]
    console.print(table([headings[place] for place in shown], [[row[place] for place in shown] for row in rows]))
    if quiet:
        return
    said = verdict(result)[1]
    marked([it for it in _odd(result, said) if it[1] not in said], console)
    if len(result.cards) <= CHARTED:
        room = console.width - LABEL - 1
        charts = ((card, row) for card in result.cards for row in _charts(result.telemetry, card, room))
        for card, (unit, line, _) in charts:
            if unit in ("°C", "MHz"):
                console.print(Text(f"  {card.name:<5} {unit:<3}{line}"))
    if isinstance(result.power, PowerAdvice):
        marked([("note", result.power.sentence)], console)
    where = "" if loads else "; `rigbench thermals` on the rig itself shows that too"
    closing(f"{_what(result)}{where}", f"rigbench report {run_id} thermals has the fits and every chart", console)


def _card(card: HeatCard) -> tuple[str, ...]:
    """What it was like at the end, and what it may be."""
    steady, end = card.steady, card.fit.steady_celsius if isinstance(card.fit, HeatFit) else card.fit
    end = Absent("it may go on") if _may_go_on(card) else end

    def at_end(name: str, shown: Callable[[float], str]) -> str:
        value = steady if isinstance(steady, Absent) else getattr(steady, name)
        return if_known(mapped(value.value if isinstance(value, Estimate) else value, shown))

    return (
        card.name,
        at_end("temperature_celsius", "{:.0f}".format),
        "" if isinstance(end, Absent) else f"{end.value:.1f} ({end.low:.1f} to {end.high:.1f})",
        if_known(mapped(card.target_celsius, "{:.0f}".format)),
        at_end("watts", "{:.0f}".format),
        if_known(mapped(card.power_limit_watts, "{:.0f}".format)),
        at_end("sm_clock_hertz", lambda hertz: f"{hertz / 1e6:,.0f}"),
        at_end("fan_share", units.format_share),
        f"{card.hot_over_cold.value:.3f} ({card.hot_over_cold.low:.3f} to {card.hot_over_cold.high:.3f})"
        if isinstance(card.hot_over_cold, Estimate)
        else "",
    )


def _odd(result: Thermals, said: str) -> Iterator[Headline]:
    limited = []
    for card in result.cards:
        yield from (("fault", f"{card.name}: {fault}") for fault in card.faults)
        for it in card.throttling:
            if it.severity == "information":
                limited += [f"{card.name} {units.format_share(it.share)}"] if it.reason == "sw_power_cap" else []
                continue
            mark: Mark = "fault" if it.severity == "fault" else "warn"
            cure = CURES.get(it.reason, "") + (_cap(card) if it.reason == "sw_thermal" else "")
            cost = _cost(it)
            first = f"{REASONS.get(it.reason, it.reason)}{_watts(it, card)}, first after {moment(it.first_seconds)}"
            waits = ", and cards that train in step wait for it" if len(result.cards) > 1 and cost else ""
            yield mark, f"{card.name}: {first}{cost and f'; {cost}{waits}'}; cure: {cure}"
        if not card.settled.settled and not _at_target(card) and card.settled.because not in said:
            yield "note", f"{card.name} is not settled: {card.settled.because}"
    if limited:
        yield "note", f"at the power limit, as is normal under load: {', '.join(limited)} of the time"
    if not isinstance(result.hottest, Absent) and not isinstance(result.spread_celsius, Absent):
        coolest = "the other" if len(result.cards) == 2 else "the coolest"
        if result.spread_celsius >= 1:
            yield "note", f"{result.hottest} is the hottest, {result.spread_celsius:.0f} °C above {coolest}"
    yield from (("note", note) for note in result.notes)


def _may_go_on(card: HeatCard) -> bool:
    """Its curve ends somewhere, and yet more may follow: it slopes still, or is no single exponential."""
    trend = isinstance(card.fit, HeatFit) and card.fit.trend
    return not (card.settled.settled or _at_target(card)) and (trend or isinstance(card.settled.left, float))


def _at_target(card: HeatCard) -> bool:
    """It slows down to stay at its target, and so heads nowhere else."""
    end = card.fit.steady_celsius if isinstance(card.fit, HeatFit) else card.fit
    held = any(it.reason == "sw_thermal" for it in card.throttling)
    return (
        held
        and isinstance(end, Estimate)
        and isinstance(card.target_celsius, float)
        and abs(end.value - card.target_celsius) <= 1.0
    )


def _show_steps(result: PowerSteps, console: Console) -> None:
    count, planned = len(result.steps), len(result.planned)
    devices = result.devices[0] if len(result.devices) == 1 else f"{len(result.devices)} devices together"
    still = sum(not step.pulses for step in result.steps)
    if result.ended_by == "finished" and still:
        its: Headline = "warn", f"{devices} did not come to full in {still} of {planned} rhythms: nothing is proven"
    elif result.ended_by == "finished":
        its = "ok", f"{devices} went from idle to full and back in all {planned} rhythms, and nothing gave in"
    else:
        mark: Mark = "fault" if result.failed else "warn"
        its = mark, f"ended in rhythm {count} of {planned}: {result.ended_because}"
    headline("power steps", its, console)
    rows = [
        [f"every {step.period_seconds:g} s", str(step.pulses), units.format_seconds(step.seconds)]
        + [
            units.format_watts(watts) if not isinstance(watts, Absent) else "n/a"
            for watts in (step.lowest_watts, step.highest_watts)
        ]
        for step in result.steps
    ]
    console.print(table(["idle to full", ">times", ">in", ">W from", ">to"], rows))
    console.print(
        grid([("watts", "of all cards together, as their sensors report, which average: the true steps are sharper")])
    )


def show(result: Thermals | PowerSteps, console: Console) -> None:
    """One screen for two cards: what their owner needs to know, worst first."""
    if isinstance(result, PowerSteps):
        _show_steps(result, console)
        return

    def wrapped(text: str, style: str) -> None:
        for line in textwrap.wrap(printable(text), console.width, subsequent_indent="    "):
            console.print(Text(line, style=style))

    wrapped(_what(result), "italic")
    wrapped(_verdict(result), "bold")
    for card in result.cards:
        console.print(Text.assemble((card.name, "bold"), f"  {printable(card.device_name)}"))
        room = max(20, console.width - LABEL - 1)
        for label, text, style in _rows(result, card, room):
            for index, line in enumerate(textwrap.wrap(printable(text), room)):
                head = f"  {'' if index else label}".ljust(LABEL)
                console.print(Text.assemble((head, "dim"), " ", (line, style)))
    for note in result.notes:
        wrapped(f"  note: {note}", "yellow")
    if isinstance(result.power, PowerAdvice):
        for text, style in _advice(result.power):
            wrapped(text, style)
    elif not result.replayed:
        wrapped(f"power advice: n/a ({result.power.reason})", "dim")


def _what(result: Thermals) -> str:
    if result.replayed:
        steps = len(result.telemetry.at_seconds)
        each = moment(result.telemetry.period_seconds)
        readings = f"{steps} readings, taken as {each} apart" if steps > 1 else "one reading"
        return f"thermals of a recording: {readings}; no load was run, so no throughput"
    loads = [card.load for card in result.cards if not isinstance(card.load, Absent)]
    if not loads:
        return "thermals: no device was loaded"
    devices = f"{len(loads)} GPUs at once" if len(loads) > 1 else loads[0].device.kind
    product = f"{loads[0].dtype} {loads[0].m}×{loads[0].n}×{loads[0].k}"
    label = "" if isinstance(result.label, Absent) else f", label {result.label}"
    longest = max(card.loaded_seconds for card in result.cards)
    return f"thermals on {devices}: {product} products for {units.format_seconds(longest)}{label}"


def _verdict(result: Thermals) -> str:
    """Whether it is over, and which card is the one to look at."""
    if not result.cards:
        return f"nothing was measured: {result.ended_because}"
    text = ""
    for severity in ("fault", "warning"):
        names = [
            card.name
            for card in result.cards
            if any(it.severity == severity for it in card.throttling) or (card.faults and severity == "fault")
        ]
        text += f"{severity.upper()} on {', '.join(names)}; " if names else ""
    unsettled = [card.name for card in result.cards if not card.settled.settled and not _at_target(card)]
    if result.ended_by in ("safety stop", "sensors silent", "worker died", "interrupted"):
        text += f"{result.ended_by.upper()}: {result.ended_because}"
    elif unsettled:
        text += "not settled" + (f" ({', '.join(unsettled)})" if len(unsettled) < len(result.cards) else "")
    else:
        blind = {card.settled.what for card in result.cards} == {"throughput"}
        text += f"settled{', in throughput: no temperature can be read' if blind else ''}"
    if isinstance(result.hottest, Absent) or isinstance(result.spread_celsius, Absent):
        return text
    if result.spread_celsius < 1:
        return f"{text}; all within 1 °C of each other"
    coolest = "the other" if len(result.cards) == 2 else "the coolest"
    return f"{text}; {result.hottest} is the hottest, {result.spread_celsius:.0f} °C above {coolest}"


def _rows(result: Thermals, card: HeatCard, width: int) -> Iterator[Row]:
    """Every line about a card, worst first; charts are `width` columns wide."""
    for fault in card.faults:
        yield "FAULT", fault, SEVERITY_STYLES["fault"]
    for held in card.throttling:
        yield _held(held, card)
    yield from _heat(result, card)
    if isinstance(card.steady, SteadyState) and (steady := _steady(card, card.steady)):
        yield ("steady" if card.settled.settled or _at_target(card) else "so far"), steady, ""
    yield from _speed(card)
    yield from _charts(result.telemetry, card, width)
    reasons: dict[str, list[str]] = {}
    for sensor, reason in card.missing.items():
        reasons.setdefault(reason, []).append(sensor)
    if reasons:
        yield "missing", "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items()), "dim"
    for note in card.notes:
        yield "note", note, "yellow"


def _watts(held: Throttling, card: HeatCard) -> str:
    of = if_known(of_limit(held.watts, card.power_limit_watts, units.format_watts))
    return f" at {of}" if held.reason == "sw_power_cap" else ""


def _held(held: Throttling, card: HeatCard) -> Row:
    name = f"{REASONS.get(held.reason, held.reason)} ({held.bit:#x})"
    text = f"{name} {units.format_share(held.share)} of the time, first after {moment(held.first_seconds)}"
    lower = [
        f"{what} {units.format_share(1 - ratio)} lower"
        for what, ratio in (("clock", held.clock_ratio), ("throughput", held.throughput_ratio))
        if isinstance(ratio, float) and ratio < 0.995
    ]
    text += f": {', '.join(lower)} meanwhile" if lower else ""
    if held.severity == "information":
        return "slowed", f"{text}; normal under load" if held.reason == "sw_power_cap" else text, ""
    text += f",{watts}" if (watts := _watts(held, card)) else ""
    cure = CURES.get(held.reason, "") + (_cap(card) if held.reason == "sw_thermal" else "")
    label = held.severity.upper() if held.severity == "fault" else held.severity
    return label, f"{text}; cure: {cure}", SEVERITY_STYLES[held.severity]


def moment(seconds: float) -> str:
    """ "3 s", "1 min 40 s"; a fraction of a second only where it is one."""
    whole = seconds < 59.5 and (seconds >= 10 or seconds == int(seconds))
    return f"{seconds:.0f} s" if whole else units.format_seconds(seconds)


def _cap(card: HeatCard) -> str:
    """A power limit near what the card draws when it is held: as fast, and the fans rest."""
    if isinstance(card.steady, Absent) or isinstance(card.steady.watts, Absent) or isinstance(card.index, Absent):
        return ""
    watts, lowest = round(card.steady.watts.value / 5) * 5, card.power_limit_min_watts
    if isinstance(lowest, float) and watts < lowest:
        return ""
    limit = f"sudo nvidia-smi -i {card.index} -pl {watts:g}"
    return f", or about the watts that it can cool, no slower than now: {limit}"


def _heat(result: Thermals, card: HeatCard) -> Iterator[Row]:
    if isinstance(card.fit, HeatFit):
        around = f"; peak {card.peak_celsius:.0f} °C" if isinstance(card.peak_celsius, float) else ""
        for what, limit in (("target", card.target_celsius), ("slows down at", card.slowdown_celsius)):
            around += f", {what} {limit:.0f}" if isinstance(limit, float) else ""
        yield "heat", _before(result.telemetry, card, card.fit) + _fit(card, card.fit) + around, ""
    rise = card.rise_over_ambient_celsius
    if isinstance(rise, Estimate) and not isinstance(result.ambient_celsius, Absent):
        room = f"the room's {result.ambient_celsius.value:g} °C ({result.ambient_celsius.basis})"
        so_far = " so far" if _may_go_on(card) else ""
        yield "rise", f"{rise.value:.1f} °C ({rise.low:.1f} to {rise.high:.1f}) over {room}{so_far}", ""
    if _at_target(card):
        yield "settled", "yes: it keeps its target temperature by slowing down", ""
        return
    settled = f"yes, the {card.settled.what}" if card.settled.settled else "no"
    yield "settled", f"{settled}: {card.settled.because}", ""


def _before(sensors: Telemetry, card: HeatCard, fit: HeatFit) -> str:
    """ "35 to 58 °C in the first 7.55 s, then ": what the fit leaves out, faster than what followed."""
    if fit.from_seconds < 1:
        return ""
    points = _under_load(sensors, card, "temperature_celsius")
    ends = [value for at, value in points if at <= fit.from_seconds]
    rose = f"{ends[0]:.0f} to {ends[-1]:.0f} °C in" if ends else "after"
    return f"{rose} the first {units.format_seconds(fit.from_seconds)}, then "


def _under_load(sensors: Telemetry, card: HeatCard, name: str) -> list[tuple[float, float]]:
    """(seconds since the load began, reading)."""
    series = next((it for it in sensors.series if it.device == card.name), None)
    column = getattr(series, name, Absent("not sampled"))
    ticks = [] if isinstance(column, Absent) else list(zip(sensors.at_seconds, column, strict=True))
    began = next((at for at, _ in ticks), 0.0) if isinstance(card.load, Absent) else card.load.began_at_seconds
    inside = [(at - began, value) for at, value in ticks if not isinstance(value, Absent)]
    return [(at, value) for at, value in inside if 0 <= at <= card.loaded_seconds]


def _fit(card: HeatCard, fit: HeatFit) -> str:
    steady, tau = fit.steady_celsius, fit.tau_seconds
    if isinstance(steady, Absent):
        return f"settles at n/a ({steady.reason})"
    end = f"{steady.value:.1f} °C ({steady.low:.1f} to {steady.high:.1f})"
    if card.settled.settled or _at_target(card):
        text = f"settles at {end}"
    elif isinstance(tau, Estimate):
        text = f"heads for {end}{' unless more follows' if _may_go_on(card) else ''}"
    else:
        text = f"{end} so far"
    if isinstance(tau, Estimate):
        text += f", time constant {units.format_seconds(tau.value)} ({tau.low:.0f} to {tau.high:.0f})"
    else:
        text += f", time constant n/a ({tau.reason})"
    if fit.trend:
        text += ", but the residuals show a trend"
    if _at_target(card):
        text += ", its target, which it keeps by slowing down"
    return text


def _steady(card: HeatCard, steady: SteadyState) -> str:
    watts = steady.watts if isinstance(steady.watts, Absent) else steady.watts.value
    power = of_limit(watts, card.power_limit_watts, units.format_watts)
    facts: list[Fact] = [
        ("temperature", mapped(steady.temperature_celsius, lambda celsius: f"{celsius:.1f} °C")),
        ("memory", mapped(steady.memory_temperature_celsius, lambda celsius: f"memory {celsius:.0f} °C")),
        ("fan", mapped(steady.fan_share, lambda share: f"fan {units.format_share(share)}")),
        ("power", mapped(power, lambda text: f"{text} ({steady.watts_method})")),
        ("clock", mapped(steady.sm_clock_hertz, lambda hertz: f"{hertz / 1e6:,.0f} MHz")),
    ]
    text = known(facts)
    return f"last {moment(steady.to_seconds - steady.from_seconds)}: {text}" if text else ""


def _speed(card: HeatCard) -> Iterator[Row]:
    if isinstance(card.load, Absent):
        return
    if isinstance(card.hot, Absent):
        yield "speed", f"n/a ({card.hot.reason})", "dim"
        return
    rate, change = card.hot.flops_per_s, card.hot_over_cold
    text = f"hot {span(rate, 'FLOP/s')}"
    if isinstance(change, Estimate):
        text += f", {change.value:.3f} of cold ({change.low:.3f} to {change.high:.3f})"
    if isinstance(card.flop_per_joule, Estimate):
        text += f", {units.format_flop(card.flop_per_joule.value)} per joule"
    yield "speed", text, ""
    slopes = [
        f"{scale * it.value:+.2f} % {what} ({scale * it.low:+.2f} to {scale * it.high:+.2f})"
        if it.low * it.high > 0
        else f"nothing certain {what} ({scale * it.low:+.2f} to {scale * it.high:+.2f} %)"
        for what, scale, it in (("per °C", 100.0, card.per_celsius), ("per % of clock", 1.0, card.per_clock))
        if isinstance(it, Estimate)
    ]
    if slopes:
        yield "", f"throughput over this load: {', '.join(slopes)}", "dim"


def _charts(sensors: Telemetry, card: HeatCard, width: int) -> Iterator[Row]:
    def chart(points: list[tuple[float, float]], unit: str, least: float) -> Iterator[Row]:
        if len(points) > 1:
            first, last = (units.format_significant(value) for value in (points[0][1], points[-1][1]))
            line = spark(points, max(8, width - CHART_ENDS), 0.0, card.loaded_seconds, least)
            yield unit, f"{first:>6} {line} {last}", ""

    for name, (unit, scale, least) in CHARTS.items():
        points = [(at, value * scale) for at, value in _under_load(sensors, card, name)]
        yield from chart(points, unit, least)
    if not isinstance(card.load, Absent):
        rates = card.load.flops_per_s
        unit, scale = ("TFLOP/s", 1e-12) if max(rates, default=0.0) >= 1e12 else ("GFLOP/s", 1e-9)
        points = [(at, rate * scale) for at, rate in zip(card.load.elapsed_seconds, rates, strict=True)]
        yield from chart(points, unit, LEAST_RATE_RANGE * points[-1][1])


def _advice(advice: PowerAdvice) -> Iterator[tuple[str, str]]:
    yield "throughput per watt, from the newest run of each label", "bold"
    best = max(point.flops_per_s.value / point.watts for point in advice.points)
    for point in advice.points:
        per_watt = point.flops_per_s.value / point.watts
        mark = "  best" if point.label == advice.knee else "  as good" if point.label in advice.plateau else ""
        rate, watts = units.format_flops_per_s(point.flops_per_s.value), units.format_watts(point.watts)
        share = units.format_share(per_watt / best)
        yield f"  {point.label:<8} {watts:>8}  {rate:>14}  {units.format_flop(per_watt)} per joule, {share}{mark}", ""
    yield f"  {advice.sentence}", ""
    for command in advice.commands:
        yield f"  to set it (rigbench does not): {command}", ""


# ---- The picture while a soak runs: a few small charts per device on a terminal

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]  # per device and reading, moments and values so far

NAMES: dict[str, Callable[[float], str]] = {
    "temperature": lambda value: f"{value:.0f} °C",
    "clock": lambda value: f"{value / 1e6:,.0f} MHz",
    "power": units.format_watts,
    "throughput": units.format_flops_per_s,
}
CURVE_LABEL, VALUE = 13, 14  # columns


class Display(LivePicture):
    def __call__(self, elapsed_seconds: float, planned_seconds: float, curves: Curves) -> None:
        self.draw(frame(elapsed_seconds, planned_seconds, curves, self.console.width))


def frame(elapsed_seconds: float, planned_seconds: float, curves: Curves, width: int) -> Text:
    """One picture: a line per reading of each device, its last value and how it came there."""
    if not elapsed_seconds:
        return Text("heat test: loading torch"[:width])
    head = f"heat test {units.format_seconds(elapsed_seconds)} of at most {units.format_seconds(planned_seconds)}"
    lines = [f"{head}; Ctrl-C keeps what there is" if width >= 60 else head]
    room = width - CURVE_LABEL - VALUE - 1
    for device, readings in curves.items():
        moments = [at for points in readings.values() for at, _ in points]
        drawn = []
        for name, shown in NAMES.items():
            if points := readings.get(name, []):
                chart = spark(points, room, min(moments), max(moments)) if room >= 4 else ""
                drawn.append(f"  {name:<{CURVE_LABEL - 2}}{shown(points[-1][1]):>{VALUE}} {chart}".rstrip())
        lines += [device, *(drawn or ["  no sensor answers yet"])]
    return Text("\n".join(line[:width] for line in lines), no_wrap=True)
