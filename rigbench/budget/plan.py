"""Turns an amount of training into a plan: tokens of each model, hours, kWh, money, and every overhead beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import msgspec

from rigbench.budget import deadline, laws, money, record
from rigbench.budget.record import AmountKind, Budget, CardPrice, Due, Options, Overhead, PlanRow, Split, Sum
from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN
from rigbench.core.record import NO_CARBON, Absent, Carbon, Figure, Price
from rigbench.model import named
from rigbench.model.counts import adapted
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.model.shape import model_named, series, series_names
from rigbench.predict.posterior import NOTHING_TOLD, Told
from rigbench.work import power as cost
from rigbench.work.record import NOTHING_DECLARED, Power, WattOptions

METHOD = 3
DEFAULT_FLOPS = 1.2e18
MOST_MODELS = 20
FORWARD: tuple[AmountKind, ...] = ("flops", "tokens", "tokens per parameter")
HOUR, HOURS_PER_YEAR = 3600.0, 8766.0

# What is assumed where nothing was measured; each is said beside its hours, with the option that changes it. Middle,
# low and high.
COMPILE_SECONDS = (60.0, 20.0, 180.0)
WARMUP_SECONDS = (30.0, 10.0, 120.0)
EVAL_TOKENS, EVAL_EVERY_TOKENS = float(1 << 20), 50e6
CHECKPOINT_EVERY_HOURS = 1.0
DISK_BYTES_PER_S = (500e6, 100e6, 2e9)  # one SATA disk; a hard disk, and an NVMe
RESTARTS_PER_DAY = (0.1, 0.0, 1.0)
KEPT = 2
FORWARD_SHARE, FORWARD_SHARE_ADAPTED = 1 / 3, 1 / 2  # of a step: backward takes twice what forward takes (Kaplan 2020,
# §2.1), and as much where weights are frozen
WEIGHT_BYTES, MOMENTS_BYTES, MOMENTS_8BIT_BYTES = 4, 8, 2 + 8 / 256
# Slices last minutes; a case takes half an hour to warm through, and clocks fall meanwhile. Assumed where not measured.
NOT_SOAKED = Estimate(0.0, 0.0, 0.05, stats.LEVEL, "assumed", 0)
HOT_WORDS = "not measured: 0 to 5 % more is assumed (`rigbench thermals` measures it, or hot-over-cold)"

# About 20 tokens per parameter is compute-optimal (Hoffmann 2022); small models are often trained on ten times that.
# Outside these bounds a plan is more likely a slip than an intention.
FEW_TOKENS_PER_PARAMETER, MANY_TOKENS_PER_PARAMETER = 5.0, 500.0
# A single pass over text at a few per cent of the peak is a broken set-up, not a slow card: published loops of small
# models lie between 15 and 60 % of it, eager and old ones included.
FAR, POSSIBLE_SHARE = 2.0, 0.9
FULL, EIGHT_BIT = "weights and AdamW's two moments in fp32", "8-bit moments"
COUNTED_6N = "6·N·D, N all parameters, tied weights once"


class Request(NamedTuple):
    """What a budget is asked for, read from the options: an amount of `kind` for these models."""

    models: tuple[Model, ...]
    name: str  # of their series, or their own names
    amount: float = DEFAULT_FLOPS
    kind: AmountKind = "flops"
    declared_hours: float | Absent = NOT_GIVEN  # what somebody says that it takes, to be checked
    declared_kwh: float | Absent = NOT_GIVEN
    options: Options = Options()
    recipe: RecipeOptions = RecipeOptions()
    watts: WattOptions = NOTHING_DECLARED
    price: Price | Absent = cost.NO_PRICE
    told: Told = NOTHING_TOLD  # of the code, where the rig is not this one
    batches: tuple[int, ...] = ()  # tokens in a step of each model, where a rule chose them

    def batch_of(self, model: Model) -> int | Absent:
        """Tokens in a step that were asked for."""
        return self.batches[self.models.index(model)] if self.batches else self.options.batch_tokens

    @property
    def split(self) -> Split:
        return "equal tokens" if isinstance(self.options.split, Absent) else self.options.split

    def flop_per_token(self, model: Model) -> float:
        return model.flop_per_token if self.options.exact_flops else model.flop_per_token_6n

    def flop_of(self, tokens: Sequence[float]) -> float:
        return math.fsum(n * self.flop_per_token(model) for model, n in zip(self.models, tokens, strict=True))

    def shares(self) -> tuple[float, ...]:
        """Tokens of each model for one FLOP in all.

        "compute-optimal" gives every model the same tokens per parameter, as Hoffmann 2022 finds best at any size.
        """
        weights = {
            "equal tokens": [1.0 for _ in self.models],
            "equal FLOP": [1.0 / self.flop_per_token(model) for model in self.models],
            "compute-optimal": [float(model.total_parameters) for model in self.models],
        }[self.split]
        flop = self.flop_of(weights)
        return tuple(weight / flop for weight in weights)

    def hours(self, tokens_per_s: Iterable[float]) -> list[float]:
        """Of each model at such rates; where the request is of time or energy, up to one factor."""
        counts = self.tokens() if self.kind in FORWARD else self.shares()
        return [count / rate for count, rate in zip(counts, tokens_per_s, strict=True)]

    def tokens(self) -> tuple[float, ...]:
        """Of each model, where the request itself tells them. With tokens, `amount` is each model's."""
        if self.kind == "tokens":
            return tuple(self.amount for _ in self.models)
        if self.kind == "tokens per parameter":
            return tuple(self.amount * model.total_parameters for model in self.models)
        return tuple(self.amount * share for share in self.shares())

    def refuse_less_than_a_step(self, flop: float, model: str, tokens: float, step: int) -> None:
        """Less than one step is no training run."""
        if tokens >= step:
            return
        least = 1.05 * flop / tokens * step if tokens else 0.0  # what two digits may round away
        cure = f"give --flops {least:.2g} or more" if self.kind == "flops" else "give more"
        what = f"{flop:.3g} FLOP is {tokens:,.1f} tokens for {model}, less than one step of {step:,}"
        raise RigbenchError(what, cure)


def request(options: Options, recipe: RecipeOptions, watts: WattOptions, price: Price | Absent) -> Request:
    """Refuses, before anything is measured for it, what no measurement could answer."""
    if recipe.precision == "auto":
        recipe = msgspec.structs.replace(recipe, precision=NOT_GIVEN)
    models, name = _models(options)
    for model in models:
        recipe.refuse_beyond(model.shape)
    models = tuple(adapted(model, recipe.over(Recipe())) for model in models)
    kind, amount, declared = _amount(options, price)
    if not isinstance(options.split, Absent) and (len(models) == 1 or kind in ("tokens", "tokens per parameter")):
        why = "one model" if len(models) == 1 else "models whose tokens are given"
        raise RigbenchError(f"--split shares a budget out, and this is about {why}", "leave --split out")
    made = Request(models, name, amount, kind, *declared, options, recipe, watts, price)
    if kind in FORWARD:
        tokens = made.tokens()
        for model, count in zip(models, tokens, strict=True):
            made.refuse_less_than_a_step(made.flop_of(tokens), model.name, count, model.shape.sequence)
    return made


def _models(options: Options) -> tuple[tuple[Model, ...], str]:
    if not isinstance(options.model, Absent):
        if not isinstance(options.params, Absent):
            raise RigbenchError("--model and --params exclude each other", "give the one that you mean")
        model = named.choose(named.ModelOptions(model=options.model))
        return (model,), model.name
    whole = options.series if isinstance(options.params, Absent) else options.params.strip()
    if isinstance(options.params, Absent) or whole in series_names():
        return tuple(entry.model for entry in series(whole).models), whole
    parts = [part.strip() for part in options.params.split(",") if part.strip()]
    if not 1 <= len(parts) <= MOST_MODELS:
        raise RigbenchError(f"--params {options.params[:40]!r} is {len(parts)} models", f"give 1 to {MOST_MODELS}")
    models = tuple(model_named(part, options.series) for part in parts)
    if len({model.shape for model in models}) < len(models):
        raise RigbenchError(f"--params {options.params[:40]!r} names one model twice", "name each once")
    return models, ", ".join(model.name for model in models)


Declared = tuple[float | Absent, float | Absent]


def _amount(options: Options, price: Price | Absent) -> tuple[AmountKind, float, Declared]:
    """What is given, how much of it, and the hours and kWh that were declared beside it."""
    amounts: dict[str, tuple[AmountKind, float | str | Absent]] = {
        "--flops": ("flops", options.flops),
        "--tokens": ("tokens", options.tokens),
        "--tokens-per-param": ("tokens per parameter", options.tokens_per_param),
        "--kwh": ("kWh", options.kwh),
        "--money": ("electricity" if isinstance(options.rent, Absent) else "rent", options.money),
    }
    given = [option for option, (_, amount) in amounts.items() if not isinstance(amount, Absent)]
    hours, kwh = options.hours, options.kwh
    if not isinstance(hours, Absent) and "--money" in given:
        given.insert(0, "--hours")
    if "--kwh" in given and (len(given) > 1 or not isinstance(hours, Absent)) and "--money" not in given:
        given.remove("--kwh")
    else:
        kwh = NOT_GIVEN
    if len(given) > 1:
        raise RigbenchError(f"{' and '.join(given)} exclude each other", "each of them is the whole budget; give one")
    if not given:
        if isinstance(options.deadline, Due) and isinstance(hours, Absent):
            return "hours", options.deadline.hours, (NOT_GIVEN, NOT_GIVEN)
        if isinstance(hours, Absent) or isinstance(kwh, float):  # both are the whole claim, of the usual budget
            return "flops", DEFAULT_FLOPS, (hours, kwh)
        if isinstance(options.deadline, Due):
            raise RigbenchError("--hours and --deadline exclude each other", "alone each says what that time buys")
        return "hours", hours, (NOT_GIVEN, NOT_GIVEN)
    kind, amount = amounts[given[0]]
    if isinstance(amount, str):  # money, in the currency of the electricity, or of the rent where that is declared
        number, _, currency = amount.strip().partition(" ")
        bill: Price | CardPrice | Absent = price if isinstance(options.rent, Absent) else options.rent
        known = "" if isinstance(bill, Absent) else bill.currency
        if currency and currency.strip().upper() != known:
            what = f"--money {amount!r} is not in {known or 'a known currency'}, as the {kind} is"
            raise RigbenchError(what, "give both in one")
        amount = units.parse_number(number, "--money", 1e-6, 1e12)
    assert isinstance(amount, float)
    return kind, amount, (hours, kwh)


class Forecast(NamedTuple):
    """One model on one rig."""

    model: Model
    rate: record.Rate
    tokens_per_step: int
    batch: str
    compile_seconds: float | Absent = Absent("not measured")
    startup_seconds: float | Absent = Absent("not measured")
    micro_batch: int = 0  # 0: not known
    memory: Figure | Absent = Absent("not known")  # of the process, on each card

    def hours(self, tokens: float) -> Estimate:
        return tokens / self.rate.tokens_per_s / HOUR


class Machine(NamedTuple):
    """One rig, and what is known of it beside its slices."""

    configuration: record.Configuration
    cards: int
    card: str
    power: Power | Absent
    name: str | Absent = record.THIS_RIG
    peak_flops_per_s: Figure | Absent = Absent("no datasheet of this device")  # all cards', in the recipe's precision
    hot_extra: Estimate = NOT_SOAKED  # the share of more hours once hot
    hot_basis: str = HOT_WORDS
    rent: CardPrice | Absent = money.NO_RENT
    purchase: record.RigPrice | Absent = money.NO_PURCHASE
    notes: tuple[str, ...] = ()
    remark: str = ""  # what of the rig is not counted, or was not measured so
    scaling: record.Scaling | Absent = record.ONE_CARD
    left_out: tuple[str, ...] = ()
    next_slice: record.NextSlice | Absent = Absent("no short run would narrow it")
    decides: tuple[str, ...] = ()  # what is assumed that decides most


def assemble(request: Request, machine: Machine, forecasts: Sequence[Forecast], started_at: str) -> Budget:
    """The budget's record of one rig, from what is known of it and of each model on it."""
    options, price, power = request.options, request.price, machine.power
    machine = _as_declared(machine, options)
    flop, tokens = _flop_and_tokens(request, machine, forecasts)
    for count, its in zip(tokens, forecasts, strict=True):
        request.refuse_less_than_a_step(flop.value, its.model.name, count, its.tokens_per_step)
    rows = tuple(_row(its, count, power, price) for its, count in zip(forecasts, tokens, strict=True))
    alone = tuple(_row(its, flop.value / request.flop_per_token(its.model), power, price) for its in forecasts)
    steps = reduce(add, (row.hours for row in rows))
    flop_exact = math.fsum(row.flop_exact for row in rows)
    beyond = overheads(forecasts, tokens, machine, options)
    carbon = _carbon(options, price)
    whole = _whole(steps, beyond, power, price)
    whole = msgspec.structs.replace(whole, co2_kg=cost.co2_kg(whole.kwh, power, carbon))
    rent = money.rent(whole.hours, machine.rent, machine.cards)
    purchase = money.purchase(whole.hours, machine.purchase, options.lifetime)
    speed, steps_kwh, peak = flop_exact / steps / HOUR, cost.kwh(steps, power), machine.peak_flops_per_s
    return Budget(
        method=METHOD,
        started_at=started_at,
        rig=machine.name,
        remark=machine.remark,
        scaling=machine.scaling,
        goal=record.Goal(
            kind=request.kind,
            amount=request.amount,
            split=request.split,
            flops=flop,
            currency=price.currency if isinstance(price, Price) else price,
            declared_hours=request.declared_hours,
            declared_kwh=request.declared_kwh,
        ),
        deadline=_deadline(request, machine, forecasts, whole.hours),
        flops=flop.value,
        configuration=machine.configuration,
        series_name=request.name,
        series=rows,
        series_flop_6n=math.fsum(row.flop_6n for row in rows),
        series_flop_exact=flop_exact,
        series_hours=steps,
        series_model_flops_per_s=speed,
        series_kwh=steps_kwh,
        series_money=cost.money(steps_kwh, power, price),
        overheads=beyond,
        whole=whole,
        alone=alone,
        written=_written([its.model for its in forecasts], machine.configuration.recipe, options.keep_checkpoints),
        power=power,
        price=price,
        carbon=carbon,
        rent=rent,
        purchase=purchase,
        break_even=money.break_even(whole.hours, rent, purchase, power, price),
        sanity=record.Sanity(
            peak_flops_per_s=peak,
            share=peak if isinstance(peak, Absent) else speed / peak.value,
            flop_per_joule=_per_joule(flop_exact, whole.kwh),
            sentence=judgement(machine, flop.value, flop_exact, whole.hours, request.declared_hours),
            kwh_sentence=_judged_kwh(whole.kwh, power, request.declared_kwh),
        ),
        laws=laws.optima(flop.value),
        next_slice=machine.next_slice,
        decides=machine.decides,
        assumptions=(
            f"FLOP are counted as {'exact FLOP (attention in full)' if options.exact_flops else COUNTED_6N}",
            "a model's hours are training steps alone; the whole run has the overheads in it, at the watts of training",
            "errors are shared by the models of one rig: a sum's interval is the sum of the rows' lows and highs",
            *machine.notes,
        ),
        left_out=machine.left_out,
        warnings=_warnings(alone, whole.hours, machine),
    )


def _as_declared(machine: Machine, options: Options) -> Machine:
    """With what the user says in place of what is known or assumed."""
    if not isinstance(options.hot_over_cold, Absent):
        basis = f"hot over cold {options.hot_over_cold:g} (hot-over-cold)"
        machine = machine._replace(hot_extra=_exactly(1 / options.hot_over_cold - 1), hot_basis=basis)
    rent = machine.rent if isinstance(options.rent, Absent) else options.rent
    purchase = machine.purchase if isinstance(options.purchase, Absent) else options.purchase
    return machine._replace(rent=rent, purchase=purchase)


def _written(models: Sequence[Model], recipe: Recipe, keep: int | Absent) -> record.Written:
    kept, how = (KEPT, "assumed, keep-checkpoints") if isinstance(keep, Absent) else (keep, "keep-checkpoints")
    sizes = [checkpoint_bytes(model, recipe) for model in models]
    return record.Written(
        largest_bytes=max(sizes),
        kept_bytes=kept * sum(sizes),
        count=kept * len(sizes),
        basis=f"{EIGHT_BIT if '8bit' in recipe.optimizer else FULL}; the last {kept} of each model ({how})",
    )


def _carbon(options: Options, price: Price | Absent) -> Carbon | Absent:
    if not isinstance(options.carbon, Absent):
        return Carbon(options.carbon, "declared", "today", "--carbon")
    return NO_CARBON if isinstance(price, Absent) else price.carbon


def _deadline(
    request: Request, machine: Machine, forecasts: Sequence[Forecast], hours: Estimate
) -> record.Deadline | Absent:
    """Against each model alone too, with about as many tokens as are compute-optimal."""
    due = request.options.deadline
    if isinstance(due, Absent):
        return due
    by_then: Estimate | Absent
    try:
        by_then = _flop_and_tokens(request._replace(kind="hours", amount=due.hours), machine, forecasts)[0]
    except RigbenchError as error:
        by_then = Absent(error.what_happened)
    alone = {}
    for its in sorted(forecasts, key=lambda it: it.model.total_parameters):
        tokens = deadline.ENOUGH_TOKENS * its.model.total_parameters
        beyond = overheads([its], [tokens], machine, request.options)
        alone[its.model.name] = _whole(its.hours(tokens), beyond, Absent(""), Absent("")).hours
    return deadline.judged(due, hours, by_then, alone)


def _flop_and_tokens(
    request: Request, machine: Machine, forecasts: Sequence[Forecast]
) -> tuple[Estimate, tuple[float, ...]]:
    """FLOP in all, and tokens of each model, however the amount was put.

    Everything that a run takes grows in a straight line with its tokens (steps, evaluations, checkpoints) from what it
    takes without any (compilation, the last checkpoint), so that one division answers a question asked backwards.
    """
    if request.kind in FORWARD:
        tokens = request.tokens()
        flop = request.flop_of(tokens)
        return Estimate(flop, flop, flop, 1.0, "as asked", 0), tokens
    shares = request.shares()

    def takes(flop: float) -> tuple[float, float, float]:
        """(middle, low, high) of the hours, kWh or money for so many FLOP, overheads and all."""
        tokens = [flop * share for share in shares]
        steps = reduce(add, (its.hours(count) for count, its in zip(tokens, forecasts, strict=True)))
        beyond = overheads(forecasts, tokens, machine, request.options)
        whole = _whole(steps, beyond, machine.power, request.price)
        if request.kind == "hours":
            return whole.hours.value, whole.hours.low, whole.hours.high
        bill: Figure | Absent = whole.kwh if request.kind == "kWh" else whole.money
        if request.kind == "rent":
            rent = money.rent(whole.hours, machine.rent, machine.cards)
            bill = rent if isinstance(rent, Absent) else rent.money
        if isinstance(bill, Absent):
            raise RigbenchError(f"{request.kind} cannot be turned into FLOP: {bill.reason}", "")
        return bill.value, *bill.ends

    one = 1e15  # far from zero, so that the difference of two does not lose digits
    fixed = takes(0.0)
    flop, high, low = (
        (request.amount - start) / (end - start) * one for start, end in zip(fixed, takes(one), strict=True)
    )  # what takes most buys least
    if flop <= 0:
        unit = {"electricity": "of electricity", "rent": "of rent"}.get(request.kind, request.kind)
        raise RigbenchError(
            f"{request.amount:g} {unit} do not even cover compilation, warm-up and the last checkpoint, "
            f"{units.format_significant(fixed[0])} {unit}",
            "give more",
            exit_code=NOTHING,
        )
    level = min(its.rate.tokens_per_s.level for its in forecasts)
    method = f"what {request.kind} buy, overheads taken off"
    return Estimate(flop, max(low, 0.0), high, level, method, 0), tuple(flop * share for share in shares)


def _row(its: Forecast, tokens: float, power: Power | Absent, price: Price | Absent) -> PlanRow:
    model, hours = its.model, its.hours(tokens)
    kwh = cost.kwh(hours, power)
    return PlanRow(
        model=model.name,
        total_parameters=model.total_parameters,
        tokens=tokens,
        tokens_per_parameter=tokens / model.total_parameters,
        flop_6n=tokens * model.flop_per_token_6n,
        flop_exact=tokens * model.flop_per_token,
        rate=its.rate,
        hours=hours,
        kwh=kwh,
        money=cost.money(kwh, power, price),
        steps=tokens / its.tokens_per_step,
        tokens_per_step=its.tokens_per_step,
        batch=its.batch,
        micro_batch=its.micro_batch,
        memory=its.memory,
        losses=() if model.trains else laws.losses(model.total_parameters, model.non_embedding_parameters, tokens),
    )


def _whole(steps: Estimate, beyond: Sequence[Overhead], power: Power | Absent, price: Price | Absent) -> Sum:
    """Watts are those of training, also while the rig compiles and writes: an upper bound."""
    ends = [(one.hours.value, *one.hours.ends) for one in beyond]
    value, low, high = (math.fsum(column) for column in zip((steps.value, steps.low, steps.high), *ends, strict=True))
    hours = Estimate(value, low, high, steps.level, "steps and overheads, sums of lows and of highs", steps.n)
    kwh = cost.kwh(hours, power)
    return Sum(hours, kwh, cost.money(kwh, power, price))


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value, 1.0, "declared", 0)


def _assumed(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, stats.LEVEL, "assumed", 0)


def _together(a: Estimate, b: Estimate) -> Estimate:
    """The product of what one machine's errors move together: lows with lows. An end may be zero."""
    method = "lows with lows, highs with highs"
    return Estimate(a.value * b.value, a.low * b.low, a.high * b.high, min(a.level, b.level), method, min(a.n, b.n))


def overheads(
    forecasts: Sequence[Forecast], tokens: Sequence[float], machine: Machine, options: Options
) -> tuple[Overhead, ...]:
    """Every overhead's hours over all models, from those that training itself takes to those that it may take."""
    n, recipe = len(forecasts), machine.configuration.recipe
    compiling, compiling_words = _start(
        options.compile_time,
        [its.compile_seconds for its in forecasts],
        COMPILE_SECONDS,
        ("a model", "a model, measured beside the short runs", "compile-time"),
    )
    if isinstance(options.compile_time, Absent) and not recipe.compiled:
        compiling, compiling_words = _exactly(0.0), "not compiled"
    warming, warming_words = _start(
        options.warm_up,
        [its.startup_seconds for its in forecasts],
        WARMUP_SECONDS,
        ("a start", "a start until the pace is steady, measured with the short runs", "warm-up"),
    )
    steps = reduce(add, (its.hours(count) for count, its in zip(tokens, forecasts, strict=True)))
    rows: list[tuple[record.OverheadName, Estimate, str]] = [
        ("hot steady state", _together(steps, machine.hot_extra), machine.hot_basis),
        ("compile", n * compiling / HOUR, compiling_words),
        ("warm-up", n * warming / HOUR, warming_words),
        ("evaluation", *_evaluation(forecasts, tokens, options)),
        ("checkpoints", *_checkpoints(forecasts, tokens, recipe, options)),
        ("restarts", *_restarts(forecasts, tokens, (compiling + warming) / HOUR, options)),
    ]
    return tuple(Overhead(name, hours.figure(basis)) for name, hours, basis in rows)


def _start(
    declared: float | Absent,
    seconds: Sequence[float | Absent],
    assumed: tuple[float, float, float],
    words: tuple[str, str, str],
) -> tuple[Estimate, str]:
    """Seconds of each start: as declared, else as measured, else assumed; `words` are of what, how measured, option."""
    what, how, option = words
    measured = [it for it in seconds if not isinstance(it, Absent)]
    if not isinstance(declared, Absent):
        return _exactly(declared), f"{units.format_seconds(declared)} {what} ({option})"
    if measured:
        mean = math.fsum(measured) / len(measured)
        found = Estimate(mean, min(measured), max(measured), stats.LEVEL, "mean, least and most", len(measured))
        return found, f"{units.format_seconds(mean)} {how}"
    return _assumed(*assumed), f"{units.format_seconds(assumed[0])} {what}, assumed ({option})"


def _evaluation(forecasts: Sequence[Forecast], tokens: Sequence[float], options: Options) -> tuple[Estimate, str]:
    every, declared = options.eval_every, options.eval_tokens
    each = EVAL_TOKENS if isinstance(declared, Absent) else declared
    if every == 0:
        return _exactly(0.0), "none (eval-every 0)"
    share, hours = FORWARD_SHARE_ADAPTED if forecasts[0].model.trains else FORWARD_SHARE, []  # all of one recipe
    for count, its in zip(tokens, forecasts, strict=True):
        apart = EVAL_EVERY_TOKENS if isinstance(every, Absent) else every * its.tokens_per_step
        hours.append(its.hours(share * each * count / apart))
    assumed = isinstance(every, Absent) or isinstance(declared, Absent)
    often, unit = (EVAL_EVERY_TOKENS, "tokens") if isinstance(every, Absent) else (every, "steps")
    return reduce(add, hours), (
        f"{units.format_count(each)} tokens every {units.format_count(often)} {unit}, each at 1/{1 / share:.0f} of its "
        f"training time ({'assumed, ' if assumed else ''}eval-every, eval-tokens)"
    )


def _checkpoints(
    forecasts: Sequence[Forecast], tokens: Sequence[float], recipe: Recipe, options: Options
) -> tuple[Estimate, str]:
    every, declared = options.write_every, options.disk_speed
    disk = _assumed(*DISK_BYTES_PER_S) if isinstance(declared, Absent) else _exactly(declared)
    size = 0.0
    for count, its in zip(tokens, forecasts, strict=True):
        apart = _apart_hours(its, every)
        size += checkpoint_bytes(its.model, recipe) * (1 + (its.hours(count).value / apart if apart else 0.0))
    often = "hour" if isinstance(every, Absent) else f"{units.format_count(every)} steps"
    often = "at the end only" if every == 0 else f"every {often} and at the end"
    assumed = "assumed, " if isinstance(every, Absent) or isinstance(declared, Absent) else ""
    words = f"{often}, at {units.format_bytes_per_s(disk.value)} ({assumed}checkpoint-every, disk-speed)"
    return size / disk / HOUR, words


def _restarts(
    forecasts: Sequence[Forecast], tokens: Sequence[float], starting: Estimate, options: Options
) -> tuple[Estimate, str]:
    """Each repeats half of what lies between two checkpoints, and starts again."""
    declared = options.restarts_per_day
    a_day = _assumed(*RESTARTS_PER_DAY) if isinstance(declared, Absent) else _exactly(declared)
    option = "assumed, restarts-per-day" if isinstance(declared, Absent) else "restarts-per-day"
    if options.write_every == 0:
        option += "; without checkpoints a run begins anew, which is not in here"
    hours = (
        _together(_together(a_day / 24, its.hours(count)), starting + _apart_hours(its, options.write_every) / 2)
        for count, its in zip(tokens, forecasts, strict=True)
    )
    return reduce(add, hours), f"{a_day.value:g} a day ({option}), each loses half of what lies between checkpoints"


def _apart_hours(its: Forecast, every: float | Absent) -> float:
    """Hours from one checkpoint to the next; 0: none is written before the end."""
    return CHECKPOINT_EVERY_HOURS if isinstance(every, Absent) else its.hours(every * its.tokens_per_step).value


def checkpoint_bytes(model: Model, recipe: Recipe) -> int:
    """Weights and optimizer states, from which training goes on."""
    moments = MOMENTS_8BIT_BYTES if "8bit" in recipe.optimizer else MOMENTS_BYTES
    return round(model.trained * (WEIGHT_BYTES + moments))


def _per_joule(flop: float, kwh: Figure | Absent) -> Figure | Absent:
    if isinstance(kwh, Absent):
        return kwh
    value, high, low = (flop / (energy * 3.6e6) for energy in (kwh.value, *kwh.ends))
    return Figure(value, "predicted", "exact FLOP over the kWh of the whole run", low, high)


def judgement(
    machine: Machine, flop: float, flop_exact: float, hours: Estimate, declared_hours: float | Absent
) -> str | Absent:
    """What was declared beside what the rig should take, and what to do next; `flop` as it was asked for."""
    if isinstance(declared_hours, Absent):
        return declared_hours
    rate = flop / (declared_hours * HOUR)
    reached = units.format_flops_per_s(rate)
    if isinstance(machine.peak_flops_per_s, Figure):
        peak = machine.peak_flops_per_s.value
        whose = f"{machine.cards} {machine.card}" if machine.cards > 1 else f"the {machine.card}"
        of_peak = f"{units.format_share(rate / peak)} of the {units.format_flops_per_s(peak)} peak of {whose}"
        reached += f", {of_peak}"
        if rate * flop_exact / flop > POSSIBLE_SHARE * peak:
            return f"You said {declared_hours:g} h. That is {reached}: more than such cards reach in training"
    said, factor = f"You said {declared_hours:g} h.", declared_hours / hours.value
    if hours.low <= declared_hours <= hours.high or (declared_hours > hours.high and factor <= FAR):
        return f"{said} That is about what this rig needs"
    if declared_hours < hours.low:
        times = units.format_significant(1 / factor, 2)
        return (
            f"{said} This rig needs {times} times that; `rigbench budget --hours {declared_hours:g}` says what it buys"
        )
    here = isinstance(machine.name, Absent)
    following = "rigbench doctor" if here else f"rigbench backtest --on {machine.name} --model SIZE LOG"
    cause = f"{declared_hours:g} h would be {reached}, so the cards are not what takes the time"
    return f"{said} This rig needs {_part(factor)} of that: {cause}. Next: `{following}`"


def _judged_kwh(energy: Figure | Absent, power: Power | Absent, declared: float | Absent) -> str | Absent:
    if isinstance(declared, Absent):
        return declared
    if isinstance(energy, Absent) or isinstance(power, Absent):
        reason = energy.reason if isinstance(energy, Absent) else ""
        return f"You said {declared:g} kWh. What this rig draws is n/a ({reason})"
    low, high = energy.ends
    takes = f"{units.format_range(low, high, 'kWh')}{'' if power.covers == 'wall' else f' ({power.covers})'}"
    if low <= declared <= high:
        return f"You said {declared:g} kWh. That is about what it takes, {takes}"
    return f"You said {declared:g} kWh. It takes {'less' if high < declared else 'more'}, {takes}"


PARTS = ("half", "a third", "a quarter", "a fifth", "a sixth", "a seventh", "an eighth", "a ninth", "a tenth")


def _part(factor: float) -> str:
    """ "a ninth" for 9.1, "1/23" for 23.4."""
    whole = round(factor)
    return PARTS[whole - 2] if 2 <= whole < len(PARTS) + 2 else f"1/{whole}"


def _warnings(alone: Sequence[PlanRow], hours: Estimate, machine: Machine) -> tuple[str, ...]:
    def each(rows: Sequence[PlanRow]) -> str:
        """As in "5M alone would see 37,200 tokens per parameter, 15M 5,100"."""
        (model, count), *rest = ((row.model, units.format_significant(row.tokens_per_parameter, 3)) for row in rows)
        return ", ".join([f"{model} alone would see {count} tokens per parameter", *(f"{m} {n}" for m, n in rest)])

    alone = () if machine.configuration.recipe.adapted else alone  # of weights that were trained already
    few = [row for row in alone if row.tokens_per_parameter < FEW_TOKENS_PER_PARAMETER]
    many = [row for row in alone if row.tokens_per_parameter > MANY_TOKENS_PER_PARAMETER]
    lines = []
    if few:
        lines.append(f"{each(few)}: too little data for a model of that size (about 20 is compute-optimal)")
    if many:
        lines.append(f"{each(many)}: more data than a model of that size can use (about 20 is compute-optimal)")
    if hours.value > HOURS_PER_YEAR:
        lines.append(f"that is {hours.value / HOURS_PER_YEAR:,.1f} years of this rig")
    return (*lines, *(() if isinstance(machine.power, Absent) else machine.power.warnings))
