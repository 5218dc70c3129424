"""How long will a training step take, and where will its seconds go? Predictions, and what they were held against."""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Estimate, Figure, Record, Source
from rigbench.predict.record import Training

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
    training: Training
    compiled: bool
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


class StepAccount(Record, frozen=True):
    """A prediction beside what was measured: `unexplained_seconds` is the measured step less all predicted parts."""

    predicted: StepTime
    measured_seconds: Estimate
    run: str
    unexplained_seconds: float
