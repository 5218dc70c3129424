"""How much of this file is in memory, and can it be put out of it? What makes a cold number cold, checked."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from rigbench.core.record import Absent
from rigbench.store import reason

READ_BYTES = 8 << 20
ATTEMPTS = 3  # a page that another core has just touched is held until that core lets go
COLD_SHARE = 0.02  # of a file that may still be cached when a read of it is called cold


def cached_share(path: Path, first_bytes: int = 0) -> float | Absent:
    """The share of the file's pages, or of its first bytes', that are in memory (mincore(2) on a mapping of it).

    Since Linux 5.2 the kernel says "all of them" of a file that the caller may not write and does not own.
    """
    call = _mincore()
    if call is None:
        return Absent("this C library has no mincore")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), first_bytes, mmap.MAP_PRIVATE) as mapping:
            size = len(mapping)
            pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
            start = ctypes.c_char.from_buffer(mapping)
            failed = call(ctypes.addressof(start), size, pages)
            del start  # else the mapping could not be closed
    except (OSError, ValueError) as error:
        return Absent(reason(error) if isinstance(error, OSError) else "an empty file cannot be mapped")
    if failed:
        return Absent(os.strerror(ctypes.get_errno()).lower())
    return pages.raw.translate(_LOWEST_BIT).count(1) / len(pages)


def put_out(path: Path) -> Absent | None:
    """Ask the kernel to forget the file's pages (posix_fadvise, POSIX_FADV_DONTNEED); None, or why it would not.

    Pages that are yet to be written, or that any process has mapped, stay: write them first, and unmap one's own.
    """
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return Absent(reason(error))
    return None


def read_through(path: Path, first_bytes: int) -> None:
    """Bring the first part of a file into memory, as far as it will go; what is there then, cached_share tells."""
    buffer = memoryview(bytearray(READ_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            left = first_bytes
            while left > 0 and (count := file.readinto(buffer[: min(left, READ_BYTES)])):
                left -= count
    except OSError:
        return  # whoever maps it next will say what is wrong


def made_cold(path: Path) -> float | Absent:
    """Put the file out of memory: the share that is still in it, or why nothing can be said.

    Absent where the pages could not be put out, or where it could not be verified that they were.
    """
    left = 1.0
    for _ in range(ATTEMPTS):
        if refused := put_out(path):
            return refused
        share = cached_share(path)
        if isinstance(share, Absent):
            return Absent(f"it could not be verified that the file left memory ({share.reason})")
        left = share
        if left <= COLD_SHARE:
            break
    if left > COLD_SHARE:
        return Absent(
            f"{left:.0%} of the file stayed in memory: it lies in a file system in memory, another process has it "
            "mapped, or it is another user's"
        )
    return left


_LOWEST_BIT = bytes(byte & 1 for byte in range(256))  # the others are reserved (mincore(2))


@functools.cache
def _mincore() -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        function.restype = ctypes.c_int
    return function
