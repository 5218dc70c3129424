"""Which probes run, in which order, and what of earlier runs does a budget rest on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from rigbench import store
from rigbench.backtest.record import Coverage
from rigbench.backtest.verdict import coverage, of_rig
from rigbench.bandwidth import probe as probes_bandwidth
from rigbench.bandwidth import stage as bandwidth
from rigbench.budget import forecasting
from rigbench.budget.comparable import StoredSlice, Wanted
from rigbench.budget.plan import Question, assemble, check, plan
from rigbench.budget.record import Budget, Refused
from rigbench.collectives import stage as collectives
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Skipped
from rigbench.dataloader import probe as probes_dataloader
from rigbench.dataloader import stage as dataloader
from rigbench.job import Job
from rigbench.matmul import command as matmul
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.p2p import command as p2p
from rigbench.p2p.record import Options as P2pOptions
from rigbench.thermals import soak as thermals
from rigbench.thermals.record import Options as ThermalsOptions
from rigbench.topology import diagnosis as survey
from rigbench.train import record as probes_train
from rigbench.train import slices as train
from rigbench.train.record import Slice


@dataclass(frozen=True)
class Stages:
    """What `everything` measures. None: left out, because it would take too long."""

    bandwidth: probes_bandwidth.Options
    p2p: P2pOptions
    collectives: collectives.Asked
    matmul: MatmulOptions
    slices: tuple[probes_train.Options, ...]
    dataloader: probes_dataloader.Options
    thermals: ThermalsOptions | None


def budget(
    job: Job,
    question: Question,
    short_slices: Sequence[probes_train.Options],
    device: str | None,
    rigs: Sequence[RigProfile | None] = (),
) -> Budget:
    """The answer for this rig, from its stored slices; or for the rigs named, of which None is this one.

    Of several rigs those that have no answer are kept with their reason.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the question makes no sense, or no rig has an answer.
    """
    check(question)
    if not rigs:
        result = _measured_first(job, question, short_slices, device)
    else:
        found, refused = [], []
        for rig in rigs:
            name = rig.name if rig else "this rig"
            try:
                found.append(_elsewhere(job, question, rig) if rig else _here(job, question, device))
            except RigbenchError as error:
                if len(rigs) == 1:
                    raise
                refused.append(Refused(name, str(error)))
        if not found:
            raise RigbenchError("none of these rigs has an answer", refused[0].reason, exit_code=NOTHING)
        first, *others = found
        result = msgspec.structs.replace(
            first, others=tuple(others) or msgspec.UNSET, refused=tuple(refused) or msgspec.UNSET
        )
    job.keep(budget=result)
    return result


def _elsewhere(job: Job, question: Question, rig: RigProfile) -> Budget:
    job.progress.stage(f"budget on {rig.name}", 5)
    found = forecasting.elsewhere(job, question, rig)
    return assemble(question, found.machine, found.forecasts, store.now())


def _measured_first(
    job: Job, question: Question, short_slices: Sequence[probes_train.Options], device: str | None
) -> Budget:
    """Where the stored slices do not answer it, short ones are run first."""
    try:
        return _here(job, question, device)
    except RigbenchError as error:
        if error.exit_code != NOTHING or not short_slices:
            raise
    for options in short_slices:  # nothing stored is near enough to answer from
        _or_skip(job, "train", lambda options=options: _slice(job, options, question))  # type: ignore[misc]
    return _here(job, question, device)


def _here(job: Job, question: Question, device: str | None) -> Budget:
    slices = _stored_slices(job, device)
    question = replace(question, wanted=replace(question.wanted or Wanted(), method=probes_train.METHOD))
    try:
        known, better = forecasting.here(question, slices, job.history())
    except RigbenchError as error:
        strangers = _of_other_rigs(job)
        if error.exit_code != NOTHING or slices or not strangers:
            raise
        raise RigbenchError(f"no slice of this rig is stored ({strangers[0]})", error.what_to_do, NOTHING) from None
    known = replace(known, left_out=_of_other_rigs(job))
    return plan(question, slices, store.now(), _history(job), better, known)


def _of_other_rigs(job: Job) -> tuple[str, ...]:
    """What is stored of other machines, which say nothing of this one."""
    others = [run for run in job.stored[0] if run.rig.fingerprint != job.run.rig.fingerprint]
    count = sum(isinstance(item, Slice) for run in others for item in run.slices)
    return (f"{count} slice{'' if count == 1 else 's'} of another rig",) if count else ()


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


def _slice(job: Job, options: probes_train.Options, question: Question) -> None:
    train.run(job, options, question.watts)


def _history(job: Job) -> Coverage | None:
    tests = of_rig(job.history())
    return coverage(tests) if tests else None


def _stored_slices(job: Job, device: str | None) -> list[StoredSlice]:
    """This run's own slices first, then those of earlier runs of this rig, newest first; one device kind if asked."""
    for line in job.stored[1]:
        job.warn(line)
    others = {str(run.software.torch) for run in job.history() if run.slices} - {str(job.run.software.torch)}
    if others:
        job.warn(f"some stored slices were measured with torch {', '.join(sorted(others))}")
    kind = None if device in (None, "auto") else str(device).partition(":")[0]
    return [
        StoredSlice(run.id, item)
        for run in job.history()
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
