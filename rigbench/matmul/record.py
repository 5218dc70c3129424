"""How fast did this device multiply matrices?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, EndedBy, Figure, Record, Telemetry
from rigbench.model.record import Model


class MatmulCheck(Record, frozen=True):
    """Sampled rows and columns compared with a float64 product: the largest error, as a multiple of what it may be."""

    rows: int
    columns: int
    largest_error_over_bound: float
    correct: bool


class MatmulShape(Record, frozen=True):
    """C[m,n] = A[m,k] @ B[k,n], 2·m·n·k FLOP a sample. `purpose` is the layer of the model.

    `layout` says which operand lies transposed in memory ("nt": B, "tn": A), `times_per_step` how often one micro-batch
    does this product. METHOD 1 told neither, and measured squares too (purpose "square").
    """

    m: int
    n: int
    k: int
    dtype: str
    purpose: str
    flop: int
    timing: Timing
    flops_per_s: Estimate
    share_of_datasheet: float | Absent
    check: MatmulCheck
    product: Literal["forward", "data gradient", "weight gradient"] | msgspec.UnsetType = msgspec.UNSET
    layout: Literal["nn", "nt", "tn"] | msgspec.UnsetType = msgspec.UNSET
    times_per_step: int | msgspec.UnsetType = msgspec.UNSET


class MatmulLook(Record, frozen=True):
    """One evaluation of the search for the ceiling: the seconds of a product, a few times."""

    m: int
    n: int
    k: int
    seconds: tuple[float, ...]


class MatmulPhase(Record, frozen=True):
    """A part of a sustained load, in seconds since the load began. Sensors are means over it, of the device's own."""

    from_seconds: float
    to_seconds: float
    flops_per_s: Estimate
    temperature_celsius: float | Absent
    power_watts: float | Absent
    sm_clock_hertz: float | Absent


class Ceiling(Record, frozen=True, kw_only=True):
    """The fastest shape of one dtype: found by a search, then measured anew under a sustained load.

    `accumulate` is the type of the inner sum. `looks` are the search's evaluations in order, which ended as
    `search_ended_by` says. After `rest_seconds` of idling the load began at `began_at_seconds` (monotonic clock); its
    samples follow each other without a gap, `products_per_sample` products each. `burst` is its beginning, `hot` its
    last third, `hot_over_burst` their ratio, whose interval is of this one load. `checks`: before the load, after it.
    """

    dtype: str
    accumulate: str
    m: int
    n: int
    k: int
    looks: tuple[MatmulLook, ...]
    search_seconds: float
    search_ended_by: EndedBy
    rest_seconds: float
    began_at_seconds: float
    products_per_sample: int
    seconds: tuple[float, ...]
    burst: MatmulPhase | Absent
    hot: MatmulPhase | Absent
    hot_over_burst: Estimate | Absent
    share_of_datasheet: float | Absent
    checks: tuple[MatmulCheck, ...]


class GemmStep(Record, frozen=True, kw_only=True):
    """The model's own products of one micro-batch in one dtype, summed: what a step would take of nothing else."""

    dtype: str
    micro_batch: int
    sequence: int
    flop: int
    seconds: Estimate | Absent


class MatmulLane(Record, frozen=True, kw_only=True):
    """One device of several under the same load: alone, then beside all the others. `check` is of its last product."""

    device: Device
    name: str
    products_per_sample: int
    alone_seconds: tuple[float, ...]
    together_seconds: tuple[float, ...]
    alone_flops_per_s: Estimate
    together_flops_per_s: Estimate
    check: MatmulCheck


class MatmulFleet(Record, frozen=True, kw_only=True):
    """All devices on one shape. `slowest` is the lane that sets the pace of training in step."""

    dtype: str
    m: int
    n: int
    k: int
    lanes: tuple[MatmulLane, ...]
    slowest: str


class Matmul(Record, frozen=True):
    """`best_flops_per_s` is per dtype the ceiling under sustained load.

    Before METHOD 2 it was the highest of a few shapes, measured cold and short, and there were no `ceilings`, no
    `steps` and no `fleet`.
    """

    method: int
    started_at: str
    seconds: float
    device: Device
    datasheet_flops_per_s: dict[str, Figure]
    shapes: tuple[MatmulShape, ...]
    best_flops_per_s: dict[str, Estimate]
    ended_by: EndedBy
    telemetry: Telemetry | Absent
    not_run: tuple[str, ...] = ()
    model: Model | msgspec.UnsetType = msgspec.UNSET
    ceilings: tuple[Ceiling, ...] | msgspec.UnsetType = msgspec.UNSET
    steps: tuple[GemmStep, ...] | msgspec.UnsetType = msgspec.UNSET
    fleet: MatmulFleet | Absent | msgspec.UnsetType = msgspec.UNSET
