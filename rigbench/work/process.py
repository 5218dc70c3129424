"""Runs probes in child processes: starts them, hears them until they have answered or are lost, and ends them all.

A child is a probe in a new session. It reads its options as the first line of standard input and writes one JSON
object a line: progress, partial results, the result. Standard input stays open: "stop" asks it to end with what it
has, "ping" whether it still runs at all, and its end (the parent is gone, however it died) makes it end at once.

The parent never imports torch. Ctrl-C keeps what a child has handed over, and kill -9 on the parent leaves none behind.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Generic, Literal, NoReturn, Self, TypeVar

import msgspec

from rigbench.core import progress
from rigbench.core.errors import RigbenchError
from rigbench.core.failures import told
from rigbench.core.record import Record
from rigbench.core.screen import printable

STOP_SECONDS = 1.0  # after Ctrl-C: for a probe to hand over what it has; the step under way is dropped
GRACE_SECONDS = 30.0  # where it is not the user who ends a probe, it may finish its step
LAST_GRACE_SECONDS = 5.0  # for the others of a group, once one of them has ended early
GONE_SECONDS, GONE_AT_ONCE_SECONDS = 10.0, 0.5  # how long the end of killed processes is waited for
LAST_WORDS_BYTES = 1 << 16  # of what a process wrote before it ended
LISTEN_SECONDS = 0.5  # at once: a signal that comes just before a wait is heard after it, before __main__ ends all
WAKE_SECONDS = 1.0  # for the others to be lost too, or to answer a ping
# Handing over what there is so far takes a hundredth of the time at most, and is done once a second.
TIMES_TO_TELL, TELL_SECONDS = 100, 1.0
NEVER_A_CONSEQUENCE = ("SIGKILL", "SIGBUS", "SIGSEGV", "SIGILL")  # of another process's death
# A training step on a CPU allocates and frees hundreds of megabytes. glibc returns such blocks to the system at once,
# and the next step faults them in again, page by page: 40 % of the time on a virtual machine. These two variables
# (mallopt(3)) make it keep them, as a GPU's caching allocator does.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}

RUNNING: set[int] = set()  # process ids of the children under way
EVER: set[int] = set()  # and of all that this process has started

T = TypeVar("T", bound=Record)
EndedHow = Literal["finished", "interrupted", "died", "hung"]
OnProgress = Callable[[float, str], None]


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """How a probe's process, or the ranks of a group, ended."""

    results: tuple[T | None, ...]  # by rank: whole when finished, and what there was otherwise (None: nothing)
    ended: EndedHow
    reason: str = ""
    dead_ranks: tuple[int, ...] = ()  # those that died, never arrived or hung, as far as can be told

    @property
    def result(self) -> T | None:
        """The first rank's that handed anything over."""
        return next((result for result in self.results if result is not None), None)


def call(
    probe: str,
    options: Record,
    result_type: type[T],
    *,
    limit_seconds: float,
    on_progress: OnProgress = lambda share, text: None,
    environment: Mapping[str, str] | None = None,
) -> Outcome[T]:
    """Run `probe.run(options, report)` in its own process; `probe` is a module's dotted name.

    `environment` is set in that process besides what is inherited.

    Raises:
        RigbenchError: the probe refused its options or its input.
    """
    return attend([Child(probe, options, environment or {})], result_type, limit_seconds, on_progress)


class Report:
    """What a probe in a child may tell its parent, and ask of it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._lock, self._stop = out, threading.RLock(), threading.Event()
        self._held: Record | Callable[[], Record] | None = None
        self._next_at = 0.0

    def progress(self, share: float, text: str) -> None:
        self._send({"progress": [min(1.0, max(0.0, share)), text]})

    def partial(self, record: Record | Callable[[], Record] | None, at_once: bool = False) -> None:
        """Hand over what there is so far: it becomes the result should this process die, or be too slow to stop.

        Not so often that it costs anything: what comes too soon is held back, until there is more of it or the parent
        says stop. `at_once` for what tells where a process died. None: what is held back counts no more.
        """
        with self._lock:
            self._held = record
            if at_once or time.perf_counter() >= self._next_at:
                self._hand_over()

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        """Leave at once if told to stop, where nothing has been measured yet.

        Raises:
            KeyboardInterrupt: told to stop.
        """
        if self._stop.is_set():
            raise KeyboardInterrupt

    def missing(self, ranks: Sequence[int], reason: str) -> None:
        """Of this process's group, these never came: there is nothing to wait for."""
        self._send({"missing": {"ranks": list(ranks), "reason": reason}})

    def _hand_over(self) -> None:
        with self._lock:
            held, self._held = self._held, None
            if held is not None:
                began = time.perf_counter()
                self._send({"partial": held() if callable(held) else held})
                now = time.perf_counter()
                self._next_at = now + max(TELL_SECONDS, TIMES_TO_TELL * (now - began))

    def _send(self, message: dict[str, Any]) -> None:
        line = msgspec.json.encode(message) + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(line)
            self._out.flush()

    def _listen(self, orders: IO[bytes]) -> None:
        for order in orders:
            if order.strip() == b"stop":
                self._stop.set()
                with contextlib.suppress(Exception):  # the probe's own thread may be in the middle of its lists
                    self._hand_over()
            elif order.strip() == b"ping":
                self._send({"pong": True})
        _kill_group(0)  # the parent is gone: so are we, and whatever the probe started


def serve(probe: str, *world: object) -> NoReturn:
    """The child's side: options in, result out, and then wait until the parent ends it.

    It waits because others of its group may still need what it offers them. `world` is a rank's.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between our lines
    orders = os.fdopen(os.dup(0), "rb")
    sys.stdin = open(os.devnull)  # noqa: SIM115, a forked child closes its stdin, and would wait for the thread that reads orders
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    report = Report(out)
    module = importlib.import_module(probe)
    options = msgspec.json.decode(orders.readline(), type=module.Options)
    threading.Thread(target=report._listen, args=(orders,), daemon=True).start()
    try:
        report._send({"result": module.run(options, report, *world)})
    except RigbenchError as error:
        facts = ("what_happened", "what_to_do", "exit_code")
        report._send({"error": {name: getattr(error, name) for name in facts}})
    except KeyboardInterrupt:
        report._send({"stopped": True})
    except Exception as error:  # noqa: BLE001 - the child's boundary; the parent quotes the last line
        traceback.print_exc()
        sys.stderr.write(f"{told(error)}\n")
        sys.stderr.flush()
        os._exit(1)
    threading.Event().wait()
    raise AssertionError


def _kill_group(pid: int) -> None:
    """A process, or this one (0), with all that it started; where there are no groups (Windows), alone."""
    if hasattr(os, "killpg"):
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid or os.getpid(), signal.SIGTERM)


class Child:
    """A process under way: its pipes, and what it writes to standard error."""

    def __init__(
        self, probe: str, options: Record, environment: Mapping[str, str], name: str = "", server: str = "process"
    ) -> None:
        """`name` says which of several it is; rigbench.work.SERVER.serve runs the probe there."""
        self.name = name
        os.getcwd()  # where that was removed, torch's libraries end their process
        try:
            told = msgspec.json.encode(options)
        except UnicodeEncodeError as error:
            word = printable(str(error.object))
            raise RigbenchError(f"{word!r} is not UTF-8", "rename that file, or give a link to it") from None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed by kill
        package_root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.append(sys.argv[1]); from rigbench.work.{server} import serve; serve(sys.argv[2])"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, package_root, probe],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        RUNNING.add(self._process.pid)
        EVER.add(self._process.pid)
        self.tell(told)

    def tell(self, line: bytes) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def pump(self, index: int, lines: queue.SimpleQueue[tuple[int, bytes]]) -> None:
        """Put its lines into the queue, under this index; b"" once there are no more."""
        assert self._process.stdout
        with contextlib.suppress(ValueError, OSError), self._process.stdout as told:
            for line in told:
                if line.startswith(b'{"'):  # else printed by what Python loads before us
                    lines.put((index, line))
        lines.put((index, b""))

    def kill(self) -> None:
        """End its whole process group. Its output is closed by `pump`: here that would wait for who holds it open."""
        if self._process.stdin and self._process.stdin.closed:
            return
        RUNNING.discard(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            _kill_group(self._process.pid)
        for pipe in (self._process.stdin, self._stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    @property
    def ended_alone(self) -> bool:
        """Whether it was ended in a way that no other process's death explains."""
        code = self._process.wait()
        return code < 0 and signal.Signals(-code).name in NEVER_A_CONSEQUENCE

    def last_words(self) -> str:
        """How it ended, and the last line that it wrote; of one that C++ ended, why, before its frames."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read()[-LAST_WORDS_BYTES:].decode(errors="replace").strip().splitlines()
        said = lines[-1:]
        if code == -signal.SIGABRT:  # std::terminate
            said = [line.strip() for line in lines if line.lstrip().startswith("what():")][-1:] or said
        last = f": {said[0]}" if said else ""
        name = signal.Signals(-code).name if code < 0 else ""
        how = f"was ended by {name}" if name else f"ended with code {code}"
        if name == "SIGKILL":
            how = "was killed, as the system does when memory runs out"
        if name == "SIGBUS":
            how += ", as when a mapped file shrinks or its disk cannot be read"
        return f"its process {how}{last}"


def end(children: Sequence[Child], within_seconds: float = GONE_SECONDS) -> None:
    """Kill all children and wait until they are gone.

    A process that hangs inside a driver cannot be ended before the driver lets go: it is not waited for.
    """
    for child in children:
        child.kill()
    until = time.monotonic() + within_seconds
    for child in children:
        child.wait(max(0.0, until - time.monotonic()))


class Hearing(Generic[T]):
    """The messages of children under way: how far each has come, and what it has handed over so far."""

    def __init__(self, children: Sequence[Child], result_type: type[T], on_progress: OnProgress) -> None:
        self.children, self._result_type, self.on_progress = children, result_type, on_progress
        self.marks: list[tuple[float, str]] = [(-1.0, "its start")] * len(children)
        self.answered: set[int] = set()
        self._handed: list[bytes | T | None] = [None] * len(children)
        self._lines: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        for index, child in enumerate(children):
            threading.Thread(target=child.pump, args=(index, self._lines), daemon=True).start()

    def handed(self, index: int) -> T | None:
        """What a child has handed over last; decoded only here, for there may be much of it."""
        last = self._handed[index]
        if isinstance(last, bytes):
            last = self._handed[index] = msgspec.json.decode(last, type=self._result_type)
        return last

    def next(self, seconds: float) -> tuple[int, str, Any] | None:
        """The next message: (child, its kind, what it says), noted here; None where there is none in that time.

        The kind is "lost" where a child ends before it has answered.
        """
        try:
            index, line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if not line:
            return index, "" if index in self.answered else "lost", None
        ((kind, body),) = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).items()
        said: Any = None
        if kind not in ("partial", "result"):
            said = msgspec.json.decode(body)
        elif index not in self.answered:
            self._handed[index] = bytes(body)
        if kind in ("result", "stopped"):
            self.answered.add(index)
        if kind == "progress":
            self.marks[index] = tuple(said)
            if index == 0:
                self.on_progress(*said)
        return index, kind, said

    def refusal(self, index: int, said: dict[str, Any]) -> str:
        """Why a probe gave up in the middle of its work: what it measured before is kept.

        Raises:
            RigbenchError: it refused its options or its input before it had measured anything.
        """
        error = RigbenchError(**said)
        if self._handed[index] is None:
            raise error
        return str(error)


def attend(
    children: Sequence[Child],
    result_type: type[T],
    limit_seconds: float,
    on_progress: OnProgress,
    quiet: bool = False,
) -> Outcome[T]:
    """Listen until every child has handed over its result, one is lost, or the time is up; then end them all.

    Progress is passed on as the first child tells it. Ctrl-C asks all of them to end with what they have, and is
    answered by a line at once (not if `quiet`); a second one ends them without waiting.

    Raises:
        RigbenchError: a probe refused its options or its input, before it had measured anything.
    """
    group = _Group[T](limit_seconds, quiet, children, result_type, on_progress)
    try:
        outcome = group.run()
        end(children, GONE_AT_ONCE_SECONDS if group.interrupted else GONE_SECONDS)
    except KeyboardInterrupt:
        return group.outcome("interrupted", "it was ended at once")
    finally:
        end(children, GONE_AT_ONCE_SECONDS)
    return outcome


class _Group(Hearing[T]):
    """Children that share a fate: one that is lost or hangs is the end of all."""

    def __init__(self, limit_seconds: float, quiet: bool, *heard: Any) -> None:
        super().__init__(*heard)
        self.limit_seconds, self.quiet, self.interrupted = limit_seconds, quiet, False
        self.deadline = time.monotonic() + limit_seconds

    def outcome(self, ended: EndedHow, reason: str = "", blamed: tuple[int, ...] = ()) -> Outcome[T]:
        results = [self.handed(index) for index in range(len(self.children))]
        for index, result in enumerate(results):
            # What was handed over in case of a death was ended by the user after all.
            if result and ended == "interrupted" and getattr(result, "ended_by", "") == "worker died":
                results[index] = msgspec.structs.replace(result, ended_by=ended)
        return Outcome(tuple(results), ended, reason, blamed)

    def run(self) -> Outcome[T]:
        while len(self.answered) < len(self.children):
            try:
                message = self.next(min(LISTEN_SECONDS, self.deadline - time.monotonic()))
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self._stop()
                continue
            if message is None and time.monotonic() >= self.deadline:
                return self._out_of_time()
            index, kind, said = message or (0, "", {})
            if kind == "lost":
                return self._lost(index)
            if kind == "error":
                return self.outcome("died", self.refusal(index, said), (index,))
            if kind == "missing":
                return self.outcome("hung", said["reason"], tuple(said["ranks"]))
            self.interrupted = self.interrupted or kind == "stopped"
            if self.interrupted and kind in ("result", "stopped"):
                self.deadline = min(self.deadline, time.monotonic() + LAST_GRACE_SECONDS)
        return self.outcome("interrupted" if self.interrupted else "finished")

    def _stop(self) -> None:
        self.interrupted = True
        if not self.quiet:
            progress.say_stopping()
        for child in self.children:
            child.tell(b"stop")
        self.deadline = min(self.deadline, time.monotonic() + STOP_SECONDS)

    def _lost(self, index: int) -> Outcome[T]:
        """One has died. Others may have died with it, or die of it: a moment tells which, and brings what they have."""
        lost = [index]
        for other, kind, _ in self._within(WAKE_SECONDS if len(self.children) > 1 else 0.0):
            if kind == "lost":
                lost.append(other)
        blamed = tuple(it for it in lost if self.children[it].ended_alone) or (index,)
        words = [(self.children[it].name, self.children[it].last_words()) for it in blamed]
        reason = "; ".join(f"{name}: {last}" if name else last for name, last in words)
        return self.outcome("interrupted" if self.interrupted else "died", reason, blamed)

    def _within(self, seconds: float) -> Iterator[tuple[int, str, Any]]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and (message := self.next(left)):
            yield message

    def _out_of_time(self) -> Outcome[T]:
        if self.interrupted:
            return self.outcome("interrupted", "it did not stop in time and was ended")
        reason = f"no answer within {self.limit_seconds:.0f} s; its processes were ended"
        if len(self.children) == 1:
            return self.outcome("hung", reason)
        # Those that do not even answer a ping are stopped, or stuck where no thread of theirs can run.
        silent = set(range(len(self.children))) - self.answered
        for index in silent:
            self.children[index].tell(b"ping")
        for index, _, _ in self._within(WAKE_SECONDS):
            silent.discard(index)
            if not silent:
                break
        # Else those that came less far than others; none where all came equally far.
        shares = {it: 2.0 if it in self.answered else self.marks[it][0] for it in range(len(self.children))}
        behind = [it for it, share in shares.items() if share == min(shares.values()) < max(shares.values())]
        blamed = tuple(sorted(silent) or behind)
        if not blamed:
            return self.outcome("hung", f"{reason}; all of them had come to {self.marks[0][1]}")
        where = ", ".join(f"{self.children[it].name} at {self.marks[it][1]}" for it in blamed)
        what = "no longer runs at all" if silent else "came no further"
        return self.outcome("hung", f"{reason}; {what}: {where}", blamed)


class Crew(Hearing[T]):
    """Probes at work at once, each for itself: one that dies or hangs ends alone, and keeps what it handed over.

    A process per name, begun when the crew is entered and gone when it is left; `outcomes` are those of the ones that
    have ended. `clock` is in seconds.
    """

    def __init__(
        self,
        probe: str,
        options: Mapping[str, Record],
        result_type: type[T],
        limit_seconds: float,
        on_progress: OnProgress = lambda share, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcomes: dict[str, Outcome[T]] = {}
        self.refusals: dict[str, RigbenchError] = {}  # of those that cannot do it, beside others that can
        self._begin = probe, options, result_type, on_progress
        self._names, self._limit_seconds, self._clock = list(options), limit_seconds, clock
        self._deadlines: dict[str, float] = {}
        self._stopped: dict[str, EndedHow] = {}  # those told to stop, and how one that does not is said to have ended
        self._at_once = False

    def __enter__(self) -> Self:
        probe, options, result_type, on_progress = self._begin
        children = [Child(probe, its, {}, name) for name, its in options.items()]
        self._deadlines = dict.fromkeys(options, self._clock() + self._limit_seconds)
        super().__init__(children, result_type, on_progress)
        return self

    def __exit__(self, *_exception: object) -> None:
        end(self.children, GONE_AT_ONCE_SECONDS if self._at_once else GONE_SECONDS)

    @property
    def latest(self) -> dict[str, T]:
        """What each has handed over so far."""
        handed = {name: self.handed(index) for index, name in enumerate(self._names)}
        return {name: result for name, result in handed.items() if result is not None}

    def working(self) -> list[str]:
        return [name for name in self._names if name not in self.outcomes]

    def stop(self, name: str | None = None) -> None:
        """Tell one, or all, to end with what they have; half a minute later they are ended."""
        for one in self.working() if name is None else [name]:
            if one not in self._stopped:
                self._stop(one, "hung", GRACE_SECONDS)

    def interrupt(self) -> None:
        """The user said stop: all end with what they have, and a second later, or if it is said again, are ended."""
        again, self._at_once = self._at_once, True
        if not again:
            progress.say_stopping()
        for name in self.working():
            if again:
                self._end(name, "interrupted", "it was ended at once")
            else:
                self._stop(name, "interrupted", STOP_SECONDS)

    def _stop(self, name: str, otherwise: EndedHow, seconds: float) -> None:
        self._stopped[name] = otherwise
        self.children[self._names.index(name)].tell(b"stop")
        self._deadlines[name] = min(self._deadlines[name], self._clock() + seconds)

    def listen(self, seconds: float) -> None:
        """Note what they say, for a time or until the last has ended.

        Raises:
            RigbenchError: every probe refused its options, or its device.
        """
        until = self._clock() + seconds
        while self.working() and (left := until - self._clock()) > 0 and (message := self.next(left)):
            index, kind, said = message
            name = self._names[index]
            if name in self.outcomes:
                continue
            if kind == "lost":
                self._end(name, "died", self.children[index].last_words())
            elif kind == "error":
                self._end(name, "died", self._refused(index, name, said))
            elif kind in ("result", "stopped"):
                self._end(name, "finished" if kind == "result" else "interrupted")
        for name in self.working():
            if self._clock() > self._deadlines[name]:
                stopped = self._stopped.get(name)
                reason = "it did not stop when asked to" if stopped else "it took far longer than planned"
                self._end(name, stopped or "hung", f"{reason}; its processes were ended")

    def _refused(self, index: int, name: str, said: dict[str, Any]) -> str:
        """Why; it is passed on once all have refused."""
        try:
            return self.refusal(index, said)
        except RigbenchError as error:
            self.refusals[name] = error
            if len(self.refusals) == len(self._names):
                raise
            return str(error)

    def _end(self, name: str, ended: EndedHow, reason: str = "") -> None:
        """A child waits to be ended once it has answered, holding its device's memory meanwhile."""
        index = self._names.index(name)
        self.outcomes[name] = Outcome((self.handed(index),), ended, reason)
        end([self.children[index]], GONE_AT_ONCE_SECONDS if self._at_once else GONE_SECONDS)
