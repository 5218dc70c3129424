"""Diagnoses a rig, or a stored run: what its probes found to be wrong, what contradicts itself, what stays open."""

from __future__ import annotations

import msgspec

from rigbench.bandwidth.record import Bandwidth
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.doctor.contradictions import contradictions
from rigbench.document import Run
from rigbench.job import Job
from rigbench.matmul.record import Matmul
from rigbench.p2p import verdict as p2p
from rigbench.p2p.record import P2p
from rigbench.topology import survey
from rigbench.topology import verdict as topology
from rigbench.topology.record import Topology
from rigbench.train.record import AnySlice
from rigbench.usable import usable

DIAGNOSED = (Topology, P2p, Matmul, Bandwidth, AnySlice)


def examine(job: Job, load: bool = False) -> None:
    """The topology, and what it tells of faults, losses and open questions. Each fault counts against the run."""
    survey.topology(job, load)
    job.run = diagnosed(job.run)
    job.keep()
    faults = [finding for finding in job.run.findings if finding.severity == "fault"]
    job.faults += [f"{', '.join(finding.where)}: {finding.title} ({finding.code})" for finding in faults]


def diagnosed(run: Run) -> Run:
    """A run with the findings that its own records tell; the machine is not asked.

    Raises:
        RigbenchError: the run holds nothing that could be diagnosed.
    """
    rooms = [item for room in run.rooms().values() for item in room if isinstance(item, DIAGNOSED)]
    if not rooms:
        raise RigbenchError(f"run {run.id} holds no topology", "`rigbench doctor` reads one", exit_code=NOTHING)
    findings = contradictions(usable(run))
    findings = (*(p2p.diagnose(run.p2p) if isinstance(run.p2p, P2p) else ()), *findings)
    if not isinstance(run.topology, Topology):
        return msgspec.structs.replace(run, findings=topology.worst_first(findings))
    findings = topology.worst_first((*findings, *topology.diagnose(run.topology)))
    return msgspec.structs.replace(run, findings=findings, unchecked=topology.unchecked(run.topology))


def contradict(job: Job) -> None:
    """Add what contradicts itself among all that this run has measured."""
    found = contradictions(usable(job.run))
    if found:
        job.keep(findings=topology.worst_first((*job.run.findings, *found)))
