"""Shows a watch while it goes on: a picture with keys on a terminal, lines where there is none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from rich.console import Console

from rigbench.core.record import Absent
from rigbench.core.screen import Fact, LivePicture, known, printable
from rigbench.monitor.keys import Keys
from rigbench.monitor.live_screen import Charts, View, frame
from rigbench.monitor.record import Gone, Monitor, MonitorGpu
from rigbench.monitor.screen import gpu_facts, host_facts, kernel_words, length, word
from rigbench.work.telemetry import IDLE, REASONS


class Display(LivePicture):
    """On a terminal; keys change what is shown, and may ask for the end."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._keys: Keys | None = None
        self._view = View()
        self._newest: tuple[Monitor, Charts] | None = None
        self._held: tuple[Monitor, Charts] | None = None  # what stays on the screen while paused
        self._size = (0, 0)

    @property
    def paused(self) -> bool:
        return self._view.paused

    def __call__(self, monitor: Monitor, charts: Charts) -> None:
        if self._keys is None:
            self._keys = Keys()
            self._view = View(keys=self._keys.are_read)
        self._newest = monitor, charts
        if not self.paused:
            self._redraw()

    def poll(self) -> bool:
        """Do what was typed since the last time. Returns whether the end was asked for."""
        typed = self._keys.typed() if self._keys else ""
        before = self._view
        for key in typed.lower():
            view = self._view
            if key == "q":
                return True
            if key in "h?":
                self._view = view._replace(explained=not view.explained)
            elif key in "p ":
                self._view = view._replace(paused=not view.paused)
                self._held = self._newest if self._view.paused else None
        if self._newest and (self._view != before or self._size != self._measured()):
            self._redraw()
        return False

    def close(self) -> None:
        super().close()
        if self._keys:
            self._keys.close()

    def _redraw(self) -> None:
        shown = self._held or self._newest
        assert shown is not None
        self._size = self._measured()
        self.draw(frame(*shown, *self._size, self._view))

    def _measured(self) -> tuple[int, int]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            size = os.get_terminal_size(self.console.file.fileno())  # as it is now: COLUMNS may be another one's
            if size.columns and size.lines:
                return size.columns, size.lines
        return self.console.width, self.console.height


class Lines:
    """For a pipe or a log: a line per GPU and one for the host at every tick, a hint when it comes and when it goes.

    What the kernel's log tells has a line when it comes.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._first = write, True
        self.paused = False
        self._held: frozenset[str] = frozenset()
        self._told: dict[str, int] = {}  # lines of the kernel's log, by kind and device

    def __call__(self, monitor: Monitor, charts: Charts) -> None:
        at = f"{monitor.seconds:.1f} s" if monitor.interval_seconds < 1 else length(monitor.seconds)
        if isinstance(monitor.gpu_count, Absent) and self._first:
            self._write(f"no GPU is seen ({monitor.gpu_count.reason})\n")
        self._first = False
        for gpu in monitor.gpus:
            self._write(f"{at}  {gpu.device}  {printable(_terse(gpu, monitor))}\n")
        self._write(f"{at}  host  {_host(monitor)}\n")
        for event in (it.event for it in monitor.kernel):
            if self._told.get(event.code + event.where, 0) < event.count:
                self._told[event.code + event.where] = event.count
                self._write(f"{at}  kernel ({event.severity}): {kernel_words(event)}; next: {event.do}\n")
        now = {held.hint.title: held.hint for held in monitor.hints if held.holds_now}
        for title in now.keys() - self._held:
            hint, seen = now[title], printable("; ".join(now[title].evidence))
            self._write(f"{at}  {word(hint.severity)}: {title} ({seen}); next: {hint.cure}\n")
        for title in self._held - now.keys():
            self._write(f"{at}  no more: {title}\n")
        self._held = frozenset(now)

    def poll(self) -> bool:
        return False

    def close(self) -> None:
        return None


def _terse(gpu: MonitorGpu, monitor: Monitor) -> str:
    if isinstance(gpu.gone, Gone):
        return f"gone since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}"
    facts = gpu_facts(gpu, monitor, now=True)
    busy = facts["busy"][1]
    return ", ".join([busy if isinstance(busy, str) else "busy n/a", _readings(facts), *_held(gpu)])


def _readings(facts: Mapping[str, Fact]) -> str:
    readings = [facts[label] for label in ("memory", "power", "heat", "clock", "fan")]
    silent = [name for name, text in readings if isinstance(text, Absent)]
    text = known(readings)
    return f"{text}; n/a: {', '.join(silent)}" if silent and text else text or "no sensor answers"


def _held(gpu: MonitorGpu) -> list[str]:
    """What holds it down now."""
    return [REASONS.get(name, name) for name in gpu.throttle_now if name != IDLE]


def _host(monitor: Monitor) -> str:
    facts = host_facts(monitor.host, now=True)
    return known(facts[label] for label in ("CPU", "heat", "memory", "disks")) or "no reading"
