"""Fits power laws to losses: of size, of data, of compute and of size and data together; says what does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from rigbench.budget import laws
from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.scaling import chinchilla
from rigbench.scaling.chinchilla import Array
from rigbench.scaling.record import Fit, Floor, IsoFlop, Joint, Line, Of, Optimum, Paired, Point, Published

FEWEST_JOINT, FEWEST_KINDS = 12, 3  # (N, D) points, and of them sizes and token counts
FEWEST_FLOOR = 5  # of x, for an irreducible loss
SAME = 0.02  # a share by which sizes, tokens and FLOP may differ and still be the same
SAME_FLOPS = 0.1
ODD_P = 0.01  # that any point of a law is named though all is well
ODD_DEVIATIONS = 5.0  # of a point from L(N, D), in robust deviations: 2 of 100 fits of 20 normal points have one
CLAIM = 0.07
MASSIVE = "MassiveText, own 32k"
DATA = {laws.KAPLAN: "WebText2, GPT-2 BPE", **{it.law: MASSIVE for it in laws.FITS}}
X: dict[Of, Callable[[Point], float]] = {
    "N": lambda point: float(point.params),
    "D": lambda point: float(point.tokens),
    "C": lambda point: point.flops,
}


def fit(source: str, points: Sequence[Point], flops: float | Absent, notes: Sequence[str] = ()) -> Fit:
    """Of the optimizer with the most points, AdamW first; the others beside it, and what they differ by.

    `flops`: of the compute-optimal model that is asked for.

    Raises:
        RigbenchError: no law can be told of these points.
    """
    counts = {name: sum(point.optimizer == name for point in points) for name in {it.optimizer for it in points}}
    names = sorted(counts, key=lambda name: (-counts[name], name))
    fits = [_of_one(source, [it for it in points if it.optimizer == name], flops, notes) for name in names]
    difference: Paired | Absent = Absent("one optimizer")
    if len(names) > 1:
        difference = paired(points, *sorted(names[:2], key=lambda name: ("8bit" in name, name)))
    first, *others = fits
    if not any(it.lines for it in fits):
        what = "one model with one number of tokens gives" if len(points) == 1 else "these points give"
        raise RigbenchError(f"{what} no law: {'; '.join(first.missing)}", "train more sizes", NOTHING)
    return msgspec.structs.replace(first, difference=difference, others=tuple(others))


def _of_one(source: str, points: Sequence[Point], flops: float | Absent, notes: Sequence[str]) -> Fit:
    lines, missing, odd = [], [], list(rising(points))
    for of, chosen in (("N", _of_size), ("D", _of_data), ("C", _of_compute)):
        among = chosen(points)
        if isinstance(among, Absent):
            missing.append(among.reason)
            continue
        made, its_odd = line(of, points, *among)  # type: ignore[arg-type]
        lines.append(made)
        odd += its_odd
    joint, its_odd = together(points, flops)
    if isinstance(joint, Absent):
        missing.append(joint.reason)
    odd += its_odd
    return Fit(
        source=source,
        points=tuple(points),
        optimizer=points[0].optimizer,
        lines=tuple(lines),
        joint=joint,
        isoflops=tuple(isoflops(points)),
        published=tuple(_published(lines, joint, points)),
        odd=tuple(dict.fromkeys(odd)),
        missing=tuple(missing),
        notes=tuple(notes),
    )


# ------------------------------------------------------------------------------------------------- which points


Chosen = tuple[tuple[int, ...], str]


def _of_size(points: Sequence[Point]) -> Chosen | Absent:
    """Of every size on as many tokens, the most that all have; where they differ, each size's longest runs."""
    sizes = {point.params for point in points}
    if len(_apart(sizes)) < 2:
        return Absent("L(N) needs two sizes, and an interval three: here is one model")
    for tokens in sorted({point.tokens for point in points}, reverse=True):
        its = [place for place, it in enumerate(points) if abs(it.tokens / tokens - 1) <= SAME]
        if {points[place].params for place in its} == sizes:
            return tuple(its), f"each on {units.format_count(tokens)} tokens"
    return _longest(points), "each model's longest run; their tokens differ, so this law is of size and data at once"


def _longest(points: Sequence[Point]) -> tuple[int, ...]:
    most = {point.params: max(it.tokens for it in points if it.params == point.params) for point in points}
    return tuple(place for place, it in enumerate(points) if it.tokens >= most[it.params] * (1 - SAME))


def _of_data(points: Sequence[Point]) -> Chosen | Absent:
    """Of the size that was trained on the most numbers of tokens; of equal ones the largest."""
    sizes = {it.params for it in points}
    counts = {size: len(_apart({it.tokens for it in points if it.params == size})) for size in sizes}
    size = max(counts, key=lambda size: (counts[size], size))
    if counts[size] < 2:
        return Absent("L(D) needs a model on two numbers of tokens, and an interval three: every model has one")
    its = tuple(place for place, it in enumerate(points) if it.params == size)
    return its, f"{points[its[0]].model} on {counts[size]} numbers of tokens"


def _of_compute(points: Sequence[Point]) -> Chosen | Absent:
    """Where sizes have several numbers of tokens, those points that none of as little compute beats; else all.

    Of several seeds it is their mean that is beaten or not, and all of them stay: to take the best would be to choose.
    """
    if len(_apart({it.flops for it in points})) < 2:
        return Absent("L(C) needs two amounts of compute: here is one")
    if len({(it.params, it.tokens) for it in points}) == len({it.params for it in points}):
        return tuple(range(len(points))), "every model"
    means = cells(points)
    best = tuple(
        place
        for place, it in enumerate(points)
        if not any(
            other.params * other.tokens <= it.params * it.tokens and other.loss < means[it.params, it.tokens].loss
            for other in means.values()
        )
    )
    if len(_apart({points[place].flops for place in best})) < 2:
        return tuple(range(len(points))), "all points, since the least compute has the least loss"
    return best, f"the {len(best)} of {len(points)} points that no other of as little compute beats"


# ------------------------------------------------------------------------------------------------- one variable


def line(of: Of, points: Sequence[Point], places: tuple[int, ...], among: str) -> tuple[Line, list[str]]:
    """The law of one variable, and which of its runs are odd."""
    x = np.array([X[of](points[place]) for place in places])
    losses = np.array([points[place].loss for place in places])
    log_x, log_loss = np.log(x), np.log(losses)
    kinds = _apart(x)
    middle, left = float(log_x.mean()), len(x) - 2
    away = log_x - middle
    slope = float((away * log_loss).sum() / (away**2).sum())
    residuals = log_loss - log_loss.mean() - slope * away
    next_x = _next_of(kinds)
    reach = math.log(next_x) - middle
    exponent, deviation = Estimate(-slope, -slope, -slope, 0.0, "two sizes, no interval", len(x)), 0.0
    next_loss: Estimate | Absent = Absent("two sizes give no interval")
    if left > 0:
        t = stats.student_t_quantile((1 + stats.LEVEL) / 2, left)
        deviation = math.sqrt(float((residuals**2).sum()) / left)
        half = t * deviation / math.sqrt(float((away**2).sum()))
        method = f"least squares on logarithms, Student t with {left} degrees of freedom"
        exponent = Estimate(-slope, -slope - half, -slope + half, stats.LEVEL, method, len(x))
        half = t * deviation * math.sqrt(1 + 1 / len(x) + reach**2 / float((away**2).sum()))
        expected = float(log_loss.mean()) + slope * reach
        low, high = (math.exp(expected + sign * half) for sign in (-1, 1))
        next_loss = Estimate(math.exp(expected), low, high, stats.LEVEL, "prediction interval of one run", len(x))
    made = Line(
        of=of,
        among=among,
        places=places,
        exponent=exponent,
        constant=math.exp(float(log_loss.mean()) - slope * middle),
        r_squared=_r_squared(residuals, log_loss),
        deviation=deviation,
        next_x=next_x,
        next_loss=next_loss,
        floor=floor(x, losses, next_x) if len(kinds) >= FEWEST_FLOOR else _few(len(kinds)),
    )
    names = [_named(points[place]) for place in places]
    return made, list(_odd(names, residuals, away, f"L({of})"))


def _few(kinds: int) -> Absent:
    return Absent(f"an irreducible loss needs {FEWEST_FLOOR} different ones, here are {kinds}")


def _apart(values: Iterable[float]) -> list[float]:
    """Those that differ by more than what is taken for the same, rising."""
    rising = sorted(values)
    return rising[:1] + [after for before, after in pairwise(rising) if after > before * (1 + SAME)]


def _next_of(kinds: Sequence[float]) -> float:
    """One step further, as far as they are apart, to two digits."""
    return float(f"{kinds[-1] * (kinds[-1] / kinds[0]) ** (1 / (len(kinds) - 1)):.1e}")


def _r_squared(residuals: Array, of: Array) -> float:
    """Of losses that are all the same there is nothing to explain: 0."""
    whole = float(((of - of.mean()) ** 2).sum())
    return 1 - float((residuals**2).sum()) / whole if whole > 0 else 0.0


def _odd(names: Sequence[str], residuals: Array, away: Array, law: str) -> Iterator[str]:
    """Runs whose residual, beside what all others leave, has less than ODD_P of chance among so many (Bonferroni)."""
    n = len(residuals)
    if n < 5:
        return
    leverage = 1 / n + away**2 / float((away**2).sum())
    limit = stats.student_t_quantile(1 - ODD_P / 2 / n, n - 3)
    for place, name in enumerate(names):
        own, free = float(residuals[place]), max(1e-9, 1 - float(leverage[place]))
        others = (float((residuals**2).sum()) - own**2 / free) / (n - 3)
        if others > 0 and abs(own) / math.sqrt(others * free) > limit:
            yield _said(name, own, law)


def _said(name: str, log_residual: float, law: str) -> str:
    share = units.format_share(abs(math.expm1(log_residual)))
    return f"{name} lies {share} {'above' if log_residual > 0 else 'below'} {law}; it is in the fit"


def _named(point: Point) -> str:
    seed = f", seed {point.seed}" if point.seed else ""
    return f"{point.model} after {units.format_count(point.tokens)} tokens{seed}"


def floor(x: Array, losses: Array, next_x: float) -> Floor | Absent:
    """E + K·x^-a by least squares of relative errors, where E can be told from none.

    E and a over a grid, K by its formula; an interval is where the sum of squares is at most 1 + t²/(n-3) times the
    least (profile likelihood: Bates and Watts 1988, §6.1).
    """
    left = len(x) - 3
    log_x = np.log(x) - np.log(x).mean()
    reach = math.log(next_x) - float(np.log(x).mean())
    t = stats.student_t_quantile((1 + stats.LEVEL) / 2, left)
    limit = 1 + t**2 / left
    low_e, high_e, low_a, high_a = 0.0, float(losses.min()) * 0.999, 0.005, 4.0
    for zoom in (False, True):
        e = np.linspace(low_e, high_e, 150)[:, None, None]
        a = np.geomspace(low_a, high_a, 150)[None, :, None]
        shape, wanted = np.exp(-a * log_x) / losses, 1 - e / losses
        k = (shape * wanted).sum(-1) / (shape**2).sum(-1)
        squares = ((k[..., None] * shape - wanted) ** 2).sum(-1)
        inside = squares <= limit * squares.min()
        rows, columns = np.where(inside.any(1))[0], np.where(inside.any(0))[0]
        ends_e, ends_a = e[:, 0, 0][rows[[0, -1]]], a[0, :, 0][columns[[0, -1]]]
        if not zoom:
            if rows[0] == 0 or rows[-1] == len(e) - 1 or columns[0] == 0 or columns[-1] == a.shape[1] - 1:
                return Absent("these points do not separate an irreducible loss from none")
            step_e, ratio = float(e[1, 0, 0] - e[0, 0, 0]), float(a[0, 1, 0] / a[0, 0, 0])
            low_e, high_e = float(ends_e[0]) - step_e, float(ends_e[1]) + step_e
            low_a, high_a = float(ends_a[0]) / ratio, float(ends_a[1]) * ratio
    best = np.unravel_index(int(squares.argmin()), squares.shape)
    its_e, its_a, its_k = float(e[best[0], 0, 0]), float(a[0, best[1], 0]), float(k[best])
    method = f"profile of the sum of squares, Student t with {left} degrees of freedom"
    expected = (e + k[..., None] * np.exp(-a * reach))[..., 0]
    value = float(expected[best])
    s = math.sqrt(float(squares.min()) / left)
    ends = expected[inside].min(), expected[inside].max()
    down, up = (math.hypot(float(end) - value, t * s * value) for end in ends)
    fitted = its_e + its_k * np.exp(-its_a * log_x)
    return Floor(
        irreducible=Estimate(its_e, float(ends_e[0]), float(ends_e[1]), stats.LEVEL, method, len(x)),
        exponent=Estimate(its_a, float(ends_a[0]), float(ends_a[1]), stats.LEVEL, method, len(x)),
        constant=its_k * math.exp(its_a * float(np.log(x).mean())),
        r_squared=_r_squared(np.log(losses) - np.log(fitted), np.log(losses)),
        next_loss=Estimate(value, value - down, value + up, stats.LEVEL, "prediction interval of one run", len(x)),
    )


# ------------------------------------------------------------------------------------------------- size and data


def together(points: Sequence[Point], flops: float | Absent) -> tuple[Joint | Absent, list[str]]:
    """L(N, D), and which runs lie far from it."""
    pairs = {(point.params, point.tokens) for point in points}
    sizes, data = ({pair[place] for pair in pairs} for place in (0, 1))
    if len(pairs) < FEWEST_JOINT or min(len(sizes), len(data)) < FEWEST_KINDS:
        kinds = f"{len(sizes)} size{'s' * (len(sizes) > 1)} and {len(data)} number{'s' * (len(data) > 1)} of tokens"
        have = f"{len(pairs)} of {kinds}"
        needs = f"{FEWEST_JOINT} (N, D) points, of {FEWEST_KINDS} sizes and {FEWEST_KINDS} numbers of tokens at least"
        return Absent(f"L(N, D) and the compute-optimal size need {needs}: here are {have}"), []
    N, D, L = (np.array([float(getattr(it, name)) for it in points]) for name in ("params", "tokens", "loss"))
    fitted = chinchilla.fit(N, D, L)
    point, samples = fitted.constants(fitted.point), fitted.constants(fitted.samples)
    if not all(float(point[name][0]) > 0 for name in ("alpha", "beta")):
        return Absent("L(N, D) does not fit: the loss does not fall with size or not with data"), []

    def estimate(value: float, drawn: Array) -> Estimate:
        low, high = (float(it) for it in np.quantile(drawn, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]))
        method = f"Huber loss on logarithms, {len(samples['E'])} bootstrap samples"
        return Estimate(value, min(low, value), max(high, value), stats.LEVEL, method, len(points))

    of = {name: estimate(float(point[name][0]), samples[name]) for name in point}
    falling = (samples["alpha"] > 0) & (samples["beta"] > 0)
    rows = fitted.samples[falling]
    budget = float(max(it.flops for it in points)) if isinstance(flops, Absent) else flops
    noise = np.exp(np.random.default_rng(1).normal(0, fitted.deviation, len(rows)))

    def loss_at(parameters: float, tokens: float) -> Estimate:
        """Of one run: with what the law leaves open, and what runs differ by."""
        place = np.array([parameters]), np.array([tokens])
        value = float(fitted.losses(fitted.point, *place)[0, 0])
        return estimate(value, fitted.losses(rows, *place)[:, 0] * noise)

    best = float(fitted.optimum(fitted.point, budget)[0])
    size = estimate(best, fitted.optimum(rows, budget))
    larger, longest = _next_of(_apart(N)), float(D.max())
    share = estimate(
        float(point["beta"][0] / (point["alpha"][0] + point["beta"][0])),
        (samples["beta"] / (samples["alpha"] + samples["beta"]))[falling],
    )
    # Without those that such a fit goes through.
    robust = stats.MAD_TO_DEVIATION * float(np.median(np.sort(np.abs(fitted.residuals))[chinchilla.PARAMETERS :]))
    odd = [
        _said(_named(it), float(residual), "L(N, D)")
        for it, residual in zip(points, fitted.residuals, strict=True)
        if abs(residual) > ODD_DEVIATIONS * robust
    ]
    made = Joint(
        places=tuple(range(len(points))),
        irreducible=of["E"],
        a=of["A"],
        b=of["B"],
        alpha=of["alpha"],
        beta=of["beta"],
        size_exponent=share,
        r_squared=_r_squared(fitted.residuals, np.log(L)),
        deviation=fitted.deviation,
        next_parameters=larger,
        next_tokens=longest,
        next_loss=loss_at(larger, longest),
        optimum=Optimum(
            flops=budget,
            parameters=size,
            tokens=budget / 6 / size,
            loss=loss_at(best, budget / 6 / best),
            beyond=_beyond(best, budget / 6 / best, points),
        ),
    )
    return made, odd


def _beyond(parameters: float, tokens: float, points: Sequence[Point]) -> str:
    said = []
    for value, name, of in ((parameters, "size", "params"), (tokens, "tokens", "tokens")):
        known = [float(getattr(point, of)) for point in points]
        factor = max(min(known) / value, value / max(known))
        if factor > 1.05:
            where = "below the least" if value < min(known) else "beyond the most"
            said.append(f"its {name} {units.format_significant(factor, 2)} times {where} that was trained")
    return ", ".join(said)


def isoflops(points: Sequence[Point]) -> Iterator[IsoFlop]:
    """Groups of three sizes and more on the same FLOP, and the lowest place of their parabola (Hoffmann 2022, §3.2)."""
    left = sorted(range(len(points)), key=lambda place: points[place].flops)
    while left:
        start = points[left[0]].flops
        group = [place for place in left if points[place].flops <= start * (1 + SAME_FLOPS)]
        left = left[len(group) :]
        sizes = np.log([points[place].params for place in group])
        if len(set(sizes)) < 3:
            continue
        middle = float(sizes.mean())
        losses = np.array([points[place].loss for place in group])
        curve, slope, level = (float(it) for it in np.polyfit(sizes - middle, losses, 2))
        lowest = -slope / 2 / curve if curve > 0 else math.inf
        inside = bool(sizes.min() <= lowest + middle <= sizes.max()) if math.isfinite(lowest) else False
        none = Absent("its losses have no lowest place between the sizes that were trained")
        yield IsoFlop(
            flops=float(np.mean([points[place].flops for place in group])),
            places=tuple(group),
            parameters=math.exp(lowest + middle) if inside else none,
            loss=level - slope**2 / 4 / curve if inside else none,
        )


# ------------------------------------------------------------------------------------------------- what is odd


class Cell(NamedTuple):
    params: int
    tokens: int
    model: str
    loss: float


def cells(points: Sequence[Point]) -> dict[tuple[int, int], Cell]:
    """By size and tokens the mean loss of the seeds, rising."""
    of: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        of.setdefault((point.params, point.tokens), []).append(point)
    return {
        pair: Cell(*pair, its[0].model, math.fsum(it.loss for it in its) / len(its)) for pair, its in sorted(of.items())
    }


def _does(before: Cell, after: Cell) -> str:
    return "rises" if after.loss > before.loss else "does not fall"


def rising(points: Sequence[Point]) -> Iterator[str]:
    """Larger models, and longer runs of one model, whose loss is not lower: means over the seeds."""

    means = list(cells(points).values())
    for tokens in sorted({cell.tokens for cell in means}):
        for small, large in pairwise(cell for cell in means if cell.tokens == tokens):
            if large.loss >= small.loss:
                sizes = f"{small.model} ({small.loss:.4g}) to {large.model} ({large.loss:.4g})"
                yield f"the loss {_does(small, large)} from {sizes}, {units.format_count(tokens)} tokens each"
    for size in sorted({cell.params for cell in means}):
        for short, long in pairwise(cell for cell in means if cell.params == size):
            if long.loss >= short.loss:
                more = f"{units.format_count(short.tokens)} to {units.format_count(long.tokens)} tokens"
                losses = f"({short.loss:.4g} to {long.loss:.4g})"
                yield f"the loss of {short.model} {_does(short, long)} from {more} {losses}"


# ------------------------------------------------------------------------------------------------- against others


def _published(lines: Sequence[Line], joint: Joint | Absent, points: Sequence[Point]) -> Iterator[Published]:
    """The slope that a law's own losses have at the same sizes and tokens: what a law says of ours, like for like."""
    theirs: list[tuple[str, Callable[[Point], float]]] = [
        (laws.KAPLAN, lambda it: laws.kaplan_loss(max(1.0, it.params - it.embedding_params), it.tokens)),
        *((it.law, lambda point, it=it: it.loss(point.params, point.tokens)) for it in laws.FITS),
    ]
    for its in lines:
        of = f"L({its.of})"
        if its.of == "N":
            yield Published(law="L(N) ∝ N^-0.07", data="a rule of thumb", of=of, exponent=CLAIM, ours=its.exponent)
        for name, loss in theirs:
            expected = [msgspec.structs.replace(points[place], loss=loss(points[place])) for place in its.places]
            other, _ = line(its.of, expected, tuple(range(len(expected))), "")
            yield Published(law=name, data=DATA[name], of=of, exponent=other.exponent.value, ours=its.exponent)
    if isinstance(joint, Joint):
        for it in laws.FITS:
            yield Published(law=it.law, data=DATA[it.law], of="alpha", exponent=it.alpha, ours=joint.alpha)
            yield Published(law=it.law, data=DATA[it.law], of="beta", exponent=it.beta, ours=joint.beta)


def paired(points: Sequence[Point], first: str, second: str) -> Paired | Absent:
    """Differences of the longest runs of each model and seed that both optimizers trained on as many tokens."""
    by = {(it.optimizer, it.params, it.seed, it.tokens): it for it in points}
    shared: dict[tuple[int, int], int] = {}
    for optimizer, size, seed, tokens in by:
        if optimizer == first and (second, size, seed, tokens) in by:
            shared[size, seed] = max(tokens, shared.get((size, seed), 0))
    seeds = len({seed for _, seed in shared}) > 1
    pairs = [
        (
            f"{by[first, size, seed, tokens].model}{f', seed {seed}' if seeds else ''}",
            by[first, size, seed, tokens].loss,
            by[second, size, seed, tokens].loss,
        )
        for (size, seed), tokens in sorted(shared.items())
    ]
    if not pairs:
        return Absent(f"no model of {first} and of {second} has the same seed and the same tokens")

    def mean(values: Sequence[float]) -> Estimate | Absent:
        if len(values) < 2:
            return Absent("one pair gives no interval")
        n, middle = len(values), math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((it - middle) ** 2 for it in values) / (n - 1) / n)
        half = stats.student_t_quantile((1 + stats.LEVEL) / 2, n - 1) * spread
        return Estimate(middle, middle - half, middle + half, stats.LEVEL, f"mean of {n} pairs, Student t", n)

    return Paired(
        first=first,
        second=second,
        pairs=tuple(pairs),
        nats=mean([b - a for _, a, b in pairs]),
        share=mean([b / a - 1 for _, a, b in pairs]),
    )
