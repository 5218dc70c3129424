"""Which of the rates that were measured are what their links should give, and what is the verdict on the whole?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rigbench.bandwidth import bands
from rigbench.bandwidth.record import Bandwidth, Judged, Judgement, Transfer
from rigbench.core.record import Absent
from rigbench.machine.record import GpuPair, PciHop, PciPath

Overall = Literal["fine", "low", "unknown", "wrong data", "hung", "died"]
LEAST_JUDGED_BYTES = 16 << 20  # smaller messages are mostly latency
HOST_MEMORY = "no published figure to hold this host's memory against"
LINK_UNREAD = Absent("the PCIe link was not read")


def judged(result: Bandwidth) -> tuple[Judged, ...]:
    """Every way whose link says what to expect, the host's memory, and a GPU's own."""
    return (*_host_memory(result), *_host_links(result), *_device_memory(result), *_peers(result))


def verdict(result: Bandwidth, found: Iterable[Judged]) -> Overall:
    """The worst there is. A bandwidth never outweighs a byte that arrived wrong."""
    transfers = [transfer for part in result.parts for transfer in part.transfers]
    ended = {part.ended for part in result.parts}
    if not all(transfer.check.correct for transfer in transfers):
        return "wrong data"
    if "hung" in ended:
        return "hung"
    if "died" in ended:
        return "died"
    verdicts = {item.judgement.verdict for item in found}
    return "low" if "low" in verdicts else "fine" if "fine" in verdicts else "unknown"


def _host_memory(result: Bandwidth) -> Iterator[Judged]:
    rows = [row for row in _all(result) if row.clock == "host" and row.source == row.destination and not row.warm]
    if rows:
        best = max(rows, key=lambda row: row.bytes_per_s.value)
        yield _judged("this host's memory", best, bands.unknown(HOST_MEMORY))


def _host_links(result: Bandwidth) -> Iterator[Judged]:
    paths = {path.label: path for path in result.links}
    for way in _ways(row for row in _all(result) if row.host_memory == "pinned" and not row.both_ways):
        row = _best(way)
        gpu = row.destination if row.source == "host" else row.source
        path = paths.get(gpu)
        theory = _trusted(result, path.awake_bytes_per_s if path else LINK_UNREAD)
        unread = path.hops_unknown if path else 0
        yield _judged(
            f"{row.source} to {row.destination}, pinned", row, _held_against(row, theory, bands.HOST_LINK, unread)
        )


def _device_memory(result: Bandwidth) -> Iterator[Judged]:
    rows = [row for row in _all(result) if row.clock == "device" and row.source == row.destination]
    for row in rows:
        peak = result.memory_datasheet.get(row.source, Absent("no datasheet was looked up"))
        theory = peak if isinstance(peak, Absent) else peak.value
        if row.warm:
            theory = Absent("the arrays were too small to rule its cache out")
        yield _judged(f"{row.operation} in {row.source}", row, _held_against(row, theory, bands.DEVICE_MEMORY, 0))


def _peers(result: Bandwidth) -> Iterator[Judged]:
    paths = {path.label: path for path in result.links}
    pairs = {frozenset((f"GPU{pair.one}", f"GPU{pair.other}")): pair for pair in result.pairs}
    for way in _ways(row for row in _all(result) if isinstance(row.peer_access, bool)):
        row = _best(way)
        pair = pairs.get(frozenset((row.source, row.destination)))
        ends = [paths[place] for place in (row.source, row.destination) if place in paths]
        judgement = bands.unknown("the way between the two is not known")
        if pair and len(ends) == 2:
            goes = bands.through(pair.label, row.peer_access is True)
            theory, unread = _pair_theory(result, ends, pair, goes)
            band = bands.peer_band(goes, row.both_ways)
            judgement = _held_against(row, _trusted(result, theory), band, unread)
        arrow = "and" if row.both_ways else "to"
        state = "on" if row.peer_access else "off"
        yield _judged(f"{row.source} {arrow} {row.destination}, P2P {state}", row, judgement)


def _pair_theory(
    result: Bandwidth, ends: Sequence[PciPath], pair: GpuPair, goes: bands.Through
) -> tuple[float | Absent, int]:
    """(bytes per second one way, how many links could not be read).

    Over PCIe it is the slowest link, awake, that the two ways do not share: traffic turns round where they meet. What
    is staged in host memory takes both ways whole.
    """
    if goes == "NVLink":
        capability = next(gpu.compute_capability for gpu in result.gpus if gpu.index == pair.one)
        return bands.nvlink_theory(pair.nvlinks, capability), 0
    asleep = next((path.awake_bytes_per_s for path in ends if isinstance(path.awake_bytes_per_s, Absent)), None)
    if asleep is not None:
        return asleep, 0
    common = set[PciHop]() if goes == "host memory" else set(ends[0].hops) & set(ends[1].hops)
    rates = [hop.awake_bytes_per_s for path in ends for hop in path.hops if hop not in common]
    known = [rate for rate in rates if not isinstance(rate, Absent)]
    return min(known, default=LINK_UNREAD), len(rates) - len(known)


def _trusted(result: Bandwidth, theory: float | Absent) -> float | Absent:
    if isinstance(result.virtual_machine, str):
        return Absent("in a virtual machine the readings of a link cannot be trusted")
    return theory


def _held_against(row: Transfer, theory: float | Absent, band: bands.Band | Absent, unread: int) -> Judgement:
    return bands.judge(
        row.bytes_per_s.value,
        theory,
        band,
        size_bytes=row.size_bytes,
        correct=row.check.correct,
        links_unread=unread,
    )


def _judged(way: str, row: Transfer, judgement: Judgement) -> Judged:
    return Judged(way, row.size_bytes, row.bytes_per_s.value, judgement)


def _all(result: Bandwidth) -> list[Transfer]:
    return [transfer for part in result.parts for transfer in part.transfers]


def _ways(rows: Iterable[Transfer]) -> list[list[Transfer]]:
    """The sizes of each way together, in the order in which the ways were measured first."""
    found: dict[tuple[object, ...], list[Transfer]] = {}
    for row in rows:
        found.setdefault((row.source, row.destination, row.both_ways, row.peer_access), []).append(row)
    return list(found.values())


def _best(rows: Sequence[Transfer]) -> Transfer:
    """The fastest of the large ones; a wrong one before all, since it decides."""
    large = [row for row in rows if row.size_bytes >= LEAST_JUDGED_BYTES] or rows
    return max(large, key=lambda row: (not row.check.correct, row.bytes_per_s.value))
