"""What a whole run measures, in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from rigbench.bandwidth import command as bandwidth
from rigbench.bandwidth.record import Options as BandwidthOptions
from rigbench.budget.training import short_slices, train_slices
from rigbench.collectives import command as collectives
from rigbench.collectives.record import Options as CollectivesOptions
from rigbench.core.errors import RigbenchError
from rigbench.core.options import NOT_GIVEN
from rigbench.core.record import Skipped
from rigbench.dataloader import command as dataloader
from rigbench.dataloader.record import Options as DataloaderOptions
from rigbench.doctor import diagnosis
from rigbench.job import Job
from rigbench.matmul import command as matmul
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.model.record import Model
from rigbench.p2p import command as p2p
from rigbench.p2p.record import Options as P2pOptions
from rigbench.thermals import command as thermals
from rigbench.thermals.record import Options as SoakOptions
from rigbench.train.record import Options as SliceOptions
from rigbench.work.record import WattOptions

QUICK_MATMUL_SECONDS = 18.0


class Stage(NamedTuple):
    """A room of the document, and what fills it."""

    room: str
    run: Callable[[Job], object]


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
    stages = [
        Stage("topology", lambda job: diagnosis.examine(job, load=bool(job.gpus), stored=False)),
        Stage("bandwidth", partial(bandwidth.run, options=transfers, device=where)),
        Stage("p2p", partial(p2p.run, options=pairs, device=device)),
        Stage("collectives", partial(collectives.run, options=groups, world=None)),
        Stage("matmul", partial(matmul.run, options=products)),
        Stage("slices", partial(train_slices, slices=slices, watts=watts)),
        Stage("dataloader", partial(dataloader.run, options=loader)),
    ]
    if not quick:
        stages.append(Stage("thermals", partial(thermals.run, options=SoakOptions(minutes=5.0, device=where))))
    return stages


def measure(job: Job, stages: Sequence[Stage]) -> None:
    """One after the other; what cannot run here is Skipped, and the others go on.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
    """
    for stage in stages:
        try:
            stage.run(job)
        except RigbenchError as error:
            job.keep(**{stage.room: Skipped(stage.room, str(error))})
