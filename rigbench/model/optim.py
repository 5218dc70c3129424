"""Builds the optimizer that steps the weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rigbench.core.errors import RigbenchError
from rigbench.core.failures import cause, is_out_of_memory
from rigbench.model.recipe import OPTIMIZERS

if TYPE_CHECKING:
    import torch
    from torch import nn

TRIAL_VALUES = 8192  # enough that their states are in 8 bits (4,096)
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
    fused = name in ("adamw", "muon") and all(weight.device.type in FUSED_DEVICES for weight in weights)
    if name == "muon":
        from rigbench.model.muon import Muon

        return Muon(model, learning_rate, betas, weight_decay, fused)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused, foreach=name == "adamw-foreach")


def _eight_bit(name: str, groups: list[dict[str, Any]], kind: str, **options: Any) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW with 8-bit states, in pageable memory where asked for.

    A build without kernels for this CUDA, or for a CPU, may say so only when it is called (see `_native_refusal`), and
    then in its own words, over many lines: a small step is made beforehand, and the first line is quoted.
    """
    import torch

    if name.startswith("paged") and kind != "cuda":
        raise RigbenchError(f"{name} pages its states between a GPU and the host, and here trains a {kind}", CURE, 3)
    try:
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        kernel = AdamW8bit if name == "adamw8bit" else PagedAdamW8bit
        if kind == "cuda" and (refusal := _native_refusal()):
            raise RuntimeError(refusal)
        trial = torch.nn.Parameter(torch.zeros(TRIAL_VALUES, device=groups[0]["params"][0].device))
        trial.grad = torch.zeros_like(trial)
        kernel([trial], **options).step()  # type: ignore[no-untyped-call]
        built: torch.optim.Optimizer = kernel(groups, **options)
    except ImportError as error:
        raise RigbenchError(f"{name} needs bitsandbytes ({cause(error)})", f"install it, or {CURE}", 3) from None
    except (RuntimeError, OSError, AttributeError, NameError) as error:
        if is_out_of_memory(error):
            raise
        raise RigbenchError(f"bitsandbytes cannot be used here ({cause(error)})", CURE, 3) from None
    return built


def _native_refusal() -> str:
    """Why bitsandbytes has no kernels for a GPU; "" where it has.

    From 0.45.3 on a stand-in for the library raises at the first call (`ErrorHandlerMockBNBNativeLibrary` of its
    cextension.py); before, the library is None, or that of a CPU.
    """
    from bitsandbytes.cextension import lib

    if getattr(lib, "compiled_with_cuda", False):
        return ""
    said = str(getattr(lib, "error_msg", "")).strip() or "its library is built without CUDA, or does not load"
    return re.sub(r"\S*/(?=[^/\s]+)", "", said)  # files by their names, since folders may name people
