"""What do these hours cost in kWh and in money, and does that cover the whole machine?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rigbench.errors import RigbenchError
from rigbench.records import Absent, Energy, Estimate, Figure, Power, Price, Slice

# 80 PLUS Gold asks for 0.90 at half load (0.87 at full, 115 V): sensors read behind the supply, the meter before it.
PSU_EFFICIENCY = 0.90
NO_WATTS = Absent(reason="no watt reading on this machine and none declared; give --wall-watts W")
HOST_ALONE = Absent(reason="no watt reading to add --host-watts to; give --wall-watts W")
NO_PRICE = Absent(reason="no electricity price known; give --price P")


def power(slices: Sequence[Slice], wall_watts: float | None = None, host_watts: float | None = None) -> Power | Absent:
    """The watts of a run, and what they cover: declared at the wall, or read beside these slices.

    `host_watts` is everything that the sensors do not read (board, fans, disks), behind the power supply. Only with it
    do readings become watts at the wall.

    Raises:
        RigbenchError: watts that are not a positive number, or both options at once.
    """
    if wall_watts is not None and host_watts is not None:
        raise RigbenchError("--wall-watts covers the host already", "give --wall-watts or --host-watts, not both")
    if wall_watts is not None:
        _check("--wall-watts", wall_watts)
        return Power(watts=Figure(value=wall_watts, source="declared", basis="--wall-watts"), covers="wall")
    if host_watts is not None:
        _check("--host-watts", host_watts)
    readings = [result.energy for result in slices if isinstance(result.energy, Energy)]
    if not readings:
        return NO_WATTS if host_watts is None else HOST_ALONE
    covers = readings[0].covers
    read = [energy.watts for energy in readings if energy.covers == covers]
    mean, part = math.fsum(read) / len(read), covers.removesuffix(" only")
    slices_read = f"{len(read)} slice{'s' if len(read) > 1 else ''}"
    if host_watts is None:
        basis = f"{part} read beside {slices_read}"
        return Power(
            watts=Figure(value=mean, source="measured", basis=basis, low=min(read), high=max(read)), covers=covers
        )
    low, value, high = ((watts + host_watts) / PSU_EFFICIENCY for watts in (min(read), mean, max(read)))
    basis = (
        f"({part} {mean:.4g} W read beside {slices_read} + host {host_watts:.4g} W declared) "
        f"/ {PSU_EFFICIENCY:.2f} assumed power supply efficiency"
    )
    return Power(watts=Figure(value=value, source="predicted", basis=basis, low=low, high=high), covers="wall")


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
