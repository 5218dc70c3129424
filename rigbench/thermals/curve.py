"""How well does T∞ − (T∞ − T₀)·e^(−t/τ) go through readings, for every τ that could be?

For a fixed τ the curve is linear in T∞ and T₀, so that τ is the only one to search (variable projection: Golub and
Pereyra 1973). Neighbouring readings resemble each other, so blocks of them are fitted, whitened by the correlation of
neighbours (Prais and Winsten 1954).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

MOST_POINTS = 120
TAUS, ZOOMS = 24, 6  # values of tau looked at together, over narrower and narrower ranges
SHORTEST_SHARE, LONGEST_SHARE = 1 / 200, 30.0  # of the record, the taus that are looked at


class Blocks(NamedTuple):
    """Means of contiguous readings: moments from the first reading, values less `level`."""

    at: Array
    values: Array
    level: float
    readings_each: float
    spacing: float


class Profile(NamedTuple):
    """For each tau: the least squared error, T∞ and the amplitude, and their unit variances."""

    taus: Array
    errors: Array
    steady: Array
    amplitude: Array
    variance_steady: Array
    variance_start: Array


def zoomed(
    blocks: Blocks, span: float, correlation: float, room: float, floor: float = 0.0, zooms: int = ZOOMS
) -> tuple[float, Profile, float]:
    """The best tau, the profile over the taus whose error is within `room` of the least, and that error.

    Each look is at the taus between the neighbours of what the last one left. With no room it closes in on the best.
    """
    import numpy as np

    low, high = SHORTEST_SHARE * span, LONGEST_SHARE * span
    for _ in range(zooms):
        taus = np.exp(np.linspace(math.log(low), math.log(high), TAUS))
        profile = profile_of(blocks, taus, correlation)
        best = int(np.argmin(profile.errors))
        error = float(profile.errors[best]) + floor
        inside = np.flatnonzero(profile.errors + floor <= error * (1 + room))
        first, last = max(0, int(inside[0]) - 1), min(TAUS - 1, int(inside[-1]) + 1)
        if last - first > TAUS // 2:
            break
        low, high = float(taus[first]), float(taus[last])
    return float(taus[best]), profile, error


def blocks_of(at: Array, readings: Array) -> Blocks:
    import numpy as np

    n = len(at)
    count = min(MOST_POINTS, n)
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


def decay_of(blocks: Blocks, taus: Array) -> Array:
    """[tau, block]: the mean of e^(−t/τ) over the readings of each block, evenly spaced as they are."""
    import numpy as np

    x, m = blocks.spacing / (2 * taus), blocks.readings_each
    within = np.sinh(m * x) / (m * np.sinh(x))
    return np.asarray(np.exp(-blocks.at[None, :] / taus[:, None]) * within[:, None])


def whitened(rows: Array, correlation: float) -> Array:
    """Rows of block values with the correlation of neighbours removed, the first one kept (Prais and Winsten)."""
    import numpy as np

    out = np.empty_like(rows)
    out[..., 0] = rows[..., 0] * math.sqrt(1 - correlation**2)
    out[..., 1:] = rows[..., 1:] - correlation * rows[..., :-1]
    return out


def profile_of(blocks: Blocks, taus: Array, correlation: float) -> Profile:
    """Two-column least squares for every tau at once, from the sums of products."""
    import numpy as np

    ones = whitened(np.ones_like(blocks.at), correlation)
    decay = whitened(decay_of(blocks, taus), correlation)
    values = whitened(blocks.values, correlation)
    oo, ov, vv = ones @ ones, ones @ values, values @ values
    od, dd, dv = decay @ ones, np.einsum("ij,ij->i", decay, decay), decay @ values
    determinant = oo * dd - od**2
    steady = (dd * ov - od * dv) / determinant
    amplitude = (oo * dv - od * ov) / determinant
    return Profile(
        taus=taus,
        errors=np.maximum(vv - steady * ov - amplitude * dv, 0.0),
        steady=steady,
        amplitude=amplitude,
        variance_steady=dd / determinant,
        variance_start=(oo + dd - 2 * od) / determinant,
    )


def rich_columns(blocks: Blocks, tau: float) -> Array:
    """[column, block]: the curve, its derivative by tau, and a slower and a faster exponential beside it."""
    import numpy as np

    decay = decay_of(blocks, np.array([tau, 3 * tau, tau / 3]))
    return np.vstack([np.ones_like(blocks.at), decay[0], blocks.at / tau * decay[0], decay[1], decay[2]])


def explained(columns: Array, values: Array) -> Array:
    """The values' components along orthonormal columns that span the given ones, in their order."""
    import numpy as np

    return np.asarray(np.linalg.qr(columns.T)[0].T @ values)


def left_over(columns: Array, values: Array) -> Array:
    """What least squares by these columns leaves of the values."""
    import numpy as np

    basis = np.linalg.qr(columns.T)[0]
    return np.asarray(values - basis @ (basis.T @ values))
