"""The index of stored runs: one SQLite file beside them, so that thousands of runs cost little.

The runs' files are the truth. The index is a copy of a few of their fields, kept by file name, size and time of change;
what is missing or old in it is read again, and a file that is no index of this version is made anew. Where it cannot
be written (a full disk, a folder of somebody else's) everything still works, only slower.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rigbench import __version__, tables
from rigbench.backtest.record import Backtest
from rigbench.core import home
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Progress
from rigbench.core.record import Record
from rigbench.document import SCHEMA, Run
from rigbench.tables import Measured, Row
from rigbench.train.record import Slice, StoredSlice

_told: list[str] = []  # why there is no index, said once
WAIT_SECONDS = 2.0  # for another rigbench that writes the index
MANY, SECONDS_A_RUN = 500, 0.001  # from how many on it is told how far reading is, and about what one takes
KEEP_EVERY = 500  # runs read anew, so that an interrupted rebuild goes on where it stopped
COLUMNS = "name TEXT PRIMARY KEY, size INTEGER, changed INTEGER, rig TEXT, slices INTEGER, entry BLOB, "
COLUMNS += "measured BLOB, unread TEXT"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One stored run without raw samples."""

    id: str
    started_at: str
    command: str
    status: str
    rig: str  # its fingerprint
    machine: str  # its cards, or its processor; what a prediction is of
    look: bool  # nothing was measured
    torch: str
    rooms: tuple[str, ...]
    metrics: dict[str, tuple[float, float, float, int]]  # middle, ends of the interval, samples of each headline
    slices: tuple[StoredSlice, ...] = ()
    backtest: Backtest | None = None
    label: str = ""
    busy: tuple[str, ...] = ()  # rooms measured while the machine was busy


def entry_of(run: Run) -> Entry:
    rooms = run.rooms()
    disturbed = {it.place: it.evidence[0] for it in run.disturbed("slices")}
    slices = tuple(
        StoredSlice.of(run.id, item, disturbed.get(place, ""))
        for place, item in enumerate(rooms.get("slices", ()))
        if isinstance(item, Slice)
    )
    backtest = run.backtest if isinstance(run.backtest, Backtest) else None
    metrics = {f"{name}.{path}": it for name, room in rooms.items() for path, it in _headlines(room)}
    return Entry(
        id=run.id,
        started_at=run.started_at,
        command=run.command,
        status=run.status,
        rig=run.rig.fingerprint,
        machine=tables.on(run)[1],
        look=run.look,
        torch=str(run.software.torch),
        rooms=tuple(rooms),
        metrics={path: (it.value, it.low, it.high, it.n) for path, it in metrics.items()},
        slices=slices,
        backtest=backtest,
        label=tables.label(run),
        busy=tuple(dict.fromkeys(it.room for it in run.disturbed())),
    )


def _headlines(room: tuple[Record, ...]) -> Iterator[tuple[str, Estimate]]:
    """The estimates that stand in a room's record itself, or in a mapping of it."""
    for record in room:
        for field in record.__struct_fields__:
            value = getattr(record, field)
            model = f"{record.model.name}." if isinstance(record, Slice) else ""
            if isinstance(value, Estimate):
                yield f"{model}{field}", value
            elif isinstance(value, Mapping):
                yield from ((f"{model}{field}.{key}", it) for key, it in value.items() if isinstance(it, Estimate))


class Index:
    """The index of one folder of runs, brought up to date when it is opened."""

    def __init__(self, runs: Path, read: Callable[[Path], Run], progress: Progress) -> None:
        file = runs.parent / "index.sqlite"
        self._runs, self._read = runs, read
        self._database, why = _open(file)
        try:
            if self._database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":  # damage within: made anew
                self._database.close()
                with contextlib.suppress(OSError):
                    file.unlink()
                self._database, why = _open(file)
            runs_there = self._follow(runs, read, progress)
        except sqlite3.Error as error:  # somebody else's file, a lock that stays, no space
            self._database, why = _open(Path(":memory:"))[0], str(error)
            runs_there = self._follow(runs, read, progress)
        if why and runs_there and not _told:
            _told.append(why)
            progress.line(f"rigbench: {file} cannot be used ({why}): every stored run is read anew each time")

    def entries(self, rig: str | None = None) -> Iterator[Entry]:
        """Newest first; of one rig where it is named."""
        where, values = ("AND rig = ?", (rig,)) if rig else ("", ())
        query = f"SELECT name, entry FROM runs WHERE unread = '' {where} ORDER BY name DESC"
        rows = self._database.execute(query, values)
        for name, entry in rows:
            try:
                yield msgspec.json.decode(entry, type=Entry)
            except (msgspec.MsgspecError, TypeError, RecursionError):  # a bit that fell over, unseen by SQLite
                yield entry_of(self._read(self._runs / name))

    def measured(self, rig: str | None = None) -> Iterator[Measured]:
        """Every readable run's headlines, newest first; of one rig where it is named. No run's file is opened."""
        where, values = ("AND rig = ?", (rig,)) if rig else ("", ())
        query = f"SELECT name, measured FROM runs WHERE unread = '' {where} ORDER BY name DESC"
        rows = self._database.execute(query, values)
        decoder = msgspec.json.Decoder(Measured)
        for name, numbers in rows:
            try:
                yield decoder.decode(numbers)
            except (msgspec.MsgspecError, TypeError, RecursionError):
                yield tables.measured(self._read(self._runs / name))

    def slices_of_other_rigs(self, rig: str) -> int:
        query = "SELECT coalesce(sum(slices), 0) FROM runs WHERE rig <> ?"
        return int(self._database.execute(query, (rig,)).fetchone()[0])

    def unreadable(self) -> list[str]:
        query = "SELECT unread FROM runs WHERE unread <> '' ORDER BY name DESC"
        return [why for (why,) in self._database.execute(query)]

    def _follow(self, runs: Path, read: Callable[[Path], Run], progress: Progress) -> int:
        """Read what is new or changed, forget what is gone; how many there are."""
        rows = self._database.execute("SELECT name, size, changed FROM runs")
        known = {name: (size, changed) for name, size, changed in rows}
        files: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(OSError), os.scandir(runs) as found:
            for file in found:
                if file.name.endswith(".json") and file.name[:1].isdigit() and file.name.isprintable():
                    with contextlib.suppress(OSError):  # gone meanwhile, or a link to nothing
                        files[file.name] = (status := file.stat()).st_size, status.st_mtime_ns
        new = [name for name, facts in files.items() if known.get(name) != facts]
        if len(new) > MANY:
            progress.stage(f"reading {len(new):,} stored runs", len(new) * SECONDS_A_RUN)
        for number, name in enumerate(new):
            row, unread = ("", 0, b"", b""), ""
            try:
                run = msgspec.structs.replace(read(runs / name), id=name.removesuffix(".json"))  # as it is found by
                entry, numbers = entry_of(run), tables.measured(run)
                row = run.rig.fingerprint, len(entry.slices), msgspec.json.encode(entry), msgspec.json.encode(numbers)
            except RigbenchError as error:
                unread = error.what_happened
            except (ArithmeticError, LookupError, ValueError) as error:  # it contradicts itself, or we do
                kept = home.log_error("".join(traceback.format_exception(error)))
                unread = f"{runs / name} could not be looked through ({type(error).__name__}); please report it{kept}"
            values = (name, *files[name], *row, unread)
            self._database.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            if number % KEEP_EVERY == KEEP_EVERY - 1:
                self._database.commit()
            if len(new) > MANY:
                progress.update((number + 1) / len(new), f"{number + 1:,}")
        self._database.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in known.keys() - files.keys()])
        with contextlib.suppress(sqlite3.Error):  # a disk that is full: what was read holds until the end
            self._database.commit()
        return len(files)


def _open(path: Path) -> tuple[sqlite3.Connection, str]:
    """The index, made anew where its file is none of this version; in memory where the disk refuses it, and why."""
    attempts, why = [":memory:", str(path), str(path)], ""
    while attempts:
        attempt = attempts.pop()
        try:
            database = sqlite3.connect(attempt, timeout=WAIT_SECONDS)
            database.execute("PRAGMA synchronous = OFF")  # the runs' files are synced; an index is made again
            if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                database.execute("BEGIN IMMEDIATE")  # of two that make it at once, the second finds it made
                if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    database.execute("DROP TABLE IF EXISTS runs")
                    database.execute(f"CREATE TABLE runs ({COLUMNS})")
                    database.execute(f"PRAGMA user_version = {VERSION}")
                database.commit()
            names = "name, size, changed, rig, slices, entry, measured, unread"
            database.execute(f"SELECT {names} FROM runs LIMIT 1").fetchall()
            return database, why if attempt == ":memory:" else ""
        except sqlite3.DatabaseError as error:
            why = str(error)
            of_the_disk = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR
            if of_the_disk:  # no permission, no space, no lock
                attempts = attempts[:1]
                continue
            # Not an index, or one without its table: begin again.
            with contextlib.suppress(OSError):
                path.unlink()
    raise AssertionError("a database in memory can be opened")


def _version() -> int:
    """Changes with whatever an entry is made of."""
    parts: list[Any] = [__version__, SCHEMA, COLUMNS, tables.METHOD]
    parts += [record.__struct_fields__ for record in (Entry, StoredSlice, Slice, Backtest, Estimate, Measured, Row)]
    return zlib.crc32(repr(parts).encode()) & 0x7FFFFFFF


VERSION = _version()
