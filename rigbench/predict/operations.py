"""Counts what a training step does: its products, the bytes to and from memory, the kernels.

Closed forms of what the decoder of model/gpt.py does, operation by operation: an operation reads its inputs and writes
its outputs once. Eager counts equal those of the real code under a dispatch mode (tests/test_operations.py). Compiled
counts assume that whatever is not a product is fused as torch's inductor does it: norms with the casts and residuals
around them, the loss without its fp32 copies, each tensor that enters or leaves a product passing memory once.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from rigbench.model.counts import (
    Tensors,
    adapted_layers,
    adapter_tensors,
    block_layers,
    nf4_bytes,
    parameter_tensors,
    step_gemms,
    without_data_gradient,
)
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.predict.record import PartName

FP32, INT64 = 4, 8
ROPE_SHARE = {"gpt2": 0.0, "neox": 0.25, "llama": 1.0}  # as model/gpt.py has it, which imports torch

# How often an optimizer step reads or writes a number per parameter. Fused AdamW reads weight, gradient and two moments
# and writes three of them; foreach does so in eight kernels (torch/optim/adam.py, _multi_tensor_adam: decay, lerp of
# the first moment, scale and square of the second, root, correction, epsilon, quotient). AdamW8bit (bitsandbytes 0.50)
# has two moments of a byte and a scale per 256. Clipping reads the gradients, then scales them.
FUSED_PASSES, FOREACH_PASSES, CLIP_PASSES = 7, 20, 3
STATES_8BIT_BYTES = 4 * (1 + FP32 / 256)
# Attention by hand: one pass over its scores in fp32; how many passes a step makes is one of steptime's constants. The
# kernels are scale, mask, softmax, dropout and casts, forward and backward.
SCORES, SCORE_BYTES, SCORE_KERNELS = "scores", 4, 12
MUON_STEPS, MUON_PASSES = 5, 8  # model/muon.py's iterations; passes over weight, gradient and momentum
FOREACH_KERNELS, CLIP_KERNELS, TENSORS_A_KERNEL = 8, 4, 48


class Operation(NamedTuple):
    """`times` of the same operation; flop, bytes and kernels are of one."""

    part: PartName
    name: str
    times: float
    flop: float
    bytes: float
    kernels: float
    m: int = 0  # of a product, 0 otherwise
    n: int = 0
    k: int = 0


class Pointwise(NamedTuple):
    """Work of one block that is neither product nor attention, forward and backward."""

    name: str
    bytes: float
    kernels: float
    again_bytes: float = 0  # what of it a recomputed block repeats: the forward pass up to the last product
    again_kernels: float = 0


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
    rotated: int  # half of a head's elements that carry a rotation
    q: int  # all heads' queries
    head: int  # of one head
    experts: int  # weights of the experts that a token does not meet
    qk_norms: int
    norms: int  # of a block

    @property
    def casts(self) -> int:
        """Bytes of casting a number between weights and activations, 0 where they are of one precision."""
        return self.act + self.weight if self.act != self.weight else 0

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of a block's layers: qkv, attention out, up, down."""
        return [(self.q + 2 * self.kv, self.d), (self.d, self.q), (self.gates * self.f, self.d), (self.d, self.f)]


def sizes(shape: Shape, recipe: Recipe) -> Sizes:
    head = shape.head_width
    return Sizes(
        act=4 if recipe.precision in ("fp32", "tf32") else 2,
        res=recipe.weight_bytes,
        weight=recipe.weight_bytes,
        R=recipe.micro_batch * shape.sequence,
        d=shape.width,
        kv=shape.kv_heads * head,
        f=shape.active_width,
        gates=2 if shape.style == "llama" else 1,
        V=shape.vocabulary,
        biases=int(shape.biases),
        norm_biases=int(shape.biases and shape.style != "llama"),
        rotated=int(head * ROPE_SHARE[shape.style]) // 2,
        q=shape.query_width,
        head=head,
        experts=3 * (shape.experts - shape.active_experts) * shape.ffn_width * shape.width,
        qk_norms=int(shape.qk_norms),
        norms=4 if shape.post_norms else 2,
    )


def micro_step(shape: Shape, recipe: Recipe, first: bool = True) -> tuple[Operation, ...]:
    """Forward, loss and backward of one micro-batch on one rank, recomputation included.

    The `first` of an optimizer step's micro-batches leaves its gradients, a later one adds to what is there.
    """
    s, layers, compiled = sizes(shape, recipe), shape.layers, recipe.compiled
    work = _products(shape, recipe, s)
    attention = _attention if recipe.attention == "fused" else _attention_by_hand
    work += [attention(shape, s, forward=True), attention(shape, s, forward=False)]
    if recipe.attention == "naive":
        size = SCORE_BYTES * recipe.micro_batch * shape.heads * shape.sequence**2
        work.append(Operation("attention", SCORES, layers, 0, size, SCORE_KERNELS))
    block = _fused_block(s) if compiled else _eager_block(shape, s)
    if recipe.adapted:  # frozen weights are cast once, and get no gradients
        block = [_once(it) for it in block if it.name != "biases"]
    work += [Operation("memory traffic", it.name, layers, 0, it.bytes, it.kernels) for it in block]
    work += _outside(shape, s, compiled) if not recipe.adapted else _outside_frozen(shape, s, compiled)
    work += _loss(s, recipe)
    if recipe.adapted:
        work += _adapters(shape, recipe, s)
    if recipe.checkpoint_every:
        work += _recomputed(shape, -(-layers // recipe.checkpoint_every), s, block)
        if recipe.adapted:
            work += _recomputed_adapters(shape, recipe, s)
    if not first:
        tensors = trained_tensors(shape, recipe)
        size = 3 * s.weight * sum(prod(dims) for _, dims in tensors)
        work.append(Operation("memory traffic", "gradients added up", 1, 0, size, len(tensors)))
    return tuple(work)


def trained_tensors(shape: Shape, recipe: Recipe) -> Tensors:
    """Those that get gradients and are stepped."""
    return adapter_tensors(shape, recipe) if recipe.adapted else parameter_tensors(shape)


def optimizer_step(shape: Shape, recipe: Recipe) -> tuple[Operation, ...]:
    """Clipping and the optimizer, once per step, on a rank that holds all weights or its shard of them."""
    return stepped(trained_tensors(shape, recipe), recipe)


def stepped(tensors: Tensors, recipe: Recipe) -> tuple[Operation, ...]:
    """The same of any tensors."""
    weight = recipe.weight_bytes
    count = sum(prod(dims) for _, dims in tensors) / (recipe.ranks if recipe.sharded else 1)
    batches = -(-len(tensors) // TENSORS_A_KERNEL)
    if recipe.optimizer == "adamw":
        size, kernels = FUSED_PASSES * weight * count, float(batches)
    elif recipe.optimizer == "muon":
        return _muon_step(tensors, recipe)
    elif recipe.optimizer == "adamw-foreach":
        size, kernels = FOREACH_PASSES * weight * count, float(FOREACH_KERNELS * batches)
    else:  # weight read and written, gradient read
        size, kernels = (3 * weight + STATES_8BIT_BYTES) * count, float(len(tensors))
    clip = Operation("optimizer", "clipping", 1, 0, CLIP_PASSES * weight * count, CLIP_KERNELS * batches)
    return clip, Operation("optimizer", recipe.optimizer, 1, 0, size, kernels)


def _muon_step(tensors: Tensors, recipe: Recipe) -> tuple[Operation, ...]:
    """Clipping; AdamW on tables, head and vectors; Muon on each matrix of the blocks: momentum (6 passes), a bf16 copy
    scaled to its norm, five iterations of three products (G = X·Xᵀ, G·G, G·X; m the shorter side), the update.
    """
    weight = recipe.weight_bytes
    inner = [dims for name, dims in tensors if _inner(name, dims)]
    count, total = sum(map(prod, inner)), sum(prod(dims) for _, dims in tensors)
    flop = size = 0.0
    for dims in inner:
        m, n = min(dims), max(dims)
        flop += MUON_STEPS * (4.0 * m * m * n + 2.0 * m**3)
        size += MUON_STEPS * 2 * (4.0 * m * n + 5.0 * m * m) + (MUON_PASSES * weight + 12) * m * n
    rest = FUSED_PASSES * weight * (total - count)
    clip = CLIP_PASSES * weight * total
    batches = -(-len(tensors) // TENSORS_A_KERNEL)
    return (
        Operation("optimizer", "clipping", 1, 0, clip, CLIP_KERNELS * batches),
        Operation("optimizer", "adamw", 1, 0, rest, batches),
        Operation("optimizer", "muon", 1, flop, size, len(inner) * (10 + 3 * MUON_STEPS)),
    )


def _inner(name: str, dims: tuple[int, ...]) -> bool:
    return name.startswith("blocks.") and len(dims) == 2


def _products(shape: Shape, recipe: Recipe, s: Sizes) -> list[Operation]:
    """Forward, data gradient and weight gradient of every linear layer; the head's with the loss."""
    work = []
    for gemm in step_gemms(shape, recipe.micro_batch):
        if recipe.adapted and gemm.product == "weight gradient":
            continue
        size = s.act * (gemm.m * gemm.n + gemm.m * gemm.k + gemm.n * gemm.k)
        name, times, product = f"{gemm.layer}, {gemm.product}", gemm.times, (gemm.m, gemm.n, gemm.k)
        if gemm.layer.endswith("head"):
            times -= 1
            chunks = recipe.loss_chunks  # each meets the whole table
            more = (chunks - 1) * s.act * s.V * s.d
            work.append(Operation("logits and loss", name, 1, gemm.flop, size + more, chunks, *product))
        if recipe.adapted and gemm.product == "data gradient":
            first = without_data_gradient(shape, recipe)
            times -= sum(
                it == (gemm.k, gemm.n) for name, *dims in block_layers(shape) for it in [tuple(dims)] if name in first
            )
        if times:
            work.append(Operation("matmul", name, times, gemm.flop, size, 1, *product))
    return work


def _adapters(shape: Shape, recipe: Recipe, s: Sizes) -> list[Operation]:
    """A's and B's products, the scaled sum and its gradients; of 4-bit weights the unpacking before each product."""
    work, rank, first = [], recipe.adapter_rank, without_data_gradient(shape, recipe)
    for name, outputs, inputs in adapted_layers(shape, recipe):
        for m, n, k in (
            *((s.R, rank, inputs), (s.R, outputs, rank), (s.R, rank, outputs)),  # A; B; the gradient between them
            *((rank, inputs, s.R), (outputs, rank, s.R), (s.R, inputs, rank)),  # of A; of B; of the input
        ):
            times = shape.layers - (n == inputs and m == s.R and name in first)
            if times:
                size = s.act * (m * n + m * k + n * k)
                work.append(Operation("matmul", f"adapter of {name}", times, 2.0 * m * n * k, size, 1, m, n, k))
        passes, kernels = (4, 1) if recipe.compiled else (7, 3)  # scale and sum forward, scale backward
        moved = s.act * s.R * (passes * outputs + 3 * inputs) + 2 * rank * (outputs + inputs) * s.casts
        work.append(Operation("memory traffic", f"adapter of {name}", shape.layers, 0, moved, kernels + 1))
    if recipe.adapter == "qlora":
        work += [_unpacked(outputs * inputs, s, 2 * shape.layers) for _, outputs, inputs in block_layers(shape)]
    return work


def _unpacked(elements: int, s: Sizes, times: float) -> Operation:
    """Scales to fp32, then weights to the activations' precision."""
    packed, scales, *_ = nf4_bytes(elements)
    return Operation("memory traffic", "4 bits unpacked", times, 0, packed + 9 * scales + s.act * elements, 2)


def _recomputed_adapters(shape: Shape, recipe: Recipe, s: Sizes) -> list[Operation]:
    blocks, rank, work = -(-shape.layers // recipe.checkpoint_every), recipe.adapter_rank, []
    for name, outputs, inputs in adapted_layers(shape, recipe):
        products = [(s.R, rank, inputs), (s.R, outputs, rank)]
        if name == "mlp.down":  # B's is the last, and saves nothing more; the frozen one comes before
            products = [(s.R, rank, inputs), (s.R, outputs, inputs)]
        for m, n, k in products:
            size = s.act * (m * n + m * k + n * k)
            work.append(Operation("recomputation", "adapter", blocks, 2.0 * m * n * k, size, 1, m, n, k))
    if recipe.adapter == "qlora":
        again = [_unpacked(outputs * inputs, s, blocks) for _, outputs, inputs in block_layers(shape)]
        work += [it._replace(part="recomputation") for it in again]
    return work


def _once(it: Pointwise) -> Pointwise:
    """Of a frozen block: casts of weights forward alone; all else as it is."""
    return it._replace(bytes=it.bytes / 2, kernels=it.kernels / 2) if it.name == "casts of weights" else it


def _outside_frozen(shape: Shape, s: Sizes, compiled: bool) -> list[Operation]:
    """Lookups alone of the tables, which get no gradients, and the last norm."""
    read = Operation("memory traffic", "token table", 1, 0, 2 * s.R * s.d * s.weight + INT64 * s.R, 1)
    return [read, *(it for it in _outside(shape, s, compiled) if it.name in ("norms", "tables of rotations"))]


def _attention(shape: Shape, s: Sizes, forward: bool) -> Operation:
    """A fused kernel: each product of queries, keys and values counted over the causal half alone.

    Forward multiplies twice. Backward five times, since the scores are computed again (Dao 2022, arXiv 2205.14135).
    """
    scores = 2.0 * s.R * shape.sequence * s.q / 2 * seen_share(shape)
    inputs = s.R * s.act * (s.q + 2 * s.kv)
    sums = FP32 * s.R * shape.heads
    if forward:
        size = inputs + s.R * s.act * s.q + sums
        return Operation("attention", "attention, forward", shape.layers, 2 * scores, size, 1)
    size = 2 * inputs + 2 * s.R * s.act * s.q + sums
    return Operation("attention", "attention, backward", shape.layers, 5 * scores, size, 1)


def seen_share(shape: Shape) -> float:
    """Of the causal half of all scores, with sliding windows in some layers."""
    reach = min(1.0, shape.window / shape.sequence) if shape.window else 1.0
    return 1 - shape.windowed_layers / shape.layers * (1 - reach * (2 - reach))


def _attention_by_hand(shape: Shape, s: Sizes, forward: bool) -> Operation:
    """Plain products, which do the masked half as well; nothing is computed twice."""
    fused = _attention(shape, s, forward)
    products = 2 if forward else 4
    flop = products * 2.0 * s.R * shape.sequence * s.q
    return fused._replace(flop=flop, m=s.R, n=shape.sequence, k=s.head)


def _eager_block(shape: Shape, s: Sizes) -> list[Pointwise]:
    """Every operation by itself."""
    weights = sum(outputs * inputs for outputs, inputs in s.linears) + s.experts
    outputs = sum(outputs for outputs, _ in s.linears)
    rows = s.R * s.d
    forward, whole = _norm(s)
    work = [
        Pointwise("norms", s.norms * whole, 2 * s.norms, s.norms * forward, s.norms),
        Pointwise("residuals", rows * 2 * (2 * s.res + s.act) + 6 * rows * s.res, 4, rows * (2 * s.res + s.act), 1),
    ]
    if s.casts:  # the two norms' outputs and the branches' results, forth and back
        moved = s.casts * (weights + s.biases * outputs)
        work.append(Pointwise("casts of activations", 6 * rows * s.casts, 6, 2 * rows * s.casts, 2))
        work.append(Pointwise("casts of weights", 2 * moved, 8 + 8 * s.biases, moved, 4 + 4 * s.biases))
    if s.biases:  # added within the product, summed up in the backward pass
        work.append(Pointwise("biases", s.act * (outputs * s.R + 2 * outputs), 4))
    work.append(Pointwise("gradients of q, k, v joined", 2 * s.R * s.act * (s.q + 2 * s.kv), 1))
    if s.qk_norms:  # read and written forward; input and gradient read, gradient written backward
        once = 2 * s.R * s.act * (s.q + s.kv)
        work.append(Pointwise("norms of queries and keys", 2.5 * once, 4, once, 2))
    if s.rotated:
        # Four products, a sum, a difference and a join forward; backward seven and the slices' gradients, each.
        size = again = 0
        for width in (s.q, s.kv):
            turned = s.R * (width // s.head) * s.rotated * s.act
            products = 4 * (2 * turned + shape.sequence * s.rotated * s.act)
            once = products + 6 * turned + 2 * s.R * width * s.act
            again += once
            size += once + products + 8 * turned + 10 * s.R * width * s.act
        work.append(Pointwise("rotary positions", size, 2 * (7 + 12), again, 2 * 7))
    pass_bytes = s.R * s.f * s.act
    passes, kernels, passes_again, kernels_again = (18, 6, 5, 2) if s.gates == 2 else (5, 2, 2, 1)
    work.append(Pointwise("activation", passes * pass_bytes, kernels, passes_again * pass_bytes, kernels_again))
    return work


def _fused_block(s: Sizes) -> list[Pointwise]:
    """As inductor fuses pointwise work."""
    rows, weights = s.R * s.d, sum(prod(dims) for dims in s.linears) + s.experts
    forward, backward = s.norms * rows * (2 * s.res + 2 * s.act), s.norms * rows * (3 * s.res + 2 * s.act)
    work = [Pointwise("norms and residuals", forward + backward, 6, forward, 8)]  # kernels: of all that is repeated
    if s.casts:
        work.append(Pointwise("casts of weights", 2 * s.casts * weights, 8, s.casts * weights))
    if s.biases:
        work.append(Pointwise("biases", s.act * sum(outputs for outputs, _ in s.linears) * s.R, 4))
    if s.rotated:
        turned = 2 * s.R * s.act * (s.q + s.kv)
        work.append(Pointwise("rotary positions", 2 * turned, 2, turned))
    # Up and gate read, their product written; backward three read, two written.
    passes, again = (8, 3) if s.gates == 2 else (5, 2)
    work.append(Pointwise("activation", passes * s.R * s.f * s.act, 2, again * s.R * s.f * s.act))
    return work


def _norm(s: Sizes) -> tuple[int, int]:
    """Bytes of a LayerNorm forward, and of both passes; torch's fused RMSNorm is taken to move as much.

    Mean and deviation of a row are in fp32.
    """
    vector = (1 + s.norm_biases) * s.d * s.weight
    forward = 2 * s.R * s.d * s.res + 2 * FP32 * s.R + vector
    return forward, forward + 3 * s.R * s.d * s.res + 2 * FP32 * s.R + 2 * vector


def _outside(shape: Shape, s: Sizes, compiled: bool) -> list[Operation]:
    """Tables of tokens and positions, the last norm, and the head's casts but not the loss."""
    rows, table = s.R * s.d, s.V * s.d * s.weight
    work: list[tuple[str, float, float]] = [("token table", 3 * rows * s.weight + 2 * INT64 * s.R + table, 2)]
    if shape.tied_head:
        work.append(("gradients of the table joined", 3 * table, 1))
    if shape.style == "gpt2" and not compiled:
        work.append(("positions", 3 * rows * s.res + 4 * shape.sequence * s.d * s.weight, 3))
    elif s.casts and not compiled and s.rotated:
        work.append(("tables of rotations", 2 * shape.sequence * s.rotated * s.casts, 2))
    work.append(("norms", _norm(s)[1], 2))
    return [Operation("memory traffic", name, 1, 0, size, kernels) for name, size, kernels in work]


def _loss(s: Sizes, recipe: Recipe) -> list[Operation]:
    """From the last norm's output to the logits' gradient. A chunked loss does its forward part twice."""
    logits, weight_cast, input_cast = s.R * s.V, s.V * s.d * s.casts, s.R * s.d * s.casts
    if recipe.compiled:
        forward, kernels = 2.0 * logits * s.act, 2.0
        backward = 2.0 * logits * s.act
    else:
        to_fp32 = logits * (s.act + FP32) if s.act != FP32 else 0
        forward, kernels = 2.0 * logits * FP32 + to_fp32 + 12.0 * s.R, 3.0 if to_fp32 else 2.0
        backward = 4.0 * logits * FP32 + to_fp32 + 8.0 * s.R
    casts = 2 if s.casts else 0
    chunks = recipe.loss_chunks
    again = 2 if chunks > 1 else 1
    weight_gradients = 0 if recipe.adapted else chunks * weight_cast + (chunks - 1) * 3 * s.V * s.d * s.weight
    size = again * (forward + input_cast + chunks * weight_cast) + backward + input_cast + weight_gradients
    kernels = chunks * (again + 1) * (kernels + casts)
    work = [Operation("logits and loss", "loss and casts", 1, 0, size, kernels)]
    if chunks > 1:
        flop = 2.0 * logits * s.d
        product = s.act * (logits + s.V * s.d * chunks + s.R * s.d)
        vectors = (1 + s.norm_biases) * s.d * s.weight
        norm = 2 * s.R * s.d * s.res + 2 * FP32 * s.R + chunks * vectors
        work.append(Operation("recomputation", "logits once more", 1, flop, product, chunks, s.R // chunks, s.V, s.d))
        work.append(Operation("recomputation", "last norm once more", 1, 0, norm, chunks))
    return work


def _recomputed(shape: Shape, blocks: int, s: Sizes, block: list[Pointwise]) -> list[Operation]:
    """Forward of so many blocks once more, but for the last product of each and what follows.

    torch stops as soon as the last tensor that was saved is back.
    """
    work = []
    for outputs, inputs in s.linears[:3]:
        size = s.act * (s.R * outputs + s.R * inputs + outputs * inputs)
        flop = 2.0 * s.R * outputs * inputs
        work.append(Operation("recomputation", "product", blocks, flop, size, 1, s.R, outputs, inputs))
    work.append(_attention(shape, s, forward=True)._replace(part="recomputation", times=blocks))
    rest, kernels = sum(it.again_bytes for it in block), sum(it.again_kernels for it in block)
    work.append(Operation("recomputation", "the rest of the block", blocks, 0, rest, kernels))
    return work
