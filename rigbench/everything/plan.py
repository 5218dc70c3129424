"""What a whole run measures, in which order, and about how long each part takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from rigbench.bandwidth import command as bandwidth
from rigbench.bandwidth.record import Options as BandwidthOptions
from rigbench.budget.brief import sentence
from rigbench.budget.record import Budget
from rigbench.budget.training import in_their_time, short_slices, train_slices
from rigbench.collectives import command as collectives
from rigbench.collectives.record import Options as CollectivesOptions
from rigbench.core.errors import NOTHING, RigbenchError, did_you_mean
from rigbench.core.options import NOT_GIVEN
from rigbench.core.record import Absent, Skipped
from rigbench.core.screen import Headline
from rigbench.dataloader import command as dataloader
from rigbench.dataloader.record import Options as DataloaderOptions
from rigbench.doctor import diagnosis
from rigbench.everything.progress import Overall
from rigbench.everything.record import Opened, OpenOptions
from rigbench.job import Job
from rigbench.machine import pci
from rigbench.matmul import command as matmul
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.model.record import Model
from rigbench.p2p import command as p2p
from rigbench.p2p.record import Options as P2pOptions
from rigbench.predict import ceilings
from rigbench.report import first_screen
from rigbench.thermals import command as thermals
from rigbench.thermals.record import Options as SoakOptions
from rigbench.train.record import Options as SliceOptions
from rigbench.train.record import Slice
from rigbench.usable import BUSY
from rigbench.work.record import WattOptions

QUICK_MATMUL_SECONDS = 18.0
OPENS, OPEN_SECONDS = "rigbench.everything.probe", 180.0  # at most, to load torch and make a context on each GPU
STAGE_OF = {"training": "slices", "train-probe": "slices", "heat": "thermals"}  # other names, as screens say them
START_SECONDS = 6.0  # of a worker that loads torch


class Stage(NamedTuple):
    """A room of the document, what fills it, and about how long that takes."""

    room: str
    run: Callable[[Job], object]
    seconds: float = START_SECONDS


def whole_run(models: Sequence[Model], quick: bool, device: str | None, watts: WattOptions) -> list[Stage]:
    """Quick: short looks, three short slices and no soak. In full: longer ones, a slice of every model, a soak."""
    where = device or "auto"
    transfers = BandwidthOptions(seconds=10.0, largest_bytes=256 << 20) if quick else BandwidthOptions()
    pairs = P2pOptions(times=1 if quick else 3)
    groups = CollectivesOptions(seconds=8.0 if quick else NOT_GIVEN, device=where)
    products = MatmulOptions(model=models[-1], device=where, seconds=QUICK_MATMUL_SECONDS if quick else NOT_GIVEN)
    every_size = tuple(SliceOptions(model=model, device=where) for model in models)
    slices = short_slices(models, device) if quick else every_size
    loader = DataloaderOptions(device=where, workers=(0, 2) if quick else NOT_GIVEN, seconds=1.0 if quick else 2.0)
    training = sum(it.seconds or 60.0 for it in slices) + START_SECONDS * len(slices)
    stages = [
        Stage("topology", lambda job: diagnosis.examine(job, load=bool(job.gpus), stored=False), 1.0),
        Stage("bandwidth", partial(bandwidth.run, options=transfers, device=where), transfers.seconds + START_SECONDS),
        Stage("p2p", partial(p2p.run, options=pairs, device=device), 2.0),
        Stage("collectives", partial(collectives.run, options=groups, world=None), 14.0 if quick else 50.0),
        Stage("matmul", partial(matmul.run, options=products), 24.0 if quick else 60.0),
        Stage("slices", partial(_train, slices=slices, models=models, device=device, watts=watts), training),
        Stage("dataloader", partial(dataloader.run, options=loader), 20.0 if quick else 40.0),
    ]
    if not quick:
        stages.append(Stage("thermals", partial(thermals.run, options=SoakOptions(minutes=5.0, device=where)), 310.0))
    return stages


def _train(
    job: Job, slices: Sequence[SliceOptions], models: Sequence[Model], device: str | None, watts: WattOptions
) -> None:
    runs = job.newest("matmul", "bandwidth", "dataloader", "collectives")
    known = ceilings.from_runs(runs, job.cards(device).alike.gpus)
    trained = [it.model.name for it in job.run.slices if isinstance(it, Slice)]  # before this run was cut short
    left = [it for it in in_their_time(job, slices, models, known) if it.model.name not in trained]
    if left:
        train_slices(job, left, watts)


def chosen(stages: Sequence[Stage], only: Sequence[str], skip: Sequence[str]) -> list[Stage]:
    """Those of --only and not of --skip, in their order."""
    names = [stage.room for stage in stages]
    only, skip = ([STAGE_OF.get(name, name) for name in asked] for asked in (only, skip))
    for option, asked in (("--only", only), ("--skip", skip)):
        for name in asked:
            if name not in names:
                said = [first_screen.NAMES.get(stage, stage) for stage in names]
                cure = f"{did_you_mean(name, said)}its stages: {', '.join(said)}"
                raise RigbenchError(f"{option} {name[:40]!r} is no stage of this run", cure)
    left = [stage for stage in stages if (not only or stage.room in only) and stage.room not in skip]
    if not left:
        raise RigbenchError(
            "--only and --skip leave nothing to do",
            f"the stages: {', '.join(first_screen.NAMES.get(it, it) for it in names)}",
        )
    return left


def refuse_blocked(job: Job, device: str | None, stages: Sequence[Stage]) -> None:
    """Before anything is measured. A machine without a trace of GPUs is not looked at: that takes loading torch.

    Raises:
        RigbenchError: there is no such device, torch cannot use the GPUs, or one of them cannot be opened.
    """
    cards = job.cards(device).gpus
    tree = pci.devices(job.rig.sysfs)
    there = not isinstance(tree, Absent) and any((it.kind, it.vendor_id) == ("GPU", pci.NVIDIA) for it in tree)
    of_others = any(f"+{name}" in str(job.run.software.torch) for name in ("rocm", "xpu"))
    without_torch = all(stage.room == "topology" for stage in stages)
    of_cards = (device or "").startswith("cuda")  # asked for by name
    if device == "cpu" or without_torch or not (cards or there or of_others or of_cards):
        return
    job.progress.stage("opening the GPUs", START_SECONDS)
    opened = job.measure(OPENS, OpenOptions(device or "auto"), Opened, limit_seconds=OPEN_SECONDS)
    if isinstance(opened, Skipped):
        what = f"the GPUs could not be opened: {opened.reason}"
        raise RigbenchError(what, "see nvidia-smi and dmesg; or measure the CPU: --device cpu", NOTHING)


def measure(job: Job, stages: Sequence[Stage]) -> None:
    """One after the other; what cannot run here is Skipped, and the others go on. What has ended is passed over.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
    """
    overall = job.progress if isinstance(job.progress, Overall) else None
    for stage in stages:
        if stage.room in job.run.ended:
            continue
        if overall:
            overall.begin(stage.room)
        try:
            stage.run(job)
        except RigbenchError as error:
            job.keep(**{stage.room: Skipped(stage.room, str(error))})
        job.keep(ended=(*job.run.ended, stage.room))
        if overall:
            overall.end(stage.room, headline(job, stage.room))


def headline(job: Job, room: str) -> Headline:
    """What a stage came to, by the screen of its feature."""
    disturbed = job.run.disturbed(room)
    if disturbed and not job.keep_disturbed:
        return "warn", f"{BUSY}: {disturbed[0].evidence[0]}"
    if room == "budget" and isinstance(job.run.budget, Budget):
        return "ok", sentence(job.run.budget)
    return first_screen.verdict(job.run, room)
