"""A log's rows of one rank in the order of steps, and what each of its columns means."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rigbench.core.errors import RigbenchError
from rigbench.logs import scan
from rigbench.logs.formats import Format, Meaning, factor, known, meaning
from rigbench.logs.scan import Item, Raw, Row

LARGEST = 1e15  # of any number that is believed
LATEST = 1e11  # of a clock in seconds since 1970, in the year 5138: a larger number counts parts of a second
MANY_RESETS = 0.05  # of the rows: no restarts, but rows in no order
ROLES: dict[str, Meaning] = {
    "step": "step", "at_seconds": "clock", "step_seconds": "own time", "step_milliseconds": "own time",
    "interval_seconds": "interval time", "tokens": "tokens", "tokens_per_s": "rate", "loss": "loss",
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
                there = ", ".join(sorted(filter(None, names))[:12])
                raise RigbenchError(f"no column is called {given!r}", f"columns: {there}")
        for key, it in self.means.items():
            if key not in self.forced and it in {ROLES[role] for role in self.forced.values()}:
                self.means[key] = "nothing"
        self.open: str | None = None  # a column of times, each of one step, or of all since the line above
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
        evaluates = [bool(EVALUATION.search(row.text.lower())) for row in rows]
        if 2 * sum(evaluates) >= len(rows):  # a word of every line
            evaluates = [False] * len(rows)
        broken = before_evaluates = False
        for row, its in zip(rows, evaluates, strict=True):
            at = int(row.items[step].value)
            if self.rows and self.steps[-1] == at and not self._is_micro(row):
                before = self.rows[-1]  # a second line about the same step adds what the first did not have
                times = [key for key in row.items.keys() & before.items if self.means[key] in ("own time", "time")]
                self.repeated += any(row.items[key].value != before.items[key].value for key in times)
                clock = (before.clock or row.clock) if not before_evaluates or its else (row.clock or before.clock)
                self.rows[-1] = before._replace(items={**row.items, **before.items}, clock=clock)
                broken = broken or (its and not before_evaluates)
                before_evaluates &= its
                continue
            self.rows.append(row._replace(after_break=row.after_break or its or broken))
            broken, before_evaluates = False, its
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
        counts = Counter(key for row in self.rows for key, it in row.items.items() if math.isfinite(it.value))
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
        return [it.value * scale if it and (loss or 0 <= it.value * scale < LARGEST) else None for it in items]

    def scale(self, key: str) -> float:
        unit = next(row.items[key].unit for row in self.raw.rows if key in row.items)
        if key in self.milliseconds:
            return 1.0 if unit == "s" else 1e-3
        if self.means[key] not in ("own time", "interval time", "mean time", "time", "clock", "train clock"):
            return 1.0
        first = next((row.items[key].value for row in self.raw.rows if key in row.items), 0.0)
        if self.means[key] == "clock" and unit == "" and first > LATEST:  # in 1e3rds, 1e6ths or 1e9ths
            return next((part for part in (1e-3, 1e-6) if first * part < LATEST), 1e-9)
        return factor(key, unit)

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
    return 0 <= value < LARGEST and value == int(value)


def refuse_without_time(log: Columns) -> None:
    cure = (
        quoted(log.raw.heads) if log.raw.kind == "text" else "name the column of the time, as --columns at_seconds=NAME"
    )
    raise RigbenchError("the log does not say how long its steps took", cure)


def quoted(head: str) -> str:
    """The first line with numbers of the kind that is written most, and a pattern that fits it."""
    lines = list(scan.lines_with_numbers(head.splitlines()))
    kinds = [re.sub(r"\d+", "0", line) for line in lines]
    line = lines[kinds.index(Counter(kinds).most_common(1)[0][0])] if lines else ""
    date = max((it.end() for pattern in scan.DATES if (it := pattern.search(line[:200]))), default=0)
    numbers = [it for it in scan.NUMBER.finditer(line[:300]) if it.start() >= date]
    if not numbers:
        return r"say how with --pattern 'step (?P<step>\d+) .* (?P<ms>[\d.]+) ms'"
    step, *others = numbers
    units = [(it, unit["unit"]) for it in others if (unit := scan.UNIT.match(line, it.end()))]
    timed = [(it, "ms" if unit == "ms" else "step_seconds") for it, unit in units if unit in ("ms", "s", "sec")]
    timed += [(it, "ms") for it in others if line[it.start() - 1] != "/"]
    parts = [_literally(line[max(date, step.start() - 20) : step.start()]), r"(?P<step>\d+)"]
    if timed:
        time, group = timed[0]
        parts += [".*?", _literally(line[max(step.end(), time.start() - 3) : time.start()]), rf"(?P<{group}>[\d.]+)"]
    pattern = shlex.quote("".join(parts))  # as a shell takes it
    return f"say how with --pattern; its first line with numbers is {line[:80]!r}, which {pattern} fits"


def _literally(text: str) -> str:
    return re.escape(text).replace(r"\ ", " ").replace("\\\t", r"\t")
