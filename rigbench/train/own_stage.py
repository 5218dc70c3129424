"""A slice of the user's own model for a command: an isolated run, joules, MFU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Energy, Figure, Skipped
from rigbench.job import Job
from rigbench.model.named import ModelOptions
from rigbench.train import own_model_stage as own_model
from rigbench.train.options import SliceOptions
from rigbench.train.own_model_probe import Options as TrialOptions
from rigbench.train.own_probe import Options
from rigbench.train.record import Compile, OwnSlice
from rigbench.train.stage import MARGIN_SECONDS, SHORTEST, beyond_a_step, host_allocator, kernel_cache
from rigbench.work import energy

PROBE = "rigbench.train.own_probe"


class Asked(NamedTuple):
    """A program of the user's: how to try it, and what its slice is told; `model` of `slice` is not known before."""

    trial: TrialOptions
    slice: SliceOptions


def asked(
    name: str,
    model: ModelOptions,
    shared: SliceOptions,
    decided: Mapping[str, object],
) -> Asked:
    """`decided` are options that a program decides itself, or that a prediction would need, by their names.

    Raises:
        RigbenchError: one of these was given.
    """
    for option, value in decided.items():
        if value not in (None, False):
            raise RigbenchError(f"{option} is not for a program, and --model {name} is one", f"leave {option} out")
    return Asked(own_model.options(name, model, shared.device), shared)


def run(job: Job, asked: Asked) -> OwnSlice | Skipped:
    """Try the program, then train a slice of it, each in its own process; kept in the job.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: the program is not as the contract says, or does not fit.
    """
    trial = asked.trial
    allocator, environment = host_allocator(job, asked.slice.device)
    shared = {name: getattr(asked.slice, name) for name in SliceOptions.__struct_fields__}
    shared |= {"cache": str(job.store.home / "cache"), "host_allocator": allocator}
    options = Options(
        model=own_model.tried(job, trial),
        folder=trial.folder,
        vocabulary=trial.vocabulary,
        sequence=trial.sequence,
        **shared,
    )
    with kernel_cache(options) as caches:
        variables = {**environment, **caches}
        cold = _first_steps(job, options, variables) if options.recipe.compiled else None
        job.progress.stage(f"train-probe {options.model.name}", (options.seconds or 30) + 10)
        limit = (options.seconds or options.longest_seconds) + MARGIN_SECONDS

        def complete(result: OwnSlice) -> OwnSlice:
            if cold is not None:
                result = msgspec.structs.replace(result, compile=Compile(cold, beyond_a_step(result)))
            return _complete(job, result)

        return job.measure(
            PROBE, options, OwnSlice, limit_seconds=limit, environment=variables, room="own", complete=complete
        )


def _first_steps(job: Job, options: Options, variables: Mapping[str, str]) -> float:
    """Seconds that compiling took with nothing in the cache."""
    job.progress.stage(f"torch.compile {options.model.name}, nothing cached", 60)
    brief = msgspec.structs.replace(options, seconds=SHORTEST)
    result = job.measure(PROBE, brief, OwnSlice, limit_seconds=MARGIN_SECONDS, environment=variables)
    return beyond_a_step(result) if isinstance(result, OwnSlice) else 0.0


def _complete(job: Job, result: OwnSlice) -> OwnSlice:
    sensors = result.telemetry
    if isinstance(sensors, Absent):
        return result
    start = result.steps.ended_at_seconds[result.steady_from] - result.steps.seconds[result.steady_from]
    end = result.steps.ended_at_seconds[-1]
    joules = energy.between(energy.of_device(sensors, result.device), start, end)
    if isinstance(joules, Energy) and joules.joules > 0:
        result = msgspec.structs.replace(result, joules_per_item=joules.watts / result.items_per_s.value)
    draws = energy.draws(sensors, result.device, start, end)
    return msgspec.structs.replace(result, energy=joules, draws=draws, mfu=_mfu(job, result))


def _mfu(job: Job, result: OwnSlice) -> Figure | Absent:
    if isinstance(result.model_flops_per_s, Absent):
        return result.model_flops_per_s
    dtype = "bf16" if result.recipe.precision == "bf16-pure" else result.recipe.precision
    peak = job.datasheet(result.device).get(dtype)
    if peak is None:
        return Absent(f"no datasheet peak for {result.device.name} in {dtype}")
    return Figure(value=result.model_flops_per_s / peak.value, source="measured", basis=f"of {peak.basis}")
