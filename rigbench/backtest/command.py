"""The command that hands a log back: was the prediction right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rigbench.command import Common, command


@command()
def backtest(
    common: Common,
    run: Annotated[str | None, typer.Argument(help="The run that predicted: an id, its start, or a file.")] = None,
    log: Annotated[
        Path | None, typer.Argument(help="What happened: CSV, text log, TensorBoard folder, or a run of rigbench's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which of the run's models this log is of.")] = None,
    tokens_per_step: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of one optimizer step, where the log does not tell.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Named groups: step, and ms, at_seconds, tokens, tokens_per_s, loss."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="ROLE=NAME,…", help="Which column or scalar is what, as step=iter,tokens=seen."),
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="All back-tests of this rig: did intervals hold?")] = False,
) -> int:
    """Predicted against what really happened: hand back a run's log. Kept per rig; the next interval learns from it."""
    from rigbench.core import units
    from rigbench.core.errors import RigbenchError

    if summary:
        if run or log:
            raise RigbenchError("--summary takes no run and no log", "leave them out")
        return _summary(common)
    if not run or not log:
        raise RigbenchError("a back-test needs a run and a log", "rigbench backtest RUN LOG, or --summary")
    from rigbench.backtest import stage as backtesting

    tokens = units.parse_count(tokens_per_step, "--tokens-per-step") if tokens_per_step else None
    return common.answer(lambda job: backtesting.run(job, run, log, model, tokens, pattern, columns))


def _summary(common: Common) -> int:
    import sys

    from rigbench import store
    from rigbench.backtest import screen as render
    from rigbench.backtest.verdict import coverage, of_rig
    from rigbench.core.errors import FINE, NOTHING, RigbenchError

    job = common.job()
    job.progress.close()
    tests = of_rig(job.history())
    if not tests:
        raise RigbenchError("no back-test of this rig is stored", "rigbench backtest RUN LOG makes one", NOTHING)
    found = coverage(tests)
    if common.json:
        sys.stdout.write(store.encode(found).decode())
    else:
        render.show_all(tests, found, common.console())
    return FINE
