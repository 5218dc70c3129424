"""Is the plan plausible: what share of the datasheet does it come to, and is what somebody declared far from it?"""

from __future__ import annotations

import math

from rigbench.budget.forecast import Machine
from rigbench.budget.record import Sanity
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure

# A single pass over text at a few per cent of the peak is a broken set-up, not a slow card: published loops of small
# models lie between 15 and 60 % of it, eager and old ones included.
FAR = 2.0
POSSIBLE_SHARE = 0.9


def check(
    machine: Machine, flop: float, flop_exact: float, flops_per_s: Estimate, hours: Estimate,
    kwh: Figure | Absent, declared_hours: float | Absent,
) -> Sanity:  # fmt: skip
    """`flop` is as it was asked for and is what declared hours are judged by; the plan's own share counts exactly."""
    peak = machine.known.peak_flops_per_s
    share: Estimate | Absent
    if isinstance(peak, Absent):
        share = peak
    else:
        value, low, high = (end / peak.value for end in (flops_per_s.value, flops_per_s.low, flops_per_s.high))
        share = Estimate(value, low, high, flops_per_s.level, "over the datasheet's peak", flops_per_s.n)
    per_joule: Figure | Absent = kwh if isinstance(kwh, Absent) else _per_joule(flop_exact, kwh)
    sentence = _sentence(machine, flop, flop_exact, hours, declared_hours)
    return Sanity(flops_per_s, peak, share, per_joule, sentence)


def _per_joule(flop: float, kwh: Figure) -> Figure:
    low, high = (kwh.value if isinstance(end, Absent) else end for end in (kwh.low, kwh.high))
    value = flop / (kwh.value * 3.6e6)
    basis = "exact FLOP over the kWh of the whole run"
    return Figure(value, "predicted", basis, flop / (high * 3.6e6), flop / (low * 3.6e6))


def _sentence(machine: Machine, flop: float, flop_exact: float, hours: Estimate, declared_hours: float | Absent) -> str:
    """Plain words where what was declared is far from what the rig should do, or cannot be; else empty."""
    if isinstance(declared_hours, Absent):
        return ""
    rate = flop / (declared_hours * 3600)
    asked = f"{units.format_flop(flop)} in {declared_hours:g} h is {units.format_flops_per_s(rate)}"
    whose = f"{machine.cards} {machine.card}" if machine.cards > 1 else f"the {machine.card}"
    if isinstance(machine.known.peak_flops_per_s, Figure):
        peak = machine.known.peak_flops_per_s.value
        whole = f"{units.format_flops_per_s(peak)} peak of {whose}"
        asked += f", {units.format_share(rate / peak)} of the {whole}"
        exact_rate = rate * flop_exact / flop
        if exact_rate > POSSIBLE_SHARE * peak:
            return f"{asked}: more than such cards reach in training"
    span = f"{_hours(hours.value)} ({_hours(hours.low)} to {_hours(hours.high)})"
    times = declared_hours / hours.value
    if math.log(FAR) < math.log(times) and declared_hours > hours.high:
        factor = units.format_significant(times, 2)
        return f"{asked}: {factor} times as long as it should take, {span}; look for what holds it back"
    if declared_hours < hours.low:
        return f"{asked}: less time than it should take, {span}"
    return f"{asked}: about what it should take, {span}"


def _hours(hours: float) -> str:
    return f"{units.format_significant(hours)} h"
