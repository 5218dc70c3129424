"""Finds what heat and power do to cards under load: by a heat test, or by what the driver said while they worked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rigbench.core import profiles, stats, units
from rigbench.core.finding import Cost, Finding, Severity, cost, finding
from rigbench.core.record import Absent, Column, Figure, SensorSeries, Telemetry
from rigbench.thermals.record import HeatCard, Throttling
from rigbench.thermals.verdict import LOST, POWER_CAP
from rigbench.work.telemetry import REASONS

THERMAL = 0x20 | 0x40 | 0x8
HOT_SHARE = 1 / 3  # of a load: its end, as steady as it will be
ODD_CELSIUS, ODD_CLOCK = 10.0, 0.95  # over the coolest of alike cards; of the fastest one's clock
CLOCKS = "clocks of the driver while the cards worked"


class Card(NamedTuple):
    """One card under load: what was made of its readings, and the readings."""

    heat: HeatCard
    series: SensorSeries
    start: int  # ticks of the load: from the first to before the last
    end: int

    def ticks(self, column: Column, without: int = 0) -> list[float]:
        """Readings of the ticks that have none of the bits of `without`."""
        flags = self.series.throttle_bits
        if isinstance(column, Absent):
            return []
        chosen = []
        for place in range(self.start, self.end):
            flag = 0 if isinstance(flags, Absent) else flags[place]
            flag = 0 if isinstance(flag, Absent) else flag
            value = column[place]
            if not isinstance(value, Absent) and not flag & without:
                chosen.append(value)
        return chosen

    def last(self, column: Column) -> float | None:
        """The median over the end of the load."""
        values = self.ticks(column)
        return stats.median(values[-max(1, round(HOT_SHARE * len(values))) :]) if values else None


def _cards(heat: Sequence[HeatCard], sensors: Telemetry) -> list[Card]:
    found = []
    for it in heat:
        series = next((one for one in sensors.series if one.device == it.name), None)
        if series is None:
            continue
        load = it.load
        began = sensors.at_seconds[0] if isinstance(load, Absent) and sensors.at_seconds else 0.0
        if not isinstance(load, Absent):
            began = load.began_at_seconds
        inside = [n for n, at in enumerate(sensors.at_seconds) if began <= at <= began + it.loaded_seconds + 1e-9]
        if inside:
            found.append(Card(it, series, inside[0], inside[-1] + 1))
    return found


def diagnose(heat: Sequence[HeatCard], sensors: Telemetry) -> Iterator[Finding]:
    """Every finding of cards under the same load, by what was made of their sensors' readings, and by these."""
    cards = _cards(heat, sensors)
    held: list[str] = []
    for card in cards:
        found = list(_held(card, cards))
        held += [card.heat.name] * bool(found)
        yield from found
        yield from _cap_below_limit(card)
        for line in card.heat.faults:  # its words, of what happened under the load
            code = "gpu-lost" if line.startswith(LOST.reason) else "matmul-wrong"
            yield finding(code, "fault", [line], [card.heat.name], "all of it")
    yield from _odd(cards, held)


def _held(card: Card, cards: Sequence[Card]) -> Iterator[Finding]:
    """What the card's driver or hardware did to its clocks, all reasons together."""
    reasons = [it for it in card.heat.throttling if it.severity != "information" and it.bit != POWER_CAP]
    if not reasons:
        return
    heat, fault = card.heat, any(it.severity == "fault" for it in reasons)
    celsius = card.last(card.series.temperature_celsius)
    at = "" if celsius is None else f" at {celsius:.0f} °C"
    evidence = [_share(it, len(card.ticks(card.series.sm_clock_hertz))) for it in reasons]
    if celsius is not None:
        limits = (("its target", heat.target_celsius), ("slows down at", heat.slowdown_celsius))
        told = [f"{name} {value:g}" for name, value in limits if not isinstance(value, Absent)]
        evidence.append(f"{celsius:.0f} °C{', ' if told else ''}{', '.join(told)}")
    price = _clock_cost(card, cards)
    if isinstance(price, Cost):
        evidence.append(price.sentence)
    if hotter := _hotter(card, cards):
        evidence.append(hotter)
    fan = card.last(card.series.fan_share)
    if fan is not None:
        evidence.append(f"fan {units.format_share(fan)}")
    names = " and ".join(REASONS.get(it.reason, it.reason) for it in reasons)
    share = max(it.share for it in reasons)
    parts = [f"{units.format_share(share)} of the time"] if _several(card) else []
    if isinstance(price, Cost):
        when = " on average" if "on average" in price.sentence else " at the end" if _several(card) else ""
        parts.append(f"clock −{units.format_share(1 - price.now.value / price.possible.value)}{when}")
    short = f"slowed down by {names}{at}" if fault else f"slows itself down{at}"
    detail = ", ".join(parts + [hotter] * bool(hotter and fault))
    do = "stop; check cooling, power cables, supply" if fault else ""
    yield finding("throttled", "fault" if fault else "warning", evidence, [heat.name], price, (), short, detail, do)


def _several(card: Card) -> bool:
    return card.end - card.start > 1


def _share(its: Throttling, ticks: int) -> str:
    name = f"{REASONS.get(its.reason, its.reason)} ({its.bit:#x})"
    return f"{name} {units.format_share(its.share)} of the time under load" if ticks > 1 else f"{name} under load"


def _hotter(card: Card, cards: Sequence[Card]) -> str:
    """Beside the coolest of the others, where that is far."""
    own = card.last(card.series.temperature_celsius)
    others = {it.heat.name: it.last(it.series.temperature_celsius) for it in cards if it is not card}
    known = {name: value for name, value in others.items() if value is not None}
    if own is None or not known:
        return ""
    coolest = min(known, key=lambda name: known[name])
    difference = own - known[coolest]
    return f"{difference:.0f} °C hotter than {coolest}" if difference >= ODD_CELSIUS else ""


def _clock_cost(card: Card, cards: Sequence[Card]) -> Cost | str:
    """The clock at the end of the load beside what it was when nothing held it, else beside an alike card's.

    The lower end is the alike card's own clock, which heat and its power limit brought down too.
    """
    clocks = card.series.sm_clock_hertz
    now = card.last(clocks)
    if now is None:
        return "the clock was not read"
    free = card.ticks(clocks, without=THERMAL | POWER_CAP)
    own = stats.median(free) if free else None
    alike = [it for it in cards if it is not card and it.heat.device_name == card.heat.device_name]
    others = {it.heat.name: clock for it in alike if (clock := it.last(it.series.sm_clock_hertz))}
    best = max(others, key=lambda name: others[name], default="")
    known = [clock for clock in (own, others.get(best)) if clock and clock > now]
    held = [it for it in card.heat.throttling if it.severity != "information" and it.bit != POWER_CAP]
    worst = max(held, key=lambda it: it.share, default=None)
    if not known and own and worst and isinstance(worst.clock_ratio, float) and worst.clock_ratio < 1:
        mean = own * (1 - worst.share * (1 - worst.clock_ratio))  # over the load, since it came and went
        sentence = (
            f"{_mhz(own * worst.clock_ratio)} while it was slowed down, {_mhz(own)} else: {_mhz(mean)} on average"
        )
        return cost(sentence, "hertz", mean, own, CLOCKS, "measured")
    if not known:
        return "what its clock would be is not known: it was slowed down all the time, and no other card is there"
    possible, low = max(known), min(known)
    where = f"{best} runs at {_mhz(others[best])}" if best and others[best] > now else ""
    alone = f"{_mhz(own)} while nothing slowed it down" if own and own > now else ""
    basis = ", ".join(part for part in (alone, where) if part)
    unheld = Figure(possible, "measured", CLOCKS, low, possible)
    return Cost(f"{_mhz(now)} at the end of the load; {basis}", "hertz", Figure(now, "measured", CLOCKS), unheld)


def _mhz(hertz: float) -> str:
    return f"{hertz / 1e6:,.0f} MHz"


def _cap_below_limit(card: Card) -> Iterator[Finding]:
    """The power cap's bit most of the time, at watts far from the limit: something else holds it."""
    limit = card.heat.power_limit_watts
    capped = next((it for it in card.heat.throttling if it.bit == POWER_CAP and it.severity == "warning"), None)
    if isinstance(limit, Absent) or capped is None or isinstance(capped.watts, Absent):
        return
    drawn = capped.watts
    now, full = units.format_watts(drawn), units.format_watts(limit)
    clock = card.last(card.series.sm_clock_hertz)
    evidence = [f"limited by its power cap (0x4) at {now}, {units.format_share(drawn / limit)} of its limit of {full}"]
    if clock is not None:
        evidence.append(f"its clock is {_mhz(clock)} meanwhile")
    if (celsius := card.last(card.series.temperature_celsius)) is not None:
        evidence.append(f"{celsius:.0f} °C: it is not the heat")
    price = "its clock was not read" if clock is None else _with_full_power(card, limit / drawn, clock)
    commands = [f"nvidia-smi -q -d POWER,PERFORMANCE -i {card.heat.index}"]
    detail = f"{now} of {full}" + (f", {_mhz(clock)}" if clock is not None else "")
    yield finding("power-cap-low", "warning", evidence, [card.heat.name], price, commands, "", detail)


def _with_full_power(card: Card, times: float, clock: float) -> Cost:
    """What so many times the watts would give: power rises with the clock at least in proportion, and at most with its
    cube (CMOS, dynamic power f·V²; the voltage rises with it). Never above the datasheet's boost clock.
    """
    low, high = clock * times ** (1 / 3), clock * times
    profile = profiles.match_gpu(None, card.heat.device_name, None)
    boost = profile if isinstance(profile, Absent) else profiles.gpu(profile).figure("boost_clock_mhz", 1e6)
    if not isinstance(boost, Absent):
        high = max(low, min(high, boost.value))
    possible = Figure((low * high) ** 0.5, "predicted", "watts as the clock to as its cube", low, high)
    sentence = f"{_mhz(clock)}; with its full power {_mhz(low)} to {_mhz(high)}"
    return Cost(sentence, "hertz", Figure(clock, "measured", CLOCKS), possible)


def _odd(cards: Sequence[Card], held: Sequence[str]) -> Iterator[Finding]:
    """Of alike cards under the same load the one that is much hotter or slower, unless it is held down anyway."""
    kinds: dict[str, list[Card]] = {}
    for card in cards:
        kinds.setdefault(card.heat.device_name, []).append(card)
    for alike in kinds.values():
        heat = {it.heat.name: value for it in alike if (value := it.last(it.series.temperature_celsius)) is not None}
        clocks = {it.heat.name: value for it in alike if (value := it.last(it.series.sm_clock_hertz)) is not None}
        for card in alike:
            name, evidence = card.heat.name, []
            if name in held or len(alike) < 2:
                continue
            if name in heat and heat[name] - min(heat.values()) >= ODD_CELSIUS:
                coolest = min(heat, key=lambda it: heat[it])
                evidence.append(f"{heat[name]:.0f} °C, {heat[name] - heat[coolest]:.0f} °C hotter than {coolest}")
            price: Cost | str = "nothing in speed as long as its clock holds"
            if name in clocks and clocks[name] < ODD_CLOCK * max(clocks.values()):
                fastest = max(clocks, key=lambda it: clocks[it])
                sentence = f"{_mhz(clocks[name])}, {fastest} runs at {_mhz(clocks[fastest])}"
                evidence.append(sentence)
                price = cost(sentence, "hertz", clocks[name], clocks[fastest], CLOCKS, "measured")
            if evidence:
                severity: Severity = "warning" if isinstance(price, Cost) else "information"
                yield finding("odd-card", severity, evidence, [name], price)
