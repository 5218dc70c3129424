"""Writes files whole or not at all, reads what others wrote, and words what the system says when it will not."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rigbench.core.home import temporary_name

# A TOML key in so many parts, which Python's reader takes quadratic time for: 32 KiB of "a.a.a…" are three seconds.
LONG_KEY = re.compile(r"""(?<![\w.-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""")
BY_HANDLE = "/proc/self/fd"
LARGEST_BYTES = 1 << 28  # of what is read whole: no run, recording or tokenizer comes near it


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file beside the target that takes its place at the end; gone if anything, Ctrl-C too, comes between.

    Raises:
        OSError: as the file system says; the old content is then untouched.
    """
    named, nameless = target.parent / f".{temporary_name()}{secrets.token_hex(4)}", True
    try:  # a file without a name goes with its process, however that ends
        os.stat(BY_HANDLE)
        handle = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except (AttributeError, OSError):  # not every system and file system has them
        handle, nameless = os.open(named, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), False
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            os.chmod(handle if os.chmod in os.supports_fd else named, 0o644)
            if nameless:
                os.link(f"{BY_HANDLE}/{handle}", named, src_dir_fd=handle)  # so that it follows the link there
        os.replace(named, target)
    finally:  # it is there still where that failed, or was broken off
        with contextlib.suppress(OSError):
            os.unlink(named)


def write_whole(target: Path, content: bytes) -> None:
    """Replace a file at once: readers see the old content or the new, never half."""
    with replacing(target) as file:
        file.write(content)


def opened(path: Path) -> IO[bytes]:
    """A file to read. A pipe is waited for; what has no end, as /proc/kmsg and /dev/kmsg, is not.

    Raises:
        OSError: as the file system says, from reading too.
    """
    mode = os.stat(path).st_mode
    flag = getattr(os, "O_NONBLOCK", 0) if stat.S_ISREG(mode) or stat.S_ISCHR(mode) else 0
    return io.BufferedReader(_Unwaiting(path, opener=lambda name, flags: os.open(name, flags | flag)))


class _Unwaiting(io.FileIO):
    def readinto(self, buffer: Any, /) -> int:
        if (count := super().readinto(buffer)) is None:
            raise BlockingIOError(errno.EAGAIN, "it has no end", self.name)
        return count


def read_regular(path: Path, largest_bytes: int = LARGEST_BYTES) -> bytes:
    """A whole file: nothing that has no end, as a device, or that is waited for, as a pipe.

    Raises:
        OSError: as the file system says, or that it is no regular file, or too large.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # of a folder the system says it better
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with opened(path) as file:
        content = read_some(file, largest_bytes + 1)
    if len(content) > largest_bytes:
        raise OSError(errno.EFBIG, f"larger than {largest_bytes >> 20} MiB", str(path))
    return content


def read_some(file: IO[bytes], most_bytes: int) -> bytes:
    """So many of its bytes, or all; memory is taken for those that there are."""
    content = bytearray()
    while piece := file.read(min(1 << 20, most_bytes - len(content))):
        content += piece
    return bytes(content)


def toml(raw: bytes) -> dict[str, Any]:
    """A TOML document, whatever an editor put before it.

    Raises:
        ValueError: it is none, or a number or a key in it is too long, or lists stand in lists too deeply.
    """
    import tomllib

    text = raw.decode("utf-8-sig")
    if LONG_KEY.search(text):
        raise ValueError("a key of over a hundred parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition("; use sys.")[0]
        raise ValueError(words) from None


def reason(error: OSError) -> str:
    """The operating system's words for a failure, without numbers and paths."""
    words = error.strerror or type(error).__name__
    return words[:1].lower() + words[1:]
