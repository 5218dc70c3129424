"""A slice of several ranks for a command: all of this machine's, or this process as one of torchrun's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rigbench.collectives.stage import interface
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine import host
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.store import Store
from rigbench.topology.verdict import worst_first
from rigbench.train import verdict as findings
from rigbench.train.options import DecoderOptions
from rigbench.train.ranks_probe import Options
from rigbench.train.record import Slice
from rigbench.train.stage import MARGIN_SECONDS, finished, host_allocator
from rigbench.work import ranks
from rigbench.work import sensors as telemetry
from rigbench.work.process import Outcome
from rigbench.work.ranks import World
from rigbench.work.record import NOTHING_DECLARED, WattOptions

PROBE = "rigbench.train.ranks_probe"
CPU_RANKS = 2  # that share this machine's threads, where no GPU is
Said = Callable[[float, str], None]


def run(
    job: Job,
    asked: DecoderOptions,
    watts: WattOptions = NOTHING_DECLARED,
    world: World | None = None,
) -> Slice | Skipped:
    """The slice of all ranks, sensors read beside those of this machine; kept in the job.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad token data, no device for a rank, or it does not fit.
    """
    count = world.size if world else rank_count(job, asked.device)
    job.progress.stage(f"train-probe {asked.model.name}, {asked.recipe.strategy}, {count} ranks", 40)
    options, environment = _options(job, asked)
    with telemetry.Sampler(job.rig) as sampler:
        outcome = started(options, environment, world, count, job.progress.update)
    result = _judged(job, outcome, asked.recipe.strategy)
    if isinstance(result, Slice):
        result = msgspec.structs.replace(result, telemetry=sampler.record())
        result = finished(job, result, watts, _cards(job, result, count))
        if world and int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) < world.size:
            result = of_many_hosts(result, watts)
        if outcome.ended in ("died", "hung"):
            result = msgspec.structs.replace(result, events=(*result.events, outcome.reason))
    job.keep(slices=(*job.run.slices, result))
    if outcome.ended == "interrupted" or (isinstance(result, Slice) and result.ended_by == "interrupted"):
        raise Interrupted
    return result


def alone(job: Job, result: Slice | Skipped) -> None:
    """Findings of a slice that is no row of a table."""
    if isinstance(result, Slice):
        found = findings.exchange_bound(result, result.recipe.strategy)
        job.keep(findings=worst_first((*job.run.findings, *found)))


def follow(asked: DecoderOptions, world: World, home: Path) -> int:
    """A rank beside the one that reports: the same work, nothing said and nothing stored. Returns the exit code.

    Raises:
        RigbenchError: this rank's own: there is no device for it, say.
    """
    options, environment = _options(Job(Store(home), Rig.live(), "train-probe", _Silent()), asked)
    outcome = started(options, environment, world, world.size, lambda share, text: None)
    if outcome.ended == "interrupted":
        return INTERRUPTED
    return FAULT if outcome.ended in ("died", "hung") else FINE


class _Silent:
    """Progress that nobody sees: rank 0 tells."""

    def stage(self, text: str, weight_seconds: float) -> None: ...

    def update(self, share: float, text: str) -> None: ...

    def close(self) -> None: ...


def _cards(job: Job, result: Slice, count: int) -> tuple[str, ...]:
    """The UUIDs of this machine's GPUs that its ranks worked on; none on a CPU, or where that cannot be told."""
    if result.device.kind != "cuda":
        return ()
    uuids = {gpu.index: gpu.uuid for gpu in job.gpus}
    found = [uuids[index] for index in job.visible_gpus[:count]]
    return tuple(uuid for uuid in found if isinstance(uuid, str)) if result.device.uuid in found else ()


def of_many_hosts(result: Slice, watts: WattOptions) -> Slice:
    """Without joules of one host for the tokens of several; watts that were declared at the wall are the user's."""
    return msgspec.structs.replace(
        result,
        energy=Absent("the sensors of this host alone were read, and ranks ran on others too"),
        joules_per_token=msgspec.UNSET,
        model_flop_per_joule=msgspec.UNSET,
        draws=msgspec.UNSET,
        power=result.power if not isinstance(watts.wall_watts, Absent) else msgspec.UNSET,
    )


def rank_count(job: Job, device: str) -> int:
    """As many as there are GPUs to be seen, or two on a CPU."""
    if device.startswith("cpu") or not job.gpus:
        return CPU_RANKS
    return max(1, len(job.visible_gpus))


def started(
    options: Options, environment: Mapping[str, str], world: World | None, count: int, said: Said
) -> Outcome[Slice]:
    """All ranks here, or the one that this process is."""
    limit = (options.seconds or options.longest_seconds) + MARGIN_SECONDS
    if world is not None:
        own = {**environment, **interface(world)}
        return ranks.call_as(PROBE, options, Slice, world, limit_seconds=limit, on_progress=said, environment=own)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(_threads_each(count))}
    return ranks.call(
        PROBE,
        options,
        Slice,
        world_size=count,
        limit_seconds=limit,
        on_progress=said,
        environment={**environment, **threads},
    )


def _threads_each(count: int) -> int:
    cores = host.cpu(Sysfs()).usable_cpus
    return max(1, int((os.cpu_count() or 1) if isinstance(cores, Absent) else cores) // count)


def _options(job: Job, asked: DecoderOptions) -> tuple[Options, Mapping[str, str]]:
    """
    Raises:
        RigbenchError: the optimizer cannot step shards.
    """
    if asked.recipe.optimizer.endswith("8bit") and asked.recipe.strategy.startswith("fsdp2"):
        cure = "use --strategy ddp, or --optimizer adamw"
        raise RigbenchError("bitsandbytes steps whole weights, and fsdp2 has shards", cure, NOTHING)
    allocator, environment = host_allocator(job, asked.device)
    options = Options(**_shared(asked), host_name=socket.gethostname())
    options = msgspec.structs.replace(options, cache=str(job.store.home / "cache"), host_allocator=allocator)
    return options, environment


def _shared(asked: DecoderOptions) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in DecoderOptions.__struct_fields__}


def _judged(job: Job, outcome: Outcome[Slice], strategy: str) -> Slice | Skipped:
    """Rank 0's record of all, or what there is. A rank that died or hung is a fault, and named."""
    found = next((result for result in outcome.results if result), None)
    if outcome.ended in ("died", "hung"):
        blamed = f" (rank {', '.join(map(str, outcome.dead_ranks))})" if outcome.dead_ranks else ""
        job.faults.append(f"train {strategy}: {outcome.reason}{blamed}")
    if found is None and outcome.ended == "interrupted":
        raise Interrupted
    return found or Skipped("train", outcome.reason or "no rank came to a step")


def check(strategy: str) -> None:
    """
    Raises:
        RigbenchError: torchrun started this, and the strategy is for one process.
    """
    if strategy in ("single", "data-parallel"):
        raise RigbenchError(
            f"--strategy {strategy} is one process's, and torchrun has started several",
            "use --strategy ddp or fsdp2",
            exit_code=NOTHING,
        )
