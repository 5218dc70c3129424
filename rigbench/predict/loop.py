"""Plays a recorded step as the allocations of a whole training loop, with optimizer, buckets or shards around it.

Two optimizer steps suffice: the first makes the states, the second meets them, and every later one is like it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from rigbench.model.counts import adapter_tensors, nf4_bytes, parameter_tensors
from rigbench.model.recipe import Optimizer, Recipe
from rigbench.model.record import Shape
from rigbench.predict.traces import BIASED, OF_THREADS, NotPeriodic, Piece, Trace

STEPS = 2
# DistributedDataParallel's defaults (torch/nn/parallel/distributed.py): one bucket for everything in the first step,
# then, in the order in which gradients were ready, a first bucket of 1 MiB and further ones of 25 MiB.
FIRST_BUCKET_BYTES, BUCKET_BYTES = 1 << 20, 25 << 20
BIASED_BYTES = 1 << 20  # cuBLASLt's workspace, ATen/cuda/CublasHandlePool.cpp of torch 2.11
STEP_BYTES = 4  # torch keeps a step counter per tensor, in fp32
# bitsandbytes 0.45 to 0.50, optim/optimizer.py: tensors below 4096 elements keep 32-bit states; larger ones a byte per
# element and state, a scale in fp32 per block of 256, and share two code books of 256 fp32 values. Its paged form
# keeps the states of tensors from 100,000 elements in memory that the driver moves between host and device.
SMALL_ELEMENTS, BLOCK_ELEMENTS, CODE_BOOK_BYTES = 4096, 256, 1024
PAGED_ELEMENTS = 100_000


class Script:
    """A whole loop's allocations, as the allocator replica takes them: `n` makes storage n, `~n` frees it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.kinds: list[str] = []
        self.events: list[int] = []

    def allocate(self, size: int, kind: str) -> int:
        self.sizes.append(size)
        self.kinds.append(kind)
        self.events.append(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def free(self, storages: Iterable[int]) -> None:
        self.events += [~storage for storage in storages]


class ScriptLine:
    """A loop's allocations along the line in some number: the same events, every size base + slope·x.

    Raises:
        NotPeriodic: the two scripts differ in more than sizes, or a size is no line with whole coefficients.
    """

    def __init__(self, low: Script, high: Script, x_low: int, x_high: int) -> None:
        if low.events != high.events or low.kinds != high.kinds:
            raise NotPeriodic("the loops have different events")
        rises = [divmod(large - small, x_high - x_low) for small, large in zip(low.sizes, high.sizes, strict=True)]
        if any(rest for _, rest in rises):
            raise NotPeriodic("the loops' sizes are no line")
        self._script = low
        self._slopes = [slope for slope, _ in rises]
        self._bases = [size - slope * x_low for size, slope in zip(low.sizes, self._slopes, strict=True)]

    def at(self, x: int) -> Script:
        script = Script()
        script.sizes = [base + slope * x for base, slope in zip(self._bases, self._slopes, strict=True)]
        script.kinds, script.events = self._script.kinds, self._script.events
        return script


class Weight(NamedTuple):
    """A parameter, or one rank's shard of it."""

    layer: int  # the block that it belongs to; -1: none
    dims: tuple[int, ...]
    item_bytes: int
    trained: bool = True
    four_bits: bool = False

    @property
    def elements(self) -> int:
        return prod(self.dims)

    @property
    def size_bytes(self) -> int:
        return sum(nf4_bytes(self.elements)) if self.four_bits else self.elements * self.item_bytes

    @property
    def inner(self) -> bool:
        """A matrix of a block, which Muon steps (model/muon.py)."""
        return self.layer >= 0 and len(self.dims) == 2

    def shard(self, ranks: int) -> Weight:
        return self._replace(dims=(-(-self.dims[0] // ranks), *self.dims[1:]))


def weights_of(shape: Shape, item_bytes: int) -> tuple[Weight, ...]:
    """A decoder's parameters with the blocks that they belong to."""
    return tuple(
        Weight(int(name.split(".")[1]) if name.startswith("blocks.") else -1, dims, item_bytes)
        for name, dims in parameter_tensors(shape)
    )


def weights_with(shape: Shape, recipe: Recipe) -> tuple[Weight, ...]:
    """A decoder's parameters as they are trained: an adapter's beside those that it freezes."""
    size, whole = recipe.weight_bytes, weights_of(shape, recipe.weight_bytes)
    if not recipe.adapted:
        return whole
    four = recipe.adapter == "qlora"
    frozen = [its._replace(trained=False, four_bits=four and its.inner) for its in whole]
    own = [Weight(int(name.split(".")[1]), dims, size) for name, dims in adapter_tensors(shape, recipe)]
    return (*frozen, *own)


def states(optimizer: Optimizer, weight: Weight) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the first step leaves behind for a weight, in the order in which it is made.

    Bytes on the device, a number for each storage, and in pageable memory.
    """
    n, moment = weight.elements, weight.size_bytes
    if optimizer == "muon":
        return ((moment,) if weight.inner else (STEP_BYTES, moment, moment)), ()
    if optimizer in ("adamw", "adamw-foreach"):
        return ((STEP_BYTES, moment, moment) if optimizer == "adamw" else (moment, moment)), ()
    if n < SMALL_ELEMENTS:
        return (4 * n, 4 * n), ()
    scales = 4 * -(-n // BLOCK_ELEMENTS)
    if optimizer == "paged-adamw8bit" and n >= PAGED_ELEMENTS:
        return (scales, scales), (n, n)
    return (n, n, scales, scales), ()


def code_books(optimizer: Optimizer) -> tuple[int, ...]:
    """The bytes of both code books of 8-bit states, which all weights share."""
    return (CODE_BOOK_BYTES, CODE_BOOK_BYTES) if optimizer.endswith("8bit") else ()


def device_bytes(optimizer: Optimizer, weights: Sequence[Weight]) -> int:
    """All states on the device, without the allocator's rounding."""
    return sum(code_books(optimizer)) + sum(sum(states(optimizer, weight)[0]) for weight in weights if weight.trained)


def paged_bytes(optimizer: Optimizer, weights: Sequence[Weight]) -> int:
    """States that the driver moves to the host when the device is full; outside torch's own counts."""
    return sum(sum(states(optimizer, weight)[1]) for weight in weights if weight.trained)


def compose(trace: Trace, weights: Sequence[Weight], recipe: Recipe, workspace_bytes: int = 0) -> Script:
    """Everything that one rank's device allocates from building the model to the end of the second step.

    `workspace_bytes` is what a thread that multiplies matrices holds.
    """
    kind = Ddp if recipe.replicated else Fsdp if recipe.sharded else Loop
    loop = kind(trace, weights, recipe, workspace_bytes)
    loop.place_weights()
    for step in range(STEPS):
        loop.begin_step(step)
        loop.micro_step("first")
        if recipe.accumulation > 1:  # the third and later ones are like the second
            loop.micro_step("later")
        loop.optimize(step == 0)
        loop.free_gradients()
    return loop.script


class Loop:
    """One rank alone."""

    def __init__(self, trace: Trace, weights: Sequence[Weight], recipe: Recipe, workspace_bytes: int) -> None:
        self.trace, self.weights, self.recipe, self.workspace_bytes = trace, weights, recipe, workspace_bytes
        self.script = Script()
        self._ids: dict[tuple[int, int], int] = {}
        self._gradients: dict[int, list[int]] = defaultdict(list)  # by layer

    def place_weights(self) -> None:
        """Parameters and buffers, in the order of the modules."""
        for index, piece in enumerate(self.trace.pieces):
            if piece.phase.startswith("weights"):
                self._play_piece(index, piece)

    def begin_step(self, step: int) -> None: ...

    def micro_step(self, name: str) -> None:
        """Forward and backward."""
        for index, piece in enumerate(self.trace.pieces):
            micro, _, phase = piece.phase.partition(" ")
            if micro != name:
                continue
            self._enter(phase, piece.layer)
            self._play_piece(index, piece)
            self._leave(phase, piece.layer)

    def optimize(self, first: bool) -> None:
        """The optimizer's step over its two groups of weights; the first one makes the states."""
        optimizer, weights = self.recipe.optimizer, [weight for weight in self.stepped_weights() if weight.trained]
        for size in code_books(optimizer) if first else ():
            self.script.allocate(size, "optimizer")
        if optimizer == "muon":
            self._step_muon([weight for weight in weights if weight.inner], first)
            weights = [weight for weight in weights if not weight.inner]
        for matrices in (True, False):  # matrices decay, others do not: groups of their own, as in model/optim.py
            group = [weight for weight in weights if (len(weight.dims) >= 2) == matrices]
            for weight in group if first else ():
                for size in states(optimizer, weight)[0]:
                    self.script.allocate(size, "optimizer")
            # foreach takes the roots of all second moments at once; all else is in place, as the fused kernels are
            # (torch/optim/adamw.py, _multi_tensor_adam).
            roots = [weight.size_bytes for weight in group] if optimizer == "adamw-foreach" else []
            self.script.free([self.script.allocate(size, "optimizer") for size in roots])

    def _step_muon(self, weights: Sequence[Weight], first: bool) -> None:
        """One matrix after the other: its momentum for good; the update, its bf16 copy, that of the next iteration and
        two products of its shorter side with itself for a while (torch/optim/_muon.py)."""
        made = self.script.allocate
        for weight in weights if first else ():
            made(states("muon", weight)[0][0], "optimizer")
        for weight in weights:
            half, square = 2 * weight.elements, 2 * min(weight.dims) ** 2
            self.script.free([made(size, "optimizer") for size in (weight.size_bytes, half, half, square, square)])

    def free_gradients(self) -> None:
        for storages in self._gradients.values():
            self.script.free(storages)
        self._gradients.clear()

    def stepped_weights(self) -> Sequence[Weight]:
        """The weights as this rank's optimizer steps them."""
        return self.weights

    def _enter(self, phase: str, layer: int) -> None: ...

    def _leave(self, phase: str, layer: int) -> None: ...

    def _play_piece(self, index: int, piece: Piece) -> None:
        for home, number, freed in piece.events:
            if freed:
                self.script.free([self._ids.pop((home, number))])
                continue
            if home == OF_THREADS:
                if self.workspace_bytes and (home, number) not in self._ids:
                    size = BIASED_BYTES if number >= BIASED else self.workspace_bytes
                    self._ids[home, number] = self.script.allocate(size, "workspace")
                continue
            kind, _, outside = piece.kinds[number].partition(" ")
            made = self.script.allocate(piece.sizes[number], kind)
            if kind == "gradients":
                self._gradients[-1 if outside else piece.layer].append(made)
            else:
                self._ids[home, number] = made


class Ddp(Loop):
    """A replica on every rank: gradients are copied into buckets that stay (gradient_as_bucket_view is off)."""

    def place_weights(self) -> None:
        super().place_weights()
        sent = sum(weight.size_bytes for weight in self.weights if weight.trained)
        self._buckets = [self.script.allocate(sent, "communication")]

    def begin_step(self, step: int) -> None:
        if step != 1:
            return
        self.script.free(self._buckets)
        size, limit = 0, FIRST_BUCKET_BYTES
        for weight in reversed([weight for weight in self.weights if weight.trained]):
            size += weight.size_bytes
            if size >= limit:
                self.script.allocate(size, "communication")
                size, limit = 0, BUCKET_BYTES
        if size:
            self.script.allocate(size, "communication")


class Fsdp(Loop):
    """`fully_shard` on every block and on the rest, resharded after forward; shards may live in host memory.

    torch/distributed/fsdp/_fully_shard: a group's weights are gathered into one buffer and copied out; in the forward
    pass that buffer stays until the next group's gather, in the backward pass the next group is gathered ahead. The
    model is built in host memory or on the meta device: whole weights are never on the device.
    """

    def __init__(self, trace: Trace, weights: Sequence[Weight], recipe: Recipe, workspace_bytes: int) -> None:
        super().__init__(trace, weights, recipe, workspace_bytes)
        self._offload = recipe.strategy == "fsdp2-offload"
        self._shards = [weight.shard(recipe.ranks) for weight in weights]
        self._sizes: dict[int, list[int]] = defaultdict(list)  # of the shards of each layer
        self._sent: dict[int, int] = defaultdict(int)  # of those with a gradient
        for shard in self._shards:
            self._sizes[shard.layer].append(shard.size_bytes)
            self._sent[shard.layer] += shard.size_bytes if shard.trained else 0
        self._whole: dict[int, list[int]] = {}
        self._gathered: dict[int, int] = {}
        self._reduced: dict[int, int] = {}
        self._reduced_from: list[int] = []

    def place_weights(self) -> None:
        for shard in self._shards if not self._offload else ():
            self.script.allocate(shard.size_bytes, "weights")

    def micro_step(self, name: str) -> None:
        super().micro_step("first")  # whole gradients do not outlive a micro-step

    def stepped_weights(self) -> Sequence[Weight]:
        return self._shards

    def optimize(self, first: bool) -> None:
        if not self._offload:
            super().optimize(first)

    def free_gradients(self) -> None:
        self.script.free(self._reduced.values())
        self._reduced.clear()

    def _enter(self, phase: str, layer: int) -> None:
        if phase == "batch":
            self._gather(-1)
            self._copy_out(-1)
        elif phase == "forward":
            self._gather(layer)
            self._drop_gathered(except_for=layer)
            self._copy_out(layer)
        elif phase == "backward":
            if layer not in self._gathered or layer == len(self._sizes) - 2:
                self._gather(layer)
            self._copy_out(layer)
            self._drop_gathered()
            if layer > 0:
                self._gather(layer - 1)

    def _leave(self, phase: str, layer: int) -> None:
        if phase == "forward":
            self.script.free(self._whole.pop(layer))
        elif phase == "backward":
            self._reduce(layer)
        elif phase == "end":
            self._reduce(-1)
            self.script.free(self._reduced_from)
            self._reduced_from = []

    def _gather(self, layer: int) -> None:
        if layer not in self._gathered:
            size = self.recipe.ranks * sum(self._sizes[layer])
            self._gathered[layer] = self.script.allocate(size, "communication")

    def _copy_out(self, layer: int) -> None:
        sizes = [self.recipe.ranks * size for size in self._sizes[layer]]
        self._whole[layer] = [self.script.allocate(size, "weights") for size in sizes]

    def _drop_gathered(self, except_for: int | None = None) -> None:
        for layer in [layer for layer in self._gathered if layer != except_for]:
            self.script.free([self._gathered.pop(layer)])

    def _reduce(self, layer: int) -> None:
        """Whole gradients become this rank's shard, added to what earlier micro-steps left."""
        self.script.free(self._whole.pop(layer))
        self.script.free(self._reduced_from)
        shard = self._sent[layer]
        if not shard:
            self._reduced_from = []
            return
        self._reduced_from = [self.script.allocate(self.recipe.ranks * shard, "communication")]
        self.script.free(self._gradients.pop(layer, []))
        made = self.script.allocate(shard, "gradients")
        if layer in self._reduced or self._offload:  # added up, or moved to the host
            self.script.free([made])
        else:
            self._reduced[layer] = made
