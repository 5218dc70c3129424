"""Writes a watch down line by line, and reads it back whatever happened to the file meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason
from rigbench.monitor.record import FORMAT, MonitorEvent, MonitorHeader

LONGEST_LINE_BYTES = 4 << 20
CURE = "give a file of monitor --record"


class Recorder:
    """Writes an event per line, each with one write of its own: a stop at any moment leaves whole lines.

    A disk that refuses is remembered in `trouble`; what stands there is cut back to its last whole line, nothing more
    is written, and the watch goes on.
    """

    def __init__(self, path: Path, force: bool) -> None:
        self.path = path
        self.trouble: RigbenchError | None = None
        self.lines = self._size = 0
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        try:
            self._file = os.open(path, flags, 0o644)
        except FileExistsError:
            raise RigbenchError(f"{path} is there already", "name another file, or --force to replace it") from None
        except OSError as error:
            raise RigbenchError(f"cannot write to {path} ({reason(error)})", "name a file that can be made") from None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def write(self, event: MonitorEvent) -> None:
        if self.trouble:
            return
        line = msgspec.json.encode(event) + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                written += os.write(self._file, line[written:])  # a full disk takes a part, then says why
            if written < len(line):
                raise OSError(None, "only a part was taken")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            lines = f"{self.lines} line{'' if self.lines == 1 else 's'}"
            what = f"the recording {self.path} ends after {lines} ({reason(error)})"
            cure = f"; `rigbench monitor --from {self.path}` reads what is there" if self.lines else ""
            self.trouble = RigbenchError(what, f"free space{cure}")
            return
        self._size += written
        self.lines += 1


def read(path: Path) -> Iterator[MonitorEvent | None]:
    """The events of a recording, the header first; a last None where the last line was cut short."""
    try:
        with path.open("rb") as file:
            yield from _events(path, iter(lambda: file.readline(LONGEST_LINE_BYTES), b""))
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", CURE) from None


def _events(path: Path, lines: Iterator[bytes]) -> Iterator[MonitorEvent | None]:
    decoder = msgspec.json.Decoder(MonitorEvent)
    number = 0
    for number, line in enumerate(lines, start=1):
        event, words = None, ""
        try:
            event = decoder.decode(line)
        except (msgspec.DecodeError, ValueError) as error:
            words = " ".join(str(error).split())[:120]
        if number == 1 and _format(line) > FORMAT:
            raise RigbenchError(f"{path} was written by a newer rigbench", "update: pip install -U rigbench")
        if number == 1 and not isinstance(event, MonitorHeader):
            raise RigbenchError(f"{path} is no recording of monitor", CURE)
        if number > 1 and isinstance(event, MonitorHeader):
            raise RigbenchError(f"{path} has a second header in line {number}", CURE)
        if event is None and line.endswith(b"\n"):
            raise RigbenchError(f"{path} line {number} is damaged ({words})", "cut the file before that line")
        yield event
        if event is None:
            return
    if not number:
        raise RigbenchError(f"{path} is empty", CURE)


def _format(line: bytes) -> int:
    """Of a header, which a newer rigbench may have written in other fields; else 0."""
    try:
        version = msgspec.json.decode(line)["rigbench_monitor"]
    except (msgspec.DecodeError, ValueError, LookupError, TypeError):
        return 0
    return version if isinstance(version, int) else 0
