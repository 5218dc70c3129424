"""Watches from the first reading to the end, whoever ends it, and tells a recording's summary again."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.rig import Rig
from rigbench.monitor import readings, recording
from rigbench.monitor.record import Monitor, MonitorEnd, MonitorEndedBy, MonitorHeader, MonitorTick, Options
from rigbench.monitor.summary import Fold

if TYPE_CHECKING:
    from rigbench.monitor.live import Chart

TORN = "the recording's last line was cut short, and is left out"
PATIENCE_SECONDS = 1.0  # with the tick under way, once told to stop
ENDLESS = "the recording has no end: it was killed, its disk was full, or it still goes on"


def watch(
    options: Options, replay: Path | None, display: Callable[[Monitor, Mapping[str, Chart]], None] | None
) -> tuple[Monitor, RigbenchError | None]:
    """Watch this machine, or play a recorded rig; the summary, and what went wrong with the recording's file.

    Stop signals end it as the passing of time does: with everything written and a summary.
    """
    rig = Rig.replay(replay) if replay else Rig.live()
    with contextlib.ExitStack() as stack:
        recorder = None
        if not isinstance(options.record, Absent):
            recorder = stack.enter_context(recording.Recorder(Path(options.record), options.force))
        stop = StopSignal()
        events = (
            readings.replayed(rig, Rig.replay(replay), options)
            if replay
            else readings.live(rig, options, lambda: stop.sent)
        )
        with contextlib.closing(events):
            header = next(events)  # until then Ctrl-C breaks in: there is nothing to sum up
            assert isinstance(header, MonitorHeader)
            fold = Fold(header)
            if recorder:
                recorder.write(header)
            with contextlib.suppress(Overdue), stop:
                for event in events:
                    fold.add(event)
                    if recorder:
                        recorder.write(event)
                    if display and isinstance(event, MonitorTick):
                        monitor = fold.record()
                        display(monitor, {gpu.device: fold.chart(gpu.device) for gpu in monitor.gpus})
                    if stop.sent:
                        break
        ended_by: MonitorEndedBy = "stopped by the user"
        if not stop.sent:
            ended_by = "one look" if options.once else "recording ended" if replay else "time is up"
        end = MonitorEnd(fold.at_seconds, ended_by)
        fold.add(end)
        if recorder:
            recorder.write(end)
    return fold.record(), recorder.trouble if recorder else None


def summary(path: Path) -> Monitor:
    """The same summary from what was recorded."""
    fold: Fold | None = None
    notes: list[str] = []
    for event in recording.read(path):
        if event is None:
            notes.append(TORN)
        elif isinstance(event, MonitorHeader):
            fold = Fold(event)
        elif fold is not None:
            fold.add(event)
    assert fold is not None  # read() gives a header first, or raises
    if fold.ended_by is None:
        fold.add(MonitorEnd(fold.at_seconds, "cut short"))
        notes.append(ENDLESS)
    return fold.record(notes)


class Overdue(Exception):
    """A second stop signal, or a second after the first one: the tick under way, maybe in a hung driver, is dropped."""


class StopSignal:
    """Ctrl-C and SIGTERM ask for the end instead of breaking in."""

    def __init__(self) -> None:
        self.sent = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.sent:
            raise Overdue
        self.sent = True
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
