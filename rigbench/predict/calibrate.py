"""Corrects predicted steps by slices measured on this rig, and says how sure they are then.

ln(measured / predicted) of a step is taken to be: the rig's scale, shared by all; a factor of each group of parts,
which counts by the group's share of the step; a discrepancy that alike trainings share (5M and 15M more than 5M and
120M); and what differs from process to process. All are normal with stated spreads, so that the slices' own values
correct each of them as far as they tell, and what they do not tell stays in the interval: one slice sets the scale, two
sizes the slope, and outside of what was measured the discrepancy is as wide as it was (Rasmussen and Williams 2006,
Gaussian Processes, §2.2 and §2.7). How wide all of it really is on this rig, leave-one-out errors say (§5.4.2): they
scale the interval, with Student's t for how few they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.predict.record import PartName, StepPart, StepTime

# Parts that one cause makes slower or faster together.
GROUPS: dict[PartName, int] = {
    "matmul": 0,
    "attention": 0,
    "recomputation": 0,
    "logits and loss": 1,
    "memory traffic": 2,
    "optimizer": 3,
    "launches": 4,
    "communication exposed": 5,
    "data": 5,
}
GROUP_COUNT = 6
# Standard deviations, of logarithms. The groups' is about what separates the constants that fit single sources; the
# discrepancy's what remains then between models; processes' what the same slice differs by when run again (1 to 4 %).
GROUP_SPREAD, DISCREPANCY_SPREAD, PROCESS_SPREAD = 0.20, 0.03, 0.025
UNTOLD_SPREAD = 0.2  # of a slice of one step, which has no interval
LENGTH = 1.5  # e-folds of model size or micro-batch over which the discrepancy forgets
PRIOR_FREEDOM = 20.0  # the stated spreads count for as much as so many leave-one-out errors
ROUNDS = 4


class Measured(NamedTuple):
    """How fast a slice was, and the run that holds it."""

    tokens_per_s: Estimate
    run: str


class Slice(NamedTuple):
    """A slice as the correction sees it."""

    groups: tuple[float, ...]  # predicted seconds by group of parts
    place: tuple[float, ...]
    log_seconds: float  # as measured
    variance: float  # of that
    run: str


class Correction(NamedTuple):
    """What the slices say of this rig; made by `calibrate`. Without slices it changes nothing."""

    slices: tuple[Slice, ...]
    rig_spread: float
    scale: float  # measured over predicted seconds, as all of it agrees
    group_factors: tuple[float, ...]  # what each group of parts differs by from that
    left_out: tuple[float, ...]  # ln(measured / predicted) of each slice by the others alone, of a single one by none
    widening: float  # what the leave-one-out errors made of the stated spreads
    weights: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]  # of the slices' covariances

    def apply(self, predicted: StepTime) -> StepTime:
        """The same step with corrected parts and the interval that the slices support."""
        if not self.slices:
            return predicted
        place = _place(predicted)
        near = sum(weight * _alike(place, it.place) for weight, it in zip(self.weights, self.slices, strict=True))
        common = self.scale * math.exp(DISCREPANCY_SPREAD**2 * near)
        parts = tuple(
            StepPart(part.name, part.seconds * common * self.group_factors[GROUPS[part.name]])
            for part in predicted.parts
        )
        total = sum(part.seconds for part in parts)
        half = self._half_width(_variance(self, predicted, predicted) + PROCESS_SPREAD**2)
        seconds = Estimate(
            value=total,
            low=total * math.exp(-half),
            high=total * math.exp(half),
            level=stats.LEVEL,
            method=f"corrected by {len(self.slices)} short runs, Student t, its range times {self.widening:.2f} by"
            " leave-one-out errors",
            n=len(self.slices),
        )
        sizes = [it.place[0] for it in self.slices]
        away = max(min(sizes) - place[0], place[0] - max(sizes))
        outside = () if away < 0.1 else (f"{math.exp(away):.1f} times outside of the sizes that were measured",)
        return msgspec.structs.replace(
            predicted,
            parts=parts,
            seconds=seconds,
            tokens_per_s=predicted.tokens_per_step / seconds,
            basis=f"{predicted.basis}; corrected by runs {', '.join(dict.fromkeys(it.run for it in self.slices))}",
            notes=(*predicted.notes, *outside),
        )

    def _half_width(self, variance: float, more: int = 0) -> float:
        """Of the interval of a logarithm, with so many slices more than there are."""
        quantile = stats.student_t_quantile((1 + stats.LEVEL) / 2, PRIOR_FREEDOM + len(self.slices) + more)
        return quantile * (self.widening * math.sqrt(variance))


class Suggestion(NamedTuple):
    """The next slice worth running: its place among the candidates, and what the target's half-width would become."""

    candidate: int
    half_width_now: float
    half_width_then: float


def calibrate(predicted: Sequence[StepTime], measured: Sequence[Measured]) -> Correction:
    """predicted[i] is what `steptime.predict` says of the slice measured[i]. No slices: nothing is corrected."""
    names = sorted({it.ceilings.name for it in predicted})
    if len(names) > 1:
        raise RigbenchError(f"short runs of {', '.join(names)} cannot correct each other", "give short runs of one rig")
    slices = tuple(_slice(step, its) for step, its in zip(predicted, measured, strict=True))
    if not slices:
        return Correction((), 0.0, 1.0, (1.0,) * GROUP_COUNT, (), 1.0, (), ())
    rig_spread = max(map(_spread, predicted))
    factors, scale = [0.0] * GROUP_COUNT, 0.0
    for _ in range(ROUNDS):  # shares change as the groups' factors do
        shares, inverse = _inverse_covariances(slices, rig_spread, factors)
        both = list(zip(shares, slices, strict=True))
        beyond = [it.log_seconds - _log_seconds(it.groups, factors) + _dot(share, factors) for share, it in both]
        weights = [_dot(row, beyond) for row in inverse]
        scale = rig_spread**2 * sum(weights)
        factors = [
            GROUP_SPREAD**2 * sum(weight * share[group] for weight, share in zip(weights, shares, strict=True))
            for group in range(GROUP_COUNT)
        ]
    left_out = [weight / row[i] for i, (weight, row) in enumerate(zip(weights, inverse, strict=True))]
    squares = sum(error**2 * row[i] for i, (error, row) in enumerate(zip(left_out, inverse, strict=True)))
    return Correction(
        slices=slices,
        rig_spread=rig_spread,
        scale=math.exp(scale),
        group_factors=tuple(map(math.exp, factors)),
        left_out=tuple(left_out),
        widening=math.sqrt((PRIOR_FREEDOM + squares) / (PRIOR_FREEDOM + len(slices))),
        weights=tuple(weights),
        # By the last factors, as variances are: where the rounds have not settled, another would make those negative.
        inverse=tuple(map(tuple, _inverse_covariances(slices, rig_spread, factors)[1])),
    )


def _inverse_covariances(
    slices: Sequence[Slice], rig_spread: float, factors: Sequence[float]
) -> tuple[list[list[float]], list[list[float]]]:
    """Each slice's shares by group, and the inverse of the covariances of their logarithms."""
    shares = [_shares(it.groups, factors) for it in slices]
    both = list(zip(shares, slices, strict=True))
    covariances = [[_covariance(rig_spread, a, x.place, b, y.place) for b, y in both] for a, x in both]
    for index, it in enumerate(slices):  # what each differs by from process to process and is itself unsure of
        covariances[index][index] += it.variance
    return shares, _inverse(covariances)


def suggest(candidates: Sequence[StepTime], correction: Correction, target: StepTime) -> Suggestion:
    """Which of the candidates, run as a slice, would narrow the target's interval most."""
    own = correction._replace(rig_spread=correction.rig_spread or _spread(target))
    noise = PROCESS_SPREAD**2
    now = _variance(own, target, target) + noise
    then = [
        now - _variance(own, target, candidate) ** 2 / (_variance(own, candidate, candidate) + noise)
        for candidate in candidates
    ]
    index = min(range(len(candidates)), key=then.__getitem__)
    return Suggestion(index, math.sinh(own._half_width(now)), math.sinh(own._half_width(then[index], more=1)))


def _slice(predicted: StepTime, measured: Measured) -> Slice:
    rate = measured.tokens_per_s
    own = UNTOLD_SPREAD
    if rate.level > 0 and rate.low > 0:
        reach = stats.student_t_quantile((1 + rate.level) / 2, max(1, rate.n - 1))
        own = math.log(rate.high / rate.low) / 2 / reach
    return Slice(
        groups=_groups(predicted),
        place=_place(predicted),
        log_seconds=math.log(predicted.tokens_per_step / rate.value),
        variance=own**2 + PROCESS_SPREAD**2,
        run=measured.run,
    )


def _place(predicted: StepTime) -> tuple[float, ...]:
    """Where a training lies: coordinates in e-folds; what is either one or the other is an e-fold apart."""
    model, recipe = predicted.model, predicted.recipe
    return (
        math.log(model.flop_per_token),  # by which sizes are told apart
        math.log(recipe.micro_batch * model.shape.sequence),
        float(recipe.compiled),
        float(recipe.checkpoint_every > 0),
        float(recipe.optimizer == "adamw"),
        float(recipe.strategy == "single"),
        float(model.shape.style == "llama"),
        float(recipe.precision in ("bf16", "fp16")),
    )


def _groups(predicted: StepTime) -> tuple[float, ...]:
    seconds = [0.0] * GROUP_COUNT
    for part in predicted.parts:
        seconds[GROUPS[part.name]] += part.seconds
    return tuple(seconds)


def _spread(predicted: StepTime) -> float:
    """Standard deviation of the plain prediction's logarithm."""
    return math.log(predicted.seconds.high / predicted.seconds.low) / 2 / stats.NORMAL_90


def _log_seconds(groups: Sequence[float], factors: Sequence[float]) -> float:
    return math.log(sum(seconds * math.exp(factor) for seconds, factor in zip(groups, factors, strict=True)))


def _shares(groups: Sequence[float], factors: Sequence[float]) -> list[float]:
    total = math.exp(_log_seconds(groups, factors))
    return [seconds * math.exp(factor) / total for seconds, factor in zip(groups, factors, strict=True)]


def _alike(a: Sequence[float], b: Sequence[float]) -> float:
    """1 at the same place, towards 0 far away (exponential kernel: the discrepancy need not be smooth)."""
    return math.exp(-math.dist(a, b) / LENGTH)


def _covariance(
    rig_spread: float, a: Sequence[float], place_a: Sequence[float], b: Sequence[float], place_b: Sequence[float]
) -> float:
    return rig_spread**2 + GROUP_SPREAD**2 * _dot(a, b) + DISCREPANCY_SPREAD**2 * _alike(place_a, place_b)


def _variance(correction: Correction, a: StepTime, b: StepTime) -> float:
    """Covariance of two steps' logarithms, given the slices; without what differs from process to process."""
    logs = [math.log(factor) for factor in correction.group_factors]
    (share_a, place_a), (share_b, place_b) = ((_shares(_groups(it), logs), _place(it)) for it in (a, b))
    before = _covariance(correction.rig_spread, share_a, place_a, share_b, place_b)
    seen = [(_shares(it.groups, logs), it.place) for it in correction.slices]
    to_a = [_covariance(correction.rig_spread, share_a, place_a, *its) for its in seen]
    to_b = [_covariance(correction.rig_spread, share_b, place_b, *its) for its in seen]
    return before - sum(value * _dot(row, to_b) for value, row in zip(to_a, correction.inverse, strict=True))


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of a positive definite matrix, by Gauss and Jordan with pivots on the diagonal; numpy takes longer to load."""
    n = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = rows[i][i]
        rows[i] = [value / pivot for value in rows[i]]
        for j in range(n):
            if j != i and (factor := rows[j][i]):
                rows[j] = [value - factor * own for value, own in zip(rows[j], rows[i], strict=True)]
    return [row[n:] for row in rows]
