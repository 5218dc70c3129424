"""Times how many tokens per second can be loaded, by each path that the data has, with each number of workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.files import reason
from rigbench.core.home import scratch
from rigbench.core.record import Absent, EndedBy
from rigbench.core.unpack import packed_by
from rigbench.dataloader import sources
from rigbench.dataloader.disk import cached_share, direct_reads, made_cold, read_through
from rigbench.dataloader.loading import knee, timed
from rigbench.dataloader.record import (
    METHOD,
    NOT_KNOWN,
    Dataloader,
    DiskReads,
    LoadedData,
    LoadedPart,
    Loading,
    LoadingPath,
    Options,
    Sweep,
    Temperature,
    many,
)
from rigbench.machine import host
from rigbench.machine.accelerator import open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model import shards, text
from rigbench.model.batches import Batches
from rigbench.model.record import PackedDtype
from rigbench.model.shards import ITEM_BYTES
from rigbench.model.tokenizer import Tokenizer, open_tokenizer
from rigbench.model.tokens import open_tokens, read_sidecar, zipf_tokens
from rigbench.store import now
from rigbench.work.process import Report

if TYPE_CHECKING:
    from rigbench.model.tokens import Tokens

ZIPF_VOCABULARY = 50304
WARM_BYTES, WARM_MEMORY_SHARE = 1 << 30, 0.25  # the first part of a file, which surely stays in memory
JSONL_BYTES = 64 << 20
MOST_SAMPLE_BYTES = 8 << 20  # of text that is packed to compare
SAME_READS = Absent("the own loader's stands for it: the same reads")
SAMPLE = Absent("a sample, made to compare")
NO_GPU = Absent("no CUDA device to pin memory for")
SHARED_MEMORY_CURE = "give it more (docker run --shm-size 2g, or mount -o remount,size=2g /dev/shm)"


class Stopped(Exception):
    """Told to stop; what was measured is kept."""


def run(options: Options, report: Report) -> Dataloader:
    """Every path that the data has, on this machine's CPUs and to one device, in this process.

    Raises:
        RigbenchError: bad data or a bad dataset (exit 2), no such device, or nothing that could be timed (exit 3).
    """
    probe = _Probe(options, report)
    ended_by: EndedBy = "finished"
    try:
        if not isinstance(options.dataset, Absent):
            probe.dataset(options.dataset)
        elif not isinstance(options.data, Absent) and text.is_jsonl(Path(options.data)):
            probe.jsonl(Path(options.data))
        else:
            probe.tokens()
    except Stopped:
        ended_by = "interrupted"
    if report.should_stop():
        ended_by = "interrupted"
    if probe.sweeps:
        return probe.record(ended_by)
    report.check()
    why = "; ".join(probe.not_run) or "nothing was timed"
    raise RigbenchError(f"no way of loading could be timed: {why}", "try --workers 0", exit_code=NOTHING)


class _Probe:
    """The device, the data, and what has been timed."""

    def __init__(self, options: Options, report: Report) -> None:
        self.started_at, self.started = now(), time.perf_counter()
        self.options, self.report = options, report
        report.progress(0.0, "opening the device")
        cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
        self.accelerator = open_device(options.device)
        self.usable_cpus, self.usable_bytes = cpu.usable_cpus, memory.usable_bytes
        self.counts = options.worker_counts(cpu.usable_cpus)
        self.end_of_text = None if isinstance(options.end_of_text, Absent) else options.end_of_text
        self.batch_bytes = 2 * 8 * options.micro_batch * options.sequence  # inputs and labels, int64
        self.data: LoadedData | None = None
        self.disk: tuple[DiskReads, ...] | Absent = NOT_KNOWN
        self.on_gpu = self.accelerator.device.kind == "cuda"
        self.sweeps: list[Sweep] = []
        self.not_run: list[str] = []
        self.rows_done, self.rows_planned = 0, len(self.counts) + 4

    def record(self, ended_by: EndedBy) -> Dataloader:
        assert self.data
        return Dataloader(
            method=METHOD,
            started_at=self.started_at,
            seconds=time.perf_counter() - self.started,
            device=self.accelerator.device,
            data=self.data,
            micro_batch=self.options.micro_batch,
            sequence=self.options.sequence,
            usable_cpus=self.usable_cpus,
            sweeps=tuple(self.sweeps),
            disk=self.disk,
            ended_by=ended_by,
            not_run=tuple(self.not_run),
        )

    def _tell(self, text: str) -> None:
        """Say what comes next; leave first if told to.

        Raises:
            Stopped: told to stop.
        """
        if self.report.should_stop():
            raise Stopped
        self.report.progress(self.rows_done / max(self.rows_planned, self.rows_done + 1), text)
        self.rows_done += 1

    def _sweep(
        self,
        path: LoadingPath,
        make: Callable[[int, bool], sources.Source],
        counts: Sequence[int],
        *,
        of: LoadedPart = "the data",
        file: Path | None = None,
        used_bytes: int = 0,
        cold: Loading | Absent = NOT_KNOWN,
    ) -> Sweep | None:
        """A row for each number of workers, warm; None where none could be timed.

        `make` gives a source for a number of workers, and whether memory is pinned; `file` is what it reads, if known.

        Raises:
            Stopped: told to stop; the rows so far are kept.
        """
        rows: list[Loading] = []
        place = len(self.sweeps)
        sweep: Sweep | None = None
        for workers in counts:
            self._tell(f"{path}, {many(workers, 'worker')}")
            if lacks := sources.shared_memory_lacks(workers, self.batch_bytes if file else 0):
                self.not_run.append(f"{path}, {many(workers, 'worker')}: {lacks}; {SHARED_MEMORY_CURE}")
                continue
            share = cached_share(file, used_bytes) if file else NOT_KNOWN
            row = self._row(path, make(workers, self.on_gpu), workers, share)
            if isinstance(row, Absent):
                self.not_run.append(f"{path}, {many(workers, 'worker')}: {row.reason}")
                continue
            rows.append(row)
            sweep = Sweep(path=path, of=of, rows=tuple(rows), knee_workers=knee(rows), unpinned=NO_GPU, cold=cold)
            self.sweeps[place:] = [sweep]
            self.report.partial(self.record("worker died"))
        if sweep and self.on_gpu:
            workers = sweep.knee_workers
            self._tell(f"{path}, {many(workers, 'worker')}, not pinned")
            unpinned = self._row(path, make(workers, False), workers, sweep.knee.cached_share, pageable=True)
            sweep = self._replace(sweep, unpinned=unpinned)
        return sweep

    def _replace(self, sweep: Sweep, **fields: Loading | Absent) -> Sweep:
        """A sweep with more known of it, in its old place."""
        changed = replace(sweep, **fields)
        self.sweeps[self.sweeps.index(sweep)] = changed
        self.report.partial(self.record("worker died"))
        return changed

    def _row(
        self,
        path: LoadingPath,
        source: sources.Source,
        workers: int,
        cached: float | Absent,
        temperature: Temperature = "warm",
        pageable: bool = False,
    ) -> Loading | Absent:
        """One row, or why it could not be timed. The source is closed."""
        try:
            row = timed(
                source,
                limit_seconds=self.options.seconds,
                target_half_width=self.options.target_half_width,
                finish=self.accelerator.synchronize,
                should_stop=self.report.should_stop,
                path=path,
                workers=workers,
                temperature=temperature,
                pinned=self.on_gpu and not pageable,
                to_device=self.on_gpu,
                cached_share=cached,
            )
        except sources.NoSharedMemory as error:
            return Absent(f"no room in /dev/shm ({error}); {SHARED_MEMORY_CURE}")
        except sources.NotCold as error:
            return Absent(str(error))
        finally:
            source.close()
        return row or Absent("it ended before it could be timed")

    def tokens(self) -> None:
        """The memory map: from the disk, then from memory, by our own loader and by the tutorial's."""
        options, packed = self.options, None
        if isinstance(options.data, Absent):
            vocabulary = ZIPF_VOCABULARY
            tokens, data = zipf_tokens(Path(options.cache), vocabulary)
            path = Path(options.cache) / data.name
        else:
            path = shards.find(Path(options.data))[0]
            packed = read_sidecar(path)
            known = packed.vocabulary if packed else None
            tokens, data = open_tokens(Path(options.data), options.data_dtype, known, options.sequence)
            vocabulary = known or 1 << min(63, 8 * ITEM_BYTES[data.dtype])
        share = WARM_BYTES if isinstance(self.usable_bytes, Absent) else int(WARM_MEMORY_SHARE * self.usable_bytes)
        block_bytes = 4 * (options.sequence + 1)
        used_bytes = min(tokens.nbytes, max(block_bytes, min(WARM_BYTES, share) // 8 * 8))
        self.data = LoadedData(
            kind="generated" if isinstance(options.data, Absent) else "tokens",
            name=data.name,
            size_bytes=tokens.nbytes,
            used_bytes=used_bytes,
            tokens=data.tokens,
            item_bytes=tokens.itemsize,
            tokenizer=packed.tokenizer if packed else Absent("the file does not say"),
            layout="" if data.kind == "generated" else data.layout,
        )
        self._read_disk(path)
        self._tell("own loader, cold")
        source = sources.OwnSource(self._batches(tokens, vocabulary, data.name, ahead=False), cold=path)
        cold = self._row("own loader", source, 0, NOT_KNOWN, "cold")
        if not isinstance(cold, Absent):
            cold = replace(cold, cached_share=source.cached_share)
        self._mapped(tokens[: used_bytes // tokens.itemsize], vocabulary, path, cold)

    def jsonl(self, path: Path) -> None:
        """JSONL parsed and tokenized on the fly, from memory and from the disk; then the same text packed."""
        options = self.options
        size = text.check_source(path)
        if not path.is_file():
            raise RigbenchError(f"{path} is not a regular file", "pack it first: rigbench pack")
        if how := packed_by(text.head_of(path)):
            cure = f"unpack it, or make ids of it: `rigbench pack {path} -o tokens.bin`"
            raise RigbenchError(f"{path.name} is packed by {how}, and loaders begin anywhere in a file", cure)
        tokenizer = open_tokenizer(options.tokenizer, self.end_of_text)
        tally = text.Tally(options.skip_bad)
        for _ in text.jsonl_texts(path, options.field, tally):
            if tally.bytes >= JSONL_BYTES:
                break
        if not tally.documents:
            raise RigbenchError(f"{path} holds no text in the field {options.field!r}", "name another with --field")
        self.data = LoadedData(
            kind="jsonl",
            name=path.name,
            size_bytes=size,
            used_bytes=tally.bytes,
            item_bytes=Absent("text"),
            tokenizer=tokenizer.name,
            bad_lines=tally.bad_lines,
        )
        self._read_disk(path)
        read = (path, tally.bytes, options.field, options.tokenizer, self.end_of_text, options.sequence)

        def source(workers: int, pinned: bool, endless: bool = True) -> sources.LoaderSource:
            blocks = sources.JsonlBlocks(*read, endless)
            return self._loader(path, size, blocks, workers, pinned, endless)

        read_through(path, tally.bytes)
        sweep = self._sweep("jsonl", source, self.counts, file=path, used_bytes=tally.bytes)
        if sweep:
            self._tell("jsonl, cold")
            share, workers = made_cold(path), sweep.knee_workers
            if isinstance(share, Absent):
                self._replace(sweep, cold=share)
            else:
                one_pass = source(workers, self.on_gpu, False)
                self._replace(sweep, cold=self._row("jsonl", one_pass, workers, share, "cold"))
        self._packed_sample(path, tokenizer)

    def dataset(self, name: str) -> None:
        """Whatever the user's factory makes."""
        batches = sources.open_factory(name, self.options.folder, self.options.micro_batch)
        self.data = LoadedData(kind="dataset", name=name)

        def source(workers: int, pinned: bool) -> sources.LoaderSource:
            device = self.accelerator.torch_device
            return sources.LoaderSource(f"--dataset {name}", batches.loader(workers, pinned), device, pinned)

        self._sweep("dataset", source, self.counts if batches.workers is None else (batches.workers,))

    def _mapped(self, tokens: Tokens, vocabulary: int, path: Path, cold: Loading | Absent) -> None:
        """Ids in memory: our own loader, then the tutorial's with each number of workers; of a sample with none."""
        read_through(path, tokens.nbytes)
        mapped_bytes = len(tokens._mmap)  # type: ignore[attr-defined]
        of_data = cold is not SAMPLE

        def own(workers: int, pinned: bool) -> sources.OwnSource:
            return sources.OwnSource(self._batches(tokens, vocabulary, path.name, pinned=pinned))

        def tutorial(workers: int, pinned: bool) -> sources.LoaderSource:
            blocks = sources.MappedBlocks(tokens, self.options.sequence)
            return self._loader(path, mapped_bytes, blocks, workers, pinned)

        sweep = partial(
            self._sweep, of="the data" if of_data else "a packed sample", file=path, used_bytes=tokens.nbytes
        )
        sweep("own loader", own, (0,), cold=cold)
        counts, same = (self.counts, SAME_READS) if of_data else ((0,), SAMPLE)
        sweep("memory map", tutorial, counts, cold=same)

    def _packed_sample(self, path: Path, tokenizer: Tokenizer) -> None:
        """The first MiB of the same text as ids, mapped: what a conversion would bring."""
        self._tell("packing a sample")
        dtype: PackedDtype = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
        tally = text.Tally(self.options.skip_bad)
        ending = np.array([] if isinstance(tokenizer.end_of_text, Absent) else [tokenizer.end_of_text], np.uint32)
        until = time.perf_counter() + 2 * self.options.seconds
        parts = []
        for line in text.jsonl_texts(path, self.options.field, tally):
            parts += [*tokenizer.encode([line]), ending]
            if tally.bytes > MOST_SAMPLE_BYTES or time.perf_counter() > until:
                break
        ids = np.concatenate(parts).astype(f"<u{ITEM_BYTES[dtype]}")
        if ids.size <= self.options.sequence:
            self.not_run.append(f"a packed sample: {ids.size:,} tokens, fewer than one block")
            return
        cache = Path(self.options.cache)
        with contextlib.ExitStack() as stack:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(scratch(cache))
                sample = folder / "sample.bin"
                sample.write_bytes(ids.tobytes())
            except OSError as error:
                raise RigbenchError(
                    f"cannot write a packed sample to {cache} ({reason(error)})", "free space, or choose --home DIR"
                ) from None
            tokens, _ = open_tokens(sample, dtype, tokenizer.vocabulary, self.options.sequence)
            self._mapped(tokens, tokenizer.vocabulary, sample, SAMPLE)

    def _batches(
        self, tokens: Tokens, vocabulary: int, name: str, *, pinned: bool = True, ahead: bool | None = None
    ) -> Batches:
        dtype = next(name for name, item in ITEM_BYTES.items() if item == tokens.itemsize and name[0] == "u")
        B, T = self.options.micro_batch, self.options.sequence
        device = self.accelerator.torch_device
        return Batches(tokens, dtype, vocabulary, B, T, device, name, pinned=pinned, ahead=ahead)

    def _loader(
        self, file: Path, size: int, dataset: object, workers: int, pinned: bool, endless: bool = True
    ) -> sources.LoaderSource:
        loader = sources.loader_of(dataset, self.options.micro_batch, workers, pinned, forked=True)
        return sources.LoaderSource(file.name, loader, self.accelerator.torch_device, pinned, endless, file, size)

    def _read_disk(self, path: Path) -> None:
        self._tell("direct reads of the disk")
        self.disk = direct_reads(path, self.options.seconds / 2, self.report.should_stop)
