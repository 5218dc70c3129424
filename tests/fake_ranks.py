"""A probe of several ranks that do what their options say: finish, refuse, die, hang, freeze, listen, or wait."""

import os
import signal
import socket
import subprocess
import sys
import time

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Record


class Options(Record, frozen=True):
    """`act` is what rank `who` does; the others wait for it, as they would in a collective."""

    act: str
    who: int = 1
    pid_folder: str = ""


class Result(Record, frozen=True):
    rank: int
    note: str = ""


def run(options: Options, report, world) -> Result:
    if options.pid_folder:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(f"{options.pid_folder}/{world.rank}.new", "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        os.rename(file.name, f"{options.pid_folder}/{world.rank}")
    mine = world.rank == options.who
    report.progress(0.1, "the first step")
    if mine and options.act == "refuse":
        raise RigbenchError("no such operation", "give another", exit_code=3)
    if options.act == "environment":
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "COLOUR", "SHAPE")
        return Result(world.rank, " ".join(os.environ.get(name, "-") for name in names))
    if options.act == "listen":
        return listened(world)
    if options.act == "finish":
        return Result(world.rank, "whole")
    report.partial(Result(world.rank, "so far"))
    if mine and options.act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if mine and options.act == "raise":
        raise ZeroDivisionError("one over none")
    if mine and options.act == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if not (mine and options.act == "hang"):
        report.progress(0.2, "the second step")
    if not mine and options.act == "raise":  # as a peer's death makes a collective fail
        time.sleep(0.3)
        raise RuntimeError("connection closed by peer")
    while not report.should_stop() or options.act in ("hang", "freeze"):
        time.sleep(0.01)
    return Result(world.rank, "stopped")


def listened(world) -> Result:
    """Rank 0 takes the port where all are to meet, as a store does."""
    if world.rank == 0:
        with socket.socket() as meeting:
            try:
                meeting.bind(("", world.master_port))
            except OSError as error:
                raise RuntimeError(f"The server could not listen: {error.strerror}") from None
    return Result(world.rank, "met")
