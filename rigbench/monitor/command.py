"""The command that watches a rig at work: monitor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rigbench.command import Common, command, say
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, RigbenchError
from rigbench.core.record import Absent
from rigbench.monitor.record import Options

if TYPE_CHECKING:
    from rigbench.monitor.live import Display, Lines


@command("replay")
def monitor(common: Common, options: Options) -> int:
    """Watch the GPUs beside your own training: load, memory, watts, heat, throttling, imbalance, starvation.

    Runs until Ctrl-C, in constant memory, and changes nothing. The end asked for is exit code 0, also by Ctrl-C; a
    --seconds that is cut short is 130, a GPU lost midway or a hint of a fault is 1.
    """
    from rigbench.monitor import loop, screen

    if not isinstance(options.recorded, Absent):
        if common.replay or options != Options(recorded=options.recorded):
            raise RigbenchError("--from FILE is a watch that is over", "give it alone, or with --json")
        result = loop.summary(Path(options.recorded))
        common.show(result, screen.show)
        return FAULT if result.at_fault else FINE
    if options.once and not isinstance(options.seconds, Absent):
        raise RigbenchError("--once and --seconds exclude each other", "--once looks for one --interval")
    if options.force and isinstance(options.record, Absent):
        raise RigbenchError("--force is for --record FILE", "name the file that may be replaced")
    if not isinstance(options.seconds, Absent) and options.seconds < options.interval:
        what = f"--seconds {options.seconds:g} is shorter than --interval {options.interval:g}s"
        raise RigbenchError(what, "give at least one interval")
    display = _display(common, options.once)
    try:
        result, trouble = loop.watch(options, common.replay, display)
    except BrokenPipeError:  # the reader of our lines went away, as `| head` does: that is an end like any other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    finally:
        if display:
            display.close()
    common.show(result, screen.show)
    if trouble:
        raise trouble
    if isinstance(options.record, str) and not common.quiet:
        say(f"recorded in {options.record}; `rigbench monitor --from {options.record}` tells this again")
    if result.at_fault:
        return FAULT
    cut_short = result.ended_by == "stopped by the user" and not isinstance(options.length_seconds, Absent)
    return INTERRUPTED if cut_short else FINE


def _display(common: Common, once: bool) -> Display | Lines | None:
    """A picture on a terminal, lines elsewhere; a replay takes no time, and one look needs neither."""
    if common.quiet or common.replay or once:
        return None
    from rich.console import Console

    from rigbench.monitor.live import Display, Lines

    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Display(console)
    return Lines(lambda text: print(text, end="", flush=True))
