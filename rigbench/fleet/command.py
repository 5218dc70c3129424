"""The command that looks for the odd host among many: fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from rigbench.command import Common, command, completed, run_ids, say
from rigbench.core.record import Absent
from rigbench.fleet.record import Options


@command()
def fleet(
    common: Common,
    options: Options,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUNS …]",
            help="Runs, files, folders of runs or labels. Default: every run that is stored.",
            autocompletion=completed(run_ids),
        ),
    ] = None,
) -> int:
    """Which host is the odd one? Every number of every host against the others of its kind, from 3 hosts on.

    `torchrun --nnodes 4 … -m rigbench run --quick` measures the hosts of a fleet at once.

        rigbench fleet                        all that is stored
        rigbench fleet november/              every run of a folder
        rigbench fleet --fail-over 10%        for a health check: exit 1 where a host is worse by more
    """
    import msgspec

    from rigbench.compare.sides import chosen
    from rigbench.core.errors import FAULT, FINE, NOTHING, RigbenchError
    from rigbench.core.progress import make_progress
    from rigbench.fleet import screen, verdict

    home = common.store()
    progress = make_progress(common.quiet)
    index = home.index(progress)
    progress.close()
    sides = [chosen(word, home, index) for word in runs or ()]
    unreadable = tuple(line for side in sides for line in side.unreadable) if runs else tuple(index.unreadable())
    held = {its.run: its for side in sides for its in side.runs}
    newest_first = sorted(held.values(), key=lambda its: its.run, reverse=True) if runs else index.measured()
    made = msgspec.structs.replace(verdict.judge(newest_first), unreadable=unreadable)
    if not made.runs:
        what = f"no run that measured is stored in {home.runs}"
        raise RigbenchError(what, "run `rigbench run --quick` first", NOTHING)
    common.show(made, screen.show)
    for line in unreadable:
        say(f"not used: {line}")
    worse = [it for host in made.odd for it in host.numbers if it.is_worse]
    worst = max((1 - it.ratio if it.better == "higher" else it.ratio - 1 for it in worse), default=0.0)
    return FAULT if not isinstance(options.fail_over, Absent) and worst > options.fail_over else FINE
