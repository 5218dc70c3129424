"""Files that may not be read, for root too: CI runs as root, which reads what it likes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # linux/capability.h, _LINUX_CAPABILITY_VERSION_3: two structures of three words
PAST_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def ordinary() -> Iterator[None]:
    """This thread without root's way past the permissions of files: what its owner may not read, it may not read."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)  # 0: this thread
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    after[:] = before[:]
    after[0] &= ~PAST_PERMISSIONS  # of what is in effect; it stays permitted, so that it can be taken back
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
