"""What did the user ask for? Words from the command line become a budget's question and the stages of a whole run."""

from __future__ import annotations

from collections.abc import Sequence

from rigbench import profiles, units
from rigbench.budget.plan import Question
from rigbench.errors import RigbenchError
from rigbench.model import flops as model_flops
from rigbench.probes import matmul, train
from rigbench.records import Absent, Model, Price
from rigbench.runner import Stages
from rigbench.store import now

# Sizes and seconds of the short slices: the smallest, a middle and the largest model show how efficiency rises with
# size, and the middle one is the check on interpolating between the other two.
QUICK_SECONDS = (15.0, 25.0, 60.0)


def question(
    flops: str,
    series: str,
    exact: bool,
    wall_watts: str | None,
    host_watts: str | None,
    price: str | None,
    place: str | None,
) -> Question:
    """A budget's question.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    return Question(
        flops=units.parse_flops(flops, "--flops"),
        series_name=series,
        models=series_models(series),
        exact=exact,
        wall_watts=_watts(wall_watts, "--wall-watts"),
        host_watts=_watts(host_watts, "--host-watts"),
        price=_price(price, place),
    )


def series_models(name: str) -> tuple[Model, ...]:
    """The models of a series profile, smallest first, with true counts."""
    return tuple(model_flops.describe(entry.shape, entry.name) for entry in profiles.series(name).models)


def whole_run(models: Sequence[Model], quick: bool, device: str | None) -> Stages:
    """Quick: short matmuls and three short slices. In full: longer ones, and a slice of every model of the series."""
    return Stages(
        matmul=matmul.Options(model=models[-1], device=device or "auto", seconds_per_shape=2.0 if quick else 4.0),
        slices=short_slices(models, device)
        if quick
        else tuple(train.Options(model=model, device=device or "auto") for model in models),
    )


def short_slices(models: Sequence[Model], device: str | None) -> tuple[train.Options, ...]:
    """A short slice of the smallest, the middle and the largest model of a series."""
    picked = (models[0], models[len(models) // 2], models[-1])[: len(models)]
    return tuple(
        train.Options(model=model, device=device or "auto", seconds=seconds)
        for model, seconds in zip(picked, QUICK_SECONDS, strict=False)
    )


def _watts(text: str | None, option: str) -> float | None:
    return units.parse_number(text, option, low=0.1, high=1e6) if text is not None else None


def _price(price: str | None, place: str | None) -> Price | Absent:
    """Declared by the user, else a place's price from the profiles, which carries its place and date."""
    if price is None:
        return profiles.electricity(place)
    if place is not None:
        raise RigbenchError("--price and --place exclude each other", "give the one that is your contract's")
    number, _, currency = price.strip().partition(" ")
    if not currency.strip().isalpha() or len(currency.strip()) != 3:
        raise RigbenchError(f"--price {price!r} names no currency", "write it as '0.30 EUR'")
    return Price(
        per_kwh=units.parse_number(number, "--price", low=0.0001, high=1000.0),
        currency=currency.strip().upper(),
        place="declared with --price",
        date=now()[:10],
        source="declared",
    )
