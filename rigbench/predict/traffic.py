"""How many bytes does a block of the decoder move that are neither products nor attention, and in how many kernels?

Each function gives bytes, and kernels that are launched for them. Eager: every operation by itself. Fused: as torch's
inductor does it, each tensor that enters or leaves a product passing memory once.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape

HALF = ("bf16", "fp16", "bf16-pure")
ROPE_SHARE = {"gpt2": 0.0, "neox": 0.25, "llama": 1.0}  # as model/gpt.py has it, which imports torch
FP32 = 4


class Sizes(NamedTuple):
    """Bytes of an element of the activations, of the residual stream, and of a weight; and the shape's dimensions."""

    act: int
    res: int
    weight: int
    R: int  # rows: tokens of a micro-batch
    d: int
    kv: int
    f: int
    gates: int
    V: int
    biases: int
    norm_biases: int


def sizes(shape: Shape, recipe: Recipe) -> Sizes:
    act = 2 if recipe.precision in HALF else 4
    own = 2 if recipe.precision == "bf16-pure" else 4
    return Sizes(
        act=act,
        res=own,
        weight=own,
        R=recipe.micro_batch * shape.sequence,
        d=shape.width,
        kv=shape.kv_heads * (shape.width // shape.heads),
        f=shape.ffn_width,
        gates=2 if shape.style == "llama" else 1,
        V=shape.vocabulary,
        biases=int(shape.biases),
        norm_biases=int(shape.biases and shape.style != "llama"),
    )


def linears(shape: Shape, s: Sizes) -> list[tuple[int, int]]:
    """(outputs, inputs) of a block's layers: qkv, attention out, up, down."""
    return [(s.d + 2 * s.kv, s.d), (s.d, s.d), (s.gates * s.f, s.d), (s.d, s.f)]


def eager_block(shape: Shape, s: Sizes) -> list[tuple[str, float, float]]:
    """(name, bytes, kernels) of all that is neither product nor attention in one block, forward and backward."""
    layers = linears(shape, s)
    weights = sum(outputs * inputs for outputs, inputs in layers)
    biases = s.biases * sum(outputs for outputs, _ in layers)
    rows, cast = s.R * s.d, s.act != s.weight
    found = norms(s, 2)
    found.append(("residuals", rows * 2 * (2 * s.res + s.act) + 2 * 3 * rows * s.res, 4))
    if cast:  # the two norms' outputs and the branches' results, forth and back
        both = s.act + s.weight
        found.append(("casts of activations", 6 * rows * both, 6))
        found.append(("casts of weights", 2 * both * (weights + biases), 8 + 8 * s.biases))
    if s.biases:  # added within the product, summed up in the backward pass
        outputs = sum(outputs for outputs, _ in layers)
        found.append(("biases", s.act * (outputs * s.R + 2 * outputs), 4))
    found.append(("gradients of q, k, v joined", 2 * s.R * s.act * (s.d + 2 * s.kv), 1))
    found += _eager_rope(shape, s)
    passes, kernels = (18, 6) if s.gates == 2 else (5, 2)
    found.append(("activation", passes * s.R * s.f * s.act, kernels))
    return found


def norms(s: Sizes, count: int) -> list[tuple[str, float, float]]:
    """LayerNorm, and torch's fused RMSNorm, which is taken to move as much: mean and deviation of a row in fp32."""
    vectors = 1 + s.norm_biases
    rows = s.R
    forward = 2 * rows * s.d * s.res + 2 * FP32 * rows + vectors * s.d * s.weight
    backward = 3 * rows * s.d * s.res + 2 * FP32 * rows + 2 * vectors * s.d * s.weight
    return [("norms", count * (forward + backward), 2 * count)]


def _eager_rope(shape: Shape, s: Sizes) -> list[tuple[str, float, float]]:
    """Four products, a sum, a difference and a join forward; backward seven and the slices' gradients, each."""
    head = s.d // shape.heads
    half = int(head * ROPE_SHARE[shape.style]) // 2
    if not half:
        return []
    size = 0.0
    for width in (s.d, s.kv):
        turned = s.R * (width // head) * half * s.act
        whole = s.R * width * s.act
        table = shape.sequence * half * s.act
        forward = 4 * (2 * turned + table) + 2 * 3 * turned + 2 * whole
        backward = 4 * (2 * turned + table) + 2 * turned + 2 * 3 * turned + whole + 3 * whole + 2 * 3 * whole
        size += forward + backward
    return [("rotary positions", size, 2 * (7 + 12))]


def fused_block(shape: Shape, s: Sizes) -> list[tuple[str, float, float]]:
    """The same where pointwise work is fused: each tensor that enters or leaves a product passes memory once."""
    layers = linears(shape, s)
    weights = sum(outputs * inputs for outputs, inputs in layers)
    outputs = sum(outputs for outputs, _ in layers) if s.biases else 0
    rows = s.R * s.d
    moved = 2 * rows * (2 * s.res + 2 * s.act) + 2 * rows * (3 * s.res + 2 * s.act)
    found: list[tuple[str, float, float]] = [("norms and residuals", moved, 6)]
    if s.act != s.weight:
        found.append(("casts of weights", 2 * (s.act + s.weight) * weights, 8))
    if outputs:
        found.append(("biases", s.act * outputs * s.R, 4))
    if ROPE_SHARE[shape.style]:
        found.append(("rotary positions", 4 * s.R * s.act * (s.d + s.kv), 2))
    passes = 8 if s.gates == 2 else 5  # up and gate read, their product written; backward three read, two written
    found.append(("activation", passes * s.R * s.f * s.act, 2))
    return found


def eager_forward(shape: Shape, s: Sizes) -> tuple[float, float]:
    """(bytes, kernels) of a block's forward pass up to its last product, which is not done again."""
    layers, cast = linears(shape, s), s.act != s.weight
    rows, vectors = s.R * s.d, 1 + s.norm_biases
    size = 2.0 * (2 * rows * s.res + 2 * FP32 * s.R + vectors * s.d * s.weight)
    kernels = 2.0
    size, kernels = size + rows * (2 * s.res + s.act), kernels + 1
    if cast:
        both = s.act + s.weight
        moved = sum(outputs * inputs + s.biases * outputs for outputs, inputs in layers)
        size, kernels = size + 2 * rows * both + both * moved, kernels + 6 + 4 * s.biases
    half = int(s.d // shape.heads * ROPE_SHARE[shape.style]) // 2
    for width in (s.d, s.kv) if half else ():
        turned = s.R * (width // (s.d // shape.heads)) * half * s.act
        size += 4 * (2 * turned + shape.sequence * half * s.act) + 6 * turned + 2 * s.R * width * s.act
        kernels += 7
    passes, launched = (5, 2) if s.gates == 2 else (2, 1)
    return size + passes * s.R * s.f * s.act, kernels + launched


def fused_forward(shape: Shape, s: Sizes) -> tuple[float, float]:
    rows = s.R * s.d
    size = 2.0 * rows * (2 * s.res + 2 * s.act) + (3 if s.gates == 2 else 2) * s.R * s.f * s.act
    if ROPE_SHARE[shape.style]:
        size += 2 * s.R * s.act * (s.d + s.kv)
    if s.act != s.weight:
        size += (s.act + s.weight) * sum(prod(dims) for dims in linears(shape, s))
    return size, 8.0
