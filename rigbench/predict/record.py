"""How much memory will a training step take, and what fits? Predictions: nothing here was measured."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, Option, one_of, whole
from rigbench.core.record import Absent, Figure, Record, Source
from rigbench.model.recipe import OPTIMIZERS, PRECISIONS, Optimizer, Precision, Recipe, Strategy
from rigbench.model.record import Model

WeightFormat = Literal["bf16", "8-bit", "4-bit"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
CAPACITY_STRATEGIES = ("single", "ddp", "fsdp2", "fsdp2-offload")
LONGEST_CONTEXT = 1 << 20


class Options(Record, frozen=True, kw_only=True):
    """What `capacity` is asked, besides the model."""

    optimizer: Annotated[
        Optimizer | Absent,
        Option(one_of(*OPTIMIZERS), f"Only one of {', '.join(OPTIMIZERS)}. Default: adamw and adamw8bit.", "NAME"),
    ] = NOT_GIVEN
    precision: Annotated[
        Precision | Literal["auto"],
        Option(
            one_of("auto", *PRECISIONS),
            f"{', '.join(PRECISIONS)}, or auto: bf16 autocast, or what the card has instead.",
            "NAME",
        ),
    ] = "auto"
    strategy: Annotated[
        Strategy | Literal["auto"],
        Option(
            one_of("auto", *CAPACITY_STRATEGIES),
            f"{', '.join(CAPACITY_STRATEGIES)}, or auto: DDP on several cards.",
            "NAME",
        ),
    ] = "auto"
    inference: Annotated[bool, Option(None, "Generating text instead: weights in bf16, 8-bit and 4-bit.")] = False
    context_tokens: Annotated[
        int | Absent,
        Option(whole(1, LONGEST_CONTEXT), "Tokens in the cache, with --inference. Default: 4096.", "N", ("--context",)),
    ] = NOT_GIVEN


class Target(Record, frozen=True, kw_only=True):
    """The memory that is predicted for: one card of `count` alike ones, or a host's memory where a CPU trains.

    `memory_bytes` is the nominal size; `usable` what a program finds on the idle card (the driver keeps the rest).
    `context` is what a process takes of that before its first tensor, `communication` what NCCL adds with several
    cards. `workspace_bytes` is held by each thread that multiplies matrices; `gpu` is a profile's id.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    gpu: str | Absent
    count: int
    memory_bytes: int
    usable: Figure
    context: Figure
    communication: Figure
    workspace_bytes: int


class Breakdown(Record, frozen=True):
    """Where the peak goes; the parts add up to the process's total.

    `weights_bytes` holds their half-precision copies too, `workspace_bytes` the scratch of matrix products and
    attention, `communication_bytes` buckets and gathered shards. `cache_bytes` is what the allocator has rounded up or
    holds free, `outside_bytes` the context and NCCL.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    workspace_bytes: int
    communication_bytes: int
    cache_bytes: int
    outside_bytes: int

    def parts(self) -> dict[str, int]:
        """Bytes by name, largest first."""
        named = {name.removesuffix("_bytes"): getattr(self, name) for name in self.__struct_fields__}
        return dict(sorted(named.items(), key=lambda part: -part[1]))


class VramPrediction(Record, frozen=True, kw_only=True):
    """A training step's memory, four ways; `deciding` names the one that runs out first.

    `allocated_bytes` and `reserved_bytes` are what `torch.cuda.max_memory_allocated` and `max_memory_reserved` would
    say; `outside` is context and NCCL; `process` is reserved and outside together. They are for the room that there
    is: where the step fits only because torch gives cached memory back, `allocator_retries` counts how often (a slow
    fit). Where it does not fit, they are what it would take, and `short_bytes` is what is missing. `host_bytes` are
    states or shards in host memory.
    """

    method: int
    source: Source = "predicted"
    basis: str
    target: Target
    model: Model
    recipe: Recipe
    allocated_bytes: int
    reserved_bytes: int | Absent
    outside: Figure
    process: Figure
    host_bytes: int
    breakdown: Breakdown
    room_bytes: int
    fits: bool
    short_bytes: int
    allocator_retries: int
    deciding: str


class Largest(Record, frozen=True):
    """The largest of something that fits, its prediction, and the bytes that the next larger one lacks here."""

    value: int
    prediction: VramPrediction
    next_short_bytes: int | Absent


class CapacityRow(Record, frozen=True, kw_only=True):
    """What fits with one way of training."""

    recipe: Recipe
    micro_batch: Largest | Absent
    sequence: Largest | Absent  # of one sequence
    model: Largest | Absent  # its value is the true count of parameters; trained with one sequence


class InferenceRow(Record, frozen=True, kw_only=True):
    """One way of keeping the weights: bytes for the model asked for, and what fits.

    `cache_bytes` is one sequence's keys and values in bf16, `working_bytes` what the prompt's pass through one block
    and the last logits take.
    """

    weights: WeightFormat
    weights_bytes: int
    cache_bytes: int
    working_bytes: int
    process: Figure
    fits: bool
    short_bytes: int
    largest_batch: int
    longest_context: int
    largest_model: Model | Absent


class Capacity(Record, frozen=True, kw_only=True):
    """What fits on a target. `would_fit` says what would do where nothing does."""

    method: int
    started_at: str
    seconds: float
    source: Source = "predicted"
    target: Target
    series: str
    model: Model
    rows: tuple[CapacityRow, ...] = ()
    context_tokens: int | Absent = Absent("training was asked about")  # of an inference's cache
    inference: tuple[InferenceRow, ...] = ()
    would_fit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


PartName = Literal[
    "matmul",
    "attention",
    "logits and loss",
    "memory traffic",
    "launches",
    "recomputation",
    "optimizer",
    "communication exposed",
    "data",
]


class LinkCeiling(Record, frozen=True):
    """What the cards' ring gives to an all_reduce: time = latency + bytes/bandwidth, algorithm bandwidth, not bus."""

    latency_seconds: Figure
    bytes_per_s: Figure


class ProductRate(Record, frozen=True):
    """A matrix product of this rig that was measured: C[m,n] = A[m,k] @ B[k,n]."""

    m: int
    n: int
    k: int
    dtype: str
    flops_per_s: float


class Ceilings(Record, frozen=True, kw_only=True):
    """What the hardware can do at most: one card (or the host's processor) of `count` alike ones.

    `matmul_flops_per_s` by dtype ("bf16", "fp16", "tf32", "fp32"): the datasheet's dense peak with fp32 sums, or the
    measured hot ceiling. `memory_bytes_per_s` as the datasheet has it, or a measured triad. `launch_seconds` is what
    the host takes to hand over one kernel of eager code, `feed_hertz` all multiprocessors' clocks together. `products`
    are shapes that were measured, `data_tokens_per_s` the loader's rate. `source` is "measured" where the matmul
    ceiling was, and `rests_on` names runs or profiles.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    count: int
    source: Source
    matmul_flops_per_s: dict[str, Figure]
    memory_bytes_per_s: Figure
    launch_seconds: Figure
    tdp_watts: Figure | Absent
    feed_hertz: Figure | Absent
    link: LinkCeiling | Absent
    data_tokens_per_s: Figure | Absent
    compute_capability: str | Absent = Absent("no profile")
    products: tuple[ProductRate, ...] = ()
    rests_on: tuple[str, ...] = ()


class StepPart(Record, frozen=True):
    """Seconds of one optimizer step that are spent on one thing."""

    name: PartName
    seconds: float


class StepTime(Record, frozen=True, kw_only=True):
    """One optimizer step, of all its micro-batches and ranks. The parts add up to `seconds.value`.

    Both intervals hold the truth 9 times in 10 as `seconds.method` says. `tokens_per_step` and `tokens_per_s` are of
    all ranks together. `notes` name what was assumed, and where this lies outside of what the constants rest on.
    """

    method: int
    source: Source = "predicted"
    model: Model
    recipe: Recipe
    ceilings: Ceilings
    parts: tuple[StepPart, ...]
    seconds: Estimate
    tokens_per_step: int
    tokens_per_s: Estimate
    basis: str
    notes: tuple[str, ...] = ()

    def part(self, name: PartName) -> float:
        """Seconds of that part, 0 where the step has none."""
        return sum(part.seconds for part in self.parts if part.name == name)
