"""What was asked for: how often, how long, where to write it?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rigbench.core import units
from rigbench.core.errors import RigbenchError

FOREVER = "forever"
FASTEST_SECONDS, SLOWEST_SECONDS = 0.1, 3600.0  # sensors themselves move at about 10 Hz
SLOW_SECONDS = 5.0


class Asked(NamedTuple):
    """`seconds` None: until the user says stop. `once`: two readings, one interval apart, so that rates are known."""

    interval_seconds: float
    seconds: float | None
    once: bool
    record: Path | None
    force: bool

    @property
    def slow_seconds(self) -> float:
        return max(SLOW_SECONDS, self.interval_seconds)

    @property
    def length_seconds(self) -> float | None:
        return self.interval_seconds if self.once else self.seconds


def asked(seconds: str | None, interval: str, once: bool, record: Path | None, force: bool) -> Asked:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes, or two of them exclude each other.
    """
    period = units.parse_seconds(interval, "--interval")
    if not FASTEST_SECONDS <= period <= SLOWEST_SECONDS:
        why = "sensors move ten times a second" if period < FASTEST_SECONDS else "nothing would be seen"
        raise RigbenchError(f"--interval {interval!r}: {why}", "give 0.1s to 1h")
    if once and seconds is not None:
        raise RigbenchError("--once and --seconds exclude each other", "--once looks for one --interval")
    if force and record is None:
        raise RigbenchError("--force is for --record FILE", "name the file that may be replaced")
    length = None if seconds in (None, FOREVER) else units.parse_seconds(str(seconds), "--seconds")
    if length is not None and length < period:
        raise RigbenchError(
            f"--seconds {seconds!r} is shorter than --interval {interval}", "give at least one interval"
        )
    return Asked(period, length, once, record, force)
