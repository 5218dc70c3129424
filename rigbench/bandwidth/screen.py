"""How does the bandwidth probe look on a screen?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.bandwidth.record import Bandwidth, BandwidthPart, Transfer
from rigbench.core import units
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import plus_minus
from rigbench.machine.record import PciPath

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"fine": "green", "low": "yellow", "unknown": "dim", "wrong data": "red", "hung": "red", "died": "red"}
AS_TIME_BELOW = 1 << 20  # a smaller message is judged by its time, not by its rate
NOTHING = "–"
CONVENTION = "GB/s is 1e9 bytes/s"
STREAM = "a copy counts 2 bytes a byte (read and write) and a triad a = b + 3·c counts 3, as STREAM does"


def show(result: Bandwidth | Skipped, console: Console) -> None:
    """The verdict, what each rate is held against, then the tables of what was measured."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"bandwidth skipped: {result.reason}", style="yellow"))
        return
    heading = Text(f"bandwidth on {_devices(result)}: ", style="bold")
    console.print(heading.append(result.verdict, style=f"bold {STYLES[result.verdict]}"))
    console.print(Text(f"  {_checks(result)}", style="red" if result.verdict == "wrong data" else ""))
    for part in result.parts:
        if part.ended in ("hung", "died"):
            console.print(Text(f"  {part.name} {part.ended}: {part.reason}", style="red"))
    for told in _judged(result):
        console.print(told)
    for title, table in _tables(result):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(table)
    for line in _notes(result):
        console.print(Text(f"  {line}", style="dim"))


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


def _judged(result: Bandwidth) -> Iterator[Table | Text]:
    """What could be held against a theory in numbers, the rest in words."""
    from rich.text import Text

    table = _table(("verdict", "way", "GB/s", "expected", "of theory", ""))
    for item in result.judged:
        judgement = item.judgement
        if isinstance(judgement.expected, Figure) and isinstance(judgement.share, float):
            theory = item.bytes_per_s / judgement.share
            rate, whole = (units.format_significant(each / 1e9) for each in (item.bytes_per_s, theory))
            share = f"{units.format_share(judgement.share)} of {whole}"
            why = judgement.reason if judgement.verdict == "unknown" else ""
            verdict = Text(judgement.verdict, style=STYLES[judgement.verdict])
            table.add_row(verdict, item.way, rate, _range(judgement.expected), share, why)
    if table.rows:
        yield table
    for item in result.judged:
        if isinstance(item.judgement.expected, Absent):
            verdict = Text(f"  {item.judgement.verdict}  ", style=STYLES[item.judgement.verdict])
            rate = units.format_bytes_per_s(item.bytes_per_s)
            yield verdict.append(f"{item.way}: {rate}; {item.judgement.reason}", style="default")


def _range(expected: Figure) -> str:
    ends = [end for end in (expected.low, expected.high) if isinstance(end, float)]
    return " to ".join(units.format_significant(end / 1e9) for end in ends)


def _tables(result: Bandwidth) -> Iterator[tuple[str, Table]]:
    for part in result.parts:
        rows = part.transfers
        if part.devices and part.devices[0].kind == "cpu":
            yield from _host_tables(rows)
        elif not any(isinstance(row.peer_access, bool) for row in rows):
            yield from _link_tables(part, result.links)
    peers = [row for part in result.parts for row in part.transfers if isinstance(row.peer_access, bool)]
    if peers:
        yield "between GPUs in GB/s, peer access (P2P) on and off; both ways: at once, their sum", _peer_table(peers)


def _host_tables(rows: Sequence[Transfer]) -> Iterator[tuple[str, Table]]:
    memory, curve = [row for row in rows if not row.warm], [row for row in rows if row.warm]
    if memory:
        table = _table(("where", "threads", "operation", "each array", "GB/s", "interval", "samples"))
        for row in memory:
            table.add_row(row.source, str(row.threads), row.operation, units.format_bytes(row.size_bytes), *_sure(row))
        yield "the host's memory", table
    if curve:
        table = _table(("each array", "GB/s", "interval", "samples"))
        for row in curve:
            table.add_row(units.format_bytes(row.size_bytes), *_sure(row))
        yield f"from cache to memory: one thread copies the same array inside {curve[0].source} again and again", table


def _sure(row: Transfer) -> tuple[str, str, str]:
    return _gb_per_s(row), plus_minus(row.bytes_per_s), str(len(row.timing.seconds))


def _link_tables(part: BandwidthPart, links: Sequence[PciPath]) -> Iterator[tuple[str, Table]]:
    rows = [row for row in part.transfers if isinstance(row.host_memory, str)]
    if rows:
        gpu = next(place for place in (rows[0].source, rows[0].destination) if place != "host")
        names = ("each copy", "pinned to", "from", "both", "pageable to", "from", "both")
        table = _table(names)
        for size in sorted({row.size_bytes for row in rows}):
            cells = [
                _cell(row for row in rows if row.size_bytes == size and row.host_memory == memory and way(row))
                for memory in ("pinned", "pageable")
                for way in (_to_gpu, _from_gpu, _both)
            ]
            table.add_row(units.format_bytes(size), *cells)
        yield f"{gpu} and the host{_link(gpu, links)} in GB/s, one way; both: at once, their sum", table


def _link(gpu: str, links: Sequence[PciPath]) -> str:
    """ " (gen 4 x8)": the slowest link of the way, awake."""
    path = next((path for path in links if path.label == gpu), None)
    hop = next((hop for hop in path.hops if hop.device == path.narrowest_awake), None) if path else None
    if hop is None or isinstance(hop.generation_awake, Absent) or isinstance(hop.width_now_lanes, Absent):
        return ""
    return f" (gen {hop.generation_awake} x{hop.width_now_lanes} awake)"


def _to_gpu(row: Transfer) -> bool:
    return row.source == "host" and not row.both_ways


def _from_gpu(row: Transfer) -> bool:
    return row.destination == "host" and not row.both_ways


def _both(row: Transfer) -> bool:
    return row.both_ways


def _peer_table(rows: Sequence[Transfer]) -> Table:
    """A pair's best rates and its latency, with peer access and without."""
    names = ("pair", "one way, on", "off", "both ways, on", "off", "latency, on", "off")
    table = _table(names)
    for source, destination in dict.fromkeys((row.source, row.destination) for row in rows):
        own = [row for row in rows if (row.source, row.destination) == (source, destination)]
        one_way, both = [row for row in own if not row.both_ways], [row for row in own if row.both_ways]
        large = [[row for row in group if row.size_bytes >= AS_TIME_BELOW] for group in (one_way, both)]
        least = min((row.size_bytes for row in one_way), default=0)
        small = [row for row in one_way if row.size_bytes == least < AS_TIME_BELOW]
        cells = [
            _cell(sorted((row for row in group if row.peer_access is access), key=_rate, reverse=True))
            for group in (*large, small)
            for access in (True, False)
        ]
        table.add_row(f"{source} → {destination}", *cells)
    return table


def _rate(row: Transfer) -> float:
    return row.bytes_per_s.value


def _cell(rows: Iterable[Transfer]) -> str:
    """The first of them: a rate, or a time where it is a small message; marked where it arrived wrong."""
    row = next(iter(rows), None)
    if row is None:
        return NOTHING
    text = units.format_seconds(row.timing.estimate.value) if row.size_bytes < AS_TIME_BELOW else _gb_per_s(row)
    return text if row.check.correct else f"WRONG {text}"


def _gb_per_s(row: Transfer) -> str:
    text = units.format_significant(row.bytes_per_s.value / 1e9)
    return text if row.check.correct else f"WRONG {text}"


def _notes(result: Bandwidth) -> Iterator[str]:
    on_cpu = any(device.kind == "cpu" for part in result.parts for device in part.devices)
    inside = any(row.source == row.destination for part in result.parts for row in part.transfers)
    yield f"{CONVENTION}; {STREAM}" if inside else CONVENTION
    if any(isinstance(item.judgement.expected, Figure) for item in result.judged):
        yield "expected: the share of theory that healthy published rigs reach; A to B is one way, A and B is both ways"
    if not on_cpu and isinstance(result.peers_absent, Absent):
        yield f"no peer copies: {result.peers_absent.reason}"
    for part in result.parts:
        if isinstance(part.host_cpus, str):
            yield f"{part.name}: host memory next to CPUs {part.host_cpus}"
        for line in part.not_run:
            yield f"{part.name}, not run: {line}"


def _table(names: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for index, name in enumerate(names):
        left = name in ("", "where", "pair", "operation", "verdict", "way")
        table.add_column(name, justify="left" if left else "right", no_wrap=index == 0)
    return table
