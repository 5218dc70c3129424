"""What is said below a budget's tables: sanity, laws, money, and what all of it rests on?"""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.budget.record import Budget, NextSlice, PlanRow, ScalingLaws
from rigbench.budget.tables_screen import span
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.work import screen as power

MOST_RESTS = 6


def lines(budget: Budget) -> Iterator[tuple[str, str]]:
    """(label, text) of every line; a label that repeats is shown once."""
    yield from _achieved(budget)
    if budget.next_slice:
        yield "next slice", _next_slice(budget.next_slice, budget.rig or "this rig")
    yield from _batch(budget)
    yield from _rests(budget)
    yield from _costs(budget)
    yield from _other_money(budget)
    if budget.laws:
        yield from _laws(budget.laws, budget.series)
    for label, texts in (("assumed", budget.assumptions), ("left out", budget.left_out), ("warning", budget.warnings)):
        yield from ((label, text) for text in texts)


def _next_slice(its: NextSlice, rig: str) -> str:
    if isinstance(its.half_width_then, Absent):
        return f"{its.command} ({its.basis}; {its.half_width_then.reason})"
    now, then = (units.format_plus_minus(width) for width in (its.half_width_now, its.half_width_then))
    return f"{its.command} on {rig} would take {its.of} from {now} to about {then}"


def _achieved(budget: Budget) -> Iterator[tuple[str, str]]:
    speed = span(budget.series_model_flops_per_s, units.format_flops_per_s)
    over = " over the series" if len(budget.series) > 1 or not budget.whole else ""
    work = f"{units.format_flop(budget.series_flop_exact)} counted exactly, {units.format_flop(budget.series_flop_6n)}"
    yield "achieved", f"{speed}{over}: {work} as 6·N·D"
    sanity = budget.sanity
    if not sanity or isinstance(sanity, Absent):
        return
    if isinstance(sanity.share, Estimate) and isinstance(sanity.peak_flops_per_s, Figure):
        peak = units.format_flops_per_s(sanity.peak_flops_per_s.value)
        yield "", f"{span(sanity.share, units.format_share)} of the peak, {peak} ({sanity.peak_flops_per_s.basis})"
    if isinstance(sanity.flop_per_joule, Figure):
        what = "" if isinstance(budget.power, Absent) or budget.power.covers == "wall" else f", {budget.power.covers}"
        rate = units.format_flop(sanity.flop_per_joule.value)
        yield "", f"{rate} per joule (exact FLOP, whole run{what})"


def _batch(budget: Budget) -> Iterator[tuple[str, str]]:
    batches: dict[str, list[str]] = {}
    for row in budget.series:
        if row.batch:
            batches.setdefault(row.batch, []).append(row.model)
    for words, names in batches.items():
        yield "step", words if len(batches) == 1 else f"{', '.join(names)}: {words}"
    if budget.written:
        its = budget.written
        kept = "" if its.count == 1 else f", {units.format_bytes(its.kept_bytes)} for the {its.count} that are kept"
        yield "disk", f"a checkpoint of the largest takes {units.format_bytes(its.largest_bytes)}{kept}: {its.basis}"


def _rests(budget: Budget) -> Iterator[tuple[str, str]]:
    names = list(dict.fromkeys(name for row in budget.series for name in row.rate.rests_on))
    more = f" and {len(names) - MOST_RESTS} more" if len(names) > MOST_RESTS else ""
    yield "rests on", f"{', '.join(names[:MOST_RESTS])}{more}"
    reasons: dict[str, list[str]] = {}
    for row in budget.series:
        for reason in row.rate.widened_by:
            reasons.setdefault(reason, []).append(row.model)
    if budget.rig:
        share = units.format_share(min(row.rate.tokens_per_s.level for row in budget.series))
        yield from (("interval", f"{share}: {reason}") for reason in reasons)
        return
    for reason, models in reasons.items():
        yield "widened", f"{', '.join(models)}: {reason}"


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


def _other_money(budget: Budget) -> Iterator[tuple[str, str]]:
    """Rent, the price's share and the break-even; what is not known is not mentioned."""
    rent, bought, even = budget.rent, budget.purchase, budget.break_even
    if rent and not isinstance(rent, Absent):
        yield "rented", f"{_money(rent.money, rent.currency)}: {rent.money.basis}"
    if bought and not isinstance(bought, Absent):
        yield "purchase", f"{_money(bought.money, bought.currency)} of {bought.money.basis}"
    if not even or isinstance(rent, Absent) or isinstance(bought, Absent):
        return
    if isinstance(even, Absent):
        yield "break-even", f"n/a ({even.reason})"
        return
    hours = span(even.hours, units.format_significant)
    runs = units.format_significant(even.runs)
    yield "break-even", f"bought is cheaper than rented after {hours} h, {runs} such runs: {even.hours.basis}"


def _laws(laws: ScalingLaws, rows: tuple[PlanRow, ...]) -> Iterator[tuple[str, str]]:
    sizes = [units.format_count(end) for end in (laws.parameters_low, laws.parameters_high)]
    tokens = [units.format_count(end) for end in (laws.tokens_low, laws.tokens_high)]
    yield (
        "laws",
        (
            f"best use of {units.format_flop(laws.flops)} on one model: {sizes[0]} to {sizes[1]} parameters, "
            f"{tokens[0]} to {tokens[1]} tokens ({', '.join(one.law for one in laws.optima)})"
        ),
    )
    last = max(rows, key=lambda row: row.total_parameters)
    losses = [one.loss for one in last.losses or ()]
    if losses:
        low, high = (units.format_significant(end) for end in (min(losses), max(losses)))
        yield "", (f"{last.model} would come to a loss of {low} to {high} nats a token by them: {laws.caveat}")
    batches = [units.format_count(end) for end in (laws.critical_batch_tokens_low, laws.critical_batch_tokens_high)]
    yield "", f"critical batch at the end, by Kaplan 2020: {batches[0]} to {batches[1]} tokens a step; more buys little"


def _money(figure: Figure, currency: str) -> str:
    return f"{span(figure, units.format_significant)} {currency}"
