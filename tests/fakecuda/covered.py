"""Keeps what coverage has seen in processes that are ended by SIGKILL: rigbench's workers, and the driver's child.

A worker is killed as soon as it has answered, or when it hangs. So it is written whenever one of them says something.
.ci/run puts this file into its environment, where a .pth file imports it in every process, after coverage's own.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

LAST = ("result", "error", "stopped")  # after these a worker does nothing but wait for its end
SECONDS = 0.5  # between two times of writing; what a worker says last is always written
WORKER, DRIVER = "rigbench.work.process", "rigbench.machine.driver_child"


class Hook:
    """Changes the modules through which such processes speak, once they are imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in (WORKER, DRIVER):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        assert spec
        assert spec.loader
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            worker(module) if name == WORKER else driver(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class Saver:
    def __init__(self) -> None:
        self._next_at = 0.0

    def __call__(self, last: bool) -> None:
        import coverage

        started = coverage.Coverage.current()
        if started and (last or time.monotonic() > self._next_at):
            started.save()
            self._next_at = time.monotonic() + SECONDS


def worker(module: Any) -> None:
    send, save = module.Report._send, Saver()

    def sent(self: Any, message: dict[str, Any]) -> None:
        save(any(kind in message for kind in LAST))
        send(self, message)

    module.Report._send = sent


def driver(module: Any) -> None:
    answers, save = module.Library.answers, Saver()

    def answered(self: Any, *asked: Any) -> Any:
        yield from answers(self, *asked)
        save(True)

    module.Library.answers = answered


sys.meta_path.insert(0, Hook())
