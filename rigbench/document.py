"""A run's document, and with it the list of rooms: what probes and predictions put there."""

from __future__ import annotations

import msgspec

from rigbench.backtest.record import Backtest, Reach
from rigbench.bandwidth.record import Bandwidth
from rigbench.budget.record import Budget
from rigbench.collectives.record import Collectives
from rigbench.core.finding import Examined, Finding, Unchecked
from rigbench.core.record import Absent, Record, Skipped
from rigbench.dataloader.record import Dataloader
from rigbench.machine.record import RigId, Software
from rigbench.matmul.record import Matmul
from rigbench.p2p.record import P2p
from rigbench.predict.record import Capacity, OwnCapacity
from rigbench.scaling.record import Fit, SeriesPlan, Trained
from rigbench.thermals.record import PowerSteps, Thermals
from rigbench.topology.record import Topology
from rigbench.train.record import Arms, OwnSlice, Slice
from rigbench.watch.record import Training
from rigbench.work.record import Disturbance

SCHEMA = 1
NOT_ASKED = Absent("not asked for")


class Run(Record, frozen=True, kw_only=True):  # schema first, so that a reader of the file meets it first
    """One invocation's results, a room per probe in the order of a report: its record, Skipped, or Absent."""

    schema: int = SCHEMA
    id: str
    started_at: str
    took_seconds: float | Absent = Absent("not kept")  # of a whole run, with what it took before it was resumed
    command: str
    ended: tuple[str, ...] = ()  # stages of a whole run, so that one that was killed can go on after them
    label: str = ""  # a name of its owner's for runs that belong together, as "before" and "after"
    host: str = ""  # its name, only where a run was one of several machines' that must be told apart
    look: bool = False  # nothing was measured: facts, a recorded rig, or other hardware
    status: str  # "running" while probes are under way, so a file found so was cut short
    rig: RigId
    software: Software
    topology: Topology | Skipped | Absent = NOT_ASKED
    bandwidth: Bandwidth | Skipped | Absent = NOT_ASKED
    p2p: P2p | Skipped | Absent = NOT_ASKED
    collectives: Collectives | Skipped | Absent = NOT_ASKED
    matmul: Matmul | Skipped | Absent = NOT_ASKED
    dataloader: Dataloader | Skipped | Absent = NOT_ASKED
    thermals: Thermals | PowerSteps | Skipped | Absent = NOT_ASKED
    slices: tuple[Slice | OwnSlice | Skipped, ...] = ()
    arms: Arms | Absent = NOT_ASKED
    budget: Budget | Skipped | Absent = NOT_ASKED
    backtest: Backtest | Reach | Absent = NOT_ASKED
    capacity: Capacity | OwnCapacity | Skipped | Absent = NOT_ASKED
    watched: Training | Absent = NOT_ASKED
    plan: SeriesPlan | Absent = NOT_ASKED
    scaling: tuple[Trained | Skipped, ...] = ()
    law: Fit | Absent = NOT_ASKED
    findings: tuple[Finding, ...] = ()  # worst first
    unchecked: tuple[Unchecked, ...] = ()  # questions that the readings left open
    examined: Examined | Absent = NOT_ASKED  # what the findings rest on
    warnings: tuple[str, ...] = ()
    disturbances: tuple[Disturbance, ...] = ()  # what else the machine did beside each probe, every attempt

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.id.isprintable() or "/" in self.id or not 0 < len(self.id.encode()) <= 200 or self.id[0] == ".":
            raise ValueError(f"its id {self.id[:40]!r} is no file's name")  # but it names pages and exports
        for row in self.arms.rows if isinstance(self.arms, Arms) else ():
            if isinstance(row.slice, int) and not 0 <= row.slice < len(self.slices):
                raise ValueError(f"{row.label} is slice {row.slice} of {len(self.slices)}")
        if isinstance(self.law, Fit) and any(max(it.places) >= len(self.law.points) for it in self.law.lines):
            raise ValueError(f"a law has points beyond its {len(self.law.points)}")

    def disturbed(self, room: str = "") -> tuple[Disturbance, ...]:
        """Those of what the rooms hold that were disturbed, of one room where it is named."""
        held = {name: len(items) for name, items in self.rooms().items()}
        return tuple(
            it
            for it in self.disturbances
            if it.kept and it.evidence and room in ("", it.room)
            if it.room in held and (it.room != "slices" or 0 <= it.place < held["slices"])
        )

    def rooms(self) -> dict[str, tuple[Record, ...]]:
        """What each room holds, or why it could not be measured; rooms that were not asked for are left out."""
        held = {name: getattr(self, name) for name in ROOMS}
        listed = {name: room if isinstance(room, tuple) else (room,) for name, room in held.items()}
        return {name: room for name, room in listed.items() if room and not isinstance(room[0], Absent)}


_fields = Run.__struct_fields__
ROOMS = _fields[_fields.index("software") + 1 : _fields.index("findings")]


def run_schema() -> str:
    """The JSON Schema of a stored run."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Run)), indent=2).decode() + "\n"
