"""Fits the posterior of predict/posterior.py on the published runs; `python -m tests.published_fit` stores it.

Constants have physical priors, levels are near 1, programs and cards are random effects; what is one source's own
(its level, its cards' and its place's) is integrated out, as correlated noise. Gauss-Newton on the logarithm, with
weights by Student's t on the part of a residual that is one row's own, so that rows that are simply otherwise count
less. All covariances are posterior.py's own functions: what is fitted is what predicts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import published
from published import Published

from rigbench.core import stats
from rigbench.predict import posterior
from rigbench.predict.posterior import Fitted
from rigbench.predict.terms import Constants

Floats = np.ndarray[Any, Any]

# Physical values, and how far (in logarithms) each may lie from them. A good copy reaches 80 % of a datasheet's
# bandwidth; eager code finds some of what it wrote last in the cache. No published row is of compiled code that waits
# for its host: a layer's kernels of both passes are taken to need a third of what eager code's do, give or take.
PRIOR = Constants(
    peak=0.75,
    fp8=0.9,
    feeding=0.25,
    feeding_later=0.15,
    attention=2.0,
    traffic=1.2,
    eager_traffic=1.2,
    optimizer=1.2,
    communication=0.4,
    scores=19.0,
    scores_wide=25.0,
    watts=1.8,
    watts_compute=1.0,
    kernels=1.0,
    layers=0.0015,
    layers_by_hand=0.0036,
    layers_compiled=0.001,
)
SPREAD = Constants(0.12, 0.24, 0.24, 0.3, 0.24, 0.15, 0.15, 0.15, 0.24, 0.24, 0.24, 0.18, 0.18, 0.3, 0.5, 0.25, 0.7)
LEVEL_SPREAD = np.array([0.10, 0.15, 0.15, 0.10, 0.15, 0.05, 0.08])
# Standard deviations of the logarithm. Those of a kind come on top of its sources': code that is eager, by hand or in
# fp8 is less alike from source to source than compiled or sharded code; theirs are priors (of_kinds).
SPREADS = {
    "program": 0.07,
    "source": 0.05,
    "card": 0.11,
    "source card": 0.09,
    "place": 0.13,
    "noise": 0.04,
    "source, eager": 0.12,
    "source, by hand": 0.12,
    "source, fp8": 0.25,
}
NOISY = 4.0  # times the variance, of rows in fp8 and those that do not say their micro-batch
FREEDOM, ROUNDS, SETTLED = 4.0, 25, 1e-3
KIND_FREEDOM = 4  # sources that the prior of a kind's spread counts for
WIDENING = 1.0


class Fit(NamedTuple):
    its: Fitted
    mean: Floats


def fit(data: Sequence[Published], spreads: dict[str, float] | None = None, start: Fit | None = None) -> Fit:
    """The posterior, linear around its mode."""
    spreads = spreads or SPREADS
    cases = [row.case for row in data]
    programs, cards = sorted({it.program for it in cases}), sorted({it.card for it in cases})
    many, levels = len(PRIOR), len(posterior.LEVELS)
    center = np.concatenate([np.log(PRIOR), np.zeros(levels + len(programs) + len(cards))])
    deviations = np.concatenate(
        [SPREAD, LEVEL_SPREAD, [spreads["program"]] * len(programs), [spreads["card"]] * len(cards)]
    )
    precision = np.diag(1 / deviations**2)
    linear = np.array(
        [
            [
                *posterior.flags(it),
                *(float(it.program == name) for name in programs),
                *(float(it.card == name) for name in cards),
            ]
            for it in cases
        ]
    )
    truth = np.log([row.seconds for row in data])
    blocks = source_covariances(cases, spreads)
    least = spreads["noise"] ** 2 * np.array([NOISY if it.noisy else 1.0 for it in cases])
    noise, theta = least.copy(), center.copy()
    if start is not None:
        theta[: many + levels] = start.mean[: many + levels]
    for turn in range(ROUNDS):
        value = Constants(*np.exp(theta[:many]).tolist())
        said = np.log([posterior.seconds(it, value) for it in cases]) + linear @ theta[many:]
        slopes = np.concatenate([[posterior.slopes(it, value) for it in cases], linear], axis=1)
        residual = truth - said
        inverse = [(own, np.linalg.inv(effects + np.diag(noise[own]))) for own, effects in blocks]
        pulled = _times(inverse, slopes).T
        covariance = np.linalg.inv(pulled @ slopes + precision)
        step = covariance @ (pulled @ residual - precision @ (theta - center))
        theta = theta + np.clip(step, -0.5, 0.5)
        own = noise * _times(inverse, residual - slopes @ step)
        noise = least * (FREEDOM + own**2 / least) / (FREEDOM + 1)
        if np.abs(step[: many + levels]).max() < SETTLED and turn > 4:
            break
    ends = np.cumsum([many, levels, len(programs), len(cards)])
    unnamed = slopes.copy()
    unnamed[:, ends[1] : ends[2]] = 0
    off = truth - said + slopes @ (theta - step - center)
    errors, variances = _left_out(slopes, unnamed, off, inverse, precision)
    variances += spreads["program"] ** 2 + spreads["noise"] ** 2
    for own_rows, effects in blocks:
        variances[own_rows] += np.diag(effects)
    parts = np.split(theta, ends[:-1])
    names = (Constants._fields, posterior.LEVELS, programs, cards)
    constants, kinds, of_programs, of_cards = (
        dict(zip(its, map(float, part), strict=True)) for its, part in zip(names, parts, strict=True)
    )
    lower = tuple(tuple(map(float, row[: i + 1])) for i, row in enumerate(covariance))
    its = Fitted(
        date="",
        rows=len(data),
        sources=len({it.source for it in cases}),
        constants=constants,
        levels=kinds,
        programs=of_programs,
        cards=of_cards,
        spreads=of_kinds(cases, errors, variances, spreads),
        covariance=lower,
        widening=WIDENING,
    )
    return Fit(its, theta)


def _left_out(
    slopes: Floats, unnamed: Floats, off: Floats, inverse: Sequence[tuple[Floats, Floats]], precision: Floats
) -> tuple[Floats, Floats]:
    """Errors of the rows of each source by the fit's other sources, and what these leave of their variance."""
    each = [(slopes[own].T @ block @ slopes[own], slopes[own].T @ block @ off[own]) for own, block in inverse]
    all_of_them = sum(its for its, _ in each), sum(its for _, its in each)
    errors, variances = np.zeros(len(off)), np.zeros(len(off))
    for (own, _), (told, pull) in zip(inverse, each, strict=True):
        covariance = np.linalg.inv(all_of_them[0] - told + precision)
        errors[own] = off[own] - unnamed[own] @ covariance @ (all_of_them[1] - pull)
        variances[own] = np.einsum("ij,jk,ik->i", unnamed[own], covariance, unnamed[own])
    return errors, variances


def of_kinds(
    cases: Sequence[posterior.Case], errors: Floats, variances: Floats, spreads: dict[str, float]
) -> dict[str, float]:
    """The spreads, those of kinds such that a normal interval is as wide as Student's t of so few sources."""
    found = dict(spreads)
    for name in (name for name in spreads if name.startswith("source, ")):
        by: dict[str, list[tuple[float, float]]] = {}
        for case, error, variance in zip(cases, errors, variances, strict=True):
            if name == f"source, {case.kind}":
                by.setdefault(case.source, []).append((error**2 / variance, variance))
        if not by:
            continue
        of_sources = np.array([np.mean(own, axis=0) for own in by.values()])
        freedom = KIND_FREEDOM + len(by)
        ratio = (KIND_FREEDOM + of_sources[:, 0].sum()) / freedom
        ratio *= (stats.student_t_quantile(0.95, freedom) / stats.NORMAL_90) ** 2
        more = (ratio - 1) * of_sources[:, 1].mean()
        found[name] = round(float(np.sqrt(max(0.0, spreads[name] ** 2 + more))), 4)
    return found


def source_covariances(cases: Sequence[posterior.Case], spreads: dict[str, float]) -> list[tuple[Floats, Floats]]:
    """For each source the places of its rows, and the covariance of what they share."""
    by_source: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        by_source.setdefault(case.source, []).append(index)
    found = []
    for members in by_source.values():
        shared = np.zeros((len(members), len(members)))
        for i, one in enumerate(members):
            for j, other in enumerate(members[: i + 1]):
                shared[i, j] = shared[j, i] = posterior.source_effects(cases[one], cases[other], spreads)
        found.append((np.array(members), shared))
    return found


def _times(blocks: Sequence[tuple[Floats, Floats]], right: Floats) -> Floats:
    """A matrix in blocks, times a vector or matrix."""
    found = np.zeros_like(right)
    for own, block in blocks:
        found[own] = block @ right[own]
    return found


def stored(its: Fitted, date: str) -> bytes:
    """As JSON, with as many digits as tell."""

    def short(value: float) -> float:
        return float(f"{value:.5g}")

    its = msgspec.structs.replace(
        its,
        date=date,
        covariance=tuple(tuple(map(short, row)) for row in its.covariance),
        **{
            name: {key: short(value) for key, value in getattr(its, name).items()}
            for name in ("constants", "levels", "programs", "cards")
        },
    )
    return msgspec.json.format(msgspec.json.encode(its), indent=0) + b"\n"


def main() -> None:
    data, why = published.rows()
    found = fit(data)
    print(f"{len(data)} rows, {found.its.sources} sources; not used: {dict(why)}")
    print({name: round(float(np.exp(value)), 4) for name, value in found.its.constants.items()})
    print({name: round(value, 3) for name, value in (found.its.levels | found.its.programs).items()})
    posterior.FILE.write_bytes(stored(found.its, sys.argv[1]))


if __name__ == "__main__":
    main()
