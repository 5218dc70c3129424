"""How fast did this rig train a model, in a calibrated slice of a full run?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.record import Absent, EndedBy, Estimate, Figure, Record, Skipped, Timing
from rigbench.core.telemetry import Device, Energy, Telemetry
from rigbench.work.record import Draw, Power

HostAllocator = Literal["default", "keeps memory", "set by the user"]
Precision = Literal["fp32", "bf16", "bf16-pure", "fp16", "tf32"]


class Shape(Record, frozen=True):
    """A decoder's shape: L layers, width d, H heads, V vocabulary, T sequence."""

    style: Literal["gpt2", "neox", "llama"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocabulary: int
    sequence: int
    tied_head: bool
    biases: bool


class Model(Record, frozen=True):
    """What was trained: nominal name, true counts. Tied weights count once.

    `matmul_parameters` are those that enter a matrix product: the N of 6·N + 12·L·d·T. `flop_per_token` is that exact
    closed form with full (not causally halved) attention; `flop_per_token_6n` is the field's 6·N_total.
    """

    name: str
    shape: Shape
    total_parameters: int
    non_embedding_parameters: int
    matmul_parameters: int
    flop_per_token: float
    flop_per_token_6n: float


class Arm(Record, frozen=True):
    """The choices of this slice, as a full run would make them.

    `precision` "bf16" and "fp16" are autocast over fp32 weights (fp16 with a scaled loss), "bf16-pure" has weights,
    gradients and moments in bf16. `checkpoint_every` k recomputes every k-th block where checkpointing is on (unset:
    all); `loss_chunks` is into how many parts the sequence goes for head and loss (unset: 1); `ranks` that train
    together (unset: 1), each with `micro_batch` sequences.

    `host_allocator` "keeps memory": glibc was told not to give large blocks back to the system between steps, by the
    variables in measure/workers.py; a CPU run without them spends a large part of its time in page faults.
    """

    optimizer: str
    checkpointing: Literal["off", "on"]
    precision: Precision
    precision_chosen_by: str
    compiled: bool
    strategy: str
    micro_batch: int
    micro_batch_chosen_by: str
    accumulation: int
    host_allocator: HostAllocator
    checkpoint_every: int | msgspec.UnsetType = msgspec.UNSET
    loss_chunks: int | msgspec.UnsetType = msgspec.UNSET
    ranks: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def checkpointed(self) -> int:
        """As models take it: 0 no block is recomputed, 1 all, k every k-th."""
        return 0 if self.checkpointing == "off" else self.checkpoint_every or 1

    @property
    def chunks(self) -> int:
        return self.loss_chunks or 1

    @property
    def world_size(self) -> int:
        return self.ranks or 1


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
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    model: Model
    arm: Arm
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
