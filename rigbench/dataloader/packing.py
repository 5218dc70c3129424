"""Packs text into a file of token ids that a training loop can map, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

from rigbench import __version__
from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason, replacing
from rigbench.core.progress import Progress
from rigbench.core.record import Absent
from rigbench.core.unpack import packed_by
from rigbench.dataloader.record import PackOptions, many
from rigbench.model import text
from rigbench.model.record import Packed, PackedDtype
from rigbench.model.shards import ITEM_BYTES
from rigbench.model.tokenizer import Tokenizer, open_tokenizer
from rigbench.model.tokens import sidecar_path
from rigbench.store import encode, now

BATCH_TEXTS, BATCH_CHARACTERS = 1024, 1 << 20  # texts that are tokenized at once: the tokenizer has threads of its own
TELL_EVERY_SECONDS = 0.1
BYTES_PER_SECOND = {True: 100e6, False: 2e6}  # as bytes or with a tokenizer: only to say whether this will take long
DEFAULT_FIELD = "text"


def run(sources: Sequence[Path], output: Path, options: PackOptions, progress: Progress) -> Packed:
    """Pack the sources, in order, in memory that does not grow with them, and leave a document beside the file.

    Raises:
        RigbenchError: bad options or sources, a bad line, or a disk that takes no more. Nothing is left half-written.
    """
    total_bytes = _check_sources(sources, output)
    _check_output(output, options.force)
    end = None if isinstance(options.end_of_text, Absent) else options.end_of_text
    tokenizer = open_tokenizer(options.tokenizer, end)
    dtype: PackedDtype = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
    if options.dtype == "uint16" and dtype != "uint16":
        what = f"--dtype uint16 cannot hold the {tokenizer.vocabulary:,} ids of {tokenizer.name}"
        raise RigbenchError(what, "leave --dtype out")
    dtype = dtype if options.dtype == "auto" else options.dtype
    progress.stage("pack", total_bytes / BYTES_PER_SECOND[tokenizer.name == "bytes"])
    tally = text.Tally(options.skip_bad)
    writer = _Writer(tokenizer, dtype)
    try:
        with replacing(sidecar_path(output)) as beside, replacing(output) as file:
            for tokens in writer.write(file, _documents(sources, options, tally)):
                share = min(1.0, tally.bytes / total_bytes) if total_bytes else 0.0
                progress.update(share, f"{tokens:,} tokens, {tally.documents:,} documents")
            if not writer.tokens:
                raise RigbenchError("the sources hold no text", "give files with text in them")
            packed = Packed(
                rigbench=__version__,
                made_at=now(),
                file=output.name,
                dtype=dtype,
                tokens=writer.tokens,
                documents=tally.documents,
                tokenizer=tokenizer.name,
                tokenizer_sha256=tokenizer.sha256,
                vocabulary=tokenizer.vocabulary,
                largest_id=writer.largest,
                end_of_text=tokenizer.end_of_text,
                sources=tuple(source.name for source in sources),
                source_bytes=tally.bytes,
                bad_lines=tally.bad_lines,
                cut_documents=tally.cut_documents,
                unsplit=tuple(f"{end} {many(count, 'time')}" for end, count in tally.ends.items() if count),
            )
            beside.write(encode(packed))
            beside.flush()  # a full disk is met here, where neither file has taken its place yet
            file.flush()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise RigbenchError(
            f"cannot write {output} ({reason(error)}) after {writer.tokens:,} tokens, and left nothing of it",
            "free space, or name a file on another disk with -o" if full else "name a file elsewhere with -o",
        ) from None
    return packed


class _Writer:
    """Tokenizes documents and writes their ids, an end-of-text id after each."""

    def __init__(self, tokenizer: Tokenizer, dtype: PackedDtype) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype
        self.tokens = self.largest = 0

    def write(self, file: IO[bytes], pieces: Iterable[tuple[str, bool]]) -> Iterator[int]:
        """`pieces` are (text, whether it ends its document). Yields the tokens so far, now and then."""
        import numpy as np

        kind = np.dtype(f"<u{ITEM_BYTES[self.dtype]}")
        end = self.tokenizer.end_of_text
        ending = np.array([] if isinstance(end, Absent) else [end], np.uint32)
        told_at = time.monotonic()
        for batch in _batches(pieces):
            encoded = self.tokenizer.encode([piece for piece, _ in batch])
            parts = [part for ids, (_, last) in zip(encoded, batch, strict=True) for part in (ids, ending[: int(last)])]
            ids = np.concatenate(parts)
            file.write(ids.astype(kind).tobytes())
            self.tokens += ids.size
            self.largest = max(self.largest, int(ids.max(initial=0)))
            if time.monotonic() - told_at > TELL_EVERY_SECONDS:
                told_at = time.monotonic()
                yield self.tokens


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece[0])
        if len(batch) >= BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _documents(sources: Sequence[Path], options: PackOptions, tally: text.Tally) -> Iterator[tuple[str, bool]]:
    """Every piece of text, and whether it is the last of its document; with a field none is a text file."""
    field = options.field if isinstance(options.field, str) and options.field else DEFAULT_FIELD
    for source in sources:
        if text.is_arrow(source):
            yield from ((row, True) for row in text.arrow_texts(source, field, tally))
            continue
        if isinstance(options.field, str) or text.is_jsonl(source):
            yield from ((line, True) for line in text.jsonl_texts(source, field, tally))
            continue
        if isinstance(options.separator, str) and options.separator:
            yield from text.separated_texts(source, options.separator, tally)
            continue
        for piece, following in pairwise(chain(text.text_pieces(source, tally), [None])):
            assert piece is not None
            yield piece, following is None


def _check_sources(sources: Sequence[Path], output: Path) -> int:
    """All their bytes; 0 where one is a pipe or packed, whose size nobody knows."""
    sizes = [text.check_source(source) for source in sources]
    sizes = [0 if packed_by(text.head_of(source)) else size for source, size in zip(sources, sizes, strict=True)]
    for source in sources:
        with contextlib.suppress(OSError):
            if output.samefile(source):
                raise RigbenchError(f"-o {output} is one of the sources", "name another file to write")
    return sum(sizes) if all(sizes) else 0


def _check_output(output: Path, force: bool) -> None:
    if output.is_dir():
        raise RigbenchError(f"-o {output} is a directory", f"name the file to write, as {output / 'tokens.bin'}")
    if not output.parent.is_dir():
        raise RigbenchError(f"-o {output}: there is no folder {output.parent}", "make it first")
    for path in (output, sidecar_path(output)):
        if path.exists() and not path.is_file():
            raise RigbenchError(f"{path} is not a regular file", "name another file to write")
        if path.exists() and not force:
            raise RigbenchError(f"{path} is there already", "name another file, or replace it with --force")
