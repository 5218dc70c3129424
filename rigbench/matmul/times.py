"""How is the time for matrix products divided: the search, the sustained load, the model's own shapes?"""

from __future__ import annotations

import math
from typing import NamedTuple

from rigbench.core.errors import RigbenchError

HOT_SECONDS = {"cpu": 10.0, "cuda": 20.0}
REST_SECONDS = {"cpu": 2.0, "cuda": 5.0}
OTHER_SECONDS = {"cpu": 32.0, "cuda": 16.0}  # a dtype, beside its load
MOST_HOT_SHARE, SEARCH_SHARE = 0.25, 0.35  # of a dtype's time where it is given; of what load and rest leave of it


class Times(NamedTuple):
    """Seconds of everything, and of each dtype's load and the rest before it."""

    total: float
    hot: float
    rest: float

    def search(self, seconds: float) -> float:
        """Of a dtype's share of the time."""
        return SEARCH_SHARE * max(seconds - self.hot - self.rest, 0.2 * seconds)


def times(seconds: float, hot_seconds: float, kind: str, dtypes: int) -> Times:
    """Of the user's `seconds` and `hot_seconds`; 0 where the default is wanted.

    Raises:
        RigbenchError: the loads alone would take up the time that was given.
    """
    hot = hot_seconds or HOT_SECONDS[kind]
    total = seconds or dtypes * (OTHER_SECONDS[kind] + hot)
    if seconds and not hot_seconds:
        hot = min(hot, MOST_HOT_SHARE * total / dtypes)
    if seconds and dtypes * hot > 0.8 * total:
        raise RigbenchError(
            f"--hot-seconds {hot:g} for {dtypes} dtype{'s' * (dtypes > 1)} does not fit into --seconds {total:g}",
            f"give --seconds {math.ceil(2 * dtypes * hot)} or more{', or fewer --dtypes' * (dtypes > 1)}",
        )
    return Times(total, hot, min(REST_SECONDS[kind], 0.2 * hot))
