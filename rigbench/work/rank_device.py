"""Which device does a rank work on, and how much memory is there for its buffers?"""

from __future__ import annotations

import os
from typing import Literal

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, cuda_devices, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.work.ranks import World

SEVERAL_ON_ONE_GPU = "NCCL_MULTI_RANK_GPU_ENABLE"  # of NCCL 2.30 and later


def kind_for(asked: str, world: World) -> Literal["cpu", "cuda"]:
    """Whether there is a GPU for this rank; `asked` is "auto", "cpu" or "cuda".

    Raises:
        RigbenchError: there is none, and GPUs were asked for.
    """
    count = 0 if asked == "cpu" else len(cuda_devices())
    if count and (world.local_rank < count or os.environ.get(SEVERAL_ON_ONE_GPU) == "1"):
        return "cuda"
    if asked != "cuda":
        return "cpu"
    raise RigbenchError(
        f"rank {world.rank} has no GPU: torch sees {count} CUDA devices",
        f"start fewer ranks, use --device cpu, or let NCCL 2.30 put several on one with {SEVERAL_ON_ONE_GPU}=1",
        exit_code=NOTHING,
    )


def opened(kind: Literal["cpu", "cuda"], world: World) -> Accelerator:
    device = "cpu" if kind == "cpu" else f"cuda:{world.local_rank % len(cuda_devices())}"
    return open_device(device, flushed=False)


def free_bytes(accelerator: Accelerator) -> int:
    import torch

    if accelerator.device.kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    usable = host.memory(Sysfs()).usable_bytes
    return (1 << 30) if isinstance(usable, Absent) else usable
