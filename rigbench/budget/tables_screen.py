"""How are a budget's rows shown: models, overheads, each model alone, rigs side by side?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rigbench.budget.record import Budget, PlanRow
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price

if TYPE_CHECKING:
    from rich.table import Table

Column = tuple[str, Callable[[PlanRow], str]]

_SIZE: tuple[Column, ...] = (
    ("model", lambda row: row.model),
    ("params", lambda row: units.format_count(row.total_parameters)),
)
LEFT = ("model", "source", "on top", "rests on", "rig", "in all")


def series(budget: Budget) -> Table:
    """Equal tokens are said in the headline, so not on every row."""
    own_tokens = len({row.tokens for row in budget.series}) > 1
    tokens: tuple[Column, ...] = (("tokens", lambda row: units.format_count(row.tokens)),) if own_tokens else ()
    has_steps = bool(budget.whole)
    steps: tuple[Column, ...] = (("steps", _steps),) if has_steps else ()
    columns: tuple[Column, ...] = (
        *_SIZE,
        *tokens,
        ("tokens/s", lambda row: _rate(row.rate.tokens_per_s)),
        *steps,
        ("hours", lambda row: span(row.hours, units.format_significant)),
        *_cost_columns(budget),
        *(() if budget.rig else (("source", lambda row: row.rate.source),)),
    )
    table = _table([heading for heading, _ in columns])
    for row in budget.series:
        table.add_row(*(cell(row) for _, cell in columns))
    if len(budget.series) > 1:
        sums = {
            "model": "all",
            "hours": span(budget.series_hours, units.format_significant),
            "kWh": value(budget.series_kwh),
            currency(budget): value(budget.series_money),
        }
        table.add_row(*(sums.get(heading, "") for heading, _ in columns), style="bold")
    return table


def overheads(budget: Budget) -> Table:
    """What comes on top of the steps, and the whole run."""
    table = _table(["on top", "time", "rests on"])
    for one in budget.overheads or ():
        table.add_row(one.name, span(one.hours, _time), one.hours.basis)
    if budget.whole:
        table.add_row("whole run", span(budget.whole.hours, _time), "", style="bold")
    return table


def alone(budget: Budget) -> Table:
    columns: tuple[Column, ...] = (
        *_SIZE,
        ("tokens", lambda row: units.format_count(row.tokens)),
        ("per parameter", lambda row: units.format_significant(row.tokens_per_parameter)),
        ("hours", lambda row: span(row.hours, units.format_significant)),
        *_cost_columns(budget),
    )
    table = _table([heading for heading, _ in columns])
    for row in budget.alone:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


def side_by_side(budget: Budget) -> Table:
    """A rig a line, whole runs with overheads; what was asked for has no column."""
    from rich.table import Table

    rigs = [one for one in (budget, *(budget.others or ())) if one.whole]
    kind = budget.asked.kind if budget.asked else "flops"
    rented = {one.rent.currency for one in rigs if one.rent and not isinstance(one.rent, Absent)}
    money = "/".join(sorted({currency(one) for one in rigs}))
    columns: dict[str, Callable[[Budget], str]] = {
        "FLOP": lambda one: span(one.asked.flops, _short_flop) if one.asked else "",
        "hours": lambda one: span(one.whole.hours, _two_digits) if one.whole else "",
        "kWh": _wall_kwh,
        money: lambda one: _or_absent(one.whole.money) if one.whole else "",
        f"rent {'/'.join(sorted(rented))}".strip(): _rented,
        "of peak": _of_peak,
    }
    given = {"hours": "hours", "kWh": "kWh", "electricity": money}.get(kind, "FLOP")
    shown = {heading: cell for heading, cell in columns.items() if heading != given}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("rig", overflow="fold")
    for heading in shown:
        table.add_column(heading, justify="right", overflow="fold")
    for one in rigs:
        table.add_row(one.rig or "this rig", *(cell(one) for cell in shown.values()))
    return table


def span(its: Estimate | Figure, text: Callable[[float], str]) -> str:
    if isinstance(its.low, Absent) or isinstance(its.high, Absent) or its.low == its.high:
        return text(its.value)
    return f"{text(its.value)} ({text(its.low)} to {text(its.high)})"


def value(figure: Figure | Absent) -> str:
    return units.format_significant(figure.value) if isinstance(figure, Figure) else "n/a"


def kwh_unit(budget: Budget) -> str:
    if isinstance(budget.power, Absent) or budget.power.covers == "wall":
        return "kWh"
    return f"kWh {budget.power.covers}"


def currency(budget: Budget) -> str:
    return budget.price.currency if isinstance(budget.price, Price) else "money"


def _cost_columns(budget: Budget) -> tuple[Column, ...]:
    """Missing watts or price are said once below, not in every cell."""
    columns: tuple[Column, ...] = ()
    if isinstance(budget.series_kwh, Figure):
        columns += (("kWh", lambda row: value(row.kwh)),)
    if isinstance(budget.series_money, Figure):
        columns += ((currency(budget), lambda row: value(row.money)),)
    return columns


def _table(headings: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        # Folding, so that a narrow terminal never eats a digit.
        table.add_column(heading, justify="left" if heading in LEFT else "right", overflow="fold")
    return table


def _wall_kwh(one: Budget) -> str:
    text = _or_absent(one.whole.kwh) if one.whole else ""
    return text if isinstance(one.power, Absent) or one.power.covers == "wall" else f"{text} {one.power.covers}"


def _or_absent(figure: Figure | Absent) -> str:
    return "n/a" if isinstance(figure, Absent) else span(figure, _two_digits)


def _of_peak(one: Budget) -> str:
    sanity = one.sanity
    if not sanity or isinstance(sanity, Absent) or isinstance(sanity.share, Absent):
        return "n/a"
    return units.format_share(sanity.share.value)


def _steps(row: PlanRow) -> str:
    return units.format_count(row.steps) if row.steps else ""


def _rate(rate: Estimate) -> str:
    """Sides that differ much are both told."""
    below, above = rate.low / rate.value - 1, rate.high / rate.value - 1
    text = units.format_significant(rate.value)
    if abs(below + above) < 0.1:
        return f"{text} {units.format_plus_minus(rate.half_width)}"
    return f"{text} {units.format_share(below)} +{units.format_share(above)}"


def _rented(one: Budget) -> str:
    return "n/a" if not one.rent or isinstance(one.rent, Absent) else span(one.rent.money, _two_digits)


def _short_flop(flop: float) -> str:
    """As the options take it: "1.2e18"."""
    return f"{flop:.2g}".replace("e+", "e")


def _two_digits(value: float) -> str:
    return units.format_significant(value, 2)


def _time(hours: float) -> str:
    return units.format_seconds(hours * 3600)
