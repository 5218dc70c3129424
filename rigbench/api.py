"""What Python programs and notebooks ask for: stored runs as tables, and forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rigbench import tables
from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.store import Store, default_home, read
from rigbench.usable import usable, words

if TYPE_CHECKING:
    import pandas as pd

    from rigbench.budget.record import Budget
    from rigbench.core.estimate import Estimate
    from rigbench.core.record import Figure


class StoredRun:
    """One run. `document` is all of it: every probe's record with its raw samples."""

    def __init__(self, document: Run) -> None:
        self.document = document

    def table(self, room: str) -> pd.DataFrame:
        """A row for each part of a room (a slice, a copy, a matmul shape), all its fields but raw samples.

        Units are in the columns' names; an estimate NAME has its 90 % interval in NAME_low and NAME_high.

        Raises:
            RigbenchError: the run has no such room.
        """
        _check(room)
        if room not in self.document.rooms():
            held = ", ".join(self.document.rooms()) or "nothing"
            raise RigbenchError(f"run {self.document.id} holds no {room[:40]}", f"it holds {held}")
        return _frame(tables.wide(self.document, room))

    def numbers(self) -> pd.DataFrame:
        """Every number that it holds, a row each, tidy: room, what, metric, unit, value, low, high, under."""
        return _frame(tables.tidy(self.document, tables.rows(self.document)))

    def __repr__(self) -> str:
        rooms = ", ".join(self.document.rooms()) or "nothing"
        return f"<rigbench {self.document.command} {self.document.id}: {rooms}>"

    def _repr_html_(self) -> str:
        shown = ("room", "what", "metric", "unit", "value", "low", "high")
        table = _frame(tables.tidy(self.document, tables.headlines(usable(self.document))))
        busy = "".join(f"<p><b>{escape(line)}</b></p>" for line in words(self.document)[:1])
        return f"<p>{escape(repr(self)[1:-1])}</p>{busy}" + table.reindex(columns=shown).to_html(index=False)


class StoredRuns:
    """The runs of one home, newest first."""

    def __init__(self, home: Path) -> None:
        self._store = Store(home)

    def __len__(self) -> int:
        return len(self._store.paths())

    def __iter__(self) -> Iterator[StoredRun]:
        """Those that can be read."""
        for entry in self._store.index().entries():
            yield StoredRun(self._store.load(entry.id))

    def table(self, room: str) -> pd.DataFrame:
        """As of one run, the rows of all runs that hold the room."""
        _check(room)
        held = [entry.id for entry in self._store.index().entries() if room in entry.rooms]
        return _frame(row for run_id in held for row in tables.wide(self._store.load(run_id), room))

    def numbers(self) -> pd.DataFrame:
        """Of every run the numbers that stand for its probes, tidy, from the index: no run's file is opened."""
        return _frame(row for its in self._store.index().measured() for row in tables.tidy(its, its.rows))

    def __repr__(self) -> str:
        return f"<{len(self)} rigbench runs in {self._store.runs}>"

    def _repr_html_(self) -> str:
        columns = ("run", "started_at", "command", "machine", "label", "numbers")
        newest = list(self._store.index().measured())
        rows = (tables.about(its) | {"numbers": len(its.rows)} for its in newest if not its.look)
        return f"<p>{escape(repr(self)[1:-1])}</p>" + _frame(rows).reindex(columns=columns).to_html(index=False)


class Forecast:
    """What a training run would take. `document` has all of it: models, overheads, assumptions."""

    def __init__(self, document: Budget) -> None:
        self.document = document

    @property
    def hours(self) -> Estimate:
        """With every overhead, and a 90 % interval."""
        return self.document.whole.hours

    @property
    def kwh(self) -> Figure | Absent:
        return self.document.whole.kwh

    @property
    def money(self) -> Figure | Absent:
        """In the currency of `document.price`."""
        return self.document.whole.money

    def table(self) -> pd.DataFrame:
        """A row for each model."""
        return _frame(tables.flat(row) for row in self.document.series)

    def __repr__(self) -> str:
        from rigbench.core.screen import span

        where = "this rig" if isinstance(self.document.rig, Absent) else self.document.rig
        return f"<{units.format_flop(self.document.flops)} on {where}: {span(self.hours, 'h')}>"

    def _repr_html_(self) -> str:
        columns = ("model", "tokens", "rate_tokens_per_s", "hours", "hours_low", "hours_high", "kwh", "money")
        return f"<p>{escape(repr(self)[1:-1])}</p>" + self.table().reindex(columns=columns).to_html(index=False)


def runs(home: Path | str | None = None) -> StoredRuns:
    """The runs that are stored in a home: RIGBENCH_HOME or the user's data directory where none is named.

    >>> import rigbench
    >>> stored = rigbench.runs()
    >>> len(stored)
    1
    >>> slices = stored.table("slices")
    >>> dict(zip(slices["model_name"], slices["items_per_s"].round()))
    {'5M': 2452.0, '30M': 583.0, '120M': 142.0}
    """
    return StoredRuns(Path(home) if home else default_home())


def load(run: Path | str, home: Path | str | None = None) -> StoredRun:
    """A stored run, by its id, the start of it, or its file.

    >>> import rigbench
    >>> rigbench.load("2026").table("matmul")[["what", "flops_per_s"]].shape
    (6, 2)

    Raises:
        RigbenchError: there is none, there are several, or it cannot be read.
    """
    return StoredRun(read(Store(Path(home) if home else default_home()).find(str(run))))


def forecast(flops: float | str = 1.2e18, on: str | None = None, home: Path | str | None = None) -> Forecast:
    """Hours, kWh and money of the default series of models, on hardware that need not be here: `on` as the command's
    --on, None for this rig from its stored slices. Nothing is measured and nothing is stored.

    >>> import rigbench
    >>> its = rigbench.forecast(flops="1.2 EFLOP", on="2xrtx-4080")
    >>> its.hours.low < its.hours.value < its.hours.high
    True
    >>> its.table()["model"].to_list()
    ['5M', '15M', '30M', '60M', '120M']

    Raises:
        RigbenchError: an amount or a rig that is not known, or no slice of this rig that would answer.
    """
    from rigbench.budget import command, plan
    from rigbench.budget.record import Options, PriceOptions
    from rigbench.core import profiles
    from rigbench.core.progress import SILENT
    from rigbench.job import Job
    from rigbench.machine.rig import Rig
    from rigbench.model.recipe import RecipeOptions
    from rigbench.work.record import WattOptions

    amount = units.parse_flops(str(flops), "flops")
    asked = plan.request(Options(flops=amount), RecipeOptions(), WattOptions(), PriceOptions().electricity)
    job = Job(Store(Path(home) if home else default_home()), Rig.live(ask_driver=not on), "budget", SILENT)
    its = command.here(job, asked, None) if on is None else command.elsewhere(job, asked, profiles.rig_named(on))
    return Forecast(its)


def _check(room: str) -> None:
    from rigbench.document import ROOMS

    if room not in ROOMS:
        raise RigbenchError(f"no probe is called {room[:40]!r}", f"use {', '.join(ROOMS)}")


def _frame(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame.from_records(list(rows))
