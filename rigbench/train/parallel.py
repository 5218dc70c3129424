"""Wraps a model among its ranks, and tells what of their steps is exchange."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import cause
from rigbench.core.record import Absent, EndedBy
from rigbench.train.record import PARTS, Exchange, Options, Steps
from rigbench.train.steps import Around, StepLoop, Wrapped
from rigbench.work.ranks import exchange

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # gloo beside NCCL for shards that live in host memory
EXCHANGE_METHOD = "steps with and without sync of gradients and weights in turn, in the same ranks; then rank 0 alone"
FEWEST_PAIRS, PAIRS, PAIRS_SHARE = 3, 8, 0.3  # at most, and of the slice's own time
ENDED: tuple[EndedBy | None, ...] = (None, "interval", "time limit", "interrupted")
T = TypeVar("T")


def wrap(module: nn.Module, strategy: str, torch_device: str, clip_norm: float) -> Wrapped:
    """The module among its ranks, in the group that this process has joined.

    "ddp" is DistributedDataParallel in its defaults: all ranks hold everything, gradients are averaged in buckets while
    the backward pass goes on. "fsdp2" is `fully_shard` of every block and of the rest, in the precision of the weights
    (autocast is around it): each rank holds its share, and gathers a block when it is needed; "fsdp2-offload" keeps the
    shares in host memory. "accelerate" is Hugging Face's wrapper of ddp. "data-parallel" is `nn.DataParallel` over all
    cards of this one process: one batch split, one thread a card, the mean loss of all. "single" changes nothing.

    Raises:
        RigbenchError: its package is missing, or there is only one card (exit 3).
    """
    return _WRAPPERS[strategy](module, torch_device, clip_norm)


def _single(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    return Wrapped(module, lambda: clip_grad_norm_(module.parameters(), clip_norm))


def _data_parallel(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    cards = torch.cuda.device_count()
    if cards < 2:
        raise RigbenchError("DataParallel needs several GPUs in one process", "use --strategy single", NOTHING)

    def called(stepped: Any) -> Callable[..., torch.Tensor]:
        over_cards = nn.DataParallel(stepped)

        def loss(*batch: torch.Tensor) -> torch.Tensor:
            """A card's mean counts as much as the sequences that it was given, which may be fewer than another's."""
            losses: torch.Tensor = over_cards(*batch).reshape(-1)  # one number where the batch went to one card
            parts = batch[0].chunk(cards)  # as torch.nn.parallel.scatter splits it
            shares = [one * (len(part) / len(batch[0])) for one, part in zip(losses, parts, strict=True)]
            return torch.stack(shares).sum()

        return loss

    return _single(module, torch_device, clip_norm)._replace(called=called)


def _ddp(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    ranks = nn.parallel.DistributedDataParallel(module, device_ids=None if torch_device == "cpu" else [torch_device])
    return _averaged(ranks, ranks.no_sync, clip_norm)


def _accelerate(module: nn.Module, torch_device: str, clip_norm: float) -> Wrapped:
    try:
        from accelerate import Accelerator
    except ImportError:
        raise RigbenchError(
            "accelerate is not installed", "pip install 'rigbench[accelerate]'", exit_code=NOTHING
        ) from None
    try:
        accelerator = Accelerator(cpu=torch_device == "cpu", mixed_precision="no")
    except NotImplementedError as error:  # of RTX 40 with a driver before 550 (its state.py, check_cuda_p2p_ib_support)
        cure = "update the driver, or use --strategy ddp"
        raise RigbenchError(f"accelerate refuses this rig ({cause(error)})", cure, exit_code=NOTHING) from None
    ranks = accelerator.prepare_model(module)
    return _averaged(ranks, lambda: accelerator.no_sync(ranks), clip_norm)


def _averaged(ranks: nn.Module, without_exchange: Around, clip_norm: float) -> Wrapped:
    return Wrapped(
        ranks,
        lambda: clip_grad_norm_(ranks.parameters(), clip_norm),
        lambda last: contextlib.nullcontext() if last else without_exchange(),
        without_exchange,
    )


def _sharded(module: Any, torch_device: str, clip_norm: float, offload: bool = False) -> Wrapped:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(torch_device.partition(":")[0], (dist.get_world_size(),))
    policy = CPUOffloadPolicy(pin_memory=torch_device != "cpu") if offload else OffloadPolicy()
    parts = (*module.blocks, module)
    for part in parts:
        fully_shard(part, mesh=mesh, offload_policy=policy)

    @contextlib.contextmanager
    def synchronised(last: bool) -> Any:
        module.set_requires_gradient_sync(last)
        yield
        module.set_requires_gradient_sync(True)

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

    def clip() -> None:
        if not wires.cut:
            clip_grad_norm_(module.parameters(), clip_norm)
            return
        # By the norm of this rank's shares alone: that of all is one more exchange.
        own: list[Any] = [weight.grad.to_local() for weight in module.parameters() if weight.grad is not None]
        torch._foreach_mul_(own, torch.clamp(clip_norm / (get_total_norm(own) + 1e-6), max=1.0))

    can_be_cut = hasattr(module, "set_custom_all_gather")  # not in an older torch
    return Wrapped(module, clip, synchronised, apart if can_be_cut else None)


class _Wires:
    """Whether the ranks hear each other."""

    cut = False


class _Wire:
    """What fully_shard asks of its collectives (torch's `Comm`): a buffer, and a call by keywords."""

    def __init__(self, wires: _Wires) -> None:
        self.wires = wires

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Wire):
    """All ranks' shares, [ranks · n], of which this rank's lies in its place already; or this rank's own everywhere."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> Any:
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
        if not self.wires.cut:
            scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
            return scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
        output_tensor.copy_(input_tensor.view(group.size(), -1)[group.rank()])
        return None


_WRAPPERS: dict[str, Callable[[Any, str, float], Wrapped]] = {
    "single": _single,
    "data-parallel": _data_parallel,
    "ddp": _ddp,
    "fsdp2": _sharded,
    "fsdp2-offload": partial(_sharded, offload=True),
    "accelerate": _accelerate,
}


class RankLoop(StepLoop):
    """All ranks make as many steps: rank 0 says when its rate is tight, any rank that it was told to stop.

    It also says how far they are: ranks that have made as many steps must tell the same, for the one that has come
    less far than others is blamed where they hang.
    """

    _millionths = 0

    def passed(self, clock: float) -> float:
        return self._millionths / 1e6

    def agree(self, ended: EndedBy | None, chunk: int) -> tuple[EndedBy | None, int]:
        leads = dist.get_rank() == 0
        own = ENDED.index(ended) if leads or ended == "interrupted" else 0
        led = [chunk, int(1e6 * super().passed(time.perf_counter()))] if leads else [0, 0]
        word = torch.tensor([own, *led], device=self.accelerator.torch_device)
        dist.all_reduce(word, dist.ReduceOp.MAX)
        ending, size, self._millionths = word.tolist()
        return ENDED[ending], max(1, size)


def gathered(own: T, kind: Any = Any) -> list[T]:
    """Every rank's value, by rank; `kind` is its type, where that is more than JSON tells."""
    return [msgspec.json.decode(it, type=kind) for it in exchange(msgspec.json.encode(own))]


def slowest(ranks: Sequence[Steps]) -> Steps:
    """Each step as its slowest rank saw it; the loss is the mean of all, where each is a number."""
    seconds = list(zip(*(one.seconds for one in ranks), strict=True))
    by = [max(range(len(ranks)), key=lambda rank: its[rank]) for its in seconds]

    def of(name: str) -> tuple[float, ...]:
        return tuple(getattr(ranks[rank], name)[index] for index, rank in enumerate(by))

    def mean(losses: Sequence[Any]) -> Any:
        missing = [loss for loss in losses if not isinstance(loss, float)]
        return missing[0] if missing else sum(losses) / len(losses)

    return msgspec.structs.replace(
        ranks[0],
        **{name: of(name) for name in ("seconds", *(f"{part}_seconds" for part in PARTS))},
        loss=tuple(map(mean, zip(*(one.loss for one in ranks), strict=True))),
    )


def timed_pairs(loop: StepLoop, options: Options, apart: Around) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of steps with and without the exchange of gradients and weights, in turn: as many on every rank."""

    def from_a_common_start() -> float:
        """From when all ranks are there, so that one that was late does not count as waited for."""
        loop.accelerator.synchronize()
        dist.barrier()
        return loop.one_step()

    step = loop.columns().seconds[-1]
    allowed = PAIRS_SHARE * (options.seconds or options.shortest_seconds)
    pairs = gathered(max(FEWEST_PAIRS, min(PAIRS, int(allowed / (2 * step)))))[0]
    with_it, without = [], []
    for _ in range(1 + pairs):
        with apart():
            without.append(from_a_common_start())
        with_it.append(from_a_common_start())
    return tuple(with_it[1:]), tuple(
        without[1:]
    )  # the first of its kind, and what follows it, may build what others find


def split(
    step_seconds: float,
    hosts: tuple[str, ...],
    steps_by_rank: Sequence[tuple[float, ...]],
    with_samples: Sequence[tuple[float, ...]],
    without_samples: Sequence[tuple[float, ...]],
    alone: tuple[float, ...] | Absent,
) -> Exchange:
    """Where a step of all ranks goes, from seconds by rank and step; the parts add up to `step_seconds`.

    Each step in turn is that of its slowest rank; `alone` are rank 0's while the others waited.
    """
    with_all, without_all = ([max(its) for its in zip(*by, strict=True)] for by in (with_samples, without_samples))
    exposed = stats.median_estimate([a - b for a, b in zip(with_all, without_all, strict=True)])
    by_rank = [stats.median(its) for its in without_samples]
    middle, slow = stats.median(by_rank), max(by_rank)
    one = alone if isinstance(alone, Absent) else stats.median_estimate(alone)
    return Exchange(
        method=EXCHANGE_METHOD,
        hosts=hosts,
        exposed=exposed,
        alone_seconds=one,
        shared_seconds=one if isinstance(one, Absent) else middle - one.value,
        imbalance_seconds=slow - middle,
        efficiency=one if isinstance(one, Absent) else one.value / step_seconds,
        unexplained_seconds=step_seconds - slow - exposed.value,
        steps_by_rank=tuple(steps_by_rank),
        with_samples=tuple(with_samples),
        without_samples=tuple(without_samples),
        alone_samples=() if isinstance(alone, Absent) else alone,
    )
