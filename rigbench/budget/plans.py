"""What did the user ask for? Words from the command line become a budget's question and the stages of a whole run."""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.bandwidth import stage as bandwidth
from rigbench.budget.plan import Question
from rigbench.budget.runner import Stages
from rigbench.collectives import stage as collectives
from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.options import NOT_GIVEN
from rigbench.core.record import Absent, Price
from rigbench.dataloader import probe as dataloader
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.model.record import Model
from rigbench.model.shape import series
from rigbench.p2p import record as p2p
from rigbench.store import now
from rigbench.thermals import record as thermals
from rigbench.train.record import Options as SliceOptions
from rigbench.work.record import WattOptions

# Sizes and seconds of the short slices: the smallest, a middle and the largest model show how efficiency rises with
# size, and the middle one is the check on interpolating between the other two.
QUICK_SECONDS = (15.0, 25.0, 60.0)
QUICK_MATMUL_SECONDS = 18.0


def question(
    flops: str, series: str, exact: bool, watts: WattOptions, price: str | None, place: str | None
) -> Question:
    """A budget's question.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    return Question(
        amount=units.parse_flops(flops, "--flops"),
        series_name=series,
        models=series_models(series),
        exact=exact,
        watts=watts,
        price=electricity(price, place),
    )


def series_models(name: str) -> tuple[Model, ...]:
    """The models of a series profile, smallest first, with true counts."""
    return tuple(entry.model for entry in series(name).models)


def whole_run(models: Sequence[Model], quick: bool, device: str | None) -> Stages:
    """Quick: short looks, three short slices and no soak. In full: longer ones, a slice of every model, a soak."""
    return Stages(
        bandwidth=bandwidth.options("10s" if quick else "60s", "256MiB" if quick else "512MiB", device),
        p2p=p2p.Options(times=1 if quick else 3),
        collectives=collectives.options(seconds="8s" if quick else None, device=_kind(device)),
        matmul=MatmulOptions(
            model=models[-1], device=device or "auto", seconds=QUICK_MATMUL_SECONDS if quick else NOT_GIVEN
        ),
        slices=short_slices(models, device)
        if quick
        else tuple(SliceOptions(model=model, device=device or "auto") for model in models),
        dataloader=dataloader.Options(
            device=device or "auto", workers=(0, 2) if quick else (), seconds=1.0 if quick else 2.0
        ),
        thermals=None if quick else thermals.Options(minutes=5.0, device=device or "auto"),
    )


def _kind(device: str | None) -> str | None:
    """Collectives take all GPUs or none."""
    return device.partition(":")[0] if device else None


def short_slices(models: Sequence[Model], device: str | None) -> tuple[SliceOptions, ...]:
    """A short slice of the smallest, the middle and the largest model of a series."""
    picked = (models[0], models[len(models) // 2], models[-1])[: len(models)]
    return tuple(
        SliceOptions(model=model, device=device or "auto", seconds=seconds)
        for model, seconds in zip(picked, QUICK_SECONDS, strict=False)
    )


def electricity(text: str | None, place: str | None) -> Price | Absent:
    """Electricity: declared by the user, else a place's price from the profiles, which carries its place and date.

    Raises:
        RigbenchError: both, no such place, or no price.
    """
    if text is None:
        return profiles.electricity(place)
    if place is not None:
        raise RigbenchError("--price and --place exclude each other", "give the one that is your contract's")
    value, currency = money(text, "--price", "0.30 EUR", most=1000.0)
    return Price(per_kwh=value, currency=currency, place="declared with --price", date=now()[:10], source="declared")


def money(text: str, option: str, example: str, most: float = 1e6) -> tuple[float, str]:
    """ "0.30 EUR" or "3.50USD" as an amount and its currency.

    Raises:
        RigbenchError: no currency, or not a positive amount.
    """
    words = text.strip()
    number, currency = words[:-3].strip(), words[-3:]
    if not (currency.isascii() and currency.isalpha()) or number[-1:].isalpha():
        raise RigbenchError(f"{option} {text!r} names no currency", f"write it as '{example}'")
    return units.parse_number(number, option, low=0.0001, high=most), currency.upper()
