"""What every result is made of: records, figures with a source, readings that may be missing, telemetry."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

Source = Literal["measured", "predicted", "datasheet", "declared"]
Kind = TypeVar("Kind")
Positive = Annotated[float, msgspec.Meta(gt=0)]
Some = Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1)]
EndedBy = Literal["finished", "interval", "time limit", "sample limit", "interrupted", "worker died"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=str.lower, tag_field="type"):
    """Base of every result. Refuses NaN and infinity, which JSON would silently turn into null.

    Every record says its `type` in JSON (the class name in lower case), so that any field may be a record or Absent.

    Raises:
        ValueError: when a float, or a float inside a tuple or mapping, is not finite.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) in (float, tuple, dict) and not _is_finite(value):
                raise ValueError(f"{type(self).__name__}.{name} is {value}; a record holds finite numbers or Absent")


LARGEST = 1e40  # of what is read: a training takes 1e27 FLOP, and a product of a few such numbers is still finite
# What ends such a number, or a text that looks so. Two, since one for both letters takes twenty times as long.
EXPONENTS = [re.compile(letter + rb"\+?(?:[4-9]\d|\d{3,})\s*[,\]}]") for letter in (b"e", b"E")]
ZEROS = bytes.maketrans(b"123456789", b"000000000")


def too_large(raw: bytes) -> str:
    """Of JSON that was read: a number in it that nothing measures, "" where there is none.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    maybe = any(it.search(raw) for it in EXPONENTS) or b"0" * 41 in raw.translate(ZEROS)
    left: list[Any] = [json.loads(raw)] if maybe else []
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float) and abs(value) > LARGEST:
            return f"{value:g}" if isinstance(value, float) else f"an integer of {len(str(value))} digits"
    return ""


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


class Absent(Record, frozen=True):
    """A reading that the machine would not give, and why."""

    reason: str


class Skipped(Record, frozen=True):
    """A probe that could not run here, and why."""

    probe: str
    reason: str


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

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high; the value where there is no interval."""
        low, high = (self.value if isinstance(end, Absent) else end for end in (self.low, self.high))
        return low, high


class Carbon(Record, frozen=True):
    """Grams of CO₂ behind a kWh, a mean over a year."""

    g_per_kwh: float
    place: str
    date: str
    source: str


NO_CARBON = Absent("no CO₂ of a kWh is known of that place; give --carbon G")


class Price(Record, frozen=True):
    """Electricity, with place and date beside it: there is no silent price."""

    per_kwh: float
    currency: str
    place: str
    date: str
    source: str
    carbon: Carbon | Absent = NO_CARBON


class Device(Record, frozen=True):
    """What did the work. `kind` is "cpu" or "cuda"; a CPU result says cpu in every output.

    `threads` is torch's intra-op thread count on a CPU, 1 for CUDA.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    uuid: str | Absent
    threads: int
    memory_total_bytes: int | Absent


Column = tuple[float | Absent, ...] | Absent
Counts = tuple[int | Absent, ...] | Absent
NOT_SAMPLED = Absent("not sampled")


class SensorSeries(Record, frozen=True, kw_only=True):
    """One device's readings beside a probe, one entry per tick; a tick that was not answered is Absent.

    A column that was never answered is one Absent. `power_watts` is the card's average over the last second, or what
    comes nearest on a card that has none; `power_instant_watts` is its power at the tick. `fan_share` is the first
    fan's speed as a share of its highest, `pcie_replays` and `energy_joules` are counters since the driver was loaded.
    `throttle_bits` are the raw reasons for held-down clocks; `throttle_share` maps a decoded reason to the share of
    answered ticks at which its bit was set.
    """

    device: str
    uuid: str | Absent
    power_watts: Column
    power_instant_watts: Column = NOT_SAMPLED
    energy_joules: Column
    temperature_celsius: Column
    memory_temperature_celsius: Column = NOT_SAMPLED
    fan_share: Column = NOT_SAMPLED
    sm_clock_hertz: Column
    memory_clock_hertz: Column = NOT_SAMPLED
    utilisation_share: Column
    memory_used_bytes: Counts = NOT_SAMPLED
    pcie_replays: Counts = NOT_SAMPLED
    throttle_bits: Counts
    throttle_share: dict[str, float]


class Telemetry(Record, frozen=True):
    """Sensors beside a piece of work. `at_seconds` are monotonic clock readings, the clock that dates the work too."""

    period_seconds: float
    at_seconds: tuple[float, ...]
    series: tuple[SensorSeries, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for its in self.series:
            for name in its.__struct_fields__:
                column = getattr(its, name)
                if isinstance(column, tuple) and len(column) != len(self.at_seconds):
                    raise ValueError(f"{its.device} has {len(column)} of {name}, and {len(self.at_seconds)} ticks")


class Energy(Record, frozen=True):
    """Joules over the steady window, and what they cover: never presented as the bill when they are not.

    `method` is "counter" (the device's own energy counter) or "integrated" (power samples over time).
    """

    joules: float
    window_seconds: float
    covers: Literal["GPUs only", "CPU package only"]
    method: Literal["counter", "integrated"]

    @property
    def watts(self) -> float:
        return self.joules / self.window_seconds
