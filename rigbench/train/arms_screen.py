"""The arms of a model side by side: one table, where each step goes, a chart, and what was chosen and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import bars, grid, printable, span, table
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.train.brief import rate_cell
from rigbench.train.record import (
    FEWEST_STEPS,
    PARTS,
    AnySlice,
    ArmRow,
    Arms,
    Compile,
    Exchange,
    MicroBatchSearch,
    Slice,
)
from rigbench.train.screen import compile_words, device_words

Results = Sequence[AnySlice | Skipped]
Rows = Sequence[tuple[ArmRow, Slice | None]]
MOST_EVENTS = 4
STEP = ("step", *PARTS, "gradient sync", "predicted", "unexplained", "first step", "compiling", "retries")
SENSORS = ("hottest", "throttled")


def show(arms: Arms, slices: Results, console: Console) -> None:
    slice_of = (slices[row.slice] if isinstance(row.slice, int) else None for row in arms.rows)
    every: Rows = [(row, it if isinstance(it, Slice) else None) for row, it in zip(arms.rows, slice_of, strict=True)]
    first = next((result for _, result in every if result), None)
    ran = [(row, result) for row, result in every if row.outcome != "skipped"]
    measured = [(row, result) for row, result in ran if result]
    where = device_words(first.device) if first else f"{arms.on}, predicted" if arms.on != "here" else "this machine"
    console.print(Text.assemble((printable(arms.model.name), "bold"), printable(f" on {where}: {_setting(arms)}")))
    if ran:
        _table("", {row.label: _overview(row, result, arms.rows[0]) for row, result in ran}, console)
        if measured:
            _table("where each step goes", {row.label: _step(row, result) for row, result in measured}, console)
        if any(isinstance(result.memory.allocated_bytes, int) for _, result in measured):  # a GPU's
            _table("memory, four ways", {row.label: _memory(row, result) for row, result in measured}, console)
        console.print()
        _chart(ran, console)
    console.print()
    console.print(grid(_lines(arms, every, first)))


def _setting(arms: Arms) -> str:
    count, batch = len(arms.rows), arms.rows[0].recipe.micro_batch
    times = f"micro-batch {batch} × " if batch else ""
    compiled = "compiled" if arms.rows[0].recipe.compiled else "eager"
    true, tokens = units.format_count(arms.model.total_parameters), arms.model.shape.sequence
    variants = f"{count} variant{'s' if count > 1 else ''}, the baseline {compiled}"
    return f"{variants}, {true} parameters, {times}{tokens:,} tokens"


def _table(title: str, rows: dict[str, dict[str, str]], console: Console) -> None:
    """Facts by arm; what no arm has is not a column."""
    if title:
        console.print(Text(f"\n{title}", style="bold"))
    names = [name for name in next(iter(rows.values())) if any(facts.get(name) for facts in rows.values())]
    cells = ([label, *(facts.get(name, "") for name in names)] for label, facts in rows.items())
    console.print(table(["variant", *(f">{name}" for name in names)], cells))


def _overview(row: ArmRow, result: Slice | None, base: ArmRow) -> dict[str, str]:
    ratio = " ".join(span(row.speedup, "").split()) if isinstance(row.speedup, Estimate) else ""
    facts = {
        "tokens/s": rate_cell(row, result),
        "vs baseline": "1" if ratio and row is base else ratio,
        "peak memory": units.format_bytes(row.peak_bytes.value) if isinstance(row.peak_bytes, Figure) else "",
    }
    if result:
        joules = result.joules_per_item
        facts |= {
            "predicted": units.format_bytes(row.memory.process.value) if isinstance(row.memory, VramPrediction) else "",
            "MFU": _share(result.mfu),
            "HFU": _share(result.hfu),
            "of matmul": _share(result.share_of_measured_matmul),
            "J/token": "" if isinstance(joules, Absent) else units.format_significant(joules),
        }
    return facts


def _estimate(row: ArmRow, result: Slice | None) -> Estimate | None:
    if result:
        return result.tokens_per_s
    return row.time.tokens_per_s if isinstance(row.time, StepTime) else None


def _share(figure: Figure | Absent) -> str:
    return units.format_share(figure.value) if isinstance(figure, Figure) else ""


def _step(row: ArmRow, result: Slice) -> dict[str, str]:
    step, retries = result.step_seconds.value, result.memory.allocator_retries
    facts = dict.fromkeys((*STEP, *SENSORS), "")
    facts["step"] = units.format_seconds(step)
    facts |= {part: units.format_share(share) for part, share in result.step_share.items()}
    if isinstance(result.exchange, Exchange):
        facts["gradient sync"] = units.format_share(max(0.0, result.exchange.exposed.value / step))
    if isinstance(row.time, StepTime):
        facts["predicted"] = units.format_seconds(row.time.seconds.value)
        # What the rig's own ceilings do not account for; less than nothing where it was faster.
        unexplained = 1 - row.time.seconds.value / step
        facts["unexplained"] = f"{'-' if unexplained < 0 else ''}{units.format_share(abs(unexplained))}"
    facts["first step"] = units.format_seconds(result.steps.seconds[0])
    if isinstance(result.compile, Compile):
        facts["compiling"] = compile_words(result.compile, "cached")
    if isinstance(retries, int) and retries:
        facts["retries"] = str(retries)
    series = () if isinstance(result.telemetry, Absent) else result.telemetry.series
    columns = [it.temperature_celsius for it in series if isinstance(it.temperature_celsius, tuple)]
    if read := [one for column in columns for one in column if isinstance(one, float)]:
        facts["hottest"] = f"{max(read):.0f} °C"
    # The reason that held clocks down for most of the time; idle is none.
    held = {name: share for it in series for name, share in it.throttle_share.items() if name != "idle" and share > 0}
    if held:
        worst = max(held, key=lambda name: held[name])
        facts["throttled"] = f"{worst} {units.format_share(held[worst])}"
    return facts


def _memory(row: ArmRow, result: Slice) -> dict[str, str]:
    sizes = {name: getattr(result.memory, f"{name}_bytes") for name in ("allocated", "reserved", "context", "process")}
    facts = {name: units.format_bytes(size) for name, size in sizes.items() if isinstance(size, int)}
    if isinstance(row.memory, VramPrediction):
        facts["predicted allocated"] = units.format_bytes(row.memory.allocated_bytes)
    return facts | {"what runs out first": result.memory.deciding}


def _chart(rows: Rows, console: Console) -> None:
    """Speed and memory of each arm, as shares of the fastest and of the largest."""
    rates = {row.label: rate.value for row, result in rows if (rate := _estimate(row, result))}
    sizes = {row.label: size for row, _ in rows if (size := _bytes(row))}
    columns = {
        "tokens/s, of the fastest": {label: rate / (max(rates.values()) or 1.0) for label, rate in rates.items()},
        "peak memory, of the largest": {label: size / (max(sizes.values()) or 1.0) for label, size in sizes.items()},
    }
    if rates or sizes:
        shown = {name: column for name, column in columns.items() if column}
        bars("speed and memory", [row.label for row, _ in rows], shown, console)


def _bytes(row: ArmRow) -> float | None:
    if isinstance(row.peak_bytes, Figure):
        return row.peak_bytes.value
    return row.memory.process.value if isinstance(row.memory, VramPrediction) else None


def _lines(arms: Arms, every: Rows, first: Slice | None) -> Iterator[tuple[str, str]]:
    rows = {row.label: (row, result) for row, result in every}
    if isinstance(arms.fastest, str):
        yield "fastest", f"{arms.fastest}: {rate_cell(*rows[arms.fastest])} tokens/s"
    elif any(row.outcome != "skipped" for row in arms.rows):
        yield "fastest", arms.fastest.reason
    if isinstance(arms.least_memory, str):
        yield "least memory", f"{arms.least_memory}: {units.format_bytes(_bytes(rows[arms.least_memory][0]) or 0)}"
    if len(arms.pareto) > 1:
        yield "best trade-offs", f"{'; '.join(arms.pareto)} (no other variant is both faster and smaller)"
    if isinstance(arms.control, float):
        again = units.format_plus_minus(abs(arms.control - 1))
        yield "control", f"the baseline run again at the end differed by {again[1:]}; comparisons allow for that"
    if isinstance(arms.micro_batch, MicroBatchSearch):
        yield from _search(arms.micro_batch)
    yield from (("skipped", f"{row.label}: {row.reason}") for row in arms.rows if row.outcome == "skipped")
    if first is None:
        return
    for name, figure in (("MFU", first.mfu), ("of matmul", first.share_of_measured_matmul)):
        yield name, f"n/a ({figure.reason})" if isinstance(figure, Absent) else figure.basis
    yield "memory", f"what runs out first: {first.memory.deciding}"
    if isinstance(first.energy, Absent):
        yield "J/token", f"n/a ({first.energy.reason})"
    if first.device.kind == "cpu" and any(row.recipe.optimizer.endswith("8bit") for row in arms.rows):
        yield "note", "8-bit AdamW's speed on a CPU says nothing about a GPU's"
    for row, result in every:
        yield from (("event", f"{row.label}: {event}") for event in (result.events if result else ())[:MOST_EVENTS])


def _search(search: MicroBatchSearch) -> Iterator[tuple[str, str]]:
    yield "micro-batch", search.why
    largest = search.largest if isinstance(search.largest, int) else f"not run ({search.largest.reason})"
    yield "largest", f"predicted {search.largest_predicted}, confirmed: {largest}"
    for one in search.tries:
        rate, peak = one.tokens_per_s, one.peak_bytes
        said = "out of memory"
        if not isinstance(rate, Absent):  # two steps are a range
            few = rate.level > 0 and rate.n < FEWEST_STEPS
            said = units.format_range(rate.low, rate.high, "tokens/s") if few else span(rate, "tokens/s")
        yield (
            "tried",
            f"{one.micro_batch}: {said}{'' if isinstance(peak, Absent) else f', {units.format_bytes(peak)}'}",
        )
    if not isinstance(search.line, Absent):
        line = search.line
        measured = _line_words(line.measured_intercept_bytes, line.measured_slope_bytes)
        predicted = _line_words(line.predicted_intercept_bytes, line.predicted_slope_bytes)
        yield "memory line", f"{measured} from {line.small} to {line.large}; predicted {predicted}"


def _line_words(intercept_bytes: float, slope_bytes: float) -> str:
    return f"{units.format_bytes(intercept_bytes)} + {units.format_bytes(slope_bytes)} a sequence"
