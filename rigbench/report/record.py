"""What is to be done with the stored runs."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.options import LABEL, NOT_GIVEN, TEXT, Option, Reader, one_of
from rigbench.core.record import Absent, Record


def _age(text: str, option: str) -> float:
    if text.strip().replace(".", "", 1).isdecimal():
        raise RigbenchError(f"{option} {text!r} has no unit", f"write {text.strip()}d for days")
    return units.parse_seconds(text, option)


FORMAT = one_of("md", "csv", "openmetrics", "pytest-benchmark")


class Options(Record, frozen=True, kw_only=True):
    every: Annotated[bool, Option(None, "List the stored runs.", names=("--list",))] = False
    all: Annotated[bool, Option(None, "With --list: also those that measured nothing.")] = False
    label: Annotated[str | Absent, Option(LABEL, "Give the runs named a label, for `rigbench compare`.", "NAME")] = (
        NOT_GIVEN
    )
    delete: Annotated[bool, Option(None, "Delete the runs named.")] = False
    prune: Annotated[float | Absent, Option(Reader(_age), "Delete the runs that are older, as 90d.", "AGE")] = NOT_GIVEN
    yes: Annotated[bool, Option(None, "With --prune: do it; without, it says what would go.")] = False
    html: Annotated[
        bool,
        Option(None, "Write the page, one file: FILE.html where it is named, else in HOME/pages.", names=("--html",)),
    ] = False
    format: Annotated[
        Literal["md", "csv", "openmetrics", "pytest-benchmark"] | Absent,
        Option(FORMAT, "Print it as md (for an issue), csv, openmetrics, or pytest-benchmark's JSON.", "FORM"),
    ] = NOT_GIVEN
    tensorboard: Annotated[
        str | Absent, Option(TEXT, "Write TensorBoard's events of it into a folder.", "DIR", private=True)
    ] = NOT_GIVEN
    wandb: Annotated[
        str | Absent, Option(TEXT, "Write it as an offline run of Weights & Biases.", "DIR", private=True)
    ] = NOT_GIVEN
    no_redact: Annotated[
        bool, Option(None, "Leave in these what shows whose machine it is.", names=("--no-redact",))
    ] = False
