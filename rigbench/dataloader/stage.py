"""The data loader for a command: options from words, an isolated run, and what it says next to what training eats."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.dataloader.loading import ratio
from rigbench.dataloader.probe import Options
from rigbench.dataloader.record import Bound, Dataloader, Gain, Headroom, Loading, LoadingPath, Sweep
from rigbench.job import Job
from rigbench.machine import host
from rigbench.model.tokens import AskedDtype
from rigbench.train.record import Slice

PROBE = "rigbench.dataloader.probe"
LONGEST_SEQUENCE, LARGEST_MICRO_BATCH = 1 << 20, 1 << 16
MOST_WORKERS, MOST_DEFAULT_WORKERS = 256, 16
MARGIN_SECONDS = 120.0  # beyond the rows' own seconds: loading torch, a slow factory, packing a sample
ROW_MARGIN_SECONDS = 60.0  # workers that start, and a last batch that takes long
# What the data stands for first: the path that its owner would train with.
ORDER: tuple[LoadingPath, ...] = ("dataset", "jsonl", "memory map", "own loader")
NO_DEMAND = Absent(
    "no training slice of this rig is stored; run `rigbench train-probe`, or say what it eats with --tokens-per-second"
)


def options(
    *,
    data: Path | None,
    data_dtype: AskedDtype,
    field: str,
    skip_bad: bool,
    tokenizer: str,
    eot: str | None,
    dataset: str | None,
    micro_batch: str,
    seq: str,
    workers: str | None,
    seconds: str,
    device: str | None,
) -> Options:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    if data and dataset:
        raise RigbenchError("--data and --dataset exclude each other", "give one of them")
    return Options(
        device=device or "auto",
        data=str(data) if data else "",
        data_dtype=data_dtype,
        field=field,
        skip_bad=skip_bad,
        tokenizer=tokenizer,
        end_of_text=eot or "",
        dataset=dataset or "",
        folder=os.getcwd(),
        micro_batch=units.parse_whole(micro_batch, "--micro-batch", 1, LARGEST_MICRO_BATCH),
        sequence=units.parse_whole(seq, "--seq", 8, LONGEST_SEQUENCE),
        workers=_workers(workers) if workers is not None else (),
        seconds=units.parse_seconds(seconds, "--seconds"),
    )


def declared(tokens_per_second: str | None) -> Figure | None:
    """What training eats, as its owner says.

    Raises:
        RigbenchError: not a number of tokens.
    """
    if tokens_per_second is None:
        return None
    value = units.parse_count(tokens_per_second, "--tokens-per-second")
    return Figure(value=value, source="declared", basis="--tokens-per-second")


def run(job: Job, options: Options, declared: Figure | None) -> Dataloader | Skipped:
    """The loader probe in its own process, next to what a slice of this rig trains.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: bad data or a bad dataset, or nothing that could be timed.
    """
    usable = host.cpu(job.rig.sysfs).usable_cpus
    counts = options.workers or default_workers(usable)
    options = msgspec.structs.replace(options, workers=counts, cache=str(job.store.home / "cache"))
    rows = len(counts) + 5
    job.progress.stage("dataloader", rows * options.seconds + 5)
    limit = rows * (options.seconds + ROW_MARGIN_SECONDS) + MARGIN_SECONDS
    # A tokenizer's own threads would be forked into the workers, which it refuses with a warning.
    environment = {"TOKENIZERS_PARALLELISM": "false"}

    def complete(result: Dataloader) -> Dataloader:
        demand = declared or _eaten(job, result)
        result = completed(msgspec.structs.replace(result, demand_tokens_per_s=demand))
        from_disk = not isinstance(result.disk, Absent) or any(isinstance(one.cold, Loading) for one in result.sweeps)
        if from_disk and isinstance(host.virtual_machine(job.rig.sysfs), str):
            line = "this is a virtual machine: its disk may answer from the memory of its host"
            result = msgspec.structs.replace(result, notes=(*result.notes, line))
        return result

    return job.measure(
        PROBE,
        options,
        Dataloader,
        limit_seconds=limit,
        environment=environment,
        room="dataloader",
        complete=complete,
    )


def default_workers(usable_cpus: float | Absent) -> tuple[int, ...]:
    """0, 1, and doubling up to as many as there are CPUs to use, and that number itself; 16 at most."""
    most = os.cpu_count() or 1 if isinstance(usable_cpus, Absent) else max(1, int(usable_cpus))
    most = min(most, MOST_DEFAULT_WORKERS)
    doubling = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return tuple(sorted({0, *doubling, most}))


def _workers(words: str) -> tuple[int, ...]:
    counts = {units.parse_whole(word, "--workers", 0, MOST_WORKERS) for word in words.split(",")}
    return tuple(sorted(counts))


def _eaten(job: Job, result: Dataloader) -> Figure | Absent:
    """Of the newest slice of this rig on the same kind of device: this run's own, else a stored one."""
    found = [
        (item.started_at, run.id, item)
        for run in job.history()
        for item in run.slices
        if isinstance(item, Slice) and item.device.kind == result.device.kind
    ]
    if not found:
        return NO_DEMAND
    _, run_id, newest = max(found, key=lambda one: one[:2])
    rate = newest.tokens_per_s
    basis = f"the slice {newest.model.name} of run {run_id}, on {newest.device.kind}"
    return Figure(value=rate.value, source="measured", basis=basis, low=rate.low, high=rate.high)


def completed(result: Dataloader) -> Dataloader:
    """With what follows from its rows: headroom, what changes would gain, and what to know of the numbers."""
    own = sorted((sweep for sweep in result.sweeps if sweep.of == "the data"), key=lambda one: ORDER.index(one.path))
    return msgspec.structs.replace(
        result,
        headrooms=tuple(_headrooms(own, result.demand_tokens_per_s)),
        gains=tuple(_gains(own, result.sweeps)),
        notes=(*result.notes, *_notes(result, own)),
    )


def _headrooms(sweeps: Sequence[Sweep], demand: Figure | Absent) -> Iterator[Headroom]:
    if isinstance(demand, Absent):
        return
    eaten = Estimate(
        value=demand.value,
        low=demand.value if isinstance(demand.low, Absent) else demand.low,
        high=demand.value if isinstance(demand.high, Absent) else demand.high,
        level=0.95,
        method=demand.basis,
        n=1,
    )
    for sweep in sweeps:
        for row in (sweep.knee, sweep.cold):
            if isinstance(row, Loading):
                times = ratio(row.tokens_per_s, eaten)
                yield Headroom(sweep.path, row.workers, row.temperature, times, bound(times))


def bound(times: Estimate) -> Bound:
    """Whether loading holds training back, as far as the interval tells; one sample tells nothing."""
    if times.level == 0 or times.low <= 1 <= times.high:
        return "cannot be told"
    return "no" if times.low > 1 else "yes"


def _gains(own: Sequence[Sweep], sweeps: Sequence[Sweep]) -> Iterator[Gain]:
    by = {(sweep.path, sweep.of): sweep for sweep in sweeps}
    jsonl, mapped, ours = (by.get((path, "the data")) for path in ("jsonl", "memory map", "own loader"))
    packed, gathered = (by.get((path, "a packed sample")) for path in ("memory map", "own loader"))
    if jsonl and packed:
        yield _gain("`rigbench pack`, then the same DataLoader on a memory map", packed.knee, jsonl.knee)
    if jsonl and gathered:
        yield _gain("`rigbench pack`, then whole batches gathered at once", gathered.knee, jsonl.knee)
    if mapped and ours:
        yield _gain("whole batches gathered at once, not sample by sample", ours.knee, mapped.knee)
    for sweep in own:
        yield from _worker_gains(sweep)
        if isinstance(sweep.unpinned, Loading):
            yield _gain(f"{sweep.path}: pinned memory, not pageable", sweep.knee, sweep.unpinned)
        if isinstance(sweep.cold, Loading):
            yield _gain(f"{sweep.path}: the file in memory, not on the disk", sweep.knee, sweep.cold)


def _worker_gains(sweep: Sweep) -> Iterator[Gain]:
    knee = sweep.knee
    for row in sweep.rows:
        apart = row.tokens_per_s.high < knee.tokens_per_s.low
        if row.workers < knee.workers and apart and row is sweep.rows[0]:
            yield _gain(f"{sweep.path}: {_many(knee.workers)}, not {row.workers}", knee, row)
        if row.workers > knee.workers and apart and row is sweep.rows[-1]:
            yield _gain(f"{sweep.path}: {_many(row.workers)}, not {knee.workers}", row, knee)


def _many(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _gain(change: str, after: Loading, before: Loading) -> Gain:
    return Gain(change=change, times=ratio(after.tokens_per_s, before.tokens_per_s))


def _notes(result: Dataloader, own: Sequence[Sweep]) -> Iterator[str]:
    data = result.data
    if isinstance(data.used_bytes, int):
        part = "the file" if data.used_bytes == data.size_bytes else f"its first {units.format_bytes(data.used_bytes)}"
        yield f"warm numbers are of memory, not of a disk: {part} was in it"
    mapped = next((sweep for sweep in own if sweep.path == "memory map"), None)
    if mapped and any(row.tokens_per_s.high < mapped.rows[0].tokens_per_s.low for row in mapped.rows[1:]):
        yield "workers make this memory map slower: a batch is made sooner than it is handed from process to process"
    usable = result.usable_cpus
    most = max((row.workers for sweep in own for row in sweep.rows), default=0)
    if isinstance(usable, float) and most > usable:
        yield f"{most} workers were more than the {usable:g} CPUs there are to use"
    if result.device.kind == "cpu" and not isinstance(result.demand_tokens_per_s, Absent):
        yield "on a CPU loading and training share the cores: N x headroom costs training up to 1/N of its time"
