"""How fast did this rig train a model, in a calibrated slice of a full run?"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, EndedBy, Energy, Figure, Record, Skipped, Telemetry
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.work.record import Draw, Power

HostAllocator = Literal["default", "keeps memory", "set by the user"]


class Data(Record, frozen=True):
    """Where the tokens came from. `name` is a file's base name, never its folder."""

    kind: Literal["file", "generated"]
    name: str
    tokens: int
    dtype: Literal["uint16", "uint32"]
    distribution: str


class PrecisionTrial(Record, frozen=True):
    """One candidate precision, timed on this model's own matrix products before the slice."""

    precision: Literal["fp32", "bf16"]
    timing: Timing


class Steps(Record, frozen=True):
    """Every step of the slice, warm-up included, in order; one entry per step in each column.

    The parts are seconds inside the step; what they do not explain is `seconds` less their sum. `ended_at_seconds` is
    the monotonic clock at the end of each step. `loss` is Absent where it was not finite. Of several ranks a step and
    its parts are those of the slowest. `enqueue_seconds` is how long a GPU's host took to hand the step over.
    """

    seconds: tuple[float, ...]
    data_seconds: tuple[float, ...]
    forward_seconds: tuple[float, ...]
    backward_seconds: tuple[float, ...]
    optimizer_seconds: tuple[float, ...]
    ended_at_seconds: tuple[float, ...]
    loss: tuple[float | Absent, ...]
    enqueue_seconds: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET


class Exchange(Record, frozen=True):
    """What the ranks of a slice wait for each other's gradients and weights in a step, and what a step loses to it.

    `with_seconds` and `without_seconds` are steps in turn, with and without the exchange, each of the slowest rank;
    `exposed_seconds` is the median of their differences, `exposed` that with its interval. `without_by_rank` are the
    median steps without it of each rank; `alone_seconds` is rank 0's, of the whole model, while all others waited. The
    slice's median step is then that alone, what is `shared` (memory, power, cores; of shards also what handling them
    costs, less what the optimizer saves), what the slowest rank takes longer than the middle one (`imbalance`), what is
    exposed, and what stays `unexplained`: steps in turn begin together, and those of the slice as they come.
    `efficiency` is the rate of all over that many times the one rank's.

    Raw seconds, by rank and step: `steps_by_rank` of the slice, `with_samples` and `without_samples` of the steps in
    turn; `alone_samples` of rank 0.
    """

    method: str
    hosts: tuple[str, ...]
    with_seconds: tuple[float, ...]
    without_seconds: tuple[float, ...]
    exposed_seconds: float
    without_by_rank: tuple[float, ...]
    alone_seconds: Estimate | Absent
    shared_seconds: float | Absent
    imbalance_seconds: float
    unexplained_seconds: float
    efficiency: float | Absent
    exposed: Estimate | msgspec.UnsetType = msgspec.UNSET
    steps_by_rank: tuple[tuple[float, ...], ...] = ()
    with_samples: tuple[tuple[float, ...], ...] = ()
    without_samples: tuple[tuple[float, ...], ...] = ()
    alone_samples: tuple[float, ...] = ()


class Compile(Record, frozen=True):
    """What `torch.compile` took before the first step was done, beyond a later step's seconds.

    `cold_seconds` with an empty cache of compiled kernels, `warm_seconds` in a new process that found them there.
    """

    cold_seconds: float
    warm_seconds: float | Absent


class Vram(Record, frozen=True):
    """Peak memory four ways; `deciding` names the one that runs out first on this device."""

    allocated_bytes: int | Absent
    reserved_bytes: int | Absent
    process_bytes: int | Absent
    context_bytes: int | Absent
    before_model_bytes: int | Absent
    allocator_retries: int | Absent
    deciding: str


class Slice(Record, frozen=True):
    """A short training run whose steady window predicts a long one.

    `steady_from` is the index of the first step of the steady window. `tokens_per_s` is total tokens over total
    seconds of that window, its interval by batch means; `step_seconds` is the median step with its own interval.
    `joules_per_token` and `model_flop_per_joule` cover what `energy` covers; `draws` are all that was read of the
    machine over the same window, `power` what they and what was declared come to at the wall.

    Of the `recipe` precision and micro-batch are those that were chosen, ranks those that trained. `host_allocator`
    "keeps memory": glibc was told not to give large blocks back to the system between steps, by the variables in
    work/process.py; a CPU run without them spends a large part of its time in page faults.
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    model: Model
    recipe: Recipe
    precision_chosen_by: str
    micro_batch_chosen_by: str
    host_allocator: HostAllocator
    data: Data
    precision_trials: tuple[PrecisionTrial, ...]
    steps: Steps
    steady_from: int
    ended_by: EndedBy
    target_half_width: float
    tokens_per_step: int
    tokens_per_s: Estimate
    step_seconds: Estimate
    outliers: int
    step_share: dict[str, float]
    model_flops_per_s: float
    hardware_flops_per_s: float
    mfu: Figure | Absent
    share_of_measured_matmul: Figure | Absent
    setup_seconds: float
    memory: Vram
    energy: Energy | Absent
    telemetry: Telemetry | Absent
    events: tuple[str, ...] = ()
    joules_per_token: float | msgspec.UnsetType = msgspec.UNSET
    model_flop_per_joule: float | msgspec.UnsetType = msgspec.UNSET
    draws: tuple[Draw, ...] | msgspec.UnsetType = msgspec.UNSET
    power: Power | msgspec.UnsetType = msgspec.UNSET
    hfu: Figure | Absent | msgspec.UnsetType = msgspec.UNSET
    compile: Compile | msgspec.UnsetType = msgspec.UNSET
    exchange: Exchange | msgspec.UnsetType = msgspec.UNSET


SliceResult = Slice | Skipped
IN_THE_FILE = Absent("in the run's file")


class StoredSlice(msgspec.Struct, frozen=True, array_like=True):
    """A slice and the run that holds it, without its raw samples: what thousands of runs are looked through for."""

    run_id: str
    slice: Slice
    steady_steps: int
    early_seconds: float  # of all steps before the steady ones
    is_finite: bool  # whether every steady step's loss was

    @classmethod
    def of(cls, run_id: str, whole: Slice) -> StoredSlice:
        steps, steady = whole.steps, whole.steady_from
        return cls(
            run_id=run_id,
            slice=msgspec.structs.replace(
                whole,
                steps=Steps((), (), (), (), (), (), ()),
                telemetry=IN_THE_FILE,
                precision_trials=(),
                exchange=msgspec.UNSET,
            ),
            steady_steps=len(steps.seconds) - steady,
            early_seconds=math.fsum(steps.seconds[:steady]),
            is_finite=not any(isinstance(loss, Absent) for loss in steps.loss[steady:]),
        )


class OwnSlice(Record, frozen=True, kw_only=True):
    """A short training run of the user's own model. Everything is as in a `Slice`, counted in the model's own unit.

    `items_per_s` are samples, or tokens of a language model; `model_flops_per_s` is Absent where torch could not count.
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    model: OwnModel
    recipe: Recipe
    precision_chosen_by: str
    micro_batch_chosen_by: str
    host_allocator: HostAllocator
    steps: Steps
    steady_from: int
    ended_by: EndedBy
    target_half_width: float
    items_per_step: int
    items_per_s: Estimate
    step_seconds: Estimate
    outliers: int
    step_share: dict[str, float]
    model_flops_per_s: float | Absent
    mfu: Figure | Absent
    setup_seconds: float
    memory: Vram
    energy: Energy | Absent
    telemetry: Telemetry | Absent
    events: tuple[str, ...] = ()
    joules_per_item: float | msgspec.UnsetType = msgspec.UNSET
    draws: tuple[Draw, ...] | msgspec.UnsetType = msgspec.UNSET
    compile: Compile | msgspec.UnsetType = msgspec.UNSET


class OwnModel(Record, frozen=True):
    """A program of the user's, `name` as they named it (package.module:factory), tried once and not yet trained.

    An item is what its speed is counted in: a token of a language model, which has `items_per_sample` in a sequence
    and a `vocabulary`, else a sample. Tied weights count once; `unused_parameters` can be trained and got no gradient.
    `flop_per_item` is what torch counted in a forward and backward pass of `trial_samples`, as `flop_basis` says;
    `loss` was that of the untrained model. `batch` says what it ate.
    """

    name: str
    unit: Literal["tokens", "samples"]
    items_per_sample: int
    vocabulary: int | Absent
    batch: str
    total_parameters: int
    trainable_parameters: int
    unused_parameters: int
    flop_per_item: float | Absent
    flop_basis: str
    trial_samples: int
    loss: float


Factor = Literal["optimizer", "checkpointing", "precision", "compile", "loss", "strategy", "accumulation"]


class ArmRow(Record, frozen=True, kw_only=True):
    """One arm. `label` says in which choices its recipe differs from the base arm.

    `slice` is the place of its slice among the run's; `reason` says why it has none. `speedup` is its tokens/s over the
    base arm's, with an interval that holds both arms' own and what the base arm's second run differed from its first.
    `peak_bytes` is what decides out-of-memory. `memory` and `time` were predicted before it ran.
    """

    label: str
    recipe: Recipe
    outcome: Literal["measured", "skipped", "predicted"]
    slice: int | Absent
    reason: str = ""
    speedup: Estimate | Absent = Absent("nothing to compare with")
    peak_bytes: Figure | Absent = Absent("not measured")
    memory: VramPrediction | Absent = Absent("not predicted")
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
    """`--micro-batch auto`: the largest that fits, and the fastest, which is often smaller.

    `largest_predicted` was predicted, `largest` is what ran (Absent where the search ended before it was tried);
    `chosen` is the fastest, and `why` says in a sentence why no other.
    """

    tries: tuple[MicroBatchTry, ...]
    largest_predicted: int | Absent
    largest: int | Absent
    chosen: int
    why: str
    line: MemoryLine | Absent


class Arms(Record, frozen=True, kw_only=True):
    """The arms of one model on one device. `rows[0]` is the base arm.

    `control` is the base arm's second run over its first, at the end: what the machine's drift and the spread between
    processes come to. `pareto` are the labels of arms that no other one beats in both speed and memory.
    `eight_bit_from` is the number of parameters from which on 8-bit states would save a tenth of the peak.
    """

    method: int
    started_at: str
    seconds: float
    model: Model
    on: str
    rows: tuple[ArmRow, ...]
    control: float | Absent = Absent("the base arm was not run again")
    fastest: str | Absent = Absent("nothing was measured")
    least_memory: str | Absent = Absent("nothing was measured")
    pareto: tuple[str, ...] = ()
    planned_steps: Figure | Absent = Absent("no plan")
    eight_bit_from: Figure | Absent = Absent("not asked")
    micro_batch: MicroBatchSearch | msgspec.UnsetType = msgspec.UNSET
