"""The command that runs every probe: run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command
from rigbench.core.typer_options import (
    Flops,
    HostWatts,
    Place,
    Price,
    PsuEfficiency,
    PsuWatts,
    RigProfile,
    Series,
    WallWatts,
)

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
    wall_watts: WallWatts = None,
    host_watts: HostWatts = None,
    price: Price = None,
    place: Place = None,
    psu_watts: PsuWatts = None,
    psu_efficiency: PsuEfficiency = None,
    rig_profile: RigProfile = None,
) -> int:
    """Every probe, one record: the rig, its copies, matmuls and training slices, and what a budget will cost."""
    from rigbench.budget import plans, runner
    from rigbench.report import screen as render

    question = plans.question(
        flops, series, False, wall_watts, host_watts, price, place, psu_watts, psu_efficiency, rig_profile
    )

    def work(job: Job) -> None:
        runner.everything(job, plans.whole_run(question.models, quick, common.device), question)

    return common.answer(work, render.show)
