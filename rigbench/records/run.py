"""What is in a run's file? One document, a room per probe."""

from __future__ import annotations

import msgspec

from rigbench.records.base import Record, Skipped
from rigbench.records.budget import Budget
from rigbench.records.finding import Finding, Unchecked
from rigbench.records.matmul import Matmul
from rigbench.records.rig import RigId, Software, Topology
from rigbench.records.slices import Slice

SCHEMA = 1
ROOMS = ("topology", "matmul", "slices", "budget")  # what probes fill, in the order of a report


class Run(Record, frozen=True, kw_only=True):  # schema first, so that a reader of the file meets it first
    """One invocation's results. A room that was not asked for is not in the file; one that could not run is Skipped.

    `findings` are worst first, `unchecked` the questions that the readings left open. `status` is "running" while
    probes are under way, so a file found so was cut short.
    """

    schema: int = SCHEMA
    id: str
    started_at: str
    command: str
    status: str
    rig: RigId
    software: Software
    topology: Topology | Skipped | msgspec.UnsetType = msgspec.UNSET
    matmul: Matmul | Skipped | msgspec.UnsetType = msgspec.UNSET
    slices: tuple[Slice | Skipped, ...] = ()
    budget: Budget | Skipped | msgspec.UnsetType = msgspec.UNSET
    findings: tuple[Finding, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    warnings: tuple[str, ...] = ()

    def rooms(self) -> tuple[Record, ...]:
        """Every probe's result, or why it has none, in the order of a report."""
        found: list[Record] = []
        for name in ROOMS:
            room = getattr(self, name)
            found += room if isinstance(room, tuple) else [room] if room else []
        return tuple(found)
