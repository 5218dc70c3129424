"""The folder of stored runs: writing a run whole or not at all, finding it, reading it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason, write_whole
from rigbench.core.home import default_home as default_home
from rigbench.core.progress import SILENT, Progress
from rigbench.core.record import Record, too_large
from rigbench.core.screen import escaped
from rigbench.document import SCHEMA, Run

if TYPE_CHECKING:
    from rigbench.index import Index

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")  # as of a name that is not UTF-8; JSON as such cannot say it
HALF_OF_JSON = re.compile(rb"\\u[dD][89a-fA-F]")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """Sorts by time: the last four digits are 65,536ths of the second, so that of two runs in one the later is last."""
    at = datetime.now(UTC)
    return f"{at:%Y%m%d-%H%M%S}-{(at.microsecond << 16) // 1_000_000:04x}"


class Store:
    """The runs below one home folder: `home/runs/<id>.json`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runs = home / "runs"

    def check_writable(self) -> None:
        """Before anything is measured: can a run be kept here?"""
        try:
            self.runs.mkdir(0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs) as probe:
                probe.write(b"\0" * 4096)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            what = f"cannot keep runs in {self.home} ({reason(error)})"
            raise RigbenchError(what, "choose a folder with --home DIR or RIGBENCH_HOME") from None

    def new_run_id(self) -> str:
        """One that no stored run has: a clock that is set back, or stands, comes to the same moment again."""
        run_id = new_run_id()
        while (self.runs / f"{run_id}.json").exists():
            second, _, part = run_id.rpartition("-")
            run_id = f"{second}-{(int(part, 16) + 1) % (1 << 16):04x}"
        return run_id

    def save(self, run: Run) -> Path:
        """Write the run whole or not at all (a new file, synced, renamed over the old).

        Raises:
            RigbenchError: the disk would not take it. The run was then written to the system's temporary folder, or,
                failing that, its JSON is in the message's `what_to_do`: nothing measured is lost.
        """
        text = encode(run)
        target = self.runs / f"{run.id}.json"
        try:
            self.runs.mkdir(0o700, parents=True, exist_ok=True)
            write_whole(target, text)
        except OSError as error:
            raise RigbenchError(f"cannot write the run to {self.runs} ({reason(error)})", _rescue(run, text)) from None
        return target

    def paths(self) -> list[Path]:
        """Stored runs, newest first."""
        with contextlib.suppress(OSError):
            return sorted((it for it in self.runs.glob("[0-9]*.json") if it.name.isprintable()), reverse=True)
        return []

    def find(self, wanted: str | None) -> Path:
        """The run meant by a file's path, an id, the start of an id, or None for the newest.

        Raises:
            RigbenchError: none or several match.
        """
        if wanted and (os.sep in wanted or wanted.endswith(".json")):
            return Path(wanted)
        paths = self.paths()
        if wanted == "":  # as of a variable that is not set: not the newest, which might be deleted for it
            raise RigbenchError("a run's name is empty", "`rigbench report --list` shows them")
        if not wanted:
            if not paths:
                raise RigbenchError(f"no run is stored in {self.runs}", "run `rigbench run --quick` first", exit_code=3)
            return paths[0]
        matches = [path for path in paths if path.stem.startswith(wanted)]
        if len(matches) == 1:
            return matches[0]
        what = f"{len(matches)} runs start with {wanted!r}" if matches else f"no stored run is called {wanted!r}"
        raise RigbenchError(what, "`rigbench report --list` shows them; a file's path works too")

    def delete(self, names: Iterable[str]) -> list[str]:
        """The runs meant by these, all or none: each is looked up before the first file goes. Their ids.

        Raises:
            RigbenchError: one is not stored here, or cannot be removed.
        """
        paths = list(dict.fromkeys(self.find(name) for name in names))
        for path in paths:
            if path.parent.resolve() != self.runs.resolve():
                what = f"{path} is not a run of this home"
                raise RigbenchError(what, f"remove the file yourself, or name one of {self.runs}")
        for path in paths:
            try:
                path.unlink()
            except OSError as error:
                raise RigbenchError(f"cannot delete {path} ({reason(error)})", "look at its folder's rights") from error
        return [path.stem for path in paths]

    def index(self, progress: Progress = SILENT) -> Index:
        """What is asked for often of every stored run; many that must be read anew are a stage of the progress."""
        from rigbench.index import Index

        return Index(self.runs, read, progress)

    def load(self, run_id: str) -> Run:
        """A stored run of exactly this id.

        Raises:
            RigbenchError: it cannot be read any more.
        """
        return read(self.runs / f"{run_id}.json")


def encode(run: Record) -> bytes:
    """Its JSON document. Of a name that is not UTF-8, what is none becomes a replacement character."""
    try:
        raw = msgspec.json.encode(run)
    except UnicodeEncodeError:
        raw = HALF_A_CHARACTER.sub("\ufffd", json.dumps(msgspec.to_builtins(run), ensure_ascii=False)).encode()
    return escaped(msgspec.json.format(raw, indent=1).decode()).encode() + b"\n"


def read(path: Path) -> Run:
    """One run's file.

    Raises:
        RigbenchError: missing, unreadable, cut short, not JSON, not a run, or written by a newer rigbench.
    """
    try:
        raw = read_regular(path)
    except OSError as error:
        what = f"cannot read {path} ({reason(error)})"
        raise RigbenchError(what, "give a run's id or the path of its file") from None
    with contextlib.suppress(ValueError, RecursionError):
        if number := too_large(raw):
            raise RigbenchError(f"{path} says {number}, which nothing measures", "measure again, or restore the file")
        run = msgspec.json.decode(raw, type=Run)
        if run.schema == SCHEMA:
            return run
    try:
        document: Any = json.loads(raw)
        if HALF_OF_JSON.search(raw):
            document = json.loads(HALF_A_CHARACTER.sub("\ufffd", json.dumps(document, ensure_ascii=False)))
    except (ValueError, RecursionError):
        cut = raw.lstrip()[:1] == b"{" and raw.rstrip()[-1:] != b"}"
        what = "was cut short" if cut else "is not JSON"
        raise RigbenchError(f"{path} {what}", "measure again, or restore the file from a copy") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise RigbenchError(f"{path} is not a rigbench run (it has no schema number)", "give the file of a run")
    if schema > SCHEMA:
        raise RigbenchError(
            f"{path} was written by a newer rigbench (schema {schema}; this one knows {SCHEMA})",
            "update: pip install -U rigbench",
        )
    try:
        return msgspec.convert(document, Run)
    except (ValueError, RecursionError) as error:
        raise RigbenchError(f"{path} is not a valid run ({error})", "measure again, or restore the file") from None


def _rescue(run: Run, text: bytes) -> str:
    for folder in _elsewhere():
        with contextlib.suppress(OSError):
            path = folder / f"rigbench-{run.id}.json"
            write_whole(path, text)
            return f"the run is kept in {path}; free space or choose --home DIR"
    return "it could not be kept anywhere else either; free space or choose --home DIR; --json prints it"


def _elsewhere() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        yield Path.cwd()
