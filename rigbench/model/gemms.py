"""Which matrix products is a training step made of, and how often is each done?"""

from __future__ import annotations

from typing import Literal, NamedTuple

from rigbench.model.record import Shape

Layout = Literal["nn", "nt", "tn"]
Pass = Literal["forward", "data gradient", "weight gradient"]


class Gemm(NamedTuple):
    """C[m,n] = A[m,k] @ B[k,n], `times` in every micro-batch.

    `layout` says which operand lies transposed in memory, in BLAS's letters: "nt" is B, "tn" is A, "nn" is none. The
    same three sizes in another layout run another kernel.
    """

    layer: str
    product: Pass
    m: int
    n: int
    k: int
    layout: Layout
    times: int

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
    for (outputs, inputs), (layer, times) in _linears(shape).items():
        gemms += [
            Gemm(layer, "forward", rows, outputs, inputs, "nt", times),
            Gemm(layer, "data gradient", rows, inputs, outputs, "nn", times),
            Gemm(layer, "weight gradient", outputs, inputs, rows, "tn", times),
        ]
    return tuple(gemms)


def _linears(shape: Shape) -> dict[tuple[int, int], tuple[str, int]]:
    """(outputs, inputs) to (name, how many); layers of the same size are one."""
    d, ffn = shape.width, shape.ffn_width
    gates = 2 if shape.style == "llama" else 1
    found: dict[tuple[int, int], tuple[str, int]] = {}
    for size, name, times in (
        (((shape.heads + 2 * shape.kv_heads) * (d // shape.heads), d), "qkv", shape.layers),
        ((d, d), "attention out", shape.layers),
        ((gates * ffn, d), "mlp up", shape.layers),
        ((d, ffn), "mlp down", shape.layers),
        ((shape.vocabulary, d), "head", 1),
    ):
        same_name, same_times = found.get(size, ("", 0))
        found[size] = f"{same_name}, {name}".removeprefix(", "), same_times + times
    return found
