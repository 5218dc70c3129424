"""How many tokens does each model get, from FLOP, tokens, or backwards from hours, kWh and money?

Everything that a run takes grows in a straight line with its tokens (steps, evaluations, checkpoints) from what it
takes without any (compilation, the last checkpoint), so that one division answers a question asked backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rigbench.budget.record import AskedKind, Split
from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.model.record import Model

FORWARD: tuple[AskedKind, ...] = ("flops", "tokens", "tokens per parameter")


def flop_per_token(model: Model, exact: bool) -> float:
    return model.flop_per_token if exact else model.flop_per_token_6n


def shares(models: Sequence[Model], split: Split, exact: bool) -> tuple[float, ...]:
    """Tokens of each model for one FLOP in all.

    "compute-optimal" gives every model the same tokens per parameter, as Hoffmann 2022 finds best at any size.
    """
    weights = {
        "equal tokens": [1.0 for _ in models],
        "equal FLOP": [1.0 / flop_per_token(model, exact) for model in models],
        "compute-optimal": [float(model.total_parameters) for model in models],
    }[split]
    flop = math.fsum(w * flop_per_token(model, exact) for w, model in zip(weights, models, strict=True))
    return tuple(weight / flop for weight in weights)


def forward(models: Sequence[Model], kind: AskedKind, amount: float, split: Split, exact: bool) -> tuple[float, ...]:
    """Tokens of each model where the question itself tells them. With tokens, `amount` is each model's.

    Raises:
        ValueError: the question is asked backwards.
    """
    if kind == "flops":
        return tuple(amount * share for share in shares(models, split, exact))
    if kind == "tokens":
        return tuple(amount for _ in models)
    if kind == "tokens per parameter":
        return tuple(amount * model.total_parameters for model in models)
    raise ValueError(f"{kind} do not tell the tokens")


def flop_of(models: Sequence[Model], tokens: Sequence[float], exact: bool) -> float:
    return math.fsum(count * flop_per_token(model, exact) for model, count in zip(models, tokens, strict=True))


def backward(takes: Callable[[float], tuple[float, float, float]], amount: float, kind: str) -> tuple[float, ...]:
    """FLOP (least, middle, most) that an amount buys, `takes` being (low, middle, high) of it for so many FLOP.

    Raises:
        RigbenchError: not even the fixed part is covered; exit 3.
    """
    one = 1e15  # far from zero, so that the difference of two does not lose digits
    fixed, more = takes(0.0), takes(one)
    each = [(b - a) / one for a, b in zip(fixed, more, strict=True)]
    low, middle, high = ((amount - a) / slope for a, slope in zip(fixed, each, strict=True))
    if middle <= 0:
        raise RigbenchError(
            f"{amount:g} {kind} do not even cover compilation, warm-up and the last "
            f"checkpoint, {units.format_significant(fixed[1])} {kind}",
            "give more",
            exit_code=NOTHING,
        )
    return max(high, 0.0), middle, low  # what takes most buys least
