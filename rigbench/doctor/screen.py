"""Shows what a rig is and what was found wrong with it; and what a finding's code means."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core.finding import Explanation
from rigbench.core.finding_screen import show_findings
from rigbench.core.screen import grid, printable
from rigbench.document import Run
from rigbench.topology.record import Topology


def show(run: Run, console: Console, hint: bool = False) -> None:
    """What the rig is, every finding, what stays open."""
    if isinstance(run.topology, Topology):
        console.print(Text(printable(_rig(run.topology)), style="dim"))
    show_findings(run.findings, run.unchecked, console)
    if hint and run.findings:
        console.print(Text(f"`rigbench explain {run.findings[0].code}` explains it, as every code", style="dim"))


def _rig(topology: Topology) -> str:
    names = [gpu.name if isinstance(gpu.name, str) else "a GPU without a name" for gpu in topology.gpus]
    counts = {name: names.count(name) for name in names}
    cards = [f"{count} × {name}" if count > 1 else name for name, count in counts.items()] or ["no GPU"]
    driver = [f"driver {topology.driver_version}"] if isinstance(topology.driver_version, str) else []
    cpu = [topology.cpu.model] if isinstance(topology.cpu.model, str) else []
    return ", ".join([*cards, *cpu, *driver])


def show_codes(explanations: Sequence[Explanation], console: Console) -> None:
    table = Table(box=None)
    for name in ("code", "what it says", "severity"):
        table.add_column(name, no_wrap=name == "code")
    for about in explanations:
        table.add_row(about.code, Text(about.title), about.severity.partition(";")[0].partition(" where")[0])
    console.print(table)


def show_explanation(about: Explanation, console: Console) -> None:
    console.print(Text.assemble((about.title, "bold"), ("  " + about.code, "dim")))
    sources = [("sources" if number == 0 else "", source) for number, source in enumerate(about.sources)]
    rows = [("severity", about.severity), ("means", about.means), ("known by", about.basis), ("costs", about.costs)]
    console.print(grid([*rows, ("to do", about.cure), *sources]))
