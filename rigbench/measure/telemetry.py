"""What did the sensors say beside the work, and how much energy did it take?"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from rigbench.hardware.rig import Rig
from rigbench.hardware.sensors import CpuSensors
from rigbench.records import Absent, Energy, SensorSeries, Telemetry

FASTEST_SECONDS = 0.1  # sensors themselves move at about 10 Hz
STOP_WITHIN_SECONDS = 2.0  # a driver call that hangs must not hang us
COUNTER_WINDOW_SECONDS = 2.0  # a shorter window is too few steps of the energy counter
ENOUGH_OF_WINDOW = 0.9

DERIVED_FROM_ENERGY = Absent("a CPU package counts energy, not power")
NOT_SAMPLED = Absent("not sampled on a CPU")

# nvml.h, nvmlClocksEventReason*: why clocks are held down.
THROTTLE_BITS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display",
}

T = TypeVar("T")
Column = Sequence[float | Absent] | Absent
Points = list[tuple[float, float]]


class Reading(NamedTuple):
    """One device at one tick."""

    power_watts: float | Absent
    temperature_celsius: float | Absent
    sm_clock_hertz: float | Absent
    utilisation_share: float | Absent
    energy_joules: float | Absent
    throttle_bits: int | Absent


class Sampler:
    """Reads a rig's sensors on a thread of its own between `start` and `stop`, or inside a `with`.

    Timestamps come from the monotonic clock, which all processes of a Linux machine share. `wait` sleeps and says
    whether to stop; both it and `clock` can be scripted. `gpus` are NVML indices, all of the rig's if None.
    """

    def __init__(
        self,
        rig: Rig,
        period_seconds: float = 0.2,
        gpus: Iterable[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        if period_seconds < FASTEST_SECONDS:
            raise ValueError(f"period_seconds is {period_seconds}; sensors are read at most every {FASTEST_SECONDS}")
        self.period_seconds = period_seconds
        self._nvml = rig.nvml
        count = rig.nvml.gpu_count()
        self._gpus = tuple(range(0 if isinstance(count, Absent) else count) if gpus is None else gpus)
        self._uuids = [rig.nvml.uuid(index) for index in self._gpus]
        self._cpu = CpuSensors(rig.sysfs)
        self._clock = clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread: threading.Thread | None = None
        self._ticks: list[tuple[float, tuple[Reading, ...]]] = []

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="rigbench-telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> Telemetry:
        """Ends the sampling with a last reading, so that the window's end is covered."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_WITHIN_SECONDS)
        return self.record()

    def record(self) -> Telemetry:
        """All readings so far."""
        ticks = tuple(self._ticks)  # the thread only appends, so this is whole ticks even while it runs
        devices = [(f"GPU{index}", uuid) for index, uuid in zip(self._gpus, self._uuids, strict=True)]
        devices.append(("CPU", Absent("a CPU has no UUID")))
        return Telemetry(
            period_seconds=self.period_seconds,
            at_seconds=tuple(at for at, _ in ticks),
            series=tuple(
                _series(device, uuid, [readings[place] for _, readings in ticks])
                for place, (device, uuid) in enumerate(devices)
            ),
        )

    def tick(self) -> None:
        """One reading of every device."""
        at = self._clock()
        self._ticks.append((at, (*(self._gpu(index) for index in self._gpus), self._host())))

    def _run(self) -> None:
        due = self._clock()
        stopped = False
        while not stopped:
            self.tick()
            now = self._clock()
            due += self.period_seconds * max(1, -(-(now - due) // self.period_seconds))  # a late tick is skipped
            stopped = self._wait(max(0.0, due - now))
        self.tick()

    def _gpu(self, index: int) -> Reading:
        nvml = self._nvml
        return Reading(
            nvml.power_watts(index),
            nvml.temperature_celsius(index),
            nvml.sm_clock_hertz(index),
            nvml.utilisation_share(index),
            nvml.energy_joules(index),
            nvml.throttle_bits(index),
        )

    def _host(self) -> Reading:
        return Reading(
            DERIVED_FROM_ENERGY,
            self._cpu.temperature_celsius(),
            NOT_SAMPLED,
            NOT_SAMPLED,
            self._cpu.energy_joules(),
            NOT_SAMPLED,
        )


def energy(telemetry: Telemetry, start_seconds: float, end_seconds: float) -> Energy | Absent:
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


def throttle_share(
    bits: Sequence[int | Absent] | Absent,
    at_seconds: Sequence[float] = (),
    start_seconds: float = float("-inf"),
    end_seconds: float = float("inf"),
) -> dict[str, float]:
    """The share of answered ticks, of a window if one is given, at which each reason held clocks down."""
    if isinstance(bits, Absent):
        return {}
    times = at_seconds or [0.0] * len(bits)
    answered = [
        reading
        for at, reading in zip(times, bits, strict=True)
        if start_seconds <= at <= end_seconds and not isinstance(reading, Absent)
    ]
    reasons = [reason for reading in answered for reason in decode_throttle(reading)]
    return {reason: reasons.count(reason) / len(answered) for reason in dict.fromkeys(reasons)}


def decode_throttle(bits: int) -> tuple[str, ...]:
    """The reasons whose bits are set; a bit without a name is given by its number."""
    mask = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(THROTTLE_BITS.get(bit, f"bit {bit:#x}") for bit in mask)


def _series(device: str, uuid: str | Absent, readings: Sequence[Reading]) -> SensorSeries:
    power, temperature, clock, utilisation, joules, bits = zip(*readings, strict=True) if readings else ((),) * 6
    return SensorSeries(
        device=device,
        uuid=uuid,
        power_watts=_column(power),
        temperature_celsius=_column(temperature),
        sm_clock_hertz=_column(clock),
        utilisation_share=_column(utilisation),
        energy_joules=_column(joules),
        throttle_bits=_column(bits),
        throttle_share=throttle_share(bits),
    )


def _column(readings: tuple[T | Absent, ...]) -> tuple[T | Absent, ...] | Absent:
    """A column, or one reason where every tick gave the same."""
    first = readings[0] if readings else None
    return first if isinstance(first, Absent) and all(reading == first for reading in readings) else readings


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
        used = _at(counter, end) - _at(counter, start)
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
