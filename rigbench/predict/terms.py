"""What a training step would take at the rig's ceilings, by cause: what the constants of a prediction count.

Every operation is put in terms of what holds it back: FLOP over the peak, FLOP over what the multiprocessors can be fed
with, bytes over the memory's bandwidth, bytes over the links. Each is a constant times what the ceiling promises, and
their sum is the device's time. Two more clocks run beside it: the energy of the step's FLOP over the power limit, and
what the host takes to hand over the kernels. The longest of the three decides, softly:

    seconds = (device^4 + power^4 + host^4)^(1/4)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import operations
from rigbench.predict.operations import Operation
from rigbench.predict.record import Ceilings, PartName

MULTIPROCESSOR_FLOP = 1024  # a clock, of half precision: so that the term is FLOP over Ampere's professional rate
FP32_MULTIPROCESSOR_FLOP = 256
FED_FASTER = 9.0, 12.0  # compute capabilities from and below which data-centre cards are fed by asynchronous copies
FP8_FROM = 8.9  # Ada and Hopper; where the datasheet has no rate that can be used, twice bf16's
SIMT_SHARE = 0.7  # of the fp32 peak that products reach without tensor cores
PICO = 1e-12
WEIGHT_BYTES_SENT = 2  # FSDP gathers weights in half precision
COMPILED_LAUNCH_SHARE = 0.35  # of the host's seconds a kernel of eager code; assumed
COMPUTE_DIES = (6.0, 7.0, 8.0, 9.0, 10.0)  # P100, V100, A100, H100, B200: fewer picojoules a FLOP than graphics dies
TOGETHER = 4  # the exponent above


class Constants(NamedTuple):
    """What each term counts for. Of the device's, 1 would be what the ceiling promises."""

    peak: float
    fp8: float  # over the peak of fp8
    feeding: float
    feeding_later: float  # of data-centre cards from Hopper on
    attention: float
    traffic: float
    eager_traffic: float
    optimizer: float
    communication: float
    scores: float  # passes of 4 bytes over each score of attention by hand, in half precision
    scores_wide: float  # in fp32
    watts: float  # picojoules a FLOP, graphics dies
    watts_compute: float  # the dies that are made for computing
    kernels: float  # of the host's seconds a kernel
    layers: float  # host seconds a layer and micro-step, of eager code
    layers_by_hand: float  # of attention by hand
    layers_compiled: float


DEVICE = Constants._fields.index("watts")  # the constants before it are the device's
COLUMN = {name: index for index, name in enumerate(Constants._fields)}
HOST = COLUMN["kernels"]


class Terms(NamedTuple):
    """Seconds at the ceilings, of one optimizer step: the device's by part, a column per constant; then power's, a
    picojoule a FLOP; then the host's; and what the loader takes.
    """

    parts: dict[PartName, tuple[float, ...]]
    power: tuple[float, float]
    host: tuple[float, float, float, float]
    data_seconds: float


def together(*ends: float) -> float:
    """The longest of what runs side by side, a little more where two are about as long."""
    longest = max(ends)
    return longest * sum((end / longest) ** TOGETHER for end in ends) ** (1 / TOGETHER) if longest else 0.0


def terms(model: Model, recipe: Recipe, ceilings: Ceilings) -> Terms:
    """What the constants are multiplied with."""
    later = float(recipe.accumulation - 1)
    work = [(it, 1.0) for it in operations.micro_step(model.shape, recipe, first=True)]
    work += [(it, later) for it in operations.micro_step(model.shape, recipe, first=False) if later]
    work += [(it, 1.0) for it in operations.optimizer_step(model.shape, recipe)]
    layers = float(model.shape.layers * recipe.accumulation)
    found = of_work(work, recipe, ceilings, layers, _communication_seconds(model, recipe, ceilings))
    data = ceilings.data_tokens_per_s
    tokens = recipe.tokens_per_step(model) / recipe.ranks
    return found._replace(data_seconds=0.0 if isinstance(data, Absent) else tokens / data.value)


def of_work(
    work: Iterable[tuple[Operation, float]], recipe: Recipe, ceilings: Ceilings, layers: float, communication: float
) -> Terms:
    """The same of operations that were counted, each so many times; `communication` in seconds at the links' rate."""
    one = _Device(recipe, ceilings)
    parts: dict[PartName, list[float]] = {}
    kernels = flop = 0.0
    for operation, count in work:
        row = parts.setdefault(operation.part, [0.0] * DEVICE)
        for column, seconds in one.columns(operation, recipe.compiled):
            row[column] += count * operation.times * seconds
        kernels += count * operation.times * operation.kernels
        flop += count * operation.times * operation.flop * one.energy_share(operation)
    if communication:
        row = parts["communication exposed"] = [0.0] * DEVICE
        row[COLUMN["communication"]] = communication
    power = 0.0 if isinstance(ceilings.tdp_watts, Absent) else PICO * flop / ceilings.tdp_watts.value
    compute = ceilings.compute_capability in COMPUTE_DIES or not ceilings.compute_capability
    fused = recipe.attention == "fused"
    return Terms(
        parts={name: tuple(row) for name, row in parts.items()},
        power=(0.0, power) if compute else (power, 0.0),
        host=(
            (COMPILED_LAUNCH_SHARE if recipe.compiled else 1.0) * kernels * ceilings.launch_seconds.value,
            layers * (fused and not recipe.compiled),
            layers * (not fused),
            layers * (fused and recipe.compiled),
        ),
        data_seconds=0.0,
    )


class _Device:
    """One rank's ceilings for one precision."""

    def __init__(self, recipe: Recipe, ceilings: Ceilings) -> None:
        peaks, wide = ceilings.matmul_flops_per_s, recipe.precision in ("fp32", "tf32")
        self._eight = 0.0
        if recipe.precision == "fp8" and "bf16" in peaks and ceilings.compute_capability >= FP8_FROM:
            self._eight = peaks["fp8"].value if "fp8" in peaks else 2 * peaks["bf16"].value
        dtype = "bf16" if self._eight else recipe.dtype
        peak = peaks.get(dtype)
        if peak is None and dtype in ("tf32", "fp16"):  # without tensor cores: at the rate of fp32
            peak = peaks.get("fp32")
        if peak is None:
            cure = f"there are {', '.join(peaks)}; choose such a precision"
            raise RigbenchError(f"{ceilings.name} has no {dtype} ceiling", cure)
        self._half = peaks.get("bf16", peak).value
        single = peaks.get("fp32")
        plain = dtype == "fp32" or (single is not None and peak.value == single.value)
        simt = ceilings.source == "datasheet" and ceilings.kind == "cuda" and plain
        self._peak, self._bandwidth = peak.value * (SIMT_SHARE if simt else 1.0), ceilings.memory_bytes_per_s.value
        flop = MULTIPROCESSOR_FLOP if dtype != "fp32" else FP32_MULTIPROCESSOR_FLOP
        feed = ceilings.feed_hertz
        # A card that does not say is taken to be like Ampere's, 1024 FLOP a clock, and not to be held back by watts.
        self._feed = self._peak if isinstance(feed, Absent) else flop * feed.value
        later = FED_FASTER[0] <= ceilings.compute_capability < FED_FASTER[1]
        self._feeding = COLUMN["feeding_later" if later else "feeding"]
        self._scores = COLUMN["scores_wide" if wide else "scores"]
        self._products = {(it.m, it.n, it.k): it.flops_per_s for it in ceilings.products if it.dtype == dtype}

    def energy_share(self, operation: Operation) -> float:
        return 0.5 if self._eight and operation.part == "matmul" else 1.0

    def columns(self, operation: Operation, compiled: bool) -> list[tuple[int, float]]:
        """(index of a constant, seconds at the ceiling)."""
        moved = operation.bytes / self._bandwidth
        if operation.part == "optimizer":
            products = [(COLUMN["peak"], operation.flop / self._half)] if operation.flop else []  # Muon's, in bf16
            return [(COLUMN["optimizer"], moved), *products]
        if operation.name == operations.SCORES:
            return [(self._scores, moved)]
        if not operation.flop:
            return [(COLUMN["traffic" if compiled else "eager_traffic"], moved)]
        fed = operation.flop / self._feed
        if self._eight and operation.part == "matmul":
            own = COLUMN["fp8"], operation.flop / self._eight
            fed /= 2
        elif not operation.k:
            own = COLUMN["attention"], operation.flop / self._peak
        else:
            peak = min(self._peak, self._products.get(operation[-3:], self._peak))
            own = COLUMN["peak"], operation.flop / peak
        return [own, (self._feeding, fed), (COLUMN["traffic"], moved)]


def _communication_seconds(model: Model, recipe: Recipe, ceilings: Ceilings) -> float:
    """At the links' rate, as if nothing hid it. DDP reduces the gradients once; FSDP gathers every weight twice and
    scatters its gradient in every micro-step, each half an all_reduce of so many bytes.
    """
    link = ceilings.link
    if recipe.ranks < 2 or isinstance(link, Absent):
        return 0.0
    gradients = recipe.weight_bytes * model.trained
    if recipe.replicated:
        return reduced_seconds(gradients, ceilings)
    weights = WEIGHT_BYTES_SENT * model.total_parameters
    layers = model.shape.layers
    each = 3 * layers * link.latency_seconds.value + (2 * weights + gradients) / 2 / link.bytes_per_s.value
    return recipe.accumulation * each


def reduced_seconds(gradients: float, ceilings: Ceilings) -> float:
    """One all_reduce of so many bytes, at the links' rate; 0 where that is not known."""
    link = ceilings.link
    return 0.0 if isinstance(link, Absent) else link.latency_seconds.value + gradients / link.bytes_per_s.value
