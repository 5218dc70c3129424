"""Keeps every CUDA device awake: copies to it and back until told to stop, so that its links show what they can do."""

from __future__ import annotations

import time

import torch

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.work.process import Report
from rigbench.work.record import CopyLoad
from rigbench.work.record import LoadOptions as Options

COPY_BYTES = 64 << 20


def run(options: Options, report: Report) -> CopyLoad:
    """Tells its progress once every device has begun to copy.

    Raises:
        RigbenchError: torch sees no CUDA device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA device"
        raise RigbenchError(why, "install a CUDA build of torch", exit_code=NOTHING)
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    cards = [torch.empty(COPY_BYTES, dtype=torch.uint8, device=f"cuda:{index}") for index in range(count)]
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < options.seconds and not report.should_stop():
        for card in cards:
            card.copy_(host, non_blocking=True)
            host.copy_(card, non_blocking=True)
        for card in cards:
            torch.cuda.synchronize(card.device)
        report.progress(elapsed / options.seconds, "copying")
    return CopyLoad(count, elapsed)
