"""Shows a budget: one sentence, the models, what comes on top, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from rigbench.budget.brief import (
    between,
    brief,
    by_then,
    cell,
    currency,
    has_middle,
    is_told,
    kwh_unit,
    models_words,
    price,
    rig_name,
    scaling_words,
    sentence,
    side_by_side,
    time_unit,
    told,
)
from rigbench.budget.record import ONE_CARD, Budget, NextSlice, PlanRow, Purchase, Rent
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import printable, table
from rigbench.work import screen as power_screen
from rigbench.work.record import Power

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["brief", "show"]
MOST_RESTS = 6
significant = units.format_significant


def show(budget: Budget, console: Console) -> None:
    """The answer first, then the tables, then what it rests on; every number is in the record."""

    def say(line: str, style: str = "") -> None:
        console.print(Text(printable(line), style=style))

    say(sentence(budget), "bold")
    say(models_words(budget))
    for claim in (budget.sanity.sentence, budget.sanity.kwh_sentence, by_then(budget)[0]):
        if isinstance(claim, str):
            say(claim, "yellow")
    where, words = "", ""
    if isinstance(budget.rig, str):
        where, words = f"{budget.rig}: ", "; nothing was measured there: every figure is predicted"
    say(f"on {where}{budget.configuration.words}{words}")
    if budget.remark:
        say(budget.remark, "yellow")
    if budget.others or budget.refused:
        console.print()
        rigs, reasons = side_by_side(budget)
        console.print(rigs)
        for line in reasons:
            say(line, "yellow")
        console.print()
        say(f"{rig_name(budget)} in detail; the others with `--on NAME`")
    console.print()
    console.print(_series(budget))
    console.print()
    rows: list[tuple[str, ...]] = [(one.name, _time(one.hours), one.hours.basis) for one in budget.overheads]
    rows.append(("whole run", told(budget.whole.hours * 3600, "seconds", has_middle(budget)), ""))
    console.print(table(("overheads", ">time", "based on"), rows))
    if len(budget.alone) > 1:
        console.print()
        say(f"if one model got all of {units.format_flop(budget.flops)}, training steps only")
        console.print(_alone(budget))
    console.print()
    console.print(_labelled(_notes(budget)))


Column = tuple[str, Callable[[PlanRow], str]]


SIZE: tuple[Column, ...] = (
    ("model", lambda row: row.model),
    (">params", lambda row: units.format_count(row.total_parameters)),
)
TOKENS: Column = (">tokens", lambda row: units.format_count(row.tokens))


def _costs(budget: Budget) -> tuple[Column, ...]:
    """Time in the unit that the whole is said in; missing watts or price are said once below, not in every cell."""
    unit, size = time_unit(budget.whole.hours)
    time: Column = (f">{unit}", lambda row: cell(row.hours / size, is_told(row)))
    kwh: Column = (">kWh", lambda row: _value(row.kwh, is_told(row)))
    money: Column = (f">{currency(budget)}", lambda row: _value(row.money, is_told(row)))
    shown = ((kwh, budget.series_kwh), (money, budget.series_money))
    return time, *(column for column, total in shown if isinstance(total, Figure))


def _series(budget: Budget) -> RenderableType:
    """Equal tokens are said in the headline, so not on every row."""
    columns: tuple[Column, ...] = (
        *SIZE,
        *([TOKENS] if len({row.tokens for row in budget.series}) > 1 else []),
        (">tokens/s", lambda row: cell(row.rate.tokens_per_s, is_told(row))),
        (">steps", lambda row: units.format_count(row.steps)),
        *_costs(budget),
        *([("source", lambda row: row.rate.source)] if isinstance(budget.rig, Absent) else []),
    )
    rows = [[cell(row) for _, cell in columns] for row in budget.series]
    unit, size = time_unit(budget.whole.hours)
    if len(budget.series) > 1:
        sums = {
            "model": "all",
            f">{unit}": cell(budget.series_hours / size, has_middle(budget)),
            ">kWh": _value(budget.series_kwh, has_middle(budget)),
            f">{currency(budget)}": _value(budget.series_money, has_middle(budget)),
        }
        rows.append([sums.get(heading, "") for heading, _ in columns])
    return table([heading for heading, _ in columns], rows)


def _alone(budget: Budget) -> RenderableType:
    columns: tuple[Column, ...] = (
        *SIZE,
        TOKENS,
        (">per parameter", lambda row: significant(row.tokens_per_parameter)),
        *_costs(budget),
    )
    return table([heading for heading, _ in columns], ([cell(row) for _, cell in columns] for row in budget.alone))


def _value(figure: Figure | Absent, with_middle: bool) -> str:
    if isinstance(figure, Absent):
        return "n/a"
    return significant(figure.value) if with_middle else cell(figure, with_middle)


def _time(hours: Figure) -> str:
    ends = [end * 3600 for end in hours.ends]
    return told(Figure(hours.value * 3600, hours.source, "", *ends), "seconds")


def _labelled(lines: Iterable[tuple[str, str]]) -> Table:
    """A label once, then its lines under each other."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    shown = ""
    for label, text in lines:
        style = "yellow" if label == "warning" else ""
        grid.add_row(Text(label if label != shown else "", style=style or "dim"), Text(printable(text), style=style))
        shown = label
    return grid


def _notes(budget: Budget) -> Iterator[tuple[str, str]]:
    """(label, text) of every line below the tables; a label that repeats is shown once."""
    yield from _achieved(budget)
    if budget.scaling != ONE_CARD:
        yield "scaling", scaling_words(budget.scaling)
    its = budget.next_slice
    if isinstance(its, NextSlice):
        if isinstance(its.half_width_then, Absent):
            yield "to measure", f"{its.command} ({its.basis}; {its.half_width_then.reason})"
        else:
            now, then = (units.format_plus_minus(width) for width in (its.half_width_now, its.half_width_then))
            yield "to measure", f"{its.command} on {rig_name(budget)} would take {its.of} from {now} to about {then}"
    batches: dict[str, list[str]] = {}
    for row in budget.series:
        batches.setdefault(row.batch, []).append(row.model)
    for words, names in batches.items():
        yield "step", words if len(batches) == 1 else f"{', '.join(names)}: {words}"
    written = budget.written
    largest, kept = (units.format_bytes(size) for size in (written.largest_bytes, written.kept_bytes))
    kept = "" if written.count == 1 else f", {kept} for the {written.count} that are kept"
    yield "disk", f"a checkpoint of the largest takes {largest}{kept}: {written.basis}"
    yield from _rests(budget)
    yield from _money(budget)
    yield from _laws(budget)
    for label, texts in (
        ("assumed", (*budget.decides, *budget.assumptions)),
        ("left out", budget.left_out),
        ("warning", budget.warnings),
    ):
        yield from ((label, text) for text in texts)


def _achieved(budget: Budget) -> Iterator[tuple[str, str]]:
    sanity = budget.sanity
    speed = told(budget.series_model_flops_per_s, "FLOP/s")
    over = " over the series" if len(budget.series) > 1 else ""
    work = f"{units.format_flop(budget.series_flop_exact)} counted exactly, {units.format_flop(budget.series_flop_6n)}"
    yield (
        "achieved",
        f"{speed}{over}: {work} as {'4·N·D, 6 of what is trained' if budget.configuration.recipe.adapted else '6·N·D'}",
    )
    if isinstance(sanity.share, Estimate) and isinstance(sanity.peak_flops_per_s, Figure):
        peak = units.format_flops_per_s(sanity.peak_flops_per_s.value)
        yield "", f"{told(sanity.share, 'share')} of the peak, {peak} ({sanity.peak_flops_per_s.basis})"
    if isinstance(sanity.flop_per_joule, Figure):
        covers = kwh_unit(budget).removeprefix("kWh").strip(" ()")
        rate = units.format_flop(sanity.flop_per_joule.value)
        yield "", f"{rate} per joule (exact FLOP, whole run{', ' if covers else ''}{covers})"


def _rests(budget: Budget) -> Iterator[tuple[str, str]]:
    names = list(dict.fromkeys(name for row in budget.series for name in row.rate.rests_on))
    more = f" and {len(names) - MOST_RESTS} more" if len(names) > MOST_RESTS else ""
    yield "based on", f"{', '.join(names[:MOST_RESTS])}{more}"
    reasons: dict[str, list[str]] = {}
    for row in budget.series:
        for reason in row.rate.widened_by:
            reasons.setdefault(reason, []).append(row.model)
    if isinstance(budget.rig, str):
        share = units.format_share(min(row.rate.tokens_per_s.level for row in budget.series))
        yield from (("interval", f"{share}: {reason}") for reason in reasons)
    else:
        yield from (("why wide", f"{', '.join(models)}: {reason}") for reason, models in reasons.items())


def _money(budget: Budget) -> Iterator[tuple[str, str]]:
    """What is known of watts and price, each missing answer once; rent, share of the price, break-even where known."""
    if isinstance(budget.power, Absent):
        yield "kWh, money", f"n/a ({budget.power.reason})"
    else:
        yield from power_screen.lines(budget.power)
        if isinstance(budget.series_money, Absent):
            yield "money", f"n/a ({budget.series_money.reason})"
        yield from price(budget)
    co2 = budget.whole.co2_kg
    if isinstance(co2, Figure):
        yield "CO₂", f"{told(co2, 'kg', has_middle(budget))}: {co2.basis}"
    elif isinstance(budget.power, Power) and budget.power.covers == "wall":
        yield "CO₂", f"n/a ({co2.reason})"
    rent, bought, even = budget.rent, budget.purchase, budget.break_even
    if isinstance(rent, Rent):
        yield "rented", f"{told(rent.money, rent.currency)}: {rent.money.basis}"
    if isinstance(bought, Purchase):
        yield "purchase", f"{told(bought.money, bought.currency)} of {bought.money.basis}"
    if isinstance(rent, Absent) or isinstance(bought, Absent):
        return
    if isinstance(even, Absent):
        yield "break-even", f"n/a ({even.reason})"
    else:
        hours, runs = told(even.hours, "h"), significant(even.runs)
        yield "break-even", f"bought is cheaper than rented after {hours}, {runs} such runs: {even.hours.basis}"


def _laws(budget: Budget) -> Iterator[tuple[str, str]]:
    laws = budget.laws
    if budget.configuration.recipe.adapted:  # they are of models trained from the start
        return
    sizes = f"{between(laws.parameters_low, laws.parameters_high)} parameters"
    tokens = f"{between(laws.tokens_low, laws.tokens_high)} tokens ({', '.join(one.law for one in laws.optima)})"
    yield "optimum", f"by scaling laws, {units.format_flop(laws.flops)} on one model: {sizes}, {tokens}"
    last = max(budget.series, key=lambda row: row.total_parameters)
    losses = [one.loss for one in last.losses]
    if losses:
        low, high = (significant(end) for end in (min(losses), max(losses)))
        yield "", f"{last.model} would come to a loss of {low} to {high} nats a token by them: {laws.caveat}"
    batch = between(laws.critical_batch_tokens_low, laws.critical_batch_tokens_high)
    yield "", f"critical batch at the end, by Kaplan 2020: {batch} tokens a step; more buys little"
