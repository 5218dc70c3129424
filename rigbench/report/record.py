"""What is to be done with the stored runs."""

from __future__ import annotations

from typing import Annotated

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.options import NOT_GIVEN, Option, Reader
from rigbench.core.record import Absent, Record


def _age(text: str, option: str) -> float:
    if text.strip().replace(".", "", 1).isdecimal():
        raise RigbenchError(f"{option} {text!r} has no unit", f"write {text.strip()}d for days")
    return units.parse_seconds(text, option)


class Options(Record, frozen=True, kw_only=True):
    every: Annotated[bool, Option(None, "List the stored runs.", names=("--list",))] = False
    all: Annotated[bool, Option(None, "With --list: also those that measured nothing.")] = False
    delete: Annotated[bool, Option(None, "Delete the runs named.")] = False
    prune: Annotated[float | Absent, Option(Reader(_age), "Delete the runs that are older, as 90d.", "AGE")] = NOT_GIVEN
    yes: Annotated[bool, Option(None, "With --prune: do it; without, it says what would go.")] = False
