"""How fast does the disk itself read, past the page cache?"""

from __future__ import annotations

import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from rigbench.core import stats
from rigbench.core.record import Absent
from rigbench.dataloader.record import DiskReads
from rigbench.store import reason

SEQUENTIAL_BYTES = 4 << 20
RANDOM_BYTES = 16 << 10  # a multiple of every disk's block; a window of 1024 ids fits in
FEWEST, MOST = 3, 2000  # reads


def direct_reads(path: Path, seconds: float, should_stop: Callable[[], bool]) -> tuple[DiskReads, ...] | Absent:
    """The file read with O_DIRECT, one read after another: in order, then at random places. `seconds` for each.

    Absent where the file system does not allow direct reads, or the file is too small to tell.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        return _refused(error)
    try:
        size = os.fstat(handle).st_size
        if size < FEWEST * SEQUENTIAL_BYTES:
            return Absent(f"the file is smaller than {FEWEST * SEQUENTIAL_BYTES >> 20} MiB")
        places = random.Random(1)
        at_random = iter(lambda: places.randrange(size // RANDOM_BYTES) * RANDOM_BYTES, -1)
        in_order = iter(range(0, size - SEQUENTIAL_BYTES + 1, SEQUENTIAL_BYTES))
        return (
            _timed(handle, "in order", SEQUENTIAL_BYTES, in_order, seconds, should_stop),
            _timed(handle, "at random", RANDOM_BYTES, at_random, seconds, should_stop),
        )
    except OSError as error:
        return _refused(error)
    finally:
        os.close(handle)


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


def _refused(error: OSError) -> Absent:
    if error.errno == errno.EINVAL:
        return Absent("this file system does not allow direct reads")
    return Absent(f"direct reads failed ({reason(error)})")
