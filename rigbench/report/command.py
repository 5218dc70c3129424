"""The commands that answer from what is stored: report, profiles."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rigbench.command import Common, command, completed, run_ids, say


@command("keep_disturbed")
def report(
    common: Common,
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's id, its start, or a file. Default: the newest.", autocompletion=completed(run_ids)
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--list", help="List the stored runs.")] = False,
) -> int:
    """Show a stored run again.

    rigbench report                  the newest
    rigbench report --list           which there are
    rigbench report RUN --json       its document
    """
    from rigbench import store
    from rigbench.core.errors import FINE, NOTHING, RigbenchError
    from rigbench.core.progress import make_progress
    from rigbench.report import screen as render

    home = common.store()
    if not every:
        stored = store.read(home.find(run))
        common.show(stored, render.show)
        return NOTHING if stored.disturbed() and not common.keep_disturbed else FINE
    if common.json:
        raise RigbenchError("--list and --json exclude each other", "the runs are files in " + str(home.runs))
    progress = make_progress(common.quiet)
    index = home.index(progress)
    progress.close()
    render.show_list(index.entries(), common.console())
    for line in index.unreadable():
        say(f"not used: {line}")
    return FINE


@command()
def profiles(
    common: Common,
    what: Annotated[
        str | None, typer.Argument(help="A profile's name, `schema` (of a run's JSON) or `check`. Default: list all.")
    ] = None,
) -> int:
    """List and check the profiles: GPU datasheets, series of models, prices; print the JSON Schema of a run.

    rigbench profiles               all of them
    rigbench profiles rtx-4090      one, with the source of every figure
    rigbench profiles schema        the JSON Schema of a run
    """
    from rigbench.core.errors import FINE
    from rigbench.report import profiles as data
    from rigbench.report import screen

    if what == "schema":
        from rigbench.document import run_schema

        sys.stdout.write(run_schema())
    elif what == "check":
        common.console().print(data.check())
        exact, near = data.check_published()
        common.console().print(
            f"counted again: {exact} published models have exactly the parameters that their authors state, "
            f"{near} come as near as their family says"
        )
    elif common.json:
        sys.stdout.write(data.as_json(what))
    elif what:
        screen.show_profile(what, common.console())
    else:
        screen.show_profiles(common.console())
    return FINE
