"""A stored run on a screen, and the list of stored runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.finding_screen import show_findings
from rigbench.core.record import Absent
from rigbench.core.screen import printable, show_rooms
from rigbench.document import Run
from rigbench.index import Entry


def show(run: Run, console: Console) -> None:
    """The run's header, then every room it has, in the order it was measured."""
    console.print(Text.assemble((f"rigbench {run.command}", "bold"), f"  {run.id}, {run.started_at}, {run.status}"))
    console.print(Text(f"  rig {run.rig.fingerprint}: {_rig(run)}; {_software(run)}", style="dim"))
    console.print()
    show_rooms(run, console)
    if run.findings or run.unchecked:
        console.print()
        show_findings(run.findings, run.unchecked, console)
    for warning in run.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))


def show_list(entries: Iterable[Entry], console: Console) -> None:
    """A line per stored run, newest first. Lines are laid out here, since ten thousand take a rich table seconds."""
    rows = [("run", "command", "status", "rig", "what it holds")]
    for entry in entries:
        slices = [f"{it.slice.model.name} {units.format_rate(it.slice.tokens_per_s.value)}" for it in entry.slices]
        rooms = [name for name in entry.rooms if name != "slices"]
        rows.append((entry.id, entry.command, entry.status, entry.rig, ", ".join(rooms + slices)))
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(4)]
    edge = sum(widths)
    room = max(20, console.width - edge)
    for row in rows:
        first = "".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        last = textwrap.wrap(row[4], room) if len(row[4]) > room else [row[4]]
        console.out(
            printable(first + last[0]).rstrip(), *(" " * edge + line for line in last[1:]), sep="\n", highlight=False
        )


def _rig(run: Run) -> str:
    rig = run.rig
    cpu = "unknown CPU" if isinstance(rig.cpu_model, Absent) else rig.cpu_model
    size = rig.memory_total_bytes
    memory = "unknown memory" if isinstance(size, Absent) else units.format_bytes(size)
    return ", ".join([*rig.gpu_names, cpu, memory] if rig.gpu_names else ["no GPU", cpu, memory])


def _software(run: Run) -> str:
    torch = run.software.torch
    return f"rigbench {run.software.rigbench}, torch {'n/a' if isinstance(torch, Absent) else torch}"
