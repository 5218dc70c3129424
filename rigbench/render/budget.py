"""How is a budget's answer shown: one sentence, a table per view, and what they rest on?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rigbench import units
from rigbench.records import Absent, Budget, Estimate, Figure, PlanRow, Price

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_RESTS = 6


def show(budget: Budget, console: Console) -> None:
    """The answer first, then the tables, then what it rests on; every number is in the record."""

    def line(text: str = "", style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    line(_headline(budget), "bold")
    line(f"on {budget.configuration.words}")
    line()
    console.print(_table(budget, budget.series, total=True))
    if len(budget.alone) > 1:
        line()
        line(f"each model alone with all of {units.format_flop(budget.flops)}")
        console.print(_table(budget, budget.alone))
    line()
    for text in _notes(budget):
        line(text)
    for text in budget.warnings:
        line(f"warning: {text}", "yellow")


def _headline(budget: Budget) -> str:
    one = len(budget.series) == 1
    whom = budget.series[0].model if one else f"the series {budget.series_name} with equal tokens"
    tokens = f"{units.format_count(budget.series_tokens_each)} tokens" + ("" if one else " each")
    cost = "".join(
        f", {_span(figure, units.format_significant)} {unit}"
        for figure, unit in ((budget.series_kwh, _kwh_unit(budget)), (budget.series_money, _currency(budget)))
        if isinstance(figure, Figure)
    )
    hours = _span(budget.series_hours, units.format_significant)
    return f"{units.format_flop(budget.flops)} for {whom} ({tokens}): {hours} h{cost}"


def _table(budget: Budget, rows: Iterable[PlanRow], total: bool = False) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns = [*_COLUMNS]
    if isinstance(budget.series_kwh, Figure):
        columns.append(("kWh", lambda row: _value(row.kwh)))
    if isinstance(budget.series_money, Figure):
        columns.append((_currency(budget), lambda row: _value(row.money)))
    columns.append(("source", lambda row: row.rate.source))
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading in ("model", "source") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    if total and len(budget.series) > 1:
        sums = {
            "model": "all",
            "hours": _span(budget.series_hours, units.format_significant),
            "kWh": _value(budget.series_kwh),
            _currency(budget): _value(budget.series_money),
        }
        table.add_row(*(sums.get(heading, "") for heading, _ in columns), style="bold")
    return table


_COLUMNS: tuple[tuple[str, Callable[[PlanRow], str]], ...] = (
    ("model", lambda row: row.model),
    ("params", lambda row: units.format_count(row.total_parameters)),
    ("tokens", lambda row: units.format_count(row.tokens)),
    ("per param", lambda row: units.format_significant(row.tokens_per_parameter)),
    ("tokens/s", lambda row: _rate(row.rate.tokens_per_s)),
    ("hours", lambda row: _span(row.hours, units.format_significant)),
)


def _notes(budget: Budget) -> Iterable[str]:
    speed = _span(budget.series_model_flops_per_s, units.format_flops_per_s)
    yield (
        f"achieved: {speed} of model FLOP; the work is {units.format_flop(budget.series_flop_6n)} as 6·N·D, "
        f"{units.format_flop(budget.series_flop_exact)} counted exactly"
    )
    names = list(dict.fromkeys(name for row in budget.series for name in row.rate.rests_on))
    more = f" and {len(names) - MOST_RESTS} more" if len(names) > MOST_RESTS else ""
    yield f"rests on: {', '.join(names[:MOST_RESTS])}{more}"
    for reason, models in _widened(budget).items():
        yield f"widened: {', '.join(models)} {reason}"
    yield from _costs(budget)
    for text in budget.assumptions:
        yield f"assumed: {text}"
    for text in budget.left_out:
        yield f"left out: {text}"


def _widened(budget: Budget) -> dict[str, list[str]]:
    """Each reason once, with the models that it widened."""
    reasons: dict[str, list[str]] = {}
    for row in budget.series:
        for reason in row.rate.widened_by:
            reasons.setdefault(reason, []).append(row.model)
    return reasons


def _costs(budget: Budget) -> Iterable[str]:
    """What is known of watts and price, and each missing answer once with its reason."""
    if isinstance(budget.power, Absent):
        yield f"kWh and money: n/a ({budget.power.reason})"
        return
    watts = budget.power.watts
    yield f"power: {units.format_watts(watts.value)} ({budget.power.covers}), {watts.source}: {watts.basis}"
    if isinstance(budget.series_money, Absent):
        yield f"money: n/a ({budget.series_money.reason})"
    if isinstance(budget.price, Price):
        price = budget.price
        per_kwh = units.format_money(price.per_kwh, price.currency)
        yield f"price: {per_kwh}/kWh, {price.place}, {price.date} ({price.source})"


def _span(value: Estimate | Figure, text: Callable[[float], str]) -> str:
    if isinstance(value.low, Absent) or isinstance(value.high, Absent):
        return text(value.value)
    return f"{text(value.value)} ({text(value.low)} to {text(value.high)})"


def _rate(rate: Estimate) -> str:
    return f"{units.format_significant(rate.value)} ±{units.format_share(rate.half_width)}"


def _value(figure: Figure | Absent) -> str:
    return units.format_significant(figure.value) if isinstance(figure, Figure) else "n/a"


def _kwh_unit(budget: Budget) -> str:
    whole = isinstance(budget.power, Absent) or budget.power.covers == "wall"
    return "kWh" if whole or isinstance(budget.power, Absent) else f"kWh ({budget.power.covers})"


def _currency(budget: Budget) -> str:
    return budget.price.currency if isinstance(budget.price, Price) else "money"
