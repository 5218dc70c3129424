"""How does a watch begin, go on and end, whoever ends it, and what does it say in the end?"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

from rigbench.core.errors import RigbenchError
from rigbench.machine.rig import Rig
from rigbench.monitor import recording, sources
from rigbench.monitor.options import Asked
from rigbench.monitor.record import Monitor, MonitorEnd, MonitorEndedBy, MonitorEvent, MonitorHeader, MonitorTick
from rigbench.monitor.summary import Fold

Shown = Callable[[Fold], None]
TORN = "the recording's last line was cut short, and is left out"
ENDLESS = "the recording has no end: it was killed, its disk was full, or it still goes on"


def watch(asked: Asked, replay: Path | None, shown: Shown) -> tuple[Monitor, RigbenchError | None]:
    """Watch this machine, or play a recorded rig; the summary, and what went wrong with the recording's file.

    Stop signals end it as the passing of time does: with everything written and a summary.

    Raises:
        RigbenchError: the file cannot be made, or there is nothing to replay.
    """
    rig = Rig.replay(replay) if replay else Rig.live()
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(recording.Recorder(asked.record, asked.force)) if asked.record else None
        stop = stack.enter_context(StopSignal())
        events = (
            sources.replayed(rig, Rig.replay(replay), asked) if replay else sources.live(rig, asked, stop.was_asked)
        )
        with contextlib.closing(events):
            fold = _follow(events, recorder, shown, stop.was_asked)
        ended_by: MonitorEndedBy = "stopped by the user"
        if not stop.was_asked():
            ended_by = "one look" if asked.once else "recording ended" if replay else "time is up"
        end = MonitorEnd(fold.at_seconds, ended_by)
        fold.add(end)
        if recorder:
            recorder.write(end)
    return fold.record(), recorder.trouble if recorder else None


def summary(path: Path) -> Monitor:
    """The same summary from what was recorded.

    Raises:
        RigbenchError: it is no recording, or is damaged before its last line.
    """
    fold: Fold | None = None
    notes: tuple[str, ...] = ()
    for event in recording.read(path):
        if event is None:
            notes = (TORN,)
        elif isinstance(event, MonitorHeader):
            fold = Fold(event)
        elif fold is not None:
            fold.add(event)
    assert fold is not None  # read() gives a header first, or raises
    if fold.ended_by is None:
        fold.add(MonitorEnd(fold.at_seconds, "cut short"))
        notes = (*notes, ENDLESS)
    return fold.record(notes)


def _follow(
    events: Generator[MonitorEvent, None, None],
    recorder: recording.Recorder | None,
    shown: Shown,
    stopped: Callable[[], bool],
) -> Fold:
    first = next(events)
    assert isinstance(first, MonitorHeader)
    fold = Fold(first)
    if recorder:
        recorder.write(first)
    for event in events:
        fold.add(event)
        if recorder:
            recorder.write(event)
        if isinstance(event, MonitorTick):
            shown(fold)
        if stopped():
            break
    return fold


class StopSignal:
    """Ctrl-C and SIGTERM ask for the end instead of breaking in; a second one breaks in as ever."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def was_asked(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
