"""The home folder: where it is, what killed processes left in it and beside it, and its log of internal errors.

Whatever is temporary is named by whose it is: rigbench-PLACE-PID-START-…, PLACE being this boot of this machine and its
process ids (a container has its own), START the process's, since ids come again. So the next start knows what is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rigbench.core.errors import RigbenchError

NAME = re.compile(r"\.?rigbench-([0-9a-f]{8})-(\d{1,9})-(\d{1,20})-.*", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal obeys: the log will be looked at
FOREIGN_SECONDS = 7 * 86400.0  # after so long without a change it is a left-over of another boot, or of another machine
LOG, LOG_BYTES, ENTRY_BYTES = "internal-errors.log", 1 << 18, 1 << 14
_used: list[Path] = []  # the home of this process


def default_home() -> Path:
    """RIGBENCH_HOME, else the user's data directory: a slice measured yesterday is found from any folder."""
    if from_environment := os.environ.get("RIGBENCH_HOME"):
        return Path(from_environment)
    import platformdirs

    try:
        return Path(platformdirs.user_data_dir("rigbench", appauthor=False))
    except RuntimeError:  # in a container, a number that has no name
        what = "this user has no home to keep runs in"
        raise RigbenchError(what, "set HOME or RIGBENCH_HOME, or give --home DIR") from None


def begin(named: Path | None) -> None:
    """A command starts with this home: what killed processes left there is removed."""
    try:
        home = named or default_home()
    except RigbenchError:  # not every command needs one
        return
    _used[:] = [home]
    sweep(home, *(home / name for name in ("runs", "cache", "pages")), *_temporary())


def temporary_name() -> str:
    """The start of the name of what is this process's own, and goes with it."""
    return f"rigbench-{_place()}-{os.getpid()}-{_start(os.getpid()) or 0}-"


@contextlib.contextmanager
def scratch(folder: Path | None = None, hidden: bool = False) -> Iterator[Path]:
    """A folder that is gone at the end, in the system's temporary one if none is named.

    Raises:
        OSError: it cannot be made.
    """
    import tempfile

    prefix = ("." if hidden else "") + temporary_name()
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as made:
        yield Path(made)


def sweep(*folders: Path) -> None:
    """Remove what processes left that are no more. A folder that a process has among its words stays: whoever holds
    the streams of a watched command outlives the watch."""
    if not (place := _place()):
        return
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                owner = NAME.fullmatch(entry.name)
                if owner and _is_left(entry, place, *owner.groups()):
                    _remove(entry)


def log_error(text: str) -> str:
    """Keep an internal error's traceback in the home's one log, which stays short; ", with FILE" once it is kept."""
    for folder in (*_used[-1:], *_temporary()):
        with contextlib.suppress(OSError, ValueError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / (LOG if folder in _used else f"rigbench-{LOG}")
            _append(path, CONTROL.sub(lambda it: f"\\x{ord(it[0]):02x}", text).encode("ascii", "backslashreplace"))
            return f" with {path}"
    return ""


def _append(path: Path, text: bytes) -> None:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags, 0o600), "r+b") as file:
        size, kept = file.seek(0, os.SEEK_END), b""
        if size > LOG_BYTES:  # its newer half stays
            file.seek(size - LOG_BYTES // 2)
            kept = file.read(LOG_BYTES // 2)
            file.seek(0)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        file.write(kept + f"\n{moment} pid {os.getpid()}\n".encode() + text[-ENTRY_BYTES:])
        file.truncate()


def _temporary() -> Iterable[Path]:
    """Where none can be written, as in a container whose files may only be read, the home becomes it for all of us."""
    import tempfile

    try:
        yield Path(tempfile.gettempdir())
    except OSError:
        for home in _used:
            with contextlib.suppress(OSError):
                home.mkdir(parents=True, exist_ok=True)
                os.environ["TMPDIR"] = tempfile.tempdir = str(home.absolute())


def _place() -> str:
    """Where a process id is one: this boot, this container; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{zlib.crc32(f'{boot} {space}'.encode()):08x}"


def _start(pid: int) -> int | None:
    """When it began, in ticks since the boot; None of one that is no more, or is but waited for."""
    with contextlib.suppress(OSError, IndexError, ValueError):  # proc_pid_stat(5): fields 3 and 22
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    return None


def _is_left(entry: os.DirEntry[str], place: str, *owner: str) -> bool:
    status = entry.stat(follow_symlinks=False)
    if status.st_uid != os.geteuid():
        return False
    if owner[0] != place:
        return time.time() - status.st_mtime > FOREIGN_SECONDS
    return _start(int(owner[1])) != int(owner[2]) and not (entry.is_dir(follow_symlinks=False) and _is_named(entry))


def _is_named(entry: os.DirEntry[str]) -> bool:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(entry.name) in process.read_bytes():
                return True
    return False


def _remove(entry: os.DirEntry[str]) -> None:
    import shutil

    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
