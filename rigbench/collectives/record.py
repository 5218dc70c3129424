"""How fast and how soon does every rank of a group have what collectives bring it, is it right, and by which way?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, EndedBy, Record, Tally, Telemetry

CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "send_recv"]
CollectivesVerdict = Literal["fine", "wrong values", "hung", "died", "interrupted"]
NOT_SEVERAL = Absent("one host")


class AlphaBeta(Record, frozen=True):
    """time = α + bytes/β through the sizes of one operation: its latency and its bandwidth (algorithm, not bus).

    `largest_residual_share` is how far any size used lies from the line. `sizes_left_out` lie far off it, as about a
    change of protocol.
    """

    latency_seconds: Estimate
    bytes_per_s: Estimate
    largest_residual_share: float
    sizes_left_out: tuple[int, ...]


class RankCheck(Record, frozen=True):
    """What every rank received, compared by itself with what belongs there: `checked` times, all ranks together.

    `wrong_values` of them (4 bytes each) differed, on `wrong_ranks`.
    """

    checked: int
    wrong: int
    wrong_values: int
    wrong_ranks: tuple[int, ...]

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class CollectiveSize(Record, frozen=True, kw_only=True):
    """One operation at one size. `size_bytes` is what all ranks' parts come to where each has a part of the whole.

    `rank_seconds[r]` are rank r's own times of every repeat, the warm-up first; each repeat begins together.
    `timing` is of the slowest rank of each repeat. Algorithm bandwidth is bytes over time; bus bandwidth is that times
    the operation's factor.
    """

    size_bytes: int
    rank_seconds: tuple[tuple[float, ...], ...]
    timing: Timing
    algorithm_bytes_per_s: Estimate
    bus_bytes_per_s: Estimate | Absent
    check: RankCheck


class Collective(Record, frozen=True, kw_only=True):
    """One operation of the whole group, over sizes.

    `bus_factor` makes bus bandwidth of algorithm bandwidth (nccl-tests, PERFORMANCE.md). `not_run` says why an
    operation, or its larger sizes, were not measured; "" where all were.
    """

    operation: CollectiveName
    bus_factor: float
    in_place: bool
    sizes: tuple[CollectiveSize, ...]
    fit: AlphaBeta | Absent
    not_run: str = ""


class PairTimes(Record, frozen=True, kw_only=True):
    """Ranks that send each other the same bytes, alone or beside others at once; the rest of the group rests.

    `flows` are (source, destination): one of them is one way, two of a pair are both ways at once. `bytes_per_s[i]`
    is what flow i brought, by the slower of its two ranks in each repeat.
    """

    flows: tuple[tuple[int, int], ...]
    size_bytes: int
    rank_seconds: tuple[tuple[float, ...], ...]
    timing: Timing
    bytes_per_s: tuple[Estimate, ...]
    check: RankCheck


class RankPlace(Record, frozen=True, kw_only=True):
    """Where a rank ran, and by which ways it really talked to the others: NCCL's channels by transport, as its log
    names them, or gloo's connections by network interface and addresses.
    """

    rank: int
    local_rank: int
    host: int
    device: Device
    ways: Tally | Absent


class RankHost(Record, frozen=True):
    """A machine of the group. Its name is only there where several must be told apart."""

    name: str | Absent
    fingerprint: str
    ranks: tuple[int, ...]


class HostLink(Record, frozen=True):
    """From one host (by its place in `hosts`) to another: the first rank of each, a large message and a small one."""

    source: int
    destination: int
    bytes_per_s: Estimate
    latency_seconds: Estimate


class OddHost(Record, frozen=True):
    """A host whose best link is still far below those of the others: what it reaches, and the others' median."""

    host: int
    side: Literal["sending", "receiving", "both ways"]
    bytes_per_s: float
    others_bytes_per_s: float


class Collectives(Record, frozen=True, kw_only=True):
    """All of it. `pairs` are single pairs, both ways; `pairs_at_once` all disjoint ones, round by round.

    `links`, `slowest_link` and `odd_hosts` are of several hosts. `dead_ranks` died, hung or never came.
    """

    method: int
    started_at: str
    seconds: float
    verdict: CollectivesVerdict
    reason: str
    backend: Literal["nccl", "gloo"] | Absent
    world_size: int
    hosts: tuple[RankHost, ...]
    ranks: tuple[RankPlace, ...]
    operations: tuple[Collective, ...]
    pairs: tuple[PairTimes, ...]
    pairs_at_once: tuple[PairTimes, ...]
    links: tuple[PairTimes, ...]
    host_links: tuple[HostLink, ...]
    slowest_link: HostLink | Absent
    odd_hosts: tuple[OddHost, ...]
    not_run: tuple[str, ...]
    ended_by: EndedBy
    dead_ranks: tuple[int, ...]
    telemetry: Telemetry | Absent
