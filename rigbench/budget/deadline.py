"""Says what is done by a deadline: whether the plan is, how likely, how much of it, and which model alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from rigbench.budget.record import Deadline, Due
from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent

ENOUGH_TOKENS = 20.0  # a parameter: about compute-optimal (Hoffmann 2022)


def judged(due: Due, hours: Estimate, flops: Estimate | Absent, alone: Mapping[str, Estimate]) -> Deadline:
    """`flops` are done by then; `alone` are each model's hours for 20 tokens a parameter, smallest model first."""
    surely = [name for name, takes in alone.items() if takes.high <= due.hours]
    likely = [name for name, takes in alone.items() if takes.value <= due.hours]
    none = Absent("not even the smallest of these models")
    return Deadline(
        at=due.at,
        hours=due.hours,
        verdict="done" if hours.high <= due.hours else "not done" if hours.low > due.hours else "unsure",
        probability=probability(hours, due.hours),
        flops=flops,
        largest_surely=surely[-1] if surely else none,
        largest_likely=likely[-1] if likely else none,
    )


def probability(hours: Estimate, limit: float) -> float:
    """That a run of these hours is done within the limit: its error as log-normal, on each side as that end has it."""
    apart = math.log(limit / hours.value)
    side = math.log(hours.high / hours.value) if apart > 0 else math.log(hours.value / max(hours.low, 1e-9))
    if side <= 0:
        return 1.0 if apart >= 0 else 0.0
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf((1 + stats.LEVEL) / 2) * apart / side)
