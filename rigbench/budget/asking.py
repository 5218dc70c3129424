"""What does the user want to know of a budget? Words from the command line become one question and the rigs it is for.

Nothing is computed here: contradictions are refused, quantities read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar, cast

from rigbench.budget import money, overheads, plans
from rigbench.budget.comparable import Wanted
from rigbench.budget.plan import NOT_DECLARED, Question
from rigbench.budget.record import AskedKind, Split
from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Absent, Figure, Price
from rigbench.model.recipe import Precision
from rigbench.model.record import Model
from rigbench.model.shape import model_named, series
from rigbench.work.record import NOTHING_DECLARED, WattOptions

DEFAULT_FLOPS = "1.2e18"
HERE = "here"
SPLITS: dict[str | None, Split] = {
    None: "equal tokens",
    "equal-tokens": "equal tokens",
    "equal-flops": "equal FLOP",
    "compute-optimal": "compute-optimal",
}
OPTIMIZERS = ("adamw", "adamw-foreach", "adamw8bit", "paged-adamw8bit")
PRECISIONS = ("bf16", "fp16", "bf16-pure", "fp32", "tf32")
STRATEGIES = ("single", "ddp", "fsdp2", "fsdp2-offload")
MOST_MODELS, MOST_RIGS = 20, 12
T = TypeVar("T")


@dataclass(frozen=True)
class Words:
    """Every option of `budget` as typed; None: not said."""

    series: str = "diy"
    exact_flops: bool = False
    plan: bool = False
    compiled: bool | None = None
    flops: str | None = None
    params: str | None = None
    tokens: str | None = None
    tokens_per_param: str | None = None
    hours: str | None = None
    kwh: str | None = None
    money: str | None = None
    split: str | None = None
    batch_tokens: str | None = None
    optimizer: str | None = None
    precision: str | None = None
    strategy: str | None = None
    checkpointing: str | None = None
    price: str | None = None
    place: str | None = None
    rent: str | None = None
    purchase: str | None = None
    lifetime: str | None = None
    compile_time: str | None = None
    warm_up: str | None = None
    eval_every: str | None = None
    eval_tokens: str | None = None
    checkpoint_every: str | None = None
    keep_checkpoints: str | None = None
    disk_speed: str | None = None
    restarts_per_day: str | None = None
    hot_over_cold: str | None = None
    on: str | None = None


WORDS = tuple(field.name for field in fields(Words))


def budget(words: Words, watts: WattOptions = NOTHING_DECLARED) -> tuple[Question, tuple[RigProfile | None, ...]]:
    """The question, and the rigs in the order asked; None stands for this one, and no rig for this one alone.

    Raises:
        RigbenchError: any of the words is not what its option takes, or they contradict each other.
    """
    models, name = _models(words)
    price = plans.electricity(words.price, words.place)
    kind, amount, declared_hours = _amount(words, price)
    if words.split and (len(models) == 1 or kind in ("tokens", "tokens per parameter")):
        why = "one model" if len(models) == 1 else "models whose tokens are told"
        raise RigbenchError(f"--split shares a budget out, and this is about {why}", "leave --split out")
    rigs = _rigs(words, watts)
    question = Question(
        amount=amount,
        series_name=name,
        models=models,
        exact=words.exact_flops,
        wanted=_wanted(words),
        watts=watts,
        price=price,
        kind=kind,
        split=SPLITS[words.split],
        declared_hours=declared_hours,
        batch_tokens=_read(words.batch_tokens, lambda text: round(units.parse_count(text, "--batch-tokens"))),
        overheads=_overheads(words),
        hot_over_cold=_number(words.hot_over_cold, "--hot-over-cold", 0.1, 1.0),
        rent=_rent(words.rent),
        purchase=_purchase(words.purchase),
        lifetime_hours=_read(words.lifetime, lambda text: units.parse_seconds(text, "--lifetime") / 3600),
        wants_next_slice=words.plan,
    )
    return question, rigs


def _models(words: Words) -> tuple[tuple[Model, ...], str]:
    if words.params is None:
        return plans.series_models(words.series), words.series
    series(words.series)
    parts = [part.strip() for part in words.params.split(",") if part.strip()]
    if not 1 <= len(parts) <= MOST_MODELS:
        raise RigbenchError(f"--params {words.params[:40]!r} is {len(parts)} models", f"give 1 to {MOST_MODELS}")
    models = tuple(model_named(part, words.series) for part in parts)
    by_shape = {model.shape: model for model in models}
    if len(by_shape) < len(models):
        raise RigbenchError(f"--params {words.params[:40]!r} names one model twice", "name each once")
    return models, ", ".join(model.name for model in models)


def _amount(words: Words, price: Price | Absent) -> tuple[AskedKind, float, float | Absent]:
    """What is given, how much of it, and hours that were declared beside it."""
    given: dict[str, str] = {
        option: text
        for option, text in (
            ("--flops", words.flops),
            ("--tokens", words.tokens),
            ("--tokens-per-param", words.tokens_per_param),
            ("--kwh", words.kwh),
            ("--money", words.money),
        )
        if text is not None
    }
    hours = _read(words.hours, _parse_hours)
    if len(given) > 1:
        raise RigbenchError(f"{' and '.join(given)} exclude each other", "each of them is the whole budget; give one")
    option, text = next(iter(given.items())) if given else ("--flops", DEFAULT_FLOPS)
    if not given and hours is not None:
        return "hours", hours, NOT_DECLARED
    if hours is not None and option in ("--kwh", "--money"):
        raise RigbenchError(f"--hours and {option} exclude each other", "each of them is the whole budget; give one")
    declared = NOT_DECLARED if hours is None else hours
    if option == "--flops":
        return "flops", units.parse_flops(text, option), declared
    if option == "--tokens":
        return "tokens", units.parse_count(text, option), declared
    if option == "--tokens-per-param":
        return "tokens per parameter", units.parse_number(text, option, 0.01, 1e6), declared
    if option == "--kwh":
        return "kWh", units.parse_number(text, option, 1e-6, 1e12), NOT_DECLARED
    return _money(text, words.rent, price)


def _money(text: str, rent: str | None, price: Price | Absent) -> tuple[AskedKind, float, Absent]:
    """Electricity, or rent where that is declared; in the currency of either."""
    number, _, currency = text.strip().partition(" ")
    its = _rent(rent)
    own = (price.currency if isinstance(price, Price) else "") if isinstance(its, Absent) else its.currency
    kind: AskedKind = "electricity" if isinstance(its, Absent) else "rent"
    if currency and currency.strip().upper() != own:
        raise RigbenchError(
            f"--money {text!r} is not in {own or 'a known currency'}, as the {kind} is", "give both in one"
        )
    return kind, units.parse_number(number, "--money", 1e-6, 1e12), NOT_DECLARED


def _parse_hours(text: str) -> float:
    """A bare number is in hours."""
    bare = re.fullmatch(r"[+-]?[\d.,eE+]+", text.strip())
    return units.parse_seconds(f"{text.strip()}h" if bare else text, "--hours") / 3600


def _wanted(words: Words) -> Wanted:
    for option, text, known in (
        ("--optimizer", words.optimizer, OPTIMIZERS),
        ("--precision", words.precision, PRECISIONS),
        ("--strategy", words.strategy, STRATEGIES),
    ):
        if text is not None and text not in known:
            raise RigbenchError(f"{option} {text[:40]!r} is none that a slice has", f"there are {', '.join(known)}")
    return Wanted(
        optimizer=words.optimizer,
        checkpointing=cast("None", words.checkpointing),
        precision=cast("Precision | None", words.precision),
        compiled=words.compiled,
        strategy=words.strategy,
    )


def _rigs(words: Words, watts: WattOptions) -> tuple[RigProfile | None, ...]:
    if words.on is None:
        return ()
    names = [name.strip() for name in words.on.split(",") if name.strip()]
    if not 1 <= len(names) <= MOST_RIGS:
        raise RigbenchError(f"--on {words.on[:40]!r} names {len(names)} rigs", f"name 1 to {MOST_RIGS}")
    if len(set(names)) < len(names):
        raise RigbenchError(f"--on {words.on[:60]!r} names a rig twice", "name each once")
    for option in ("wall_watts", "host_watts", "purchase", "rig_profile"):
        given = words.purchase is not None if option == "purchase" else not isinstance(getattr(watts, option), Absent)
        if len(names) > 1 and given:
            shown = f"--{option.replace('_', '-')}"
            raise RigbenchError(f"{shown} is of one rig, and --on names {len(names)}", "ask about one at a time")
    return tuple(None if name == HERE else profiles.rig_named(name) for name in names)


def _overheads(words: Words) -> overheads.Asked:
    return overheads.Asked(
        compile_seconds=_seconds(words.compile_time, "--compile-time"),
        warmup_seconds=_seconds(words.warm_up, "--warm-up"),
        eval_every_steps=_number(words.eval_every, "--eval-every", 1, 1e12, zero=True),
        eval_tokens=_read(words.eval_tokens, lambda text: units.parse_count(text, "--eval-tokens")),
        checkpoint_every_steps=_number(words.checkpoint_every, "--checkpoint-every", 1, 1e12, zero=True),
        disk_bytes_per_s=_read(words.disk_speed, _parse_disk_speed),
        restarts_per_day=_number(words.restarts_per_day, "--restarts-per-day", 1e-6, 100, zero=True),
        keep_checkpoints=_read(
            words.keep_checkpoints, lambda text: units.parse_whole(text, "--keep-checkpoints", 1, 10**6)
        ),
    )


def _parse_disk_speed(text: str) -> float:
    return float(units.parse_bytes(text.strip().removesuffix("/s"), "--disk-speed"))


def _rent(text: str | None) -> money.RentPrice | Absent:
    if text is None:
        return NOT_DECLARED
    value, currency = plans.money(text.strip().removesuffix("/h"), "--rent", "1.50 USD")
    return money.RentPrice(value, currency, "--rent")


def _purchase(text: str | None) -> money.RigPrice | Absent:
    if text is None:
        return NOT_DECLARED
    value, currency = plans.money(text, "--purchase", "2400 USD", most=1e10)
    return money.RigPrice(Figure(value, "declared", "--purchase"), currency)


def _seconds(text: str | None, option: str) -> float | None:
    return 0.0 if text is not None and text.strip() == "0" else _read(text, lambda it: units.parse_seconds(it, option))


def _number(text: str | None, option: str, low: float, high: float, zero: bool = False) -> float | None:
    if zero and text is not None and text.strip() == "0":
        return 0.0
    return _read(text, lambda it: units.parse_number(it, option, low, high))


def _read(text: str | None, parse: Callable[[str], T]) -> T | None:
    return None if text is None else parse(text)
