"""How does a probe run in a process of its own, and what may it tell its parent?

The parent never imports torch. `measure/processes.py` starts the process, listens to it and ends it, so that Ctrl-C
keeps what was measured, and kill -9 on the parent leaves no process behind.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import IO, Any, Generic, NoReturn, TypeVar

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Record
from rigbench.work.process import Child, EndedHow, attend

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

    def missing(self, ranks: Sequence[int], reason: str) -> None:
        """Of this process's group, these never came: there is nothing to wait for."""
        self._send({"missing": {"ranks": list(ranks), "reason": reason}})

    def _send(self, message: dict[str, Any]) -> None:
        line = msgspec.json.encode(message) + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(line)
            self._out.flush()

    def _listen(self, orders: IO[bytes]) -> None:
        for order in orders:
            if order.strip() == b"stop":
                self._stop.set()
            elif order.strip() == b"ping":
                self._send({"pong": True})
        os.killpg(0, signal.SIGKILL)  # the parent is gone: so are we, and whatever the probe started


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """How a worker ended. `result` is whole when finished, and what there was otherwise (None: nothing)."""

    result: T | None
    ended: EndedHow
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
    child = Child(probe, "workers", options, environment or {})
    ending = attend([child], result_type, limit_seconds, on_progress)
    return Outcome(ending.results[0], ending.ended, ending.reason)


def serve(probe: str) -> None:
    """The worker's side: read the options, run the probe, send the result. Never returns."""
    serve_with(probe, lambda module, options, report: module.run(options, report))


def serve_with(probe: str, work: Callable[[ModuleType, Any, Report], Record]) -> NoReturn:
    """What every child does around its work: options in, result out, and then wait until the parent ends it.

    It waits because others of its group may still need what it offers them.
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
        report._send({"result": work(module, options, report)})
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
    while True:
        signal.pause()
