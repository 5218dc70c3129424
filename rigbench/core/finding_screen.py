"""Shows findings, worst first, each with evidence, cost and cure, and the questions that stay open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rigbench.core.finding import Finding, Unchecked
from rigbench.core.record import Absent
from rigbench.core.screen import counted, grid, printable, span

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"fault": "bold red", "warning": "bold yellow", "information": "bold"}
LISTED = 4


def show_findings(findings: Sequence[Finding], unchecked: Sequence[Unchecked], console: Console) -> None:
    from rich.text import Text

    console.print(Text(_verdict(findings, unchecked), style="bold"))
    for finding in findings:
        console.print()
        title, code = printable(finding.title), printable(finding.code)
        head = (finding.severity, STYLES[finding.severity]), f"  {title}  ", (code, "dim")
        console.print(Text.assemble(*head))
        console.print(grid(_finding(finding)))
    if unchecked:
        console.print()
        console.print(Text("Not checked", style="bold"))
        console.print(grid(("", line) for line in open_questions(unchecked)))


def _verdict(findings: Sequence[Finding], unchecked: Sequence[Unchecked]) -> str:
    if not findings:
        return "no problem found in what was checked" if unchecked else "no problem found"
    counting = [finding for finding in findings if not finding.accepted]
    numbers = {kind: sum(finding.severity == kind for finding in counting) for kind in STYLES}
    if not numbers["fault"] and not numbers["warning"]:
        healthy = "no problem in what was checked" if unchecked else "healthy"
        return f"{healthy}; {counted(numbers['information'], 'note')}"
    parts = [str(counted(numbers[kind], kind)) for kind in ("fault", "warning") if numbers[kind]]
    return ", ".join(parts + [str(counted(numbers["information"], "note"))] * bool(numbers["information"]))


def _finding(finding: Finding) -> Iterable[tuple[str, str]]:
    if finding.where:
        yield "where", places(finding.where)
    for number, sentence in enumerate(finding.evidence):
        yield ("evidence" if number == 0 else ""), sentence
    cost = f"n/a ({finding.cost.reason})" if isinstance(finding.cost, Absent) else finding.cost.sentence
    if cost not in finding.evidence:
        yield "cost", cost
    if not isinstance(finding.lost, Absent):
        yield "takes", f"{span(finding.lost.hours * 3600.0, 'seconds')} ({finding.lost.basis})"
    if finding.accepted:
        yield "accepted", f"because {finding.accepted}"
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
