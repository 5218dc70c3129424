"""Shows collectives: the verdict, the way that was taken, links between hosts, operations and pairs of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from rigbench.collectives.record import AlphaBeta, Collective, Collectives, HostLink, PairTimes, RankCheck
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Tally
from rigbench.core.screen import (
    Columns,
    Headline,
    closing,
    grid,
    headline,
    listed,
    marked,
    printable,
    span,
    span_cells,
    table,
)

STYLES = {"fine": "green", "wrong values": "red", "hung": "red", "died": "red", "interrupted": "yellow"}
MOST_ROWS = 12
MOST_WAYS = 4  # lines; of more ranks that differ, only the interfaces are told
NOTHING, ENDS = "–", ">90 % interval"


def verdict(result: Collectives) -> Headline:
    """How it ended, and how fast the first operation is: its bus bandwidth, or the time of its smallest message."""
    if result.verdict in ("wrong values", "hung", "died"):
        return "fault", f"{result.verdict}: {result.reason}"
    if result.verdict == "interrupted" or not any(one.sizes for one in result.operations):
        return "warn", f"{result.reason or 'nothing was measured'}"
    first = next(one for one in result.operations if one.sizes)
    rate = first.sizes[-1].bus_bytes_per_s
    size = units.format_bytes(first.sizes[-1].size_bytes)
    text = f"{first.operation} {span(first.sizes[0].timing.estimate, 'seconds')}"
    if not isinstance(rate, Absent):
        text = f"{first.operation} {span(rate, 'bytes/s')} at {size}"
    text += f" between {_members(result)}"
    if result.odd_hosts:
        odd = result.odd_hosts[0]
        best, others = (units.format_bytes_per_s(it) for it in (odd.bytes_per_s, odd.others_bytes_per_s))
        return "warn", f"{_host(result, odd.host)} is slow {odd.side}: {best} at best, the other hosts {others}; {text}"
    return "ok", text


def _members(result: Collectives) -> str:
    """ "4 GPUs", "2 processes on the CPU", "3 ranks on 3 hosts"."""
    if len(result.hosts) > 1:
        return f"{result.world_size} ranks on {len(result.hosts)} hosts"
    kind = "GPU" if result.backend == "nccl" else "process"
    plural = "" if result.world_size == 1 else "s" if kind == "GPU" else "es"
    return f"{result.world_size} {kind}{plural}{'' if kind == 'GPU' else ' on the CPU'}"


def brief(result: Collectives, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("collectives", verdict(result), console)
    if result.operations:
        rows = [(*cells[:5], cells[-1]) for cells in (_operation(one) for one in result.operations)]
        headings = ("operation", ">latency", ENDS, ">bus GB/s", ENDS, ">correct")
        console.print(table(headings, rows))
    if quiet:
        return
    marked(_odd(result), console)
    console.print(grid(_facts(result)))
    sizes = f"{_sizes(result.operations)}; " if result.operations else ""
    closing(
        f"{sizes}{_checks(result)}",
        f"rigbench report {run_id} collectives has the line through all sizes, and every pair",
        console,
    )


def _odd(result: Collectives) -> Iterator[Headline]:
    for odd in result.odd_hosts[1:]:
        best, others = (units.format_bytes_per_s(rate) for rate in (odd.bytes_per_s, odd.others_bytes_per_s))
        yield "warn", f"{_host(result, odd.host)} is slow {odd.side}: {best} at best, the other hosts {others}"
    reasons: dict[str, list[str]] = {}
    for one in result.operations:
        if one.not_run:
            reasons.setdefault(one.not_run, []).append(one.operation)
    yield from (("note", f"not run: {listed(names)}: {why}") for why, names in reasons.items())
    yield from (("note", f"not run: {line}") for line in result.not_run)


def _facts(result: Collectives) -> Iterator[tuple[str, str]]:
    """The transport, and the slowest of several links or pairs."""
    for place, way in enumerate(list(_ways(result))[:MOST_WAYS]):
        yield "" if place else "over", way.removeprefix("transport: ").removeprefix("transport ")
    if isinstance(result.slowest_link, HostLink):
        yield "slowest", _slowest_link(result, result.slowest_link)
    if len(result.pairs) > 1:
        ends = [
            (min(it.bytes_per_s, key=lambda rate: rate.value), min(it.flows[0]), max(it.flows[0]))
            for it in result.pairs
        ]
        rate, one, other = min(ends, key=lambda it: it[0].value)
        best = max(it[0].value for it in ends)
        text = f"ranks {one} and {other} alone: {span(rate, 'bytes/s')} each way at once"
        yield "slowest", f"{text}; the fastest pair {units.format_bytes_per_s(best)}"


def _slowest_link(result: Collectives, link: HostLink) -> str:
    where = f"{_host(result, link.source)} to {_host(result, link.destination)}"
    return f"{where}, {span(link.bytes_per_s, 'bytes/s')}, {span(link.latency_seconds, 'seconds')} latency"


def show(result: Collectives, console: Console) -> None:
    def line(text: str, style: str = "") -> None:
        console.print(Padding(Text(printable(text), style=style), (0, 0, 0, 2), expand=False))

    heading = Text(f"collectives, {_group(result)}: ", style="bold")
    console.print(heading.append(result.verdict, style=f"bold {STYLES[result.verdict]}"))
    if result.reason:
        line(result.reason, STYLES[result.verdict])
    for odd in result.odd_hosts:
        best, others = (units.format_bytes_per_s(rate) for rate in (odd.bytes_per_s, odd.others_bytes_per_s))
        line(f"odd host out: {_host(result, odd.host)}, {odd.side}: {best} at best, the others {others}", "bold yellow")
    if isinstance(result.slowest_link, HostLink):
        line(f"slowest link: {_slowest_link(result, result.slowest_link)}")
    line(_checks(result))
    for way in _ways(result):
        line(way)
    for made, note in _tables(result):
        console.print()
        console.print(made)
        if note:
            line(note, "dim")
    for note in _notes(result):
        line(note, "dim")


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


def _host(result: Collectives, index: int) -> str:
    name = result.hosts[index].name
    label = name if isinstance(name, str) and name else f"host {index}"
    return label if [host.name for host in result.hosts].count(name) == 1 else f"{label} (host {index})"


def _checks(result: Collectives) -> str:
    checks: list[RankCheck] = [size.check for one in result.operations for size in one.sizes]
    checks += [times.check for times in (*result.pairs, *result.pairs_at_once, *result.links)]
    checked, wrong = sum(check.checked for check in checks), sum(check.wrong for check in checks)
    if not checked:
        return "nothing was measured"
    if wrong:
        return f"{wrong:,} of {checked:,} results, compared value by value on each rank, were WRONG"
    return f"{checked:,} results compared value by value on each rank: all right"


def _ways(result: Collectives) -> Iterator[str]:
    """The transport really used; ranks that say the same are told together."""
    ranks: dict[str, list[int]] = {}
    for place in result.ranks:
        ranks.setdefault(_way(place.ways, result.backend == "gloo"), []).append(place.rank)
    if len(ranks) > MOST_WAYS and result.backend == "gloo":
        names = {way.partition(" ")[0] for it in result.ranks if isinstance(it.ways, Tally) for way in it.ways.counts}
        ranks = {f"TCP over {', '.join(sorted(names))}": []}
    for text, alike in ranks.items():
        of = "" if len(ranks) == 1 else f" of rank {', '.join(map(str, alike))}"
        yield f"transport{of}: {text}"


def _way(ways: Tally | Absent, gloo: bool) -> str:
    if isinstance(ways, Absent):
        return f"n/a ({ways.reason})"
    if gloo:
        return "TCP over " + ", ".join(ways.counts)
    channels = [f"{name} ({count} channel{'s' if count > 1 else ''})" for name, count in ways.counts.items()]
    return f"{', '.join(channels)}, as NCCL's log says"


def _tables(result: Collectives) -> Iterator[tuple[Columns, str]]:
    """Each with a line about it."""
    if len(result.hosts) > 1:
        hosts = enumerate(result.hosts)
        rows = [(_host(result, index), host.fingerprint, ", ".join(map(str, host.ranks))) for index, host in hosts]
        yield table(("host", "rig", "ranks"), rows), ""
    if result.host_links:
        links, cells = sorted(result.host_links, key=lambda link: link.bytes_per_s.value), list[Sequence[str]]()
        for link in links[:MOST_ROWS]:
            ends = _host(result, link.source), _host(result, link.destination)
            cells.append((*ends, *_rate(link.bytes_per_s), units.format_seconds(link.latency_seconds.value)))
        more = len(links) - MOST_ROWS
        note = f"and {more} faster links" if more > 0 else ""
        yield table(("from", "to", ">GB/s", ENDS, ">latency"), cells), note
    if result.operations:
        columns = ("operation", ">latency", ENDS, ">bus GB/s", ENDS, ">α", ENDS, ">β GB/s", ENDS, ">correct")
        yield table(columns, map(_operation, result.operations)), _convention(result.operations)
    if result.pairs:
        slowest = sorted(result.pairs, key=lambda times: min(rate.value for rate in times.bytes_per_s))
        more = len(slowest) - MOST_ROWS
        size = units.format_bytes(result.pairs[0].size_bytes)
        note = f"{size} each way at once, the slower way of each pair" + f"; and {more} faster pairs" * (more > 0)
        heads = ("pair", ">alone, GB/s each way", ENDS, ">all pairs at once", ENDS)
        yield table(heads, _pairs(result, slowest[:MOST_ROWS])), note


def _operation(one: Collective) -> Sequence[str]:
    if not one.sizes:
        return (one.operation, *[NOTHING, ""] * 4, "not run")
    wrong, checked = sum(size.check.wrong for size in one.sizes), sum(size.check.checked for size in one.sizes)
    latency, bus = one.sizes[0].timing.estimate, one.sizes[-1].bus_bytes_per_s
    alpha, beta = [NOTHING, ""], [NOTHING, ""]
    if isinstance(one.fit, AlphaBeta):
        alpha, beta = _time(one.fit.latency_seconds), _rate(one.fit.bytes_per_s)
        if one.fit.latency_seconds.low == 0:  # an interval that begins at nothing has no middle worth a ±
            alpha = [f"< {units.format_seconds(one.fit.latency_seconds.high)}", ""]
    return (
        one.operation,
        *_time(latency),
        *([NOTHING, ""] if isinstance(bus, Absent) else _rate(bus)),
        *alpha,
        *beta,
        f"{checked - wrong}/{checked}{' WRONG' if wrong else ''}",
    )


def _time(estimate: Estimate) -> list[str]:
    middle, _, unit = units.span_parts(estimate.value, estimate.low, estimate.high, "seconds")
    if not estimate.has_middle or estimate.level == 0:
        return [span(estimate, "seconds"), ""]
    return [f"{middle} {unit}", units.span_parts(estimate.value, estimate.low, estimate.high, "seconds")[1]]


def _rate(estimate: Estimate) -> list[str]:
    return list(span_cells(estimate / 1e9, "GB/s"))


def _pairs(result: Collectives, pairs: Iterable[PairTimes]) -> Iterator[Sequence[str]]:
    """Each alone and beside the others, both ways at once."""
    beside = dict[tuple[int, int], Estimate]()
    for times in result.pairs_at_once:
        beside |= dict(zip(times.flows, times.bytes_per_s, strict=True))
    for times in pairs:
        slower = min(times.bytes_per_s, key=lambda rate: rate.value)
        at_once = [beside[flow] for flow in (times.flows[0], times.flows[-1]) if flow in beside]
        cells = _rate(min(at_once, key=lambda rate: rate.value)) if at_once else (NOTHING, "")
        yield f"ranks {min(times.flows[0])} and {max(times.flows[0])}", *_rate(slower), *cells


def _convention(operations: Sequence[Collective]) -> str:
    """What the columns are about, and what the words mean."""
    line = "time = α + bytes/β through all sizes"
    return f"{_sizes(operations)}; {line}; a repeat takes as long as its slowest rank; GB/s is 1e9 bytes/s"


def _sizes(operations: Sequence[Collective]) -> str:
    """At either end."""
    ends = [(one.sizes[0].size_bytes, one.sizes[-1].size_bytes) for one in operations if one.sizes]
    small, large = (" or ".join(map(units.format_bytes, sorted({it[end] for it in ends}))) for end in (0, 1))
    return f"latency at {small or NOTHING}, bus bandwidth at {large or NOTHING}"


def _notes(result: Collectives) -> Iterator[str]:
    """What was not measured or does not fit a line; operations of which the same is true are told together."""
    names: dict[str, list[str]] = {}
    for one in result.operations:
        if one.not_run:
            names.setdefault(f"not run: {one.not_run}", []).append(one.operation)
        if isinstance(one.fit, Absent) and one.sizes:
            names.setdefault(f"no line: {one.fit.reason}", []).append(one.operation)
        elif isinstance(one.fit, AlphaBeta) and one.fit.sizes_left_out:
            sizes = ", ".join(map(units.format_bytes, one.fit.sizes_left_out))
            names.setdefault(f"far off the line, as where a protocol changes: {sizes}", []).append(one.operation)
    for text, alike in names.items():
        yield f"{', '.join(alike)}: {text}"
    for text in result.not_run:
        yield f"not run: {text}"
