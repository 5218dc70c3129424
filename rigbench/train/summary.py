"""What does a slice's record say of the steps that were made?"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import msgspec

from rigbench.core import stats
from rigbench.core.record import Absent, Device, EndedBy
from rigbench.model import flops
from rigbench.model.recipe import Recipe
from rigbench.train.options import DecoderOptions
from rigbench.train.record import Data, Exchange, PrecisionTrial, Slice, Steps, Vram
from rigbench.train.steps import PARTS, StepLoop


class Chosen(NamedTuple):
    """The recipe with nothing left to be chosen, and by whom."""

    recipe: Recipe
    precision_chosen_by: str
    micro_batch_chosen_by: str


class Ground(NamedTuple):
    """What is known before the first step."""

    chosen: Chosen
    data: Data
    trials: tuple[PrecisionTrial, ...]
    before_model_bytes: int | Absent
    started_at: str
    started: float
    events: list[str]
    failed_in: list[str]  # what was under way, the latest last


class Seen(NamedTuple):
    """What the steps have shown; of several ranks, of all of them."""

    steps: Steps
    steady_from: int
    events: tuple[str, ...]
    memory: Vram
    setup_seconds: float
    exchange: Exchange | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, loop: StepLoop, memory: Vram, setup_seconds: float) -> Seen:
        return cls(loop.columns(), loop.watch.steady_from, tuple(loop.events), memory, setup_seconds)


def sliced(
    method: int, options: DecoderOptions, ground: Ground, device: Device, seen: Seen, ended_by: EndedBy
) -> Slice:
    """Every figure follows from the raw steps."""
    recipe, shape, steps = ground.chosen.recipe, options.model.shape, seen.steps
    steady = steps.seconds[seen.steady_from :]
    tokens_per_step = recipe.micro_batch * recipe.accumulation * recipe.ranks * shape.sequence
    rate = stats.rate_estimate(tokens_per_step, steady)
    hardware_flop = flops.hardware_flop_per_token(shape, recipe.checkpoint_every, recipe.loss_chunks)
    return Slice(
        method=method,
        started_at=ground.started_at,
        seconds=time.perf_counter() - ground.started,
        device=device,
        model=options.model,
        recipe=recipe,
        precision_chosen_by=ground.chosen.precision_chosen_by,
        micro_batch_chosen_by=ground.chosen.micro_batch_chosen_by,
        host_allocator=options.host_allocator,
        data=ground.data,
        precision_trials=ground.trials,
        steps=steps,
        steady_from=seen.steady_from,
        ended_by=ended_by,
        target_half_width=options.target_half_width,
        tokens_per_step=tokens_per_step,
        tokens_per_s=rate,
        step_seconds=stats.median_estimate(steady),
        outliers=len(stats.outliers(steady)),
        step_share=shares(steps, seen.steady_from),
        model_flops_per_s=rate.value * options.model.flop_per_token,
        hardware_flops_per_s=rate.value * hardware_flop,
        mfu=Absent("not compared with a datasheet"),
        share_of_measured_matmul=Absent("not compared with a measured matmul"),
        setup_seconds=seen.setup_seconds,
        memory=seen.memory,
        energy=Absent("no sensor was read beside this slice"),
        telemetry=Absent("no sensor was read beside this slice"),
        events=(*ground.events, *seen.events)[:100],
        exchange=seen.exchange,
    )


def shares(steps: Steps, steady_from: int) -> dict[str, float]:
    """Each part's share of the steady window."""
    total = math.fsum(steps.seconds[steady_from:])
    return {name: math.fsum(getattr(steps, f"{name}_seconds")[steady_from:]) / total for name in PARTS}
