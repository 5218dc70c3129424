"""Which micro-batch is the largest that fits, and which is the fastest? Predicted first, then run to be sure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Largest, Target
from rigbench.train import table as arm_table
from rigbench.train.record import MemoryLine, MicroBatchSearch, MicroBatchTry, Slice

ENOUGH_BETTER = 1.01  # a larger micro-batch that brings less than this is not looked beyond
PATIENCE = 2  # so many larger ones in a row that bring no more end the search
LONGEST_STEP_SECONDS = 12.0  # a size whose steps would take longer is not tried
LARGEST = 1 << 16


def find(
    model: Model, recipe: Recipe, predictor: Predictor, target: Target, measure: Callable[[int], Slice | Skipped]
) -> tuple[MicroBatchSearch, Recipe]:
    """Doubles the micro-batch, each in a process of its own, until rates rise no more; and its recipe.

    On a GPU the largest is tried as well, so that what was predicted is confirmed; where it runs out of memory, smaller
    ones are until one runs. On a CPU, where memory is plenty and slow, it is tried only where its steps are short.

    Raises:
        RigbenchError: not even one sequence fits, or none could be measured (exit 3).
    """
    found = predictor.largest_micro_batch(model, recipe, target)
    if isinstance(found, Absent):
        raise RigbenchError(f"--micro-batch auto: {found.reason}", "choose a smaller model", NOTHING)
    tries: dict[int, MicroBatchTry] = {}
    slices: dict[int, Slice] = {}
    ended = _double(found.value, measure, tries, slices)
    largest = _confirm(found.value, measure, tries, slices, target.kind)
    if not slices:
        raise RigbenchError("--micro-batch auto: not one size could be measured", "give a number", NOTHING)
    best = max(slices, key=lambda size: (slices[size].tokens_per_s.value, -size))
    chosen = min(
        size for size, it in slices.items() if it.tokens_per_s.value * ENOUGH_BETTER >= slices[best].tokens_per_s.value
    )
    search = MicroBatchSearch(
        tries=tuple(tries[size] for size in sorted(tries)),
        largest_predicted=found.value,
        largest=largest,
        chosen=chosen,
        why=_why(chosen, best, slices, found, ended),
        line=_line(model, recipe, predictor, target, slices),
    )
    return search, slices[chosen].recipe


def _double(
    most: int,
    measure: Callable[[int], Slice | Skipped],
    tries: dict[int, MicroBatchTry],
    slices: dict[int, Slice],
) -> str:
    """Try 1, 2, 4 and so on; says what ended it."""
    size, best, worse = 1, 0.0, 0
    while size <= most:
        result = _try(size, measure, tries, slices)
        if result is None:
            return f"{size} ran out of memory"
        rate = result.tokens_per_s.value
        worse = 0 if rate > ENOUGH_BETTER * best else worse + 1
        best = max(best, rate)
        if worse == PATIENCE:
            return "larger ones brought no more"
        if 2 * result.step_seconds.value > LONGEST_STEP_SECONDS:
            return f"a step of {2 * size} would take over {units.format_seconds(LONGEST_STEP_SECONDS)}"
        size *= 2
    return ""


def _confirm(
    predicted: int,
    measure: Callable[[int], Slice | Skipped],
    tries: dict[int, MicroBatchTry],
    slices: dict[int, Slice],
    kind: str,
) -> int | Absent:
    """Run the largest that was predicted, and where it does not run the next smaller ones."""
    step = max((it.step_seconds.value / size for size, it in slices.items()), default=0.0) * predicted
    if kind == "cpu" and step > LONGEST_STEP_SECONDS:
        return Absent(f"a step of {predicted} would take {units.format_seconds(step)} on this CPU")
    size = predicted
    while size:
        if size in slices or _try(size, measure, tries, slices):
            return size
        size = size * 15 // 16
    return Absent("none ran")


def _try(
    size: int,
    measure: Callable[[int], Slice | Skipped],
    tries: dict[int, MicroBatchTry],
    slices: dict[int, Slice],
) -> Slice | None:
    """Run one size; None where it ran out of memory or died of it."""
    if size in tries:
        return slices.get(size)
    try:
        result = measure(size)
    except RigbenchError as error:
        if error.exit_code != NOTHING:
            raise
        result = Skipped("train", str(error))
    if isinstance(result, Skipped):
        gone = Absent(result.reason)
        tries[size] = MicroBatchTry(size, gone, gone, gone, "out of memory")
        return None
    peak = arm_table.peak(result)
    size_bytes = peak if isinstance(peak, Absent) else round(peak.value)
    retries = result.memory.allocator_retries
    tries[size] = MicroBatchTry(size, result.tokens_per_s, size_bytes, retries, result.ended_by)
    slices[size] = result
    return result


def _why(chosen: int, best: int, slices: dict[int, Slice], largest: Largest, ended: str) -> str:
    rate = units.format_rate(slices[chosen].tokens_per_s.value)
    if chosen == largest.value:
        return f"{chosen}, the largest that fits, is also the fastest: {rate}"
    beyond = [size for size in slices if size > chosen]
    if not beyond:
        return f"{chosen} is the largest that was tried: {ended}"
    rates = {size: slices[size].tokens_per_s.value / slices[chosen].tokens_per_s.value for size in sorted(beyond)}
    gains = ", ".join(f"{size}: {ratio - 1:+.1%}" for size, ratio in rates.items())
    tail = f"; {ended}" if ended else ""
    same = f" (within 1 % of {best})" if best != chosen else ""
    return f"{chosen} at {rate}{same}, and larger ones bring no more ({gains}){tail}"


def _line(
    model: Model, recipe: Recipe, predictor: Predictor, target: Target, slices: dict[int, Slice]
) -> MemoryLine | Absent:
    """Through the two largest sizes that are twice each other, from 2 on: one sequence alone takes other operations."""
    sizes = sorted(size for size in slices if size >= 2)
    pairs = [(small, large) for small, large in pairwise(sizes) if large >= 2 * small]
    if not pairs:
        return Absent("fewer than two sizes were measured")
    small, large = pairs[-1]
    peaks = [arm_table.peak(slices[size]) for size in (small, large)]
    if any(isinstance(peak, Absent) for peak in peaks):
        return Absent("no memory was read")
    precision = slices[small].recipe.precision
    recipes = (msgspec.structs.replace(recipe, micro_batch=size, precision=precision) for size in (small, large))
    told = [predictor.predict(model, it, target).process for it in recipes]
    measured_slope, measured_at_0 = _through(small, large, *(peak.value for peak in peaks))  # type: ignore[union-attr]
    predicted_slope, predicted_at_0 = _through(small, large, *(one.value for one in told))
    return MemoryLine(small, large, measured_slope, measured_at_0, predicted_slope, predicted_at_0)


def _through(x0: int, x1: int, y0: float, y1: float) -> tuple[float, float]:
    slope = (y1 - y0) / (x1 - x0)
    return slope, y0 - slope * x0
