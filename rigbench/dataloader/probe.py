"""How many tokens per second can be loaded, by which path, with how many workers?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy, Record
from rigbench.dataloader.cold import cold_loading
from rigbench.dataloader.datasets import JsonlWindow, MappedBlocks, jsonl_blocks, loader_of
from rigbench.dataloader.disk import direct_reads
from rigbench.dataloader.factory import open_factory
from rigbench.dataloader.page_cache import made_cold, read_through
from rigbench.dataloader.record import Dataloader, DiskReads, LoadedData, Loading, Sweep
from rigbench.dataloader.samples import first_ids, written
from rigbench.dataloader.sources import LoaderSource, OwnSource
from rigbench.dataloader.sweeps import NOT_KNOWN, Stopped, Sweeper
from rigbench.machine import host
from rigbench.machine.accelerator import open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model import text
from rigbench.model.batches import Batches
from rigbench.model.tokenizer import Tokenizer, open_tokenizer
from rigbench.model.tokens import ITEM_BYTES, AskedDtype, Dtype, open_tokens, read_sidecar, zipf_tokens
from rigbench.store import now
from rigbench.work.process import Report

METHOD = 1
ZIPF_VOCABULARY = 50304
WARM_BYTES, WARM_MEMORY_SHARE = 1 << 30, 0.25  # the first part of a file, which surely stays in memory
JSONL_BYTES = 64 << 20
SAME_READS = Absent("the own loader's stands for it: the same reads")


class Options(Record, frozen=True):
    """`data` is a file of token ids or JSONL, "" for generated ids; or `dataset` names a factory.

    `folder` is where the command was typed, from where the factory is imported; `cache` is for generated files. The
    stage names both. `seconds` is the most for each row. `end_of_text` "" is the tokenizer's own.
    """

    device: str = "auto"
    data: str = ""
    data_dtype: AskedDtype = "auto"
    field: str = "text"
    skip_bad: bool = False
    tokenizer: str = "bytes"
    end_of_text: str = ""
    dataset: str = ""
    folder: str = ""
    cache: str = ""
    micro_batch: int = 8
    sequence: int = 1024
    workers: tuple[int, ...] = (0, 1, 2)
    seconds: float = 2.0
    target_half_width: float = 0.01


def run(options: Options, report: Report) -> Dataloader:
    """Every path that the data has, on this machine's CPUs and to one device, in this process.

    Raises:
        RigbenchError: bad data or a bad dataset (exit 2), no such device, or nothing that could be timed (exit 3).
    """
    probe = _Probe(options, report)
    ended_by: EndedBy = "finished"
    try:
        if options.dataset:
            probe.dataset()
        elif options.data and text.is_jsonl(Path(options.data)):
            probe.jsonl()
        else:
            probe.tokens()
    except Stopped:
        ended_by = "interrupted"
    if report.should_stop():
        ended_by = "interrupted"
    if probe.sweeper.sweeps:
        return probe.record(ended_by)
    report.check()
    why = "; ".join(probe.sweeper.not_run) or "nothing was timed"
    raise RigbenchError(f"no way of loading could be timed: {why}", "try --workers 0", exit_code=NOTHING)


class _Probe:
    """The device, the data, and what has been timed."""

    def __init__(self, options: Options, report: Report) -> None:
        self.started_at, self.started = now(), time.perf_counter()
        self.options, self.report = options, report
        report.progress(0.0, "loading torch")
        cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
        self.accelerator = open_device(options.device)
        self.usable_cpus, self.usable_bytes = cpu.usable_cpus, memory.usable_bytes
        self.batch_bytes = 2 * 8 * options.micro_batch * options.sequence  # inputs and labels, int64
        self.data: LoadedData | None = None
        self.disk: tuple[DiskReads, ...] | Absent = NOT_KNOWN
        self.sweeper = Sweeper(
            self.accelerator,
            report,
            seconds=options.seconds,
            target_half_width=options.target_half_width,
            rows_planned=len(options.workers) + 4,
            keep=lambda: report.partial(self.record("worker died")),
        )

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
            sweeps=tuple(self.sweeper.sweeps),
            disk=self.disk,
            demand_tokens_per_s=Absent("not compared"),
            headrooms=(),
            gains=(),
            ended_by=ended_by,
            telemetry=Absent("no sensor was read beside this probe"),
            not_run=tuple(self.sweeper.not_run),
        )

    def tokens(self) -> None:
        """The memory map: from the disk, then from memory, by our own loader and by the tutorial's."""
        options, path = self.options, Path(self.options.data)
        packed = read_sidecar(path) if options.data else None
        if options.data:
            vocabulary = packed.vocabulary if packed else None
            tokens, data = open_tokens(path, options.data_dtype, vocabulary, options.sequence)
            vocabulary = vocabulary or 1 << 8 * ITEM_BYTES[data.dtype]
        else:
            vocabulary = ZIPF_VOCABULARY
            tokens, data = zipf_tokens(Path(options.cache), vocabulary)
            path = Path(options.cache) / data.name
        used_bytes = min(tokens.nbytes, self._warm_bytes())
        self.data = LoadedData(
            kind="tokens" if options.data else "generated",
            name=data.name,
            size_bytes=tokens.nbytes,
            used_bytes=used_bytes,
            tokens=data.tokens,
            item_bytes=tokens.itemsize,
            tokenizer=packed.tokenizer if packed else Absent("the file does not say"),
            bad_lines=0,
        )
        self._read_disk(path)
        self.sweeper.tell("own loader, cold")
        with self._batches(tokens, vocabulary, data.name, ahead=False) as batches:
            cold = cold_loading(batches, path, self.accelerator, options.seconds, self.report.should_stop)
        self._mapped(tokens[: used_bytes // tokens.itemsize], vocabulary, path, options.workers, cold)

    def jsonl(self) -> None:
        """JSONL parsed and tokenized on the fly, from memory and from the disk; then the same text packed."""
        options, path = self.options, Path(self.options.data)
        size = text.check_source(path)
        if not path.is_file():
            raise RigbenchError(f"{path} is not a regular file", "pack it first: rigbench pack")
        tokenizer = open_tokenizer(options.tokenizer, options.end_of_text or None)
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
            tokens=Absent("not counted"),
            item_bytes=Absent("text"),
            tokenizer=tokenizer.name,
            bad_lines=tally.bad_lines,
        )
        self._read_disk(path)
        window = JsonlWindow(path, tally.bytes, options.field, options.tokenizer, options.end_of_text or None)

        def source(workers: int, pinned: bool, endless: bool = True) -> LoaderSource:
            blocks = jsonl_blocks(window, options.sequence, endless)
            return self._source(path, size, blocks, workers, pinned, endless)

        read_through(path, tally.bytes)
        sweep = self.sweeper.sweep(
            "jsonl", source, options.workers, file=path, used_bytes=tally.bytes, batch_bytes=self.batch_bytes
        )
        if sweep:
            self.sweeper.tell("jsonl, cold")
            self.sweeper.replace(sweep, cold=self._cold_pass(sweep, path, source))
        self._packed_sample(path, tokenizer)

    def dataset(self) -> None:
        """Whatever the user's factory makes."""
        options = self.options
        made = open_factory(options.dataset, options.folder, options.micro_batch)
        self.data = LoadedData(
            kind="dataset",
            name=options.dataset,
            size_bytes=NOT_KNOWN,
            used_bytes=NOT_KNOWN,
            tokens=Absent("not counted"),
            item_bytes=NOT_KNOWN,
            tokenizer=NOT_KNOWN,
            bad_lines=0,
        )
        name = f"--dataset {options.dataset}"

        def source(workers: int, pinned: bool) -> LoaderSource:
            return LoaderSource(name, made.loader(workers, pinned), self.accelerator.torch_device, pinned)

        self.sweeper.sweep("dataset", source, options.workers if made.workers is None else (made.workers,))

    def _mapped(
        self, tokens: Any, vocabulary: int, path: Path, counts: tuple[int, ...], cold: Loading | Absent | None
    ) -> None:
        """Ids in memory: our own loader, then the tutorial's with each number of workers. No `cold`: a sample."""
        read_through(path, tokens.nbytes)
        mapped_bytes = len(tokens._mmap)

        def own(workers: int, pinned: bool) -> OwnSource:
            return OwnSource(self._batches(tokens, vocabulary, path.name, pinned=pinned))

        def tutorial(workers: int, pinned: bool) -> LoaderSource:
            blocks = MappedBlocks(tokens, self.options.sequence)
            return self._source(path, mapped_bytes, blocks, workers, pinned)

        sample = Absent("a sample, made to compare")
        shared: Any = {
            "file": path,
            "used_bytes": tokens.nbytes,
            "of": "the data" if cold else "a packed sample",
            "batch_bytes": self.batch_bytes,
        }
        self.sweeper.sweep("own loader", own, (0,), cold=cold or sample, **shared)
        self.sweeper.sweep("memory map", tutorial, counts, cold=SAME_READS if cold else sample, **shared)

    def _packed_sample(self, path: Path, tokenizer: Tokenizer) -> None:
        """The first MiB of the same text as ids, mapped: what a conversion would bring."""
        self.sweeper.tell("packing a sample")
        dtype: Dtype = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
        ids = first_ids(path, self.options.field, tokenizer, dtype, self.options.skip_bad, 2 * self.options.seconds)
        if ids.size <= self.options.sequence:
            self.sweeper.not_run.append(f"a packed sample: {ids.size:,} tokens, fewer than one block")
            return
        sample = Path(self.options.cache) / f"sample-{os.getpid()}.bin"
        with written(sample, ids):
            tokens, _ = open_tokens(sample, dtype, tokenizer.vocabulary, self.options.sequence)
            self._mapped(tokens, tokenizer.vocabulary, sample, (0,), None)

    def _batches(
        self, tokens: Any, vocabulary: int, name: str, *, pinned: bool = True, ahead: bool | None = None
    ) -> Batches:
        dtype, device = ("uint16" if tokens.itemsize == 2 else "uint32"), self.accelerator.torch_device
        B, T = self.options.micro_batch, self.options.sequence
        return Batches(tokens, dtype, vocabulary, B, T, device, name, pinned=pinned, ahead=ahead)  # type: ignore[arg-type]

    def _source(
        self, file: Path, size: int, dataset: Any, workers: int, pinned: bool, endless: bool = True
    ) -> LoaderSource:
        loader = loader_of(dataset, self.options.micro_batch, workers, pinned, own=True)
        return LoaderSource(file.name, loader, self.accelerator.torch_device, pinned, endless, file, size)

    def _cold_pass(
        self, sweep: Sweep, path: Path, source: Callable[[int, bool, bool], LoaderSource]
    ) -> Loading | Absent:
        """One pass over a file that has just been put out of memory."""
        share = made_cold(path)
        if isinstance(share, Absent):
            return share
        row = self.sweeper.row(
            sweep.path,
            lambda workers, pinned: source(workers, pinned, False),
            sweep.knee_workers,
            pinned=self.sweeper.on_gpu,
            cached=share,
            temperature="cold",
        )
        return row or Absent("the file is too short for one pass to be timed")

    def _read_disk(self, path: Path) -> None:
        self.sweeper.tell("direct reads of the disk")
        self.disk = direct_reads(path, self.options.seconds / 2, self.report.should_stop)

    def _warm_bytes(self) -> int:
        share = WARM_BYTES if isinstance(self.usable_bytes, Absent) else int(WARM_MEMORY_SHARE * self.usable_bytes)
        block = 4 * (self.options.sequence + 1)
        return max(block, min(WARM_BYTES, share) // 8 * 8)
