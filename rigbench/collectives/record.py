"""What a measurement of collectives is told, and what each rank found: times, values checked, lines, links, ways."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.options import NOT_GIVEN, Option, Reader, seconds, size, whole
from rigbench.core.record import Absent, Device, EndedBy, Record, Tally, Telemetry

METHOD = 2  # 2: on GPUs, all of a repeat is handed over behind a hold
MOST_SIZES = 64
NO_LINK = Absent("no link between hosts was measured")
DEFAULT_SECONDS = {"cpu": 40.0, "cuda": 60.0}
CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "send_recv"]
CollectivesVerdict = Literal["fine", "wrong values", "hung", "died", "interrupted"]
NAMES: tuple[CollectiveName, ...] = get_args(CollectiveName)
BYTES = size(4, 1 << 36, "16MiB is usual on a CPU, 1GiB on GPUs")


def _operations(text: str, option: str) -> tuple[CollectiveName, ...]:
    """ "all_reduce,broadcast", or "all"."""
    words = [word.strip().lower().replace("-", "_") for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in (*NAMES, "all")]
    if unknown or not words:
        what = f"knows no {unknown[0]!r}" if unknown else f"{text!r} names none"
        raise RigbenchError(f"{option} {what}", f"use all, or some of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in words or "all" in words)


def _sizes(text: str, option: str) -> tuple[int, ...]:
    """ "8,64KiB,16MiB" in bytes, in order, each once."""
    sizes = sorted({BYTES.read(word.strip(), option) for word in text.split(",") if word.strip()})
    if not 0 < len(sizes) <= MOST_SIZES:
        raise RigbenchError(f"{option} {text!r} names {len(sizes)} sizes", "some are needed, as in 8,64KiB,16MiB")
    return tuple(sizes)


class Options(Record, frozen=True, kw_only=True):
    ranks: Annotated[
        int | Absent, Option(whole(1, 64), "Default: one for each GPU, without GPUs 2 on the CPU.", "N")
    ] = NOT_GIVEN
    operations: Annotated[
        tuple[CollectiveName, ...],
        Option(
            Reader(_operations, lambda names: "all"),
            f"all, or some of {', '.join(NAMES)}.",
            "all_reduce,broadcast",
            ("--ops",),
        ),
    ] = NAMES
    sizes: Annotated[
        tuple[int, ...], Option(Reader(_sizes), "Default: 8 B to --max-bytes in steps of 4.", "8,64KiB,16MiB")
    ] = ()
    max_bytes: Annotated[int | Absent, Option(BYTES, "The largest. Default: 16MiB on a CPU, 1GiB on GPUs.", "SIZE")] = (
        NOT_GIVEN
    )
    seconds: Annotated[
        float | Absent,
        Option(
            seconds(1.0, 3600.0, "a minute is usual: 60s"),
            "About this long in all. Default: 40s on a CPU, 60s on GPUs.",
            "TIME",
        ),
    ] = NOT_GIVEN
    limit_seconds: Annotated[
        float | Absent,
        Option(
            seconds(5.0, 86400.0, "4 minutes are usual: 240s"),
            "It counts as hung after this. Default: twice --seconds and 3min.",
            "TIME",
            ("--limit",),
        ),
    ] = NOT_GIVEN
    device: str = "auto"  # auto, cpu, or cuda for all GPUs


class RankOptions(Record, frozen=True, kw_only=True):
    options: Options  # of all; what follows is what a rank's own parent knows of its host
    arrive_seconds: float  # for all ranks to meet
    fingerprint: str
    host_name: str = ""  # this and the next where ranks are on several machines
    node: str = ""
    target_half_width: float = 0.01


class AlphaBeta(Record, frozen=True):
    """time = α + bytes/β through the sizes of one operation: its latency and its bandwidth (algorithm, not bus)."""

    latency_seconds: Estimate
    bytes_per_s: Estimate
    sizes_left_out: tuple[int, ...]  # far off the line, as about a change of protocol


class RankCheck(Record, frozen=True):
    """What every rank received, compared by itself with what belongs there."""

    checked: int  # times, all ranks together
    wrong: int
    wrong_values: int  # of 4 bytes each
    wrong_ranks: tuple[int, ...]

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class CollectiveSize(Record, frozen=True, kw_only=True):
    size_bytes: int  # what all ranks' parts come to where each has a part of the whole
    rank_seconds: tuple[tuple[float, ...], ...]  # by rank, of every repeat, the warm-up first; each begins together
    timing: Timing  # of the slowest rank of each repeat
    algorithm_bytes_per_s: Estimate  # bytes over time
    bus_bytes_per_s: Estimate | Absent  # that times the operation's factor
    check: RankCheck


class Collective(Record, frozen=True, kw_only=True):
    operation: CollectiveName
    bus_factor: float  # makes bus bandwidth of algorithm bandwidth (nccl-tests, PERFORMANCE.md)
    sizes: tuple[CollectiveSize, ...]
    fit: AlphaBeta | Absent
    not_run: str = ""  # why it, or its larger sizes, were not measured; "" where all were


class PairTimes(Record, frozen=True, kw_only=True):
    """Ranks that send each other the same bytes, alone or beside others at once; the rest of the group rests."""

    flows: tuple[tuple[int, int], ...]  # (source, destination): one is one way, two of a pair are both ways at once
    size_bytes: int
    rank_seconds: tuple[tuple[float, ...], ...]
    timing: Timing
    bytes_per_s: tuple[Estimate, ...]  # what each flow brought, by the slower of its two ranks in each repeat
    check: RankCheck


class RankPlace(Record, frozen=True, kw_only=True):
    rank: int
    host: int  # by its place in `hosts`
    device: Device
    ways: Tally | Absent  # really taken: NCCL's channels by transport, as its log names them, or gloo's by interface


class RankHost(Record, frozen=True):
    name: str | Absent  # only where several must be told apart
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
    """All of it. Without its operations: of ranks that ended before anything was measured."""

    method: int = METHOD
    seconds: float = 0.0
    verdict: CollectivesVerdict = "fine"
    reason: str = ""
    backend: Literal["nccl", "gloo"] | Absent = Absent("it ended before anything was measured")
    world_size: int
    hosts: tuple[RankHost, ...] = ()
    ranks: tuple[RankPlace, ...] = ()
    operations: tuple[Collective, ...] = ()
    pairs: tuple[PairTimes, ...] = ()  # single pairs, both ways
    pairs_at_once: tuple[PairTimes, ...] = ()  # all disjoint ones, round by round
    links: tuple[PairTimes, ...] = ()  # this and the next three of several hosts
    host_links: tuple[HostLink, ...] = ()
    slowest_link: HostLink | Absent = NO_LINK
    odd_hosts: tuple[OddHost, ...] = ()
    not_run: tuple[str, ...] = ()
    ended_by: EndedBy = "worker died"
    dead_ranks: tuple[int, ...] = ()  # died, hung or never came
    telemetry: Telemetry | Absent = Absent("no sensor was read beside it")
