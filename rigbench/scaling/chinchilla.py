"""Fits L(N, D) = E + A/N^a + B/D^b to losses, with a bootstrap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DELTA = 1e-3  # of the Huber loss on logarithms (Hoffmann 2022, §3.3)
PARAMETERS = 5  # e, a, b (logarithms of each part where N and D are at their middles), alpha, beta
EXPONENTS = np.linspace(0.05, 1.2, 10)  # of the starts: every pair of them, E, A and B by least squares
STARTS, STEPS, WARM_STEPS, SAMPLES = 24, 80, 40, 400
LEAST_SHARE = 0.02  # of a part of the loss in a start


class Fitted(NamedTuple):
    """The point, and a row a bootstrap sample; columns are the PARAMETERS, centred on `middle`."""

    point: Array  # (1, 5)
    samples: Array  # (SAMPLES, 5)
    middle: tuple[float, float]  # log N and log D that they are centred on
    residuals: Array  # log of the losses less those of the point
    deviation: float  # of the residuals, with the degrees of freedom taken off

    def losses(self, rows: Array, parameters: Array, tokens: Array) -> Array:
        """(rows, points)."""
        return np.exp(_log_loss(rows, np.log(parameters) - self.middle[0], np.log(tokens) - self.middle[1])[0])

    def constants(self, rows: Array) -> dict[str, Array]:
        """E, A, B, alpha and beta as the formula has them."""
        e, a, b, alpha, beta = rows.T
        n, d = self.middle
        return {"E": np.exp(e), "A": np.exp(a + alpha * n), "B": np.exp(b + beta * d), "alpha": alpha, "beta": beta}

    def optimum(self, rows: Array, flops: float) -> Array:
        """Parameters of least loss where 6·N·D = flops (Hoffmann 2022, eq. 4)."""
        _, a, b, alpha, beta = rows.T
        n, d = self.middle
        log_g = (np.log(alpha) + a + alpha * n - np.log(beta) - b - beta * d) / (alpha + beta)
        return np.asarray(np.exp(log_g + beta / (alpha + beta) * np.log(flops / 6)))


def fit(parameters: Array, tokens: Array, losses: Array, samples: int = SAMPLES) -> Fitted:
    """Huber's loss on logarithms, from many starts; more than five points of three sizes and token counts at least.

    The bootstrap is parametric: normal errors on the logarithms, of a deviation drawn anew for each sample from what
    the residuals leave open of it (as Student's t does), one warm start each. Resampled residuals cover too seldom
    (81 to 85 % at 90), since a fit that is nearly of least absolute values goes through five of the points.
    """
    n, d, y = np.log(parameters), np.log(tokens), np.log(losses)
    middle = float(n.mean()), float(d.mean())
    n, d = n - middle[0], d - middle[1]
    starts = _starts(n, d, losses)
    cost = _huber(_log_loss(starts, n, d)[0] - y)
    rows = _descend(starts[np.argsort(cost, kind="stable")[:STARTS]], n, d, y[None], STEPS)
    point = rows[[int(np.argmin(_huber(_log_loss(rows, n, d)[0] - y)))]]
    expected = _log_loss(point, n, d)[0]
    residuals = y - expected[0]
    left = len(y) - PARAMETERS
    deviation = float(np.sqrt((residuals**2).sum() / left))
    random = np.random.default_rng(0)
    spread = deviation * np.sqrt(left / random.chisquare(left, (samples, 1)))
    drawn = expected + spread * random.normal(size=(samples, len(y)))
    warm = _descend(np.repeat(point, samples, 0), n, d, drawn, WARM_STEPS)
    return Fitted(point, warm, middle, residuals, deviation)


def _log_loss(rows: Array, n: Array, d: Array) -> tuple[Array, Array]:
    """Logarithms of the losses (rows, points), and the share of each part in them (rows, points, 3)."""
    e, a, b, alpha, beta = (column[:, None] for column in rows.T)
    parts = np.stack([np.broadcast_to(e, (len(rows), len(n))), a - alpha * n, b - beta * d], -1)
    top = parts.max(-1, keepdims=True)
    above = np.exp(parts - top)
    whole = above.sum(-1, keepdims=True)
    return (top + np.log(whole))[..., 0], above / whole


def _huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    return np.asarray(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum(-1))


def _starts(n: Array, d: Array, losses: Array) -> Array:
    rows = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            parts = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], -1)
            solved = np.linalg.lstsq(parts / losses[:, None], np.ones_like(n), rcond=None)[0]
            rows.append([*np.log(np.maximum(solved, LEAST_SHARE)), alpha, beta])
    return np.array(rows)


def _descend(rows: Array, n: Array, d: Array, y: Array, steps: int) -> Array:
    """Levenberg and Marquardt's method on reweighted squares, of all rows at once; `y` is (rows or 1, points)."""
    damping = np.full(len(rows), 1e-2)
    expected, shares = _log_loss(rows, n, d)
    residuals = expected - y
    cost = _huber(residuals)
    for _ in range(steps):
        slopes = np.stack([*np.moveaxis(shares, -1, 0), -n * shares[..., 1], -d * shares[..., 2]], -1)
        weights = 1 / np.maximum(1, np.abs(residuals) / DELTA)
        gradient = np.einsum("rpi,rp->ri", slopes, weights * residuals)
        curvature = np.einsum("rpi,rpj->rij", slopes * weights[..., None], slopes)
        diagonal = np.einsum("rii->ri", curvature)
        damped = curvature + (damping[:, None] * diagonal + 1e-12)[..., None] * np.eye(PARAMETERS)
        tried = rows - np.clip(np.linalg.solve(damped, gradient[..., None])[..., 0], -2, 2)
        expected, its_shares = _log_loss(tried, n, d)
        its_residuals = expected - y
        its_cost = _huber(its_residuals)
        better = its_cost < cost
        rows = np.where(better[:, None], tried, rows)
        shares = np.where(better[:, None, None], its_shares, shares)
        residuals = np.where(better[:, None], its_residuals, residuals)
        cost = np.where(better, its_cost, cost)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    return rows
