"""The commands that measure this machine: run, topology."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command
from rigbench.core.options import (
    Flops,
    HostWatts,
    Load,
    Place,
    Price,
    PsuEfficiency,
    PsuWatts,
    RigProfile,
    Series,
    WallWatts,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run
    from rigbench.job import Job


def register(app: typer.Typer) -> None:
    command(app, "device")(run)
    command(app, "replay")(topology)


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


def topology(common: Common, load: Load = False) -> int:
    """This rig as sysfs and the driver tell it: CPU, memory, NUMA, the PCI tree with its links, disks, GPUs."""
    from rigbench.topology import diagnosis as survey

    return common.answer(lambda job: survey.topology(job, load), _show_topology)


def _show_topology(run: Run, console: Console) -> None:
    from rigbench.machine.record import Topology
    from rigbench.topology import screen as render

    if isinstance(run.topology, Topology):
        render.show(run.topology, console)
