"""The page's sections on training: what it costs, what holds it back, a step's parts, memory, how sure all that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rigbench.budget import brief
from rigbench.budget.record import Budget, PlanRow
from rigbench.core import units
from rigbench.core.finding import Examined, Lost
from rigbench.core.record import Absent, Figure, Price, Skipped
from rigbench.doctor import no_limit
from rigbench.document import Run
from rigbench.matmul.record import Matmul
from rigbench.predict.record import Capacity, Largest, OwnCapacity, VramPrediction
from rigbench.report.page import charts
from rigbench.report.page.kit import ANSWERS, Chart, Section, Table, cells, held, why
from rigbench.train import brief as training
from rigbench.train.record import AnySlice, Arms, Slice

GIB = float(1 << 30)
PARTS = ("data", "forward", "backward", "optimizer")


def cost_data(budget: Budget) -> dict[str, Any]:
    """What the page's sliders compute with: of each model its FLOP a token, rate and watts, of overheads their hours.

    Compilation, warm-up and what is written at the end stay; all others grow with the hours of training.
    """
    price = budget.price if isinstance(budget.price, Price) else None
    return {
        "flops": budget.flops,
        "split": budget.goal.split,
        "price": price.per_kwh if price else None,
        "currency": price.currency if price else "money",
        "covers": brief.kwh_unit(budget),
        "is_paid": brief.kwh_unit(budget) == "kWh",  # of the GPUs alone there is no bill
        "rows": [_row_data(row) for row in budget.series],
        "overheads": [
            {"name": it.name, "hours": [it.hours.value, *it.hours.ends], "fixed": it.name in ("compile", "warm-up")}
            for it in budget.overheads
        ],
        "overheads_kwh": _beyond(budget),
    }


def _row_data(row: PlanRow) -> dict[str, Any]:
    hours = row.hours
    return {
        "model": row.model,
        "flop_per_token": row.flop_6n / row.tokens,
        "parameters": row.total_parameters,
        "tokens": row.tokens,
        "told": brief.is_told(row),
        "hours": [hours.value, hours.low, hours.high],
        "kwh": None if isinstance(row.kwh, Absent) else [row.kwh.value, *row.kwh.ends],
    }


def _beyond(budget: Budget) -> list[float] | None:
    """kWh of all overheads together."""
    whole, steps = budget.whole.kwh, budget.series_kwh
    if isinstance(whole, Absent) or isinstance(steps, Absent):
        return None
    return [
        max(0.0, of_all - of_steps)
        for of_all, of_steps in zip((whole.value, *whole.ends), (steps.value, *steps.ends), strict=True)
    ]


def overheads(budget: Budget, size: float) -> Figure:
    """All of them together, in a unit of `size` hours."""
    ends = zip(*((it.hours.value, *it.hours.ends) for it in budget.overheads), strict=True)
    value, low, high = (math.fsum(end) / size for end in ends)
    return Figure(value, "predicted", "", low, high)


def sections(run: Run) -> Iterator[Section]:
    yield _held_back(run)
    yield _step(run)
    yield _memory(run)
    yield _sure(run)


def _held_back(run: Run) -> Section:
    budget = held(run.budget, Budget)
    missing = [] if budget else [f"the way from the datasheet to here: {why(run, 'budget')}"]
    drawn = _waterfall(run, budget) if budget else None
    rows = []
    for it in run.findings:
        lost = it.lost
        hours = brief.told(lost.hours * brief.HOUR, "seconds") if isinstance(lost, Lost) else f"n/a ({lost.reason})"
        rows.append(cells(it.severity, it.what, it.detail, hours, it.do or it.cure, it.code))
    examined = held(run.examined, Examined)
    sentences = [f"Costs are of {examined.training}." if examined and examined.training else ""]
    if not rows:
        asked = [it for name, its in run.rooms().items() if name not in ANSWERS for it in its]
        looked = any(not isinstance(it, Skipped) for it in asked)
        said = "No finding in what was measured." if looked else "Nothing was measured, so nothing was found."
        sentences += [said] if asked else []
    if examined and examined.looked_at:
        sentences.append(f"Looked at: {'; '.join(examined.looked_at)}.")
    if fine := list(no_limit.words(run)):
        sentences.append(f"Not a limit: {'; '.join(fine)}.")
    open_questions = [cells(it.what, ", ".join(it.where), it.reason) for it in run.unchecked]
    tables = [
        Table(
            "Findings, worst first", ("how bad", "what", "evidence", ">costs", "what to do", "code"), rows, ".findings"
        ),
        Table("Not checked", ("what", "where", "why"), open_questions, ".unchecked"),
    ]
    made = [drawn] if drawn else []
    return Section(
        "holds-back",
        "What holds it back",
        [it for it in sentences if it],
        made,
        [it for it in tables if it.rows],
        missing,
    )


def ladder(run: Run, budget: Budget) -> list[tuple[str, float, str]]:
    """Hours from the datasheet to here, each step's name, what it adds, and the section with its evidence.

    They add up to the budget's hours with all overheads. A rate that would need less than what comes before it is left
    out: a ceiling over the datasheet's peak, as where clocks boost.
    """
    recipe, series = budget.configuration.recipe, budget.series_hours.value
    steps: list[tuple[str, float, str]] = []
    done = 0.0
    rates: list[tuple[str, float, str]] = []
    if isinstance(peak := budget.sanity.peak_flops_per_s, Figure):
        rates.append(("at the datasheet's peak", peak.value, "roofline"))
    matmul = held(run.matmul, Matmul)
    if matmul and (lasting := (matmul.best_flops_per_s | matmul.sustained_flops_per_s).get(recipe.dtype)):
        name = "at the fastest matmul" if not rates else "matmul below its peak"
        rates.append((name, lasting.value * recipe.ranks, "roofline"))
    for name, rate, evidence in rates:
        hours = budget.series_flop_exact / rate / brief.HOUR
        if done < hours < series:
            steps.append((name, hours - done, evidence))
            done = hours
    waits, exchange = _shares(run, budget)
    named = [("gradient sync", exchange * series, "step"), ("waiting for data", waits * series, "step")]
    named = [it for it in named if 0.002 * series < it[1] < series - done]
    steps.append(("the step's other work", series - done - sum(it[1] for it in named), "step"))
    steps += named
    whole = budget.whole.hours.value
    large = [it for it in budget.overheads if it.hours.value >= 0.005 * whole]
    steps += [(it.name, it.hours.value, "heat" if it.name == "hot steady state" else "sure") for it in large]
    left = math.fsum(it.hours.value for it in budget.overheads if it not in large)
    if left > 0:
        steps.append(("smaller overheads", left, "sure"))
    return steps


def _shares(run: Run, budget: Budget) -> tuple[float, float]:
    """Of the steps' time, what waits for data and what for other ranks, by slices that trained as the budget does."""
    hours = {row.model: row.hours.value for row in budget.series}
    ranks = budget.configuration.recipe.ranks
    slices = [it for it in run.slices if isinstance(it, Slice) and it.recipe.ranks == ranks and it.model.name in hours]
    weight = sum(hours[it.model.name] for it in slices)
    if not weight:
        return 0.0, 0.0
    data = sum(hours[it.model.name] * it.step_share.get("data", 0.0) for it in slices)
    lost = 0.0
    for it in slices:
        if not isinstance(it.exchange, Absent):
            lost += hours[it.model.name] * max(0.0, it.exchange.exposed.value) / it.step_seconds.value
    return data / weight, lost / weight


def _waterfall(run: Run, budget: Budget) -> Chart | None:
    steps = ladder(run, budget)
    unit, size = brief.time_unit(budget.whole.hours)
    bars, at = [], 0.0
    for number, (name, hours, _) in enumerate(steps):
        text = units.format_significant(hours / size, 3)
        colour = charts.GOOD if number == 0 else charts.WARN
        bars.append(charts.Bar(name, at / size, (at + hours) / size, text if number == 0 else f"+{text}", colour))
        at += hours
    bars.append(charts.Bar("here, with all", 0.0, at / size, units.format_significant(at / size, 3), charts.SERIES[0]))
    rows = [
        cells(name, hours / size, units.format_share(hours / at), f"#{evidence}") for name, hours, evidence in steps
    ]
    table = Table("From the datasheet to here", ("what", f">{unit}", ">share", "evidence"), rows, ".budget")
    alt = f"{at / size:.3g} {unit} in all: " + ", ".join(f"{name} {hours / size:.3g}" for name, hours, _ in steps)
    return Chart("From the datasheet to here", charts.stretches(bars, unit), alt, table)


def _step(run: Run) -> Section:
    slices = [(place, it) for place, it in enumerate(run.slices) if isinstance(it, AnySlice)]
    drawn, missing = [], []
    if slices:
        bars, rows = [], []
        named = training.names([it for _, it in slices])
        for (place, it), name_of in zip(slices, named, strict=True):
            parts = [(name, 100 * it.step_share[name]) for name in PARTS if name in it.step_share]
            parts += [(name, 100 * share) for name, share in it.step_share.items() if name not in PARTS]
            rest = 100 - math.fsum(value for _, value in parts)
            parts += [("not explained", rest)] if rest > 0.05 else []
            label = f"{name_of}{f' ×{it.cards}' if it.cards > 1 else ''}"
            bars.append((label, parts))
            rate = (
                brief.told(it.items_per_s, f"{it.unit}/s")
                if it.has_middle
                else brief.told(it.items_per_s, f"{it.unit}/s", False)
            )
            rows.append(
                cells(
                    f"[{place}] {label}",
                    rate,
                    units.format_seconds(it.step_seconds.value),
                    *(f"{value:.1f} %" for _, value in parts),
                )
            )
        names = list(dict.fromkeys(name for _, parts in bars for name, _ in parts))
        table = Table(
            "Parts of a step", ("short run", ">rate", ">median step", *(f">{name}" for name in names)), rows, ".slices"
        )
        alt = "; ".join(
            f"{label}: " + ", ".join(f"{name} {value:.1f} %" for name, value in parts) for label, parts in bars
        )
        drawn.append(Chart("Parts of a step, as measured", charts.stacked(bars, "% of a step"), alt, table))
    else:
        missing.append(f"steps as measured: {why(run, 'slices')}")
    arms = held(run.arms, Arms)
    predicted = [(it.label, it.time) for it in arms.rows if not isinstance(it.time, Absent)] if arms else []
    if predicted:
        bars = [
            (label, [(part.name, 1e3 * part.seconds) for part in time.parts if part.seconds > 0])
            for label, time in predicted
        ]
        rows = [
            cells(
                label,
                units.format_seconds(time.seconds.value),
                ", ".join(f"{name} {value:.3g} ms" for name, value in parts),
            )
            for (label, time), (_, parts) in zip(predicted, bars, strict=True)
        ]
        table = Table("Predicted parts", ("variant", ">step", "parts"), rows, ".arms.rows")
        alt = "; ".join(
            f"{label}: " + ", ".join(f"{name} {value:.3g} ms" for name, value in parts) for label, parts in bars
        )
        drawn.append(Chart("Parts of a step, as predicted", charts.stacked(bars, "ms"), alt, table))
    return Section("step", "Step anatomy", charts=drawn, missing=missing)


def _memory(run: Run) -> Section:
    drawn, missing, tables = [], [], []
    peaks = [(place, it, it.peak) for place, it in enumerate(run.slices) if isinstance(it, AnySlice)]
    told = [(place, it, peak) for place, it, peak in peaks if isinstance(peak, Figure)]
    if told:
        total = told[0][1].device.memory_total_bytes
        named = training.names([it for _, it, _ in told])
        bars = [
            (f"{name}, {it.recipe.micro_batch} seq.", [("peak", peak.value / GIB)])
            for name, (_, it, peak) in zip(named, told, strict=True)
        ]
        rows = [
            cells(f"[{place}] {it.model.name}", it.recipe.words, units.format_bytes(peak.value), peak.basis)
            for place, it, peak in told
        ]
        table = Table("Peak memory", ("short run", "how it trained", ">peak", "what decides"), rows, ".slices[].memory")
        limit = total / GIB if isinstance(total, int) else None
        room = f"; the device has {units.format_bytes(total)}" if isinstance(total, int) else ""
        peaks_said = [f"{name} {units.format_bytes(peak.value)}" for name, (*_, peak) in zip(named, told, strict=True)]
        alt = ", ".join(peaks_said) + room
        nearest = limit if limit is not None and limit < 6 * max(peak.value for *_, peak in told) / GIB else None
        drawn.append(Chart("Peak memory in training, measured", charts.stacked(bars, "GiB", nearest), alt, table))
    else:
        missing.append(f"peaks as measured: {why(run, 'slices')}")
    predicted = list(_predictions(run))
    if predicted:
        bars = [
            (label, [(name, size / GIB) for name, size in its.breakdown.parts().items() if size > 0])
            for label, its in predicted
        ]
        rows = [
            cells(
                label,
                units.format_bytes(its.process.value),
                "fits" if its.fits else f"lacks {units.format_bytes(its.short_bytes)}",
            )
            for label, its in predicted
        ]
        table = Table(
            "Predicted memory", ("what", ">process", "in its room"), rows, ".arms.rows[].memory, .capacity.rows"
        )
        limit = predicted[0][1].room_bytes / GIB
        alt = "; ".join(f"{label} {units.format_bytes(its.process.value)}" for label, its in predicted)
        drawn.append(Chart("Where memory goes, predicted", charts.stacked(bars[:12], "GiB", limit), alt, table))
    capacity = held(run.capacity, Capacity)
    if capacity:
        rows = [
            cells(row.recipe.words, *(_fits(it) for it in (row.micro_batch, row.sequence, row.model)))
            for row in capacity.rows
        ]
        caption = f"What fits on {capacity.target.name}, predicted"
        tables.append(Table(caption, ("how", ">micro-batch", ">sequence", ">parameters"), rows, ".capacity.rows"))
    elif own := held(run.capacity, OwnCapacity):
        rows = [
            cells(f"{row.optimizer}, {row.precision}, eager", row.micro_batch, units.format_bytes(row.process.value))
            for row in own.rows
        ]
        caption = f"What fits of {own.program} on {own.target.name}, predicted"
        tables.append(Table(caption, ("how", ">micro-batch", ">process"), rows, ".capacity.rows"))
    else:
        missing.append(f"what fits: {why(run, 'capacity')}")
    return Section("memory", "Memory", (), drawn, tables, missing)


def _predictions(run: Run) -> Iterator[tuple[str, VramPrediction]]:
    arms = held(run.arms, Arms)
    for row in arms.rows if arms else ():
        if not isinstance(row.memory, Absent):
            yield row.label, row.memory


def _fits(its: Largest | Absent) -> str:
    return f"n/a ({its.reason})" if isinstance(its, Absent) else units.format_count(its.value)


def _sure(run: Run) -> Section:
    budget = held(run.budget, Budget)
    if not budget:
        return Section("sure", "How sure", missing=[f"intervals of hours: {why(run, 'budget')}"])
    unit, size = brief.time_unit(budget.whole.hours)
    rows = []
    for place, row in enumerate(budget.series):
        rate = row.rate
        known = rate.known_from or ", ".join(rate.rests_on)
        rows.append(
            cells(
                f"hours of {row.model}",
                brief.told(row.hours * brief.HOUR, "seconds", brief.is_told(row)),
                rate.source,
                known,
                "; ".join(rate.widened_by),
                f".budget.series[{place}]",
            )
        )
    for place, one in enumerate(budget.overheads):
        kind = "assumed" if "assumed" in one.hours.basis else one.hours.source
        its = Figure(one.hours.value * brief.HOUR, "predicted", "", *(end * brief.HOUR for end in one.hours.ends))
        rows.append(
            cells(f"{one.name}", brief.told(its, "seconds"), kind, one.hours.basis, "", f".budget.overheads[{place}]")
        )
    headings = ("number", ">value, 90 %", "known from", "based on", "why the range is wide", "where it is (jq)")
    sentences = [f"{brief.sure(budget)}.", *(f"Assumed: {it}." for it in budget.decides)]
    return Section(
        "sure",
        "How sure",
        sentences,
        [_tornado(budget, unit, size)],
        [Table("Every number and what it is based on", headings, rows, ".budget")],
    )


def _tornado(budget: Budget, unit: str, size: float) -> Chart:
    """What of the whole's interval each number makes, the widest first."""
    parts: list[tuple[str, float, float]] = [
        (row.model, row.hours.low - row.hours.value, row.hours.high - row.hours.value) for row in budget.series
    ]
    parts += [
        (it.name, it.hours.ends[0] - it.hours.value, it.hours.ends[1] - it.hours.value) for it in budget.overheads
    ]
    widest = max((high - low for _, low, high in parts), default=0.0)
    parts = sorted((it for it in parts if it[2] - it[1] > widest / 300), key=lambda it: it[1] - it[2])[:10]
    middle = budget.whole.hours.value
    bars = [
        charts.Bar(name, low / size, high / size, f"{low / size:+.2g} to {high / size:+.2g}", charts.SERIES[0])
        for name, low, high in parts
    ]
    rows = [cells(name, f"{low / size:+.3g}", f"{high / size:+.3g}") for name, low, high in parts]
    table = Table(f"Beside {middle / size:.3g} {unit}", ("what", f">{unit} less", f">{unit} more"), rows, ".budget")
    alt = ", ".join(f"{name} {low / size:+.3g} to {high / size:+.3g} {unit}" for name, low, high in parts)
    return Chart(
        "What the range comes from, widest first",
        charts.stretches(bars, f"{unit} beside {middle / size:.3g}"),
        alt,
        table,
    )
