"""What would a compute budget take on this rig, and what does the answer rest on?"""

from __future__ import annotations

from typing import Literal

from rigbench.records.base import Absent, Estimate, Figure, Record


class Rate(Record):
    """Tokens per second of one model on this rig. `source` is "measured" where a stored slice of it exists.

    `rests_on` names the slices (run id and model) behind it; `widened_by` says what widened the interval and how much.
    """

    tokens_per_s: Estimate
    source: Literal["measured", "predicted"]
    rests_on: tuple[str, ...]
    widened_by: tuple[str, ...]


class PlanRow(Record):
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


class Price(Record):
    """Electricity, with place and date beside it: there is no silent price."""

    per_kwh: float
    currency: str
    place: str
    date: str
    source: str


class Power(Record):
    """The watts that the kWh rest on, and what they cover."""

    watts: Figure
    covers: Literal["wall", "GPUs only", "CPU package only"]


class Budget(Record):
    """The answer to `rigbench budget --flops C`: the series with equal tokens, and each model alone with all of C.

    `series` rows share C so that every model sees the same tokens; `alone` rows spend all of C on one model.
    """

    method: int
    started_at: str
    flops: float
    flops_counted_as: Literal["6·N·D", "exact"]
    series_name: str
    series: tuple[PlanRow, ...]
    series_hours: Estimate
    series_kwh: Figure | Absent
    series_money: Figure | Absent
    alone: tuple[PlanRow, ...]
    power: Power | Absent
    price: Price | Absent
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
