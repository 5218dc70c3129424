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

    def show(diagnosed: Run, console: Console, _whole: bool, quiet: bool) -> None:
        screen.show(diagnosed, console, hint=not quiet)

    if run is None:
        return common.answer(lambda job: diagnosis.examine(job, options.load), show, look=True)
    if common.replay:
        raise RigbenchError("a stored run and --replay exclude each other", "give one of them")
    diagnosed = diagnosis.diagnosed(store.read(common.store().find(run)))
    common.show(diagnosed, show)
    return FAULT if any(finding.severity == "fault" for finding in diagnosed.findings) else FINE


def _codes() -> Iterator[str]:
    from rigbench.core import finding
    from rigbench.doctor.topics import titles

    yield from (*finding.explanations(), *titles())


@command()
def explain(
    common: Common,
    code: Annotated[
        str | None,
        typer.Argument(help="A finding's code, or a topic. Default: list all.", autocompletion=completed(_codes)),
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
        screen.show_codes(codes, list(beside.values()), common.console())
    return FINE
