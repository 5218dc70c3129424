"""What do the events of a watch add up to so far, in memory that does not grow?"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec

from rigbench.core.record import Absent
from rigbench.machine.nvml_codes import REASONS
from rigbench.machine.readings import LOST
from rigbench.monitor import verdict as live
from rigbench.monitor.record import (
    METHOD,
    NOT_GONE,
    Gone,
    GpuSlow,
    GpuTick,
    HostTick,
    LiveHint,
    Monitor,
    MonitorCard,
    MonitorEnd,
    MonitorEndedBy,
    MonitorEvent,
    MonitorGpu,
    MonitorHeader,
    MonitorHint,
    MonitorHost,
    MonitorMissing,
    MonitorSlow,
    MonitorTick,
)
from rigbench.monitor.tallies import NOT_READ, EnergyTally, Stillness, Tally
from rigbench.monitor.windows import FEWEST, CardWindow, HostWindow, Window
from rigbench.work.throttle import decode_throttle

LOOK_SECONDS = 5.0  # how often the window is looked at
MOST_IN_WINDOW = 601  # 60 s at 10 Hz
LATE = 1.5  # intervals between two ticks: one or more between them were missed
WORKS = 0.1  # utilisation
GPU_TALLIES = tuple(name for name in GpuTick.__struct_fields__ if name not in ("throttle_bits", "energy_joules"))
HOST_TALLIES = tuple(name for name in HostTick.__struct_fields__ if name != "energy_joules")
CPU = "CPU"
NOT_SEEN = Absent("not listed yet")
NOT_SUPPORTED = REASONS[3]  # what a card never told is not why it is silent


class Fold:
    """Events in, a summary at any time. The same events give the same summary, live or from a recording."""

    def __init__(self, header: MonitorHeader) -> None:
        self.header = header
        period = header.interval_seconds
        self.window_seconds = max(live.WINDOW_SECONDS, FEWEST * period)
        room = min(MOST_IN_WINDOW, math.ceil(self.window_seconds / period) + 1)
        self._window: deque[MonitorTick] = deque(maxlen=room)
        self._cards: dict[str, _Card] = {}
        self._missing: dict[str, dict[str, str]] = {}
        self._host = {name: Tally() for name in HOST_TALLIES}
        self._package = EnergyTally(period)
        self._hints: dict[tuple[str, tuple[str, ...]], _Held] = {}
        self._looks, self._looked = 0, 0.0
        self.ticks = self.late_ticks = 0
        self.at_seconds = 0.0
        self.hints_now: tuple[LiveHint, ...] = ()
        self.ended_by: MonitorEndedBy | None = None

    def add(self, event: MonitorEvent) -> None:
        if isinstance(event, MonitorCard):
            self._card(event.device).facts = event
        elif isinstance(event, MonitorMissing):
            self._missing[event.device] = event.reasons
        elif isinstance(event, MonitorTick):
            self._tick(event)
        elif isinstance(event, MonitorSlow):
            for device, slow in event.gpus.items():
                self._card(device).slow(slow)
        elif isinstance(event, MonitorEnd):
            self.ended_by = event.ended_by

    def _card(self, device: str) -> _Card:
        return self._cards.setdefault(device, _Card(device, self.header.interval_seconds))

    def _tick(self, tick: MonitorTick) -> None:
        if self.ticks and tick.at_seconds - self.at_seconds > LATE * self.header.interval_seconds:
            self.late_ticks += round((tick.at_seconds - self.at_seconds) / self.header.interval_seconds) - 1
        self.ticks += 1
        self.at_seconds = tick.at_seconds
        for device, readings in tick.gpus.items():
            self._card(device).tick(tick.at_seconds, self._values(device, readings))
        host = self._values(CPU, tick.host)
        for name, tally in self._host.items():
            tally.add(host[name])
        self._package.add(tick.at_seconds, host["energy_joules"], Absent("a CPU package counts energy, not power"))
        self._window.append(tick)
        if tick.at_seconds - self._looked >= LOOK_SECONDS:
            self._looked = tick.at_seconds
            self._look()

    def _values(self, device: str, readings: GpuTick | HostTick) -> dict[str, Any]:
        """Every reading, or why there is none."""
        reasons = self._missing.get(device, {})
        return {
            name: Absent(reasons.get(name, NOT_READ.reason)) if value is msgspec.UNSET else value
            for name in readings.__struct_fields__
            for value in (getattr(readings, name),)
        }

    def _look(self) -> None:
        window = self._view()
        if round(window.seconds) < live.LEAST_SECONDS or window.ticks < FEWEST:
            return
        self._looks += 1
        self.hints_now = live.hints(window)
        for hint in self.hints_now:
            held = self._hints.setdefault((hint.code, hint.where), _Held(hint, self.at_seconds))
            held.hint, held.last, held.looks = hint, self.at_seconds, held.looks + 1

    def _view(self) -> Window:
        """The last window as columns, an entry per tick."""
        ticks = [tick for tick in self._window if self.at_seconds - tick.at_seconds <= self.window_seconds]
        cards = tuple(
            self._cards[device].view([tick.gpus.get(device, GpuTick()) for tick in ticks]) for device in self._cards
        )
        columns = [
            [_or_absent(getattr(tick.host, name)) for tick in ticks]
            for name in ("busy_share", "iowait_share", "cores_at_limit", "disk_read_bytes_per_s")
        ]
        seconds = ticks[-1].at_seconds - ticks[0].at_seconds if ticks else 0.0
        return Window(seconds, len(ticks), cards, HostWindow(*columns))

    def chart(self, device: str) -> list[tuple[float, float]]:
        """Utilisation over the window, for a small picture."""
        points = ((tick.at_seconds, tick.gpus[device]) for tick in self._window if device in tick.gpus)
        return [(at, one.utilisation_share) for at, one in points if isinstance(one.utilisation_share, int | float)]

    def record(self, notes: tuple[str, ...] = ()) -> Monitor:
        header = self.header
        short = "too short for hints: they rest on 30 s and 20 readings at least"
        own = (*header.notes, *((short,) if self.ended_by and not self._looks else ()), *notes)
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
            gpus=tuple(card.record() for card in self._cards.values()),
            gpus_absent=header.gpus_absent,
            host=MonitorHost(
                core_count=header.core_count,
                memory_total_bytes=header.host_memory_total_bytes,
                package_energy=self._package.record(),
                **{name: tally.record() for name, tally in self._host.items()},
            ),
            hints=self._held_hints(),
            notes=own,
        )

    def _held_hints(self) -> tuple[MonitorHint, ...]:
        """Worst first, then those that held longest."""
        order = ("fault", "warning", "information")
        held = sorted(self._hints.values(), key=lambda one: (order.index(one.hint.severity), -one.looks))
        return tuple(
            MonitorHint(one.hint, one.first, one.last, one.looks, self._looks, one.hint in self.hints_now)
            for one in held
        )


class _Held:
    """A hint's last words, and how long it has held."""

    def __init__(self, hint: LiveHint, at: float) -> None:
        self.hint, self.first, self.last, self.looks = hint, at, at, 0


class _Card:
    """One GPU so far."""

    def __init__(self, device: str, period_seconds: float) -> None:
        self.device = device
        self.facts: MonitorCard | None = None
        self._tallies = {name: Tally() for name in GPU_TALLIES}
        self._to, self._from = Tally(), Tally()
        self._energy, self._still = EnergyTally(period_seconds), Stillness()
        self._throttled: dict[str, int] = {}
        self._throttle_now: tuple[str, ...] = ()
        self._throttle_ticks = self._unanswered = 0
        self._answered = False
        self._gone: Gone | None = None
        self._processes: Any = NOT_READ

    def tick(self, at: float, values: dict[str, Any]) -> None:
        for name, tally in self._tallies.items():
            tally.add(values[name])
        self._energy.add(at, values["energy_joules"], values["power_watts"])
        busy = values["utilisation_share"]
        self._still.add(at, values["power_watts"], isinstance(busy, Absent) or busy >= WORKS)
        bits = values["throttle_bits"]
        self._throttle_now = () if isinstance(bits, Absent) else decode_throttle(bits)
        self._throttle_ticks += not isinstance(bits, Absent)
        for reason in self._throttle_now:
            self._throttled[reason] = self._throttled.get(reason, 0) + 1
        self._notice_silence(at, values)

    def _notice_silence(self, at: float, values: dict[str, Any]) -> None:
        """Gone is a card that is lost, or that answered and does so no more; one that never tells is only silent."""
        reasons = [value.reason for value in values.values() if isinstance(value, Absent)]
        answers = len(reasons) < len(values)
        self._answered = self._answered or answers
        self._unanswered += not answers
        if LOST not in reasons and (answers or not self._answered):
            self._gone = None
            return
        telling = [reason for reason in reasons if reason != NOT_SUPPORTED] or reasons
        why = LOST if LOST in reasons else max(telling, key=telling.count)
        self._gone = self._gone or Gone(at, why)

    def slow(self, slow: GpuSlow) -> None:
        self._to.add(slow.to_gpu_bytes_per_s)
        self._from.add(slow.from_gpu_bytes_per_s)
        self._processes = slow.processes

    def view(self, ticks: list[GpuTick]) -> CardWindow:
        limit = self._fact("power_limit_watts")
        watts = [_or_absent(tick.power_watts) for tick in ticks]
        bits = [decode_throttle(tick.throttle_bits) for tick in ticks if isinstance(tick.throttle_bits, int)]
        reasons = [reason for reading in bits for reason in reading]
        processes = () if isinstance(self._processes, Absent) else self._processes
        full = [one.children_at_limit for one in processes if not isinstance(one.children_at_limit, Absent)]
        return CardWindow(
            device=self.device,
            name=self._fact("name"),
            memory_total_bytes=self._fact("memory_total_bytes"),
            utilisation=[_or_absent(tick.utilisation_share) for tick in ticks],
            memory_used_bytes=[_or_absent(tick.memory_used_bytes) for tick in ticks],
            power_share=[
                one if isinstance(one, Absent) else limit if isinstance(limit, Absent) else one / limit for one in watts
            ],
            throttle_share={reason: reasons.count(reason) / len(bits) for reason in dict.fromkeys(reasons)},
            processes=tuple(f"{one.name if isinstance(one.name, str) else 'a process'} {one.pid}" for one in processes),
            workers_full=float(sum(full)) if full else Absent("no process was seen"),
        )

    def _fact(self, name: str) -> Any:
        return NOT_SEEN if self.facts is None else getattr(self.facts, name)

    def record(self) -> MonitorGpu:
        told = {name: tally.record() for name, tally in self._tallies.items()}
        replays = self._tallies["pcie_replays"].now
        return MonitorGpu(
            device=self.device,
            **{name: self._fact(name) for name in ("name", "uuid", "memory_total_bytes", "power_limit_watts")},
            **{name: it for name, it in told.items() if name != "pcie_replays"},  # type: ignore[arg-type]
            throttle_now=self._throttle_now,
            throttle_share={name: count / self._throttle_ticks for name, count in self._throttled.items()},
            throttle_ticks=self._throttle_ticks,
            energy=self._energy.record(),
            to_gpu_bytes_per_s=self._to.record(),
            from_gpu_bytes_per_s=self._from.record(),
            pcie_replays=replays if isinstance(replays, Absent) else round(replays),
            processes=self._processes,
            gone=self._gone or NOT_GONE,
            unanswered_ticks=self._unanswered,
            frozen=self._still.sentence or Absent("its readings move"),
        )


def _or_absent(value: Any) -> Any:
    return NOT_READ if value is msgspec.UNSET else value
