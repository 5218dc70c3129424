"""Is a measured bandwidth what such a link gives on healthy rigs: fine, low, or not to be told?

Pure functions of numbers. A band is a range of shares of a theory, and comes from published rigs:
tests/data/published_bandwidth.csv holds each of them with its source.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from rigbench.bandwidth.record import Judgement
from rigbench.core import units
from rigbench.core.record import Absent, Figure

MIB = 1 << 20
# Bytes per second of one NVLink, one way, by the card's compute capability: V100, Turing, A100, GA102 (A40 and 3090),
# Hopper, Blackwell (NVIDIA's datasheets: 150 of 6, 50 of 2, 300 of 12, 56.25 of 4, 450 of 18, 900 of 18 GB/s).
NVLINK_BYTES_PER_S = {"7.0": 25e9, "7.5": 25e9, "8.0": 25e9, "8.6": 14.0625e9, "9.0": 25e9, "10.0": 50e9}

Through = Literal["NVLink", "peer access", "peer access across sockets", "host memory"]


class Band(NamedTuple):
    """Shares of `directions` times the one-way theory.

    `what` reaches `worst` to `best` of it on healthy published rigs; from `fine_from` up is fine, `low_below` is below
    all of them with a margin, and what lies between is neither. Above `at_most` the theory itself must be wrong.
    Messages under `least_bytes` are mostly latency.
    """

    what: str
    low_below: float
    fine_from: float
    worst: float
    best: float
    directions: int = 1
    at_most: float = 1.02
    least_bytes: int = 16 * MIB

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
# The busbw of large collectives. A switch that reduces lets it pass the link's rate: 107 % was published.
BUSBW_NVLINK = Band("busbw over NVLink", 0.45, 0.65, 0.69, 1.07, at_most=1.15, least_bytes=128 * MIB)
BUSBW_PEER = Band("busbw over PCIe with peer access", 0.40, 0.55, 0.60, 0.78, least_bytes=32 * MIB)
BUSBW_STAGED = Band("busbw staged in host memory", 0.12, 0.24, 0.25, 0.56, least_bytes=16 * MIB)


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
    if size_bytes is not None and size_bytes < band.least_bytes:
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
    verdict, reason = _place(share, band, links_unread)
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


def busbw_band(way: Through) -> Band:
    """For the bus bandwidth of large collectives, by what their slowest pair goes through."""
    if way == "NVLink":
        return BUSBW_NVLINK
    return BUSBW_STAGED if way == "host memory" else BUSBW_PEER


def nvlink_theory(links: int, compute_capability: str | Absent) -> float | Absent:
    """Bytes per second one way over that many links."""
    if isinstance(compute_capability, Absent):
        return compute_capability
    if compute_capability not in NVLINK_BYTES_PER_S:
        return Absent(f"no NVLink rate is known for compute capability {compute_capability}")
    return links * NVLINK_BYTES_PER_S[compute_capability]


def _place(share: float, band: Band, links_unread: int) -> tuple[Literal["fine", "low", "unknown"], str]:
    if share > band.at_most:
        return "unknown", "more than there is in theory, so that a reading of the link must be wrong"
    if share >= band.fine_from:
        return "fine", band.basis
    if links_unread:
        return "unknown", f"{links_unread} of the links on the way could not be read: the theory is an upper bound"
    if share < band.low_below:
        return "low", band.basis
    return "unknown", "neither fine nor clearly low"
