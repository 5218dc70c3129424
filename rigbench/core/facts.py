"""How are readings put into lines: what is known side by side, what is not by its reason?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from rigbench.core import units
from rigbench.core.record import Absent

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")
Fact = tuple[str, str | Absent]  # what it is called where it is missing, and its text


def line(facts: Iterable[Fact], separator: str = ", ") -> str:
    """`43 °C, P8; n/a (not supported): power, memory`: what is known, then what is not, by reason."""
    facts = list(facts)
    return "; ".join(part for part in (known(facts, separator), missing(facts)) if part)


def known(facts: Iterable[Fact], separator: str = ", ") -> str:
    return separator.join(text for _, text in facts if isinstance(text, str) and text)


def missing(facts: Iterable[Fact]) -> str:
    """`n/a (not supported): power, memory`, reason by reason."""
    names: dict[str, list[str]] = {}
    for name, text in facts:
        if isinstance(text, Absent):
            names.setdefault(text.reason, []).append(name)
    return "; ".join(f"n/a ({reason}): {', '.join(dict.fromkeys(listed))}" for reason, listed in names.items())


def mapped(value: T | Absent, formatted: Callable[[T], str], name: str = "") -> str | Absent:
    return value if isinstance(value, Absent) else f"{name} {formatted(value)}".strip()


def of_limit(value: T | Absent, limit: T | Absent, formatted: Callable[[T], str]) -> str | Absent:
    """A reading against its limit; the reading alone where there is none."""
    if isinstance(value, Absent) or isinstance(limit, Absent):
        return mapped(value, formatted)
    return f"{formatted(value)} of {formatted(limit)}"


def if_known(text: str | Absent) -> str:
    """For facts that many machines lack and nobody misses."""
    return "" if isinstance(text, Absent) else text


def counted(number: int | Absent, noun: str) -> str | Absent:
    return mapped(number, lambda count: f"{count} {noun}{'' if count == 1 else 's'}")


def size(size_bytes: int) -> str:
    return units.format_bytes(size_bytes)


def gigabytes(bytes_per_s: float | Absent) -> str:
    """The number alone, under a heading or beside others in GB/s."""
    return "" if isinstance(bytes_per_s, Absent) else units.format_significant(bytes_per_s / 1e9)


def degrees(celsius: float) -> str:
    return f"{celsius:g} °C"


def grid(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """A narrow column of labels beside text that wraps."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=8)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(f"  {label}"), Text(text))
    return table
