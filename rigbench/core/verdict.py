"""Makes findings, and joins equal ones of several cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from rigbench.core.finding import Cost, Finding, Severity, explanation
from rigbench.core.record import Absent, Figure, Source
from rigbench.machine.record import Gpu, GpuPair
from rigbench.topology.record import Topology

T = TypeVar("T")
OK = 0  # nvmlGpuP2PStatus_t
UNKNOWN = 6


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


def label(gpu: Gpu) -> str:
    return f"GPU{gpu.index}"


def pair_label(pair: GpuPair) -> str:
    return f"GPU{pair.one}-GPU{pair.other}"


def is_virtual(topology: Topology) -> bool:
    return isinstance(topology.virtual_machine, str)


def over_pcie(topology: Topology) -> list[GpuPair]:
    """Pairs whose traffic does not go over NVLink."""
    return [pair for pair in topology.pairs if not pair.label.startswith("NV")]


def codes(pair: GpuPair) -> list[int]:
    """What the driver answered for reads and writes."""
    return [code for code in (pair.read_code, pair.write_code) if isinstance(code, int) and code != UNKNOWN]


def is_allowed(pair: GpuPair) -> bool:
    return bool(codes(pair)) and all(code == OK for code in codes(pair))


def is_refused(pair: GpuPair) -> bool:
    return any(code != OK for code in codes(pair))
