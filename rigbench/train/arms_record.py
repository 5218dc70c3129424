"""Which ways of training one model were tried or predicted, how do they compare, and which one is best?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.record import Absent, EndedBy, Estimate, Figure, Record
from rigbench.predict.record import VramPrediction
from rigbench.predict.steptime_record import StepTime
from rigbench.train.record import Model, Precision

Factor = Literal["optimizer", "checkpointing", "precision", "compile", "loss", "strategy", "accumulation"]


class Choice(Record, frozen=True, kw_only=True):
    """An arm as it was asked for. `checkpoint_every` 0: no block is recomputed; `precision` "auto": the base arm's.

    `micro_batch` 0: the base arm's, or the device's default.
    """

    optimizer: str = "adamw"
    checkpoint_every: int = 0
    precision: Literal["auto"] | Precision = "auto"
    compiled: bool = False
    loss_chunks: int = 1
    strategy: str = "single"
    accumulation: int = 1
    micro_batch: int = 0


class ArmRow(Record, frozen=True, kw_only=True):
    """One arm. `label` says in which of its choices it differs from the base arm.

    `slice` is the place of its slice among the run's; `reason` says why it has none. `speedup` is its tokens/s over the
    base arm's, with an interval that holds both arms' own and what the base arm's second run differed from its first.
    `peak_bytes` is what decides out-of-memory. `memory` and `time` were predicted before it ran.
    """

    label: str
    choice: Choice
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
