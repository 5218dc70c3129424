"""Times ways of loading as a training loop waits for them: by number of workers, warm and cold, pinned or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, EndedBy
from rigbench.dataloader.disk import cached_share
from rigbench.dataloader.record import NOT_KNOWN, Loading, LoadingPath, Sweep, many
from rigbench.dataloader.sources import MADE_AHEAD, NoSharedMemory, NotCold, Source, shared_memory_lacks
from rigbench.machine.accelerator import Accelerator
from rigbench.work.process import Report
from rigbench.work.timing import StepWatch, never

MOST_SAMPLES = 500  # of a row: fast loaders give several batches to a sample
FEWEST_SAMPLES = 3
NO_GPU = Absent("no CUDA device to pin memory for")
SHARED_MEMORY_CURE = "give it more (docker run --shm-size 2g, or mount -o remount,size=2g /dev/shm)"


class Stopped(Exception):
    """Told to stop; what was measured is in the sweeper."""


@dataclass
class Sweeper:
    """Times ways of loading, one after another; after each row `keep` is called."""

    accelerator: Accelerator
    report: Report
    seconds: float  # at most, of a row
    target_half_width: float
    rows_planned: int
    keep: Callable[[], None]
    rows_done: int = 0
    sweeps: list[Sweep] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.accelerator.device.kind == "cuda"

    def tell(self, text: str) -> None:
        """Say what comes next; leave first if told to.

        Raises:
            Stopped: told to stop.
        """
        if self.report.should_stop():
            raise Stopped
        self.report.progress(self.rows_done / max(self.rows_planned, self.rows_done + 1), text)
        self.rows_done += 1

    def sweep(
        self,
        path: LoadingPath,
        make: Callable[[int, bool], Source],
        counts: Sequence[int],
        *,
        of: Literal["the data", "a packed sample"] = "the data",
        file: Path | None = None,
        used_bytes: int = 0,
        batch_bytes: int = 0,
        cold: Loading | Absent = NOT_KNOWN,
    ) -> Sweep | None:
        """A row for each number of workers, warm; None where none could be timed.

        `make` gives a source for a number of workers, and whether memory is pinned; `file` is what it reads, if known.

        Raises:
            Stopped: told to stop; the rows so far are in `sweeps`.
        """
        rows: list[Loading] = []
        place = len(self.sweeps)
        sweep: Sweep | None = None
        for workers in counts:
            self.tell(f"{path}, {many(workers, 'worker')}")
            if lacks := shared_memory_lacks(workers, batch_bytes):
                self.not_run.append(f"{path}, {many(workers, 'worker')}: {lacks}; {SHARED_MEMORY_CURE}")
                continue
            share = cached_share(file, used_bytes) if file else NOT_KNOWN
            row = self.row(path, make(workers, self.on_gpu), workers, share)
            if isinstance(row, Absent):
                self.not_run.append(f"{path}, {many(workers, 'worker')}: {row.reason}")
                continue
            rows.append(row)
            sweep = Sweep(path=path, of=of, rows=tuple(rows), knee_workers=knee(rows), unpinned=NO_GPU, cold=cold)
            self.sweeps[place:] = [sweep]
            self.keep()
        if sweep and self.on_gpu:
            workers = sweep.knee_workers
            self.tell(f"{path}, {many(workers, 'worker')}, not pinned")
            unpinned = self.row(path, make(workers, False), workers, sweep.knee.cached_share, pageable=True)
            sweep = self.replace(sweep, unpinned=unpinned)
        return sweep

    def replace(self, sweep: Sweep, **fields: Loading | Absent) -> Sweep:
        """A sweep with more known of it, in its old place."""
        changed = msgspec.structs.replace(sweep, **fields)
        self.sweeps[self.sweeps.index(sweep)] = changed
        self.keep()
        return changed

    def row(
        self,
        path: LoadingPath,
        source: Source,
        workers: int,
        cached: float | Absent,
        temperature: Literal["warm", "cold"] = "warm",
        pageable: bool = False,
    ) -> Loading | Absent:
        """One row, or why it could not be timed. The source is closed."""
        try:
            row = timed(
                source,
                limit_seconds=self.seconds,
                target_half_width=self.target_half_width,
                finish=self.accelerator.synchronize,
                should_stop=self.report.should_stop,
                path=path,
                workers=workers,
                temperature=temperature,
                pinned=self.on_gpu and not pageable,
                to_device=self.on_gpu,
                cached_share=cached,
            )
        except NoSharedMemory as error:
            return Absent(f"no room in /dev/shm ({error}); {SHARED_MEMORY_CURE}")
        except NotCold as error:
            return Absent(str(error))
        finally:
            source.close()
        return row or Absent("it ended before it could be timed")


def timed(
    source: Source,
    *,
    workers: int,
    limit_seconds: float,
    target_half_width: float,
    finish: Callable[[], object],
    should_stop: Callable[[], bool] = never,
    **facts: Any,
) -> Loading | None:
    """Take batches until the rate is tight or the time is up; None where the source ended before it could be timed.

    The first batch is the start-up, and a few more are what workers had made by then: neither is in the rate. A
    sample is as many batches as take a 500th of the limit, or one; `finish` waits until what they started is done.
    `facts` are the row's fields that timing does not give.
    """
    started = time.perf_counter()
    try:
        source.take()
        finish()
        startup = time.perf_counter() - started - source.untimed_seconds
        for _ in range(MADE_AHEAD * workers):
            source.take()
        batches = _batches_per_sample(source, limit_seconds / MOST_SAMPLES, finish)
    except StopIteration:
        return None
    watch = StepWatch(target_half_width, limit_seconds, time.perf_counter())
    tokens: list[int] = []
    seconds: list[float] = []
    ended_by: EndedBy | None = None
    while ended_by is None:
        begun, untimed = time.perf_counter(), source.untimed_seconds
        try:
            taken = sum([source.take() for _ in range(batches)])  # a list: StopIteration must get out
        except StopIteration:
            ended_by = "finished"
            break
        finish()
        now = time.perf_counter()
        tokens.append(taken)
        seconds.append(max(now - begun - (source.untimed_seconds - untimed), 1e-9))
        ended_by = "interrupted" if should_stop() else watch.add(seconds[-1], now)
    if len(seconds) < FEWEST_SAMPLES:
        return None
    return Loading(
        **facts,
        workers=workers,
        startup_seconds=startup,
        batches_per_sample=batches,
        tokens=tuple(tokens),
        seconds=tuple(seconds),
        steady_from=watch.steady_from,
        tokens_per_s=rate(tokens[watch.steady_from :], seconds[watch.steady_from :]),
        restarts=source.restarts,
        ended_by=ended_by,
    )


def _batches_per_sample(source: Source, sample_seconds: float, finish: Callable[[], object]) -> int:
    started, untimed, batches = time.perf_counter(), source.untimed_seconds, 0
    while True:
        source.take()
        batches += 1
        if time.perf_counter() - started - (source.untimed_seconds - untimed) >= sample_seconds:
            finish()
            return batches


def rate(tokens: Sequence[int], seconds: Sequence[float]) -> Estimate:
    """Total tokens over total seconds, with the interval of a ratio where samples differ in size.

    A sample's seconds are corrected by what its surplus of tokens takes at the overall rate: the sum stays the same,
    and their spread becomes that of the ratio's linearised error (Cochran, Sampling Techniques, §6.4).
    """
    mean = math.fsum(tokens) / len(tokens)
    per_token = math.fsum(seconds) / math.fsum(tokens)
    corrected = [second - (count - mean) * per_token for count, second in zip(tokens, seconds, strict=True)]
    return stats.rate_estimate(mean, corrected)


def knee(rows: Sequence[Loading]) -> int:
    """The fewest workers whose interval reaches into that of the highest rate."""
    best = max(rows, key=lambda row: row.tokens_per_s.value)
    return min(row.workers for row in rows if row.tokens_per_s.high >= best.tokens_per_s.low)
