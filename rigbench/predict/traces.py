"""Keeps recorded training steps, in memory and on disk, and stretches them to any depth, width, batch and sequence."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from itertools import accumulate, groupby
from pathlib import Path

import msgspec

from rigbench.core.files import read_regular, write_whole
from rigbench.core.record import Record
from rigbench.model.recipe import Adapter, Recipe, Targets
from rigbench.model.record import Shape

PACKAGE = Path(__file__).resolve().parents[1]
RECORDED_BY = (
    "model/gpt.py",
    "model/lora.py",
    "predict/trace.py",
    "predict/traces.py",
)  # a change in one of them makes traces stale
MICRO_BATCHES = (2, 3)  # the line goes through these; one sequence alone takes other operations
WIDTHS, HEAD = (512, 768, 1024), 64  # with heads of 64 and an MLP of four widths, sizes are a parabola in the width
SEQUENCES = (512, 1024)  # tokens: sizes are a line in them, from tile to tile of flash attention's
Event = tuple[int, int, bool]  # a storage, as its piece and its number in it; whether it is freed or made
# Storages of no piece: what the forward thread makes for good at its first product of matrices and at its first with a
# bias; of the backward thread one more. The card decides how large.
OF_THREADS, PRODUCTS, BIASED = -1, 0, 2


class NotPeriodic(Exception):
    """The blocks of a trace do not repeat, so it cannot be stretched; or two traces differ in more than sizes."""


class Piece(msgspec.Struct, frozen=True):
    """What happens between two marks of a step."""

    phase: str
    layer: int  # -1: outside the blocks
    sizes: list[int]  # of the storages that are made here, by number
    kinds: list[str]  # of each: weights, gradients, activations, logits, workspace
    events: list[Event]


class Trace(msgspec.Struct, frozen=True):
    """The pieces of a step in their order; no two have the same phase and layer."""

    pieces: list[Piece]


def worth_recording(layers: int, period: int) -> list[int]:
    """Depths whose traces may be stretched to `layers`, where every `period`-th block differs: the shortest first."""
    rest = layers % period
    return [*(depth for periods in (3, 4) if (depth := periods * period + rest) < layers), layers]


def stretch(trace: Trace, layers: int, period: int = 1) -> Trace:
    """The trace of a deeper model of the same shape: blocks between the first and the last period are repeated.

    Raises:
        NotPeriodic: the blocks' allocations do not repeat.
    """
    source_layers = 1 + max(piece.layer for piece in trace.pieces)
    if layers == source_layers:
        return trace
    source = []  # the layer that each one takes after
    for layer in range(layers):
        from_end = layers - layer
        if from_end <= source_layers - 2 * period:
            source.append(source_layers - from_end)
        else:
            source.append(layer if layer < period else period + layer % period)
    index = {(piece.phase, piece.layer): number for number, piece in enumerate(trace.pieces)}
    plan = _target_pieces(trace, source)
    position = {(phase, layer): number for number, (phase, layer) in enumerate(plan)}
    made = [trace.pieces[index[phase, source[layer] if layer >= 0 else -1]] for phase, layer in plan]
    pieces = [
        Piece(phase, layer, piece.sizes, piece.kinds, _moved(trace, piece, layer, source, position))
        for (phase, layer), piece in zip(plan, made, strict=True)
    ]
    made_at, freed_already = set[tuple[int, int]](), set[tuple[int, int]]()
    for at, piece in enumerate(pieces):
        for home, number, freed in piece.events:
            storage = home, number
            if home == OF_THREADS:
                continue
            if freed and storage in made_at and storage not in freed_already:
                freed_already.add(storage)
            elif not freed and home == at and storage not in made_at:
                made_at.add(storage)
            else:  # made twice or elsewhere than at home, or freed twice or before it is made
                raise NotPeriodic(f"{piece.phase} {piece.layer}: storage {number} of piece {home}")
    return Trace(pieces)


def _target_pieces(trace: Trace, source: list[int]) -> list[tuple[str, int]]:
    """Phases and layers in their new order: each run of one phase over the layers becomes a longer run."""
    plan: list[tuple[str, int]] = []
    for piece in trace.pieces:
        if piece.layer < 0:
            plan.append((piece.phase, -1))
        elif not plan or plan[-1][0] != piece.phase:
            upwards = piece.layer == 0
            every = range(len(source)) if upwards else reversed(range(len(source)))
            plan += [(piece.phase, layer) for layer in every]
    return plan


def _moved(
    trace: Trace, piece: Piece, layer: int, source: list[int], position: dict[tuple[str, int], int]
) -> list[Event]:
    """A piece's events, told of the storages that take the same part in the deeper model."""
    events: list[Event] = []
    for home, number, freed in piece.events:
        its = trace.pieces[home]
        if home == OF_THREADS:
            events.append((home, number, freed))
        elif its.layer < 0:
            events.append((position[its.phase, -1], number, freed))
        elif layer >= 0:
            there = its.layer + layer - source[layer]
            if not 0 <= there < len(source):
                raise NotPeriodic(f"{piece.phase} of layer {layer} refers to layer {there}")
            events.append((position[its.phase, there], number, freed))
        else:  # outside the blocks, what befalls a layer befalls all that it stands for
            events += [
                (position[its.phase, target], number, freed)
                for target, its_source in enumerate(source)
                if its_source == its.layer
            ]
    return events if layer >= 0 else in_order(events)


def in_order(events: list[Event]) -> list[Event]:
    """Storages that are freed in one go, sorted: their order is arbitrary, and does not matter to an allocator."""
    runs = [list(run) for _, run in groupby(events, key=lambda event: event[2])]
    return [event for run in runs for event in (sorted(run) if run[0][2] else run)]


def between(points: Sequence[tuple[int, Trace]], x: int) -> Trace:
    """The trace at x, each size on the polynomial through its sizes at the points; x may lie beyond them.

    Sizes are a line in the sequences of a micro-batch, and a parabola in the width.

    Raises:
        NotPeriodic: the traces differ in more than sizes, or a size is no such polynomial.
    """
    first = points[0][1].pieces
    for _, other in points[1:]:
        if [(a.phase, a.layer, a.kinds, a.events) for a in first] != [
            (b.phase, b.layer, b.kinds, b.events) for b in other.pieces
        ]:
            raise NotPeriodic("the traces have different events")
    weights, divisor = _lagrange([at for at, _ in points], x)
    pieces = []
    for number, piece in enumerate(first):
        columns = zip(*(trace.pieces[number].sizes for _, trace in points), strict=True)
        sizes = [divmod(sum(map(operator.mul, weights, column)), divisor) for column in columns]
        if any(rest or size <= 0 for size, rest in sizes):
            raise NotPeriodic(f"{piece.phase} {piece.layer}: sizes are no polynomial")
        pieces.append(msgspec.structs.replace(piece, sizes=[size for size, _ in sizes]))
    return Trace(pieces)


def _lagrange(places: Sequence[int], x: int) -> tuple[list[int], int]:
    """Whole weights of the values at the places, and what their sum is divided by."""
    ratios = []
    for place in places:
        others = [other for other in places if other != place]
        ratios.append(Fraction(math.prod(x - other for other in others), math.prod(place - other for other in others)))
    divisor = math.lcm(*(ratio.denominator for ratio in ratios))
    return [int(ratio * divisor) for ratio in ratios], divisor


class Step(Record, frozen=True):
    """What a step's trace depends on, besides its micro-batch."""

    shape: Shape
    precision: str  # fp32, bf16 or bf16-pure: fp16 takes what bf16 takes, and tf32 what fp32 does
    checkpoint_every: int
    loss_chunks: int
    accumulating: bool
    cuda: bool
    adapter: Adapter = "none"
    adapter_rank: int = 0
    adapter_targets: Targets = "all"

    @property
    def recipe(self) -> Recipe:
        """What of it an adapter depends on."""
        its = self.adapter, self.adapter_rank, self.adapter_targets
        return Recipe(adapter=its[0], adapter_rank=its[1], adapter_targets=its[2])

    def of_shape(self, **changes: int) -> Step:
        """The same of another shape."""
        return msgspec.structs.replace(self, shape=msgspec.structs.replace(self.shape, **changes))


class Traces:
    """Recorded steps. `folder` None: nothing is kept on disk."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._whole: dict[tuple[Step, int], Trace] = {}
        self._recorded: dict[tuple[Step, int], Trace] = {}

    def at(self, step: Step, micro_batch: int) -> Trace:
        """The step at a micro-batch: on the line through two recorded ones, or recorded itself."""
        if micro_batch <= MICRO_BATCHES[-1]:
            return self._deep(step, micro_batch)
        try:
            return between([(known, self._deep(step, known)) for known in MICRO_BATCHES], micro_batch)
        except NotPeriodic:
            return self._deep(step, micro_batch)

    def of_one_sequence(self, step: Step) -> Trace:
        """The same for one sequence, without a record of its own where three widths tell those of all others."""
        shape, period = step.shape, max(1, step.checkpoint_every)
        if not (
            shape.plain
            and shape.width == HEAD * shape.heads == HEAD * shape.kv_heads
            and shape.ffn_width == 4 * shape.width
        ):
            return self._deep(step, 1)
        depth = worth_recording(shape.layers, period)[0]
        points = []
        try:
            for width in WIDTHS:
                heads = width // HEAD
                other = step.of_shape(layers=depth, width=width, heads=heads, kv_heads=heads, ffn_width=4 * width)
                points.append((width, self._known(other, 1)))
            return stretch(between(points, shape.width), shape.layers, period)
        except NotPeriodic:
            return self._deep(step, 1)

    def at_sequence(self, step: Step, tokens: int) -> Trace:
        """One sequence of so many tokens, a multiple of 128 (flash attention's tiles)."""
        try:
            points = [(known, self._deep(step.of_shape(sequence=known), 1)) for known in SEQUENCES]
            return between(points, tokens)
        except NotPeriodic:
            return self._deep(step.of_shape(sequence=tokens), 1)

    def block(self, shape: Shape, tokens: int) -> int:
        """Peak bytes of one block that reads a prompt of so many tokens in bf16, without gradients."""
        step = Step(shape, "bf16 inference", 0, 0, accumulating=False, cuda=True)
        peaks = []
        for length in SEQUENCES:
            piece = self._known(step.of_shape(layers=1, sequence=length), 1, "record_block").pieces[0]
            events = [(number, freed) for home, number, freed in piece.events if home != OF_THREADS]
            changes = [-piece.sizes[number] if freed else piece.sizes[number] for number, freed in events]
            peaks.append(max(accumulate(changes)))
        (small, large), (low, high) = peaks, SEQUENCES
        return round(small + (large - small) / (high - low) * (tokens - low))

    def _deep(self, step: Step, micro_batch: int) -> Trace:
        """At full depth, stretched from the shallowest trace that can be."""
        key = step, micro_batch
        if key in self._whole:
            return self._whole[key]
        layers, period = step.shape.layers, max(1, step.checkpoint_every)
        for depth in worth_recording(layers, period):
            with contextlib.suppress(NotPeriodic):
                trace = stretch(self._known(step.of_shape(layers=depth), micro_batch), layers, period)
                break
        self._whole[key] = trace
        return trace

    def _known(self, step: Step, micro_batch: int, record: str = "record") -> Trace:
        """Known already, or on disk, else recorded now: only that needs torch, which takes seconds to load."""
        key = step, micro_batch
        if key not in self._recorded:
            self._recorded[key] = self._from_disk(step, micro_batch, record)
        return self._recorded[key]

    def _from_disk(self, step: Step, micro_batch: int, record: str) -> Trace:
        digest = hashlib.sha256(msgspec.json.encode((_code(), step, micro_batch))).hexdigest()[:24]
        path = self.folder and self.folder / f"{digest}.json"
        if path:
            with contextlib.suppress(OSError, ValueError, RecursionError):  # a torn file is recorded again
                return msgspec.json.decode(read_regular(path), type=Trace)
        trace: Trace = getattr(importlib.import_module("rigbench.predict.trace"), record)(step, micro_batch)
        if path:
            with contextlib.suppress(OSError):  # a full disk costs time, not the answer
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, msgspec.json.encode(trace))
        return trace


@functools.cache
def _code() -> str:
    """The code and the torch that recorded: either may change what is allocated."""
    content = b"".join((PACKAGE / name).read_bytes() for name in RECORDED_BY)
    return hashlib.sha256(content + metadata.version("torch").encode()).hexdigest()
