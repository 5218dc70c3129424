"""How does a probe run in a process of its own, and how is that process stopped, cleanly or by force?

The parent never imports torch. It starts `serve` in a new session, sends the options on standard input, and reads one
JSON object a line: progress, partial results, the result. Standard input stays open: "stop" asks the probe to end with
what it has, and its end (the parent is gone, however it died) makes the worker exit at once. So Ctrl-C keeps what was
measured, and kill -9 on the parent leaves no process behind.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, Literal, TypeVar

import msgspec

from rigbench.errors import RigbenchError
from rigbench.records import Record

GRACE_SECONDS = 30.0  # how long a stopped probe may take to finish its step and hand over what it has
# A training step on a CPU allocates and frees hundreds of megabytes. glibc returns such blocks to the system at once,
# and the next step faults them in again, page by page: 40 % of the time on a virtual machine. These two variables
# (mallopt(3)) make it keep them, as a GPU's caching allocator does.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
T = TypeVar("T", bound=Record)


class Report:
    """What a probe in a worker may tell its parent, and ask of it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def progress(self, share: float, text: str) -> None:
        self._send({"progress": [min(1.0, max(0.0, share)), text]})

    def partial(self, record: Record) -> None:
        """Hand over what there is so far: it becomes the result should this process die."""
        self._send({"partial": record})

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        """Leave at once if told to stop, where nothing has been measured yet.

        Raises:
            KeyboardInterrupt: told to stop.
        """
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _send(self, message: dict[str, Any]) -> None:
        line = msgspec.json.encode(message) + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(line)
            self._out.flush()

    def _listen(self, orders: IO[bytes]) -> None:
        for order in orders:
            if order.strip() == b"stop":
                self._stop.set()
        os.killpg(0, signal.SIGKILL)  # the parent is gone: so are we, and whatever the probe started


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """How a worker ended. `result` is whole when finished, and what there was otherwise (None: nothing)."""

    result: T | None
    ended: Literal["finished", "interrupted", "died", "hung"]
    reason: str = ""


def call(
    probe: str,
    options: Record,
    result_type: type[T],
    *,
    limit_seconds: float,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    environment: Mapping[str, str] | None = None,
) -> Outcome[T]:
    """Run `probe.run(options, report)` in its own process; `probe` is a module's dotted name.

    `environment` is set in that process besides what is inherited.

    Raises:
        RigbenchError: the probe refused its options or its input.
    """
    with tempfile.TemporaryFile() as stderr:
        process = _start(probe, stderr, environment or {})
        try:
            return _converse(process, options, result_type, limit_seconds, on_progress, stderr)
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _start(probe: str, stderr: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    package_root = str(Path(__file__).resolve().parents[2])
    code = "import sys; sys.path.append(sys.argv[1]); from rigbench.measure.workers import serve; serve(sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, package_root, probe],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def _converse(
    process: subprocess.Popen[bytes],
    options: Record,
    result_type: type[T],
    limit_seconds: float,
    on_progress: Callable[[float, str], None],
    stderr: IO[bytes],
) -> Outcome[T]:
    assert process.stdin
    assert process.stdout
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    _tell(process.stdin, msgspec.json.encode(options))
    deadline = time.monotonic() + limit_seconds
    best: T | None = None
    interrupted = False
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            kill(process)
            if interrupted:
                return Outcome(best, "interrupted", "it did not stop in time and was ended")
            return Outcome(best, "hung", f"no answer within {limit_seconds:.0f} s; its processes were ended")
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            _tell(process.stdin, b"stop")
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            continue
        if not line:
            return Outcome(best, "interrupted" if interrupted else "died", _last_words(process, stderr))
        message = msgspec.json.decode(line)
        if "progress" in message:
            on_progress(*message["progress"])
        elif "error" in message:
            raise RigbenchError(**message["error"])
        elif "partial" in message:
            best = msgspec.convert(message["partial"], result_type)
        elif "stopped" in message:
            return Outcome(best, "interrupted")
        elif "result" in message:
            result = msgspec.convert(message["result"], result_type)
            return Outcome(result, "interrupted" if interrupted else "finished")


def _tell(stdin: IO[bytes], line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        stdin.write(line + b"\n")
        stdin.flush()


def _pump(stdout: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for line in stdout:
            lines.put(line)
    lines.put(b"")


def _last_words(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> str:
    code = process.wait()
    stderr.seek(0)
    said = stderr.read()[-4000:].decode(errors="replace").strip().splitlines()
    last = f": {said[-1]}" if said else ""
    if code == -signal.SIGKILL:
        return f"its process was killed, as the system does when memory runs out{last}"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}{last}"
    return f"its process ended with code {code}{last}"


def serve(probe: str) -> None:
    """The worker's side: read the options, run the probe, send the result. Never returns."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between our lines
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    report = Report(out)
    module = importlib.import_module(probe)
    options = msgspec.json.decode(sys.stdin.buffer.readline(), type=module.Options)
    threading.Thread(target=report._listen, args=(sys.stdin.buffer,), daemon=True).start()
    try:
        report._send({"result": module.run(options, report)})
    except RigbenchError as error:
        report._send(
            {
                "error": {
                    "what_happened": error.what_happened,
                    "what_to_do": error.what_to_do,
                    "exit_code": error.exit_code,
                }
            }
        )
    except KeyboardInterrupt:
        report._send({"stopped": True})
    except Exception:  # noqa: BLE001 - the worker's boundary; the parent quotes the last line
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    out.flush()
    os._exit(0)  # skip the interpreter's long goodbye: torch takes a second over it
