"""Holds a run's results against each other: two of one run that cannot both be true are a finding, not two numbers."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec

from rigbench.bandwidth.record import Bandwidth, Transfer
from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, finding
from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.matmul.record import CLOCK_FALLS, Ceiling, Matmul
from rigbench.train.record import AnySlice, Slice

# A step is its products and what lies between them: on a CPU up to half of it (0.9 of the sum to twice that in
# reports/), on a GPU that waits for launches several times the products. More is no training step of this machine.
TIMES_ITS_PRODUCTS = {"cpu": 4.0, "cuda": 10.0}
PART_OF_ITS_PRODUCTS = 0.9  # what a step may take less: they are timed with the cache flushed between
FALLS = 0.5  # a larger model computes no less well; beyond the last cache a CPU may lose a fifth
MEMORY_DIFFERS = 2.0  # times: what lies in no cache is memory, whether the probe calls it so or not
FASTER_THAN_CACHE = 1.25
WIDE = 0.5  # half an interval: nothing can be said to be measured there
APART = 1.10  # times, beyond both intervals: one machine's processes differ by 5 % (budget/rates.py)
CLEARLY = 1.25  # times, where a rate has no interval
LISTED = 4
COST = "they do not show how far either is from the truth"


def contradictions(run: Run) -> tuple[Finding, ...]:
    """Of what the run's rooms hold; what is known to be disturbed is left out before."""
    return tuple(item for holds in CONTRADICTIONS for item in holds(run))


def _slices(run: Run) -> list[Slice]:
    return [item for item in run.slices if isinstance(item, Slice)]


def _found(code: str, where: str, *evidence: str) -> Finding:
    return finding(code, "warning", evidence, (where,), COST)


def against_its_products(run: Run) -> Iterator[Finding]:
    """A slice of the very model and batch whose products were timed, against their sum."""
    if not isinstance(run.matmul, Matmul):
        return
    sums = {(it.dtype, it.micro_batch): it.seconds for it in run.matmul.steps if not isinstance(it.seconds, Absent)}
    for its in _slices(run):
        recipe = its.recipe
        products = sums.get((recipe.dtype, recipe.micro_batch))
        if products is None or (its.model.shape, its.device) != (run.matmul.model.shape, run.matmul.device):
            continue
        if its.cards > 1 or recipe.checkpoint_every or recipe.loss_chunks > 1:
            continue
        step = its.step_seconds / recipe.accumulation
        too_slow = step.low > TIMES_ITS_PRODUCTS[its.device.kind] * products.high
        too_fast = step.high < PART_OF_ITS_PRODUCTS * products.low
        if too_slow or too_fast:
            yield _found(
                "step-against-products",
                f"training {its.model.name}",
                f"a step takes {units.format_seconds(step.value)}",
                f"its matrix products alone were timed at {units.format_seconds(products.value)} in all",
            )


def efficiency_falls(run: Run) -> Iterator[Finding]:
    """Along the size, slices of one recipe on one device: FLOP/s rise, or stay."""
    groups: dict[object, list[Slice]] = defaultdict(list)
    for its in _slices(run):
        recipe = msgspec.structs.replace(its.recipe, micro_batch=0, accumulation=1)
        groups[its.device, recipe, its.model.shape.style].append(its)
    for group in groups.values():
        group.sort(key=lambda its: its.model.flop_per_token)
        for small, large in itertools.pairwise(group):
            smaller, larger = (its.tokens_per_s * its.model.flop_per_token for its in (small, large))
            if larger.high < FALLS * smaller.low:
                yield _found(
                    "efficiency-falls",
                    f"training {large.model.name}",
                    f"{small.model.name} reaches {units.format_flops_per_s(smaller.value)}",
                    f"{large.model.name}, trained the same way, {units.format_flops_per_s(larger.value)}",
                )


def memory_against_caches(run: Run) -> Iterator[Finding]:
    """The same operation by as many threads in the same place: large arrays, and the curve over sizes."""
    if not isinstance(run.bandwidth, Bandwidth):
        return
    for part in run.bandwidth.parts:
        curves: dict[object, list[Transfer]] = defaultdict(list)
        for row in part.transfers:
            if row.source == row.destination:
                curves[row.operation, row.source, row.threads, row.both_ways].append(row)
        for rows in curves.values():
            warm, cold = [row for row in rows if row.warm], [row for row in rows if not row.warm]
            if not warm or not cold:
                continue
            memory = max(cold, key=lambda row: row.size_bytes)
            last, a = max(warm, key=lambda row: row.size_bytes), memory.bytes_per_s
            b, is_memory = last.bytes_per_s, last.size_bytes >= memory.size_bytes / 2
            differs = is_memory and (a.low > MEMORY_DIFFERS * b.high or b.low > MEMORY_DIFFERS * a.high)
            best = max((row for row in warm if row is not last), key=lambda row: row.bytes_per_s.low, default=last)
            if differs or a.low > FASTER_THAN_CACHE * best.bytes_per_s.high:
                other = last if differs else best
                yield _found(
                    "memory-against-caches",
                    part.name,
                    f"{_row(memory)}, from memory",
                    f"{_row(other)}, {'the end' if differs else 'the fastest point'} of the curve over sizes",
                )


def _row(row: Transfer) -> str:
    rate = units.format_bytes_per_s(row.bytes_per_s.value)
    return f"{row.operation} of {units.format_bytes(row.size_bytes)}: {rate}"


def repeats_apart(run: Run) -> Iterator[Finding]:
    """Whose own repeats spread so far that they measured nothing."""
    rates: dict[str, dict[str, Estimate]] = defaultdict(dict)
    if isinstance(run.matmul, Matmul):
        for ceiling in run.matmul.ceilings:
            for name, phase in (("hot", ceiling.hot), ("burst", ceiling.burst)):
                if not isinstance(phase, Absent):
                    rates["matmul"][f"{ceiling.dtype} {name}"] = phase.flops_per_s
        rates["matmul"] |= {f"{it.dtype} {it.purpose} {it.product}": it.flops_per_s for it in run.matmul.shapes}
    if isinstance(run.bandwidth, Bandwidth):
        for part in run.bandwidth.parts:
            rates["bandwidth"] |= {_row(row): row.bytes_per_s for row in part.transfers}
    for number, its in enumerate(run.slices):
        if isinstance(its, AnySlice):
            rates["slices"][f"training {number + 1}, {its.model.name}"] = its.items_per_s
    for room, named in rates.items():
        wide = {name: it for name, it in named.items() if it.level >= stats.LEVEL - 0.001 and it.half_width > WIDE}
        if wide:
            worst = sorted(wide, key=lambda name: -wide[name].half_width)
            lines = [f"{name}: {units.format_plus_minus(wide[name].half_width)}" for name in worst[:LISTED]]
            more = [f"and {len(worst) - LISTED} more"] if len(worst) > LISTED else []
            yield _found("repeats-apart", room, *lines, *more)


def above_its_ceiling(run: Run) -> Iterator[Finding]:
    """What is clearly faster than the products under sustained load: a whole step, which has more to do than they and
    takes minutes too; a product in a short test only by more than a clock falls under load.
    """
    if not isinstance(run.matmul, Matmul):
        return
    for ceiling in run.matmul.ceilings:
        if isinstance(ceiling.hot, Absent):
            continue
        hot = ceiling.hot.flops_per_s
        found = [(low / CLOCK_FALLS, rate, name) for low, rate, name in _products(run.matmul, ceiling)]
        for its in _slices(run):
            if its.recipe.dtype == ceiling.dtype and its.device == run.matmul.device:
                flop = its.model.flop_per_token / its.cards
                found.append((its.tokens_per_s.low * flop, its.tokens_per_s.value * flop, f"training {its.model.name}"))
        low, value, what = max(found, default=(0.0, 0.0, ""))
        if low > hot.high:
            yield _found(
                "above-its-ceiling",
                f"matmul {ceiling.dtype}",
                f"the ceiling, {ceiling.words}: {units.format_flops_per_s(hot.value)} sustained",
                f"{what}: {units.format_flops_per_s(value)}",
            )


def above_what_was_searched(run: Run) -> Iterator[Finding]:
    """A product of the model beside the searched shape, each in a short test: by more than processes differ."""
    if not isinstance(run.matmul, Matmul):
        return
    for ceiling in run.matmul.ceilings:
        low, value, what = max(_products(run.matmul, ceiling), default=(0.0, 0.0, ""))
        if isinstance(ceiling.hot, Absent) or low > CLOCK_FALLS * ceiling.hot.flops_per_s.high:
            continue
        searched = ceiling.flop / min(ceiling.searched_seconds, default=math.inf)
        if low > APART * searched > 0:
            time = f"{units.format_seconds(ceiling.search_seconds)} ({ceiling.search_ended_by})"
            evidence = (
                f"the fastest shape of {time}, {ceiling.words}: {units.format_flops_per_s(searched)} in a short test",
                f"{what}: {units.format_flops_per_s(value)} in a short test",
            )
            yield finding("search-missed", "information", evidence, (f"matmul {ceiling.dtype}",), "nothing in speed")


def _products(matmul: Matmul, ceiling: Ceiling) -> Iterator[tuple[float, float, str]]:
    """The low end of the model's own products in one precision, their rate, and which they are."""
    for it in matmul.shapes:
        if it.dtype == ceiling.dtype and it.check.correct:
            low = it.flops_per_s.low if it.flops_per_s.level >= stats.LEVEL else it.flops_per_s.value / CLEARLY
            yield low, it.flops_per_s.value, f"{it.purpose} {it.product}, {it.words}"


def measured_twice(run: Run) -> Iterator[Finding]:
    """The same slice again, or the same product alone on the first of several devices."""
    pairs: list[tuple[str, Estimate, Estimate, Callable[[float], str]]] = []
    groups: dict[object, list[Slice]] = defaultdict(list)
    for its in _slices(run):
        groups[its.device, its.recipe, its.model.shape].append(its)
    for group in groups.values():
        rates = sorted((its.tokens_per_s for its in group), key=lambda it: it.value)
        if len(rates) > 1:
            pairs.append((f"training {group[0].model.name}", rates[0], rates[-1], units.format_rate))
    if isinstance(run.matmul, Matmul) and not isinstance(run.matmul.fleet, Absent):
        fleet = run.matmul.fleet
        for ceiling in run.matmul.ceilings:
            if (ceiling.dtype, ceiling.dims) == (fleet.dtype, fleet.dims) and not isinstance(ceiling.hot, Absent):
                a, b = ceiling.hot.flops_per_s, fleet.lanes[0].alone_flops_per_s
                slow, fast = sorted((a, b), key=lambda it: it.value)
                pairs.append((f"matmul {ceiling.dtype}", slow, fast, units.format_flops_per_s))
    for where, slow, fast, words in pairs:
        if slow.high * APART < fast.low:
            yield _found("measured-twice", where, f"once {words(slow.value)}", f"once {words(fast.value)}")


CONTRADICTIONS: Sequence[Callable[[Run], Iterator[Finding]]] = (
    against_its_products,
    efficiency_falls,
    memory_against_caches,
    repeats_apart,
    above_its_ceiling,
    above_what_was_searched,
    measured_twice,
)
