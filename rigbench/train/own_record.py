"""How fast did this rig train a program of the user's own?"""

from __future__ import annotations

import msgspec

from rigbench.core.record import Absent, EndedBy, Estimate, Figure, Record
from rigbench.core.telemetry import Device, Energy, Telemetry
from rigbench.train.own_model_record import OwnModel
from rigbench.train.record import Arm, Compile, Steps, Vram
from rigbench.work.record import Draw


class OwnSlice(Record, frozen=True, kw_only=True):
    """A short training run of the user's own model. Everything is as in a `Slice`, counted in the model's own unit.

    `items_per_s` are samples, or tokens of a language model; `model_flops_per_s` is Absent where torch could not count.
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    model: OwnModel
    arm: Arm
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
