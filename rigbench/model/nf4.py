"""Holds frozen linear layers in 4 bits (NF4; QLoRA: Dettmers 2023, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import cause, is_out_of_memory

CURE = "use --adapter lora"


def layer(linear: nn.Linear) -> nn.Module:
    """The same layer in 4 bits, tried on one row.

    Raises:
        RigbenchError: bitsandbytes is missing, or has no kernels for this device (exit 3).
    """
    try:
        library: Any = importlib.import_module("bitsandbytes.nn")
        made = library.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            quant_type="nf4",
        )
        made.weight = library.Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4")
        made.bias = linear.bias
        moved: nn.Module = made.to(linear.weight.device)
        moved(linear.weight.detach()[:1])
    except ImportError as error:
        raise RigbenchError(f"qlora needs bitsandbytes ({cause(error)})", f"install it, or {CURE}", NOTHING) from None
    except (RuntimeError, OSError, AttributeError, NameError) as error:
        if is_out_of_memory(error):
            raise
        raise RigbenchError(f"bitsandbytes has no 4-bit weights here ({cause(error)})", CURE, NOTHING) from None
    return moved
