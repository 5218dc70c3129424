"""A training slice, a short run that tells how fast this rig trains a model; slices compared as arms; their options."""

from __future__ import annotations

import math
from typing import Annotated, Literal, cast, get_args

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate, Timing, ratio
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, seconds
from rigbench.core.record import Absent, Device, EndedBy, Energy, Figure, Record, Telemetry
from rigbench.model.recipe import Recipe
from rigbench.model.record import AskedDtype, Dtype, Model
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.work.record import Draw, Power

METHOD = 1
# Predictions of two arms share most of their error; what is left between them, as a share. Assumed.
PREDICTED_NOISE = 0.10
FULL_LEVEL = 0.899  # of a 90 % interval, rounding aside
Factor = Literal["optimizer", "checkpointing", "precision", "compile", "loss", "strategy", "accumulation"]
FACTORS: tuple[Factor, ...] = get_args(Factor)
LARGEST_MICRO_BATCH = 1 << 16
# "keeps memory": glibc was told not to give large blocks back to the system between steps, by the variables in
# work/process.py; a CPU run without them spends a large part of its time in page faults.
HostAllocator = Literal["default", "keeps memory", "set by the user"]
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}
OWN_MICRO_BATCH = {"cpu": 4, "cuda": 32}  # samples of a program of the user's
FEWEST_STEPS = 3  # fewer do not tell a rate from its noise
PARTS = ("data", "forward", "backward", "optimizer")  # of a step
# Where no time limit is given: 16 steps' worth, within these bounds.
WORTH_STEPS, SHORTEST_SECONDS, LONGEST_SECONDS = 16, 25.0, 80.0
NOT_COMPARED, NO_SENSOR = Absent("not compared"), Absent("no sensor was read beside this run")


class OwnModel(Record, frozen=True):
    """A program of the user's, tried once and not yet trained. Tied weights count once."""

    name: str  # as they named it (package.module:factory)
    unit: Literal["tokens", "samples"]  # what its speed is counted in, an item: a language model's is a token
    items_per_sample: int  # of a language model the tokens of a sequence
    vocabulary: int | Absent
    batch: str  # the shapes and types of what it ate
    total_parameters: int
    trainable_parameters: int
    unused_parameters: int  # that can be trained, and got no gradient
    flop_per_item: float | Absent  # as torch counted in a forward and backward pass of `trial_samples`
    flop_basis: str
    trial_samples: int
    loss: float  # of the untrained model
    fixed_samples: int = 0  # of every batch, where the program decides that, as a DataLoader does; 0: as asked for
    notes: tuple[str, ...] = ()  # how what it returned was read, where there was a choice


class Options(Record, frozen=True, kw_only=True):
    """For the process of a slice."""

    model: Model | OwnModel
    recipe: Recipe = Recipe()  # precision and micro-batch may be left to be chosen
    micro_batch_by: str = "--micro-batch"  # who chose the recipe's, where it has one
    device: str = "auto"
    data: str = ""  # a file of token ids; none: generated ones
    data_dtype: AskedDtype = "auto"
    cache: str = ""  # a folder for the generated token file
    seconds: float = 0.0  # 0: long enough for 16 steps, between the two bounds
    shortest_seconds: float = SHORTEST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    target_half_width: float = 0.01
    learning_rate: float = 3e-4
    clip_norm: float = 1.0
    seed: int = 0
    host_allocator: HostAllocator = "default"  # how the parent has set this process's memory
    alone: Literal[True] | Absent = Absent("not asked for")  # whether a rank is also timed alone, or why not
    host_name: str = "here"  # of a rank's host
    # Of each GPU by its UUID, as the driver told before the process began.
    free_bytes_before: dict[str, int] = msgspec.field(default_factory=dict)
    folder: str = ""  # where the command was typed, to import a program of the user's from
    vocabulary: int = 0  # given for a language model of the user's; 0: as its module says
    sequence: int = 0

    @property
    def most_seconds(self) -> float:
        return self.seconds or self.longest_seconds


class TrialOptions(Record, frozen=True):
    """For the process that tries a program of the user's; the fields are as in Options."""

    name: str
    folder: str
    vocabulary: int = 0
    sequence: int = 0
    device: str = "auto"
    seed: int = 0


def _read_factors(text: str, option: str) -> tuple[Factor, ...]:
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in FACTORS:
            listed = f"{', '.join(FACTORS[:-1])} or {FACTORS[-1]}"
            raise RigbenchError(f"{option}: no factor {name!r}", f"use {listed}, with commas between")
        if names.count(name) > 1:
            raise RigbenchError(f"{option} names {name} twice", "name each factor once")
    return cast(tuple[Factor, ...], tuple(names))


def _read_micro_batch(text: str, option: str) -> int | Literal["auto"]:
    if text.strip().lower() == "auto":
        return "auto"
    return units.parse_whole(text, option, 1, LARGEST_MICRO_BATCH)


class ProbeOptions(Record, frozen=True, kw_only=True):
    """Of train-probe, beside the model's and the recipe's."""

    arms: Annotated[
        Literal["auto", "usual", "one", "all"],
        Option(
            None,
            "usual: AdamW and AdamW8bit, checkpointing off and on. all: one choice at a time. one: just the variant "
            "that the options name. auto: one where an option names a choice, else usual.",
            names=("--variants", "--arms"),
        ),
    ] = "auto"
    cross: Annotated[
        tuple[Factor, ...], Option(Reader(_read_factors), f"All combinations of: {', '.join(FACTORS)}.", "A,B")
    ] = ()
    micro_batch: Annotated[
        int | Literal["auto"] | Absent,
        Option(
            Reader(_read_micro_batch),
            "Sequences at once. auto: the largest that fits and the fastest. Default: 1 on a CPU, 8 on a GPU.",
            "N|auto",
        ),
    ] = NOT_GIVEN
    seconds: Annotated[
        float | Absent,
        Option(seconds(), "At most this long, each variant. Default: 16 steps' worth, within bounds.", "TIME"),
    ] = NOT_GIVEN
    data: Annotated[str, Option(TEXT, "Token ids: .bin, .npy, a folder. Default: a generated file.", "FILE")] = ""
    data_dtype: Annotated[
        AskedDtype, Option(None, "The type of an id in --data. auto: by its header or packing, else uint16.")
    ] = "auto"
    share: Annotated[bool, Option(None, "Measure though another process uses the GPU.")] = False


class Data(Record, frozen=True):
    """Where the tokens came from."""

    kind: Literal["file", "generated"]
    name: str  # a file's base name, never its folder
    tokens: int
    dtype: Dtype
    distribution: str
    layout: str = "raw ids"  # what the file is, and how its type was known; of several files, how many


class PrecisionTrial(Record, frozen=True):
    """One candidate precision, timed on this model's own matrix products before the slice."""

    precision: Literal["fp32", "bf16"]
    timing: Timing


class Steps(Record, frozen=True):
    """Every step of the slice, warm-up included, in order; one entry per step in each column.

    The parts are seconds inside the step; what they do not explain is `seconds` less their sum. Of several ranks a step
    and its parts are those of the slowest.
    """

    seconds: tuple[float, ...]
    data_seconds: tuple[float, ...]
    forward_seconds: tuple[float, ...]
    backward_seconds: tuple[float, ...]
    optimizer_seconds: tuple[float, ...]
    ended_at_seconds: tuple[float, ...]  # on the monotonic clock
    loss: tuple[float | Absent, ...]  # Absent where it was not finite
    # Steps that began with a GPU that had nothing left to do, and how long its host then took to hand over the forward
    # and backward pass of the first micro-batch.
    enqueue_steps: tuple[int, ...] = ()
    enqueue_seconds: tuple[float, ...] = ()


def at_most_all(share: Estimate) -> Estimate:
    """An efficiency: whoever works beside others may lose by it, and never gains."""
    return msgspec.structs.replace(share, value=min(share.value, 1.0), high=min(share.high, 1.0))


class Exchange(Record, frozen=True, kw_only=True):
    """What the ranks of a slice wait for each other's gradients and weights in a step, and what a step loses to it.

    The slice's median step is one rank's alone, what is shared, imbalance, what is exposed, and what stays unexplained:
    steps in turn begin together, and those of the slice as they come.
    """

    method: str
    hosts: tuple[str, ...]  # by rank
    exposed: Estimate  # the median difference between steps in turn with and without exchange, each of the slowest rank
    alone_seconds: Estimate | Absent  # rank 0's step of the whole model, while all others waited
    shared_seconds: float | Absent  # memory, power, cores; of shards also handling them, less what the optimizer saves
    imbalance_seconds: float  # what the slowest rank takes longer than the middle one
    unexplained_seconds: float
    efficiency: float | Absent  # the rate of all over that many times the one rank's
    # Raw seconds by rank and step, the last one rank 0's.
    steps_by_rank: tuple[tuple[float, ...], ...]
    with_samples: tuple[tuple[float, ...], ...]
    without_samples: tuple[tuple[float, ...], ...]
    alone_samples: tuple[float, ...]

    def kept(self, step_seconds: Estimate) -> Estimate | Absent:
        """`efficiency` with its interval, of the slice's step; why there is none, where its samples contradict it."""
        share = ratio(self.alone_seconds, step_seconds)
        if isinstance(share, Absent):
            return share
        if share.low > 1:
            return Absent("one rank alone took longer than beside the others: something held it up")
        return at_most_all(share)


class Compile(Record, frozen=True):
    """What `torch.compile` took before the first step was done, beyond a later step's seconds."""

    cold_seconds: float  # with an empty cache of compiled kernels
    warm_seconds: float | Absent  # in a new process that found them there


class Vram(Record, frozen=True):
    """Peak memory four ways; `deciding` names the one that runs out first on this device."""

    allocated_bytes: int | Absent
    reserved_bytes: int | Absent
    process_bytes: int | Absent
    context_bytes: int | Absent  # beside the allocator: the context and libraries, and not what others have there
    before_model_bytes: int | Absent
    allocator_retries: int | Absent
    deciding: str


class AnySlice(Record, frozen=True, kw_only=True):
    """A short training run whose steady window predicts a long one, whatever it trains: an item is one of its unit."""

    method: int = METHOD
    started_at: str
    seconds: float
    device: Device
    model: Model | OwnModel
    recipe: Recipe  # precision and micro-batch as they were chosen, and as many ranks as trained
    precision_chosen_by: str
    micro_batch_chosen_by: str
    host_allocator: HostAllocator
    steps: Steps
    steady_from: int  # the index of the first step of the steady window
    ended_by: EndedBy
    target_half_width: float
    items_per_step: int
    items_per_s: Estimate  # total items over total seconds of the steady window, the interval by batch means
    step_seconds: Estimate  # the median step
    outliers: int
    step_share: dict[str, float]
    split_over: int = 1  # cards that this one process splits each batch over
    model_flops_per_s: float | Absent
    mfu: Figure | Absent = NOT_COMPARED
    setup_seconds: float
    memory: Vram
    # What the sensors and the user say, of the steady window: what did the work, each part, and all at the wall.
    energy: Energy | Absent = NO_SENSOR
    telemetry: Telemetry | Absent = NO_SENSOR
    joules_per_item: float | Absent = NO_SENSOR  # of what `energy` covers
    model_flop_per_joule: float | Absent = NO_SENSOR
    draws: tuple[Draw, ...] = ()
    power: Power | Absent = Absent("neither read nor declared in full")
    compile: Compile | Absent = Absent("not compiled")
    events: tuple[str, ...] = ()

    @property
    def unit(self) -> Literal["tokens", "samples"]:
        return self.model.unit if isinstance(self.model, OwnModel) else "tokens"

    @property
    def cards(self) -> int:
        """Devices that worked together."""
        return self.recipe.ranks * self.split_over

    @property
    def has_middle(self) -> bool:
        """Whether its rate may be told as one number: two steps are a range, and so is an interval over ±50 %."""
        return len(self.steady_seconds) >= FEWEST_STEPS and self.items_per_s.has_middle

    @property
    def peak(self) -> Figure | Absent:
        """What decides out-of-memory: a GPU's reserved memory and context, a CPU's process."""
        memory = self.memory
        size, context = memory.reserved_bytes, 0 if isinstance(memory.context_bytes, Absent) else memory.context_bytes
        if self.device.kind == "cpu":
            size, context = memory.process_bytes, 0
        return size if isinstance(size, Absent) else Figure(float(size + context), "measured", memory.deciding)

    @property
    def steady_seconds(self) -> tuple[float, ...]:
        return self.steps.seconds[self.steady_from :]


class Slice(AnySlice, frozen=True, kw_only=True):
    """Of a decoder, counted in tokens."""

    model: Model
    model_flops_per_s: float
    data: Data
    precision_trials: tuple[PrecisionTrial, ...] = ()
    hardware_flops_per_s: float  # with what is recomputed
    hfu: Figure | Absent = NOT_COMPARED
    share_of_measured_matmul: Figure | Absent = NOT_COMPARED
    exchange: Exchange | Absent = Absent("one rank")
    # NCCL's settings that the ranks had beside the shell's: what p2p advises on this rig.
    exports: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def tokens_per_s(self) -> Estimate:
        return self.items_per_s

    @property
    def tokens_per_step(self) -> int:
        return self.items_per_step


IN_THE_FILE = Absent("in the run's file")


class StoredSlice(msgspec.Struct, frozen=True, array_like=True):
    """A slice and the run that holds it, without its raw samples: what thousands of runs are looked through for."""

    run_id: str
    slice: Slice
    steady_steps: int
    early_seconds: float  # of all steps before the steady ones
    is_finite: bool  # whether every steady step's loss was
    disturbed: str = ""  # what else the machine did meanwhile; empty: nothing that counts

    @classmethod
    def of(cls, run_id: str, whole: Slice, disturbed: str = "") -> StoredSlice:
        steps, steady = whole.steps, whole.steady_from
        return cls(
            run_id=run_id,
            slice=msgspec.structs.replace(
                whole,
                steps=Steps((), (), (), (), (), (), ()),
                telemetry=IN_THE_FILE,
                precision_trials=(),
                exchange=IN_THE_FILE,
            ),
            steady_steps=len(steps.seconds) - steady,
            early_seconds=math.fsum(steps.seconds[:steady]),
            is_finite=not any(isinstance(loss, Absent) for loss in steps.loss[steady:]),
            disturbed=disturbed,
        )


class OwnSlice(AnySlice, frozen=True, kw_only=True):
    """Of a program of the user's, counted in its own unit; no `model_flops_per_s` where torch could not count."""

    model: OwnModel


class ArmRow(Record, frozen=True, kw_only=True):
    """One arm: what its recipe came to, measured or predicted."""

    label: str  # the choices in which it differs from the base arm
    recipe: Recipe
    outcome: Literal["measured", "skipped", "predicted"]
    slice: int | Absent  # the place of its slice among the run's
    reason: str = ""  # why it has none
    # Its rate over the base arm's, the interval of both arms and of what the base arm's second run differed by.
    speedup: Estimate | Absent = Absent("nothing to compare with")
    differs: bool = False  # whether its rate and the base arm's are further apart than noise
    peak_bytes: Figure | Absent = Absent("not measured")  # what decides out-of-memory
    memory: VramPrediction | Absent = Absent("not predicted")  # before it ran, as `time`
    time: StepTime | Absent = Absent("not predicted")


class MicroBatchTry(Record, frozen=True):
    """One size that was run in a process of its own, in the arm's own mode."""

    micro_batch: int
    tokens_per_s: Estimate | Absent
    peak_bytes: int | Absent
    allocator_retries: int | Absent
    ended_by: EndedBy | Literal["out of memory"]


class MemoryLine(Record, frozen=True):
    """Peak bytes = intercept + slope · micro-batch, through two sizes: as measured, and as predicted."""

    small: int
    large: int
    measured_slope_bytes: float
    measured_intercept_bytes: float
    predicted_slope_bytes: float
    predicted_intercept_bytes: float


class MicroBatchSearch(Record, frozen=True, kw_only=True):
    """`--micro-batch auto`: the largest that fits, and the fastest, which is often smaller."""

    tries: tuple[MicroBatchTry, ...]
    largest_predicted: int | Absent
    largest: int | Absent  # that ran; Absent where the search ended before it was tried
    chosen: int  # the fastest
    why: str  # no other
    line: MemoryLine | Absent


class Arms(Record, frozen=True, kw_only=True):
    """The arms of one model on one device; `rows[0]` is the base arm."""

    method: int
    started_at: str
    seconds: float
    model: Model
    on: str
    rows: tuple[ArmRow, ...]
    # The base arm's second run over its first, at the end: the machine's drift and the spread between processes.
    control: float | Absent = Absent("the baseline was not run again")
    fastest: str | Absent = Absent("nothing was measured")
    least_memory: str | Absent = Absent("nothing was measured")
    advice: str = ""  # the one arm to take, in words
    pareto: tuple[str, ...] = ()  # labels of arms that no other one beats in both speed and memory
    planned_steps: Figure | Absent = Absent("no plan")
    eight_bit_from: Figure | Absent = Absent("not asked")  # parameters from which 8-bit states save a tenth of the peak
    micro_batch: MicroBatchSearch | Absent = Absent("not searched for")
    usual: bool = False  # predicted elsewhere, and micro-batch and way were left to the rule that budget takes too

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (self.fastest, self.least_memory):
            if isinstance(name, str) and name not in {row.label for row in self.rows}:
                raise ValueError(f"no variant is named {name[:40]!r}")
