"""The commands that diagnose: doctor, explain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.budget.record import PriceOptions
from rigbench.command import Common, command, completed, run_ids
from rigbench.topology.record import Options

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run
    from rigbench.job import Job


def _codes() -> Iterator[str]:
    from rigbench.core import finding

    yield from finding.explanations()


def _explained() -> Iterator[str]:
    from rigbench.doctor.topics import titles

    yield from (*_codes(), *titles())


@command("replay")
def doctor(
    common: Common,
    options: Options,
    prices: PriceOptions,
    run: Annotated[
        str | None,
        typer.Argument(
            help="Diagnose a stored run instead: its id, its start, or a file.", autocompletion=completed(run_ids)
        ),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Live with a finding of this rig: it no longer counts.",
            autocompletion=completed(_codes),
        ),
    ] = None,
    because: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; shown with what is accepted.")] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="Let a finding that was accepted count again.", autocompletion=completed(_codes)
        ),
    ] = None,
    nccl_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A log with NCCL_DEBUG=INFO: what NCCL chose here, and why.")
    ] = None,
) -> int:
    """What holds this rig back: one list, most costly first, with its hours and money. Changes no setting.

    Priced by the newest stored budget of the rig, else by 1.2 EFLOP on the series diy. Exit code 1 only on a fault
    that is not accepted: fit for a scheduler's health check.

    rigbench doctor                     this machine, with the newest measurements of it
    rigbench doctor RUN                 a stored run: its id, its start, or a file
    rigbench --replay CAPTURE doctor    somebody else's rig
    rigbench doctor --nccl-log train.log
    rigbench doctor --accept pcie-slot --because 'the board has no other slot'
    """
    from rigbench import store
    from rigbench.core.errors import FAULT, FINE, RigbenchError
    from rigbench.doctor import accepted, diagnosis, nccl, screen
    from rigbench.logs import source
    from rigbench.machine.capture import NCCL_FILE
    from rigbench.predict.capacity import predictor_in

    def show(diagnosed: Run, console: Console, whole: bool, quiet: bool) -> None:
        if whole:
            screen.show(diagnosed, console, hint=True)
        else:
            screen.brief(diagnosed, console, quiet)

    if because is not None and accept is None:
        raise RigbenchError("--because is of a finding that is accepted", "name it: --accept CODE")
    if accept is not None and not (because or "").strip():
        raise RigbenchError(f"--accept {accept[:40]} does not say why", "add --because 'the reason'")
    home = common.store().home
    log = nccl_log or (common.replay / NCCL_FILE if common.replay and (common.replay / NCCL_FILE).is_file() else None)
    beside = list(nccl.diagnose(source.read(log)[0], log.name)) if log else []

    def decide(fingerprint: str) -> None:
        if accept is not None:
            accepted.accept(home, fingerprint, accept, because or "")
        if forget is not None:
            accepted.forget(home, fingerprint, forget)

    if run is None:

        def work(job: Job) -> None:
            decide(job.run.rig.fingerprint)
            diagnosis.examine(job, options.load, prices.electricity, beside=beside)

        return common.answer(work, show, look=True)
    if common.replay:
        raise RigbenchError("a stored run and --replay exclude each other", "give one of them")
    if nccl_log:
        raise RigbenchError("a stored run and --nccl-log exclude each other", "give one of them")
    stored = store.read(common.store().find(run))
    decide(stored.rig.fingerprint)
    reasons = accepted.of(home, stored.rig.fingerprint)
    diagnosed = diagnosis.diagnosed(stored, predictor_in(home), prices.electricity, reasons)
    common.show(diagnosed, show)
    return FAULT if any(finding.counts for finding in diagnosed.findings) else FINE


@command()
def explain(
    common: Common,
    code: Annotated[
        str | None,
        typer.Argument(help="A finding's code, or a topic. Default: list all.", autocompletion=completed(_explained)),
    ] = None,
) -> int:
    """What a finding means, how rigbench knows, what it costs, what to do, and where that is from; or a topic.

    rigbench explain                       every code and topic
    rigbench explain throttled             one of them
    rigbench explain throttled --json
    """
    import msgspec

    from rigbench.core import finding
    from rigbench.core.errors import FINE
    from rigbench.doctor import screen
    from rigbench.doctor.topics import Topic, titles, topic

    codes, beside = list(finding.explanations().values()), titles()
    if code is None:
        chosen: object = [*codes, *beside.values()]
    else:
        chosen = topic(code) if code in beside else finding.explanation(code, beside)
    if common.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(chosen), indent=1).decode() + "\n")
    elif isinstance(chosen, Topic):
        screen.show_topic(chosen, common.console())
    elif isinstance(chosen, finding.Explanation):
        screen.show_explanation(chosen, common.console())
    else:
        show = screen.show_codes if common.verbose else screen.brief_codes
        show(codes, list(beside.values()), common.console())
    return FINE
