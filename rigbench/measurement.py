"""How is one probe run beside the sensors, and what does only the parent know about its device?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec

from rigbench.core import profiles
from rigbench.core.record import Absent, Device, Figure, Record, Skipped, Telemetry
from rigbench.job import Interrupted, Job
from rigbench.work import sensors as telemetry
from rigbench.work import workers

T = TypeVar("T", bound=Record)


def isolated(
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


def stop_if(outcome: workers.Outcome[T]) -> None:
    if outcome.ended == "interrupted":
        raise Interrupted


def of_device(sensors: Telemetry, device: Device, cards: Collection[str] = ()) -> Telemetry:
    """The series of the device that worked, or of these cards: an idle neighbour's watts are not this slice's."""
    own_cards = cards or (device.uuid,)
    own = tuple(
        series
        for series in sensors.series
        if (series.device == "CPU" if device.kind == "cpu" else series.uuid in own_cards)
    )
    return msgspec.structs.replace(sensors, series=own)


def datasheet(job: Job, device: Device) -> dict[str, Figure]:
    """Published peaks per dtype of this GPU, matched by PCI id or exact name; none for a CPU or an unknown card."""
    gpu = next((gpu for gpu in job.gpus if device.kind == "cuda" and gpu.uuid == device.uuid), None)
    if gpu is None:
        return {}
    facts = (gpu.pci_device_id, gpu.name, gpu.memory_total_bytes)
    profile = profiles.match_gpu(*(None if isinstance(fact, Absent) else fact for fact in facts))  # type: ignore[arg-type]
    return {} if isinstance(profile, Absent) else profiles.peaks(profile)
