"""Puts a file out of memory and verifies it, and reads the disk itself, past the page cache."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from rigbench.core import stats
from rigbench.core.files import reason
from rigbench.core.record import Absent
from rigbench.dataloader.record import DiskReads

READ_BYTES = 8 << 20
ATTEMPTS = 3  # a page that another core has just touched is held until that core lets go
COLD_SHARE = 0.02  # of a file that may still be cached when a read of it is called cold
SEQUENTIAL_BYTES = 4 << 20
RANDOM_BYTES = 16 << 10  # a multiple of every disk's block; a window of 1024 ids fits in
FEWEST, MOST = 3, 2000  # reads
LOWEST_BIT = bytes(byte & 1 for byte in range(256))  # of a page's byte; the others are reserved (mincore(2))


def cached_share(path: Path, first_bytes: int = 0) -> float | Absent:
    """The share of the file's pages, or of its first bytes', that are in memory (mincore(2) on a mapping of it).

    Since Linux 5.2 the kernel says "all of them" of a file that the caller may not write and does not own.
    """
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None:
        return Absent("this C library has no mincore")
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), first_bytes, mmap.MAP_PRIVATE) as mapping:
            size = len(mapping)
            pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
            start = ctypes.c_char.from_buffer(mapping)
            failed = mincore(ctypes.addressof(start), size, pages)
            del start  # else the mapping could not be closed
    except (OSError, ValueError) as error:
        return Absent(reason(error) if isinstance(error, OSError) else "an empty file cannot be mapped")
    if failed:
        return Absent(os.strerror(ctypes.get_errno()).lower())
    return pages.raw.translate(LOWEST_BIT).count(1) / len(pages)


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
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # a page that is yet to be written stays, as does one that anybody has mapped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            return Absent(reason(error))
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


def direct_reads(path: Path, seconds: float, should_stop: Callable[[], bool]) -> tuple[DiskReads, ...] | Absent:
    """The file read with O_DIRECT, one read after another: in order, then at random places. `seconds` for each.

    Absent where the file system does not allow direct reads, or the file is too small to tell.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < FEWEST * SEQUENTIAL_BYTES:
                return Absent(f"the file is smaller than {FEWEST * SEQUENTIAL_BYTES >> 20} MiB")
            places = random.Random(1)
            at_random = iter(lambda: places.randrange(size // RANDOM_BYTES) * RANDOM_BYTES, -1)
            in_order = iter(range(0, size - SEQUENTIAL_BYTES + 1, SEQUENTIAL_BYTES))
            return (
                _timed(file.fileno(), "in order", SEQUENTIAL_BYTES, in_order, seconds, should_stop),
                _timed(file.fileno(), "at random", RANDOM_BYTES, at_random, seconds, should_stop),
            )
    except OSError as error:
        if error.errno == errno.EINVAL:
            return Absent("this file system does not allow direct reads")
        return Absent(f"direct reads failed ({reason(error)})")


def _timed(
    handle: int,
    order: Literal["in order", "at random"],
    size: int,
    places: Iterator[int],
    seconds: float,
    should_stop: Callable[[], bool],
) -> DiskReads:
    taken: list[float] = []
    with mmap.mmap(-1, size) as buffer:  # memory that begins on a page, as O_DIRECT wants it
        until = time.perf_counter() + seconds
        for place in places:
            started = time.perf_counter()
            if os.preadv(handle, [buffer], place) < size:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            ended = time.perf_counter()
            taken.append(ended - started)
            if len(taken) >= FEWEST and (ended > until or len(taken) >= MOST or should_stop()):
                break
    return DiskReads(order=order, block_bytes=size, seconds=tuple(taken), bytes_per_s=stats.rate_estimate(size, taken))
