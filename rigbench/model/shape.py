"""Reads series of models and published models, and finds the shape of a series that is nearest to a size."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import NOT_STATED, Count, Profile, Text, by_name, each, one
from rigbench.core.record import Absent
from rigbench.model.counts import describe, total_parameters
from rigbench.model.record import Model, Shape

Style = Literal["gpt2", "neox", "llama"]
FEWEST_LAYERS = 4
HEAD, SMALL_HEAD, SMALL_WIDTH = 64, 32, 256  # heads of 64; of 32 below width 256
# Widths step finely while small and coarsely when large, as published shapes do: (up to this width, in steps of).
WIDTH_STEPS = ((256, 32), (1024, 64), (4096, 128), (20_480, 256))
# How far a shape's width per layer may lie from the series' own; Kaplan 2020 (figure 5) finds loss flat within that.
ASPECT_TOLERANCE = 1.25
# Beyond a series' largest model the aspect approaches GPT-3's (Brown 2020, table 2.1): 128 from width 4096 on.
LARGE_WIDTH, LARGE_ASPECT = 4096, 128.0
LARGEST_PARAMETERS = 100_000_000_000


class SeriesModel(Profile, frozen=True):
    """One size of a series, or one published model with its authors' own total."""

    name: Text
    shape: Shape
    published_parameters: int | Absent
    also: tuple[str, ...] = ()  # other names that it goes by
    published_within: float = 0.0  # the share of that total by which the shape's own count may differ

    @property
    def model(self) -> Model:
        return describe(self.shape, self.name)


class Series(Profile, frozen=True):
    """Models that differ in size alone."""

    name: Text
    about: Text
    source: Text
    models: tuple[SeriesModel, ...]
    within_minutes: float = 0.0  # of training, for which all but the smallest are narrowed; 0: as they are


class Common(Profile, frozen=True):
    style: Style
    vocabulary: Count
    sequence: Count
    tied_head: bool
    biases: bool
    head_dim: Count | None = None  # None: width / heads
    qkv_biases: bool = False
    qk_norms: bool = False
    post_norms: bool = False
    window: Annotated[int, msgspec.Meta(ge=0)] = 0  # tokens that a layer with a sliding window sees
    full_every: Count | None = None  # every so-manieth layer sees all; None: with a window, none does


class Size(Profile, frozen=True, kw_only=True):
    name: Text
    layers: Count
    width: Count
    heads: Count
    kv_heads: Count | None = None
    ffn_width: Count | None = None
    vocabulary: Count | None = None
    head_dim: Count | None = None
    tied_head: bool | None = None
    published_parameters: Count | Absent = NOT_STATED
    also: tuple[Text, ...] = ()


class SeriesFile(Profile, frozen=True):
    """A series as written: what its models share, and a line a model."""

    name: Text
    about: Text
    source: Text
    shape: Common
    models: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1)]
    published_within: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.0
    within_minutes: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if len({size.name for size in self.models}) < len(self.models):
            raise ValueError("two models have the same name")
        for size in self.models:
            own_width = size.head_dim or self.shape.head_dim
            if (size.width % size.heads and not own_width) or size.heads % (size.kv_heads or size.heads):
                raise ValueError(f"{size.name}: heads must divide the width, and kv_heads the heads")
            if self.shape.style == "llama" and size.ffn_width is None:
                raise ValueError(f"{size.name}: a llama's ffn_width must be stated")

    def series(self) -> Series:
        models = tuple(
            SeriesModel(size.name, self._shape(size), size.published_parameters, size.also, self.published_within)
            for size in self.models
        )
        return Series(self.name, self.about, self.source, models, self.within_minutes)

    def _shape(self, size: Size) -> Shape:
        shared = self.shape
        plain = shape_of(
            shared.style,
            size.layers,
            size.width,
            size.heads,
            size.vocabulary or shared.vocabulary,
            shared.sequence,
            kv_heads=size.kv_heads,
            ffn_width=size.ffn_width,
            tied_head=shared.tied_head if size.tied_head is None else size.tied_head,
            biases=shared.biases,
        )
        own_width = size.head_dim or shared.head_dim or 0
        return msgspec.structs.replace(
            plain,
            head_dim=0 if own_width * size.heads == size.width else own_width,
            qkv_biases=shared.qkv_biases,
            qk_norms=shared.qk_norms,
            post_norms=shared.post_norms,
            window=shared.window,
            windowed_layers=size.layers - size.layers // (shared.full_every or size.layers + 1) if shared.window else 0,
        )


class ModelsFile(Profile, frozen=True):
    family: tuple[SeriesFile, ...] = ()


def all_series() -> dict[str, Series]:
    return by_name((file.name, file.series()) for file in each("series/*.toml", SeriesFile))


def series_names() -> tuple[str, ...]:
    return tuple(all_series())


def series(name: str) -> Series:
    """One series by name."""
    return one("series", name, all_series())


def families() -> tuple[Series, ...]:
    """Published models, family by family; one of the user's replaces a shipped one of the same name."""
    written = (family.series() for file in each("models.toml", ModelsFile) for family in file.family)
    return tuple(by_name((family.name, family) for family in written).values())


def models() -> tuple[SeriesModel, ...]:
    """Published models with the totals their authors give."""
    return tuple(by_name((model.name, model) for family in families() for model in family.models).values())


def shape_of(
    style: Style,
    layers: int,
    width: int,
    heads: int,
    vocabulary: int,
    sequence: int,
    *,
    kv_heads: int | None = None,
    ffn_width: int | None = None,
    tied_head: bool = True,
    biases: bool | None = None,
) -> Shape:
    """A shape with what is usual in the place of None: as many key-value heads as heads, biases as the style has."""
    return Shape(
        style=style,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        ffn_width=default_ffn_width(style, width) if ffn_width is None else ffn_width,
        vocabulary=vocabulary,
        sequence=sequence,
        tied_head=tied_head,
        biases=style != "llama" if biases is None else biases,
    )


def head_width(width: int) -> int:
    """The width of a head, unless it is given."""
    return SMALL_HEAD if width < SMALL_WIDTH else HEAD


def default_ffn_width(style: str, width: int) -> int:
    """Four widths; 8/3 for SwiGLU, whose third matrix makes up for it (Shazeer 2020), in multiples of 128 or 32."""
    if style != "llama":
        return 4 * width
    multiple = 32 if width < SMALL_WIDTH else 128
    return round(width * 8 / 3 / multiple) * multiple


class Rung(NamedTuple):
    """A shape that may be chosen, for any wish from `low` to `high` parameters or nearer to them than to the next."""

    low: float
    high: float
    name: str
    shape: Shape


def model_named(text: str, name: str = "diy") -> Model:
    """A name of the series, or a number of parameters in any form that units takes."""
    return shape_for(units.parse_parameters(text, "--params"), series(name))


def shape_for(parameters: int, series: Series, option: str = "--params") -> Model:
    """The nearest sensible shape of a series, by total count; a larger wish never gives a smaller model."""
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

    def distance(rung: Rung) -> float:
        """How far the wish lies outside of a rung's interval, as a ratio's logarithm."""
        return max(0.0, math.log(rung.low / parameters), math.log(parameters / rung.high))

    rung = min(ladder, key=distance)
    return describe(rung.shape, rung.name)


@functools.cache
def _ladder(series: Series) -> tuple[Rung, ...]:
    """Every shape that may be chosen, from small to large; intervals do not overlap, so nearest is monotone.

    A model of the series owns the interval from its nominal size to its true one, and what lies between is left out.
    """
    own = []
    for model in series.models:
        true = total_parameters(model.shape)
        try:
            nominal = units.parse_parameters(model.name)
        except RigbenchError:  # a user's series may use other names
            nominal = true
        own.append(Rung(min(true, nominal), max(true, nominal), model.name, model.shape))
    free = (rung for rung in _free_rungs(series) if not any(its.low <= rung.low <= its.high for its in own))
    return tuple(sorted([*own, *free], key=lambda rung: rung.low))


def _free_rungs(series: Series) -> Iterator[Rung]:
    # Width per layer against the logarithm of the width, from the series' own models on to GPT-3's.
    own = {model.shape.width: model.shape.width / model.shape.layers for model in series.models}
    beyond = {LARGE_WIDTH: LARGE_ASPECT} if max(own) < LARGE_WIDTH else {}
    curve = [(math.log(width), aspect) for width, aspect in sorted((own | beyond).items())]
    like = series.models[0].shape
    for width in _widths():
        layers = width / _interpolate(curve, math.log(width))
        fewest = max(FEWEST_LAYERS, math.ceil(layers / ASPECT_TOLERANCE))
        for count in range(fewest, max(fewest, math.floor(layers * ASPECT_TOLERANCE)) + 1):
            shape = shape_of(
                like.style,
                count,
                width,
                width // head_width(width),
                like.vocabulary,
                like.sequence,
                tied_head=like.tied_head,
                biases=like.biases,
            )
            true = total_parameters(shape)
            if true > LARGEST_PARAMETERS:
                return
            yield Rung(true, true, units.format_count(true), shape)


def _widths() -> Iterator[int]:
    start = 0
    for end, step in WIDTH_STEPS:
        yield from range(start + step, end + 1, step)
        start = end


def _interpolate(curve: list[tuple[float, float]], x: float) -> float:
    after = bisect_left(curve, (x, 0.0))
    if after in (0, len(curve)):
        return curve[min(after, len(curve) - 1)][1]
    (x0, y0), (x1, y1) = curve[after - 1], curve[after]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
