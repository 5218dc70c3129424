"""Predicts what share of its power limit a card draws while it trains, from what each part of a step does to it.

Computing, moving memory and waiting each draw a share of the limit, as set; a step's share is their mean over its
seconds. The shares are assumed between the few published readings that there are, and no reading is fitted:

    training           RTX 3090 350 of 350 W, RTX 4070 193 of 200 W (published runs); H100 629 and H200 627 of 700 W
                       (nvidia-smi -q under load)
    memory decides     RTX 4090 decoding text, 246 of 510 W
    hardly any work    RTX 4080 SUPER awake, 84 of 320 W; idle cards 0.08 to 0.11 of their limit
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.predict.record import PartName, StepTime

State = tuple[float, float, float]  # middle, low and high share of the limit
COMPUTES: State = (0.95, 0.80, 1.00)
MOVES_MEMORY: State = (0.75, 0.50, 1.00)
WAITS: State = (0.25, 0.10, 0.45)
OTHERWISE: dict[PartName, State] = {
    "memory traffic": MOVES_MEMORY,
    "optimizer": MOVES_MEMORY,
    "communication exposed": WAITS,
    "offload": WAITS,
    "launches": WAITS,
    "data": WAITS,
}
ANCHORS = "published readings in training: 0.90 to 1.00 of it (RTX 3090, RTX 4070, H100, H200)"


def share(steps: Iterable[tuple[StepTime, float]]) -> Estimate:
    """Of steps, each with the time that goes to such ones."""
    parts = [
        (OTHERWISE.get(part.name, COMPUTES), part.seconds / step.seconds.value * weight)
        for step, weight in steps
        for part in step.parts
    ]
    whole = math.fsum(weight for _, weight in parts)
    middle, low, high = (math.fsum(state[end] * weight for state, weight in parts) / whole for end in range(3))
    return Estimate(middle, low, high, stats.LEVEL, "shares of computing, moving memory and waiting, assumed", 0)
