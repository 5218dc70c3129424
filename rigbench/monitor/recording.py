"""Writes a watch down line by line, and reads it back whatever happened to the file meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import opened, reason
from rigbench.core.record import too_large
from rigbench.monitor.record import FORMAT, MonitorCard, MonitorEvent, MonitorHeader

LONGEST_LINE_BYTES = 4 << 20
PARTS = 4  # of a recording that grows to its limit
CURE = "give a file of monitor --record"


class Recorder:
    """Writes an event per line, each with one write of its own: a stop at any moment leaves whole lines.

    All parts together hold at most `limit_bytes`: a full FILE becomes FILE.1, that one FILE.2, and the oldest goes.
    Each part begins with the header and the cards, so that it can be read alone.

    A disk that refuses is remembered in `trouble`; what stands there is cut back to its last whole line, nothing more
    is written, and the watch goes on.
    """

    def __init__(self, path: Path, force: bool, limit_bytes: int = 1 << 30) -> None:
        self.path = path
        self.trouble: RigbenchError | None = None
        self.lines = self._size = 0
        self._part_bytes = limit_bytes // PARTS
        self._head: dict[str, bytes] = {}  # the header, and each card's newest line
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        try:
            older = [part for number in range(1, PARTS) if (part := _part(path, number)).exists()]
            if older and not force:
                raise FileExistsError(older[0])
            self._file = os.open(path, flags, 0o644)
            for part in older:
                part.unlink()
        except FileExistsError as error:
            there = error.args[0] if isinstance(error.args[0], Path) else path
            raise RigbenchError(f"{there} is there already", "name another file, or --force to replace it") from None
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
        if isinstance(event, MonitorHeader | MonitorCard):
            self._head[event.device if isinstance(event, MonitorCard) else ""] = line
        if self._size and self._size + len(line) > self._part_bytes and stat.S_ISREG(os.fstat(self._file).st_mode):
            self._begin_part()
        self._append(line)

    def _begin_part(self) -> None:
        try:
            for number in range(PARTS - 1, 0, -1):
                if (before := _part(self.path, number - 1)).exists():
                    os.replace(before, _part(self.path, number))
            fresh = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            what = f"the recording {self.path} ends at its {PARTS} parts' limit ({reason(error)})"
            self.trouble = RigbenchError(what, "let its folder be written to")
            return
        os.close(self._file)
        self._file, self._size = fresh, 0
        for line in self._head.values():
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self.trouble:
            return
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
    """The events of a recording, the header first; a last None where the last line was cut short.

    Its parts are read oldest first, as one: each later part's own header is left out.
    """
    begun = False
    for part in _parts(path):
        try:
            with opened(part) as file:
                for event in _events(part, iter(lambda: file.readline(LONGEST_LINE_BYTES), b"")):
                    if not isinstance(event, MonitorHeader) or not begun:
                        yield event
                    begun = True
        except OSError as error:
            raise RigbenchError(f"cannot read {part} ({reason(error)})", CURE) from None


def _part(path: Path, number: int) -> Path:
    return Path(f"{path}.{number}") if number else path


def _parts(path: Path) -> list[Path]:
    """Oldest first. A numbered file beside it that another watch wrote is none of them."""
    found = [part for number in range(PARTS) if (part := _part(path, number)).is_file()]
    if len(found) < 2:
        return found or [path]
    started = [_started(part) for part in found]
    return [part for part, at in zip(found, started, strict=True) if at == started[0]][::-1]


def _started(part: Path) -> str:
    """When the watch of a part began, as its header says."""
    with contextlib.suppress(OSError, ValueError, RecursionError), opened(part) as file:
        return msgspec.json.decode(file.readline(LONGEST_LINE_BYTES), type=MonitorHeader).started_at
    return ""


def _events(path: Path, lines: Iterator[bytes]) -> Iterator[MonitorEvent | None]:
    decoder = msgspec.json.Decoder(MonitorEvent)
    number = 0
    for number, line in enumerate(lines, start=1):
        event, words = None, ""
        try:
            if number_in_it := too_large(line):
                raise ValueError(f"it says {number_in_it}, which nothing measures")
            event = decoder.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
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
    except (msgspec.DecodeError, ValueError, LookupError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0
