"""What does a run take beyond its steps, and what do its hours cost: overheads, disk, rent, purchase, sanity?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Estimate, Figure, Record

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
