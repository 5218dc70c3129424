"""Shows the loader next to what training needs, and what `pack` wrote."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import Headline, closing, grid, headline, marked, printable, span, span_cells, table
from rigbench.dataloader.record import Dataloader, Loading, Sweep, many
from rigbench.model.record import Packed

NAMED_SOURCES = 3
COLUMNS = ("path", ">workers", "memory", ">{}", ">90 % interval", ">a batch", ">first batch", "ended by")
GAINS_LISTED = 3
MANY_TIMES = 100.0  # from which on nobody needs to know how many


def verdict(result: Dataloader) -> Headline:
    """Whether training waits for the loader, warm and, where that differs, from the disk."""
    demand = result.demand_tokens_per_s
    if isinstance(demand, Absent) or not result.headrooms:
        why = demand.reason if isinstance(demand, Absent) else "nothing was timed"
        best = next((sweep.knee for sweep in result.sweeps if sweep.of == "the data"), None)
        rate = f"{_rate(best)} at {many(best.workers, 'worker')}; " if best else ""
        return "note", f"{rate}what training needs is not known ({why})"
    first = result.headrooms[0]
    cold = next((one for one in result.headrooms if (one.path, one.temperature) == (first.path, "cold")), None)
    if first.io_bound == "yes":
        return "warn", f"training waits for the loader, which gives {_share(first.times)} of what it needs"
    whom = f"each of {result.loaders} ranks" if result.loaders > 1 else "training"
    text = f"the loader is {ratio(first.times)} as fast as {whom} needs"
    if first.io_bound == "cannot be told" and first.times.low > 1:
        return "note", f"{text}, alone: whether {result.loaders} at once keep up is not clear"
    if first.io_bound == "cannot be told":
        about = f"the loader gives {_share(first.times)} of what training needs"
        return "note", f"{about}: whether training waits for it is not clear"
    if cold and cold.io_bound != "no" and cold.times.low > 1:
        return "warn", f"{text} from memory; from the disk, where it is {ratio(cold.times)}, {result.loaders} share it"
    if cold and cold.io_bound != "no":
        return "warn", f"{text} from memory, but gives {_share(cold.times)} of it from the disk"
    return "ok", text


def brief(result: Dataloader, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("dataloader", verdict(result), console)
    unit, scale = _unit(result)
    rows = []
    for sweep in result.sweeps:
        for row in (sweep.knee, sweep.cold):
            if isinstance(row, Loading):
                need = [it.times for it in result.headrooms if (it.path, it.temperature) == (row.path, row.temperature)]
                over = (
                    ratio(need[0]).partition(" (")[0].removesuffix(" times") if need and sweep.of == "the data" else ""
                )
                cells = _cells(sweep, row, scale)
                rows.append((*cells[:5], over))
    shown = 6 if result.headrooms else 5
    console.print(table([*_headings(unit)[:5], ">times the need"][:shown], [row[:shown] for row in rows]))
    if quiet:
        return
    gains = [gain for gain in result.gains if gain.times.low > 1 and gain.times.level > 0]
    gains.sort(key=lambda gain: -gain.times.value)
    changes = [f"{gain.change}: {ratio(gain.times)} as many tokens/s" for gain in gains]
    notes = [("note", line) for line in result.notes]
    refused: list[Headline] = [("warn", f"not run: {line}") for line in result.not_run]
    waits = verdict(result)[0] != "ok"
    marked([*refused, *(("note", change) for change in changes[: GAINS_LISTED if waits else 0]), *notes], console)  # type: ignore[list-item]
    demand = result.demand_tokens_per_s
    needs = ""
    if isinstance(demand, Figure):
        needs = f"training needs {units.format_rate(demand.value)} ({demand.source}: {demand.basis}); "
    sure = f"{needs}at the fewest workers that are as fast as any"
    closing(sure, f"rigbench report {run_id} dataloader has every number of workers, and the disk", console)


def show(result: Dataloader, console: Console) -> None:
    """The answer in a sentence, a row for each way of loading, the disk, and what changes would gain."""
    headline("dataloader", verdict(result), console)
    console.print(Text(f"  on {result.device.kind}: {_data(result)}"))
    unit, scale = _unit(result)
    rows = []
    for sweep in result.sweeps:
        others = (sweep.unpinned, sweep.cold)
        rows += [_cells(sweep, row, scale) for row in (*sweep.rows, *others) if isinstance(row, Loading)]
        if isinstance(sweep.cold, Absent) and sweep.path in ("own loader", "jsonl") and sweep.of == "the data":
            rows.append([sweep.path, "", "cold", "n/a", "", "", "", sweep.cold.reason])
    console.print(table(_headings(unit), rows))
    console.print(grid(_lines(result)))
    for line in result.not_run:
        console.print(Text(printable(f"  not run: {line}"), style="yellow"))


def _headings(unit: str) -> list[str]:
    return [heading.format(unit) for heading in COLUMNS]


def _unit(result: Dataloader) -> tuple[str, float]:
    """One for all rows, by the fastest."""
    most = max((row.tokens_per_s.value for sweep in result.sweeps for row in sweep.rows), default=0.0)
    return ("M tokens/s", 1e6) if most >= 1e6 else ("tokens/s", 1.0)


def _rate(row: Loading) -> str:
    rate = row.tokens_per_s
    return span(rate / 1e6, "M tokens/s") if rate.value >= 1e6 else span(rate, "tokens/s")


def _lines(result: Dataloader) -> list[tuple[str, str]]:
    knees = [
        f"{sweep.path} {many(sweep.knee_workers, 'worker')}"
        for sweep in result.sweeps
        if sweep.of == "the data" and len(sweep.rows) > 1
    ]
    known = ", ".join(knees) or "n/a (one number of workers)"
    disk, demand = result.disk, result.demand_tokens_per_s
    reads = [
        f"{span(read.bytes_per_s, 'bytes/s')} {read.order}, {units.format_bytes(read.block_bytes)} at a time"
        for read in (() if isinstance(disk, Absent) else disk)
    ]
    past = f"n/a ({disk.reason})" if isinstance(disk, Absent) else f"past the page cache {'; '.join(reads)}"
    lines = [("enough", f"the fewest workers as fast as the best: {known}"), ("disk", past)]
    if isinstance(demand, Figure):
        lines.append(("demand", f"{units.format_rate(demand.value)} ({demand.source}: {demand.basis})"))
    lines += [("change", f"{gain.change}: {_change(gain.times)}") for gain in result.gains]
    return lines + [("note", line) for line in result.notes]


def _cells(sweep: Sweep, row: Loading, scale: float) -> list[str]:
    of = "" if sweep.of == "the data" else ", packed"
    pageable = ", not pinned" if row.to_device and not row.pinned else ""
    share, startup, cached = row.cached_share, row.startup_seconds, ""
    if row.temperature == "warm" and isinstance(share, float) and share < 0.99:
        cached = f" ({units.format_share(share)} in memory)"
    return [
        f"{row.path}{of}",
        str(row.workers),
        f"{row.temperature}{cached}{pageable}",
        *span_cells(row.tokens_per_s / scale, ""),
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
        layout = f" ({data.layout})" if data.layout not in ("", "raw ids") else ""
        facts.append(f"{units.format_count(data.tokens)} tokens of {data.item_bytes} bytes{layout}")
    elif isinstance(data.size_bytes, int):
        facts.append(units.format_bytes(data.size_bytes))
    if isinstance(data.tokenizer, str):
        facts.append(f"tokenizer {data.tokenizer}")
    if data.bad_lines:
        facts.append(f"{data.bad_lines:,} bad lines left out (--skip-bad)")
    copied = ", copied to it" if result.device.kind == "cuda" else ", no GPU to copy to"
    return f"{'generated ' if data.kind == 'generated' else ''}{', '.join(facts)}; {batch}{copied}"


def ratio(its: Estimate) -> str:
    """ "42 times (38 to 46)", "over 100 times": two digits of a ratio are enough, and of a large one none."""
    if its.low >= MANY_TIMES:
        return f"over {MANY_TIMES:.0f} times"
    low, middle, high = (
        f"over {MANY_TIMES:.0f}" if end >= MANY_TIMES else units.format_significant(float(end), 2)
        for end in (its.low, its.value, its.high)
    )
    if its.level == 0:
        return f"{middle} times (one sample)"
    return f"{middle} times ({low} to {high})" if its.has_middle else f"{low} to {high} times"


def _share(times: Estimate) -> str:
    """ "63 % (55 to 73)"."""
    return span(times, "share")


def _change(times: Estimate) -> str:
    """No direction is claimed where the interval has none."""
    low, high = (units.format_significant(float(end), 2) for end in (times.low, times.high))
    if times.low <= 1 <= times.high:
        return f"no difference beyond noise ({low} to {high} times)"
    return f"{ratio(times)} as many tokens/s"


def show_packed(packed: Packed, folder: str, console: Console, hint: bool) -> None:
    """The file, what is in it, and the command that trains on it."""
    size = packed.tokens * (2 if packed.dtype == "uint16" else 4)
    documents = many(packed.documents, "document")
    facts = f"{packed.tokens:,} tokens of {documents}, {packed.dtype}, {units.format_bytes(size)}"
    headline("pack", ("warn" if packed.bad_lines or packed.unsplit else "ok", f"{packed.file}: {facts}"), console)
    lines: list[Headline] = []
    if packed.bad_lines:
        lines.append(("warn", f"left out: {many(packed.bad_lines, 'bad line')} (--skip-bad)"))
    if packed.unsplit:
        end, held = packed.unsplit[0].partition(" ")[0], ", ".join(packed.unsplit)
        lines.append(("warn", f"the text holds {held}: --separator '{end}' makes a document of what is between"))
    if packed.cut_documents and packed.tokenizer != "bytes":
        long = many(packed.cut_documents, "long document")
        pieces = f"{long} tokenized in pieces of 4 MiB: a token that spans one of their ends became two"
        lines.append(("note", pieces))
    marked(lines, console)
    others = len(packed.sources) - NAMED_SOURCES
    density = units.format_significant(packed.source_bytes / packed.tokens)
    named = ", ".join(packed.sources[:NAMED_SOURCES]) + (f" and {others:,} more" if others > 0 else "")
    end = "none between documents" if isinstance(packed.end_of_text, Absent) else f"{packed.end_of_text:,}"
    size_words = f"vocabulary {packed.vocabulary:,}, end of text {end}, largest id {packed.largest_id:,}"
    rows = [
        ("from", f"{named}: {units.format_bytes(packed.source_bytes)}, {density} bytes a token"),
        ("tokenizer", f"{packed.tokenizer}, {size_words}"),
    ]
    rows += [("next", f"rigbench dataloader --data {folder}{packed.file} (how fast it loads)")] if hint else []
    console.print(grid(rows))
