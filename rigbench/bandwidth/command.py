"""The command that moves bytes: bandwidth."""

from __future__ import annotations

from typing import Annotated

import typer

from rigbench.command import Common, command


@command("device")
def bandwidth(
    common: Common,
    seconds: Annotated[str, typer.Option(help="About this long in all; start-up comes on top.")] = "60s",
    largest: Annotated[
        str, typer.Option(metavar="SIZE", help="The largest copy; less where memory is short.")
    ] = "512MiB",
) -> int:
    """Copies to, from, inside and between GPUs, verified, against their links; without a GPU the CPU's memory."""
    from rigbench.bandwidth import stage

    options = stage.options(seconds, largest, common.device)
    return common.answer(lambda job: stage.run(job, options))
