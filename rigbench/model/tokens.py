"""What does the model eat? Token files, checked before anything is trained on them, mapped, and cut into batches."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rigbench.errors import RigbenchError
from rigbench.records import Data
from rigbench.store import reason, write_whole

if TYPE_CHECKING:
    import numpy as np

    Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

Dtype = Literal["uint16", "uint32"]
ITEM_BYTES = {"uint16": 2, "uint32": 4}
SCAN_BYTES = 1 << 30  # ids are checked up front this far (about a second), and in every batch beyond
ZIPF_TOKENS = 4_000_000
ZIPF_SHIFT = 2.7  # Zipf-Mandelbrot: p(rank) ~ 1 / (rank + 2.7), Mandelbrot's constant for natural text


def open_tokens(path: Path, dtype: Dtype, vocabulary: int, sequence: int) -> tuple[Tokens, Data]:
    """A memory map of the file's ids (shape [tokens]) and what to say of it in a record.

    Raises:
        RigbenchError: missing, a directory, unreadable, empty, not a whole number of ids, shorter than a block of
            sequence + 1 ids, or with an id at or above the vocabulary within the first GiB.
    """
    import numpy as np

    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise RigbenchError(f"{path} is a directory", "give --data a file of token ids")
        if not stat.S_ISREG(status.st_mode):
            raise RigbenchError(f"{path} is not a regular file", "give --data a file of token ids")
        _check_size(path, status.st_size, dtype, sequence)
        tokens: Tokens = np.memmap(path, dtype=np.dtype(f"<u{ITEM_BYTES[dtype]}"), mode="r")
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give --data a readable file") from None
    check_ids(tokens[: SCAN_BYTES // ITEM_BYTES[dtype]], vocabulary, str(path), dtype)
    data = Data(kind="file", name=path.name, tokens=int(tokens.size), dtype=dtype, distribution="as in the file")
    return tokens, data


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


def check_ids(tokens: Tokens, vocabulary: int, where: str, dtype: Dtype) -> None:
    """Refuse ids that the embedding table does not have (on a GPU they would abort the process).

    Raises:
        RigbenchError: naming the first such id and its place.
    """
    import numpy as np

    step = 1 << 24
    for start in range(0, tokens.size, step):
        part = tokens[start : start + step]
        if int(part.max()) >= vocabulary:
            place = start + int(np.argmax(part >= vocabulary))
            raise RigbenchError(
                f"{where} has the id {tokens[place]:,} at token {place:,}, beyond the vocabulary of {vocabulary:,}",
                "tokenize with the model's own tokenizer" + (", or try --data-dtype uint32" * (dtype == "uint16")),
            )


def zipf_tokens(folder: Path, vocabulary: int) -> tuple[Tokens, Data]:
    """A generated file, the same on every machine: ids drawn from Zipf-Mandelbrot over a shuffled vocabulary.

    Real text is Zipf-distributed, and embedding gradients are as sparse and as contended as its ids are.

    Raises:
        RigbenchError: the folder cannot be written.
    """
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


class Batches:
    """Random windows of a token array as (inputs, targets), both int64 [B, T] on the device."""

    def __init__(
        self, tokens: Tokens, dtype: Dtype, vocabulary: int, micro_batch: int, sequence: int, device: str, name: str
    ) -> None:
        import numpy as np

        self.tokens, self.dtype, self.vocabulary, self.name = tokens, dtype, vocabulary, name
        self.micro_batch, self.sequence, self.device = micro_batch, sequence, device
        self._random = np.random.default_rng(1)

    def next(self) -> tuple[Any, Any]:
        """The next batch.

        Raises:
            RigbenchError: an id beyond the vocabulary, in a part of a large file that was not scanned up front.
        """
        import numpy as np
        import torch

        starts = self._random.integers(0, self.tokens.size - self.sequence, size=self.micro_batch)
        rows = np.stack([self.tokens[start : start + self.sequence + 1] for start in starts])  # B, T+1
        if int(rows.max()) >= self.vocabulary:
            check_ids(rows.reshape(-1), self.vocabulary, f"{self.name} (a batch of it)", self.dtype)
        block = torch.from_numpy(rows.astype(np.int64))
        if self.device != "cpu":
            block = block.pin_memory().to(self.device, non_blocking=True)
        return block[:, :-1], block[:, 1:]
