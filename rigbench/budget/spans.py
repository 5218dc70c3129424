"""Hours and speeds with their intervals, from tokens and rates: which end belongs to which?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rigbench.core.estimate import Estimate

SECONDS_PER_HOUR = 3600.0


def hours(tokens: float, tokens_per_s: Estimate) -> Estimate:
    """The slowest rate gives the most hours."""
    return Estimate(
        value=tokens / tokens_per_s.value / SECONDS_PER_HOUR,
        low=tokens / tokens_per_s.high / SECONDS_PER_HOUR,
        high=tokens / tokens_per_s.low / SECONDS_PER_HOUR,
        level=tokens_per_s.level,
        method="tokens over tokens/s",
        n=tokens_per_s.n,
    )


def total(hours: Sequence[Estimate]) -> Estimate:
    """One machine's errors are shared by its models, so lows and highs add: nothing is assumed to cancel."""
    return Estimate(
        value=math.fsum(h.value for h in hours),
        low=math.fsum(h.low for h in hours),
        high=math.fsum(h.high for h in hours),
        level=min(h.level for h in hours),
        method="sum of lows and of highs",
        n=sum(h.n for h in hours),
    )


def per_second(flop: float, hours: Estimate) -> Estimate:
    return Estimate(
        value=flop / hours.value / SECONDS_PER_HOUR,
        low=flop / hours.high / SECONDS_PER_HOUR,
        high=flop / hours.low / SECONDS_PER_HOUR,
        level=hours.level,
        method="exact FLOP over hours",
        n=hours.n,
    )
