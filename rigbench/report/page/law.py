"""The page's sections on models that were trained for real, and on how losses fall with size, data and compute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rigbench.core.record import Absent, Skipped
from rigbench.document import Run
from rigbench.report.page import charts
from rigbench.report.page.kit import Chart, Section, Table, cells, held
from rigbench.scaling import law_screen, screen
from rigbench.scaling.record import Fit, Joint, Line, Paired, Trained, points

STEPS = 40  # of a drawn law
STRETCHES = 60  # of a training, each drawn as its mean loss


def sections(run: Run) -> Iterator[Section]:
    """None where no series was trained and no law fitted: they are no part of a rig's health."""
    if trained := [it for it in run.scaling if isinstance(it, Trained)]:
        yield _trained(run, trained)
    fit = held(run.law, Fit)
    if fit:
        yield _law(fit)


def _trained(run: Run, trained: Sequence[Trained]) -> Section:
    """A chart for each optimizer and seed; every loss at a decay's end in a table."""
    rows = [
        cells(it.model.name, it.recipe.optimizer, it.seed, it.model.total_parameters, branch.tokens, branch.steps,
              branch.loss if isinstance(branch.loss, Absent) else f"{branch.loss:.4f}", it.tokens_per_s
              if isinstance(it.tokens_per_s, Absent) else it.tokens_per_s.value)
        for it in trained for branch in it.branches
    ]  # fmt: skip
    headings = ("model", "optimizer", ">seed", ">parameters", ">tokens", ">steps", ">held-out loss", ">tokens/s")
    kinds = dict.fromkeys((it.recipe.optimizer, it.seed) for it in trained)
    charts_ = [_curves([it for it in trained if (it.recipe.optimizer, it.seed) == kind], *kind) for kind in kinds]
    facts = [f"{name}: {text}." for name, text in screen.facts(trained)]
    told = (
        "The held-out loss is that after a decay of the learning rate, the training loss that of the trunk before it."
    )
    skipped = [f"{it.probe}: {it.reason}" for it in run.scaling if isinstance(it, Skipped)]
    losses = Table("Losses", headings, rows, ".scaling")
    sentences = [f"{screen.sentence(run)[1]}.", told, *facts]
    return Section("series", "The series that was trained", sentences, charts_, [losses], skipped)


def _curves(trained: Sequence[Trained], optimizer: str, seed: int) -> Chart:
    lines, rows = list[charts.Line](), list[list[str]]()
    for it in trained:
        size = math.ceil(len(it.training_loss) / STRETCHES)
        drawn = list[tuple[float, float]]()
        for start in range(0, len(it.training_loss), max(1, size)):
            some = [loss for loss in it.training_loss[start : start + size] if isinstance(loss, float)]
            if some:
                drawn.append((float((start + size) * it.tokens_per_step), sum(some) / len(some)))
        lines.append(charts.Line(it.model.name, drawn, "line"))
        rows += [cells(it.model.name, at, f"{loss:.4f}") for at, loss in drawn]
    ends = [(float(point.tokens), point.loss) for it in trained for point in points(it)]
    lines.append(charts.Line("held-out", ends, "points", charts.INK))
    title = f"Loss over tokens: {optimizer}, seed {seed}"
    alt = f"Training loss of {len(trained)} models over tokens, and {len(ends)} held-out losses, axes logarithmic."
    table = Table("Training loss, means of stretches of steps", ("model", ">tokens", ">nats a token"), rows, ".scaling")
    return Chart(title, charts.lines(charts.Panel("nats a token", lines), "tokens"), alt, table)


def _law(fit: Fit) -> Section:
    """With the law of each optimizer, where there are two."""
    sentences = [f"{fit.source}: {law_screen.verdict(fit)[1]}."]
    for name, text in law_screen.facts(fit):
        sentences.append(f"{name}: {text}." if name else f"{text}.")
    tables = [Table("Published laws on these very points", ("law", "of", "data, tokenizer", ">theirs", ">ours", ">low",
                                                            ">high", "inside"),
                    [cells(it.law, it.of, it.data, it.exponent, it.ours.value, it.ours.low, it.ours.high,
                           "yes" if it.inside else "no") for it in fit.published], ".law.published")]  # fmt: skip
    if isinstance(fit.joint, Joint):
        its = fit.joint
        named = (("E", its.irreducible), ("A", its.a), ("B", its.b), ("alpha", its.alpha), ("beta", its.beta),
                 ("a of N ∝ C^a", its.size_exponent))  # fmt: skip
        rows = [cells(name, it.value, it.low, it.high) for name, it in named]
        tables.append(
            Table("L(N, D) = E + A/N^alpha + B/D^beta", ("its", ">value", ">low", ">high"), rows, ".law.joint")
        )
    if isinstance(fit.difference, Paired):
        its_pairs = fit.difference
        rows = [[model, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"] for model, a, b in its_pairs.pairs]
        headings = ("model", f">{its_pairs.first}", f">{its_pairs.second}", ">difference")
        tables.append(Table("The same runs with two optimizers", headings, rows, ".law.difference.pairs"))
    return Section(
        "law",
        "How the loss falls",
        [*sentences, *fit.odd],
        [_chart(fit, line, place) for place, line in enumerate(fit.lines)],
        tables,
        fit.missing,
    )


def _chart(fit: Fit, line: Line, place: int) -> Chart:
    models = list(dict.fromkeys(it.model for it in fit.points))
    at_x = [law_screen.x_of(it, line.of) for it in fit.points]
    ends = [at_x[it] for it in line.places]
    low, high = min(ends), max(*ends, line.next_x if line.of == "N" else 0.0)
    drawn = [(at, line.constant * at**-line.exponent.value) for at in law_screen.along(low, high, STEPS)]
    lines = []
    for number, model in enumerate(models):
        fitted = [(at_x[it], fit.points[it].loss) for it in line.places if fit.points[it].model == model]
        if fitted:
            lines.append(charts.Line(model, fitted, "points", charts.SERIES[number % len(charts.SERIES)]))
    others = [(at, it.loss) for place, (at, it) in enumerate(zip(at_x, fit.points, strict=True))
              if place not in line.places]  # fmt: skip
    if others:
        lines.append(charts.Line("not of this line", others, "small", charts.MUTED))
    lines.append(charts.Line(f"L({line.of})", drawn, "dashed", charts.INK))
    if not isinstance(line.floor, Absent):
        its = line.floor
        curve = [(at, its.irreducible.value + its.constant * at**-its.exponent.value) for at, _ in drawn]
        lines.append(charts.Line("with E", curve, "line", charts.MUTED))
    across = law_screen.NAMES[line.of]
    rows = [cells(it.model, at, it.loss, it.seed, place in line.places)
            for place, (at, it) in enumerate(zip(at_x, fit.points, strict=True))]  # fmt: skip
    slope = f"{line.exponent.value:.3f}"
    alt = f"Loss over {across}, both axes logarithmic: {len(line.places)} points and a line of slope -{slope}."
    title = f"L({line.of}) ∝ {line.of}^-{slope}, R² {law_screen.r_squared(line.r_squared)}: {line.among}"
    table = Table(
        f"Losses over {across}",
        ("model", f">{across}", ">nats a token", ">seed", "in the fit"),
        rows,
        f".law.lines[{place}]",
    )
    return Chart(title, charts.lines(charts.Panel("nats a token", lines), across), alt, table)
