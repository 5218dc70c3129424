"""Opens files of token ids, checked before anything is trained on them, and mapped; or generates one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason, write_whole
from rigbench.model import shards
from rigbench.model.record import AskedDtype, Dtype, Packed
from rigbench.model.shards import ITEM_BYTES
from rigbench.train.record import Data

if TYPE_CHECKING:
    import numpy as np

    Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

SCAN_BYTES = 1 << 30  # ids are checked up front this far (about a second), and in every batch beyond
SCAN_STEP_BYTES = 1 << 25
SIDECAR_LIMIT_BYTES = 1 << 20
ZIPF_TOKENS = 4_000_000
ZIPF_SHIFT = 2.7  # Zipf-Mandelbrot: p(rank) ~ 1 / (rank + 2.7), Mandelbrot's constant for natural text


def open_tokens(path: Path, dtype: AskedDtype, vocabulary: int | None, sequence: int) -> tuple[Tokens, Data]:
    """The first of `open_all`, alone."""
    parts, data = open_all(path, dtype, vocabulary, sequence, most=1)
    return parts[0], data


def open_all(
    given: Path, dtype: AskedDtype, vocabulary: int | None, sequence: int, most: int | None = None
) -> tuple[list[Tokens], Data]:
    """A memory map of the ids of each file (shape [tokens]) that a path, folder or pattern names, and what to say of
    them in a record.

    "auto" is the type that a header or the document beside a packed file names, else uint16, or what ids look like
    ids by. `vocabulary` None: any id will do. `most` files are opened; the others are only counted.
    """
    paths = shards.find(given)
    opened: list[shards.Shard] = []
    parts: list[Tokens] = []
    budget = SCAN_BYTES
    try:
        for path in paths[:most]:
            shard = _checked(path, dtype, vocabulary, sequence)
            if opened and shard.dtype != opened[0].dtype:
                what = f"{path.name} holds {shard.dtype} ids, and {opened[0].path.name} {opened[0].dtype}"
                raise RigbenchError(what, "give files of one type, as with a pattern: 'train_*.bin'")
            if vocabulary is not None and budget > 0:
                _scan(shard, vocabulary, budget)
            budget -= shard.tokens * ITEM_BYTES[shard.dtype]
            opened.append(shard)
            parts.append(shards.mapped(shard))
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give --data a readable file") from None
    name = paths[0].name if len(paths) == 1 else given.name or given.resolve().name
    layout = shards.summary(opened)
    if len(paths) > len(opened):
        layout = f"{opened[0].path.name}, the first of {len(paths):,} files; {layout}"
    return parts, Data(
        kind="file",
        name=name,
        tokens=sum(shard.tokens for shard in opened),
        dtype=opened[0].dtype,
        distribution="as in the file" if len(paths) == 1 else "as in the files",
        layout=layout,
    )


def _checked(path: Path, dtype: AskedDtype, vocabulary: int | None, sequence: int) -> shards.Shard:
    packed = read_sidecar(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RigbenchError(f"{path} is not a regular file", "give --data a file of token ids")
    if packed:
        known = _known_dtype(path, dtype, packed)
        _check_size(path, status.st_size, known)
        shard = shards.Shard(path, known, 0, status.st_size // ITEM_BYTES[known], "as rigbench packed it")
        _check_sidecar(path, shard.tokens, vocabulary, packed)
    else:
        if status.st_size == 0:
            raise RigbenchError(f"{path} is empty", "give --data a file of token ids")
        with path.open("rb", buffering=0) as file:
            head = file.read(shards.HEAD_BYTES)
        shard = shards.recognised(path, head, status.st_size, dtype)
        if not shard.offset_bytes:
            _check_size(path, status.st_size, shard.dtype)
    if shard.tokens < sequence + 1:
        raise RigbenchError(
            f"{path} holds {shard.tokens:,} tokens, fewer than one block of {sequence + 1:,}",
            "give a longer file, or a smaller --seq",
        )
    return shard


def sidecar_path(path: Path) -> Path:
    return Path(f"{path}.json")


def read_sidecar(path: Path) -> Packed | None:
    """The document beside a token file, as `rigbench pack` leaves it; None where there is none."""
    sidecar = sidecar_path(path)
    cure = "pack the file again, or remove that document"
    try:
        return msgspec.json.decode(read_regular(sidecar, SIDECAR_LIMIT_BYTES), type=Packed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RigbenchError(f"cannot read {sidecar} ({reason(error)})", cure) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RigbenchError(f"{sidecar} does not describe a packed file ({error})", cure) from None


def _known_dtype(path: Path, dtype: AskedDtype, packed: Packed) -> Dtype:
    if dtype not in ("auto", packed.dtype):
        what = f"{path.name} was packed as {packed.dtype}, and --data-dtype says {dtype}"
        raise RigbenchError(what, "leave --data-dtype out")
    return packed.dtype


def _check_size(path: Path, size_bytes: int, dtype: Dtype) -> None:
    if size_bytes % ITEM_BYTES[dtype]:
        raise RigbenchError(
            f"{path} holds {size_bytes:,} bytes, not a whole number of {dtype} ids",
            "check --data-dtype (uint16 or uint32), or write the file again",
        )


def _check_sidecar(path: Path, tokens: int, vocabulary: int | None, packed: Packed) -> None:
    if packed.tokens != tokens:
        raise RigbenchError(
            f"{path} holds {tokens:,} tokens, and {sidecar_path(path).name} says {packed.tokens:,}",
            "the file was cut short or replaced: pack it again",
        )
    if vocabulary is not None and packed.vocabulary > vocabulary:
        raise RigbenchError(
            f"{path.name} was packed with {packed.tokenizer}, a vocabulary of {packed.vocabulary:,}, "
            f"and the model has {vocabulary:,}",
            "pack the text with the model's own tokenizer",
        )


def _scan(shard: shards.Shard, vocabulary: int, most_bytes: int) -> None:
    """Look at its first ids, `most_bytes` of them. They are read, not mapped: a file that shrinks is no SIGBUS."""
    import numpy as np

    path, item = shard.path, ITEM_BYTES[shard.dtype]
    size_bytes = min(shard.tokens * item, most_bytes)
    part = np.empty(min(size_bytes, SCAN_STEP_BYTES), np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(shard.offset_bytes)
        for start in range(0, size_bytes, part.nbytes):
            wanted = min(part.nbytes, size_bytes - start) // item * item
            if _read_into(file, part.data[:wanted]) < wanted:
                raise RigbenchError(f"{path} shrank while it was being read", "let nothing rewrite it during a run")
            ids: Tokens = part[:wanted].view(f"<u{item}")
            check_ids(ids, vocabulary, str(path), shard.dtype, start // item)


def _read_into(file: Any, buffer: memoryview) -> int:
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            break
        done += count
    return done


def check_ids(tokens: Tokens, vocabulary: int, where: str, dtype: Dtype, first: int = 0) -> None:
    """Refuse ids that the embedding table does not have (on a GPU they would abort the process).

    `first` is the place in the file of the first of these tokens."""
    import numpy as np

    if int(tokens.max()) >= vocabulary:
        place = int(np.argmax(tokens >= vocabulary))
        raise RigbenchError(
            f"{where} has the id {tokens[place]:,} at token {first + place:,}, beyond the vocabulary of {vocabulary:,}",
            "tokenize with the model's own tokenizer" + (", or try --data-dtype uint32" * (dtype == "uint16")),
        )


def zipf_tokens(folder: Path, vocabulary: int) -> tuple[Tokens, Data]:
    """A generated file, the same on every machine: ids drawn from Zipf-Mandelbrot over a shuffled vocabulary.

    Real text is Zipf-distributed, and embedding gradients are as sparse and as contended as its ids are."""
    import numpy as np

    dtype: Dtype = "uint16" if vocabulary <= 1 << 16 else "uint32"
    item = ITEM_BYTES[dtype]
    path = folder / f"zipf-{vocabulary}-{ZIPF_TOKENS}.{dtype}.bin"
    if not path.is_file() or path.stat().st_size != ZIPF_TOKENS * item:
        random = np.random.default_rng(20261121)
        weights = 1.0 / (np.arange(vocabulary) + 1 + ZIPF_SHIFT)
        cumulative = np.cumsum(weights / weights.sum())
        ranks = np.minimum(np.searchsorted(cumulative, random.random(ZIPF_TOKENS)), vocabulary - 1)
        ids = random.permutation(vocabulary)[ranks].astype(f"<u{item}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, ids.tobytes())
        except OSError as error:
            what = f"cannot write generated tokens to {folder} ({reason(error)})"
            raise RigbenchError(what, "free space, or choose --home DIR") from None
    tokens: Tokens = np.memmap(path, dtype=np.dtype(f"<u{item}"), mode="r")
    distribution = f"Zipf-Mandelbrot, p(rank) ~ 1/(rank + {ZIPF_SHIFT}), ids shuffled"
    return tokens, Data(kind="generated", name=path.name, tokens=ZIPF_TOKENS, dtype=dtype, distribution=distribution)
