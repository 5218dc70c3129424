"""How does a whole stored run look on a screen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench import units
from rigbench.records import (
    Absent,
    Bandwidth,
    Budget,
    Collectives,
    Dataloader,
    Matmul,
    P2p,
    Run,
    Skipped,
    Slice,
    Thermals,
    Topology,
)
from rigbench.render import (
    backtest,
    bandwidth,
    budget,
    capacity,
    collectives,
    dataloader,
    findings,
    matmul,
    p2p,
    slices,
    thermals,
    topology,
)

if TYPE_CHECKING:
    from rich.console import Console


def show(run: Run, console: Console) -> None:
    """The run's header, then every room it has, in the order it was measured."""
    from rich.text import Text

    console.print(Text.assemble((f"rigbench {run.command}", "bold"), f"  {run.id}, {run.started_at}, {run.status}"))
    console.print(Text(f"  rig {run.rig.fingerprint}: {_rig(run)}; {_software(run)}", style="dim"))
    if isinstance(run.topology, Topology):
        console.print()
        topology.show(run.topology, console)
    if isinstance(run.bandwidth, Bandwidth):
        console.print()
        bandwidth.show(run.bandwidth, console)
    if isinstance(run.p2p, P2p):
        console.print()
        p2p.show(run.p2p, console)
    if isinstance(run.collectives, Collectives):
        console.print()
        collectives.show(run.collectives, console)
    if isinstance(run.matmul, Matmul):
        console.print()
        matmul.show(run.matmul, console)
    if isinstance(run.dataloader, Dataloader):
        console.print()
        dataloader.show(run.dataloader, console)
    if isinstance(run.thermals, Thermals):
        console.print()
        thermals.show(run.thermals, console)
    for item in run.slices:
        console.print()
        slices.show(item, console)
    if isinstance(run.budget, Budget):
        console.print()
        budget.show(run.budget, console)
    if run.capacity:
        console.print()
        capacity.show(run.capacity, console)
    if run.backtest:
        console.print()
        backtest.show(run.backtest, console)
    if run.findings or run.unchecked:
        console.print()
        findings.show_findings(run, console)
    for room in run.rooms():
        if isinstance(room, Skipped) and room not in run.slices:
            console.print(Text(f"{room.probe} skipped: {room.reason}", style="yellow"))
    for warning in run.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def show_list(runs: list[Run], console: Console) -> None:
    """A line per stored run, newest first."""
    from rich.table import Table

    table = Table(box=None)
    for name in ("run", "command", "status", "rig", "what it holds"):
        table.add_column(name, no_wrap=name == "run")
    for run in runs:
        table.add_row(run.id, run.command, run.status, run.rig.fingerprint, _holds(run))
    console.print(table)


def _holds(run: Run) -> str:
    rooms = [
        name
        for name in ("topology", "bandwidth", "p2p", "collectives", "matmul", "dataloader", "thermals", "capacity")
        if getattr(run, name)
    ]
    rooms += [
        f"{item.model.name} {units.format_rate(item.tokens_per_s.value)}"
        for item in run.slices
        if isinstance(item, Slice)
    ]
    return ", ".join(rooms + ["budget"] * bool(run.budget))


def _rig(run: Run) -> str:
    rig = run.rig
    cpu = "unknown CPU" if isinstance(rig.cpu_model, Absent) else rig.cpu_model
    size = rig.memory_total_bytes
    memory = "unknown memory" if isinstance(size, Absent) else units.format_bytes(size)
    return ", ".join([*rig.gpu_names, cpu, memory] if rig.gpu_names else ["no GPU", cpu, memory])


def _software(run: Run) -> str:
    torch = run.software.torch
    return f"rigbench {run.software.rigbench}, torch {'n/a' if isinstance(torch, Absent) else torch}"
