"""Reads the sensors beside a piece of work."""

from __future__ import annotations

import itertools
import math
import threading
import time
from array import array
from bisect import bisect_left
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

ROOM = 256  # readings that a column grows by where nobody has said how many there will be
WHOLE = ("throttle_bits", "memory_used_bytes", "pcie_replays")
EXACT = 2**53  # whole numbers below it are the same as a float

Tick = tuple[float, dict[str, Reading]]  # when, and each device's reading


class Readings:
    """One sensor's readings, eight bytes each. Why there is none, or what fits no float, is kept when it changes."""

    def __init__(self, kind: type, room: int) -> None:
        """`room` is taken at once with the first answer, so that a long watch stays as large as it began."""
        self._kind: Any = kind
        self._room, self._other = max(room, ROOM), None
        self.values = array("d")  # NaN where there is none
        self._others: list[tuple[int, Any]] = []  # from that place on, in place of NaN

    def put(self, place: int, value: Any) -> None:
        if value is self._other:
            return  # as of a sensor that a card does not have
        if type(value) is self._kind and value == value and (self._kind is float or -EXACT < value < EXACT):
            if place >= len(self.values):
                count = -(-(place + 1 - len(self.values)) // self._room) * self._room
                self.values.extend(array("d", [math.nan]) * count)
            self.values[place] = value
        elif self._other is None or self._other != value:
            self._other = value
            self._others.append((place, value))

    def at(self, places: Sequence[int]) -> list[Any]:
        """Those of rising places, as they were put."""
        held = bisect_left(places, len(self.values))
        values = [self.values[place] for place in places[:held]]
        known: list[Any] = values if self._kind is float else [it if math.isnan(it) else int(it) for it in values]
        known += [math.nan] * (len(places) - held)
        others = [*self._others, (math.inf, None)]
        for (begin, value), (end, _) in itertools.pairwise(others):
            for index in range(bisect_left(places, begin), bisect_left(places, end)):
                if known[index] != known[index]:
                    known[index] = value
        return known


def spread(first: int, count: int, most: int) -> Sequence[int]:
    """The places from `first` to `count`, or `most` of them, evenly: always as many, so that memory stays flat."""
    many = count - first
    return [first + each * many // most for each in range(most)] if 0 < most < many else range(first, count)


class Sampler:
    """Reads a rig's sensors on a thread of its own between `start` and `stop`, or inside a `with`.

    Timestamps come from the monotonic clock, which all processes of a Linux machine share. `wait` sleeps and says
    whether to stop; both it and `clock` can be scripted. `gpus` are NVML indices, all of the rig's if None. Only `tick`
    calls the driver, so that one that hangs holds up the thread and nobody else. `room` is for how many ticks memory is
    taken at once.
    """

    def __init__(
        self,
        rig: Rig,
        period_seconds: float = 0.2,
        gpus: Iterable[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], bool] | None = None,
        room: int = 0,
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
        self._room, self._count, self._at = room, 0, Readings(float, room)
        self._columns: dict[str, tuple[Readings, ...]] = {}
        self.latest: Tick | None = None
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

    def record(self, most: int = 0) -> Telemetry:
        """All readings so far, or at most so many, evenly spread.

        A device that hangs is absent from then on, and so is what would have come after it.
        """
        count = self._count  # the thread only adds, so this is whole ticks even while it runs
        places = spread(0, count, most)
        more: list[Tick] = []
        unread = NOT_YET_LISTED
        if self._stopped.is_set() and self._thread is not None and self._thread.is_alive():
            more = [*([] if self._under_way is None else [self._under_way]), (self._clock(), {})]
            unread = NO_ANSWER
        blank = Reading(*[unread] * len(Reading._fields))

        def columns(device: str) -> list[list[Any]]:
            whole = [column.at(places) for column in self._columns.get(device, ())]
            whole = whole or [[NOT_YET_LISTED] * len(places) for _ in Reading._fields]
            late = [readings.get(device, blank) for _, readings in more]
            return [
                [unread if it is NOT_YET_LISTED else it for it in column] + [it[place] for it in late]
                for place, column in enumerate(whole)
            ]

        return Telemetry(
            period_seconds=self.period_seconds * (count / len(places) if places else 1),
            at_seconds=(*self._at.at(places), *(at for at, _ in more)),
            series=tuple(
                _series(device, uuid, columns(device))
                for device, uuid in (*list(self._uuids.items()), (CPU, Absent("a CPU has no UUID")))
            ),
        )

    def curve(self, device: str, name: str, since: float = -math.inf, most: int = 0) -> tuple[list[float], list[float]]:
        """(moments, readings) of one sensor since a moment, or at most so many, evenly; NaN where it gave none."""
        columns = self._columns.get(device)
        values = columns[Reading._fields.index(name)].values if columns else ()
        count = min(self._count, len(values))
        places = spread(bisect_left(self._at.values, since, 0, count), count, most)
        return [self._at.values[place] for place in places], [values[place] for place in places]

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
        self.latest = at, readings
        self._keep(at, readings)

    def _keep(self, at: float, readings: dict[str, Reading]) -> None:
        place = self._count
        self._at.put(place, at)
        for device, reading in readings.items():
            if device not in self._columns:
                self._columns[device] = tuple(
                    Readings(int if name in WHOLE else float, self._room) for name in Reading._fields
                )
                for column in self._columns[device] if place else ():
                    column.put(0, NOT_YET_LISTED)
            for column, value in zip(self._columns[device], reading, strict=True):
                column.put(place, value)
        self._count = place + 1

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


def _series(device: str, uuid: str | Absent, columns: Sequence[Sequence[Any]]) -> SensorSeries:
    """A column for each sensor; the first reason alone where no tick was answered."""
    named: dict[str, Any] = {}
    for name, column in zip(Reading._fields, columns, strict=True):
        answered = any(not isinstance(value, Absent) for value in column)
        named[name] = tuple(column) if answered else next(iter(column), NO_READING)
    return SensorSeries(device=device, uuid=uuid, throttle_share=throttle_share(named["throttle_bits"]), **named)
