"""Runs a probe in the ranks of one torch.distributed group, started here or by torchrun.

Every rank is a process of its own, started and heard by a parent that never imports torch. A rank that dies, never
arrives or hangs ends the whole group, and what was measured is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Record
from rigbench.machine import placement
from rigbench.machine.accelerator import Accelerator, cuda_devices, open_device
from rigbench.work import process
from rigbench.work.process import Child, OnProgress, Outcome, Report, attend

ARRIVE_SECONDS = 120.0  # for every rank to load torch and find the others
PORTS_TRIED = 4
TAKEN = "address already in use"
HERE = "127.0.0.1"
LOOPBACK, LOOPBACK_NAMES = "lo", ("localhost", HERE, "::1")
ELSEWHERE = "192.0.2.1"  # an address that is nobody's (RFC 5737): the way to it is the default route
BY_AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # "True": torchrun's agent keeps the table at which ranks meet
MEETING = "RIGBENCH_MEETING"  # which group of the same processes it is, where they make several one after the other
SEVERAL_ON_ONE_GPU = "NCCL_MULTI_RANK_GPU_ENABLE"  # of NCCL 2.30 and later
T = TypeVar("T", bound=Record)


class World(msgspec.Struct, frozen=True):
    """Which rank of how many a process is, and where they all meet."""

    rank: int
    size: int
    local_rank: int
    master_address: str
    master_port: int

    @property
    def environment(self) -> dict[str, str]:
        """As torchrun tells it to the processes that it starts."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


def call(
    probe: str,
    options: Record,
    result_type: type[T],
    *,
    world_size: int,
    limit_seconds: float,
    on_progress: OnProgress = lambda share, text: None,
    environment: Mapping[str, str] | None = None,
    rank_environment: Callable[[int], Mapping[str, str]] = lambda rank: {},
    master_port: int | None = None,
) -> Outcome[T]:
    """Run `probe.run(options, report, world)` in `world_size` processes of this machine.

    Progress is that of rank 0. Without `master_port` a free port is chosen, and another one if it is taken before the
    ranks get to it.

    Raises:
        RigbenchError: a rank refused its options or its input, or the port that was asked for is in use.
    """
    if master_port is not None:
        try:
            socket.create_server((HERE, master_port)).close()
        except OSError:
            raise port_in_use(master_port) from None
    for _ in range(1 if master_port is not None else PORTS_TRIED):
        port = master_port or free_port()
        with contextlib.ExitStack() as started:
            children = []
            for rank in range(world_size):
                world = World(rank, world_size, rank, HERE, port)
                place = world.environment
                place[BY_AGENT] = "False"  # whatever torchrun may have set here
                own = {**interface(world), **(environment or {}), **rank_environment(rank), **place}
                children.append(Child(probe, options, own, f"rank {rank}", "ranks"))
                started.callback(children[-1].kill)
            outcome = attend(children, result_type, limit_seconds, on_progress)
        if TAKEN not in outcome.reason.lower() or outcome.results[0]:
            return outcome
    raise port_in_use(port)


def call_as(
    probe: str,
    options: Record,
    result_type: type[T],
    world: World,
    *,
    limit_seconds: float,
    on_progress: OnProgress = lambda share, text: None,
    environment: Mapping[str, str] | None = None,
    meeting: int = 0,
) -> Outcome[T]:
    """Run the probe as one rank of a group whose other ranks are started elsewhere, on this machine or another.

    `results` holds this rank's own alone, at its place. `meeting` counts the groups that these processes made before:
    the table of torchrun's agent still holds theirs, and a table of the last one's may still be closing at its port.

    Raises:
        RigbenchError: the rank refused its options or its input, or the port where all are to meet is in use here.
    """
    if meeting and os.environ.get(BY_AGENT) != "True":
        port = world.master_port + meeting
        world = msgspec.structs.replace(world, master_port=port if port < 1 << 16 else world.master_port - meeting)
    own = {**(environment or {}), **world.environment, MEETING: str(meeting)}
    child = Child(probe, options, own, server="ranks")
    outcome = attend([child], result_type, limit_seconds, on_progress, quiet=world.rank > 0)
    if TAKEN in outcome.reason.lower() and not outcome.result:
        raise port_in_use(world.master_port)
    blamed = outcome.dead_ranks
    if outcome.ended == "died":  # where it failed rather than was ended, another rank's death may be the cause
        blamed = (world.rank,) if child.ended_alone else ()
    results = tuple(outcome.result if rank == world.rank else None for rank in range(world.size))
    return Outcome(results, outcome.ended, outcome.reason, blamed)


def world_from(variables: Mapping[str, str]) -> World | None:
    """The world that torchrun (or whoever set its variables) put this process into; None where there is none.

    Raises:
        RigbenchError: some of the variables are there, but not all, or they make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if "RANK" not in variables and "WORLD_SIZE" not in variables:
        return None
    cure = "start it with torchrun, which sets them all, or unset them"
    if lacking := [name for name in names if not variables.get(name)]:
        raise RigbenchError(f"this process is to be a rank, but {', '.join(lacking)} is not set", cure)
    told = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **variables}
    numbers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "LOCAL_WORLD_SIZE")
    rank, size, local_rank, port, _ = (number(told, name, cure) for name in numbers)
    if not rank < size or not 0 < port < 1 << 16:
        raise RigbenchError(f"there is no rank {rank} of {size} at port {port}", cure)
    try:
        variables["MASTER_ADDR"].encode("idna")
    except UnicodeError:
        raise RigbenchError(f"MASTER_ADDR is {variables['MASTER_ADDR'][:40]!r}, no host's name", cure) from None
    return World(rank, size, local_rank, variables["MASTER_ADDR"], port)


def number(variables: Mapping[str, str], name: str, cure: str) -> int:
    """What a launcher's variable says, which is refused where that is no number."""
    if not re.fullmatch("[0-9]{1,9}", variables[name]):
        raise RigbenchError(f"{name} is {variables[name][:40]!r}, not a number", cure)
    return int(variables[name])


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server((HERE, 0)) as trial:
        return int(trial.getsockname()[1])


def port_in_use(port: int) -> RigbenchError:
    return RigbenchError(
        f"port {port}, where the ranks are to meet, is in use by another process",
        "set MASTER_PORT (torchrun: --master-port) to a free one, or leave it out",
    )


def join(
    world: World, report: Report, backend: str, arrive_seconds: float = ARRIVE_SECONDS, word: str = "here"
) -> tuple[str, ...]:
    """Make the default process group of all ranks; `backend` as torch.distributed.init_process_group takes it.

    Every rank brings a word, and is told those of all, by rank. Where a rank does not come within that time, the parent
    is told which, and this process waits to be ended.

    Raises:
        KeyboardInterrupt: told to stop meanwhile.
    """
    import torch.distributed as dist

    report.progress(0.0, "waiting for all ranks")
    store = meeting(world, report, arrive_seconds)
    store.set(f"arrived/{world.rank}", word)
    waiting = set(range(world.size))
    until = time.monotonic() + arrive_seconds
    while waiting := {rank for rank in waiting if not store.check([f"arrived/{rank}"])}:
        report.check()
        if time.monotonic() > until:
            _never_came(report, sorted(waiting), arrive_seconds)
        time.sleep(0.01)
    words = tuple(store.get(f"arrived/{rank}").decode() for rank in range(world.size))
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    return words


def meeting(world: World, report: Report, arrive_seconds: float) -> Any:
    """The table that the ranks meet at: rank 0 keeps it, or torchrun's agent where that says so (as torch does).

    Of ranks on one machine it is not to be reached from another: torch itself would listen on every interface.
    """
    import torch.distributed as dist

    kept_by_agent = os.environ.get(BY_AGENT) == "True"
    keeper = world.rank == 0 and not kept_by_agent
    listening: dict[str, Any] = {}
    if keeper and world.master_address == HERE:
        with socket.create_server((HERE, world.master_port)) as server:
            listening = {"master_listen_fd": server.detach()}  # torch closes it
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            world.master_address,
            world.master_port,
            world.size,
            is_master=keeper,
            timeout=timedelta(seconds=arrive_seconds),
            wait_for_workers=False,
            **listening,
        )
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        if keeper or "timed out" not in str(error).lower():
            raise
        _never_came(report, [0], arrive_seconds)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"rigbench/{attempt}/{os.environ.get(MEETING, '0')}", store)  # type: ignore[attr-defined]


def exchange(own: bytes) -> list[bytes]:
    """Every rank's bytes, by rank, as tensors of the host: torch's own exchange of objects unpickles whatever comes."""
    import torch
    import torch.distributed as dist

    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    every = [torch.zeros(max(map(int, sizes)), dtype=torch.uint8) for _ in sizes]
    mine = torch.frombuffer(bytearray(own.ljust(len(every[0]))), dtype=torch.uint8)
    dist.all_gather(every, mine)
    return [one.numpy().tobytes()[: int(size)] for one, size in zip(every, sizes, strict=True)]


def _never_came(report: Report, ranks: list[int], arrive_seconds: float) -> NoReturn:
    names = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
    report.missing(ranks, f"{names} did not arrive within {arrive_seconds:.0f} s")
    while True:
        time.sleep(1.0)


def refuse_without_nccl() -> None:
    """
    Raises:
        RigbenchError: this torch has GPUs, and no way between the ranks on them.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_nccl_available():
        raise RigbenchError(
            f"torch {torch.__version__} was built without NCCL, by which ranks on GPUs talk",
            "install a torch of pytorch.org; without: one GPU (--strategy single), or ranks on the CPU (--device cpu)",
            exit_code=NOTHING,
        )


def kind_for(asked: str, world: World) -> Literal["cpu", "cuda"]:
    """Whether there is a GPU for this rank; `asked` is "auto", "cpu" or "cuda".

    Raises:
        RigbenchError: there is none, and GPUs were asked for; or there is no NCCL.
    """
    count = 0 if asked == "cpu" else len(cuda_devices())
    if count:
        refuse_without_nccl()
    if count and (world.local_rank < count or os.environ.get(SEVERAL_ON_ONE_GPU) == "1"):
        return "cuda"
    if asked != "cuda":
        return "cpu"
    raise RigbenchError(
        f"rank {world.rank} has no GPU: torch sees {count} CUDA devices",
        f"start fewer ranks, use --device cpu, or let NCCL 2.30 put several on one with {SEVERAL_ON_ONE_GPU}=1",
        exit_code=NOTHING,
    )


def opened(kind: Literal["cpu", "cuda"], world: World) -> Accelerator:
    device = "cpu" if kind == "cpu" else f"cuda:{world.local_rank % len(cuda_devices())}"
    return open_device(device, flushed=False)


def free_bytes(accelerator: Accelerator) -> int:
    """Memory that this rank's buffers may take."""
    free = accelerator.free_bytes()
    return (1 << 30) if isinstance(free, Absent) else free


def serve(probe: str) -> NoReturn:
    """A rank's side: read the options, run the probe in its world, send the result."""
    world = world_from(os.environ)
    assert world
    process.serve(probe, world)


def interface(world: World) -> dict[str, str]:
    """gloo takes the address of the host's name, which many systems map to their loopback; the routes know better.

    The first host may know itself by its loopback too: then it is the interface of the default route.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    name = placement.interface_towards(world.master_address, world.master_port)
    if name == LOOPBACK and world.master_address not in LOOPBACK_NAMES:
        name = placement.interface_towards(ELSEWHERE, world.master_port)
    return {} if isinstance(name, Absent) else {"GLOO_SOCKET_IFNAME": name}
