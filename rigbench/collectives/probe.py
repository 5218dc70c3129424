"""Runs collectives in one rank: links between hosts, every operation over sizes, pairs, and the ways really taken.

Every rank comes to the same record, of all of them.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import torch
import torch.distributed as dist

from rigbench.collectives import operations as ops
from rigbench.collectives.alphabeta import fit
from rigbench.collectives.record import (
    DEFAULT_SECONDS,
    AlphaBeta,
    Collective,
    CollectiveName,
    Collectives,
    CollectiveSize,
    PairTimes,
    RankHost,
    RankPlace,
)
from rigbench.collectives.record import RankOptions as Options
from rigbench.collectives.rows import Together, expected_seconds, of_flows, of_size, rounds_of_pairs, shares
from rigbench.core.record import Absent, EndedBy, Tally
from rigbench.core.units import format_bytes
from rigbench.machine import peers, placement
from rigbench.work.process import Report
from rigbench.work.ranks import World, exchange, free_bytes, join, kind_for, opened

LARGEST = {"cpu": 16 << 20, "cuda": 1 << 30}
PAIR_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
SMALLEST = 8
MOST_HOSTS_ALONE, LINK_ROUNDS = 6, 4
# Of the largest size, that an operation holds at once: its own two, what belongs there, what one rank sent, and a
# quarter of one that tells which values differ. The last is for how values are made, and for NCCL's own.
BUFFERS = 6
PAIRS_SHARE, LINKS_SHARE = 0.25, 0.15  # of the time, where there are any
LEAST_ROW_SECONDS, LEAST_FLOW_SECONDS, MOST_ROW_SECONDS = 0.1, 0.3, 2.0
TIMES_A_ROW = 4  # how often a size is made at least: checked twice, warm-up, one sample
OVERRUN_SHARE = 0.25  # of an operation's time, by which its largest size may pass it
DEPUTIES = 2  # ranks that hand over the record on the way: all have the same, and the first may be the one that dies


def run(options: Options, report: Report, world: World) -> Collectives:
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
        self.started = time.perf_counter()
        self.options, self.report, self.world = options.options, report, world
        self.not_run: list[str] = []
        kind = kind_for(self.options.device, world)
        word = {"kind": kind, "host": options.host_name, "node": options.node, "fingerprint": options.fingerprint}
        words = [json.loads(it) for it in join(world, report, "gloo", options.arrive_seconds, json.dumps(word))]
        without = [rank for rank, word in enumerate(words) if word["kind"] == "cpu"]
        if without and len(without) < len(words):
            self.not_run.append(f"GPUs: rank {without[0]} has none, so that all ranks were measured on the CPU")
        self.kind: Literal["cpu", "cuda"] = "cpu" if without else "cuda"
        torch.manual_seed(world.rank)
        self.accelerator = opened(self.kind, world)
        group = dist.new_group(backend="nccl") if self.kind == "cuda" else None
        self.together = Together(self.accelerator, report, group, options.target_half_width)
        # A group's first NCCL call must be made by all its ranks, and messages between two of them would not be
        # (torch.distributed.batch_isend_irecv); nor is its memory free for buffers.
        report.progress(0.0, "the first meeting of all ranks")
        self.together.align()
        seconds = self.options.seconds
        self.seconds = DEFAULT_SECONDS[self.kind] if isinstance(seconds, Absent) else seconds
        # Hosts in the order of their first ranks: those of one node number and name.
        keys = [(word["node"], word["host"], word["fingerprint"]) for word in words]
        ranks_of = {key: tuple(rank for rank, it in enumerate(keys) if it == key) for key in keys}
        one = Absent("there is only one")
        self.hosts = tuple(
            RankHost(name if len(ranks_of) > 1 else one, fingerprint, ranks)
            for (_, name, fingerprint), ranks in ranks_of.items()
        )
        self.find_ways()
        self.sizes = self._sizes()
        self.operations = list[Collective]()
        self.single, self.at_once, self.between_hosts = list[PairTimes](), list[PairTimes](), list[PairTimes]()

    def find_ways(self) -> None:
        """What the connections, or NCCL's log, tell of the ways that were taken; every rank's, told by each to all."""
        log = Path(os.environ.get("NCCL_DEBUG_FILE", ""))
        if self.kind == "cpu":
            ways = placement.connections(self.world.master_port)
        else:
            channels = peers.nccl_transports(log.read_text(errors="replace")) if log.is_file() else {}
            ways = Tally(channels) if channels else Absent("NCCL's log names no channel")
        rank = self.world.rank
        host = next(index for index, it in enumerate(self.hosts) if rank in it.ranks)
        own = RankPlace(rank=rank, host=host, device=self.accelerator.device, ways=ways)
        self.places = tuple(msgspec.json.decode(it, type=RankPlace) for it in exchange(msgspec.json.encode(own)))

    def _sizes(self) -> tuple[int, ...]:
        """What was asked for, or 8 B to the most that fits on every rank; the largest in pairs comes of it too."""
        most, listed = self.options.max_bytes, self.options.sizes
        largest = max(listed, default=LARGEST[self.kind]) if isinstance(most, Absent) else most
        own = free_bytes(self.accelerator) // BUFFERS
        mine = self.places[self.world.rank]
        own //= sum(it.host == mine.host and it.device == mine.device for it in self.places)  # share a memory
        fits = int(min(row[0] for row in self.together.exchange([float(own)])))
        if fits < largest:
            self.not_run.append(f"sizes above {format_bytes(fits)}: no memory for their buffers")
        largest = min(largest, fits)
        of_pairs = min(fits, PAIR_BYTES[self.kind], PAIR_BYTES[self.kind] if isinstance(most, Absent) else most)
        self.pair_bytes = ops.whole([of_pairs], 1)[0]
        if listed:
            return ops.whole([size for size in listed if size <= largest], self.world.size)
        return ops.sizes(min(SMALLEST, largest), largest, self.world.size)

    def record(self, ended_by: EndedBy) -> Collectives:
        return Collectives(
            seconds=time.perf_counter() - self.started,
            backend="nccl" if self.kind == "cuda" else "gloo",
            world_size=self.world.size,
            hosts=self.hosts,
            ranks=self.places,
            operations=tuple(self.operations),
            pairs=tuple(self.single),
            pairs_at_once=tuple(self.at_once),
            links=tuple(self.between_hosts),
            not_run=tuple(self.not_run),
            ended_by=ended_by,
        )

    def _hand_over(self, at_once: bool = False) -> None:
        if self.world.rank < DEPUTIES:
            self.report.partial(lambda: self.record("worker died"), at_once)

    def _announce(self, text: str) -> None:
        """Before it is made: a rank that comes no further is known by what it announced last."""
        self.report.progress(self.together.elapsed_seconds / self.seconds, text)

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
        self, what: str, rows: Sequence[tuple[Sequence[tuple[int, int]], int]], until: float, hard_until: float = 0.0
    ) -> Iterator[PairTimes]:
        """Each row in its share of the time until then; those that would begin too late are left out."""
        for index, (flows, size) in enumerate(rows):
            if self.together.stopping:
                return
            if index and self.together.elapsed_seconds > max(until, hard_until):
                self.not_run.append(f"{what}: {len(rows) - index} of {len(rows)}, ran out of time")
                return
            self._announce(f"{what}, {index + 1} of {len(rows)}")
            left = (until - self.together.elapsed_seconds) / (len(rows) - index)
            row = of_flows(self.together, flows, size, min(max(left, LEAST_FLOW_SECONDS), MOST_ROW_SECONDS))
            if isinstance(row, str):
                self.not_run.append(f"{what}: {len(rows) - index} of {len(rows)}, {row}")
                return
            yield row
            self._hand_over()

    def operate(self) -> None:
        """Every operation over all sizes, each with its line."""
        until, names = self.seconds * (1 - PAIRS_SHARE * (self.world.size > 2)), self.options.operations
        for left, name in zip(range(len(names), 0, -1), names, strict=True):
            if not self.together.stopping:
                self._operation(name, (until - self.together.elapsed_seconds) / left)

    def _operation(self, name: CollectiveName, own_seconds: float) -> None:
        """One operation over the sizes; a larger size gets more of the time, since it takes more."""
        began, rows, not_run = len(self.operations), list[CollectiveSize](), ""

        def keep(line: AlphaBeta | Absent) -> None:
            factor = ops.bus_factor(name, self.world.size)
            row = Collective(operation=name, bus_factor=factor, sizes=tuple(rows), fit=line, not_run=not_run)
            self.operations[began:] = [row]

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
            row = of_size(self.together, name, size, seconds)
            if isinstance(row, str):
                not_run = row
                break
            rows.append(row)
            keep(Absent("it was not finished"))
            self._hand_over()
        keep(fit({row.size_bytes: row.timing.seconds for row in rows}))
        self._hand_over(at_once=True)
