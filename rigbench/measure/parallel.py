"""How is a model trained by several ranks together, or by several cards of one process?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.errors import NOTHING, RigbenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # gloo beside NCCL for shards that live in host memory


class Wrapped(NamedTuple):
    """`module(*batch)` gives this rank's mean loss. `synchronised(False)` around a micro-step keeps gradients here.

    The optimizer is built on `module`'s parameters, which may be shards. `clip` takes the norm over all of them.
    """

    module: nn.Module
    synchronised: Callable[[bool], AbstractContextManager[object]]
    clip: Callable[[], object]


def wrap(module: nn.Module, strategy: str, torch_device: str, clip_norm: float) -> Wrapped:
    """The module among its ranks, in the group that this process has joined.

    "ddp" is DistributedDataParallel in its defaults: all ranks hold everything, gradients are averaged in buckets while
    the backward pass goes on. "fsdp2" is `fully_shard` of every block and of the rest, in the precision of the weights
    (autocast is around it): each rank holds its share, and gathers a block when it is needed; "fsdp2-offload" keeps the
    shares in host memory. "accelerate" is Hugging Face's wrapper of ddp. "single" changes nothing.

    Raises:
        RigbenchError: there is no such strategy, or its package is missing (exit 3).
    """
    from torch.nn.utils import clip_grad_norm_

    wrapped, synchronised = _WRAPPERS[strategy](module, torch_device)
    return Wrapped(wrapped, synchronised, lambda: clip_grad_norm_(wrapped.parameters(), clip_norm))


def _single(module: nn.Module, torch_device: str) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
    return module, lambda last: contextlib.nullcontext()


def _ddp(module: nn.Module, torch_device: str) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
    from torch.nn.parallel import DistributedDataParallel

    devices = None if torch_device == "cpu" else [torch_device]
    wrapped = DistributedDataParallel(module, device_ids=devices)
    return wrapped, lambda last: contextlib.nullcontext() if last else wrapped.no_sync()


def _fsdp2(module: nn.Module, torch_device: str) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
    return _sharded(module, torch_device, offload=False)


def _offloaded(module: nn.Module, torch_device: str) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
    return _sharded(module, torch_device, offload=True)


def _sharded(
    module: Any, torch_device: str, offload: bool
) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
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

    return module, synchronised


def _accelerate(module: nn.Module, torch_device: str) -> tuple[Any, Callable[[bool], AbstractContextManager[object]]]:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise RigbenchError(
            "accelerate is not installed", "pip install 'rigbench[accelerate]'", exit_code=NOTHING
        ) from None
    accelerator = Accelerator(cpu=torch_device == "cpu", mixed_precision="no")
    wrapped = accelerator.prepare_model(module)
    return wrapped, lambda last: contextlib.nullcontext() if last else accelerator.no_sync(wrapped)


_WRAPPERS: dict[str, Callable[[Any, str], tuple[Any, Callable[[bool], AbstractContextManager[object]]]]] = {
    "single": _single,
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "fsdp2-offload": _offloaded,
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
