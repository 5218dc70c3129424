"""A log's rows of one rank in the order of steps, and what each of its columns means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rigbench.core.errors import RigbenchError
from rigbench.logs import scan
from rigbench.logs.formats import Format, Meaning, factor, known, meaning
from rigbench.logs.scan import Item, Raw, Row

LARGEST = 1e15  # of any number that is believed
MANY_RESETS = 0.05  # of the rows: no restarts, but rows in no order
ROLES: dict[str, Meaning] = {
    "step": "step", "at_seconds": "clock", "step_seconds": "own time", "step_milliseconds": "own time",
    "tokens": "tokens", "tokens_per_s": "rate", "loss": "loss",
}  # fmt: skip
APART = 1.2  # two readings of one quantity that differ by more contradict each other
EVALUATION = re.compile(r"(?:^|[^a-z])(?:eval|val|valid|validation|test)(?![a-z])")


class Columns:
    """What has been decided of a log so far; `said` tells it in words."""

    def __init__(self, raw: Raw, columns: Mapping[str, str], declared: float | None, name: str) -> None:
        self.raw, self.declared, self.name = raw, declared, name
        self.format: Format | None = known(raw)
        self.said: list[str] = []
        self.forced = {given.strip().lower(): role for role, given in columns.items()}
        self.means: dict[str, Meaning] = {}
        self.milliseconds = {given for given, role in self.forced.items() if role == "step_milliseconds"}
        for row in raw.rows:
            for key, item in row.items.items():
                if key not in self.means:
                    self.means[key] = self._meaning(key, item)
        names = self.means.keys() | raw.head.keys()
        for given in self.forced:
            if given not in names and not (given == "date" and any(row.clock for row in raw.rows)):
                raise RigbenchError(
                    f"no column is called {given!r}", "columns: " + ", ".join(sorted(filter(None, names))[:12])
                )
        for key, it in self.means.items():
            if key not in self.forced and it in {ROLES[role] for role in self.forced.values()}:
                self.means[key] = "nothing"
        self.repeated = 0  # lines about the step above with another time
        self.rows: list[Row] = []
        self.steps: list[int] = []

    def _meaning(self, key: str, item: Item) -> Meaning:
        if key in self.forced:
            return ROLES[self.forced[key]]
        if self.format and key in self.format.means:
            return self.format.means[key]
        return meaning(key, item.unit)

    def choose_rows(self, step: str) -> None:
        """Those with a step, of one rank, in the order of steps, one a step."""
        seldom = {
            key
            for key in self.means
            if EVALUATION.search(key) and 2 * sum(key in it.items for it in self.raw.rows) < len(self.raw.rows)
        }
        rows: list[Row] = []
        broken = False
        for row in self.raw.rows:
            if step in row.items and _is_count(row.items[step].value):
                if step == "bar" and not row.items[step].value:
                    continue  # drawn before the first step; a resumed run's bar jumps from there
                new = not rows or row.items[step].value != rows[-1].items[step].value
                rows.append(row._replace(after_break=True) if broken and new else row)
                broken = broken and not new
            broken = broken or (self.raw.kind != "text" and not seldom.isdisjoint(row.items))
        ranks = sorted({row.rank for row in rows if row.rank is not None})
        if len(ranks) > 1:
            self.said.append(f"lines of rank {ranks[0]} of {len(ranks)} that write")
            rows = [row for row in rows if row.rank == ranks[0]]
        rows = [
            row for row in rows if row.clock or any(self.means[key] not in ("nothing", "step") for key in row.items)
        ]
        back = sum(b.items[step].value < a.items[step].value for a, b in pairwise(rows))
        if back > max(2, MANY_RESETS * len(rows)):
            rows = sorted(rows, key=lambda row: row.items[step].value)
            clocks = [row.clock.value for row in rows if row.clock]
            if any(b < a for a, b in pairwise(clocks)) or not self._rising(rows):
                raise RigbenchError(
                    f"the steps of {self.name} are in no order: several runs or ranks in one log",
                    "hand back one's lines",
                )
            self.said.append("lines sorted by step: they were in no order")
        for row in rows:
            at = int(row.items[step].value)
            if self.rows and self.steps[-1] == at and not self._is_micro(row):
                before = self.rows[-1]  # a second line about the same step adds what the first did not have
                times = [key for key in row.items.keys() & before.items if self.means[key] in ("own time", "time")]
                self.repeated += any(row.items[key].value != before.items[key].value for key in times)
                self.rows[-1] = before._replace(items={**row.items, **before.items}, clock=before.clock or row.clock)
                continue
            self.rows.append(row)
            self.steps.append(at)

    def _is_micro(self, row: Row) -> bool:
        before = self.rows[-1].items
        counts = [key for key in row.items if self.means[key] == "step" and key != "_step" and key in before]
        return any(row.items[key].value != before[key].value for key in counts)

    def _rising(self, rows: Sequence[Row]) -> bool:
        for key, it in self.means.items():
            if it in ("clock", "train clock", "tokens"):
                values = [row.items[key].value for row in rows if key in row.items]
                if any(b < a for a, b in pairwise(values)):
                    return False
        return True

    def key(self, *wanted: Meaning) -> str | None:
        """The fullest column of a meaning, totals before others; it has a number in at least half of the rows."""
        keys = [key for key, it in self.means.items() if it in wanted]
        counts = {
            key: sum(key in row.items and math.isfinite(row.items[key].value) for row in self.rows) for key in keys
        }
        full = [key for key in keys if counts[key] >= max(1, len(self.rows) / 2)]
        if not full:
            full = [key for key in keys if counts[key] >= 4 and wanted[0] in ("tokens", "rate", "device rate")]
        return max(full, key=lambda key: ("total" in key, counts[key]), default=None)

    def column(self, key: str | None) -> list[float | None]:
        if key is None:
            return [None] * len(self.rows)
        items = [row.items.get(key) for row in self.rows]
        scale = self.scale(key)
        loss = self.means[key] == "loss"  # which may be no number
        return [it.value * scale if it and (loss or 0 <= it.value < LARGEST) else None for it in items]

    def scale(self, key: str) -> float:
        unit = next(row.items[key].unit for row in self.raw.rows if key in row.items)
        if key in self.milliseconds:
            return 1.0 if unit == "s" else 1e-3
        return (
            factor(key, unit) if self.means[key] in ("own time", "mean time", "time", "clock", "train clock") else 1.0
        )

    def shown(self, key: str) -> str:
        """A name for people, of what has none of its own too."""
        if key[:1] in ("", "~"):
            return "the number in tokens/s" if "rate" in self.means.get(key, "") else "the number with a unit of time"
        return "the bar's elapsed time" if key == "bar elapsed" else key

    def named(self, wanted: Meaning) -> str:
        return self.shown(self.key(wanted) or "")


def near(a: float, b: float) -> bool:
    return a > 0 and b > 0 and 1 / APART <= a / b <= APART


def times(a: float, b: float) -> str:
    least = min(a, b)
    return f"{max(a, b) / least:.3g}" if least > 0 else "without end"


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0 and value == int(value)


def refuse_without_time(log: Columns) -> None:
    cure = (
        quoted(log.raw.heads) if log.raw.kind == "text" else "name the column of the time, as --columns at_seconds=NAME"
    )
    raise RigbenchError("the log does not say how long its steps took", cure)


def quoted(head: str) -> str:
    """The first line that has numbers, and a pattern that fits it."""
    line = next(scan.lines_with_numbers(head.splitlines()), "")[:80]
    if not line:
        return r"say how with --pattern 'step (?P<step>\d+) .* (?P<ms>[\d.]+) ms'"
    numbers = list(scan.NUMBER.finditer(line))[:2]
    parts = [re.escape(line[: numbers[0].start()]).replace(r"\ ", " ")] if numbers else []
    if len(numbers) > 1:
        parts += [
            r"(?P<step>\d+)",
            ".*?",
            re.escape(line[numbers[1].start() - 3 : numbers[1].start()]).replace(r"\ ", " "),
        ]
        parts.append(r"(?P<ms>[\d.]+)")
    elif numbers:
        parts.append(r"(?P<step>\d+)")
    return f"say how with --pattern; its first line with numbers is {line!r}, which {''.join(parts)!r} fits"
