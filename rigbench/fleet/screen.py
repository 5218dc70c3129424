"""Shows a fleet: which host is odd, in what and by how much, and what there is besides."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from rigbench.compare.screen import named, shortened
from rigbench.core import units
from rigbench.core.screen import Mark, closing, counted, grid, headline, printable, table
from rigbench.fleet.record import FEWEST_HOSTS, Fleet, OddHost, OddNumber

MOST_HOSTS, MOST_NUMBERS, MOST_DIFFERENCES = 5, 4, 6


def show(fleet: Fleet, console: Console, whole: bool, quiet: bool = False) -> None:
    headline("fleet", verdict(fleet), console)
    shown = fleet.odd if whole else fleet.odd[:MOST_HOSTS]
    rows = [row for host in shown for row in _rows(host, whole)]
    if rows:
        columns = ("host", "number", ">it", ">others", ">off", "seen in")
        console.print(table(columns, rows))
    elif fleet.differences:
        most = fleet.differences if whole else fleet.differences[:MOST_DIFFERENCES]
        cells = []
        for it in most:
            values = (_value(value, it.unit) for value in it.values)
            cells.append((named(it.room, it.what, it.metric), *values, it.hosts[1], _off(it.values)))
        console.print(table(("number", ">better", ">worse", "worse host", ">off"), cells))
    if quiet:
        return
    console.print(grid(_facts(fleet, len(shown))))
    closing(_sure(fleet), _following(fleet), console)


def verdict(fleet: Fleet) -> tuple[Mark, str]:
    worse = [host for host in fleet.odd if any(number.is_worse for number in host.numbers)]
    if worse:
        first = worse[0]
        count = sum(number.is_worse for number in first.numbers)
        also = f"; {len(worse) - 1} more" if len(worse) > 1 else ""
        return "warn", f"{name(first)} is odd: worse than the others in {count} of {first.of} numbers{also}"
    if not fleet.numbers:
        if fleet.hosts >= FEWEST_HOSTS:
            return "note", f"{fleet.hosts} hosts, of which no three have a number in common"
        if not fleet.hosts:
            return "note", "no host has a number that may be used"
        return "note", f"{counted(fleet.hosts, 'host')}; it takes {FEWEST_HOSTS} to find the odd one"
    better = f"; {len(fleet.odd)} better than the others in something" if fleet.odd else ""
    return "ok", f"no odd one: {fleet.hosts} hosts, {counted(fleet.numbers, 'number')}{better}"


def name(host: OddHost) -> str:
    return shortened(printable(" ".join(filter(None, (host.host, host.label and f"({host.label})")))))


def _rows(host: OddHost, whole: bool) -> Iterator[tuple[str, ...]]:
    numbers = host.numbers if whole else host.numbers[:MOST_NUMBERS]
    for place, it in enumerate(numbers):
        what = named(it.room, it.what, it.metric)
        seen = f"{it.alike} of {counted(it.runs, 'run')}"
        values = _value(it.value, it.unit), _value(it.others, it.unit)
        yield "" if place else name(host), what, *values, _percent(it), seen
    if len(numbers) < len(host.numbers):
        yield "", f"{len(host.numbers) - len(numbers)} more", "", "", "", ""


def _value(value: float, unit: str) -> str:
    text, _, unit = units.span_parts(value, value, value, unit)
    return f"{text} {unit}"


def _percent(its: OddNumber) -> str:
    if its.unit == "°C":
        return f"{'+' if its.ratio > 1 else '−'}{abs(its.value - its.others):.0f} °C"
    return f"{'+' if its.ratio > 1 else '−'}{abs(its.ratio - 1) * 100:.0f} %"


def _off(values: tuple[float, float]) -> str:
    ratio = values[1] / values[0]
    return f"{'+' if ratio > 1 else '−'}{abs(ratio - 1) * 100:.0f} %"


def _facts(fleet: Fleet, shown: int) -> Iterator[tuple[str, str]]:
    kinds = [
        f"{counted(kind.hosts, 'host')} with {shortened(kind.machine)} ({counted(kind.runs, 'run')})"
        for kind in fleet.kinds
    ]
    if kinds:
        yield "hosts", "; ".join(kinds[:6] + [f"{len(kinds) - 6} kinds more"] * (len(kinds) > 6))
    if shown < len(fleet.odd):
        yield "besides", f"{len(fleet.odd) - shown} more odd hosts with --verbose"


def _sure(fleet: Fleet) -> str:
    if not fleet.numbers:
        return "compare two hosts with `rigbench compare`, three runs each"
    return (
        "odd: 5 % off and beyond what hosts that are alike reach in 3 of 1,000 numbers (robust deviations from the "
        "median, wider for few hosts); skewed numbers reach it more often, so look at what several runs show"
    )


def _following(fleet: Fleet) -> str:
    first = fleet.odd[0] if fleet.odd else None
    follow = f".  next: rigbench doctor {first.newest}" if first else ""
    return f"--verbose: every odd number; --json{follow}"
