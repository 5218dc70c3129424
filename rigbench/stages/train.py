"""A training slice for a command: options from words, an isolated run, joules, MFU and share of the measured matmul."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from rigbench import units
from rigbench.budget import cost, wall
from rigbench.job import Job
from rigbench.measure import energy, workers
from rigbench.model import flops as model_flops
from rigbench.model import shape
from rigbench.model.tokens import AskedDtype
from rigbench.probes.train import Options
from rigbench.records import Absent, Energy, Figure, Matmul, Skipped, Slice, Telemetry
from rigbench.records.slices import HostAllocator
from rigbench.stages.common import datasheet, isolated, of_device, stop_if

MARGIN_SECONDS = 300.0  # beyond the slice's own seconds: loading torch, building, a first step, one long last one
LONGEST_SEQUENCE, LARGEST_MICRO_BATCH = 1 << 20, 1 << 16


def options(
    *,
    params: str,
    series: str,
    checkpointing: Literal["off", "on"],
    micro_batch: str | None,
    seq: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    seconds: str | None,
    data: Path | None,
    data_dtype: AskedDtype,
    device: str | None,
) -> Options:
    """One slice.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    model = shape.model_named(params, series)
    if seq is not None:
        tokens = units.parse_whole(seq, "--seq", 8, LONGEST_SEQUENCE)
        model = model_flops.describe(msgspec.structs.replace(model.shape, sequence=tokens), model.name)
    return Options(
        model=model,
        device=device or "auto",
        data=str(data) if data else "",
        data_dtype=data_dtype,
        micro_batch=units.parse_whole(micro_batch, "--micro-batch", 1, LARGEST_MICRO_BATCH)
        if micro_batch is not None
        else 0,
        precision=precision,
        checkpointing=checkpointing,
        seconds=units.parse_seconds(seconds, "--seconds") if seconds is not None else 0.0,
    )


def run(job: Job, options: Options, host: wall.Host = cost.NO_HOST, wall_watts: float | None = None) -> Slice | Skipped:
    """One slice in its own process, sensors read beside it, compared with datasheet and measured matmul.

    `host` and `wall_watts` are what is declared of the machine's watts.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad token data, or a model that does not fit.
    """
    allocator, environment = _host_allocator(job, options.device)
    options = msgspec.structs.replace(options, cache=str(job.store.home / "cache"), host_allocator=allocator)
    seconds = options.seconds or 30
    job.progress.stage(f"train-probe {options.model.name}", seconds + 10)
    limit = (options.seconds or 80) + MARGIN_SECONDS
    result, sensors, outcome = isolated(job, "rigbench.probes.train", options, Slice, limit, environment)
    if isinstance(result, Slice):
        result = _with_power(_complete(job, result, sensors), host, wall_watts)
        if outcome.ended in ("died", "hung"):
            result = msgspec.structs.replace(result, events=(*result.events, outcome.reason))
    job.keep(slices=(*job.run.slices, result))
    stop_if(outcome)
    return result


def _host_allocator(job: Job, device: str) -> tuple[HostAllocator, Mapping[str, str]]:
    """How a slice's process keeps host memory: as the user set it, else kept where the CPU will train."""
    if any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in os.environ):
        return "set by the user", {}
    if device == "cpu" or not job.gpus:
        return "keeps memory", workers.KEEP_MEMORY
    return "default", {}


def _complete(job: Job, result: Slice, sensors: Telemetry) -> Slice:
    start = result.steps.ended_at_seconds[result.steady_from] - result.steps.seconds[result.steady_from]
    end = result.steps.ended_at_seconds[-1]
    joules = energy.between(of_device(sensors, result.device), start, end)
    if isinstance(joules, Energy) and joules.joules > 0:
        result = msgspec.structs.replace(
            result,
            joules_per_token=joules.watts / result.tokens_per_s.value,
            model_flop_per_joule=result.model_flops_per_s / joules.watts,
        )
    return msgspec.structs.replace(
        result,
        telemetry=sensors,
        energy=joules,
        draws=energy.draws(sensors, result.device, start, end),
        mfu=_mfu(job, result),
        share_of_measured_matmul=_share_of_matmul(job, result),
    )


def _with_power(result: Slice, host: wall.Host, wall_watts: float | None) -> Slice:
    """The watts at the wall, where enough is read and declared for them."""
    power = cost.power([result], wall_watts, host)
    if isinstance(power, Absent) or power.covers != "wall":
        return result
    return msgspec.structs.replace(result, power=power)


def _mfu(job: Job, result: Slice) -> Figure | Absent:
    peak = datasheet(job, result.device).get(result.arm.precision)
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
