"""What is this rig, and what is wrong with it? Read and diagnosed without loading anything that measures."""

from __future__ import annotations

import msgspec

from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.document import Run
from rigbench.job import Job
from rigbench.p2p.record import P2p
from rigbench.topology import survey as topology_probe
from rigbench.topology.record import Topology


def topology(job: Job, load: bool = False) -> Topology:
    """The rig at rest; with `load`, its links also as they are while every GPU copies. A replay holds its own load."""
    rig = job.rig
    if load and not rig.replayed:
        job.progress.stage("topology under load", 10)
        from rigbench.work import load as waking

        rig = waking.awake(rig, lambda busy: topology_probe.run(busy, profiles.match_gpu))
    job.progress.stage("topology", 0)
    result = topology_probe.run(rig, profiles.match_gpu)
    job.keep(topology=result)
    return result


def doctor(job: Job, load: bool = False) -> None:
    """The topology, and what it tells of faults, losses and open questions. Each fault counts against the run."""
    topology(job, load)
    job.run = diagnosed(job.run)
    job.keep()
    faults = [finding for finding in job.run.findings if finding.severity == "fault"]
    job.faults += [f"{', '.join(finding.where)}: {finding.title} ({finding.code})" for finding in faults]


def diagnosed(run: Run) -> Run:
    """A run with the findings that its own topology tells; the machine is not asked.

    Raises:
        RigbenchError: the run holds no topology.
    """
    if not isinstance(run.topology, Topology) and not isinstance(run.p2p, P2p):
        raise RigbenchError(f"run {run.id} holds no topology", "`rigbench doctor` reads one", exit_code=NOTHING)
    from rigbench.p2p import verdict as p2p_findings
    from rigbench.topology import verdict as rig_findings
    from rigbench.topology.unchecked import unchecked

    found = p2p_findings.diagnose(run.p2p) if isinstance(run.p2p, P2p) else ()
    if not isinstance(run.topology, Topology):
        return msgspec.structs.replace(run, findings=found)
    found = rig_findings.worst_first((*found, *rig_findings.diagnose(run.topology)))
    return msgspec.structs.replace(run, findings=found, unchecked=unchecked(run.topology))
