"""How fast, how soon and how rightly do collectives bring every rank of a group what it needs, and by which way?"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from rigbench import stats
from rigbench.errors import NOTHING, RigbenchError
from rigbench.hardware import host, nccl_log, sockets
from rigbench.hardware.accelerator import Accelerator, cuda_devices, open_accelerator
from rigbench.hardware.sysfs import Sysfs
from rigbench.measure import collective_ops as ops
from rigbench.measure.alphabeta import fit
from rigbench.measure.ceilings import inverse
from rigbench.measure.collective_ops import Flows, Operation
from rigbench.measure.ranks import ARRIVE_SECONDS, World, join
from rigbench.measure.together import Times, Together, both
from rigbench.measure.workers import Report
from rigbench.records import (
    Absent,
    AlphaBeta,
    Collective,
    CollectiveName,
    Collectives,
    CollectiveSize,
    EndedBy,
    PairTimes,
    RankHost,
    RankPlace,
    Record,
    Tally,
)
from rigbench.store import now
from rigbench.units import format_bytes

METHOD = 1
SECONDS = {"cpu": 40.0, "cuda": 60.0}
LARGEST = {"cpu": 16 << 20, "cuda": 1 << 30}
PAIR_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
SMALLEST = 8
MOST_HOSTS_ALONE, LINK_ROUNDS = 6, 4
BUFFERS = 6  # of the largest size, that a check holds at once
PAIRS_SHARE, LINKS_SHARE = 0.25, 0.15  # of the time, where there are any
LEAST_ROW_SECONDS, LEAST_FLOW_SECONDS, MOST_ROW_SECONDS = 0.1, 0.3, 2.0
TIMES_A_ROW = 4  # how often a size is made at least: checked twice, warm-up, one sample
OVERRUN_SHARE = 0.25  # of an operation's time, by which its largest size may pass it
PARTIAL_EVERY_SECONDS = 1.0
DEPUTIES = 2  # ranks that hand over the record on the way: all have the same, and the first may be the one that dies
SEVERAL_ON_ONE_GPU = "NCCL_MULTI_RANK_GPU_ENABLE"  # of NCCL 2.30 and later
NOT_SUPPORTED = ("not support", "not implemented", "unsupported")
NO_FIT = Absent("too few sizes were measured")
NOT_JUDGED = Absent("hosts are compared by the parent")
B = TypeVar("B")


class Options(Record, frozen=True):
    """The same for every rank, but for what its own parent knows of its host: `host_name`, `fingerprint`, `node`.

    Empty or 0: the device's default. `seconds` is for everything together, `arrive_seconds` for all ranks to meet.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    operations: tuple[CollectiveName, ...] = ops.NAMES
    sizes: tuple[int, ...] = ()
    largest_bytes: int = 0
    seconds: float = 0.0
    arrive_seconds: float = ARRIVE_SECONDS
    target_half_width: float = 0.01
    host_name: str = ""
    fingerprint: str = ""
    node: str = ""


def run(options: Options, report: Report, world: World) -> Collectives:
    """One rank's part. Every rank comes to the same record, of all of them.

    Raises:
        RigbenchError: there is no GPU for this rank, though GPUs were asked for.
    """
    probe = _Probe(options, report, world)
    for piece in (probe.links, probe.operate, probe.pair_up):
        piece()
        if probe.together.stopping:
            return probe.record("interrupted")
    probe.find_ways()
    return probe.record("finished")


class _Probe:
    """One rank of a run: its device, its place among the others, and what all of them measured so far."""

    def __init__(self, options: Options, report: Report, world: World) -> None:
        self.started_at, self.started = now(), time.perf_counter()
        report.progress(0.0, "loading torch")
        import torch
        import torch.distributed as dist

        self.options, self.report, self.world = options, report, world
        kind = _kind(options, world)
        word = {"kind": kind, "host": options.host_name, "node": options.node, "fingerprint": options.fingerprint}
        self.words = [json.loads(it) for it in join(world, report, "gloo", options.arrive_seconds, json.dumps(word))]
        self.not_run: list[str] = []
        self.kind = self._common_kind()
        torch.manual_seed(world.rank)
        self.accelerator = _opened(self.kind, world)
        self.group = dist.new_group(backend="nccl") if self.kind == "cuda" else None
        self.together = Together(self.accelerator, report, self.group)
        self.seconds = options.seconds or SECONDS[self.kind]
        self.hosts = self._hosts()
        self.places = self._places(Absent("not looked at yet"))
        self.sizes = self._sizes()
        self.operations: list[Collective] = []
        self.single: list[PairTimes] = []
        self.at_once: list[PairTimes] = []
        self.between_hosts: list[PairTimes] = []
        self._handed_over = 0.0

    def record(self, ended_by: EndedBy) -> Collectives:
        return Collectives(
            method=METHOD,
            started_at=self.started_at,
            seconds=time.perf_counter() - self.started,
            verdict="fine",
            reason="",
            backend="nccl" if self.kind == "cuda" else "gloo",
            world_size=self.world.size,
            hosts=self.hosts,
            ranks=self.places,
            operations=tuple(self.operations),
            pairs=tuple(self.single),
            pairs_at_once=tuple(self.at_once),
            links=tuple(self.between_hosts),
            host_links=(),
            slowest_link=NOT_JUDGED,
            odd_hosts=(),
            not_run=tuple(self.not_run),
            ended_by=ended_by,
            dead_ranks=(),
            telemetry=Absent("no sensor was read beside this probe"),
        )

    def _hand_over(self, at_once: bool = False) -> None:
        due = at_once or self.together.elapsed_seconds > self._handed_over + PARTIAL_EVERY_SECONDS
        if due and self.world.rank < DEPUTIES:
            self._handed_over = self.together.elapsed_seconds
            self.report.partial(self.record("worker died"))

    def _announce(self, text: str) -> None:
        """Before it is made: a rank that comes no further is known by what it announced last."""
        self.report.progress(self.together.elapsed_seconds / self.seconds, text)

    def _common_kind(self) -> Literal["cpu", "cuda"]:
        """GPUs where every rank has one; where only some have, all of them meet on the CPU."""
        without = [rank for rank, word in enumerate(self.words) if word["kind"] == "cpu"]
        if without and len(without) < len(self.words):
            self.not_run.append(f"GPUs: rank {without[0]} has none, so that all ranks were measured on the CPU")
        return "cpu" if without else "cuda"

    def _hosts(self) -> tuple[RankHost, ...]:
        """Hosts in the order of their first ranks: those of one node number and name."""
        keys = [(word["node"], word["host"], word["fingerprint"]) for word in self.words]
        names = {key: [rank for rank, it in enumerate(keys) if it == key] for key in keys}
        one = Absent("there is only one")
        return tuple(
            RankHost(name if len(names) > 1 else one, fingerprint, tuple(ranks))
            for (_, name, fingerprint), ranks in names.items()
        )

    def _places(self, ways: Tally | Absent) -> tuple[RankPlace, ...]:
        """Every rank's device and ways, told by each to all."""
        import torch.distributed as dist

        of_host = {rank: index for index, it in enumerate(self.hosts) for rank in it.ranks}
        own = RankPlace(
            rank=self.world.rank,
            local_rank=self.world.local_rank,
            host=of_host[self.world.rank],
            device=self.accelerator.device,
            ways=ways,
        )
        told: list[Any] = [None] * self.world.size
        dist.all_gather_object(told, msgspec.json.encode(own))
        return tuple(msgspec.json.decode(it, type=RankPlace) for it in told)

    def find_ways(self) -> None:
        """What the connections, or NCCL's log, tell of the ways that were taken."""
        log = Path(os.environ.get("NCCL_DEBUG_FILE", ""))
        if self.kind == "cpu":
            self.places = self._places(sockets.peers(self.world.master_port))
            return
        found = nccl_log.transports(log.read_text(errors="replace")) if log.is_file() else {}
        self.places = self._places(Tally(found) if found else Absent("NCCL's log names no channel"))

    def _sizes(self) -> tuple[int, ...]:
        """What was asked for, or 8 B to the most that fits on every rank; the largest in pairs comes of it too."""
        wanted = self.options.largest_bytes or max((*self.options.sizes, 0)) or LARGEST[self.kind]
        own = _free_bytes(self.accelerator) // BUFFERS
        if self.kind == "cpu":
            own //= len(self.hosts[self.places[self.world.rank].host].ranks)
        fits = min(row[0] for row in self.together.exchange([float(own)]))
        if fits < wanted:
            self.not_run.append(f"sizes above {format_bytes(fits)}: no memory for their buffers")
        largest = int(min(wanted, fits))
        of_pairs = min(fits, PAIR_BYTES[self.kind], self.options.largest_bytes or PAIR_BYTES[self.kind])
        self.pair_bytes = ops.whole([int(of_pairs)], 1)[0]
        if self.options.sizes:
            return ops.whole([size for size in self.options.sizes if size <= largest], self.world.size)
        return ops.sizes(min(SMALLEST, largest), largest, self.world.size)

    def links(self) -> None:
        """Between hosts, from the first rank of each, one way, a small message and a large.

        One link at a time; of more than a few hosts all send at once, each to one other, in rounds.
        """
        firsts = [it.ranks[0] for it in self.hosts]
        rounds = [[pair] for pair in itertools.permutations(firsts, 2)]
        if len(firsts) > MOST_HOSTS_ALONE:
            shifts = range(1, 1 + LINK_ROUNDS)
            rounds = [[(it, firsts[(at + shift) % len(firsts)]) for at, it in enumerate(firsts)] for shift in shifts]
        rows = [(flows, size) for flows in rounds for size in (SMALLEST, self.pair_bytes)]
        self.between_hosts.extend(self._flows("links between hosts", rows, LINKS_SHARE * self.seconds, self.seconds))

    def pair_up(self) -> None:
        """Every two ranks both ways; then all disjoint pairs at once, in rounds that bring each pair together."""
        ranks, total = range(self.world.size), self.seconds
        if len(ranks) < 3:
            return
        alone = [([pair, pair[::-1]], self.pair_bytes) for pair in itertools.combinations(ranks, 2)]
        between = (total + self.together.elapsed_seconds) / 2
        self.single.extend(self._flows("single pairs", alone, between))
        if len(ranks) > 3:
            rounds = [[flow for pair in it for flow in (pair, pair[::-1])] for it in rounds_of_pairs(len(ranks))]
            self.at_once.extend(self._flows("pairs at once", [(it, self.pair_bytes) for it in rounds], total))

    def _flows(
        self,
        what: str,
        rows: Sequence[tuple[Sequence[tuple[int, int]], int]],
        until: float,
        hard_until: float = 0.0,
    ) -> Iterator[PairTimes]:
        """Each row in its share of the time until then; those that would begin too late are left out."""
        for index, (flows, size) in enumerate(rows):
            if self.together.stopping:
                return
            if index and self.together.elapsed_seconds > max(until, hard_until):
                self.not_run.append(f"{what}: {len(rows) - index} of {len(rows)}, the time was up")
                return
            self._announce(f"{what}, {index + 1} of {len(rows)}")
            made = Flows(flows, size, self.world.rank, self.world.size, self.accelerator.torch_device, self.group)
            check = self.together.checked([lambda made=made: made.wrong_values(0)])  # type: ignore[misc]
            made.randomize()
            left = (until - self.together.elapsed_seconds) / (len(rows) - index)
            times = self._sampled(lambda: None, made.work, min(max(left, LEAST_FLOW_SECONDS), MOST_ROW_SECONDS))
            check = both(check, self.together.checked([lambda made=made: made.wrong_values(1)]))  # type: ignore[misc]
            yield PairTimes(
                flows=tuple(flows),
                size_bytes=size,
                rank_seconds=times.rank_seconds,
                timing=times.timing,
                bytes_per_s=tuple(inverse(stats.median_estimate(_slower(times, flow)), size) for flow in flows),
                check=check,
            )
            self._hand_over()

    def operate(self) -> None:
        """Every operation over all sizes, each with its line."""
        pairs_too = self.world.size > 2
        self.until = self.seconds * (1 - PAIRS_SHARE * pairs_too)
        for index, name in enumerate(self.options.operations):
            if self.together.stopping:
                return
            self._operation(name, len(self.options.operations) - index)
            if index == 0:
                self.find_ways()

    def _operation(self, name: CollectiveName, left: int) -> None:
        """One operation over the sizes; a larger size gets more of the time, since it takes more."""
        began, rows, not_run = len(self.operations), list[CollectiveSize](), ""
        own_seconds = (self.until - self.together.elapsed_seconds) / left
        until = self.together.elapsed_seconds + own_seconds
        for size, share in zip(self.sizes, _shares(len(self.sizes)), strict=True):
            if self.together.stopping:
                break
            seconds = min(max(share * (until - self.together.elapsed_seconds), LEAST_ROW_SECONDS), MOST_ROW_SECONDS)
            left_seconds = max(until - self.together.elapsed_seconds, seconds, OVERRUN_SHARE * own_seconds)
            if TIMES_A_ROW * _expected_seconds(rows, size) > left_seconds:
                not_run = f"{format_bytes(size)} and more: they would take too long"
                break
            self._announce(f"{name}, {format_bytes(size)}")
            row = self._row(name, size, seconds)
            if isinstance(row, str):
                not_run = row
                break
            rows.append(row)
            self.operations[began:] = [self._collective(name, rows, not_run, NO_FIT)]
            self._hand_over()
        line = fit({row.size_bytes: row.timing.seconds for row in rows}) if rows else NO_FIT
        self.operations[began:] = [self._collective(name, rows, not_run, line)]
        self._hand_over(at_once=True)

    def _collective(
        self, name: CollectiveName, rows: Sequence[CollectiveSize], not_run: str, line: AlphaBeta | Absent
    ) -> Collective:
        return Collective(
            operation=name,
            bus_factor=ops.bus_factor(name, self.world.size),
            in_place=name not in ops.OUT_OF_PLACE,
            sizes=tuple(rows),
            fit=line,
            not_run=not_run,
        )

    def _row(self, name: CollectiveName, size: int, seconds: float) -> CollectiveSize | str:
        """One operation at one size; why not, where the backend or the memory refuses it, on whichever rank."""
        place = (size, self.world.rank, self.world.size, self.accelerator.torch_device, self.group)
        made, refusal = _or_refusal(lambda: Operation(name, *place))
        if any(row[0] for row in self.together.exchange([float(bool(refusal))])) or made is None:
            return refusal or "no memory for its buffers on another rank"
        first, refusal = _or_refusal(lambda: made.wrong_values(0))
        if any(row[0] for row in self.together.exchange([float(bool(refusal))])) or first is None:
            return refusal or "another rank refused it"
        check = self.together.checked([lambda: first])
        made.randomize()
        times = self._sampled(made.prepare, made.work, seconds)
        check = both(check, self.together.checked([lambda: made.wrong_values(1)]))
        rate = inverse(times.timing.estimate, size)
        bus = ops.bus_factor(name, self.world.size)
        return CollectiveSize(
            size_bytes=size,
            rank_seconds=times.rank_seconds,
            timing=times.timing,
            algorithm_bytes_per_s=rate,
            bus_bytes_per_s=inverse(times.timing.estimate, bus * size) if bus else Absent("one rank has no bus"),
            check=check,
        )

    def _sampled(self, prepare: Callable[[], object], work: Callable[[], object], limit_seconds: float) -> Times:
        return self.together.sample(prepare, work, limit_seconds, self.options.target_half_width)


def rounds_of_pairs(ranks: int) -> list[list[tuple[int, int]]]:
    """Rounds of disjoint pairs in which every two ranks meet once: all but one stand in a circle that turns."""
    circle = list(range(ranks)) + [-1] * (ranks % 2)  # with an odd number one rests in each round
    rounds = []
    for _ in range(len(circle) - 1):
        facing = zip(circle[: len(circle) // 2], reversed(circle[len(circle) // 2 :]), strict=True)
        rounds.append([(min(pair), max(pair)) for pair in facing if -1 not in pair])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds


def _shares(rows: int) -> list[float]:
    """Of the time that is left, how much goes to each row; the last counts four times as much as the first."""
    weights = [1 + 3 * index / max(1, rows - 1) for index in range(rows)]
    return [weight / sum(weights[index:]) for index, weight in enumerate(weights)]


def _expected_seconds(rows: Sequence[CollectiveSize], size_bytes: int) -> float:
    """What one of the next size should take: what two sizes say of a byte, at most in proportion to the last."""
    if not rows:
        return 0.0
    last, growth = rows[-1].timing.estimate.value, size_bytes / rows[-1].size_bytes
    if len(rows) < 2:
        return last
    slope = (last - rows[-2].timing.estimate.value) / (rows[-1].size_bytes - rows[-2].size_bytes)
    return min(max(last + slope * (size_bytes - rows[-1].size_bytes), last), last * growth)


def _slower(times: Times, flow: tuple[int, int]) -> list[float]:
    """The slower of two ranks in each repeat after the warm-up."""
    steps = zip(*(times.rank_seconds[rank] for rank in flow), strict=True)
    return [max(each) for each in steps][len(times.timing.warmup_seconds) :]


def _or_refusal(make: Callable[[], B]) -> tuple[B | None, str]:
    """What it makes, or why the backend or the memory would not have it."""
    import torch

    try:
        return make(), ""
    except torch.OutOfMemoryError:
        return None, "no memory for its buffers"
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in NOT_SUPPORTED):
            raise
        return None, str(error).splitlines()[0]


def _kind(options: Options, world: World) -> Literal["cpu", "cuda"]:
    """Whether there is a GPU for this rank.

    Raises:
        RigbenchError: there is none, and GPUs were asked for.
    """
    count = 0 if options.device == "cpu" else len(cuda_devices())
    if count and (world.local_rank < count or os.environ.get(SEVERAL_ON_ONE_GPU) == "1"):
        return "cuda"
    if options.device != "cuda":
        return "cpu"
    raise RigbenchError(
        f"rank {world.rank} has no GPU: torch sees {count} CUDA devices",
        f"start fewer ranks, use --device cpu, or let NCCL 2.30 put several on one with {SEVERAL_ON_ONE_GPU}=1",
        exit_code=NOTHING,
    )


def _opened(kind: Literal["cpu", "cuda"], world: World) -> Accelerator:
    cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
    name = cpu.model if isinstance(cpu.model, str) else f"{cpu.architecture} CPU"
    device = "cpu" if kind == "cpu" else f"cuda:{world.local_rank % len(cuda_devices())}"
    return open_accelerator(device, name, memory.total_bytes, Absent("nothing is flushed"))


def _free_bytes(accelerator: Accelerator) -> int:
    import torch

    if accelerator.device.kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    usable = host.memory(Sysfs()).usable_bytes
    return (1 << 30) if isinstance(usable, Absent) else usable
