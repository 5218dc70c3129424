"""The collectives probe where rank 1 is broken, as BROKEN says: wrong data, death, no memory, or it never comes."""

import os
import signal
import time

from rigbench.collectives import operations
from rigbench.collectives import probe as collectives
from rigbench.collectives.record import RankOptions as Options

__all__ = ["Options", "run"]


def run(options, report, world):
    how = os.environ["BROKEN"]
    if world.rank == 1 and how == "never comes":
        while True:
            time.sleep(1)
    import torch
    import torch.distributed as dist

    made = operations.values

    def no_values(count, *more):
        if world.rank == 1 and how == "no memory" and count == 1024:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 KiB.")
        return made(count, *more)

    operations.values = no_values
    right = dist.broadcast

    def broken(tensor, *more, **named):
        right(tensor, *more, **named)
        if world.rank == 1 and how == "wrong data" and tensor.numel() == 1024:
            tensor[1000] += 1.0
        if world.rank == 1 and how == "dies" and tensor.numel() == 16384:
            os.kill(os.getpid(), signal.SIGKILL)

    dist.broadcast = broken
    return collectives.run(options, report, world)
