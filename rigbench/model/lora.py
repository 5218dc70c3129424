"""Trains low-rank matrices beside frozen linear layers (LoRA: Hu 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as product

from rigbench.model.counts import adapted_layers, block_layers
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe

SCALE = 2.0  # alpha over rank, as most have it


class Lora(nn.Module):
    """base(x) + scale · B·A·x; A is drawn, B begins at zero, so that training begins at the base."""

    def __init__(self, base: nn.Module, outputs: int, inputs: int, rank: int, like: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, inputs, dtype=like.dtype, device=like.device) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs, rank, dtype=like.dtype, device=like.device))
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + SCALE * product(product(x, self.a), self.b)  # type: ignore[no-any-return]


def adapt(model: Decoder, recipe: Recipe, quantised: Callable[[nn.Linear], nn.Module] | None = None) -> None:
    """Freeze a decoder, put adapters beside its layers, and with `quantised` those of its blocks into 4 bits."""
    for weight in model.parameters():
        weight.requires_grad = False
    adapted = {name for name, _, _ in adapted_layers(model.shape, recipe)}
    for block in model.blocks:
        for path, outputs, inputs in block_layers(model.shape):
            part: nn.Module = getattr(block, path.partition(".")[0])
            linear = getattr(part, path.partition(".")[2])
            base = quantised(linear) if quantised else linear
            made = Lora(base, outputs, inputs, recipe.adapter_rank, linear.weight) if path in adapted else base
            setattr(part, path.partition(".")[2], made)
