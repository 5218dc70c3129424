"""Makes findings, and joins equal ones of several cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from rigbench.core.finding import Cost, Finding, Severity, explanation
from rigbench.core.record import Absent, Figure, Source

T = TypeVar("T")


def finding(
    code: str,
    severity: Severity,
    evidence: Iterable[str],
    where: Iterable[str],
    cost: Cost | str,
    commands: Iterable[str] = (),
) -> Finding:
    """Title, basis and cure are those of the code. A cost that cannot be told is a text, the reason."""
    about = explanation(code)
    return Finding(
        code=code,
        severity=severity,
        title=about.title,
        where=tuple(where),
        evidence=tuple(evidence),
        cost=Absent(cost) if isinstance(cost, str) else cost,
        cure=about.cure,
        commands=tuple(commands),
        basis=about.basis,
    )


def cost(
    sentence: str,
    unit: Literal["bytes/s", "bytes", "watts", "tokens/s"],
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
    )


def unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
