"""What a heat soak is told, and what it did: to the temperature, to the throughput, and what held the clocks down."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Severity
from rigbench.core.options import LABEL, Option, Reader, number, seconds
from rigbench.core.record import Absent, Device, Figure, Record, Telemetry
from rigbench.matmul.record import MatmulCheck, MatmulPhase

METHOD = 1

HeatEndedBy = Literal[
    "settled", "time limit", "safety stop", "interrupted", "worker died", "sensors silent", "recording ended"
]

StepsEndedBy = Literal[
    "finished", "safety stop", "interrupted", "worker died", "GPU lost", "sensors silent", "machine went down"
]


ROOM = Reader(lambda text, option: Figure(units.parse_number(text, option, 1.0, 60.0), "declared", option))


class Options(Record, frozen=True, kw_only=True):
    minutes: Annotated[
        float, Option(number(0.1, 120.0), "At most this long; it ends as soon as it is settled.", "N")
    ] = 10.0
    label: Annotated[
        str | Absent,
        Option(
            LABEL,
            "Keep it under a label, like 250W: three or more of them, at power limits that you set, "
            "show where watts stop paying.",
            "NAME",
        ),
    ] = Absent("no --label was given")
    ambient: Annotated[
        Figure | Absent,
        Option(ROOM, "The room's temperature: results are shown as rise over it too.", "CELSIUS"),
    ] = Absent("the room's temperature was not declared; --ambient does it")
    power_steps: Annotated[
        bool,
        Option(
            None,
            "Instead of heat: take all GPUs from idle to full and back, ever faster, as weak power supplies fail at. "
            "May switch this machine off.",
        ),
    ] = False
    step_seconds: Annotated[
        float, Option(seconds(1.0, 600.0), "How long each rhythm of --power-steps lasts.", "TIME")
    ] = 20.0
    yes: Annotated[bool, Option(None, "Begin --power-steps without being asked.", private=True)] = False
    device: str = "auto"  # all GPUs, else the CPU; or one device in torch's words


class LoadOptions(Record, frozen=True):
    seconds: float
    device: str = "auto"
    size: int | Absent = Absent("the largest that fits and does not take too long")
    period_seconds: float = 0.0  # idle for half of it, then full for the other; 0: full without a gap


class PowerStep(Record, frozen=True, kw_only=True):
    """One rhythm: all devices together from idle to full and back, half of the period each."""

    period_seconds: float
    seconds: float
    pulses: int  # from idle to full, of the device that made the fewest
    lowest_watts: float | Absent  # of all cards together, as sensors tell that average over up to a second
    highest_watts: float | Absent


class PowerSteps(Record, frozen=True, kw_only=True):
    """What became of a machine whose GPUs went from idle to full and back, ever faster."""

    method: int
    devices: tuple[str, ...]
    planned: tuple[float, ...]  # periods, in seconds
    steps: tuple[PowerStep, ...]  # those that ended, the last of them maybe early
    ended_by: StepsEndedBy
    ended_because: str

    @property
    def failed(self) -> bool:
        return self.ended_by in ("worker died", "GPU lost", "machine went down")


class HeatFit(Record, frozen=True, kw_only=True):
    """T(t) = steady − (steady − start)·e^(−t/tau), t from `from_seconds` after the load began to `to_seconds`."""

    from_seconds: float
    to_seconds: float
    steady_celsius: Estimate | Absent
    tau_seconds: Estimate | Absent
    start_celsius: Estimate | Absent
    residual_celsius: float  # root of the mean square that the fit leaves
    resolution_celsius: float  # the smallest step between readings
    trend: bool  # the residuals are no noise: not one exponential, as while the die is warm and the case is not


class Settled(Record, frozen=True, kw_only=True):
    settled: bool  # it has stopped changing
    what: Literal["temperature", "throughput", "nothing"]
    because: str  # the reason, either way
    left: float | Absent  # what it may still change, in °C or as a share: the upper end of its 90 % interval


class HeatLoad(Record, frozen=True, kw_only=True):
    """What kept one device busy: C[m,n] = A[m,k] @ B[k,n] without a gap. Moments are of the monotonic clock."""

    device: Device
    dtype: str
    m: int
    n: int
    k: int
    began_at_seconds: float
    ended_at_seconds: tuple[float, ...]  # of each window of work
    products: tuple[int, ...]  # done in each window
    seconds: tuple[float, ...]  # of the device's own time, in each window
    checks: tuple[MatmulCheck, ...]  # of products at the beginning, now and then, and at the end
    trials: dict[str, float]  # seconds of one product in each dtype that was tried

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.ended_at_seconds) == len(self.products) == len(self.seconds):
            raise ValueError("HeatLoad's windows, products and seconds are not equally many")

    @property
    def flop(self) -> int:  # of one product
        return 2 * self.m * self.n * self.k

    @property
    def flops_per_s(self) -> list[float]:  # of each window
        return [self.flop * count / took for count, took in zip(self.products, self.seconds, strict=True)]

    @property
    def elapsed_seconds(self) -> list[float]:  # when each window ended, since the load began
        return [at - self.began_at_seconds for at in self.ended_at_seconds]


class Throttling(Record, frozen=True, kw_only=True):
    reason: str  # for held-down clocks
    bit: int
    severity: Severity
    share: float  # of the ticks under load
    first_seconds: float  # since the load began
    clock_ratio: float | Absent  # of ticks with the bit to ticks without
    throughput_ratio: float | Absent
    watts: float | Absent = Absent("not reported")  # the median of those ticks


class SteadyState(Record, frozen=True, kw_only=True):
    """Means over the last part of the load, in seconds since it began."""

    from_seconds: float
    to_seconds: float
    temperature_celsius: float | Absent
    memory_temperature_celsius: float | Absent
    fan_share: float | Absent
    sm_clock_hertz: float | Absent
    watts: Estimate | Absent  # energy over time
    watts_method: Literal["counter", "integrated"] | Absent


class HeatCard(Record, frozen=True, kw_only=True):
    """One device under sustained load. Limits are the card's own, as its driver tells them."""

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
    # Relative changes of throughput over this load, in which temperature, clock and time moved together.
    per_celsius: Estimate | Absent
    per_clock: Estimate | Absent  # 1: throughput follows the clock
    throttling: tuple[Throttling, ...]
    steady: SteadyState | Absent
    flop_per_joule: Estimate | Absent
    peak_celsius: float | Absent
    slowdown_celsius: float | Absent
    target_celsius: float | Absent
    power_limit_watts: float | Absent
    power_limit_min_watts: float | Absent
    missing: dict[str, str]  # sensors, and why they do not answer
    notes: tuple[str, ...]
    faults: tuple[str, ...]


class PowerPoint(Record, frozen=True, kw_only=True):
    label: str  # of one run, all its cards together
    run_id: str
    limits_watts: tuple[tuple[int, float], ...]  # index and power limit of each card
    watts: float
    flops_per_s: Estimate


class PowerAdvice(Record, frozen=True, kw_only=True):
    points: tuple[PowerPoint, ...]
    knee: str  # the label with the most work per joule: beyond it more watts stop paying
    plateau: tuple[str, ...]  # the labels near it
    sentence: str
    commands: tuple[str, ...]  # would set the fastest of the plateau; rigbench never runs them


class Thermals(Record, frozen=True, kw_only=True):
    """All devices under the same sustained load at once.

    A replayed rig runs no load: its clock is scripted, a step of the recording taken as one period.
    """

    method: int
    seconds: float
    replayed: bool
    label: str | Absent
    ambient_celsius: Figure | Absent
    cards: tuple[HeatCard, ...]
    hottest: str | Absent
    spread_celsius: float | Absent  # the hottest card's steady temperature over the coolest's
    ended_by: HeatEndedBy
    ended_because: str
    telemetry: Telemetry
    power: PowerAdvice | Absent
    notes: tuple[str, ...]
