"""Does the data loader keep up with what the GPU eats?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, EndedBy, Figure, Record, Telemetry

LoadingPath = Literal["own loader", "memory map", "jsonl", "dataset"]
Bound = Literal["yes", "no", "cannot be told"]


class Loading(Record, frozen=True, kw_only=True):
    """One way of making batches, timed as a training loop would wait for them.

    `workers` 0 is the training process itself. `seconds` holds every sample after the start, each of
    `batches_per_sample` batches with `tokens` in it (inputs, not labels); `steady_from` is the index of the first that
    `tokens_per_s` is made of. `startup_seconds`, until the first batch, are in no rate, and neither are the `restarts`
    of a dataset that came to its end. `cached_share` is how much of the file was in memory just before; of a cold
    number the largest of its rounds, each of which put the file out of memory first.
    """

    path: LoadingPath
    workers: int
    temperature: Literal["warm", "cold"]
    pinned: bool
    to_device: bool
    cached_share: float | Absent
    startup_seconds: float | Absent
    batches_per_sample: int
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    steady_from: int
    tokens_per_s: Estimate
    restarts: int
    ended_by: EndedBy


class Sweep(Record, frozen=True, kw_only=True):
    """One path over its worker counts, warm. `knee_workers` is the fewest whose rate cannot be told from the best's.

    `of` is what was loaded: the data that was asked for, or a packed sample of it, made to compare. `unpinned` is the
    knee again without pinned memory.
    """

    path: LoadingPath
    of: Literal["the data", "a packed sample"]
    rows: tuple[Loading, ...]
    best_workers: int
    knee_workers: int
    unpinned: Loading | Absent
    cold: Loading | Absent

    @property
    def knee(self) -> Loading:
        return next(row for row in self.rows if row.workers == self.knee_workers)

    @property
    def best(self) -> Loading:
        return next(row for row in self.rows if row.workers == self.best_workers)


class DiskReads(Record, frozen=True):
    """Direct reads of the file, past the page cache, one after another; `seconds` of each."""

    order: Literal["in order", "at random"]
    block_bytes: int
    seconds: tuple[float, ...]
    bytes_per_s: Estimate


class LoadedData(Record, frozen=True, kw_only=True):
    """What was loaded. `name` is a base name or `package.module:factory`.

    `used_bytes` is the first part of the file that warm numbers were made of: what surely stays in memory.
    """

    kind: Literal["tokens", "generated", "jsonl", "dataset"]
    name: str
    size_bytes: int | Absent
    used_bytes: int | Absent
    tokens: int | Absent
    item_bytes: int | Absent
    tokenizer: str | Absent
    bad_lines: int


class Headroom(Record, frozen=True):
    """How many times over a path feeds the device; bound where that is below 1, as far as both intervals tell."""

    path: LoadingPath
    workers: int
    temperature: Literal["warm", "cold"]
    times: Estimate
    io_bound: Bound


class Gain(Record, frozen=True):
    """What a change would bring: `times` as many tokens/s, measured, its interval from the ends of both rates'."""

    change: str
    times: Estimate


class Dataloader(Record, frozen=True, kw_only=True):
    """Tokens per second by path and worker count, next to what the device trains on (`demand_tokens_per_s`).

    `headrooms` are those of each path at its knee, the path that the data stands for first.
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    data: LoadedData
    micro_batch: int
    sequence: int
    usable_cpus: float | Absent
    sweeps: tuple[Sweep, ...]
    disk: tuple[DiskReads, ...] | Absent
    demand_tokens_per_s: Figure | Absent
    headrooms: tuple[Headroom, ...]
    gains: tuple[Gain, ...]
    ended_by: EndedBy
    telemetry: Telemetry | Absent
    notes: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
