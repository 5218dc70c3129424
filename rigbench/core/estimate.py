"""A number with the interval that its samples support, and its arithmetic."""

from __future__ import annotations

from rigbench.core.record import Absent, EndedBy, Record


class Estimate(Record, frozen=True):
    """A value with the interval that its samples support. Units are those of the field that holds it.

    `confidence` is the coverage really achieved: with few samples a median's interval covers less than 0.95.
    `method` says how the interval was made, `n` how many samples (or batches) stand behind it.
    """

    value: float
    low: float
    high: float
    confidence: float
    method: str
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the value (0.01 is ±1 %)."""
        return (self.high - self.low) / 2 / abs(self.value) if self.value else 0.0


class Timing(Record, frozen=True):
    """Repeated timings of one piece of work: the raw samples, and what ended the sampling.

    `seconds` holds every sample after the warm-up, in order; nothing is discarded. `outliers` counts those outside
    Tukey's outer fences. `drift_per_minute` is the relative change of a sample per minute (Theil-Sen), Absent where
    it cannot be told from noise or there are too few samples.
    """

    warmup_seconds: tuple[float, ...]
    seconds: tuple[float, ...]
    estimate: Estimate
    target_half_width: float
    ended_by: EndedBy
    outliers: int
    drift_per_minute: float | Absent
