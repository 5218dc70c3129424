"""How fast did this device multiply matrices?"""

from __future__ import annotations

from rigbench.records.base import Absent, EndedBy, Estimate, Figure, Record, Timing
from rigbench.records.probe import Device, Telemetry


class MatmulCheck(Record, frozen=True):
    """Sampled rows and columns compared with a float64 product: the largest error, as a multiple of what it may be."""

    rows: int
    columns: int
    largest_error_over_bound: float
    correct: bool


class MatmulShape(Record, frozen=True):
    """C[m,n] = A[m,k] @ B[k,n], 2·m·n·k FLOP a sample. `purpose` is "square" or a layer of the model."""

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


class Matmul(Record, frozen=True):
    """`best_flops_per_s` is the highest per dtype among these shapes: a lower bound of the ceiling, not the ceiling."""

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
