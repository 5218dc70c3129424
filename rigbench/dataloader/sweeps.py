"""How fast is one way of loading, over its numbers of workers, with and without pinned memory?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from rigbench.core.record import Absent
from rigbench.dataloader import sources
from rigbench.dataloader.loading import best_and_knee, timed
from rigbench.dataloader.page_cache import cached_share
from rigbench.dataloader.record import Loading, LoadingPath, Sweep
from rigbench.dataloader.sources import LoaderSource, NoSharedMemory, OwnSource
from rigbench.machine.accelerator import Accelerator
from rigbench.work.process import Report

NO_GPU = Absent("no CUDA device to pin memory for")
NOT_KNOWN = Absent("what it reads is not known")
SHARED_MEMORY_CURE = "give it more (docker run --shm-size 2g, or mount -o remount,size=2g /dev/shm)"

Make = Callable[[int, bool], LoaderSource | OwnSource]  # from the number of workers, and whether memory is pinned


class Stopped(Exception):
    """Told to stop; what was measured is in the sweeper."""


class Sweeper:
    """Times ways of loading, one after another; after each row `keep` is called."""

    def __init__(
        self,
        accelerator: Accelerator,
        report: Report,
        *,
        seconds: float,
        target_half_width: float,
        rows_planned: int,
        keep: Callable[[], None],
    ) -> None:
        self.accelerator, self.report, self.keep = accelerator, report, keep
        self.seconds, self.target_half_width = seconds, target_half_width
        self.on_gpu = accelerator.device.kind == "cuda"
        self.sweeps: list[Sweep] = []
        self.not_run: list[str] = []
        self._rows_done, self._rows_planned = 0, rows_planned

    def tell(self, text: str) -> None:
        """Say what comes next; leave first if told to.

        Raises:
            Stopped: told to stop.
        """
        if self.report.should_stop():
            raise Stopped
        self.report.progress(self._rows_done / max(self._rows_planned, self._rows_done + 1), text)
        self._rows_done += 1

    def sweep(
        self,
        path: LoadingPath,
        make: Make,
        counts: Sequence[int],
        *,
        of: Literal["the data", "a packed sample"] = "the data",
        file: Path | None = None,
        used_bytes: int = 0,
        batch_bytes: int = 0,
        cold: Loading | Absent = NOT_KNOWN,
    ) -> Sweep | None:
        """A row for each number of workers, warm; None where none could be timed. `file` is what they read, if known.

        Raises:
            Stopped: told to stop; the rows so far are in `sweeps`.
        """
        rows: list[Loading] = []
        place = len(self.sweeps)
        found: Sweep | None = None
        for workers in counts:
            self.tell(f"{path}, {_workers(workers)}")
            lacks = sources.shared_memory_lacks(workers, batch_bytes)
            if lacks:
                self.not_run.append(f"{path}, {_workers(workers)}: {lacks}; {SHARED_MEMORY_CURE}")
                continue
            share = cached_share(file, used_bytes) if file else NOT_KNOWN
            row = self.row(path, make, workers, pinned=self.on_gpu, cached=share)
            if row is None:
                continue
            rows.append(row)
            best, knee = best_and_knee(rows)
            found = Sweep(
                path=path, of=of, rows=tuple(rows), best_workers=best, knee_workers=knee, unpinned=NO_GPU, cold=cold
            )
            self.sweeps[place:] = [found]
            self.keep()
        if found and self.on_gpu:
            self.tell(f"{path}, {_workers(found.knee_workers)}, not pinned")
            again = self.row(path, make, found.knee_workers, pinned=False, cached=found.knee.cached_share)
            found = self.replace(found, unpinned=again or Absent("it could not be timed"))
        return found

    def replace(self, sweep: Sweep, **fields: Loading | Absent) -> Sweep:
        """A sweep with more known of it, in its old place."""
        changed = msgspec.structs.replace(sweep, **fields)
        self.sweeps[self.sweeps.index(sweep)] = changed
        self.keep()
        return changed

    def row(
        self,
        path: LoadingPath,
        make: Make,
        workers: int,
        *,
        pinned: bool,
        cached: float | Absent,
        temperature: Literal["warm", "cold"] = "warm",
    ) -> Loading | None:
        """One row; None, and a line in `not_run`, where it could not be timed."""
        source = make(workers, pinned)
        try:
            found = timed(
                source,
                skip=sources.MADE_AHEAD * workers,
                limit_seconds=self.seconds,
                target_half_width=self.target_half_width,
                finish=self.accelerator.synchronize,
                should_stop=self.report.should_stop,
            )
        except NoSharedMemory as error:
            self.not_run.append(f"{path}, {_workers(workers)}: no room in /dev/shm ({error}); {SHARED_MEMORY_CURE}")
            return None
        finally:
            source.close()
        if found is None:
            self.not_run.append(f"{path}, {_workers(workers)}, {temperature}: it ended before it could be timed")
            return None
        return Loading(
            path=path,
            workers=workers,
            temperature=temperature,
            pinned=pinned,
            to_device=self.on_gpu,
            cached_share=cached,
            **found._asdict(),
        )


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
