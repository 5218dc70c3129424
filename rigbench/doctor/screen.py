"""Shows what a rig is and what was found wrong with it; and what a finding's code means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core.estimate import Estimate
from rigbench.core.finding import NOT_PRICED, Examined, Explanation, Finding
from rigbench.core.finding_screen import open_questions, show_findings
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import MARK_OF, SEVERITY_STYLES, counted, grid, printable, span
from rigbench.doctor.topics import Topic, TopicTitle
from rigbench.document import Run
from rigbench.topology.record import Topology

WIDTH = 80  # of a text, wherever it is read
SIDE_BY_SIDE = 90  # columns from which on the cure stands beside
WORDS = {"fault": "FAULT", "warning": "warn", "information": "note"}


def show(run: Run, console: Console, hint: bool = False) -> None:
    """What the rig is, every finding, what stays open."""
    if isinstance(run.topology, Topology):
        console.print(Text(printable(_rig(run.topology)), style="dim"))
        for note in _composed(run.topology):
            console.print(Text(printable(note), style="yellow"))
    show_findings(run.findings, run.unchecked, console)
    if hint and run.findings:
        console.print(Text(f"`rigbench explain {run.findings[0].code}` explains it, as every code", style="dim"))


def brief(run: Run, console: Console, quiet: bool = False) -> None:
    """What is wrong and what it takes; what holds the rig back, ranked; what was not looked at; what next."""
    examined = run.examined if isinstance(run.examined, Examined) else Examined(hours=NOT_PRICED)
    console.print(Text(printable(sentence(run.findings, examined)), style="bold"))
    if isinstance(run.topology, Topology):
        console.print(Text(printable(_rig(run.topology)), style="dim"))
        for note in _composed(run.topology):
            console.print(Text(printable(note), style="yellow"))
    listed = [it for it in run.findings if not it.accepted and (it.severity != "information" or it.takes_time)]
    if listed:
        console.print()
        console.print(held_back(listed, examined, console.width))
    if quiet:
        return
    console.print()
    for it in run.findings:
        if it not in listed and not it.accepted:
            console.print(Text.assemble("note  ", printable(it.what), ("  " + it.code, "dim")))
        elif it.accepted:
            because = f"accepted: {it.what}, because {it.accepted}"
            console.print(Text.assemble((printable(because), "dim"), ("  " + it.code, "dim")))
    for label, text in _beside(run, examined):
        lines = textwrap.wrap(f"{label}: {printable(text)}", console.width, subsequent_indent="  ")
        console.print(Text("\n".join(lines)))


def sentence(findings: Sequence[Finding], examined: Examined) -> str:
    """ "1 warning: GPU1 slows itself down at 84 °C, which costs 36 min (32 to 41) of 5.1 h (4.6 to 5.7)"."""
    counting = [it for it in findings if not it.accepted]
    numbers = {kind: sum(it.severity == kind for it in counting) for kind in ("fault", "warning")}
    parts = [str(counted(number, kind)) for kind, number in numbers.items() if number]
    first = lead(counting)
    found = ", ".join(parts) or "no problem in what was looked at"
    if first is None or not (parts or first.takes_time):
        return f"{found}; {counted(len(counting), 'note')}" if counting else found
    text = f"{found}{':' if parts else ';'} {first.what}"
    if first.takes_time and not isinstance(first.lost, Absent):
        whole = "" if isinstance(examined.hours, Absent) else f" of {span(examined.hours, 'h')}"
        text += f", which costs {_time(first.lost.hours)}{whole}"
    return text


def lead(findings: Sequence[Finding]) -> Finding | None:
    """The first of those that are wrong, else of those that take time, else of all."""
    counting = [it for it in findings if not it.accepted]
    wrong = [it for it in counting if it.severity != "information"]
    return next(iter([*wrong, *(it for it in counting if it.takes_time), *counting]), None)


def held_back(findings: Sequence[Finding], examined: Examined, width: int) -> Table:
    """Severity, what with its evidence in short, what it takes, what to do; narrow screens have the cure below."""
    beside = width >= SIDE_BY_SIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("what holds it back", overflow="fold", ratio=5)
    table.add_column("costs", no_wrap=True)
    if beside:
        table.add_column("do", overflow="fold", ratio=3)
    for it in findings:
        what = Text(printable(f"{it.what}: {it.detail}" if it.detail else it.what))
        what.append(f"  {it.code}", style="dim")
        if not beside:
            what.append(f"\ndo: {printable(it.do or it.cure)}")
        cells = [Text(WORDS[it.severity], style=SEVERITY_STYLES[it.severity]), what, Text(_takes(it, examined))]
        table.add_row(*cells, *([Text(printable(it.do or it.cure))] if beside else []))
    return table


def _takes(it: Finding, examined: Examined) -> str:
    if isinstance(it.lost, Absent):
        return "n/a"
    if not it.takes_time:
        return "nothing"
    money = it.lost.money
    paid = f"\n{span(money, examined.currency)}" if isinstance(money, Figure) else ""
    return f"{_time(it.lost.hours)}{paid}"


def _time(hours: Estimate) -> str:
    return span(hours * 3600.0, "seconds")


def _beside(run: Run, examined: Examined) -> Iterator[tuple[str, str]]:
    """What the costs are of, what was looked at and what not, what more there is."""
    if isinstance(examined.hours, Absent):
        yield "costs", f"not in hours: {examined.hours.reason}"
    else:
        yield "costs", f"of {examined.training}"
    if examined.looked_at:
        yield "looked at", ", ".join(examined.looked_at)
    if run.unchecked:
        yield "not looked at", "; ".join(open_questions(run.unchecked))
    if first := lead(run.findings):
        yield "more", f"rigbench doctor --verbose; rigbench explain {first.code}"


def _composed(topology: Topology) -> list[str]:
    return [line for line in topology.warnings if line.startswith("composed")]


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
    for name in ("topic", "what it explains"):
        beside.add_column(name)
    for topic in topics:
        beside.add_row(topic.code, Text(topic.title))
    console.print(beside)


def brief_codes(explanations: Sequence[Explanation], topics: Sequence[TopicTitle], console: Console) -> None:
    """The codes by how bad they are, then the topics."""
    listed: dict[str, list[str]] = {}
    for about in explanations:
        listed.setdefault(about.severity.partition(";")[0].partition(" where")[0], []).append(about.code)
    console.print(Text("findings of rigbench doctor", style="bold"))
    console.print(grid((MARK_OF.get(severity, severity), ", ".join(codes)) for severity, codes in listed.items()))
    console.print(Text("topics", style="bold"))
    console.print(grid((topic.code, topic.title) for topic in topics))
    console.print(grid([("more", "rigbench explain CODE|TOPIC explains one; --verbose says in a line what each is")]))


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
