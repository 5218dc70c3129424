"""How much memory will a training step take, and what fits? Predictions: nothing here was measured."""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Figure, Record, Source
from rigbench.train.record import Model

WeightFormat = Literal["bf16", "8-bit", "4-bit"]


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


class Training(Record, frozen=True, kw_only=True):
    """What is trained and how. `checkpoint_every` 0: no block is recomputed, 1: all, k: every k-th.

    `loss_chunks` 1 is the plain loss. `precision` "bf16" and "fp16" are autocast over fp32 weights, "bf16-pure" has
    weights, gradients and AdamW's moments in bf16.
    """

    model: Model
    micro_batch: int = 1
    accumulation: int = 1
    optimizer: Literal["adamw", "adamw-foreach", "adamw8bit", "paged-adamw8bit"] = "adamw"
    checkpoint_every: int = 0
    precision: Literal["bf16", "fp16", "bf16-pure", "fp32", "tf32"] = "bf16"
    loss_chunks: int = 1
    strategy: Literal["single", "ddp", "fsdp2", "fsdp2-offload"] = "single"
    ranks: int = 1


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
    training: Training
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
    """One way of training: what fits that way. A model's `value` is its true parameter count."""

    optimizer: str
    checkpoint_every: int
    loss_chunks: int
    micro_batch: Largest | Absent
    sequence: Largest | Absent
    model: Largest | Absent


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
    precision: str
    strategy: str
    rows: tuple[CapacityRow, ...] = ()
    context_tokens: int = 0
    inference: tuple[InferenceRow, ...] = ()
    would_fit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
