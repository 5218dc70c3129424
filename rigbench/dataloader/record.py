"""What the loader probe and `pack` are told, and how fast batches were made next to what the device trains on."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, seconds, whole
from rigbench.core.record import Absent, Device, EndedBy, Figure, Record, Telemetry
from rigbench.model.record import AskedDtype

METHOD = 1
LONGEST_SEQUENCE, LARGEST_MICRO_BATCH = 1 << 20, 1 << 16
MOST_WORKERS, MOST_DEFAULT_WORKERS = 256, 16

NOT_KNOWN = Absent("what it reads is not known")

TokenType = Literal["auto", "uint16", "uint32"]
LoadingPath = Literal["own loader", "memory map", "jsonl", "dataset"]
LoadedPart = Literal["the data", "a packed sample"]
Temperature = Literal["warm", "cold"]
Bound = Literal["yes", "no", "cannot be told"]

TOKENIZER = Option(TEXT, "A tokenizer.json, or bytes (257 ids).", "FILE|bytes")
END_OF_TEXT = Option(TEXT, "The token after each document, or none. Default: the tokenizer's own.", "TOKEN", ("--eot",))


WORKERS = Reader(
    lambda text, option: tuple(sorted({units.parse_whole(word, option, 0, MOST_WORKERS) for word in text.split(",")}))
)
DEMAND = Reader(lambda text, option: Figure(units.parse_count(text, option), "declared", option))


class Options(Record, frozen=True, kw_only=True):
    data: Annotated[
        str | Absent,
        Option(TEXT, "Token ids (.bin, .npy, a folder) or JSONL. Default: a generated file of ids.", "FILE"),
    ] = NOT_GIVEN
    data_dtype: Annotated[
        AskedDtype, Option(None, "The type of an id in --data. auto: by its header or packing, else uint16.")
    ] = "auto"
    field: Annotated[str, Option(TEXT, "JSONL's field with the text.", "NAME")] = "text"
    skip_bad: Annotated[bool, Option(None, "Leave out bad lines of JSONL, counted.")] = False
    tokenizer: Annotated[str, TOKENIZER] = "bytes"
    end_of_text: Annotated[str | Absent, END_OF_TEXT] = NOT_GIVEN
    dataset: Annotated[
        str | Absent,
        Option(
            TEXT,
            "Your own: a function that returns a torch Dataset, or an iterable of batches (a DataLoader).",
            "package.module:factory",
            private=True,
        ),
    ] = NOT_GIVEN
    micro_batch: Annotated[int, Option(whole(1, LARGEST_MICRO_BATCH), "Sequences a batch.", "N")] = 8
    sequence: Annotated[int, Option(whole(8, LONGEST_SEQUENCE), "Tokens per sequence.", "N", ("--seq",))] = 1024
    workers: Annotated[
        tuple[int, ...] | Absent,
        Option(WORKERS, "Worker processes to try. Default: doubling, to the CPUs there are.", "0,1,2"),
    ] = NOT_GIVEN
    seconds: Annotated[float, Option(seconds(), "At most this long for each row.", "TIME")] = 2.0
    demand_tokens_per_s: Annotated[
        Figure | Absent,
        Option(
            DEMAND, "What training needs. Default: as this rig's newest training run.", "N", ("--tokens-per-second",)
        ),
    ] = NOT_GIVEN
    # What the command adds for the probe.
    device: str = "auto"
    folder: str = ""  # where the command was typed, from where a factory is imported
    cache: str = ""  # for generated files
    target_half_width: float = 0.01

    def worker_counts(self, usable_cpus: float | Absent) -> tuple[int, ...]:
        """Those that were given, else 0, 1, doubling up to as many as there are CPUs to use, and that number; 16 at
        most."""
        if not isinstance(self.workers, Absent):
            return self.workers
        cpus = os.cpu_count() or 1 if isinstance(usable_cpus, Absent) else max(1, int(usable_cpus))
        most = min(cpus, MOST_DEFAULT_WORKERS)
        doubling = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
        return tuple(sorted({0, *doubling, most}))


class PackOptions(Record, frozen=True, kw_only=True):
    tokenizer: Annotated[str, TOKENIZER] = "bytes"
    field: Annotated[
        str | Absent,
        Option(TEXT, "The field or column with the text, as data.text; given, no source is plain text.", "NAME"),
    ] = NOT_GIVEN
    end_of_text: Annotated[str | Absent, END_OF_TEXT] = NOT_GIVEN
    separator: Annotated[
        str | Absent, Option(TEXT, "What stands between a text file's documents, as '<|endoftext|>'.", "TEXT")
    ] = NOT_GIVEN
    dtype: Annotated[TokenType, Option(None, "auto: uint16 where the vocabulary fits.")] = "auto"
    skip_bad: Annotated[bool, Option(None, "Leave out bad lines, counted, and go on.")] = False
    force: Annotated[bool, Option(None, "Replace a file that is there.")] = False


class Loading(Record, frozen=True, kw_only=True):
    """One way of making batches, timed as a training loop would wait for them."""

    path: LoadingPath
    workers: int  # 0: the training process itself
    temperature: Temperature
    pinned: bool
    to_device: bool
    cached_share: float | Absent  # of the file, in memory just before; of a cold number the largest of its rounds
    startup_seconds: float | Absent  # until the first batch; they are in no rate
    batches_per_sample: int
    tokens: tuple[int, ...]  # in each sample: inputs, not labels
    seconds: tuple[float, ...]  # of every sample after the start
    steady_from: int  # the first sample that `tokens_per_s` is made of
    tokens_per_s: Estimate
    restarts: int  # of a dataset that came to its end; they are in no rate
    ended_by: EndedBy


class Sweep(Record, frozen=True, kw_only=True):
    """One path over its worker counts, warm."""

    path: LoadingPath
    of: LoadedPart  # the data that was asked for, or a sample of it, packed to compare
    rows: tuple[Loading, ...]
    knee_workers: int  # the fewest whose rate cannot be told from the best's
    unpinned: Loading | Absent  # the knee again without pinned memory
    cold: Loading | Absent

    @property
    def knee(self) -> Loading:
        return next(row for row in self.rows if row.workers == self.knee_workers)


class DiskReads(Record, frozen=True):
    """Direct reads of the file, past the page cache, one after another."""

    order: Literal["in order", "at random"]
    block_bytes: int
    seconds: tuple[float, ...]  # of each
    bytes_per_s: Estimate


class LoadedData(Record, frozen=True, kw_only=True):
    """What was loaded."""

    kind: Literal["tokens", "generated", "jsonl", "dataset"]
    name: str  # a base name, or `package.module:factory`
    size_bytes: int | Absent = NOT_KNOWN
    used_bytes: int | Absent = NOT_KNOWN  # the file's first part, of which warm numbers are made: it stays in memory
    tokens: int | Absent = Absent("not counted")
    item_bytes: int | Absent = NOT_KNOWN
    tokenizer: str | Absent = NOT_KNOWN
    layout: str = ""  # of token ids: what the file is, and how their type was known
    bad_lines: int = 0


class Headroom(Record, frozen=True):
    """How many times over a path feeds the device."""

    path: LoadingPath
    workers: int
    temperature: Temperature
    times: Estimate
    io_bound: Bound  # where `times` is below 1, as far as its interval tells


class Gain(Record, frozen=True):
    """What a change would bring: `times` as many tokens/s, measured."""

    change: str
    times: Estimate


class Dataloader(Record, frozen=True, kw_only=True):
    """Tokens per second by path and worker count, next to what the device trains on."""

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
    demand_tokens_per_s: Figure | Absent = Absent("not compared")  # of each loader
    loaders: int = 1  # that work at once where several ranks train: each has its own
    headrooms: tuple[Headroom, ...] = ()  # of each path at its knee; first the path that the data stands for
    gains: tuple[Gain, ...] = ()
    ended_by: EndedBy
    telemetry: Telemetry | Absent = Absent("no sensor was read beside this probe")
    notes: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


def many(count: int, noun: str) -> str:
    """ "1 worker", "2 workers"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
