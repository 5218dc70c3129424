"""Which link between hosts is the slowest, and is one host to blame for it?

A host is odd if even its best link is far below what the others reach: a single bad link between two good hosts leaves
both of them a good one, to a third. So it takes three hosts to tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from rigbench.collectives.record import Collectives, HostLink, OddHost, PairTimes, RankHost
from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Tally

ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:\d+")
FAR_BELOW = 0.75  # of the others' median: healthy hosts of one kind differ by a tenth
FEWEST_HOSTS, FEWEST_LINKS = 3, 2
Side = Literal["sending", "receiving", "both ways"]


def host_links(hosts: Sequence[RankHost], measured: Sequence[PairTimes]) -> tuple[HostLink, ...]:
    """Each way between two hosts: the rate of its largest message, the time of its smallest."""
    of_rank = {rank: index for index, host in enumerate(hosts) for rank in host.ranks}
    found: dict[tuple[int, int], list[tuple[int, Estimate]]] = {}
    for times in measured:
        for (source, destination), rate in zip(times.flows, times.bytes_per_s, strict=True):
            found.setdefault((of_rank[source], of_rank[destination]), []).append((times.size_bytes, rate))
    links = []
    for (source, destination), own in found.items():
        (small, small_rate), (large, large_rate) = min(own, key=_size), max(own, key=_size)
        if small < large:
            links.append(HostLink(source, destination, large_rate, _seconds(small, small_rate)))
    return tuple(links)


def _size(measured: tuple[int, Estimate]) -> int:
    return measured[0]


def _seconds(size_bytes: int, rate: Estimate) -> Estimate:
    low, high = size_bytes / rate.high, size_bytes / rate.low
    return Estimate(size_bytes / rate.value, low, high, rate.level, rate.method, rate.n)


def lost(result: Collectives) -> tuple[tuple[int, ...], str]:
    """Whose end a failed connection tells of, from the address in gloo's words: ranks, and what to say; (), "" if none.

    "… Read error [10.0.0.2]:6823: Connection reset by peer. This is typically caused by …" (gloo's tcp/pair.cc)
    """
    addresses = set(ADDRESS.findall(result.reason))
    found = [
        place
        for place in result.ranks
        if isinstance(place.ways, Tally) and any(way.split()[1] in addresses for way in place.ways.counts)
    ]
    if not found or len(found) == len(result.ranks):
        return (), ""
    names = dict.fromkeys(str(result.hosts[place.host].name) for place in found)
    ranks = tuple(place.rank for place in found)
    who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} on {', '.join(names)}"
    return ranks, f"{who} was lost: {result.reason.partition('. This is typically')[0]}"


def slowest(links: Sequence[HostLink]) -> HostLink | Absent:
    return (
        min(links, key=lambda link: link.bytes_per_s.value) if links else Absent("no link between hosts was measured")
    )


def odd_hosts(links: Sequence[HostLink]) -> tuple[OddHost, ...]:
    """Hosts whose best link, sending or receiving, is surely below three quarters of the others' median best.

    Nobody is named before every host was heard of twice on either side: one link alone may be the other's fault.
    """
    hosts = sorted({link.source for link in links} | {link.destination for link in links})
    sent = {it: [link.bytes_per_s for link in links if link.source == it] for it in hosts}
    received = {it: [link.bytes_per_s for link in links if link.destination == it] for it in hosts}
    if len(hosts) < FEWEST_HOSTS or min(map(len, [*sent.values(), *received.values()])) < FEWEST_LINKS:
        return ()
    found = []
    for host in hosts:
        judged: list[tuple[tuple[float, float] | None, Side]] = [
            (_far_below(host, sent), "sending"),
            (_far_below(host, received), "receiving"),
        ]
        slow = [(rates, side) for rates, side in judged if rates]
        if slow:
            (best, others), side = min(slow)
            found.append(OddHost(host, "both ways" if len(slow) == 2 else side, best, others))
    return tuple(found)


def _best(rates: Sequence[Estimate]) -> Estimate:
    return max(rates, key=lambda rate: rate.value)


def _far_below(host: int, rates: Mapping[int, Sequence[Estimate]]) -> tuple[float, float] | None:
    """(its best, the others' median best), where the first is surely far below."""
    own = _best(rates[host])
    others = stats.median([_best(listed).value for it, listed in rates.items() if it != host])
    return (own.value, others) if own.high < FAR_BELOW * others else None
