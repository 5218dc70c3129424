"""Knows what a card's units can do at the clock they ran at, and where a short test says more than a load."""

from __future__ import annotations

from collections.abc import Mapping

from rigbench.core import profiles, stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Figure
from rigbench.matmul.record import Ceiling, Matmul

# Of the datasheet, sustained: 67 % (H100), 85 % (A100), 100 % (4090), as published products come out. Of what the units
# can do at the clock they ran at no less: each published best is 65 % or more even of what its card's highest clock
# would allow (fp8: 1,403 of 2,141 TFLOP/s on an H100, 1,453 on an H200; bf16: 795 of 1,071; stas00/ml-engineering).
LEAST_SHARE = 0.6
ALIKE = 1.05  # times: processes of one machine differ by so much (budget/rates.py)


def mhz(hertz: float | Absent) -> str:
    return "" if isinstance(hertz, Absent) else f"{hertz / 1e6:,.0f} MHz"


def flop_per_clock(device: Device) -> dict[str, int]:
    """By dtype, of a card whose datasheet says enough."""
    memory = device.memory_total_bytes
    profile = profiles.match_gpu(None, device.name, None if isinstance(memory, Absent) else memory)
    return {} if device.kind == "cpu" or isinstance(profile, Absent) else profiles.flop_per_clock(profile)


def share_of_clock(ceiling: Ceiling, per_clock: Mapping[str, int]) -> Figure | None:
    """The sustained rate as a share of what the units can do at the clock they ran at, where both are known."""
    each = per_clock.get(ceiling.dtype.removesuffix("-fast"))
    if isinstance(ceiling.hot, Absent) or isinstance(ceiling.hot.sm_clock_hertz, Absent) or not each:
        return None
    clock, rate = ceiling.hot.sm_clock_hertz, ceiling.hot.flops_per_s.value
    if not 0 < rate <= each * clock:  # the clock was read too seldom
        return None
    possible = units.format_flops_per_s(each * clock)
    return Figure(rate / each / clock, "measured", f"the {possible} that it can do at {mhz(clock)}")


def short(result: Matmul, ceiling: Ceiling) -> tuple[Estimate, str] | None:
    """The fastest rate of a short test, and of which product, where the load sustained clearly less."""
    rates = []
    if ceiling.dtype in result.best_product:
        rates.append((result.best_flops_per_s[ceiling.dtype], result.best_product[ceiling.dtype]))
    if not isinstance(ceiling.hot, Absent) and ceiling.searched_seconds:
        rates.append((ceiling.flop / stats.median_estimate(ceiling.searched_seconds), f"{ceiling.words}, as searched"))
    best = max(rates, key=lambda it: it[0].value, default=None)
    if best is None or isinstance(ceiling.hot, Absent):
        return best
    load = ceiling.hot.flops_per_s
    return best if best[0].value > max(load.high, ALIKE * load.value) else None
