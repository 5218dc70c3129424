"""The commands about data: does the loader keep up, and pack, which makes files that load fast."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rigbench.command import Common, command, say
from rigbench.core.record import Absent, Figure
from rigbench.dataloader.record import Dataloader, Options, PackOptions

if TYPE_CHECKING:
    from rigbench.core.record import Skipped
    from rigbench.job import Job

MARGIN_SECONDS = 120.0  # beyond the rows' own seconds: loading torch, a slow factory, packing a sample
ROW_MARGIN_SECONDS = 60.0  # workers that start, and a last batch that takes long
NO_DEMAND = Absent(
    "no training run of this rig is stored; run `rigbench train-probe`, or say what it needs with --tokens-per-second"
)


@command("device", "keep_disturbed")
def dataloader(common: Common, options: Options) -> int:
    """Does the data loader keep up? Tokens/s by path and workers, from memory and disk, next to what training needs.

    rigbench dataloader
    rigbench dataloader --data train.bin --workers 0,4,8
    rigbench dataloader --dataset mydata:make    a torch Dataset of yours
    """
    from rigbench.core.errors import RigbenchError

    if not isinstance(options.data, Absent) and not isinstance(options.dataset, Absent):
        raise RigbenchError("--data and --dataset exclude each other", "give one of them")
    options = msgspec.structs.replace(options, device=common.device or "auto")
    return common.answer(lambda job: run(job, options))


def run(job: Job, options: Options) -> Dataloader | Skipped:
    """The loader probe in its own process, next to what was declared, or what a slice of this rig trains.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: bad data or a bad dataset, or nothing that could be timed.
    """
    from rigbench.dataloader import verdict
    from rigbench.machine import host

    counts = options.worker_counts(host.cpu(job.rig.sysfs).usable_cpus)
    cache = str(job.store.home / "cache")
    options = msgspec.structs.replace(options, workers=counts, folder=os.getcwd(), cache=cache)
    rows = len(counts) + 5
    job.progress.stage("dataloader", rows * options.seconds + 5)

    def complete(result: Dataloader) -> Dataloader:
        declared = options.demand_tokens_per_s
        demand, loaders = needed(job, result.device.kind) if isinstance(declared, Absent) else (declared, 1)
        result = msgspec.structs.replace(result, loaders=loaders)
        return verdict.completed(result, demand, isinstance(host.virtual_machine(job.rig.sysfs), str))

    return job.measure(
        "rigbench.dataloader.probe",
        options,
        Dataloader,
        limit_seconds=rows * (options.seconds + ROW_MARGIN_SECONDS) + MARGIN_SECONDS,
        # A tokenizer's own threads would be forked into the workers, which it refuses with a warning.
        environment={"TOKENIZERS_PARALLELISM": "false"},
        room="dataloader",
        complete=complete,
    )


def needed(job: Job, kind: str) -> tuple[Figure | Absent, int]:
    """What one loader has to give, and how many work at once: every rank has its own.

    By the newest slice of this rig on that kind of device: this run's own, else a stored one; of one run's slices by
    those that trained on all its cards, as a full run would.
    """
    known = (stored for stored in job.slices() if stored.slice.device.kind == kind and not stored.disturbed)
    slices = [stored for stored in known if stored.slice.tokens_per_s.level > 0]  # one step alone says nothing
    if not slices:
        return NO_DEMAND, 1
    newest = max(slices, key=lambda stored: (stored.slice.started_at, stored.run_id))
    slices = [stored for stored in slices if stored.run_id == newest.run_id]
    most = max(stored.slice.cards for stored in slices)
    newest = max((it for it in slices if it.slice.cards == most), key=lambda it: it.slice.started_at)
    ranks = newest.slice.recipe.ranks
    rate = newest.slice.tokens_per_s / ranks
    basis = f"{newest.slice.model.name} as trained in run {newest.run_id}, on {kind}"
    basis += f", each of {ranks} ranks" if ranks > 1 else ""
    return Figure(value=rate.value, source="measured", basis=basis, low=rate.low, high=rate.high), ranks


@command()
def pack(
    common: Common,
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Text, a document each; JSONL; Parquet.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.bin", help="The file of ids to write.")],
    options: PackOptions,
) -> int:
    """Tokenize text or JSONL into a file of ids, which loads many times faster, with a document that describes it.

    rigbench pack books/*.txt -o books.bin
    rigbench pack web.jsonl.gz -o web.bin --tokenizer tokenizer.json
    rigbench pack stories.txt -o stories.bin --separator '<|endoftext|>'
    rigbench dataloader --data web.bin    how fast it loads
    """
    from rigbench.core.errors import FINE, INTERRUPTED
    from rigbench.core.home import sweep
    from rigbench.core.progress import make_progress
    from rigbench.dataloader import packing
    from rigbench.store import encode

    sweep(output.parent)
    progress = make_progress(common.quiet)
    try:
        packed = packing.run(sources, output, options, progress)
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return INTERRUPTED
    finally:
        progress.close()
    if common.json:
        sys.stdout.write(encode(packed).decode())
    else:
        from rigbench.dataloader import screen

        folder = "" if output.parent == Path() else f"{output.parent}/"
        screen.show_packed(packed, folder, common.console(), hint=not common.quiet)
    return FINE
