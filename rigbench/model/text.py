"""Reads documents from text or JSONL in pieces, every bad line named by its number."""

from __future__ import annotations

import codecs
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
PIECE_BYTES = 4 << 20  # of a text; a longer document is tokenized in pieces of this size
LONGEST_LINE_BYTES = 64 << 20  # of JSONL: it must be in memory whole to be parsed
SKIP_BAD = "mend that line, or leave such lines out with --skip-bad"


class Tally:
    """What has been read so far. `bad_lines` were left out, because --skip-bad said so."""

    def __init__(self, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.bytes = self.documents = self.bad_lines = self.cut_documents = 0

    def bad(self, path: Path, line: int, why: str, cure: str = SKIP_BAD) -> None:
        """Count a bad line, or refuse it."""
        if not self.skip_bad:
            raise RigbenchError(f"{path}, line {line:,}: {why}", cure)
        self.bad_lines += 1


def is_jsonl(path: Path) -> bool:
    return path.suffix.lower() in JSONL_SUFFIXES


def check_source(path: Path) -> int:
    """The size of a source in bytes; 0 for a pipe, whose size nobody knows."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise RigbenchError(f"{path} is a directory", f"name the files in it, as {path}/*.jsonl")
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
            return 0
        with path.open("rb"):
            pass
    except OSError as error:
        _unreadable(path, error)
    if status.st_size == 0:
        raise RigbenchError(f"{path} is empty", "give a file of text or JSONL")
    return status.st_size


def jsonl_texts(path: Path, field: str, tally: Tally) -> Iterator[str]:
    """The text of every line, in order; blank lines and empty texts are passed over."""
    decode = line_decoder(field)
    with _open(path) as file:
        for number, line in enumerate(_lines(path, file), 1):
            tally.bytes += len(line)
            text = decode(line)
            if isinstance(text, NoText):
                if text:
                    tally.bad(path, number, text.why)
            elif text:
                tally.documents += 1
                yield text


class NoText:
    """Why a line gives no text; falsy where it is only blank."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def __bool__(self) -> bool:
        return bool(self.why)


def line_decoder(field: str) -> Callable[[bytes], str | NoText]:
    """A function from a line of JSONL to the text in its field. Other fields are passed over without being made."""
    line_type = msgspec.defstruct("Line", [("text", str)], rename={"text": field})
    decoder = msgspec.json.Decoder(line_type)

    def decode(line: bytes) -> str | NoText:
        if not line.strip():
            return NoText()
        if len(line) > LONGEST_LINE_BYTES:
            return NoText(f"is longer than {LONGEST_LINE_BYTES >> 20} MiB")
        try:
            return str(decoder.decode(line).text)  # type: ignore[attr-defined]
        except msgspec.ValidationError as error:
            return NoText(_mismatch(str(error), field))
        except UnicodeDecodeError:
            return NoText("is not UTF-8")
        except (msgspec.DecodeError, RecursionError) as error:
            return NoText(f"is not JSON ({str(error).removeprefix('JSON is malformed: ').lower()})")

    return decode


def _mismatch(message: str, field: str) -> str:
    """msgspec's words for a document of another shape, as ours."""
    if "missing required field" in message:
        return f"has no field {field!r}"
    found = message.partition(", got ")[2].partition(" ")[0].strip("`'")
    if " - at " in message:
        return f"has {found or 'something else'} in the field {field!r} instead of text"
    return f"is {found or 'something else'} instead of an object"


def text_pieces(path: Path, tally: Tally) -> Iterator[str]:
    """A text file, one document, in pieces of a few MiB that end with a line; bytes that are no text are refused."""
    lines = pieces = 0
    with _open(path) as file:
        for block in _blocks(path, file):
            whole = block.removeprefix(codecs.BOM_UTF8) if lines == 0 else block
            text = _decoded(path, whole, lines, tally)
            lines += block.count(b"\n")
            tally.bytes += len(block)
            if text:
                pieces += 1
                yield text
    tally.documents += pieces > 0
    tally.cut_documents += pieces > 1


def _decoded(path: Path, block: bytes, lines_before: int, tally: Tally) -> str:
    try:
        if b"\0" not in block:
            return block.decode()
    except UnicodeDecodeError:
        pass
    kept = []
    for number, line in enumerate(block.split(b"\n"), lines_before + 1):
        try:
            if b"\0" not in line:
                kept.append(line.decode())
                continue
            why = "holds a NUL byte, so it is not text"
        except UnicodeDecodeError:
            why = "is not UTF-8 text"
        tally.bad(path, number, why, "unpack or convert the file first, or leave such lines out with --skip-bad")
    return "\n".join(kept)


def _blocks(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The file in blocks that end at a line's end, so that no character is cut; a line without end is a block."""
    block = _read(path, file)
    while more := _read(path, file):
        cut = block.rfind(b"\n") + 1
        if not cut and len(block) >= LONGEST_LINE_BYTES:
            cut = _whole_characters(block)
        if cut:
            yield block[:cut]
        block = block[cut:] + more
    if block:
        yield block


def _whole_characters(block: bytes) -> int:
    """Where the last whole UTF-8 character ends; the bytes that continue one begin with the bits 10."""
    end = len(block)
    while end > len(block) - 4 and block[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if block[end - 1] & 0x80 else len(block)


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Lines, one at a time; of one that is too long to be parsed, as much as shows it."""
    while True:
        try:
            line = file.readline(LONGEST_LINE_BYTES + 1)
            if not line:
                return
            ended = line
            while len(ended) > LONGEST_LINE_BYTES and not ended.endswith(b"\n"):
                ended = file.readline(LONGEST_LINE_BYTES + 1) or b"\n"
        except OSError as error:
            _unreadable(path, error)
        yield line


def _read(path: Path, file: IO[bytes]) -> bytes:
    try:
        return file.read(PIECE_BYTES)
    except OSError as error:
        _unreadable(path, error)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        _unreadable(path, error)


def _unreadable(path: Path, error: OSError) -> NoReturn:
    raise RigbenchError(f"cannot read {path} ({reason(error)})", "give a readable file of text or JSONL") from None
