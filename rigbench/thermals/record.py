"""What did sustained load do: to the temperature, to the throughput, and what held the clocks down?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Figure, Record, Telemetry
from rigbench.matmul.record import MatmulCheck, MatmulPhase

HeatEndedBy = Literal[
    "settled", "time limit", "safety stop", "interrupted", "worker died", "sensors silent", "recording ended"
]
ThrottleSeverity = Literal["information", "warning", "fault"]


class HeatFit(Record, frozen=True, kw_only=True):
    """T(t) = steady − (steady − start)·e^(−t/tau), t from `from_seconds` after the load began to `to_seconds`.

    `trend` says that the residuals are not noise: one exponential does not describe the curve, as while the die is
    warm and the case is not. `points` blocks of readings were fitted, the noise of neighbours having `correlation`.
    `resolution_celsius` is the smallest step between readings.
    """

    from_seconds: float
    to_seconds: float
    points: int
    steady_celsius: Estimate | Absent
    tau_seconds: Estimate | Absent
    start_celsius: Estimate | Absent
    residual_celsius: float
    resolution_celsius: float
    correlation: float
    trend: bool


class Settled(Record, frozen=True, kw_only=True):
    """Has it stopped changing? `because` is the reason either way. `left` is what it may still change, of `what`.

    It is °C for "temperature", a share for "throughput": the upper end of its 90 % interval.
    """

    settled: bool
    what: Literal["temperature", "throughput", "nothing"]
    because: str
    left: float | Absent


class HeatLoad(Record, frozen=True, kw_only=True):
    """What kept one device busy: C[m,n] = A[m,k] @ B[k,n] without a gap. Moments are of the monotonic clock.

    Window i ended at `ended_at_seconds[i]`, took `seconds[i]` of the device's own time and did `products[i]` products.
    `checks` are of products at the beginning, now and then, and at the end. `trials` are the seconds of one product in
    each dtype that was tried.
    """

    device: Device
    dtype: str
    m: int
    n: int
    k: int
    began_at_seconds: float
    ended_at_seconds: tuple[float, ...]
    products: tuple[int, ...]
    seconds: tuple[float, ...]
    checks: tuple[MatmulCheck, ...]
    trials: dict[str, float]

    @property
    def flop(self) -> int:
        """Of one product."""
        return 2 * self.m * self.n * self.k


class Throttling(Record, frozen=True, kw_only=True):
    """One reason for held-down clocks: of the ticks under load, `share` had its bit, the first `first_seconds` in.

    `clock_ratio` and `throughput_ratio` compare ticks with the bit to ticks without: what it costs, if anything.
    """

    reason: str
    bit: int
    severity: ThrottleSeverity
    share: float
    first_seconds: float
    clock_ratio: float | Absent
    throughput_ratio: float | Absent


class SteadyState(Record, frozen=True, kw_only=True):
    """Means over the last part of the load, in seconds since it began. `watts` is energy over time where counted."""

    from_seconds: float
    to_seconds: float
    temperature_celsius: float | Absent
    memory_temperature_celsius: float | Absent
    fan_share: float | Absent
    sm_clock_hertz: float | Absent
    watts: Estimate | Absent
    watts_method: Literal["counter", "integrated"] | Absent


class HeatCard(Record, frozen=True, kw_only=True):
    """One device under sustained load. Limits are the card's own, as its driver tells them.

    `per_celsius` and `per_clock` are relative changes of throughput: per degree, and per relative change of the clock
    (1: throughput follows the clock), over this load, in which temperature, clock and time moved together.
    """

    name: str
    device_name: str
    index: int | Absent
    load: HeatLoad | Absent
    loaded_seconds: float
    fit: HeatFit | Absent
    settled: Settled
    rise_over_ambient_celsius: Estimate | Absent
    cold: MatmulPhase | Absent
    hot: MatmulPhase | Absent
    hot_over_cold: Estimate | Absent
    per_celsius: Estimate | Absent
    per_clock: Estimate | Absent
    throttling: tuple[Throttling, ...]
    steady: SteadyState | Absent
    flop_per_joule: Estimate | Absent
    peak_celsius: float | Absent
    slowdown_celsius: float | Absent
    target_celsius: float | Absent
    power_limit_watts: float | Absent
    power_limit_min_watts: float | Absent
    missing: dict[str, str]
    notes: tuple[str, ...]
    faults: tuple[str, ...]


class PowerPoint(Record, frozen=True, kw_only=True):
    """One labelled run: all its cards together. `limits_watts` holds the index and power limit of each card."""

    label: str
    run_id: str
    limits_watts: tuple[tuple[int, float], ...]
    watts: float
    flops_per_s: Estimate


class PowerAdvice(Record, frozen=True, kw_only=True):
    """Where more watts stop paying. `knee` is the label with the most work per joule, `plateau` the labels near it.

    `advised` is the fastest of the plateau; `commands` would set it and are never run by rigbench.
    """

    points: tuple[PowerPoint, ...]
    knee: str
    plateau: tuple[str, ...]
    advised: str
    sentence: str
    commands: tuple[str, ...]


class Thermals(Record, frozen=True, kw_only=True):
    """All devices under the same sustained load at once.

    `spread_celsius` is the hottest card's steady temperature over the coolest's. A replayed rig runs no load: its clock
    is scripted, a step of the recording taken as one period.
    """

    method: int
    started_at: str
    seconds: float
    planned_seconds: float
    replayed: bool
    label: str | Absent
    ambient_celsius: Figure | Absent
    cards: tuple[HeatCard, ...]
    hottest: str | Absent
    spread_celsius: float | Absent
    ended_by: HeatEndedBy
    ended_because: str
    period_achieved_seconds: float | Absent
    telemetry: Telemetry
    power: PowerAdvice | Absent
    notes: tuple[str, ...]


# Per device, what it is of, and its moments and values so far: what a live display draws. Not stored.
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
