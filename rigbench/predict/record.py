"""Predictions: a training step's memory and time, what fits, and the ceilings that they rest on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, number, one_of, whole
from rigbench.core.record import Absent, Figure, Record, Source
from rigbench.model.recipe import (
    ADAPTER,
    ATTENTIONS,
    OPTIMIZERS,
    PRECISIONS,
    RANK,
    SWITCH,
    TARGETS,
    Adapter,
    Attention,
    Optimizer,
    Precision,
    Recipe,
    Strategy,
    Targets,
)
from rigbench.model.record import Model

WeightFormat = Literal["bf16", "8-bit", "4-bit"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
CAPACITY_PRECISIONS = tuple(it for it in PRECISIONS if it != "fp8")  # whose memory no published run tells
CAPACITY_STRATEGIES = ("single", "ddp", "fsdp2", "fsdp2-offload")
LONGEST_CONTEXT = 1 << 20

# A program's name tells what code runs, and hardly how fast: its prior is 1 and stays near it.
PROGRAMS = (
    "nanogpt",
    "modded-nanogpt",
    "nanochat",
    "llm.c",
    "llmq",
    "llm-foundry",
    "torchtitan",
    "fms-fsdp",
    "hf trainer",
    "mingpt",
    "book code",
)
NEWEST_YEAR = 2025.5  # of the software behind the published runs


class Options(Record, frozen=True, kw_only=True):
    """What `capacity` is asked, besides the model."""

    optimizer: Annotated[
        Optimizer | Absent,
        Option(one_of(*OPTIMIZERS), f"Only one of {', '.join(OPTIMIZERS)}. Default: adamw and adamw8bit.", "NAME"),
    ] = NOT_GIVEN
    precision: Annotated[
        Precision | Literal["auto"],
        Option(
            one_of("auto", *CAPACITY_PRECISIONS),
            f"{', '.join(CAPACITY_PRECISIONS)}, or auto: bf16 autocast, or what the card has instead.",
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
    attention: Annotated[
        Attention, Option(one_of(*ATTENTIONS), "fused, or naive: written by hand, T × T scores in memory.", "NAME")
    ] = "fused"
    compiled: Annotated[
        bool | Absent,
        Option(
            SWITCH,
            "Code by torch.compile, or eager. Default: on with --on, as a full run; here off.",
            "off|on",
            ("--compile",),
        ),
    ] = NOT_GIVEN
    adapter: Annotated[Adapter | Absent, ADAPTER] = NOT_GIVEN
    adapter_rank: Annotated[int | Absent, RANK] = NOT_GIVEN
    adapter_targets: Annotated[Targets | Absent, TARGETS] = NOT_GIVEN
    inference: Annotated[bool, Option(None, "Generating text instead: weights in bf16, 8-bit and 4-bit.")] = False
    context_tokens: Annotated[
        int | Absent,
        Option(whole(1, LONGEST_CONTEXT), "Tokens in the cache, with --inference. Default: 4096.", "N", ("--context",)),
    ] = NOT_GIVEN


class ToldOptions(Record, frozen=True, kw_only=True):
    """What of the code is known, with --on."""

    panel: ClassVar = "What is known of the code, with --on"

    program: Annotated[
        str | Absent,
        Option(
            Reader(lambda text, option: text.strip().lower()[:40], words=lambda: PROGRAMS),
            "The program that trains, as nanogpt or llm.c: a label, learnt from published runs of that name.",
            "NAME",
        ),
    ] = NOT_GIVEN
    known: Annotated[
        str | Absent,
        Option(TEXT, "A run of it whose speed is known: a stored run, a CSV file, a row in words; several by ';'.",
               "RUN|ROW|FILE"),
    ] = NOT_GIVEN  # fmt: skip
    software_year: Annotated[
        float, Option(number(2020, 2100), "The code's and torch's year.", "YEAR", setting=True)
    ] = NEWEST_YEAR


LEANER = 0.7  # eager code of others keeps so much less than what is recorded: a book's 0.74, what ran of MPT under 0.76
LEANER_FP8 = 0.5  # and code of fp8 where weights, states and what is kept are of half the size (LLMQ: arXiv 2512.15306)


class Target(Record, frozen=True, kw_only=True):
    """The memory that is predicted for: one card of `count` alike ones, or a host's memory where a CPU trains."""

    name: str
    kind: Literal["cuda", "cpu"]
    gpu: str | Absent  # a profile's id
    count: int
    memory_bytes: int  # the nominal size
    usable: Figure  # what a program finds on the idle card; the driver keeps the rest
    context: Figure  # what a process takes of that before its first tensor
    communication: Figure  # what NCCL adds with several cards
    workspace_bytes: int  # held by each thread that multiplies matrices


class Breakdown(Record, frozen=True):
    """Where the peak goes; the parts add up to the process's total."""

    weights_bytes: int  # and their half-precision copies
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    workspace_bytes: int  # scratch of matrix products and attention
    communication_bytes: int  # buckets and gathered shards
    cache_bytes: int  # what the allocator has rounded up or holds free
    outside_bytes: int  # the context and NCCL

    def parts(self) -> dict[str, int]:
        """Bytes by name, largest first."""
        sizes = {name.removesuffix("_bytes"): getattr(self, name) for name in self.__struct_fields__}
        return dict(sorted(sizes.items(), key=lambda part: -part[1]))


class VramPrediction(Record, frozen=True, kw_only=True):
    """A training step's memory for the room that there is; where it does not fit, what it would take."""

    method: int
    source: Source = "predicted"
    basis: str
    target: Target
    model: Model
    recipe: Recipe
    allocated_bytes: int  # as torch.cuda.max_memory_allocated would say
    reserved_bytes: int | Absent  # as torch.cuda.max_memory_reserved would say
    outside: Figure  # context and NCCL
    process: Figure  # reserved and outside together
    host_bytes: int  # states or shards in host memory
    breakdown: Breakdown
    room_bytes: int
    fits: bool
    short_bytes: int  # what is missing
    allocator_retries: int  # how often torch gives cached memory back so that it fits: a slow fit
    deciding: str  # which of these runs out first
    tight: bool = False  # it may not fit after all: the high end of the prediction lies above the room
    surely: int = 0  # where tight and yet expected to fit, the sequences at once that fit at the high end as well
    assumed: str = ""  # what the ends of `process` are, and why, where nobody measured such a step

    @property
    def over_at_its_high_end(self) -> bool:
        """Whether it is expected to fit, and may not."""
        return self.tight and self.process.value <= self.target.usable.value

    @property
    def low_end(self) -> float:
        """Bytes of the process that other code for the same step is known to get by with."""
        low = self.process.value if self.assumed else self.process.ends[0]
        low *= LEANER_FP8 if self.recipe.precision == "fp8" else 1.0
        return low if self.recipe.compiled or self.target.kind == "cpu" else LEANER * low

    @property
    def unsure(self) -> str:
        """What to say where it takes more than there is, though it may yet fit; "" where it is expected to."""
        usable = self.target.usable.value
        if self.process.value <= usable or self.low_end > usable:
            return ""
        return f"more than the {units.format_bytes(usable)} usable: it may not fit"

    @property
    def doubt(self) -> str:
        """The same, also where only the high end takes more than there is, after what is assumed of its ends."""
        return ", ".join(filter(None, (self.assumed, self._over)))

    @property
    def _over(self) -> str:
        if not self.over_at_its_high_end:
            return self.unsure
        surely = f"{self.surely} fit then" if self.surely else "not even one sequence fits then"
        return f"at the high end over the {units.format_bytes(self.target.usable.value)} usable: {surely}"


class Largest(Record, frozen=True):
    """The largest of something that fits, and its prediction."""

    value: int
    prediction: VramPrediction
    next_short_bytes: int | Absent  # what the next larger one lacks here
    kept_free: float = 0.0  # of what it takes: the margin in that


NOT_ASKED = Absent("not worked out: one model was asked about")


class CapacityRow(Record, frozen=True, kw_only=True):
    """What fits with one way of training."""

    recipe: Recipe
    micro_batch: Largest | Absent
    sequence: Largest | Absent  # of one sequence
    model: Largest | Absent  # of the series; its value is the true count of parameters, trained with one sequence


class UsualStep(Record, frozen=True, kw_only=True):
    """How train-probe and budget have the model trained there, if nothing else is said, with what it takes."""

    recipe: Recipe
    memory: VramPrediction
    tokens_per_s: Estimate | Absent  # of all cards together


class InferenceRow(Record, frozen=True, kw_only=True):
    """The model with its weights kept in one way: its bytes, and what fits."""

    weights: WeightFormat
    weights_bytes: int
    cache_bytes: int  # one sequence's keys and values in bf16
    working_bytes: int  # what the prompt's pass through one block and the last logits take
    process: Figure
    fits: bool
    short_bytes: int
    largest_batch: int
    longest_context: int
    largest_model: Model | Absent


class Capacity(Record, frozen=True, kw_only=True):
    """What fits on a target."""

    method: int
    started_at: str
    seconds: float
    source: Source = "predicted"
    target: Target
    series: str
    model: Model
    rows: tuple[CapacityRow, ...] = ()
    usual: UsualStep | Absent = Absent("a full run here is trained as its short runs are")
    context_tokens: int | Absent = Absent("training was asked about")  # of an inference's cache
    inference: tuple[InferenceRow, ...] = ()
    would_fit: tuple[str, ...] = ()  # what would do where nothing fits
    notes: tuple[str, ...] = ()


class OwnMemoryOptions(Record, frozen=True, kw_only=True):
    """For the process that predicts a program of the user's; `folder` is where its command was typed."""

    name: str
    folder: str
    vocabulary: int = 0
    sequence: int = 0
    target: Target
    optimizers: tuple[Optimizer, ...]
    precision: Precision
    micro_batch: int = 0  # whose speed is asked for; 0: as many as gain something
    ceilings: Ceilings | Absent = Absent("measured here, not predicted: `rigbench train-probe --model PROGRAM`")


class OwnRow(Record, frozen=True, kw_only=True):
    """The most samples at once of a program of the user's, and what they take; of the fewest where none fit."""

    optimizer: Optimizer
    precision: str
    micro_batch: int | Absent
    process: Figure
    breakdown: Breakdown
    next_short_bytes: int | Absent


class OwnCapacity(Record, frozen=True, kw_only=True):
    """What fits of a program of the user's."""

    method: int
    started_at: str
    seconds: float
    source: Source = "predicted"
    target: Target
    program: str
    unit: str  # tokens or samples
    items_per_sample: int
    batch: str  # shapes and types of what it eats
    total_parameters: int
    trainable_parameters: int
    flop_per_item: float | Absent
    fixed_samples: int  # of every batch, where the program decides that; 0: as many as asked for
    rows: tuple[OwnRow, ...]
    items_per_s: Estimate | Absent = Absent("not asked for")  # of all cards, with the first optimizer
    timed_samples: int = 0  # a card, of that rate
    timed_bytes: Figure | Absent = Absent("not asked for")  # that a process with so many takes
    asked_by: str = "capacity"  # the command
    parts: tuple[StepPart, ...] = ()  # of a step of so many
    notes: tuple[str, ...] = ()


PartName = Literal[
    "matmul",
    "attention",
    "logits and loss",
    "memory traffic",
    "recomputation",
    "optimizer",
    "communication exposed",
    "offload",
    "launches",
    "data",
]
PARTS: tuple[PartName, ...] = get_args(PartName)


class LinkCeiling(Record, frozen=True):
    """What the cards' ring gives to an all_reduce: time = latency + bytes / bandwidth (algorithm's, not the bus's)."""

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
    """What the hardware can do at most: one card (or the host's processor) of `count` alike ones."""

    kind: Literal["cuda", "cpu"]
    name: str
    count: int
    source: Source  # "measured" where the matmul ceiling was
    matmul_flops_per_s: dict[
        str, Figure
    ]  # by dtype: the datasheet's dense peak with fp32 sums, or the sustained ceiling
    memory_bytes_per_s: Figure  # as the datasheet has it, or a measured triad
    launch_seconds: Figure  # what the host takes to hand over one kernel of eager code
    tdp_watts: Figure | Absent
    feed_hertz: Figure | Absent  # all multiprocessors' clocks together
    link: LinkCeiling | Absent
    data_tokens_per_s: Figure | Absent  # the loader's rate
    host_bytes_per_s: Figure | Absent = Absent("not asked for")  # between a card and pinned host memory, one way
    gpu: str = ""  # the profile's id, "" where there is none
    compute_capability: float = 0.0  # 0: not known, as another maker's
    products: tuple[ProductRate, ...] = ()  # shapes that were measured
    rests_on: tuple[str, ...] = ()  # runs or profiles
    heat: str = ""  # what a recorded rig's temperatures were, and whether they hold a card back


class StepPart(Record, frozen=True):
    """Seconds of one optimizer step that are spent on one thing."""

    name: PartName
    seconds: float


class StepTime(Record, frozen=True, kw_only=True):
    """One optimizer step, of all its micro-batches and ranks."""

    method: int
    source: Source = "predicted"
    model: Model
    recipe: Recipe
    ceilings: Ceilings
    parts: tuple[StepPart, ...]  # they add up to `seconds.value`
    seconds: Estimate
    tokens_per_step: int  # of all ranks together, as their rate
    tokens_per_s: Estimate
    basis: str
    notes: tuple[str, ...] = ()  # what was assumed, and where this lies outside of what the constants rest on
    code: str = ""  # the kind of code that the level and the interval are of
    program: str = ""  # as it was named
    known: tuple[str, ...] = ()  # the runs that were told, in words
    half_width_with_a_run: float | Absent = Absent("not asked")  # of the interval, if one run of this were known

    def part(self, name: PartName) -> float:
        """Seconds of that part, 0 where the step has none."""
        return sum(part.seconds for part in self.parts if part.name == name)
