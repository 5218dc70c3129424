"""Judges how a group's collectives ended, whether all that they brought was right, and which host is slow.

A host is odd if even its best link is far below what the others reach: a single bad link between two good hosts leaves
both of them a good one, to a third. So it takes three hosts to tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from rigbench.collectives.record import NO_LINK, Collectives, HostLink, OddHost, PairTimes, RankCheck, RankHost
from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, cost, finding
from rigbench.core.record import Absent, Tally

ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:\d+")
FAR_BELOW = 0.75  # of the others' median: healthy hosts of one kind differ by a tenth
FEWEST_HOSTS, FEWEST_LINKS = 3, 2


def judged(
    result: Collectives,
    ended: Literal["finished", "interrupted", "died", "hung"],
    dead_ranks: tuple[int, ...],
    reason: str,
) -> Collectives:
    """The verdict on what the ranks found until they ended so, and what their links say of the hosts."""
    links = host_links(result.hosts, result.links)
    hosts = {"host_links": links, "slowest_link": slowest(links), "odd_hosts": odd_hosts(links)}
    result = msgspec.structs.replace(result, dead_ranks=dead_ranks, **hosts)
    if ended in ("died", "hung"):
        result = msgspec.structs.replace(result, verdict=ended, reason=reason)
        ranks, words = lost(result)
        return msgspec.structs.replace(result, dead_ranks=ranks, reason=words) if ranks else result
    if wrong := _wrong(result):
        return msgspec.structs.replace(result, verdict="wrong values", reason=wrong[0])
    if ended == "interrupted" or result.ended_by == "interrupted":
        return msgspec.structs.replace(result, verdict="interrupted", reason="stopped before all was measured")
    return result


def faults(result: Collectives) -> list[str]:
    """A line for what hung or died, and for everything that brought wrong values."""
    ended = [result.reason] if result.verdict in ("died", "hung") else []
    return [f"collectives: {line}" for line in (*ended, *_wrong(result))]


def diagnose(result: Collectives) -> Iterator[Finding]:
    """What hung, died or brought wrong values, and the host that is far slower than the others."""
    if lines := faults(result):
        yield finding("collectives-wrong", "fault", lines, (), "no training on all of them before it is mended")
    for odd in result.odd_hosts:
        name = str(result.hosts[odd.host].name)
        best, others = units.format_bytes_per_s(odd.bytes_per_s), units.format_bytes_per_s(odd.others_bytes_per_s)
        evidence = [f"{name}: {best} {odd.side}, the others {others}"]
        price = cost(
            f"{best} instead of {others}", "bytes/s", odd.bytes_per_s, odd.others_bytes_per_s, "links", "measured"
        )
        yield finding("odd-host", "warning", evidence, [name], price)


def _wrong(result: Collectives) -> list[str]:
    checks: list[tuple[str, int, RankCheck]]
    checks = [(one.operation, it.size_bytes, it.check) for one in result.operations for it in one.sizes]
    for times in (*result.pairs, *result.pairs_at_once, *result.links):
        flows = ", ".join(f"{source} to {destination}" for source, destination in times.flows)
        checks.append((f"send_recv between ranks {flows}", times.size_bytes, times.check))
    wrong = [(f"{what} of {units.format_bytes(size)}", check) for what, size, check in checks if not check.correct]
    return [f"{what} brought {it.wrong_values:,} wrong values to {_ranks(it.wrong_ranks)}" for what, it in wrong]


def lost(result: Collectives) -> tuple[tuple[int, ...], str]:
    """Whose end a failed connection tells of, from the address in gloo's words: ranks, and what to say; (), "" if none.

    "… Read error [10.0.0.2]:6823: Connection reset by peer. This is typically caused by …" (gloo's tcp/pair.cc)
    """
    addresses = set(ADDRESS.findall(result.reason))
    talking = [(place, place.ways.counts) for place in result.ranks if isinstance(place.ways, Tally)]
    places = [place for place, ways in talking if any(way.split()[1] in addresses for way in ways)]
    if not places or len(places) == len(result.ranks):
        return (), ""
    hosts = dict.fromkeys(str(result.hosts[place.host].name) for place in places)
    ranks = tuple(place.rank for place in places)
    words = result.reason.partition(". This is typically")[0]
    return ranks, f"{_ranks(ranks)} on {', '.join(hosts)} was lost: {words}"


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def host_links(hosts: Sequence[RankHost], measured: Sequence[PairTimes]) -> tuple[HostLink, ...]:
    """Each way between two hosts: the rate of its largest message, the time of its smallest."""
    of_rank = {rank: index for index, host in enumerate(hosts) for rank in host.ranks}
    rates: dict[tuple[int, int], dict[int, Estimate]] = {}
    for times in measured:
        for (source, destination), rate in zip(times.flows, times.bytes_per_s, strict=True):
            rates.setdefault((of_rank[source], of_rank[destination]), {}).setdefault(times.size_bytes, rate)
    several = {ends: by_size for ends, by_size in rates.items() if len(by_size) > 1}
    return tuple(HostLink(*ends, it[max(it)], min(it) / it[min(it)]) for ends, it in several.items())


def slowest(links: Sequence[HostLink]) -> HostLink | Absent:
    return min(links, key=lambda link: link.bytes_per_s.value, default=NO_LINK)


def odd_hosts(links: Sequence[HostLink]) -> tuple[OddHost, ...]:
    """Hosts whose best link, sending or receiving, is surely below three quarters of the others' median best.

    Nobody is named before every host was heard of twice on either side: one link alone may be the other's fault.
    """
    hosts = sorted({link.source for link in links} | {link.destination for link in links})
    sent = {it: [link.bytes_per_s for link in links if link.source == it] for it in hosts}
    received = {it: [link.bytes_per_s for link in links if link.destination == it] for it in hosts}
    if len(hosts) < FEWEST_HOSTS or min(map(len, [*sent.values(), *received.values()])) < FEWEST_LINKS:
        return ()
    odd = []
    sides: tuple[tuple[Literal["sending", "receiving"], Mapping[int, Sequence[Estimate]]], ...]
    sides = ("sending", sent), ("receiving", received)
    for host in hosts:
        slow = sorted((*rates, side) for side, links_of in sides if (rates := _far_below(host, links_of)))
        if slow:
            best, others, side = slow[0]
            odd.append(OddHost(host, "both ways" if len(slow) == 2 else side, best, others))
    return tuple(odd)


def _far_below(host: int, rates: Mapping[int, Sequence[Estimate]]) -> tuple[float, float] | None:
    """(its best, the others' median best), where the first is surely far below."""
    best = {it: max(listed, key=lambda rate: rate.value) for it, listed in rates.items()}
    others = stats.median([rate.value for it, rate in best.items() if it != host])
    return (best[host].value, others) if best[host].high < FAR_BELOW * others else None
