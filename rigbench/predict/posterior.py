"""What published runs say of a training on a card that is not here, and how sure they are of it.

    ln(seconds of a step) = ln f(terms; constants) + level of the kind of code + year + program + card
                          + source + a source's card + a source's place + noise

f is terms.py's. Constants and levels have physical priors; program and card are random effects that a later run may
share, the last four are one source's own: whoever asks is a new source. The fit (tests/published_fit.py; fitted.json)
is the joint normal posterior of constants, levels, programs and cards. A prediction is the posterior of a new row, and
each run that is known is one more row of it, which shares the source, and where they agree the card and the place, of
what is asked (Rasmussen and Williams 2006, Gaussian Processes, §2.7; Gelman and Hill 2006 on varying levels).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from operator import mul
from pathlib import Path
from typing import NamedTuple

import msgspec

from rigbench.core import stats
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict.record import NEWEST_YEAR, Ceilings
from rigbench.predict.terms import DEVICE, HOST, TOGETHER, Constants, Terms, together

FILE = Path(__file__).with_name("fitted.json")
# Their code is written in CUDA by hand: a kind of its own.
HAND_WRITTEN = ("llm.c", "llmq")
LEVELS = ("sharded", "by hand", "hand-written CUDA", "eager", "fp8", "year", "year, compiled")
YEAR = 2024.0  # that the level of a year counts from
YEARS = 2022.0, NEWEST_YEAR  # beyond, nothing was fitted: later code is taken to be as the newest that was
LENGTH = 1.7  # e-folds of size and batch over which one program's habits are forgotten
ANOTHER_RECIPE = 2.0  # so many e-folds away
ANOTHER_MODEL = 0.1  # e-folds of FLOP a token from which a model is another
OTHER_MAKER_SPREAD = 0.25  # of a card that no NVIDIA datasheet describes: nothing was fitted on such; assumed
# Kinds whose own is forgotten with distance as well: the host's share falls with size, and so does what fp8 leaves out.
FORGOTTEN = ("eager", "fp8")
NEAR_RUN = 0.5  # e-folds between the next run and what is asked, for what such a run would be worth


class Case(NamedTuple):
    """One training as the posterior sees it."""

    device: tuple[float, ...]  # seconds at the ceilings, a column a constant
    power: tuple[float, float]
    host: tuple[float, float, float, float]
    kind: str
    program: str
    card: str
    year: float
    place: tuple[float, ...]
    recipe: tuple[str, ...]  # what else makes two trainings unlike
    maker: str
    source: str = ""  # "": who asks
    noisy: bool = False


class Known(NamedTuple):
    """A run whose speed is known."""

    name: str
    case: Case
    log_seconds: float


class Told(NamedTuple):
    """What is known of the code beside model, recipe and card."""

    program: str = ""
    year: float = YEARS[1]
    known: tuple[Known, ...] = ()


NOTHING_TOLD = Told()


class Fitted(msgspec.Struct, frozen=True):
    """The posterior as it is stored: means and covariance in the order constants (logarithms), levels, programs, cards.

    `spreads` are the random effects' standard deviations: program, card, source, source card, place, noise, and
    "source, KIND" of what a kind of code adds to its sources'.
    """

    date: str
    rows: int
    sources: int
    constants: dict[str, float]
    levels: dict[str, float]
    programs: dict[str, float]
    cards: dict[str, float]
    spreads: dict[str, float]
    covariance: tuple[tuple[float, ...], ...]  # lower triangle
    widening: float  # of the interval, by sources that were left out


class Answer(NamedTuple):
    """The posterior of one training."""

    constants: Constants
    level: float  # of ln(seconds), over what the constants give
    half_width: float  # of the 90 % interval of ln(seconds)
    with_a_run: float  # the same if one run of nearly this were known on this card
    sources: int
    basis: str


@functools.cache
def fitted() -> Fitted:
    return msgspec.json.decode(FILE.read_bytes(), type=Fitted)


def case(
    model: Model, recipe: Recipe, ceilings: Ceilings, terms: Terms, program: str = "", year: float = YEARS[1]
) -> Case:
    return Case(
        device=tuple(map(sum, zip(*terms.parts.values(), strict=True))),
        power=terms.power,
        host=terms.host,
        kind=kind(recipe, program),
        program=program,
        card=ceilings.gpu,
        year=year,
        place=place(model, recipe),
        recipe=(recipe.optimizer, recipe.precision, *([recipe.adapter] if recipe.adapted else [])),
        maker="nvidia" if ceilings.compute_capability else "other",
    )


def kind(recipe: Recipe, program: str = "") -> str:
    """Whose level and interval count."""
    if program in HAND_WRITTEN:
        return "hand-written CUDA"
    if recipe.precision == "fp8":
        return "fp8"
    if recipe.attention == "naive":
        return "by hand"
    if recipe.sharded:
        return "sharded"
    return "compiled" if recipe.compiled else "eager"


def place(model: Model, recipe: Recipe) -> tuple[float, ...]:
    """Where a training lies, in e-folds."""
    return (
        math.log(model.flop_per_token),
        math.log(recipe.micro_batch * model.shape.sequence),
        0.5 * math.log(model.shape.sequence),
        0.3 * math.log(recipe.ranks),
        2.0 * recipe.compiled,
        1.0 * (recipe.checkpoint_every > 0),
        1.0 * (recipe.attention == "naive"),
        1.0 * (recipe.precision in ("fp32", "tf32")),
        1.0 * (recipe.precision == "fp8"),
    )


def answer(asked: Case, told: Told = NOTHING_TOLD, its: Fitted | None = None) -> Answer:
    """The posterior of one training, given the published runs and what is known."""
    its = its or fitted()
    cases = (asked, *(known.case for known in told.known))
    means, joint = posterior(cases, its)
    noise = its.spreads["noise"] ** 2
    variance, mean = joint[0][0], means[0]
    if told.known:
        seen = [[value + noise * (i == j) for j, value in enumerate(row[1:])] for i, row in enumerate(joint[1:])]
        weights = solve(seen, joint[0][1:])
        off = [known.log_seconds - mean for known, mean in zip(told.known, means[1:], strict=True)]
        mean += sum(map(mul, weights, off))
        variance -= sum(map(mul, weights, joint[0][1:]))
    forgotten = its.spreads["place"] ** 2
    if asked.kind in FORGOTTEN:
        forgotten += its.spreads.get(f"source, {asked.kind}", 0.0) ** 2
    shared = variance - forgotten * (1 - math.exp(-((NEAR_RUN / LENGTH) ** 2) / 2))
    after = variance - max(0.0, shared) ** 2 / (variance + noise)
    value = Constants(**{name: math.exp(its.constants[name]) for name in Constants._fields})
    words = f"{its.rows} published runs of {its.sources} sources"
    words += f" and {', '.join(known.name for known in told.known)}" if told.known else ""
    return Answer(
        constants=value,
        level=mean - math.log(seconds(asked, value)),
        half_width=_half_width(variance + noise, its),
        with_a_run=_half_width(min(variance, after) + noise, its),
        sources=its.sources,
        basis=f"posterior of {words}, {asked.kind} code",
    )


def _half_width(variance: float, its: Fitted) -> float:
    return its.widening * stats.NORMAL_90 * math.sqrt(variance)


def posterior(cases: Sequence[Case], its: Fitted) -> tuple[list[float], list[list[float]]]:
    """Means of ln(seconds) of trainings of one new source, and their covariances without noise."""
    names = (*its.constants, *its.levels, *its.programs, *its.cards)
    means = (*its.constants.values(), *its.levels.values(), *its.programs.values(), *its.cards.values())
    value = Constants(**{name: math.exp(its.constants[name]) for name in Constants._fields})
    start = len(its.constants) + len(its.levels)
    at = {name: start + index for index, name in enumerate((*its.programs, *its.cards))}
    rows, said = [], []
    for one in cases:
        row = dict(enumerate((*slopes(one, value), *flags(one))))
        row |= {at[name]: 1.0 for name in (one.program, one.card) if name in at}
        rows.append(row)
        linear = sum(weight * means[index] for index, weight in row.items() if index >= len(its.constants))
        said.append(math.log(seconds(one, value)) + linear)
    columns = [_times(its.covariance, row, len(names)) for row in rows]
    joint = [
        [
            sum(weight * column[index] for index, weight in row.items()) + own_effects(a, b, its)
            for b, column in zip(cases, columns, strict=True)
        ]
        for a, row in zip(cases, rows, strict=True)
    ]
    return said, joint


def own_effects(a: Case, b: Case, its: Fitted) -> float:
    """Covariance of what two trainings share beside the fitted: a new program, a new card, and what is one source's."""
    known = {*its.programs, *its.cards}
    found = 0.0
    if a.program == b.program and a.program not in known:
        found += its.spreads["program"] ** 2
    if a.card == b.card and a.card not in known:
        found += its.spreads["card"] ** 2
    if a.maker == b.maker == "other":
        found += OTHER_MAKER_SPREAD**2
    return found + source_effects(a, b, its.spreads)


def source_effects(a: Case, b: Case, spreads: dict[str, float]) -> float:
    if a.source != b.source or a.program != b.program:
        return 0.0
    found = spreads["source"] ** 2
    near = math.exp(-((distance(a, b) / LENGTH) ** 2) / 2)
    if a.kind == b.kind:
        found += spreads.get(f"source, {a.kind}", 0.0) ** 2 * (near if a.kind in FORGOTTEN else 1.0)
    if a.card == b.card:
        found += spreads["source card"] ** 2
    return found + spreads["place"] ** 2 * near


def unlike(known: Case, asked: Case) -> str:
    """What of a known run is so unlike that it tells of the program above all; "" where it tells of this very code."""
    if known.card != asked.card:
        return "of another card"
    return "of another model" if abs(known.place[0] - asked.place[0]) > ANOTHER_MODEL else ""


def distance(a: Case, b: Case) -> float:
    """In e-folds."""
    return math.hypot(math.dist(a.place, b.place), ANOTHER_RECIPE * (a.recipe != b.recipe))


def seconds(case: Case, constants: Constants) -> float:
    """Of a step, by the constants alone."""
    return together(
        sum(map(mul, case.device, constants)),
        sum(map(mul, case.power, constants[DEVICE:])),
        sum(map(mul, case.host, constants[HOST:])),
    )


def slopes(case: Case, constants: Constants) -> list[float]:
    """Of the logarithm of the seconds, by the logarithms of the constants."""
    parts = [
        [term * constant for term, constant in zip(group, constants[start:], strict=False)]
        for group, start in ((case.device, 0), (case.power, DEVICE), (case.host, HOST))
    ]
    ends = [sum(part) for part in parts]
    total = together(*ends)
    found = []
    for part, end in zip(parts, ends, strict=True):
        share = (end / total) ** TOGETHER / end if end else 0.0
        found += [value * share for value in part]
    return found


def flags(case: Case) -> list[float]:
    """Of LEVELS: which count, and how much."""
    since = min(max(case.year, YEARS[0]), YEARS[1]) - YEAR
    of_kind = [float(case.kind == name) for name in LEVELS[:-2]]
    return [*of_kind, since, since if case.kind in ("compiled", "fp8") else 0.0]


def _times(lower: Sequence[Sequence[float]], row: dict[int, float], size: int) -> list[float]:
    """A symmetric matrix, of which the lower triangle is given, times a sparse vector."""
    return [
        sum(weight * (lower[i][j] if j <= i else lower[j][i]) for j, weight in row.items() if weight)
        for i in range(size)
    ]


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Of a positive definite matrix, by elimination on the diagonal."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i, row in enumerate(rows):
        rows[i] = row = [value / row[i] for value in row]
        for j, other in enumerate(rows):
            if j != i and (factor := other[i]):
                rows[j] = [value - factor * own for value, own in zip(other, row, strict=True)]
    return [row[-1] for row in rows]
