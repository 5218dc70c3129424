"""How is an interval said, so that one sample never looks like certainty?"""

from __future__ import annotations

from rigbench.core import units
from rigbench.core.estimate import Estimate


def plus_minus(estimate: Estimate) -> str:
    """ "±1.2 %", "±5.6 % (75 %)" where the interval covers less than 95 %; nothing is claimed from one sample."""
    if estimate.confidence == 0:
        return "one sample"
    covers = "" if estimate.confidence >= 0.949 else f" ({units.format_share(estimate.confidence)})"
    return f"{units.format_plus_minus(estimate.half_width)}{covers}"
