"""What the matmul probe is told, and how fast it found a device to multiply matrices."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, get_args

from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.options import NOT_GIVEN, Option, Reader, seconds, whole
from rigbench.core.record import Absent, Device, EndedBy, Figure, Record, Some, Telemetry
from rigbench.model.record import Model

# 3: on GPUs, the model's products are handed over behind a hold. 4: a CPU's flush is bounded by its threads, a look's
# time counts all of it, the search begins at a middle cube and says where the time did not do.
METHOD = 4
Dtype = Literal["bf16", "fp16", "fp16-acc16", "tf32", "fp32", "fp8", "fp8-fast"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEFAULT_DTYPES: dict[str, tuple[Dtype, ...]] = {
    "cpu": ("bf16", "fp32"),
    "cuda": ("bf16", "fp16", "tf32", "fp32", "fp8"),
}
SAME_SHAPE = Absent("that of all")
NOT_LOADED = Absent("interrupted before the load began")
NOT_READ = Absent("not read beside this load")
NO_DATASHEET = Absent("no datasheet peak for this device and dtype")
LARGEST_MICRO_BATCH = 1 << 16
HOT_SECONDS = {"cpu": 10.0, "cuda": 20.0}
REST_SECONDS = {"cpu": 2.0, "cuda": 5.0}
OTHER_SECONDS = {"cpu": 32.0, "cuda": 16.0}  # a dtype, beside its load
# Times that a product of milliseconds may be as fast as seconds of load, by the clock alone: it fell to 0.62 of its
# highest on an H200 at its power limit. More is a load that was held up, or a search that missed what is fast.
CLOCK_FALLS = 2.0
MOST_HOT_SHARE = 0.25  # of a dtype's time, where it is given


def read_dtypes(text: str, option: str) -> tuple[Dtype, ...]:
    """ "bf16,fp32", each once, or "all"."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if words == ["all"]:
        return DTYPES
    unknown = [word for word in words if word not in DTYPES]
    if unknown or not words:
        what = f"knows no {unknown[0]!r}" if unknown else f"{text!r} names none"
        raise RigbenchError(f"{option} {what}", f"use all, or some of {', '.join(DTYPES)}, as in bf16,fp32")
    return tuple(dtype for word in dict.fromkeys(words) for dtype in DTYPES if dtype == word)


class Options(Record, frozen=True, kw_only=True):
    """What the command is told; what is not given is the device's default."""

    dtypes: Annotated[
        tuple[Dtype, ...] | Absent,
        Option(
            Reader(read_dtypes),
            "all, or some of bf16, fp16, fp16-acc16 (fp16 sums too), tf32, fp32, fp8, fp8-fast. "
            "Default: bf16,fp32 on a CPU; bf16,fp16,tf32,fp32,fp8 on a GPU.",
            "bf16,fp32",
        ),
    ] = NOT_GIVEN
    micro_batch: Annotated[
        int | Absent,
        Option(
            whole(1, LARGEST_MICRO_BATCH),
            "Sequences a step, for the model's own products. Default: 1 on a CPU, 8 on a GPU.",
            "N",
        ),
    ] = NOT_GIVEN
    seconds: Annotated[
        float | Absent,
        Option(seconds(), "For everything. Default: 42s a dtype on a CPU, 36s on a GPU.", "TIME"),
    ] = NOT_GIVEN
    hot_seconds: Annotated[
        float | Absent,
        Option(seconds(), "Sustained load of each dtype's fastest shape. Default: 10s, 20s on a GPU.", "TIME"),
    ] = NOT_GIVEN


class Times(NamedTuple):
    """Seconds of everything, and of each dtype's load and the rest before it."""

    total: float
    hot: float
    rest: float


class ProbeOptions(Options, frozen=True, kw_only=True):
    """What the probe is told."""

    model: Model  # lends its own layers' shapes
    device: str = "auto"
    target_half_width: float = 0.01  # of the time of each of the model's products

    def dtypes_on(self, kind: str) -> tuple[Dtype, ...]:
        """Those that were given, else the defaults on a kind of device."""
        return DEFAULT_DTYPES[kind] if isinstance(self.dtypes, Absent) else self.dtypes

    def times(self, kind: str, dtypes: int) -> Times:
        """How the time is divided on a kind of device that multiplies so many dtypes.

        Raises:
            RigbenchError: the loads alone would take up the time that was given.
        """
        hot = HOT_SECONDS[kind] if isinstance(self.hot_seconds, Absent) else self.hot_seconds
        rest = REST_SECONDS[kind]
        if isinstance(self.seconds, Absent):
            return Times(dtypes * (OTHER_SECONDS[kind] + hot), hot, min(rest, 0.2 * hot))
        if isinstance(self.hot_seconds, Absent):
            hot = min(hot, MOST_HOT_SHARE * self.seconds / dtypes)
        if dtypes * hot > 0.8 * self.seconds:
            raise RigbenchError(
                f"--hot-seconds {hot:g} for {dtypes} dtype{'s' * (dtypes > 1)} does not fit into --seconds "
                f"{self.seconds:g}",
                f"give --seconds {math.ceil(2 * dtypes * hot)} or more{', or fewer --dtypes' * (dtypes > 1)}",
            )
        return Times(self.seconds, hot, min(rest, 0.2 * hot))


class MatmulCheck(Record, frozen=True):
    """Sampled rows and columns of a product, compared with float64."""

    rows: int
    columns: int
    largest_error_over_bound: float  # the largest error, as a multiple of what it may be
    correct: bool


class MatmulDims(Record, frozen=True):
    """C[m,n] = A[m,k] @ B[k,n]."""

    m: int
    n: int
    k: int

    @property
    def dims(self) -> tuple[int, int, int]:
        return self.m, self.n, self.k

    @property
    def flop(self) -> int:
        """Of one product."""
        return 2 * self.m * self.n * self.k

    @property
    def words(self) -> str:
        return f"{self.m}×{self.n}×{self.k}"


class MatmulShape(MatmulDims, frozen=True, kw_only=True):
    """One of the model's own products."""

    dtype: str
    purpose: str  # the layer of the model
    product: Literal["forward", "data gradient", "weight gradient"]
    layout: Literal["nn", "nt", "tn"]  # which operand lies transposed in memory: "nt" B, "tn" A
    times_per_step: int  # how often one micro-batch does it
    timing: Timing
    flops_per_s: Estimate
    check: MatmulCheck


class MatmulLook(MatmulDims, frozen=True):
    """One evaluation of the search for the ceiling."""

    seconds: Some[float]  # of one product, a few times


class MatmulPhase(Record, frozen=True):
    """A part of a sustained load, in seconds since the load began. Sensors are means over it, of the device's own."""

    from_seconds: float
    to_seconds: float
    flops_per_s: Estimate
    temperature_celsius: float | Absent = NOT_READ
    power_watts: float | Absent = NOT_READ
    sm_clock_hertz: float | Absent = NOT_READ


class Ceiling(MatmulDims, frozen=True, kw_only=True):
    """The fastest shape of one dtype: found by a search, then measured anew under a sustained load."""

    dtype: str
    accumulate: str  # the type of the inner sum
    looks: tuple[MatmulLook, ...]  # the search's evaluations, in order
    search_seconds: float
    search_ended_by: EndedBy
    rest_seconds: float = 0.0  # of idling before the load
    began_at_seconds: float = 0.0  # of the load, on the monotonic clock
    products_per_sample: int = 1
    seconds: tuple[float, ...] = ()  # of the load's samples, which follow each other without a gap
    burst: MatmulPhase | Absent = NOT_LOADED  # the load's beginning
    hot: MatmulPhase | Absent = NOT_LOADED  # its last third
    hot_over_burst: Estimate | Absent = NOT_LOADED  # the interval is of this one load
    share_of_datasheet: float | Absent = NO_DATASHEET
    checks: tuple[MatmulCheck, ...] = ()  # before the load, after it

    @property
    def searched_seconds(self) -> list[float]:
        """What the search's looks at this shape took, a product each."""
        return [second for look in self.looks if look.dims == self.dims for second in look.seconds]


class GemmStep(Record, frozen=True, kw_only=True):
    """The model's own products of one micro-batch in one dtype, summed: what a step would take of nothing else."""

    dtype: str
    micro_batch: int
    sequence: int
    flop: int
    seconds: Estimate | Absent


class MatmulLane(Record, frozen=True, kw_only=True):
    """One device of several under the same load: alone, then beside all the others."""

    device: Device
    name: str
    products_per_sample: int
    alone_seconds: tuple[float, ...]
    together_seconds: tuple[float, ...]
    alone_flops_per_s: Estimate
    together_flops_per_s: Estimate
    check: MatmulCheck  # of its last product
    shape: MatmulDims | Absent = SAME_SHAPE  # a smaller one, where its free memory has no room for that of all


class MatmulFleet(MatmulDims, frozen=True, kw_only=True):
    """All devices on one shape, in the first arithmetic measured that each of them has."""

    dtype: str
    lanes: tuple[MatmulLane, ...]
    left_out: tuple[str, ...] = ()  # which devices, and why

    @property
    def slowest(self) -> MatmulLane:
        """The one that was slowest beside all the others: it sets the pace of training in step."""
        return min(self.lanes, key=lambda lane: lane.together_flops_per_s.value)


class Matmul(Record, frozen=True, kw_only=True):
    method: int
    started_at: str
    seconds: float
    device: Device
    datasheet_flops_per_s: dict[str, Figure]
    model: Model
    shapes: tuple[MatmulShape, ...]  # the model's own products
    ceilings: tuple[Ceiling, ...]
    # By dtype what a product is held against: the searched shape's rate under sustained load, or a higher one of the
    # model's products, each timed for itself in a short test, at whatever clock a card reaches before its power limit.
    # Where the search ran out of time, the fastest of these and of its own; none, where none of these was measured.
    best_flops_per_s: dict[str, Estimate]
    steps: tuple[GemmStep, ...]
    fleet: MatmulFleet | Absent
    ended_by: EndedBy
    telemetry: Telemetry | Absent
    not_run: tuple[str, ...] = ()
    best_product: dict[str, str] = {}  # noqa: RUF012, msgspec copies it; by dtype, where it is no sustained load, which
    failures: tuple[str, ...] = ()  # devices that failed in the load of all, and with what words: faults

    @property
    def sustained_flops_per_s(self) -> dict[str, Estimate]:
        """By dtype what hours of work are held against: where a load was measured that nothing belies."""
        loads = {it.dtype: it.hot.flops_per_s for it in self.ceilings if not isinstance(it.hot, Absent)}
        best = {dtype: self.best_flops_per_s.get(dtype, rate).value for dtype, rate in loads.items()}
        return {dtype: rate for dtype, rate in loads.items() if best[dtype] <= CLOCK_FALLS * rate.high}
