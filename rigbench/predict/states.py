"""What does an optimizer keep for each weight, to the byte, and what does it take while it steps?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rigbench.model.recipe import Optimizer

STEP_BYTES = 4  # torch keeps a step counter per tensor, in fp32
# bitsandbytes 0.45 to 0.50, optim/optimizer.py: tensors below 4096 elements keep 32-bit states; larger ones a byte per
# element and state, a scale in fp32 per block of 256, and share two code books of 256 fp32 values. Its paged form
# keeps the states of tensors from 100,000 elements in memory that the driver moves between host and device.
SMALL_ELEMENTS, BLOCK_ELEMENTS, CODE_BOOK_BYTES = 4096, 256, 1024
PAGED_ELEMENTS = 100_000


class Tensor(NamedTuple):
    """A weight as an optimizer sees it. Matrices decay and form the first group, as in model/optim.py."""

    elements: int
    item_bytes: int
    matrix: bool


class TensorStates(NamedTuple):
    """Bytes of one weight's states on the device, one number per storage, and in pageable memory."""

    device: tuple[int, ...]
    paged: tuple[int, ...] = ()


def in_groups(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    return [[tensor for tensor in tensors if tensor.matrix], [tensor for tensor in tensors if not tensor.matrix]]


def states(optimizer: Optimizer, tensor: Tensor) -> TensorStates:
    """What the first step leaves behind for a weight, in the order in which it is made."""
    n, moment = tensor.elements, tensor.elements * tensor.item_bytes
    if optimizer in ("adamw", "adamw-foreach"):
        return TensorStates((STEP_BYTES, moment, moment) if optimizer == "adamw" else (moment, moment))
    if n < SMALL_ELEMENTS:
        return TensorStates((4 * n, 4 * n))
    scales = 4 * -(-n // BLOCK_ELEMENTS)
    if optimizer == "paged-adamw8bit" and n >= PAGED_ELEMENTS:
        return TensorStates((scales, scales), paged=(n, n))
    return TensorStates((n, n, scales, scales))


def shared_bytes(optimizer: Optimizer) -> tuple[int, ...]:
    """What is kept once for all weights: the two code books of 8-bit states."""
    return (CODE_BOOK_BYTES, CODE_BOOK_BYTES) if optimizer.endswith("8bit") else ()


def temporary_bytes(optimizer: Optimizer, group: Sequence[Tensor]) -> tuple[int, ...]:
    """What a step over a group takes and gives back: foreach AdamW takes the roots of all second moments at once.

    torch/optim/adamw.py, `_multi_tensor_adam`: every other operation of it is in place, as are the fused kernels.
    """
    return tuple(tensor.elements * tensor.item_bytes for tensor in group) if optimizer == "adamw-foreach" else ()


def device_bytes(optimizer: Optimizer, tensors: Sequence[Tensor]) -> int:
    """All states on the device, without the allocator's rounding."""
    return sum(shared_bytes(optimizer)) + sum(sum(states(optimizer, tensor).device) for tensor in tensors)


def paged_bytes(optimizer: Optimizer, tensors: Sequence[Tensor]) -> int:
    """States that the driver moves to the host when the device is full; outside torch's own counts."""
    return sum(sum(states(optimizer, tensor).paged) for tensor in tensors)
