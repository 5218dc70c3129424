"""Which copies show what the host's own memory and caches move: one thread and all, per NUMA node, over sizes?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rigbench.bandwidth.record import Transfer
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.machine import host
from rigbench.machine.cuda_cards import HostClock, waited_for
from rigbench.machine.sysfs import Sysfs, parse_cpu_list
from rigbench.work.copies import FLOAT_BYTES, TRIAD_FACTOR, VALUE_BYTES, Budget, Group, Move, fill, fill_triad, measure

if TYPE_CHECKING:
    import torch

MIB = 1 << 20
# STREAM's rule: each array at least four times the sum of all last-level caches (stream.c, instruction 1).
TIMES_THE_CACHE = 4
LEAST_BYTES = 128 * MIB  # where the cache is small or unknown
SHARE_OF_FREE = 8  # one array takes at most an eighth of the free memory; a triad and its check have four
CURVE_BYTES = tuple(4096 << (2 * step) for step in range(9))  # 4 KiB to 256 MiB
STEP_BACK = 8  # values: one cache line
NO_GPUS = Absent("no two GPUs take part")
NOT_BOUND = Absent("wherever the system puts it: one node, or all together")


@dataclass(frozen=True)
class Place:
    """Memory by name, the CPUs next to it (Absent: wherever the system puts it), and all threads that run there."""

    name: str
    cpus: str | Absent
    threads: int


def plan(sysfs: Sysfs, threads: int, largest_bytes: int) -> tuple[list[Group], list[str]]:
    """Every group to measure, and in words what is smaller than it should be. `threads` are torch's on this host."""
    cache, free = host.cpu(sysfs).l3_bytes, host.memory(sysfs).usable_bytes
    wanted = LEAST_BYTES if isinstance(cache, Absent) else max(LEAST_BYTES, TIMES_THE_CACHE * cache)
    most = wanted if isinstance(free, Absent) else free // SHARE_OF_FREE
    notes = []
    if most < wanted:
        notes.append(
            f"arrays are {most // MIB} MiB for want of memory, not the {wanted // MIB} MiB that rule a cache out"
        )
    size = max(MIB, min(wanted, most) // MIB * MIB)
    where = places(sysfs, threads)
    groups = [_memory_group(place, operation, size) for place in where for operation in ("copy", "triad")]
    for bytes_ in sorted({*(each for each in CURVE_BYTES if each < largest_bytes), largest_bytes}):
        if bytes_ <= most:
            groups.append(_curve_group(where[0], bytes_))
        else:
            notes.append(f"the curve ends before {bytes_ // MIB} MiB for want of memory")
    return groups, notes


def places(sysfs: Sysfs, threads: int) -> list[Place]:
    """Each NUMA node that this process may use; with several, all of them together come last."""
    allowed = _allowed_cpus(sysfs)
    nodes = {node.node: parse_cpu_list(node.cpus) & allowed for node in host.numa_nodes(sysfs)}
    nodes = {number: cpus for number, cpus in nodes.items() if cpus}
    if len(nodes) < 2:
        return [Place(f"node {number}" if nodes else "host", NOT_BOUND, threads) for number in nodes or (0,)]
    total = sum(len(cpus) for cpus in nodes.values())
    lists = {node.node: node.cpus for node in host.numa_nodes(sysfs)}
    each = [
        Place(f"node {number}", lists[number], max(1, round(threads * len(cpus) / total)))
        for number, cpus in nodes.items()
    ]
    return [*each, Place("all nodes", NOT_BOUND, threads)]


def _allowed_cpus(sysfs: Sysfs) -> frozenset[int]:
    text = sysfs.read_text("proc/self/status")
    lines = [] if isinstance(text, Absent) else text.splitlines()
    return next(
        (parse_cpu_list(line.partition(":")[2].strip()) for line in lines if line.startswith("Cpus_allowed_list")),
        frozenset(),
    )


def _memory_group(place: Place, operation: str, size_bytes: int) -> Group:
    row = {"copy": _copy_row, "triad": _triad_row}[operation]
    make = {"copy": _copy_buffers, "triad": _triad_buffers}[operation]
    counts = [place.threads] if place.name == "all nodes" else sorted({1, place.threads})
    return Group(
        label=f"{operation} in {place.name}",
        cpus=place.cpus,
        make=partial(make, size_bytes),
        rows=[
            (f"{operation} in {place.name}, {count} threads", partial(row, place.name, count, False))
            for count in counts
        ],
    )


def _curve_group(place: Place, size_bytes: int) -> Group:
    label = f"curve, {units.format_bytes(size_bytes)}"
    row = partial(_copy_row, place.name, 1, True)
    return Group(label, place.cpus, partial(_copy_buffers, size_bytes), [(label, row)])


def _copy_buffers(size_bytes: int) -> tuple[torch.Tensor, ...]:
    import torch

    buffers = [torch.zeros(size_bytes // VALUE_BYTES, dtype=torch.int64) for _ in range(3)]  # touched by all threads
    source, destination, expected = buffers
    return fill(source, 1), destination, fill(expected, 1)


def _copy_row(place: str, threads: int, warm: bool, buffers: Sequence[torch.Tensor], budget: Budget) -> Transfer:
    source, destination, expected = buffers
    size_bytes = source.numel() * VALUE_BYTES
    there, here, counted_bytes = _passes(destination, source, size_bytes) if warm else (destination, source, size_bytes)
    return _measured(
        Move(lambda: waited_for(there, here), destination, expected),
        budget,
        operation="copy",
        place=place,
        threads=threads,
        warm=warm,
        size_bytes=size_bytes,
        counted_bytes=2 * counted_bytes,
    )


def _passes(destination: torch.Tensor, source: torch.Tensor, size_bytes: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Views that make one call copy a small array many times, and the bytes it then copies.

    A call into torch takes a microsecond, in which a first-level cache moves 100 kB. So one call makes 8 passes per
    extra dimension over almost the whole array, each a cache line further than the last; since source and destination
    are seen alike, every value still lands where it belongs, and the check holds.
    """
    depth = 3 if size_bytes <= 16 << 10 else 2 if size_bytes <= 64 << 10 else 1 if size_bytes <= 512 << 10 else 0
    count = 8
    values = source.numel() - STEP_BACK * (count - 1) * depth
    shape, strides = (*[count] * depth, values), (*[STEP_BACK] * depth, 1)
    copied = count**depth * values * VALUE_BYTES
    return destination.as_strided(shape, strides), source.as_strided(shape, strides), copied


def _triad_buffers(size_bytes: int) -> tuple[torch.Tensor, ...]:
    import torch

    a, b, c, expected = (torch.zeros(size_bytes // FLOAT_BYTES, dtype=torch.float32) for _ in range(4))
    return a, fill(b, 2), fill(c, 3), fill_triad(expected, 2, 3)


def _triad_row(place: str, threads: int, warm: bool, buffers: Sequence[torch.Tensor], budget: Budget) -> Transfer:
    import torch

    a, b, c, expected = buffers
    size_bytes = a.numel() * FLOAT_BYTES
    return _measured(
        Move(lambda: torch.add(b, c, alpha=TRIAD_FACTOR, out=a), a, expected),
        budget,
        operation="triad",
        place=place,
        threads=threads,
        warm=warm,
        size_bytes=size_bytes,
        counted_bytes=3 * size_bytes,
    )


def _measured(move: Move, budget: Budget, *, place: str, threads: int, **facts: object) -> Transfer:
    with _torch_threads(threads):
        return measure(
            [move],
            HostClock(),
            budget,
            source=place,
            destination=place,
            both_ways=False,
            host_memory="pageable",
            peer_access=NO_GPUS,
            threads=threads,
            **facts,  # type: ignore[arg-type]
        )


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
