"""A training slice for a command: options from words, an isolated run, joules, MFU and share of the measured matmul."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Energy, Figure, Skipped
from rigbench.job import Job
from rigbench.matmul.record import Matmul
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.model.tokens import AskedDtype
from rigbench.train.options import SliceOptions
from rigbench.train.probe import Options
from rigbench.train.record import Compile, HostAllocator, OwnSlice, Slice
from rigbench.work import energy, process
from rigbench.work import power as cost
from rigbench.work.record import NOTHING_DECLARED, WattOptions

PROBE = "rigbench.train.probe"
MARGIN_SECONDS = 300.0  # beyond the slice's own seconds: loading torch, building, a first step, one long last one
COMPILE_SECONDS = 600.0
SHORTEST = 1e-3  # seconds: three steps, the fewest that tell a steady one
LARGEST_MICRO_BATCH = 1 << 16
PLAIN = Recipe()


def shared(
    *,
    micro_batch: str | None = None,
    recipe: Recipe = PLAIN,
    seconds: str | None = None,
    data: Path | None = None,
    data_dtype: AskedDtype = "auto",
    device: str | None = None,
) -> SliceOptions:
    """What every slice of a command is told, whatever it trains.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    return SliceOptions(
        device=device or "auto",
        data=str(data) if data else "",
        data_dtype=data_dtype,
        recipe=msgspec.structs.replace(
            recipe,
            micro_batch=units.parse_whole(micro_batch, "--micro-batch", 1, LARGEST_MICRO_BATCH) if micro_batch else 0,
        ),
        seconds=units.parse_seconds(seconds, "--seconds") if seconds is not None else 0.0,
    )


def options(model: Model, common: SliceOptions) -> Options:
    """A decoder's slice; its arm is still to be chosen."""
    named = {name: getattr(common, name) for name in SliceOptions.__struct_fields__}
    return Options(model=model, **named)


def run(job: Job, options: Options, watts: WattOptions = NOTHING_DECLARED) -> Slice | Skipped:
    """One slice in its own process, sensors read beside it, compared with datasheet and measured matmul.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad token data, or a model that does not fit.
    """
    allocator, environment = host_allocator(job, options.device)
    options = msgspec.structs.replace(options, cache=str(job.store.home / "cache"), host_allocator=allocator)
    with kernel_cache(options) as caches:
        cold = _first_steps(job, options, {**environment, **caches}) if options.recipe.compiled else None
        seconds = options.seconds or min(30, options.longest_seconds)
        job.progress.stage(f"train-probe {options.model.name}", seconds + 10)
        limit = (options.seconds or options.longest_seconds) + MARGIN_SECONDS

        def complete(result: Slice) -> Slice:
            if cold is not None:
                result = msgspec.structs.replace(result, compile=Compile(cold, beyond_a_step(result)))
            return finished(job, result, watts)

        return job.measure(
            PROBE,
            options,
            Slice,
            limit_seconds=limit,
            environment={**environment, **caches},
            room="slices",
            complete=complete,
        )


@contextlib.contextmanager
def kernel_cache(options: SliceOptions) -> Iterator[Mapping[str, str]]:
    """An empty folder for what torch.compile makes, so that its first process finds nothing and its second one all."""
    if not options.recipe.compiled:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="rigbench-compile-") as folder:
        yield {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": os.path.join(folder, "triton")}


def _first_steps(job: Job, options: Options, environment: Mapping[str, str]) -> float:
    """Seconds that compiling took with nothing in the cache: a few steps in a process of their own.

    Raises:
        Interrupted: the user said stop.
        RigbenchError: it cannot be compiled, or does not fit.
    """
    job.progress.stage(f"torch.compile {options.model.name}, nothing cached", 60)
    brief = msgspec.structs.replace(options, seconds=SHORTEST)
    result = job.measure(PROBE, brief, Slice, limit_seconds=COMPILE_SECONDS, environment=environment)
    if isinstance(result, Skipped):
        raise RigbenchError(f"torch.compile: {result.reason}", "use --compile off", NOTHING)
    return beyond_a_step(result)


def beyond_a_step(result: Slice | OwnSlice) -> float:
    """What the steps before the steady ones took beyond as many steady ones."""
    early = result.steps.seconds[: result.steady_from]
    return max(0.0, math.fsum(early) - len(early) * result.step_seconds.value)


def host_allocator(job: Job, device: str) -> tuple[HostAllocator, Mapping[str, str]]:
    """How a slice's process keeps host memory: as the user set it, else kept where the CPU will train."""
    if any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in os.environ):
        return "set by the user", {}
    if device == "cpu" or not job.gpus:
        return "keeps memory", process.KEEP_MEMORY
    return "default", {}


def finished(
    job: Job,
    result: Slice,
    watts: WattOptions,
    cards: tuple[str, ...] = (),
) -> Slice:
    """With what only the parent knows: joules, watts at the wall, shares of datasheet and measured matmul.

    `cards` are the UUIDs of those that worked; none: the record's device.
    """
    return _with_power(_complete(job, result, cards), watts)


def _complete(job: Job, result: Slice, cards: tuple[str, ...] = ()) -> Slice:
    sensors = result.telemetry
    if isinstance(sensors, Absent):
        return result
    start = result.steps.ended_at_seconds[result.steady_from] - result.steps.seconds[result.steady_from]
    end = result.steps.ended_at_seconds[-1]
    joules = energy.between(energy.of_device(sensors, result.device, cards), start, end)
    if isinstance(joules, Energy) and joules.joules > 0:
        result = msgspec.structs.replace(
            result,
            joules_per_token=joules.watts / result.tokens_per_s.value,
            model_flop_per_joule=result.model_flops_per_s / joules.watts,
        )
    return msgspec.structs.replace(
        result,
        energy=joules,
        draws=energy.draws(sensors, result.device, start, end, cards),
        mfu=_of_peak(job, result, result.model_flops_per_s),
        hfu=_of_peak(job, result, result.hardware_flops_per_s),
        share_of_measured_matmul=_share_of_matmul(job, result),
    )


def _with_power(result: Slice, watts: WattOptions) -> Slice:
    """The watts at the wall, where enough is read and declared for them."""
    power = cost.power([result], watts)
    if isinstance(power, Absent) or power.covers != "wall":
        return result
    return msgspec.structs.replace(result, power=power)


def _of_peak(job: Job, result: Slice, flops_per_s: float) -> Figure | Absent:
    """A rate as a share of the datasheet's, of all ranks' cards together."""
    dtype = _dtype(result)
    peak = job.datasheet(result.device).get(dtype)
    if peak is None:
        return Absent(f"no datasheet peak for {result.device.name} in {dtype}")
    cards = result.recipe.ranks
    basis = f"of {peak.basis}" if cards == 1 else f"of {cards} cards, each {peak.basis}"
    return Figure(value=flops_per_s / peak.value / cards, source="measured", basis=basis)


def _dtype(result: Slice) -> str:
    """What its matrices are multiplied in."""
    return "bf16" if result.recipe.precision == "bf16-pure" else result.recipe.precision


def _share_of_matmul(job: Job, result: Slice) -> Figure | Absent:
    """Of the fastest matmul in this precision on this device: this run's, else the newest stored one of this rig."""
    precision, cards = _dtype(result), result.recipe.ranks
    if cards > 1 and result.device.kind == "cpu":
        return Absent("ranks share this CPU")
    for run in job.history():
        found = run.matmul
        if isinstance(found, Matmul) and found.device == result.device and precision in found.best_flops_per_s:
            best = found.best_flops_per_s[precision].value
            basis = f"of the fastest {precision} matmul of run {run.id}"
            return Figure(value=result.model_flops_per_s / best / cards, source="measured", basis=basis)
    return Absent(f"no {precision} matmul was measured on this device; run `rigbench matmul`")
