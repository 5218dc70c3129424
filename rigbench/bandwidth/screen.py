"""Shows bandwidth: the verdict, what each rate is held against, and tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from rigbench.bandwidth.record import Bandwidth, Judged, Transfer
from rigbench.core import units
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import (
    Headline,
    Mark,
    closing,
    gigabytes,
    grid,
    headline,
    listed,
    marked,
    printable,
    span,
    span_cells,
    table,
)
from rigbench.machine.record import PciPath

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MARKS: dict[str, Mark] = {"fine": "ok", "low": "warn", "unknown": "note"}
AS_TIME_BELOW = 1 << 20  # a smaller message is judged by its time, not by its rate
NOTHING = "–"
LATE_SHARE = 0.1  # of a row's samples: a median hardly moves below it
MOST_ROWS = 14  # of a first screen
CONVENTION = "GB/s is 1e9 bytes/s"
STREAM = "a copy counts 2 bytes a byte (read and write) and a triad a = b + 3·c counts 3, as STREAM does"


def verdict(result: Bandwidth) -> Headline:
    """The worst of it in one sentence; where all is well, what the links or the host's memory reach."""
    if result.verdict == "wrong data":
        return "fault", _checks(result)
    for part in result.parts:
        if part.ended in ("hung", "died"):
            return "fault", f"{part.name} {part.ended}: {part.reason}"
    low = [item for item in result.judged if item.judgement.verdict == "low"]
    if low:
        worst = min(low, key=lambda item: item.judgement.share if isinstance(item.judgement.share, float) else 1.0)
        rate, expected = units.format_bytes_per_s(worst.bytes_per_s), worst.judgement.expected
        text = f"{worst.way}: {rate}"
        if isinstance(expected, Figure):
            text += f", where healthy rigs reach {' to '.join(map(gigabytes, expected.ends))}"
        return "warn", f"{text}; {len(low) - 1} more ways are slow" if len(low) > 1 else text
    copies = [row for row in _memory(result) if row.operation == "copy"]
    if copies:
        best = max(copies, key=lambda row: row.bytes_per_s.value)
        return "note", f"this host's memory copies at {span(best.bytes_per_s, 'bytes/s')}"
    return _links(result)


def _memory(result: Bandwidth) -> list[Transfer]:
    """The rows of the host's memory, where the CPU was measured."""
    on_cpu = (part for part in result.parts if part.devices and part.devices[0].kind == "cpu")
    return [row for part in on_cpu for row in part.transfers if not row.warm]


def _links(result: Bandwidth) -> Headline:
    """ "GPU0 and GPU1 reach 12.9 GB/s, as their gen 4 x8 links allow", by the slower way of each."""
    slower: dict[str, float] = {}
    ways = [item for item in result.judged if item.way.endswith(", pinned")]
    for item in ways:
        gpu = next(place for place in item.way.removesuffix(", pinned").split(" to ") if place != "host")
        slower[gpu] = min(slower.get(gpu, item.bytes_per_s), item.bytes_per_s)
    if not slower:
        return ("note", _checks(result)) if result.verdict == "unknown" else ("ok", "every rate is as it should be")
    rates = list(dict.fromkeys(gigabytes(rate) for rate in slower.values()))
    text = f"{listed(list(slower))} {'reaches' if len(slower) == 1 else 'reach'} {listed(rates)} GB/s"
    links = {_link(gpu, result.links) for gpu in slower}
    if any(item.judgement.verdict == "fine" for item in ways):
        link = f"{next(iter(links)).strip(' ()').removesuffix(' awake')} " if len(links) == 1 else ""
        return (
            "ok",
            f"{text}, as {'its' if len(slower) == 1 else 'their'} {link}link{'s' * (len(slower) > 1)} allow"
            + ("s" if len(slower) == 1 else ""),
        )
    return "note", f"{text}; not judged: {ways[0].judgement.reason}"


def brief(result: Bandwidth, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("bandwidth", verdict(result), console)
    memory = _memory(result)
    if memory:
        rows = [(row.source, str(row.threads), row.operation, *_rate(row)) for row in memory]
        console.print(table(("where", ">threads", "operation", ">GB/s", ">90 % interval"), rows))
    elif result.judged:
        worst = sorted(result.judged, key=lambda item: ("low", "unknown", "fine").index(item.judgement.verdict))
        console.print(_judged(result, worst[:MOST_ROWS], reasons=False))
        if len(worst) > MOST_ROWS:
            console.print(Text(f"  … and {len(worst) - MOST_ROWS} more ways with --verbose", style="dim"))
    if quiet:
        return
    marked(_odd(result), console)
    inside = [row for part in result.parts for row in part.transfers if row.warm]
    if memory and inside:
        first, last = (min(inside, key=lambda row: row.size_bytes), max(inside, key=lambda row: row.size_bytes))
        ends = [f"{span(it.bytes_per_s, 'bytes/s')} at {units.format_bytes(it.size_bytes)}" for it in (first, last)]
        console.print(grid([("cache", f"one thread copies an array again and again: {', '.join(ends)}")]))
    expected = "" if memory else "; expected is what healthy published rigs reach"
    counted_so = "; a copy counts the bytes read and those written" if memory else ""
    closing(f"{_checks(result)}{expected}{counted_so}", f"rigbench report {run_id} bandwidth has every size", console)


def _odd(result: Bandwidth) -> Iterator[Headline]:
    for part in result.parts:
        if part.ended in ("hung", "died"):
            yield "fault", f"{part.name} {part.ended}: {part.reason}"
        for line in part.not_run:
            yield "note", f"{part.name}, not run: {line}"
    for item in result.judged:
        if item.judgement.verdict == "unknown" and isinstance(item.judgement.share, float):
            yield "note", f"{item.way}: {item.judgement.reason}"
        if item.judgement.verdict == "low" and isinstance(item.judgement.share, float):
            share = units.format_share(item.judgement.share)
            yield "warn", f"{item.way} reaches {share} of its link: rigbench doctor --load says what holds it back"
    on_cpu = any(device.kind == "cpu" for part in result.parts for device in part.devices)
    if not on_cpu and isinstance(result.peers, Absent):
        yield "note", f"no copies between GPUs: {result.peers.reason}"


def show(result: Bandwidth, console: Console) -> None:
    headline("bandwidth", verdict(result), console)
    console.print(Text(f"  on {printable(_devices(result))}"))
    console.print(Text(f"  {_checks(result)}", style="red" if result.verdict == "wrong data" else ""))
    for part in result.parts:
        if part.ended in ("hung", "died"):
            console.print(Text(printable(f"  {part.name} {part.ended}: {part.reason}"), style="red"))
    if any(isinstance(item.judgement.expected, Figure) for item in result.judged):
        console.print(_judged(result, result.judged))
    unjudged = [item for item in result.judged if isinstance(item.judgement.expected, Absent)]
    rates = ((it, units.format_bytes_per_s(it.bytes_per_s)) for it in unjudged)
    marked((("note", f"{it.way}: {rate}; not judged: {it.judgement.reason}") for it, rate in rates), console)
    for title, shown in _tables(result):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(shown)
    for line in _notes(result):
        console.print(Text(f"  {printable(line)}", style="dim"))


def _devices(result: Bandwidth) -> str:
    devices = next((part.devices for part in result.parts if part.devices), ())
    if not devices:
        return "devices that did not answer"
    if devices[0].kind == "cpu":
        return f"cpu ({devices[0].name}, {devices[0].threads} threads)"
    names = [device.name for device in devices]
    return "cuda (" + ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) + ")"


def _checks(result: Bandwidth) -> str:
    checks = [transfer.check for part in result.parts for transfer in part.transfers]
    checked, wrong = sum(check.checked for check in checks), sum(check.wrong for check in checks)
    if not checked:
        return "nothing was measured"
    if wrong:
        return f"{wrong:,} of {checked:,} copies arrived WRONG; rates of wrong copies are not judged"
    return f"{checked:,} copies, each read back where it arrived: all right"


def _judged(result: Bandwidth, items: Iterable[Judged], reasons: bool = True) -> RenderableType:
    """Rates beside what their link should give."""
    rows = []
    for item in items:
        judgement = item.judgement
        cells = "", "", judgement.reason if judgement.verdict == "unknown" else ""
        if isinstance(judgement.expected, Figure) and isinstance(judgement.share, float):
            theory = gigabytes(item.bytes_per_s / judgement.share)
            ends = " to ".join(map(gigabytes, judgement.expected.ends))
            cells = ends, f"{units.format_share(judgement.share)} of {theory}", cells[2]
        if row := _row(result, item):
            rows.append((MARKS[judgement.verdict], item.way, *_rate(row), *cells))
    headings = ["", "way", ">GB/s", ">90 % interval", ">expected", ">of theory", "not judged, since"]
    shown = 7 if reasons and any(row[6] for row in rows) else 6
    return table(headings[:shown], [row[:shown] for row in rows])


def _row(result: Bandwidth, item: Judged) -> Transfer | None:
    """That was judged; none where a stored run has no such."""
    rows = (row for part in result.parts for row in part.transfers)
    judged = (item.size_bytes, item.bytes_per_s)
    return next((row for row in rows if (row.size_bytes, row.bytes_per_s.value) == judged), None)


def _rate(row: Transfer) -> tuple[str, str]:
    text, ends = span_cells(row.bytes_per_s / 1e9, "GB/s")
    return (text if row.check.correct else f"WRONG {text}"), ends


def _tables(result: Bandwidth) -> Iterator[tuple[str, RenderableType]]:
    for part in result.parts:
        if part.devices and part.devices[0].kind == "cpu":
            yield from _host_tables(part.transfers)
        elif rows := [row for row in part.transfers if isinstance(row.host_memory, str)]:
            gpu = next(place for place in (rows[0].source, rows[0].destination) if place != "host")
            link = _link(gpu, result.links)
            yield f"{gpu} and the host{link} in GB/s, one way; both: at once, their sum", _link_table(rows)
    peers = [row for part in result.parts for row in part.transfers if isinstance(row.peer_access, bool)]
    if peers:
        yield "between GPUs in GB/s, peer access (P2P) on and off; both ways: at once, their sum", _peer_table(peers)


def _host_tables(transfers: Sequence[Transfer]) -> Iterator[tuple[str, RenderableType]]:
    def sure(row: Transfer) -> tuple[str, ...]:
        size = units.format_bytes(row.size_bytes)
        return size, *_rate(row), str(len(row.timing.seconds))

    names = (">each array", ">GB/s", ">90 % interval", ">samples")
    memory, curve = [row for row in transfers if not row.warm], [row for row in transfers if row.warm]
    if memory:
        rows = [(row.source, str(row.threads), row.operation, *sure(row)) for row in memory]
        yield "the host's memory", table(("where", ">threads", "operation", *names), rows)
    if curve:
        title = f"from cache to memory: one thread copies the same array inside {curve[0].source} again and again"
        yield title, table(names, [sure(row) for row in curve])


def _link_table(transfers: Sequence[Transfer]) -> RenderableType:
    rows = []
    for size in sorted({row.size_bytes for row in transfers}):
        cells = [
            _cell(
                row
                for row in transfers
                if (row.size_bytes, row.host_memory, row.both_ways) == (size, memory, both)
                and (both or (row.source == "host") is to_gpu)
            )
            for memory in ("pinned", "pageable")
            for to_gpu, both in ((True, False), (False, False), (True, True))
        ]
        rows.append((units.format_bytes(size), *cells))
    return table((">each copy", ">pinned to", ">from", ">both", ">pageable to", ">from", ">both"), rows)


def _link(gpu: str, links: Sequence[PciPath]) -> str:
    """ " (gen 4 x8 awake)": the slowest link of the way."""
    path = next((path for path in links if path.label == gpu), None)
    hop = next((hop for hop in path.hops if hop.device == path.narrowest_awake), None) if path else None
    if hop is None or isinstance(hop.generation_awake, Absent) or isinstance(hop.width_now_lanes, Absent):
        return ""
    return f" (gen {hop.generation_awake} x{hop.width_now_lanes} awake)"


def _peer_table(transfers: Sequence[Transfer]) -> RenderableType:
    """A pair's best rates and its latency, with peer access and without."""
    rows = []
    for source, destination in dict.fromkeys((row.source, row.destination) for row in transfers):
        own = [row for row in transfers if (row.source, row.destination) == (source, destination)]
        one_way, both = [row for row in own if not row.both_ways], [row for row in own if row.both_ways]
        large = [[row for row in group if row.size_bytes >= AS_TIME_BELOW] for group in (one_way, both)]
        least = min((row.size_bytes for row in one_way), default=0)
        small = [row for row in one_way if row.size_bytes == least < AS_TIME_BELOW]
        cells = [
            _cell(sorted((row for row in group if row.peer_access is access), key=lambda row: -row.bytes_per_s.value))
            for group in (*large, small)
            for access in (True, False)
        ]
        rows.append((f"{source} → {destination}", *cells))
    return table(("pair", ">one way, on", ">off", ">both ways, on", ">off", ">latency, on", ">off"), rows)


def _cell(rows: Iterable[Transfer]) -> str:
    """The first of them: a rate, or a time where it is a small message; marked where it arrived wrong."""
    row = next(iter(rows), None)
    if row is None:
        return NOTHING
    if row.size_bytes >= AS_TIME_BELOW:
        return _gb_per_s(row)
    text = units.format_seconds(row.timing.estimate.value)
    return text if row.check.correct else f"WRONG {text}"


def _gb_per_s(row: Transfer) -> str:
    text = gigabytes(row.bytes_per_s.value)
    return text if row.check.correct else f"WRONG {text}"


def _notes(result: Bandwidth) -> Iterator[str]:
    on_cpu = any(device.kind == "cpu" for part in result.parts for device in part.devices)
    inside = any(row.source == row.destination for part in result.parts for row in part.transfers)
    yield f"{CONVENTION}; {STREAM}" if inside else CONVENTION
    if any(isinstance(item.judgement.expected, Figure) for item in result.judged):
        yield "expected: the share of theory that healthy published rigs reach; A to B is one way, A and B is both ways"
    if not on_cpu and isinstance(result.peers, Absent):
        yield f"no peer copies: {result.peers.reason}"
    for part in result.parts:
        if isinstance(part.host_cpus, str):
            yield f"{part.name}: host memory next to CPUs {part.host_cpus}"
        for line in part.not_run:
            yield f"{part.name}, not run: {line}"
        timings = [row.timing for row in part.transfers if row.timing.late > LATE_SHARE * len(row.timing.seconds)]
        if timings:
            late, samples = sum(it.late for it in timings), sum(len(it.seconds) for it in timings)
            yield (
                f"{part.name}: in {len(timings)} rows the host handed copies over too late ({late:,} of {samples:,} "
                "samples): their times hold some of the host's, which small sizes show most"
            )
