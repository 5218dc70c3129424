"""What do a search's looks, a sustained load and a list of timed products say? Raw seconds in, records out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.matmul.fleet import LaneSeconds
from rigbench.matmul.record import (
    Ceiling,
    GemmStep,
    MatmulCheck,
    MatmulFleet,
    MatmulLane,
    MatmulLook,
    MatmulPhase,
    MatmulShape,
)
from rigbench.matmul.search import Found
from rigbench.model.gemms import Gemm

BURST_SECONDS, BURST_SHARE, HOT_SHARE = 2.0, 0.2, 1 / 3  # of a load: its first seconds, at most a fifth; its last third
FEWEST_SAMPLES = 3
NOT_LOADED = Absent("interrupted before the load began")
NOT_READ = Absent("not read beside this load")
NO_DATASHEET = Absent("no datasheet peak for this device and dtype")


def searched(dtype: str, accumulate: str, found: Found, search_seconds: float) -> Ceiling:
    """A ceiling whose shape is known, and nothing else yet."""
    return Ceiling(
        dtype=dtype,
        accumulate=accumulate,
        m=found.best.m,
        n=found.best.n,
        k=found.best.k,
        looks=tuple(MatmulLook(*look.dims, look.seconds) for look in found.looks),
        search_seconds=search_seconds,
        search_ended_by=found.ended_by,
        rest_seconds=0.0,
        began_at_seconds=0.0,
        products_per_sample=1,
        seconds=(),
        burst=NOT_LOADED,
        hot=NOT_LOADED,
        hot_over_burst=NOT_LOADED,
        share_of_datasheet=NO_DATASHEET,
        checks=(),
    )


def sustained(
    ceiling: Ceiling,
    *,
    rest_seconds: float,
    began_at_seconds: float,
    planned_seconds: float,
    products_per_sample: int,
    seconds: Sequence[float],
    checks: Sequence[MatmulCheck],
) -> Ceiling:
    """The same with a load's samples, which followed each other without a gap.

    A load that ended before nine tenths of its plan has no hot part: it was interrupted.
    """
    total = math.fsum(seconds)
    work = 2.0 * ceiling.m * ceiling.n * ceiling.k * products_per_sample
    burst = _phase(seconds, 0.0, min(BURST_SECONDS, BURST_SHARE * planned_seconds), work)
    hot: MatmulPhase | Absent = Absent(f"interrupted after {total:.1f} of {planned_seconds:.1f} s of load")
    if total >= 0.9 * planned_seconds:
        hot = _phase(seconds, (1 - HOT_SHARE) * total, total, work)
    return msgspec.structs.replace(
        ceiling,
        rest_seconds=rest_seconds,
        began_at_seconds=began_at_seconds,
        products_per_sample=products_per_sample,
        seconds=tuple(seconds),
        burst=burst,
        hot=hot,
        hot_over_burst=_ratio(hot, burst),
        checks=tuple(checks),
    )


def step(dtype: str, micro_batch: int, sequence: int, gemms: Sequence[Gemm], done: Sequence[MatmulShape]) -> GemmStep:
    """All products of a micro-batch: each one's median times its count. The interval is the sum of lows and of highs,
    as if all erred the same way; its confidence is that of the least certain.
    """
    seconds: Estimate | Absent = Absent(f"{len(gemms) - len(done)} of its {len(gemms)} products were not measured")
    if len(done) == len(gemms):
        estimates = [shape.timing.estimate for shape in done]
        low, value, high = (
            math.fsum(gemm.times * bound for gemm, bound in zip(gemms, bounds, strict=True))
            for bounds in zip(*((it.low, it.value, it.high) for it in estimates), strict=True)
        )
        seconds = Estimate(
            value=value,
            low=low,
            high=high,
            level=min(it.level for it in estimates),
            method="sum of medians, lows and highs",
            n=min(it.n for it in estimates),
        )
    flop = sum(gemm.flop * gemm.times for gemm in gemms)
    return GemmStep(dtype=dtype, micro_batch=micro_batch, sequence=sequence, flop=flop, seconds=seconds)


def fleet(ceiling: Ceiling, lanes: Sequence[LaneSeconds]) -> MatmulFleet:
    """Several devices on a ceiling's shape; the slowest is the one that was slowest beside all the others."""
    work = 2.0 * ceiling.m * ceiling.n * ceiling.k
    records = tuple(
        MatmulLane(
            device=lane.device,
            name=f"{lane.device.kind}:{index}",
            products_per_sample=lane.products_per_sample,
            alone_seconds=lane.alone,
            together_seconds=lane.together,
            check=lane.check,
            alone_flops_per_s=stats.rate_estimate(work * lane.products_per_sample, lane.alone),
            together_flops_per_s=stats.rate_estimate(work * lane.products_per_sample, lane.together),
        )
        for index, lane in enumerate(lanes)
    )
    slowest = min(records, key=lambda lane: lane.together_flops_per_s.value).name
    return MatmulFleet(dtype=ceiling.dtype, m=ceiling.m, n=ceiling.n, k=ceiling.k, lanes=records, slowest=slowest)


def inverse(seconds: Estimate, work: float) -> Estimate:
    """Work over time: the ends of the interval change places."""
    return Estimate(
        value=work / seconds.value,
        low=work / seconds.high,
        high=work / seconds.low,
        level=seconds.level,
        method=seconds.method,
        n=seconds.n,
    )


def _phase(seconds: Sequence[float], start: float, end: float, work_per_sample: float) -> MatmulPhase | Absent:
    """The samples that lie between two moments of a load; the first or last three where fewer do."""
    ends = list(accumulate(seconds))
    inside = [i for i, ended in enumerate(ends) if ended - seconds[i] >= start - 1e-9 and ended <= end + 1e-9]
    if len(inside) < FEWEST_SAMPLES:
        whole = range(len(seconds))
        inside = list(whole[:FEWEST_SAMPLES] if start == 0 else whole[-FEWEST_SAMPLES:])
    if len(inside) < FEWEST_SAMPLES:
        return Absent(f"{len(inside)} samples of a load are too few")
    first, last = inside[0], inside[-1]
    return MatmulPhase(
        from_seconds=max(0.0, ends[first] - seconds[first]),
        to_seconds=ends[last],
        flops_per_s=stats.rate_estimate(work_per_sample, seconds[first : last + 1]),
        temperature_celsius=NOT_READ,
        power_watts=NOT_READ,
        sm_clock_hertz=NOT_READ,
    )


def _ratio(hot: MatmulPhase | Absent, burst: MatmulPhase | Absent) -> Estimate | Absent:
    """Hot over burst, the two intervals' half widths added as squares on logarithms."""
    if isinstance(hot, Absent) or isinstance(burst, Absent):
        return hot if isinstance(hot, Absent) else NOT_LOADED
    above, below = hot.flops_per_s, burst.flops_per_s
    half = math.hypot(*(math.log(it.high / it.low) / 2 for it in (above, below)))
    value = above.value / below.value
    return Estimate(
        value=value,
        low=value * math.exp(-half),
        high=value * math.exp(half),
        level=min(above.level, below.level),
        method="ratio of two rates of one load, half widths added as squares",
        n=min(above.n, below.n),
    )
