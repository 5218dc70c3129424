"""Judges bandwidth: whether each rate is what such a link gives on healthy rigs, and what all of them come to.

A band is a range of shares of a theory, and comes from published rigs: tests/data/published_bandwidth.csv holds each of
them with its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from rigbench.bandwidth.record import MIB, Bandwidth, BandwidthPart, Judged, Judgement, Transfer
from rigbench.core import units
from rigbench.core.finding import Cost, Finding, finding
from rigbench.core.record import Absent, Figure
from rigbench.machine.record import GpuPair, PciHop, PciPath

# Bytes per second of one NVLink, one way, by the card's compute capability: V100, Turing, A100, GA102 (A40 and 3090),
# Hopper, Blackwell (NVIDIA's datasheets: 150 of 6, 50 of 2, 300 of 12, 56.25 of 4, 450 of 18, 900 of 18 GB/s).
NVLINK_BYTES_PER_S = {"7.0": 25e9, "7.5": 25e9, "8.0": 25e9, "8.6": 14.0625e9, "9.0": 25e9, "10.0": 50e9}

Overall = Literal["fine", "low", "unknown", "wrong data", "hung", "died"]
Through = Literal["NVLink", "peer access", "peer access across sockets", "host memory"]
LEAST_JUDGED_BYTES = 16 * MIB  # smaller messages are mostly latency
AT_MOST = 1.02  # of a theory: above, the theory itself must be wrong
LINK_UNREAD, NO_WAY = Absent("the PCIe link was not read"), Absent("the way between the two is not known")


class Band(NamedTuple):
    """Shares of `directions` times the one-way theory.

    `what` reaches `worst` to `best` of it on healthy published rigs; from `fine_from` up is fine, `low_below` is below
    all of them with a margin, and what lies between is neither.
    """

    what: str
    low_below: float
    fine_from: float
    worst: float
    best: float
    directions: int = 1

    @property
    def basis(self) -> str:
        reach = units.format_share(self.best)
        if self.worst < self.best:
            reach = f"{self.worst * 100:.0f} to {reach}"
        return f"{self.what} on healthy published rigs reach {reach}"


HOST_LINK = Band("pinned copies", 0.60, 0.75, 0.75, 0.92)
PEER = Band("copies with peer access", 0.60, 0.75, 0.77, 0.90)
PEER_BOTH_WAYS = Band("copies both ways with peer access", 0.55, 0.70, 0.80, 0.88, directions=2)
ACROSS_SOCKETS = Band("copies with peer access across sockets", 0.40, 0.55, 0.62, 0.62)
STAGED = Band("copies staged in host memory", 0.28, 0.33, 0.36, 0.71)
STAGED_BOTH_WAYS = Band("copies both ways staged in host memory", 0.18, 0.25, 0.26, 0.49, directions=2)
# For copies over NVLink no published rig is at hand; all_reduce, which does more than copy, gives the lower bound.
NVLINK = Band("all_reduce over NVLink", 0.45, 0.65, 0.69, 0.94)
NVLINK_BOTH_WAYS = NVLINK._replace(directions=2)
DEVICE_MEMORY = Band("copies inside a card", 0.65, 0.80, 0.83, 0.91)


def judge(
    bytes_per_s: float,
    theory_bytes_per_s: float | Absent,
    band: Band | Absent,
    *,
    size_bytes: int | None = None,
    correct: bool = True,
    links_unread: int = 0,
) -> Judgement:
    """Hold a rate against a one-way theory. Only data that arrived right can be fine.

    `size_bytes` is the message's, None where it is known to be large; `links_unread` counts links of the way whose
    speed nobody told, which makes the theory an upper bound.
    """
    if not correct:
        return unknown("the data arrived wrong: how fast it came says nothing")
    if isinstance(band, Absent):
        return unknown(band.reason)
    if isinstance(theory_bytes_per_s, Absent):
        return unknown(theory_bytes_per_s.reason)
    if size_bytes is not None and size_bytes < LEAST_JUDGED_BYTES:
        return unknown(f"{units.format_bytes(size_bytes)} is mostly latency")
    theory = theory_bytes_per_s * band.directions
    share = bytes_per_s / theory
    expected = Figure(
        value=(band.worst + band.best) / 2 * theory,
        source="predicted",
        basis=band.basis,
        low=band.fine_from * theory,
        high=band.best * theory,
    )
    verdict: Literal["fine", "low", "unknown"] = "unknown"
    reason = "neither fine nor clearly low"
    if share > AT_MOST:
        reason = "more than there is in theory, so that a reading of the link must be wrong"
    elif share >= band.fine_from:
        verdict, reason = "fine", band.basis
    elif links_unread:
        reason = f"{links_unread} of the links on the way could not be read: the theory is an upper bound"
    elif share < band.low_below:
        verdict, reason = "low", band.basis
    return Judgement(verdict, reason, share, expected)


def unknown(reason: str) -> Judgement:
    return Judgement("unknown", reason, Absent(reason), Absent(reason))


def through(label: str, peer_access: bool) -> Through:
    """What a copy between two GPUs goes through, by their label in the matrix."""
    if not peer_access:
        return "host memory"
    if label.startswith("NV"):
        return "NVLink"
    return "peer access across sockets" if label == "SYS" else "peer access"


def peer_band(way: Through, both_ways: bool) -> Band | Absent:
    """For copies between two GPUs."""
    bands = {
        ("NVLink", False): NVLINK,
        ("NVLink", True): NVLINK_BOTH_WAYS,
        ("peer access", False): PEER,
        ("peer access", True): PEER_BOTH_WAYS,
        ("peer access across sockets", False): ACROSS_SOCKETS,
        ("host memory", False): STAGED,
        ("host memory", True): STAGED_BOTH_WAYS,
    }
    return bands.get((way, both_ways), Absent(f"no published rig to hold {way} both ways against"))


def nvlink_theory(links: int, compute_capability: str | Absent) -> float | Absent:
    """Bytes per second one way over that many links."""
    if isinstance(compute_capability, Absent):
        return compute_capability
    if compute_capability not in NVLINK_BYTES_PER_S:
        return Absent(f"no NVLink rate is known for compute capability {compute_capability}")
    return links * NVLINK_BYTES_PER_S[compute_capability]


def judged(result: Bandwidth) -> tuple[Judged, ...]:
    """Every way whose link says what to expect, the host's memory, and a GPU's own."""
    rows = [transfer for part in result.parts for transfer in part.transfers]
    return (*_host_memory(rows), *_host_links(result, rows), *_device_memory(result, rows), *_peers(result, rows))


def verdict(result: Bandwidth, ways: Iterable[Judged]) -> Overall:
    """The worst there is. A bandwidth never outweighs a byte that arrived wrong."""
    if not all(transfer.check.correct for part in result.parts for transfer in part.transfers):
        return "wrong data"
    ended = {part.ended for part in result.parts}
    if "hung" in ended or "died" in ended:
        return "hung" if "hung" in ended else "died"
    verdicts = {way.judgement.verdict for way in ways}
    return "low" if "low" in verdicts else "fine" if "fine" in verdicts else "unknown"


def wrong(part: BandwidthPart) -> Iterator[str]:
    """A line for every copy that arrived wrong: a fault."""
    for row in part.transfers:
        if not row.check.correct:
            first = row.check.first_wrong_byte
            where = "" if isinstance(first, Absent) else f", the first at byte {first}"
            what = f"{row.operation} from {row.source} to {row.destination}, {units.format_bytes(row.size_bytes)}"
            counts = f"{row.check.wrong} of {row.check.checked} arrived wrong ({row.check.wrong_values} values{where})"
            yield f"bandwidth {what}: {counts}"


def diagnose(result: Bandwidth) -> Iterator[Finding]:
    """What arrived wrong, and each way that is clearly below what such links give on healthy rigs."""
    if lines := [line for part in result.parts for line in wrong(part)]:
        yield finding("copies-wrong", "fault", lines, (), "trust, not speed")
    for way in judged(result):
        expected = way.judgement.expected
        if way.judgement.verdict != "low" or isinstance(expected, Absent):
            continue
        low, most = expected.ends
        rates = [units.format_bytes_per_s(rate) for rate in (way.bytes_per_s, low, most)]
        evidence = [f"{way.way}: {rates[0]} where {rates[1]} to {rates[2]} are expected", way.judgement.reason]
        now = Figure(way.bytes_per_s, "measured", "copies of this run")
        price: Cost | str = Cost(evidence[0], "bytes/s", now, expected)
        if " in " in way.way:
            price = "the card's own memory: what is predicted takes this rate already"
        where = [word for word in way.way.replace(",", "").split() if word.startswith("GPU")]
        yield finding(
            "bandwidth-low", "warning", evidence, ["-".join(where)] if where else (), price, detail=evidence[0]
        )


def replays(part: BandwidthPart) -> Iterator[str]:
    """A counter of repeated packets that rises under load tells of a riser or a seat."""
    for series in () if isinstance(part.telemetry, Absent) else part.telemetry.series:
        counts = series.pcie_replays if isinstance(series.pcie_replays, tuple) else ()
        known = [count for count in counts if isinstance(count, int)]
        if known and known[-1] > known[0]:
            packets = f"{series.device} repeated {known[-1] - known[0]} PCIe packets during {part.name}"
            yield f"{packets}: look at its riser and its seat"


def _host_memory(rows: Sequence[Transfer]) -> Iterator[Judged]:
    inside = [row for row in rows if row.clock == "host" and row.source == row.destination and not row.warm]
    if inside:
        best = max(inside, key=lambda row: row.bytes_per_s.value)
        why = unknown("no published figure to hold this host's memory against")
        yield Judged("this host's memory", best.size_bytes, best.bytes_per_s.value, why)


def _host_links(result: Bandwidth, rows: Sequence[Transfer]) -> Iterator[Judged]:
    paths = {path.label: path for path in result.links}
    for way in _ways(row for row in rows if row.host_memory == "pinned" and not row.both_ways):
        row = _best(way)
        path = paths.get(row.destination if row.source == "host" else row.source)
        theory = _trusted(result, path.awake_bytes_per_s if path else LINK_UNREAD)
        name, unread = f"{row.source} to {row.destination}, pinned", path.hops_unknown if path else 0
        yield _held_against(name, row, theory, HOST_LINK, unread)


def _device_memory(result: Bandwidth, rows: Sequence[Transfer]) -> Iterator[Judged]:
    for row in (row for row in rows if row.clock == "device" and row.source == row.destination):
        peak = result.memory_datasheet.get(row.source, Absent("no datasheet was looked up"))
        theory = peak if isinstance(peak, Absent) else peak.value
        if row.warm:
            theory = Absent("the arrays were too small to rule its cache out")
        yield _held_against(f"{row.operation} in {row.source}", row, theory, DEVICE_MEMORY, 0)


def _peers(result: Bandwidth, rows: Sequence[Transfer]) -> Iterator[Judged]:
    paths = {path.label: path for path in result.links}
    pairs = {frozenset((f"GPU{pair.one}", f"GPU{pair.other}")): pair for pair in result.pairs}
    for way in _ways(row for row in rows if isinstance(row.peer_access, bool)):
        row = _best(way)
        pair = pairs.get(frozenset((row.source, row.destination)))
        ends = [paths[place] for place in (row.source, row.destination) if place in paths]
        arrow, state = "and" if row.both_ways else "to", "on" if row.peer_access else "off"
        name = f"{row.source} {arrow} {row.destination}, P2P {state}"
        theory: float | Absent = NO_WAY
        band: Band | Absent = NO_WAY
        unread = 0
        if pair and len(ends) == 2:
            goes = through(pair.label, row.peer_access is True)
            theory, unread = _pair_theory(result, ends, pair, goes)
            theory, band = _trusted(result, theory), peer_band(goes, row.both_ways)
        yield _held_against(name, row, theory, band, unread)


def _pair_theory(
    result: Bandwidth, ends: Sequence[PciPath], pair: GpuPair, goes: Through
) -> tuple[float | Absent, int]:
    """(bytes per second one way, how many links could not be read).

    Over PCIe it is the slowest link, awake, that the two ways do not share: traffic turns round where they meet. What
    is staged in host memory takes both ways whole.
    """
    if goes == "NVLink":
        capability = next(gpu.compute_capability for gpu in result.gpus if gpu.index == pair.one)
        return nvlink_theory(pair.nvlinks, capability), 0
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


def _held_against(way: str, row: Transfer, theory: float | Absent, band: Band | Absent, unread: int) -> Judged:
    rate, size, correct = row.bytes_per_s.value, row.size_bytes, row.check.correct
    return Judged(way, size, rate, judge(rate, theory, band, size_bytes=size, correct=correct, links_unread=unread))


def _ways(rows: Iterable[Transfer]) -> list[list[Transfer]]:
    """The sizes of each way together, in the order in which the ways were measured first."""
    ways: dict[tuple[object, ...], list[Transfer]] = {}
    for row in rows:
        ways.setdefault((row.source, row.destination, row.both_ways, row.peer_access), []).append(row)
    return list(ways.values())


def _best(rows: Sequence[Transfer]) -> Transfer:
    """The fastest of the large ones; a wrong one before all, since it decides."""
    large = [row for row in rows if row.size_bytes >= LEAST_JUDGED_BYTES] or rows
    return max(large, key=lambda row: (not row.check.correct, row.bytes_per_s.value))
