"""What does a training step do: which products, how many bytes to and from memory, how many kernels?

Closed forms of what the decoder of model/gpt.py does, operation by operation: an operation reads its inputs and writes
its outputs once. Eager counts equal those of the real code under a dispatch mode (tests/test_operations.py). Compiled
counts assume that whatever is not a product is fused as torch's inductor does it: norms with the casts and residuals
around them, the loss without its fp32 copies.
"""

from __future__ import annotations

from typing import NamedTuple

from rigbench.model.counts import parameter_tensors, total_parameters
from rigbench.model.gemms import step_gemms
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.predict import traffic
from rigbench.predict.record import PartName
from rigbench.predict.traffic import FP32, ROPE_SHARE, Sizes

INT64 = 8

# How often an optimizer step reads or writes a number per parameter. Fused AdamW reads weight, gradient and two moments
# and writes three of them; foreach does so in eight kernels (torch/optim/adam.py, _multi_tensor_adam: decay, lerp of
# the first moment, scale and square of the second, root, correction, epsilon, quotient). AdamW8bit (bitsandbytes 0.50)
# has two moments of a byte and a scale per 256. Clipping reads the gradients, then scales them.
FUSED_PASSES, FOREACH_PASSES, CLIP_PASSES = 7, 20, 3
STATES_8BIT_BYTES = 4 * (1 + FP32 / 256)
FOREACH_KERNELS, CLIP_KERNELS, TENSORS_A_KERNEL = 8, 4, 48


class Operation(NamedTuple):
    """`times` of the same operation. `m, n, k` are a product's, 0 otherwise; flop, bytes and kernels are of one."""

    part: PartName
    name: str
    times: float
    flop: float
    bytes: float
    kernels: float
    m: int = 0
    n: int = 0
    k: int = 0


def micro_step(shape: Shape, recipe: Recipe, first: bool = True) -> tuple[Operation, ...]:
    """Forward, loss and backward of one micro-batch on one rank, recomputation included.

    The `first` of an optimizer step's micro-batches leaves its gradients, a later one adds to what is there.
    """
    s = traffic.sizes(shape, recipe)
    layers = shape.layers
    found = _products(shape, recipe, s)
    found += [_attention(shape, s, forward=True), _attention(shape, s, forward=False)]
    block = traffic.fused_block(shape, s) if recipe.compiled else traffic.eager_block(shape, s)
    found += [Operation("memory traffic", name, layers, 0, size, kernels) for name, size, kernels in block]
    found += _outside(shape, s, recipe.compiled)
    found += _loss(s, recipe)
    found += _recomputed(shape, recipe, s)
    if not first:
        tensors = parameter_tensors(shape)
        size = 3 * s.weight * total_parameters(shape)
        found.append(Operation("memory traffic", "gradients added up", 1, 0, size, len(tensors)))
    return tuple(found)


def optimizer_step(shape: Shape, recipe: Recipe) -> tuple[Operation, ...]:
    """Clipping and the optimizer, once per step, on a rank that holds all weights or its shard of them."""
    s = traffic.sizes(shape, recipe)
    tensors = parameter_tensors(shape)
    count = total_parameters(shape) / (recipe.ranks if recipe.sharded else 1)
    batches = -(-len(tensors) // TENSORS_A_KERNEL)
    if recipe.optimizer == "adamw":
        size, kernels = FUSED_PASSES * s.weight * count, float(batches)
    elif recipe.optimizer == "adamw-foreach":
        size, kernels = FOREACH_PASSES * s.weight * count, float(FOREACH_KERNELS * batches)
    else:  # weight read and written, gradient read
        size, kernels = (3 * s.weight + STATES_8BIT_BYTES) * count, float(len(tensors))
    clip = Operation("optimizer", "clipping", 1, 0, CLIP_PASSES * s.weight * count, CLIP_KERNELS * batches)
    return clip, Operation("optimizer", recipe.optimizer, 1, 0, size, kernels)


def gradient_bytes(shape: Shape, recipe: Recipe) -> float:
    """What DDP reduces: a gradient a weight, in the weight's own precision."""
    return float(traffic.sizes(shape, recipe).weight * total_parameters(shape))


def _products(shape: Shape, recipe: Recipe, s: Sizes) -> list[Operation]:
    """Forward, data gradient and weight gradient of every linear layer; the head's with the loss."""
    found = []
    for gemm in step_gemms(shape, recipe.micro_batch):
        size = s.act * (gemm.m * gemm.n + gemm.m * gemm.k + gemm.n * gemm.k)
        name, times = f"{gemm.layer}, {gemm.product}", gemm.times
        part: PartName = "matmul"
        if gemm.layer.endswith("head"):
            times -= 1
            chunks = recipe.loss_chunks  # each meets the whole table
            more = (chunks - 1) * s.act * s.V * s.d
            found.append(Operation("logits and loss", name, 1, gemm.flop, size + more, chunks, gemm.m, gemm.n, gemm.k))
        if times:
            found.append(Operation(part, name, times, gemm.flop, size, 1, gemm.m, gemm.n, gemm.k))
    return found


def _attention(shape: Shape, s: Sizes, forward: bool) -> Operation:
    """A fused kernel: each product of queries, keys and values counted over the causal half alone.

    Forward multiplies twice. Backward five times, since the scores are computed again (Dao 2022, arXiv 2205.14135).
    """
    scores = 2.0 * s.R * shape.sequence * s.d / 2
    inputs = s.R * s.act * (s.d + 2 * s.kv)
    sums = FP32 * s.R * shape.heads
    if forward:
        size = inputs + s.R * s.act * s.d + sums
        return Operation("attention", "attention, forward", shape.layers, 2 * scores, size, 1)
    size = 2 * inputs + 2 * s.R * s.act * s.d + sums
    return Operation("attention", "attention, backward", shape.layers, 5 * scores, size, 1)


def _outside(shape: Shape, s: Sizes, compiled: bool) -> list[Operation]:
    """Tables of tokens and positions, the last norm, and the head's casts but not the loss."""
    rows, table = s.R * s.d, s.V * s.d * s.weight
    forward = 2 * rows * s.weight + INT64 * s.R
    backward = rows * s.weight + INT64 * s.R + table
    found: list[tuple[str, float, float]] = [("token table", forward + backward, 2)]
    if shape.tied_head:
        found.append(("gradients of the table joined", 3 * table, 1))
    if shape.style == "gpt2" and not compiled:
        positions = shape.sequence * s.d * s.weight
        found.append(("positions", 2 * rows * s.res + positions + rows * s.res + 3 * positions, 3))
    elif s.act != s.weight and not compiled and ROPE_SHARE[shape.style]:
        half = int(s.d // shape.heads * ROPE_SHARE[shape.style]) // 2
        found.append(("tables of rotations", 2 * shape.sequence * half * (s.act + s.weight), 2))
    found += traffic.norms(s, 1)
    return [Operation("memory traffic", name, 1, 0, size, kernels) for name, size, kernels in found]


def _loss(s: Sizes, recipe: Recipe) -> list[Operation]:
    """From the last norm's output to the logits' gradient. A chunked loss does its forward part twice."""
    logits, cast = s.R * s.V, s.act != s.weight
    weight_cast = s.V * s.d * (s.act + s.weight) if cast else 0
    input_cast = s.R * s.d * (s.act + s.weight) if cast else 0
    if recipe.compiled:
        forward, kernels = 2.0 * logits * s.act, 2.0
        backward = 2.0 * logits * s.act
    else:
        to_fp32 = logits * (s.act + FP32) if s.act != FP32 else 0
        forward, kernels = 2.0 * logits * FP32 + to_fp32 + 12.0 * s.R, 3.0 if to_fp32 else 2.0
        backward = 4.0 * logits * FP32 + to_fp32 + 8.0 * s.R
    casts = 2 if cast else 0
    chunks = recipe.loss_chunks
    again = 2 if chunks > 1 else 1
    weight_gradients = chunks * weight_cast + (chunks - 1) * 3 * s.V * s.d * s.weight
    size = again * (forward + input_cast + chunks * weight_cast) + backward + input_cast + weight_gradients
    found = [
        Operation(
            "logits and loss", "loss and casts", 1, 0, size, chunks * (again * (kernels + casts) + kernels + casts)
        )
    ]
    if chunks > 1:
        flop = 2.0 * logits * s.d
        product = s.act * (logits + s.V * s.d * chunks + s.R * s.d)
        vectors = (1 + s.norm_biases) * s.d * s.weight
        norm = 2 * s.R * s.d * s.res + 2 * FP32 * s.R + chunks * vectors
        found.append(Operation("recomputation", "logits once more", 1, flop, product, chunks, s.R // chunks, s.V, s.d))
        found.append(Operation("recomputation", "last norm once more", 1, 0, norm, chunks))
    return found


def _recomputed(shape: Shape, recipe: Recipe, s: Sizes) -> list[Operation]:
    """Forward of every k-th block once more, but for its last product and what follows.

    torch stops as soon as the last tensor that was saved is back.
    """
    every = recipe.checkpoint_every
    if not every:
        return []
    blocks = -(-shape.layers // every)
    found = []
    for outputs, inputs in traffic.linears(shape, s)[:3]:
        read_and_written = s.act * (s.R * outputs + s.R * inputs + outputs * inputs)
        flop = 2.0 * s.R * outputs * inputs
        found.append(Operation("recomputation", "product", blocks, flop, read_and_written, 1, s.R, outputs, inputs))
    once = _attention(shape, s, forward=True)
    found.append(once._replace(part="recomputation", times=blocks))
    size, kernels = (traffic.fused_forward if recipe.compiled else traffic.eager_forward)(shape, s)
    found.append(Operation("recomputation", "the rest of the block", blocks, 0, size, kernels))
    return found
