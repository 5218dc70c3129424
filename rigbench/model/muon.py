"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon): momentum made orthogonal, for the matrices inside a model."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's iteration
MOMENTUM, EPSILON = 0.95, 1e-7


def is_inner(name: str, weight: Tensor, tables: set[int]) -> bool:
    """Whether Muon steps it: a matrix that is neither a table nor the head."""
    return weight.dim() == 2 and id(weight) not in tables and "head" not in name.split(".")


class Muon(torch.optim.Optimizer):
    """Muon on inner matrices, fused AdamW on all else, as one optimizer. torch's own Muon where there is one.

    Updates are as large as AdamW's (Liu 2025, arXiv 2502.16982), so that its learning rate serves both.
    """

    def __init__(
        self, model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float, fused: bool
    ) -> None:
        tables = {id(its.weight) for its in model.modules() if isinstance(its, nn.Embedding)}
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        inner = [weight for name, weight in named if is_inner(name, weight, tables)]
        outer = [weight for name, weight in named if not is_inner(name, weight, tables)]
        groups = [
            {"params": [weight for weight in outer if weight.dim() >= 2], "weight_decay": weight_decay},
            {"params": [weight for weight in outer if weight.dim() < 2], "weight_decay": 0.0},
        ]
        theirs: Any = getattr(importlib.import_module("torch.optim"), "Muon", OwnMuon)  # from 2.9 on
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": MOMENTUM, "adjust_lr_fn": "match_rms_adamw"}
        self.parts: list[torch.optim.Optimizer] = [theirs(inner, **settings)] if inner else []
        self.parts.append(torch.optim.AdamW([its for its in groups if its["params"]], lr=lr, betas=betas, fused=fused))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


class OwnMuon(torch.optim.Optimizer):
    """The same as torch.optim.Muon with updates of AdamW's size."""

    def __init__(
        self, weights: list[Tensor], lr: float, weight_decay: float, momentum: float, adjust_lr_fn: str
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                held = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                share = 1 - group["momentum"]
                held.mul_(group["momentum"]).add_(share * weight.grad)
                update = orthogonal(share * weight.grad + group["momentum"] * held)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(-0.2 * group["lr"] * max(weight.shape) ** 0.5 * update)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly: its singular values between about 0.5 and 1.5, in bf16."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrix.to(torch.bfloat16)
    x = x.t() if matrix.shape[0] > matrix.shape[1] else x
    x = x / (x.norm() + EPSILON)
    for _ in range(STEPS):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.t() if matrix.shape[0] > matrix.shape[1] else x
