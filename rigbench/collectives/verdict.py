"""Did the collectives of a group of ranks end well, and was everything right that they brought?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from rigbench.collectives import hosts
from rigbench.collectives.record import Collectives, RankCheck
from rigbench.core import units
from rigbench.core.record import Absent


def judged(
    result: Collectives,
    ended: Literal["finished", "interrupted", "died", "hung"],
    dead_ranks: tuple[int, ...],
    reason: str,
) -> Collectives:
    """The verdict on what the ranks found until they ended so, and what their links say of the hosts."""
    links = hosts.host_links(result.hosts, result.links)
    result = msgspec.structs.replace(
        result,
        host_links=links,
        slowest_link=hosts.slowest(links),
        odd_hosts=hosts.odd_hosts(links),
        dead_ranks=dead_ranks,
    )
    if ended in ("died", "hung"):
        result = msgspec.structs.replace(result, verdict=ended, reason=reason)
        lost, told = hosts.lost(result)
        return msgspec.structs.replace(result, dead_ranks=lost, reason=told) if lost else result
    if wrong := _wrong(result):
        return msgspec.structs.replace(result, verdict="wrong values", reason=wrong[0])
    if ended == "interrupted" or result.ended_by == "interrupted":
        return msgspec.structs.replace(result, verdict="interrupted", reason="stopped before all was measured")
    return result


def faults(result: Collectives) -> list[str]:
    """A line for what hung or died, and for everything that brought wrong values."""
    ended = [f"collectives: {result.reason}"] if result.verdict in ("died", "hung") else []
    return ended + [f"collectives: {line}" for line in _wrong(result)]


def _wrong(result: Collectives) -> list[str]:
    found: list[tuple[str, int, RankCheck]] = [
        (one.operation, it.size_bytes, it.check) for one in result.operations for it in one.sizes
    ]
    for times in (*result.pairs, *result.pairs_at_once, *result.links):
        flows = ", ".join(f"{source} to {destination}" for source, destination in times.flows)
        found.append((f"send_recv between ranks {flows}", times.size_bytes, times.check))
    return [
        f"{what} of {units.format_bytes(size)} brought {check.wrong_values:,} wrong values "
        f"to {_ranks(check.wrong_ranks)}"
        for what, size, check in found
        if not check.correct
    ]


def _ranks(numbers: Sequence[int]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def nothing(count: int, method: int, started_at: str) -> Collectives:
    """Of ranks that ended before anything was measured."""
    return Collectives(
        method=method,
        started_at=started_at,
        seconds=0.0,
        verdict="died",
        reason="",
        backend=Absent("it ended before anything was measured"),
        world_size=count,
        hosts=(),
        ranks=(),
        operations=(),
        pairs=(),
        pairs_at_once=(),
        links=(),
        host_links=(),
        slowest_link=Absent("no link between hosts was measured"),
        odd_hosts=(),
        not_run=(),
        ended_by="worker died",
        dead_ranks=(),
        telemetry=Absent("no sensor was read beside it"),
    )
