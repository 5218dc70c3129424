"""Which probes run, in which order, and what of earlier runs does a budget rest on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rigbench import store, survey
from rigbench.budget.comparable import StoredSlice
from rigbench.budget.plan import Question, check, plan
from rigbench.errors import NOTHING, RigbenchError
from rigbench.job import Job
from rigbench.probes import matmul as matmul_probe
from rigbench.probes import train as train_probe
from rigbench.records import Budget, Skipped, Slice
from rigbench.stages import matmul, train


@dataclass(frozen=True)
class Stages:
    """What `everything` measures."""

    matmul: matmul_probe.Options
    slices: tuple[train_probe.Options, ...]


def budget(job: Job, question: Question, short_slices: Sequence[train_probe.Options], device: str | None) -> Budget:
    """The plan from this rig's stored slices; where they do not answer it, the short ones are run first.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the question makes no sense, or nothing measured is near enough to answer it.
    """
    check(question)
    try:
        result = plan(question, _stored_slices(job, device), store.now())
    except RigbenchError as error:
        if error.exit_code != NOTHING or not short_slices:
            raise
        for options in short_slices:  # nothing stored is near enough to answer from
            _or_skip(job, "train", lambda options=options: train.run(job, options))  # type: ignore[misc]
        result = plan(question, _stored_slices(job, device), store.now())
    job.keep(budget=result)
    return result


def everything(job: Job, stages: Stages, question: Question) -> None:
    """Topology with its findings, matmul, the slices, then the budget.

    What cannot run here is Skipped, and the others go on.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
    """
    survey.doctor(job, load=bool(job.gpus))
    _or_skip(job, "matmul", lambda: matmul.run(job, stages.matmul))
    for options in stages.slices:
        _or_skip(job, "train", lambda options=options: train.run(job, options))  # type: ignore[misc]
    _or_skip(job, "budget", lambda: budget(job, question, (), stages.matmul.device))


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
