"""Takes random blocks of token files as a training step's batches, labels shifted by one, made ahead."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rigbench.core.errors import RigbenchError
from rigbench.model.record import Dtype
from rigbench.model.tokens import check_ids

if TYPE_CHECKING:
    import numpy as np
    import torch

    from rigbench.model.tokens import Tokens

    Starts = np.ndarray[Any, np.dtype[np.int64]]

DRAWN_AT_ONCE = 4096  # starts: a call to the generator costs as much as half a gather
AHEAD = 3  # batches that a GPU's thread may be ahead: one on its way to the device, one ready, one being made
MOST_PIECES = 1024  # IOV_MAX: pieces that one call takes (readv(2))
MOST_BYTES = 1 << 30  # a call stops at 2 GiB less a page (read(2))


class Batches:
    """Random windows of token arrays as (inputs, targets), both int64 [B, T] on the device, fixed by the seed.

    A batch is the caller's to keep, and contiguous, as programs view it as one dimension. For a GPU a thread makes the
    next ones, in pinned memory. On a CPU `ahead` is off unless asked for: a batch takes 0.03 % of even a 5M model's
    step there, and the thread would take its time from the cores that train. Close it (or use `with`) to end the
    thread.
    """

    def __init__(
        self,
        tokens: Tokens | Sequence[Tokens],
        dtype: Dtype,
        vocabulary: int,
        micro_batch: int,
        sequence: int,
        device: str,
        name: str,
        *,
        seed: int = 1,
        pinned: bool = True,
        ahead: bool | None = None,
        skip: int = 0,
    ) -> None:
        """`skip`: begin after so many batches, as one does that goes on."""
        import numpy as np

        self.parts: Sequence[Tokens] = [tokens] if isinstance(tokens, np.ndarray) else tokens
        self.dtype, self.vocabulary, self.name = dtype, vocabulary, name
        self.micro_batch, self.sequence, self.device = micro_batch, sequence, device
        self._on_gpu = device != "cpu"
        self._pinned = pinned and self._on_gpu
        self._random = np.random.default_rng(seed)
        self._gather = Gatherer(self.parts, name, micro_batch, sequence + 1)
        self._starts = self._draw()
        for _ in range(skip):
            self._next_starts()
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[_Slot]] = deque()
        if self._on_gpu if ahead is None else ahead:
            # A thread begins with the first device as its own: waiting for an event of another would make a second
            # context, on a card that this process does not use.
            own: dict[str, Any] = {"initializer": _set_device, "initargs": (device,)} if self._on_gpu else {}
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches", **own)
            self._ahead.extend(self._pool.submit(self._fill, self._slot()) for _ in range(AHEAD))

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, if there is one; there is no next batch after this."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch."""
        import numpy as np
        import torch

        if self._pool is None and not self._on_gpu:
            rows = self._rows()  # B, T+1
            return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
        if self._pool is None:
            block = self._sent(self._fill(self._slot()))
        else:
            slot = self._ahead.popleft().result()
            block = self._sent(slot)
            self._ahead.append(self._pool.submit(self._fill, slot))
        return block[0], block[1]

    def _rows(self) -> Tokens:
        """The ids of the next batch, [B, T+1], in a buffer that the next call overwrites."""
        rows = self._gather(self._next_starts())
        if int(rows.max()) >= self.vocabulary:
            check_ids(rows.reshape(-1), self.vocabulary, f"{self.name} (a batch of it)", self.dtype)
        return rows

    def _next_starts(self) -> Starts:
        if len(self._starts) < self.micro_batch:
            self._starts = self._draw()
        starts, self._starts = self._starts[: self.micro_batch], self._starts[self.micro_batch :]
        return starts

    def _draw(self) -> Starts:
        rounds = max(1, DRAWN_AT_ONCE // self.micro_batch)
        return self._random.integers(0, self._gather.windows, size=rounds * self.micro_batch)

    def _slot(self) -> _Slot:
        import torch

        return _Slot(
            torch.empty((2, self.micro_batch, self.sequence), dtype=torch.int64, pin_memory=self._pinned),
            torch.cuda.Event() if self._on_gpu else None,  # type: ignore[no-untyped-call]
        )

    def _fill(self, slot: _Slot) -> _Slot:
        import numpy as np

        if slot.sent:
            slot.sent.synchronize()  # the copy out of this buffer; returns at once where none was made
        rows, block = self._rows(), slot.block.numpy()
        np.copyto(block[0], rows[:, :-1])
        np.copyto(block[1], rows[:, 1:])
        return slot

    def _sent(self, slot: _Slot) -> torch.Tensor:
        """The block in the device's memory, [2, B, T], its copy queued before whatever is asked of the device next."""
        if slot.sent is None:
            return slot.block.clone()
        block = slot.block.to(self.device, non_blocking=True)
        slot.sent.record()
        return block


def _set_device(device: str) -> None:
    import torch

    torch.cuda.set_device(device)


class _Slot:
    """A host buffer, int64 [2, B, T] of inputs and targets, and the event after the last copy out of it."""

    def __init__(self, block: torch.Tensor, sent: torch.cuda.Event | None) -> None:
        self.block, self.sent = block, sent


class Gatherer:
    """Copies windows of mapped token arrays into one buffer, `rows` [B, length], that every call fills anew.

    `windows` is how many there are: those of the first array, then those of the next. None spans two.

    Three ways were measured (batch 16 × 1025 uint16, warm, 2 cores; microseconds for the copy alone): an index into
    numpy's sliding windows 7, process_vm_readv(2) on our own memory 12, a pread(2) per row 20 and a Python loop with
    it. The second is used, since it alone cannot kill the process. Touching a page of a mapping beyond the end of a
    file that shrank, or one that the disk cannot deliver, is SIGBUS, and a look at the file's size beforehand leaves
    a moment in between; a system call that meets such a page returns a short count instead. Where a sandbox forbids
    the call, numpy copies, after a look at the size.
    """

    def __init__(self, parts: Sequence[Tokens], name: str, rows: int, length: int) -> None:
        import numpy as np

        self._parts, self._name = parts, name
        self.rows: Tokens = np.empty((rows, length), parts[0].dtype)
        ends = np.cumsum([part.size - length + 1 for part in parts])
        self.windows = int(ends[-1])
        self._ends, self._firsts = ends, np.concatenate([[0], ends[:-1]])
        self._bases = np.array([part.ctypes.data for part in parts], np.uint64)
        mappings = [getattr(part, "_mmap", None) for part in parts]
        # Of each file as it is now, and as it was when it was mapped.
        self._files = [(each.size, len(each)) if isinstance(each, mmap.mmap) else None for each in mappings]
        self._sliding = [np.lib.stride_tricks.sliding_window_view(part, length) for part in parts]
        self._pieces = np.empty((rows, 2), np.uint64)  # struct iovec: address, bytes
        self._pieces[:, 1] = self.rows[0].nbytes
        self._calls = self._split()
        self._call = _process_vm_readv()

    def __call__(self, starts: Starts) -> Tokens:
        """The windows that begin at `starts` [B], in `rows`, which is returned."""
        import numpy as np

        if len(self._parts) == 1:
            used: Any = [0]
            which: Any = 0
            within = starts
        else:
            which = np.searchsorted(self._ends, starts, side="right")
            within, used = starts - self._firsts[which], np.unique(which)
        if self._call is None:
            self._check_sizes(used)
            for part in used:
                there = slice(None) if len(self._parts) == 1 else which == part
                self.rows[there] = self._sliding[part][within[there]]
        else:
            self._pieces[:, 0] = within.astype(np.uint64) * np.uint64(self.rows.itemsize) + self._bases[which]
            self._read(used)
        self._check_sizes(used)  # what lies between the new end and the end of its page reads as zeros, with no error
        return self.rows

    def _split(self) -> list[tuple[_Piece, int, int]]:
        """What each call to the kernel copies: (where to, the address of its pieces, how many they are)."""
        row_bytes = self.rows[0].nbytes
        at_once = max(1, min(MOST_PIECES, MOST_BYTES // row_bytes))
        calls = []
        for first in range(0, len(self.rows), at_once):
            count = min(at_once, len(self.rows) - first)
            into = _Piece(self.rows[first].ctypes.data, count * row_bytes)
            calls.append((into, self._pieces[first].ctypes.data, count))
        return calls

    def _read(self, used: Sequence[int]) -> None:
        assert self._call
        for into, pieces, count in self._calls:
            if self._call(os.getpid(), ctypes.addressof(into), 1, pieces, count, 0) != into.bytes:
                self._check_sizes(used)
                raise RigbenchError(
                    f"{self._name} could not be read midway ({os.strerror(ctypes.get_errno() or errno.EIO).lower()})",
                    "check the disk that it lies on",
                )

    def _check_sizes(self, used: Sequence[int]) -> None:
        for file in map(self._files.__getitem__, used):
            if file and (size := file[0]()) < file[1]:
                raise RigbenchError(
                    f"{self._name} shrank from {file[1]:,} to {size:,} bytes while it was being read",
                    "let nothing rewrite it during a run; write a new file and rename it over the old one",
                )


class _Piece(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


@functools.cache
def _process_vm_readv() -> Callable[..., int] | None:
    """The C library's call, or None where it is missing or forbidden (old containers' seccomp profiles)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
    if function is None:
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_ulong
    function.argtypes = [ctypes.c_int, pointer, count, pointer, count, count]
    function.restype = ctypes.c_ssize_t
    here, there = ctypes.create_string_buffer(1), ctypes.create_string_buffer(b"x", 1)
    pieces = [_Piece(ctypes.addressof(buffer), 1) for buffer in (here, there)]
    done = function(os.getpid(), ctypes.addressof(pieces[0]), 1, ctypes.addressof(pieces[1]), 1, 0)
    return function if done == 1 and here.raw == b"x" else None
