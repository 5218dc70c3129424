"""What does a budget assume, and what in it looks like a slip?"""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.budget.forecast import Machine
from rigbench.budget.record import PlanRow
from rigbench.core import units
from rigbench.core.estimate import Estimate

HOURS_PER_YEAR = 8766.0

# About 20 tokens per parameter is compute-optimal (Hoffmann 2022); small models are often trained on ten times that.
# Outside these bounds a plan is more likely a slip than an intention.
FEW_TOKENS_PER_PARAMETER = 5.0
MANY_TOKENS_PER_PARAMETER = 500.0


def assumptions(exact: bool) -> tuple[str, ...]:
    counted = "exact FLOP (attention in full)" if exact else "6·N·D, N all parameters, tied weights once"
    return (
        f"FLOP are counted as {counted}",
        "a model's hours are training steps alone; the whole run has the overheads in it, at the watts of training",
        "errors are shared by the models of one rig: a sum's interval is the sum of the rows' lows and highs",
    )


def warnings(series: Sequence[PlanRow], alone: Sequence[PlanRow], hours: Estimate, machine: Machine) -> tuple[str, ...]:
    few = [row for row in alone if row.tokens_per_parameter < FEW_TOKENS_PER_PARAMETER]
    many = [row for row in alone if row.tokens_per_parameter > MANY_TOKENS_PER_PARAMETER]
    guessed = [row for row in series if row.rate.source == "predicted"]
    found = []
    if few:
        found.append(f"{_each(few)}: too little data for a model of that size (about 20 is compute-optimal)")
    if many:
        found.append(f"{_each(many)}: more data than a model of that size can use (about 20 is compute-optimal)")
    if guessed and not machine.name:
        widest = max(guessed, key=lambda row: row.rate.tokens_per_s.half_width)
        cure = f"; rigbench train-probe --params {widest.model} would narrow this most"
        told = machine.known.next_slice is not None
        found.append(f"{len(guessed)} of {len(series)} models are predicted, not measured{'' if told else cure}")
    if hours.value > HOURS_PER_YEAR:
        found.append(f"that is {hours.value / HOURS_PER_YEAR:,.1f} years of this rig")
    return tuple(found)


def _each(rows: Sequence[PlanRow]) -> str:
    """As in "5M alone would see 37,200 tokens per parameter, 15M 5,100"."""
    first, *rest = ((row.model, units.format_significant(row.tokens_per_parameter, 3)) for row in rows)
    return ", ".join([f"{first[0]} alone would see {first[1]} tokens per parameter", *(f"{m} {n}" for m, n in rest)])
