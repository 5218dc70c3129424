"""Options, each said once: a record's field with its reader and help, which the command line turns into a parameter.

    class Options(Record, frozen=True, kw_only=True):
        times: Annotated[int, Option(whole(1, 20), "How often each setting is tried.", "N")] = 3

`rigbench.command` makes `--times N  How often each setting is tried. [default: 3]` of it. What is not given has the
field's default; what is not said and has none is Absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent

NOT_GIVEN = Absent("not given")


class Reader(NamedTuple):
    """How a word becomes a value: `read(text, "--name")`, which refuses what it does not take, and how one is shown.

    `words` are those that a shell offers to complete.
    """

    read: Callable[[str, str], Any]
    show: Callable[[Any], str] = str
    words: Callable[[], Iterable[str]] = tuple


class Option(NamedTuple):
    """`read` None: a switch, or one of a Literal's words. `names` without any: the field's own, as --micro-batch."""

    read: Reader | None
    help: str
    metavar: str | None = None
    names: tuple[str, ...] = ()
    panel: str = ""  # of the help page
    setting: bool = False  # given by --set KEY=VALUE or rigbench.toml alone
    rivals: tuple[str, ...] = ()  # keys that this one replaces where they were given farther away, as in a file
    private: bool = False  # a rigbench.toml in the folder may not give it: it names code or a place to write

    def name(self, field: str) -> str:
        return self.names[0] if self.names else "--" + field.replace("_", "-")


TEXT = Reader(lambda text, option: text)
LONGEST_LABEL = 40


def _label(text: str, option: str) -> str:
    label = text.strip()
    if not label or len(label) > LONGEST_LABEL or not label.isprintable() or set(label) & set(",/"):
        raise RigbenchError(f"{option} {text[:50]!r} is no label", "give a short word, like before or 250W")
    return label


LABEL = Reader(_label)


def whole(low: int, high: int) -> Reader:
    return Reader(lambda text, option: units.parse_whole(text, option, low, high))


def number(low: float, high: float) -> Reader:
    return Reader(lambda text, option: units.parse_number(text, option, low, high), lambda value: f"{value:g}")


def zero_or(reader: Reader) -> Reader:
    """The same, and 0, which switches something off."""
    return Reader(lambda text, option: 0.0 if text.strip() == "0" else reader.read(text, option), reader.show)


def seconds(low: float = 0.0, high: float = float("inf"), usual: str = "") -> Reader:
    """A duration from `low` to `high`; `usual` is said to who gives another."""

    def read(text: str, option: str) -> float:
        value = units.parse_seconds(text, option)
        if not low <= value <= high:
            between = " and ".join(units.format_seconds(end).replace(".00 ", " ") for end in (low, high))
            raise RigbenchError(f"{option} {text!r} is not between {between}", usual)
        return value

    return Reader(read, lambda value: f"{value:g}s")


def size(low: int = 0, high: int = 1 << 62, usual: str = "") -> Reader:
    """Bytes from `low` to `high`."""

    def read(text: str, option: str) -> int:
        value = units.parse_bytes(text, option)
        if not low <= value <= high:
            between = f"{units.format_bytes(low)} and {units.format_bytes(high)}"
            raise RigbenchError(f"{option} {text!r} is not between {between}", usual)
        return value

    return Reader(read, lambda value: units.format_bytes(value).replace(" ", ""))


def one_of(*words: str) -> Reader:
    """One of these words, where a Literal would be too many for a line of help."""

    def read(text: str, option: str) -> str:
        if text not in words:
            listed = f"{', '.join(words[:-1])} or {words[-1]}"
            raise RigbenchError(f"{option} {text[:40]!r} is not one of them", f"use {listed}")
        return text

    return Reader(read, words=lambda: words)
