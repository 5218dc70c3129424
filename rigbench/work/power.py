"""The watts of a run, at the wall where enough is known: read, declared and split by part; their kWh and money."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Literal

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Carbon, Column, Energy, Figure, Price
from rigbench.train.record import AnySlice
from rigbench.work.record import NO_RATING, NOTHING_DECLARED, Power, PowerPart, PsuHeadroom, WattOptions

NO_WATTS = Absent("no watt reading on this machine and none declared; give --wall-watts W")
HOST_ALONE = Absent("no watt reading to add host-watts to; give --wall-watts W")
NO_PRICE = Absent("no electricity price known; give --price P")
# Sensors average over tens of milliseconds and more; what a supply must bear lasts single ones: a tenth is kept free.
LEAST_HEADROOM = 0.10
GPUS, OTHER_GPUS, PACKAGE, SUPPLY = "GPUs", "other GPUs", "CPU package", "power supply"


def power(
    slices: Sequence[AnySlice], declared: WattOptions = NOTHING_DECLARED, hours: Sequence[float] = ()
) -> Power | Absent:
    """The watts of a run: declared at the wall, or read beside these slices, each of which stands for so many `hours`.

    Only with the host's watts do readings become watts at the wall; a slice on the CPU needs no reading then.
    """
    read, unread = read_beside(slices, hours)
    psu, host = headroom(slices, declared, read), declared.host
    if not isinstance(declared.wall_watts, Absent):
        meter = Figure(declared.wall_watts, "declared", "wall-watts")
        return _power(meter, "wall", *_taken_apart(meter, read, declared), psu)
    covered = [result.energy.covers for result in slices if isinstance(result.energy, Energy)]
    on_cpu = bool(slices) and all(result.device.kind == "cpu" for result in slices)
    if isinstance(host, Absent):
        if not covered:
            return NO_WATTS
        watts = next(part.watts for part in read if part.name == covered[0].removesuffix(" only"))
        return _power(watts, covered[0], (), (), psu)
    return at_wall(read, declared, unread, psu) if covered or on_cpu else HOST_ALONE


def at_wall(
    read: Sequence[PowerPart],
    declared: WattOptions,
    unread: tuple[str, ...] = (),
    psu: PsuHeadroom | Absent = NO_RATING,
) -> Power:
    """Parts behind the power supply and a host whose watts are known, brought to the wall.

    Lows and highs of the GPUs add, nothing is assumed to cancel; the host's declared watts are one number, however its
    CPU package's share of them varied.
    """
    host, efficiency = declared.host, declared.efficiency
    assert isinstance(host, Figure)
    package = next((part.watts for part in read if part.name == PACKAGE), None)
    parts, contradictions = list(read), list(unread)
    if package is None:
        parts.append(PowerPart("host", host))
    elif package.value <= host.value:
        basis = f"{units.format_watts(host.value)} ({host.basis}) less the CPU package"
        parts.append(PowerPart("rest of the host", Figure(host.value - package.value, "declared", basis)))
    else:
        drawn, said = units.format_watts(package.value), units.format_watts(host.value)
        contradictions.insert(
            0, f"the CPU package alone drew {drawn}, more than the {said} declared for the whole host"
        )
    low, high = (
        math.fsum(part.watts.value if part.name == PACKAGE else part.watts.ends[side] for part in parts)
        / efficiency.value
        for side in (0, 1)
    )
    basis = f"({' + '.join(part.name for part in parts)}) / {efficiency.value:.2f}, the parts below"
    behind = _sum(parts)
    parts += _loss(behind / efficiency.value - behind, efficiency)
    watts = Figure(_sum(parts), "predicted", basis, low, high)
    return _power(watts, "wall", tuple(parts), tuple(contradictions), psu)


def read_beside(
    slices: Sequence[AnySlice], hours: Sequence[float] = ()
) -> tuple[tuple[PowerPart, ...], tuple[str, ...]]:
    """What sensors read of each part, the mean over slices with least and most; and which part was not read.

    A slice's own device is told by its energy, the rest of the machine by its draws.
    """
    watts: dict[str, list[tuple[float, float]]] = {GPUS: [], OTHER_GPUS: [], PACKAGE: []}  # with the hours of each
    unread: dict[str, str] = {}
    for item, each in zip(slices, hours or [1.0] * len(slices), strict=True):
        own = item.energy.covers.removesuffix(" only") if isinstance(item.energy, Energy) else None
        if isinstance(item.energy, Energy) and own:
            watts[own].append((item.energy.watts, each))
        for draw in item.draws:
            if draw.name == own:
                continue
            if isinstance(draw.watts, Absent):
                unread[draw.name] = draw.watts.reason
            else:
                watts[draw.name].append((draw.watts, each))
    parts = []
    for name, pairs in watts.items():
        if pairs:
            values, shares = zip(*pairs, strict=True)
            shares = shares if any(shares) else (1.0,) * len(values)
            beside = f"{name} read beside {len(values)} short run{'s' if len(values) > 1 else ''}"
            beside += ", by the hours that each stands for" if len(set(shares)) > 1 else ""
            mean = math.fsum(map(operator.mul, values, shares)) / math.fsum(shares)
            parts.append(PowerPart(name, Figure(mean, "measured", beside, min(values), max(values))))
    # A package that is not read is within the host's watts; a GPU that is not read is nowhere.
    missing = tuple(
        f"the watts of the {name} are not read ({why}): they are not in the sum"
        for name, why in unread.items()
        if name != PACKAGE and not watts[name]
    )
    return tuple(parts), missing


def headroom(slices: Sequence[AnySlice], declared: WattOptions, read: Sequence[PowerPart] = ()) -> PsuHeadroom | Absent:
    """The highest draw behind the supply, next to its rating, which is of what it delivers.

    The GPUs' highest tick and the host as declared; with the wall declared instead, the rest of its watts.
    """
    rating, host = declared.supply, declared.host
    if isinstance(rating, Absent):
        return NO_RATING
    peaks = [peak for result in slices if (peak := _peak(result)) is not None]
    gpus = _sum(part for part in read if part.name != PACKAGE)
    rest, whose = (0.0, "") if isinstance(host, Absent) else (host.value, "host")
    if not isinstance(declared.wall_watts, Absent):
        rest, whose = max(0.0, declared.wall_watts * declared.efficiency.value - gpus), "the rest of the wall's watts"
    if not peaks and (gpus or not rest):
        return Absent("no watt reading")
    terms = [f"highest tick of the sensors{'' if rest else ', without the host'}"] if peaks else []
    terms += [f"{whose} {rest:.4g} W"] if rest else []
    basis = " + ".join(terms) if peaks else f"{terms[0]}: no sensor reports a peak"
    peak = max(peaks, default=0.0) + rest
    return PsuHeadroom(rating, Figure(peak, "measured" if peaks else "declared", basis), peak / rating.value)


def kwh(hours: Estimate, power: Power | Absent) -> Figure | Absent:
    """Energy of these hours; its interval is that of the hours and, where there is one, of the watts."""
    if isinstance(power, Absent):
        return power
    watts, (low, high) = power.watts, power.watts.ends
    bill = "" if power.covers == "wall" else f", {power.covers}, not the bill"
    basis = f"hours × {watts.value:.4g} W {watts.source}{bill}"
    ends = hours.low * low / 1000, hours.high * high / 1000
    return Figure(hours.value * watts.value / 1000, "predicted", basis, *ends)


def money(energy: Figure | Absent, power: Power | Absent, price: Price | Absent) -> Figure | Absent:
    """What that energy costs. Only the wall's kWh are on the bill, so only they are given a price."""
    energy = _at_the_wall(energy, power)
    if isinstance(energy, Absent):
        return energy
    if isinstance(price, Absent):
        return price
    basis = f"{price.per_kwh:.4g} {price.currency}/kWh, {price.place}, {price.date}"
    value, low, high = (amount * price.per_kwh for amount in (energy.value, *energy.ends))
    return Figure(value, "predicted", basis, low, high)


def co2_kg(energy: Figure | Absent, power: Power | Absent, carbon: Carbon | Absent) -> Figure | Absent:
    """What the grid emits for that energy; of the wall's kWh, as money."""
    energy = _at_the_wall(energy, power)
    if isinstance(energy, Absent):
        return energy
    if isinstance(carbon, Absent):
        return carbon
    basis = f"{carbon.g_per_kwh:.4g} g/kWh, {carbon.place}, {carbon.date} ({carbon.source})"
    value, low, high = (amount * carbon.g_per_kwh / 1000 for amount in (energy.value, *energy.ends))
    return Figure(value, "predicted", basis, low, high)


def _power(
    watts: Figure,
    covers: Literal["wall", "GPUs only", "CPU package only"],
    parts: tuple[PowerPart, ...],
    contradictions: tuple[str, ...],
    psu: PsuHeadroom | Absent,
) -> Power:
    """With a warning of a supply that has too little left at the peak."""
    if isinstance(psu, PsuHeadroom) and psu.share > 1 - LEAST_HEADROOM:
        what = "more than" if psu.share > 1 else f"{units.format_share(psu.share)} of"
        peak, rating = (units.format_watts(figure.value) for figure in (psu.peak_watts, psu.rating_watts))
        contradictions += (
            f"the sampled peak of {peak} is {what} the power supply's {rating}, and single milliseconds draw more: "
            "expect it to switch off",
        )
    return Power(watts, covers, parts, psu, contradictions)


def _taken_apart(
    meter: Figure, read: Sequence[PowerPart], declared: WattOptions
) -> tuple[tuple[PowerPart, ...], tuple[str, ...]]:
    """The parts of watts that were declared at the wall: what sensors read, the supply's loss, and what is left.

    The loss is told apart only where the supply's efficiency is stated.
    """
    if not read:
        return (), ()
    efficiency = declared.efficiency
    loss = _loss(meter.value * (1 - efficiency.value), efficiency) if efficiency.source == "declared" else ()
    parts = (*read, *loss)
    rest = meter.value - _sum(parts)
    if rest < 0:
        known, wall = units.format_watts(_sum(parts)), units.format_watts(meter.value)
        return parts, (f"the parts that are known come to {known}, more than the {wall} declared at the wall",)
    return (
        *parts,
        PowerPart("everything else", Figure(rest, "predicted", "the wall's watts less the parts above")),
    ), ()


def _loss(watts: float, efficiency: Figure) -> tuple[PowerPart, ...]:
    """Nothing where the efficiency is 1: the host's watts are then stated at the wall."""
    if efficiency.value == 1:
        return ()
    whose = efficiency.basis if efficiency.source == "predicted" else f"{efficiency.source}: {efficiency.basis}"
    return (PowerPart(SUPPLY, Figure(watts, "predicted", f"{efficiency.value:.2f} efficiency, {whose}")),)


def _sum(parts: Iterable[PowerPart]) -> float:
    return math.fsum(part.watts.value for part in parts)


def _peak(result: AnySlice) -> float | None:
    """The highest sum over devices of one tick's watts, of those now and those averaged whichever are more."""
    if isinstance(result.telemetry, Absent):
        return None
    sums = []
    for tick in range(len(result.telemetry.at_seconds)):
        answers = [_at(tick, series.power_instant_watts, series.power_watts) for series in result.telemetry.series]
        if any(answers):
            sums.append(math.fsum(max(watts) for watts in answers if watts))
    return max(sums, default=None)


def _at(tick: int, *columns: Column) -> list[float]:
    readings = [column[tick] for column in columns if not isinstance(column, Absent)]
    return [reading for reading in readings if not isinstance(reading, Absent)]


def _at_the_wall(energy: Figure | Absent, power: Power | Absent) -> Figure | Absent:
    """Only the wall's kWh are on the bill, and are what the grid delivers."""
    if isinstance(energy, Absent):
        return energy
    if isinstance(power, Absent):
        return power
    if power.covers != "wall":
        return Absent(f"the watts cover {power.covers}, not the wall; give --set host-watts=W or --wall-watts W")
    return energy
