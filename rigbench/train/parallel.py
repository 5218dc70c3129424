"""How is a model trained by several ranks together, or by several cards of one process?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.errors import NOTHING, RigbenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # gloo beside NCCL for shards that live in host memory


Around = Callable[[], AbstractContextManager[object]]


class Wrapped(NamedTuple):
    """`module(*batch)` gives this rank's mean loss. `synchronised(False)` around a micro-step keeps gradients here.

    The optimizer is built on `module`'s parameters, which may be shards. `clip` takes the norm over all of them.
    `apart` around whole steps makes each rank do all of its own work, the optimizer's too, and exchange neither
    gradients nor weights; None where this torch cannot leave the exchange out. What is learnt in there is worthless.
    """

    module: nn.Module
    synchronised: Callable[[bool], AbstractContextManager[object]]
    clip: Callable[[], object]
    apart: Around | None = contextlib.nullcontext


def wrap(module: nn.Module, strategy: str, torch_device: str, clip_norm: float) -> Wrapped:
    """The module among its ranks, in the group that this process has joined.

    "ddp" is DistributedDataParallel in its defaults: all ranks hold everything, gradients are averaged in buckets while
    the backward pass goes on. "fsdp2" is `fully_shard` of every block and of the rest, in the precision of the weights
    (autocast is around it): each rank holds its share, and gathers a block when it is needed; "fsdp2-offload" keeps the
    shares in host memory. "accelerate" is Hugging Face's wrapper of ddp. "single" changes nothing.

    Raises:
        RigbenchError: there is no such strategy, or its package is missing (exit 3).
    """
    return _WRAPPERS[strategy](module, torch_device, clip_norm)


def _clip(module: nn.Module, clip_norm: float) -> object:
    from torch.nn.utils import clip_grad_norm_

    return clip_grad_norm_(module.parameters(), clip_norm)


def _single(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    return Wrapped(module, lambda last: contextlib.nullcontext(), partial(_clip, module, clip_norm))


def _ddp(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    from torch.nn.parallel import DistributedDataParallel

    devices = None if torch_device == "cpu" else [torch_device]
    wrapped = DistributedDataParallel(module, device_ids=devices)
    return Wrapped(
        wrapped,
        lambda last: contextlib.nullcontext() if last else wrapped.no_sync(),
        partial(_clip, wrapped, clip_norm),
        wrapped.no_sync,
    )


def _sharded(module: Any, torch_device: str, clip_norm: float, offload: bool = False) -> Wrapped:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(torch_device.partition(":")[0], (torch.distributed.get_world_size(),))
    policy = CPUOffloadPolicy(pin_memory=torch_device != "cpu") if offload else OffloadPolicy()
    for block in module.blocks:
        fully_shard(block, mesh=mesh, offload_policy=policy)
    fully_shard(module, mesh=mesh, offload_policy=policy)

    @contextlib.contextmanager
    def synchronised(last: bool) -> Any:
        module.set_requires_gradient_sync(last)
        yield
        module.set_requires_gradient_sync(True)

    parts = (module, *module.blocks)
    if not hasattr(module, "set_custom_all_gather"):  # an older torch
        return Wrapped(module, synchronised, partial(_clip, module, clip_norm), None)
    wires = _Wires()

    @contextlib.contextmanager
    def apart() -> Any:
        for part in parts:  # from here on; the steps of the slice itself are over
            part.set_custom_all_gather(_Gather(wires))
            part.set_custom_reduce_scatter(_Scatter(wires))
        wires.cut = True
        try:
            yield
        finally:
            wires.cut = False

    return Wrapped(
        module,
        synchronised,
        lambda: _clip_own(module, clip_norm) if wires.cut else _clip(module, clip_norm),
        apart,
    )


class _Wires:
    """Whether the ranks hear each other."""

    cut = False


class _Wire:
    """What fully_shard asks of its collectives (torch's `Comm`): a buffer, and a call by keywords."""

    def __init__(self, wires: _Wires) -> None:
        self.wires = wires

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        import torch

        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Wire):
    """All ranks' shares, [ranks · n], of which this rank's lies in its place already; or this rank's own everywhere."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> Any:
        import torch.distributed as dist

        if not self.wires.cut:
            gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name before 2.13
            return gather(output_tensor, input_tensor, group=group, async_op=async_op)
        for rank, place in enumerate(output_tensor.view(group.size(), -1)):
            if rank != group.rank():
                place.copy_(input_tensor.view(-1))
        return None


class _Scatter(_Wire):
    """The sum (or mean) of all ranks' gradients for this rank's share; or its own of them alone."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> Any:
        import torch.distributed as dist

        if not self.wires.cut:
            scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
            return scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
        output_tensor.copy_(input_tensor.view(group.size(), -1)[group.rank()])
        return None


def _clip_own(module: nn.Module, clip_norm: float) -> None:
    """By the norm of this rank's shares alone: that of all is one more exchange."""
    import torch
    from torch.nn.utils import get_total_norm

    own: list[Any] = [weight.grad.to_local() for weight in module.parameters() if weight.grad is not None]  # type: ignore[attr-defined]
    torch._foreach_mul_(own, torch.clamp(clip_norm / (get_total_norm(own) + 1e-6), max=1.0))


def _accelerate(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise RigbenchError(
            "accelerate is not installed", "pip install 'rigbench[accelerate]'", exit_code=NOTHING
        ) from None
    accelerator = Accelerator(cpu=torch_device == "cpu", mixed_precision="no")
    wrapped = accelerator.prepare_model(module)
    return Wrapped(
        wrapped,
        lambda last: contextlib.nullcontext() if last else accelerator.no_sync(wrapped),
        partial(_clip, wrapped, clip_norm),
        lambda: accelerator.no_sync(wrapped),
    )


_WRAPPERS: dict[str, Callable[[Any, str, float], Wrapped]] = {
    "single": _single,
    "ddp": _ddp,
    "fsdp2": _sharded,
    "fsdp2-offload": partial(_sharded, offload=True),
    "accelerate": _accelerate,
}


def over_cards(module: nn.Module) -> Callable[..., torch.Tensor]:
    """`nn.DataParallel` over all cards of this process: one batch split, one thread a card, the losses averaged.

    Raises:
        RigbenchError: there is only one card.
    """
    import torch
    from torch import nn

    if torch.cuda.device_count() < 2:
        raise RigbenchError("DataParallel needs several GPUs in one process", "use --strategy single", NOTHING)
    parallel = nn.DataParallel(module)
    return lambda *batch: parallel(*batch).mean()
