"""Measures several hosts at once, each by its own rigbench that torchrun or Slurm started, and judges them as a fleet.

First collectives across all ranks, while all are there; then the first rank of each host measures its host as it would
alone, and brings its document to rank 0, which keeps one for each host. Who starts, names and ends the processes is
torch.distributed's launcher.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from rigbench import tables
from rigbench.collectives import command as collectives
from rigbench.collectives.record import Options as CollectivesOptions
from rigbench.command import Common, say
from rigbench.core import progress as telling
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError
from rigbench.core.progress import SILENT
from rigbench.core.record import Skipped
from rigbench.document import Run
from rigbench.fleet import screen, verdict
from rigbench.fleet.record import Gathered, GatherOptions
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig
from rigbench.work import ranks
from rigbench.work.ranks import World

LEAST_WAIT_SECONDS, TIMES_PLANNED = 900.0, 4.0  # for the slowest host, once the first has ended
LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)


class Place(NamedTuple):
    """A process among all: its world, and its host's number of how many."""

    world: World
    node: int
    nodes: int

    @property
    def leads(self) -> bool:
        """Whether it is the one that measures its host."""
        return self.world.local_rank == 0


def place(variables: Mapping[str, str]) -> Place | None:
    """Where torchrun, or srun with its variables, put this process; None where it is alone.

    Raises:
        RigbenchError: some variables are missing, or make no sense.
    """
    world = ranks.world_from(variables)
    if world is None:
        return None
    cure = "start it with torchrun, which counts them"
    names = ("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    local, group, groups = (ranks.number(variables, name, cure) if variables.get(name) else None for name in names)
    each = max(1, local or 1)
    node, nodes = world.rank // each if group is None else group, world.size // each if groups is None else groups
    if not node < nodes <= world.size:
        raise RigbenchError(f"there is no host {node} of {nodes}", cure)
    return Place(world, node, nodes)


@contextlib.contextmanager
def as_if_alone(variables: dict[str, str] | os._Environ[str]) -> Iterator[None]:
    """Without what the launcher set, so that the host is measured as it would be alone, with all its threads."""
    names = [name for name in variables if name in LAUNCHERS or name.startswith("TORCHELASTIC_")]
    if variables.get("LOCAL_WORLD_SIZE", "1") != "1" and variables.get("OMP_NUM_THREADS") == "1":
        names.append("OMP_NUM_THREADS")  # torchrun's own, where a host has several ranks
    taken = {name: variables.pop(name) for name in names}
    try:
        yield
    finally:
        variables.update(taken)


def run(
    common: Common,
    its: Place,
    across: CollectivesOptions,
    measure: Callable[[Job], None],
    planned_seconds: float,
    label: str = "",
) -> int:
    """One process's part; `measure` fills a host's document. Rank 0 reports; its exit code is the fleet's.

    Raises:
        RigbenchError: the documents did not come together; this host's own is stored.
    """
    if its.world.rank == 0:
        job = common.job()
    else:
        rig = Rig.live(ask_driver=common.device != "cpu")
        job = Job(common.store(), rig, "run", SILENT, common.keep_disturbed)
    job.run = msgspec.structs.replace(job.run, host=socket.gethostname(), label=label)
    try:
        if its.world.rank:
            code = collectives.follow(job, across, its.world)
            if code == INTERRUPTED or not its.leads:
                return INTERRUPTED if code == INTERRUPTED else FINE
        else:
            _collectives(job, across, its.world)
        with as_if_alone(os.environ):
            measure(job)
        job.finish("finished")
        documents = _gathered(job, its, max(LEAST_WAIT_SECONDS, TIMES_PLANNED * planned_seconds))
    except (Interrupted, KeyboardInterrupt):
        telling.stopping = True
        if job.measured:
            job.finish("interrupted")
        return INTERRUPTED
    finally:
        job.progress.close()
    return FINE if its.world.rank else _report(common, job, documents)


def _collectives(job: Job, options: CollectivesOptions, world: World) -> None:
    try:
        collectives.run(job, options, world)
    except RigbenchError as error:
        job.keep(collectives=Skipped("collectives", str(error)))


def _gathered(job: Job, its: Place, limit_seconds: float) -> list[Run]:
    from rigbench.store import encode

    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    document = encode(job.run).decode()
    options = GatherOptions(
        document=document, node=its.node, nodes=its.nodes, limit_seconds=limit_seconds, kept_by_agent=kept
    )
    job.progress.stage("bringing the hosts' documents together", 1.0)
    outcome = ranks.call_as(
        "rigbench.fleet.probe",
        options,
        Gathered,
        its.world,
        limit_seconds=limit_seconds + ranks.ARRIVE_SECONDS,
        on_progress=job.progress.update,
    )
    if outcome.ended == "interrupted":
        raise Interrupted
    if outcome.result is None:
        what = f"the other hosts' documents did not come ({outcome.reason or outcome.ended})"
        raise RigbenchError(what, f"each host keeps its own; this one's is {job.run.id}", NOTHING)
    return [msgspec.json.decode(text, type=Run) for text in outcome.result.documents]


def told_apart(documents: list[Run]) -> list[Run]:
    """Hosts of one name by their number too, and no two runs of one id."""
    names = [run.host for run in documents]
    made: list[Run] = []
    for node, run in enumerate(documents):
        host = run.host if names.count(run.host) == 1 else f"{run.host} #{node}"
        taken = run.id in {one.id for one in made}
        made.append(msgspec.structs.replace(run, host=host, id=f"{run.id}-{node}" if taken else run.id))
    return made


def _report(common: Common, job: Job, gathered: list[Run]) -> int:
    """Keep a document for each host, show the fleet's verdict, and say how it ended."""
    documents = told_apart(gathered)
    for run in documents:
        job.store.save(run)
    fleet = verdict.judge(tables.measured(run, common.keep_disturbed) for run in documents)
    common.show(fleet, screen.show)
    faults = [f"{run.host}: {it.what}" for run in documents for it in run.findings if it.counts]
    for line in [*job.faults, *faults]:
        say(f"fault: {line}")
    for run in documents:
        busy = "; the machine was busy" if run.disturbed() else ""
        say(f"{run.host}: saved as {run.id}{busy}")
    if job.faults or faults:
        return FAULT
    return NOTHING if all(run.disturbed() for run in documents) and not common.keep_disturbed else FINE
