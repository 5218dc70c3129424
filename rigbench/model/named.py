"""Which model is meant? A size of a series, a published name or a shape in a file, and what options change of it."""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import SeriesModel
from rigbench.model import shape_file as shapes
from rigbench.model.asked import Asked
from rigbench.model.counts import total_parameters
from rigbench.model.flops import describe
from rigbench.model.record import Model, Shape
from rigbench.model.shape import LARGEST_PARAMETERS, default_ffn_width, head_width, model_named

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
FIELD_OF = {"layers": "layers", "width": "width", "heads": "heads", "kv_heads": "kv_heads", "vocab": "vocabulary"}
OPTION_OF = {"kv_heads": "--kv-heads"}


def choose(asked: Asked, default: str | Model | None = None) -> Model:
    """The model of a command that takes a shape. `default` may be a size of the series; None: its smallest model.

    Options for layers, width, heads, vocabulary and sequence change the model named, or else the default one. A model
    so changed goes by its true count, except where only its sequence is another.

    Raises:
        RigbenchError: a name that is not known, a file that holds no shape, options that contradict each other, values
            out of bounds, heads that do not divide, or a program of the user's (`factory`), which has no shape.
    """
    program = factory(asked)
    if program is not None:
        raise RigbenchError(
            f"--model {program} is a program, and this command works from a shape",
            "name a published model or a FILE.toml, or give --params; train-probe runs programs",
        )
    return _changed(_base(asked, default), asked)


def factory(asked: Asked) -> str | None:
    """ "package.module:factory" where that is what --model names.

    Raises:
        RigbenchError: it is not of that form, or an option contradicts it.
    """
    if asked.model is None or not _is_factory(asked.model):
        return None
    spec = asked.model.strip()
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not name.isidentifier():
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        fits = name.isidentifier() and all(part.isidentifier() for part in dotted.split("."))
        meant = f"{dotted}:{name}" if fits else "mynet:make"
        raise RigbenchError(f"--model {spec[:60]!r} is not package.module:factory", f"write it as {meant}")
    for field in ("params", "series", *FIELD_OF):
        if field != "vocab" and getattr(asked, field) is not None:
            raise RigbenchError(
                f"--model {spec} and {_option(field)} exclude each other",
                f"the factory decides that; leave {_option(field)} out",
            )
    return spec


def vocabulary_and_sequence(asked: Asked) -> tuple[int, int]:
    """--vocab and --seq for a program that is a language model; 0: not said.

    Raises:
        RigbenchError: either is not such a number.
    """
    vocabulary = 0 if asked.vocab is None else units.parse_whole(asked.vocab, "--vocab", *BOUNDS["vocabulary"])
    return vocabulary, 0 if asked.seq is None else sequence(asked.seq)


def sequence(text: str) -> int:
    """
    Raises:
        RigbenchError: not a number of tokens that a sequence may have.
    """
    return units.parse_whole(text, "--seq", *BOUNDS["sequence"])


def check_published() -> tuple[int, int]:
    """Count every published model's shape: how many have exactly their authors' total, and how many come as near as
    their family says (`published_within`).

    Raises:
        RigbenchError: the first whose count is another.
    """
    exact = near = 0
    for entry in profiles.models():
        published = entry.published_parameters
        if not isinstance(published, int):
            continue
        ours = total_parameters(entry.shape)
        if abs(ours - published) > entry.published_within * published:
            raise RigbenchError(
                f"models.toml: {entry.name} is said to have {published:,} parameters, and its shape has {ours:,}",
                "mend its shape or its published_parameters (published_within of the family allows a share)",
            )
        exact += ours == published
        near += ours != published
    return exact, near


def _base(asked: Asked, default: str | Model | None) -> Model:
    if asked.model is None:
        wish = default if asked.params is None else asked.params
        if isinstance(wish, Model):
            return wish
        if wish is not None:
            return model_named(wish, asked.series_name)
        smallest = min(profiles.series(asked.series_name).models, key=lambda entry: total_parameters(entry.shape))
        return describe(smallest.shape, smallest.name)
    for other in ("params", "series"):
        if getattr(asked, other) is not None:
            raise RigbenchError(f"--model and --{other} exclude each other", "give the one that you mean")
    if asked.model.strip().lower().endswith(".toml"):
        return _from_file(Path(asked.model.strip()))
    entry = published(asked.model)
    return describe(entry.shape, entry.name)


def published(text: str) -> SeriesModel:
    """A model of models.toml by any of its names; capitals, dashes and spaces do not matter.

    Raises:
        RigbenchError: there is none of that name; the nearest names are said.
    """
    known = {_key(name): entry for entry in profiles.models() for name in (entry.name, *entry.also)}
    if _key(text) in known:
        return known[_key(text)]
    raise RigbenchError(f"--model {text[:60]!r}: no published model has that name", _meant(text.strip(), known))


def _meant(text: str, known: dict[str, SeriesModel]) -> str:
    near = difflib.get_close_matches(_key(text), known, n=3, cutoff=0.6)
    near += [key for key in known if _key(text) and _key(text) in key and key not in near]
    if _is_size(text):
        return f"a size is given as --params {text}"
    if "/" in text or Path(text).suffix in (".json", ".yaml", ".yml", ".py"):
        return "a shape is given as a FILE.toml, a program of yours as package.module:factory"
    if near and text:
        names = dict.fromkeys(known[key].name for key in near)
        return f"did you mean {' or '.join(list(names)[:3])}?"
    return "`rigbench profiles` lists them; a shape of yours is a FILE.toml, a program package.module:factory"


def _is_size(text: str) -> bool:
    try:
        units.parse_parameters(text)
    except RigbenchError:
        return False
    return True


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in " -_")


def _is_factory(text: str) -> bool:
    return ":" in text and not text.strip().lower().endswith(".toml")


def _from_file(path: Path) -> Model:
    """A user's own shape; what such a file may say is in `profiles/files.py`, ShapeFile."""
    found = shapes.read_shape(path)
    where = f"--model {path}"
    shape = Shape(
        style=found.style,
        layers=found.layers,
        width=found.width,
        heads=found.heads,
        kv_heads=found.heads if found.kv_heads is None else found.kv_heads,
        ffn_width=default_ffn_width(found.style, found.width) if found.ffn_width is None else found.ffn_width,
        vocabulary=found.vocabulary,
        sequence=found.sequence,
        tied_head=found.tied_head,
        biases=found.style != "llama" if found.biases is None else found.biases,
    )
    for field, (low, high) in BOUNDS.items():
        if not low <= getattr(shape, field) <= high:
            raise RigbenchError(
                f"{where}: {field} = {getattr(shape, field):,} is not within {low:,} to {high:,}", "mend it there"
            )
    _check_division(shape, f"{where}: heads = {shape.heads}", f"{where}: kv_heads = {shape.kv_heads}")
    _check_size(shape, where)
    return describe(shape, found.name or path.stem)


def _changed(model: Model, asked: Asked) -> Model:
    said = {
        field: units.parse_whole(getattr(asked, option), _option(option), *BOUNDS[field])
        for option, field in FIELD_OF.items()
        if getattr(asked, option) is not None
    }
    shape = msgspec.structs.replace(model.shape, **said)
    if asked.seq is not None:
        shape = msgspec.structs.replace(shape, sequence=sequence(asked.seq))
    if "width" in said:
        shape = msgspec.structs.replace(shape, ffn_width=default_ffn_width(shape.style, shape.width))
        if "heads" not in said:
            shape = msgspec.structs.replace(shape, heads=_heads(shape.width))
    if "kv_heads" not in said and shape.heads != model.shape.heads:
        shape = msgspec.structs.replace(shape, kv_heads=_kv_heads(shape.heads, model.shape))
    _check_division(shape, f"--heads {shape.heads}", f"--kv-heads {shape.kv_heads}")
    _check_size(shape, "the shape asked for")
    other = msgspec.structs.replace(shape, sequence=model.shape.sequence) != model.shape
    return describe(shape, units.format_count(total_parameters(shape)) if other else model.name)


def _heads(width: int) -> int:
    each = head_width(width)
    if width % each:
        raise RigbenchError(
            f"--width {width} is not a number of heads of {each}", f"give --heads too, or a multiple of {each}"
        )
    return width // each


def _kv_heads(heads: int, base: Shape) -> int:
    """As many heads share a key-value head as in the model that is changed."""
    sharing = base.heads // base.kv_heads
    if heads % sharing:
        raise RigbenchError(
            f"{heads} heads cannot share key-value heads by {sharing}, as this model's do", "give --kv-heads too"
        )
    return heads // sharing


def _check_division(shape: Shape, heads: str, kv_heads: str) -> None:
    if shape.width % shape.heads:
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
        raise RigbenchError(
            f"{where} has {units.format_count(total)} parameters", f"give one of at most {LARGEST_PARAMETERS:,}"
        )


def _option(field: str) -> str:
    return OPTION_OF.get(field, f"--{field}")
