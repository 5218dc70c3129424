"""How fast, how soon and how rightly do collectives bring every rank of a group what it needs, and by which way?"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from rigbench.collectives import operations as ops
from rigbench.collectives.record import (
    Collective,
    CollectiveName,
    Collectives,
    CollectiveSize,
    PairTimes,
    RankHost,
    RankPlace,
)
from rigbench.collectives.rows import collective, expected_seconds, of_flows, of_size, rounds_of_pairs, shares
from rigbench.collectives.timing import Together
from rigbench.core.record import Absent, EndedBy, Record, Tally
from rigbench.core.units import format_bytes
from rigbench.machine import peers, placement
from rigbench.store import now
from rigbench.work.process import Report
from rigbench.work.ranks import ARRIVE_SECONDS, World, free_bytes, join, kind_for, opened

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
NOT_JUDGED = Absent("hosts are compared by the parent")


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
        kind = kind_for(options.device, world)
        word = {"kind": kind, "host": options.host_name, "node": options.node, "fingerprint": options.fingerprint}
        self.words = [json.loads(it) for it in join(world, report, "gloo", options.arrive_seconds, json.dumps(word))]
        self.not_run: list[str] = []
        self.kind = self._common_kind()
        torch.manual_seed(world.rank)
        self.accelerator = opened(self.kind, world)
        self.group = dist.new_group(backend="nccl") if self.kind == "cuda" else None
        self.together = Together(self.accelerator, report, self.group)
        self.seconds = options.seconds or SECONDS[self.kind]
        self.hosts = self._hosts()
        self.places = self._places(Absent("not looked at yet"))
        self.find_ways()
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
            self.places = self._places(placement.connections(self.world.master_port))
            return
        found = peers.nccl_transports(log.read_text(errors="replace")) if log.is_file() else {}
        self.places = self._places(Tally(found) if found else Absent("NCCL's log names no channel"))

    def _sizes(self) -> tuple[int, ...]:
        """What was asked for, or 8 B to the most that fits on every rank; the largest in pairs comes of it too."""
        wanted = self.options.largest_bytes or max((*self.options.sizes, 0)) or LARGEST[self.kind]
        own = free_bytes(self.accelerator) // BUFFERS
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
            left = (until - self.together.elapsed_seconds) / (len(rows) - index)
            seconds = min(max(left, LEAST_FLOW_SECONDS), MOST_ROW_SECONDS)
            yield of_flows(self.together, flows, size, seconds, self.options.target_half_width)
            self._hand_over()

    def operate(self) -> None:
        """Every operation over all sizes, each with its line."""
        pairs_too = self.world.size > 2
        self.until = self.seconds * (1 - PAIRS_SHARE * pairs_too)
        for index, name in enumerate(self.options.operations):
            if self.together.stopping:
                return
            self._operation(name, len(self.options.operations) - index)

    def _operation(self, name: CollectiveName, left: int) -> None:
        """One operation over the sizes; a larger size gets more of the time, since it takes more."""
        began, rows, not_run = len(self.operations), list[CollectiveSize](), ""
        own_seconds = (self.until - self.together.elapsed_seconds) / left
        until = self.together.elapsed_seconds + own_seconds
        for size, share in zip(self.sizes, shares(len(self.sizes)), strict=True):
            if self.together.stopping:
                break
            seconds = min(max(share * (until - self.together.elapsed_seconds), LEAST_ROW_SECONDS), MOST_ROW_SECONDS)
            left_seconds = max(until - self.together.elapsed_seconds, seconds, OVERRUN_SHARE * own_seconds)
            if self.options.sizes:  # asked for one by one: none is left out but what would outlast everything
                left_seconds = self.seconds
            if TIMES_A_ROW * expected_seconds(rows, size) > left_seconds:
                not_run = f"{format_bytes(size)} and more: they would take too long"
                break
            self._announce(f"{name}, {format_bytes(size)}")
            row = of_size(self.together, name, size, seconds, self.options.target_half_width)
            if isinstance(row, str):
                not_run = row
                break
            rows.append(row)
            self.operations[began:] = [collective(name, self.world.size, rows, not_run, finished=False)]
            self._hand_over()
        self.operations[began:] = [collective(name, self.world.size, rows, not_run, finished=True)]
        self._hand_over(at_once=True)
