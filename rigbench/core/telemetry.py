"""What do all measurements share: the device they ran on, and what the sensors said meanwhile?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Record


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
