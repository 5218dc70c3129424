"""How is a budget's answer shown: one sentence, a table per view, and what they rest on?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench import units
from rigbench.records import Absent, Budget, Estimate, Figure, PlanRow, Price
from rigbench.render import power

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Column = tuple[str, Callable[[PlanRow], str]]

MOST_RESTS = 6
_SIZE: tuple[Column, ...] = (
    ("model", lambda row: row.model),
    ("params", lambda row: units.format_count(row.total_parameters)),
)


def show(budget: Budget, console: Console) -> None:
    """The answer first, then the tables, then what it rests on; every number is in the record."""
    from rich.text import Text

    console.print(Text(_headline(budget), style="bold"))
    console.print(Text(f"on {budget.configuration.words}"))
    console.print()
    console.print(_series(budget))
    if len(budget.alone) > 1:
        console.print(Text(f"\neach model alone with all of {units.format_flop(budget.flops)}"))
        console.print(_table(_alone_columns(budget), budget.alone))
    console.print()
    console.print(_labelled(_notes(budget)))


def _headline(budget: Budget) -> str:
    one = len(budget.series) == 1
    whom = budget.series[0].model if one else f"the series {budget.series_name} with equal tokens"
    tokens = f"{units.format_count(budget.series_tokens_each)} tokens" + ("" if one else " each")
    answers = (
        (budget.series_hours, "h"),
        (budget.series_kwh, _kwh_unit(budget)),
        (budget.series_money, _currency(budget)),
    )
    known = (_with_unit(answer, unit) for answer, unit in answers if not isinstance(answer, Absent))
    return f"{units.format_flop(budget.flops)} for {whom} ({tokens}): {', '.join(known)}"


def _with_unit(answer: Estimate | Figure, unit: str) -> str:
    text = units.format_significant
    if isinstance(answer.low, Absent) or isinstance(answer.high, Absent):
        return f"{text(answer.value)} {unit}"
    return f"{text(answer.value)} {unit} ({text(answer.low)} to {text(answer.high)} {unit})"


def _series(budget: Budget) -> Table:
    """Equal tokens are said in the headline, so not on every row."""
    columns: tuple[Column, ...] = (
        *_SIZE,
        ("tokens/s", lambda row: _rate(row.rate.tokens_per_s)),
        ("hours", _hours),
        *_cost_columns(budget),
        ("source", lambda row: row.rate.source),
    )
    table = _table(columns, budget.series)
    if len(budget.series) > 1:
        sums = {
            "model": "all",
            "hours": _span(budget.series_hours, units.format_significant),
            "kWh": _value(budget.series_kwh),
            _currency(budget): _value(budget.series_money),
        }
        table.add_row(*(sums.get(heading, "") for heading, _ in columns), style="bold")
    return table


def _alone_columns(budget: Budget) -> tuple[Column, ...]:
    tokens = (
        ("tokens", lambda row: units.format_count(row.tokens)),
        ("per parameter", lambda row: units.format_significant(row.tokens_per_parameter)),
    )
    return (*_SIZE, *tokens, ("hours", _hours), *_cost_columns(budget))


def _cost_columns(budget: Budget) -> tuple[Column, ...]:
    """Missing watts or price are said once below, not in every cell."""
    columns: tuple[Column, ...] = ()
    if isinstance(budget.series_kwh, Figure):
        columns += (("kWh", lambda row: _value(row.kwh)),)
    if isinstance(budget.series_money, Figure):
        columns += ((_currency(budget), lambda row: _value(row.money)),)
    return columns


def _table(columns: Sequence[Column], rows: Iterable[PlanRow]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, _ in columns:
        # Folding, so that a narrow terminal never eats a digit.
        table.add_column(heading, justify="left" if heading in ("model", "source") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


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


def _notes(budget: Budget) -> Iterator[tuple[str, str]]:
    speed = _span(budget.series_model_flops_per_s, units.format_flops_per_s)
    work = f"{units.format_flop(budget.series_flop_exact)} counted exactly, {units.format_flop(budget.series_flop_6n)}"
    yield "achieved", f"{speed} over the series: {work} as 6·N·D"
    names = list(dict.fromkeys(name for row in budget.series for name in row.rate.rests_on))
    more = f" and {len(names) - MOST_RESTS} more" if len(names) > MOST_RESTS else ""
    yield "rests on", f"{', '.join(names[:MOST_RESTS])}{more}"
    for reason, models in _widened(budget).items():
        yield "widened", f"{', '.join(models)}: {reason}"
    yield from _costs(budget)
    for label, texts in (("assumed", budget.assumptions), ("left out", budget.left_out), ("warning", budget.warnings)):
        yield from ((label, text) for text in texts)


def _widened(budget: Budget) -> dict[str, list[str]]:
    """Each reason once, with the models that it widened."""
    reasons: dict[str, list[str]] = {}
    for row in budget.series:
        for reason in row.rate.widened_by:
            reasons.setdefault(reason, []).append(row.model)
    return reasons


def _costs(budget: Budget) -> Iterator[tuple[str, str]]:
    """What is known of watts and price, and each missing answer once with its reason."""
    if isinstance(budget.power, Absent):
        yield "kWh, money", f"n/a ({budget.power.reason})"
        return
    yield from power.lines(budget.power)
    if isinstance(budget.series_money, Absent):
        yield "money", f"n/a ({budget.series_money.reason})"
    if isinstance(budget.price, Price):
        price = budget.price
        per_kwh = units.format_significant(price.per_kwh, 4)
        yield "price", f"{per_kwh} {price.currency}/kWh, {price.place}, {price.date} ({price.source})"


def _span(value: Estimate | Figure, text: Callable[[float], str]) -> str:
    if isinstance(value.low, Absent) or isinstance(value.high, Absent):
        return text(value.value)
    return f"{text(value.value)} ({text(value.low)} to {text(value.high)})"


def _hours(row: PlanRow) -> str:
    return _span(row.hours, units.format_significant)


def _rate(rate: Estimate) -> str:
    return f"{units.format_significant(rate.value)} {units.format_plus_minus(rate.half_width)}"


def _value(figure: Figure | Absent) -> str:
    return units.format_significant(figure.value) if isinstance(figure, Figure) else "n/a"


def _kwh_unit(budget: Budget) -> str:
    if isinstance(budget.power, Absent) or budget.power.covers == "wall":
        return "kWh"
    return f"kWh {budget.power.covers}"


def _currency(budget: Budget) -> str:
    return budget.price.currency if isinstance(budget.price, Price) else "money"
