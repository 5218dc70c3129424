"""The command that trains slices, in every way that a full run could choose: train-probe."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from rigbench.command import Common, command
from rigbench.model.named import ProgramOptions
from rigbench.model.recipe import RecipeOptions
from rigbench.predict.record import ToldOptions
from rigbench.train.record import ProbeOptions
from rigbench.work.record import WattOptions

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run


@command("device", "on", "link", "p2p", "replay", "keep_disturbed")
def train_probe(
    common: Common,
    model: ProgramOptions,
    choices: RecipeOptions,
    options: ProbeOptions,
    told: ToldOptions,
    watts: WattOptions,
) -> int:
    """Train a model for a minute, each choice of a full run a variant: tokens/s, memory, energy, and which is best.

    Several alike GPUs train together by ddp, with one alone as a row, unless --strategy says otherwise. With --on NAME
    everything is predicted for hardware that is not here. On several machines: torchrun --nnodes 2 … -m rigbench
    train-probe --strategy ddp; rank 0 reports.

        rigbench train-probe --params 120M             how fast, how much memory, which variant
        rigbench train-probe --params 120M --variants all  one choice at a time
        rigbench train-probe --model mynet:make        a program of yours; --on too
    """
    from rigbench.predict import capacity, known
    from rigbench.predict.recorded import rig_asked
    from rigbench.train import arms, plan, slices
    from rigbench.work.ranks import world_from

    world = world_from(os.environ)
    on = rig_asked(common.on, common.replay)
    if on is None:
        known.refuse_alone(told)
    made = plan.of(model, choices, options, watts, device=common.device, on=on, world=world)
    if isinstance(made, plan.Program) and on is not None:
        its, said = made.trial, plan.as_capacity(choices, told, made.trial.name)
        sizes, micro_batch = (its.vocabulary, its.sequence), made.facts["recipe"].micro_batch
        return common.answer(
            lambda job: capacity.predicted_program(job, its.name, sizes, said, on, common.device, micro_batch), _show
        )
    if isinstance(made, plan.Program):
        return common.answer(lambda job: slices.run(job, made.options(slices.tried(job, made.trial))), _show)
    if world and world.rank:
        return slices.follow(made.options_of(made.base), world, common.store().home)
    asked = dataclasses.replace(made, told=known.told(told, made.model, common.store().find))
    return common.answer(lambda job: arms.run(job, asked), _show)


def _show(run: Run, console: Console, whole: bool, quiet: bool) -> None:
    from rigbench.core.finding_screen import show_findings
    from rigbench.core.screen import show_rooms

    show_rooms(run, console, whole, quiet)
    if whole and run.findings:
        console.print()
        show_findings(run.findings, run.unchecked, console)
