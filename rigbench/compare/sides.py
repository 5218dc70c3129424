"""Finds what stands on each side of a comparison: runs, files, folders and labels, and stored repeats of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rigbench import tables
from rigbench.compare.record import NotCompared, Side
from rigbench.compare.verdict import Key, key
from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.files import reason
from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.index import Index
from rigbench.store import Store, read
from rigbench.tables import Measured, Row
from rigbench.topology.record import Topology
from rigbench.watch.record import Training

MOST_REPEATS = 9  # that are added to a run that was named
MOST_FILES = 10_000  # of a folder
MOST_WORDS = 200  # characters of a command
SETTINGS = (
    *("power_limit_watts", "persistence", "compute_mode", "ecc_enabled", "mig_enabled", "bar1_covers_memory"),
    "link_width_now_lanes",
)
VERDICTS = ("bandwidth", "p2p", "collectives")


class Chosen(NamedTuple):
    """A side: its runs, the document of one that was named alone, and what a folder of it held besides runs."""

    name: str
    runs: list[Measured]
    documents: list[Run]  # of those that were named by an id or a file
    added: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def rigs(self) -> list[str]:
        return list(dict.fromkeys(its.unit for its in self.runs))


def chosen(word: str, home: Store, index: Index) -> Chosen:
    """The runs that a word names: several with commas between, a folder's, a label's, a file's, or one by its id.

    Raises:
        RigbenchError: there is none of that name, it cannot be read, or it holds nothing that compares.
    """
    words = [part.strip() for part in word.split(",") if part.strip()]
    if not words:
        raise RigbenchError(f"{word[:40]!r} names no run", "give a run's id, a file, a folder or a label")
    runs: dict[str, Measured] = {}
    documents: list[Run] = []
    unreadable: list[str] = []
    for part in words:
        if os.path.isdir(part):
            for its in _of_folder(Path(part), unreadable):
                runs.setdefault(its.run, its)
        elif labelled := _labelled(part, home, index):
            runs |= {its.run: its for its in labelled}
        else:
            documents.append(read(_path(part, home)))
            runs[documents[-1].id] = tables.measured(documents[-1])
    if not any(its.rows for its in runs.values()):
        what = f"{len(runs)} runs" if len(runs) > 1 else f"run {next(iter(runs))}" if runs else "no run"
        held = "which hold" if len(runs) > 1 else "which holds"
        why = " (the machine was busy)" if any(run.disturbed() for run in documents) else ""
        where = f"{word[:60]!r} is {what}" + (f", {held} no number that compares{why}" if runs else "")
        raise RigbenchError(where, "compare what was measured: run, train-probe, matmul, …", exit_code=NOTHING)
    return Chosen(word, list(runs.values()), documents, (), tuple(unreadable))


def _labelled(word: str, home: Store, index: Index) -> list[Measured]:
    """None where the word is a file's or a whole id, which no label is: then no other run need be looked at."""
    if os.sep in word or word.endswith(".json") or os.path.isfile(home.runs / f"{word}.json"):
        return []
    return [its for its in index.measured() if its.label == word and not its.look]


def _path(word: str, home: Store) -> Path:
    try:
        return home.find(word)
    except RigbenchError as error:
        cure = f"{error.what_to_do}; `rigbench report RUN --label NAME` gives labels"
        what = error.what_happened.replace("no stored run is called", "no stored run and no label is called")
        raise RigbenchError(what, cure, error.exit_code) from None


def _of_folder(folder: Path, unreadable: list[str]) -> Iterator[Measured]:
    def refuse(error: OSError) -> None:
        raise RigbenchError(f"cannot read {error.filename or folder} ({reason(error)})", "look at its permissions")

    files = [
        Path(where, name)
        for where, _, names in os.walk(folder, onerror=refuse)
        for name in sorted(names)
        if name.endswith(".json")
    ]
    if len(files) > MOST_FILES:
        raise RigbenchError(f"{folder} holds {len(files):,} files", f"name a folder of at most {MOST_FILES:,}")
    found = 0
    for file in files:
        try:
            its = tables.measured(read(file))
        except RigbenchError as error:
            unreadable.append(error.what_happened)
            continue
        found += 1
        if not its.look:
            yield its
    if not found:
        raise RigbenchError(f"{folder} holds no run that can be read", unreadable[0] if unreadable else "")


def newest(home: Store, index: Index, before: Run | None = None) -> str:
    """The newest run that measured; or the newest of the same rig and command that is older than another one.

    Raises:
        RigbenchError: there is none.
    """
    for its in index.measured():
        if its.look or not its.rows:
            continue
        if before is None or (
            (its.unit, its.command) == (tables.measured(before).unit, before.command) and its.run < before.id
        ):
            return its.run
    if before is None:
        raise RigbenchError(f"no run is stored in {home.runs}", "run `rigbench run --quick` first", NOTHING)
    what = f"no earlier run of this rig by `rigbench {before.command}` is stored"
    raise RigbenchError(what, "measure again, or name what to compare with", NOTHING)


def with_repeats(its: Chosen, other: Chosen, index: Index) -> Chosen:
    """With stored runs of the same rig, command, software and label, where one run was named, against one rig.

    They are the older ones of the older side and the newer ones of the newer side, where nothing but time tells the
    sides apart: what changed between the two runs may have changed at any moment in between.
    """
    if len(its.runs) != 1 or len(other.rigs) != 1 or not its.documents:
        return its
    named = its.runs[0]
    alike = [one for one in index.measured(named.rig) if _alike(one, named) and not one.look and one.rows]
    alike = [one for one in alike if one.run not in {named.run, *(it.run for it in other.runs)}]
    if any(_alike(one, named) for one in other.runs):
        is_older = named.started_at < min(one.started_at for one in other.runs)
        alike = [one for one in alike if (one.started_at <= named.started_at) == is_older]
    near = sorted(alike, key=lambda one: abs(_number(one.run) - _number(named.run)))[:MOST_REPEATS]
    return its._replace(runs=[named, *near], added=tuple(one.run for one in near))


def without(its: Chosen, other: Chosen) -> Chosen:
    """Without the other side's runs, where a folder or a label holds them too, and its rig where others are there.

    Raises:
        RigbenchError: nothing is left, or a run was named on both sides.
    """
    mine, theirs = {run.run for run in its.runs}, {run.run for run in other.runs}
    named = {document.id for document in its.documents}
    left = [run for run in its.runs if run.run not in theirs]
    several = next((side.name for side in (its, other) if not side.documents), None)  # a folder, a label
    if several is not None and not left and (mine == theirs or not named):
        what = min(mine) if len(theirs) == 1 else "those of the other side"
        raise RigbenchError(f"{several[:60]} holds no run besides {what}", "name others", NOTHING)
    if named & theirs:
        raise RigbenchError(f"run {min(mine & theirs)} stands on both sides", "name it on one of them")
    if len(other.rigs) == 1:
        left = [run for run in left if run.unit != other.rigs[0]] or left
    return its._replace(runs=left)


def busy(its: Chosen) -> Iterator[NotCompared]:
    """What of the runs that were named is left out, since the machine was busy while it was measured."""
    for run in its.documents:
        for one in run.disturbed():
            yield NotCompared(f"{one.room} of {run.id}", f"the machine was busy: {one.evidence[0]}")


def rows(its: Chosen) -> dict[Key, Row]:
    """What the side holds, one run's row for each number."""
    return {key(row): row for run in its.runs for row in run.rows}


def _alike(one: Measured, other: Measured) -> bool:
    return (one.unit, one.command, one.software, one.label) == (other.unit, other.command, other.software, other.label)


def _number(run_id: str) -> int:
    digits = "".join(letter for letter in run_id[:15] if letter.isdecimal())
    return int(digits or 0)


def side(its: Chosen, by_rig: bool) -> tuple[Side, list[list[Measured]]]:
    """The side, and its units: runs, or rigs with all runs of each."""
    groups = [[run for run in its.runs if run.unit == rig] for rig in its.rigs] if by_rig else [[it] for it in its.runs]
    machines = list(dict.fromkeys(run.machine for run in its.runs))
    words = machines[0] if len(machines) == 1 else f"{len(its.rigs)} rigs"
    made = Side(
        name=its.name,
        runs=tuple(run.run for run in its.runs),
        added=its.added,
        machine=words,
        unit="rig" if by_rig else "run",
        units=len(groups),
    )
    return made, groups


def changes(before: Chosen, after: Chosen) -> Iterator[str]:
    """What besides time is different, in words: hardware, software, settings, verdicts."""
    for name, ends in (
        ("machine", [its.machine for its in (before.runs[0], after.runs[0])]),
        ("rig", [its.unit for its in (before.runs[0], after.runs[0])]),
    ):
        if len(before.rigs) == len(after.rigs) == 1 and ends[0] != ends[1]:
            yield f"{name} {ends[0]} → {ends[1]}"
    olds, news = ({it.run: it.software for it in side.runs}.values() for side in (before, after))
    for name in next(iter(olds)).__struct_fields__:
        if name != "environment":
            yield from _differs(
                name.replace("_", " "), [getattr(it, name) for it in olds], [getattr(it, name) for it in news]
            )
    for variable in sorted({name for it in (*olds, *news) for name in it.environment}):
        values = [[it.environment.get(variable, "not set") for it in side] for side in (olds, news)]
        yield from _differs(variable, *values)
    if before.documents and after.documents:
        yield from _settings(before.documents[0], after.documents[0])


def _differs(name: str, old: Sequence[object], new: Sequence[object]) -> Iterator[str]:
    ends = [" or ".join(sorted({_words(it) for it in side})) for side in (old, new)]
    if ends[0] != ends[1]:
        yield f"{name} {ends[0]} → {ends[1]}"


def _words(value: object) -> str:
    if isinstance(value, Absent):
        return "n/a"
    return units.format_watts(value) if isinstance(value, float) else str(value)


def _settings(before: Run, after: Run) -> Iterator[str]:
    for room in VERDICTS:
        ends = [getattr(getattr(run, room), "verdict", None) for run in (before, after)]
        if None not in ends and ends[0] != ends[1]:
            yield f"{room} {ends[0]} → {ends[1]}"
    if isinstance(before.watched, Training) and isinstance(after.watched, Training):
        yield from _differs("command", *([" ".join(it.command)[:MOST_WORDS]] for it in (before.watched, after.watched)))
    if isinstance(before.topology, Topology) and isinstance(after.topology, Topology):
        for old, new in zip(before.topology.gpus, after.topology.gpus, strict=False):
            for name in SETTINGS:
                ends = [getattr(gpu, name) for gpu in (old, new)]
                if not any(isinstance(end, Absent) for end in ends):
                    label = name.removesuffix("_watts").removesuffix("_lanes").replace("_", " ")
                    yield from _differs(f"{old.label} {label}", ends[:1], ends[1:])
