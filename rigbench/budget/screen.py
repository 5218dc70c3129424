"""How is a budget's answer shown: one sentence, the models, what comes on top, and what all of it rests on?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rigbench.budget import notes_screen as budget_notes
from rigbench.budget import tables_screen as budget_tables
from rigbench.budget.record import Budget
from rigbench.budget.tables_screen import currency, kwh_unit
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BACKWARDS = ("hours", "kWh", "electricity", "rent")


def show(budget: Budget, console: Console) -> None:
    """The answer first, then the tables, then what it rests on; every number is in the record."""
    from rich.text import Text

    console.print(Text(_headline(budget), style="bold"))
    if budget.sanity and not isinstance(budget.sanity, Absent) and budget.sanity.sentence:
        console.print(Text(budget.sanity.sentence, style="yellow"))
    where = f"{budget.rig}: " if budget.rig else ""
    words = "; nothing was measured there: every figure is predicted" if budget.rig else ""
    console.print(Text(f"on {where}{budget.configuration.words}{words}"))
    if budget.others or budget.refused:
        console.print()
        console.print(budget_tables.side_by_side(budget))
        for refused in budget.refused or ():
            console.print(Text(f"{refused.rig}: no answer ({refused.reason})", style="yellow"))
        console.print(Text(f"\n{budget.rig or 'this rig'} in detail; ask about one alone for another's"))
    console.print()
    console.print(budget_tables.series(budget))
    if budget.overheads:
        console.print()
        console.print(budget_tables.overheads(budget))
    if len(budget.alone) > 1:
        only = ", training steps only" if budget.whole else ""
        console.print(Text(f"\neach model alone with all of {units.format_flop(budget.flops)}{only}"))
        console.print(budget_tables.alone(budget))
    console.print()
    console.print(_labelled(budget_notes.lines(budget)))


def _headline(budget: Budget) -> str:
    """What was asked for is not answered with itself."""
    whole, kind = budget.whole, budget.asked.kind if budget.asked else "flops"
    answers: dict[str, tuple[Estimate | Figure | Absent, str]] = {
        "hours": (whole.hours if whole else budget.series_hours, "h"),
        "kWh": (whole.kwh if whole else budget.series_kwh, kwh_unit(budget)),
        "electricity": (whole.money if whole else budget.series_money, currency(budget)),
    }
    shown = [its for name, its in answers.items() if name != kind]
    known = [_with_unit(answer, unit) for answer, unit in shown if not isinstance(answer, Absent)]
    return ": ".join([_asked(budget), *([", ".join(known)] if known else [])])


def _asked(budget: Budget) -> str:
    """ "1.2 EFLOP for the series diy with equal tokens (846.7M tokens each) on 2xrtx-4080"."""
    asked, count = budget.asked, len(budget.series)
    split = asked.split if asked else "equal tokens"
    name = budget.series[0].model if count == 1 else f"the series {budget.series_name} with {_split_words(split)}"
    counts = [row.tokens for row in budget.series]
    each = f"{_range(min(counts), max(counts))} tokens" + (" each" if count > 1 and len(set(counts)) == 1 else "")
    on = f" on {budget.rig}" if budget.rig else ""
    flop = units.format_flop(budget.flops)
    if not asked or asked.kind not in BACKWARDS:
        return f"{flop} for {name} ({each}){on}"
    unit = {"hours": "h", "kWh": "kWh"}
    low, high = units.format_flop(asked.flops.low), units.format_flop(asked.flops.high)
    amount = f"{asked.amount:g} {unit.get(asked.kind, '')}"
    if asked.kind == "electricity":
        amount = f"{units.format_money(asked.amount, asked.currency)} of electricity"
    if asked.kind == "rent":
        amount = f"{units.format_money(asked.amount, _rent_currency(budget))} of rent"
    if count == 1:
        factors = [end / budget.flops for end in (asked.flops.low, asked.flops.high)]
        each += f", {_range(*(factor * counts[0] for factor in factors))}"
    bought = f"{amount}{on} buy {flop} ({low} to {high})"
    return f"{bought} for {name} ({each})"


def _range(low: float, high: float) -> str:
    low_text, high_text = units.format_count(low), units.format_count(high)
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


def _rent_currency(budget: Budget) -> str:
    return "" if not budget.rent or isinstance(budget.rent, Absent) else budget.rent.currency


def _split_words(split: str) -> str:
    return "tokens in proportion to size" if split == "compute-optimal" else split


def _with_unit(answer: Estimate | Figure, unit: str) -> str:
    text = units.format_significant
    if isinstance(answer.low, Absent) or isinstance(answer.high, Absent):
        return f"{text(answer.value)} {unit}"
    return f"{text(answer.value)} {unit} ({text(answer.low)} to {text(answer.high)} {unit})"


def _labelled(lines: Iterable[tuple[str, str]]) -> Table:
    """A label once, then its lines under each other."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    shown = ""
    for label, text in lines:
        style = "yellow" if label == "warning" else ""
        table.add_row(Text(label if label != shown else "", style=style or "dim"), Text(text, style=style))
        shown = label
    return table
