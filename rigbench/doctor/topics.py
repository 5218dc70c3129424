"""Topics: what is to be known of rigbench as a whole, such as what has run on a GPU. Texts lie in topics/NAME.md.

A text is a title, paragraphs, `## headings`, `- items` and indented lines that are kept as they are. Numbers that
change with the code are not written in it: `$name` stands for a fact out of a file beside it.
"""

from __future__ import annotations

import string
from importlib import resources
from itertools import groupby

import msgspec

from rigbench.core.record import Absent, Record


class Unexecuted(msgspec.Struct, frozen=True):
    file: str
    statement: str
    reason: str


class Executed(msgspec.Struct, frozen=True):
    """What executed.json tells of the code that measures; `by_fakecuda` are those that no test on a CPU executes."""

    statements: int
    by_cpu_tests: int
    by_fakecuda: int
    torch: str
    date: str
    unexecuted: tuple[Unexecuted, ...]


class RealCard(msgspec.Struct, frozen=True):
    """A card with results in reports/; `groups` says how each of its pieces ended."""

    name: str
    driver: str
    torch: str
    date: str
    folder: str
    groups: dict[str, str]


class GpuFacts(Record, frozen=True):
    executed: Executed | Absent
    real_cards: tuple[RealCard, ...]


class TopicTitle(Record, frozen=True):
    """In the list of all."""

    code: str  # the word that it is asked for by, as a finding's code is
    title: str


class Topic(Record, frozen=True):
    code: str
    title: str
    text: str
    facts: GpuFacts | Absent


FOLDER = resources.files(__package__)


def titles() -> dict[str, TopicTitle]:
    """Of every topic, by its code."""
    names = sorted(file.name.removesuffix(".md") for file in FOLDER.joinpath("topics").iterdir())
    return {name: TopicTitle(name, _read(name)[0]) for name in names}


def topic(code: str) -> Topic:
    """One of `titles`, with its facts filled in."""
    title, body = _read(code)
    if code != "gpu":
        return Topic(code, title, body, Absent("a text alone"))
    counted = FOLDER.joinpath("executed.json")
    if counted.is_file():
        executed: Executed | Absent = msgspec.json.decode(counted.read_bytes(), type=Executed)
    else:
        executed = Absent("not counted yet")
    cards = msgspec.json.decode(FOLDER.joinpath("real_cards.json").read_bytes(), type=tuple[RealCard, ...])
    facts = GpuFacts(executed, cards)
    return Topic(code, title, string.Template(body).substitute(gpu_words(facts)), facts)


def _read(code: str) -> tuple[str, str]:
    """(title, body)."""
    title, _, body = FOLDER.joinpath("topics", f"{code}.md").read_text("utf-8").partition("\n")
    return title.removeprefix("# "), body.strip() + "\n"


def gpu_words(facts: GpuFacts) -> dict[str, str]:
    """What stands for each `$name` of the text."""
    its = facts.executed
    if isinstance(its, Absent):
        names = ("statements", "by_cpu_tests", "by_fakecuda", "torch", "date", "unexecuted_count", "unexecuted")
        counts = dict.fromkeys(names, its.reason)
    else:
        counts = _counts(its)
    cards = [
        f"- {card.name}, driver {card.driver}, torch {card.torch}, {card.date}: "
        f"{', '.join(f'{name} {ended}' for name, ended in card.groups.items())} ({card.folder})"
        for card in facts.real_cards
    ]
    return counts | {"cards": "\n".join(cards) or "None yet. A card is named here once its results lie in reports/."}


def _counts(its: Executed) -> dict[str, str]:
    missing = sorted(its.unexecuted, key=lambda one: (one.file, one.reason))
    lines = []
    for (file, reason), ones in groupby(missing, key=lambda one: (one.file, one.reason)):
        lines += [f"- {file}: {reason}", "", *(f"      {one.statement}" for one in ones), ""]
    return {
        "statements": str(its.statements),
        "by_cpu_tests": str(its.by_cpu_tests),
        "by_fakecuda": str(its.by_fakecuda),
        "torch": its.torch,
        "date": its.date,
        "unexecuted_count": str(len(its.unexecuted)),
        "unexecuted": "\n".join(lines).strip("\n") or "Nothing is left.",
    }
