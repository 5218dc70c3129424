"""Says before any number that a run's machine was busy, and leaves out what was measured meanwhile."""

from __future__ import annotations

import msgspec

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.document import NOT_ASKED, Run
from rigbench.train.record import AnySlice
from rigbench.work.record import Disturbance

BUSY = "this machine was busy"
TO_DO = "Measure again when nothing else runs; `top` and `nvidia-smi` show what does."
ANYWAY = "`rigbench report {id} --keep-disturbed` shows the numbers all the same; the run's file has every sample."


def words(run: Run, kept: bool = False) -> list[str]:
    """The first line, which stands before any number, its evidence room by room (the worst first), and what to do.

    None where the machine left everything alone. `kept`: the numbers follow.
    """
    disturbed = sorted(run.disturbed(), key=_waited, reverse=True)
    if not disturbed:
        return []
    lines = [f"NOT USABLE: {BUSY}: {disturbed[0].evidence[0]}"]
    for it in disturbed:
        tries = sum((one.room, one.place) == (it.room, it.place) for one in run.disturbances)
        again = f", the better of {tries} tries" if tries > 1 else ""
        lines.append(f"  {_where(run, it)}{again}: {'; '.join(it.evidence)}{_used(it)}")
    return [*lines, TO_DO, *([] if kept else [ANYWAY.format(id=run.id)])]


def _where(run: Run, its: Disturbance) -> str:
    """The room, or which of its slices."""
    result = run.slices[its.place] if its.room == "slices" else None
    if isinstance(result, Skipped):
        return result.probe
    return f"training {result.model.name}" if isinstance(result, AnySlice) else its.room


def _waited(its: Disturbance) -> float:
    """Seconds of waiting for one of running: how bad it was, as far as processors tell."""
    if isinstance(its.running_seconds, Absent) or isinstance(its.waiting_seconds, Absent):
        return 0.0
    return its.waiting_seconds / max(its.running_seconds, 1e-9)


def _used(its: Disturbance) -> str:
    """Processor time over wall time, the probe's and others': shown and never judged, a GPU's probe needs little."""
    shares = {"it": its.running_seconds, "other processes": its.others_seconds}
    used = {
        name: units.format_significant(seconds / its.wall_seconds, 2)
        for name, seconds in shares.items()
        if not isinstance(seconds, Absent) and its.wall_seconds
    }
    words = [f"{name} used {count} processors" if name == "it" else f"{name} {count}" for name, count in used.items()]
    return f"; {', '.join(words)}" if "it" in used else ""


def usable(run: Run) -> Run:
    """Without the rooms that were disturbed, nor what was concluded from them."""
    disturbed = run.disturbed()
    if not disturbed:
        return run
    rooms: dict[str, object] = {it.room: Skipped(it.room, f"{BUSY}: {it.evidence[0]}") for it in disturbed}
    if "slices" in rooms:
        slices = list(run.slices)
        for it in run.disturbed("slices"):
            slices[it.place] = Skipped(_where(run, it), f"{BUSY}: {it.evidence[0]}")
        rooms["slices"] = tuple(slices)
        rooms["arms"] = NOT_ASKED
    if not isinstance(run.budget, Absent):
        rooms["budget"] = Skipped("budget", f"{BUSY} while it was measured")
    return msgspec.structs.replace(run, **rooms)
