"""What does a whole training loop allocate? A recorded step, played twice, with optimizer, buckets or shards around it.

Two optimizer steps suffice: the first makes the states, the second meets them, and every later one is like it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from rigbench.model.recipe import Recipe
from rigbench.predict import states
from rigbench.predict.script import Piece, Script, Trace

STEPS = 2
# DistributedDataParallel's defaults (torch/nn/parallel/distributed.py): one bucket for everything in the first step,
# then, in the order in which gradients were ready, a first bucket of 1 MiB and further ones of 25 MiB.
FIRST_BUCKET_BYTES, BUCKET_BYTES = 1 << 20, 25 << 20


class Weight(NamedTuple):
    """A parameter: the block it belongs to (-1: none), its shape, and the bytes of an element."""

    layer: int
    dims: tuple[int, ...]
    item_bytes: int


def compose(trace: Trace, weights: Sequence[Weight], recipe: Recipe, workspace_bytes: int = 0) -> Script:
    """Everything that one rank's device allocates from building the model to the end of the second step.

    `workspace_bytes` is what a thread that multiplies matrices holds.
    """
    kind = Ddp if recipe.replicated else Fsdp if recipe.sharded else Loop
    loop = kind(trace, weights, recipe, workspace_bytes)
    loop.place_weights()
    for step in range(STEPS):
        loop.begin_step(step)
        loop.micro_step("first", step == 0)
        if recipe.accumulation > 1:  # the third and later ones are like the second
            loop.micro_step("later", False)
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

    def begin_step(self, step: int) -> None:
        return None

    def micro_step(self, name: str, first_of_all: bool) -> None:
        """Forward and backward. The first ones of all make the workspaces of the forward and backward threads."""
        for index, piece in enumerate(self.trace.pieces):
            micro, _, phase = piece.phase.partition(" ")
            if micro != name:
                continue
            if first_of_all and phase in ("batch", "backward start") and self.workspace_bytes:
                self.script.allocate(self.workspace_bytes, "workspace")
            self._enter(phase, piece.layer)
            self._play_piece(index, piece)
            self._leave(phase, piece.layer)

    def optimize(self, first: bool) -> None:
        """The optimizer's step over its two groups of weights; the first one makes the states."""
        if first:
            for size in states.shared_bytes(self.recipe.optimizer):
                self.script.allocate(size, "optimizer")
        for group in states.in_groups(self.optimizer_tensors()):
            if first:
                for tensor in group:
                    for size in states.states(self.recipe.optimizer, tensor).device:
                        self.script.allocate(size, "optimizer")
            sizes = states.temporary_bytes(self.recipe.optimizer, group)
            self.script.free([self.script.allocate(size, "optimizer") for size in sizes])

    def free_gradients(self) -> None:
        for storages in self._gradients.values():
            self.script.free(storages)
        self._gradients.clear()

    def optimizer_tensors(self) -> list[states.Tensor]:
        """The weights as this rank's optimizer steps them."""
        return [_tensor(weight, weight.dims) for weight in self.weights]

    def _enter(self, phase: str, layer: int) -> None:
        return None

    def _leave(self, phase: str, layer: int) -> None:
        return None

    def _play_piece(self, index: int, piece: Piece) -> None:
        for home, number, freed in piece.events:
            if freed:
                self.script.free([self._ids.pop((home, number))])
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
        self._buckets = [self.script.allocate(sum(_bytes(weight) for weight in self.weights), "communication")]

    def begin_step(self, step: int) -> None:
        if step != 1:
            return
        self.script.free(self._buckets)
        size, limit = 0, FIRST_BUCKET_BYTES
        for weight in reversed(self.weights):
            size += _bytes(weight)
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
        self._groups: dict[int, list[Weight]] = defaultdict(list)
        for weight in weights:
            self._groups[weight.layer].append(weight)
        self._whole: dict[int, list[int]] = {}
        self._gathered: dict[int, int] = {}
        self._reduced_from: list[int] = []

    def place_weights(self) -> None:
        if not self._offload:
            for weight in self.weights:
                self.script.allocate(_shard_bytes(weight, self.recipe.ranks), "weights")

    def micro_step(self, name: str, first_of_all: bool) -> None:
        super().micro_step("first", first_of_all)  # whole gradients do not outlive a micro-step

    def optimizer_tensors(self) -> list[states.Tensor]:
        return [_tensor(weight, _shard_dims(weight, self.recipe.ranks)) for weight in self.weights]

    def optimize(self, first: bool) -> None:
        if not self._offload:
            super().optimize(first)

    def free_gradients(self) -> None:
        self.script.free(self._shards.values())
        self._shards.clear()

    def begin_step(self, step: int) -> None:
        self._shards: dict[int, int] = {}

    def _enter(self, phase: str, layer: int) -> None:
        if phase == "batch":
            self._gather(-1)
            self._copy_out(-1, keep=True)
        elif phase == "forward":
            self._gather(layer)
            self._drop_gathered(except_for=layer)
            self._copy_out(layer, keep=True)
        elif phase == "backward":
            if layer not in self._gathered or layer == len(self._groups) - 2:
                self._gather(layer)
            self._copy_out(layer, keep=False)
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
        if layer in self._gathered:
            return
        size = sum(self.recipe.ranks * _shard_bytes(weight, self.recipe.ranks) for weight in self._groups[layer])
        self._gathered[layer] = self.script.allocate(size, "communication")

    def _copy_out(self, layer: int, keep: bool) -> None:
        sizes = [self.recipe.ranks * _shard_bytes(weight, self.recipe.ranks) for weight in self._groups[layer]]
        self._whole[layer] = [self.script.allocate(size, "weights") for size in sizes]
        if not keep:
            self._drop_gathered()

    def _drop_gathered(self, except_for: int | None = None) -> None:
        for layer in [layer for layer in self._gathered if layer != except_for]:
            self.script.free([self._gathered.pop(layer)])

    def _reduce(self, layer: int) -> None:
        """Whole gradients become this rank's shard, added to what earlier micro-steps left."""
        self.script.free(self._whole.pop(layer))
        self.script.free(self._reduced_from)
        shard = sum(_shard_bytes(weight, self.recipe.ranks) for weight in self._groups[layer])
        self._reduced_from = [self.script.allocate(self.recipe.ranks * shard, "communication")]
        self.script.free(self._gradients.pop(layer, []))
        made = self.script.allocate(shard, "gradients")
        if layer in self._shards or self._offload:  # added up, or moved to the host
            self.script.free([made])
        else:
            self._shards[layer] = made


def _bytes(weight: Weight) -> int:
    return prod(weight.dims) * weight.item_bytes


def _tensor(weight: Weight, dims: tuple[int, ...]) -> states.Tensor:
    return states.Tensor(prod(dims), weight.item_bytes, matrix=len(dims) >= 2)


def _shard_dims(weight: Weight, ranks: int) -> tuple[int, ...]:
    return (-(-weight.dims[0] // ranks), *weight.dims[1:])


def _shard_bytes(weight: Weight, ranks: int) -> int:
    return prod(_shard_dims(weight, ranks)) * weight.item_bytes
