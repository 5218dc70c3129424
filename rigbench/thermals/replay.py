"""What would a soak of a recorded rig have shown? Its sequences, a step a tick on a scripted clock, and no load."""

from __future__ import annotations

import dataclasses

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.job import Job
from rigbench.machine.replay import ReplayedLibrary
from rigbench.thermals import loads as thermals_record
from rigbench.thermals import soak
from rigbench.thermals.probe import METHOD
from rigbench.thermals.record import Thermals
from rigbench.work.sensors import CPU, Sampler

TICK_SECONDS = 1.0
LOST = "GPU is lost"


def run(job: Job, label: str | Absent, ambient: Figure | Absent) -> Thermals:
    """Every card of the recording, awake where that was recorded.

    Raises:
        RigbenchError: the recording holds no driver.
    """
    driver = job.rig.load if job.rig.load.absent is None else job.rig.nvml
    library = driver.library
    if driver.absent is not None or not isinstance(library, ReplayedLibrary):
        reason = driver.absent.reason if driver.absent else "its driver cannot be replayed"
        raise RigbenchError(f"the recording has no sensors ({reason})", "capture the rig again", exit_code=NOTHING)
    moment = 0.0
    sampler = Sampler(dataclasses.replace(job.rig, nvml=driver), TICK_SECONDS, clock=lambda: moment)
    sampler.tick()
    steps = max((len(library.recorded(scope, key)) for scope, key, _ in library.log if scope != "sys"), default=1)
    for _ in range(1, steps):
        moment += TICK_SECONDS
        sampler.tick()
    sensors = sampler.record()
    cards = []
    for lane in thermals_record.all_lanes(job.gpus):
        series = thermals_record.series_of(sensors, lane)
        if lane.gpu is None or series is None or series.device == CPU:
            continue
        lost_at = _lost_at(series.temperature_celsius, sensors.at_seconds)
        facts = soak.Facts(
            name=lane.name,
            device_name=lane.gpu.name if isinstance(lane.gpu.name, str) else "unknown GPU",
            gpu=lane.gpu,
            load=soak.NO_LOAD,
            began=0.0,
            ended=moment if lost_at is None else lost_at,
            ambient=ambient,
            lost="" if lost_at is None else LOST,
        )
        cards.append(soak.card(facts, sensors, series))
    result = Thermals(
        method=METHOD,
        started_at=job.run.started_at,
        seconds=moment,
        planned_seconds=moment,
        replayed=True,
        label=label,
        ambient_celsius=ambient,
        cards=tuple(cards),
        ended_by="recording ended",
        ended_because=thermals_record.BECAUSE["recording ended"],
        telemetry=sensors,
        period_achieved_seconds=Absent("a scripted clock"),
        power=Absent("a replayed rig runs no load"),
        notes=job.rig.notes if steps > 1 else (*job.rig.notes, "the recording holds no sequence: nothing moves in it"),
        **thermals_record.compared(cards),  # type: ignore[arg-type]
    )
    job.faults += thermals_record.card_faults(result)
    job.keep(thermals=result)
    return result


def _lost_at(column: object, at_seconds: tuple[float, ...]) -> float | None:
    readings = column if isinstance(column, tuple) else ()
    for at, reading in zip(at_seconds, readings, strict=False):
        if isinstance(reading, Absent) and reading.reason == LOST:
            return at
    return None
