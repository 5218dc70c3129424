"""Works out the memory that a training step finds on a card, and what is gone of it before the first tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from rigbench.core import profiles
from rigbench.core.profiles import GpuProfile
from rigbench.core.record import Absent, Figure
from rigbench.machine.cuda_map import peak_of
from rigbench.machine.record import Gpu, Memory
from rigbench.predict.record import Target

MIB, GIB = 1 << 20, 1 << 30

# What torch says a card has in all, from published out-of-memory messages: GiB by nominal GB. The driver has the rest.
USABLE_GIB = {8: 7.75, 16: 15.70, 24: 23.5, 40: 39.56, 80: 79.19}
SHARED_GIB = {"gb10": 121.7}  # the CPU's memory, as published totals of DGX Sparks have it: the system needs some of it

# A process's CUDA context with torch's kernels: 272 MiB on an RTX 4060 (24 multiprocessors) and 480 to 500 on a 4090
# (128), from published out-of-memory messages; a line through them, and the 349 of an unnamed 16 GB card within 15 %.
CONTEXT_BASE_MIB, CONTEXT_MIB_PER_MULTIPROCESSOR, CONTEXT_SPREAD = 220.0, 2.1, 0.15
# From Hopper on: 767 MiB on an H200 (132) under torch 2.11 for CUDA 13 and driver 580, read beside every slice there,
# and 534 on an H100 (132) under an older torch (torchcomms issue 777). Whether it is the card or CUDA 13, nobody read.
HOPPER_MIB_PER_MULTIPROCESSOR, HOPPER_SPREAD = 4.145, (0.65, 1.05)
CONTEXT_UNKNOWN_MIB = (250.0, 500.0, 800.0)  # between all of those

# torch's cuBLAS workspace, aten/src/ATen/cuda/CUDABlas: `:4096:2:16:8`, and 32 MiB from Hopper on.
WORKSPACE_BYTES, WORKSPACE_HOPPER_BYTES = 8_519_680, 32 * MIB
HOPPER = 9.0

# NCCL's buffers a connection, src/init.cc: simple 4 MiB, LL 8·512·8·16 B, LL128 120·640·8·8 B. How many connections a
# communicator makes depends on links and channels: 8 is 4 channels with ring and tree; 2 and 64 bound it. Assumed.
NCCL_CONNECTION_BYTES = 4 * MIB + 8 * 512 * 8 * 16 + 120 * 640 * 8 * 8
NCCL_CONNECTIONS = (2, 8, 64)

# A CPU process that has loaded torch and its kernels, as rigbench's slices find it before the model: 0.3 to 0.5 GiB.
HOST_PROCESS_BYTES = (300 * MIB, 400 * MIB, 600 * MIB)


def of_profile(gpu: GpuProfile, name: str, count: int = 1) -> Target:
    """Cards that are not here, by their datasheet; of several sizes under one profile the smallest."""
    size_gib = min(gpu.memory_gib)
    return Target(
        name=name,
        kind="cuda",
        gpu=gpu.id,
        count=count,
        memory_bytes=round(size_gib * GIB),
        usable=(
            Figure(SHARED_GIB[gpu.id] * GIB, "declared", "published totals; it is the CPU's memory too")
            if gpu.id in SHARED_GIB
            else usable(size_gib)
        ),
        context=context(gpu.multiprocessors, gpu.compute_capability),
        communication=communication(count),
        workspace_bytes=_workspace(gpu.compute_capability),
    )


def of_gpus(gpus: Sequence[Gpu]) -> Target:
    """Cards of this rig that train together, what their other processes hold now taken off.

    Of unlike ones the memory is the smallest one's, and the profile the slowest one's.

    Raises:
        ValueError: one of them does not tell its memory.
    """
    rooms = [_free(gpu) for gpu in gpus]
    card, room = min(zip(gpus, rooms, strict=True), key=lambda its: its[1].value)
    if any(it.value != room.value for it in rooms):
        room = msgspec.structs.replace(room, basis=f"{room.basis}, on {card.label} ({card.name}), which has the least")
    slowest = _profile(min(gpus, key=peak_of))
    own, known = _profile(card), [it for it in map(_profile, gpus) if it]
    return Target(
        name="this rig",
        kind="cuda",
        gpu=slowest.id if slowest else Absent(f"no profile of {card.name}"),
        count=len(gpus),
        memory_bytes=round(_total(card)),
        usable=room,
        context=context(own.multiprocessors if own else Absent("no profile"), card.compute_capability),
        communication=communication(len(gpus)),
        workspace_bytes=max(_workspace(it.compute_capability) for it in (known or gpus)),
    )


def _profile(gpu: Gpu) -> GpuProfile | None:
    return None if isinstance(gpu.profile, Absent) else profiles.gpu(gpu.profile)


def _total(gpu: Gpu) -> int:
    if isinstance(gpu.memory_total_bytes, Absent):
        raise ValueError(gpu.memory_total_bytes.reason)
    return gpu.memory_total_bytes


def _free(gpu: Gpu) -> Figure:
    """What a program finds of a card's memory now."""
    total, used = _total(gpu), gpu.memory_used_bytes
    free = usable(total / GIB)
    if isinstance(used, Absent) or total - used >= free.value:
        return free
    return Figure(float(total - used), "measured", "the driver's total less what is in use now")


def of_host(memory: Memory) -> Target:
    """A rig without a GPU: what the host can give is what there is.

    Raises:
        ValueError: the host does not tell its memory.
    """
    if isinstance(memory.usable_bytes, Absent) or isinstance(memory.total_bytes, Absent):
        raise ValueError("the host does not report its memory")
    low, middle, high = HOST_PROCESS_BYTES
    basis = "a process that has loaded torch, as measured training finds it"
    return Target(
        name="this host's memory (cpu)",
        kind="cpu",
        gpu=Absent("a CPU trains"),
        count=1,
        memory_bytes=memory.total_bytes,
        usable=Figure(float(memory.usable_bytes), "measured", "host memory available now"),
        context=Figure(float(middle), "predicted", basis, float(low), float(high)),
        communication=Figure(0.0, "predicted", "one process"),
        workspace_bytes=0,
    )


def outside(target: Target) -> Figure:
    """Context and NCCL together."""
    parts = (target.context, target.communication)
    low, high = map(sum, zip(*(part.ends for part in parts), strict=True))
    basis = "; ".join(part.basis for part in parts if part.value)
    return Figure(sum(part.value for part in parts), "predicted", basis, low, high)


def room_bytes(target: Target) -> int:
    """What is left for tensors, the high end of context and NCCL taken off, so that "it fits" can be relied on."""
    return max(0, int(target.usable.value - outside(target).ends[1]))


def usable(size_gib: float) -> Figure:
    """What a program finds of a card's nominal memory; shares between published sizes are interpolated."""
    nominal = min(USABLE_GIB, key=lambda known: abs(known - size_gib))
    if abs(nominal - size_gib) < 0.05 * nominal:  # the driver's own total is a little below the nominal one
        return Figure(USABLE_GIB[nominal] * GIB, "declared", f"published totals of {nominal} GB cards")
    sizes = sorted(USABLE_GIB)
    between = next(((a, b) for a, b in pairwise(sizes) if a < size_gib < b), None)
    if between is None:
        end = sizes[0] if size_gib < sizes[0] else sizes[-1]
        return Figure(size_gib * GIB * USABLE_GIB[end] / end, "predicted", f"the share of {end} GB cards")
    a, b = between
    weight = (size_gib - a) / (b - a)
    share = (1 - weight) * USABLE_GIB[a] / a + weight * USABLE_GIB[b] / b
    return Figure(size_gib * GIB * share, "predicted", f"between the published totals of {a} and {b} GB cards")


def context(multiprocessors: int | Absent, compute_capability: str | Absent) -> Figure:
    """A process's share of the card before its first tensor."""
    if isinstance(multiprocessors, Absent):
        low, middle, high = (MIB * size for size in CONTEXT_UNKNOWN_MIB)
        return Figure(middle, "predicted", "CUDA context of a card that has no profile", low, high)
    each, low, high = CONTEXT_MIB_PER_MULTIPROCESSOR, 1 - CONTEXT_SPREAD, 1 + CONTEXT_SPREAD
    if capability(compute_capability) >= HOPPER:
        each, (low, high) = HOPPER_MIB_PER_MULTIPROCESSOR, HOPPER_SPREAD
    size = MIB * (CONTEXT_BASE_MIB + each * multiprocessors)
    basis = (
        f"CUDA context, {CONTEXT_BASE_MIB:g} + {each:g} MiB x {multiprocessors} SM, {low - 1:+.0%} to {high - 1:+.0%}"
    )
    return Figure(size, "predicted", basis, size * low, size * high)


def communication(count: int) -> Figure:
    """What NCCL takes on each of several cards."""
    if count < 2:
        return Figure(0.0, "predicted", "one card, no NCCL")
    low, middle, high = (float(NCCL_CONNECTION_BYTES * connections) for connections in NCCL_CONNECTIONS)
    basis = f"NCCL's default buffers, {NCCL_CONNECTIONS[1]} connections (an assumption: {NCCL_CONNECTIONS[0]} to 64)"
    return Figure(middle, "predicted", basis, low, high)


def capability(compute_capability: str | Absent) -> float:
    """As a number; 0 where it is not known, and of other makers' names, as AMD's gfx942."""
    try:
        return 0.0 if isinstance(compute_capability, Absent) else float(compute_capability)
    except ValueError:
        return 0.0


def _workspace(compute_capability: str | Absent) -> int:
    return WORKSPACE_HOPPER_BYTES if capability(compute_capability) >= HOPPER else WORKSPACE_BYTES
