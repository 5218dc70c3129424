"""The command monitor: watches from the first reading to the end, or tells a recording's summary again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rigbench.alarms import AlarmOptions, Alarms, Delivery, DiskGauge
from rigbench.command import Common, command, say
from rigbench.core import progress, signals
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.record import KernelEvent
from rigbench.machine.rig import Rig, require_linux
from rigbench.monitor import readings, recording
from rigbench.monitor.metrics import samples, state
from rigbench.monitor.record import (
    Monitor,
    MonitorEnd,
    MonitorEndedBy,
    MonitorEvent,
    MonitorHeader,
    MonitorKernel,
    MonitorTick,
    Options,
)
from rigbench.monitor.summary import Fold
from rigbench.openmetrics import Exporter, MetricsOptions, address_of, serve

if TYPE_CHECKING:
    from rigbench.monitor.live import Display, Lines

TORN = "the recording's last line was cut short, and is left out"
PATIENCE_SECONDS = 1.0  # with the tick under way, once told to stop
ENDLESS = "the recording has no end: it was killed, its disk was full, or it still goes on"


@command("replay")
def monitor(common: Common, options: Options, alerts: AlarmOptions, metrics: MetricsOptions) -> int:
    """Watch the GPUs beside your own training: load, memory, watts, heat, throttling, imbalance, starvation.

    Runs until Ctrl-C or q, in constant memory, and changes nothing; h explains what is shown. On a terminal, --replay
    plays a recorded rig at its pace. The end asked for is exit code 0, also by Ctrl-C; a
    --seconds that is cut short is 130, a GPU lost midway or a hint of a fault is 1.

        rigbench monitor
        rigbench monitor --once                     one look
        rigbench monitor --record night.jsonl -q    to a file, without a picture
        rigbench monitor --alert-cmd 'mail -s "$RIGBENCH_ALARM" me'    at a throttle, an Xid, a lost GPU, a full disk
        rigbench monitor --openmetrics 9464         for Prometheus
    """
    from rigbench.monitor import screen

    if not isinstance(options.recorded, Absent):
        if common.replay or options != Options(recorded=options.recorded) or alerts.are_given:
            raise RigbenchError("--from FILE is a watch that is over", "give it alone, or with --json")
        result = summary(Path(options.recorded))
        common.show(result, screen.told)
        return FAULT if result.at_fault else FINE
    if options.once and not isinstance(options.seconds, Absent):
        raise RigbenchError("--once and --seconds exclude each other", "--once reads for one --interval")
    if options.force and isinstance(options.record, Absent):
        raise RigbenchError("--force is for --record FILE", "name the file that may be replaced")
    if not isinstance(options.seconds, Absent) and options.seconds < options.interval:
        what = f"--seconds {options.seconds:g} is shorter than --interval {options.interval:g}s"
        raise RigbenchError(what, "give at least one interval")
    display = _display(common, options.once)
    try:
        result, trouble = watch(options, common.replay, display, alerts, metrics)
    except BrokenPipeError:  # the reader of our lines went away, as `| head` does: that is an end like any other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    finally:
        if display:
            display.close()
    common.show(result, screen.told)
    if trouble:
        raise trouble
    if isinstance(options.record, str) and not common.quiet:
        say(f"recorded in {options.record}; `rigbench monitor --from {options.record}` shows this again")
    if result.at_fault:
        return FAULT
    cut_short = result.ended_by == "stopped by the user" and not isinstance(options.length_seconds, Absent)
    return INTERRUPTED if cut_short else FINE


def _display(common: Common, once: bool) -> Display | Lines | None:
    """A picture on a terminal, lines elsewhere, but of a replay, which then takes no time; one look needs neither."""
    if common.quiet or once:
        return None
    from rigbench.core.screen import console
    from rigbench.monitor.live import Display, Lines

    screen_of = console()
    if screen_of.is_terminal and not screen_of.is_dumb_terminal:
        return Display(screen_of)
    return None if common.replay else Lines(lambda text: print(text, end="", flush=True))


def watch(
    options: Options,
    replay: Path | None,
    display: Display | Lines | None,
    alerts: AlarmOptions = AlarmOptions(),
    metrics: MetricsOptions = MetricsOptions(),
) -> tuple[Monitor, RigbenchError | None]:
    """Watch this machine, or play a recorded rig; the summary, and what went wrong with the recording's file.

    Stop signals end it as the passing of time does: with everything written and a summary.
    """
    if not replay:
        require_linux()
    rig = Rig.replay(replay) if replay else Rig.live()
    with contextlib.ExitStack() as stack:
        recorder = None
        if not isinstance(options.record, Absent):
            its = recording.Recorder(Path(options.record), options.force, options.record_limit)
            recorder = stack.enter_context(its)
        outside = stack.enter_context(contextlib.closing(_Outside(options, alerts, metrics)))
        stop = StopSignal()

        def is_over() -> bool:
            stop.sent = stop.sent or (display is not None and display.poll())
            return stop.sent

        events = readings.replayed(rig, Rig.replay(replay), options) if replay else readings.live(rig, options, is_over)
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
                    outside.tell(event, fold)
                    if display and isinstance(event, MonitorTick):
                        due = time.monotonic() + options.interval
                        display(fold.record(), fold.charts())
                        while replay and not is_over() and (display.paused or time.monotonic() < due):
                            time.sleep(min(readings.POLL_SECONDS, options.interval / 4))
                    if stop.sent:
                        break
        ended_by: MonitorEndedBy = "one look" if options.once else "recording ended" if replay else "time is up"
        end = MonitorEnd(fold.at_seconds, "stopped by the user" if stop.sent else ended_by)
        fold.add(end)
        if recorder:
            recorder.write(end)
    return fold.record(), recorder.trouble if recorder else None


class _Outside:
    """Who is told besides the screen: alarms' receivers, and who scrapes."""

    def __init__(self, options: Options, alerts: AlarmOptions, metrics: MetricsOptions) -> None:
        self._length, self._fresh = options.length_seconds, list[KernelEvent]()
        self._exporter: Exporter | None = None
        if isinstance(metrics.openmetrics, str):
            self._exporter = serve(address_of(metrics.openmetrics, "--openmetrics"))
            say(f"readings for Prometheus at http://{self._exporter.address}/metrics")
        self._alarms = Alarms() if alerts.are_given else None
        self._delivery = Delivery(alerts, say)
        self._disk = DiskGauge(os.getcwd()) if alerts.are_given else None

    def tell(self, event: MonitorEvent, fold: Fold) -> None:
        if isinstance(event, MonitorKernel):
            self._fresh.append(event.event)
        if not isinstance(event, MonitorTick) or not (self._alarms or self._exporter):
            return
        record = fold.record()
        if self._exporter:
            self._exporter.update(samples(record))
        if self._alarms:
            left = self._length if isinstance(self._length, Absent) else max(0.0, self._length - record.seconds)
            disks = self._disk.read() if self._disk else ()
            self._delivery.send(self._alarms.check(state(record, self._fresh, disks, left)))
        self._fresh.clear()

    def close(self) -> None:
        if self._disk:
            self._disk.close()
        if self._exporter:
            self._exporter.close()
        self._delivery.close()


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


HAS_TIMER = hasattr(signal, "setitimer")  # Windows has none, where recordings alone are watched


class Overdue(Exception):
    """A second stop signal, or a second after the first one: the tick under way, maybe in a hung driver, is dropped."""


class StopSignal:
    """Ctrl-C, SIGTERM and SIGHUP ask for the end instead of breaking in."""

    def __init__(self) -> None:
        self.sent = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (*signals.STOP, *([signal.SIGALRM] if HAS_TIMER else [])):
                if signals.is_heard(number):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_exception: object) -> None:
        if HAS_TIMER:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        signals.let_go(number)
        if self.sent:
            raise Overdue
        self.sent = progress.stopping = True  # for rigbench.__main__: the summary may take longer than its patience
        if HAS_TIMER:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
