"""Judges timed products: the phases of a load, a whole step, wrong results, shares of the datasheet, the sensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate
from operator import add

import msgspec

from rigbench.core import stats, units
from rigbench.core.estimate import ratio
from rigbench.core.finding import Cost, Finding, finding
from rigbench.core.record import Absent, Figure, SensorSeries
from rigbench.matmul.record import Ceiling, GemmStep, Matmul, MatmulCheck, MatmulPhase, MatmulShape
from rigbench.model.counts import Gemm
from rigbench.work.telemetry import of_device

# Of the datasheet, sustained: 67 % (H100), 85 % (A100), 100 % (4090), as published products come out.
LEAST_SHARE, USUAL_SHARE = 0.6, 0.85
USUAL = "67 to 100 % of the datasheet, which published cards reach"
BURST_SECONDS, BURST_SHARE, HOT_SHARE = 2.0, 0.2, 1 / 3  # of a load: its first seconds, at most a fifth; its last third
FEWEST_SAMPLES = 3


def loaded(ceiling: Ceiling, seconds: Sequence[float], planned_seconds: float) -> Ceiling:
    """A ceiling with a load's samples, which followed each other without a gap.

    A load that ended before nine tenths of its plan has no hot part: it was interrupted.
    """
    total = math.fsum(seconds)
    work = float(ceiling.flop * ceiling.products_per_sample)
    burst = _phase(seconds, 0.0, min(BURST_SECONDS, BURST_SHARE * planned_seconds), work)
    hot: MatmulPhase | Absent = Absent(f"interrupted after {total:.1f} of {planned_seconds:.1f} s of load")
    if total >= 0.9 * planned_seconds:
        hot = _phase(seconds, (1 - HOT_SHARE) * total, total, work)
    rates = [phase if isinstance(phase, Absent) else phase.flops_per_s for phase in (hot, burst)]
    return msgspec.structs.replace(ceiling, seconds=tuple(seconds), burst=burst, hot=hot, hot_over_burst=ratio(*rates))


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
    )


def step(dtype: str, micro_batch: int, sequence: int, gemms: Sequence[Gemm], done: Sequence[MatmulShape]) -> GemmStep:
    """All products of a micro-batch: each one's median times its count, as if all erred the same way."""
    missing = f"{len(gemms) - len(done)} of its {len(gemms)} products were not measured"
    if len(done) == len(gemms):
        missing = "" if all(shape.check.correct for shape in done) else "a product was wrong"
    return GemmStep(
        dtype=dtype,
        micro_batch=micro_batch,
        sequence=sequence,
        flop=sum(gemm.flop * gemm.times for gemm in gemms),
        seconds=Absent(missing)
        if missing
        else reduce(add, (shape.timing.estimate * shape.times_per_step for shape in done)),
    )


def wrong(result: Matmul) -> list[str]:
    """A line for every product whose result is not what float64 says, and every device that failed beside the rest."""
    checks: list[tuple[str, MatmulCheck]] = [(f"{it.dtype} {it.words}", it.check) for it in result.shapes]
    for ceiling in result.ceilings:
        name = f"{ceiling.dtype} {ceiling.words}"
        moments = (f"{name} before the load", f"{name} after {sum(ceiling.seconds):.0f} s of load")
        checks += zip(moments, ceiling.checks, strict=False)
    if not isinstance(result.fleet, Absent):
        checks += [(f"{result.fleet.dtype} on {lane.name}", lane.check) for lane in result.fleet.lanes]
    return [
        f"matmul {what} gave a wrong result, {check.largest_error_over_bound:.2g} times the error that rounding allows"
        for what, check in checks
        if not check.correct
    ] + [f"matmul on {line}" for line in result.failures]


def diagnose(result: Matmul) -> Iterator[Finding]:
    """Wrong products, and ceilings below what published cards reach of their datasheet."""
    if lines := wrong(result):
        yield finding("matmul-wrong", "fault", lines, [result.device.name], "trust, not speed")
    for ceiling in result.ceilings:
        share, peak = ceiling.share_of_datasheet, result.datasheet_flops_per_s.get(ceiling.dtype)
        if isinstance(share, Absent) or isinstance(ceiling.hot, Absent) or peak is None or share >= LEAST_SHARE:
            continue
        rate = ceiling.hot.flops_per_s
        low, middle = (units.format_flops_per_s(it) for it in (rate.value, USUAL_SHARE * peak.value))
        evidence = [f"{low} sustained, {units.format_share(share)} of the datasheet's {ceiling.dtype}"]
        now = Figure(rate.value, "measured", "sustained products", rate.low, rate.high)
        usual = Figure(USUAL_SHARE * peak.value, "datasheet", USUAL, LEAST_SHARE * peak.value, peak.value)
        price = Cost(f"{low} where such cards reach about {middle}", "FLOP/s", now, usual)
        detail = f"{ceiling.dtype}, {units.format_share(share)} of the datasheet"
        yield finding("matmul-low", "warning", evidence, [result.device.name], price, detail=detail)


def mended(result: Matmul) -> Matmul:
    """With ceilings that no product beats: where one of the model's does, the ceiling is that product's rate.

    A search that ran out of time gives none of its own. Where the model's products do, its fastest shape is a product
    like them.
    """
    best, names = dict(result.best_flops_per_s), dict(result.best_product)
    for ceiling in result.ceilings:
        own = [(it, it.flops_per_s) for it in result.shapes if it.dtype == ceiling.dtype and it.check.correct]
        rivals = [(f"{it.purpose} {it.product}, {it.words}", rate) for it, rate in own]
        if isinstance(ceiling.hot, Absent) and own and ceiling.searched_seconds:
            shapes = len({look.dims for look in ceiling.looks})
            name = f"{ceiling.words}, the fastest of {shapes} shape{'s' * (shapes > 1)} tried"
            rivals.append((name, ceiling.flop / stats.median_estimate(ceiling.searched_seconds)))
        for name, rate in rivals:
            if ceiling.dtype not in best or rate.value > best[ceiling.dtype].value:
                best[ceiling.dtype], names[ceiling.dtype] = rate, name
    return msgspec.structs.replace(result, best_flops_per_s=best, best_product=names)


def beside_datasheet(result: Matmul, peaks: dict[str, Figure]) -> Matmul:
    """With each ceiling's share of the published peak; none where it is above that, which was no peak then."""
    if "fp8" in peaks:  # a figure of the tensor cores, whichever way partial sums are kept
        peaks = {**peaks, "fp8-fast": peaks["fp8"]}

    def beside(ceiling: Ceiling) -> Ceiling:
        if isinstance(ceiling.hot, Absent) or ceiling.dtype not in peaks:
            return ceiling
        peak = peaks[ceiling.dtype]
        share = ceiling.hot.flops_per_s.value / peak.value
        above = Absent(f"faster than {peak.basis}: it clocks higher than published, or one of the two is wrong")
        return msgspec.structs.replace(ceiling, share_of_datasheet=share if share <= 1 else above)

    return msgspec.structs.replace(
        result, ceilings=tuple(beside(it) for it in result.ceilings), datasheet_flops_per_s=peaks
    )


def beside_sensors(result: Matmul) -> Matmul:
    """With each load's temperature, power and clock over its own seconds."""
    sensors = result.telemetry
    series = () if isinstance(sensors, Absent) else of_device(sensors, result.device).series
    if isinstance(sensors, Absent) or not series:
        return result

    def read(phase: MatmulPhase | Absent, began: float) -> MatmulPhase | Absent:
        if isinstance(phase, Absent):
            return phase
        start, end = began + phase.from_seconds, began + phase.to_seconds
        window = [index for index, at in enumerate(sensors.at_seconds) if start <= at <= end]
        names = ("temperature_celsius", "power_watts", "sm_clock_hertz")
        return msgspec.structs.replace(phase, **{name: _mean(series[0], name, window) for name in names})

    return msgspec.structs.replace(
        result,
        ceilings=tuple(
            msgspec.structs.replace(
                it, burst=read(it.burst, it.began_at_seconds), hot=read(it.hot, it.began_at_seconds)
            )
            for it in result.ceilings
        ),
    )


def _mean(series: SensorSeries, name: str, window: Sequence[int]) -> float | Absent:
    column = getattr(series, name)
    if isinstance(column, Absent):
        return column
    readings = [column[index] for index in window if not isinstance(column[index], Absent)]
    return sum(readings) / len(readings) if readings else Absent("no reading fell into it")
