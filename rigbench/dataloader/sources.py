"""How is the next batch taken from our own loader, from a DataLoader, or from whatever the user made?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.model.batches import Batches

MADE_AHEAD = 2  # batches that each DataLoader worker keeps ready: torch's default prefetch_factor
TOKEN_KEYS = ("input_ids", "tokens", "inputs", "x")  # where a batch that is a mapping has its token ids
SHARED_MEMORY = Path("/dev/shm")
FULL_WORDS = ("shared memory", "bus error", "no space left", "/torch_")


class NoSharedMemory(Exception):
    """DataLoader workers hand batches over in /dev/shm, and it has no room for them."""


class LoaderSource:
    """A DataLoader, or any iterable of batches, as a source: every batch counted, copied, begun again at its end."""

    def __init__(
        self,
        name: str,
        batches: Iterable[Any],
        to_device: str,
        pinned: bool,
        endless: bool = True,
        file: Path | None = None,
        file_bytes: int = 0,
    ) -> None:
        """`file` is what the batches are read from, where that is known, and `file_bytes` its size when opened."""
        self.name, self.device, self.pinned, self.file = name, to_device, pinned, file
        self._file_bytes = file_bytes
        self.untimed_seconds, self.restarts = 0.0, 0
        self._batches, self._endless = batches, endless
        self._iterator: Iterator[Any] | None = None
        self._given = 0  # since it was last begun

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
                    self._iterator, self._given = iter(self._batches), 0
                batch = next(self._iterator)
            except StopIteration:
                self._begin_again()
            except RigbenchError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
                self._check_file()
                raise _explained(self.name, error) from None
            else:
                tokens = count_tokens(self.name, batch)
                self._send(batch)
                self._given += 1
                if self._given > 1 or not self.restarts:
                    return tokens
            self.untimed_seconds += time.perf_counter() - started

    def close(self) -> None:
        """End the workers."""
        self._iterator = None
        stop = getattr(getattr(self._batches, "_iterator", None), "_shutdown_workers", None)
        if stop:
            stop()  # a DataLoader with persistent workers holds them until it is collected

    def _begin_again(self) -> None:
        if not self._endless:
            raise StopIteration
        if not self._given:
            raise RigbenchError(f"{self.name}: it yields no batches", "give it samples, at least one batch of them")
        if self._given == 1:
            raise RigbenchError(
                f"{self.name}: it ends after one batch, which is too few to time", "give it more, or a smaller batch"
            )
        if isinstance(self._batches, Iterator):
            raise StopIteration  # a generator has nothing left
        self._iterator = None
        self.restarts += 1

    def _check_file(self) -> None:
        """A worker that touches a page which is gone is dead, and DataLoader cannot say why."""
        if self.file is None:
            return
        size = self.file.stat().st_size if self.file.exists() else 0
        if size < self._file_bytes:
            raise RigbenchError(
                f"{self.name} shrank from {self._file_bytes:,} to {size:,} bytes while it was being read",
                "let nothing rewrite it during a run; write a new file and rename it over the old one",
            )

    def _send(self, batch: Any) -> None:
        if self.device == "cpu":
            return
        for tensor in tensors_in(batch):
            tensor.to(self.device, non_blocking=self.pinned)


class OwnSource:
    """rigbench's own loader as a source. `untimed_seconds` stays 0: it never ends."""

    untimed_seconds, restarts = 0.0, 0

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._tokens = batches.micro_batch * batches.sequence

    def take(self) -> int:
        self._batches.next()
        return self._tokens

    def close(self) -> None:
        self._batches.close()


def tensors_in(batch: Any) -> Iterator[Any]:
    """Every tensor of a batch that is a tensor, or tuples, lists and mappings of them."""
    import torch

    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, dict):
        yield from chain.from_iterable(map(tensors_in, batch.values()))
    elif isinstance(batch, (tuple, list)):
        yield from chain.from_iterable(map(tensors_in, batch))


def count_tokens(name: str, batch: Any) -> int:
    """Input tokens of a batch: the elements of its first tensor, or of the one a mapping calls input_ids or so.

    Raises:
        RigbenchError: there is no tensor, or it holds no integer ids.
    """
    if isinstance(batch, dict):
        batch = next((batch[key] for key in TOKEN_KEYS if key in batch), batch)
    first = next(tensors_in(batch), None)
    cure = "yield tensors of integer token ids, inputs first, or under the key input_ids"
    if first is None:
        raise RigbenchError(f"{name}: it yields {_what(batch)}, with no tensor in it", cure)
    if first.is_floating_point() or first.is_complex():
        shape = "×".join(map(str, first.shape)) or "a single number"
        raise RigbenchError(f"{name}: it yields {first.dtype} ({shape}) and not token ids", cure)
    if not first.numel():
        raise RigbenchError(f"{name}: it yields a tensor with nothing in it", cure)
    return int(first.numel())


def shared_memory_lacks(workers: int, batch_bytes: int) -> str:
    """Why this many workers cannot hand their batches over; empty if they can, as far as can be told."""
    needed = workers * (MADE_AHEAD + 1) * batch_bytes
    free = shared_memory_free()
    if not workers or free is None or free >= needed:
        return ""
    hold = "1 worker holds" if workers == 1 else f"{workers} workers hold"
    return f"/dev/shm has {units.format_bytes(free)} free, and {hold} up to {units.format_bytes(needed)} in it"


def shared_memory_free() -> int | None:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _explained(name: str, error: BaseException) -> Exception:
    words = str(error).lower()
    if isinstance(error, (RuntimeError, OSError)) and any(full in words for full in FULL_WORDS):
        return NoSharedMemory(last_line(error))
    if isinstance(error, RuntimeError) and "out of memory" in words:
        return RigbenchError(f"{name}: {last_line(error)}", "use fewer workers or a smaller batch", exit_code=NOTHING)
    own = not name.startswith("--dataset")
    cure = "use fewer workers, or free memory" if own else "mend the dataset; it was asked for its next batch"
    return RigbenchError(f"{name}: {'' if own else 'it raised '}{last_line(error)}", cure)


def last_line(error: BaseException) -> str:
    """The exception in one line. One from a DataLoader worker has that worker's whole traceback as its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    last = lines[-1][:200]
    return last if last.startswith(kind) else f"{kind}: {last}"


def _what(thing: object) -> str:
    if isinstance(thing, (tuple, list)) and thing:
        return f"a {type(thing).__name__} of {type(thing[0]).__name__}"
    return "nothing (None)" if thing is None else f"a {type(thing).__name__}"
