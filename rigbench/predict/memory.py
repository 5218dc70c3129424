"""Predicts the memory of a training step, on a card that need not be here, and what fits into it.

The real model code is recorded on fake tensors at a few layers and two micro-batches (trace.py), stretched to the
model's depth and along the line in micro-batch or sequence (traces.py), played as a whole loop with its optimizer
(loop.py), and replayed through a replica of torch's allocator (allocator.py). What lies outside the allocator comes
from cards.py.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec

from rigbench.core.record import Absent, Figure
from rigbench.model.counts import total_parameters
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import allocator, cards, compiled
from rigbench.predict.allocator import OutOfMemory, Peaks
from rigbench.predict.loop import Script, ScriptLine, compose, device_bytes, paged_bytes, weights_with
from rigbench.predict.record import LEANER, Breakdown, Largest, OwnRow, Target, VramPrediction
from rigbench.predict.traces import NotPeriodic, Step, Traces

METHOD = 1
BASIS = "the model's code on fake tensors, a replica of torch's allocator; eager"
MOST_SEQUENCES, MOST_TOKENS = 1 << 16, 1 << 20
BASIS_CPU = "the model's code on fake tensors, what is live at its peak; the heap around it from three measured runs"
MICRO_BATCHES = (2, 3)  # loops are a line in the micro-batch from 2 on: one sequence alone takes other operations
SEQUENCE_STEP = 128  # and in the sequence from tile to tile of flash attention's
SEQUENCES = (4, 8)  # in such steps
# What an eager step may take, over what is told: of code that is plain (compiled.plain), and of all other. Peaks of
# real steps on a CPU agree within 0.5 % (tests/test_memory_prediction.py), and 20 read on an H200, of one process each
# under torch 2.11, within 0.1 %, allocated and reserved; 2 of FSDP2 within 1.8 % (tests/test_real_card_memory.py).
PLAIN_ENDS, OTHER_ENDS = (1 - compiled.PLAIN_SPREAD, 1 + compiled.PLAIN_SPREAD), (LEANER, 1 + compiled.SPREAD)
PLAIN_WHY = "±6 % assumed, as such peaks were read on one card alone, within 2 %"
OTHER_WHY = "30 % less to 25 % more, as published eager peaks were 0.74 to 1.21 of it"
OWN_SPREAD = 0.25  # as compiled.SPREAD is for code that nothing was fitted on; assumed
OWN_BASIS = (
    "its own code, eager, on fake tensors, and a replica of torch's allocator; ±25 % assumed, as no published peak of "
    "such code is behind it"
)
KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "communication")
GPU_DECIDES, CPU_DECIDES = "reserved and context, on the device", "tensors and process, in host memory"
ROOM_STEP_BYTES = 32 << 20  # how finely the least room that a step needs is told
# What a CPU process holds at its peak, as a multiple of what is live: glibc's heap keeps freed blocks and fits new ones
# badly between them. Three slices (5M and 15M, micro-batch 4 and 8, fp32 and bf16) held 1.5, 1.6 and 2.0 times.
HOST_HELD = (1.0, 1.7, 2.0)
MOST_WASTE = 2  # no loop's reserved memory comes near twice what is live: that much room needs no replay


class Predictor:
    """Predictions that share their traces."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces
        self._largest: dict[tuple[Model, Recipe, Target], Largest | Absent] = {}

    def predict(self, model: Model, recipe: Recipe, target: Target, program: str = "") -> VramPrediction:
        """A step's peak memory on the target, and whether there is room for it."""
        if compiled.covers(recipe, target):
            return compiled.prediction(model, recipe, target, program=program)
        said = _prediction(model, recipe, target, Case(self._script(model, recipe, target), target), program)
        if not said.over_at_its_high_end:
            return said
        along = self._along(lambda n: (model, msgspec.structs.replace(recipe, micro_batch=n)), MICRO_BATCHES, target)
        return _with_surely(said, along, program)

    def of_one_sequence(self, model: Model, recipe: Recipe, target: Target) -> VramPrediction:
        """The same for one sequence, at less cost where many sizes are asked about."""
        single = msgspec.structs.replace(recipe, micro_batch=1)
        if compiled.covers(recipe, target):
            return compiled.prediction(model, single, target)
        return _prediction(model, single, target, Case(self._script(model, single, target, "width"), target))

    def least_bytes(self, model: Model, recipe: Recipe) -> int:
        """Weights and states alone: no step takes less on each rank."""
        if recipe.strategy == "fsdp2-offload":
            return 0
        weights = weights_with(model.shape, recipe)
        whole = sum(weight.size_bytes for weight in weights) + device_bytes(recipe.optimizer, weights)
        return whole // recipe.ranks if recipe.strategy == "fsdp2" else whole

    def fits(self, model: Model, recipe: Recipe, target: Target) -> bool:
        """Whether a step is expected to fit, as what is told to do is; `predict(…).fits` is also where it may."""
        if compiled.covers(recipe, target):
            return compiled.expected(model, recipe, target)
        return Case(self._script(model, recipe, target), target).fits(cards.room_bytes(target))

    def largest_micro_batch(self, model: Model, recipe: Recipe, target: Target) -> Largest | Absent:
        """The most sequences that fit at once; Absent where not even one does."""
        key = model, recipe, target
        if key not in self._largest:
            self._largest[key] = self._most_sequences(model, recipe, target)
        return self._largest[key]

    def _most_sequences(self, model: Model, recipe: Recipe, target: Target) -> Largest | Absent:
        def at(n: int) -> tuple[Model, Recipe]:
            return model, msgspec.structs.replace(recipe, micro_batch=n)

        if compiled.covers(recipe, target):
            count = most(lambda n: compiled.expected(*at(n), target), MOST_SEQUENCES)
            return _largest(count, count, at, target) if count else Absent("not even one sequence fits")
        case, room = self._along(at, MICRO_BATCHES, target), cards.room_bytes(target)
        count = most(lambda n: case(n).fits(room), MOST_SEQUENCES)
        if not count:
            return Absent("not even one sequence fits")
        said = _prediction(*at(count), target, case(count))
        said = _with_surely(said, case) if said.over_at_its_high_end else said
        return Largest(count, said, case(count + 1).short(room))

    def longest_sequence(self, model: Model, recipe: Recipe, target: Target) -> Largest | Absent:
        """The most tokens, in steps of 128, of a single sequence that fits."""

        def at(n: int) -> tuple[Model, Recipe]:
            shape = msgspec.structs.replace(model.shape, sequence=n * SEQUENCE_STEP)
            return msgspec.structs.replace(model, shape=shape), msgspec.structs.replace(recipe, micro_batch=1)

        if compiled.covers(recipe, target):
            steps = most(lambda n: compiled.expected(*at(n), target), MOST_TOKENS // SEQUENCE_STEP)
            none = Absent(f"not even {SEQUENCE_STEP} tokens fit")
            return _largest(steps, steps * SEQUENCE_STEP, at, target) if steps else none
        case, room = self._along(at, SEQUENCES, target), cards.room_bytes(target)
        steps = most(lambda n: case(n).fits(room), MOST_TOKENS // SEQUENCE_STEP)
        if not steps:
            return Absent(f"not even {SEQUENCE_STEP} tokens fit")
        longest = _prediction(*at(steps), target, case(steps))
        return Largest(steps * SEQUENCE_STEP, longest, Absent("not worked out"))

    def largest_model(self, models: Sequence[Model], recipe: Recipe, target: Target) -> Largest | Absent:
        """The largest of models, smallest first, of which one sequence fits."""
        single = msgspec.structs.replace(recipe, micro_batch=1)
        if compiled.covers(recipe, target):
            found = most(lambda n: compiled.expected(models[n - 1], single, target), len(models)) - 1
            if found < 0:
                return Absent(f"not even {models[0].name}, the smallest of the series")
            largest = compiled.prediction(models[found], single, target)
            return Largest(models[found].total_parameters, largest, Absent("not worked out"))

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
    ) -> Callable[[int], Case]:
        """Loops along the line through two of them; where there is none, each on its own."""
        low, high = points

        def single(n: int) -> Script:
            return self._script(*at(n), target, "sequence" if points == SEQUENCES else "micro-batch")

        line = None
        if at(low)[1].strategy == "single" or points != SEQUENCES:  # buckets and shards are cut by size
            with contextlib.suppress(NotPeriodic):
                line = ScriptLine(single(low), single(high), low, high)
        return lambda n: Case(line.at(n) if line and (n >= low or points == SEQUENCES) else single(n), target)

    def _script(self, model: Model, recipe: Recipe, target: Target, along: str = "micro-batch") -> Script:
        shape = model.shape
        step = Step(
            shape=shape,
            precision={"fp16": "bf16", "tf32": "fp32"}.get(recipe.precision, recipe.precision),
            checkpoint_every=recipe.checkpoint_every,
            loss_chunks=recipe.loss_chunks,
            accumulating=recipe.accumulation > 1 and not recipe.sharded,
            cuda=target.kind == "cuda",
            adapter=recipe.adapter,
            adapter_rank=recipe.adapter_rank,
            adapter_targets=recipe.adapter_targets,
        )
        if along == "width":
            trace = self.traces.of_one_sequence(step)
        elif along == "sequence":
            trace = self.traces.at_sequence(step, shape.sequence)
        else:
            trace = self.traces.at(step, recipe.micro_batch)
        return compose(trace, weights_with(shape, recipe), recipe, target.workspace_bytes)


def _largest(step: int, value: int, at: Callable[[int], tuple[Model, Recipe]], target: Target) -> Largest:
    """Of compiled code: the largest step, what it is of, and what the next one lacks."""
    takes, more = (compiled.expected_bytes(*at(its), target) for its in (step, step + 1))
    said, short = compiled.prediction(*at(step), target), max(1, round(more - target.usable.value))
    return Largest(value, said, short, takes / said.process.value - 1)


def _eager_ends(model: Model, recipe: Recipe, program: str) -> tuple[float, float]:
    plain = compiled.plain(model, msgspec.structs.replace(recipe, compiled=True), program)
    return PLAIN_ENDS if plain else OTHER_ENDS


def _with_surely(said: VramPrediction, along: Callable[[int], Case], program: str = "") -> VramPrediction:
    """With as many sequences at once, up to the recipe's, as fit at the high end too."""
    more = _eager_ends(said.model, said.recipe, program)[1]
    surely = most(lambda n: more * along(n).unlimited.reserved_bytes <= said.room_bytes, said.recipe.micro_batch)
    return msgspec.structs.replace(said, surely=surely)


def _prediction(model: Model, recipe: Recipe, target: Target, case: Case, program: str = "") -> VramPrediction:
    room = cards.room_bytes(target)
    peaks, outside = case.peaks(room), cards.outside(target)
    on_gpu = target.kind == "cuda"
    less, more = _eager_ends(model, recipe, program)
    held = peaks.reserved_bytes if on_gpu else peaks.allocated_bytes
    low, reserved, high = (round(share * held) for share in ((less, 1.0, more) if on_gpu else HOST_HELD))
    assumed = (PLAIN_WHY if (less, more) == PLAIN_ENDS else OTHER_WHY) if on_gpu else ""
    basis = f"{BASIS}, {assumed}" if on_gpu else BASIS_CPU
    ends = tuple(size + beyond for size, beyond in zip((low, high), outside.ends, strict=True))
    if recipe.strategy == "fsdp2-offload":  # one rank's weights, gradients and states
        frozen = total_parameters(model.shape) if recipe.adapted else 0
        trained = sum(its.elements for its in weights_with(model.shape, recipe) if its.trained)
        host_bytes = -(-(16 * trained + recipe.weight_bytes * frozen) // recipe.ranks)
    else:
        host_bytes = paged_bytes(recipe.optimizer, weights_with(model.shape, recipe))
    return VramPrediction(
        method=METHOD,
        basis=basis,
        target=target,
        model=model,
        recipe=recipe,
        allocated_bytes=peaks.allocated_bytes,
        reserved_bytes=reserved if on_gpu else Absent("host memory is not reserved in segments"),
        outside=outside,
        process=Figure(reserved + outside.value, "predicted", basis, *ends),
        host_bytes=host_bytes,
        breakdown=_breakdown(case, peaks, reserved, outside),
        room_bytes=room,
        fits=case.fits(room),
        short_bytes=case.short(room),
        allocator_retries=peaks.retries,
        deciding=GPU_DECIDES if on_gpu else CPU_DECIDES,
        tight=on_gpu and ends[1] > target.usable.value,
        assumed=assumed,
    )


def _breakdown(case: Case, peaks: Peaks, reserved: int, outside: Figure) -> Breakdown:
    """What lives at the peak, and what is held beside it."""
    live: Counter[str] = Counter()
    for storage in allocator.live_at(case.script.events, peaks.peak_at):
        live[case.script.kinds[storage]] += case.script.sizes[storage]
    return Breakdown(
        **{f"{kind}_bytes": live[kind] for kind in KINDS},
        cache_bytes=reserved - live.total(),
        outside_bytes=round(outside.value),
    )


def own_row(script: Callable[[int], Script], recipe: Recipe, target: Target, fixed: int) -> OwnRow:
    """The most samples at once that fit of a program of the user's, whose loop of n samples is `script(n)`; where none
    do, what the fewest take. `fixed`: of every batch, where the program makes no others.

    Its kernels may take other workspaces than those that are known.
    """
    at, room, least = script if fixed else _line_of(script), cards.room_bytes(target), fixed or 1
    count = least if Case(at(least), target).fits(room) else 0
    if count and not fixed:
        count = most(lambda n: Case(at(n), target).fits(room), MOST_SEQUENCES)
    case = Case(at(count or least), target)
    short: int | Absent = Absent("its batches are of one size")
    if count == MOST_SEQUENCES:
        short = Absent("more were not looked for")
    elif not fixed:
        short = Case(at(count + 1), target).short(room)
    peaks, outside = case.peaks(room), cards.outside(target)
    reserved = peaks.reserved_bytes if target.kind == "cuda" else round(HOST_HELD[1] * peaks.allocated_bytes)
    size = reserved + outside.value
    return OwnRow(
        optimizer=recipe.optimizer,
        precision=recipe.precision,
        micro_batch=count or Absent("not even the fewest samples fit"),
        process=Figure(size, "predicted", OWN_BASIS, (1 - OWN_SPREAD) * size, (1 + OWN_SPREAD) * size),
        breakdown=_breakdown(case, peaks, reserved, outside),
        next_short_bytes=short,
    )


def _line_of(script: Callable[[int], Script]) -> Callable[[int], Script]:
    """Along the line through two loops where there is one, else each on its own."""
    low, high = MICRO_BATCHES
    try:
        line = ScriptLine(script(low), script(high), low, high)
    except NotPeriodic:
        return script
    return lambda samples: line.at(samples) if samples >= low else script(samples)


class Case:
    """One loop's allocations on a target: its peaks, and whether they fit into so much room."""

    def __init__(self, script: Script, target: Target) -> None:
        self.script, self.on_gpu = script, target.kind == "cuda"
        # The allocator rounds too little to need less than what is live; the bounds of the least room that suffices.
        self._too_little, self._enough = self.live.allocated_bytes - 1, -1

    @cached_property
    def live(self) -> Peaks:
        live = peak = peak_at = 0
        for position, event in enumerate(self.script.events):
            live += self.script.sizes[event] if event >= 0 else -self.script.sizes[~event]
            if live > peak:
                peak, peak_at = live, position
        return Peaks(peak, peak, 0, peak_at)

    @cached_property
    def unlimited(self) -> Peaks:
        """With as much room as it likes: through the allocator on a GPU, by the usual share on a CPU."""
        if self.on_gpu:
            return allocator.replay(self.script.sizes, self.script.events)
        return self.live._replace(reserved_bytes=round(HOST_HELD[2] * self.live.allocated_bytes))

    def fits(self, room: int) -> bool:
        """Whether it runs in so much room. What counts is the least room in which it was found to run, searched on a
        path that does not depend on `room`: so more room never fits less."""
        live = self.live.allocated_bytes
        if room < live:
            return False
        return room >= MOST_WASTE * live or room >= self.needed_bytes(room)

    def short(self, room: int) -> int:
        """The bytes that are missing, 0 where it fits."""
        return 0 if self.fits(room) else max(1, self.needed_bytes() - room)

    def peaks(self, room: int) -> Peaks:
        """In so much room, in which it fits, or with as much as it likes."""
        if not self.fits(room) or room >= self.unlimited.reserved_bytes:
            return self.unlimited
        for limit in (room, self._enough):
            with contextlib.suppress(OutOfMemory):
                return allocator.replay(self.script.sizes, self.script.events, limit)
        return self.unlimited

    def needed_bytes(self, room: int | None = None) -> int:
        """The least room known to be enough, searched until it is told from `room`, else to 32 MiB."""
        if self._enough < 0:
            self._enough = self.unlimited.reserved_bytes
        while self.on_gpu and self._enough - self._too_little > ROOM_STEP_BYTES:
            if room is not None and not self._too_little < room < self._enough:
                break
            middle = (self._enough + self._too_little) // 2
            try:
                allocator.replay(self.script.sizes, self.script.events, middle)
            except OutOfMemory:
                self._too_little = middle
            else:
                self._enough = middle
        return self._enough


def most(fits: Callable[[int], bool], limit: int, start: int = 1) -> int:
    """The largest n up to `limit` that fits, 0 where none does: doubled from `start` until it does not, then halved.

    The path is the same for every card as far as its answers are, so one that fits more at each n gets no less.
    """
    start = min(start, limit)
    low, high = (start, 2 * start) if fits(start) else (0, start)
    while start <= low < high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
