"""Shows findings, worst first, each with evidence, cost and cure; and what a code means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rigbench.core.finding import Explanation, Finding, Unchecked
from rigbench.core.record import Absent
from rigbench.core.screen import counted, grid
from rigbench.document import Run
from rigbench.topology.record import Topology

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"fault": "bold red", "warning": "bold yellow", "information": "bold"}
LISTED = 4


def show(run: Run, console: Console, hint: bool = False) -> None:
    """What the rig is, every finding, what stays open."""
    from rich.text import Text

    if isinstance(run.topology, Topology):
        console.print(Text(_rig(run.topology), style="dim"))
    show_findings(run, console)
    if hint and run.findings:
        console.print(Text(f"`rigbench explain {run.findings[0].code}` tells more; so for every code", style="dim"))


def show_findings(run: Run, console: Console) -> None:
    from rich.text import Text

    console.print(Text(_verdict(run), style="bold"))
    for finding in run.findings:
        console.print()
        head = (finding.severity, STYLES[finding.severity]), f"  {finding.title}  ", (finding.code, "dim")
        console.print(Text.assemble(*head))
        console.print(grid(_finding(finding)))
    if run.unchecked:
        console.print()
        console.print(Text("Not checked", style="bold"))
        console.print(grid(("", line) for line in open_questions(run.unchecked)))


def _rig(topology: Topology) -> str:
    names = [gpu.name if isinstance(gpu.name, str) else "a GPU without a name" for gpu in topology.gpus]
    counts = {name: names.count(name) for name in names}
    cards = [f"{count} × {name}" if count > 1 else name for name, count in counts.items()] or ["no GPU"]
    driver = [f"driver {topology.driver_version}"] if isinstance(topology.driver_version, str) else []
    cpu = [topology.cpu.model] if isinstance(topology.cpu.model, str) else []
    return ", ".join([*cards, *cpu, *driver])


def _verdict(run: Run) -> str:
    findings = run.findings
    if not findings:
        return "nothing found in what could be checked" if run.unchecked else "nothing found"
    numbers = {kind: sum(finding.severity == kind for finding in findings) for kind in STYLES}
    if not numbers["fault"] and not numbers["warning"]:
        return f"no fault, no warning; {numbers['information']} for information"
    parts = [str(counted(numbers[kind], kind)) for kind in ("fault", "warning") if numbers[kind]]
    return ", ".join(parts + [f"{numbers['information']} for information"] * bool(numbers["information"]))


def _finding(finding: Finding) -> Iterable[tuple[str, str]]:
    if finding.where:
        yield "where", places(finding.where)
    for number, sentence in enumerate(finding.evidence):
        yield ("evidence" if number == 0 else ""), sentence
    cost = finding.cost
    yield "cost", f"n/a ({cost.reason})" if isinstance(cost, Absent) else cost.sentence
    yield "to do", finding.cure
    for command in finding.commands:
        yield "", f"$ {command}"


def places(labels: Sequence[str]) -> str:
    """`GPU0, GPU1`; of many the first, the last and their number."""
    if len(labels) <= LISTED:
        return ", ".join(labels)
    return f"{labels[0]}, {labels[1]}, … {labels[-1]} ({len(labels)})"


def open_questions(unchecked: Sequence[Unchecked]) -> Iterable[str]:
    """A line per reason and the cards that it holds for."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item in unchecked:
        groups.setdefault((item.reason, item.where), []).append(item.what)
    for (reason, where), questions in groups.items():
        yield f"{', '.join(questions)}{' of ' if where else ''}{places(where)}: {reason}"


def show_codes(explanations: Sequence[Explanation], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for name in ("code", "what it says", "severity"):
        table.add_column(name, no_wrap=name == "code")
    for about in explanations:
        table.add_row(about.code, Text(about.title), about.severity.partition(";")[0].partition(" where")[0])
    console.print(table)


def show_explanation(about: Explanation, console: Console) -> None:
    from rich.text import Text

    console.print(Text.assemble((about.title, "bold"), ("  " + about.code, "dim")))
    sources = [("sources" if number == 0 else "", source) for number, source in enumerate(about.sources)]
    rows = [("severity", about.severity), ("means", about.means), ("known by", about.basis), ("costs", about.costs)]
    console.print(grid([*rows, ("to do", about.cure), *sources]))


def as_json(explanations: Explanation | Sequence[Explanation]) -> str:
    return msgspec.json.format(msgspec.json.encode(explanations), indent=1).decode() + "\n"
