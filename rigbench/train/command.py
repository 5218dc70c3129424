"""The command that trains slices, in every way that a full run could choose: train-probe."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command
from rigbench.core.typer_options import TokenType
from rigbench.model.named import ProgramOptions
from rigbench.model.recipe import RecipeOptions
from rigbench.work.record import NOTHING_DECLARED, WattOptions

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run


class Arms(StrEnum):
    auto = "auto"
    usual = "usual"
    one = "one"
    all = "all"


@command("device", "on")
def train_probe(
    common: Common,
    model: ProgramOptions,
    choices: RecipeOptions,
    arms: Annotated[
        Arms,
        typer.Option(
            help="usual: AdamW and AdamW8bit, checkpointing off and on. all: one choice at a time. one: just the arm "
            "that the options name. auto: one where an option names a choice, else usual."
        ),
    ] = Arms.auto,
    cross: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="All combinations of: optimizer, checkpointing, precision, compile, loss, strategy, accumulation.",
        ),
    ] = None,
    micro_batch: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Sequences at once. auto: the largest that fits and the fastest. Default: 1 on a CPU, 8 on a GPU.",
        ),
    ] = None,
    seconds: Annotated[
        str | None, typer.Option(help="At most this long, each arm. Default: 16 steps' worth, within bounds.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.bin", help="Token ids. Default: a generated, Zipf-distributed file.")
    ] = None,
    data_dtype: Annotated[
        TokenType, typer.Option(help="The type of an id in --data. auto: as it was packed, else uint16.")
    ] = TokenType.auto,
    share: Annotated[bool, typer.Option("--share", help="Measure though another process uses the GPU.")] = False,
    watts: WattOptions = NOTHING_DECLARED,
) -> int:
    """Train slices of a model, each choice of a full run an arm: tokens/s, memory, energy, and which is best.

    With --on NAME everything is predicted for hardware that is not here. On several machines: torchrun --nnodes 2 …
    -m rigbench train-probe --strategy ddp; rank 0 reports.
    """
    from rigbench.train import arms as stage
    from rigbench.train import own_stage as train_own
    from rigbench.train import ranks_stage as train_ranks
    from rigbench.train import words as arm_words
    from rigbench.work.ranks import world_from

    world = world_from(os.environ)
    question = arm_words.asked(
        model,
        arms=arms.value,
        cross=cross,
        choices=choices,
        micro_batch=micro_batch,
        seconds=seconds,
        data=data,
        data_dtype=data_dtype.value,
        device=common.device,
        on=common.on,
        share=share,
        watts=watts,
        world=world,
    )
    if isinstance(question, train_own.Asked):
        return common.answer(lambda job: train_own.run(job, question))
    if world and world.rank:
        return train_ranks.follow(stage.options_of(question, question.base), world, common.store().home)
    return common.answer(lambda job: stage.run(job, question), _show)


def _show(run: Run, console: Console) -> None:
    from rigbench.core import finding_screen as findings
    from rigbench.core.screen import show_rooms

    show_rooms(run, console)
    if run.findings:
        console.print()
        findings.show_findings(run, console)
