"""What is every result made of: figures with a source, readings that may be missing, samples that are kept?"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

Source = Literal["measured", "predicted", "datasheet", "declared"]
EndedBy = Literal["finished", "interval", "time limit", "sample limit", "interrupted", "worker died"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=str.lower, tag_field="type"):
    """Base of every result. Refuses NaN and infinity, which JSON would silently turn into null.

    Every record says its `type` in JSON (the class name in lower case), so that any field may be a record or Absent.

    Raises:
        ValueError: when a float, or a float inside a tuple or mapping, is not finite.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _refuse_non_finite(f"{type(self).__name__}.{name}", getattr(self, name))


def _refuse_non_finite(where: str, value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; a record holds finite numbers or Absent")
    elif isinstance(value, tuple):
        for item in value:
            _refuse_non_finite(where, item)
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(where, item)


class Absent(Record, frozen=True):
    """A reading that the machine would not give, and why."""

    reason: str


class Skipped(Record, frozen=True):
    """A probe that could not run here, and why."""

    probe: str
    reason: str


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


class Tally(Record, frozen=True):
    """How often each name was met. (A mapping of its own could not stand beside Absent: in JSON both are objects.)"""

    counts: dict[str, int]


class Figure(Record, frozen=True):
    """One number that could have come from anywhere, so it says from where.

    `basis` is a phrase for people: the datasheet's name, the slices it rests on, the option that declared it.
    """

    value: float
    source: Source
    basis: str
    low: float | Absent = Absent(reason="no interval")
    high: float | Absent = Absent(reason="no interval")


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
