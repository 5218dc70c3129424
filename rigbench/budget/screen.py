"""Shows a budget: one sentence, the models, what comes on top, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from rigbench.budget.record import Budget, NextSlice, PlanRow, Purchase, Rent, Scaling
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.core.screen import printable, table
from rigbench.work import screen as power_screen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BACKWARDS = ("hours", "kWh", "electricity", "rent")
MOST_RESTS = 6
significant = units.format_significant


def show(budget: Budget, console: Console) -> None:
    """The answer first, then the tables, then what it rests on; every number is in the record."""

    def say(line: str, style: str = "") -> None:
        console.print(Text(printable(line), style=style))

    say(_headline(budget), "bold")
    if isinstance(budget.sanity.sentence, str):
        say(budget.sanity.sentence, "yellow")
    where, words = "", ""
    if isinstance(budget.rig, str):
        where, words = f"{budget.rig}: ", "; nothing was measured there: every figure is predicted"
    say(f"on {where}{budget.configuration.words}{words}")
    if budget.remark:
        say(budget.remark, "yellow")
    if budget.others or budget.refused:
        console.print()
        console.print(_side_by_side(budget))
        for refused in budget.refused:
            say(f"{refused.rig}: no answer ({refused.reason})", "yellow")
        console.print()
        say(f"{_rig(budget)} in detail; the others with `--on NAME`")
    console.print()
    console.print(_series(budget))
    console.print()
    rows: list[tuple[str, ...]] = [(one.name, span(one.hours, _time), one.hours.basis) for one in budget.overheads]
    rows.append(("whole run", span(budget.whole.hours, _time, _has_middle(budget)), ""))
    console.print(table(("overheads", ">time", "based on"), rows))
    if len(budget.alone) > 1:
        console.print()
        say(f"if one model got all of {units.format_flop(budget.flops)}, training steps only")
        console.print(_alone(budget))
    console.print()
    console.print(_labelled(_notes(budget)))


def _rig(budget: Budget) -> str:
    return budget.rig.reason if isinstance(budget.rig, Absent) else budget.rig


def _headline(budget: Budget) -> str:
    """What was asked for is not answered with itself."""
    answers: dict[str, tuple[Estimate | Figure | Absent, str]] = {
        "hours": (budget.whole.hours, "h"),
        "kWh": (budget.whole.kwh, _kwh_unit(budget)),
        "electricity": (budget.whole.money, _currency(budget)),
    }
    shown = [its for name, its in answers.items() if name != budget.goal.kind]
    known = []
    for answer, unit in shown:
        if not isinstance(answer, Absent):
            known.append(_answer(budget, answer, unit))
    return ": ".join([_goal(budget), *([", ".join(known)] if known else [])])


def _answer(budget: Budget, answer: Estimate | Figure, unit: str) -> str:
    """ "4.12 h (3.3 to 5.9 h)"; the range alone where the hours have no middle."""
    if isinstance(answer.low, Absent) or isinstance(answer.high, Absent):
        return f"{significant(answer.value)} {unit}"
    ends = f"{significant(answer.low)} to {significant(answer.high)} {unit}"
    return f"{significant(answer.value)} {unit} ({ends})" if _has_middle(budget) else ends


def _has_middle(budget: Budget) -> bool:
    """What was measured on this rig must tell it; a prediction's interval is as wide as it is."""
    if isinstance(budget.rig, str):
        return True
    return budget.whole.hours.has_middle and all(row.rate.has_middle for row in budget.series)


def _goal(budget: Budget) -> str:
    """ "1.2 EFLOP for the series diy with equal tokens (846.7M tokens each) on 2xrtx-4080"."""
    goal, count = budget.goal, len(budget.series)
    split = "tokens in proportion to size" if goal.split == "compute-optimal" else goal.split
    name = budget.series[0].model if count == 1 else f"the series {budget.series_name} with {split}"
    counts = [row.tokens for row in budget.series]
    each = f"{_range(min(counts), max(counts))} tokens" + (" each" if count > 1 and len(set(counts)) == 1 else "")
    on = f" on {budget.rig}" if isinstance(budget.rig, str) else ""
    flop = units.format_flop(budget.flops)
    if goal.kind not in BACKWARDS:
        return f"{flop} for {name} ({each}){on}"
    amount = f"{goal.amount:g} {'h' if goal.kind == 'hours' else goal.kind}"
    if goal.kind == "electricity":
        amount = f"{units.format_money(goal.amount, _currency(budget))} of electricity"
    if goal.kind == "rent":
        currency = budget.rent.currency if isinstance(budget.rent, Rent) else ""
        amount = f"{units.format_money(goal.amount, currency)} of rent"
    low, high = goal.flops.low, goal.flops.high
    if count == 1:
        each += f", {_range(*(end / budget.flops * counts[0] for end in (low, high)))}"
    return f"{amount}{on} buy {flop} ({units.format_flop(low)} to {units.format_flop(high)}) for {name} ({each})"


def _range(low: float, high: float) -> str:
    low_text, high_text = units.format_count(low), units.format_count(high)
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


Column = tuple[str, Callable[[PlanRow], str]]


def _is_told(row: PlanRow) -> bool:
    """Whether a measured rate has a middle."""
    return row.rate.source == "predicted" or (row.rate.has_middle and row.rate.tokens_per_s.has_middle)


SIZE: tuple[Column, ...] = (
    ("model", lambda row: row.model),
    (">params", lambda row: units.format_count(row.total_parameters)),
)
TOKENS: Column = (">tokens", lambda row: units.format_count(row.tokens))
HOURS: Column = (">hours", lambda row: span(row.hours, significant, _is_told(row)))


def _costs(budget: Budget) -> tuple[Column, ...]:
    """Missing watts or price are said once below, not in every cell."""
    kwh: Column = (">kWh", lambda row: _value(row.kwh, _is_told(row)))
    money: Column = (f">{_currency(budget)}", lambda row: _value(row.money, _is_told(row)))
    shown = ((kwh, budget.series_kwh), (money, budget.series_money))
    return tuple(column for column, total in shown if isinstance(total, Figure))


def _series(budget: Budget) -> RenderableType:
    """Equal tokens are said in the headline, so not on every row."""
    columns: tuple[Column, ...] = (
        *SIZE,
        *([TOKENS] if len({row.tokens for row in budget.series}) > 1 else []),
        (">tokens/s", lambda row: _rate(row.rate.tokens_per_s, _is_told(row))),
        (">steps", lambda row: units.format_count(row.steps)),
        HOURS,
        *_costs(budget),
        *([("source", lambda row: row.rate.source)] if isinstance(budget.rig, Absent) else []),
    )
    rows = [[cell(row) for _, cell in columns] for row in budget.series]
    if len(budget.series) > 1:
        sums = {
            "model": "all",
            ">hours": span(budget.series_hours, significant, _has_middle(budget)),
            ">kWh": _value(budget.series_kwh, _has_middle(budget)),
            f">{_currency(budget)}": _value(budget.series_money, _has_middle(budget)),
        }
        rows.append([sums.get(heading, "") for heading, _ in columns])
    return table([heading for heading, _ in columns], rows)


def _alone(budget: Budget) -> RenderableType:
    columns: tuple[Column, ...] = (
        *SIZE,
        TOKENS,
        (">per parameter", lambda row: significant(row.tokens_per_parameter)),
        HOURS,
        *_costs(budget),
    )
    return table([heading for heading, _ in columns], ([cell(row) for _, cell in columns] for row in budget.alone))


def _side_by_side(budget: Budget) -> RenderableType:
    """A rig a line, whole runs with overheads; what was asked for has no column."""
    rigs = [budget, *budget.others]
    rented = sorted({one.rent.currency for one in rigs if isinstance(one.rent, Rent)})
    money = "/".join(sorted({_currency(one) for one in rigs}))

    def or_absent(it: Figure | Rent | Absent) -> str:
        figure = it.money if isinstance(it, Rent) else it
        return "n/a" if isinstance(figure, Absent) else span(figure, _two_digits)

    def of_peak(one: Budget) -> str:
        share = one.sanity.share
        return "n/a" if isinstance(share, Absent) else units.format_share(share.value)

    def kwh(one: Budget) -> str:
        covers = "wall" if isinstance(one.power, Absent) else one.power.covers
        return or_absent(one.whole.kwh) + ("" if covers == "wall" else f" {covers}")

    columns: dict[str, Callable[[Budget], str]] = {
        "rig": _rig,
        ">FLOP": lambda one: span(one.goal.flops, lambda flop: f"{flop:.2g}".replace("e+", "e")),  # as options take it
        ">hours": lambda one: span(one.whole.hours, _two_digits),
        ">kWh": kwh,
        f">{money}": lambda one: or_absent(one.whole.money),
        f">rent {'/'.join(rented)}".strip(): lambda one: or_absent(one.rent),
        ">of peak": of_peak,
    }
    given = {"hours": ">hours", "kWh": ">kWh", "electricity": f">{money}"}.get(budget.goal.kind, ">FLOP")
    shown = {heading: cell for heading, cell in columns.items() if heading != given}
    return table(tuple(shown), ([cell(one) for cell in shown.values()] for one in rigs))


def span(its: Estimate | Figure, text: Callable[[float], str], has_middle: bool = True) -> str:
    if isinstance(its.low, Absent) or isinstance(its.high, Absent) or its.low == its.high:
        return text(its.value)
    ends = f"{text(its.low)} to {text(its.high)}"
    return f"{text(its.value)} ({ends})" if has_middle else ends


def _value(figure: Figure | Absent, has_middle: bool) -> str:
    if isinstance(figure, Absent):
        return "n/a"
    return significant(figure.value) if has_middle else span(figure, significant, has_middle)


def _kwh_unit(budget: Budget) -> str:
    covers = "wall" if isinstance(budget.power, Absent) else budget.power.covers
    return "kWh" if covers == "wall" else f"kWh {covers}"


def _currency(budget: Budget) -> str:
    return budget.price.currency if isinstance(budget.price, Price) else "money"


def _rate(rate: Estimate, has_middle: bool) -> str:
    """Sides that differ much are both told."""
    if not has_middle:
        return span(rate, significant, has_middle)
    below, above = rate.low / rate.value - 1, rate.high / rate.value - 1
    text = significant(rate.value)
    if abs(below + above) < 0.1:
        return f"{text} {units.format_plus_minus(rate.half_width)}"
    return f"{text} {units.format_share(below)} +{units.format_share(above)}"


def _two_digits(value: float) -> str:
    return significant(value, 2)


def _time(hours: float) -> str:
    return units.format_seconds(hours * 3600)


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
    scaling = budget.scaling
    if isinstance(scaling, Scaling):
        one, all_cards = (units.format_rate(its.value) for its in (scaling.one, scaling.together))
        yield (
            "scaling",
            f"{scaling.model}: {one} on one card, {all_cards} on {scaling.cards}, "
            f"{span(scaling.efficiency, units.format_share)} of {scaling.cards} times one",
        )
    its = budget.next_slice
    if isinstance(its, NextSlice):
        if isinstance(its.half_width_then, Absent):
            yield "next slice", f"{its.command} ({its.basis}; {its.half_width_then.reason})"
        else:
            now, then = (units.format_plus_minus(width) for width in (its.half_width_now, its.half_width_then))
            yield "next slice", f"{its.command} on {_rig(budget)} would take {its.of} from {now} to about {then}"
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
    for label, texts in (("assumed", budget.assumptions), ("left out", budget.left_out), ("warning", budget.warnings)):
        yield from ((label, text) for text in texts)


def _achieved(budget: Budget) -> Iterator[tuple[str, str]]:
    sanity = budget.sanity
    speed = span(budget.series_model_flops_per_s, units.format_flops_per_s)
    over = " over the series" if len(budget.series) > 1 else ""
    work = f"{units.format_flop(budget.series_flop_exact)} counted exactly, {units.format_flop(budget.series_flop_6n)}"
    yield "achieved", f"{speed}{over}: {work} as 6·N·D"
    if isinstance(sanity.share, Estimate) and isinstance(sanity.peak_flops_per_s, Figure):
        peak = units.format_flops_per_s(sanity.peak_flops_per_s.value)
        yield "", f"{span(sanity.share, units.format_share)} of the peak, {peak} ({sanity.peak_flops_per_s.basis})"
    if isinstance(sanity.flop_per_joule, Figure):
        covers = _kwh_unit(budget).removeprefix("kWh").strip()
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
        if isinstance(budget.price, Price):
            price = budget.price
            per_kwh = f"{significant(price.per_kwh, 4)} {price.currency}/kWh"
            yield "price", f"{per_kwh}, {price.place}, {price.date} ({price.source})"
    rent, bought, even = budget.rent, budget.purchase, budget.break_even
    if isinstance(rent, Rent):
        yield "rented", f"{span(rent.money, significant)} {rent.currency}: {rent.money.basis}"
    if isinstance(bought, Purchase):
        yield "purchase", f"{span(bought.money, significant)} {bought.currency} of {bought.money.basis}"
    if isinstance(rent, Absent) or isinstance(bought, Absent):
        return
    if isinstance(even, Absent):
        yield "break-even", f"n/a ({even.reason})"
    else:
        hours, runs = span(even.hours, significant), significant(even.runs)
        yield "break-even", f"bought is cheaper than rented after {hours} h, {runs} such runs: {even.hours.basis}"


def _laws(budget: Budget) -> Iterator[tuple[str, str]]:
    laws = budget.laws
    sizes = f"{_range(laws.parameters_low, laws.parameters_high)} parameters"
    tokens = f"{_range(laws.tokens_low, laws.tokens_high)} tokens ({', '.join(one.law for one in laws.optima)})"
    yield "laws", f"best use of {units.format_flop(laws.flops)} on one model: {sizes}, {tokens}"
    last = max(budget.series, key=lambda row: row.total_parameters)
    losses = [one.loss for one in last.losses]
    low, high = (significant(end) for end in (min(losses), max(losses)))
    yield "", f"{last.model} would come to a loss of {low} to {high} nats a token by them: {laws.caveat}"
    batch = _range(laws.critical_batch_tokens_low, laws.critical_batch_tokens_high)
    yield "", f"critical batch at the end, by Kaplan 2020: {batch} tokens a step; more buys little"
