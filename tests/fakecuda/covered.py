"""Keeps what coverage has seen in processes that are ended by SIGKILL: rigbench's workers, and the driver's child.

A worker is killed as soon as it has answered, or when it hangs. So it is written whenever one of them says something.
.ci/run puts this file into its environment, where a .pth file imports it in every process, after coverage's own.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import threading
from typing import Any, NoReturn

LAST = ("result", "error", "stopped")  # after these a worker does nothing but wait for its end
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


SEEN: dict[str, set[int]] = {}
ONE = threading.Lock()


def save() -> None:
    """Where lines were executed that were not before: writing takes ten milliseconds, and a driver is asked often."""
    import coverage

    started = coverage.Coverage.current()
    if started is None or started._collector is None:
        return
    with ONE:
        fresh = False
        for file, lines in list(started._collector.data.items()):
            known = SEEN.setdefault(file, set())
            fresh = fresh or not known.issuperset(lines)
            known.update(lines)
        if fresh:
            started.save()


def worker(module: Any) -> None:
    """Beside its work, for a worker hands over more seldom where that takes long; its last word waits for it."""
    send, spoken, ending = module.Report._send, threading.Event(), threading.Event()

    def keep() -> None:
        while spoken.wait() and not ending.is_set():
            spoken.clear()
            save()

    def serve(*of: Any) -> Any:
        thread = threading.Thread(target=keep, daemon=True)
        thread.start()

        def end() -> None:  # a thread that still writes when the interpreter is taken apart brings it down
            ending.set()
            spoken.set()
            thread.join(5.0)

        def exit_at_once(code: int) -> NoReturn:
            end()
            leave(code)

        atexit.register(end)
        leave, os._exit = os._exit, exit_at_once  # coverage's, which saves: two threads that save at once crash as well
        return real(*of)

    def sent(self: Any, message: dict[str, Any]) -> None:
        if any(kind in message for kind in LAST):
            save()
        spoken.set()
        send(self, message)

    real, module.serve = module.serve, serve
    module.Report._send = sent


def driver(module: Any) -> None:
    answers = module.Library.answers

    def answered(self: Any, *asked: Any) -> Any:
        yield from answers(self, *asked)
        save()

    module.Library.answers = answered


sys.meta_path.insert(0, Hook())
