"""What is in a run's file? One document, a room per probe."""

from __future__ import annotations

import msgspec

from rigbench.backtest.record import Backtest
from rigbench.bandwidth.record import Bandwidth
from rigbench.budget.record import Budget
from rigbench.collectives.record import Collectives
from rigbench.core.finding import Finding, Unchecked
from rigbench.core.record import Record, Skipped
from rigbench.dataloader.record import Dataloader
from rigbench.machine.record import RigId, Software, Topology
from rigbench.matmul.record import Matmul
from rigbench.p2p.record import P2p
from rigbench.predict.record import Capacity
from rigbench.thermals.record import Thermals
from rigbench.train.record import Arms, OwnSlice, Slice

SCHEMA = 1
# What probes fill, in the order of a report.
ROOMS = (
    "topology",
    "bandwidth",
    "p2p",
    "collectives",
    "matmul",
    "dataloader",
    "thermals",
    "slices",
    "arms",
    "own",
    "budget",
    "backtest",
    "capacity",
)


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
    bandwidth: Bandwidth | Skipped | msgspec.UnsetType = msgspec.UNSET
    p2p: P2p | Skipped | msgspec.UnsetType = msgspec.UNSET
    collectives: Collectives | Skipped | msgspec.UnsetType = msgspec.UNSET
    matmul: Matmul | Skipped | msgspec.UnsetType = msgspec.UNSET
    dataloader: Dataloader | Skipped | msgspec.UnsetType = msgspec.UNSET
    thermals: Thermals | Skipped | msgspec.UnsetType = msgspec.UNSET
    slices: tuple[Slice | Skipped, ...] = ()
    arms: Arms | msgspec.UnsetType = msgspec.UNSET
    own: OwnSlice | Skipped | msgspec.UnsetType = msgspec.UNSET
    budget: Budget | Skipped | msgspec.UnsetType = msgspec.UNSET
    backtest: Backtest | msgspec.UnsetType = msgspec.UNSET
    capacity: Capacity | Skipped | msgspec.UnsetType = msgspec.UNSET
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
