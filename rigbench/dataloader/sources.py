"""Gives batches as a training script gets them: by our own loader, a DataLoader, or the user's factory."""

from __future__ import annotations

import difflib
import importlib
import mmap
import os
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import told
from rigbench.core.record import Absent
from rigbench.dataloader.disk import made_cold
from rigbench.model.batches import Batches
from rigbench.model.text import NoText, line_decoder
from rigbench.model.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from rigbench.model.tokens import Tokens

MADE_AHEAD = 2  # batches that each DataLoader worker keeps ready: torch's default prefetch_factor
TOKEN_KEYS = ("input_ids", "tokens", "inputs", "x")  # where a batch that is a mapping has its token ids
SHARED_MEMORY = Path("/dev/shm")
FULL_WORDS = ("shared memory", "bus error", "no space left", "/torch_")
READ_AHEAD_BYTES = 256 << 10  # twice what the kernel reads around a missing page, unless told otherwise
REREAD_SHARE = 0.1  # of the file that may be in memory before it is put out again
ENDLESS = 1 << 40  # samples: more than can be drawn
EXAMPLES = {"--dataset": "mydata.loading:make", "--model": "mynet:make"}


class NoSharedMemory(Exception):
    """DataLoader workers hand batches over in /dev/shm, and it has no room for them."""


class NotCold(Exception):
    """The file could not be put out of memory, or not verifiably."""


@dataclass
class LoaderSource:
    """A DataLoader, or any iterable of batches: every batch counted, copied, begun again at its end."""

    name: str
    batches: Iterable[Any]
    device: str
    pinned: bool
    endless: bool = True
    file: Path | None = None  # what the batches are read from, where that is known
    file_bytes: int = 0  # its size when opened
    untimed_seconds: float = 0.0  # has grown by what a call spent on starting over
    restarts: int = 0
    _iterator: Iterator[Any] | None = None
    _given: int = 0  # since it was last begun

    def take(self) -> int:
        """The number of input tokens of the next batch, which is in the device's memory, or on its way.

        Raises:
            StopIteration: there are no more.
            NoSharedMemory: workers could not hand it over.
            RigbenchError: the dataset raised, or gave what is no batch of ids.
        """
        while True:
            started = time.perf_counter()
            try:
                if self._iterator is None:
                    self._iterator, self._given = iter(self.batches), 0
                batch = next(self._iterator)
            except StopIteration:
                self._begin_again()
            except RigbenchError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
                raise self._explained(error) from None
            else:
                tokens = count_tokens(self.name, batch)
                if self.device != "cpu":
                    for tensor in tensors_in(batch):
                        tensor.to(self.device, non_blocking=self.pinned)
                self._given += 1
                if self._given > 1 or not self.restarts:
                    return tokens
            self.untimed_seconds += time.perf_counter() - started

    def close(self) -> None:
        """End the workers."""
        self._iterator = None
        stop = getattr(getattr(self.batches, "_iterator", None), "_shutdown_workers", None)
        if stop:
            stop()  # a DataLoader with persistent workers holds them until it is collected

    def _begin_again(self) -> None:
        if not self.endless:
            raise StopIteration
        if not self._given:
            raise RigbenchError(f"{self.name}: it yields no batches", "give it samples, at least one batch of them")
        if self._given == 1:
            raise RigbenchError(
                f"{self.name}: it ends after one batch, which is too few to time", "give it more, or a smaller batch"
            )
        if isinstance(self.batches, Iterator):
            raise StopIteration  # a generator has nothing left
        self._iterator = None
        self.restarts += 1

    def _explained(self, error: BaseException) -> Exception:
        size = self.file.stat().st_size if self.file and self.file.exists() else 0
        if self.file and size < self.file_bytes:  # a worker that touches a page which is gone dies without a reason
            return RigbenchError(
                f"{self.name} shrank from {self.file_bytes:,} to {size:,} bytes while it was being read",
                "let nothing rewrite it during a run; write a new file and rename it over the old one",
            )
        words, last = str(error).lower(), told(error)
        if isinstance(error, (RuntimeError, OSError)) and any(full in words for full in FULL_WORDS):
            return NoSharedMemory(last)
        if isinstance(error, RuntimeError) and "out of memory" in words:
            return RigbenchError(f"{self.name}: {last}", "use fewer workers or a smaller batch", exit_code=NOTHING)
        if self.name.startswith("--dataset"):
            return RigbenchError(f"{self.name}: it raised {last}", "fix the dataset; it was asked for its next batch")
        return RigbenchError(f"{self.name}: {last}", "use fewer workers, or free memory")


class OwnSource:
    """rigbench's own loader, which never ends.

    With `cold` the mapped file is put out of memory again before a tenth of it can be back in. Without that, reading
    ahead fills memory within a sixtieth of the file, and a cold number becomes a warm one.
    """

    def __init__(self, batches: Batches, cold: Path | None = None) -> None:
        self.untimed_seconds, self.restarts = 0.0, 0
        self.cached_share = 0.0  # the largest at the beginning of a cold round
        self._batches, self._cold = batches, cold
        self._left = 0  # batches of this round

    def take(self) -> int:
        """
        Raises:
            NotCold: the file stayed in memory.
        """
        if self._cold and not self._left:
            started = time.perf_counter()
            mapping = getattr(self._batches.parts[0], "_mmap", None)
            assert isinstance(mapping, mmap.mmap)
            mapping.madvise(mmap.MADV_DONTNEED)  # our own mapping would hold the pages
            share = made_cold(self._cold)
            if isinstance(share, Absent):
                raise NotCold(share.reason)
            self.cached_share = max(self.cached_share, share)
            read_bytes = self._batches.micro_batch * READ_AHEAD_BYTES
            self._left = max(1, int(REREAD_SHARE * os.stat(self._cold).st_size / read_bytes))
            self.untimed_seconds += time.perf_counter() - started
        self._left -= 1
        self._batches.next()
        return self._batches.micro_batch * self._batches.sequence

    def close(self) -> None:
        self._batches.close()


Source = LoaderSource | OwnSource


def tensors_in(batch: Any) -> Iterator[Any]:
    """Every tensor of a batch that is a tensor, or tuples, lists and mappings of them."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from chain.from_iterable(map(tensors_in, batch.values()))
    elif isinstance(batch, (tuple, list)):
        yield from chain.from_iterable(map(tensors_in, batch))


def count_tokens(name: str, batch: Any) -> int:
    """Input tokens of a batch: the elements of its first tensor, or of the one a mapping calls input_ids or so.

    Raises:
        RigbenchError: there is no tensor, or it holds no integer ids.
    """
    if isinstance(batch, Mapping):
        batch = next((batch[key] for key in TOKEN_KEYS if key in batch), batch)
    first = next(tensors_in(batch), None)
    cure = "yield tensors of integer token ids, inputs first, or under the key input_ids"
    if first is None:
        what = "nothing (None)" if batch is None else f"a {type(batch).__name__}"
        if isinstance(batch, (tuple, list)) and batch:
            what += f" of {type(batch[0]).__name__}"
        raise RigbenchError(f"{name}: it yields {what}, with no tensor in it", cure)
    if first.is_floating_point() or first.is_complex():
        shape = "×".join(map(str, first.shape)) or "a single number"
        raise RigbenchError(f"{name}: it yields {first.dtype} ({shape}) and not token ids", cure)
    if not first.numel():
        raise RigbenchError(f"{name}: it yields a tensor with nothing in it", cure)
    return int(first.numel())


def shared_memory_lacks(workers: int, batch_bytes: int) -> str:
    """Why this many workers cannot hand their batches over; empty if they can, as far as can be told."""
    needed = workers * (MADE_AHEAD + 1) * batch_bytes
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return ""
    free = status.f_bavail * status.f_frsize
    if not workers or free >= needed:
        return ""
    hold = "1 worker holds" if workers == 1 else f"{workers} workers hold"
    return f"/dev/shm has {units.format_bytes(free)} free, and {hold} up to {units.format_bytes(needed)} in it"


class MappedBlocks:
    """The tutorial's Dataset: a memory map, sliced in __getitem__, inputs and labels made int64 one by one."""

    def __init__(self, tokens: Tokens, sequence: int) -> None:
        self.tokens, self.sequence = tokens, sequence

    def __len__(self) -> int:
        return int(self.tokens.size) - self.sequence

    def __getitem__(self, start: int) -> tuple[Any, Any]:
        x = torch.from_numpy(self.tokens[start : start + self.sequence].astype(np.int64))
        y = torch.from_numpy(self.tokens[start + 1 : start + 1 + self.sequence].astype(np.int64))
        return x, y


@dataclass
class JsonlBlocks(IterableDataset[Any]):
    """JSONL parsed and tokenized on the fly; each worker reads its own part of the first `end_byte` bytes.

    Their lines have been looked at: bad ones have been counted, or refused.
    """

    path: Path
    end_byte: int
    field: str
    tokenizer: str
    end_of_text: str | None
    sequence: int
    endless: bool = True

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks of ids in order, with labels one token later."""
        worker = get_worker_info()
        kept, count = list[Any](), 0
        for ids in self.ids(*((worker.id, worker.num_workers) if worker else (0, 1))):
            kept.append(ids)
            count += ids.size
            if count <= self.sequence:
                continue
            run = np.concatenate(kept)
            cut = (run.size - 1) // self.sequence * self.sequence
            for start in range(0, cut, self.sequence):
                block = torch.from_numpy(run[start : start + self.sequence + 1])
                yield block[:-1], block[1:]
            kept, count = [run[cut:]], run.size - cut

    def ids(self, part: int, parts: int) -> Iterator[Any]:
        """The ids of one line after another, from this worker's part, over and over if endless."""
        tokenizer = open_tokenizer(self.tokenizer, self.end_of_text)
        ending = np.array([] if isinstance(tokenizer.end_of_text, Absent) else [tokenizer.end_of_text], np.uint32)
        decode = line_decoder(self.field)
        edges = [self.end_byte * part // parts, self.end_byte * (part + 1) // parts]
        while True:
            any_text = False
            for line in self._lines(*edges):
                text = decode(line)
                if not isinstance(text, NoText) and text:
                    any_text = True
                    yield np.concatenate([*tokenizer.encode([text]), ending]).astype(np.int64)
            if not self.endless:
                return
            if not any_text and edges == [0, self.end_byte]:
                raise RigbenchError(f"{self.path.name} changed while it was being read", "let nothing rewrite it")
            if not any_text:
                edges = [0, self.end_byte]  # more workers than lines

    def _lines(self, start: int, end: int) -> Iterator[bytes]:
        """Those that begin within [start, end)."""
        with self.path.open("rb") as file:
            if start:
                file.seek(start - 1)
                file.readline()
            while file.tell() < end and (line := file.readline()):
                yield line


def loader_of(dataset: Any, micro_batch: int, workers: int, pinned: bool, forked: bool) -> Iterable[Any]:
    """The DataLoader that a script would put around a dataset; drawing from one with a length never ends."""
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
        multiprocessing_context="fork" if forked and workers else None,
    )


def find_factory(name: str, folder: str, option: str = "--dataset") -> Callable[[], Any]:
    """`package.module:factory`, importable from the folder the command was typed in, as with `python -m`.

    Raises:
        RigbenchError: not such a name, no such module or function, or the module raises.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name.isidentifier():
        raise RigbenchError(f"{option} {name!r} is not package.module:factory", f"write it as {EXAMPLES[option]}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        cure = "mend it, or check the name"
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            cure = "run rigbench in the folder that holds it, or check the name"
        raise RigbenchError(f"{option} {name}: {raised(error, folder)}", cure) from None
    factory = getattr(module, function_name, None)
    if not callable(factory):
        there = [each for each in vars(module) if callable(getattr(module, each)) and not each.startswith("_")]
        near = difflib.get_close_matches(function_name, there, n=2)
        cure = f"did you mean {' or '.join(near)}?" if near else "check the name"
        raise RigbenchError(f"{option} {name}: {module_name} has no function {function_name}", cure)
    made: Callable[[], Any] = factory
    return made


def raised(error: BaseException, folder: str) -> str:
    """What the user's code raised, in one line, with the innermost place of theirs that led to it, where there is one.

    "ValueError: bad width (shop/net.py, line 12)".
    """
    libraries = ("<", str(Path(__file__).parents[1]), sysconfig.get_paths()["stdlib"])
    packages = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(libraries) and not any(name in frame.filename for name in packages)
    ]
    if not frames:
        return told(error)
    path, line = frames[-1].filename, frames[-1].lineno
    if Path(path).is_relative_to(folder):
        path = os.path.relpath(path, folder)
    return f"{told(error)} ({path}, line {line})"


class FactoryBatches(NamedTuple):
    """What a factory gave: batches for a number of workers; `workers` is that number where it is not ours to choose."""

    loader: Callable[[int, bool], Iterable[Any]]
    workers: int | None


def open_factory(name: str, folder: str, micro_batch: int) -> FactoryBatches:
    """Call the user's factory, with no arguments.

    It returns a torch Dataset or IterableDataset of samples, which is put into a DataLoader, or an iterable of whole
    batches, such as a DataLoader of the user's own, which is taken as it comes. A sample or batch is a tensor of ids,
    or a tuple, list or mapping that begins with one (or has it as input_ids, tokens, inputs or x).

    Raises:
        RigbenchError: it raises, or returns nothing that batches can be taken from.
    """
    factory = find_factory(name, folder)
    try:
        made = factory()
        samples = len(made) if hasattr(made, "__len__") else -1
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        raise RigbenchError(f"--dataset {name}: it raised {told(error)}", "fix the factory") from None
    cure = "return a torch Dataset, an IterableDataset, or an iterable of batches"
    if made is None:
        raise RigbenchError(f"--dataset {name}: the factory returned nothing", cure)
    by_index = samples >= 0 and hasattr(made, "__getitem__") and not isinstance(made, (list, tuple, dict, str, bytes))
    if isinstance(made, Dataset) or by_index:
        if not samples:
            raise RigbenchError(f"--dataset {name}: the dataset is empty", "give it samples")
        return FactoryBatches(lambda workers, pinned: loader_of(made, micro_batch, workers, pinned, forked=False), None)
    if not isinstance(made, Iterable) or isinstance(made, (str, bytes)):
        raise RigbenchError(f"--dataset {name}: the factory returned {type(made).__name__}", cure)
    return FactoryBatches(lambda workers, pinned: made, getattr(made, "num_workers", 0))
