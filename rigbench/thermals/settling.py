"""Has a soak stopped changing, and what may it still change by? Only what the readings bear out.

A curve that has seen only its fast part looks settled long before its slow one is: so the curve must be one
exponential, seen for several of its time constants, and what the fit leaves over must not drift by more than is
allowed, until as long again has passed, and for five minutes at the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rigbench.core import stats as trends
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.thermals import fit as heatfit
from rigbench.thermals.record import HeatFit, Settled

LEAST_SECONDS = 60.0
TIME_CONSTANTS = 3.0
WITHIN_CELSIUS, WITHIN_SHARE, TOO_WILD_SHARE = 1.0, 0.02, 0.5
AHEAD_SECONDS = 300.0


def temperature(at_seconds: Sequence[float], celsius: Sequence[float], fit: HeatFit | Absent) -> Settled:
    """Of readings from the beginning of a load, moments in seconds since then, and their fit."""
    if isinstance(fit, Absent):
        return _not("temperature", fit.reason)
    if isinstance(fit.steady_celsius, Absent):
        return _not("temperature", fit.steady_celsius.reason)
    if fit.to_seconds < LEAST_SECONDS:
        return _not(
            "temperature", f"{fit.to_seconds:.0f} s of load are too few to tell; it takes {LEAST_SECONDS:.0f} s"
        )
    if fit.trend:
        why = "the curve is no single exponential yet (the case warms slower than the die)"
        return _not("temperature", why)
    to_go, steady = 0.0, fit.steady_celsius
    if isinstance(fit.tau_seconds, Estimate):
        window = fit.to_seconds - fit.from_seconds
        if window < TIME_CONSTANTS * fit.tau_seconds.high:
            why = (
                f"{window:.0f} s are {window / fit.tau_seconds.value:.1f} time constants; {TIME_CONSTANTS:g} are needed"
            )
            return _not("temperature", why)
        amplitude = steady.value - (heatfit.curve(fit, fit.from_seconds) or 0.0)
        to_go = abs(amplitude) * math.exp(-window / fit.tau_seconds.high)
    ahead = max(AHEAD_SECONDS, fit.to_seconds)
    drift, hidden = _drift_beyond(at_seconds, celsius, fit)
    left = to_go + math.hypot(steady.high - steady.value, ahead * drift, AHEAD_SECONDS * hidden)
    said = f"{left:.1f} °C in the next {units.format_seconds(ahead)}"
    if left <= WITHIN_CELSIUS:
        return Settled(settled=True, what="temperature", because=f"it may change by at most {said}", left=left)
    return Settled(settled=False, what="temperature", because=f"it may still change by {said}", left=left)


def throughput(ended_at_seconds: Sequence[float], rates: Sequence[float]) -> Settled:
    """Of a rate per window of work, moments in seconds since the load began: where no temperature can be read."""
    elapsed = ended_at_seconds[-1] if ended_at_seconds else 0.0
    half = len(rates) // 2
    if elapsed < LEAST_SECONDS or half < 2 * trends.BATCHES:
        why = f"{units.format_seconds(elapsed)} of load are too few to tell; it takes {LEAST_SECONDS:.0f} s"
        return _not("throughput", why)
    drift = trends.slope(ended_at_seconds[half:], rates[half:])
    mean = math.fsum(rates[half:]) / len(rates[half:])
    left = max(abs(drift.low), abs(drift.high)) * elapsed / mean
    said = f"{units.format_share(left)} in as long again ({units.format_seconds(elapsed)})"
    if left <= WITHIN_SHARE:
        return Settled(settled=True, what="throughput", because=f"it may change by at most {said}", left=left)
    why = (
        f"it may still change by {said}"
        if left < TOO_WILD_SHARE
        else "it swings too much to tell: what else runs here?"
    )
    return Settled(settled=False, what="throughput", because=why, left=left)


def _drift_beyond(at_seconds: Sequence[float], celsius: Sequence[float], fit: HeatFit) -> tuple[float, float]:
    """°C per second: how the later half of the readings leaves the fit, and what rounding could hide.

    Of a flat curve all readings are used. The first number is the upper end of its interval. A mean of rounded readings
    may be off by their bias at either end of the time: 1.64·√2·bias over its length.
    """
    flat = isinstance(fit.tau_seconds, Absent)
    from_half = fit.from_seconds if flat else (fit.from_seconds + fit.to_seconds) / 2
    later = [
        (at, value - (heatfit.curve(fit, at) or 0.0))
        for at, value in zip(at_seconds, celsius, strict=True)
        if at >= from_half
    ]
    moments, rest = [at for at, _ in later], [value for _, value in later]
    if len(rest) < trends.BATCHES:
        return math.inf, math.inf
    drift = trends.slope(moments, rest)
    level = math.fsum(rest) / len(rest)
    variance = math.fsum((value - level) ** 2 for value in rest) / len(rest)
    hidden = trends.NORMAL_90 * math.sqrt(2) * heatfit.rounding_bias(variance, fit.resolution_celsius)
    return max(abs(drift.low), abs(drift.high)), hidden / (moments[-1] - moments[0])


def _not(what: str, why: str) -> Settled:
    return Settled(settled=False, what=what, because=why, left=Absent(why))  # type: ignore[arg-type]
