"""Shows how a series is to be trained."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from rigbench.core import units
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import Headline, grid, headline, span, table
from rigbench.model.shape import series_names
from rigbench.scaling.record import SeriesPlan


def verdict(its: SeriesPlan) -> Headline:
    first, last = its.models[0], its.models[-1]
    names = first.model if len(its.models) == 1 else f"{len(its.models)} models, {first.model} to {last.model}"
    rates = sorted({f"{it.learning_rate:.1e}" for it in its.models}, key=float)
    rate = f"learning rate {rates[0]}" if len(rates) == 1 else f"learning rates {rates[0]} to {rates[-1]}"
    return "note", f"{names}: {rate}, batches below the critical one"


def show(its: SeriesPlan, console: Console) -> None:
    headline("plan", verdict(its), console)
    rows = [
        [
            it.model,
            units.format_count(it.tokens),
            f"{it.learning_rate:.1e}",
            f"{it.batch_tokens:,}",
            units.format_count(it.critical_batch_tokens),
            f"{it.steps:,}",
            f"{it.warm_up_steps:,}",
            f"{it.decay_steps:,}",
            "n/a" if isinstance(it.memory, Absent) else units.format_bytes(it.memory.value),
        ]
        for it in its.models
    ]
    headings = ("model", ">tokens", ">rate", ">batch", ">critical", ">steps", ">warm-up", ">decay", ">memory")
    console.print(table(headings, rows))
    console.print(grid(_facts(its)))


def _facts(its: SeriesPlan) -> Iterator[tuple[str, str]]:
    for number, source in enumerate(its.sources):
        yield "rules" if number == 0 else "", source
    if far := [it for it in its.models if it.beyond]:
        yield "stretched", f"{', '.join(it.model for it in far)}: {far[0].beyond}"
    places = " and ".join(units.format_share(share) for share in its.branches)
    more = units.format_share(its.branches_share)
    yield "L(N, D)", f"needs losses at {places} of the tokens too: decays from the same trunk, {more} more steps"
    if not isinstance(its.hours, Absent):
        yield (
            "in all",
            f"{span(its.hours * 3600, 'seconds')} with those, the evaluations of `scaling run` and its starts",
        )
    known = [(it.memory.value, it.model, it.memory) for it in its.models if isinstance(it.memory, Figure)]
    if known:
        _, model, memory = max(known, key=lambda it: it[0])
        yield "memory", f"{model} takes {span(memory, 'bytes')} on each card, the most of them"
    if reasons := dict.fromkeys(it.memory.reason for it in its.models if isinstance(it.memory, Absent)):
        yield "memory", f"n/a ({', '.join(reasons)})"
    tokens = {it.tokens for it in its.models}
    if its.series in series_names() and len(tokens) == 1:
        counts = ",".join(f"{share * min(tokens):.4g}" for share in (*its.branches, 1.0))
        yield (
            "next",
            f"rigbench scaling run --series {its.series} --data FILE.bin --tokens {counts.replace('e+0', 'e')}",
        )
