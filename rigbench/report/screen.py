"""How does a whole stored run look on a screen?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rigbench.backtest import screen as backtest
from rigbench.bandwidth import screen as bandwidth
from rigbench.budget import screen as budget
from rigbench.collectives import screen as collectives
from rigbench.core import finding_screen as findings
from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.dataloader import screen as dataloader
from rigbench.document import Run
from rigbench.matmul import screen as matmul
from rigbench.p2p import screen as p2p
from rigbench.predict import screen as capacity
from rigbench.thermals import screen as thermals
from rigbench.topology import screen as topology
from rigbench.train import arms_screen as arms
from rigbench.train import own_screen as own
from rigbench.train import screen as slices
from rigbench.train.record import Slice

if TYPE_CHECKING:
    from rich.console import Console


def show(run: Run, console: Console) -> None:
    """The run's header, then every room it has, in the order it was measured."""
    from rich.text import Text

    console.print(Text.assemble((f"rigbench {run.command}", "bold"), f"  {run.id}, {run.started_at}, {run.status}"))
    console.print(Text(f"  rig {run.rig.fingerprint}: {_rig(run)}; {_software(run)}", style="dim"))
    for room, how in _rooms(run):
        console.print()
        how(room, console)
    if run.findings or run.unchecked:
        console.print()
        findings.show_findings(run, console)
    for room in run.rooms():
        if isinstance(room, Skipped) and room not in run.slices:
            console.print(Text(f"{room.probe} skipped: {room.reason}", style="yellow"))
    for warning in run.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def _rooms(run: Run) -> Iterator[tuple[Any, Callable[[Any, Console], None]]]:
    """Every result that there is, and what shows it. Of the rooms only a slice is shown where it could not run."""
    before: list[tuple[object, Callable[[Any, Console], None]]] = [
        (run.topology, topology.show),
        (run.bandwidth, bandwidth.show),
        (run.p2p, p2p.show),
        (run.collectives, collectives.show),
        (run.matmul, matmul.show),
        (run.dataloader, dataloader.show),
        (run.thermals, thermals.show),
    ]
    after: list[tuple[object, Callable[[Any, Console], None]]] = [
        (run.budget, budget.show),
        (run.capacity, capacity.show),
        (run.backtest, backtest.show),
    ]
    trained: list[tuple[object, Callable[[Any, Console], None]]] = [(item, slices.show) for item in run.slices]
    if run.arms:  # one table instead of a page for each
        trained = [(run.arms, lambda table, console: arms.show(table, run.slices, console))]
    shown = [*before, *trained, (run.own, own.show), *after]
    return ((room, how) for room, how in shown if room and (how is slices.show or not isinstance(room, Skipped)))


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
