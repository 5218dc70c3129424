"""How do the ways of training a model look side by side: one table, where each step goes, a chart, and the best?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.core import screen as bars
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import grid, plus_minus
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.train.record import ArmRow, Arms, MicroBatchSearch, Slice

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Results = Sequence[Slice | Skipped]
Cell = Callable[[ArmRow, Slice | None], str]
MOST_EVENTS = 4


def show(table: Arms, slices: Results, console: Console) -> None:
    """The table first, then where the steps go, the chart, and what was chosen and why."""
    from rich.text import Text

    results = {row.label: _slice(row, slices) for row in table.rows}
    told = [row for row in table.rows if row.outcome != "skipped"]
    console.print(
        Text.assemble((table.model.name, "bold"), f" on {_where(table, results)}: {_setting(table, results)}")
    )
    if told:
        console.print(_table(told, results, _columns(table, results)))
        measured = [row for row in told if results[row.label]]
        if measured:
            console.print(Text("\nwhere each step goes", style="bold"))
            console.print(_table(measured, results, _split_columns(measured, results)))
            if any(_four(row, results[row.label], "allocated_bytes") for row in measured):
                console.print(Text("\nmemory, four ways", style="bold"))
                console.print(_table(measured, results, _memory_columns()))
        console.print()
        _chart(told, results, console)
    console.print()
    console.print(grid(_lines(table, results)))


def _table(rows: Sequence[ArmRow], results: dict[str, Slice | None], columns: Sequence[tuple[str, Cell]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown = [(heading, [cell(row, results[row.label]) for row in rows]) for heading, cell in columns]
    kept = [(heading, cells) for heading, cells in shown if any(cells)]  # what no arm has is not a column
    for heading, _ in kept:
        table.add_column(heading, justify="left" if heading == "arm" else "right", overflow="fold")
    for index in range(len(rows)):
        table.add_row(*(Text(cells[index]) for _, cells in kept))
    return table


def _columns(table: Arms, results: dict[str, Slice | None]) -> list[tuple[str, Cell]]:
    return [
        ("arm", lambda row, result: row.label),
        ("tokens/s", _rate),
        ("vs first", lambda row, result: _ratio(row, table.rows[0])),
        ("peak memory", _peak),
        ("predicted", lambda row, result: _memory(row) if result else ""),
        ("MFU", lambda row, result: _share(result.mfu) if result else ""),
        ("HFU", lambda row, result: _share(result.hfu) if result and result.hfu else ""),
        ("of matmul", lambda row, result: _share(result.share_of_measured_matmul) if result else ""),
        ("J/token", lambda row, result: units.format_significant(result.joules_per_token)
         if result and result.joules_per_token else ""),
    ]  # fmt: skip


def _split_columns(rows: Sequence[ArmRow], results: dict[str, Slice | None]) -> list[tuple[str, Cell]]:
    def part(name: str) -> Cell:
        return lambda row, result: units.format_share(result.step_share[name]) if result else ""

    return [
        ("arm", lambda row, result: row.label),
        ("step", lambda row, result: units.format_seconds(result.step_seconds.value) if result else ""),
        *((name, part(name)) for name in ("data", "forward", "backward", "optimizer")),
        ("exchange", _communication),
        ("predicted", _predicted_step),
        ("unexplained", _unexplained),
        ("first step", lambda row, result: units.format_seconds(result.steps.seconds[0]) if result else ""),
        ("compiling", _compiling),
        ("retries", _retries),
        ("hottest", _hottest),
        ("throttled", _throttled),
    ]


def _memory_columns() -> list[tuple[str, Cell]]:
    """A GPU's; on a CPU there is only the process."""

    def four(name: str) -> Cell:
        return lambda row, result: _four(row, result, f"{name}_bytes")

    return [
        ("arm", lambda row, result: row.label),
        *((name, four(name)) for name in ("allocated", "reserved", "context", "process")),
        ("predicted allocated", _predicted_allocated),
        ("what runs out first", lambda row, result: result.memory.deciding if result else ""),
    ]


def _four(row: ArmRow, result: Slice | None, name: str) -> str:
    size = getattr(result.memory, name) if result else None
    return units.format_bytes(size) if isinstance(size, int) else ""


def _predicted_allocated(row: ArmRow, result: Slice | None) -> str:
    return units.format_bytes(row.memory.allocated_bytes) if isinstance(row.memory, VramPrediction) else ""


def _rate(row: ArmRow, result: Slice | None) -> str:
    if result:
        return f"{units.format_significant(result.tokens_per_s.value)} {plus_minus(result.tokens_per_s)}"
    if isinstance(row.time, StepTime):
        rate = row.time.tokens_per_s
        low, high = (units.format_significant(end, 2) for end in (rate.low, rate.high))
        return f"{units.format_significant(rate.value)} ({low} to {high})"
    return ""


def _ratio(row: ArmRow, base: ArmRow) -> str:
    if not isinstance(row.speedup, Estimate):
        return ""
    if row is base:
        return "1"
    low, high = (units.format_significant(end, 2) for end in (row.speedup.low, row.speedup.high))
    return f"{units.format_significant(row.speedup.value)} ({low} to {high})"


def _peak(row: ArmRow, result: Slice | None) -> str:
    return units.format_bytes(row.peak_bytes.value) if isinstance(row.peak_bytes, Figure) else ""


def _memory(row: ArmRow) -> str:
    return units.format_bytes(row.memory.process.value) if isinstance(row.memory, VramPrediction) else ""


def _share(figure: Figure | Absent) -> str:
    return units.format_share(figure.value) if isinstance(figure, Figure) else ""


def _communication(row: ArmRow, result: Slice | None) -> str:
    if not result or not result.exchange:
        return ""
    return units.format_share(max(0.0, result.exchange.exposed_seconds / result.step_seconds.value))


def _predicted_step(row: ArmRow, result: Slice | None) -> str:
    return units.format_seconds(row.time.seconds.value) if result and isinstance(row.time, StepTime) else ""


def _unexplained(row: ArmRow, result: Slice | None) -> str:
    """What of the measured step the rig's own ceilings do not account for; less than nothing where it was faster."""
    if not result or not isinstance(row.time, StepTime):
        return ""
    share = 1 - row.time.seconds.value / result.step_seconds.value
    return f"{'-' if share < 0 else ''}{units.format_share(abs(share))}"


def _compiling(row: ArmRow, result: Slice | None) -> str:
    if not result or not result.compile:
        return ""
    warm = result.compile.warm_seconds
    cached = "" if isinstance(warm, Absent) else f", {units.format_seconds(warm)} cached"
    return f"{units.format_seconds(result.compile.cold_seconds)}{cached}"


def _retries(row: ArmRow, result: Slice | None) -> str:
    retries = result.memory.allocator_retries if result else 0
    return str(retries) if isinstance(retries, int) and retries else ""


def _hottest(row: ArmRow, result: Slice | None) -> str:
    if not result or isinstance(result.telemetry, Absent):
        return ""
    columns = [series.temperature_celsius for series in result.telemetry.series]
    read = [one for column in columns if isinstance(column, tuple) for one in column if isinstance(one, float)]
    return f"{max(read):.0f} °C" if read else ""


def _throttled(row: ArmRow, result: Slice | None) -> str:
    """The reason that held clocks down for most of the time; idle is none."""
    if not result or isinstance(result.telemetry, Absent):
        return ""
    shares = {
        name: share
        for series in result.telemetry.series
        for name, share in series.throttle_share.items()
        if name != "idle" and share > 0
    }
    if not shares:
        return ""
    worst = max(shares, key=lambda name: shares[name])
    return f"{worst} {units.format_share(shares[worst])}"


def _chart(rows: Sequence[ArmRow], results: dict[str, Slice | None], console: Console) -> None:
    """Speed and memory of each arm, as shares of the fastest and of the largest."""
    rates = {row.label: rate for row in rows if (rate := _tokens_per_s(row, results[row.label]))}
    sizes = {row.label: size for row in rows if (size := _bytes(row))}
    columns: dict[str, dict[str, float]] = {}
    if rates:
        fastest = max(rates.values())
        columns["tokens/s, of the fastest"] = {label: rate / fastest for label, rate in rates.items()}
    if sizes:
        largest = max(sizes.values())
        columns["peak memory, of the largest"] = {label: size / largest for label, size in sizes.items()}
    if columns:
        bars.bars("speed and memory", [row.label for row in rows], columns, console)


def _tokens_per_s(row: ArmRow, result: Slice | None) -> float | None:
    if result:
        return result.tokens_per_s.value
    return row.time.tokens_per_s.value if isinstance(row.time, StepTime) else None


def _bytes(row: ArmRow) -> float | None:
    if isinstance(row.peak_bytes, Figure):
        return row.peak_bytes.value
    return row.memory.process.value if isinstance(row.memory, VramPrediction) else None


def _lines(table: Arms, results: dict[str, Slice | None]) -> Iterator[tuple[str, str]]:
    rows = {row.label: row for row in table.rows}
    if isinstance(table.fastest, str):
        row = rows[table.fastest]
        yield "fastest", f"{row.label}: {_rate(row, results[row.label])} tokens/s"
    if isinstance(table.least_memory, str):
        row = rows[table.least_memory]
        yield "least memory", f"{row.label}: {units.format_bytes(_bytes(row) or 0)}"
    if len(table.pareto) > 1:
        yield "worth a choice", f"{'; '.join(table.pareto)} (no other arm is both faster and smaller)"
    if isinstance(table.control, float):
        again = units.format_plus_minus(abs(table.control - 1))
        yield "control", f"the first arm run again at the end differed by {again[1:]}; comparisons allow for that"
    if table.micro_batch:
        yield from _search(table.micro_batch)
    skipped = [row for row in table.rows if row.outcome == "skipped"]
    for row in skipped:
        yield "skipped", f"{row.label}: {row.reason}"
    yield from _notes(table, results)


def _search(search: MicroBatchSearch) -> Iterator[tuple[str, str]]:
    yield "micro-batch", search.why
    largest = search.largest if isinstance(search.largest, int) else f"not run ({search.largest.reason})"
    yield "largest", f"predicted {search.largest_predicted}, confirmed: {largest}"
    for one in search.tries:
        rate = (
            "out of memory"
            if isinstance(one.tokens_per_s, Absent)
            else (f"{units.format_significant(one.tokens_per_s.value)} tokens/s ({plus_minus(one.tokens_per_s)})")
        )
        peak = "" if isinstance(one.peak_bytes, Absent) else f", {units.format_bytes(one.peak_bytes)}"
        yield "tried", f"{one.micro_batch}: {rate}{peak}"
    if not isinstance(search.line, Absent):
        line = search.line
        measured = _line_words(line.measured_intercept_bytes, line.measured_slope_bytes)
        predicted = _line_words(line.predicted_intercept_bytes, line.predicted_slope_bytes)
        yield "memory line", f"{measured} from {line.small} to {line.large}; predicted {predicted}"


def _line_words(intercept_bytes: float, slope_bytes: float) -> str:
    return f"{units.format_bytes(intercept_bytes)} + {units.format_bytes(slope_bytes)} a sequence"


def _notes(table: Arms, results: dict[str, Slice | None]) -> Iterator[tuple[str, str]]:
    first = next((result for result in results.values() if result), None)
    if first is None:
        return
    for name, figure in (("MFU", first.mfu), ("of matmul", first.share_of_measured_matmul)):
        yield name, f"n/a ({figure.reason})" if isinstance(figure, Absent) else figure.basis
    yield "memory", f"what runs out first: {first.memory.deciding}"
    if isinstance(first.energy, Absent):
        yield "J/token", f"n/a ({first.energy.reason})"
    if first.device.kind == "cpu" and any(row.recipe.optimizer.endswith("8bit") for row in table.rows):
        yield "note", "8-bit AdamW's speed on a CPU says nothing about a GPU's"
    for label, result in results.items():
        for event in result.events[:MOST_EVENTS] if result else ():
            yield "event", f"{label}: {event}"


def _where(table: Arms, results: dict[str, Slice | None]) -> str:
    first = next((result for result in results.values() if result), None)
    if first is None:
        return f"{table.on}, predicted" if table.on != "here" else "this machine"
    threads = f", {first.device.threads} threads" if first.device.kind == "cpu" else ""
    return f"{first.device.kind} ({first.device.name}{threads})"


def _setting(table: Arms, results: dict[str, Slice | None]) -> str:
    count = len(table.rows)
    batch = table.rows[0].recipe.micro_batch
    tokens = (
        f"micro-batch {batch} × {table.model.shape.sequence:,} tokens"
        if batch
        else f"{table.model.shape.sequence:,} tokens"
    )
    true = units.format_count(table.model.total_parameters)
    return f"{count} arm{'s' if count > 1 else ''}, {true} parameters, {tokens}"


def _slice(row: ArmRow, slices: Results) -> Slice | None:
    found = slices[row.slice] if isinstance(row.slice, int) else None
    return found if isinstance(found, Slice) else None
