"""Predicts how long a training step takes, from its operations and the rig's ceilings.

Every operation is put in terms of what holds it back: FLOP over the peak, FLOP over what the multiprocessors can be fed
with, bytes over the memory's bandwidth, FLOP over watts, bytes over the links. A step is the sum of the terms, each
times a constant; a GPU's host must hand over the kernels meanwhile, and what that takes longer is the launches' part.

The constants for GPUs are fitted on published measurements (tests/data/published_training.csv: decoder language models,
sources weighted alike, robust least squares on logarithms around physical values). `python -m tests.published` fits
them again and prints them; `pytest tests/bench/test_bench_published.py -m bench -s` prints how well they do on cards
and sources that were left out.
"""

from __future__ import annotations

import math
from operator import mul
from typing import NamedTuple

from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import operations
from rigbench.predict.operations import Operation
from rigbench.predict.record import PARTS, Ceilings, PartName, StepPart, StepTime

METHOD = 1
MULTIPROCESSOR_FLOP = 1024  # a clock, of half precision: so that the term is FLOP over Ampere's professional rate
FP32_MULTIPROCESSOR_FLOP = 256
PICO = 1e-12
WEIGHT_BYTES_SENT = 2  # FSDP gathers weights in half precision
COMPILED_LAUNCH_SHARE = 0.35  # of the host's seconds a kernel of eager code; assumed


class Constants(NamedTuple):
    """What each term counts for: 1 would be what the ceiling promises."""

    peak: float
    feeding: float
    attention: float
    traffic: float
    eager_traffic: float
    watts: float  # picojoules a FLOP
    optimizer: float
    communication: float


# `python -m tests.published` prints these three.
PUBLISHED = Constants(0.789, 0.211, 2.232, 1.018, 1.394, 0.232, 1.234, 0.627)
# ln(measured / predicted) seconds of sources that were left out: the 5 % and the 95 % quantile, sources weighted alike.
LEFT_OUT = (-0.18, 0.49)
LEFT_OUT_SOURCES = 14

# Where the ceilings are measured: a hot matmul ceiling and a triad hold clocks, feeding and watts already. Assumed: as
# the terms above come out over hot ceilings of 0.85 (A100), 0.67 (H100) and 1.0 (4090) of the datasheet: 1.3, 1.3, 1.0.
MEASURED = Constants(1.2, 0.0, 2.3, 1.1, 1.2, 0.0, 1.3, 0.9)
MEASURED_SPREAD = (-0.30, 0.40)
# A processor's attention kernel reaches about a third of its matmul ceiling, and pointwise work, part of it in bf16
# arithmetic that it lacks, two thirds of a triad. Assumed; slices correct it.
CPU = Constants(1.15, 0.0, 3.0, 1.5, 1.5, 0.0, 1.5, 0.9)
CPU_SPREAD = (-0.5, 0.5)
PER_E_FOLD_BEYOND = 0.1  # the interval widens so much, each way, for every e-fold outside of what was fitted
FITTED_TOKENS = (4096.0, 131072.0)  # a micro-batch of the published rows


class Terms(NamedTuple):
    """Seconds at the ceilings by part, a column per constant, and the host's seconds; of one optimizer step."""

    parts: dict[PartName, tuple[float, ...]]
    host_seconds: float
    data_seconds: float


def predict(model: Model, recipe: Recipe, ceilings: Ceilings) -> StepTime:
    """One optimizer step's seconds, every one of them in a named part, with a 90 % interval."""
    if recipe.strategy == "fsdp2-offload":
        raise RigbenchError(
            "the speed of fsdp2-offload is measured, not predicted: what it moves to the host and computes there",
            "use --strategy fsdp2",
        )
    if recipe.ranks > max(1, ceilings.count) and ceilings.kind == "cuda":
        raise RigbenchError(
            f"{recipe.ranks} ranks on {ceilings.count} of {ceilings.name}", "ask for as many ranks as there are cards"
        )
    constants, spread, basis = _constants(ceilings)
    parts = seconds_by_part(terms(model, recipe, ceilings), constants, ceilings.kind)
    total = sum(part.seconds for part in parts)
    tokens, together = recipe.tokens_per_step(model), recipe.micro_batch * model.shape.sequence
    beyond = PER_E_FOLD_BEYOND * max(0.0, math.log(FITTED_TOKENS[0] / together), math.log(together / FITTED_TOKENS[1]))
    low, high = total * math.exp(spread[0] - beyond), total * math.exp(spread[1] + beyond)
    method = f"{basis}: ln(measured/predicted) from {spread[0]:+.2f} to {spread[1]:+.2f}"
    estimate = Estimate(total, low, high, stats.LEVEL, method, LEFT_OUT_SOURCES if "published" in basis else 0)
    return StepTime(
        method=METHOD,
        model=model,
        recipe=recipe,
        ceilings=ceilings,
        parts=parts,
        seconds=estimate,
        tokens_per_step=tokens,
        tokens_per_s=tokens / estimate,
        basis=f"{ceilings.source} ceilings of {ceilings.name}; {basis}",
        notes=_notes(recipe, ceilings, parts),
    )


def seconds_by_part(terms: Terms, constants: Constants, kind: str) -> tuple[StepPart, ...]:
    """The parts that a step has, in a fixed order.

    A GPU works while its host hands over: only what the host takes longer is left for `launches`. A processor does
    both itself.
    """
    seconds = {name: sum(map(mul, row, constants)) for name, row in terms.parts.items()}
    compute = sum(seconds.values())
    seconds["launches"] = terms.host_seconds if kind == "cpu" else max(0.0, terms.host_seconds - compute)
    seconds["data"] = max(0.0, terms.data_seconds - sum(seconds.values()))
    return tuple(StepPart(name, seconds[name]) for name in PARTS if seconds.get(name, 0.0) > 0)


def terms(model: Model, recipe: Recipe, ceilings: Ceilings) -> Terms:
    """What the constants are multiplied with."""
    one = _Device(recipe, ceilings)
    parts: dict[PartName, list[float]] = {}
    kernels = 0.0
    later = recipe.accumulation - 1
    work = [(it, 1) for it in operations.micro_step(model.shape, recipe, first=True)]
    work += [(it, later) for it in operations.micro_step(model.shape, recipe, first=False) if later]
    work += [(it, 1) for it in operations.optimizer_step(model.shape, recipe)]
    for operation, count in work:
        row = parts.setdefault(operation.part, [0.0] * len(Constants._fields))
        for column, seconds in one.columns(operation, recipe.compiled):
            row[column] += count * operation.times * seconds
        kernels += count * operation.times * operation.kernels
    exposed = Constants._fields.index("communication")
    if communication := _communication_seconds(model, recipe, ceilings):
        parts["communication exposed"] = [
            communication * (column == exposed) for column in range(len(Constants._fields))
        ]
    share = COMPILED_LAUNCH_SHARE if recipe.compiled else 1.0
    data = ceilings.data_tokens_per_s
    tokens = recipe.tokens_per_step(model) / recipe.ranks
    return Terms(
        parts={name: tuple(row) for name, row in parts.items()},
        host_seconds=share * kernels * ceilings.launch_seconds.value,
        data_seconds=0.0 if isinstance(data, Absent) else tokens / data.value,
    )


class _Device:
    """One rank's ceilings for one precision."""

    def __init__(self, recipe: Recipe, ceilings: Ceilings) -> None:
        dtype, peaks = recipe.dtype, ceilings.matmul_flops_per_s
        peak = peaks.get(dtype, peaks.get("fp32") if dtype == "tf32" else None)
        if peak is None:
            cure = f"there are {', '.join(peaks)}; choose such a precision"
            raise RigbenchError(f"{ceilings.name} has no {dtype} ceiling", cure)
        self._peak, self._bandwidth = peak.value, ceilings.memory_bytes_per_s.value
        flop = MULTIPROCESSOR_FLOP if dtype != "fp32" else FP32_MULTIPROCESSOR_FLOP
        feed, watts = ceilings.feed_hertz, ceilings.tdp_watts
        # A card that does not say is taken to be like Ampere's, 1024 FLOP a clock, and not to be held back by watts.
        self._feed = self._peak if isinstance(feed, Absent) else flop * feed.value
        self._watts = float("inf") if isinstance(watts, Absent) else watts.value
        self._products = {(it.m, it.n, it.k): it.flops_per_s for it in ceilings.products if it.dtype == dtype}

    def columns(self, operation: Operation, compiled: bool) -> list[tuple[int, float]]:
        """(index of a constant, seconds at the ceiling)."""
        column = Constants._fields.index
        if operation.part == "optimizer":
            return [(column("optimizer"), operation.bytes / self._bandwidth)]
        moved = operation.bytes / self._bandwidth
        if not operation.flop:
            return [(column("traffic" if compiled else "eager_traffic"), moved)]
        fed = operation.flop / self._feed
        watts = PICO * operation.flop / self._watts
        attention = not operation.k
        peak = self._peak if attention else min(self._peak, self._products.get(operation[-3:], self._peak))
        own = column("attention" if attention else "peak")
        return [
            (own, operation.flop / peak),
            (column("feeding"), fed),
            (column("watts"), watts),
            (column("traffic"), moved),
        ]


def _communication_seconds(model: Model, recipe: Recipe, ceilings: Ceilings) -> float:
    """At the links' rate, as if nothing hid it. DDP reduces the gradients once; FSDP gathers every weight twice and
    scatters its gradient in every micro-step, each half an all_reduce of so many bytes.
    """
    link = ceilings.link
    if recipe.ranks < 2 or isinstance(link, Absent):
        return 0.0
    gradients = recipe.weight_bytes * model.total_parameters
    if recipe.replicated:
        return link.latency_seconds.value + gradients / link.bytes_per_s.value
    weights = WEIGHT_BYTES_SENT * model.total_parameters
    layers = model.shape.layers
    each = 3 * layers * link.latency_seconds.value + (2 * weights + gradients) / 2 / link.bytes_per_s.value
    return recipe.accumulation * each


def _constants(ceilings: Ceilings) -> tuple[Constants, tuple[float, float], str]:
    if ceilings.kind == "cpu":
        return CPU, CPU_SPREAD, "constants assumed for processors"
    if ceilings.source == "measured":
        return MEASURED, MEASURED_SPREAD, "constants assumed for measured ceilings"
    return PUBLISHED, LEFT_OUT, "constants fitted on published runs"


def _notes(recipe: Recipe, ceilings: Ceilings, parts: tuple[StepPart, ...]) -> tuple[str, ...]:
    notes = []
    launches = sum(part.seconds for part in parts if part.name == "launches")
    if ceilings.kind == "cuda" and launches > 0.2 * sum(part.seconds for part in parts):
        notes.append("the host cannot keep up with so small a step: launches are an assumption, not fitted")
    if isinstance(ceilings.link, Absent) and recipe.ranks > 1:
        notes.append(f"communication is left out: {ceilings.link.reason}")
    if recipe.compiled and ceilings.kind == "cpu":
        notes.append("compiled code on a processor was not measured")
    if not isinstance(ceilings.data_tokens_per_s, Figure):
        notes.append("data is taken to keep up")
    return tuple(notes)
