"""How does the collectives probe look on a screen?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.collectives.record import AlphaBeta, Collective, Collectives, HostLink, OddHost, PairTimes, RankCheck
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Skipped, Tally
from rigbench.core.screen import plus_minus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES = {"fine": "green", "wrong values": "red", "hung": "red", "died": "red", "interrupted": "yellow"}
MOST_ROWS = 12
MOST_WAYS = 4  # lines; of more ranks that differ, only the interfaces are told
NARROW = 100
NOTHING = "–"
LEFT = ("operation", "pair", "from", "to", "host", "right", "rig", "ranks")


def show(result: Collectives | Skipped, console: Console) -> None:
    """The verdict, the way that was taken, hosts and links where there are several, operations, pairs."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"collectives skipped: {result.reason}", style="yellow"))
        return
    heading = Text(f"collectives, {_group(result)}: ", style="bold")
    console.print(heading.append(result.verdict, style=f"bold {STYLES[result.verdict]}"))
    if result.reason:
        console.print(_indented(result.reason, STYLES[result.verdict]))
    for odd in result.odd_hosts:
        console.print(_indented(_odd(result, odd), "bold yellow"))
    if isinstance(result.slowest_link, HostLink):
        console.print(_indented(_slowest(result, result.slowest_link)))
    for line in (_checks(result), *_ways(result)):
        console.print(_indented(line))
    for table, note in _tables(result):
        if console.width < NARROW:
            table.padding = (0, 1, 0, 0)
        console.print()
        console.print(table)
        if note:
            console.print(_indented(note, "dim"))
    for line in _notes(result):
        console.print(_indented(line, "dim"))


def _indented(line: str, style: str = "") -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(line, style=style), (0, 0, 0, 2), expand=False)


def _group(result: Collectives) -> str:
    ranks = f"{result.world_size} rank{'s' if result.world_size > 1 else ''}"
    hosts = f" on {len(result.hosts)} hosts" if len(result.hosts) > 1 else ""
    if isinstance(result.backend, Absent) or not result.ranks:
        return ranks + hosts
    names = [place.device.name for place in result.ranks]
    if result.backend == "gloo":
        return f"{ranks}{hosts}, gloo on cpu ({', '.join(dict.fromkeys(names))})"
    devices = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    return f"{ranks}{hosts}, nccl on cuda ({devices})"


def _all_checks(result: Collectives) -> list[RankCheck]:
    checks = [size.check for one in result.operations for size in one.sizes]
    return checks + [times.check for times in (*result.pairs, *result.pairs_at_once, *result.links)]


def _checks(result: Collectives) -> str:
    checks = _all_checks(result)
    checked, wrong = sum(check.checked for check in checks), sum(check.wrong for check in checks)
    if not checked:
        return "nothing was measured"
    if wrong:
        return f"{wrong:,} of {checked:,} results, compared value by value on each rank, were WRONG"
    return f"{checked:,} results compared value by value on each rank: all right"


def _ways(result: Collectives) -> Iterator[str]:
    """The transport really used; ranks that say the same are told together."""
    told: dict[str, list[int]] = {}
    for place in result.ranks:
        told.setdefault(_way(place.ways, str(result.backend)), []).append(place.rank)
    if len(told) > MOST_WAYS and result.backend == "gloo":
        names = {way.partition(" ")[0] for it in result.ranks if isinstance(it.ways, Tally) for way in it.ways.counts}
        told = {f"TCP over {', '.join(sorted(names))}": []}
    for text, ranks in told.items():
        of = "" if len(told) == 1 else f" of rank {', '.join(map(str, ranks))}"
        yield f"transport{of}: {text}"


def _way(ways: Tally | Absent, backend: str) -> str:
    if isinstance(ways, Absent):
        return f"n/a ({ways.reason})"
    if backend == "gloo":
        return "TCP over " + ", ".join(ways.counts)
    channels = [f"{name} ({count} channel{'s' if count > 1 else ''})" for name, count in ways.counts.items()]
    return f"{', '.join(channels)}, as NCCL's log says"


def _host(result: Collectives, index: int) -> str:
    name = result.hosts[index].name
    same = [host for host in result.hosts if host.name == name]
    label = name if isinstance(name, str) and name else f"host {index}"
    return label if len(same) == 1 else f"{label} (host {index})"


def _odd(result: Collectives, odd: OddHost) -> str:
    best, others = (units.format_bytes_per_s(rate) for rate in (odd.bytes_per_s, odd.others_bytes_per_s))
    return f"odd host out: {_host(result, odd.host)}, {odd.side}: {best} at best, the others {others}"


def _slowest(result: Collectives, link: HostLink) -> str:
    where = f"{_host(result, link.source)} to {_host(result, link.destination)}"
    rate, latency = link.bytes_per_s, link.latency_seconds.value
    told = f"{units.format_bytes_per_s(rate.value)} {plus_minus(rate)}, {units.format_seconds(latency)} latency"
    return f"slowest link: {where}, {told}"


def _tables(result: Collectives) -> Iterator[tuple[Table, str]]:
    """Each with a line about it."""
    if len(result.hosts) > 1:
        yield _hosts_table(result), ""
    if result.host_links:
        slowest = sorted(result.host_links, key=lambda link: link.bytes_per_s.value)
        more = len(slowest) - MOST_ROWS
        yield _links_table(result, slowest[:MOST_ROWS]), f"and {more} faster links" if more > 0 else ""
    if result.operations:
        yield _operations_table(result.operations), _convention(result.operations)
    if result.pairs:
        size = units.format_bytes(result.pairs[0].size_bytes)
        more = len(result.pairs) - MOST_ROWS
        note = f"{size} each way at once, the slower way of each pair"
        yield _pairs_table(result), f"{note}; and {more} faster pairs" if more > 0 else note


def _hosts_table(result: Collectives) -> Table:
    table = _table(("host", "rig", "ranks"))
    for index, host in enumerate(result.hosts):
        table.add_row(_host(result, index), host.fingerprint, ", ".join(map(str, host.ranks)))
    return table


def _links_table(result: Collectives, links: Sequence[HostLink]) -> Table:
    table = _table(("from", "to", "GB/s", "±", "latency"))
    for link in links:
        places = (_host(result, link.source), _host(result, link.destination))
        rate = link.bytes_per_s
        table.add_row(*places, _gigabytes(rate), plus_minus(rate), units.format_seconds(link.latency_seconds.value))
    return table


def _operations_table(operations: Sequence[Collective]) -> Table:
    table = _table(("operation", "latency", "±", "bus GB/s", "±", "α", "±", "β GB/s", "±", "right"))
    for one in operations:
        if not one.sizes:
            table.add_row(one.operation, *[NOTHING, ""] * 4, "not run")
            continue
        wrong = sum(size.check.wrong for size in one.sizes)
        checked = sum(size.check.checked for size in one.sizes)
        alpha, beta = ([NOTHING, ""], [NOTHING, ""]) if isinstance(one.fit, Absent) else _line(one.fit)
        latency, bus = one.sizes[0].timing.estimate, one.sizes[-1].bus_bytes_per_s
        table.add_row(
            one.operation,
            units.format_seconds(latency.value),
            plus_minus(latency),
            *([NOTHING, ""] if isinstance(bus, Absent) else [_gigabytes(bus), plus_minus(bus)]),
            *alpha,
            *beta,
            f"{checked - wrong}/{checked}{' WRONG' if wrong else ''}",
        )
    return table


def _line(fit: AlphaBeta) -> tuple[list[str], list[str]]:
    """α and β; an interval that begins at nothing has no middle worth a ±."""
    latency, rate = fit.latency_seconds, fit.bytes_per_s
    alpha = [units.format_seconds(latency.value), plus_minus(latency)]
    if latency.low == 0:
        alpha = [f"< {units.format_seconds(latency.high)}", ""]
    return alpha, [_gigabytes(rate), plus_minus(rate)]


def _pairs_table(result: Collectives) -> Table:
    """Every pair alone and beside the others, both ways at once; the slowest of many."""
    at_once = {flow: rate for times in result.pairs_at_once for flow, rate in _rates(times)}
    rows = sorted(result.pairs, key=lambda times: min(rate.value for rate in times.bytes_per_s))
    table = _table(("pair", "alone, GB/s each way", "±", "all pairs at once", "±"))
    for times in rows[:MOST_ROWS]:
        (flow, rate), beside = min(_rates(times), key=lambda it: it[1].value), at_once.get(times.flows[0])
        beside = min((it for it in (beside, at_once.get(times.flows[-1])) if it), key=_value, default=None)
        cells = (_gigabytes(beside), plus_minus(beside)) if beside else (NOTHING, "")
        table.add_row(f"ranks {min(flow)} and {max(flow)}", _gigabytes(rate), plus_minus(rate), *cells)
    return table


def _rates(times: PairTimes) -> list[tuple[tuple[int, int], Estimate]]:
    return list(zip(times.flows, times.bytes_per_s, strict=True))


def _value(estimate: Estimate) -> float:
    return estimate.value


def _gigabytes(rate: Estimate) -> str:
    return units.format_significant(rate.value / 1e9)


def _convention(operations: Sequence[Collective]) -> str:
    """What the columns are about: the sizes at either end, and what the words mean."""
    ends = {(one.sizes[0].size_bytes, one.sizes[-1].size_bytes) for one in operations if one.sizes}
    small, large = (sorted({it[end] for it in ends}) for end in (0, 1))
    sizes = f"latency at {_either(small)}, bus bandwidth at {_either(large)}"
    line = "time = α + bytes/β through all sizes"
    return f"{sizes}; {line}; 95 % intervals; a repeat takes as long as its slowest rank; GB/s is 1e9 bytes/s"


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(units.format_bytes, sizes)) if sizes else NOTHING


def _notes(result: Collectives) -> Iterator[str]:
    """What was not measured or does not fit a line; operations of which the same is true are told together."""
    told: dict[str, list[str]] = {}
    for one in result.operations:
        if one.not_run:
            told.setdefault(f"not run: {one.not_run}", []).append(one.operation)
        if isinstance(one.fit, Absent) and one.sizes:
            told.setdefault(f"no line: {one.fit.reason}", []).append(one.operation)
        elif isinstance(one.fit, AlphaBeta) and one.fit.sizes_left_out:
            sizes = ", ".join(map(units.format_bytes, one.fit.sizes_left_out))
            told.setdefault(f"far off the line, as where a protocol changes: {sizes}", []).append(one.operation)
    for line, names in told.items():
        yield f"{', '.join(names)}: {line}"
    for line in result.not_run:
        yield f"not run: {line}"


def _table(names: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for index, name in enumerate(names):
        left = name in LEFT
        table.add_column(name, justify="left" if left else "right", no_wrap=index == 0)
    return table
