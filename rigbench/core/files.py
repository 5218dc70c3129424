"""Writes files whole or not at all, and words what the system says when it will not."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file beside the target that takes its place at the end; gone if anything, Ctrl-C too, comes between.

    Raises:
        OSError: as the file system says; the old content is then untouched.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_whole(target: Path, content: bytes) -> None:
    """Replace a file at once: readers see the old content or the new, never half."""
    with replacing(target) as file:
        file.write(content)


def reason(error: OSError) -> str:
    """The operating system's words for a failure, without numbers and paths."""
    return (error.strerror or type(error).__name__).lower()
