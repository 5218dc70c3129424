"""How far off are predictions of published runs that the fit has not seen, and does their interval hold?

One source is left out at a time, and its rows are asked about as by somebody who knows nothing of the code, its
program's name, a run of it on another card, or one on this card. Sources count alike.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import published
from published import Published
from published_fit import Fit, fit

from rigbench.core import stats
from rigbench.predict import posterior
from rigbench.predict.posterior import Known, Told

KINDS = ("compiled", "eager", "sharded", "by hand", "hand-written CUDA", "fp8")
CASES = "nothing", "program's name", "a run on another card", "a run on this card"
NEAR = 1.0  # e-folds of size and batch
FEW_LAYERS = 6  # of a toy


class Scored(NamedTuple):
    row: Published
    known: str
    error: float  # ln(predicted / measured tokens/s)
    half_width: float
    away: float = 0.0  # e-folds from the known run


def left_out(data: Sequence[Published], spreads: dict[str, float] | None = None) -> list[Scored]:
    """Every row, by a fit that has not seen its source."""
    everything = fit(data, spreads)
    found = []
    for name in sorted({row.source for row in data}):
        rest = [row for row in data if row.source != name]
        found += asked(fit(rest, spreads, everything), [row for row in data if row.source == name])
    return found


def asked(its: Fit, own: Sequence[Published]) -> list[Scored]:
    """The rows of one source, by a fit that has not seen it."""
    found = []

    def ask(row: Published, known: str, run: Published | None = None, named: bool = True) -> None:
        case, told = row.case if named else row.case._replace(program=""), Told()
        if run:
            told = Told(known=(Known(run.id, run.case, math.log(run.seconds)),))
        answer = posterior.answer(case, told, its.its)
        said = math.log(posterior.seconds(case, answer.constants)) + answer.level
        away = posterior.distance(row.case, run.case) if run else 0.0
        found.append(Scored(row, known, math.log(row.seconds) - said, answer.half_width, away))

    for row in own:
        ask(row, "nothing", named=False)
        if row.case.program in its.its.programs:
            ask(row, "program's name")
    for card in sorted({row.case.card for row in own}):
        here = sorted((it for it in own if it.case.card == card), key=size)
        away = [it for it in own if it.case.card != card]
        middle = here[len(here) // 2]  # is known; the others of its recipe are asked about
        for row in here:
            if row is not middle and row.case.recipe == middle.case.recipe:
                ask(row, "a run on this card", middle)
        if away:  # the one nearest in FLOP a token
            flop = np.median([math.log(row.model.flop_per_token) for row in here])
            nearest = min(away, key=lambda it: abs(math.log(it.model.flop_per_token) - flop))
            for row in here:
                ask(row, "a run on another card", nearest)
    return found


def size(row: Published) -> float:
    return row.recipe.micro_batch * row.model.flop_per_token


def rivals(data: Sequence[Published]) -> dict[str, list[Scored]]:
    """Half of the peak; FLOP over peak and bytes over bandwidth, refitted without the source."""
    facts = []
    for row in data:
        tokens = row.recipe.tokens_per_step(row.model) / row.recipe.ranks
        gpu = row.gpu
        peak = 1e12 * next(
            float(it)
            for it in (
                getattr(gpu, f"{row.recipe.dtype}_tflop_per_s", None),
                gpu.bf16_tflop_per_s,
                gpu.fp16_tflop_per_s,
                gpu.fp32_tflop_per_s,
            )
            if isinstance(it, float | int)
        )
        facts.append(
            (
                tokens * row.model.flop_per_token / peak,
                tokens * 1e6 / (1e9 * gpu.memory_bandwidth_gb_per_s),
                not row.recipe.compiled,
            )
        )
    flop, bytes_, eager = np.array(facts, float).T
    truth = np.log([row.seconds for row in data])
    half = [Scored(row, "nothing", its, 0.0) for row, its in zip(data, truth - np.log(2 * flop), strict=True)]
    grid = [
        (a, b, e) for a in np.geomspace(0.5, 3, 25) for b in np.geomspace(0.5, 25, 22) for e in (1, 1.2, 1.4, 1.6, 1.8)
    ]
    guess = np.stack([np.log(a * flop + b * bytes_) + eager * math.log(e) for a, b, e in grid])
    names = np.array([row.source for row in data])
    counts = Counter(names.tolist())
    loss = np.abs(truth - guess) / np.array([1 + counts[name] / 3 for name in names])
    two = []
    for name in counts:
        inside = np.flatnonzero(names == name)
        best = int(np.argmin(loss.sum(1) - loss[:, inside].sum(1)))
        two += [Scored(data[i], "nothing", truth[i] - guess[best, i], 0.0) for i in inside]
    return {"50 % of the peak": half, "two terms, refitted": two}


STORED = published.DATA / "accuracy.csv"
# What the topic of `explain` shows: (known, kind, in words).
TOPIC = (
    ("nothing", "without fp8 and toys", "nothing known of the code"),
    ("nothing", "compiled", "of these, compiled"),
    ("nothing", "eager", "eager"),
    ("nothing", "sharded", "sharded (FSDP)"),
    ("nothing", "by hand", "attention by hand"),
    ("nothing", "hand-written CUDA", "CUDA by hand"),
    ("nothing", "fp8", "fp8"),
    ("nothing", f"toys, up to {FEW_LAYERS} layers", f"toys of up to {FEW_LAYERS} layers"),
    ("program's name", "without fp8 and toys", "the program's name"),
    ("a run on another card", "without fp8 and toys", "a run of it on another card"),
    ("a run on this card", "without fp8 and toys", "a run of it on this card"),
    ("a run on this card", "within an e-fold", "of these, within an e-fold"),
    ("a run on this card", "farther", "farther"),
    ("rival", "50 % of the peak", "rival: 50 % of the peak"),
    ("rival", "two terms, refitted", "rival: two terms, refitted"),
)


class Line(NamedTuple):
    """A row of the table: how far off, and whether the interval held."""

    known: str
    kind: str
    rows: int
    sources: int
    median: float
    alike: float  # the median with sources alike
    within_90: float
    worst: float  # predicted over measured tokens/s, less 1
    held: float
    held_low: float
    held_high: float
    held_alike: float
    alike_low: float
    alike_high: float
    width: float  # of the 90 % interval, end to end, in logarithms


def line(known: str, kind: str, items: Sequence[Scored]) -> Line:
    sizes = [abs(math.expm1(it.error)) for it in items]
    held = [abs(it.error) <= it.half_width for it in items]
    by: dict[str, list[bool]] = defaultdict(list)
    for it, good in zip(items, held, strict=True):
        by[it.row.source].append(good)
    share = float(np.mean([np.mean(own) for own in by.values()]))
    worst = max(items, key=lambda it: abs(it.error))
    return Line(
        known,
        kind,
        len(items),
        len(by),
        float(np.median(sizes)),
        quantile_alike(items, sizes, 0.5),
        float(np.quantile(sizes, 0.9)),
        math.expm1(worst.error),
        float(np.mean(held)),
        *stats.binomial_interval(sum(held), len(held)),
        share,
        *stats.binomial_interval(round(share * len(by)), len(by)),
        float(np.median([2 * it.half_width for it in items])),
    )


def quantile_alike(items: Sequence[Scored], values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the weight is at or below, where sources weigh alike."""
    counts = Counter(it.row.source for it in items)
    order = np.argsort(values)
    upto = np.cumsum([1 / counts[items[i].row.source] for i in order])
    return float(np.asarray(values)[order][min(len(order) - 1, int(np.searchsorted(upto, share * upto[-1])))])


def plain(it: Scored) -> bool:
    """Neither fp8 nor a toy, which are reported apart."""
    return it.row.case.kind != "fp8" and not toy(it)


def toy(it: Scored) -> bool:
    return it.row.model.shape.layers <= FEW_LAYERS


def table(found: Sequence[Scored]) -> list[Line]:
    """All, all but fp8 and toys, and these by kind; fp8 and toys apart; then by what is known."""
    lines = []
    for known in CASES:
        items = [it for it in found if it.known == known]
        groups: list[tuple[str, Callable[[Scored], bool]]] = [("all", lambda _: True)]
        groups.append(("without fp8 and toys", plain))
        groups += [(kind, lambda it, kind=kind: it.row.case.kind == kind and not toy(it)) for kind in KINDS]
        groups.append((f"toys, up to {FEW_LAYERS} layers", toy))
        if known == CASES[-1]:
            groups.append(("within an e-fold", lambda it: plain(it) and it.away <= NEAR))
            groups.append(("farther", lambda it: plain(it) and it.away > NEAR))
        lines += [line(known, name, own) for name, keep in groups if (own := [it for it in items if keep(it)])]
    return lines


def shown(lines: Iterable[Line]) -> str:
    head = f"{'known':<22} {'kind':<22} rows src  median  alike   90 %   worst  held (range)     alike (range)    width"
    out = [head]
    for it in lines:
        ends = f"{it.held:.0%} ({it.held_low:.0%}..{it.held_high:.0%})"
        alike = f"{it.held_alike:.0%} ({it.alike_low:.0%}..{it.alike_high:.0%})"
        out.append(
            f"{it.known:<22} {it.kind:<22} {it.rows:4} {it.sources:3}  {it.median:6.1%} {it.alike:6.1%}"
            f" {it.within_90:6.1%} {it.worst:+7.0%}  {ends:<16} {alike:<16} e^{it.width:.2f}"
        )
    return "\n".join(out)


def store(lines: Sequence[Line]) -> None:
    with STORED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Line._fields)
        writer.writerows([f"{it:.4f}" if isinstance(it, float) else it for it in one] for one in lines)


def stored() -> list[Line]:
    with STORED.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {"known": str, "kind": str, "rows": int, "sources": int}
    return [Line(**{name: kinds.get(name, float)(value) for name, value in row.items()}) for row in rows]


def topic_lines(lines: Sequence[Line]) -> list[str]:
    """As doctor/topics/accuracy.md has them."""
    by = {(it.known, it.kind): it for it in lines}
    out = []
    for known, kind, words in TOPIC:
        it = by.get((known, kind))
        if it is None:
            continue
        runs = f"{it.rows} run{'s' if it.rows > 1 else ''} of {it.sources} source{'s' if it.sources > 1 else ''}"
        said = f"- {words} ({runs}): off by {it.alike * 100:.0f} %, worst {it.worst * 100:+.0f} %"
        if it.width:
            said += f"; the interval held {it.held * 100:.0f} % of runs, {it.held_alike * 100:.0f} % of sources"
            said += f" ({it.alike_low * 100:.0f} to {it.alike_high * 100:.0f}), e^{it.width:.2f} wide"
        out.append(said)
    return out
