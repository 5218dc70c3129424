"""Findings: what is wrong or worth knowing, its evidence, cost and cure; open questions; what each code means."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Literal, get_args

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure, Record

Severity = Literal["fault", "warning", "information"]
WORST_FIRST: tuple[Severity, ...] = get_args(Severity)


class Cost(Record, frozen=True):
    """What a finding takes away, where the record's own numbers tell it. `unit` is that of both figures."""

    sentence: str
    unit: Literal["bytes/s", "bytes", "watts", "tokens/s"]
    now: Figure
    possible: Figure


class Finding(Record, frozen=True):
    """One diagnosis. `code` is stable; `rigbench explain CODE` tells more.

    A fault is something broken, a warning something that holds the rig back and can be cured, information what its
    owner may want to know. `where` are labels of cards or pairs, empty where it is the whole rig. `commands` are for
    the owner to run; rigbench changes no setting. `basis` is what was looked at.
    """

    code: str
    severity: Severity
    title: str
    where: tuple[str, ...]
    evidence: tuple[str, ...]
    cost: Cost | Absent
    cure: str
    commands: tuple[str, ...]
    basis: str


class Unchecked(Record, frozen=True):
    """A question that stays open, and why. `where` is empty where it is the whole rig."""

    what: str
    where: tuple[str, ...]
    reason: str


class Explanation(Record, frozen=True):
    """All about one code: what it means, how rigbench knows, what it costs, what to do, where that is from."""

    code: str
    severity: str
    title: str
    means: str
    basis: str
    costs: str
    cure: str
    sources: tuple[str, ...]


FILE = "explanations.toml"


@functools.cache
def explanations() -> Mapping[str, Explanation]:
    text = resources.files(__package__).joinpath(FILE).read_bytes()
    table = msgspec.toml.decode(text, type=dict[str, dict[str, str | list[str]]])
    return {code: msgspec.convert(entry | {"code": code}, Explanation) for code, entry in table.items()}


def explanation(code: str) -> Explanation:
    """One code's.

    Raises:
        RigbenchError: there is no such code; the nearest are named.
    """
    table = explanations()
    if code in table:
        return table[code]
    near = difflib.get_close_matches(code.lower().replace("_", "-").replace(" ", "-"), table, cutoff=0.4)
    cure = f"did you mean {' or '.join(near)}?" if near else "`rigbench explain` lists them all"
    raise RigbenchError(f"no finding has the code {code!r}", cure)
