"""The command that runs every probe: run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command
from rigbench.core.typer_options import Flops, Place, Price, Series
from rigbench.work.record import NOTHING_DECLARED, WattOptions

if TYPE_CHECKING:
    from rigbench.job import Job


@command("device")
def run(
    common: Common,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under 5 minutes on 2 CPU cores: three sizes, shorter probes, no soak.")
    ] = False,
    flops: Flops = "1.2e18",
    series: Series = "diy",
    price: Price = None,
    place: Place = None,
    watts: WattOptions = NOTHING_DECLARED,
) -> int:
    """Every probe, one record: the rig, its copies, matmuls and training slices, and what a budget will cost."""
    from rigbench.budget import plans, runner
    from rigbench.report import screen as render

    question = plans.question(flops, series, False, watts, price, place)

    def work(job: Job) -> None:
        runner.everything(job, plans.whole_run(question.models, quick, common.device), question)

    return common.answer(work, render.show)
