"""The matmul probe for a command: options from words, an isolated run, datasheet and sensors beside it."""

from __future__ import annotations

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, SensorSeries, Skipped
from rigbench.job import Job
from rigbench.matmul.probe import DEFAULT_DTYPES, Options
from rigbench.matmul.record import Ceiling, Matmul, MatmulPhase, MatmulShape
from rigbench.matmul.times import times
from rigbench.model.record import Model
from rigbench.work.energy import of_device
from rigbench.work.products import DTYPES, Dtype

PROBE = "rigbench.matmul.probe"
MARGIN_SECONDS = 300.0  # beyond the probe's own limit: loading torch, one long product, devices that take turns
LARGEST_MICRO_BATCH = 1 << 16


def options(
    *,
    model: Model,
    dtypes: str | None = None,
    micro_batch: str | None = None,
    seconds: str | None = None,
    hot_seconds: str | None = None,
    device: str | None = None,
) -> Options:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    return Options(
        model=model,
        device=device or "auto",
        dtypes=parse_dtypes(dtypes) if dtypes is not None else (),
        micro_batch=units.parse_whole(micro_batch, "--micro-batch", 1, LARGEST_MICRO_BATCH)
        if micro_batch is not None
        else 0,
        seconds=units.parse_seconds(seconds, "--seconds") if seconds is not None else 0.0,
        hot_seconds=units.parse_seconds(hot_seconds, "--hot-seconds") if hot_seconds is not None else 0.0,
    )


def parse_dtypes(words: str) -> tuple[Dtype, ...]:
    """ "bf16,fp32", or "all".

    Raises:
        RigbenchError: there is no such dtype, or none at all.
    """
    asked = [word.strip().lower() for word in words.split(",") if word.strip()]
    if asked == ["all"]:
        return DTYPES
    found = tuple(dtype for dtype in DTYPES if dtype in asked)
    unknown = [word for word in asked if word not in DTYPES]
    if unknown or not found:
        what = f"knows no {unknown[0]!r}" if unknown else f"{words!r} names none"
        raise RigbenchError(f"--dtypes {what}", f"use all, or some of {', '.join(DTYPES)}, as in bf16,fp32")
    return tuple(sorted(found, key=asked.index))


def run(job: Job, options: Options) -> Matmul | Skipped:
    """The matmul probe in its own process, sensors read beside it.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the options cannot be met.
    """
    seconds = _expected_seconds(job, options)
    job.progress.stage("matmul", seconds)

    def complete(result: Matmul) -> Matmul:
        job.faults += wrong(result)
        return _beside_sensors(_beside_datasheet(job, result))

    return job.measure(PROBE, options, Matmul, limit_seconds=seconds + MARGIN_SECONDS, room="matmul", complete=complete)


def wrong(result: Matmul) -> list[str]:
    """A line for every product whose result is not what float64 says."""
    checked = [(f"{it.dtype} {it.m}×{it.n}×{it.k}", it.check) for it in result.shapes]
    for ceiling in result.ceilings or ():
        name = f"{ceiling.dtype} {ceiling.m}×{ceiling.n}×{ceiling.k}"
        moments = (f"{name} before the load", f"{name} after {sum(ceiling.seconds):.0f} s of load")
        checked += zip(moments, ceiling.checks, strict=False)
    if result.fleet and not isinstance(result.fleet, Absent):
        checked += [(f"{result.fleet.dtype} on {lane.name}", lane.check) for lane in result.fleet.lanes]
    return [
        f"matmul {what} gave a wrong result, {check.largest_error_over_bound:.2g} times the error that rounding allows"
        for what, check in checked
        if not check.correct
    ]


def _expected_seconds(job: Job, options: Options) -> float:
    """As the probe will divide it; it alone knows what the device offers."""
    kind = "cuda" if job.gpus and options.device != "cpu" else "cpu"
    return times(options.seconds, options.hot_seconds, kind, len(options.dtypes or DEFAULT_DTYPES[kind])).total


def _beside_datasheet(job: Job, result: Matmul) -> Matmul:
    peaks = job.datasheet(result.device)
    if "fp8" in peaks:  # a figure of the tensor cores, whichever way partial sums are kept
        peaks["fp8-fast"] = peaks["fp8"]

    def share(dtype: str, flops_per_s: float) -> float | None:
        peak = peaks.get(dtype)
        return flops_per_s / peak.value if peak else None

    def shape_beside(it: MatmulShape) -> MatmulShape:
        own = share(it.dtype, it.flops_per_s.value)
        return msgspec.structs.replace(it, share_of_datasheet=own) if own is not None else it

    def ceiling_beside(it: Ceiling) -> Ceiling:
        own = None if isinstance(it.hot, Absent) else share(it.dtype, it.hot.flops_per_s.value)
        return msgspec.structs.replace(it, share_of_datasheet=own) if own is not None else it

    return msgspec.structs.replace(
        result,
        shapes=tuple(shape_beside(it) for it in result.shapes),
        ceilings=tuple(ceiling_beside(it) for it in result.ceilings or ()),
        datasheet_flops_per_s=peaks,
    )


def _beside_sensors(result: Matmul) -> Matmul:
    """Each load's temperature, power and clock over its own seconds."""
    sensors = result.telemetry
    if isinstance(sensors, Absent):
        return result
    own = of_device(sensors, result.device).series

    def read(phase: MatmulPhase | Absent, began: float) -> MatmulPhase | Absent:
        if isinstance(phase, Absent) or not own:
            return phase
        window = [
            index
            for index, at in enumerate(sensors.at_seconds)
            if began + phase.from_seconds <= at <= began + phase.to_seconds
        ]
        names = ("temperature_celsius", "power_watts", "sm_clock_hertz")
        return msgspec.structs.replace(phase, **{name: _mean(own[0], name, window) for name in names})

    return msgspec.structs.replace(
        result,
        ceilings=tuple(
            msgspec.structs.replace(
                it, burst=read(it.burst, it.began_at_seconds), hot=read(it.hot, it.began_at_seconds)
            )
            for it in result.ceilings or ()
        ),
    )


def _mean(series: SensorSeries, name: str, window: list[int]) -> float | Absent:
    column = getattr(series, name)
    if isinstance(column, Absent):
        return column
    read = [column[index] for index in window if not isinstance(column[index], Absent)]
    return sum(read) / len(read) if read else Absent("no reading fell into it")
