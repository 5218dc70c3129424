"""The command collectives: ranks started here, or this process as one of torchrun's; then judged."""

from __future__ import annotations

import os
import socket

import msgspec

from rigbench.collectives import verdict
from rigbench.collectives.record import DEFAULT_SECONDS, Collectives, Options, RankOptions
from rigbench.command import Common, command
from rigbench.core import units
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, RigbenchError
from rigbench.core.home import scratch
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig
from rigbench.work import ranks
from rigbench.work.process import OnProgress, Outcome
from rigbench.work.ranks import SEVERAL_ON_ONE_GPU, World

PROBE = "rigbench.collectives.probe"
GRACE_SECONDS, TIMES_ITS_SECONDS = 60.0, 2.0  # beyond its own time: loading torch, buffers, rows that run late
ARRIVE_SHARE = 0.8  # of a limit that leaves no more


@command("device", "keep_disturbed")
def collectives(common: Common, options: Options) -> int:
    """Collectives between ranks: latency, bandwidth, values checked, and the path that the bytes really took.

    NCCL on GPUs, gloo on a CPU. On several machines: torchrun --nnodes 2 … -m rigbench collectives; rank 0 reports.

        rigbench collectives
        rigbench collectives --max-bytes 64MiB
        rigbench collectives --device cpu --ranks 4    gloo between four processes
    """
    world = ranks.world_from(os.environ)
    if world and not isinstance(options.ranks, Absent):
        raise RigbenchError("--ranks is not for a process that torchrun started", "torchrun's --nproc-per-node is")
    if options.sizes and not isinstance(options.max_bytes, Absent):
        raise RigbenchError("--sizes and --max-bytes exclude each other", "the largest of --sizes is the most")
    options = on_device(options, common.device)
    if world and world.rank:
        rig = Rig.live(ask_driver=options.device != "cpu")
        return follow(Job(common.store(), rig, "collectives", Silent()), options, world)
    return common.answer(lambda job: run(job, options, world))


def on_device(options: Options, device: str | None) -> Options:
    """The options with a device: a group of ranks takes all GPUs, not one of them."""
    if device not in (None, "auto", "cpu", "cuda"):
        raise RigbenchError(f"--device {device!r} is not for a group of ranks", "use cpu, or cuda for all GPUs")
    return msgspec.structs.replace(options, device=device or "auto")


def run(job: Job, options: Options, world: World | None) -> Collectives | Skipped:
    """The ranks of this machine, or this one among others', sensors read beside them."""
    cards = job.cards(options.device)
    gpus, options = len(cards.gpus), msgspec.structs.replace(options, device=options.device.partition(":")[0])
    count = gpus if gpus > 1 else 2
    if world:
        count = world.size
    elif isinstance(options.ranks, int):
        count = options.ranks
    elif gpus == 1:
        why = "one GPU: a collective needs two; --device cpu measures two ranks on the CPU, --ranks 1 the GPU alone"
        why = f"{cards.why}, and {why}" if cards.hidden else why
        skipped = Skipped("collectives", why)
        job.keep(collectives=skipped)
        return skipped
    if gpus and not world and count > gpus and os.environ.get(SEVERAL_ON_ONE_GPU) != "1":
        cure = f"use --ranks {gpus} or --device cpu; NCCL 2.30 puts several on one with {SEVERAL_ON_ONE_GPU}=1"
        raise RigbenchError(f"--ranks {count}: there are {gpus} GPUs", cure)
    seconds = DEFAULT_SECONDS["cuda" if gpus else "cpu"] if isinstance(options.seconds, Absent) else options.seconds
    job.progress.stage(f"collectives, {count} ranks", seconds + 5)
    outcome, sensors = job.undisturbed(
        "collectives",
        lambda beside: started(job, options, world, count, beside.heard(job.progress.update)),
        stands=lambda result: bool(verdict.faults(result)),
        repeat=world is None,  # ranks that torchrun started elsewhere are there once
    )
    result = judged(outcome, count)
    if result is None:
        raise Interrupted
    result = msgspec.structs.replace(result, telemetry=sensors)
    job.faults += verdict.faults(result)
    if gpus > 1 and result.backend == "gloo" and options.device == "auto":
        job.warn(f"the driver lists {gpus} GPUs and torch does not use them: ranks on the CPU were measured")
    job.keep(collectives=result)
    if result.verdict == "interrupted":
        raise Interrupted
    return result


def follow(job: Job, options: Options, world: World) -> int:
    """A rank beside the one that reports: the same work, nothing said and nothing stored; its exit code."""
    result = judged(started(job, options, world, world.size, job.progress.update), world.size)
    if result is None or result.verdict == "interrupted":
        return INTERRUPTED
    return FAULT if verdict.faults(result) else FINE


def judged(outcome: Outcome[Collectives], count: int) -> Collectives | None:
    """What the ranks found, with the verdict; None where the user said stop before there was anything."""
    result = outcome.result
    if result is None and outcome.ended == "interrupted":
        return None
    return verdict.judged(result or Collectives(world_size=count), outcome.ended, outcome.dead_ranks, outcome.reason)


def started(
    job: Job, options: Options, world: World | None, count: int, on_progress: OnProgress
) -> Outcome[Collectives]:
    """All ranks here, or the one that this process is."""
    seconds = max(DEFAULT_SECONDS.values()) if isinstance(options.seconds, Absent) else options.seconds
    limit_seconds = options.limit_seconds
    if isinstance(limit_seconds, Absent):
        limit_seconds = ranks.ARRIVE_SECONDS + GRACE_SECONDS + TIMES_ITS_SECONDS * seconds
    own = RankOptions(
        options=options,
        arrive_seconds=min(ranks.ARRIVE_SECONDS, ARRIVE_SHARE * limit_seconds),
        fingerprint=job.run.rig.fingerprint,
        host_name=socket.gethostname() if world else "",
        node=os.environ.get("GROUP_RANK", "") if world else "",
    )
    with scratch() as folder:

        def environment(rank: int) -> dict[str, str]:
            """One thread a rank, as torchrun sets it; and NCCL's own account of the ways that it takes."""
            return {
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                "NCCL_DEBUG": "INFO",
                "NCCL_DEBUG_SUBSYS": "INIT,ENV",
                "NCCL_DEBUG_FILE": str(folder / f"rank{rank}.log"),
            }

        if world:
            return ranks.call_as(
                PROBE,
                own,
                Collectives,
                world,
                limit_seconds=limit_seconds,
                on_progress=on_progress,
                environment=environment(world.rank) | ranks.interface(world),
            )
        word = os.environ.get("MASTER_PORT", "")  # the port that the user fixed
        return ranks.call(
            PROBE,
            own,
            Collectives,
            world_size=count,
            limit_seconds=limit_seconds,
            on_progress=on_progress,
            rank_environment=environment,
            master_port=units.parse_whole(word, "MASTER_PORT", 1, (1 << 16) - 1) if word else None,
        )
