"""Writes files whole or not at all, and words what the system says when it will not."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_whole(target: Path, content: bytes) -> None:
    """Replace a file atomically: readers see the old content or the new, never half.

    Raises:
        OSError: as the file system says; the old content is then untouched.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def reason(error: OSError) -> str:
    """The operating system's words for a failure, without numbers and paths."""
    return (error.strerror or type(error).__name__).lower()
