"""The signals that ask rigbench to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed."""

import os
import signal

STOP = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


def is_heard(number: int) -> bool:
    """Not where whoever started us had it ignored, as nohup does; but SIGINT is, which scripts ignore for the
    programs that they start in the background."""
    return number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN


def let_go(number: int) -> None:
    """After SIGHUP: what is written to a terminal that is gone raises, so that no more goes there."""
    if number not in STOP[:2]:
        for fd in (1, 2):
            try:
                os.write(fd, b"")
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
