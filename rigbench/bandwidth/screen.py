"""Shows bandwidth: the verdict, what each rate is held against, and tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from rigbench.bandwidth.record import Bandwidth, Transfer
from rigbench.core import units
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import gigabytes, plus_minus, printable, table
from rigbench.machine.record import PciPath

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

STYLES = {"fine": "green", "low": "yellow", "unknown": "dim", "wrong data": "red", "hung": "red", "died": "red"}
AS_TIME_BELOW = 1 << 20  # a smaller message is judged by its time, not by its rate
NOTHING = "–"
LATE_SHARE = 0.1  # of a row's samples: a median hardly moves below it
CONVENTION = "GB/s is 1e9 bytes/s"
STREAM = "a copy counts 2 bytes a byte (read and write) and a triad a = b + 3·c counts 3, as STREAM does"


def show(result: Bandwidth, console: Console) -> None:
    heading = Text(f"bandwidth on {printable(_devices(result))}: ", style="bold")
    console.print(heading.append(result.verdict, style=f"bold {STYLES[result.verdict]}"))
    console.print(Text(f"  {_checks(result)}", style="red" if result.verdict == "wrong data" else ""))
    for part in result.parts:
        if part.ended in ("hung", "died"):
            console.print(Text(printable(f"  {part.name} {part.ended}: {part.reason}"), style="red"))
    _show_judged(result, console)
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


def _show_judged(result: Bandwidth, console: Console) -> None:
    """What could be held against a theory in numbers, the rest in words."""
    rows = []
    for item in result.judged:
        verdict, expected, share = item.judgement.verdict, item.judgement.expected, item.judgement.share
        if isinstance(expected, Figure) and isinstance(share, float):
            ends = [end for end in (expected.low, expected.high) if isinstance(end, float)]
            rate, whole, *span = (gigabytes(each) for each in (item.bytes_per_s, item.bytes_per_s / share, *ends))
            why = item.judgement.reason if verdict == "unknown" else ""
            rows.append((verdict, item.way, rate, " to ".join(span), f"{units.format_share(share)} of {whole}", why))
    if rows:
        console.print(table(("verdict", "way", ">GB/s", ">expected", ">of theory", ""), rows))
    for item in result.judged:
        if isinstance(item.judgement.expected, Absent):
            head = Text(f"  {item.judgement.verdict}  ", style=STYLES[item.judgement.verdict])
            rate = units.format_bytes_per_s(item.bytes_per_s)
            console.print(head.append(f"{item.way}: {rate}; {item.judgement.reason}", style="default"))


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
        return size, _gb_per_s(row), plus_minus(row.bytes_per_s), str(len(row.timing.seconds))

    names = (">each array", ">GB/s", ">interval", ">samples")
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
