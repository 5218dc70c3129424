"""Shows a series as planned, models that were trained for real, and the law of their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.core.screen import Headline, closing, grid, headline, printable, skipped, table
from rigbench.model.record import Model
from rigbench.scaling import law_screen, plan_screen, sizes
from rigbench.scaling.record import NOT_BEGUN, Fit, Paired, SeriesPlan, Sized, Trained, points

if TYPE_CHECKING:
    from rigbench.document import Run

COLUMNS = ("=model", ">parameters", ">tokens", ">steps", ">loss", ">tokens/s", ">took")
MOST_ROWS, MOST_EVENTS = 24, 6


def brief_run(run: Run, console: Console, quiet: bool) -> None:
    """The losses on one screen; where there is a law, those at each model's most tokens, and the law."""
    _show(run, console, quiet, MOST_ROWS)
    if isinstance(run.plan, SeriesPlan):
        plan_screen.show(run.plan, console)
    if not isinstance(run.law, Fit):
        return
    alone = not run.scaling
    law_screen.brief(run.law, console, quiet or not alone, run.id)
    if not alone and not quiet:
        law_screen.chart(run.law, run.law.lines[-1], console)
        if isinstance(run.law.difference, Paired):
            console.print(grid([(run.law.difference.second, law_screen.difference(run.law.difference))]))
        closing(
            "90 % intervals; no point and no seed was left out for not fitting",
            f"rigbench scaling fit {run.id}: the next model, published laws; --verbose: each branch",
            console,
        )


def show_run(run: Run, console: Console) -> None:
    """Every loss at a branch's end, and all of the law."""
    _show(run, console, False, None)
    if isinstance(run.plan, SeriesPlan):
        plan_screen.show(run.plan, console)
    if isinstance(run.law, Fit):
        law_screen.show(run.law, console)


def verdict(result: Trained | Fit | SeriesPlan) -> Headline:
    if isinstance(result, SeriesPlan):
        return plan_screen.verdict(result)
    if isinstance(result, Fit):
        return law_screen.verdict(result)
    ends = points(result)
    if not ends:
        return "warn", f"{result.model.name}: {result.stopped or 'no loss yet'}"
    last = ends[-1]
    return "ok", f"{last.model}: {last.loss:.3f} nats a token after {units.format_count(last.tokens)} tokens"


def _show(run: Run, console: Console, quiet: bool, most: int | None) -> None:
    trained = [it for it in run.scaling if isinstance(it, Trained)]
    for it in run.scaling:
        if isinstance(it, Skipped) and it.reason != NOT_BEGUN:
            skipped(it.probe, it.reason, console)
    if not trained:
        return
    headline("scaling run", sentence(run), console)
    kinds = len({(it.recipe.optimizer, it.seed) for it in trained})
    short = most is not None and isinstance(run.law, Fit)
    if short and kinds > 1:
        console.print(_by_model(trained))
        if not quiet:
            console.print(grid(facts(trained, most, short)))
        return
    rows = [row for it in trained for row in _rows(it, kinds, short)]
    console.print(table(COLUMNS, rows[:most]))
    if most is not None and len(rows) > most:
        console.print(Text(f"  … {len(rows) - most} more: rigbench report {run.id} --verbose", style="dim"))
    if not quiet:
        console.print(grid(facts(trained, most, short)))


def sentence(run: Run) -> Headline:
    """Of all that were trained."""
    trained = [it for it in run.scaling if isinstance(it, Trained)]
    ends = [point.loss for it in trained for point in points(it)]
    whole = [it for it in trained if it.finished]
    losses = (
        f", {' to '.join(dict.fromkeys(f'{it:.3f}' for it in (max(ends), min(ends))))} nats a token" if ends else ""
    )
    seconds = units.format_seconds(sum(it.seconds for it in trained))
    text = f"{len(whole)} of {len(run.scaling)} models trained to their end in {seconds}{losses}"
    return ("ok" if len(whole) == len(run.scaling) else "warn"), text


def _by_model(trained: Sequence[Trained]) -> object:
    """Of several optimizers and seeds: a row a model, each optimizer's mean loss of the seeds, on the most tokens."""
    optimizers = list(dict.fromkeys(it.recipe.optimizer for it in trained))
    seeds = len({it.seed for it in trained})
    rows = []
    for name in dict.fromkeys(it.model.name for it in trained):
        its = [it for it in trained if it.model.name == name]
        losses = []
        for optimizer in optimizers:
            ends = [points(it)[-1].loss for it in its if it.recipe.optimizer == optimizer and it.finished]
            few = f" ({len(ends)} of {seeds})" if len(ends) < seeds else ""
            losses.append(f"{sum(ends) / len(ends):.4f}{few}" if ends else "n/a")
        one, took, end = its[0], units.format_seconds(sum(it.seconds for it in its)), its[0].schedule.steps[-1]
        counts = [units.format_count(it) for it in (one.model.total_parameters, end * one.tokens_per_step)]
        rows.append((printable(name), *counts, f"{end:,}", *losses, took))
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    headings = ("=model", ">parameters", ">tokens", ">steps", *(f">{it}{mean}" for it in optimizers), ">took")
    return table(headings, rows)


def _rows(it: Trained, kinds: int, short: bool) -> list[tuple[str, ...]]:
    """A row a branch, the model's own facts in the first; `short`: the last alone."""
    rate, rows = it.tokens_per_s, list[tuple[str, ...]]()
    name = printable(it.model.name) + (f", {it.recipe.optimizer}, seed {it.seed}" if kinds > 1 else "")
    first = (name, units.format_count(it.model.total_parameters))
    speed = "n/a" if isinstance(rate, Absent) else units.format_count(rate.value)
    last = (speed, units.format_seconds(it.seconds))
    for branch in it.branches[-1:] if short else it.branches:
        loss = "n/a" if isinstance(branch.loss, Absent) else f"{branch.loss:.4f}"
        rows.append((*first, units.format_count(branch.tokens), f"{branch.steps:,}", loss, *last))
        first, last = ("", ""), ("", "")
    return rows or [(*first, "n/a", f"{len(it.training_loss):,}", "n/a", *last)]


def _in_eight_bits(model: Model) -> float:
    """The share of a model's weights whose optimizer states AdamW8bit holds in 8 bits."""
    from rigbench.model.counts import parameter_tensors
    from rigbench.predict.loop import SMALL_ELEMENTS

    sizes_ = [math.prod(dims) for _, dims in parameter_tensors(model.shape)]
    return sum(size for size in sizes_ if size >= SMALL_ELEMENTS) / sum(sizes_)


def facts(trained: Sequence[Trained], most: int | None = None, short: bool = False) -> list[tuple[str, str]]:
    """`short`: without how all were trained, for which beside a law there is no room."""
    one, said = trained[0], list[tuple[str, str]]()
    if not short:
        rates = ", ".join(dict.fromkeys(f"{it.model.name} {it.schedule.learning_rate:.2g}" for it in trained))
        held, epochs = f"{one.held_out_tokens:,} held-out tokens", max(it.epochs for it in trained)
        recipes = " and ".join(dict.fromkeys(it.recipe.words for it in trained))
        seeds = ", ".join(map(str, sorted({it.seed for it in trained})))
        said.append(("how", f"{recipes}; warm-up, stable, decay over the last fifth; seed {seeds}"))
        said.append(("rates", f"{rates}; {one.tokens_per_step:,} tokens a step of {one.model.name}"))
        said.append(("loss", f"on {held} of {printable(one.data.name)}, nats a token; at most {epochs:.2g} epochs"))
    if eight := list(dict.fromkeys(it.model for it in trained if it.recipe.optimizer.endswith("8bit"))):
        shares = ", ".join(f"{units.format_share(_in_eight_bits(it))} of {printable(it.name)}" for it in eight)
        said.append(("8 bits", f"hold the states of {shares}; bitsandbytes keeps 32 for small tensors"))
    if isinstance(one.sizes, Sized):
        said.append(("chosen", sizes.words(one.sizes, list(dict.fromkeys(it.model for it in trained)))))
    for name in ("torch", "device", "threads"):
        if len(of := dict.fromkeys(str(getattr(it.conditions, name)) for it in trained)) > 1:
            said.append(("differs", f"{name}, from model to model: {', '.join(map(printable, of))}"))
    told = [(it.model.name, text) for it in trained for text in (*it.events, *([it.stopped] if it.stopped else []))]
    said += [(printable(name), printable(text)) for name, text in told[: None if most is None else MOST_EVENTS]]
    return said
