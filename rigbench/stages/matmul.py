"""The matmul probe for a command: options from words, an isolated run, the datasheet beside it."""

from __future__ import annotations

import msgspec

from rigbench import units
from rigbench.job import Job
from rigbench.model import shape
from rigbench.probes.matmul import Options
from rigbench.records import Matmul, Skipped
from rigbench.stages.common import datasheet, isolated, stop_if

LIMIT_SECONDS = 600.0


def options(params: str, seconds: str, device: str | None) -> Options:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    return Options(
        model=shape.model_named(params),
        device=device or "auto",
        seconds_per_shape=units.parse_seconds(seconds, "--seconds"),
    )


def run(job: Job, options: Options) -> Matmul | Skipped:
    """The matmul probe in its own process, sensors read beside it.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the options cannot be met.
    """
    job.progress.stage("matmul", 2 * 5 * options.seconds_per_shape + 5)
    result, sensors, outcome = isolated(job, "rigbench.probes.matmul", options, Matmul, LIMIT_SECONDS)
    if isinstance(result, Matmul):
        result = _beside_datasheet(job, msgspec.structs.replace(result, telemetry=sensors))
        job.faults += [
            f"matmul {shape.dtype} {shape.m}x{shape.n}x{shape.k} gave a wrong result, "
            f"{shape.check.largest_error_over_bound:.2g} times the error that rounding allows"
            for shape in result.shapes
            if not shape.check.correct
        ]
    job.keep(matmul=result)
    stop_if(outcome)
    return result


def _beside_datasheet(job: Job, result: Matmul) -> Matmul:
    peaks = datasheet(job, result.device)
    shapes = tuple(
        msgspec.structs.replace(shape, share_of_datasheet=shape.flops_per_s.value / peaks[shape.dtype].value)
        if shape.dtype in peaks
        else shape
        for shape in result.shapes
    )
    return msgspec.structs.replace(result, shapes=shapes, datasheet_flops_per_s=peaks)
