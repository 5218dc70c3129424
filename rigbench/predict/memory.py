"""How much memory will a training step take, on a card that need not be here?

The real model code is recorded on fake tensors at a few layers and two micro-batches (trace.py), stretched to the
model's depth and along the line in micro-batch or sequence, played as a whole loop with its optimizer (loop.py), and
replayed through a replica of torch's allocator (allocator.py). What lies outside the allocator comes from cards.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod

import msgspec

from rigbench.core.record import Absent, Figure
from rigbench.model.counts import parameter_tensors, total_parameters
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model, Shape
from rigbench.predict import allocator, cards, states
from rigbench.predict.allocator import Peaks
from rigbench.predict.loop import Weight, compose
from rigbench.predict.record import Breakdown, Largest, Target, VramPrediction
from rigbench.predict.room import HOST_HELD, Case, most
from rigbench.predict.script import NotPeriodic, Script, ScriptLine
from rigbench.predict.traces import Step, Traces

METHOD = 1
BASIS = "the model's code on fake tensors, a replica of torch's allocator; eager, so an upper bound for compiled runs"
MOST_SEQUENCES, MOST_TOKENS = 1 << 16, 1 << 20
BASIS_CPU = "the model's code on fake tensors, what is live at its peak; the heap around it from three measured slices"
MICRO_BATCHES = (2, 3)  # loops are a line in the micro-batch from 2 on: one sequence alone takes other operations
SEQUENCE_STEP = 128  # and in the sequence from tile to tile of flash attention's
SEQUENCES = (4, 8)  # in such steps
GPU_DECIDES, CPU_DECIDES = "reserved and context, on the device", "tensors and process, in host memory"


class Predictor:
    """Predictions that share their traces."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces

    def predict(self, model: Model, recipe: Recipe, target: Target) -> VramPrediction:
        """A step's peak memory on the target, and whether there is room for it."""
        return _prediction(model, recipe, target, self._case(model, recipe, target))

    def of_one_sequence(self, model: Model, recipe: Recipe, target: Target) -> VramPrediction:
        """The same for one sequence, at less cost where many sizes are asked about."""
        single = msgspec.structs.replace(recipe, micro_batch=1)
        return _prediction(model, single, target, Case(self._script(model, single, target, "width"), target))

    def least_bytes(self, model: Model, recipe: Recipe) -> int:
        """Weights and states alone: no step takes less on each rank."""
        if recipe.strategy == "fsdp2-offload":
            return 0
        parameters = weights(model.shape, _item_bytes(recipe))
        tensors = [states.Tensor(prod(weight.dims), weight.item_bytes, len(weight.dims) >= 2) for weight in parameters]
        kept = sum(tensor.elements * tensor.item_bytes for tensor in tensors)
        whole = kept + states.device_bytes(recipe.optimizer, tensors)
        return whole // recipe.ranks if recipe.strategy == "fsdp2" else whole

    def fits(self, model: Model, recipe: Recipe, target: Target) -> bool:
        """Whether there is room for a step: `predict(…).fits` at less cost."""
        return self._case(model, recipe, target).fits(cards.room_bytes(target))

    def largest_micro_batch(self, model: Model, recipe: Recipe, target: Target) -> Largest | Absent:
        """The most sequences that fit at once; Absent where not even one does."""

        def at(n: int) -> tuple[Model, Recipe]:
            return model, msgspec.structs.replace(recipe, micro_batch=n)

        scripts = self._along(at, MICRO_BATCHES, target)
        room = cards.room_bytes(target)
        found = most(lambda n: Case(scripts(n), target).fits(room), MOST_SEQUENCES)
        if not found:
            return Absent("not even one sequence fits")
        largest = _prediction(*at(found), target, Case(scripts(found), target))
        return Largest(found, largest, Case(scripts(found + 1), target).short(room))

    def longest_sequence(self, model: Model, recipe: Recipe, target: Target) -> Largest | Absent:
        """The most tokens, in steps of 128, of a single sequence that fits."""

        def at(n: int) -> tuple[Model, Recipe]:
            return _at_sequence(model, n * SEQUENCE_STEP), msgspec.structs.replace(recipe, micro_batch=1)

        scripts = self._along(at, SEQUENCES, target)
        room = cards.room_bytes(target)
        found = most(lambda n: Case(scripts(n), target).fits(room), MOST_TOKENS // SEQUENCE_STEP)
        if not found:
            return Absent(f"not even {SEQUENCE_STEP} tokens fit")
        longest = _prediction(*at(found), target, Case(scripts(found), target))
        return Largest(found * SEQUENCE_STEP, longest, Absent("not worked out"))

    def largest_model(self, models: Sequence[Model], recipe: Recipe, target: Target) -> Largest | Absent:
        """The largest of models, smallest first, of which one sequence fits."""

        single = msgspec.structs.replace(recipe, micro_batch=1)

        def case(index: int) -> Case:
            return Case(self._script(models[index], single, target, "width"), target)

        room = cards.room_bytes(target)

        def fits(n: int) -> bool:
            return self.least_bytes(models[n - 1], single) <= room and case(n - 1).fits(room)

        found = most(fits, len(models), start=1 + len(models) // 3) - 1
        if found < 0:
            return Absent(f"not even {models[0].name}, the smallest of the series")
        largest = _prediction(models[found], single, target, case(found))
        return Largest(models[found].total_parameters, largest, Absent("not worked out"))

    def _along(
        self, at: Callable[[int], tuple[Model, Recipe]], points: tuple[int, int], target: Target
    ) -> Callable[[int], Script]:
        """Loops along the line through two of them; where there is none, each on its own."""
        low, high = points

        def single(n: int) -> Script:
            return self._script(*at(n), target, "sequence" if points == SEQUENCES else "micro-batch")

        if at(low)[1].strategy != "single" and points == SEQUENCES:  # buckets and shards are cut by size
            return single
        try:
            line = ScriptLine(single(low), single(high), low, high)
        except NotPeriodic:
            return single
        return lambda n: line.at(n) if n >= low or points == SEQUENCES else single(n)

    def _case(self, model: Model, recipe: Recipe, target: Target) -> Case:
        return Case(self._script(model, recipe, target), target)

    def _script(self, model: Model, recipe: Recipe, target: Target, along: str = "micro-batch") -> Script:
        shape = model.shape
        step = Step(
            shape=shape,
            precision=_recorded_precision(recipe.precision),
            checkpoint_every=recipe.checkpoint_every,
            loss_chunks=recipe.loss_chunks,
            accumulating=recipe.accumulation > 1 and not recipe.sharded,
            cuda=target.kind == "cuda",
        )
        if along == "width":
            trace = self.traces.of_one_sequence(step)
        elif along == "sequence":
            trace = self.traces.at_sequence(step, shape.sequence)
        else:
            trace = self.traces.at(step, recipe.micro_batch)
        return compose(trace, weights(shape, _item_bytes(recipe)), recipe, target.workspace_bytes)


def _prediction(model: Model, recipe: Recipe, target: Target, case: Case) -> VramPrediction:
    room = cards.room_bytes(target)
    peaks, outside = case.peaks(room), cards.outside(target)
    on_gpu = target.kind == "cuda"
    held = [peaks.reserved_bytes] * 3 if on_gpu else [round(share * peaks.allocated_bytes) for share in HOST_HELD]
    low, reserved, high = held
    process = Figure(
        reserved + outside.value,
        "predicted",
        BASIS if on_gpu else BASIS_CPU,
        low + _or(outside.low, outside.value),
        high + _or(outside.high, outside.value),
    )
    return VramPrediction(
        method=METHOD,
        basis=process.basis,
        target=target,
        model=model,
        recipe=recipe,
        allocated_bytes=peaks.allocated_bytes,
        reserved_bytes=reserved if on_gpu else Absent("host memory is not reserved in segments"),
        outside=outside,
        process=process,
        host_bytes=_host_bytes(model, recipe),
        breakdown=_breakdown(case.script, peaks, reserved, round(outside.value)),
        room_bytes=room,
        fits=case.fits(room),
        short_bytes=case.short(room),
        allocator_retries=peaks.retries,
        deciding=GPU_DECIDES if on_gpu else CPU_DECIDES,
    )


def _breakdown(script: Script, peaks: Peaks, reserved: int, outside: int) -> Breakdown:
    live: Counter[str] = Counter()
    for storage in allocator.live_at(script.events, peaks.peak_at):
        live[script.kinds[storage]] += script.sizes[storage]
    kinds = ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "communication")
    parts = {f"{kind}_bytes": live[kind] for kind in kinds}
    return Breakdown(**parts, cache_bytes=reserved - live.total(), outside_bytes=outside)


def weights(shape: Shape, item_bytes: int) -> tuple[Weight, ...]:
    """A decoder's parameters with the blocks that they belong to."""
    return tuple(
        Weight(int(name.split(".")[1]) if name.startswith("blocks.") else -1, dims, item_bytes)
        for name, dims in parameter_tensors(shape)
    )


def _item_bytes(recipe: Recipe) -> int:
    return 2 if recipe.precision == "bf16-pure" else 4


def _host_bytes(model: Model, recipe: Recipe) -> int:
    """Paged states, or one rank's weights, gradients and states where they are offloaded."""
    if recipe.strategy == "fsdp2-offload":
        return -(-16 * total_parameters(model.shape) // recipe.ranks)
    tensors = [
        states.Tensor(prod(weight.dims), weight.item_bytes, len(weight.dims) >= 2) for weight in weights(model.shape, 4)
    ]
    return states.paged_bytes(recipe.optimizer, tensors)


def _at_sequence(model: Model, tokens: int) -> Model:
    return msgspec.structs.replace(model, shape=msgspec.structs.replace(model.shape, sequence=tokens))


def _recorded_precision(precision: str) -> str:
    """fp16 takes what bf16 takes, tf32 what fp32 does."""
    return {"fp16": "bf16", "tf32": "fp32"}.get(precision, precision)


def _or(value: float | Absent, default: float) -> float:
    return default if isinstance(value, Absent) else value
