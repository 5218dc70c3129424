"""Judges a loader: how many times over it feeds training, what a change would bring, what to know of the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, cost, finding
from rigbench.core.record import Absent, Figure
from rigbench.dataloader.record import Bound, Dataloader, Gain, Headroom, Loading, LoadingPath, Sweep, many

# What the data stands for first: the path that its owner would train with.
ORDER: tuple[LoadingPath, ...] = ("dataset", "jsonl", "memory map", "own loader")
HOST_MEMORY = "this is a virtual machine: its disk may answer from the memory of its host"


def completed(result: Dataloader, demand: Figure | Absent, virtual_machine: bool) -> Dataloader:
    """With what follows from its rows next to what training needs."""
    sweeps = sorted((sweep for sweep in result.sweeps if sweep.of == "the data"), key=lambda it: ORDER.index(it.path))
    result = msgspec.structs.replace(result, demand_tokens_per_s=demand)
    return msgspec.structs.replace(
        result,
        headrooms=tuple(_headrooms(sweeps, demand, result)),
        gains=tuple(_gains(sweeps, result.sweeps)),
        notes=tuple(_notes(result, sweeps, virtual_machine)),
    )


def _headrooms(sweeps: Sequence[Sweep], demand: Figure | Absent, result: Dataloader) -> Iterator[Headroom]:
    """Of one loader alone. Where several work at once, those share the processors and the disk."""
    if isinstance(demand, Absent):
        return
    needed = Estimate(demand.value, *demand.ends, level=stats.LEVEL, method=demand.basis, n=1)
    for sweep in sweeps:
        for row in (sweep.knee, sweep.cold):
            if isinstance(row, Loading):
                times = row.tokens_per_s / needed
                alone = bound(times)
                processes = result.loaders * max(1, row.workers)
                cpus = 0.0 if isinstance(result.usable_cpus, Absent) else result.usable_cpus
                shared = row.temperature == "cold" or processes > cpus
                if alone == "no" and shared and bound(times / result.loaders) != "no":
                    alone = "cannot be told"
                yield Headroom(sweep.path, row.workers, row.temperature, times, alone)


def diagnose(result: Dataloader) -> Iterator[Finding]:
    """A loader that training would have to wait for, at its best number of workers and with the file in memory."""
    demand = result.demand_tokens_per_s
    for its in result.headrooms:
        if its.io_bound != "yes" or its.temperature != "warm" or isinstance(demand, Absent):
            continue
        rate = demand.value * its.times.value
        words = [units.format_rate(it) for it in (rate, demand.value)]
        evidence = [f"{its.path}, {many(its.workers, 'worker')}: {words[0]}, and training needs {words[1]}"]
        price = cost(
            f"{words[0]} where training needs {words[1]}", "tokens/s", rate, demand.value, demand.basis, "measured"
        )
        yield finding("loader-too-slow", "warning", evidence, [its.path], price, ["rigbench dataloader"])


def bound(times: Estimate) -> Bound:
    """Whether loading holds training back, as far as the interval tells; one sample tells nothing."""
    if times.level == 0 or times.low <= 1 <= times.high:
        return "cannot be told"
    return "no" if times.low > 1 else "yes"


def _gains(own: Sequence[Sweep], sweeps: Sequence[Sweep]) -> Iterator[Gain]:
    by = {(sweep.path, sweep.of): sweep for sweep in sweeps}
    jsonl, mapped, gathered = (by.get((path, "the data")) for path in ("jsonl", "memory map", "own loader"))
    mapped_sample, gathered_sample = (by.get((path, "a packed sample")) for path in ("memory map", "own loader"))
    if jsonl and mapped_sample:
        yield _gain("`rigbench pack`, then the same DataLoader on a memory map", mapped_sample.knee, jsonl.knee)
    if jsonl and gathered_sample:
        yield _gain("`rigbench pack`, then whole batches gathered at once", gathered_sample.knee, jsonl.knee)
    if mapped and gathered:
        yield _gain("whole batches gathered at once, not sample by sample", gathered.knee, mapped.knee)
    for sweep in own:
        knee, first, last = sweep.knee, sweep.rows[0], sweep.rows[-1]
        if first.workers < knee.workers and _slower(first, knee):
            yield _gain(f"{sweep.path}: {many(knee.workers, 'worker')}, not {first.workers}", knee, first)
        if last.workers > knee.workers and _slower(last, knee):
            yield _gain(f"{sweep.path}: {many(last.workers, 'worker')}, not {knee.workers}", last, knee)
        if isinstance(sweep.unpinned, Loading):
            yield _gain(f"{sweep.path}: pinned memory, not pageable", knee, sweep.unpinned)
        if isinstance(sweep.cold, Loading):
            yield _gain(f"{sweep.path}: the file in memory, not on the disk", knee, sweep.cold)


def _gain(change: str, after: Loading, before: Loading) -> Gain:
    return Gain(change=change, times=after.tokens_per_s / before.tokens_per_s)


def _slower(row: Loading, other: Loading) -> bool:
    """By their intervals."""
    return row.tokens_per_s.high < other.tokens_per_s.low


def _notes(result: Dataloader, own: Sequence[Sweep], virtual_machine: bool) -> Iterator[str]:
    data = result.data
    if isinstance(data.used_bytes, int):
        part = "the file" if data.used_bytes == data.size_bytes else f"its first {units.format_bytes(data.used_bytes)}"
        yield f"warm numbers are of memory, not of a disk: {part} was in it"
    mapped = next((sweep for sweep in own if sweep.path == "memory map"), None)
    if mapped and any(_slower(row, mapped.rows[0]) for row in mapped.rows[1:]):
        yield "workers make this memory map slower: a batch is made sooner than it is handed from process to process"
    most = max((row.workers for sweep in own for row in sweep.rows), default=0)
    if isinstance(result.usable_cpus, float) and most > result.usable_cpus:
        yield f"{most} workers were more than the {result.usable_cpus:g} CPUs there are to use"
    if result.loaders > 1:
        yield f"one loader was timed alone, and {result.loaders} ranks train: theirs share the processors and the disk"
    if result.device.kind == "cpu" and not isinstance(result.demand_tokens_per_s, Absent):
        yield "on a CPU the two share the cores: a loader N times as fast as training needs takes up to 1/N of the time"
    from_disk = not isinstance(result.disk, Absent) or any(isinstance(it.cold, Loading) for it in result.sweeps)
    if from_disk and virtual_machine:
        yield HOST_MEMORY
