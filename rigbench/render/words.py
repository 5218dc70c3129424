"""How is an interval said, so that one sample never looks like certainty?"""

from __future__ import annotations

from rigbench import units
from rigbench.records import Estimate


def plus_minus(estimate: Estimate) -> str:
    """ "±1.2 %", with the coverage where it is less than 95 %; nothing is claimed from one sample."""
    if estimate.confidence == 0:
        return "one sample, no interval"
    covers = "" if estimate.confidence >= 0.949 else f" ({units.format_share(estimate.confidence)} interval)"
    return f"{units.format_plus_minus(estimate.half_width)}{covers}"
