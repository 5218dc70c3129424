"""Where do a watch's events come from: this machine's sensors as they move, or a recorded rig's sequences?

Driver calls are made on threads of their own, so that a driver that hangs holds up neither the host's readings nor the
screen. The slow beat has its own thread because nvmlDeviceGetPcieThroughput measures for 20 ms each time it is asked.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.host_load import CpuSensors, HostLoad
from rigbench.machine.readings import Reading
from rigbench.machine.replay import ReplayedLibrary
from rigbench.machine.rig import Rig
from rigbench.monitor.options import Asked
from rigbench.monitor.record import (
    GpuTick,
    HostTick,
    MonitorCard,
    MonitorEvent,
    MonitorHeader,
    MonitorMissing,
    MonitorSlow,
    MonitorTick,
)
from rigbench.monitor.slow import SlowBeat, SlowReading
from rigbench.store import now
from rigbench.work.sensors import CPU, NO_ANSWER, Sampler

POLL_SECONDS = 0.05
SILENT_SECONDS, SILENT_TICKS = 3.0, 2.5  # without a whole reading the driver does not answer
LAST_SLOW_SECONDS = 2.0  # one look waits so long for the slow beat's first reading


class Beat(Sampler):
    """A sampler that keeps its last reading alone."""

    latest: tuple[float, dict[str, Reading]] | None = None

    def tick(self) -> None:
        super().tick()
        self.latest = self._ticks.pop()


class Told:
    """Turns readings into a tick's numbers, and says what is missing only when that changes."""

    def __init__(self) -> None:
        self._missing: dict[str, dict[str, str]] = {}

    def tick(
        self, at: float, gpus: dict[str, dict[str, Any]], host: dict[str, Any]
    ) -> Iterator[MonitorMissing | MonitorTick]:
        ticks = {}
        for device, values in gpus.items():
            yield from self._changes(at, device, values)
            ticks[device] = GpuTick(**_answered(values))
        yield from self._changes(at, CPU, host)
        yield MonitorTick(at, ticks, HostTick(**_answered(host)))

    def _changes(self, at: float, device: str, values: dict[str, Any]) -> Iterator[MonitorMissing]:
        reasons = {name: value.reason for name, value in values.items() if isinstance(value, Absent)}
        if reasons != self._missing.get(device, {}):
            self._missing[device] = reasons
            yield MonitorMissing(at, device, reasons)


class Host:
    """The host's own readings, which no driver can hold up."""

    def __init__(self, rig: Rig, clock: Callable[[], float]) -> None:
        self.load = HostLoad(rig.sysfs, clock)
        self._sensors = CpuSensors(rig.sysfs)

    def read(self) -> dict[str, Any]:
        return {
            **self.load.read()._asdict(),
            "temperature_celsius": self._sensors.temperature_celsius(),
            "energy_joules": self._sensors.energy_joules(),
        }


def header(rig: Rig, asked: Asked, host: Host, slow_seconds: float, notes: tuple[str, ...] = ()) -> MonitorHeader:
    count = rig.nvml.gpu_count()
    why = count if isinstance(count, Absent) else msgspec.UNSET if count else Absent("the driver lists no GPU")
    return MonitorHeader(
        started_at=now(),
        interval_seconds=asked.interval_seconds,
        slow_seconds=slow_seconds,
        replayed=rig.replayed,
        core_count=host.load.core_count(),
        host_memory_total_bytes=host.load.memory_total_bytes(),
        gpus_absent=why,
        notes=notes,
    )


def live(rig: Rig, asked: Asked, stopped: Callable[[], bool]) -> Generator[MonitorEvent, None, None]:
    """This machine, a tick per interval, until the time is up or the user says stop."""
    started, period = time.perf_counter(), asked.interval_seconds
    host, told, beat = Host(rig, time.perf_counter), Told(), Beat(rig, period)
    yield header(rig, asked, host, asked.slow_seconds)
    slow = SlowBeat(rig, asked.slow_seconds)
    beat.start()
    slow.start()
    seen, due, unheard = -1.0, started, started
    values: dict[str, dict[str, Any]] = {}
    try:
        while not stopped():
            newest = beat.latest
            moment = time.perf_counter()
            if newest is not None and newest[0] > seen:
                seen = unheard = newest[0]
                values = {name: _gpu(reading) for name, reading in newest[1].items() if name != CPU}
                at = newest[0]
            elif moment - unheard > max(SILENT_SECONDS, SILENT_TICKS * period) and moment >= due:
                values = {name: dict.fromkeys(GpuTick.__struct_fields__, NO_ANSWER) for name in values}
                at = moment
            else:
                time.sleep(min(POLL_SECONDS, period / 4))
                continue
            due = at + period
            yield from slow_events(max(0.0, at - started), slow)
            yield from told.tick(max(0.0, at - started), values, host.read())
            if asked.length_seconds is not None and at - started >= asked.length_seconds - period / 4:
                break
        if asked.once:
            slow.first(LAST_SLOW_SECONDS)
            yield from slow_events(time.perf_counter() - started, slow)
    finally:
        slow.stop()
        beat.stop()


def replayed(rig: Rig, facts: Rig, asked: Asked) -> Generator[MonitorEvent, None, None]:
    """A recorded rig, one step of each sequence per tick, on a clock that moves when told.

    `facts` is the same recording opened once more: what a card is must not take a step of what it reads.

    Raises:
        RigbenchError: the recording holds no driver.
    """
    driver = rig.load if rig.load.absent is None else rig.nvml
    library = driver.library
    if driver.absent is not None or not isinstance(library, ReplayedLibrary):
        reason = driver.absent.reason if driver.absent else "its driver cannot be replayed"
        raise RigbenchError(f"the recording has no sensors ({reason})", "capture the rig again", exit_code=NOTHING)
    moment = 0.0
    host, told = Host(rig, lambda: moment), Told()
    playing = dataclasses.replace(rig, nvml=driver)
    beat = Beat(playing, max(0.1, asked.interval_seconds), clock=lambda: moment)
    known = facts.load if facts.load.absent is None else facts.nvml
    slow = SlowBeat(playing, asked.interval_seconds, facts=dataclasses.replace(facts, nvml=known))
    yield header(facts, asked, host, asked.interval_seconds, rig.notes)
    steps = 1
    tick = 0
    while tick < steps:
        moment = tick * asked.interval_seconds
        if asked.length_seconds is not None and moment > asked.length_seconds:
            break
        slow.read_once()
        yield from slow_events(moment, slow)
        beat.tick()
        assert beat.latest is not None
        values = {name: _gpu(reading) for name, reading in beat.latest[1].items() if name != CPU}
        yield from told.tick(moment, values, host.read())
        if not tick:
            steps = max(
                (len(library.recorded(scope, key)) for scope, key, _ in library.log if scope != "sys"), default=1
            )
        library.log.clear()
        tick += 1


def slow_events(at: float, slow: SlowBeat) -> Iterator[MonitorCard | MonitorSlow]:
    """What the slow beat has read since it was last asked: cards that are new or changed, then traffic and company."""
    found: SlowReading | None = slow.take()
    if found is None:
        return
    for card in found.cards:
        yield MonitorCard(at_seconds=at, **card)
    if found.gpus:
        yield MonitorSlow(at, found.gpus)


def _gpu(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in GpuTick.__struct_fields__}


def _answered(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, Absent)}
