"""The command that times collectives: on this machine's ranks, or as one rank of torchrun's."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rigbench.command import Common, command


@command("device")
def collectives(
    common: Common,
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="N", help="Default: one for each GPU, without GPUs 2 on the CPU.")
    ] = None,
    ops: Annotated[
        str | None,
        typer.Option(
            metavar="all_reduce,broadcast",
            help="all, or some of all_reduce, all_gather, reduce_scatter, broadcast, reduce, all_to_all, send_recv.",
        ),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="8,64KiB,16MiB", help="Default: 8 B to --max-bytes in steps of 4.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The largest. Default: 16MiB on a CPU, 1GiB on GPUs.")
    ] = None,
    seconds: Annotated[
        str | None, typer.Option(metavar="TIME", help="About this long in all. Default: 40s on a CPU, 60s on GPUs.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It counts as hung after this. Default: twice --seconds and 3min."),
    ] = None,
) -> int:
    """Collectives between ranks: latency, bandwidth, values checked, and the way that the bytes really took.

    NCCL on GPUs, gloo on a CPU. On several machines: torchrun --nnodes 2 … -m rigbench collectives; rank 0 reports.
    """
    from rigbench.collectives import stage
    from rigbench.core.errors import RigbenchError
    from rigbench.work.ranks import world_from

    world = world_from(os.environ)
    leads = world is None or world.rank == 0
    try:
        asked = stage.options(
            ranks_here=ranks,
            operations=ops,
            sizes=sizes,
            max_bytes=max_bytes,
            seconds=seconds,
            limit=limit,
            device=common.device,
            world=world,
        )
    except RigbenchError as error:
        if leads:
            raise
        return error.exit_code  # rank 0 says it
    if world and not leads:
        return stage.follow(asked, world)
    return common.answer(lambda job: stage.run(job, asked, world))
