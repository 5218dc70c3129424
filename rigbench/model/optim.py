"""Which optimizer steps the weights, and what does it keep?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.errors import RigbenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

FUSED_DEVICES = {"cpu", "cuda"}


def build(
    name: str,
    model: nn.Module,
    learning_rate: float = 6e-4,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
) -> torch.optim.Optimizer:
    """An optimizer over a model's weights, fused where there is such a kernel. Defaults are nanoGPT's for GPT-2 124M.

    Matrices and tables decay; biases and norms do not.

    Raises:
        RigbenchError: rigbench knows no optimizer of that name.
    """
    import torch

    if name != "adamw":
        raise RigbenchError(f"no optimizer {name!r}", "use adamw")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(weight.device.type in FUSED_DEVICES for weight in weights)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)
