"""How fast are batches when every one of them comes from the disk?"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

from rigbench.core.record import Absent, EndedBy
from rigbench.dataloader.loading import FEWEST_SAMPLES, MOST_SAMPLES, rate
from rigbench.dataloader.page_cache import made_cold
from rigbench.dataloader.record import Loading
from rigbench.machine.accelerator import Accelerator
from rigbench.model.batches import Batches

READ_AHEAD_BYTES = 256 << 10  # twice what the kernel reads around a missing page, unless told otherwise
REREAD_SHARE = 0.1  # of the file that may be in memory before it is put out again


def cold_loading(
    batches: Batches, path: Path, accelerator: Accelerator, limit_seconds: float, should_stop: Callable[[], bool]
) -> Loading | Absent:
    """Batches of a mapped file that is put out of memory again before a tenth of it can be back in.

    Without that, reading ahead fills memory within a sixtieth of the file, and a cold number becomes a warm one.
    """
    mapping = getattr(batches.tokens, "_mmap", None)
    assert isinstance(mapping, mmap.mmap)
    read_bytes = batches.micro_batch * READ_AHEAD_BYTES
    batches_per_round = max(1, int(REREAD_SHARE * os.stat(path).st_size / read_bytes))
    largest_share, seconds = 0.0, list[float]()
    ended_by: EndedBy | None = None
    until = time.perf_counter() + limit_seconds
    while ended_by is None:
        mapping.madvise(mmap.MADV_DONTNEED)  # our own mapping would hold the pages
        share = made_cold(path)
        if isinstance(share, Absent):
            return share
        largest_share = max(largest_share, share)
        for _ in range(batches_per_round):
            started = time.perf_counter()
            batches.next()
            accelerator.synchronize()
            seconds.append(time.perf_counter() - started)
            ended_by = _ended(len(seconds), until, should_stop)
            if ended_by:
                break
    tokens = (batches.micro_batch * batches.sequence,) * len(seconds)
    on_gpu = accelerator.device.kind == "cuda"
    return Loading(
        path="own loader",
        workers=0,
        temperature="cold",
        pinned=on_gpu,
        to_device=on_gpu,
        cached_share=largest_share,
        startup_seconds=Absent("it had been started"),
        batches_per_sample=1,
        tokens=tokens,
        seconds=tuple(seconds),
        steady_from=0,
        tokens_per_s=rate(tokens, seconds),
        restarts=0,
        ended_by=ended_by,
    )


def _ended(count: int, until: float, should_stop: Callable[[], bool]) -> EndedBy | None:
    if should_stop():
        return "interrupted"
    if count >= MOST_SAMPLES:
        return "sample limit"
    return "time limit" if count >= FEWEST_SAMPLES and time.perf_counter() > until else None
