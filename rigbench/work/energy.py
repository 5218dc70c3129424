"""How many joules did a piece of work take, from what the sensors said beside it?"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import msgspec

from rigbench.core.record import Absent, Device, Energy, SensorSeries, Telemetry
from rigbench.work.record import Draw, DrawName

COUNTER_WINDOW_SECONDS = 2.0  # a shorter window is too few steps of the energy counter
ENOUGH_OF_WINDOW = 0.9

Column = Sequence[float | Absent] | Absent
Points = list[tuple[float, float]]


def between(telemetry: Telemetry, start_seconds: float, end_seconds: float) -> Energy | Absent:
    """Joules between two readings of the monotonic clock: all GPUs together, else the CPU package.

    Each device's own energy counter is preferred over windows of 2 s and more; else its power is integrated. A device
    whose readings miss more than a tenth of the window, or that used 0 J, makes the whole sum Absent.
    """
    gpus = [series for series in telemetry.series if series.device != "CPU"]
    joules, methods = 0.0, set()
    window = _window(telemetry, start_seconds, end_seconds)
    if isinstance(window, Absent):
        return window
    for series in gpus or telemetry.series:
        found = _device_joules(telemetry.at_seconds, series, *window)
        if isinstance(found, Absent):
            return Absent(f"{series.device}: {found.reason}")
        joules += found[0]
        methods.add(found[1])
    if not methods:
        return Absent("no device was sampled")
    return Energy(
        joules=joules,
        window_seconds=window[1] - window[0],
        covers="GPUs only" if gpus else "CPU package only",
        method="integrated" if "integrated" in methods else "counter",
    )


def of_device(sensors: Telemetry, device: Device, cards: Collection[str] = ()) -> Telemetry:
    """The series of the device that worked, or of these cards: an idle neighbour's watts are not this slice's."""
    own_cards = cards or (device.uuid,)
    own = tuple(
        series
        for series in sensors.series
        if (series.device == "CPU" if device.kind == "cpu" else series.uuid in own_cards)
    )
    return msgspec.structs.replace(sensors, series=own)


def draws(
    telemetry: Telemetry, device: Device, start_seconds: float, end_seconds: float, cards: Collection[str] = ()
) -> tuple[Draw, ...]:
    """Mean watts of the machine's parts in the window: what worked, the other GPUs, the CPU package.

    What worked is the device, or of several ranks the cards with these UUIDs.

    A part that the machine does not have is left out; one that does not tell is Absent with its reason.
    """
    parts: dict[DrawName, list[SensorSeries]] = {"GPUs": [], "other GPUs": [], "CPU package": []}
    for series in telemetry.series:
        own = device.kind == "cuda" and (series.uuid in cards if cards else series.uuid == device.uuid)
        parts["CPU package" if series.device == "CPU" else "GPUs" if own else "other GPUs"].append(series)
    found = []
    for name, series_of_it in parts.items():
        if series_of_it:
            alone = msgspec.structs.replace(telemetry, series=tuple(series_of_it))
            used = between(alone, start_seconds, end_seconds)
            told = (used, used) if isinstance(used, Absent) else (used.watts, used.method)
            found.append(Draw(name, *told))
    return tuple(found)


def _window(telemetry: Telemetry, start_seconds: float, end_seconds: float) -> tuple[float, float] | Absent:
    """The part of a window that the ticks cover."""
    if not telemetry.at_seconds or end_seconds <= start_seconds:
        return Absent("no sensor was read in the window")
    start, end = max(start_seconds, telemetry.at_seconds[0]), min(end_seconds, telemetry.at_seconds[-1])
    if end - start < ENOUGH_OF_WINDOW * (end_seconds - start_seconds):
        return Absent(f"sensors cover {max(0.0, end - start):.1f} s of a window of {end_seconds - start_seconds:.1f} s")
    return start, end


def _device_joules(
    at_seconds: Sequence[float], series: SensorSeries, start: float, end: float
) -> tuple[float, str] | Absent:
    """(joules, method) of one device, or why neither its counter nor its power gives them."""
    counter = _points(at_seconds, series.energy_joules)
    why = _gap(counter, series.energy_joules, start, end)
    if why is None and end - start >= COUNTER_WINDOW_SECONDS:
        steps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(counter)]
        used = _counted(counter, start, end)
        if used > 0 and min(steps) >= 0:
            return used, "counter"
        why = Absent("its energy counter does not count")
    power = _points(at_seconds, series.power_watts)
    no_power = _gap(power, series.power_watts, start, end)
    if no_power is None:
        used = _integral(power, start, end)
        return (used, "integrated") if used > 0 else Absent("its power reads 0 W")
    if isinstance(series.energy_joules, Absent) and not isinstance(series.power_watts, Absent):
        return no_power  # the sensor that answered at first tells more than one that never did
    return why or Absent(f"a window under {COUNTER_WINDOW_SECONDS:g} s is too short for its energy counter")


def _points(at_seconds: Sequence[float], column: Column) -> Points:
    """The ticks that were answered."""
    readings = [] if isinstance(column, Absent) else list(zip(at_seconds, column, strict=True))
    return [(at, reading) for at, reading in readings if not isinstance(reading, Absent)]


def _gap(points: Points, column: Column, start: float, end: float) -> Absent | None:
    """Why a column does not cover a window, if it does not."""
    if isinstance(column, Absent):
        return column
    covered = min(points[-1][0], end) - max(points[0][0], start) if len(points) > 1 else 0.0
    if covered >= ENOUGH_OF_WINDOW * (end - start):
        return None
    return next((reading for reading in reversed(column) if isinstance(reading, Absent)), Absent("too few readings"))


def _counted(points: Points, start: float, end: float) -> float:
    """What a counter rose by; an end that it did not see (a tenth of the window at most) at the rate of the rest."""
    first, last = max(points[0][0], start), min(points[-1][0], end)
    return (_at(points, last) - _at(points, first)) * (end - start) / (last - first)


def _at(points: Points, moment: float) -> float:
    """A column's value at a moment, on the line between its neighbours; outside its ticks, the nearest one's."""
    if moment <= points[0][0]:
        return points[0][1]
    for (earlier, low), (later, high) in itertools.pairwise(points):
        if moment <= later:
            return low + (high - low) * (moment - earlier) / (later - earlier)
    return points[-1][1]


def _integral(points: Points, start: float, end: float) -> float:
    """The area under power by trapezoids, from start to end."""
    inside = [(at, value) for at, value in points if start < at < end]
    corners = [(start, _at(points, start)), *inside, (end, _at(points, end))]
    pairs = itertools.pairwise(corners)
    return sum((later - earlier) * (low + high) / 2 for (earlier, low), (later, high) in pairs)
