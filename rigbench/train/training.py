"""What is stepped in a training slice, and how? A recipe becomes a model, an optimizer, and what is around."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator
from rigbench.machine.sysfs import Sysfs
from rigbench.model import optim
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.train.record import Vram

if TYPE_CHECKING:
    import torch
    from torch import nn

Context = Callable[[], AbstractContextManager[object]]
AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


class Trained(NamedTuple):
    """`module(*batch)` gives the loss. What is around a step:

    `precision` around a forward pass, `synchronised(last)` around a micro-step's forward and backward pass (last: the
    one before the optimizer's step, when gradients are exchanged), `clip` the gradients to a norm, and `scaler` the
    loss of an fp16 run. `accumulation` micro-steps make a step.
    """

    module: Callable[..., torch.Tensor]
    optimizer: torch.optim.Optimizer
    precision: Context
    clip: Callable[[], object]
    synchronised: Callable[[bool], AbstractContextManager[object]] = lambda last: contextlib.nullcontext()
    scaler: torch.amp.GradScaler | None = None
    accumulation: int = 1


def decoder(model: Model, recipe: Recipe, torch_device: str) -> nn.Module:
    """The model on its device, in its weights' precision, not compiled and of one rank."""
    import torch

    from rigbench.model.gpt import Decoder

    built = Decoder(model.shape, checkpointing=recipe.checkpoint_every, loss_chunks=recipe.loss_chunks)
    return built.to(torch_device, torch.bfloat16 if recipe.precision == "bf16-pure" else torch.float32)


def train(
    module: nn.Module,
    recipe: Recipe,
    kind: str,
    learning_rate: float,
    clip_norm: float,
    *,
    clip: Callable[[], object] | None = None,
    synchronised: Callable[[bool], AbstractContextManager[object]] | None = None,
    called: Callable[[Any], Callable[..., torch.Tensor]] | None = None,
) -> Trained:
    """A module, wrapped for its ranks or bare, with optimizer, precision, compilation and clipping as the recipe says.

    `called` makes of the module, compiled or not, what gives a batch's loss.

    Raises:
        RigbenchError: this kind of device has no such precision, optimizer or compiler.
    """
    import torch
    from torch.nn.utils import clip_grad_norm_

    set_matmul_precision(recipe.precision, kind)
    optimizer = optim.build(recipe.optimizer, module, learning_rate=learning_rate)
    stepped = compiled(module) if recipe.compiled else module
    return Trained(
        module=called(stepped) if called else stepped,
        optimizer=optimizer,
        precision=lambda: autocast(recipe.precision, kind),
        clip=clip or (lambda: clip_grad_norm_(module.parameters(), clip_norm)),
        synchronised=synchronised or (lambda last: contextlib.nullcontext()),
        scaler=torch.amp.GradScaler(kind) if recipe.precision == "fp16" else None,
        accumulation=recipe.accumulation,
    )


def autocast(precision: str, kind: str) -> AbstractContextManager[object]:
    """Autocast over fp32 weights, or nothing."""
    import torch

    if precision not in AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(kind, dtype=getattr(torch, AUTOCAST[precision]))


def set_matmul_precision(precision: str, kind: str) -> None:
    """Let fp32 matmuls go through tensor cores where that is the arm, and not where it is not.

    Raises:
        RigbenchError: tf32 on a CPU.
    """
    import torch

    if precision == "tf32" and kind != "cuda":
        raise RigbenchError("a CPU has no tf32", "use --precision fp32 or bf16", NOTHING)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def compiled(module: nn.Module) -> Any:
    """The module under `torch.compile`, in its default mode.

    Raises:
        RigbenchError: there is no compiler here.
    """
    import shutil

    import torch

    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise RigbenchError("torch.compile needs a C++ compiler on a CPU", "install g++, or --compile off", NOTHING)
    return torch.compile(module)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation was refused: GPUs say so by type, a CPU in words (c10/core/CPUAllocator.cpp)."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def peaks(accelerator: Accelerator, before_model_bytes: int | Absent) -> Vram:
    """Peak memory since the accelerator's count was reset, and of this process."""
    on_gpu = accelerator.device.kind == "cuda"
    return Vram(
        allocated_bytes=accelerator.allocated_peak_bytes(),
        reserved_bytes=accelerator.reserved_peak_bytes(),
        process_bytes=host.process_peak_bytes(Sysfs()),
        context_bytes=accelerator.used_outside_allocator_bytes(),
        before_model_bytes=before_model_bytes,
        allocator_retries=accelerator.allocator_retries(),
        deciding="reserved plus context, on the device" if on_gpu else "process, in host memory",
    )
