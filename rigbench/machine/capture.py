"""How is a rig recorded? Whatever rigbench reads of it passes two recorders and becomes the files of a capture.

`rig.json`, `pci.json` and `nvml.txt` say what they can in the terms of the format. `files.json` holds the rest of what
was read: the texts that a replay would not give back from those three. So a replay answers what the machine answered,
and capturing the replay gives the same bytes.
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
from typing import Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import captured_tree
from rigbench.machine.nvml import Nvml
from rigbench.machine.recorders import RecordingLibrary, RecordingSysfs
from rigbench.machine.redact import Redaction
from rigbench.machine.replay import Answer, Recording, parse_recording
from rigbench.machine.rig import Rig

FORMAT = 1
FILES = ("rig.json", "pci.json", "nvml.txt", "load.nvml.txt", "files.json")
HOST_NAME = "proc/sys/kernel/hostname"
HEADER = "# a rig as rigbench read it: scope, call = code, values; what stands between semicolons was read in turn\n"


class Captured(NamedTuple):
    """The files by name; how often each kind of secret was replaced; what was read but not kept; why no load."""

    files: dict[str, str]
    redacted: dict[str, int]
    left_out: tuple[str, ...]
    no_load: Absent | None


def record(rig: Rig, read: Callable[[Rig], object], read_busy: Callable[[Rig], Recording | Absent]) -> Captured:
    """`read` is handed the rig behind recorders and reads what there is at rest; then `read_busy` at work."""
    sysfs, library = RecordingSysfs(rig.sysfs), RecordingLibrary(rig.nvml.library)
    nvml = rig.nvml if isinstance(rig.nvml.library, Absent) else Nvml(library)
    read(dataclasses.replace(rig, sysfs=sysfs, nvml=nvml))
    driver, at_rest, busy = nvml.driver_version(), library.recording(), read_busy(rig)
    host_name = "" if rig.replayed else rig.sysfs.read_text(HOST_NAME)
    redaction = Redaction(host_name if isinstance(host_name, str) else "")
    files = dict[str, str]()
    if not isinstance(rig.nvml.library, Absent):
        files["nvml.txt"] = as_text(redaction.recording(at_rest))
    if not isinstance(busy, Absent):
        files["load.nvml.txt"] = as_text(redaction.recording(busy))
    host, functions, more = captured_tree.describe(sysfs, redaction)
    known = {"rigbench_capture": FORMAT, "driver": "" if isinstance(driver, Absent) else driver}
    files["rig.json"] = as_json(known | host | {"redacted": True})
    if functions is not None:
        files["pci.json"] = as_json(functions)
    if more:
        files["files.json"] = as_json(more)
    counts = dict(sorted(redaction.counts.items()))
    return Captured(files, counts, captured_tree.left_out(sysfs), busy if isinstance(busy, Absent) else None)


def recording_at(path: Path) -> Recording | None:
    """A recording that another capture holds; None where there is none.

    Raises:
        RigbenchError: it is none.
    """
    if not path.is_file():
        return None
    try:
        return parse_recording(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise RigbenchError(f"{path} cannot be read as a recording: {error}", "capture the rig again") from error


def as_text(recording: Mapping[tuple[str, str], list[Answer]]) -> str:
    lines = (f"{scope} {key} = {' ; '.join(map(_answer, answers))}" for (scope, key), answers in recording.items())
    return HEADER + "".join(f"{line}\n" for line in lines)


def as_json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def check_folder(folder: Path, force: bool, replayed: Path | None) -> None:
    """Before anything is read: may a capture be written there?

    Raises:
        RigbenchError: it holds something else, it is what is being replayed, or it cannot be written.
    """
    if replayed is not None and folder.resolve() == replayed.resolve():
        raise RigbenchError(f"{folder} is the recording that is replayed", "write to another folder with -o DIR")
    try:
        names = set(os.listdir(folder)) if folder.exists() else set()
        if names and not force and not _is_capture(folder):
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
    temporary = (folder.absolute().parent if new else folder) / f".capture-{secrets.token_hex(4)}"
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


def _is_capture(folder: Path) -> bool:
    try:
        return re.search(rb'"rigbench_capture"\s*:', (folder / "rig.json").read_bytes()) is not None
    except OSError:
        return False


def _answer(answer: Answer) -> str:
    values = (f'"{value}"' if isinstance(value, str) else str(value) for value in answer.values)
    return " ".join([str(answer.code), *values])
