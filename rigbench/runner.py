"""Which probes run, in which order, and what of earlier runs does a budget rest on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rigbench import probes, store, survey
from rigbench.budget.backtest import coverage, of_rig
from rigbench.budget.comparable import StoredSlice
from rigbench.budget.plan import Question, check, plan
from rigbench.errors import NOTHING, RigbenchError
from rigbench.job import Job
from rigbench.records import Budget, Skipped, Slice
from rigbench.records.backtest import Coverage
from rigbench.stages import bandwidth, collectives, dataloader, matmul, p2p, thermals, train


@dataclass(frozen=True)
class Stages:
    """What `everything` measures. None: left out, because it would take too long."""

    bandwidth: probes.bandwidth.Options
    p2p: p2p.Asked
    collectives: collectives.Asked
    matmul: probes.matmul.Options
    slices: tuple[probes.train.Options, ...]
    dataloader: probes.dataloader.Options
    thermals: thermals.Options | None


def budget(job: Job, question: Question, short_slices: Sequence[probes.train.Options], device: str | None) -> Budget:
    """The plan from this rig's stored slices; where they do not answer it, the short ones are run first.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the question makes no sense, or nothing measured is near enough to answer it.
    """
    check(question)
    try:
        result = plan(question, _stored_slices(job, device), store.now(), _history(job))
    except RigbenchError as error:
        if error.exit_code != NOTHING or not short_slices:
            raise
        for options in short_slices:  # nothing stored is near enough to answer from
            _or_skip(job, "train", lambda options=options: _slice(job, options, question))  # type: ignore[misc]
        result = plan(question, _stored_slices(job, device), store.now(), _history(job))
    job.keep(budget=result)
    return result


def everything(job: Job, stages: Stages, question: Question) -> None:
    """Topology with its findings, copies and collectives, matmul, the slices, their loader, heat, then the budget.

    What cannot run here is Skipped, and the others go on.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
    """
    survey.doctor(job, load=bool(job.gpus))
    _or_skip(job, "bandwidth", lambda: bandwidth.run(job, stages.bandwidth))
    _or_skip(job, "p2p", lambda: p2p.run(job, stages.p2p))
    _or_skip(job, "collectives", lambda: collectives.run(job, stages.collectives, None))
    _or_skip(job, "matmul", lambda: matmul.run(job, stages.matmul))
    for options in stages.slices:
        _or_skip(job, "train", lambda options=options: _slice(job, options, question))  # type: ignore[misc]
    _or_skip(job, "dataloader", lambda: dataloader.run(job, stages.dataloader, None))
    soak = stages.thermals
    if soak:
        _or_skip(job, "thermals", lambda: thermals.run(job, soak))
    _or_skip(job, "budget", lambda: budget(job, question, (), stages.matmul.device))


def _slice(job: Job, options: probes.train.Options, question: Question) -> None:
    train.run(job, options, question.host, question.wall_watts)


def _history(job: Job) -> Coverage | None:
    tests = of_rig(job.store.readable()[0], job.run.rig.fingerprint)
    return coverage(tests) if tests else None


def _stored_slices(job: Job, device: str | None) -> list[StoredSlice]:
    """This run's own slices first, then those of earlier runs of this rig, newest first; one device kind if asked."""
    earlier, unreadable = job.store.readable()
    for line in unreadable:
        job.warn(line)
    earlier = [run for run in earlier if run.rig.fingerprint == job.run.rig.fingerprint and run.id != job.run.id]
    others = {str(run.software.torch) for run in earlier if run.slices} - {str(job.run.software.torch)}
    if others:
        job.warn(f"some stored slices were measured with torch {', '.join(sorted(others))}")
    runs = [job.run, *earlier]
    kind = None if device in (None, "auto") else str(device).partition(":")[0]
    return [
        StoredSlice(run.id, item)
        for run in runs
        for item in run.slices
        if isinstance(item, Slice) and kind in (None, item.device.kind)
    ]


def _or_skip(job: Job, probe: str, work: Callable[[], object]) -> None:
    try:
        work()
    except RigbenchError as error:
        skipped = Skipped(probe, str(error))
        if probe == "train":
            job.keep(slices=(*job.run.slices, skipped))
        else:
            job.keep(**{probe: skipped})
