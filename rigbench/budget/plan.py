"""How long does a compute budget take on a rig, for its models together and for each alone, and at what cost?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rigbench.backtest.record import Coverage
from rigbench.budget import amounts, laws, money, overheads, remarks, sanity, spans
from rigbench.budget.comparable import StoredSlice, Wanted, choose
from rigbench.budget.forecast import NOTHING_KNOWN, Forecast, Known, Machine, from_slices
from rigbench.budget.record import AskedFor, AskedKind, Budget, PlanRow, Rate, Rent, Split, Sum
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.model.record import Model
from rigbench.work import power as cost
from rigbench.work.record import NOTHING_DECLARED, Power, WattOptions

METHOD = 2
NOT_DECLARED = Absent("not declared")


@dataclass(frozen=True)
class Question:
    """What is asked: an amount of `kind` for these models. FLOP are 6·N·D or (`exact`) the closed form with attention.

    `declared_hours` is what somebody says that it takes, to be checked against. `cards` are of the rig asked about.
    """

    amount: float
    series_name: str
    models: tuple[Model, ...]
    exact: bool = False
    wanted: Wanted | None = None
    watts: WattOptions = NOTHING_DECLARED
    price: Price | Absent = cost.NO_PRICE
    kind: AskedKind = "flops"
    split: Split = "equal tokens"
    declared_hours: float | Absent = NOT_DECLARED
    batch_tokens: int | None = None
    overheads: overheads.Asked = field(default_factory=overheads.Asked)
    hot_over_cold: float | None = None
    lifetime_hours: float | None = None
    wants_next_slice: bool = False
    rent: money.RentPrice | Absent = NOT_DECLARED
    purchase: money.RigPrice | Absent = NOT_DECLARED


def plan(
    question: Question,
    measured: Sequence[StoredSlice],
    started_at: str,
    history: Coverage | None = None,
    better: Mapping[str, Rate] | None = None,
    about: Known = NOTHING_KNOWN,
) -> Budget:
    """The budget's record from stored slices of this rig, its back-tests, and what else is known of it (`about`).

    `better` are rates from a calibrated model of the training step, by model.

    Raises:
        RigbenchError: an amount that is no budget or too little for one step (exit 2); nothing measured near enough
            (exit 3).
    """
    check(question)
    chosen = choose(question.models, measured, question.wanted)
    device = chosen.configuration.device
    power = cost.power([stored.slice for stored in chosen.slices], question.watts)
    machine = Machine(
        configuration=chosen.configuration,
        cards=chosen.configuration.ranks or 1,
        card=device.name,
        power=power,
        left_out=chosen.left_out,
        known=about,
    )
    forecasts = from_slices(question.models, chosen, history, better or {}, question.batch_tokens)
    return assemble(question, machine, forecasts, started_at)


def assemble(question: Question, machine: Machine, forecasts: Sequence[Forecast], started_at: str) -> Budget:
    """The budget's record of one rig, from what is known of it and of each model on it.

    Raises:
        RigbenchError: less than one step for a model, or less than the fixed part of a run.
    """
    if question.hot_over_cold is not None:
        machine = machine.declared_hot(question.hot_over_cold)
    flop, tokens = _amount(question, machine, forecasts)
    _check_steps(question, flop.value, tokens, forecasts)
    price, power = question.price, machine.power
    series = tuple(_row(its, count, power, price) for its, count in zip(forecasts, tokens, strict=True))
    alone = tuple(
        _row(its, flop.value / amounts.flop_per_token(its.model, question.exact), power, price) for its in forecasts
    )
    hours = spans.total([row.hours for row in series])
    flop_exact = math.fsum(row.flop_exact for row in series)
    energy = cost.kwh(hours, power)
    beyond = overheads.rows(forecasts, tokens, machine, question.overheads)
    whole = _whole(hours, overheads.whole_hours(hours, beyond), power, price)
    currency = price.currency if isinstance(price, Price) else ""
    budget = Budget(
        method=METHOD,
        started_at=started_at,
        flops=flop.value,
        flops_counted_as="exact" if question.exact else "6·N·D",
        configuration=machine.configuration,
        series_name=question.series_name,
        series=series,
        series_tokens_each=math.fsum(tokens) / len(tokens),
        series_flop_6n=math.fsum(row.flop_6n for row in series),
        series_flop_exact=flop_exact,
        series_hours=hours,
        series_model_flops_per_s=spans.per_second(flop_exact, hours),
        series_kwh=energy,
        series_money=cost.money(energy, power, price),
        alone=alone,
        power=power,
        price=price,
        assumptions=(*remarks.assumptions(question.exact), *machine.known.notes),
        left_out=(*machine.left_out, *machine.known.left_out),
        warnings=(
            *remarks.warnings(series, alone, whole.hours, machine),
            *(() if isinstance(power, Absent) else power.warnings),
        ),
        rig=machine.name or msgspec.UNSET,
        asked=AskedFor(question.kind, question.amount, question.split, flop, currency, question.declared_hours),
        overheads=beyond,
        whole=whole,
        written=overheads.written(forecasts, question.overheads),
        next_slice=machine.known.next_slice or msgspec.UNSET,
    )
    return _judged(budget, question, machine, whole)


def _judged(budget: Budget, question: Question, machine: Machine, whole: Sum) -> Budget:
    """With what else its hours cost, whether they are plausible, and what scaling laws say of its FLOP."""
    rented = _rent(question, machine, whole.hours)
    price_of_rig = machine.known.purchase if isinstance(question.purchase, Absent) else question.purchase
    bought = money.purchase(whole.hours, price_of_rig, question.lifetime_hours)
    currency = question.price.currency if isinstance(question.price, Price) else ""
    return msgspec.structs.replace(
        budget,
        rent=rented,
        purchase=bought,
        break_even=money.break_even(whole.hours, rented, bought, whole.money, currency),
        sanity=sanity.check(
            machine,
            budget.flops,
            budget.series_flop_exact,
            budget.series_model_flops_per_s,
            whole.hours,
            whole.kwh,
            question.declared_hours,
        ),
        laws=laws.optima(budget.flops),
    )


def check(question: Question) -> None:
    """Refuse, before anything is measured for it, a question that no measurement could answer.

    Raises:
        RigbenchError: no budget, no models, no price, or too few FLOP for one sequence each.
    """
    if not (math.isfinite(question.amount) and question.amount > 0):
        raise RigbenchError(f"{question.amount:g} FLOP is not a budget", "give --flops a positive number, like 1.2e18")
    if not question.models:
        raise RigbenchError(f"the series {question.series_name} has no models", "name a series that has, or --params")
    if isinstance(question.price, Price) and not question.price.per_kwh > 0:
        raise RigbenchError(
            f"{question.price.per_kwh:g} {question.price.currency}/kWh is not a price", "give --price above zero"
        )
    if question.kind in amounts.FORWARD:
        tokens = amounts.forward(question.models, question.kind, question.amount, question.split, question.exact)
        flop = amounts.flop_of(question.models, tokens, question.exact)
        for model, count in zip(question.models, tokens, strict=True):
            _refuse_less_than_a_step(question, flop, model.name, count, model.shape.sequence)


def _amount(question: Question, machine: Machine, forecasts: Sequence[Forecast]) -> tuple[Estimate, tuple[float, ...]]:
    """FLOP in all, and tokens of each model, however the question was put."""
    models, kind, exact = question.models, question.kind, question.exact
    if kind in amounts.FORWARD:
        tokens = amounts.forward(models, kind, question.amount, question.split, exact)
        flop = amounts.flop_of(models, tokens, exact)
        return Estimate(flop, flop, flop, 1.0, "as asked", 0), tokens
    each = amounts.shares(models, question.split, exact)

    def takes(flop: float) -> tuple[float, float, float]:
        return _takes(question, machine, forecasts, [flop * share for share in each])

    unit = {"electricity": "of electricity", "rent": "of rent"}.get(kind, kind)
    low, flop, high = amounts.backward(takes, question.amount, unit)
    confidence = min(its.rate.tokens_per_s.level for its in forecasts)
    found = Estimate(flop, low, high, confidence, f"what {kind} buy, overheads taken off", 0)
    return found, tuple(flop * share for share in each)


def _takes(
    question: Question, machine: Machine, forecasts: Sequence[Forecast], tokens: Sequence[float]
) -> tuple[float, float, float]:
    """(low, middle, high) of the hours, kWh or money that so many tokens take, overheads and all.

    Raises:
        RigbenchError: watts, the bill's price or a rent are not known; exit 2 with the option.
    """
    hours = spans.total(
        [spans.hours(count, its.rate.tokens_per_s) for count, its in zip(tokens, forecasts, strict=True)]
    )
    beyond = overheads.rows(forecasts, tokens, machine, question.overheads)
    whole = _whole(hours, overheads.whole_hours(hours, beyond), machine.power, question.price)
    rented = _rent(question, machine, whole.hours)
    wanted: Estimate | Figure | Absent = {
        "hours": whole.hours,
        "kWh": whole.kwh,
        "electricity": whole.money,
        "rent": rented if isinstance(rented, Absent) else rented.money,
    }[question.kind]
    if isinstance(wanted, Absent):
        raise RigbenchError(f"{question.kind} cannot be turned into FLOP: {wanted.reason}", "")
    low, high = (wanted.value if isinstance(end, Absent) else end for end in (wanted.low, wanted.high))
    return low, wanted.value, high


def _rent(question: Question, machine: Machine, hours: Estimate) -> Rent | Absent:
    price = machine.known.rent if isinstance(question.rent, Absent) else question.rent
    return money.rent(hours, price, machine.cards)


def _check_steps(question: Question, flop: float, tokens: Sequence[float], forecasts: Sequence[Forecast]) -> None:
    for count, its in zip(tokens, forecasts, strict=True):
        _refuse_less_than_a_step(question, flop, its.model.name, count, its.tokens_per_step)


def _refuse_less_than_a_step(question: Question, flop: float, model: str, tokens: float, step: int) -> None:
    """Less than one step is no training run."""
    if tokens >= step:
        return
    least = 1.05 * flop / tokens * step if tokens else 0.0  # what two digits may round away
    cure = f"give --flops {least:.2g} or more" if question.kind == "flops" else "give more"
    raise RigbenchError(f"{flop:.3g} FLOP is {tokens:,.1f} tokens for {model}, less than one step of {step:,}", cure)


def _whole(steps: Estimate, hours: Estimate, power: Power | Absent, price: Price | Absent) -> Sum:
    """Watts are those of training, also while the rig compiles and writes: an upper bound."""
    energy = cost.kwh(hours, power)
    return Sum(hours=hours, kwh=energy, money=cost.money(energy, power, price))


def _row(its: Forecast, tokens: float, power: Power | Absent, price: Price | Absent) -> PlanRow:
    model = its.model
    hours = spans.hours(tokens, its.rate.tokens_per_s)
    energy = cost.kwh(hours, power)
    return PlanRow(
        model=model.name,
        total_parameters=model.total_parameters,
        tokens=tokens,
        tokens_per_parameter=tokens / model.total_parameters,
        flop_6n=tokens * model.flop_per_token_6n,
        flop_exact=tokens * model.flop_per_token,
        rate=its.rate,
        hours=hours,
        kwh=energy,
        money=cost.money(energy, power, price),
        steps=tokens / its.tokens_per_step,
        tokens_per_step=its.tokens_per_step,
        batch=its.batch,
        losses=laws.losses(model.total_parameters, model.non_embedding_parameters, tokens),
    )
