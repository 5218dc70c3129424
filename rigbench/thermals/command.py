"""The command that heats: thermals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command

if TYPE_CHECKING:
    from rigbench.job import Job
    from rigbench.thermals.live_screen import Display


@command("device", "replay")
def thermals(
    common: Common,
    minutes: Annotated[
        str, typer.Option(metavar="N", help="At most this long; it ends as soon as it is settled.")
    ] = "10",
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Keep it under a label, like 250W: three or more of them, at power limits that you set, "
            "show where watts stop paying.",
        ),
    ] = None,
    ambient: Annotated[
        str | None,
        typer.Option(metavar="CELSIUS", help="The room's temperature: results are told as rise over it too."),
    ] = None,
) -> int:
    """Sustained load on all GPUs at once: steady temperature, what it costs in speed, what held the clocks down.

    Changes no setting, and stops 2 °C below a card's own slowdown limit.
    """
    from rigbench.thermals import stage

    asked = stage.options(minutes, common.device, label, ambient)

    def work(job: Job) -> None:
        display = _display(common)
        try:
            stage.run(job, asked, display)
        finally:
            if display:
                display.close()

    return common.answer(work)


def _display(common: Common) -> Display | None:
    """On a terminal only; elsewhere the progress is told in lines, and a replay takes no time."""
    if common.quiet or common.replay or not sys.stderr.isatty():
        return None
    from rich.console import Console

    from rigbench.thermals.live_screen import Display

    return Display(Console(stderr=True))
