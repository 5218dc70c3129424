"""Keeps every CUDA device awake: copies to it and back until told to stop, so that its links show what they can do."""

from __future__ import annotations

import time

import torch

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.work.process import Report
from rigbench.work.record import CopyLoad
from rigbench.work.record import LoadOptions as Options

COPY_BYTES = 64 << 20


def run(options: Options, report: Report) -> CopyLoad:
    """Tells its progress once every device has begun to copy.

    Raises:
        RigbenchError: torch sees no CUDA device, or none has memory for it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA device"
        raise RigbenchError(why, "install a CUDA build of torch", exit_code=NOTHING)
    pairs = []
    for index in range(count):  # each its own buffer in the host
        try:
            card = torch.empty(COPY_BYTES, dtype=torch.uint8, device=f"cuda:{index}")
            pairs.append((card, torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    if not pairs:
        raise RigbenchError(f"no card has {COPY_BYTES >> 20} MiB left", "end the program that holds it", NOTHING)
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < options.seconds and not report.should_stop():
        for card, host in pairs:
            card.copy_(host, non_blocking=True)
            host.copy_(card, non_blocking=True)
        for card, _ in pairs:
            torch.cuda.synchronize(card.device)
        report.progress(elapsed / options.seconds, "copying")
    return CopyLoad(len(pairs), elapsed)
