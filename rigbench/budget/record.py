"""What would a compute budget take on this rig, and what does the answer rest on?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Figure, Price, Record
from rigbench.model.recipe import Precision
from rigbench.train.record import HostAllocator
from rigbench.work.record import Power

AskedKind = Literal["flops", "tokens", "tokens per parameter", "hours", "kWh", "electricity", "rent"]
Split = Literal["equal tokens", "equal FLOP", "compute-optimal"]


class Configuration(Record, frozen=True):
    """The one way in which every model of a plan is trained: a device, and an arm without its micro-batch.

    `threads` of the device belong to it: the same processor with half its threads is another rig for this purpose.
    Where it is unset, every block is recomputed (with checkpointing on), the loss is in one piece, one rank trains.
    """

    device: Device
    optimizer: str
    checkpointing: Literal["off", "on"]
    precision: Precision
    compiled: bool
    strategy: str
    host_allocator: HostAllocator
    checkpoint_every: int | msgspec.UnsetType = msgspec.UNSET
    loss_chunks: int | msgspec.UnsetType = msgspec.UNSET
    ranks: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def words(self) -> str:
        """One line for people: the device first, then only the choices that are not the plain loop's."""
        plural = "" if self.device.threads == 1 else "s"
        threads = f", {self.device.threads} thread{plural}" if self.device.kind == "cpu" else ""
        choices = [self.optimizer, self.precision]
        every = self.checkpoint_every or 1
        choices += [f"checkpointing every {every}" if every > 1 else "checkpointing"] * (self.checkpointing == "on")
        choices += [f"loss in {self.loss_chunks} chunks"] if (self.loss_chunks or 1) > 1 else []
        choices += ["compiled"] if self.compiled else []
        ranks = f" on {self.ranks}" if (self.ranks or 1) > 1 else ""
        choices += [f"{self.strategy}{ranks}"] if self.strategy != "single" else []
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
    """One model of the plan. Hours are training steps alone; overheads are rows of their own.

    `steps` are of `tokens_per_step` tokens, `batch` says what makes up one. `losses` are laws' predictions.
    """

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
    steps: float | msgspec.UnsetType = msgspec.UNSET
    tokens_per_step: int | msgspec.UnsetType = msgspec.UNSET
    batch: str | msgspec.UnsetType = msgspec.UNSET
    losses: tuple[LawLoss, ...] | msgspec.UnsetType = msgspec.UNSET


class AskedFor(Record, frozen=True):
    """What the budget was given as: so many FLOP, tokens, hours, kWh or so much money (in `currency`).

    `declared_hours` is what somebody says that it takes, to be checked. `flops` is what the amount comes to, with an
    interval where that depends on the rig.
    """

    kind: AskedKind
    amount: float
    split: Split
    flops: Estimate
    currency: str = ""
    declared_hours: float | Absent = Absent("no hours were declared")


class NextSlice(Record, frozen=True):
    """The slice that would narrow the budget's interval most; half-widths are shares of `of`'s rate."""

    command: str
    of: str
    half_width_now: float
    half_width_then: float | Absent
    basis: str


class Refused(Record, frozen=True):
    """A rig that was asked about beside others, and why there is no answer for it."""

    rig: str
    reason: str


class Budget(Record, frozen=True):
    """What a budget takes on one rig: for its models together, and for each alone with all of its FLOP.

    `series` rows share the FLOP as `asked.split` says; `series_tokens_each` is their mean. Sums named series_… are of
    training steps alone; `whole` has every overhead in it. `rig` is set where the rig is not this one: then nothing was
    measured. `others` are the same question's answers for further rigs. `left_out` says which stored slices were not
    used, and why.
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
    rig: str | msgspec.UnsetType = msgspec.UNSET
    asked: AskedFor | msgspec.UnsetType = msgspec.UNSET
    overheads: tuple[Overhead, ...] | msgspec.UnsetType = msgspec.UNSET
    whole: Sum | msgspec.UnsetType = msgspec.UNSET
    written: Written | msgspec.UnsetType = msgspec.UNSET
    rent: Rent | Absent | msgspec.UnsetType = msgspec.UNSET
    purchase: Purchase | Absent | msgspec.UnsetType = msgspec.UNSET
    break_even: BreakEven | Absent | msgspec.UnsetType = msgspec.UNSET
    sanity: Sanity | Absent | msgspec.UnsetType = msgspec.UNSET
    laws: ScalingLaws | msgspec.UnsetType = msgspec.UNSET
    next_slice: NextSlice | msgspec.UnsetType = msgspec.UNSET
    others: tuple[Budget, ...] | msgspec.UnsetType = msgspec.UNSET
    refused: tuple[Refused, ...] | msgspec.UnsetType = msgspec.UNSET


class LawOptimum(Record, frozen=True):
    """One law's compute-optimal model for a budget. `counts` says which parameters and which FLOP the law means.

    `loss` is in nats a token on the law's own data set; `beyond_fit` says how the answer leaves the fitted range.
    """

    law: str
    parameters: float
    tokens: float
    loss: float
    counts: str
    source: str
    beyond_fit: str | Absent


class LawLoss(Record, frozen=True):
    """One law's loss, nats a token on its own data set, of one model after so many tokens."""

    law: str
    loss: float
    source: str


class ScalingLaws(Record, frozen=True):
    """Predictions of published fits, never measurements. The laws' spread is the honest interval: the published
    standard errors of one fit are correlated, and are not propagated.

    `critical_batch_tokens` is Kaplan's, at the lowest and the highest of the laws' losses (high loss, small batch).
    """

    flops: float
    optima: tuple[LawOptimum, ...]
    parameters_low: float
    parameters_high: float
    tokens_low: float
    tokens_high: float
    critical_batch_tokens_low: float
    critical_batch_tokens_high: float
    caveat: str


OverheadName = Literal["hot steady state", "compile", "warm-up", "evaluation", "checkpoints", "restarts"]


class Overhead(Record, frozen=True):
    """Hours over all models beyond the training steps; the figure's basis says what they rest on, and the option."""

    name: OverheadName
    hours: Figure


class Sum(Record, frozen=True):
    """Steps and overheads together, of all models: hours, kWh and the money that the electricity costs."""

    hours: Estimate
    kwh: Figure | Absent
    money: Figure | Absent


class Written(Record, frozen=True):
    """Checkpoints on disk: of one of the largest model, and of all models' that are kept at the end."""

    largest_bytes: int
    kept_bytes: int
    kept_each: int
    count: int
    basis: str


class Rent(Record, frozen=True):
    """What the same hours cost on rented cards. `name` says whose price it is; its date may be unknown."""

    per_hour: float
    currency: str
    name: str
    money: Figure


class Purchase(Record, frozen=True):
    """The share of a rig's price that these hours use up, `lifetime_hours` being all that it will ever work."""

    price: Figure
    currency: str
    lifetime_hours: float
    money: Figure


class BreakEven(Record, frozen=True):
    """After how many hours a bought rig is cheaper than the rented cards; its electricity is paid, the rented's not."""

    hours: Figure
    runs: float


class Sanity(Record, frozen=True):
    """What the plan comes to beside the datasheet. `peak_flops_per_s` is of all cards in the plan's precision.

    `flop_per_joule` is exact FLOP over the energy at the wall (or what is covered). `sentence` is empty unless what
    was asked is far from what the rig should do.
    """

    flops_per_s: Estimate
    peak_flops_per_s: Figure | Absent
    share: Estimate | Absent
    flop_per_joule: Figure | Absent
    sentence: str = ""
