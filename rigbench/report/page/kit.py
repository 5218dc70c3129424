"""What the page's sections are made of: sentences, charts with the table of their numbers, what is missing and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from rigbench.core import units
from rigbench.core.record import Absent, Record, Skipped
from rigbench.core.screen import printable
from rigbench.document import Run

T = TypeVar("T", bound=Record)
MOST_ROWS = 60  # of a chart's table; the raw tables have all
ANSWERS = ("arms", "budget", "capacity", "plan", "law", "backtest")  # rooms that are computed
NOT_ASKED = "this run did not measure it"
NO_SENSOR = "no sensor was read beside any probe"
COMMANDS = {"slices": "train-probe"}  # of rooms that are not named as what fills them


class Table(NamedTuple):
    """A heading that begins with ">" stands above numbers. `path` says in jq's words where the rows are in the run."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    path: str

    @property
    def left_out(self) -> int:
        return max(0, len(self.rows) - MOST_ROWS)


class Chart(NamedTuple):
    title: str
    svg: str  # from its viewBox on
    alt: str  # what is to be seen in it
    table: Table  # the same as numbers


class Section(NamedTuple):
    id: str
    title: str
    sentences: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()  # what is not shown, and why

    @property
    def is_left_out(self) -> bool:
        """Nothing of it was asked for."""
        asked = [it for it in self.missing if NOT_ASKED not in it and it != NO_SENSOR]
        return not (asked or self.charts or self.tables or self.sentences)


def why(run: Run, room: str) -> str:
    """Why a room has nothing to show, and what would measure it."""
    held = getattr(run, room)
    reasons = [it.reason for it in (held if isinstance(held, tuple) else (held,)) if isinstance(it, Absent | Skipped)]
    if reasons and reasons[0] != "not asked for":
        return f"not measured: {printable(reasons[0])}"
    return f"{NOT_ASKED}; rigbench {COMMANDS.get(room, room)} does"


def cells(*items: object) -> list[str]:
    """Texts as they are, numbers in three digits, what is missing as n/a with its reason."""
    return [_cell(item) for item in items]


def _cell(item: object) -> str:
    if isinstance(item, Absent):
        return f"n/a ({printable(item.reason)})"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int | float):
        return units.format_significant(item)
    return printable(str(item))


def held(its: object, kind: type[T]) -> T | None:
    """What a room holds, where it was measured."""
    return its if isinstance(its, kind) else None
