"""Reads documents from text, JSONL, Parquet or Arrow in pieces, packed or not, every bad line named by its number."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason
from rigbench.core.unpack import SUFFIXES, broken, packed_by, unpacked
from rigbench.model.shards import ARROW_STREAM
from rigbench.model.tokenizer import KNOWN_ENDS

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
PIECE_BYTES = 4 << 20  # of a text; a longer document is tokenized in pieces of this size
LONGEST_LINE_BYTES = 64 << 20  # of JSONL: it must be in memory whole to be parsed
SKIP_BAD = "mend that line, or leave such lines out with --skip-bad"


class Tally:
    """What has been read so far. `bad_lines` were left out, because --skip-bad said so."""

    def __init__(self, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.bytes = self.documents = self.bad_lines = self.cut_documents = 0
        self.ends = dict.fromkeys(KNOWN_ENDS[:4], 0)  # how often each stands in text that is not split at it

    def bad(self, path: Path, line: int, why: str, cure: str = SKIP_BAD) -> None:
        """Count a bad line, or refuse it."""
        if not self.skip_bad:
            raise RigbenchError(f"{path}, line {line:,}: {why}", cure)
        self.bad_lines += 1


def is_jsonl(path: Path) -> bool:
    """By its name; `.jsonl.gz` and the like too."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in JSONL_SUFFIXES


def head_of(path: Path) -> bytes:
    """Its first bytes; none of a pipe, which could not give them again."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        _unreadable(path, error)


def is_arrow(path: Path) -> bool:
    """Parquet, or Arrow as a file or a stream."""
    return (head := head_of(path)).startswith((b"PAR1", b"ARROW1")) or ARROW_STREAM.match(head) is not None


def check_source(path: Path) -> int:
    """The size of a source in bytes; 0 for a pipe, whose size nobody knows."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise RigbenchError(f"{path} is a directory", f"name the files in it, as {path}/*.jsonl")
        if stat.S_ISCHR(status.st_mode):
            raise RigbenchError(f"{path} is a device, which may have no end", "give a file or a pipe of text or JSONL")
        if stat.S_ISFIFO(status.st_mode):
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
                    why, cure = _one_document(path, line) if number == 1 else ("", "")
                    tally.bad(path, number, why or text.why, cure or text.cure)
            elif text:
                tally.documents += 1
                yield text


class NoText:
    """Why a line gives no text, and what to do; falsy where it is only blank."""

    def __init__(self, why: str = "", cure: str = SKIP_BAD) -> None:
        self.why, self.cure = why, cure

    def __bool__(self) -> bool:
        return bool(self.why)


def line_decoder(field: str) -> Callable[[bytes], str | NoText]:
    """A function from a line of JSONL to the text in its field. Other fields are passed over without being made.

    `data.text` is the field of that name, or else the field `text` within `data`.
    """
    if re.search(r'["\\\x00-\x1f]', field) or field.count(".") > 100:
        raise RigbenchError(f"--field {field[:40]!r} holds what no field's name may", "rename it in the file")
    decoders: list[msgspec.json.Decoder[Any]] = [msgspec.json.Decoder(_line_type([field]))]
    if "." in field:
        decoders.append(msgspec.json.Decoder(_line_type(field.split("."))))

    def decode(line: bytes) -> str | NoText:
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            return NoText()
        if len(line) > LONGEST_LINE_BYTES:
            return NoText(f"is longer than {LONGEST_LINE_BYTES >> 20} MiB")
        try:
            try:
                found: Any = decoders[0].decode(line)
            except msgspec.ValidationError:
                if len(decoders) == 1:
                    raise
                found = decoders[1].decode(line)
                decoders.reverse()  # the next line is most likely of the same form
            while not isinstance(found, str):
                found = found.text
            return found
        except msgspec.ValidationError as error:
            return _mismatch(str(error), field, line)
        except UnicodeDecodeError:
            return NoText("is not UTF-8")
        except (msgspec.DecodeError, RecursionError) as error:
            why = str(error).removeprefix("JSON is malformed: ").lower()
            return NoText("is not UTF-8" if "utf-8" in why else f"is not JSON ({why})")  # as msgspec 0.23 says it

    return decode


def _line_type(names: list[str]) -> type:
    inner = str if len(names) == 1 else _line_type(names[1:])
    return msgspec.defstruct("Line", [("text", inner)], rename={"text": names[0]})


def _mismatch(message: str, field: str, line: bytes) -> NoText:
    """msgspec's words for a document of another shape, as ours."""
    if "missing required field" in message:
        texts: list[str] = []
        others: list[str] = []
        with contextlib.suppress(ValueError, RecursionError):  # what msgspec passes over, as 5,000 digits
            texts, others = _fields(json.loads(line))
        cure = (
            f"name one, as --field {shlex.quote(texts[0])}, or leave such lines out with --skip-bad"
            if texts
            else SKIP_BAD
        )
        return NoText(f"has no field {field!r} (fields: {', '.join([*texts, *others][:8]) or 'none'})", cure)
    found = message.partition(", got ")[2].partition(" ")[0].strip("`'")
    if " - at " in message:
        return NoText(f"has {found or 'something else'} in the field {field!r} instead of text")
    return NoText(f"is {found or 'something else'} instead of an object")


def _fields(document: dict[str, Any], within: str = "") -> tuple[list[str], list[str]]:
    """The names of fields with text, and of the others, as --field takes them."""
    texts, others = [], []
    for name, value in document.items():
        if isinstance(value, dict) and value:
            below = _fields(value, f"{within}{name}.")
            texts += below[0]
            others += below[1] if not below[0] else []
        else:
            (texts if isinstance(value, str) else others).append(f"{within}{name}")
    return texts, others


def _one_document(path: Path, line: bytes) -> tuple[str, str]:
    """(what it is, the cure) of a first line that begins a JSON document over more lines than one, or an array."""
    name, begun = shlex.quote(str(path)), line.removeprefix(codecs.BOM_UTF8).strip()
    if begun.startswith(b"["):
        return "an array begins, and JSONL has an object a line", f"`jq -c '.[]' {name} > {name}l`, and pack that"
    if begun == b"{":
        return "a document over several lines begins", f"`jq -c . {name} > {name}l`, and pack that"
    return "", ""


def arrow_texts(path: Path, field: str, tally: Tally) -> Iterator[str]:
    """The text of every row of a Parquet or Arrow file; empty ones are passed over.

    Raises:
        RigbenchError: pyarrow is not installed, there is no such column, or it holds no text.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        what = f"{path} is a Parquet or Arrow file, and the package pyarrow is not installed"
        raise RigbenchError(what, "pip install 'rigbench[arrow]'") from None
    try:
        head = head_of(path)
        if head.startswith(b"PAR1"):
            reader = pyarrow.parquet.ParquetFile(path)
            names, batches = reader.schema_arrow.names, reader.iter_batches(batch_size=1024, columns=[field])
        else:
            opened = pyarrow.ipc.open_file if head.startswith(b"ARROW1") else pyarrow.ipc.open_stream
            reader = opened(pyarrow.memory_map(str(path)))
            names = reader.schema.names
            batches = (
                (reader.get_batch(number) for number in range(reader.num_record_batches))
                if head.startswith(b"ARROW1")
                else iter(reader)
            )
        if field not in names:
            what = f"{path} has no column {field!r} (columns: {', '.join(names)})"
            raise RigbenchError(what, "name one with --field")
        for batch in batches:
            for text in batch.column(field).to_pylist():
                if not isinstance(text, str | None):
                    what = f"{path} has {type(text).__name__} in the column {field!r} instead of text"
                    raise RigbenchError(what, f"name another with --field (columns: {', '.join(names)})")
                if text:
                    tally.bytes += len(text.encode())
                    tally.documents += 1
                    yield text
    except (pyarrow.ArrowException, OSError) as error:
        raise RigbenchError(f"cannot read {path} ({' '.join(str(error).split())[:120]})", "fetch it again") from None


def separated_texts(path: Path, separator: str, tally: Tally) -> Iterator[tuple[str, bool]]:
    """A text file's documents, between which `separator` stands, as (piece, whether it ends its document).

    White space around a document goes.
    """
    held, begun = "", False
    lines = Tally(tally.skip_bad)
    for piece in text_pieces(path, lines):
        *whole, held = (held + piece).split(separator)
        for text in whole:
            if stripped := text.rstrip() if begun else text.strip():
                yield stripped, True
            tally.documents += bool(stripped) or begun
            begun = False
        if len(held) > PIECE_BYTES:
            cut = len(held) - len(separator)
            yield (held[:cut] if begun else held[:cut].lstrip()), False
            tally.cut_documents += not begun
            held, begun = held[cut:], True
        tally.bytes, tally.bad_lines = tally.bytes + lines.bytes, tally.bad_lines + lines.bad_lines
        lines.bytes = lines.bad_lines = 0
    if stripped := held.rstrip() if begun else held.strip():
        yield stripped, True
    tally.documents += bool(stripped) or begun


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
                for end in tally.ends:
                    tally.ends[end] += text.count(end)
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
        except broken() as error:
            _unreadable(path, error)
        yield line


def _read(path: Path, file: IO[bytes]) -> bytes:
    try:
        return file.read(PIECE_BYTES)
    except broken() as error:
        _unreadable(path, error)


def _open(path: Path) -> IO[bytes]:
    """Unpacked as it is read."""
    try:
        file = path.open("rb")
        head = file.peek(8)
    except OSError as error:
        _unreadable(path, error)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = shlex.quote(str(path))
        raise RigbenchError(f"{path} is UTF-16", f"`iconv -f UTF-16 -t UTF-8 {name}`, and give what it writes")
    how = packed_by(head)
    return unpacked(file, how, path.name) if how else file  # type: ignore[return-value]


def _unreadable(path: Path, error: Exception) -> NoReturn:
    if isinstance(error, OSError) and error.errno:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give a readable file of text or JSONL") from None
    raise RigbenchError(f"{path} cannot be unpacked ({error})", "it is damaged or cut short: fetch it again") from None
