"""The commands that diagnose: doctor, explain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, completed, run_ids
from rigbench.topology.record import Options

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run


@command("replay")
def doctor(
    common: Common,
    options: Options,
    run: Annotated[
        str | None,
        typer.Argument(
            help="Diagnose a stored run instead: its id, its start, or a file.", autocompletion=completed(run_ids)
        ),
    ] = None,
) -> int:
    """What is wrong with this rig, or holds it back: evidence, what it costs, what to do. Changes no setting.

    rigbench doctor                     this machine
    rigbench doctor RUN                 a stored run: its id, its start, or a file
    rigbench --replay CAPTURE doctor    somebody else's rig
    """
    from rigbench import store
    from rigbench.core.errors import FAULT, FINE, RigbenchError
    from rigbench.doctor import diagnosis, screen

    def show(diagnosed: Run, console: Console, whole: bool) -> None:
        screen.show(diagnosed, console, hint=not common.quiet)

    if run is None:
        return common.answer(lambda job: diagnosis.examine(job, options.load), show, look=True)
    if common.replay:
        raise RigbenchError("a stored run and --replay exclude each other", "give one of them")
    diagnosed = diagnosis.diagnosed(store.read(common.store().find(run)))
    common.show(diagnosed, show)
    return FAULT if any(finding.severity == "fault" for finding in diagnosed.findings) else FINE


def _codes() -> Iterator[str]:
    from rigbench.core import finding

    yield from finding.explanations()


@command()
def explain(
    common: Common,
    code: Annotated[
        str | None, typer.Argument(help="A finding's code. Default: list all.", autocompletion=completed(_codes))
    ] = None,
) -> int:
    """What a finding means, how rigbench knows, what it costs, what to do, and where that is from.

    rigbench explain                       every code
    rigbench explain throttled       one of them
    rigbench explain throttled --json
    """
    import msgspec

    from rigbench.core import finding
    from rigbench.core.errors import FINE
    from rigbench.doctor import screen

    chosen = list(finding.explanations().values()) if code is None else [finding.explanation(code)]
    if common.json:
        document = msgspec.json.encode(chosen if code is None else chosen[0])
        sys.stdout.write(msgspec.json.format(document, indent=1).decode() + "\n")
    elif code is None:
        screen.show_codes(chosen, common.console())
    else:
        screen.show_explanation(chosen[0], common.console())
    return FINE
