"""Judges timed products: the phases of a load, a whole step, wrong results, shares of the datasheet, the sensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate
from operator import add
from typing import NamedTuple

import msgspec

from rigbench.core import stats, units
from rigbench.core.estimate import ratio
from rigbench.core.finding import Cost, Finding, finding
from rigbench.core.record import Absent, Figure, SensorSeries
from rigbench.matmul.clock import LEAST_SHARE, flop_per_clock, mhz, share_of_clock
from rigbench.matmul.record import Ceiling, GemmStep, Matmul, MatmulCheck, MatmulPhase, MatmulShape
from rigbench.model.counts import Gemm
from rigbench.work.telemetry import of_device
from rigbench.work.verdict import HELD_SHARE

POWER_CAP, SLOWED = 0x4, 0x8 | 0x20 | 0x40 | 0x80  # nvml.h: by the card's power limit; by heat or the hardware
MOST = 0.5  # of the readings: what held the clock
USUAL_SHARE = 0.85  # of the datasheet
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
    per_clock, held = flop_per_clock(result.device), dict[str, list[Load]]()
    for ceiling in result.ceilings:
        share, peak = ceiling.share_of_datasheet, result.datasheet_flops_per_s.get(ceiling.dtype)
        if isinstance(share, Absent) or isinstance(ceiling.hot, Absent) or peak is None:
            continue
        load = Load(ceiling.dtype, ceiling.hot, peak.value, share, share_of_clock(ceiling, per_clock))
        if load.of_clock and load.of_clock.value >= LEAST_SHARE:
            if share < LEAST_SHARE:
                held.setdefault(_cause(result, ceiling.began_at_seconds, ceiling.hot), []).append(load)
        elif load.of_clock or share < LEAST_SHARE:
            yield _low(result, load)
    for cause, loads in held.items():
        yield _held(result, cause, loads)


class Load(NamedTuple):
    """A sustained load beside what the datasheet says, and beside what the units can do at its clock."""

    dtype: str
    hot: MatmulPhase
    peak: float
    share: float  # of the datasheet
    of_clock: Figure | None

    @property
    def words(self) -> str:
        return f"{units.format_flops_per_s(self.hot.flops_per_s.value)} sustained"

    def cost(self, possible: Figure, beside: str) -> Cost:
        rate = self.hot.flops_per_s
        now = Figure(rate.value, "measured", "sustained products", rate.low, rate.high)
        return Cost(f"{units.format_flops_per_s(rate.value)} {beside}", "FLOP/s", now, possible)


def _low(result: Matmul, its: Load) -> Finding:
    detail = f"{units.format_share(its.share)} of the datasheet"
    evidence = [f"{its.words}, {detail}'s {its.dtype}"]
    if its.of_clock:
        detail = f"{units.format_share(its.of_clock.value)} of {its.of_clock.basis}"
        evidence.append(f"{detail}: it is not the clock that holds them")
    usual = Figure(USUAL_SHARE * its.peak, "datasheet", USUAL, LEAST_SHARE * its.peak, its.peak)
    price = its.cost(usual, f"where such cards reach about {units.format_flops_per_s(usual.value)}")
    return finding("matmul-low", "warning", evidence, [result.device.name], price, detail=f"{its.dtype}, {detail}")


def _held(result: Matmul, cause: str, loads: Sequence[Load]) -> Finding:
    """Products as fast as their clock allows, far below the datasheet's: by what held the clock."""
    evidence = []
    for its in loads:
        watts = "" if isinstance(its.hot.power_watts, Absent) else f", at {units.format_watts(its.hot.power_watts)}"
        if its.of_clock:
            share = units.format_share(its.of_clock.value)
            evidence.append(f"{its.dtype}: {its.words}, {share} of {its.of_clock.basis}{watts}")
    worst = min(loads, key=lambda its: its.share)
    possible = (worst.of_clock.value if worst.of_clock else 1.0) * worst.peak
    beside = f"in {worst.dtype}; {units.format_flops_per_s(possible)} at the datasheet's clock"
    price = worst.cost(Figure(possible, "predicted", "the same share of the datasheet's peak"), beside)
    label = next((its.device for its in _series(result)), result.device.name)
    clock = mhz(worst.hot.sm_clock_hertz)
    if cause == "power":
        return finding("power-bound", "information", evidence, [label], price.sentence, detail=clock)
    if cause == "slowed":
        return finding("throttled", "warning", evidence, [label], price, detail=f"{clock} under load")
    evidence += ["the driver says that neither the power limit nor heat holds it"] if cause else []
    short, do = "with a clock that is held down", "if it is locked: sudo nvidia-smi -rgc"
    commands = ["nvidia-smi -q -d CLOCK,PERFORMANCE"]
    return finding("matmul-low", "warning", evidence, [label], price, commands, short, f"{clock} under load", do)


def _cause(result: Matmul, began: float, hot: MatmulPhase) -> str:
    """What held the clock in the hot part of a load, by the driver: power, slowed, neither; "" if it says nothing."""
    sensors, bits = result.telemetry, [its.throttle_bits for its in _series(result)]
    if isinstance(sensors, Absent) or not bits or isinstance(bits[0], Absent):
        return ""
    start, end = began + hot.from_seconds, began + hot.to_seconds
    readings = zip(sensors.at_seconds, bits[0], strict=True)
    flags = [it for at, it in readings if start <= at <= end and not isinstance(it, Absent)]
    if not flags:
        return ""
    if sum(bool(it & SLOWED) for it in flags) >= HELD_SHARE * len(flags):
        return "slowed"
    return "power" if sum(bool(it & POWER_CAP) for it in flags) >= MOST * len(flags) else "neither"


def _series(result: Matmul) -> tuple[SensorSeries, ...]:
    return () if isinstance(result.telemetry, Absent) else of_device(result.telemetry, result.device).series


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
