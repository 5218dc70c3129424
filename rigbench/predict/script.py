"""How is a recorded step stretched to any depth and batch, and played as the allocations of a whole training loop?"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby

import msgspec

Event = tuple[int, int, bool]  # a storage, as its piece and its number in it; whether it is freed or made


class NotPeriodic(Exception):
    """The blocks of a trace do not repeat, so it cannot be stretched; or two traces differ in more than sizes."""


class Piece(msgspec.Struct, frozen=True):
    """What happens between two marks of a step. `layer` is -1 outside the blocks.

    Storage n that is made here has `sizes[n]` bytes and is of `kinds[n]`: weights, gradients, activations, logits,
    workspace.
    """

    phase: str
    layer: int
    sizes: list[int]
    kinds: list[str]
    events: list[Event]


class Trace(msgspec.Struct, frozen=True):
    """The pieces of a step in their order; no two have the same phase and layer."""

    pieces: list[Piece]

    def layers(self) -> int:
        return 1 + max(piece.layer for piece in self.pieces)


def worth_recording(layers: int, period: int) -> list[int]:
    """Depths whose traces may be stretched to `layers`, where every `period`-th block differs: the shortest first."""
    rest = layers % period
    return [*(depth for periods in (3, 4) if (depth := periods * period + rest) < layers), layers]


def stretch(trace: Trace, layers: int, period: int = 1) -> Trace:
    """The trace of a deeper model of the same shape: blocks between the first and the last period are repeated.

    Raises:
        NotPeriodic: the blocks' allocations do not repeat.
    """
    source_layers = trace.layers()
    if layers == source_layers:
        return trace
    source = [_source_layer(target, layers, source_layers, period) for target in range(layers)]
    index = {(piece.phase, piece.layer): number for number, piece in enumerate(trace.pieces)}
    plan = _target_pieces(trace, source)
    position = {(phase, layer): number for number, (phase, layer) in enumerate(plan)}
    made = [trace.pieces[index[phase, source[layer] if layer >= 0 else -1]] for phase, layer in plan]
    pieces = [
        Piece(phase, layer, piece.sizes, piece.kinds, _moved(trace, piece, layer, source, position))
        for (phase, layer), piece in zip(plan, made, strict=True)
    ]
    stretched = Trace(pieces)
    _check(stretched)
    return stretched


def _source_layer(target: int, layers: int, source_layers: int, period: int) -> int:
    from_end = layers - target
    if from_end <= source_layers - 2 * period:
        return source_layers - from_end
    return target if target < period else period + target % period


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
        if its.layer < 0:
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


def _check(trace: Trace) -> None:
    """
    Raises:
        NotPeriodic: a storage is made twice or elsewhere than at home, or is freed twice or before it is made.
    """
    made, freed_already = set[tuple[int, int]](), set[tuple[int, int]]()
    for at, piece in enumerate(trace.pieces):
        for home, number, freed in piece.events:
            storage = home, number
            if freed and storage in made and storage not in freed_already:
                freed_already.add(storage)
            elif not freed and home == at and storage not in made:
                made.add(storage)
            else:
                raise NotPeriodic(f"{piece.phase} {piece.layer}: storage {number} of piece {home}")


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
