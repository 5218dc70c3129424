"""Keeps on disk which power step is under way, so that the next start can say at which one the machine went down."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason, write_whole
from rigbench.core.record import Record
from rigbench.machine.sysfs import Sysfs
from rigbench.thermals.record import METHOD, PowerStep, PowerSteps

FILE = "power-steps.json"


class Underway(Record, frozen=True, kw_only=True):
    boot: str  # of the machine that it runs on, another one after every start
    pid: int
    at: str  # when the step began
    step: int  # from 0
    planned: tuple[float, ...]
    devices: tuple[str, ...]
    steps: tuple[PowerStep, ...]  # those before it


def boot(sysfs: Sysfs) -> str:
    """What tells one start of a machine from the next; nothing where the machine does not tell it."""
    its = sysfs.text("proc/sys/kernel/random/boot_id")
    started = next((line for line in sysfs.text("proc/stat").splitlines() if line.startswith("btime ")), "")
    return its or started


def begin(home: Path, it: Underway) -> None:
    """On the disk when this returns, its folder's entry too.

    Raises:
        RigbenchError: it cannot be written; without it nobody would know what the machine died of.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / FILE, msgspec.json.encode(it) + b"\n")
        folder = os.open(home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RigbenchError(f"cannot write {home / FILE} ({reason(error)})", "choose a folder with --home") from None


def end(home: Path) -> None:
    with contextlib.suppress(OSError):
        (home / FILE).unlink(missing_ok=True)


def went_down(home: Path, sysfs: Sysfs) -> PowerSteps | None:
    """The power steps in which this machine went down, until others have ended in good order.

    Steps that a program was killed in while the machine went on leave no trace.
    """
    try:
        it = msgspec.json.decode(read_regular(home / FILE), type=Underway)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    now = boot(sysfs)
    if not now or now == it.boot or not 0 <= it.step < len(it.planned):
        if now and not _runs(it.pid):
            end(home)
        return None
    return PowerSteps(
        method=METHOD,
        devices=it.devices,
        planned=it.planned,
        steps=it.steps,
        ended_by="machine went down",
        ended_because=f"the machine started anew since step {it.step + 1} of {len(it.planned)} began, at {it.at}",
    )


def _runs(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, OverflowError):
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
        return True
    return False
