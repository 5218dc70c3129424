"""Copies bytes inside this host, between it and a GPU, inside a GPU or between GPUs, and reads them back."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from rigbench.bandwidth.record import MIB, BandwidthPart, Operation, Transfer
from rigbench.bandwidth.record import PartOptions as Options
from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent, Device
from rigbench.machine import host, placement
from rigbench.machine.accelerator import choose_device, cuda_devices, no_kernels, open_device
from rigbench.machine.cuda_cards import Copy, CudaCards, HostClock, waited_for
from rigbench.machine.sysfs import Sysfs, parse_cpu_list
from rigbench.work import copies
from rigbench.work.copies import SHARE_OF_FREE, TIMES_THE_CACHE, VALUE_BYTES, Budget, Group
from rigbench.work.process import Report

LONGEST_ROW_SECONDS, SHORTEST_ROW_SECONDS = 4.0, 0.15
LEAST_BYTES = 128 * MIB  # of an array in host memory, where the cache is small or unknown
CURVE_BYTES = tuple(4096 << (2 * step) for step in range(9))  # 4 KiB to 256 MiB
TRIAL_BYTES = 4 * MIB  # of a pattern, to see how long the large ones will take to make
MAKING_SHARE = 0.4  # of a part's time
ARRAYS_MADE, MADE_IN_HOST = 10, 4  # arrays' worth of patterns: a copy and a triad in a place; a GPU's host buffers
STEP_BACK = 8  # values: one cache line
NOT_BOUND = Absent("wherever the system puts it: one node, or all together")


def run(options: Options, report: Report) -> BandwidthPart:
    """Every row of one part."""
    started, sysfs = time.perf_counter(), Sysfs()
    report.progress(0.0, "looking at the devices")
    name, devices, groups, not_run = _plan(options, sysfs)
    report.check()
    done: list[Transfer] = []
    host_cpus: str | Absent = Absent("no host memory was measured")

    def record(ended: Literal["finished", "interrupted", "died"]) -> BandwidthPart:
        seconds = time.perf_counter() - started
        return BandwidthPart(
            name=name,
            devices=devices,
            seconds=seconds,
            host_cpus=host_cpus,
            transfers=tuple(done),
            not_run=tuple(not_run),
            ended=ended,
        )

    report.partial(record("died"))  # should the first copy hang, it is known which devices there are
    time_left = TimeLeft(groups, started + options.seconds, time.perf_counter)
    for group in groups:
        if not time_left.begin(group):
            not_run.append(f"{group.label}: ran out of time")
            continue
        with placement.near(sysfs, group.cpus) as cpus:
            host_cpus = cpus if group is groups[0] else host_cpus
            report.progress(time_left.share_done, group.label)
            buffers = _made(group, not_run)  # they live as long as their group
            time_left.made(group)
            late = 0
            for label, row in group.rows if buffers is not None else ():
                if report.should_stop():
                    return record("interrupted")
                report.progress(time_left.share_done, label)
                limit = time_left.row_seconds()
                if limit is None:
                    late += 1
                    continue
                budget = Budget(
                    limit_seconds=limit,
                    target_half_width=options.target_half_width,
                    should_stop=report.should_stop,
                )
                try:
                    done.append(row(buffers, budget))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    not_run.append(f"{label}: no memory for its check")
                report.partial(lambda: record("died"))
            if late:
                not_run.append(f"{late} of {len(group.rows)} sizes and ways of {group.label}: ran out of time")
            del buffers
    return record("interrupted" if report.should_stop() else "finished")


class TimeLeft:
    """Divides a part's time over its rows, less what the buffers that are still to be made will take.

    These are foreseen by what the last ones took, a byte each. The first row of all has its share whatever the time.
    """

    def __init__(self, groups: Sequence[Group], ends_at: float, clock: Callable[[], float]) -> None:
        self.clock, self.began, self.ends_at = clock, clock(), ends_at
        self.to_make = sum(group.made_bytes for group in groups)
        self.rows_left = sum(len(group.rows) for group in groups)
        self.make_seconds = 0.0  # a byte
        self.first = True
        self.making_since = self.began

    @property
    def share_done(self) -> float:
        return min(1.0, (self.clock() - self.began) / max(self.ends_at - self.began, 1e-9))

    def begin(self, group: Group) -> bool:
        """Whether there is time to make a group's buffers; where not, its rows are left out."""
        self.making_since = self.clock()
        self.to_make -= group.made_bytes
        if self.first or self.making_since + group.made_bytes * self.make_seconds < self.ends_at:
            return True
        self.rows_left -= len(group.rows)
        return False

    def made(self, group: Group) -> None:
        if group.made_bytes:
            self.make_seconds = (self.clock() - self.making_since) / group.made_bytes

    def row_seconds(self) -> float | None:
        """For the next row; None where there is no time left for it."""
        left = self.ends_at - self.clock() - self.to_make * self.make_seconds
        share, first = left / max(1, self.rows_left), self.first
        self.rows_left, self.first = self.rows_left - 1, False
        if left <= 0 and not first:
            return None
        return min(max(share, SHORTEST_ROW_SECONDS), LONGEST_ROW_SECONDS)


def _made(group: Group, not_run: list[str]) -> object | None:
    """The group's buffers; None, and a word, where there is no memory for them."""
    try:
        return group.make()  # type: ignore[no-any-return]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        not_run.append(f"{group.label}: no memory for its buffers")
        return None


def _plan(options: Options, sysfs: Sysfs) -> tuple[str, tuple[Device, ...], list[Group], list[str]]:
    """(the part's name, the devices seen, what to measure, what not and why)."""
    devices = () if options.device == "cpu" else cuda_devices()
    if options.part == "peers":
        if len(devices) < 2:
            raise RigbenchError(f"torch sees {len(devices)} CUDA devices", "a peer copy needs two", exit_code=NOTHING)
        reasons = {index: no_kernels(index) for index in range(len(devices))}
        usable = [index for index, reason in reasons.items() if not reason]
        if len(usable) < 2:
            why = "; ".join(filter(None, reasons.values()))
            raise RigbenchError(f"a peer copy needs two GPUs; {why}", "install a torch for both", exit_code=NOTHING)
        cards = CudaCards()
        size, notes = copies.largest(cards, options.largest_bytes, copies.NOT_HOST, usable)
        groups, refused = copies.plan_peers(cards, usable, options.peer_access, size)
        return options.name, devices, groups, [*filter(None, reasons.values()), *notes, *refused]
    device = choose_device(options.device)
    if device == "cpu":
        cpu = open_device("cpu", flushed=False).device
        return "CPU", (cpu,), *plan_host(sysfs, cpu.threads, options.largest_bytes, most_made(options.seconds))
    index = int(device.partition(":")[2])
    cards = CudaCards(index)
    wanted = min(options.largest_bytes, max(MIB, int(most_made(options.seconds) / MADE_IN_HOST)))
    size, notes = copies.largest(cards, wanted, host.memory(sysfs).usable_bytes, [index])
    if wanted < options.largest_bytes:
        notes.append(f"copies above {units.format_bytes(wanted)}: ran out of time")
    near = options.local_cpus.get(str(devices[index].uuid), Absent("the CPUs next to this GPU are not known"))
    return device, devices, copies.plan_device(cards, index, near, size), notes


class Place(NamedTuple):
    """Host memory."""

    name: str
    cpus: str | Absent  # next to it
    threads: int  # all that run there


def most_made(seconds: float) -> float:
    """Bytes of patterns that may be made in host memory within a part's time, by what a small one takes."""
    trial, marks = torch.zeros(TRIAL_BYTES // VALUE_BYTES, dtype=torch.int64), [time.perf_counter()]
    for _ in range(3):  # the first takes longer
        copies.fill(trial, 0)
        marks.append(time.perf_counter())
    return MAKING_SHARE * seconds * TRIAL_BYTES / min(end - start for start, end in itertools.pairwise(marks))


def plan_host(
    sysfs: Sysfs, threads: int, largest_bytes: int, made_bytes: float = math.inf
) -> tuple[list[Group], list[str]]:
    """Copy and triad of one thread and all per NUMA node, then a copy over sizes; and what is less than it should be.

    `threads` are torch's on this host. `made_bytes`: how much may be made, before time is short.
    """
    cache, free = host.cpu(sysfs).l3_bytes, host.memory(sysfs).usable_bytes
    wanted = LEAST_BYTES if isinstance(cache, Absent) else max(LEAST_BYTES, TIMES_THE_CACHE * cache)
    most = wanted if isinstance(free, Absent) else free // SHARE_OF_FREE
    notes, groups = [], []
    if most < wanted:
        notes.append(
            f"arrays are {most // MIB} MiB for want of memory, not the {wanted // MIB} MiB that rule a cache out"
        )
    where = places(sysfs, threads)
    in_time = made_bytes / (ARRAYS_MADE * len(where))
    size = max(MIB, int(min(wanted, most, in_time)) // MIB * MIB)
    if in_time < min(wanted, most):
        notes = [f"arrays are {size // MIB} MiB for want of time, not the {wanted // MIB} MiB that rule a cache out"]
    operations: tuple[Operation, ...] = ("copy", "triad")
    for place in where:
        counts = [place.threads] if place.name == "all nodes" else sorted({1, place.threads})
        for operation in operations:
            label = f"{operation} in {place.name}"
            rows = [(f"{label}, {count} threads", partial(_row, place.name, count, False)) for count in counts]
            made = (3 if operation == "copy" else 4) * size
            groups.append(Group(label, place.cpus, partial(_buffers, operation, size), rows, made))
    for size in sorted({*(each for each in CURVE_BYTES if each < largest_bytes), largest_bytes}):
        if size > most:
            notes.append(f"the curve ends before {size // MIB} MiB for want of memory")
            continue
        label = f"curve, {units.format_bytes(size)}"
        row = partial(_row, where[0].name, 1, True)
        groups.append(Group(label, where[0].cpus, partial(_buffers, "copy", size), [(label, row)], 3 * size))
    return groups, notes


def places(sysfs: Sysfs, threads: int) -> list[Place]:
    """Each NUMA node that this process may use; with several, all of them together come last."""
    status = sysfs.read_text("proc/self/status")
    lines = [] if isinstance(status, Absent) else status.splitlines()
    lists = [line.partition(":")[2].strip() for line in lines if line.startswith("Cpus_allowed_list")]
    allowed = parse_cpu_list(lists[0]) if lists else frozenset()
    nodes = {node.node: node.cpus for node in host.numa_nodes(sysfs)}
    usable = {number: parse_cpu_list(cpus) & allowed for number, cpus in nodes.items()}
    usable = {number: cpus for number, cpus in usable.items() if cpus}
    if len(usable) < 2:
        return [Place(f"node {number}" if usable else "host", NOT_BOUND, threads) for number in usable or (0,)]
    total = sum(len(cpus) for cpus in usable.values())
    each = [
        Place(f"node {number}", nodes[number], max(1, round(threads * len(cpus) / total)))
        for number, cpus in usable.items()
    ]
    return [*each, Place("all nodes", NOT_BOUND, threads)]


def _buffers(operation: Operation, size_bytes: int) -> tuple[torch.Tensor, ...]:
    """Zeroed: touched by all threads."""
    return copies.inside_buffers(operation, size_bytes, lambda count, dtype: torch.zeros(count, dtype=dtype))


def _row(place: str, threads: int, warm: bool, buffers: Sequence[torch.Tensor], budget: Budget) -> Transfer:
    """`warm`: of arrays that may stay in a cache, in many passes a call."""
    facts: dict[str, Any] = {"host_memory": "pageable", "threads": threads, "warm": warm}
    copy: Copy = waited_for
    if warm:
        there, here, copied = passes(buffers[0], buffers[1])
        copy, facts["counted_bytes"] = lambda *_: waited_for(there, here), 2 * copied
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return copies.inside(place, buffers, HostClock(), budget, copy, **facts)
    finally:
        torch.set_num_threads(before)


def passes(destination: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Views that make one call copy a small array many times, and the bytes it then copies.

    A call into torch takes a microsecond, in which a first-level cache moves 100 kB. So one call makes 8 passes per
    extra dimension over almost the whole array, each a cache line further than the last; since source and destination
    are seen alike, every value still lands where it belongs, and the check holds.
    """
    size_bytes = source.numel() * VALUE_BYTES
    depth = 3 if size_bytes <= 16 << 10 else 2 if size_bytes <= 64 << 10 else 1 if size_bytes <= 512 << 10 else 0
    count = 8
    values = source.numel() - STEP_BACK * (count - 1) * depth
    shape, strides = (*[count] * depth, values), (*[STEP_BACK] * depth, 1)
    copied = count**depth * values * VALUE_BYTES
    return destination.as_strided(shape, strides), source.as_strided(shape, strides), copied
