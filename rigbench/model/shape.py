"""Which model is meant by "90M"? The nearest sensible shape of a series."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import Series
from rigbench.model.counts import total_parameters
from rigbench.model.flops import describe
from rigbench.model.record import Model, Shape

FEWEST_LAYERS = 4
HEAD, SMALL_HEAD, SMALL_WIDTH = 64, 32, 256  # heads of 64; of 32 below width 256
# Widths step finely while small and coarsely when large, as published shapes do: (up to this width, in steps of).
WIDTH_STEPS = ((256, 32), (1024, 64), (4096, 128), (20_480, 256))
# How far a shape's width per layer may lie from the series' own; Kaplan 2020 (figure 5) finds loss flat within that.
ASPECT_TOLERANCE = 1.25
# Beyond a series' largest model the aspect approaches GPT-3's (Brown 2020, table 2.1): 128 from width 4096 on.
LARGE_WIDTH, LARGE_ASPECT = 4096, 128.0
LARGEST_PARAMETERS = 100_000_000_000


class Rung(NamedTuple):
    """A shape that may be chosen, for any wish from `low` to `high` parameters or nearer to them than to the next."""

    low: float
    high: float
    name: str
    shape: Shape


def model_named(text: str, series: str = "diy", option: str = "--params") -> Model:
    """The model that the user typed: a name of the series, or a number of parameters in any form units takes.

    Raises:
        RigbenchError: not a number of parameters, or none that the series can have.
    """
    return shape_for(units.parse_parameters(text, option), profiles.series(series), option)


def shape_for(parameters: int, series: Series, option: str = "--params") -> Model:
    """The nearest sensible shape of a series, by total count; a larger wish never gives a smaller model.

    Raises:
        RigbenchError: the wish is below the smallest such shape or above 100B.
    """
    ladder = _ladder(series)
    smallest = ladder[0]
    if parameters < smallest.low:
        raise RigbenchError(
            f"{option} {parameters:,} is below the smallest model of the series {series.name}: "
            f"{smallest.low:,.0f}, {smallest.shape.layers} layers of width {smallest.shape.width}, "
            f"mostly its vocabulary table of {smallest.shape.vocabulary:,}",
            f"give at least {smallest.low:,.0f}",
        )
    if parameters > LARGEST_PARAMETERS:
        raise RigbenchError(f"{option} {parameters:,} is above {LARGEST_PARAMETERS:,}", "give fewer parameters")
    rung = min(ladder, key=lambda rung: _distance(rung, parameters))
    return describe(rung.shape, rung.name)


@functools.cache
def _ladder(series: Series) -> tuple[Rung, ...]:
    """Every shape that may be chosen, from small to large; intervals do not overlap, so nearest is monotone.

    A model of the series owns the interval from its nominal size to its true one, and what lies between is left out.
    """
    own = [_own_rung(model.name, model.shape) for model in series.models]
    free = (rung for rung in _free_rungs(series) if not any(its.low <= rung.low <= its.high for its in own))
    return tuple(sorted([*own, *free], key=lambda rung: rung.low))


def _own_rung(name: str, shape: Shape) -> Rung:
    true = total_parameters(shape)
    try:
        nominal = units.parse_parameters(name)
    except RigbenchError:  # a user's series may use other names
        nominal = true
    return Rung(min(true, nominal), max(true, nominal), name, shape)


def _free_rungs(series: Series) -> Iterator[Rung]:
    curve = _aspect_curve(series)
    for width in _widths():
        layers = width / _interpolate(curve, width)
        fewest = max(FEWEST_LAYERS, math.ceil(layers / ASPECT_TOLERANCE))
        for count in range(fewest, max(fewest, math.floor(layers * ASPECT_TOLERANCE)) + 1):
            shape = _scaled(series.models[0].shape, count, width)
            true = total_parameters(shape)
            if true > LARGEST_PARAMETERS:
                return
            yield Rung(true, true, units.format_count(true), shape)


def _widths() -> Iterator[int]:
    start = 0
    for end, step in WIDTH_STEPS:
        yield from range(start + step, end + 1, step)
        start = end


def _scaled(like: Shape, layers: int, width: int) -> Shape:
    heads = width // head_width(width)
    return Shape(
        style=like.style,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        ffn_width=default_ffn_width(like.style, width),
        vocabulary=like.vocabulary,
        sequence=like.sequence,
        tied_head=like.tied_head,
        biases=like.biases,
    )


def head_width(width: int) -> int:
    """What a head has where nobody says."""
    return SMALL_HEAD if width < SMALL_WIDTH else HEAD


def default_ffn_width(style: str, width: int) -> int:
    """Four widths; 8/3 for SwiGLU, whose third matrix makes up for it (Shazeer 2020), in multiples of 128 or 32."""
    if style != "llama":
        return 4 * width
    multiple = 32 if width < SMALL_WIDTH else 128
    return round(width * 8 / 3 / multiple) * multiple


def _aspect_curve(series: Series) -> list[tuple[float, float]]:
    """Width per layer against the logarithm of the width, from the series' own models on to GPT-3's."""
    own = {model.shape.width: model.shape.width / model.shape.layers for model in series.models}
    beyond = {LARGE_WIDTH: LARGE_ASPECT} if max(own) < LARGE_WIDTH else {}
    return [(math.log(width), aspect) for width, aspect in sorted((own | beyond).items())]


def _interpolate(curve: list[tuple[float, float]], width: int) -> float:
    x = math.log(width)
    after = bisect_left(curve, (x, 0.0))
    if after in (0, len(curve)):
        return curve[min(after, len(curve) - 1)][1]
    (x0, y0), (x1, y1) = curve[after - 1], curve[after]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _distance(rung: Rung, parameters: int) -> float:
    """How far a wish lies outside a rung's interval, as a ratio's logarithm."""
    return max(0.0, math.log(rung.low / parameters), math.log(parameters / rung.high))
