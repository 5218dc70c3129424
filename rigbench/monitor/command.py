"""The command that watches a rig at work: monitor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, say

if TYPE_CHECKING:
    from rigbench.monitor.live_screen import Display, Lines
    from rigbench.monitor.record import Monitor
    from rigbench.monitor.summary import Fold


@command("replay")
def monitor(
    common: Common,
    seconds: Annotated[
        str | None, typer.Option(metavar="N", help="So long, as 45, 10min or 8h. Default: forever, until Ctrl-C.")
    ] = None,
    interval: Annotated[str, typer.Option(metavar="1s", help="Between two readings; 0.1s to 1h.")] = "1s",
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Write every reading, a JSON document a line.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --record.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One look, over one interval; with --json for scripts.")] = False,
    recorded: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="The summary of what --record wrote.")
    ] = None,
) -> int:
    """Watch the GPUs beside your own training: load, memory, watts, heat, throttling, imbalance, starvation.

    Runs until Ctrl-C, in constant memory, and changes nothing. The end asked for is exit code 0, also by Ctrl-C; a
    --seconds that is cut short is 130, a GPU lost midway or a hint of a fault is 1.
    """
    from rigbench.core.errors import FAULT, FINE, INTERRUPTED, RigbenchError
    from rigbench.monitor import loop, options

    if recorded is not None:
        if common.replay or seconds or record or once or force or interval != "1s":
            raise RigbenchError("--from FILE is a watch that is over", "give it alone, or with --json")
        found = loop.summary(recorded)
        _show(common, found)
        return FAULT if found.at_fault else FINE
    asked = options.asked(seconds, interval, once, record, force)
    display = _display(common, once)
    try:
        found, trouble = loop.watch(asked, common.replay, _shown(display))
    except BrokenPipeError:  # the reader of our lines went away, as `| head` does: that is an end like any other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    finally:
        if display:
            display.close()
    _show(common, found)
    if trouble:
        raise trouble
    if record and not common.quiet:
        say(f"recorded in {record}; `rigbench monitor --from {record}` tells this again")
    if found.at_fault:
        return FAULT
    return INTERRUPTED if found.ended_by == "stopped by the user" and asked.length_seconds is not None else FINE


def _display(common: Common, once: bool) -> Display | Lines | None:
    """A picture on a terminal, lines elsewhere; a replay takes no time, and one look needs neither."""
    if common.quiet or common.replay or once:
        return None
    from rich.console import Console

    from rigbench.monitor.live_screen import Display, Lines

    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Display(console)
    return Lines(_line)


def _line(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _shown(display: Display | Lines | None) -> Callable[[Fold], None]:
    def shown(fold: Fold) -> None:
        if display:
            found = fold.record()
            display(found, {gpu.device: fold.chart(gpu.device) for gpu in found.gpus})

    return shown


def _show(common: Common, found: Monitor) -> None:
    if common.json:
        from rigbench.store import encode

        sys.stdout.write(encode(found).decode())
        return
    from rigbench.monitor import screen as render

    render.show(found, common.console())
