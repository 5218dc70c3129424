"""How are many pieces of a mapped file copied at once, without a loop, and without dying where the file has shrunk?"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rigbench.core.errors import RigbenchError

if TYPE_CHECKING:
    import numpy as np

    Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
    Starts = np.ndarray[Any, np.dtype[np.int64]]

MOST_PIECES = 1024  # IOV_MAX: pieces that one call takes (readv(2))
MOST_BYTES = 1 << 30  # a call stops at 2 GiB less a page (read(2))


class Gatherer:
    """Copies windows of a mapped token array into one buffer, `rows` [B, length], that every call fills anew.

    Three ways were measured (batch 16 × 1025 uint16, warm, 2 cores; microseconds for the copy alone): an index into
    numpy's sliding windows 7, process_vm_readv(2) on our own memory 12, a pread(2) per row 20 and a Python loop with
    it. The second is used, since it alone cannot kill the process. Touching a page of a mapping beyond the end of a
    file that shrank, or one that the disk cannot deliver, is SIGBUS, and a look at the file's size beforehand leaves
    a moment in between; a system call that meets such a page returns a short count instead. Where a sandbox forbids
    the call, numpy copies, after a look at the size.
    """

    def __init__(self, tokens: Tokens, name: str, windows: int, length: int) -> None:
        import numpy as np

        self._tokens, self._name = tokens, name
        self.rows: Tokens = np.empty((windows, length), tokens.dtype)
        mapping = getattr(tokens, "_mmap", None)
        self._file_bytes: Callable[[], int] | None = None  # of the file as it is now
        if isinstance(mapping, mmap.mmap):
            self._file_bytes, self._expected_bytes = mapping.size, len(mapping)  # as it was when it was mapped
        self._sliding = np.lib.stride_tricks.sliding_window_view(tokens, length)
        self._pieces = np.empty((windows, 2), np.uint64)  # struct iovec: address, bytes
        self._pieces[:, 1] = self.rows[0].nbytes
        self._base = tokens.ctypes.data
        self._calls = self._split()
        self._call = _process_vm_readv()

    def __call__(self, starts: Starts) -> Tokens:
        """The windows that begin at `starts` [B], in `rows`, which is returned.

        Raises:
            RigbenchError: the file has shrunk, or cannot be read any more.
        """
        import numpy as np

        if self._call is None:
            self._check_size()
            np.copyto(self.rows, self._sliding[starts])
        else:
            self._pieces[:, 0] = starts * self._tokens.itemsize + self._base
            self._read()
        self._check_size()  # what lies between the new end and the end of its page reads as zeros, with no error
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

    def _read(self) -> None:
        assert self._call
        for into, pieces, count in self._calls:
            if self._call(os.getpid(), ctypes.addressof(into), 1, pieces, count, 0) != into.bytes:
                self._check_size()
                raise RigbenchError(
                    f"{self._name} could not be read midway ({os.strerror(ctypes.get_errno() or errno.EIO).lower()})",
                    "check the disk that it lies on",
                )

    def _check_size(self) -> None:
        if self._file_bytes is None:
            return
        size = self._file_bytes()
        if size < self._expected_bytes:
            raise RigbenchError(
                f"{self._name} shrank from {self._expected_bytes:,} to {size:,} bytes while it was being read",
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
