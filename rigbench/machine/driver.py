"""Asks the NVIDIA driver through a child process, with a limit for each call.

Where a call hangs or crashes, the child is ended and not started again: every later call is answered by that reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import NamedTuple, Protocol

from rigbench.core.record import Absent
from rigbench.machine.driver_child import HANDLE, INIT, LIBRARY

READY_SECONDS = 30.0  # Python and pynvml, on a machine that is busy
OPEN_SECONDS = 10.0  # a card that nobody uses is set up when it is opened
CALL_SECONDS = 5.0
GONE_SECONDS = 0.5
CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT", "SIGFPE")
LOADER_CACHE = Path("/etc/ld.so.cache")
LOADER_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", os.path.join(sys.prefix, "lib"))


class Answer(NamedTuple):
    """Of one call: nvml.h's nvmlReturn_t, and the values that it returned."""

    code: int
    values: tuple[int | str, ...]


class Driver(Protocol):
    """Whoever answers calls: `scope` is "sys", a GPU's index or a part's number; a key a call with its arguments."""

    @property
    def trouble(self) -> Absent | None: ...  # why it answers no more

    def ask(self, scope: str, *keys: str) -> list[Answer | Absent]: ...


def is_installed() -> bool:
    """Whether the loader could find the driver's library, which is not loaded here."""
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":"), *LOADER_FOLDERS]
    if any(os.path.exists(os.path.join(folder or ".", LIBRARY)) for folder in folders):
        return True
    try:
        return LIBRARY.encode() in LOADER_CACHE.read_bytes()
    except OSError:
        return True  # nobody knows: the child will try


class DriverProcess:
    """The live driver. Its child is started by the first call; calls of several threads take turns."""

    def __init__(self) -> None:
        self.trouble: Absent | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def ask(self, scope: str, *keys: str) -> list[Answer | Absent]:
        with self._lock, contextlib.ExitStack() as broken_off:
            # An answer that nobody took would be taken for the next one's.
            broken_off.callback(self._end, "the driver was being asked when rigbench was interrupted")
            if self._process is None and self.trouble is None:
                self._start()
            if self._process is not None and self._process.stdin and keys:
                with contextlib.suppress(BrokenPipeError):  # its end is told by what it does not answer
                    self._process.stdin.write(json.dumps([scope, keys]).encode() + b"\n")
            answers = [self._answer(key, OPEN_SECONDS if key in (INIT, HANDLE) else CALL_SECONDS) for key in keys]
            broken_off.pop_all()
            return answers

    def _start(self) -> None:
        code = "import sys; sys.path.append(sys.argv[1]); from rigbench.machine.driver_child import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(Path(__file__).resolve().parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for the parent
        )
        weakref.finalize(self, _kill, self._process)
        if isinstance(self._answer("", READY_SECONDS), Absent):
            self.trouble = Absent("the process that asks the NVIDIA driver did not start; is nvidia-ml-py installed?")

    def _answer(self, key: str, limit_seconds: float) -> Answer | Absent:
        if self._process is None or self._process.stdout is None:
            return self.trouble or Absent("the driver was not asked")
        pipe, ready = self._process.stdout.fileno(), select.poll()
        ready.register(pipe, select.POLLIN)
        call = key.partition("/")[0].removesuffix("WithFlags").partition("_v")[0]
        deadline = time.monotonic() + limit_seconds
        while b"\n" not in self._unread:
            if not ready.poll(1000 * max(0.0, deadline - time.monotonic())):
                return self._end(f"the driver does not answer ({call}, {limit_seconds:g} s)")
            more = os.read(pipe, 1 << 16)
            if not more:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(GONE_SECONDS)
                died = -(self._process.returncode or 0)
                name = signal.Signals(died).name if died > 0 else ""
                if name in CRASHES:
                    return self._end(f"the driver's library crashed ({name}) in {call}")
                how = f"by {name}" if name else f"with code {-died}"
                return self._end(f"the process that asks the driver ended {how} in {call}")
            self._unread += more
            while b"\n" in self._unread and not self._unread.startswith(b"["):  # printed by what Python loads before us
                self._unread = self._unread.partition(b"\n")[2]
        line, _, self._unread = self._unread.partition(b"\n")
        code, values = json.loads(line)
        return Answer(code, tuple(values))

    def _end(self, reason: str) -> Absent:
        process, self._process = self._process, None
        self.trouble = self.trouble or Absent(reason)
        if process is not None:
            _kill(process)
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        return self.trouble


def _kill(process: subprocess.Popen[bytes]) -> None:
    """One that hangs inside the kernel cannot be ended before the driver lets go: it is not waited for.

    Its pipes stay open: at the interpreter's end a thread may still be reading an answer, and must see the child's end.
    """
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GONE_SECONDS)
