"""What does a token cost this model, in floating-point operations and in bytes that stay?"""

from __future__ import annotations

from rigbench.model.counts import (
    block_matmul_parameters,
    matmul_parameters,
    non_embedding_parameters,
    parameter_tensors,
    total_parameters,
)
from rigbench.model.record import Model, Shape

FP32_BYTES = 4


def describe(shape: Shape, name: str) -> Model:
    """The record of a model: its nominal name beside its true counts."""
    return Model(
        name=name,
        shape=shape,
        total_parameters=total_parameters(shape),
        non_embedding_parameters=non_embedding_parameters(shape),
        matmul_parameters=matmul_parameters(shape),
        flop_per_token=float(flop_per_token(shape)),
        flop_per_token_6n=6.0 * total_parameters(shape),
    )


def flop_per_token(shape: Shape) -> int:
    """Model FLOP per trained token: 6·N_matmul + 12·L·d·T, attention full rather than causally halved.

    PaLM (arXiv 2204.02311, appendix B). The backward pass multiplies twice for each product of the forward pass, once
    for the weights' gradient and once for the input's; the first layer's too, since the embedding below it is trained.
    Equals torch's counter under `sdpa_kernel(MATH)` to the last FLOP. The counter differs from it under other
    attention kernels (0 for the CPU's fused one; CUDA's flash backward multiplies five times instead of four).
    """
    return 3 * forward_flop_per_token(shape)


def forward_flop_per_token(shape: Shape) -> int:
    """A third of `flop_per_token`: 2·N_matmul + 4·L·d·T."""
    return 2 * matmul_parameters(shape) + shape.layers * _attention_flop_per_token(shape)


def hardware_flop_per_token(shape: Shape, checkpoint_every: int = 0, loss_chunks: int = 1) -> int:
    """FLOP really executed: checkpointed blocks run forward once more (every k-th, 0: none), a chunked loss the head.

    torch stops recomputing as soon as the last saved tensor is back, which is before a block's last product
    (`mlp.down`), so that one is not repeated.
    """
    flop = flop_per_token(shape)
    if checkpoint_every:
        products = block_matmul_parameters(shape) - shape.ffn_width * shape.width
        flop += -(-shape.layers // checkpoint_every) * (2 * products + _attention_flop_per_token(shape))
    if loss_chunks > 1:
        flop += 2 * shape.width * shape.vocabulary
    return flop


def parameter_bytes(shape: Shape, bytes_each: int = FP32_BYTES) -> int:
    """Weights as stored: fp32 under autocast as well."""
    return bytes_each * total_parameters(shape)


def gradient_bytes(shape: Shape, bytes_each: int = FP32_BYTES) -> int:
    """One gradient a weight, in the weight's own precision."""
    return parameter_bytes(shape, bytes_each)


def adamw_state_bytes(shape: Shape) -> int:
    """torch's AdamW in fp32: two moments a weight, and a step counter of four bytes a tensor."""
    return FP32_BYTES * (2 * total_parameters(shape) + len(parameter_tensors(shape)))


def _attention_flop_per_token(shape: Shape) -> int:
    """One layer's scores and weighted values: two products of 2·d·T each."""
    return 4 * shape.width * shape.sequence
