"""Runs a slice for a command, in one process or in ranks, and completes it with what only the parent knows."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError
from rigbench.core.home import scratch
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine import host
from rigbench.machine.cuda_map import Cards
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.matmul.record import Matmul
from rigbench.model.recipe import SEVERAL_GPUS
from rigbench.p2p import arms as p2p_arms
from rigbench.p2p.record import P2p, P2pAdvice
from rigbench.store import Store
from rigbench.train.plan import NOT_REPLICATED
from rigbench.train.record import AnySlice, Compile, Options, OwnModel, OwnSlice, Slice, TrialOptions
from rigbench.work import power, process, ranks, telemetry
from rigbench.work.process import OnProgress, Outcome
from rigbench.work.ranks import World, interface
from rigbench.work.record import NOTHING_DECLARED, WattOptions

PROBE, TRIAL = "rigbench.train.probe", "rigbench.train.own"
MARGIN_SECONDS = 300.0  # beyond the slice's own seconds: loading torch, building, a first step, one long last one
COMPILE_SECONDS = TRIAL_SECONDS = 600.0  # at most; a program's factory may load weights
SHORTEST = 1e-3  # seconds: three steps, the fewest that tell a steady one
ONE_PROCESS = ("single", "data-parallel")
CPU_RANKS = 2  # that share this machine's threads, where no GPU is
T = TypeVar("T", bound=AnySlice)


def run(
    job: Job,
    options: Options,
    watts: WattOptions = NOTHING_DECLARED,
    world: World | None = None,
    its: Cards | None = None,
) -> AnySlice | Skipped:
    """One slice, sensors read beside it, compared with datasheet and measured matmul; kept in the job.

    On `its` cards; by default on those that `--device` names.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad token data, no device for a rank, or a model that does not fit.
    """
    strategy, asked = options.recipe.strategy, job.cards(options.device)
    options, environment = prepared(job, options)
    if its is None and strategy == "single" and asked.is_mixed:  # the one that was checked and predicted, by its UUID
        its = asked.first
    if its and its.environment:
        options, environment = msgspec.structs.replace(options, device="cuda:0"), {**environment, **its.environment}
    its = its or asked
    if world is None:
        refuse_one_card(strategy, its)
    if strategy not in ONE_PROCESS:
        return _in_ranks(job, options, environment, watts, world, its)
    made = OwnSlice if isinstance(options.model, OwnModel) else Slice
    with _kernel_cache(options) as caches:
        environment = {**environment, **caches}
        cold_seconds = _first_steps(job, options, made, environment) if options.recipe.compiled else None
        job.progress.stage(
            f"train-probe {options.model.name}", (options.seconds or min(30, options.longest_seconds)) + 10
        )

        def complete(result: AnySlice) -> AnySlice:
            if cold_seconds is not None:
                result = msgspec.structs.replace(result, compile=Compile(cold_seconds, beyond_a_step(result)))
            return completed(job, result, watts, _cards(its, result) if result.cards > 1 else ())

        return job.measure(
            PROBE,
            options,
            made,
            limit_seconds=options.most_seconds + MARGIN_SECONDS,
            environment=environment,
            room="slices",
            complete=complete,
        )


def refuse_one_card(strategy: str, its: Cards) -> None:
    """
    Raises:
        RigbenchError: that is no way to train on a single GPU.
    """
    if len(its.gpus) == 1 and strategy in SEVERAL_GPUS:
        what = f"--strategy {strategy} is for several GPUs, and {its.why or 'here is one'}"
        raise RigbenchError(what, "use --strategy single", NOTHING)


def prepared(job: Job, options: Options) -> tuple[Options, Mapping[str, str]]:
    """With what the parent knows, and the variables that go with it: memory as the user set it, else kept on a CPU.

    Raises:
        RigbenchError: the optimizer cannot step shards, or the strategy not copy what is compiled.
    """
    recipe = options.recipe
    recipe.refuse_contradiction()
    if recipe.compiled and recipe.strategy == "data-parallel":
        raise RigbenchError(NOT_REPLICATED, "use --strategy ddp, or --compile off", NOTHING)
    free = {gpu.uuid: job.rig.nvml.reading(gpu.index, "memory_free_bytes") for gpu in job.gpus}
    options = msgspec.structs.replace(
        options,
        cache=str(job.store.home / "cache"),
        host_name=socket.gethostname(),
        free_bytes_before={
            uuid: size for uuid, size in free.items() if isinstance(uuid, str) and isinstance(size, int)
        },
    )
    if any(key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for key in os.environ):
        return msgspec.structs.replace(options, host_allocator="set by the user"), {}
    if not job.cards(options.device).gpus:
        return msgspec.structs.replace(options, host_allocator="keeps memory"), process.KEEP_MEMORY
    return options, {}


@contextlib.contextmanager
def _kernel_cache(options: Options) -> Iterator[Mapping[str, str]]:
    """An empty folder for what torch.compile makes, so that its first process finds nothing and its second one all."""
    if not options.recipe.compiled:
        yield {}
        return
    with scratch() as folder:
        yield {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}


def _first_steps(job: Job, options: Options, made: type[AnySlice], environment: Mapping[str, str]) -> float:
    """Seconds that compiling took with nothing in the cache: a few steps in a process of their own.

    Raises:
        RigbenchError: it cannot be compiled, or does not fit.
    """
    job.progress.stage(f"torch.compile {options.model.name}, nothing cached", 60)
    brief = msgspec.structs.replace(options, seconds=SHORTEST)
    result = job.measure(PROBE, brief, made, limit_seconds=COMPILE_SECONDS, environment=environment)
    if isinstance(result, Skipped):
        raise RigbenchError(f"torch.compile: {result.reason}", "use --compile off", NOTHING)
    return beyond_a_step(result)


def beyond_a_step(result: AnySlice) -> float:
    """What the steps before the steady ones took beyond as many steady ones."""
    early = result.steps.seconds[: result.steady_from]
    return max(0.0, math.fsum(early) - len(early) * result.step_seconds.value)


def tried(job: Job, options: TrialOptions) -> OwnModel:
    """A program of the user's, tried in a process of its own, so that a mistake in it costs seconds.

    Raises:
        Interrupted: the user said stop.
        RigbenchError: it is not as the contract says, or the process that tried it died.
    """
    job.progress.stage(f"trying {options.name}", 10)
    result = job.measure(TRIAL, options, OwnModel, limit_seconds=TRIAL_SECONDS)
    if isinstance(result, Skipped):
        cure = "try it in a Python shell first"
        raise RigbenchError(f"--model {options.name}: {result.reason}", cure, exit_code=NOTHING)
    return result


def _in_ranks(
    job: Job, options: Options, environment: Mapping[str, str], watts: WattOptions, world: World | None, its: Cards
) -> AnySlice | Skipped:
    """The slice of all ranks: all of this machine's, or this process as one of torchrun's."""
    count, strategy = world.size if world else rank_count(its), options.recipe.strategy
    exports = {} if world or not its.gpus else advised(job)
    environment = environment if world else {**environment, **its.environment, **exports}
    job.progress.stage(f"train-probe {options.model.name}, {strategy}, {count} ranks", 40)
    outcome, sensors = job.undisturbed(
        "slices",
        lambda beside: started(options, environment, world, count, beside.heard(job.progress.update)),
        place=len(job.run.slices),
        repeat=world is None,  # ranks that torchrun started elsewhere are there once
    )
    if outcome.ended in ("died", "hung"):
        blamed = f" (rank {', '.join(map(str, outcome.dead_ranks))})" if outcome.dead_ranks else ""
        job.faults.append(f"train {strategy}: {outcome.reason}{blamed}")
    if outcome.result is None and outcome.ended == "interrupted":
        raise Interrupted
    why = outcome.reason or "no rank came to a step"
    result: Slice | Skipped = outcome.result or Skipped(skipped_as(strategy, count), why)
    if isinstance(result, Slice):
        result = msgspec.structs.replace(result, telemetry=sensors, exports=exports)
        result = completed(job, result, watts, _cards(its, result))
        if world and int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) < world.size:
            result = _of_many_hosts(result, watts)
        if outcome.ended in ("died", "hung"):
            result = msgspec.structs.replace(result, events=(*result.events, outcome.reason))
    job.keep(slices=(*job.run.slices, result))
    if outcome.ended == "interrupted" or (isinstance(result, Slice) and result.ended_by == "interrupted"):
        raise Interrupted
    return result


def advised(job: Job) -> dict[str, str]:
    """NCCL's settings that the newest p2p of this rig advises, which a full run would have; a shell that sets any of
    them decides itself."""
    if p2p_arms.inherited(os.environ):
        return {}
    its = next((run.p2p for run in job.holding("p2p")), None)
    return its.advice.environment if isinstance(its, P2p) and isinstance(its.advice, P2pAdvice) else {}


def skipped_as(strategy: str, count: int) -> str:
    """The name of a slice that was not trained: of several cards it says which of them, as one card may do."""
    return "train" if count == 1 else f"train, {strategy} on {count}"


def rank_count(its: Cards) -> int:
    """A rank a GPU, or two on a CPU."""
    return len(its.gpus) or CPU_RANKS


def started(
    options: Options,
    environment: Mapping[str, str],
    world: World | None,
    count: int,
    on_progress: OnProgress,
) -> Outcome[Slice]:
    """All ranks here, or the one that this process is."""
    limit = options.most_seconds + MARGIN_SECONDS
    if world is not None:
        own = {**environment, **interface(world)}
        return ranks.call_as(
            PROBE, options, Slice, world, limit_seconds=limit, on_progress=on_progress, environment=own
        )
    if "OMP_NUM_THREADS" not in os.environ:
        cores = host.cpu(Sysfs()).usable_cpus
        usable = int((os.cpu_count() or 1) if isinstance(cores, Absent) else cores)
        environment = {**environment, "OMP_NUM_THREADS": str(max(1, usable // count))}
    return ranks.call(
        PROBE, options, Slice, world_size=count, limit_seconds=limit, on_progress=on_progress, environment=environment
    )


def follow(options: Options, world: World, home: Path) -> int:
    """A rank beside the one that reports: the same work, nothing said and nothing stored. Returns the exit code.

    Raises:
        RigbenchError: this rank's own: there is no device for it, say.
    """
    job = Job(Store(home), Rig.live(), "train-probe", Silent())
    outcome = started(*prepared(job, options), world, world.size, job.progress.update)
    if outcome.ended == "interrupted":
        return INTERRUPTED
    return FAULT if outcome.ended in ("died", "hung") else FINE


def _cards(its: Cards, result: AnySlice) -> tuple[str, ...]:
    """The UUIDs of this machine's GPUs that worked together; none on a CPU, or where that cannot be told."""
    if result.device.kind != "cuda":
        return ()
    worked = [gpu.uuid for gpu in its.gpus[: result.cards]]
    return tuple(uuid for uuid in worked if isinstance(uuid, str)) if result.device.uuid in worked else ()


def _of_many_hosts(result: Slice, watts: WattOptions) -> Slice:
    """Without joules of one host for the tokens of several; watts that were declared at the wall are the user's."""
    alone = Absent("the sensors of this host alone were read, and ranks ran on others too")
    declared = not isinstance(watts.wall_watts, Absent)
    return msgspec.structs.replace(
        result,
        energy=alone,
        joules_per_item=alone,
        model_flop_per_joule=alone,
        draws=(),
        power=result.power if declared else alone,
    )


def completed(job: Job, result: T, watts: WattOptions, cards: tuple[str, ...] = ()) -> T:
    """With joules, watts at the wall, and shares of the datasheet and of the measured matmul.

    `cards` are the UUIDs of those that worked; none: the record's device.
    """
    if isinstance(result.telemetry, Absent):
        return result
    start = result.steps.ended_at_seconds[result.steady_from] - result.steps.seconds[result.steady_from]
    end = result.steps.ended_at_seconds[-1]
    joules = telemetry.energy(telemetry.of_device(result.telemetry, result.device, cards), start, end)
    drawn = joules if isinstance(joules, Absent) else joules.watts or Absent("no joules were counted")
    flops = result.model_flops_per_s
    joules_per_item, flop_per_joule = drawn, drawn
    if not isinstance(drawn, Absent):
        joules_per_item = drawn / result.items_per_s.value
        flop_per_joule = flops if isinstance(flops, Absent) else flops / drawn
    facts: dict[str, object] = {
        "energy": joules,
        "joules_per_item": joules_per_item,
        "model_flop_per_joule": flop_per_joule,
        "draws": telemetry.draws(result.telemetry, result.device, start, end, cards),
        "mfu": _of_peak(job, result, flops),
    }
    if isinstance(result, Slice):
        facts["hfu"] = _of_peak(job, result, result.hardware_flops_per_s)
        facts["share_of_measured_matmul"] = _of_matmul(job, result)
    return at_wall(msgspec.structs.replace(result, **facts), watts)


def at_wall(result: T, watts: WattOptions) -> T:
    """With the watts at the wall, where enough is read and declared for them."""
    its = power.power([result], watts)
    return result if isinstance(its, Absent) or its.covers != "wall" else msgspec.structs.replace(result, power=its)


def _of_peak(job: Job, result: AnySlice, flops_per_s: float | Absent) -> Figure | Absent:
    """A rate as a share of the datasheet's, of all cards together."""
    if isinstance(flops_per_s, Absent):
        return flops_per_s
    dtype, cards = result.recipe.dtype, result.cards
    peak = job.datasheet(result.device).get(dtype)
    if peak is None:
        return Absent(f"no datasheet peak for {result.device.name} in {dtype}")
    if flops_per_s > cards * peak.value:
        return Absent(f"it was faster than {peak.basis} says that the card can be: one of the two is wrong")
    basis = f"of {peak.basis}" if cards == 1 else f"of {cards} cards, each {peak.basis}"
    return Figure(value=flops_per_s / peak.value / cards, source="measured", basis=basis)


def _of_matmul(job: Job, result: Slice) -> Figure | Absent:
    """Of the sustained matmul in this precision on this device, as a training is work of hours; without a load, of the
    fastest: this run's, else the newest stored one of this rig.
    """
    dtype, cards = result.recipe.dtype, result.cards
    if cards > 1 and result.device.kind == "cpu":
        return Absent("ranks share this CPU")
    for run in job.holding("matmul"):
        matmul = run.matmul
        if not isinstance(matmul, Matmul) or matmul.device != result.device:
            continue
        sustained = matmul.sustained_flops_per_s
        if rate := sustained.get(dtype) or matmul.best_flops_per_s.get(dtype):
            which = f"the {'sustained' if dtype in sustained else 'fastest'} {dtype} matmul of run {run.id}"
            if result.model_flops_per_s > cards * rate.value:
                return Absent(f"it was faster than {which}: measure that again")
            return Figure(value=result.model_flops_per_s / rate.value / cards, source="measured", basis=f"of {which}")
    return Absent(f"no {dtype} matmul was measured on this device; run `rigbench matmul`")
