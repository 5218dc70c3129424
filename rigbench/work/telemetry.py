"""Adds up what sensors said beside a piece of work: joules, why clocks were held down, sensors that stand still."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import msgspec

from rigbench.core.record import Absent, Column, Device, Energy, SensorSeries, Telemetry
from rigbench.work.record import Draw, DrawName

COUNTER_WINDOW_SECONDS = 2.0  # a shorter window is too few steps of the energy counter
ENOUGH_OF_WINDOW = 0.9
STILL_SECONDS, STILL_TICKS = 30.0, 100
# Power is told to the milliwatt and never stands still under load; a temperature or a clock may.
RESTLESS = {"power_watts": "power", "power_instant_watts": "power now"}
STEADY = {"temperature_celsius": "temperature", "sm_clock_hertz": "clock", "fan_share": "fan"}
# nvml.h, nvmlClocksEventReason*: why clocks are held down.
IDLE = "gpu_idle"
THROTTLE_BITS = {
    0x1: IDLE,
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display",
}
REASONS = {  # in words for people; idleness holds nothing down
    "applications_clocks": "clocks set by somebody",
    "sw_power_cap": "power limit",
    "hw_slowdown": "hardware slowdown",
    "sync_boost": "sync boost",
    "sw_thermal": "thermal slowdown by the driver",
    "hw_thermal": "hardware thermal slowdown",
    "hw_power_brake": "hardware power brake",
    "display": "display clocks",
}

Points = list[tuple[float, float]]


def of_device(sensors: Telemetry, device: Device, cards: Collection[str] = ()) -> Telemetry:
    """The series of the device that worked, or of these cards: an idle neighbour's watts are not this slice's."""
    own_cards = cards or (device.uuid,)
    own = tuple(
        series
        for series in sensors.series
        if (series.device == "CPU" if device.kind == "cpu" else series.uuid in own_cards)
    )
    return msgspec.structs.replace(sensors, series=own)


def energy(sensors: Telemetry, start_seconds: float, end_seconds: float) -> Energy | Absent:
    """Joules between two readings of the monotonic clock: all GPUs together, else the CPU package.

    Each device's own energy counter is preferred over windows of 2 s and more; else its power is integrated. A device
    whose readings miss more than a tenth of the window, or that used 0 J, makes the whole sum Absent.
    """
    at, length = sensors.at_seconds, end_seconds - start_seconds
    if not at or length <= 0:
        return Absent("no sensor was read in the window")
    start, end = max(start_seconds, at[0]), min(end_seconds, at[-1])
    if end - start < ENOUGH_OF_WINDOW * length:
        return Absent(f"sensors cover {max(0.0, end - start):.1f} s of a window of {length:.1f} s")
    gpus = [series for series in sensors.series if series.device != "CPU"]
    joules, methods = 0.0, set()
    for series in gpus or sensors.series:
        used = _device_joules(at, series, start, end)
        if isinstance(used, Absent):
            return Absent(f"{series.device}: {used.reason}")
        joules += used[0]
        methods.add(used[1])
    if not methods:
        return Absent("no device was sampled")
    return Energy(
        joules=joules,
        window_seconds=end - start,
        covers="GPUs only" if gpus else "CPU package only",
        method="integrated" if "integrated" in methods else "counter",
    )


def draws(
    sensors: Telemetry, device: Device, start_seconds: float, end_seconds: float, cards: Collection[str] = ()
) -> tuple[Draw, ...]:
    """Mean watts of the machine's parts in the window: what worked, the other GPUs, the CPU package.

    What worked is the device, or of several ranks the cards with these UUIDs. A part that the machine does not have is
    left out; one that does not tell is Absent with its reason.
    """
    parts: dict[DrawName, list[SensorSeries]] = {"GPUs": [], "other GPUs": [], "CPU package": []}
    for series in sensors.series:
        own = device.kind == "cuda" and (series.uuid in cards if cards else series.uuid == device.uuid)
        parts["CPU package" if series.device == "CPU" else "GPUs" if own else "other GPUs"].append(series)
    rows = []
    for name, its in parts.items():
        if its:
            used = energy(msgspec.structs.replace(sensors, series=tuple(its)), start_seconds, end_seconds)
            rows.append(Draw(name, used, used) if isinstance(used, Absent) else Draw(name, used.watts, used.method))
    return tuple(rows)


def _device_joules(
    at_seconds: Sequence[float], series: SensorSeries, start: float, end: float
) -> tuple[float, str] | Absent:
    """(joules, method) of one device, or why neither its counter nor its power gives them."""
    counter = _points(at_seconds, series.energy_joules)
    why = _gap(counter, series.energy_joules, start, end)
    if why is None and end - start >= COUNTER_WINDOW_SECONDS:
        # An end that the counter did not see, a tenth of the window at most, is taken at the rate of the rest.
        first, last = max(counter[0][0], start), min(counter[-1][0], end)
        used = (_at(counter, last) - _at(counter, first)) * (end - start) / (last - first)
        if used > 0 and all(earlier <= later for (_, earlier), (_, later) in itertools.pairwise(counter)):
            return used, "counter"
        why = Absent("its energy counter does not count")
    power = _points(at_seconds, series.power_watts)
    no_power = _gap(power, series.power_watts, start, end)
    if no_power is None:  # the area under it, by trapezoids
        inside = [(at, value) for at, value in power if start < at < end]
        corners = [(start, _at(power, start)), *inside, (end, _at(power, end))]
        pairs = itertools.pairwise(corners)
        used = sum((later - earlier) * (low + high) / 2 for (earlier, low), (later, high) in pairs)
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


def _at(points: Points, moment: float) -> float:
    """A column's value at a moment, on the line between its neighbours; outside its ticks, the nearest one's."""
    if moment <= points[0][0]:
        return points[0][1]
    for (earlier, low), (later, high) in itertools.pairwise(points):
        if moment <= later:
            return low + (high - low) * (moment - earlier) / (later - earlier)
    return points[-1][1]


def throttle_share(bits: Sequence[int | Absent] | Absent) -> dict[str, float]:
    """The share of answered ticks at which each reason held clocks down."""
    if isinstance(bits, Absent):
        return {}
    answered = [reading for reading in bits if not isinstance(reading, Absent)]
    reasons = [reason for reading in answered for reason in decode_throttle(reading)]
    return {reason: reasons.count(reason) / len(answered) for reason in dict.fromkeys(reasons)}


def decode_throttle(bits: int) -> tuple[str, ...]:
    """The reasons whose bits are set; a bit without a name is given by its number."""
    mask = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(THROTTLE_BITS.get(bit, f"bit {bit:#x}") for bit in mask)


class Stillness:
    """For how long a sensor has said the same, tick by tick."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._since, self._at, self._ticks = 0.0, 0.0, 0

    def add(self, at: float, value: float | None) -> None:
        """None: a tick that counts for nothing, as that of a card at rest."""
        if value is None or value != self.value:
            self.value, self._since, self._ticks = value, at, 0
        self._at = at
        self._ticks += 1

    @property
    def seconds(self) -> float:
        """0 while that is too short, or too few ticks, to say anything."""
        seconds = self._at - self._since
        return seconds if self._ticks >= STILL_TICKS and seconds >= STILL_SECONDS else 0.0


def frozen(at_seconds: Sequence[float], series: SensorSeries, began: float, ended: float) -> list[str]:
    """A sentence for power that stands still to the end of the load, or for all sensors that do so together.

    Those of a stuck driver say the same thing again and again while the card works.
    """
    columns: dict[str, Stillness] = {}
    for name, said in (RESTLESS | STEADY).items():
        for at, value in _points(at_seconds, getattr(series, name)):
            if began <= at <= ended:
                columns.setdefault(said, Stillness()).add(at, value)
    stuck = {said: still for said, still in columns.items() if still.seconds}
    if "power" not in stuck:
        return []
    if len(stuck) == len(columns) > 1:
        seconds = min(still.seconds for still in stuck.values())
        return [f"all its sensors have said the same for the last {seconds:.0f} s: the driver may be stuck"]
    power = stuck["power"]
    said = f"its power has read {power.value:g} W without any change for the last {power.seconds:.0f} s"
    return [f"{said}: do not trust it"]
