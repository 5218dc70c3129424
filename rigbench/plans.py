"""What did the user ask for? Words from the command line become the options of probes and the question of a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from rigbench import profiles, units
from rigbench.budget.plan import Question
from rigbench.errors import RigbenchError
from rigbench.model import flops as model_flops
from rigbench.model import shape
from rigbench.model.tokens import Dtype
from rigbench.probes import matmul, train
from rigbench.records import Absent, Model, Price
from rigbench.runner import Stages
from rigbench.store import now

LONGEST_SEQUENCE, LARGEST_MICRO_BATCH = 1 << 20, 1 << 16
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


def train_options(
    *,
    params: str,
    series: str,
    checkpointing: Literal["off", "on"],
    micro_batch: str | None,
    seq: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    seconds: str | None,
    data: Path | None,
    data_dtype: Dtype,
    device: str | None,
) -> train.Options:
    """One slice.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    model = shape.model_named(params, series)
    if seq is not None:
        tokens = _whole(seq, "--seq", 8, LONGEST_SEQUENCE)
        model = model_flops.describe(msgspec.structs.replace(model.shape, sequence=tokens), model.name)
    return train.Options(
        model=model,
        device=device or "auto",
        data=str(data) if data else "",
        data_dtype=data_dtype,
        micro_batch=_whole(micro_batch, "--micro-batch", 1, LARGEST_MICRO_BATCH) if micro_batch is not None else 0,
        precision=precision,
        checkpointing=checkpointing,
        seconds=units.parse_seconds(seconds, "--seconds") if seconds is not None else 0.0,
    )


def matmul_options(params: str, seconds: str, device: str | None) -> matmul.Options:
    return matmul.Options(
        model=shape.model_named(params),
        device=device or "auto",
        seconds_per_shape=units.parse_seconds(seconds, "--seconds"),
    )


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


def _whole(text: str, option: str, low: int, high: int) -> int:
    word = text.strip().replace(",", "").replace("_", "")
    if word.isascii() and word.isdigit() and low <= int(word[:30]) <= high:
        return int(word)
    raise RigbenchError(f"{option} {text[:40]!r} is not a whole number from {low:,} to {high:,}", "give one, like 8")


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
