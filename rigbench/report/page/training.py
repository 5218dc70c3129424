"""The page's section on a training that was watched: its steps over time, what was forecast, what went wrong."""

from __future__ import annotations

from collections.abc import Iterator

from rigbench import tables
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import span
from rigbench.document import Run
from rigbench.report.page import charts
from rigbench.report.page.charts import Line, Panel
from rigbench.report.page.kit import Chart, Section, Table, cells, held
from rigbench.watch import screen
from rigbench.watch.record import SeenSteps, Training


def sections(run: Run) -> Iterator[Section]:
    """One, where a training was watched."""
    its = held(run.watched, Training)
    if its is None:
        return
    seen = held(its.steps, SeenSteps)
    facts = [cells(*fact) for fact in screen.facts(its)]
    made = [Table("What was watched", ("what", "is"), facts, ".watched")]
    if its.forecasts:
        rows = [
            cells(
                units.format_seconds(it.told_after_seconds),
                units.format_share(it.done_share),
                span(it.whole_seconds, "seconds"),
                "n/a" if isinstance(it.kwh, Absent) else it.kwh.value,
            )
            for it in its.forecasts
        ]
        headings = ("forecast after", ">done", ">the whole will take (90 % interval)", ">kWh of its GPUs")
        made.append(Table("What was forecast while it ran", headings, rows, ".watched.forecasts"))
    if its.alarms:
        rows = [cells(units.format_seconds(it.after_seconds), it.severity, it.where, it.text) for it in its.alarms]
        made.append(Table("Alarms", ("after", "severity", "where", "what"), rows, ".watched.alarms"))
    if its.beside:
        rows = [cells(it.severity, screen.words(it, its.steps)) for it in its.beside]
        made.append(Table("What the kernel and NCCL wrote", ("severity", "what"), rows, ".watched.beside"))
    if its.findings:
        rows = [cells(it.severity, it.title, "; ".join(it.evidence), it.cure) for it in its.findings]
        made.append(Table("What held it back", ("severity", "what", "seen", "next"), rows, ".watched.findings"))
    missing = [its.steps.reason] if isinstance(its.steps, Absent) else []
    took = list(tables.step_seconds(seen)) if seen else []
    drawn = [_chart(took)] if len(took) > 1 else []
    yield Section("training", "The training", (f"{screen.verdict(its)[1]}.",), drawn, made, missing)


def _chart(took: list[tuple[float, int, float]]) -> Chart:
    """Seconds a step over the training's time."""
    panel = Panel("s a step", [Line("a step", [(at, seconds) for at, _, seconds in took], "line")])
    table = Table("Steps", (">after s", ">step", ">s a step"), [cells(*it) for it in took], ".watched.steps")
    ends = [units.format_seconds(end(seconds for *_, seconds in took)) for end in (min, max)]
    alt = f"{len(took)} readings, {ends[0]} to {ends[1]} a step."
    return Chart("Seconds a step over time", charts.over_time([panel], ()), alt, table)
