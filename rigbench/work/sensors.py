"""Reads the sensors beside a piece of work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.machine.host_load import CpuSensors
from rigbench.machine.readings import GpuSensors, Reading
from rigbench.machine.replay import ReplayedDriver
from rigbench.machine.rig import Rig
from rigbench.work.telemetry import throttle_share

FASTEST_SECONDS = 0.1  # sensors themselves move at about 10 Hz
REPLAYED_TICK_SECONDS = 1.0  # what a step of a recording is taken for
STOP_WITHIN_SECONDS = 0.8  # a driver call that hangs must not hang us

CPU = "CPU"
DERIVED_FROM_ENERGY = Absent("a CPU package counts energy, not power")
NOT_SAMPLED = Absent("not sampled on a CPU")
NO_ANSWER = Absent("the driver does not answer")
NOT_YET_LISTED = Absent("not listed by the driver yet")
NO_READING = Absent("no sensor was read")

Tick = tuple[float, dict[str, Reading]]  # when, and each device's reading


class Sampler:
    """Reads a rig's sensors on a thread of its own between `start` and `stop`, or inside a `with`.

    Timestamps come from the monotonic clock, which all processes of a Linux machine share. `wait` sleeps and says
    whether to stop; both it and `clock` can be scripted. `gpus` are NVML indices, all of the rig's if None. Only `tick`
    calls the driver, so that one that hangs holds up the thread and nobody else.
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
        self._asked_for = None if gpus is None else tuple(gpus)
        self._gpus: dict[str, GpuSensors] | None = None
        self._uuids: dict[str, str | Absent] = {}
        self._cpu = CpuSensors(rig.sysfs)
        self._clock = clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread: threading.Thread | None = None
        self._ticks: list[Tick] = []
        self._under_way: Tick | None = None

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="rigbench-telemetry", daemon=True)
        self._thread.start()
        return self

    __enter__ = start

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> Telemetry:
        """Ends the sampling with a last reading, so that the window's end is covered."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_WITHIN_SECONDS)
        return self.record()

    def record(self) -> Telemetry:
        """All readings so far. A device that hangs is absent from then on, and so is what would have come after it."""
        ticks = list(self._ticks)  # the thread only appends, so this is whole ticks even while it runs
        unread = NOT_YET_LISTED
        if self._stopped.is_set() and self._thread is not None and self._thread.is_alive():
            begun = [] if self._under_way is None else [self._under_way]
            ticks += [*begun, (self._clock(), {})]
            unread = NO_ANSWER
        blank = Reading(*[unread] * len(Reading._fields))
        return Telemetry(
            period_seconds=self.period_seconds,
            at_seconds=tuple(at for at, _ in ticks),
            series=tuple(
                _series(device, uuid, [readings.get(device, blank) for _, readings in ticks])
                for device, uuid in (*list(self._uuids.items()), (CPU, Absent("a CPU has no UUID")))
            ),
        )

    def tick(self) -> None:
        """One reading of every device; the CPU first, which no driver can hold up."""
        at = self._clock()
        cpu = Reading(*[NOT_SAMPLED] * len(Reading._fields))._replace(
            power_watts=DERIVED_FROM_ENERGY,
            power_instant_watts=DERIVED_FROM_ENERGY,
            temperature_celsius=self._cpu.temperature_celsius(),
            energy_joules=self._cpu.energy_joules(),
        )
        readings = {CPU: cpu}
        self._under_way = at, readings
        for device, sensors in self._open_gpus().items():
            readings[device] = sensors.read()
        self._under_way = None
        self._ticks.append((at, readings))

    def _run(self) -> None:
        due = self._clock()
        stopped = False
        while not stopped:
            self.tick()
            now = self._clock()
            due += self.period_seconds * max(1, -(-(now - due) // self.period_seconds))  # a late tick is skipped
            stopped = self._wait(max(0.0, due - now))
        self.tick()

    def _open_gpus(self) -> dict[str, GpuSensors]:
        """Asks for the list of GPUs until the driver gives it."""
        if self._gpus is None:
            count = self._nvml.gpu_count() if self._asked_for is None else 0
            if isinstance(count, Absent):
                return {}
            indices = range(count) if self._asked_for is None else self._asked_for
            self._uuids = {f"GPU{index}": self._nvml.reading(index, "uuid") for index in indices}
            self._gpus = {f"GPU{index}": GpuSensors(self._nvml, index) for index in indices}
        return self._gpus


def played(rig: Rig, driver: ReplayedDriver, period_seconds: float = REPLAYED_TICK_SECONDS) -> Telemetry:
    """Every step of a recorded driver's sequences as a tick, on a scripted clock that begins at 0."""
    moment = 0.0
    sampler = Sampler(rig, period_seconds, clock=lambda: moment)
    sampler.tick()
    for _ in range(1, driver.steps()):
        moment += period_seconds
        sampler.tick()
    return sampler.record()


def _series(device: str, uuid: str | Absent, readings: Sequence[Reading]) -> SensorSeries:
    """A column for each sensor; the first reason alone where no tick was answered."""
    named: dict[str, Any] = {}
    for place, name in enumerate(Reading._fields):
        column = tuple(reading[place] for reading in readings)
        answered = any(not isinstance(value, Absent) for value in column)
        named[name] = column if answered else next(iter(column), NO_READING)
    return SensorSeries(device=device, uuid=uuid, throttle_share=throttle_share(named["throttle_bits"]), **named)
