"""Shows the loader next to what training needs, and what `pack` wrote."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import grid, plus_minus, printable, table
from rigbench.dataloader.record import Dataloader, Headroom, Loading, Sweep, many
from rigbench.model.record import Packed

NAMED_SOURCES = 3
COLUMNS = ("path", ">workers", "memory", ">tokens/s", "interval", ">a batch", ">first batch", "ended by")


def show(result: Dataloader, console: Console) -> None:
    """The answer in a sentence, a row for each way of loading, the disk, and what changes would gain."""
    console.print(Text.assemble(("dataloader", "bold"), f" on {result.device.kind}: {_data(result)}"))
    for line in answers(result):
        console.print(Text(f"  {line}", style="bold"))
    rows = []
    for sweep in result.sweeps:
        others = (sweep.unpinned, sweep.cold)
        rows += [_cells(sweep, row) for row in (*sweep.rows, *others) if isinstance(row, Loading)]
        if isinstance(sweep.cold, Absent) and sweep.path in ("own loader", "jsonl") and sweep.of == "the data":
            rows.append([sweep.path, "", "cold", "n/a", f"({sweep.cold.reason})"])
    console.print(table(COLUMNS, rows))
    console.print(grid(_lines(result)))
    for line in result.not_run:
        console.print(Text(printable(f"  not run: {line}"), style="yellow"))


def _lines(result: Dataloader) -> list[tuple[str, str]]:
    knees = [
        f"{sweep.path} {many(sweep.knee_workers, 'worker')}"
        for sweep in result.sweeps
        if sweep.of == "the data" and len(sweep.rows) > 1
    ]
    known = ", ".join(knees) or "n/a (one number of workers)"
    disk, demand = result.disk, result.demand_tokens_per_s
    reads = [
        f"{units.format_bytes_per_s(read.bytes_per_s.value)} ({plus_minus(read.bytes_per_s)}) {read.order}, "
        f"{units.format_bytes(read.block_bytes)} at a time"
        for read in (() if isinstance(disk, Absent) else disk)
    ]
    past = f"n/a ({disk.reason})" if isinstance(disk, Absent) else f"past the page cache {'; '.join(reads)}"
    lines = [("enough", f"the fewest workers as fast as the best: {known}"), ("disk", past)]
    if isinstance(demand, Figure):
        lines.append(("demand", f"{units.format_rate(demand.value)} ({demand.source}: {demand.basis})"))
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
    detail = f"({one.path}, {one.temperature}; {_x(one.times.low)} to {_x(one.times.high)})"
    claim = {
        "no": f"no, {_x(one.times.value)} headroom",
        "yes": f"yes, loading gives {_x(one.times.value)} of what training needs",
        "cannot be told": f"cannot be told, about {_x(one.times.value)} of what training needs",
    }[one.io_bound]
    return f"IO bound: {claim} at {many(one.workers, 'worker')} {detail}"


def _cells(sweep: Sweep, row: Loading) -> list[str]:
    of = "" if sweep.of == "the data" else ", packed"
    pageable = ", not pinned" if row.to_device and not row.pinned else ""
    share, startup, cached = row.cached_share, row.startup_seconds, ""
    if row.temperature == "warm" and isinstance(share, float) and share < 0.99:
        cached = f" ({units.format_share(share)} in memory)"
    return [
        f"{row.path}{of}",
        str(row.workers),
        f"{row.temperature}{cached}{pageable}",
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


def _x(times: float) -> str:
    return f"{units.format_significant(times)}x" if times < 10 else f"{times:,.0f}x"


def _times(times: Estimate) -> str:
    """ "1.90x (1.55x to 2.32x) as many tokens/s"; no direction is claimed where the interval has none."""
    span = f"({_x(times.low)} to {_x(times.high)})"
    if times.low <= 1 <= times.high:
        return f"no difference that could be told {span}"
    return f"{_x(times.value)} {span} as many tokens/s"


def show_packed(packed: Packed, folder: str, console: Console, hint: bool) -> None:
    """The file, what is in it, and the command that trains on it."""
    size = packed.tokens * (2 if packed.dtype == "uint16" else 4)
    documents = many(packed.documents, "document")
    facts = f": {packed.tokens:,} tokens of {documents}, {packed.dtype}, {units.format_bytes(size)}"
    console.print(Text.assemble((printable(packed.file), "bold"), facts))
    others = len(packed.sources) - NAMED_SOURCES
    density = units.format_significant(packed.source_bytes / packed.tokens)
    named = printable(", ".join(packed.sources[:NAMED_SOURCES])) + (f" and {others:,} more" if others > 0 else "")
    console.print(Text(f"  from {named}: {units.format_bytes(packed.source_bytes)}, {density} bytes a token"))
    end = "none between documents" if isinstance(packed.end_of_text, Absent) else f"{packed.end_of_text:,}"
    console.print(
        Text(f"  tokenizer {packed.tokenizer}, vocabulary {packed.vocabulary:,}, end of text {end}, "
             f"largest id {packed.largest_id:,}")
    )  # fmt: skip
    if packed.bad_lines:
        bad = many(packed.bad_lines, "bad line")
        console.print(Text(f"  left out: {bad} (--skip-bad)", style="yellow"))
    if packed.cut_documents and packed.tokenizer != "bytes":
        long = many(packed.cut_documents, "long document")
        line = f"  {long} tokenized in pieces of 4 MiB: a token that spans one of their ends became two"
        console.print(Text(line, style="dim"))
    if hint:
        console.print(Text(f"  rigbench dataloader --data {folder}{packed.file} says how fast it loads", style="dim"))
