"""Judges power steps: what the machine lived through, and at which one it failed."""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.core import units
from rigbench.core.finding import Finding, finding
from rigbench.core.record import Absent
from rigbench.thermals.record import PowerStep, PowerSteps


def diagnose(result: PowerSteps) -> Iterator[Finding]:
    if result.failed:
        lines = [f"{step_words(result)}: {result.ended_because}", *map(lived, result.steps)]
        where = [] if result.ended_by == "machine went down" else [result.ended_because.partition(":")[0]]
        short = "went down when its GPUs went from idle to full" if not where else ""
        yield finding(
            "power-steps", "fault", lines, where, "every run that is lost", short=short, detail=step_words(result)
        )


def step_words(result: PowerSteps) -> str:
    """ "in step 3 of 5, from idle to full every 1 s"."""
    number = len(result.steps) + (result.ended_by == "machine went down")  # of that step nothing is left
    return f"in step {number} of {len(result.planned)}, from idle to full every {result.planned[number - 1]:g} s"


def lived(step: PowerStep) -> str:
    """ "every 5 s, 4 times: 60 to 640 W"."""
    low, high = step.lowest_watts, step.highest_watts
    watts = ""
    if not isinstance(low, Absent) and not isinstance(high, Absent):
        watts = f": {units.format_watts(low)} to {units.format_watts(high)}"
    return f"every {step.period_seconds:g} s, {step.pulses} times{watts}"
