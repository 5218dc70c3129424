"""Turns a log's bytes into text: unpacks, decodes, and refuses what is too large or no text."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from rigbench.core.errors import RigbenchError
from rigbench.core.files import opened, read_some, reason
from rigbench.core.unpack import broken, packed_by, unpacked

LARGEST_TEXT_BYTES = 256 << 20  # after unpacking: a few million lines
# A colour, a cursor's movement, a title or a character set, as terminals are told (ECMA-48, §5.4 and §8.3.89).
ESCAPES = re.compile(r"\x1b(?:\[[0-?]{0,40}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[ -/]{0,4}[0-~])")
WITHIN_NUMBERS = re.compile(r"(?<=\d)[\u00a0\u202f\u2009_'\u2019](?=\d{3}(?!\d))")  # 491_520, 491 520 in French


def read(path: Path) -> tuple[str, str]:
    """The log's text and a digest of its bytes."""
    try:
        with opened(path) as file:
            raw = read_some(file, LARGEST_TEXT_BYTES + 1)
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give a readable log") from None
    return text_of(raw, path.name), hashlib.sha256(raw).hexdigest()[:16]


def pasted(line: str) -> tuple[str, str]:
    """The same of a line that is given in place of a file."""
    raw = line.encode(errors="replace")
    return text_of(raw, "the line") + "\n", hashlib.sha256(raw).hexdigest()[:16]


def text_of(raw: bytes, name: str) -> str:
    """Unpacked and decoded; escape sequences are gone and numbers have no space or underscore within.

    Raises:
        RigbenchError: it is broken, too large, packed in a way that cannot be unpacked here, or no text.
    """
    if packed := packed_by(raw[:8]):
        raw = _unpacked(raw, packed, name)
    if len(raw) > LARGEST_TEXT_BYTES:
        raise RigbenchError(f"{name} is larger than {LARGEST_TEXT_BYTES >> 20} MiB", "hand back its lines about steps")
    text = _decoded(raw)
    if text.count("\0") + text.count("\ufffd") > len(text) / 20:
        raise RigbenchError(f"{name} is no text", "give a CSV, JSON or text log, or a folder of TensorBoard events")
    return WITHIN_NUMBERS.sub("", ESCAPES.sub("", text).replace("\0", " "))


def _unpacked(raw: bytes, how: str, name: str) -> bytes:
    """At most a byte more than is allowed, however much is packed in it; of a file cut short, what can be had."""
    parts: list[bytes] = []
    try:
        with unpacked(io.BytesIO(raw), how, name) as file:
            while sum(map(len, parts)) <= LARGEST_TEXT_BYTES and (part := file.read1(1 << 20)):
                parts.append(part)
    except EOFError:
        if not parts:
            raise RigbenchError(f"{name} is cut short", "give the whole file") from None
    except broken() as error:
        raise RigbenchError(f"{name} cannot be unpacked ({how}: {error})", "unpack it first") from None
    return b"".join(parts)


def _decoded(raw: bytes) -> str:
    """By its byte order mark; without one UTF-16 where every other byte is zero, else UTF-8, else Latin-1."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, errors="replace")
    head = raw[:4096]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) >= 8 and head[first::2].count(0) > 0.7 * len(head[first::2]):
            return raw.decode(encoding, errors="replace")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        return text if text.count("\ufffd") > len(text) / 20 else raw.decode("latin-1")


def lines_of(text: str) -> Iterator[str]:
    """Lines, a progress bar that was drawn over itself being one for each time it was drawn."""
    for line in (
        text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n").split("\n")
    ):
        yield line.rstrip()
