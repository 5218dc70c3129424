"""How are child processes started, heard until all have answered or one is lost, and ended without a trace?

A child is a probe in a new session. It reads its options as the first line of standard input and writes one JSON
object a line: progress, partial results, the result. Standard input stays open: "stop" asks it to end with what it
has, "ping" whether it still runs at all, and its end (the parent is gone, however it died) makes it end at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Record

GRACE_SECONDS = 30.0  # how long a stopped probe may take to finish its step and hand over what it has
LAST_GRACE_SECONDS = 5.0  # the same, once another of its group has already ended
GONE_WITHIN_SECONDS = 10.0
WAKE_SECONDS = 1.0  # for the others to be lost too, or to answer a ping
NEVER_A_CONSEQUENCE = (signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV, signal.SIGILL)  # of another process's death
T = TypeVar("T", bound=Record)
EndedHow = Literal["finished", "interrupted", "died", "hung"]
Lines = queue.SimpleQueue[tuple[int, bytes]]


class Child:
    """A process under way: its pipes, and what it wrote to standard error. `name` is said of it; "" if it is alone."""

    def __init__(
        self, probe: str, server: str, options: Record, environment: Mapping[str, str], name: str = ""
    ) -> None:
        self.name, self._killed = name, False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed by kill
        package_root = str(Path(__file__).resolve().parents[2])
        code = "import sys; sys.path.append(sys.argv[1]); from rigbench.work import SERVER; SERVER.serve(sys.argv[2])"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code.replace("SERVER", server), package_root, probe],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.tell(msgspec.json.encode(options))

    def tell(self, line: bytes) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def hear(self, index: int, lines: Lines) -> None:
        """From now on put its lines into the queue, under this index; b"" once there are no more."""
        threading.Thread(target=self._pump, args=(index, lines), daemon=True).start()

    def _pump(self, index: int, lines: Lines) -> None:
        assert self._process.stdout
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                lines.put((index, line))
        lines.put((index, b""))

    def kill(self) -> None:
        """End its whole process group, and wait until it is gone. Once is enough.

        A process that hangs inside a driver cannot be ended before the driver lets go: it is not waited for.
        """
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE_WITHIN_SECONDS)

    @property
    def ended_alone(self) -> bool:
        """Whether it was ended in a way that no other process's death explains."""
        return -self._process.wait() in NEVER_A_CONSEQUENCE

    def epitaph(self) -> str:
        """Who it was, how it ended, and the last line that it wrote."""
        return f"{self.name}: {self._last_words()}" if self.name else self._last_words()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read()[-4000:].decode(errors="replace").strip().splitlines()
        last = f": {said[-1]}" if said else ""
        if code == -signal.SIGKILL:
            return f"its process was killed, as the system does when memory runs out{last}"
        if code == -signal.SIGBUS:
            return f"its process was ended by SIGBUS, as when a mapped file shrinks or its disk cannot be read{last}"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}{last}"
        return f"its process ended with code {code}{last}"


class Ending(msgspec.Struct, Generic[T], frozen=True):
    """How it went with all children: what each handed over last, and which of them (by index) were to blame."""

    results: tuple[T | None, ...]
    ended: EndedHow
    blamed: tuple[int, ...] = ()
    reason: str = ""


def attend(
    children: Sequence[Child],
    result_type: type[T],
    limit_seconds: float,
    on_progress: Callable[[float, str], None],
) -> Ending[T]:
    """Listen until every child has handed over its result, one is lost, or the time is up; then end them all.

    Progress is passed on as the first child tells it. Ctrl-C asks all of them to end with what they have.

    Raises:
        RigbenchError: a probe refused its options or its input, before it had measured anything.
    """
    try:
        return _Attendance(children, result_type, limit_seconds, on_progress).end()
    finally:
        for child in children:
            child.kill()


class _Attendance(Generic[T]):
    """Children under way, and what they said so far."""

    def __init__(
        self,
        children: Sequence[Child],
        result_type: type[T],
        limit_seconds: float,
        on_progress: Callable[[float, str], None],
    ) -> None:
        self.children, self.result_type, self.on_progress = children, result_type, on_progress
        self.limit_seconds = limit_seconds
        self.deadline = time.monotonic() + limit_seconds
        self.best: list[T | None] = [None] * len(children)
        self.marks: list[tuple[float, str]] = [(-1.0, "its start")] * len(children)
        self.done: set[int] = set()
        self.interrupted = False
        self.refusal = ""
        self.lines: Lines = queue.SimpleQueue()

    def end(self) -> Ending[T]:
        for index, child in enumerate(self.children):
            child.hear(index, self.lines)
        while len(self.done) < len(self.children):
            try:
                index, line = self.lines.get(timeout=max(0.0, self.deadline - time.monotonic()))
                if not line and index not in self.done:
                    return self._lost(index)
                missing = self._take(index, line)
            except queue.Empty:
                return self._out_of_time()
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self._stop()
                continue
            if self.refusal:
                return self._ending("died", (index,), self.refusal)
            if missing is not None:
                return self._ending("hung", tuple(missing["ranks"]), missing["reason"])
        return self._ending("interrupted" if self.interrupted else "finished")

    def _ending(self, ended: EndedHow, blamed: tuple[int, ...] = (), reason: str = "") -> Ending[T]:
        return Ending(tuple(self.best), ended, blamed, reason)

    def _take(self, index: int, line: bytes) -> dict[str, Any] | None:
        """Note what a child said. Not None: it tells which of its group never came."""
        if not line:
            return None
        message = msgspec.json.decode(line)
        if "progress" in message:
            share, text = self.marks[index] = tuple(message["progress"])
            if index == 0:
                self.on_progress(share, text)
        elif "error" in message:
            error = RigbenchError(**message["error"])
            if self.best[index] is None:
                raise error
            self.refusal = str(error)  # in the middle of its work: what was measured before is kept
        elif "partial" in message:
            self.best[index] = msgspec.convert(message["partial"], self.result_type)
        elif "result" in message:
            self.best[index] = msgspec.convert(message["result"], self.result_type)
            self._is_done(index)
        elif "stopped" in message:
            self.interrupted = True
            self._is_done(index)
        elif "missing" in message:
            return dict(message["missing"])
        return None

    def _is_done(self, index: int) -> None:
        self.done.add(index)
        if self.interrupted:
            self.deadline = min(self.deadline, time.monotonic() + LAST_GRACE_SECONDS)

    def _stop(self) -> None:
        self.interrupted = True
        for child in self.children:
            child.tell(b"stop")
        self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)

    def _lost(self, index: int) -> Ending[T]:
        """One has died. Others may have died with it, or die of it: a moment tells which, and brings what they have."""
        lost = [index]
        for other, line in self._heard_within(WAKE_SECONDS if len(self.children) > 1 else 0.0):
            if not line and other not in self.done:
                lost.append(other)
            elif line.startswith(b'{"partial"'):
                self._take(other, line)
        blamed = tuple(it for it in lost if self.children[it].ended_alone) or (index,)
        reason = "; ".join(self.children[it].epitaph() for it in blamed)
        return self._ending("interrupted" if self.interrupted else "died", blamed, reason)

    def _heard_within(self, seconds: float) -> Iterator[tuple[int, bytes]]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                yield self.lines.get(timeout=left)
            except queue.Empty:
                return

    def _out_of_time(self) -> Ending[T]:
        if self.interrupted:
            return self._ending("interrupted", (), "it did not stop in time and was ended")
        reason = f"no answer within {self.limit_seconds:.0f} s; its processes were ended"
        if len(self.children) == 1:
            return self._ending("hung", (), reason)
        silent = self._silent()
        blamed = silent or self._behind()
        if not blamed:
            return self._ending("hung", (), f"{reason}; all of them had come to {self.marks[0][1]}")
        where = ", ".join(f"{self.children[it].name} at {self.marks[it][1]}" for it in blamed)
        what = "no longer runs at all" if silent else "came no further"
        return self._ending("hung", blamed, f"{reason}; {what}: {where}")

    def _silent(self) -> tuple[int, ...]:
        """Those that do not even answer a ping: stopped, or stuck where no thread of theirs can run."""
        waiting = set(range(len(self.children))) - self.done
        for index in waiting:
            self.children[index].tell(b"ping")
        for index, _ in self._heard_within(WAKE_SECONDS):
            waiting.discard(index)
            if not waiting:
                break
        return tuple(sorted(waiting))

    def _behind(self) -> tuple[int, ...]:
        """Those that came less far than others; none where all came equally far."""
        shares = {it: 2.0 if it in self.done else self.marks[it][0] for it in range(len(self.children))}
        least = min(shares.values())
        return () if least == max(shares.values()) else tuple(it for it, share in shares.items() if share == least)
