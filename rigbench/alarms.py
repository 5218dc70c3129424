"""Alarms: pure rules over what is known of a training now, each raised once with a hold-off, and their delivery.

A watcher fills in a `State` at every look and hands it to `Alarms.check`; what comes back goes to the screen and to
`Delivery`, which never holds the watcher up.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.finding import Severity
from rigbench.core.options import TEXT, Option, Reader
from rigbench.core.record import Absent, Record
from rigbench.machine.record import KernelEvent

STALL_STEPS = 5.0  # times the usual step without a new one
LEAST_STALL_SECONDS = 10.0  # of very short steps: a checkpoint or an evaluation takes its time
HOLD_OFF_SECONDS = 900.0  # an alarm that went away and came back is told again after so long
SOON_SECONDS = 3600.0  # a disk that is full within it is told of though nobody knows the training's end
DISK_EVERY_SECONDS, DISK_WINDOW_SECONDS, DISK_LEAST_SECONDS = 10.0, 600.0, 60.0
COMMAND_SECONDS, WEBHOOK_SECONDS = 10.0, 10.0
MOST_WAITING = 100  # alarms that a slow receiver may be behind by
MOST_TOLD = 500  # kinds and places that are remembered
NOT_WATCHED = Absent("not watched")

AlarmCode = Literal["stall", "throttled", "kernel", "gpu-lost", "nan", "disk-full", "behind"]


class DiskLeft(Record, frozen=True, kw_only=True):
    """A disk that a training writes to."""

    path: str
    free_bytes: int
    written_bytes_per_s: float  # what it grows by, as seen so far


class Behind(Record, frozen=True, kw_only=True):
    """The forecast of the whole training beside its budget, both with their 90 % intervals, in hours."""

    forecast_low: float
    forecast_high: float
    budget_low: float
    budget_high: float


class State(Record, frozen=True, kw_only=True):
    """What is known at one moment; `at_seconds` is of the monotonic clock. What is not watched is left out."""

    at_seconds: float
    since_step_seconds: float | Absent = NOT_WATCHED  # since the last step ended
    usual_step_seconds: float | Absent = NOT_WATCHED
    throttled: dict[str, str] = msgspec.field(default_factory=dict)  # by device: what holds its clocks down, in words
    lost: dict[str, str] = msgspec.field(default_factory=dict)  # by device: why it answers no more
    kernel: tuple[KernelEvent, ...] = ()  # new since the last look
    not_a_number: str | Absent = NOT_WATCHED  # the log's words: "step 120: loss nan"
    disks: tuple[DiskLeft, ...] = ()
    left_seconds: float | Absent = NOT_WATCHED  # until the training's end
    behind: Behind | Absent = NOT_WATCHED


class Alarm(Record, frozen=True):
    code: AlarmCode
    severity: Severity
    where: str  # a device or disk; "" is the whole training
    text: str  # one line, printable
    at_seconds: float


def stalls_after(usual_step_seconds: float) -> float:
    """Seconds without a new step from which on a training stands still."""
    return max(STALL_STEPS * usual_step_seconds, LEAST_STALL_SECONDS)


def due(state: State) -> Iterator[Alarm]:
    """What holds at this moment, told before or not."""
    from rigbench.core.screen import printable

    at = state.at_seconds
    since, usual = state.since_step_seconds, state.usual_step_seconds
    if not isinstance(since, Absent) and not isinstance(usual, Absent) and since > stalls_after(usual):
        took, its = units.format_seconds(since), units.format_seconds(usual)
        yield Alarm("stall", "fault", "", f"no step for {took}, where one takes {its}", at)
    for device, why in state.lost.items():
        yield Alarm("gpu-lost", "fault", device, printable(f"{device} answers no more: {why}"), at)
    for device, why in state.throttled.items():
        yield Alarm("throttled", "warning", device, printable(f"{device} is slowed down: {why}"), at)
    for event in state.kernel:
        if event.severity == "fault" or event.code.startswith(("xid-", "oom")):
            where = f"{event.where}: " if event.where else ""
            told = printable(f"kernel: {where}{event.title}; {event.do}")
            yield Alarm("kernel", event.severity, f"{event.code} {event.where}".strip(), told, at)
    if not isinstance(state.not_a_number, Absent):
        yield Alarm("nan", "fault", "", printable(f"the loss is no number any more: {state.not_a_number}"), at)
    for disk in state.disks:
        if disk.written_bytes_per_s > 0:
            full = disk.free_bytes / disk.written_bytes_per_s
            if full < (SOON_SECONDS if isinstance(state.left_seconds, Absent) else state.left_seconds):
                rate, free = units.format_bytes_per_s(disk.written_bytes_per_s), units.format_bytes(disk.free_bytes)
                soon = units.format_seconds(full)
                if not isinstance(state.left_seconds, Absent):
                    soon += f", before the end in {units.format_seconds(state.left_seconds)}"
                told = printable(f"{disk.path} will be full in {soon} ({free} left, {rate})")
                yield Alarm("disk-full", "warning", disk.path, told, at)
    it = state.behind
    if not isinstance(it, Absent) and it.forecast_low > it.budget_high:
        takes = f"{units.format_seconds(it.forecast_low * 3600)} to {units.format_seconds(it.forecast_high * 3600)}"
        planned = f"{units.format_seconds(it.budget_low * 3600)} to {units.format_seconds(it.budget_high * 3600)}"
        yield Alarm("behind", "warning", "", f"behind its budget: it will take {takes}, and {planned} was planned", at)


class Alarms:
    """Tells an alarm when it comes, and not again while it holds, nor within the hold-off after it went."""

    def __init__(self, hold_off_seconds: float = HOLD_OFF_SECONDS) -> None:
        self._hold_off = hold_off_seconds
        self._held: dict[tuple[str, str], float] = {}  # when it held last

    def check(self, state: State) -> list[Alarm]:
        told = []
        for alarm in due(state):
            key = alarm.code, alarm.where
            last = self._held.get(key)
            if last is None and len(self._held) >= MOST_TOLD:
                del self._held[min(self._held, key=lambda it: self._held[it])]
            if last is None or alarm.at_seconds - last > self._hold_off:
                told.append(alarm)
            self._held[key] = alarm.at_seconds
        return told


class DiskGauge:
    """What a folder's disk has left and is filled by, read on a thread of its own: network storage may hang."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._free: deque[tuple[float, int]] = deque(maxlen=round(DISK_WINDOW_SECONDS / DISK_EVERY_SECONDS))
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="rigbench-disk", daemon=True).start()

    def add(self, at_seconds: float, free_bytes: int) -> None:
        self._free.append((at_seconds, free_bytes))

    def read(self) -> tuple[DiskLeft, ...]:
        """Nothing in the first minute; then by what was there at the window's start."""
        (first, free), (last, left) = (self._free[0], self._free[-1]) if self._free else ((0.0, 0), (0.0, 0))
        if last - first < DISK_LEAST_SECONDS:
            return ()
        rate = max(0.0, (free - left) / (last - first))
        return (DiskLeft(path=self.folder, free_bytes=left, written_bytes_per_s=rate),)

    def close(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError):
                self.add(time.monotonic(), shutil.disk_usage(self.folder).free)
            self._stopped.wait(DISK_EVERY_SECONDS)


def _url(text: str, option: str) -> str:
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or not text.isprintable() or " " in text:
        raise RigbenchError(f"{option} {text[:60]!r} is no address", "give http://HOST/… or https://HOST/…")
    return text


class AlarmOptions(Record, frozen=True, kw_only=True):
    """How alarms are delivered, besides the screen."""

    alert_command: Annotated[
        str | Absent,
        Option(
            TEXT,
            "Run by sh at an alarm, which stands in $RIGBENCH_ALARM and on standard input.",
            "CMD",
            ("--alert-cmd",),
            private=True,
        ),
    ] = Absent("no --alert-cmd was given")
    webhook: Annotated[
        str | Absent, Option(Reader(_url), "An alarm is sent there, as JSON by POST.", "URL", private=True)
    ] = Absent("no --webhook was given")

    @property
    def are_given(self) -> bool:
        return isinstance(self.alert_command, str) or isinstance(self.webhook, str)


class Delivery:
    """Hands alarms to a command and a webhook, on a thread of its own; trouble with either is said once.

    The command is the user's own line for sh; an alarm's words are in its environment and on its standard input, never
    in the line. A receiver that hangs costs later alarms their delivery, and nothing else.
    """

    def __init__(self, options: AlarmOptions, say: Callable[[str], object]) -> None:
        self._options, self._say = options, say
        self._said: set[str] = set()
        self._waiting: queue.Queue[Alarm | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def send(self, alarms: Sequence[Alarm]) -> None:
        """At once; never waits."""
        if not alarms or not self._options.are_given:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rigbench-alarms", daemon=True)
            self._thread.start()
        for alarm in alarms:
            try:
                self._waiting.put_nowait(alarm)
            except queue.Full:
                self._once("alarms come faster than they can be delivered; some are left out")

    def close(self, seconds: float = 3.0) -> None:
        """Waits so long for what is under way; a command that then has not ended is ended."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(seconds)
            self._is_over = True
            if self._thread.is_alive():
                self._once(f"an alarm was not taken within {seconds:g} s of the end, and is given up")
                if self._child is not None and self._child.returncode is None:
                    _end(self._child)

    def _run(self) -> None:
        while (alarm := self._waiting.get()) is not None and not self._is_over:
            if isinstance(self._options.alert_command, str):
                self._command(self._options.alert_command, alarm)
            if isinstance(self._options.webhook, str):
                self._post(self._options.webhook, alarm)

    def _command(self, command: str, alarm: Alarm) -> None:
        words = {"": alarm.text, "_CODE": alarm.code, "_SEVERITY": alarm.severity, "_WHERE": alarm.where}
        environment = os.environ | {f"RIGBENCH_ALARM{name}": word for name, word in words.items()}
        try:
            child = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._once(f"--alert-cmd could not be run: {error}")
            return
        self._child = child
        try:
            child.communicate(f"{alarm.text}\n".encode(), COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            _end(child)
            child.wait()
            self._once(f"--alert-cmd had not ended after {COMMAND_SECONDS:g} s, and was ended")
            return
        if child.returncode and not self._is_over:
            self._once(f"--alert-cmd ended with {child.returncode}")

    def _post(self, url: str, alarm: Alarm) -> None:
        import http.client  # 30 ms, for whoever wants alarms sent
        import urllib.request

        from rigbench.core.screen import printable

        body = json.dumps(payload(alarm)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "rigbench"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=WEBHOOK_SECONDS) as answer:
                answer.read(1024)
        except (OSError, ValueError, http.client.HTTPException) as error:
            host = urlsplit(url).hostname or ""  # the rest of an address may hold a secret
            self._once(printable(f"the webhook at {host} takes no alarm ({getattr(error, 'reason', error)})"))

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(f"warning: {text}")


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)


def payload(alarm: Alarm) -> dict[str, Any]:
    """What a webhook is sent. `text` is the field that chat services show."""
    return {"text": f"rigbench: {alarm.text}", "code": alarm.code, "severity": alarm.severity, "where": alarm.where}
