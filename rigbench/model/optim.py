"""Builds the optimizer that steps the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rigbench.core.errors import RigbenchError
from rigbench.model.recipe import OPTIMIZERS

if TYPE_CHECKING:
    import torch
    from torch import nn

FUSED_DEVICES = {"cpu", "cuda"}
CURE = "use --optimizer adamw"


def build(
    name: str,
    model: nn.Module,
    learning_rate: float = 6e-4,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
) -> torch.optim.Optimizer:
    """An optimizer over a model's weights. Defaults are nanoGPT's for GPT-2 124M; `adamw` is the fused kernel.

    Matrices and tables decay; biases and norms do not."""
    import torch

    if name not in OPTIMIZERS:
        raise RigbenchError(f"no optimizer {name!r}", f"use one of {', '.join(OPTIMIZERS)}")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    if name.endswith("8bit"):
        kind = weights[0].device.type
        return _eight_bit(name, groups, kind, lr=learning_rate, betas=betas)
    fused = name == "adamw" and all(weight.device.type in FUSED_DEVICES for weight in weights)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused, foreach=name == "adamw-foreach")


def _eight_bit(name: str, groups: list[dict[str, Any]], kind: str, **options: Any) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW with 8-bit states, in pageable memory where asked for.

    A build without kernels for this CUDA says so in its own words, over many lines: the first is quoted.
    """
    if name.startswith("paged") and kind != "cuda":
        raise RigbenchError(f"{name} pages its states between a GPU and the host, and here trains a {kind}", CURE, 3)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        kernel = AdamW8bit if name == "adamw8bit" else PagedAdamW8bit
        built: torch.optim.Optimizer = kernel(groups, **options)
    except ImportError as error:
        raise RigbenchError(f"{name} needs bitsandbytes ({_first_line(error)})", f"install it, or {CURE}", 3) from None
    except (RuntimeError, OSError, AttributeError) as error:
        raise RigbenchError(f"bitsandbytes cannot be used here ({_first_line(error)})", CURE, 3) from None
    return built


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
