"""How many weights does a shape have, tensor by tensor, without building it?"""

from __future__ import annotations

from math import prod

from rigbench.model.record import Shape

Tensors = tuple[tuple[str, tuple[int, ...]], ...]


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


def matmul_parameters(shape: Shape) -> int:
    """Weights that enter a matrix product: the head once, tied or not; no lookup tables, norms or biases."""
    return shape.layers * block_matmul_parameters(shape) + shape.vocabulary * shape.width


def block_matmul_parameters(shape: Shape) -> int:
    """The part of `matmul_parameters` that lies in one layer: queries, keys, values, output and MLP."""
    return sum(prod(dims) for _, dims in _block_tensors(shape) if len(dims) == 2)


def parameter_tensors(shape: Shape) -> Tensors:
    """Every tensor by name, in the order of `Decoder.named_parameters()`."""
    outer = _outer_tensors(shape)
    tables = 1 if shape.style != "gpt2" else 2
    blocks = tuple(
        (f"blocks.{layer}.{name}", dims) for layer in range(shape.layers) for name, dims in _block_tensors(shape)
    )
    return (*outer[:tables], *blocks, *outer[tables:])


def _block_tensors(shape: Shape) -> Tensors:
    d, ffn = shape.width, shape.ffn_width
    head_dim = d // shape.heads
    gates = 2 if shape.style == "llama" else 1
    return (
        *_norm_tensors("norm1", shape),
        *_linear_tensors("attention.qkv", (shape.heads + 2 * shape.kv_heads) * head_dim, d, shape.biases),
        *_linear_tensors("attention.out", d, d, shape.biases),
        *_norm_tensors("norm2", shape),
        *_linear_tensors("mlp.up", gates * ffn, d, shape.biases),
        *_linear_tensors("mlp.down", d, ffn, shape.biases),
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
