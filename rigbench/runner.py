"""Which probes run, in which order, isolated how, and where does each result go? Saved after every one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from rigbench import profiles, store, survey
from rigbench.budget.comparable import StoredSlice
from rigbench.budget.plan import Question, check, plan
from rigbench.errors import NOTHING, RigbenchError
from rigbench.job import Interrupted, Job
from rigbench.measure import energy, telemetry, workers
from rigbench.probes import matmul as matmul_probe
from rigbench.probes import train as train_probe
from rigbench.records import (
    Absent,
    Budget,
    Device,
    Figure,
    Matmul,
    Record,
    Skipped,
    Slice,
    Telemetry,
)
from rigbench.records.slices import HostAllocator

MATMUL_LIMIT_SECONDS = 600.0
SLICE_MARGIN_SECONDS = 300.0  # beyond the slice's own seconds: loading torch, building, a first step, one long last one
T = TypeVar("T", bound=Record)


@dataclass(frozen=True)
class Stages:
    """What `everything` measures."""

    matmul: matmul_probe.Options
    slices: tuple[train_probe.Options, ...]


def matmul(job: Job, options: matmul_probe.Options) -> Matmul | Skipped:
    """The matmul probe in its own process, sensors read beside it.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the options cannot be met.
    """
    job.progress.stage("matmul", 2 * 5 * options.seconds_per_shape + 5)
    result, sensors, outcome = _isolated(job, "rigbench.probes.matmul", options, Matmul, MATMUL_LIMIT_SECONDS)
    if isinstance(result, Matmul):
        result = _beside_datasheet(job, msgspec.structs.replace(result, telemetry=sensors))
        job.faults += [
            f"matmul {shape.dtype} {shape.m}x{shape.n}x{shape.k} gave a wrong result, "
            f"{shape.check.largest_error_over_bound:.2g} times the error that rounding allows"
            for shape in result.shapes
            if not shape.check.correct
        ]
    job.keep(matmul=result)
    _stop_if(outcome)
    return result


def train(job: Job, options: train_probe.Options) -> Slice | Skipped:
    """One slice in its own process, sensors read beside it, compared with datasheet and measured matmul.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad token data, or a model that does not fit.
    """
    allocator, environment = _host_allocator(job, options.device)
    options = msgspec.structs.replace(options, cache=str(job.store.home / "cache"), host_allocator=allocator)
    seconds = options.seconds or 30
    job.progress.stage(f"train-probe {options.model.name}", seconds + 10)
    limit = (options.seconds or 80) + SLICE_MARGIN_SECONDS
    result, sensors, outcome = _isolated(job, "rigbench.probes.train", options, Slice, limit, environment)
    if isinstance(result, Slice):
        result = _complete(job, result, sensors)
        if outcome.ended in ("died", "hung"):
            result = msgspec.structs.replace(result, events=(*result.events, outcome.reason))
    job.keep(slices=(*job.run.slices, result))
    _stop_if(outcome)
    return result


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
            _or_skip(job, "train", lambda options=options: train(job, options))  # type: ignore[misc]
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
    _or_skip(job, "matmul", lambda: matmul(job, stages.matmul))
    for options in stages.slices:
        _or_skip(job, "train", lambda options=options: train(job, options))  # type: ignore[misc]
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


def _isolated(
    job: Job,
    probe: str,
    options: Record,
    result_type: type[T],
    limit_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[T | Skipped, Telemetry, workers.Outcome[T]]:
    """Run a probe in a worker with the sensors read here, in the parent, which is idle: they cost the work nothing."""
    with telemetry.Sampler(job.rig) as sampler:
        outcome = workers.call(
            probe,
            options,
            result_type,
            limit_seconds=limit_seconds,
            on_progress=job.progress.update,
            environment=environment,
        )
    name = probe.rpartition(".")[2]
    if outcome.ended in ("died", "hung"):
        job.faults.append(f"{name}: {outcome.reason}")
    nothing = Skipped(name, outcome.reason or "stopped before anything was measured")
    return outcome.result or nothing, sampler.record(), outcome


def _host_allocator(job: Job, device: str) -> tuple[HostAllocator, Mapping[str, str]]:
    """How a slice's process keeps host memory: as the user set it, else kept where the CPU will train."""
    if any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in os.environ):
        return "set by the user", {}
    if device == "cpu" or not job.gpus:
        return "keeps memory", workers.KEEP_MEMORY
    return "default", {}


def _stop_if(outcome: workers.Outcome[T]) -> None:
    if outcome.ended == "interrupted":
        raise Interrupted


def _complete(job: Job, result: Slice, sensors: Telemetry) -> Slice:
    start = result.steps.ended_at_seconds[result.steady_from] - result.steps.seconds[result.steady_from]
    end = result.steps.ended_at_seconds[-1]
    return msgspec.structs.replace(
        result,
        telemetry=sensors,
        energy=energy.between(_of_device(sensors, result.device), start, end),
        mfu=_mfu(job, result),
        share_of_measured_matmul=_share_of_matmul(job, result),
    )


def _of_device(sensors: Telemetry, device: Device) -> Telemetry:
    """The series of the device that worked: an idle neighbour's watts are not this slice's."""
    own = tuple(
        series
        for series in sensors.series
        if (series.device == "CPU" if device.kind == "cpu" else series.uuid == device.uuid)
    )
    return msgspec.structs.replace(sensors, series=own)


def _mfu(job: Job, result: Slice) -> Figure | Absent:
    peak = _datasheet(job, result.device).get(result.arm.precision)
    if peak is None:
        return Absent(f"no datasheet peak for {result.device.name} in {result.arm.precision}")
    return Figure(value=result.model_flops_per_s / peak.value, source="measured", basis=f"of {peak.basis}")


def _share_of_matmul(job: Job, result: Slice) -> Figure | Absent:
    """Of the fastest matmul in this precision on this device: this run's, else the newest stored one."""
    precision = result.arm.precision
    for run in [job.run, *job.store.readable()[0]]:
        found = run.matmul
        if isinstance(found, Matmul) and found.device == result.device and precision in found.best_flops_per_s:
            best = found.best_flops_per_s[precision].value
            basis = f"of the fastest {precision} matmul of run {run.id}"
            return Figure(value=result.model_flops_per_s / best, source="measured", basis=basis)
    return Absent(f"no {result.arm.precision} matmul was measured on this device; run `rigbench matmul`")


def _beside_datasheet(job: Job, result: Matmul) -> Matmul:
    peaks = _datasheet(job, result.device)
    shapes = tuple(
        msgspec.structs.replace(shape, share_of_datasheet=shape.flops_per_s.value / peaks[shape.dtype].value)
        if shape.dtype in peaks
        else shape
        for shape in result.shapes
    )
    return msgspec.structs.replace(result, shapes=shapes, datasheet_flops_per_s=peaks)


def _datasheet(job: Job, device: Device) -> dict[str, Figure]:
    """Published peaks per dtype of this GPU, matched by PCI id or exact name; none for a CPU or an unknown card."""
    gpu = next((gpu for gpu in job.gpus if device.kind == "cuda" and gpu.uuid == device.uuid), None)
    if gpu is None:
        return {}
    facts = (gpu.pci_device_id, gpu.name, gpu.memory_total_bytes)
    profile = profiles.match_gpu(*(None if isinstance(fact, Absent) else fact for fact in facts))  # type: ignore[arg-type]
    return {} if isinstance(profile, Absent) else profiles.peaks(profile)
