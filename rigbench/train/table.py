"""Which arm is faster, and by how much more than noise; which takes least memory; which are worth choosing at all?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.predict.record import StepTime
from rigbench.train.record import ArmRow, Arms, Slice

TOKENS_PER_PARAMETER = 20.0  # Hoffmann 2022, rounded: how long the full run is taken to be
PLAN = f"{TOKENS_PER_PARAMETER:g} tokens a parameter"
METHOD = "ratio of two rates; their intervals and the base arm's second run over its first, added as independent"


def compared(table: Arms, slices: Sequence[Slice | Skipped]) -> Arms:
    """The table with speedups over the base arm, the best for speed and for memory, and the pareto front."""
    rates = {row.label: rate for row in table.rows if (rate := _rate(row, slices))}
    first = table.rows[0]
    if first.outcome == "measured":
        told = [
            msgspec.structs.replace(row, speedup=speedup(rates[row.label], rates[first.label], table.control))
            if row.outcome == "measured"
            else row
            for row in table.rows
        ]
        table = msgspec.structs.replace(table, rows=tuple(told))
    measured = [row for row in table.rows if row.label in rates]
    if not measured:
        return table
    sized = [row for row in measured if isinstance(row.peak_bytes, Figure)]
    return msgspec.structs.replace(
        table,
        fastest=max(measured, key=lambda row: rates[row.label].value).label,
        least_memory=min(sized, key=_bytes).label if sized else Absent("no memory was read"),
        pareto=tuple(row.label for row in sized if not any(_beats(other, row, rates) for other in sized)),
    )


def speedup(rate: Estimate, base: Estimate, control: float | Absent) -> Estimate:
    """rate/base; the interval is of its logarithm. `control` tells what equal arms differ by in two processes."""
    spread = 0.0 if isinstance(control, Absent) else abs(math.log(control))
    width = math.hypot(rate.half_width, base.half_width, spread) if rate is not base else 0.0
    value = rate.value / base.value
    return Estimate(
        value=value,
        low=value * math.exp(-width),
        high=value * math.exp(width),
        level=min(rate.level, base.level),
        method=METHOD,
        n=min(rate.n, base.n),
    )


def peak(result: Slice) -> Figure | Absent:
    """What decides out-of-memory: a GPU's reserved memory and context, a CPU's process."""
    memory = result.memory
    if result.device.kind == "cpu":
        if isinstance(memory.process_bytes, Absent):
            return memory.process_bytes
        return Figure(float(memory.process_bytes), "measured", memory.deciding)
    if isinstance(memory.reserved_bytes, Absent):
        return memory.reserved_bytes
    context = 0 if isinstance(memory.context_bytes, Absent) else memory.context_bytes
    return Figure(float(memory.reserved_bytes + context), "measured", memory.deciding)


def _rate(row: ArmRow, slices: Sequence[Slice | Skipped]) -> Estimate | None:
    """Measured, or predicted for a rig that is not here."""
    found = slices[row.slice] if isinstance(row.slice, int) else None
    if isinstance(found, Slice):
        return found.tokens_per_s
    return row.time.tokens_per_s if row.outcome == "predicted" and isinstance(row.time, StepTime) else None


def _bytes(row: ArmRow) -> float:
    assert isinstance(row.peak_bytes, Figure)
    return row.peak_bytes.value


def _beats(one: ArmRow, other: ArmRow, rates: dict[str, Estimate]) -> bool:
    """At least as good in both, and better in one."""
    faster, smaller = rates[one.label].value, _bytes(one)
    than, that = rates[other.label].value, _bytes(other)
    return faster >= than and smaller <= that and (faster > than or smaller < that)
