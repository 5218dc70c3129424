"""Names a model: a size of a series, a published name or a shape in a file, and what options change of it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.options import NOT_GIVEN, Option, Reader, whole
from rigbench.core.profiles import Count, Profile, Text, read_toml
from rigbench.core.record import Absent, Record
from rigbench.model import config_json
from rigbench.model.counts import active_parameters, describe, total_parameters
from rigbench.model.record import Model, Shape
from rigbench.model.shape import (
    LARGEST_PARAMETERS,
    SeriesModel,
    Style,
    default_ffn_width,
    head_width,
    model_named,
    models,
    series,
    series_names,
    shape_for,
    shape_of,
)

DEFAULT_SERIES, DEFAULT_SIZE = "diy", "120M"
SHORTEST_SEQUENCE, LONGEST_SEQUENCE = 8, 1 << 20
# What a shape may have, from and to: beyond any that was trained, so that a slip of the finger is one line.
BOUNDS = {
    "layers": (1, 1000),
    "width": (8, 1 << 16),
    "heads": (1, 1 << 12),
    "kv_heads": (1, 1 << 12),
    "ffn_width": (1, 1 << 20),
    "vocabulary": (2, 1 << 24),
    "sequence": (SHORTEST_SEQUENCE, LONGEST_SEQUENCE),
}


def params_option(default: str) -> Option:
    sizes = "Model size: 5M, 15M, 30M, 60M, 120M in the series diy, or any other, like 90M."
    return Option(Reader(units.parse_parameters), f"{sizes} Default: {default}.", "SIZE")


def _number(field: str) -> Reader:
    return whole(*BOUNDS[field])


NAME = Reader(lambda text, option: text, words=lambda: [model.name for model in models()])
SERIES = Reader(lambda text, option: text, words=series_names)


class ModelOptions(Record, frozen=True, kw_only=True):
    """Which model a command is for; `choose` makes a Model of it. A subclass may change a field's help."""

    panel: ClassVar = "Model"

    params: Annotated[int | Absent, params_option(DEFAULT_SIZE)] = NOT_GIVEN
    series: Annotated[
        str | Absent,
        Option(SERIES, f"The series of models: diy (GPT-2 style) or llama. Default: {DEFAULT_SERIES}.", "NAME"),
    ] = NOT_GIVEN
    model: Annotated[
        str | Absent,
        Option(
            NAME,
            "Instead of --params: a published model (`rigbench profiles` lists them), its config.json, or a shape of "
            "your own.",
            "NAME|FILE",
        ),
    ] = NOT_GIVEN
    layers: Annotated[int | Absent, Option(_number("layers"), "Other layers than the model's.", "N")] = NOT_GIVEN
    width: Annotated[
        int | Absent, Option(_number("width"), "Another width; heads and feed-forward width follow it.", "N")
    ] = NOT_GIVEN
    heads: Annotated[int | Absent, Option(_number("heads"), "Other heads. Default with --width: heads of 64.", "N")] = (
        NOT_GIVEN
    )
    kv_heads: Annotated[int | Absent, Option(_number("kv_heads"), "Heads of keys and values.", "N")] = NOT_GIVEN
    sequence: Annotated[
        int | Absent,
        Option(_number("sequence"), "Tokens per sequence. Default: the model's own.", "N", ("--seq",)),
    ] = NOT_GIVEN
    vocabulary: Annotated[
        int | Absent,
        Option(_number("vocabulary"), "Entries of the vocabulary. Default: the model's own.", "N", ("--vocab",)),
    ] = NOT_GIVEN

    @property
    def series_name(self) -> str:
        return DEFAULT_SERIES if isinstance(self.series, Absent) else self.series


class ProgramOptions(ModelOptions, frozen=True, kw_only=True):
    """The same where --model may also name a factory of the user's own."""

    model: Annotated[
        str | Absent,
        Option(
            NAME,
            "Instead of --params: a published model (`rigbench profiles` lists them), its config.json, a shape of your "
            "own, or a program of yours, as mynet:make.",
            "NAME|FILE|MODULE:FACTORY",
            private=True,
        ),
    ] = NOT_GIVEN


class SeriesOptions(ProgramOptions, frozen=True, kw_only=True):
    """The same for what asks for the largest model of a series."""

    params: Annotated[int | Absent, params_option("the series' largest")] = NOT_GIVEN


class ShapeFile(Profile, frozen=True, kw_only=True):
    """A decoder of the user's own, as `--model FILE.toml` reads it; what it leaves out is as `shape_of` says."""

    style: Style
    layers: Count
    width: Count
    heads: Count
    vocabulary: Count
    sequence: Count
    name: Text | None = None
    kv_heads: Count | None = None
    ffn_width: Count | None = None
    tied_head: bool = True
    biases: bool | None = None


def choose(options: ModelOptions, default: str | Model = DEFAULT_SIZE) -> Model:
    """The model of a command that takes a shape. `default` may be a size of the series.

    Options for layers, width, heads, vocabulary and sequence change the model named, or else the default one. A model
    so changed goes by its true count, except where only its sequence is another.
    """
    program = factory(options)
    if program is not None:
        raise RigbenchError(
            f"--model {program} is a program, and this command works from a shape",
            "name a published model or a FILE.toml, or give --params; train-probe and capacity take programs, and "
            "`rigbench watch -- COMMAND` says the hours, kWh and money of its training",
        )
    return _changed(_base(options, default), options)


def refuse_to_train(models: Iterable[Model]) -> None:
    """
    Raises:
        RigbenchError: one of them is a mixture of experts.
    """
    for model in models:
        if model.shape.experts:
            what = f"{model.name} is a mixture of experts, which rigbench predicts and does not train"
            raise RigbenchError(what, "name hardware with --on NAME", NOTHING)
        if model.shape.windowed_layers and model.shape.sequence > model.shape.window:
            what = f"{model.name} sees a window of {model.shape.window:,} tokens, and rigbench trains without windows"
            raise RigbenchError(what, f"give --seq of at most {model.shape.window}, or --on NAME", NOTHING)


def factory(options: ModelOptions) -> str | None:
    """ "package.module:factory" where that is what --model names. Options that a factory decides are refused."""
    if isinstance(options.model, Absent):
        return None
    spec = options.model.strip()
    if ":" not in spec or spec.lower().endswith((".toml", ".json")):
        return None
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not name.isidentifier():
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        fits = name.isidentifier() and all(part.isidentifier() for part in dotted.split("."))
        meant = f"{dotted}:{name}" if fits else "mynet:make"
        raise RigbenchError(f"--model {spec[:60]!r} is not package.module:factory", f"write it as {meant}")
    for field in ("params", "series", "layers", "width", "heads", "kv_heads"):
        if not isinstance(getattr(options, field), Absent):
            option = f"--{field.replace('_', '-')}"
            what = f"--model {spec} and {option} exclude each other"
            raise RigbenchError(what, f"the factory decides that; leave {option} out")
    return spec


def _base(options: ModelOptions, default: str | Model) -> Model:
    if isinstance(options.model, Absent):
        if not isinstance(options.params, Absent):
            return shape_for(options.params, series(options.series_name))
        return default if isinstance(default, Model) else model_named(default, options.series_name)
    for other in ("params", "series"):
        if not isinstance(getattr(options, other), Absent):
            raise RigbenchError(f"--model and --{other} exclude each other", "give the one that you mean")
    spec = options.model.strip()
    if spec.lower().endswith(".toml"):
        return _from_file(Path(spec))
    if spec.lower().endswith(".json"):
        return _from_config(Path(spec))
    return published(options.model).model


def published(text: str) -> SeriesModel:
    """A model of models.toml by any of its names; capitals, dashes and spaces do not matter."""
    known = {_key(name): entry for entry in models() for name in (entry.name, *entry.also)}
    if _key(text) in known:
        return known[_key(text)]
    raise RigbenchError(f"--model {text[:60]!r}: no published model has that name", _meant(text.strip(), known))


def _meant(text: str, known: dict[str, SeriesModel]) -> str:
    near = difflib.get_close_matches(_key(text), known, n=3, cutoff=0.6)
    near += [key for key in known if _key(text) and _key(text) in key and key not in near]
    with contextlib.suppress(RigbenchError):
        units.parse_parameters(text)
        return f"a size is given as --params {text}"
    if "/" in text or Path(text).suffix in (".yaml", ".yml", ".py"):
        return "a shape is given as a FILE.toml or config.json, a program of yours as package.module:factory"
    if near and text:
        names = dict.fromkeys(known[key].name for key in near)
        return f"did you mean {' or '.join(list(names)[:3])}?"
    return "`rigbench profiles` lists them; a shape is a FILE.toml or config.json, a program package.module:factory"


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in " -_")


def _from_file(path: Path) -> Model:
    where = f"--model {path}"
    fields = msgspec.structs.fields(ShapeFile)
    needed, others = ([field.name for field in fields if field.required == wanted] for wanted in (True, False))
    form = f"it needs {', '.join(needed)}, and may have {', '.join(others)}"
    written = read_toml(path, ShapeFile, where, "give the path of a FILE.toml", form)
    shape = shape_of(**{field.name: getattr(written, field.name) for field in fields if field.name != "name"})
    _check(shape, where)
    return describe(shape, written.name or path.stem)


def _from_config(path: Path) -> Model:
    """A mixture of experts goes by its name and both of its counts."""
    where = f"--model {path}"
    name, shape = config_json.read(path, where)
    _check(shape, where, also=("experts", "active_experts") if shape.experts else ())
    if shape.experts:
        if shape.active_experts > shape.experts:
            what = f"{where}: {shape.active_experts} of {shape.experts} experts see each token"
            raise RigbenchError(what, "give the authors' own file")
        active, total = (units.format_count(count(shape)) for count in (active_parameters, total_parameters))
        name = f"{name} ({active} active of {total})"
    return describe(shape, name)


def _check(shape: Shape, where: str, also: tuple[str, ...] = ()) -> None:
    for field, (low, high) in {**BOUNDS, **dict.fromkeys(also, (1, 1 << 12))}.items():
        if not low <= getattr(shape, field) <= high:
            what = f"{where}: {field} = {getattr(shape, field):,} is not within {low:,} to {high:,}"
            raise RigbenchError(what, "mend it there")
    _check_division(shape, f"{where}: heads = {shape.heads}", f"{where}: kv_heads = {shape.kv_heads}")
    _check_size(shape, where)


def _changed(model: Model, options: ModelOptions) -> Model:
    fields = ("layers", "width", "heads", "kv_heads", "vocabulary", "sequence")
    said = {field: it for field in fields if not isinstance(it := getattr(options, field), Absent)}
    shape = msgspec.structs.replace(model.shape, **said)
    if "width" in said:
        shape = msgspec.structs.replace(shape, ffn_width=default_ffn_width(shape.style, shape.width))
        if "heads" not in said:
            each = head_width(shape.width)
            if shape.width % each:
                what = f"--width {shape.width} is not a number of heads of {each}"
                raise RigbenchError(what, f"give --heads too, or a multiple of {each}")
            shape = msgspec.structs.replace(shape, heads=shape.width // each)
    if "kv_heads" not in said and shape.heads != model.shape.heads:
        # As many heads share a key-value head as in the model that is changed.
        sharing = model.shape.heads // model.shape.kv_heads
        if shape.heads % sharing:
            what = f"{shape.heads} heads cannot share key-value heads by {sharing}, as this model's do"
            raise RigbenchError(what, "give --kv-heads too")
        shape = msgspec.structs.replace(shape, kv_heads=shape.heads // sharing)
    _check_division(shape, f"--heads {shape.heads}", f"--kv-heads {shape.kv_heads}")
    _check_size(shape, "the shape asked for")
    other = msgspec.structs.replace(shape, sequence=model.shape.sequence) != model.shape
    return describe(shape, units.format_count(total_parameters(shape)) if other else model.name)


def _check_division(shape: Shape, heads: str, kv_heads: str) -> None:
    if not shape.head_dim and shape.width % shape.heads:
        near = _nearest_divisors(shape.width, shape.heads)
        raise RigbenchError(f"{heads} does not divide the width of {shape.width:,}", f"give {near}")
    if shape.heads % shape.kv_heads:
        near = _nearest_divisors(shape.heads, shape.kv_heads)
        raise RigbenchError(f"{kv_heads} does not divide the {shape.heads} heads", f"give {near}")


def _nearest_divisors(whole: int, wanted: int) -> str:
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    below = [number for number in divisors if number < wanted][-1:]
    above = [number for number in divisors if number > wanted][:1]
    return " or ".join(str(number) for number in below + above)


def _check_size(shape: Shape, where: str) -> None:
    total = total_parameters(shape)
    if total > LARGEST_PARAMETERS:
        what = f"{where} has {units.format_count(total)} parameters"
        raise RigbenchError(what, f"give one of at most {LARGEST_PARAMETERS:,}")
