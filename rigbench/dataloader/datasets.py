"""What does a training script usually load with? The tutorial's Dataset, and JSONL parsed and tokenized on the fly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model.text import NoText, line_decoder
from rigbench.model.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from rigbench.model.gather import Tokens

ENDLESS = 1 << 40  # samples: more than can be drawn


class MappedBlocks:
    """The tutorial's Dataset: a memory map, sliced in __getitem__, inputs and labels made int64 one by one."""

    def __init__(self, tokens: Tokens, sequence: int) -> None:
        self.tokens, self.sequence = tokens, sequence

    def __len__(self) -> int:
        return int(self.tokens.size) - self.sequence

    def __getitem__(self, start: int) -> tuple[Any, Any]:
        import numpy as np
        import torch

        x = torch.from_numpy(self.tokens[start : start + self.sequence].astype(np.int64))
        y = torch.from_numpy(self.tokens[start + 1 : start + 1 + self.sequence].astype(np.int64))
        return x, y


class JsonlWindow(NamedTuple):
    """The first `end_byte` bytes of a JSONL file, whose lines have been looked at, and how their text becomes ids."""

    path: Path
    end_byte: int
    field: str
    tokenizer: str
    end_of_text: str | None


def jsonl_blocks(window: JsonlWindow, sequence: int, endless: bool) -> Any:
    """An IterableDataset that parses and tokenizes on the fly; each worker reads its own part of the file."""
    from torch.utils.data import IterableDataset, get_worker_info

    class Blocks(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            worker = get_worker_info()
            part, parts = (worker.id, worker.num_workers) if worker else (0, 1)
            return _cut(_ids(window, part, parts, endless), sequence)

    return Blocks()


def _ids(window: JsonlWindow, part: int, parts: int, endless: bool) -> Iterator[Any]:
    """The ids of one line after another, from this worker's part of the window, over and over if endless."""
    import numpy as np

    tokenizer = open_tokenizer(window.tokenizer, window.end_of_text)
    ending = np.array([] if isinstance(tokenizer.end_of_text, Absent) else [tokenizer.end_of_text], np.uint32)
    decode = line_decoder(window.field)
    edges = [window.end_byte * part // parts, window.end_byte * (part + 1) // parts]
    while True:
        found = False
        for line in _lines_between(window.path, *edges):
            text = decode(line)
            if isinstance(text, NoText) or not text:
                continue  # bad lines have been counted, or refused, beforehand
            found = True
            yield np.concatenate([*tokenizer.encode([text]), ending]).astype(np.int64)
        if not endless:
            return
        if not found:
            if edges == [0, window.end_byte]:
                raise RigbenchError(f"{window.path.name} changed while it was being read", "let nothing rewrite it")
            edges = [0, window.end_byte]  # more workers than lines


def _lines_between(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin within [start, end)."""
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < end and (line := file.readline()):
            yield line


def _cut(ids: Iterator[Any], sequence: int) -> Iterator[tuple[Any, Any]]:
    import numpy as np
    import torch

    held, count = [], 0
    for more in ids:
        held.append(more)
        count += more.size
        if count <= sequence:
            continue
        run = np.concatenate(held)
        cut = (run.size - 1) // sequence * sequence
        for start in range(0, cut, sequence):
            block = torch.from_numpy(run[start : start + sequence + 1])
            yield block[:-1], block[1:]
        held, count = [run[cut:]], run.size - cut


def loader_of(dataset: Any, micro_batch: int, workers: int, pinned: bool, own: bool) -> Iterable[Any]:
    """The DataLoader that a script would put around a dataset; drawing from one with a length never ends."""
    from torch.utils.data import DataLoader, IterableDataset, RandomSampler

    sampler = None
    if not isinstance(dataset, IterableDataset):
        sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
    return DataLoader(
        dataset,
        batch_size=micro_batch,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pinned,
        drop_last=sampler is not None,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if own and workers else None,
    )
