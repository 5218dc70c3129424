"""The command that records this rig."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rigbench.command import Common, command, say


@command("replay")
def capture(
    common: Common,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.")],
    load: Annotated[
        bool, typer.Option("--load", help="Also read the GPUs while they copy, so that their links are awake.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> int:
    """Record this rig, redacted, so that --replay DIR shows it anywhere; attach the folder to a bug report."""
    from rigbench.capture import screen as render
    from rigbench.capture import stage as capturing
    from rigbench.core.errors import FINE
    from rigbench.core.record import Absent
    from rigbench.store import encode

    summary = capturing.run(output, common.replay, load, force)
    if common.json:
        sys.stdout.write(encode(summary).decode())
    else:
        render.show(summary, common.console(), hint=not common.quiet)
    say(render.redacted(summary))
    if load and isinstance(summary.load, Absent):
        say(f"no load was recorded: {summary.load.reason}")
    return FINE
