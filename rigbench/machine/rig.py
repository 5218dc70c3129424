"""The machine that is asked, live or recorded, as one object that every probe is handed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.readings import UNSAID
from rigbench.machine.recorded_tree import recorded_note, recorded_sysfs
from rigbench.machine.replay import ReplayedDriver
from rigbench.machine.sysfs import Sysfs

LIVE_LINES = Absent("read where they are wanted")
KERNEL_FILE, LONGEST_KERNEL_TEXT = "kernel.txt", 8 << 20
PASTED = "this recording was"
MADE_FROM = "made from"  # how the note begins on a recording of what somebody pasted
COMPOSED = "composed recording:"  # how the note on one begins that no machine ever gave as it is


@dataclass(frozen=True)
class Rig:
    """`load` is the driver while its cards worked; live, only a probe can bring that about.

    `notes` is what its owner should know about this way of looking, such as a recording's missing parts.
    """

    sysfs: Sysfs
    nvml: Nvml
    replayed: bool = False
    notes: tuple[str, ...] = ()
    kernel_lines: tuple[str, ...] | Absent = LIVE_LINES  # of the kernel's log, where that is a recording's
    load: Nvml = field(default_factory=lambda: Nvml(Absent("not read under load; --load does it")))

    @classmethod
    def live(cls, ask_driver: bool = True) -> Rig:
        """This machine; its driver is asked when its first answer is wanted, or not at all."""
        return cls(Sysfs(), Nvml.live() if ask_driver else Nvml(Absent("not asked")))

    @classmethod
    def replay(cls, folder: Path) -> Rig:
        """A recorded rig; the live machine is never read.

        Raises:
            RigbenchError: no such folder, nothing recorded in it, or a file that is not a recording.
        """
        parts = {name: (folder / name).is_file() for name in ("rig.json", "pci.json", "nvml.txt")}
        if not any(parts.values()):
            what = "holds no capture" if folder.is_dir() else "is not a folder"
            raise RigbenchError(f"--replay {folder} {what}", "record a rig with rigbench capture -o DIR")
        if made := recorded_note(folder, MADE_FROM):
            return cls._pasted(folder, made)
        missing = {
            "rig.json": "the recording has no rig.json: nothing is known about its host",
            "pci.json": "the recording has no pci.json: there is no PCI tree",
            "nvml.txt": "the recording has no nvml.txt: GPUs are those of the PCI tree",
        }
        nvml = Nvml.replay(folder / "nvml.txt") if parts["nvml.txt"] else Nvml(Absent("the recording has no nvml.txt"))
        load = folder / "load.nvml.txt"
        busy = Nvml.replay(load) if load.is_file() else Nvml(Absent("the recording has no load.nvml.txt"))
        notes = tuple(note for name, note in missing.items() if not parts[name])
        if note := recorded_note(folder):
            notes = (f"{COMPOSED} {note.removeprefix('composed').lstrip(':, ')}", *notes)
        lines = _lines(folder / KERNEL_FILE)
        return cls(recorded_sysfs(folder), nvml, replayed=True, notes=notes, kernel_lines=lines, load=busy)

    @classmethod
    def _pasted(cls, folder: Path, made: str) -> Rig:
        """A recording of what somebody pasted: what that does not say is absent with this reason, not unsupported."""
        unsaid = Absent(f"{UNSAID} {made}")
        path = folder / "nvml.txt"
        nvml = Nvml.replay(path, unsaid) if path.is_file() else Nvml(unsaid)
        notes = (f"{PASTED} {made}; what that does not say is absent",)
        kernel = _lines(folder / KERNEL_FILE) if (folder / KERNEL_FILE).is_file() else unsaid
        return cls(recorded_sysfs(folder), nvml, replayed=True, notes=notes, kernel_lines=kernel, load=Nvml(unsaid))

    def awake(self) -> tuple[Rig, ReplayedDriver]:
        """A recorded rig with the driver as it was under load, where that was recorded; and that driver.

        Raises:
            RigbenchError: the recording holds no driver.
        """
        nvml = self.load if self.load.absent is None else self.nvml
        if nvml.absent is not None or not isinstance(nvml.driver, ReplayedDriver):
            reason = nvml.absent.reason if nvml.absent else "its driver cannot be replayed"
            raise RigbenchError(f"the recording has no sensors ({reason})", "capture the rig again", exit_code=NOTHING)
        return replace(self, nvml=nvml), nvml.driver


def _lines(path: Path) -> tuple[str, ...] | Absent:
    if not path.is_file():
        return Absent("the recording holds no kernel log")
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return tuple(file.read(LONGEST_KERNEL_TEXT).split("\n"))
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({error.strerror})", "check its permissions") from None


def require_linux() -> None:
    """Before this machine is measured or watched.

    Raises:
        RigbenchError: it runs another system.
    """
    if sys.platform != "linux":
        system = {"darwin": "macOS", "win32": "Windows", "cygwin": "Windows"}.get(sys.platform, sys.platform)
        wsl = "run it in WSL2 (wsl --install), or " if system == "Windows" else ""
        elsewhere = "use --replay DIR (a recorded rig), --on NAME (one to plan for), report, profiles or explain"
        raise RigbenchError(f"rigbench measures Linux machines, and this is {system}", f"{wsl}{elsewhere}", NOTHING)
