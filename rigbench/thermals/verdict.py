"""Says what a soak did to a device, what held its clocks down, which device is hottest, and where watts stop paying.

Sensors, loads and limits in, records out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate, ratio
from rigbench.core.finding import WORST_FIRST, Severity
from rigbench.core.record import Absent, Column, Figure, SensorSeries, Telemetry
from rigbench.document import Run
from rigbench.machine.record import Gpu
from rigbench.matmul.record import MatmulPhase
from rigbench.thermals.record import (
    HeatCard,
    HeatFit,
    HeatLoad,
    PowerAdvice,
    PowerPoint,
    Settled,
    SteadyState,
    Thermals,
    Throttling,
)
from rigbench.work import telemetry
from rigbench.work.telemetry import IDLE, decode_throttle, frozen

COLD_SECONDS, HOT_SHARE = 3.0, 1 / 3  # of a load: its first seconds, its last third
LEAST_HOT_SECONDS = 10.0
FEWEST_WINDOWS = 3
POINTS = 60  # into which windows are gathered before throughput is held against temperature or clock
LEAST_RANGE_CELSIUS, LEAST_RANGE_CLOCK = 5.0, 0.01
SAFE_CELSIUS = 2.0  # below its own slowdown limit a card's load is ended
SENSORS = {
    "temperature_celsius": "temperature",
    "power_watts": "power",
    "sm_clock_hertz": "clock",
    "fan_share": "fan",
    "throttle_bits": "throttle reasons",
}
LIMITS = ("slowdown_celsius", "target_celsius", "power_limit_watts", "power_limit_min_watts")
# A GeForce under a tensor load is at its power cap as a rule, and slows down softly near its target temperature; what
# the hardware itself does is a fault of cooling or of power (nvml.h, nvmlClocksEventReason*).
SEVERITY: dict[int, Severity] = {0x8: "fault", 0x20: "warning", 0x40: "fault", 0x80: "fault"}
POWER_CAP, NEAR_ITS_LIMIT = 0x4, 0.9  # of the watts: near its limit a card under load is capped as a rule
FEWEST = 5  # ticks or windows on either side of a comparison
COMPARED_TICKS = 0.5  # of a window's ticks must have the bit for the window to count as held down
NOTHING_TO_COMPARE = Absent("there is nothing to compare with: it was so all the time, or hardly ever")
FEWEST_LABELS = 3
PLATEAU_SHARE = 0.03  # of the most work per joule: as near as two runs of one card come to each other
SWEEP = "set a limit (sudo nvidia-smi -pl WATTS), run `rigbench thermals --label WATTSW`, and so on"
POWER_CURE = "; a sweep needs a power sensor: a GPU's own, or powercap's energy_uj of the CPU, made readable by root"
NOT_A_GPU = Absent("not a GPU")
NOT_A_ROOM = Absent("of no room that was declared")
NO_LOAD = Absent("a replayed rig runs no load")
LOST = Absent("GPU is lost")  # as machine/readings.py words it


class Soaked(NamedTuple):
    """A device, its load, which `began` and `ended` bound on the monotonic clock, and its sensors meanwhile."""

    name: str
    device_name: str
    gpu: Gpu | None
    load: HeatLoad | Absent
    began: float
    ended: float
    ambient: Figure | Absent
    lost: str
    sensors: Telemetry
    series: SensorSeries

    def readings(self, column: Column) -> tuple[list[float], list[float]]:
        """(moments since the load began, readings) of the answered ticks under load."""
        pairs = [] if isinstance(column, Absent) else zip(self.sensors.at_seconds, column, strict=True)
        inside = [
            (at - self.began, value)
            for at, value in pairs
            if self.began <= at <= self.ended and not isinstance(value, Absent)
        ]
        return [at for at, _ in inside], [value for _, value in inside]

    def between(self, column: Column, start: float, end: float) -> list[float]:
        return [value for at, value in zip(*self.readings(column), strict=True) if start <= at <= end]

    def mean(self, column: Column, start: float, end: float) -> float | Absent:
        if isinstance(column, Absent):
            return column
        inside = self.between(column, start, end)
        return math.fsum(inside) / len(inside) if inside else Absent("no reading fell into it")


def card(soaked: Soaked) -> HeatCard:
    """Everything that one device's heat test says."""
    from rigbench.thermals import fit as heat_fit  # numpy, which no look at the command's help needs

    gpu, series = soaked.gpu, soaked.series
    at, celsius = soaked.readings(series.temperature_celsius)
    unread = series.temperature_celsius if isinstance(series.temperature_celsius, Absent) else None
    fit = unread or heat_fit.best_fit(at, celsius)
    heading = fit if isinstance(fit, Absent) else fit.steady_celsius
    rise: Estimate | Absent = soaked.ambient if isinstance(soaked.ambient, Absent) else heading
    if not isinstance(soaked.ambient, Absent) and not isinstance(heading, Absent):
        rise = heading + -soaked.ambient.value  # the room's own error is not in the interval
    cold, hot = _phase(soaked, cold=True), _phase(soaked, cold=False)
    cold_rate, hot_rate = (phase if isinstance(phase, Absent) else phase.flops_per_s for phase in (cold, hot))
    steady = _steady(soaked)
    columns = {name: getattr(series, field) for field, name in SENSORS.items()}
    if isinstance(series.power_watts, Absent):  # counted energy tells watts too
        columns["power"] = series.energy_joules
    return HeatCard(
        name=soaked.name,
        device_name=soaked.device_name,
        index=gpu.index if gpu else NOT_A_GPU,
        load=soaked.load,
        loaded_seconds=soaked.ended - soaked.began,
        fit=fit,
        settled=settled(soaked.load, at, celsius, fit),
        rise_over_ambient_celsius=rise,
        cold=cold,
        hot=hot,
        hot_over_cold=ratio(hot_rate, cold_rate),
        per_celsius=_slope(soaked, series.temperature_celsius, of_clock=False),
        per_clock=_slope(soaked, series.sm_clock_hertz, of_clock=True),
        throttling=throttling(soaked),
        steady=steady,
        flop_per_joule=ratio(hot_rate, steady if isinstance(steady, Absent) else steady.watts),
        peak_celsius=max(celsius) if celsius else (unread or Absent("no reading under load")),
        **{name: getattr(gpu, name, NOT_A_GPU) for name in LIMITS},
        missing={name: column.reason for name, column in columns.items() if isinstance(column, Absent)},
        notes=tuple(_notes(soaked, at, celsius)),
        faults=tuple(_faults(soaked)),
    )


def played(gpus: Sequence[Gpu], sensors: Telemetry, ambient: Figure | Absent = NOT_A_ROOM) -> tuple[HeatCard, ...]:
    """What cards did whose driver was recorded, or read, under a load of which nothing else is known."""
    cards = []
    for gpu in gpus:
        series = next((series for series in sensors.series if series.device == gpu.label), None)
        if series is None:
            continue
        column = series.temperature_celsius if isinstance(series.temperature_celsius, tuple) else ()
        answers = zip(sensors.at_seconds, column, strict=False)
        lost_at = next((at for at, answer in answers if answer == LOST), None)
        ended, lost = (sensors.at_seconds[-1], "") if lost_at is None else (lost_at, LOST.reason)
        name = gpu.name if isinstance(gpu.name, str) else "unknown GPU"
        cards.append(card(Soaked(gpu.label, name, gpu, NO_LOAD, 0.0, ended, ambient, lost, sensors, series)))
    return tuple(cards)


def settled(load: HeatLoad | Absent, at: Sequence[float], celsius: Sequence[float], fit: HeatFit | Absent) -> Settled:
    """By its temperature, else by its throughput."""
    from rigbench.thermals import fit as heat_fit

    if len(celsius):
        return heat_fit.settled(at, celsius, fit)
    if not isinstance(load, Absent):
        return heat_fit.throughput_settled(load.elapsed_seconds, load.flops_per_s)
    return heat_fit.not_settled("neither temperature nor throughput can be read", "nothing")


def _phase(soaked: Soaked, *, cold: bool) -> MatmulPhase | Absent:
    """The first seconds of the load, or its last third, with the sensors' means over it."""
    load, series = soaked.load, soaked.series
    if isinstance(load, Absent):
        return load
    at = load.elapsed_seconds
    elapsed = at[-1] if at else 0.0
    if elapsed < LEAST_HOT_SECONDS:
        return Absent(f"{elapsed:.1f} s of load are too short to separate cold from hot")
    chosen = [i for i, end in enumerate(at) if (end <= COLD_SECONDS if cold else end > (1 - HOT_SHARE) * elapsed)]
    if len(chosen) < FEWEST_WINDOWS:
        chosen = list(range(len(at)))[slice(FEWEST_WINDOWS) if cold else slice(-FEWEST_WINDOWS, None)]
    first, last = chosen[0], chosen[-1]
    start, end = at[first - 1] if first else 0.0, at[last]
    return MatmulPhase(
        from_seconds=start,
        to_seconds=end,
        flops_per_s=stats.rate_estimate(load.flop, [load.seconds[i] / load.products[i] for i in chosen]),
        temperature_celsius=soaked.mean(series.temperature_celsius, start, end),
        power_watts=soaked.mean(series.power_watts, start, end),
        sm_clock_hertz=soaked.mean(series.sm_clock_hertz, start, end),
    )


def _steady(soaked: Soaked) -> SteadyState | Absent:
    """Watts are joules over seconds; their interval is that of the power readings, where there are any."""
    series, end = soaked.series, soaked.ended - soaked.began
    if end < LEAST_HOT_SECONDS:
        return Absent(f"{end:.1f} s of load are too short for a steady state")
    start = (1 - HOT_SHARE) * end
    alone = msgspec.structs.replace(soaked.sensors, series=(series,))
    used = telemetry.energy(alone, soaked.began + start, soaked.began + end)
    watts: Estimate | Absent
    if isinstance(used, Absent):
        watts = used
    else:
        power = soaked.between(series.power_watts, start, end)
        spread = stats.mean(power) if len(power) >= stats.BATCHES else Estimate(0.0, 0.0, 0.0, 0.0, "", 1)
        half = (spread.high - spread.low) / 2
        method = f"energy over time ({used.method}), interval of the power readings' batch means"
        watts = Estimate(used.watts, max(used.watts - half, 1e-3), used.watts + half, spread.level, method, spread.n)
    return SteadyState(
        from_seconds=start,
        to_seconds=end,
        temperature_celsius=soaked.mean(series.temperature_celsius, start, end),
        memory_temperature_celsius=soaked.mean(series.memory_temperature_celsius, start, end),
        fan_share=soaked.mean(series.fan_share, start, end),
        sm_clock_hertz=soaked.mean(series.sm_clock_hertz, start, end),
        watts=watts,
        watts_method=used if isinstance(used, Absent) else used.method,
    )


def _slope(soaked: Soaked, column: Column, *, of_clock: bool) -> Estimate | Absent:
    """Relative change of throughput per degree, or per relative change of the clock, over pieces of the load."""
    load = soaked.load
    if isinstance(load, Absent) or isinstance(column, Absent):
        return load if isinstance(load, Absent) else column  # type: ignore[return-value]
    at, values = soaked.readings(column)
    ended = load.elapsed_seconds
    count = min(POINTS, len(ended) // FEWEST_WINDOWS)
    edges = [index * len(ended) // count for index in range(count + 1)] if count else []
    pairs = []
    for first, last in itertools.pairwise(edges):
        start, end = ended[first - 1] if first else 0.0, ended[last - 1]
        inside = [value for moment, value in zip(at, values, strict=True) if start <= moment <= end]
        if inside:
            rate = load.flop * sum(load.products[first:last]) / math.fsum(load.seconds[first:last])
            pairs.append((math.fsum(inside) / len(inside), rate))
    scale = (stats.median(values) if values else 0.0) if of_clock else 1.0
    ranged = [value for value, _ in pairs] if of_clock else values  # a clock may dip at a single tick
    moved = (max(ranged) - min(ranged)) / scale if ranged and scale else 0.0
    if moved < (LEAST_RANGE_CLOCK if of_clock else LEAST_RANGE_CELSIUS) or len(pairs) < stats.BATCHES:
        change = f"the clock moved by {moved:.1%}" if of_clock else f"the temperature moved by {moved:.0f} °C"
        return Absent(f"{change} only")
    level = stats.median([rate for _, rate in pairs])
    return stats.theil_sen([(value / scale, rate / level) for value, rate in pairs])


def throttling(soaked: Soaked) -> tuple[Throttling, ...]:
    """Every reason for held-down clocks but idleness, worst first."""
    series, at_seconds = soaked.series, soaked.sensors.at_seconds
    if isinstance(series.throttle_bits, Absent):
        return ()
    ticks = [
        (index, at, bits)
        for index, (at, bits) in enumerate(zip(at_seconds, series.throttle_bits, strict=True))
        if soaked.began <= at <= soaked.ended and not isinstance(bits, Absent)
    ]
    seen = 0
    for _, _, bits in ticks:
        seen |= bits
    reasons = []
    for bit in (1 << place for place in range(seen.bit_length()) if seen >> place & 1):
        (reason,) = decode_throttle(bit)
        if reason == IDLE:
            continue
        held = [index for index, _, bits in ticks if bits & bit]
        free = [index for index, _, bits in ticks if not bits & bit]
        watts = _median(series.power_watts, held)
        far = bit == POWER_CAP and _far_below(watts, soaked.gpu) and len(held) >= COMPARED_TICKS * len(ticks)
        reasons.append(
            Throttling(
                reason=reason,
                bit=bit,
                severity="warning" if far else SEVERITY.get(bit, "information"),
                watts=watts,
                share=len(held) / len(ticks),
                first_seconds=at_seconds[held[0]] - soaked.began,
                clock_ratio=_clock_ratio(series.sm_clock_hertz, held, free),
                throughput_ratio=_throughput_ratio(soaked.load, [(at, bool(bits & bit)) for _, at, bits in ticks]),
            )
        )
    return tuple(sorted(reasons, key=lambda it: (WORST_FIRST.index(it.severity), -it.share)))


def _median(column: Column, places: Sequence[int]) -> float | Absent:
    if isinstance(column, Absent):
        return column
    values = [column[place] for place in places if not isinstance(column[place], Absent)]
    return stats.median(values) if values else Absent("no reading fell into it")  # type: ignore[arg-type]


def _far_below(watts: float | Absent, gpu: Gpu | None) -> bool:
    """Whether a card draws so much less than its limit that its limit cannot be what holds it."""
    limit = gpu.power_limit_watts if gpu else NOT_A_GPU
    return not isinstance(watts, Absent) and not isinstance(limit, Absent) and watts < NEAR_ITS_LIMIT * limit


def _clock_ratio(clocks: Column, held: Sequence[int], free: Sequence[int]) -> float | Absent:
    if isinstance(clocks, Absent):
        return clocks
    sides = ([clocks[index] for index in side] for side in (held, free))
    with_bit, without = ([clock for clock in side if not isinstance(clock, Absent)] for side in sides)
    if min(len(with_bit), len(without)) < FEWEST:
        return NOTHING_TO_COMPARE
    usual = stats.median(without)
    return stats.median(with_bit) / usual if usual > 0 else Absent("the clock reads 0")


def _throughput_ratio(load: HeatLoad | Absent, ticks: Sequence[tuple[float, bool]]) -> float | Absent:
    """Of windows in which most ticks had the bit to those in which none had, total work over total time."""
    if isinstance(load, Absent):
        return load
    work, seconds, count, place = [0.0, 0.0], [0.0, 0.0], [0, 0], 0
    for ended_at, took, products in zip(load.ended_at_seconds, load.seconds, load.products, strict=True):
        inside: list[bool] = []
        while place < len(ticks) and ticks[place][0] <= ended_at:
            inside.append(ticks[place][1])
            place += 1
        if not inside or 0 < sum(inside) < COMPARED_TICKS * len(inside):
            continue
        side = int(any(inside))
        work[side] += products
        seconds[side] += took
        count[side] += 1
    if min(count) < FEWEST:
        return NOTHING_TO_COMPARE
    return (work[1] / seconds[1]) / (work[0] / seconds[0])


def _notes(soaked: Soaked, at: Sequence[float], celsius: Sequence[float]) -> list[str]:
    notes = frozen(soaked.sensors.at_seconds, soaked.series, soaked.began, soaked.ended)
    limit = soaked.gpu.slowdown_celsius if soaked.gpu else NOT_A_GPU
    if isinstance(soaked.load, Absent) and not isinstance(limit, Absent):
        hot = [(moment, value) for moment, value in zip(at, celsius, strict=True) if too_hot(value, limit)]
        if hot:
            notes.append(f"a live test would have been stopped after {hot[0][0]:.0f} s, at {hot[0][1]:.0f} °C")
    return notes


def too_hot(celsius: float | Absent, slowdown_celsius: float) -> str:
    """Why a load must end at this temperature; nothing where it need not."""
    if isinstance(celsius, Absent) or celsius < slowdown_celsius - SAFE_CELSIUS:
        return ""
    return f"it reached {celsius:g} °C, and slows down at {slowdown_celsius:g}"


def _faults(soaked: Soaked) -> list[str]:
    faults = []
    if soaked.lost:
        faults.append(
            f"{soaked.lost} after {soaked.ended - soaked.began:.0f} s of load; what it reported before is kept"
        )
    checks = () if isinstance(soaked.load, Absent) else soaked.load.checks
    if wrong := [check.largest_error_over_bound for check in checks if not check.correct]:
        count = f"{len(wrong)} of {len(checks)} checked products were wrong"
        faults.append(f"{count}, by up to {max(wrong):.2g} times what rounding allows")
    return faults


def hottest(cards: Sequence[HeatCard]) -> tuple[str, float] | tuple[Absent, Absent]:
    """The hottest of several by its steady temperature, else by its peak; and how far the coolest is below it."""
    heat = {}
    for it in cards:
        steady = it.steady if isinstance(it.steady, Absent) else it.steady.temperature_celsius
        heat[it.name] = it.peak_celsius if isinstance(steady, Absent) else steady
    known = {name: value for name, value in heat.items() if not isinstance(value, Absent)}
    if len(cards) < 2 or not known:
        why = Absent("one device" if len(cards) < 2 else "no temperature was read")
        return why, why
    first = max(known, key=lambda name: known[name])
    return first, known[first] - min(known.values())


def faults(result: Thermals) -> list[str]:
    """What the hardware did to the clocks, what was lost, what was computed wrong, why all had to end."""
    held = [(card.name, it) for card in result.cards for it in card.throttling if it.severity == "fault"]
    lines = [
        f"thermals {name}: slowed down by {it.reason} ({it.bit:#x}) {units.format_share(it.share)} of the time"
        for name, it in held
    ]
    lines += [f"thermals {card.name}: {line}" for card in result.cards for line in card.faults]
    return lines + [f"thermals: {result.ended_because}"] * (result.ended_by in ("safety stop", "sensors silent"))


def power(result: Thermals, run: Run, earlier: Sequence[Run]) -> PowerAdvice | Absent:
    """Where more watts stop paying, by this soak and earlier ones of this rig, newest first, at other power limits."""
    watts = [it.steady if isinstance(it.steady, Absent) else it.steady.watts for it in result.cards]
    missing = next((it for it in watts if isinstance(it, Absent)), None)
    if missing is not None:
        return Absent(f"no watts: {missing.reason}{'' if 'too short' in missing.reason else POWER_CURE}")
    if isinstance(result.label, Absent):
        return Absent(f"{result.label.reason}; runs at three or more power limits show where watts stop paying")
    points: dict[str, PowerPoint] = {}
    for one in (msgspec.structs.replace(run, thermals=result), *earlier):
        soak = one.thermals
        if not isinstance(soak, Thermals) or isinstance(soak.label, Absent) or soak.label in points:
            continue
        if _loads(soak) == _loads(result) and (point := _point(soak.label, one.id, soak.cards)):
            points[soak.label] = point
    return advice(list(points.values()))


def _loads(soak: Thermals) -> object:
    """What must be alike for two soaks to be compared."""
    loads = [it.load for it in soak.cards]
    return soak.method, [it if isinstance(it, Absent) else (it.device, it.dtype, it.m, it.n, it.k) for it in loads]


def _point(label: str, run_id: str, cards: Sequence[HeatCard]) -> PowerPoint | None:
    """All cards of a soak together; None where the watts or the throughput of one are not known."""
    watts, rates, limits = 0.0, [], []
    for it in cards:
        if isinstance(it.steady, Absent) or isinstance(it.steady.watts, Absent) or isinstance(it.hot, Absent):
            return None
        watts += it.steady.watts.value
        rates.append(it.hot.flops_per_s)
        if isinstance(it.index, int) and isinstance(it.power_limit_watts, float):
            limits.append((it.index, it.power_limit_watts))
    total = sum(rates[1:], rates[0])
    return PowerPoint(label=label, run_id=run_id, limits_watts=tuple(limits), watts=watts, flops_per_s=total)


def advice(points: Sequence[PowerPoint]) -> PowerAdvice | Absent:
    """The label with the most work per joule, those near it, and of these the fastest.

    A knee at either end of the sweep may lie beyond it, and the sentence says so.
    """
    if len(points) < FEWEST_LABELS:
        labelled = "1 labelled run" if len(points) == 1 else f"{len(points)} labelled runs"
        missing = f"{FEWEST_LABELS - len(points)} more needed to find where watts stop paying"
        return Absent(f"{labelled} of this rig with watts and throughput, {missing}: {SWEEP}")
    ordered = sorted(points, key=lambda point: point.watts)
    per_watt = {point.label: point.flops_per_s.value / point.watts for point in ordered}
    knee = max(ordered, key=lambda point: per_watt[point.label])
    near = [point for point in ordered if per_watt[point.label] >= (1 - PLATEAU_SHARE) * per_watt[knee.label]]
    advised, fastest = (max(some, key=lambda point: point.flops_per_s.value) for some in (near, ordered))
    plateau = f"within 3 % of it: {near[0].label} to {near[-1].label}"
    sentence = f"most work per joule at {knee.label}, {plateau if len(near) > 1 else 'no other within 3 % of it'}"
    if advised is not fastest:
        speed = units.format_share(advised.flops_per_s.value / fastest.flops_per_s.value)
        share = units.format_share(advised.watts / fastest.watts)
        sentence += f"; {advised.label} gives {speed} of the throughput of {fastest.label} for {share} of its watts"
    if knee in (ordered[0], ordered[-1]):
        end = "lowest" if knee is ordered[0] else "highest"
        sentence += f"; that is the {end} of the sweep, the best may lie beyond"
    differ = len({point.limits_watts for point in ordered}) == len(ordered)  # a label alone sets nothing
    return PowerAdvice(
        points=tuple(ordered),
        knee=knee.label,
        plateau=tuple(point.label for point in near),
        sentence=sentence,
        commands=tuple(f"sudo nvidia-smi -i {index} -pl {watts:g}" for index, watts in advised.limits_watts if differ),
    )
