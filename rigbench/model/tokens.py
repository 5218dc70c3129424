"""Opens token files, checked before anything is trained on them, and mapped; or generates one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason, write_whole
from rigbench.model.record import Packed
from rigbench.train.record import Data

if TYPE_CHECKING:
    import numpy as np

    Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

Dtype = Literal["uint16", "uint32"]
AskedDtype = Literal["auto", "uint16", "uint32"]
ITEM_BYTES: dict[Dtype, int] = {"uint16": 2, "uint32": 4}
SCAN_BYTES = 1 << 30  # ids are checked up front this far (about a second), and in every batch beyond
SCAN_STEP_BYTES = 1 << 25
SIDECAR_LIMIT_BYTES = 1 << 20
ZIPF_TOKENS = 4_000_000
ZIPF_SHIFT = 2.7  # Zipf-Mandelbrot: p(rank) ~ 1 / (rank + 2.7), Mandelbrot's constant for natural text


def open_tokens(path: Path, dtype: AskedDtype, vocabulary: int | None, sequence: int) -> tuple[Tokens, Data]:
    """A memory map of the file's ids (shape [tokens]) and what to say of it in a record.

    "auto" is the type that the document beside a packed file names, else uint16. `vocabulary` None: any id will do."""
    import numpy as np

    packed = read_sidecar(path)
    known = _known_dtype(path, dtype, packed)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise RigbenchError(f"{path} is a directory", "give --data a file of token ids")
        if not stat.S_ISREG(status.st_mode):
            raise RigbenchError(f"{path} is not a regular file", "give --data a file of token ids")
        _check_size(path, status.st_size, known, sequence)
        _check_sidecar(path, status.st_size // ITEM_BYTES[known], vocabulary, packed)
        if vocabulary is not None:
            _scan(path, status.st_size, vocabulary, known)
        tokens: Tokens = np.memmap(path, dtype=np.dtype(f"<u{ITEM_BYTES[known]}"), mode="r")
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give --data a readable file") from None
    data = Data(kind="file", name=path.name, tokens=int(tokens.size), dtype=known, distribution="as in the file")
    return tokens, data


def sidecar_path(path: Path) -> Path:
    return Path(f"{path}.json")


def read_sidecar(path: Path) -> Packed | None:
    """The document beside a token file, as `rigbench pack` leaves it; None where there is none."""
    sidecar = sidecar_path(path)
    cure = "pack the file again, or remove that document"
    try:
        with sidecar.open("rb") as file:
            return msgspec.json.decode(file.read(SIDECAR_LIMIT_BYTES), type=Packed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RigbenchError(f"cannot read {sidecar} ({reason(error)})", cure) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RigbenchError(f"{sidecar} does not describe a packed file ({error})", cure) from None


def _known_dtype(path: Path, dtype: AskedDtype, packed: Packed | None) -> Dtype:
    if packed and dtype not in ("auto", packed.dtype):
        raise RigbenchError(
            f"{path.name} was packed as {packed.dtype}, and --data-dtype says {dtype}", "leave --data-dtype out"
        )
    if packed:
        return packed.dtype
    return "uint16" if dtype == "auto" else dtype


def _check_size(path: Path, size_bytes: int, dtype: Dtype, sequence: int) -> None:
    item = ITEM_BYTES[dtype]
    if size_bytes == 0:
        raise RigbenchError(f"{path} is empty", "give --data a file of token ids")
    if size_bytes % item:
        raise RigbenchError(
            f"{path} holds {size_bytes:,} bytes, not a whole number of {dtype} ids",
            "check --data-dtype (uint16 or uint32), or write the file again",
        )
    if size_bytes // item < sequence + 1:
        raise RigbenchError(
            f"{path} holds {size_bytes // item:,} tokens, fewer than one block of {sequence + 1:,}",
            "give a longer file, or a smaller --seq",
        )


def _check_sidecar(path: Path, tokens: int, vocabulary: int | None, packed: Packed | None) -> None:
    if packed is None:
        return
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


def _scan(path: Path, size_bytes: int, vocabulary: int, dtype: Dtype) -> None:
    """Look at the first GiB of ids. They are read, not mapped: a file that shrinks meanwhile is no SIGBUS."""
    import numpy as np

    part = np.empty(min(size_bytes, SCAN_BYTES, SCAN_STEP_BYTES), np.uint8)
    with path.open("rb", buffering=0) as file:
        for start in range(0, min(size_bytes, SCAN_BYTES), part.nbytes):
            wanted = min(part.nbytes, size_bytes - start)
            if _read_into(file, part.data[:wanted]) < wanted:
                raise RigbenchError(f"{path} shrank while it was being read", "let nothing rewrite it during a run")
            ids: Tokens = part[:wanted].view(f"<u{ITEM_BYTES[dtype]}")
            check_ids(ids, vocabulary, str(path), dtype, start // ITEM_BYTES[dtype])


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
            raise RigbenchError(
                f"cannot write generated tokens to {folder} ({reason(error)})", "free space, or choose --home DIR"
            ) from None
    tokens: Tokens = np.memmap(path, dtype=np.dtype(f"<u{item}"), mode="r")
    distribution = f"Zipf-Mandelbrot, p(rank) ~ 1/(rank + {ZIPF_SHIFT}), ids shuffled"
    return tokens, Data(kind="generated", name=path.name, tokens=ZIPF_TOKENS, dtype=dtype, distribution=distribution)
