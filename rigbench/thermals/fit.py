"""Where is a temperature heading, how fast, and how sure is that? T(t) = T∞ − (T∞ − T₀)·e^(−t/τ), fitted.

Intervals are profile likelihoods (Seber and Wild, Nonlinear Regression, §5.9.3), since those of short records are
lopsided: all values of a parameter with which the squared error can come within s²·t² of the least. What rounding to
whole degrees hides behind too little noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.thermals.curve import (
    LONGEST_SHARE,
    SHORTEST_SHARE,
    Blocks,
    Profile,
    blocks_of,
    decay_of,
    explained,
    left_over,
    rich_columns,
    whitened,
    zoomed,
)
from rigbench.thermals.record import HeatFit

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

FEWEST_READINGS = 24
PARAMETERS, RICH_PARAMETERS = 3, 5
TREND_P = 0.01
NOISE_SECONDS = 5.0  # a sensor forgets its own noise in less; what stays longer is the temperature's
FLAT_P = 0.001
LEAST_STEPS = 1.5  # of the sensor: a smaller rise tells no time constant
STARTS = (0.0, 0.125, 0.25, 0.375, 0.5)  # of the record: where the fit may begin once the die is through
METHOD = "profile likelihood, blocks whitened by AR(1)"


def best_fit(at_seconds: Sequence[float], celsius: Sequence[float]) -> HeatFit | Absent:
    """The fit that begins as early as its residuals show no trend; the whole record's where they always do.

    A die follows its power within seconds and its case within minutes: the first part of a record may be a faster
    exponential, which a later part has forgotten.
    """
    n = len(at_seconds)
    whole: HeatFit | Absent | None = None
    for share in STARTS:
        first = int(share * n)
        found = fit(at_seconds[first:], celsius[first:], at_seconds[first] if n else 0.0)
        if not isinstance(found, Absent) and not found.trend:
            return found
        whole = found if whole is None else whole
    assert whole is not None
    return whole


def fit(at_seconds: Sequence[float], celsius: Sequence[float], from_seconds: float = 0.0) -> HeatFit | Absent:
    """One exponential through readings in degrees at rising moments; t = 0 is `from_seconds`.

    A parameter that the record does not pin down from both sides is Absent, with what it does tell.
    """
    import numpy as np

    if len(at_seconds) < FEWEST_READINGS:
        return Absent(f"{len(at_seconds)} readings are too few for a fit ({FEWEST_READINGS} are needed)")
    at = np.asarray(at_seconds, dtype=float) - from_seconds
    readings = np.asarray(celsius, dtype=float)
    span = float(at[-1] - at[0])
    if span <= 0:
        return Absent("all readings are of one moment")
    blocks = blocks_of(at, readings)
    tau, _, plain_error = zoomed(blocks, span, 0.0, 0.0, zooms=3)
    correlation = _correlation(blocks, tau)
    degrees = len(blocks.at) - PARAMETERS
    resolution = _resolution(readings)
    floor = (resolution / 1000) ** 2 * len(blocks.at)  # readings without any noise have no error to divide by
    room = stats.student_t_quantile((1 + stats.LEVEL) / 2, degrees) ** 2 / degrees
    tau, fine, error = zoomed(blocks, span, correlation, room, floor)
    common: dict[str, Any] = {
        "from_seconds": from_seconds,
        "to_seconds": from_seconds + float(at[-1]),
        "points": len(blocks.at),
        "residual_celsius": math.sqrt(error / len(blocks.at)),
        "resolution_celsius": resolution,
        "correlation": correlation,
    }
    if _is_flat(blocks, correlation, error, degrees):
        return _flat(blocks, correlation, readings, resolution, common)
    unseen = len(blocks.at) * _bias_after(blocks, fine, readings, resolution)[0] ** 2 / 2
    trend = _misfit_p(blocks, tau, correlation, floor + unseen) < TREND_P
    trend = trend or _is_no_noise(math.sqrt(plain_error / len(blocks.at)), correlation, blocks, resolution)
    allowed = error * (1 + room) - floor
    unbounded = fine.errors[-1] <= allowed and fine.taus[-1] > 0.99 * LONGEST_SHARE * span
    too_fast = fine.errors[0] <= allowed and fine.taus[0] < 1.01 * SHORTEST_SHARE * span
    kept = _estimates(blocks, fine, allowed, _hidden_by_rounding(blocks, fine, readings, resolution))
    steady, taus_kept, start = kept
    if unbounded:
        least = f"T∞ is at least {steady.low:.1f} °C, tau at least {taus_kept.low:.0f} s"
        why = Absent(f"the curve has not bent enough in {span:.0f} s: {least}")
        return HeatFit(steady_celsius=why, tau_seconds=why, start_celsius=start, trend=trend, **common)
    if abs(steady.value - start.value) < LEAST_STEPS * resolution:
        why = Absent(f"it moved by {abs(steady.value - start.value):.1f} °C only, hardly a step of the sensor")
        return HeatFit(steady_celsius=steady, tau_seconds=why, start_celsius=why, trend=trend, **common)
    if too_fast:
        why = Absent(f"it rose faster than readings {blocks.spacing:.2g} s apart can tell")
        return HeatFit(steady_celsius=steady, tau_seconds=why, start_celsius=why, trend=trend, **common)
    return HeatFit(steady_celsius=steady, tau_seconds=taus_kept, start_celsius=start, trend=trend, **common)


def curve(found: HeatFit, at_seconds: float) -> float | None:
    """The fitted temperature at a moment; None where the fit has no whole curve."""
    if isinstance(found.steady_celsius, Absent):
        return None
    steady = found.steady_celsius.value
    if isinstance(found.tau_seconds, Absent) or isinstance(found.start_celsius, Absent):
        return steady
    decay = math.exp(-(at_seconds - found.from_seconds) / found.tau_seconds.value)
    return steady - (steady - found.start_celsius.value) * decay


def _correlation(blocks: Blocks, tau: float) -> float:
    """Of neighbouring blocks' noise. Taken from the richer model's residuals, which no second exponential is left in.

    A fitted curve takes low frequencies out of the residuals, which lowers their correlation by about (p·(1+ρ) + 2ρ)/n
    (Kendall 1954 for p = 1); that is put back.
    """
    residuals = left_over(rich_columns(blocks, tau), blocks.values)
    n, total = len(residuals), float(residuals @ residuals)
    if total <= 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / total
    corrected = (raw + RICH_PARAMETERS / n) / (1 - (RICH_PARAMETERS + 2) / n)
    return min(0.95, max(-0.3, corrected))


def _misfit_p(blocks: Blocks, tau: float, correlation: float, floor: float) -> float:
    """The chance of residuals this far from noise if one exponential were the truth: an F test of two more."""
    columns = whitened(rich_columns(blocks, tau), correlation)
    values = whitened(blocks.values, correlation)
    along = explained(columns, values) ** 2
    rich = max(0.0, float(values @ values - along.sum()))
    plain = rich + float(along[PARAMETERS:].sum())
    return _f_tail_two(plain + floor, rich + floor, len(values) - RICH_PARAMETERS)


def _is_no_noise(residual: float, correlation: float, blocks: Blocks, resolution: float) -> bool:
    """Whether what is left is more than rounding and stays too long to be noise, as of a card held at its target."""
    most = math.exp(-blocks.readings_each * blocks.spacing / NOISE_SECONDS) + 0.1
    return residual > resolution / 2 and correlation > most


def _is_flat(blocks: Blocks, correlation: float, error: float, degrees: int) -> bool:
    import numpy as np

    ones = whitened(np.ones((1, len(blocks.at))), correlation)
    flat = left_over(ones, whitened(blocks.values, correlation))
    return _f_tail_two(float(flat @ flat), error, degrees) > FLAT_P


def _f_tail_two(restricted: float, full: float, degrees: int) -> float:
    """P(F > f) with 2 and `degrees` degrees of freedom, which has a closed form: (1 + 2f/ν)^(−ν/2)."""
    if full <= 0:
        return 1.0 if restricted <= 0 else 0.0
    return float(max(1.0, restricted / full) ** (-degrees / 2))


def _flat(blocks: Blocks, correlation: float, readings: Array, resolution: float, common: dict[str, Any]) -> HeatFit:
    """No rise that could be told from noise: a mean with its interval, and no tau."""
    import numpy as np

    ones = whitened(np.ones((1, len(blocks.at))), correlation)
    rest = left_over(ones, whitened(blocks.values, correlation))
    degrees = len(blocks.at) - 1
    variance = float(rest @ rest) / degrees / float(ones[0] @ ones[0])
    mean = float((ones[0] @ whitened(blocks.values, correlation)) / (ones[0] @ ones[0]))
    hidden = stats.NORMAL_90 * rounding_bias(float(np.var(readings)), resolution) / math.sqrt(2)
    half = math.hypot(stats.student_t_quantile((1 + stats.LEVEL) / 2, degrees) * math.sqrt(variance), hidden)
    why = Absent("the temperature did not move more than its noise")
    steady = _estimate(blocks.level + mean, blocks.level + mean - half, blocks.level + mean + half, len(blocks.at))
    return HeatFit(steady_celsius=steady, tau_seconds=why, start_celsius=why, trend=False, **common)


def _estimates(blocks: Blocks, fine: Profile, allowed: float, hidden: Array) -> tuple[Estimate, Estimate, Estimate]:
    """(T∞, tau, T₀), each over all taus that are still possible."""
    import numpy as np

    n, level = len(blocks.at), blocks.level
    best = int(np.argmin(fine.errors))
    room = np.sqrt(np.maximum(allowed - fine.errors, 0.0))
    possible = fine.errors <= allowed
    possible[best] = True
    start = fine.steady + fine.amplitude
    spans = []
    for values, variances in ((fine.steady, fine.variance_steady), (start, fine.variance_start)):
        half = room * np.sqrt(variances)
        spans.append((values[best], (values - half)[possible].min(), (values + half)[possible].max()))
    tau = float(fine.taus[best])
    spans.insert(1, (tau, _crossing(fine, allowed, best, -1), _crossing(fine, allowed, best, +1)))
    found = []
    for (value, low, high), unseen, offset in zip(spans, hidden, (level, 0.0, level), strict=True):
        below, above = math.hypot(value - low, unseen), math.hypot(high - value, unseen)
        found.append(_estimate(offset + value, offset + value - below, offset + value + above, n))
    return found[0], found[1], found[2]


def _crossing(fine: Profile, allowed: float, best: int, step: int) -> float:
    """The tau at which the error rises above what is allowed, between two of the grid."""
    place = best
    while 0 <= place + step < len(fine.taus) and fine.errors[place + step] <= allowed:
        place += step
    following = place + step
    if not 0 <= following < len(fine.taus):
        return float(fine.taus[place])
    inside, outside = float(fine.errors[place]), float(fine.errors[following])
    share = (allowed - inside) / (outside - inside) if outside > inside else 0.0
    share = min(1.0, max(0.0, share))
    return float(fine.taus[place] * (fine.taus[following] / fine.taus[place]) ** share)


def _hidden_by_rounding(blocks: Blocks, fine: Profile, readings: Array, resolution: float) -> Array:
    """Half widths in (T∞, tau, T₀) of what rounding may hide on the plateau, where no slope averages it out."""
    import numpy as np

    bias, plateau = _bias_after(blocks, fine, readings, resolution)
    best = int(np.argmin(fine.errors))
    tau, amplitude = float(fine.taus[best]), float(fine.amplitude[best])
    decay = decay_of(blocks, np.array([tau]))[0]
    jacobian = np.vstack([np.ones_like(decay), decay, amplitude * blocks.at / tau**2 * decay]).T
    shift = np.abs(np.linalg.lstsq(jacobian, plateau * bias / math.sqrt(2), rcond=None)[0])
    steady, start, tau_shift = shift[0], shift[0] + shift[1], shift[2]
    return np.asarray(stats.NORMAL_90 * np.array([steady, tau_shift, start]))


def _bias_after(blocks: Blocks, fine: Profile, readings: Array, resolution: float) -> tuple[float, Array]:
    """What rounding leaves in a mean on the plateau, and which blocks are on it: less than half a step to go."""
    import numpy as np

    best = int(np.argmin(fine.errors))
    to_go = np.abs(fine.amplitude[best] * decay_of(blocks, fine.taus[best : best + 1])[0])
    plateau = to_go < resolution / 2
    if not plateau.any():
        return 0.0, plateau
    from_reading = int(np.argmax(plateau) * blocks.readings_each)
    return rounding_bias(float(np.var(readings[from_reading:])), resolution), plateau


def rounding_bias(variance: float, resolution: float) -> float:
    """The largest error of a mean of rounded readings of a constant, by the noise that they show.

    Noise of deviation σ leaves (q/π)·e^(−2π²σ²/q²) of a step q (Gray and Stockham 1993; Sheppard's correction gives σ²
    = variance − q²/12).
    """
    if resolution <= 0:
        return 0.0
    own = max(0.0, variance - resolution**2 / 12)
    return resolution / math.pi * math.exp(-2 * math.pi**2 * own / resolution**2)


def _resolution(readings: Array) -> float:
    """The smallest step between two readings; where all are the same, a degree if they are whole, else a tenth."""
    import numpy as np

    steps = np.diff(np.unique(readings))
    if len(steps):
        return float(steps.min())
    return 1.0 if float(readings[0]).is_integer() else 0.1


def _estimate(value: float, low: float, high: float, n: int) -> Estimate:
    return Estimate(value=float(value), low=float(low), high=float(high), level=stats.LEVEL, method=METHOD, n=n)
