"""Counts a shape's weights, tensor by tensor, its FLOP and its matrix products, without building it."""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import msgspec

from rigbench.model.recipe import Recipe
from rigbench.model.record import ALL_ACTIVE, Model, Shape

# bitsandbytes 0.43 to 0.50, nn/modules.py and functional.py: two values a byte; a scale for 64 of them, itself a byte,
# with one in fp32 for 256 scales; two code books and an offset in fp32.
NF4_BLOCK, NF4_SCALES_BLOCK, NF4_BOOKS_BYTES = 64, 256, (64, 1024, 4)
Tensors = tuple[tuple[str, tuple[int, ...]], ...]
Layout = Literal["nn", "nt", "tn"]
Pass = Literal["forward", "data gradient", "weight gradient"]


def total_parameters(shape: Shape) -> int:
    """Every weight; a tied head counts once."""
    blocks = shape.layers * _size(_block_tensors(shape))
    return blocks + _size(_outer_tensors(shape))


def non_embedding_parameters(shape: Shape) -> int:
    """Total less every table of vocabulary or positions: token and position embeddings, and the head, tied or not.

    Kaplan et al. 2020 (arXiv 2001.08361, §2.1) and the counts published with Pythia. (nanoGPT's figure of the same
    name leaves out the position table alone.)
    """
    tables = shape.vocabulary * shape.width * (1 if shape.tied_head else 2)
    return total_parameters(shape) - tables - _positions(shape) * shape.width


def active_parameters(shape: Shape) -> int:
    """Those that a token meets: of the experts the chosen ones."""
    unused = shape.experts - shape.active_experts
    return total_parameters(shape) - shape.layers * unused * 3 * shape.ffn_width * shape.width


def matmul_parameters(shape: Shape) -> int:
    """Weights that a token's products meet: the head once, tied or not; no lookup tables, norms or biases."""
    return shape.layers * block_matmul_parameters(shape) + shape.vocabulary * shape.width


def block_matmul_parameters(shape: Shape) -> int:
    """The part of `matmul_parameters` that lies in one layer: queries, keys, values, output and MLP."""
    flat = sum(prod(dims) for _, dims in _block_tensors(shape) if len(dims) == 2)
    return flat + 3 * shape.active_experts * shape.ffn_width * shape.width


def parameter_tensors(shape: Shape) -> Tensors:
    """Every tensor by name, in the order of `Decoder.named_parameters()`."""
    outer = _outer_tensors(shape)
    tables = 1 if shape.style != "gpt2" else 2
    block = _block_tensors(shape)
    blocks = tuple((f"blocks.{layer}.{name}", dims) for layer in range(shape.layers) for name, dims in block)
    return (*outer[:tables], *blocks, *outer[tables:])


def _block_tensors(shape: Shape) -> Tensors:
    d, ffn, head_dim = shape.width, shape.ffn_width, shape.head_width
    gates = 2 if shape.style == "llama" else 1
    qk_norms: Tensors = (("attention.q_norm.weight", (head_dim,)), ("attention.k_norm.weight", (head_dim,)))
    mlp: Tensors
    if shape.experts:
        shared = shape.shared_width
        mlp = (
            ("mlp.up", (shape.experts, 2 * ffn, d)),
            ("mlp.down", (shape.experts, d, ffn)),
            ("mlp.router.weight", (shape.experts, d)),
        )
        if shared:
            mlp += (
                ("mlp.shared.up.weight", (2 * shared, d)),
                ("mlp.shared.down.weight", (d, shared)),
                ("mlp.gate.weight", (1, d)),
            )
    else:
        mlp = (
            *_linear_tensors("mlp.up", gates * ffn, d, shape.biases),
            *_linear_tensors("mlp.down", d, ffn, shape.biases),
        )
    return (
        *_norm_tensors("norm1", shape),
        *_linear_tensors(
            "attention.qkv", (shape.heads + 2 * shape.kv_heads) * head_dim, d, shape.biases or shape.qkv_biases
        ),
        *_linear_tensors("attention.out", d, shape.query_width, shape.biases),
        *(qk_norms if shape.qk_norms else ()),
        *_norm_tensors("norm2", shape),
        *mlp,
        *((*_norm_tensors("norm3", shape), *_norm_tensors("norm4", shape)) if shape.post_norms else ()),
    )


def _outer_tensors(shape: Shape) -> Tensors:
    tables: Tensors = (("tokens.weight", (shape.vocabulary, shape.width)),)
    if _positions(shape):
        tables += (("positions.weight", (_positions(shape), shape.width)),)
    head = () if shape.tied_head else _linear_tensors("head", shape.vocabulary, shape.width, biases=False)
    return (*tables, *_norm_tensors("norm", shape), *head)


def _positions(shape: Shape) -> int:
    """Rows of the learned position table; rotary positions have none."""
    return shape.sequence if shape.style == "gpt2" else 0


def _norm_tensors(name: str, shape: Shape) -> Tensors:
    return _with_bias(name, (shape.width,), shape.width, shape.biases and shape.style != "llama")


def _linear_tensors(name: str, rows: int, columns: int, biases: bool) -> Tensors:
    return _with_bias(name, (rows, columns), rows, biases)


def _with_bias(name: str, dims: tuple[int, ...], outputs: int, bias: bool) -> Tensors:
    weight = (f"{name}.weight", dims)
    return (weight, (f"{name}.bias", (outputs,))) if bias else (weight,)


def _size(tensors: Tensors) -> int:
    return sum(prod(dims) for _, dims in tensors)


def describe(shape: Shape, name: str) -> Model:
    """The record of a model: its nominal name beside its true counts."""
    return Model(
        name=name,
        shape=shape,
        total_parameters=total_parameters(shape),
        non_embedding_parameters=non_embedding_parameters(shape),
        matmul_parameters=matmul_parameters(shape),
        flop_per_token=float(flop_per_token(shape)),
        flop_per_token_6n=6.0 * active_parameters(shape),
        active_parameters=active_parameters(shape) if shape.experts else ALL_ACTIVE,
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


def adapted(model: Model, recipe: Recipe) -> Model:
    """The same with an adapter, of which alone its FLOP are: 4·N of the frozen weights and 6 a trained one."""
    if not recipe.adapted:
        return model
    shape = model.shape
    count = _size(adapter_tensors(shape, recipe))
    return msgspec.structs.replace(
        model,
        total_parameters=total_parameters(shape) + count,
        trainable_parameters=count,
        flop_per_token=float(adapted_flop_per_token(shape, recipe)),
        flop_per_token_6n=4.0 * total_parameters(shape) + 6.0 * count,
    )


def adapter_tensors(shape: Shape, recipe: Recipe) -> Tensors:
    """What is trained, by name: of each adapted layer A [rank, inputs] and B [outputs, rank]."""
    rank = recipe.adapter_rank
    return tuple(
        (f"blocks.{layer}.{name}.{part}", dims)
        for layer in range(shape.layers)
        for name, outputs, inputs in adapted_layers(shape, recipe)
        for part, dims in (("a", (rank, inputs)), ("b", (outputs, rank)))
    )


def block_layers(shape: Shape) -> list[tuple[str, int, int]]:
    """(name, outputs, inputs) of a block's linear layers; of experts none."""
    tensors = [(name.removesuffix(".weight"), dims) for name, dims in _block_tensors(shape) if len(dims) == 2]
    return [(name, dims[0], dims[1]) for name, dims in tensors]


def adapted_layers(shape: Shape, recipe: Recipe) -> list[tuple[str, int, int]]:
    """Those of one block that have an adapter."""
    every = block_layers(shape) if recipe.adapted else []
    return [its for its in every if recipe.adapter_targets == "all" or its[0].startswith("attention")]


def nf4_bytes(elements: int) -> tuple[int, ...]:
    """Of so many weights in 4 bits: the weights, their scales, the scales' own, the code books."""
    scales = -(-elements // NF4_BLOCK)
    return -(-elements // 2), scales, 4 * -(-scales // NF4_SCALES_BLOCK), *NF4_BOOKS_BYTES


def without_data_gradient(shape: Shape, recipe: Recipe) -> list[str]:
    """Layers of the first block before which nothing is trained, so that nobody asks for their input's gradient."""
    if shape.style != "neox":
        return ["attention.qkv"]
    return ["attention.qkv", "mlp.up", *(["mlp.down"] if recipe.adapter_targets == "attention" else [])]


def adapted_flop_per_token(shape: Shape, recipe: Recipe) -> int:
    """Of training an adapter: frozen weights multiply forward and for the data's gradient, 4 FLOP each, but for the
    first block's first; adapters three times. Equals torch's counter as `flop_per_token` does."""
    rank, first = recipe.adapter_rank, without_data_gradient(shape, recipe)
    layers = adapted_layers(shape, recipe)
    frozen = 4 * matmul_parameters(shape) - sum(2 * o * i for name, o, i in block_layers(shape) if name in first)
    trained = shape.layers * sum(6 * rank * (o + i) for _, o, i in layers)
    trained -= sum(2 * rank * i for name, _, i in layers if name in first)
    return frozen + trained + 3 * shape.layers * _attention_flop_per_token(shape)


def adapted_hardware_flop_per_token(shape: Shape, recipe: Recipe) -> int:
    """With what is recomputed: a checkpointed block up to the last product that saved anything."""
    flop, rank, layers = adapted_flop_per_token(shape, recipe), recipe.adapter_rank, adapted_layers(shape, recipe)
    if recipe.checkpoint_every:
        products = block_matmul_parameters(shape) + sum(rank * (o + i) for _, o, i in layers)
        products -= rank * shape.width if recipe.adapter_targets == "all" else shape.ffn_width * shape.width
        blocks = -(-shape.layers // recipe.checkpoint_every)
        flop += blocks * (2 * products + _attention_flop_per_token(shape))
        if shape.style == "neox" and recipe.adapter_targets == "attention":  # its first MLP saves nothing
            flop -= 2 * shape.width * (shape.ffn_width + rank)
    return flop + (2 * shape.width * shape.vocabulary if recipe.loss_chunks > 1 else 0)


def hardware_flop_per_token(shape: Shape, checkpoint_every: int = 0, loss_chunks: int = 1) -> int:
    """FLOP really executed: checkpointed blocks run forward once more (every k-th, 0: none), a chunked loss the head.

    torch stops recomputing as soon as the last saved tensor is back, which is before a block's last product
    (`mlp.down`), so that one is not repeated.
    """
    flop = flop_per_token(shape)
    if checkpoint_every:
        products = block_matmul_parameters(shape) - shape.active_width * shape.width
        flop += -(-shape.layers // checkpoint_every) * (2 * products + _attention_flop_per_token(shape))
    if loss_chunks > 1:
        flop += 2 * shape.width * shape.vocabulary
    return flop


def _attention_flop_per_token(shape: Shape) -> int:
    """One layer's scores and weighted values: two products of 2·d·T each, d of all heads together."""
    return 4 * shape.query_width * shape.sequence


class Gemm(NamedTuple):
    """C[m,n] = A[m,k] @ B[k,n]."""

    layer: str
    product: Pass
    m: int
    n: int
    k: int
    layout: Layout  # the operand that lies transposed in memory, in BLAS's letters: B is "nt", A is "tn"
    times: int  # in every micro-batch

    @property
    def flop(self) -> int:
        """Of one product."""
        return 2 * self.m * self.n * self.k


def step_gemms(shape: Shape, micro_batch: int) -> tuple[Gemm, ...]:
    """Every product with a weight in one micro-batch's forward and backward pass, each shape once.

    A linear layer's weight W [outputs, inputs] meets R = micro-batch · sequence rows three times: Y = X·Wᵀ forward,
    dX = dY·W for the data's gradient, dW = dYᵀ·X for the weight's. Together 6·N_matmul FLOP a token. Attention's own
    products are left out, since a fused kernel does them, and so is what checkpointing would repeat.
    """
    rows = micro_batch * shape.sequence
    gemms: list[Gemm] = []
    linears = [(rows, outputs, inputs, *its) for (outputs, inputs), its in _linears(shape).items()]
    if shape.experts:  # each sees its share of the tokens, evenly
        share, times = max(1, rows * shape.active_experts // shape.experts), shape.layers * shape.experts
        linears += [
            (share, 2 * shape.ffn_width, shape.width, "experts up", times),
            (share, shape.width, shape.ffn_width, "experts down", times),
        ]
    for m, outputs, inputs, layer, times in linears:
        gemms += [
            Gemm(layer, "forward", m, outputs, inputs, "nt", times),
            Gemm(layer, "data gradient", m, inputs, outputs, "nn", times),
            Gemm(layer, "weight gradient", outputs, inputs, m, "tn", times),
        ]
    return tuple(gemms)


def _linears(shape: Shape) -> dict[tuple[int, int], tuple[str, int]]:
    """(outputs, inputs) to (name, how many); layers of the same size are one."""
    d, ffn = shape.width, shape.shared_width if shape.experts else shape.ffn_width
    gates = 2 if shape.style == "llama" else 1
    mlp = [((gates * ffn, d), "mlp up", shape.layers), ((d, ffn), "mlp down", shape.layers)] if ffn else []
    if shape.experts:
        mlp.append(((shape.experts, d), "router", shape.layers))
        mlp += [((1, d), "gate", shape.layers)] if ffn else []
    found: dict[tuple[int, int], tuple[str, int]] = {}
    for size, name, times in (
        (((shape.heads + 2 * shape.kv_heads) * shape.head_width, d), "qkv", shape.layers),
        ((d, shape.query_width), "attention out", shape.layers),
        *mlp,
        ((shape.vocabulary, d), "head", 1),
    ):
        same_name, same_times = found.get(size, ("", 0))
        found[size] = f"{same_name}, {name}".removeprefix(", "), same_times + times
    return found
