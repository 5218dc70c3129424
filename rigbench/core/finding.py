"""Findings: what is wrong or worth knowing, its evidence, cost and cure; open questions; what each code means."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Literal, TypeVar, get_args

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Record, Source

Unit = Literal["bytes/s", "bytes", "watts", "tokens/s", "hertz", "FLOP/s", "sequences"]
Severity = Literal["fault", "warning", "information"]
WORST_FIRST: tuple[Severity, ...] = get_args(Severity)


class Cost(Record, frozen=True):
    """What a finding takes away, where the record's own numbers tell it. `unit` is that of both figures."""

    sentence: str
    unit: Unit
    now: Figure
    possible: Figure


class Lost(Record, frozen=True):
    """Hours that a finding takes of the training that was asked about, and what the electricity of them costs."""

    hours: Estimate
    money: Figure | Absent
    basis: str


class Examined(Record, frozen=True, kw_only=True):
    """What a diagnosis looked at, and the training whose hours its findings take."""

    training: str = ""  # what it is, and where its hours are from
    hours: Estimate | Absent
    currency: str = ""
    looked_at: tuple[str, ...] = ()  # what was measured, and when where that was not in this run


LEAST_HOURS = 1 / 120  # half a minute: less is no reason to do anything
NOT_PRICED = Absent("no training was asked about")


class Finding(Record, frozen=True):
    """One diagnosis. `code` is stable; `rigbench explain CODE` tells more.

    A fault is something broken, a warning something that holds the rig back and can be cured, information what its
    owner may want to know. `where` are labels of cards or pairs, empty where it is the whole rig. `commands` are for
    the owner to run; rigbench changes no setting. `basis` is what was looked at. `short` says after the labels what is
    wrong with them, `detail` the evidence and `do` the cure in a few words. One with `accepted`, the reason why its
    owner lives with it, does not count.
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
    short: str = ""
    detail: str = ""
    do: str = ""
    lost: Lost | Absent = NOT_PRICED
    accepted: str = ""

    @property
    def what(self) -> str:
        """ "GPU1 slowed down by heat": where, and what in short."""
        return f"{', '.join(self.where)} {self.short or self.title}".strip()

    @property
    def takes_time(self) -> bool:
        """Whether it is known to take hours, be they few."""
        return not isinstance(self.lost, Absent) and self.lost.hours.value > LEAST_HOURS

    @property
    def counts(self) -> bool:
        """Whether it is a fault that nobody has accepted."""
        return self.severity == "fault" and not self.accepted


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
    short: str
    do: str


FILE = "explanations.toml"


@functools.cache
def explanations() -> Mapping[str, Explanation]:
    text = resources.files(__package__).joinpath(FILE).read_bytes()
    table = msgspec.toml.decode(text, type=dict[str, dict[str, str | list[str]]])
    return {code: msgspec.convert(entry | {"code": code}, Explanation) for code, entry in table.items()}


def explanation(code: str, beside: Iterable[str] = ()) -> Explanation:
    """RigbenchError where no finding has that code; `beside` are other words that may have been meant."""
    table = explanations()
    if code in table:
        return table[code]
    meant = code.lower().replace("_", "-").replace(" ", "-")
    known = [*table, *beside]
    near = difflib.get_close_matches(meant, known, 1, 0.8) or difflib.get_close_matches(meant, known, cutoff=0.4)
    cure = f"did you mean {' or '.join(near)}?" if near else "`rigbench explain` lists them all"
    raise RigbenchError(f"no finding has the code {code!r}", cure)


T = TypeVar("T")


def finding(
    code: str,
    severity: Severity,
    evidence: Iterable[str],
    where: Iterable[str],
    cost: Cost | str,
    commands: Iterable[str] = (),
    short: str = "",
    detail: str = "",
    do: str = "",
) -> Finding:
    """Title, basis and cure are those of the code. A cost that cannot be told is a text, the reason."""
    about, evidence = explanation(code), tuple(evidence)
    return Finding(
        code=code,
        severity=severity,
        title=about.title,
        where=tuple(where),
        evidence=evidence,
        cost=Absent(cost) if isinstance(cost, str) else cost,
        cure=about.cure,
        commands=tuple(commands),
        basis=about.basis,
        short=short or about.short,
        detail=detail or _detail(cost) or ("" if short else next(iter(evidence), "")),
        do=do or about.do,
    )


def _detail(price: Cost | str) -> str:
    if isinstance(price, str) or price.unit != "bytes/s":
        return ""
    return f"{units.format_bytes_per_s(price.now.value)} of {units.format_bytes_per_s(price.possible.value)}"


def cost(
    sentence: str,
    unit: Unit,
    now: float,
    possible: float,
    basis: str,
    source: Source = "predicted",
) -> Cost:
    return Cost(sentence, unit, Figure(now, source, basis), Figure(possible, source, basis))


def merged(found: Sequence[Finding]) -> list[Finding]:
    """One finding for all cards of which the same code tells the same severity and cost."""
    groups: dict[str, list[Finding]] = {}
    for item in found:
        groups.setdefault(repr((item.code, item.severity, item.cost)), []).append(item)
    return [group[0] if len(group) == 1 else _together(group) for group in groups.values()]


def _together(group: Sequence[Finding]) -> Finding:
    """Evidence that not all of them share says whose it is."""
    first = group[0]
    where = unique(label for item in group for label in item.where)
    told = unique(sentence for item in group for sentence in item.evidence)
    owners = {text: unique(label for item in group if text in item.evidence for label in item.where) for text in told}
    return Finding(
        code=first.code,
        severity=first.severity,
        title=first.title,
        where=where,
        evidence=tuple(
            text if owners[text] == where else f"{', '.join(owners[text])}: {text}"
            for text in sorted(told, key=lambda text: owners[text] == where)
        ),
        cost=first.cost,
        cure=first.cure,
        commands=unique(command for item in group for command in item.commands),
        basis=first.basis,
        short=first.short,
        detail=first.detail if len({item.detail for item in group}) == 1 else "",
        do=first.do,
    )


def unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
