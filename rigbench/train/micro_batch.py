"""Searches the largest micro-batch that fits and the fastest: predicted first, then run to be sure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Target
from rigbench.train.record import AnySlice, MemoryLine, MicroBatchSearch, MicroBatchTry

ENOUGH_BETTER = 1.01  # a larger micro-batch that brings less than this is not looked beyond
PATIENCE = 2  # so many larger ones in a row that bring no more end the search
LONGEST_STEP_SECONDS = 12.0  # a size whose steps would take longer is not tried


def find(
    model: Model, recipe: Recipe, predictor: Predictor, target: Target, measure: Callable[[int], AnySlice | Skipped]
) -> tuple[MicroBatchSearch, Recipe]:
    """Doubles the micro-batch, each in a process of its own, until rates rise no more; and the fastest's recipe.

    On a GPU the largest is tried as well, so that what was predicted is confirmed; where it runs out of memory, smaller
    ones are until one runs. On a CPU, where memory is plenty and slow, it is tried only where its steps are short.

    Raises:
        RigbenchError: not even one sequence fits, or none could be measured (exit 3).
    """
    predicted = predictor.largest_micro_batch(model, recipe, target)
    if isinstance(predicted, Absent):
        raise RigbenchError(f"--micro-batch auto: {predicted.reason}", "choose a smaller model", NOTHING)
    sizes = _Sizes(measure)
    ended = sizes.double(predicted.value)
    largest = sizes.confirm(predicted.value, target.kind)
    slices = sizes.slices
    if not slices:
        raise RigbenchError("--micro-batch auto: not one size could be measured", "give a number", NOTHING)
    rates = {size: slices[size].items_per_s.value for size in sorted(slices)}
    best = max(rates, key=lambda size: (rates[size], -size))
    chosen = min(size for size, rate in rates.items() if rate * ENOUGH_BETTER >= rates[best])
    search = MicroBatchSearch(
        tries=tuple(sizes.tries[size] for size in sorted(sizes.tries)),
        largest_predicted=predicted.value,
        largest=largest,
        chosen=chosen,
        why=_why(chosen, best, slices, predicted.value, ended),
        line=_line(model, recipe, predictor, target, slices),
    )
    return search, slices[chosen].recipe


class _Sizes:
    """What was tried, each size once."""

    def __init__(self, measure: Callable[[int], AnySlice | Skipped]) -> None:
        self.measure = measure
        self.tries: dict[int, MicroBatchTry] = {}
        self.slices: dict[int, AnySlice] = {}

    def run(self, size: int) -> AnySlice | None:
        """None where it ran out of memory or died of it.

        Raises:
            RigbenchError: it cannot be run at any size.
        """
        if size in self.tries:
            return self.slices.get(size)
        try:
            result = self.measure(size)
        except RigbenchError as error:
            if error.exit_code != NOTHING or not (self.slices or "fit" in error.what_happened):
                raise
            result = Skipped("train", str(error))
        if isinstance(result, Skipped):
            gone = Absent(result.reason)
            self.tries[size] = MicroBatchTry(size, gone, gone, gone, "out of memory")
            return None
        peak, retries = result.peak, result.memory.allocator_retries
        size_bytes = peak if isinstance(peak, Absent) else round(peak.value)
        self.tries[size] = MicroBatchTry(size, result.items_per_s, size_bytes, retries, result.ended_by)
        self.slices[size] = result
        return result

    def double(self, most: int) -> str:
        """Try 1, 2, 4 and so on; says what ended it."""
        size, best, worse = 1, 0.0, 0
        while size <= most:
            result = self.run(size)
            if result is None:
                return f"{size} ran out of memory"
            rate = result.items_per_s.value
            worse = 0 if rate > ENOUGH_BETTER * best else worse + 1
            best = max(best, rate)
            if worse == PATIENCE:
                return "larger ones brought no more"
            if 2 * result.step_seconds.value > LONGEST_STEP_SECONDS:
                return f"a step of {2 * size} would take over {units.format_seconds(LONGEST_STEP_SECONDS)}"
            size *= 2
        return ""

    def confirm(self, predicted: int, kind: str) -> int | Absent:
        """Run the largest that was predicted, and where it does not run the next smaller ones."""
        step = max((it.step_seconds.value / size for size, it in self.slices.items()), default=0.0) * predicted
        if kind == "cpu" and step > LONGEST_STEP_SECONDS:
            return Absent(f"a step of {predicted} would take {units.format_seconds(step)} on this CPU")
        size = predicted
        while size:
            if self.run(size):
                return size
            size = size * 15 // 16
        return Absent("none ran")


def _why(chosen: int, best: int, slices: dict[int, AnySlice], largest: int, ended: str) -> str:
    its = slices[chosen]
    told = its.items_per_s
    rate = units.format_rate(told.value) if its.has_middle else units.format_range(told.low, told.high, "tokens/s")
    if chosen == largest:
        return f"{chosen}, the largest that fits, is also the fastest: {rate}"
    gains = ", ".join(f"{size}: {_gain(slices[size], its)}" for size in sorted(slices) if size > chosen)
    if not gains:
        return f"{chosen} is the largest that was tried: {ended}"
    same = f" (within 1 % of {best})" if best != chosen else ""
    return f"{chosen} at {rate}{same}, and larger ones bring no more ({gains}){f'; {ended}' if ended else ''}"


def _gain(larger: AnySlice, its: AnySlice) -> str:
    if not (larger.has_middle and its.has_middle):
        return "no clear gain"
    return f"{larger.items_per_s.value / its.items_per_s.value - 1:+.1%}"


def _line(
    model: Model, recipe: Recipe, predictor: Predictor, target: Target, slices: dict[int, AnySlice]
) -> MemoryLine | Absent:
    """Through the two largest sizes that are twice each other, from 2 on: one sequence alone takes other operations."""
    sizes = sorted(size for size in slices if size >= 2)
    pairs = [(small, large) for small, large in pairwise(sizes) if large >= 2 * small]
    if not pairs:
        return Absent("fewer than two sizes were measured")
    small, large = pairs[-1]
    peaks = [peak for size in pairs[-1] if isinstance(peak := slices[size].peak, Figure)]
    if len(peaks) < 2:
        return Absent("no memory was read")
    precision = slices[small].recipe.precision
    same = (msgspec.structs.replace(recipe, micro_batch=size, precision=precision) for size in pairs[-1])
    predictions = [predictor.predict(model, it, target).process for it in same]
    slope, predicted = ((ends[1].value - ends[0].value) / (large - small) for ends in (peaks, predictions))
    return MemoryLine(
        small=small,
        large=large,
        measured_slope_bytes=slope,
        measured_intercept_bytes=peaks[0].value - slope * small,
        predicted_slope_bytes=predicted,
        predicted_intercept_bytes=predictions[0].value - predicted * small,
    )
