"""How does the data loader look on a screen, next to what training eats?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import plus_minus
from rigbench.dataloader.record import Dataloader, Headroom, Loading, Sweep

if TYPE_CHECKING:
    from rich.console import Console


def show(result: Dataloader | Skipped, console: Console) -> None:
    """The answer in a sentence, a row for each way of loading, the disk, and what changes would gain."""
    from rich.table import Table
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"dataloader skipped: {result.reason}", style="yellow"))
        return
    console.print(Text.assemble(("dataloader", "bold"), f" on {result.device.kind}: {_data(result)}"))
    for line in answers(result):
        console.print(Text.assemble("  ", (line, "bold")))
    console.print(_table(result))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for label, line in _lines(result):
        grid.add_row(f"  {label}", Text(line))
    console.print(grid)
    for line in result.not_run:
        console.print(Text(f"  not run: {line}", style="yellow"))


def _lines(result: Dataloader) -> list[tuple[str, str]]:
    lines = [("knee", _knees(result)), ("disk", _disk(result))]
    demand = result.demand_tokens_per_s
    if isinstance(demand, Figure):
        lines.append(("eaten", f"{units.format_rate(demand.value)} ({demand.source}: {demand.basis})"))
    lines += [("change", f"{gain.change}: {_times(gain.times)}") for gain in result.gains]
    return lines + [("note", line) for line in result.notes]


def answers(result: Dataloader) -> list[str]:
    """ "IO bound: no, 14x headroom at 8 workers (jsonl, warm; 13.1x to 15.2x)"; one line warm, one cold."""
    demand = result.demand_tokens_per_s
    if isinstance(demand, Absent):
        return [f"IO bound: n/a ({demand.reason})"]
    if not result.headrooms:
        return ["IO bound: n/a (nothing was timed)"]
    first = result.headrooms[0]
    cold = next((one for one in result.headrooms if one.temperature == "cold"), None)
    return [_sentence(one) for one in (first, cold) if one]


def _sentence(one: Headroom) -> str:
    place = f"at {_workers(one.workers)}"
    detail = f"({one.path}, {one.temperature}; {_x(one.times.low)} to {_x(one.times.high)})"
    if one.io_bound == "no":
        return f"IO bound: no, {_x(one.times.value)} headroom {place} {detail}"
    if one.io_bound == "yes":
        return f"IO bound: yes, loading gives {_x(one.times.value)} of what training eats {place} {detail}"
    return f"IO bound: cannot be told, about {_x(one.times.value)} of what training eats {place} {detail}"


def _table(result: Dataloader) -> object:
    from rich.table import Table

    table = Table(box=None)
    for name in ("path", "workers", "memory", "tokens/s", "interval", "a batch", "first batch", "ended by"):
        right = name in ("workers", "tokens/s", "a batch", "first batch")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for sweep in result.sweeps:
        unpinned = [sweep.unpinned] if isinstance(sweep.unpinned, Loading) else []
        cold = [sweep.cold] if isinstance(sweep.cold, Loading) else []
        for row in (*sweep.rows, *unpinned, *cold):
            table.add_row(*_cells(sweep, row))
        if isinstance(sweep.cold, Absent) and sweep.path in ("own loader", "jsonl") and sweep.of == "the data":
            table.add_row(sweep.path, "", "cold", "n/a", f"({sweep.cold.reason})")
    return table


def _cells(sweep: Sweep, row: Loading) -> list[str]:
    of = "" if sweep.of == "the data" else ", packed"
    to_device = ("" if row.pinned else ", not pinned") if row.to_device else ""
    startup = row.startup_seconds
    return [
        f"{row.path}{of}",
        str(row.workers),
        f"{row.temperature}{_cached(row)}{to_device}",
        units.format_count(row.tokens_per_s.value),
        plus_minus(row.tokens_per_s),
        units.format_seconds(sum(row.seconds) / len(row.seconds) / row.batches_per_sample),
        "n/a" if isinstance(startup, Absent) else units.format_seconds(startup),
        row.ended_by,
    ]


def _data(result: Dataloader) -> str:
    data = result.data
    batch = f"{result.micro_batch} × {result.sequence:,} tokens a batch"
    if data.kind == "dataset":
        row = result.sweeps[0].rows[0]
        batch = f"{units.format_significant(sum(row.tokens) / len(row.tokens) / row.batches_per_sample)} tokens a batch"
    facts = [data.name]
    if isinstance(data.tokens, int):
        facts.append(f"{units.format_count(data.tokens)} tokens of {data.item_bytes} bytes")
    elif isinstance(data.size_bytes, int):
        facts.append(units.format_bytes(data.size_bytes))
    if isinstance(data.tokenizer, str):
        facts.append(f"tokenizer {data.tokenizer}")
    if data.bad_lines:
        facts.append(f"{data.bad_lines:,} bad lines left out (--skip-bad)")
    copied = ", copied to it" if result.device.kind == "cuda" else ", no GPU to copy to"
    return f"{'generated ' if data.kind == 'generated' else ''}{', '.join(facts)}; {batch}{copied}"


def _knees(result: Dataloader) -> str:
    knees = [
        f"{sweep.path} {_workers(sweep.knee_workers)}"
        for sweep in result.sweeps
        if sweep.of == "the data" and len(sweep.rows) > 1
    ]
    return f"the fewest workers as fast as the best: {', '.join(knees) or 'n/a (one number of workers)'}"


def _disk(result: Dataloader) -> str:
    disk = result.disk
    if isinstance(disk, Absent):
        return f"n/a ({disk.reason})"
    reads = [
        f"{units.format_bytes_per_s(read.bytes_per_s.value)} ({plus_minus(read.bytes_per_s)}) {read.order}, "
        f"{units.format_bytes(read.block_bytes)} at a time"
        for read in disk
    ]
    return f"past the page cache {'; '.join(reads)}"


def _cached(row: Loading) -> str:
    """Said where a warm file was not all in memory."""
    share = row.cached_share
    known = row.temperature == "warm" and isinstance(share, float) and share < 0.99
    return f" ({units.format_share(share)} in memory)" if known and isinstance(share, float) else ""


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _x(times: float) -> str:
    return f"{units.format_significant(times)}x" if times < 10 else f"{times:,.0f}x"


def _times(times: Estimate) -> str:
    """ "1.90x (1.55x to 2.32x) as many tokens/s"; no direction is claimed where the interval has none."""
    span = f"({_x(times.low)} to {_x(times.high)})"
    if times.low <= 1 <= times.high:
        return f"no difference that could be told {span}"
    return f"{_x(times.value)} {span} as many tokens/s"
