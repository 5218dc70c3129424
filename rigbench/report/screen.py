"""A stored run on a screen, and the list of stored runs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rigbench.core import finding_screen as findings
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import printable, show_rooms, table
from rigbench.document import Run
from rigbench.train.record import Slice


def show(run: Run, console: Console) -> None:
    """The run's header, then every room it has, in the order it was measured."""
    console.print(Text.assemble((f"rigbench {run.command}", "bold"), f"  {run.id}, {run.started_at}, {run.status}"))
    console.print(Text(f"  rig {run.rig.fingerprint}: {_rig(run)}; {_software(run)}", style="dim"))
    console.print()
    show_rooms(run, console)
    if run.findings or run.unchecked:
        console.print()
        findings.show_findings(run, console)
    for warning in run.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))


def show_list(runs: list[Run], console: Console) -> None:
    """A line per stored run, newest first."""
    rows = [(run.id, run.command, run.status, run.rig.fingerprint, _holds(run)) for run in runs]
    console.print(table(("run", "command", "status", "rig", "what it holds"), rows))


def _holds(run: Run) -> str:
    rooms = [name for name in run.rooms() if name != "slices"]
    slices = [item for item in run.slices if isinstance(item, Slice)]
    return ", ".join(rooms + [f"{item.model.name} {units.format_rate(item.tokens_per_s.value)}" for item in slices])


def _rig(run: Run) -> str:
    rig = run.rig
    cpu = "unknown CPU" if isinstance(rig.cpu_model, Absent) else rig.cpu_model
    size = rig.memory_total_bytes
    memory = "unknown memory" if isinstance(size, Absent) else units.format_bytes(size)
    return ", ".join([*rig.gpu_names, cpu, memory] if rig.gpu_names else ["no GPU", cpu, memory])


def _software(run: Run) -> str:
    torch = run.software.torch
    return f"rigbench {run.software.rigbench}, torch {'n/a' if isinstance(torch, Absent) else torch}"
