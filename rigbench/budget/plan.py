"""How long does a compute budget take on this rig, for a series with equal tokens and for each model alone?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rigbench import units
from rigbench.budget import cost, wall
from rigbench.budget.backtest import corrected
from rigbench.budget.comparable import Chosen, StoredSlice, Wanted, choose
from rigbench.budget.rates import rate
from rigbench.errors import RigbenchError
from rigbench.records import Absent, Budget, Estimate, Model, PlanRow, Power, Price, Rate
from rigbench.records.backtest import Coverage

METHOD = 1
SECONDS_PER_HOUR = 3600.0
HOURS_PER_YEAR = 8766.0

# About 20 tokens per parameter is compute-optimal (Hoffmann 2022); small models are often trained on ten times that.
# Outside these bounds a plan is more likely a slip than an intention.
FEW_TOKENS_PER_PARAMETER = 5.0
MANY_TOKENS_PER_PARAMETER = 500.0


@dataclass(frozen=True)
class Question:
    """What is asked: so many FLOP for these models, as 6·N·D or (`exact`) in the closed form with attention."""

    flops: float
    series_name: str
    models: tuple[Model, ...]
    exact: bool = False
    wanted: Wanted | None = None
    wall_watts: float | None = None
    host: wall.Host = cost.NO_HOST
    price: Price | Absent = cost.NO_PRICE


def plan(
    question: Question, measured: Sequence[StoredSlice], started_at: str, history: Coverage | None = None
) -> Budget:
    """The budget's record, from plain values: stored slices of this rig, its back-tests, a series, watts and a price.

    Raises:
        RigbenchError: FLOP that are no budget or too few for one step (exit 2); nothing measured near enough (exit 3).
    """
    check(question)
    chosen = choose(question.models, measured, question.wanted)
    power = cost.power([stored.slice for stored in chosen.slices], question.wall_watts, question.host)
    _check_tokens(question, max(stored.slice.tokens_per_step for stored in chosen.slices))
    tokens = _tokens_each(question)
    series, alone = _rows(question, tokens, chosen, power, history)
    hours = _sum([row.hours for row in series])
    flop_exact = math.fsum(row.flop_exact for row in series)
    energy = cost.kwh(hours, power)
    return Budget(
        method=METHOD,
        started_at=started_at,
        flops=question.flops,
        flops_counted_as="exact" if question.exact else "6·N·D",
        configuration=chosen.configuration,
        series_name=question.series_name,
        series=series,
        series_tokens_each=tokens,
        series_flop_6n=math.fsum(row.flop_6n for row in series),
        series_flop_exact=flop_exact,
        series_hours=hours,
        series_model_flops_per_s=_per_second(flop_exact, hours),
        series_kwh=energy,
        series_money=cost.money(energy, power, question.price),
        alone=alone,
        power=power,
        price=question.price,
        assumptions=_assumptions(question),
        left_out=chosen.left_out,
        warnings=(*_warnings(series, alone, hours), *(() if isinstance(power, Absent) else power.warnings or ())),
    )


def check(question: Question) -> None:
    """Refuse, before anything is measured for it, a question that no measurement could answer.

    Raises:
        RigbenchError: no budget, no models, no price, or too few FLOP for one sequence each.
    """
    if not (math.isfinite(question.flops) and question.flops > 0):
        raise RigbenchError(f"{question.flops:g} FLOP is not a budget", "give --flops a positive number, like 1.2e18")
    if not question.models:
        raise RigbenchError(f"the series {question.series_name} has no models", "name a series that has, or --params")
    if isinstance(question.price, Price) and not question.price.per_kwh > 0:
        raise RigbenchError(
            f"{question.price.per_kwh:g} {question.price.currency}/kWh is not a price", "give --price above zero"
        )
    _check_tokens(question, max(model.shape.sequence for model in question.models))
    cost.power((), question.wall_watts, question.host)


def _check_tokens(question: Question, step: int) -> None:
    """Less than one step is no training run."""
    tokens = _tokens_each(question)
    if tokens < step:
        least = 1.05 * question.flops / tokens * step  # what two digits may round away
        raise RigbenchError(
            f"{question.flops:.3g} FLOP is {tokens:,.1f} tokens for each of {question.series_name}, "
            f"less than one step of {step:,}",
            f"give --flops {least:.2g} or more",
        )


def _tokens_each(question: Question) -> float:
    return question.flops / math.fsum(_flop_per_token(model, question.exact) for model in question.models)


def _flop_per_token(model: Model, exact: bool) -> float:
    return model.flop_per_token if exact else model.flop_per_token_6n


def _rows(
    question: Question, tokens_each: float, chosen: Chosen, power: Power | Absent, history: Coverage | None
) -> tuple[tuple[PlanRow, ...], tuple[PlanRow, ...]]:
    """Each model with the series' tokens, and each with the tokens that all of the FLOP buy it alone."""
    series, alone = [], []
    for model in question.models:
        its = rate(model, chosen)
        its = corrected(its, history) if history else its
        series.append(_row(model, its, tokens_each, power, question.price))
        tokens_alone = question.flops / _flop_per_token(model, question.exact)
        alone.append(_row(model, its, tokens_alone, power, question.price))
    return tuple(series), tuple(alone)


def _row(model: Model, its: Rate, tokens: float, power: Power | Absent, price: Price | Absent) -> PlanRow:
    hours = _hours(tokens, its.tokens_per_s)
    energy = cost.kwh(hours, power)
    return PlanRow(
        model=model.name,
        total_parameters=model.total_parameters,
        tokens=tokens,
        tokens_per_parameter=tokens / model.total_parameters,
        flop_6n=tokens * model.flop_per_token_6n,
        flop_exact=tokens * model.flop_per_token,
        rate=its,
        hours=hours,
        kwh=energy,
        money=cost.money(energy, power, price),
    )


def _hours(tokens: float, tokens_per_s: Estimate) -> Estimate:
    """The slowest rate gives the most hours."""
    return Estimate(
        value=tokens / tokens_per_s.value / SECONDS_PER_HOUR,
        low=tokens / tokens_per_s.high / SECONDS_PER_HOUR,
        high=tokens / tokens_per_s.low / SECONDS_PER_HOUR,
        confidence=tokens_per_s.confidence,
        method="tokens over tokens/s",
        n=tokens_per_s.n,
    )


def _sum(hours: Sequence[Estimate]) -> Estimate:
    """One machine's errors are shared by its models, so lows and highs add: nothing is assumed to cancel."""
    return Estimate(
        value=math.fsum(h.value for h in hours),
        low=math.fsum(h.low for h in hours),
        high=math.fsum(h.high for h in hours),
        confidence=min(h.confidence for h in hours),
        method="sum of lows and of highs",
        n=sum(h.n for h in hours),
    )


def _per_second(flop: float, hours: Estimate) -> Estimate:
    return Estimate(
        value=flop / hours.value / SECONDS_PER_HOUR,
        low=flop / hours.high / SECONDS_PER_HOUR,
        high=flop / hours.low / SECONDS_PER_HOUR,
        confidence=hours.confidence,
        method="exact FLOP over hours",
        n=hours.n,
    )


def _assumptions(question: Question) -> tuple[str, ...]:
    counted = "exact FLOP (attention in full)" if question.exact else "6·N·D, N all parameters, tied weights once"
    return (
        f"FLOP are counted as {counted}",
        "hours are training steps alone: compile, evaluation, checkpoints and restarts are not included",
        "thermal steady state not measured: the slices were minutes long, and a hot device may be slower",
        "errors are shared by the models of one rig: the series' interval is the sum of the rows' lows and highs",
    )


def _warnings(series: Sequence[PlanRow], alone: Sequence[PlanRow], hours: Estimate) -> tuple[str, ...]:
    few = [row for row in alone if row.tokens_per_parameter < FEW_TOKENS_PER_PARAMETER]
    many = [row for row in alone if row.tokens_per_parameter > MANY_TOKENS_PER_PARAMETER]
    guessed = [row for row in series if row.rate.source == "predicted"]
    warnings = []
    if few:
        warnings.append(f"{_each(few)}: too little data for a model of that size (about 20 is compute-optimal)")
    if many:
        warnings.append(f"{_each(many)}: more data than a model of that size can use (about 20 is compute-optimal)")
    if guessed:
        widest = max(guessed, key=lambda row: row.rate.tokens_per_s.half_width)
        warnings.append(
            f"{len(guessed)} of {len(series)} models are predicted, not measured; "
            f"rigbench train-probe --params {widest.model} would narrow this most"
        )
    if hours.value > HOURS_PER_YEAR:
        warnings.append(f"that is {hours.value / HOURS_PER_YEAR:,.1f} years of this rig")
    return tuple(warnings)


def _each(rows: Sequence[PlanRow]) -> str:
    """As in "5M alone would see 37,200 tokens per parameter, 15M 5,100"."""
    first, *rest = ((row.model, units.format_significant(row.tokens_per_parameter, 3)) for row in rows)
    return ", ".join([f"{first[0]} alone would see {first[1]} tokens per parameter", *(f"{m} {n}" for m, n in rest)])
