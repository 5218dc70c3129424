"""What is typed at a terminal, key by key."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import select
import sys
from typing import Any

with contextlib.suppress(ImportError):  # Windows, where recordings alone are watched
    import termios

SEQUENCE = re.compile(r"\x1b(\[[\d;]*[A-Za-z~]|O.)")  # of a key that is no letter: Home ends in an H, F1 in a P
CANONICAL, VALUES = 3, 6  # places in what tcgetattr returns


class Keys:
    """Keys without Enter and without an echo; none where standard input is no terminal. Ctrl-C stays a signal.

    The terminal is given back as it was by `close`, and at the process's end however that comes, but by SIGKILL.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self._before: list[Any] | None = None
        if "termios" not in globals() or sys.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError, termios.error):
            self._descriptor = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._descriptor)
            atexit.register(self.close)
            self._take()

    @property
    def are_read(self) -> bool:
        return self._before is not None

    def typed(self) -> str:
        """What was typed since the last time; never waits."""
        if not self._take() or not select.select([self._descriptor], [], [], 0)[0]:
            return ""
        with contextlib.suppress(OSError):  # the terminal went away
            return SEQUENCE.sub("", os.read(self._descriptor, 64).decode(errors="replace"))
        return ""

    def _take(self) -> bool:
        """One key at a time from now on, again after Ctrl-Z and fg; in the background the terminal is another's."""
        if self._before is None or not self._is_ours():
            return False
        with contextlib.suppress(OSError, termios.error):
            now = termios.tcgetattr(self._descriptor)
            if now[CANONICAL] & termios.ICANON:
                now[CANONICAL] &= ~(termios.ICANON | termios.ECHO)
                now[VALUES][termios.VMIN], now[VALUES][termios.VTIME] = 1, 0
                termios.tcsetattr(self._descriptor, termios.TCSANOW, now)
            return True
        return False

    def _is_ours(self) -> bool:
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        return False

    def close(self) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        atexit.unregister(self.close)
        if self._is_ours():
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)
