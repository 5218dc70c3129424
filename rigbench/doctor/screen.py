"""Shows what a rig is and what was found wrong with it; and what a finding's code means."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core.finding import Explanation
from rigbench.core.finding_screen import show_findings
from rigbench.core.screen import grid, printable
from rigbench.doctor.topics import Topic, TopicTitle
from rigbench.document import Run
from rigbench.topology.record import Topology

WIDTH = 80  # of a text, wherever it is read


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


def show_codes(explanations: Sequence[Explanation], topics: Sequence[TopicTitle], console: Console) -> None:
    table = Table(box=None)
    for name in ("code", "what it says", "severity"):
        table.add_column(name, no_wrap=name == "code")
    for about in explanations:
        table.add_row(about.code, Text(about.title), about.severity.partition(";")[0].partition(" where")[0])
    console.print(table)
    beside = Table(box=None)
    for name in ("topic", "what it tells"):
        beside.add_column(name)
    for topic in topics:
        beside.add_row(topic.code, Text(topic.title))
    console.print(beside)


def show_explanation(about: Explanation, console: Console) -> None:
    console.print(Text.assemble((about.title, "bold"), ("  " + about.code, "dim")))
    sources = [("sources" if number == 0 else "", source) for number, source in enumerate(about.sources)]
    rows = [("severity", about.severity), ("means", about.means), ("known by", about.basis), ("costs", about.costs)]
    console.print(grid([*rows, ("to do", about.cure), *sources]))


def show_topic(topic: Topic, console: Console) -> None:
    console.print(Text.assemble((topic.title, "bold"), ("  " + topic.code, "dim")), "", sep="\n")
    for line in laid_out(topic.text, min(console.width, WIDTH)):
        words = line.removeprefix("## ")
        console.print(Text(printable(words), style="bold" if words != line else ""))


def laid_out(text: str, width: int) -> list[str]:
    """A topic's paragraphs and items broken anew to a width; headings and indented lines stay lines of their own."""
    lines: list[str] = []
    words: list[str] = []  # of the paragraph or the item at hand

    def end() -> None:
        hanging = "  " if words[:1] == ["-"] else ""
        lines.extend(textwrap.wrap(" ".join(words), width, subsequent_indent=hanging, break_on_hyphens=False))
        words.clear()

    for line in text.splitlines():
        if not line or line.startswith(("## ", "- ", "    ")):
            end()
        if not line or line.startswith("## "):
            lines.append(line)
        elif line.startswith("    "):
            hanging = " " * (len(line) - len(line.lstrip()) + 2)
            lines += textwrap.wrap(line, width, subsequent_indent=hanging, break_on_hyphens=False)
        else:
            words += line.split()
    end()
    return lines
