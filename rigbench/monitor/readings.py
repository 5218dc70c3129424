"""Makes a watch's events: from this machine's sensors as they move, or from a recorded rig's sequences.

Driver calls are made on threads of their own, so that a driver that hangs holds up neither the host's readings nor the
screen. The slow beat has its own thread because nvmlDeviceGetPcieThroughput measures for 20 ms each time it is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.host_load import CpuSensors, HostLoad, ProcessLoad, ProcessLoads
from rigbench.machine.kernel_log import KernelLog, labelled, labels_of, so_far
from rigbench.machine.readings import LOST, Reading
from rigbench.machine.record import GpuProcess
from rigbench.machine.rig import Rig
from rigbench.monitor.record import (
    GpuSlow,
    GpuTick,
    HostTick,
    MonitorCard,
    MonitorEvent,
    MonitorHeader,
    MonitorKernel,
    MonitorProcess,
    MonitorSlow,
    MonitorTick,
    Options,
)
from rigbench.store import now
from rigbench.work.sensors import CPU, NO_ANSWER, Sampler

POLL_SECONDS = 0.05
SILENT_SECONDS, SILENT_TICKS = 3.0, 2.5  # without a whole reading the driver does not answer
LAST_SLOW_SECONDS = 2.0  # one look waits so long for the slow beat's first reading


class Beat(Sampler):
    """A sampler that keeps its last reading alone."""

    def _keep(self, at: float, readings: dict[str, Reading]) -> None:
        """In `latest`."""


class Host:
    """The host's own readings, which no driver can hold up."""

    def __init__(self, rig: Rig, clock: Callable[[], float]) -> None:
        self.load, self._sensors = HostLoad(rig.sysfs, clock), CpuSensors(rig.sysfs)

    def read(self) -> HostTick:
        celsius, joules = self._sensors.temperature_celsius(), self._sensors.energy_joules()
        return HostTick(**self.load.read()._asdict(), temperature_celsius=celsius, energy_joules=joules)


class SlowReading(NamedTuple):
    cards: tuple[dict[str, Any], ...]  # facts of those that are new or have changed, as keywords of MonitorCard
    gpus: dict[str, GpuSlow]


class SlowBeat:
    """Reads PCIe traffic, the processes on each GPU, and what a card is: on a thread of its own, or by `read_once`.

    `facts` is who is asked what a card is, where that is not the rig itself.
    """

    def __init__(self, rig: Rig, period_seconds: float, facts: Rig | None = None) -> None:
        self._rig, self._facts, self._period = rig, facts or rig, period_seconds
        self._loads = ProcessLoads(rig.sysfs)
        self._known: dict[str, dict[str, Any]] = {}
        self._lost: set[int] = set()
        self.places: dict[str, str] = {}  # PCI addresses by card
        self._fresh: SlowReading | None = None
        self.has_read, self._stopped = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> SlowBeat:
        threading.Thread(target=self._run, name="rigbench-slow-beat", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()

    def take(self) -> SlowReading | None:
        """What was read since the last time."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def events(self, at: float) -> Iterator[MonitorCard | MonitorSlow]:
        """What was read since the last time: cards that are new or changed, then traffic and processes."""
        reading = self.take() or SlowReading((), {})
        yield from (MonitorCard(at_seconds=at, **card) for card in reading.cards)
        if reading.gpus:
            yield MonitorSlow(at, reading.gpus)

    def read_once(self) -> None:
        count = self._rig.nvml.gpu_count() if self._rig.nvml.absent is None else 0
        indices = [] if isinstance(count, Absent) else range(count)
        cards = tuple(card for index in indices for card in self._changed(index))
        gpus = self._slow(indices)
        with self._lock:
            before = self._fresh.cards if self._fresh else ()
            self._fresh = SlowReading((*before, *cards), gpus)
        self.has_read.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.read_once()
            self._stopped.wait(self._period)

    def _changed(self, index: int) -> list[dict[str, Any]]:
        device, nvml = f"GPU{index}", self._facts.nvml
        if device not in self._known:
            facts = nvml.readings(index, "name", "uuid", "memory_total_bytes", "target_celsius", "slowdown_celsius")
            if isinstance(place := nvml.reading(index, "pci_bus_id"), str):
                self.places = self.places | {device: place}
            self._known[device] = {"device": device, **facts, "power_limit_watts": Absent("not asked yet")}
        limit = nvml.reading(index, "power_limit_watts")
        before = self._known[device]["power_limit_watts"]
        if limit == before or (isinstance(limit, Absent) and not isinstance(before, Absent)):
            return []  # a card that is lost keeps the limit that it had
        self._known[device] |= {"power_limit_watts": limit}
        return [dict(self._known[device])]

    def _slow(self, indices: Sequence[int]) -> dict[str, GpuSlow]:
        nvml = self._rig.nvml
        listed = {index: Absent(LOST) if index in self._lost else nvml.processes(index) for index in indices}
        loads = self._loads.read([one.pid for it in listed.values() if not isinstance(it, Absent) for one in it])
        return {
            f"GPU{index}": GpuSlow(
                to_gpu_bytes_per_s=self._traffic(index, "to_gpu_bytes_per_s"),
                from_gpu_bytes_per_s=self._traffic(index, "from_gpu_bytes_per_s"),
                processes=it if isinstance(it, Absent) else tuple(self._process(one, loads[one.pid]) for one in it),
            )
            for index, it in listed.items()
        }

    def _process(self, process: GpuProcess, load: ProcessLoad | Absent) -> MonitorProcess:
        children, cores, at_limit = (load, load, load) if isinstance(load, Absent) else load
        return MonitorProcess(
            pid=process.pid,
            kind=process.kind,
            name=self._rig.sysfs.read_text(f"proc/{process.pid}/comm"),
            memory_bytes=process.memory_bytes,
            children=children,
            cores=cores,
            children_at_limit=at_limit,
        )

    def _traffic(self, index: int, direction: str) -> float | Absent:
        if index in self._lost:
            return Absent(LOST)
        rate: float | Absent = self._rig.nvml.reading(index, direction)
        if isinstance(rate, Absent) and rate.reason == LOST:
            self._lost.add(index)
        return rate


def live(
    rig: Rig,
    options: Options,
    stopped: Callable[[], bool],
    wait: Callable[[float], object] = lambda seconds: time.sleep(min(POLL_SECONDS, seconds)),
    log: KernelLog | None = None,
) -> Generator[MonitorEvent, None, None]:
    """This machine, a tick per interval, until the time is up or the user says stop.

    `wait` may come back sooner than it is asked to, where `stopped` may have changed; `log` may have been open before.
    """
    period = options.interval
    host, beat, log = Host(rig, time.perf_counter), Beat(rig, period), log or KernelLog()
    yield _header(rig, options, host, options.slow_seconds, (f"{log.absent.reason}",) if log.absent else ())
    started = time.perf_counter()  # the driver has been found by now
    due = heard = started
    gpus: dict[str, GpuTick] = {}
    with log, beat, SlowBeat(rig, options.slow_seconds) as slow:
        while not stopped():
            newest, moment = beat.latest, time.perf_counter()
            if newest is not None and newest[0] > heard:
                at = heard = newest[0]
                gpus = _gpus(newest[1])
            elif moment - heard > max(SILENT_SECONDS, SILENT_TICKS * period) and moment >= due:
                at = moment
                gpus = dict.fromkeys(gpus, GpuTick(**dict.fromkeys(GpuTick.__struct_fields__, NO_ANSWER)))
            else:
                wait(max(min(POLL_SECONDS, period / 4), due - moment))
                continue
            due = at + period
            elapsed = max(0.0, at - started)
            yield from slow.events(elapsed)
            yield from _kernel(log, rig, slow, elapsed)
            yield MonitorTick(elapsed, gpus, host.read())
            if not isinstance(options.length_seconds, Absent) and at - started >= options.length_seconds - period / 4:
                break
        if options.once:
            slow.has_read.wait(LAST_SLOW_SECONDS)
            yield from slow.events(time.perf_counter() - started)
        for _ in range(2):  # of what ended a training the log tells last, and a line may wait for a better one
            yield from _kernel(log, rig, slow, time.perf_counter() - started)


def _kernel(log: KernelLog, rig: Rig, slow: SlowBeat, at_seconds: float) -> Iterator[MonitorKernel]:
    if came := log.poll():
        yield from (MonitorKernel(at_seconds, it) for it in labelled(came, labels_of(rig.sysfs, slow.places)))


def replayed(rig: Rig, facts: Rig, options: Options) -> Generator[MonitorEvent, None, None]:
    """A recorded rig, one step of each sequence per tick, on a clock that moves when told.

    `facts` is the same recording opened once more: what a card is must not take a step of what it reads.
    """
    playing, driver = rig.awake()
    moment, period = 0.0, options.interval
    host = Host(rig, lambda: moment)
    beat = Beat(playing, max(0.1, period), clock=lambda: moment)
    slow = SlowBeat(playing, period, facts=facts.awake()[0])
    yield _header(facts, options, host, period, rig.notes)
    tick, steps = 0, 1
    while tick < steps:
        moment = tick * period
        if not isinstance(options.length_seconds, Absent) and moment > options.length_seconds:
            break
        slow.read_once()
        yield from slow.events(moment)
        if not tick:
            told = so_far(rig, slow.places)
            yield from (MonitorKernel(moment, event) for event in (() if isinstance(told, Absent) else told))
        beat.tick()
        assert beat.latest is not None
        yield MonitorTick(moment, _gpus(beat.latest[1]), host.read())
        if not tick:
            steps = driver.steps()
        driver.log.clear()
        tick += 1


def _header(rig: Rig, options: Options, host: Host, slow_seconds: float, notes: tuple[str, ...] = ()) -> MonitorHeader:
    count = rig.nvml.gpu_count()
    return MonitorHeader(
        started_at=now(),
        interval_seconds=options.interval,
        slow_seconds=slow_seconds,
        replayed=rig.replayed,
        core_count=host.load.core_count(),
        host_memory_total_bytes=host.load.memory_total_bytes(),
        gpu_count=count or Absent("the driver lists no GPU"),
        notes=notes,
    )


def _gpus(readings: dict[str, Reading]) -> dict[str, GpuTick]:
    return {
        device: GpuTick(**{name: getattr(reading, name) for name in GpuTick.__struct_fields__})
        for device, reading in readings.items()
        if device != CPU
    }
