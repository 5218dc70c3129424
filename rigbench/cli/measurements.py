"""The commands that measure this machine: run, topology, train-probe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.cli.common import Common, command
from rigbench.cli.options import (
    Flops,
    HostWatts,
    Load,
    Params,
    Place,
    Price,
    PsuEfficiency,
    PsuWatts,
    RigProfile,
    Seq,
    Series,
    WallWatts,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.job import Job
    from rigbench.records import Run


class Checkpointing(StrEnum):
    off = "off"
    on = "on"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class TokenType(StrEnum):
    auto = "auto"
    uint16 = "uint16"
    uint32 = "uint32"


def register(app: typer.Typer) -> None:
    command(app, "device")(run)
    command(app, "replay")(topology)
    command(app, "device")(train_probe)


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
    from rigbench import plans, runner
    from rigbench.render import run as render

    question = plans.question(
        flops, series, False, wall_watts, host_watts, price, place, psu_watts, psu_efficiency, rig_profile
    )

    def work(job: Job) -> None:
        runner.everything(job, plans.whole_run(question.models, quick, common.device), question)

    return common.answer(work, render.show)


def topology(common: Common, load: Load = False) -> int:
    """This rig as sysfs and the driver tell it: CPU, memory, NUMA, the PCI tree with its links, disks, GPUs."""
    from rigbench import survey

    return common.answer(lambda job: survey.topology(job, load), _show_topology)


def _show_topology(run: Run, console: Console) -> None:
    from rigbench.records import Topology
    from rigbench.render import topology as render

    if isinstance(run.topology, Topology):
        render.show(run.topology, console)


def train_probe(
    common: Common,
    params: Params = "120M",
    series: Series = "diy",
    checkpointing: Annotated[Checkpointing, typer.Option(help="Activation checkpointing.")] = Checkpointing.off,
    micro_batch: Annotated[
        str | None, typer.Option(metavar="N", help="Sequences a step. Default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    seq: Seq = None,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 where a GPU has it; on a CPU the faster of the two, measured.")
    ] = Precision.auto,
    seconds: Annotated[
        str | None, typer.Option(help="At most this long. Default: 16 steps' worth, between 25 and 80 s.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.bin", help="Token ids. Default: a generated, Zipf-distributed file.")
    ] = None,
    data_dtype: Annotated[
        TokenType, typer.Option(help="The type of an id in --data. auto: as it was packed, else uint16.")
    ] = TokenType.auto,
    wall_watts: WallWatts = None,
    host_watts: HostWatts = None,
    psu_watts: PsuWatts = None,
    psu_efficiency: PsuEfficiency = None,
    rig_profile: RigProfile = None,
) -> int:
    """Train a slice of a model of the series: tokens/s with an interval, step split, memory, energy."""
    from rigbench import plans
    from rigbench.stages import train as stage

    at_wall, host = plans.declared(wall_watts, host_watts, psu_watts, psu_efficiency, rig_profile)

    options = stage.options(
        params=params,
        series=series,
        checkpointing=checkpointing.value,
        micro_batch=micro_batch,
        seq=seq,
        precision=precision.value,
        seconds=seconds,
        data=data,
        data_dtype=data_dtype.value,
        device=common.device,
    )
    return common.answer(lambda job: stage.run(job, options, host, at_wall), _show_slices)


def _show_slices(run: Run, console: Console) -> None:
    from rigbench.render import slices as render

    for result in run.slices:
        render.show(result, console)
