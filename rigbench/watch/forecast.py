"""From steps that were seen to a rate, a pace and an end. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.logs import stretches
from rigbench.watch.steps import ARRIVAL_SECONDS, Seen

DRIFT = 0.02  # either way, of what is to come against what was seen: heat, other users, longer evaluations
FEWEST_GAPS = 6
MOST_GAPS = 400
STEADY = 0.02


def rate(seen: Seen) -> Estimate | Absent:
    """Units a second of steady training, by the rules for logs."""
    try:
        return stretches.steady(stretches.between_rows(seen.reading), "the training").rate
    except RigbenchError as error:
        return Absent(error.what_happened)


def pace(wall: Sequence[tuple[float, int]]) -> Estimate | Absent:
    """Seconds of the wall's clock a step, pauses and evaluations in it; the start, in which it compiles, is not.

    Rows that came in one burst, as out of a buffer, count as the last of them. Rows are joined into at most 400 gaps of
    about equally many steps; the interval is that of batch means of them.
    """
    ends = [a for a, b in pairwise(wall) if b[0] - a[0] > ARRIVAL_SECONDS] + list(wall[-1:])
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ends) if b[1] > a[1]]
    if len(gaps) < FEWEST_GAPS + 1:
        return Absent(f"{len(gaps)} steps were seen apart; {FEWEST_GAPS + 1} are needed")
    usual = stats.median([seconds / steps for seconds, steps in gaps])
    slow = next((i for i, (seconds, steps) in enumerate(gaps) if seconds / steps < stretches.WARM * usual), 0)
    kept = gaps[max(1, min(slow, len(gaps) // 3)) :]
    together = -(-len(kept) // MOST_GAPS)
    joined = [kept[i : i + together] for i in range(0, len(kept), together)]
    per_step = [math.fsum(it[0] for it in group) / sum(it[1] for it in group) for group in joined]
    seconds, steps = math.fsum(it[0] for it in kept), sum(it[1] for it in kept)
    spread = stats.rate_estimate(1.0, per_step).inverse()
    return spread * (seconds / steps / spread.value)


def rest(pace_seconds: Estimate, steps_seen: float, steps_left: float) -> Estimate:
    """Seconds until the end: by the pace's interval, the chance of the steps to come, and what may change, in squares.

    The steps to come differ from the true pace by chance too, as those seen did: a prediction's variance is that of the
    mean times 1 + seen / left. The pace's own error shrinks as more is seen; that of what changes does not.
    """
    value = pace_seconds.value * steps_left
    chance = math.sqrt(1 + steps_seen / steps_left)
    down = math.hypot(chance * math.log(pace_seconds.value / pace_seconds.low), DRIFT)
    up = math.hypot(chance * math.log(pace_seconds.high / pace_seconds.value), DRIFT)
    low, high = value * math.exp(-down), value * math.exp(up)
    method = f"{pace_seconds.method}; ±{DRIFT:.0%} for what changes from here on"
    return Estimate(value, low, high, pace_seconds.level, method, pace_seconds.n)


def is_steady(its: Estimate | Absent) -> bool:
    return isinstance(its, Estimate) and its.level >= 0.89 and its.half_width <= STEADY
