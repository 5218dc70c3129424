"""What would a compute budget take on this rig, and what does the answer rest on?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.records.base import Absent, Estimate, Figure, Record
from rigbench.records.power import Power
from rigbench.records.probe import Device
from rigbench.records.slices import HostAllocator


class Configuration(Record, frozen=True):
    """The one way in which every model of a plan is trained: a device, and an arm without its micro-batch.

    `threads` of the device belong to it: the same processor with half its threads is another rig for this purpose.
    """

    device: Device
    optimizer: str
    checkpointing: Literal["off", "on"]
    precision: Literal["fp32", "bf16"]
    compiled: bool
    strategy: str
    host_allocator: HostAllocator

    @property
    def words(self) -> str:
        """One line for people: the device first, then only the choices that are not the plain loop's."""
        plural = "" if self.device.threads == 1 else "s"
        threads = f", {self.device.threads} thread{plural}" if self.device.kind == "cpu" else ""
        choices = [self.optimizer, self.precision]
        choices += ["checkpointing"] if self.checkpointing == "on" else []
        choices += ["compiled"] if self.compiled else []
        choices += [self.strategy] if self.strategy != "single" else []
        choices += ["allocator keeps memory"] if self.host_allocator == "keeps memory" else []
        return f"{self.device.kind} ({self.device.name}{threads}), {', '.join(choices)}"


class Rate(Record, frozen=True):
    """Tokens per second of one model on this rig. `source` is "measured" where a stored slice of it exists.

    `rests_on` names the slices (run id and model) behind it; `widened_by` says what widened the interval and how much;
    `history_factor` is what its logarithmic half-width was multiplied with because of this rig's back-tests, if it was.
    """

    tokens_per_s: Estimate
    source: Literal["measured", "predicted"]
    rests_on: tuple[str, ...]
    widened_by: tuple[str, ...]
    history_factor: float | msgspec.UnsetType = msgspec.UNSET


class PlanRow(Record, frozen=True):
    """One model of the plan. Hours are training steps alone; overheads are rows of their own."""

    model: str
    total_parameters: int
    tokens: float
    tokens_per_parameter: float
    flop_6n: float
    flop_exact: float
    rate: Rate
    hours: Estimate
    kwh: Figure | Absent
    money: Figure | Absent


class Price(Record, frozen=True):
    """Electricity, with place and date beside it: there is no silent price."""

    per_kwh: float
    currency: str
    place: str
    date: str
    source: str


class Budget(Record, frozen=True):
    """The answer to `rigbench budget --flops C`: the series with equal tokens, and each model alone with all of C.

    `series` rows share C so that every model sees the same `series_tokens_each`; `alone` rows spend all of C on one
    model. `series_model_flops_per_s` is the series' exact FLOP over its time. `left_out` says which stored slices were
    not used, and why.
    """

    method: int
    started_at: str
    flops: float
    flops_counted_as: Literal["6·N·D", "exact"]
    configuration: Configuration
    series_name: str
    series: tuple[PlanRow, ...]
    series_tokens_each: float
    series_flop_6n: float
    series_flop_exact: float
    series_hours: Estimate
    series_model_flops_per_s: Estimate
    series_kwh: Figure | Absent
    series_money: Figure | Absent
    alone: tuple[PlanRow, ...]
    power: Power | Absent
    price: Price | Absent
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
