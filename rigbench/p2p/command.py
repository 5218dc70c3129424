"""The command that asks whether GPUs really reach each other: p2p."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, say

if TYPE_CHECKING:
    from rigbench.job import Job


@command()
def p2p(
    common: Common,
    times: Annotated[
        str, typer.Option(metavar="N", help="How often each setting is tried; intervals need two or more.")
    ] = "3",
    limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="One try counts as hung after this. Default: 2 min, and 3 s for every pair."),
    ] = None,
) -> int:
    """Does P2P between GPUs work, is it faster, and what is to be exported?

    Every write is read back by the GPU that holds it, collectives are checked by value, P2P off is the control.

    Exit code 0: P2P works, is not available, or there are fewer than two GPUs: nothing is broken. 1: it is broken
    (wrong data, or hung, with P2P on alone). 3: inconclusive, since the control fails too or it was not finished.
    """
    from rigbench.core.errors import FINE, NOTHING
    from rigbench.p2p import stage

    asked = stage.options(times, limit)
    verdicts: list[str] = []

    def work(job: Job) -> None:
        verdicts.append(stage.run(job, asked).verdict)

    code = common.answer(work)
    if code == FINE and verdicts == ["inconclusive"]:
        say("inconclusive: nothing is known of P2P on this rig")
        return NOTHING
    return code
