"""Chooses the sizes of a series that is to end in time: by the rates of its smallest and largest model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.model.counts import describe
from rigbench.model.record import Model
from rigbench.scaling.record import Options, Sized
from rigbench.scaling.rules import decay_of

TRIED_SECONDS = 2.0  # of the smallest and of the largest
SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)  # of what each width is above the smallest's
FORWARD_SHARE = 1 / 3  # of a step, that evaluating as many tokens takes: assumed, by the FLOP


def work_of(options: Options) -> tuple[float, float]:
    """Tokens of all steps of trunk and branches, and their FLOP at 6·N a token."""
    its, ends = options.slice, options.schedule.steps
    assert isinstance(its.model, Model)
    steps = ends[-1] - decay_of(ends[-1]) + sum(map(decay_of, ends))
    tokens = float(steps * its.recipe.tokens_per_step(its.model))
    return tokens, tokens * its.model.flop_per_token_6n


def narrowed(models: Sequence[Model], share: float) -> tuple[Model, ...]:
    """Each as much wider than the smallest as that share of what it was; in whole heads, of an even width."""
    base = models[0].shape.width
    made = []
    for model in models:
        its = model.shape
        step = 2 * its.heads
        width = max(step, round((base + share * (its.width - base)) / step) * step)
        if share >= 1 or width >= its.width:
            made.append(model)
            continue
        feed = max(1, round(its.ffn_width * width / its.width))
        shape = msgspec.structs.replace(its, width=width, ffn_width=feed, head_dim=0)
        count = describe(shape, "").total_parameters
        name = f"{count / 1000:.3g}k" if count < 999_500 else units.format_count(count)  # as 56.4k, not 56,370
        made.append(describe(shape, name))
    return tuple(made)


def seconds(trainings: Sequence[Options], sized: Sized) -> float:
    """Of trainings one after the other: a token takes a while of its own and one by its FLOP, from the two measured;
    evaluations and starts counted in.
    """
    small, large = sized.tried[0], sized.tried[-1]
    low, high, first = small.flop_per_token, large.flop_per_token, 1 / small.tokens_per_s.value
    last = max(1 / large.tokens_per_s.value, first)  # of a larger model no token is faster
    whole = 0.0
    for its in trainings:
        assert isinstance(its.slice.model, Model)
        own = (its.slice.model.flop_per_token - low) / (high - low) if high > low else 0.0
        evaluations = its.evaluations + len(its.schedule.steps)
        tokens = work_of(its)[0] + FORWARD_SHARE * evaluations * its.held_out_tokens
        whole += sized.start_seconds + tokens * (first + own * (last - first))
    return whole


def chosen(
    models: Sequence[Model], trainings: Callable[[Sequence[Model]], Sequence[Options]], sized: Sized
) -> tuple[tuple[Model, ...], Sized]:
    """The widest that end in time, else the narrowest; `trainings`: those of some sizes."""
    for share in SHARES:
        its = narrowed(models, share)
        took = seconds(trainings(its), sized)
        if share == 1:
            sized = msgspec.structs.replace(sized, as_written_seconds=took)
        if took <= sized.within_seconds:
            break
    return its, msgspec.structs.replace(sized, share=share, expected_seconds=took)


def words(sized: Sized | Absent, models: Sequence[Model]) -> str:
    """What was chosen, in a sentence."""
    if isinstance(sized, Absent):
        return f"sizes as written: {sized.reason}"
    rates = " and ".join(f"{it.model} at {units.format_count(it.tokens_per_s.value)} tokens/s" for it in sized.tried)
    within, took = (units.format_seconds(it) for it in (sized.within_seconds, sized.expected_seconds))
    if sized.share == 1 and sized.expected_seconds <= sized.within_seconds:
        return f"sizes as written: measured {rates}, so about {took} of {within}"
    as_written = units.format_seconds(sized.as_written_seconds)
    said = f"measured {rates}, so as written about {as_written}, over {within}"
    ends = f"{models[0].name} to {models[-1].name}"
    if sized.expected_seconds > sized.within_seconds:
        return f"sizes narrowed to {ends}: {said}; even so about {took}"
    return f"sizes narrowed to {ends}, about {took}: {said}"
