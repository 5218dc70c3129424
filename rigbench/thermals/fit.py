"""Fits T(t) = T∞ − (T∞ − T₀)·e^(−t/τ) to a load's temperature, and tells whether the load has settled.

For a fixed τ the curve is linear in T∞ and T₀, so that τ is the only one to search (variable projection: Golub and
Pereyra 1973). Neighbouring readings resemble each other, so blocks of them are fitted, whitened by the correlation of
neighbours. Intervals are profile likelihoods (Seber and Wild, Nonlinear Regression, §5.9.3), since those of short
records are lopsided: all values of a parameter with which the squared error can come within s²·t² of the least. What
rounding to whole degrees hides behind too little noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.thermals.record import HeatFit, Settled

Array = np.ndarray[Any, np.dtype[np.float64]]

FEWEST_READINGS, MOST_BLOCKS = 24, 120
PARAMETERS, RICH_PARAMETERS = 3, 5
TAUS, ZOOMS = 24, 6  # values of tau looked at together, over narrower and narrower ranges
BESIDE_TAUS = 96  # of the exponential beside a line: 4 % from one to the next
SHORTEST_SHARE, LONGEST_SHARE = 1 / 200, 30.0  # of the record, the taus that are looked at
STARTS = (0.0, 0.125, 0.25, 0.375, 0.5)  # of the record: where the fit may begin once the die is through
TREND_P, FLAT_P = 0.01, 0.001
NOISE_SECONDS = 5.0  # a sensor forgets its own noise in less; what stays longer is the temperature's
HIDDEN_STEPS = 0.95  # of a sensor without noise: a drift of as much shows a step in 95 of 100 records
LEAST_STEPS = 1.5  # of the sensor: a smaller rise tells no time constant
METHOD = "profile likelihood, blocks whitened by AR(1)"

LEAST_SECONDS, AHEAD_SECONDS = 60.0, 300.0
TIME_CONSTANTS = 3.0
WITHIN_CELSIUS, WITHIN_SHARE, TOO_WILD_SHARE = 1.0, 0.02, 0.5


class Blocks(NamedTuple):
    """Means of contiguous readings."""

    at: Array  # moments from the first reading
    values: Array  # less `level`
    level: float
    readings_each: float
    spacing: float
    correlation: float = 0.0  # of neighbours' noise

    def whitened(self, rows: Array) -> Array:
        """Rows of block values with the correlation of neighbours removed, the first one kept (Prais and Winsten)."""
        out = np.empty_like(rows)
        out[..., 0] = rows[..., 0] * math.sqrt(1 - self.correlation**2)
        out[..., 1:] = rows[..., 1:] - self.correlation * rows[..., :-1]
        return out

    def decay(self, taus: Array) -> Array:
        """[tau, block]: the mean of e^(−t/τ) over the readings of each block, evenly spaced as they are."""
        x, m = self.spacing / (2 * taus), self.readings_each
        within = np.sinh(m * x) / (m * np.sinh(x))
        return np.asarray(np.exp(-self.at[None, :] / taus[:, None]) * within[:, None])


class Profile(NamedTuple):
    """For each tau: the least squared error, T∞ and the amplitude, and unit variances of T∞ and T₀."""

    taus: Array
    errors: Array
    steady: Array
    amplitude: Array
    variance_steady: Array
    variance_start: Array
    best: int

    @property
    def tau(self) -> float:
        return float(self.taus[self.best])


def best_fit(at_seconds: Sequence[float], celsius: Sequence[float]) -> HeatFit | Absent:
    """The fit that begins as early as its residuals show no trend; the whole record's where they always do.

    A die follows its power within seconds and its case within minutes: the first part of a record may be a faster
    exponential, which a later part has forgotten.
    """
    n = len(at_seconds)
    whole = fit(at_seconds, celsius, at_seconds[0] if n else 0.0)
    for share in STARTS:
        first = int(share * n)
        heat = fit(at_seconds[first:], celsius[first:], at_seconds[first]) if first else whole
        if isinstance(heat, HeatFit) and not heat.trend:
            return heat
    return whole


def fit(at_seconds: Sequence[float], celsius: Sequence[float], from_seconds: float = 0.0) -> HeatFit | Absent:
    """One exponential through readings in degrees at rising moments; t = 0 is `from_seconds`.

    A parameter that the record does not pin down from both sides is Absent, with what it does tell.
    """
    n = len(at_seconds)
    if n < FEWEST_READINGS:
        return Absent(f"{n} reading{' is' if n == 1 else 's are'} too few for a fit ({FEWEST_READINGS} are needed)")
    at, readings = np.asarray(at_seconds, dtype=float) - from_seconds, np.asarray(celsius, dtype=float)
    span = float(at[-1] - at[0])
    if span <= 0:
        return Absent("all readings are of one moment")
    blocks, without_memory = _correlated(at, readings)
    count, degrees = len(blocks.at), len(blocks.at) - PARAMETERS
    steps = np.diff(np.unique(readings))  # where all readings are the same: a degree if they are whole, else a tenth
    resolution = float(steps.min()) if len(steps) else 1.0 if float(readings[0]).is_integer() else 0.1
    floor = (resolution / 1000) ** 2 * count  # readings without any noise have no error to divide by
    room = _room(degrees)
    profile, error = _zoomed(blocks, span, room, floor)
    facts: dict[str, Any] = {
        "from_seconds": from_seconds,
        "to_seconds": from_seconds + float(at[-1]),
        "residual_celsius": math.sqrt(error / count),
        "resolution_celsius": resolution,
    }
    flat = _flat(blocks, error, readings, resolution)
    if flat is not None:
        why = Absent("the temperature did not move more than its noise")
        return HeatFit(steady_celsius=flat, tau_seconds=why, start_celsius=why, trend=False, **facts)
    bias, hidden = _hidden_by_rounding(blocks, profile, readings, resolution)
    # What is left is a trend if a second exponential takes it away, or if it is more than rounding and stays too long
    # to be noise, as of a card held at its target.
    components, residuals = _rich_model(blocks, profile.tau)
    rich = float(residuals @ residuals) + floor + count * bias**2 / 2
    plain = rich + float(np.sum(components[PARAMETERS:] ** 2))
    stays = math.exp(-blocks.readings_each * blocks.spacing / NOISE_SECONDS) + 0.1
    no_noise = math.sqrt(without_memory / count) > resolution / 2 and blocks.correlation > stays
    facts["trend"] = no_noise or _f_tail_two(plain, rich, count - RICH_PARAMETERS) < TREND_P
    allowed = error * (1 + room) - floor
    steady, tau, start = _estimates(blocks, profile, allowed, hidden)
    rise = abs(steady.value - start.value)
    shortest, longest = _profile(blocks, span * np.array([SHORTEST_SHARE, LONGEST_SHARE])).errors <= allowed
    if longest:
        least = f"it settles at {steady.low:.1f} °C at least, time constant at least {tau.low:.0f} s"
        why = Absent(f"the curve has not bent enough in {span:.0f} s: {least}")
        return HeatFit(steady_celsius=why, tau_seconds=why, start_celsius=start, **facts)
    if rise < LEAST_STEPS * resolution:
        why = Absent(f"it moved by {rise:.1f} °C only, hardly a step of the sensor")
        return HeatFit(steady_celsius=steady, tau_seconds=why, start_celsius=why, **facts)
    if shortest:
        why = Absent(f"it rose faster than readings {blocks.spacing:.2g} s apart can show")
        return HeatFit(steady_celsius=steady, tau_seconds=why, start_celsius=why, **facts)
    return HeatFit(steady_celsius=steady, tau_seconds=tau, start_celsius=start, **facts)


def _correlated(at: Array, readings: Array) -> tuple[Blocks, float]:
    """Blocks that know the correlation of neighbours, and the squared error of a fit that did not."""
    blocks = _blocks(at, readings)
    first, error = _zoomed(blocks, float(at[-1] - at[0]), room=0.0, zooms=3)
    return blocks._replace(correlation=_correlation(blocks, first.tau)), error


def _room(degrees: int) -> float:
    """By what share the squared error may be above the least within a 90 % interval."""
    return stats.student_t_quantile((1 + stats.LEVEL) / 2, degrees) ** 2 / degrees


def _blocks(at: Array, readings: Array) -> Blocks:
    n = len(at)
    count = min(MOST_BLOCKS, n)
    edges = np.arange(count) * n // count
    sizes = np.diff(np.append(edges, n))
    level = float(readings.mean())
    return Blocks(
        at=np.add.reduceat(at, edges) / sizes,
        values=np.add.reduceat(readings - level, edges) / sizes,
        level=level,
        readings_each=n / count,
        spacing=float(at[-1] - at[0]) / (n - 1),
    )


def _zoomed(blocks: Blocks, span: float, room: float, floor: float = 0.0, zooms: int = ZOOMS) -> tuple[Profile, float]:
    """The profile over the taus whose error is within `room` of the least, and that error.

    Each look is at the taus between the neighbours of what the last one left. With no room it closes in on the best.
    """
    low, high = SHORTEST_SHARE * span, LONGEST_SHARE * span
    for _ in range(zooms):
        profile = _profile(blocks, np.exp(np.linspace(math.log(low), math.log(high), TAUS)))
        error = float(profile.errors[profile.best]) + floor
        inside = np.flatnonzero(profile.errors + floor <= error * (1 + room))
        first, last = max(0, int(inside[0]) - 1), min(TAUS - 1, int(inside[-1]) + 1)
        if last - first > TAUS // 2:
            break
        low, high = float(profile.taus[first]), float(profile.taus[last])
    return profile, error


def _profile(blocks: Blocks, taus: Array) -> Profile:
    """Two-column least squares for every tau at once, from the sums of products."""
    ones, values = blocks.whitened(np.ones_like(blocks.at)), blocks.whitened(blocks.values)
    decay = blocks.whitened(blocks.decay(taus))
    oo, ov, vv = ones @ ones, ones @ values, values @ values
    od, dd, dv = decay @ ones, np.einsum("ij,ij->i", decay, decay), decay @ values
    determinant = oo * dd - od**2
    steady = (dd * ov - od * dv) / determinant
    amplitude = (oo * dv - od * ov) / determinant
    errors = np.maximum(vv - steady * ov - amplitude * dv, 0.0)
    return Profile(
        taus=taus,
        errors=errors,
        steady=steady,
        amplitude=amplitude,
        variance_steady=dd / determinant,
        variance_start=(oo + dd - 2 * od) / determinant,
        best=int(np.argmin(errors)),
    )


def _rich_model(blocks: Blocks, tau: float) -> tuple[Array, Array]:
    """The values along the curve, its derivative by τ, and a slower and a faster exponential; and what these leave."""
    decay = blocks.decay(np.array([tau, 3 * tau, tau / 3]))
    columns = np.vstack([np.ones_like(blocks.at), decay[0], blocks.at / tau * decay[0], decay[1], decay[2]])
    basis, values = np.linalg.qr(blocks.whitened(columns).T)[0], blocks.whitened(blocks.values)
    components = basis.T @ values
    return components, values - basis @ components


def _correlation(blocks: Blocks, tau: float) -> float:
    """Of neighbouring blocks' noise. Taken from the richer model's residuals, which no second exponential is left in.

    A fitted curve takes low frequencies out of the residuals, which lowers their correlation by about (p·(1+ρ) + 2ρ)/n
    (Kendall 1954 for p = 1); that is put back.
    """
    _, residuals = _rich_model(blocks, tau)
    n, total = len(residuals), float(residuals @ residuals)
    if total <= 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / total
    corrected = (raw + RICH_PARAMETERS / n) / (1 - (RICH_PARAMETERS + 2) / n)
    return min(0.95, max(-0.3, corrected))


def _flat(blocks: Blocks, error: float, readings: Array, resolution: float) -> Estimate | None:
    """The mean, where no rise can be told from noise; None where one can."""
    n, ones, values = len(blocks.at), blocks.whitened(np.ones_like(blocks.at)), blocks.whitened(blocks.values)
    weight = float(ones @ ones)
    mean = float(ones @ values) / weight
    squares = float(np.sum((values - mean * ones) ** 2))
    if _f_tail_two(squares, error, n - PARAMETERS) <= FLAT_P:
        return None
    hidden = stats.NORMAL_90 * rounding_bias(float(np.var(readings)), resolution) / math.sqrt(2)
    half = stats.student_t_quantile((1 + stats.LEVEL) / 2, n - 1) * math.sqrt(squares / (n - 1) / weight)
    half, middle = math.hypot(half, hidden), blocks.level + mean
    return Estimate(middle, middle - half, middle + half, stats.LEVEL, METHOD, n)


def _f_tail_two(restricted: float, full: float, degrees: int) -> float:
    """P(F > f) with 2 and `degrees` degrees of freedom, which has a closed form: (1 + 2f/ν)^(−ν/2)."""
    if full <= 0:
        return 1.0 if restricted <= 0 else 0.0
    return float(max(1.0, restricted / full) ** (-degrees / 2))


def _estimates(blocks: Blocks, profile: Profile, allowed: float, hidden: Array) -> tuple[Estimate, Estimate, Estimate]:
    """(T∞, tau, T₀), each over all taus that are still possible."""
    room = np.sqrt(np.maximum(allowed - profile.errors, 0.0))
    possible = profile.errors <= allowed

    def linear(values: Array, variances: Array) -> tuple[float, float, float]:
        half = room * np.sqrt(variances)
        low, high = (values - half)[possible].min(), (values + half)[possible].max()
        return float(values[profile.best]), float(low), float(high)

    def crossing(step: int) -> float:
        """The tau at which the error rises above what is allowed, between two of the grid."""
        place = profile.best
        while 0 <= place + step < TAUS and profile.errors[place + step] <= allowed:
            place += step
        if not 0 <= place + step < TAUS:
            return float(profile.taus[place])
        inside, outside = float(profile.errors[place]), float(profile.errors[place + step])
        share = (allowed - inside) / (outside - inside)
        return float(profile.taus[place] * (profile.taus[place + step] / profile.taus[place]) ** share)

    spans = (
        linear(profile.steady, profile.variance_steady),
        (profile.tau, crossing(-1), crossing(+1)),
        linear(profile.steady + profile.amplitude, profile.variance_start),
    )
    estimates = []
    for (value, low, high), unseen, offset in zip(spans, hidden, (blocks.level, 0.0, blocks.level), strict=True):
        low, high = value - math.hypot(value - low, unseen), value + math.hypot(high - value, unseen)
        estimates.append(Estimate(value, low, high, stats.LEVEL, METHOD, len(blocks.at)) + offset)
    return estimates[0], estimates[1], estimates[2]


def _hidden_by_rounding(blocks: Blocks, profile: Profile, readings: Array, resolution: float) -> tuple[float, Array]:
    """What rounding leaves in a mean on the plateau, where no slope averages it out, and what it may hide there.

    The plateau is where less than half a step is to go. The second are half widths in (T∞, tau, T₀).
    """
    decay, amplitude = blocks.decay(np.array([profile.tau]))[0], float(profile.amplitude[profile.best])
    plateau = np.abs(amplitude * decay) < resolution / 2
    if not plateau.any():
        return 0.0, np.zeros(PARAMETERS)
    on_plateau = readings[int(np.argmax(plateau) * blocks.readings_each) :]
    bias = rounding_bias(float(np.var(on_plateau)), resolution)
    jacobian = np.vstack([np.ones_like(decay), decay, amplitude * blocks.at / profile.tau**2 * decay]).T
    steady, amplitude, tau = np.abs(np.linalg.lstsq(jacobian, plateau * bias / math.sqrt(2), rcond=None)[0])
    return bias, stats.NORMAL_90 * np.array([steady, tau, steady + amplitude])


def rounding_bias(variance: float, resolution: float) -> float:
    """The largest error of a mean of rounded readings of a constant, by the noise that they show.

    Noise of deviation σ leaves (q/π)·e^(−2π²σ²/q²) of a step q (Gray and Stockham 1993; Sheppard's correction gives σ²
    = variance − q²/12).
    """
    noise = max(0.0, variance - resolution**2 / 12)
    return resolution / math.pi * math.exp(-2 * math.pi**2 * noise / resolution**2)


def settled(at_seconds: Sequence[float], celsius: Sequence[float], heat: HeatFit | Absent) -> Settled:
    """Whether a temperature has stopped changing, of readings from the beginning of a load and their fit.

    A curve that has seen only its fast part looks settled long before its slow one is: so the curve must be one
    exponential, seen for several of its time constants, and what may still come, a drift beside it included, must not
    be more than is allowed, until as long again has passed, and for five minutes at the least.
    """
    if isinstance(heat, Absent):
        return not_settled(heat.reason)
    steady, tau = heat.steady_celsius, heat.tau_seconds
    if isinstance(steady, Absent):
        return not_settled(steady.reason)
    if heat.to_seconds < LEAST_SECONDS:
        return not_settled(f"{heat.to_seconds:.0f} s of load are too few; it takes {LEAST_SECONDS:.0f} s")
    if heat.trend:
        return not_settled("the curve is no single exponential yet (the case warms slower than the die)")
    window = heat.to_seconds - heat.from_seconds
    if isinstance(tau, Estimate) and window < TIME_CONSTANTS * tau.high:
        constants = f"{window:.0f} s are {window / tau.value:.1f} time constants"
        return not_settled(f"{constants}; {TIME_CONSTANTS:g} are needed")
    ahead = max(AHEAD_SECONDS, heat.to_seconds)
    moments, values = np.asarray(at_seconds, dtype=float), np.asarray(celsius, dtype=float)
    moments, values = moments[moments >= heat.from_seconds], values[moments >= heat.from_seconds]
    if len(moments) < FEWEST_READINGS:
        return not_settled(f"{len(moments)} readings are too few to tell a drift ({FEWEST_READINGS} are needed)")
    left = _still_to_come(moments, values, ahead, heat.resolution_celsius)
    change = f"{left:.1f} °C in the next {units.format_seconds(ahead)}"
    return _within("temperature", left, WITHIN_CELSIUS, change)


def _still_to_come(at: Array, readings: Array, ahead: float, resolution: float) -> float:
    """By how much a temperature may change in so many seconds: the upper end of a 90 % interval.

    Heat flows through parts, each of its own time constant, whose exponentials all bend one way: what is slower than
    the record can tell comes no faster than a line, and what it can tell is an exponential beside that.
    """
    at = at - at[0]
    span = float(at[-1])
    blocks, _ = _correlated(at, readings)
    count, values = len(blocks.at), blocks.whitened(blocks.values)
    taus = np.geomspace(SHORTEST_SHARE * span, span / TIME_CONSTANTS, BESIDE_TAUS)
    fits = []
    for tau, decay in zip(taus, blocks.decay(taus), strict=True):
        basis, triangle = np.linalg.qr(blocks.whitened(np.vstack([np.ones(count), blocks.at, decay])).T)
        along = basis.T @ values
        to_come = np.array([0.0, ahead, math.exp(-(span + ahead) / tau) - math.exp(-span / tau)])
        weights = np.linalg.solve(triangle.T, to_come)
        error = max(0.0, float(values @ values - along @ along))
        fits.append((error, float(weights @ along), float(weights @ weights), *np.linalg.solve(triangle, along)))
    errors, changes, variances, *curves = np.array(fits).T
    floor = (resolution / 1000) ** 2 * count
    best = int(np.argmin(errors))
    allowed = (float(errors[best]) + floor) * (1 + _room(count - PARAMETERS - 1)) - floor
    reach = np.abs(changes) + np.sqrt(np.maximum(allowed - errors, 0.0) * variances)
    # Only noise lets a mean of rounded readings see less than a step: without it, all but a step may hide.
    level, slope, amplitude = (float(curve[best]) for curve in curves)
    noise = float(np.var(readings - level - slope * at - amplitude * np.exp(-at / taus[best])))
    hidden = HIDDEN_STEPS * math.pi * rounding_bias(noise, resolution) / span * ahead
    return math.hypot(float(reach[errors <= allowed].max()), hidden)


def throughput_settled(elapsed_seconds: Sequence[float], rates: Sequence[float]) -> Settled:
    """Whether a rate per window of work has stopped changing: where no temperature can be read."""
    elapsed, half = elapsed_seconds[-1] if elapsed_seconds else 0.0, len(rates) // 2
    if elapsed < LEAST_SECONDS or half < 2 * stats.BATCHES:
        why = f"{units.format_seconds(elapsed)} of load are too few; it takes {LEAST_SECONDS:.0f} s"
        return not_settled(why, "throughput")
    drift = stats.slope(elapsed_seconds[half:], rates[half:])
    left = max(abs(drift.low), abs(drift.high)) * elapsed / (math.fsum(rates[half:]) / len(rates[half:]))
    if left >= TOO_WILD_SHARE:
        why = "it swings too much: what else runs here?"
        return Settled(settled=False, what="throughput", because=why, left=left)
    change = f"{units.format_share(left)} in as long again ({units.format_seconds(elapsed)})"
    return _within("throughput", left, WITHIN_SHARE, change)


def _within(what: Literal["temperature", "throughput"], left: float, most: float, change: str) -> Settled:
    because = f"it may change by at most {change}" if left <= most else f"it may still change by up to {change}"
    return Settled(settled=left <= most, what=what, because=because, left=left)


def not_settled(why: str, what: Literal["temperature", "throughput", "nothing"] = "temperature") -> Settled:
    return Settled(settled=False, what=what, because=why, left=Absent(why))
