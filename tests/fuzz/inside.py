"""Runs a command in this process and tells whether it kept the contract: an exit code of 0 to 3, whole lines, no hang."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from rigbench import __main__
from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.screen import UNPRINTABLE
from rigbench.work.process import Child

HANG_SECONDS = 10.0  # of processor time; a wait is given six times as much
CONTRACT = (0, 1, 2, 3)
OWN = Path(__main__.__file__).parent


class Hang(BaseException):
    """It took too long."""


class Told(NamedTuple):
    code: int
    out: str
    err: str
    kind: str  # of the failure: where and what; "" where the contract was kept
    trace: str


def _no_probe(*_given: Any, **_named: Any) -> None:
    raise RigbenchError("no probe is started here", exit_code=NOTHING)


def _hang(_number: int, _frame: object) -> None:
    raise Hang


@contextlib.contextmanager
def prepared(home: Path) -> Iterator[None]:
    """Nothing is measured, whatever is typed, and nothing of this machine's user is read."""
    handlers = {number: signal.signal(number, _hang) for number in (signal.SIGVTALRM, signal.SIGALRM)}
    environment = {
        "RIGBENCH_HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "COLUMNS": "100",
        "RIGBENCH_KERNEL_LOG": os.devnull,
    }
    here = Path.cwd()
    with mock.patch.object(Child, "__init__", _no_probe), mock.patch.dict(os.environ, environment):
        try:
            yield
        finally:
            os.chdir(here)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def told(*words: str | os.PathLike[str]) -> Told:
    """One command, in a process that is `prepared`."""
    traces: list[str] = []

    def internal(error: Exception) -> str:
        traces.append("".join(traceback.format_exception(error)))
        return f"internal error, {_place(error)}"

    typed = [os.fspath(word) for word in words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", newline="") for _ in range(2))
    profiles._read.cache_clear()
    code, kind = -1, ""
    with (
        mock.patch.object(sys, "argv", ["rigbench", *typed]),
        mock.patch.object(__main__, "_internal", internal),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 6 * HANG_SECONDS)
        try:
            code = __main__._run()
        except Hang as hang:
            kind = f"Hang at {_place(hang)}"
            traces.append("".join(traceback.format_exception(hang)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a failure
            kind = f"escaped, {_place(error)}"
            traces.append("".join(traceback.format_exception(error)))
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(errors="replace"))
    if not kind and traces:
        kind = texts[1].rpartition("internal error, ")[2].partition("\n")[0]
    if not kind and code not in CONTRACT:
        kind = f"exit code {code}"
    if not kind and "Traceback" in texts[1]:
        kind = "a traceback"
    raw = raw_in("".join(texts))
    if not kind and raw:
        kind = f"raw {raw}"
    return Told(code, *texts, kind, "\n".join(traces))


def raw_in(text: str) -> str:
    """The first character that may do something to a terminal, and what stands around it."""
    found = UNPRINTABLE.search(text)
    return repr(text[max(0, found.start() - 20) : found.end() + 20]) if found else ""


def _place(error: BaseException) -> str:
    """The kind of an error and the innermost line of rigbench that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(OWN)] or frames
    name = "/".join(Path(own[-1].filename).parts[-2:])
    return f"{type(error).__name__} at {name}:{own[-1].lineno}"
