"""Judges two sides: which numbers changed, by a permutation of the units, and which are surely the same.

Under the hypothesis that nothing changed, the units (runs of a rig) could have been shared out between the two sides in
any way, so that the observed share-out is as likely as every other: no distribution is assumed, and runs may be skewed.
For each way of sharing out the largest statistic of all numbers is taken; a number changed where its own is as large
as only a tenth of those are, and step by step without the numbers that changed (Westfall and Young 1993, step-down
max T). So the error rate is of the whole comparison, whatever numbers depend on each other. Where a number's interval
holds "no change" it is not called changed either, which lowers that rate. Runs that follow each other more alike than
others (a rig that drifts) are beyond it, as they are beyond any method: take turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rigbench.compare.record import Compared, NotCompared, Verdict
from rigbench.core.estimate import Estimate
from rigbench.core.stats import LEVEL, NORMAL_90, median, student_t_quantile
from rigbench.tables import Measured, Row

if TYPE_CHECKING:
    import numpy as np

MOST_SPLITS = 4000  # beyond, so many are drawn, always the same
FLOOR = 0.005  # of how a number varies between units: what two or three units seem to vary less by is luck
TOLERANCE = 1e-9
Key = tuple[str, str, str, tuple[tuple[str, str], ...]]
Unit = Mapping[Key, tuple[float, float]]  # each number's logarithm and the standard error that its own interval says


class Judged(NamedTuple):
    """Of each key in the order given: differences of logarithms, step-down p, and what the units vary by."""

    differences: Sequence[float]
    p: Sequence[float]
    deviations: Sequence[float]  # between units of a side, pooled; 0 where nothing tells
    freedom: Sequence[int]
    splits: int


def key(row: Row) -> Key:
    return row.room, row.what, row.metric, row.under


def unit(runs: Sequence[Measured]) -> Unit:
    """What varies as one: a run, or all runs of a rig, whose numbers' medians stand for it."""
    found: dict[Key, list[tuple[float, float]]] = {}
    for run in runs:
        own: dict[Key, list[Row]] = {}
        for row in run.rows:
            if row.value > 0:
                own.setdefault(key(row), []).append(row)
        for its, rows in own.items():  # several of one run: the same slice again, as a control
            logs = [math.log(row.value) for row in rows]
            found.setdefault(its, []).append((math.fsum(logs) / len(logs), max(map(_error, rows))))
    return {
        its: (median([log for log, _ in both]), median([error for _, error in both])) for its, both in found.items()
    }


def _error(row: Row) -> float:
    if not 0 < row.low < row.high or not row.level:
        return 0.0
    return math.log(row.high / row.low) / 2 / NORMAL_90


def judge(before: Sequence[Unit], after: Sequence[Unit], keys: Sequence[Key]) -> Judged:
    """Are the sides different in these numbers? Units may lack some of them."""
    import numpy as np

    units = [*before, *after]
    held = np.array([[its in unit for its in keys] for unit in units], dtype=float).reshape(len(units), len(keys))
    logs = np.array([[unit.get(its, (0.0, 0.0))[0] for its in keys] for unit in units]).reshape(held.shape)
    errors = np.array([[unit.get(its, (0.0, 0.0))[1] for its in keys] for unit in units]).reshape(held.shape)
    middles = (logs * held).sum(0) / held.sum(0)
    logs = (logs - middles) * held
    own = (errors**2 * held).sum(0) / held.sum(0)
    splits = _splits(len(before), len(after))
    differences, deviations, freedom = _apart(splits, held, logs)
    between = deviations**2 + own + FLOOR**2
    share = np.where(freedom > 0, _inverse(splits @ held) + _inverse((1 - splits) @ held), np.inf)
    statistics = np.abs(differences) / np.sqrt(between * share)
    observed = statistics[0]
    order = np.argsort(-observed, kind="stable")
    largest = np.maximum.accumulate(statistics[:, order][:, ::-1], axis=1)[:, ::-1]
    p = np.maximum.accumulate((largest >= observed[order] * (1 - TOLERANCE)).mean(0))
    stepped = np.empty_like(p)
    stepped[order] = p
    # What a side's units vary by, where two or three of them happen to agree, is at least what each says of itself.
    spread = np.sqrt(np.maximum(deviations[0] ** 2, own))
    return Judged(
        differences[0].tolist(), stepped.tolist(), spread.tolist(), freedom[0].astype(int).tolist(), len(splits)
    )


def _splits(before: int, after: int) -> np.ndarray:
    """Ways to choose the units of the after side, a row each, the observed one first."""
    import numpy as np

    count = before + after
    if math.comb(count, after) <= MOST_SPLITS:
        ways = list(combinations(range(count), after))[::-1]  # the last of them is the observed one
        chosen = np.zeros((len(ways), count))
        for row, way in enumerate(ways):
            chosen[row, list(way)] = 1.0
        return chosen
    generator = np.random.default_rng(14)
    observed = np.r_[np.zeros(before), np.ones(after)]
    return np.array([observed, *(generator.permutation(observed) for _ in range(MOST_SPLITS - 1))])


def _inverse(counts: np.ndarray) -> np.ndarray:
    import numpy as np

    inverse: np.ndarray = np.divide(1.0, counts, out=np.full_like(counts, np.inf), where=counts > 0)
    return inverse


def _apart(splits: np.ndarray, held: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of means, pooled standard deviations within sides, and degrees of freedom, by split and number."""
    import numpy as np

    means, squares, counts = [], np.zeros((len(splits), held.shape[1])), []
    for side in (splits, 1 - splits):
        count, total = side @ held, side @ logs
        mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        squares += np.maximum(0.0, side @ logs**2 - count * mean**2)
        means.append(mean)
        counts.append(count)
    there = (counts[0] > 0) & (counts[1] > 0)
    freedom = np.where(there, counts[0] + counts[1] - 2, 0)
    deviations = np.sqrt(np.divide(squares, freedom, out=np.zeros_like(squares), where=freedom > 0))
    return np.where(there, means[0] - means[1], 0.0), deviations, freedom


def least_p(before: int, after: int) -> float:
    """The smallest that so many units can give: with as many on both sides, swapping them changes no statistic."""
    splits = min(MOST_SPLITS, math.comb(before + after, after))
    return (2 if before == after else 1) / splits


def more_units(before: int, after: int, level: float) -> int:
    """How many more of the after side let a difference be told; where that is more than two, three a side are."""
    for more in range(10):
        if least_p(before, after + more) <= 1 - level + TOLERANCE:
            return more
    return 10


def compared(
    before: Sequence[Unit], after: Sequence[Unit], rows: Mapping[Key, Row], same_within: float, level: float
) -> tuple[tuple[Compared, ...], int]:
    """Every number that both sides have, what got worse first; and with how many ways to share out it was judged."""
    both = [its for its in rows if any(its in unit for unit in before) and any(its in unit for unit in after)]
    if not both:
        return (), 0
    judged = judge(before, after, both)
    made = []
    for place, its in enumerate(both):
        sides = [[math.exp(unit[its][0]) for unit in side if its in unit] for side in (before, after)]
        ratio = _ratio(judged, place, *map(len, sides))
        verdict = _verdict(ratio, judged.freedom[place], judged.p[place], rows[its], same_within, level)
        means = [math.exp(math.fsum(map(math.log, side)) / len(side)) for side in sides]
        made.append(
            Compared(
                room=rows[its].room,
                what=rows[its].what,
                metric=rows[its].metric,
                unit=rows[its].unit,
                better=rows[its].better,
                before=means[0],
                after=means[1],
                before_units=tuple(sides[0]),
                after_units=tuple(sides[1]),
                ratio=ratio,
                verdict=verdict,
                p=judged.p[place],
            )
        )
    return tuple(sorted(made, key=_weight)), judged.splits


def _ratio(judged: Judged, place: int, before: int, after: int) -> Estimate:
    middle, freedom = judged.differences[place], judged.freedom[place]
    value = math.exp(max(-600.0, min(middle, 600.0)))
    if freedom < 1:
        return Estimate(value, value, value, 0.0, "one unit a side: nothing shows how the next one would differ", 1)
    half = student_t_quantile((1 + LEVEL) / 2, freedom) * judged.deviations[place]
    half = min(half * math.sqrt(1 / before + 1 / after), 20.0)
    method = "ratio of geometric means, Student t on what the units of a side vary by"
    return Estimate(value, value * math.exp(-half), value * math.exp(half), LEVEL, method, freedom + 2)


def _verdict(ratio: Estimate, freedom: int, p: float, row: Row, same_within: float, level: float) -> Verdict:
    if freedom >= 2 and 1 / (1 + same_within) <= ratio.low and ratio.high <= 1 + same_within:
        return "same"
    is_apart = freedom >= 1 and not ratio.low <= 1 <= ratio.high  # as is shown
    if p > 1 - level + TOLERANCE or not row.better or not is_apart:
        return "ambiguous"
    is_better = (ratio.value > 1) == (row.better == "higher")
    if row.unit == "seconds" or row.unit.endswith("/s"):
        return "faster" if is_better else "slower"
    return "better" if is_better else "worse"


def _weight(its: Compared) -> tuple[int, float]:
    order = {"slower": 0, "worse": 0, "faster": 1, "better": 1, "ambiguous": 2, "same": 3}
    return order[its.verdict], -abs(math.log(its.ratio.value))


def refused(before: Mapping[Key, Row], after: Mapping[Key, Row]) -> tuple[NotCompared, ...]:
    """What was measured under other conditions on the other side, then what it lacks; each name once."""
    found: dict[str, NotCompared] = {}
    for here, there, whose in ((before, after, "before"), (after, before, "after")):
        others = {its[:3]: its for its in there}
        for its, row in here.items():
            other = others.get(its[:3])
            if other is None:
                found.setdefault(row.name, NotCompared(row.name, f"only in {whose}"))
            elif its not in there and other not in here:
                ends = (its, other) if whose == "before" else (other, its)
                found.setdefault(row.name, NotCompared(row.name, _conditions(*(dict(end[3]) for end in ends))))
    return tuple(sorted(found.values(), key=lambda it: it.reason.startswith("only in ")))


def _conditions(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} against {after.get(name, 'none')}" for name in names)


def itself(row: Compared) -> Compared:
    """A number against itself."""
    exact = Estimate(1.0, 1.0, 1.0, 1.0, "the same run on both sides", 1)
    return msgspec.structs.replace(row, ratio=exact, verdict="same", p=1.0)


def placed(row: Compared) -> Compared:
    """With the place of the one rig among the others, the best first."""
    one, others = sorted((row.before_units, row.after_units), key=len)
    if len(one) != 1 or not row.better:
        return row
    ahead = sum((it > one[0]) == (row.better == "higher") and it != one[0] for it in others)
    return msgspec.structs.replace(row, place=f"{ahead + 1} of {len(others) + 1}")
