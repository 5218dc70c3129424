"""Records a rig: whatever rigbench reads of it passes two recorders and becomes the files of a capture.

A replay answers what the machine answered, and capturing the replay gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular
from rigbench.core.home import sweep, temporary_name
from rigbench.core.record import Absent
from rigbench.machine import kernel_log, recorded_tree
from rigbench.machine.nvml import Nvml
from rigbench.machine.redact import Redaction
from rigbench.machine.replay import Recording, RecordingDriver, as_text
from rigbench.machine.rig import COMPOSED, KERNEL_FILE, Rig

NCCL_FILE = "nccl.txt"  # of a recording that was made from pasted text
FILES = ("rig.json", "pci.json", "nvml.txt", "load.nvml.txt", "files.json", KERNEL_FILE, NCCL_FILE)
HOST_NAME = "proc/sys/kernel/hostname"


class Captured(NamedTuple):
    files: dict[str, str]  # their texts by name
    redacted: dict[str, int]  # how often each kind of secret was replaced
    left_out: tuple[str, ...]  # what was read and is not kept
    no_load: Absent | None


def record(rig: Rig, read: Callable[[Rig], object], read_busy: Callable[[Rig], Recording | Absent]) -> Captured:
    """`read` is handed the rig behind recorders and reads what there is at rest; then `read_busy` at work."""
    sysfs, nvml, at_rest = recorded_tree.RecordingSysfs(rig.sysfs), rig.nvml, None
    if not isinstance(rig.nvml.driver, Absent):
        at_rest = RecordingDriver(rig.nvml.driver)
        nvml = Nvml(at_rest)
    read(dataclasses.replace(rig, sysfs=sysfs, nvml=nvml))
    version = nvml.driver_version()
    recording, busy = at_rest.recording() if at_rest else None, read_busy(rig)
    redaction = Redaction("" if rig.replayed else rig.sysfs.text(HOST_NAME))
    files = dict[str, str]()
    if recording is not None:
        files["nvml.txt"] = as_text(redaction.recording(recording))
    if not isinstance(busy, Absent):
        files["load.nvml.txt"] = as_text(redaction.recording(busy))
    if (log := kernel_log.recorded(rig, redaction)) is not None:
        files[KERNEL_FILE] = log
    rig_json, pci_json, more = recorded_tree.describe(sysfs, redaction)
    known = {"rigbench_capture": recorded_tree.FORMAT, "driver": "" if isinstance(version, Absent) else version}
    made = [note.removeprefix(COMPOSED) for note in rig.notes if note.startswith(COMPOSED)]  # and so is its capture
    host = known | rig_json | {"redacted": True} | ({"note": f"composed:{made[0]}"} if made else {})
    documents = {"rig.json": host, "pci.json": pci_json, "files.json": more or None}
    files |= {
        name: json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        for name, document in documents.items()
        if document is not None
    }
    counts = dict(sorted(redaction.counts.items()))
    return Captured(files, counts, sysfs.left_out(), busy if isinstance(busy, Absent) else None)


def check_folder(folder: Path, force: bool, replayed: Path | None) -> None:
    """Before anything is read: may a capture be written there?

    Raises:
        RigbenchError: it holds something else, it is what is being replayed, or it cannot be written.
    """
    if replayed is not None and os.path.realpath(folder) == os.path.realpath(replayed):
        raise RigbenchError(f"{folder} is the recording that is replayed", "write to another folder with -o DIR")
    try:
        names = set(os.listdir(folder)) if folder.exists() else set()
        known = read_regular(folder / "rig.json") if "rig.json" in names else b""
        if names and not force and not re.search(rb'"rigbench_capture"\s*:', known):
            raise RigbenchError(f"{folder} holds other files and no capture", "choose another folder, or add --force")
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise _cannot_write(folder, error) from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "no permission" if existing.is_dir() else f"{existing} is not a folder"
        raise RigbenchError(f"cannot write a capture to {folder} ({why})", "choose another folder with -o DIR")


def write(folder: Path, files: Mapping[str, str]) -> None:
    """All files or none: written beside first, then a new folder is put in its place, or each file of an old one.

    Raises:
        RigbenchError: the disk would not take them.
    """
    new = not folder.exists()
    beside = folder.absolute().parent if new else folder
    sweep(beside)
    temporary = beside / f".{temporary_name()}{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if new:
            temporary.rename(folder)
            return
        for name in FILES:
            if name in files:
                (temporary / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cannot_write(folder: Path, error: OSError) -> RigbenchError:
    return RigbenchError(f"cannot write a capture to {folder} ({error.strerror})", "choose another folder with -o DIR")
