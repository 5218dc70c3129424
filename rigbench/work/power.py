"""What do these hours cost in kWh and in money, and does that cover the whole machine?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from rigbench.budget.record import Price
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Energy, Figure
from rigbench.train.record import Slice
from rigbench.work import wall
from rigbench.work.record import Power, PowerPart, PsuHeadroom

NO_HOST = wall.Host()
NO_WATTS = Absent(reason="no watt reading on this machine and none declared; give --wall-watts W")
HOST_ALONE = Absent(reason="no watt reading to add --host-watts to; give --wall-watts W")
NO_PRICE = Absent(reason="no electricity price known; give --price P")


def power(slices: Sequence[Slice], wall_watts: float | None = None, host: wall.Host = NO_HOST) -> Power | Absent:
    """The watts of a run, and what they cover: declared at the wall, or read beside these slices.

    The host's watts are everything but the GPUs, behind the power supply. Only with them do readings become watts at
    the wall; a slice on the CPU needs no reading then.

    Raises:
        RigbenchError: watts that are not a positive number, or both options at once.
    """
    if wall_watts is not None and host.watts and host.watts.basis == "--host-watts":
        raise RigbenchError("--wall-watts covers the host already", "give --wall-watts or --host-watts, not both")
    wall.check(host)
    read, unread = wall.read_beside(slices)
    found = wall.headroom(slices, host, read, wall_watts)
    psu = msgspec.UNSET if isinstance(found, Absent) else found
    if wall_watts is not None:
        _check("--wall-watts", wall_watts)
        declared = Figure(value=wall_watts, source="declared", basis="--wall-watts")
        return _power(declared, "wall", *wall.taken_apart(declared, read, host), psu)
    readings = [result.energy for result in slices if isinstance(result.energy, Energy)]
    on_cpu = bool(slices) and all(result.device.kind == "cpu" for result in slices)
    if not readings and not (on_cpu and host.watts):
        return HOST_ALONE if host.watts else NO_WATTS
    if host.watts is None:
        own = readings[0].covers
        watts = next(part.watts for part in read if part.name == own.removesuffix(" only"))
        return _power(watts, own, (), (), psu)
    return at_wall(read, host, unread, psu)


def at_wall(
    read: Sequence[PowerPart],
    host: wall.Host,
    unread: tuple[str, ...] = (),
    psu: PsuHeadroom | msgspec.UnsetType = msgspec.UNSET,
) -> Power:
    """Parts behind the power supply and a host whose watts are known, brought to the wall."""
    parts, said = wall.split(read, host)
    behind = " + ".join(part.name for part in parts if part.name != wall.SUPPLY)
    low, high = (_end(parts, side, host.efficiency.value) for side in ("low", "high"))
    value = math.fsum(one.watts.value for one in parts)
    basis = f"({behind}) / {host.efficiency.value:.2f}, the parts below"
    figure = Figure(value=value, source="predicted", basis=basis, low=low, high=high)
    return _power(figure, "wall", parts, (*said, *unread), psu)


def _power(
    watts: Figure,
    covers: Literal["wall", "GPUs only", "CPU package only"],
    parts: tuple[PowerPart, ...],
    said: tuple[str, ...],
    psu: PsuHeadroom | msgspec.UnsetType,
) -> Power:
    said = (*said, *(wall.warnings(psu) if psu else ()))
    return Power(watts=watts, covers=covers, split=parts or msgspec.UNSET, psu=psu, warnings=said or msgspec.UNSET)


def _end(parts: Sequence[PowerPart], side: str, efficiency: float) -> float:
    """The least or the most at the wall: lows and highs of the GPUs add, nothing is assumed to cancel.

    The host's declared watts are one number, however its CPU package's share of them varied.
    """
    total = 0.0
    for part in parts:
        end = Absent("the host's") if part.name == wall.PACKAGE else getattr(part.watts, side)
        if part.name != wall.SUPPLY:
            total += part.watts.value if isinstance(end, Absent) else end
    return total / efficiency


def kwh(hours: Estimate, power: Power | Absent) -> Figure | Absent:
    """Energy of these hours; its interval is that of the hours and, where there is one, of the watts."""
    if isinstance(power, Absent):
        return power
    watts = power.watts
    low = watts.value if isinstance(watts.low, Absent) else watts.low
    high = watts.value if isinstance(watts.high, Absent) else watts.high
    bill = "" if power.covers == "wall" else f", {power.covers}, not the bill"
    return Figure(
        value=hours.value * watts.value / 1000,
        source="predicted",
        basis=f"hours × {watts.value:.4g} W {watts.source}{bill}",
        low=hours.low * low / 1000,
        high=hours.high * high / 1000,
    )


def money(energy: Figure | Absent, power: Power | Absent, price: Price | Absent) -> Figure | Absent:
    """What that energy costs. Only the wall's kWh are on the bill, so only they are given a price."""
    if isinstance(energy, Absent):
        return energy
    if isinstance(power, Absent):
        return power
    if power.covers != "wall":
        return Absent(reason=f"the watts cover {power.covers}, not the wall; give --host-watts W or --wall-watts W")
    if isinstance(price, Absent):
        return price
    low, high = (side if isinstance(side, Absent) else side * price.per_kwh for side in (energy.low, energy.high))
    return Figure(
        value=energy.value * price.per_kwh,
        source="predicted",
        basis=f"{price.per_kwh:.4g} {price.currency}/kWh, {price.place}, {price.date}",
        low=low,
        high=high,
    )


def _check(option: str, watts: float) -> None:
    if not (math.isfinite(watts) and watts > 0):
        raise RigbenchError(f"{option} {watts:g} is not a power", f"give {option} in watts, above zero")
