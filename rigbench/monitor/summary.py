"""Adds the events of a watch up to a summary, in memory that does not grow."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from rigbench.core.finding import WORST_FIRST, Finding
from rigbench.core.record import Absent
from rigbench.machine.kernel_log import merged
from rigbench.machine.readings import LOST, REASONS
from rigbench.machine.record import NO_MORE
from rigbench.monitor.record import (
    LOOK_SECONDS,
    METHOD,
    NOT_GONE,
    NOT_READ,
    Gone,
    GpuTick,
    HostTick,
    KernelSeen,
    Monitor,
    MonitorCard,
    MonitorEnd,
    MonitorEndedBy,
    MonitorEvent,
    MonitorGpu,
    MonitorHeader,
    MonitorHint,
    MonitorHost,
    MonitorKernel,
    MonitorProcess,
    MonitorSlow,
    MonitorTick,
    Watched,
    WatchedEnergy,
)
from rigbench.monitor.verdict import FEWEST, LEAST_SECONDS, WINDOW_SECONDS, CardWindow, HostWindow, Window, hints
from rigbench.work.telemetry import Stillness, decode_throttle, throttle_share

MOST_IN_WINDOW = 601  # 60 s at 10 Hz
MOST_KERNEL = 50  # kinds of lines of the kernel's log
LATE = 1.5  # intervals between two ticks: one or more between them were missed
WORKS = 0.1  # utilisation
GPU_TALLIES = tuple(name for name in GpuTick.__struct_fields__ if name not in ("throttle_bits", "energy_joules"))
HOST_TALLIES = tuple(name for name in HostTick.__struct_fields__ if name != "energy_joules")
CHARTED = ("utilisation_share", "power_watts")
NOT_SEEN = Absent("not listed yet")
NOT_SUPPORTED = REASONS[3]  # what a card never told is not why it is silent
GAP_TICKS = 3.0  # a longer gap between two readings of power is not bridged
TOO_SHORT = "too short for hints: they need 30 s and 20 readings at least"


class Fold:
    """Events in, a summary at any time. The same events give the same summary, live or from a recording."""

    def __init__(self, header: MonitorHeader) -> None:
        self.header = header
        period = header.interval_seconds
        self.window_seconds = max(WINDOW_SECONDS, FEWEST * period)
        room = min(MOST_IN_WINDOW, math.ceil(self.window_seconds / period) + 1)
        self._window: deque[MonitorTick] = deque(maxlen=room)
        self._cards: dict[str, _Card] = {}
        self._host = {name: Tally() for name in HOST_TALLIES}
        self._package = EnergyTally(period)
        self._hints: dict[tuple[str, tuple[str, ...]], MonitorHint] = {}
        self._kernel: dict[tuple[str, str], KernelSeen] = {}
        self._looks, self._looked = 0, 0.0
        self.ticks = self.late_ticks = 0
        self.at_seconds = 0.0
        self.hints_now: tuple[Finding, ...] = ()
        self.ended_by: MonitorEndedBy | None = None

    def add(self, event: MonitorEvent) -> None:
        if isinstance(event, MonitorCard):
            self._card(event.device).facts = event
        elif isinstance(event, MonitorTick):
            self._tick(event)
        elif isinstance(event, MonitorSlow):
            for device, slow in event.gpus.items():
                card = self._card(device)
                card.to_gpu.add(slow.to_gpu_bytes_per_s)
                card.from_gpu.add(slow.from_gpu_bytes_per_s)
                card.processes = slow.processes
        elif isinstance(event, MonitorKernel):
            self._told(event)
        elif isinstance(event, MonitorEnd):
            self.ended_by = event.ended_by

    def _told(self, told: MonitorKernel) -> None:
        event, at = told.event, told.at_seconds
        key = event.code, str(event.device)
        if before := self._kernel.get(key):
            both = merged([before.event, event])[0]
            self._kernel[key] = KernelSeen(both, before.first_seconds, at)
        elif len(self._kernel) < MOST_KERNEL:
            self._kernel[key] = KernelSeen(event, at, at)

    def _card(self, device: str) -> _Card:
        return self._cards.setdefault(device, _Card(device, self.header.interval_seconds))

    def _tick(self, tick: MonitorTick) -> None:
        at, period = tick.at_seconds, self.header.interval_seconds
        if self.ticks and at - self.at_seconds > LATE * period:
            self.late_ticks += round((at - self.at_seconds) / period) - 1
        self.ticks += 1
        self.at_seconds = at
        for device, readings in tick.gpus.items():
            self._card(device).tick(at, readings)
        for name, tally in self._host.items():
            tally.add(getattr(tick.host, name))
        self._package.add(at, tick.host.energy_joules, Absent("a CPU package counts energy, not power"))
        self._window.append(tick)
        if at - self._looked >= LOOK_SECONDS:
            self._looked = at
            self._look()

    def _look(self) -> None:
        ticks = [tick for tick in self._window if self.at_seconds - tick.at_seconds <= self.window_seconds]
        seconds = ticks[-1].at_seconds - ticks[0].at_seconds
        if round(seconds) < LEAST_SECONDS or len(ticks) < FEWEST:
            return
        columns = {device: [tick.gpus.get(device, GpuTick()) for tick in ticks] for device in self._cards}
        cards = tuple(self._cards[device].window(column) for device, column in columns.items())
        names = ("busy_share", "iowait_share", "cores_at_limit", "disk_read_bytes_per_s")
        host = HostWindow(*([getattr(tick.host, name) for tick in ticks] for name in names))
        self._looks += 1
        self.hints_now = hints(Window(seconds, len(ticks), cards, host))
        for hint in self.hints_now:
            before = self._hints.get((hint.code, hint.where))
            first, held = (before.first_seconds, before.held_looks) if before else (self.at_seconds, 0)
            self._hints[hint.code, hint.where] = MonitorHint(hint, first, self.at_seconds, held + 1, self._looks, True)

    def chart(self, device: str, name: str = "utilisation_share") -> list[tuple[float, float]]:
        """One of GpuTick's readings over the window, for a small picture."""
        ticks = [(tick.at_seconds, tick.gpus[device]) for tick in self._window if device in tick.gpus]
        points = ((at, getattr(gpu, name)) for at, gpu in ticks)
        return [(at, value) for at, value in points if not isinstance(value, Absent)]

    def charts(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """By card, then by reading."""
        return {device: {name: self.chart(device, name) for name in CHARTED} for device in self._cards}

    def record(self, notes: Sequence[str] = ()) -> Monitor:
        """Hints are worst first, then those that held longest."""
        header = self.header
        held = sorted(self._hints.values(), key=lambda it: (WORST_FIRST.index(it.hint.severity), -it.held_looks))
        return Monitor(
            method=METHOD,
            started_at=header.started_at,
            seconds=self.at_seconds,
            interval_seconds=header.interval_seconds,
            slow_seconds=header.slow_seconds,
            window_seconds=self.window_seconds,
            ticks=self.ticks,
            late_ticks=self.late_ticks,
            replayed=header.replayed,
            ended_by=self.ended_by or "still watching",
            gpu_count=header.gpu_count,
            gpus=tuple(card.record() for card in self._cards.values()),
            host=MonitorHost(
                core_count=header.core_count,
                memory_total_bytes=header.host_memory_total_bytes,
                package_energy=self._package.record(),
                **{name: tally.record() for name, tally in self._host.items()},
            ),
            hints=tuple(
                msgspec.structs.replace(it, looks=self._looks, holds_now=it.hint in self.hints_now) for it in held
            ),
            kernel=tuple(sorted(self._kernel.values(), key=lambda it: WORST_FIRST.index(it.event.severity))),
            notes=(*header.notes, *([TOO_SHORT] if self.ended_by and not self._looks else []), *notes),
        )


class _Card:
    def __init__(self, device: str, period_seconds: float) -> None:
        self.device = device
        self.facts: MonitorCard | None = None
        self.to_gpu, self.from_gpu = Tally(), Tally()
        self.processes: tuple[MonitorProcess, ...] | Absent = NOT_READ
        self._tallies = {name: Tally() for name in GPU_TALLIES}
        self._energy, self._still = EnergyTally(period_seconds), Stillness()
        self._throttled: dict[str, int] = {}
        self._throttle_now: tuple[str, ...] = ()
        self._throttle_ticks = self._unanswered = 0
        self._answered = False
        self._gone: Gone | Absent = NOT_GONE

    def tick(self, at: float, readings: GpuTick) -> None:
        for name, tally in self._tallies.items():
            tally.add(getattr(readings, name))
        watts, busy, bits = readings.power_watts, readings.utilisation_share, readings.throttle_bits
        self._energy.add(at, readings.energy_joules, watts)
        works = isinstance(busy, Absent) or busy >= WORKS
        self._still.add(at, None if isinstance(watts, Absent) or not works else watts)
        self._throttle_now = () if isinstance(bits, Absent) else decode_throttle(bits)
        self._throttle_ticks += not isinstance(bits, Absent)
        for reason in self._throttle_now:
            self._throttled[reason] = self._throttled.get(reason, 0) + 1
        # Gone is a card that is lost, or of which the driver tells no more; one that never tells is only silent.
        values = [getattr(readings, name) for name in readings.__struct_fields__]
        reasons = [value.reason for value in values if isinstance(value, Absent)]
        answers = len(reasons) < len(values)
        self._answered = self._answered or answers
        self._unanswered += not answers
        no_more = any(reason == LOST or reason.startswith(NO_MORE) for reason in reasons)
        if not no_more and (answers or not self._answered):
            self._gone = NOT_GONE
        elif isinstance(self._gone, Absent):
            telling = [reason for reason in reasons if reason != NOT_SUPPORTED] or reasons
            self._gone = Gone(at, LOST if LOST in reasons else max(telling, key=telling.count))

    def window(self, ticks: Sequence[GpuTick]) -> CardWindow:
        """Its last readings as columns."""
        limit = self._fact("power_limit_watts") or NOT_SEEN  # 0 W is none
        processes = () if isinstance(self.processes, Absent) else self.processes
        full = [one.children_at_limit for one in processes if not isinstance(one.children_at_limit, Absent)]
        return CardWindow(
            device=self.device,
            name=self._fact("name"),
            memory_total_bytes=self._fact("memory_total_bytes"),
            utilisation=[tick.utilisation_share for tick in ticks],
            memory_used_bytes=[tick.memory_used_bytes for tick in ticks],
            power_share=[
                watts if isinstance(watts, Absent) else limit if isinstance(limit, Absent) else watts / limit
                for watts in (tick.power_watts for tick in ticks)
            ],
            throttle_share=throttle_share([tick.throttle_bits for tick in ticks]),
            processes=tuple(f"{one.name if isinstance(one.name, str) else 'a process'} {one.pid}" for one in processes),
            workers_full=float(sum(full)) if full else Absent("no process was seen"),
        )

    def _fact(self, name: str) -> Any:
        return NOT_SEEN if self.facts is None else getattr(self.facts, name)

    def record(self) -> MonitorGpu:
        facts = {
            name: self._fact(name) for name in MonitorCard.__struct_fields__ if name not in ("at_seconds", "device")
        }
        replays, still = self._tallies["pcie_replays"].now, self._still
        return MonitorGpu(
            device=self.device,
            **facts,
            **{name: tally.record() for name, tally in self._tallies.items() if name != "pcie_replays"},  # type: ignore[arg-type]
            throttle_now=self._throttle_now,
            throttle_share={name: count / self._throttle_ticks for name, count in self._throttled.items()},
            throttle_ticks=self._throttle_ticks,
            energy=self._energy.record(),
            to_gpu_bytes_per_s=self.to_gpu.record(),
            from_gpu_bytes_per_s=self.from_gpu.record(),
            pcie_replays=replays if isinstance(replays, Absent) else round(replays),
            processes=self.processes,
            gone=self._gone,
            unanswered_ticks=self._unanswered,
            frozen=f"its power has read {still.value:g} W without any change for {still.seconds:.0f} s of work"
            if still.seconds
            else Absent("its readings move"),
        )


class Tally:
    """A reading's sum and extremes so far."""

    def __init__(self) -> None:
        self.now: float | Absent = NOT_READ
        self._sum = self._rest = 0.0
        self._low, self._high, self._n = float("inf"), float("-inf"), 0

    def add(self, value: float | Absent) -> None:
        self.now = value
        if isinstance(value, Absent):
            return
        self._n += 1
        self._low, self._high = min(self._low, value), max(self._high, value)
        step = value - self._rest  # Kahan 1965: a week of bytes must not round away
        total = self._sum + step
        self._rest = (total - self._sum) - step
        self._sum = total

    def record(self) -> Watched | Absent:
        """What it came to; the last reason where nothing was ever answered."""
        if not self._n:
            return self.now if isinstance(self.now, Absent) else NOT_READ
        return Watched(now=self.now, mean=self._sum / self._n, low=self._low, high=self._high, n=self._n)


class EnergyTally:
    """Joules since the first tick: what a counter rose by, or power over time where there is no counter."""

    def __init__(self, period_seconds: float) -> None:
        self._longest = GAP_TICKS * period_seconds
        self._counter: tuple[float, float] | None = None
        self._counted = self._counted_seconds = self._area = self._area_seconds = 0.0
        self._power: tuple[float, float] | None = None
        self._why: Absent = NOT_READ

    def add(self, at: float, joules: float | Absent, watts: float | Absent) -> None:
        if isinstance(joules, Absent):
            self._why = joules
        else:
            if self._counter and joules >= self._counter[1]:  # a counter that starts again is not negative work
                self._counted += joules - self._counter[1]
                self._counted_seconds += at - self._counter[0]
            self._counter = at, joules
        if isinstance(watts, Absent):
            return
        if self._power and at - self._power[0] <= self._longest:
            self._area += (at - self._power[0]) * (watts + self._power[1]) / 2
            self._area_seconds += at - self._power[0]
        self._power = at, watts

    def record(self) -> WatchedEnergy | Absent:
        """0 J is missing, not free."""
        if self._counted > 0 and self._counted_seconds >= self._area_seconds / 2:
            return WatchedEnergy(self._counted, self._counted_seconds, "counter")
        if self._area > 0:
            return WatchedEnergy(self._area, self._area_seconds, "integrated")
        if self._counter is not None:
            return Absent("its energy counter has not counted yet")
        return self._why
