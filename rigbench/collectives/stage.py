"""The collectives probe for a command: ranks started here, or this process as one of torchrun's; then judged."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from rigbench.collectives import verdict as findings
from rigbench.collectives.operations import NAMES
from rigbench.collectives.probe import METHOD, SECONDS, Options
from rigbench.collectives.record import CollectiveName, Collectives
from rigbench.core import units
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine import host, placement
from rigbench.machine.record import RigId
from rigbench.machine.rig import Rig
from rigbench.store import now
from rigbench.work import ranks
from rigbench.work import sensors as telemetry
from rigbench.work.process import Outcome
from rigbench.work.ranks import SEVERAL_ON_ONE_GPU, World

PROBE = "rigbench.collectives.probe"
LEAST_BYTES, MOST_BYTES, MOST_SIZES = 4, 1 << 36, 64
LEAST_SECONDS, MOST_SECONDS = 1.0, 3600.0
LEAST_LIMIT, MOST_LIMIT = 5.0, 24 * 3600.0
MOST_RANKS_HERE = 64
GRACE_SECONDS, TIMES_ITS_SECONDS = 60.0, 2.0  # beyond its own time: loading torch, buffers, rows that run late
LOOPBACK, LOOPBACK_NAMES = "lo", ("localhost", "127.0.0.1", "::1")
ELSEWHERE = "192.0.2.1"  # an address that is nobody's (RFC 5737): the way to it is the default route
ARRIVE_SHARE = 0.8  # of a limit that leaves no more
Progress = Callable[[float, str], None]


class Asked(msgspec.Struct, frozen=True):
    """What the user asked for. `ranks_here` is 0 where torchrun, or the number of GPUs, decides."""

    options: Options
    ranks_here: int
    limit_seconds: float


def options(
    *,
    ranks_here: str | None = None,
    operations: str | None = None,
    sizes: str | None = None,
    max_bytes: str | None = None,
    seconds: str | None = None,
    limit: str | None = None,
    device: str | None = None,
    world: World | None = None,
) -> Asked:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes, or two of them exclude each other.
    """
    if world and ranks_here is not None:
        raise RigbenchError("--ranks is not for a process that torchrun started", "torchrun's --nproc-per-node is")
    if sizes is not None and max_bytes is not None:
        raise RigbenchError("--sizes and --max-bytes exclude each other", "the largest of --sizes is the most")
    if device not in (None, "auto", "cpu", "cuda"):
        raise RigbenchError(f"--device {device!r} is not for a group of ranks", "use cpu, or cuda for all GPUs")
    wanted = None if seconds is None else units.parse_seconds(seconds, "--seconds")
    if wanted is not None and not LEAST_SECONDS <= wanted <= MOST_SECONDS:
        raise RigbenchError(f"--seconds {seconds!r} is not between 1 s and 1 h", "a minute is usual: 60s")
    hung = None if limit is None else units.parse_seconds(limit, "--limit")
    if hung is not None and not LEAST_LIMIT <= hung <= MOST_LIMIT:
        raise RigbenchError(f"--limit {limit!r} is not between 5 s and 1 day", "4 minutes are usual: 240s")
    usual = ranks.ARRIVE_SECONDS + GRACE_SECONDS + TIMES_ITS_SECONDS * (wanted or max(SECONDS.values()))
    return Asked(
        Options(
            device=device or "auto",  # type: ignore[arg-type]
            operations=parse_operations(operations) if operations is not None else NAMES,
            sizes=parse_sizes(sizes) if sizes is not None else (),
            largest_bytes=_bytes(max_bytes, "--max-bytes") if max_bytes is not None else 0,
            seconds=wanted or 0.0,
            arrive_seconds=min(ranks.ARRIVE_SECONDS, ARRIVE_SHARE * (hung or usual)),
        ),
        units.parse_whole(ranks_here, "--ranks", 1, MOST_RANKS_HERE) if ranks_here is not None else 0,
        hung or usual,
    )


def parse_operations(words: str) -> tuple[CollectiveName, ...]:
    """ "all_reduce,broadcast", or "all".

    Raises:
        RigbenchError: there is no such operation, or none at all.
    """
    asked = [word.strip().lower().replace("-", "_") for word in words.split(",") if word.strip()]
    if asked == ["all"]:
        return NAMES
    unknown = [word for word in asked if word not in NAMES]
    if unknown or not asked:
        what = f"knows no {unknown[0]!r}" if unknown else f"{words!r} names none"
        raise RigbenchError(f"--ops {what}", f"use all, or some of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in asked)


def parse_sizes(words: str) -> tuple[int, ...]:
    """ "8,64KiB,16MiB" in bytes, in order, each once.

    Raises:
        RigbenchError: a size that is none, too small or too large, or too many of them.
    """
    found = sorted({_bytes(word.strip(), "--sizes") for word in words.split(",") if word.strip()})
    if not 0 < len(found) <= MOST_SIZES:
        raise RigbenchError(f"--sizes {words!r} names {len(found)} sizes", "some are needed, as in 8,64KiB,16MiB")
    return tuple(found)


def _bytes(word: str, option: str) -> int:
    size = units.parse_bytes(word, option)
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise RigbenchError(f"{option} {word!r} is not between 4 B and 64 GiB", "16MiB is usual on a CPU, 1GiB on GPUs")
    return int(size)


def run(job: Job, asked: Asked, world: World | None) -> Collectives | Skipped:
    """The ranks of this machine, or this one among others', sensors read beside them.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the options cannot be met, or the port where the ranks are to meet is in use.
    """
    gpus = 0 if asked.options.device == "cpu" else len(job.visible_gpus)
    count = world.size if world else asked.ranks_here or (gpus if gpus > 1 else 2)
    if not world and not asked.ranks_here and gpus == 1:
        why = "one GPU: a collective needs two; --device cpu measures two ranks on the CPU, --ranks 1 the GPU alone"
        return _kept(job, Skipped("collectives", why))
    if gpus and not world and count > gpus and os.environ.get(SEVERAL_ON_ONE_GPU) != "1":
        cure = f"use --ranks {gpus} or --device cpu; NCCL 2.30 puts several on one with {SEVERAL_ON_ONE_GPU}=1"
        raise RigbenchError(f"--ranks {count}: there are {gpus} GPUs", cure)
    seconds = asked.options.seconds or SECONDS["cuda" if gpus else "cpu"]
    job.progress.stage(f"collectives, {count} ranks", seconds + 5)
    with telemetry.Sampler(job.rig) as sampler:
        outcome = started(asked, world, count, job.run.rig, job.progress.update)
    result = _judged(outcome, count)
    if result is None:
        raise Interrupted
    result = msgspec.structs.replace(result, telemetry=sampler.record())
    job.faults += findings.faults(result)
    if gpus > 1 and result.backend == "gloo" and asked.options.device == "auto":
        job.warn(f"the driver lists {gpus} GPUs and torch does not use them: ranks on the CPU were measured")
    _kept(job, result)
    if result.verdict == "interrupted":
        raise Interrupted
    return result


def follow(asked: Asked, world: World) -> int:
    """A rank beside the one that reports: the same work, nothing said and nothing stored. Returns the exit code.

    Raises:
        RigbenchError: this rank's own: there is no GPU for it, say.
    """
    rig = Rig.live()
    uuids = [(rig.nvml.reading(it, "uuid"), rig.nvml.reading(it, "name")) for it in range(_count(rig))]
    identity = host.rig_id(host.cpu(rig.sysfs), host.memory(rig.sysfs), uuids)
    result = _judged(started(asked, world, world.size, identity, lambda share, text: None), world.size)
    if result is None or result.verdict == "interrupted":
        return INTERRUPTED
    return FAULT if findings.faults(result) else FINE


def started(
    asked: Asked, world: World | None, count: int, identity: RigId, on_progress: Progress
) -> Outcome[Collectives]:
    """All ranks here, or the one that this process is."""
    options = msgspec.structs.replace(asked.options, fingerprint=identity.fingerprint)
    with tempfile.TemporaryDirectory(prefix="rigbench-nccl-") as folder:
        if world is None:
            return ranks.call(
                PROBE,
                options,
                Collectives,
                world_size=count,
                limit_seconds=asked.limit_seconds,
                on_progress=on_progress,
                rank_environment=lambda rank: _environment(folder, rank),
                master_port=_fixed_port(os.environ),
            )
        node = os.environ.get("GROUP_RANK", "")
        options = msgspec.structs.replace(options, host_name=socket.gethostname(), node=node)
        return ranks.call_as(
            PROBE,
            options,
            Collectives,
            world,
            limit_seconds=asked.limit_seconds,
            on_progress=on_progress,
            environment={**_environment(folder, world.rank), **interface(world)},
        )


def _judged(outcome: Outcome[Collectives], count: int) -> Collectives | None:
    """What the ranks found, with the verdict; None where the user said stop before there was anything."""
    found = next((result for result in outcome.results if result), None)
    if found is None and outcome.ended == "interrupted":
        return None
    result = found or findings.nothing(count, METHOD, now())
    return findings.judged(result, outcome.ended, outcome.dead_ranks, outcome.reason)


def _kept(job: Job, result: Collectives | Skipped) -> Collectives | Skipped:
    job.keep(collectives=result)
    return result


def _count(rig: Rig) -> int:
    count = rig.nvml.gpu_count()
    return 0 if isinstance(count, Absent) else count


def _environment(folder: str, rank: int) -> Mapping[str, str]:
    """One thread a rank, as torchrun sets it; and NCCL's own account of the ways that it takes."""
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV",
        "NCCL_DEBUG_FILE": str(Path(folder) / f"rank{rank}.log"),
    }


def interface(world: World) -> dict[str, str]:
    """gloo takes the address of the host's name, which many systems map to their loopback; the routes know better.

    The first host may know itself by its loopback too: then it is the interface of the default route.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    found = placement.interface_towards(world.master_address, world.master_port)
    if found == LOOPBACK and world.master_address not in LOOPBACK_NAMES:
        found = placement.interface_towards(ELSEWHERE, world.master_port)
    return {} if isinstance(found, Absent) else {"GLOO_SOCKET_IFNAME": found}


def _fixed_port(variables: Mapping[str, str]) -> int | None:
    """The port that the user fixed with MASTER_PORT.

    Raises:
        RigbenchError: it is not a port.
    """
    word = variables.get("MASTER_PORT", "")
    return units.parse_whole(word, "MASTER_PORT", 1, (1 << 16) - 1) if word else None
