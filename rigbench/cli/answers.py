"""The commands that answer from what is stored: budget, report, profiles."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.cli.common import Common, command
from rigbench.cli.options import Flops, HostWatts, Place, Price, PsuEfficiency, PsuWatts, RigProfile, Series, WallWatts

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.job import Job
    from rigbench.records import Run


def register(app: typer.Typer) -> None:
    command(app, "device")(budget)
    command(app)(report)
    command(app)(profiles_command)


def budget(
    common: Common,
    flops: Flops = "1.2e18",
    series: Series = "diy",
    exact_flops: Annotated[
        bool, typer.Option("--exact-flops", help="Count attention and matmuls exactly instead of 6·N·D.")
    ] = False,
    wall_watts: WallWatts = None,
    host_watts: HostWatts = None,
    price: Price = None,
    place: Place = None,
    psu_watts: PsuWatts = None,
    psu_efficiency: PsuEfficiency = None,
    rig_profile: RigProfile = None,
) -> int:
    """Hours with an interval, kWh and money for a compute budget, from slices measured on this rig.

    Where none is stored, short ones are run first.
    """
    from rigbench import plans, runner

    question = plans.question(
        flops, series, exact_flops, wall_watts, host_watts, price, place, psu_watts, psu_efficiency, rig_profile
    )

    def work(job: Job) -> None:
        runner.budget(job, question, plans.short_slices(question.models, common.device), common.device)

    return common.answer(work, _show_budget)


def _show_budget(run: Run, console: Console) -> None:
    from rigbench.records import Budget
    from rigbench.render import budget as render
    from rigbench.render import slices

    for result in run.slices:
        slices.show(result, console)
        console.print()
    if isinstance(run.budget, Budget):
        render.show(run.budget, console)


def report(
    common: Common,
    run: Annotated[str | None, typer.Argument(help="A run's id, its start, or a file. Default: the newest.")] = None,
    every: Annotated[bool, typer.Option("--list", help="List the stored runs.")] = False,
) -> int:
    """Show a stored run again."""
    from rigbench import store
    from rigbench.errors import FINE, RigbenchError
    from rigbench.render import run as render

    home = common.store()
    if not every:
        common.show(store.read(home.find(run)), render.show)
        return FINE
    if common.json:
        raise RigbenchError("--list and --json exclude each other", "the runs are files in " + str(home.runs))
    runs, unreadable = home.readable()
    render.show_list(runs, common.console())
    for line in unreadable:
        sys.stderr.write(f"{line}\n")
    return FINE


def profiles_command(
    common: Common,
    what: Annotated[
        str | None, typer.Argument(help="A profile's name, `schema` (of a run's JSON) or `check`. Default: list all.")
    ] = None,
) -> int:
    """List and check the profiles: GPU datasheets, series of models, prices; print the JSON Schema of a run."""
    from rigbench import profiles
    from rigbench.errors import FINE
    from rigbench.render import profiles as render

    if what == "schema":
        sys.stdout.write(profiles.run_schema())
    elif what == "check":
        from rigbench.model import named

        common.console().print(profiles.check())
        exact, near = named.check_published()
        common.console().print(
            f"counted again: {exact} published models have exactly the parameters that their authors state, "
            f"{near} come as near as their family says"
        )
    elif common.json:
        sys.stdout.write(profiles.as_json(what))
    elif what:
        render.show_one(what, common.console())
    else:
        render.show_all(common.console())
    return FINE
