"""Reads the kernel's files, under a root that tests and replays can move; no other module opens one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rigbench.core.record import Absent

CHUNK_BYTES = 64 << 10  # a larger read of some /proc/sys files is refused for want of kernel memory
READ_LIMIT_BYTES = 8 << 20  # /proc/cpuinfo of 1000 CPUs is about 1.5 MB; nothing honest is larger
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # an escape sequence in a disk's model must not reach a terminal
INT64 = 1 << 63
MOST_LINKS = 8  # a recorded loop of links must end


class Sysfs:
    """Reads below `root`; paths are given without the leading slash: `sys/bus/pci/devices`.

    Nothing outside the root is ever opened, wherever a link or a `..` points.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = os.path.realpath(root)

    def read_text(self, path: str) -> str | Absent:
        """The file's text without surrounding blanks; a reason where there is none."""
        content = self.read_bytes(path)
        return content if isinstance(content, Absent) else decode_text(content)

    def read_bytes(self, path: str) -> bytes | Absent:
        """The file as it is: a PCI function's `config` is no text."""
        where = self._inside(path)
        return where if isinstance(where, Absent) else _read_bytes(where)

    def read_int(self, path: str) -> int | Absent:
        """The file's text as one decimal number that fits 64 bits."""
        text = self.read_text(path)
        return text if isinstance(text, Absent) else parse_int(text)

    def list_dir(self, path: str) -> tuple[str, ...] | Absent:
        """The names in a directory, sorted; names that are not text are left out."""
        where = self._inside(path)
        if isinstance(where, Absent):
            return where
        try:
            names = os.listdir(where)  # those with undecodable bytes hold surrogates, which are not printable
            return tuple(sorted(name for name in names if name.isprintable()))
        except OSError as error:
            return _why(error)

    def text(self, path: str) -> str:
        """As `read_text`, and "" where there is none, for parsers to whom both are the same."""
        text = self.read_text(path)
        return "" if isinstance(text, Absent) else text

    def names(self, path: str) -> tuple[str, ...]:
        """As `list_dir`, and none where there is no directory."""
        names = self.list_dir(path)
        return () if isinstance(names, Absent) else names

    def real_path(self, path: str) -> str | Absent:
        """Where links lead, relative to the root."""
        where = self._inside(path)
        return where if isinstance(where, Absent) else os.path.relpath(where, self._root)

    def exists(self, path: str) -> bool:
        return not isinstance(self._inside(path), Absent)

    def _inside(self, path: str) -> str | Absent:
        try:
            where = os.path.realpath(self._root + normalised("/" + path), strict=True)
        except OSError as error:
            return _why(error)
        except ValueError:
            return Absent("not a path")
        if self._root != "/" and not where.startswith(self._root + "/") and where != self._root:
            return Absent("points outside the tree")
        return where


class RecordedSysfs(Sysfs):
    """The same answers from memory: what a recorded rig's files held. The live machine is never read.

    `files` maps paths to their text (a byte per letter where the file is no text), `links` maps a link's path to the
    directory that it stands for, `folders` are those that are there though empty.
    """

    def __init__(self, files: dict[str, str], links: dict[str, str], folders: Iterable[str] = ()) -> None:
        self._files = files
        self._links = links
        self._children: dict[str, set[str]] = {folder: set() for folder in folders}
        for path in (*files, *links):
            parts = PurePosixPath(path).parts
            for depth in range(len(parts)):
                self._children.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def read_text(self, path: str) -> str | Absent:
        text = self._files.get(self._follow(path))
        return Absent("not recorded") if text is None else text.strip()

    def read_bytes(self, path: str) -> bytes | Absent:
        text = self._files.get(self._follow(path))
        return Absent("not recorded") if text is None else text.encode("latin-1", errors="replace")

    def list_dir(self, path: str) -> tuple[str, ...] | Absent:
        children = self._children.get(self._follow(path))
        return Absent("not recorded") if children is None else tuple(sorted(children))

    def real_path(self, path: str) -> str | Absent:
        where = self._follow(path)
        return where if self.exists(path) else Absent("not recorded")

    def exists(self, path: str) -> bool:
        where = self._follow(path)
        return where in self._files or where in self._children

    def _follow(self, path: str) -> str:
        path = normalised("/" + path).lstrip("/")
        for _ in range(MOST_LINKS):
            parts = path.split("/")
            above = ("/".join(parts[:depth]) for depth in range(len(parts), 0, -1))
            link = next((prefix for prefix in above if prefix in self._links), None)
            if link is None:
                break
            path = self._links[link] + path[len(link) :]
        return path


def normalised(path: str) -> str:
    """`/a/../../b` is `/b`: a path from a hostile file cannot climb out of the root."""
    return os.path.normpath("/" + path.lstrip("/"))


def decode_text(content: bytes) -> str | Absent:
    """Text fit for a record and a terminal, or why it is not."""
    try:
        text = content.decode().strip().rstrip("\x00")  # device-tree strings end in NUL
    except UnicodeDecodeError:
        return Absent("not text")
    return Absent("not text") if UNPRINTABLE.search(text) else text


def parse_int(text: str) -> int | Absent:
    """`12` is 12; `max`, `0x10` and numbers over 64 bits are not a number here."""
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not -INT64 <= int(text) < INT64:
        return Absent("not a number")
    return int(text)


def parse_cpu_list(text: str) -> frozenset[int]:
    """`0-3,8` is {0, 1, 2, 3, 8}. Parts that are not understood are left out."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if match:
            cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)


def _read_bytes(where: str) -> bytes | Absent:
    try:
        descriptor = os.open(where, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe must not hold us up
    except OSError as error:
        return _why(error)
    content = bytearray()
    try:
        while len(content) <= READ_LIMIT_BYTES and (chunk := os.read(descriptor, CHUNK_BYTES)):
            content += chunk
    except OSError as error:
        return _why(error)
    finally:
        os.close(descriptor)
    return Absent("too large to be a kernel's file") if len(content) > READ_LIMIT_BYTES else bytes(content)


def _why(error: OSError) -> Absent:
    reasons = {
        errno.ENOENT: "no such file",
        errno.ENOTDIR: "no such file",
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
        errno.EISDIR: "a directory",
        errno.ELOOP: "a loop of links",
    }
    return Absent(reasons.get(error.errno or 0, f"unreadable: {os.strerror(error.errno or 0).lower()}"))
