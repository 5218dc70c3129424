"""Which part takes how many of the watts at the wall, and is the power supply big enough for them?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Column, Energy, Figure
from rigbench.train.record import Slice
from rigbench.work.record import PowerPart, PsuHeadroom

# 80 PLUS Gold asks for 0.90 at half load (0.87 at full, 115 V): sensors read behind the supply, the meter before it.
ASSUMED_EFFICIENCY = Figure(value=0.90, source="predicted", basis="assumed: 80 PLUS Gold at half load, 115 V")
# Sensors average over tens of milliseconds and more; what a supply must bear lasts single ones: a tenth is kept free.
LEAST_HEADROOM = 0.10
GPUS, OTHER_GPUS, PACKAGE, SUPPLY = "GPUs", "other GPUs", "CPU package", "power supply"


@dataclass(frozen=True)
class Host:
    """What is known of the machine around the GPUs; each figure says whether it was declared or is a profile's.

    `watts` is everything but the GPUs, the CPU included, behind the power supply.
    """

    watts: Figure | None = None
    psu_watts: Figure | None = None
    psu_efficiency: Figure | None = None

    @property
    def efficiency(self) -> Figure:
        return self.psu_efficiency or ASSUMED_EFFICIENCY


def check(host: Host) -> None:
    """
    Raises:
        RigbenchError: watts that are no power, or an efficiency that no supply has.
    """
    for option, figure in (("--host-watts", host.watts), ("--psu-watts", host.psu_watts)):
        if figure and not (math.isfinite(figure.value) and figure.value > 0):
            raise RigbenchError(f"{option} {figure.value:g} is not a power", f"give {option} in watts, above zero")
    if host.psu_efficiency and not 0.5 < host.psu_efficiency.value <= 1:
        raise RigbenchError(
            f"--psu-efficiency {host.psu_efficiency.value:g} is not between 0.5 and 1", "0.90 is usual, as a share"
        )


def read_beside(slices: Sequence[Slice]) -> tuple[tuple[PowerPart, ...], tuple[str, ...]]:
    """What sensors read of each part, the mean over slices with least and most; and which part was not read.

    A slice's own device is told by its energy, the rest of the machine by its draws.
    """
    watts: dict[str, list[float]] = {GPUS: [], OTHER_GPUS: [], PACKAGE: []}
    unread: dict[str, str] = {}
    for item in slices:
        own = item.energy.covers.removesuffix(" only") if isinstance(item.energy, Energy) else None
        if isinstance(item.energy, Energy) and own:
            watts[own].append(item.energy.watts)
        for draw in item.draws or ():
            if draw.name == own:
                continue
            if isinstance(draw.watts, Absent):
                unread[draw.name] = draw.watts.reason
            else:
                watts[draw.name].append(draw.watts)
    parts = tuple(PowerPart(name, _read(name, values)) for name, values in watts.items() if values)
    # A package that is not read is within the host's watts; a GPU that is not read is nowhere.
    missing = tuple(
        f"the watts of the {name} are not read ({why}): they are not in the sum"
        for name, why in unread.items()
        if name != PACKAGE and not watts[name]
    )
    return parts, missing


def split(read: Sequence[PowerPart], host: Host) -> tuple[tuple[PowerPart, ...], tuple[str, ...]]:
    """The watts at the wall, part by part: what sensors read, the rest of the host, and what the supply itself takes.

    Their sum is the wall's. Of the host's declared watts its CPU package's are told apart where they are read; a
    package that draws more than was declared for all of the host is said.
    """
    assert host.watts is not None
    package = next((part.watts for part in read if part.name == PACKAGE), None)
    parts = list(read)
    said: tuple[str, ...] = ()
    if package is None:
        parts.append(PowerPart("host", host.watts))
    elif package.value <= host.watts.value:
        basis = f"{units.format_watts(host.watts.value)} ({host.watts.basis}) less the CPU package"
        rest = host.watts.value - package.value
        parts.append(PowerPart("rest of the host", Figure(value=rest, source="declared", basis=basis)))
    else:
        drawn, declared = units.format_watts(package.value), units.format_watts(host.watts.value)
        said = (f"the CPU package alone drew {drawn}, more than the {declared} declared for the whole host",)
    behind = _sum(parts)
    loss = behind / host.efficiency.value - behind
    return (*parts, *_loss(loss, host)), said


def taken_apart(
    at_wall: Figure, read: Sequence[PowerPart], host: Host
) -> tuple[tuple[PowerPart, ...], tuple[str, ...]]:
    """The parts of watts that were declared at the wall: what sensors read, the supply's loss, and what is left.

    The loss is told apart only where the supply's efficiency is stated.
    """
    if not read:
        return (), ()
    stated = host.psu_efficiency
    parts = (*read, *(_loss(at_wall.value * (1 - stated.value), host) if stated else ()))
    rest = at_wall.value - _sum(parts)
    if rest < 0:
        known, wall = units.format_watts(_sum(parts)), units.format_watts(at_wall.value)
        return parts, (f"the parts that are known come to {known}, more than the {wall} declared at the wall",)
    basis = "the wall's watts less the parts above"
    return (*parts, PowerPart("everything else", Figure(value=rest, source="predicted", basis=basis))), ()


def headroom(
    slices: Sequence[Slice], host: Host, read: Sequence[PowerPart] = (), wall_watts: float | None = None
) -> PsuHeadroom | Absent:
    """The highest draw behind the supply, next to its rating, which is of what it delivers.

    The GPUs' highest tick and the host as declared; with the wall declared instead, the rest of its watts.
    """
    if host.psu_watts is None:
        return Absent("the power supply's rating is not known; give --psu-watts W")
    peaks = [peak for result in slices if (peak := _peak(result)) is not None]
    gpus = math.fsum(part.watts.value for part in read if part.name != PACKAGE)
    rest, whose = (host.watts.value, "host") if host.watts else (0.0, "")
    if wall_watts is not None:
        rest, whose = max(0.0, wall_watts * host.efficiency.value - gpus), "the rest of the wall's watts"
    if not peaks and (gpus or not rest):
        return Absent("no watt reading")
    said = [f"highest tick of the sensors{'' if rest else ', without the host'}"] if peaks else []
    said += [f"{whose} {rest:.4g} W"] if rest else []
    peak = max(peaks, default=0.0) + rest
    basis = " + ".join(said) if peaks else f"{said[0]}: no sensor tells a peak"
    return PsuHeadroom(
        rating_watts=host.psu_watts,
        peak_watts=Figure(value=peak, source="measured" if peaks else "declared", basis=basis),
        share=peak / host.psu_watts.value,
    )


def warnings(found: PsuHeadroom | Absent) -> tuple[str, ...]:
    if isinstance(found, Absent) or found.share <= 1 - LEAST_HEADROOM:
        return ()
    what = "more than" if found.share > 1 else f"{units.format_share(found.share)} of"
    return (
        f"the sampled peak of {units.format_watts(found.peak_watts.value)} is {what} the power supply's "
        f"{units.format_watts(found.rating_watts.value)}, and single milliseconds draw more: expect it to switch off",
    )


def _read(name: str, values: Sequence[float]) -> Figure:
    beside = f"{name} read beside {len(values)} slice{'s' if len(values) > 1 else ''}"
    mean = math.fsum(values) / len(values)
    return Figure(value=mean, source="measured", basis=beside, low=min(values), high=max(values))


def _loss(watts: float, host: Host) -> tuple[PowerPart, ...]:
    """Nothing where the efficiency is 1: the host's watts are then stated at the wall."""
    efficiency = host.efficiency
    if efficiency.value == 1:
        return ()
    basis = f"{efficiency.value:.2f} efficiency, {_stated(efficiency)}"
    return (PowerPart(SUPPLY, Figure(value=watts, source="predicted", basis=basis)),)


def _sum(parts: Iterable[PowerPart]) -> float:
    return math.fsum(part.watts.value for part in parts)


def _peak(result: Slice) -> float | None:
    """The highest sum over devices of one tick's watts, of those now and those averaged whichever are more."""
    if isinstance(result.telemetry, Absent):
        return None
    best: float | None = None
    for tick in range(len(result.telemetry.at_seconds)):
        told = [_at(tick, series.power_instant_watts, series.power_watts) for series in result.telemetry.series]
        known = [max(watts) for watts in told if watts]
        if known:
            best = max(best or 0.0, math.fsum(known))
    return best


def _at(tick: int, *columns: Column) -> list[float]:
    readings = [column[tick] for column in columns if not isinstance(column, Absent)]
    return [reading for reading in readings if not isinstance(reading, Absent)]


def _stated(figure: Figure) -> str:
    return figure.basis if figure.source == "predicted" else f"{figure.source}: {figure.basis}"
