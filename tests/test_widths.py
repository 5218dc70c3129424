"""Does no table of any stored run cut a number, whatever the terminal's width, the room and how much is shown?"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_first_screens import NUMBER
from test_stored_runs import REPORTS
from test_stored_runs import RUNS as STORED

from rigbench import store
from rigbench.document import Run
from rigbench.report import screen

RUNS = [*REPORTS, *STORED]
WIDTHS = (100, 80, 60)


def shown(run: Run, whole: bool, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    screen.show(run, console, whole)
    return console.file.getvalue()


def held(path: Path, width: int) -> None:
    """The run, all of it, and each of its rooms, as at 160 columns."""
    run = store.read(path)
    rooms = [name for name in run.rooms() if name != "arms"]
    views = {"": (run, False), "--verbose": (run, True), **{name: (screen.one_room(run, name), True) for name in rooms}}
    for name, (part, whole) in views.items():
        wide, narrow = shown(part, whole, 160), shown(part, whole, width)
        assert "…" not in narrow or "…" in wide, f"{path.name} {name} at {width}:\n{narrow}"
        lost = set(NUMBER.findall(wide)) - set(NUMBER.findall(narrow))
        assert not lost, f"{path.name} {name} at {width} columns lost {sorted(lost)}:\n{narrow}"
        broad = [line for line in narrow.splitlines() if len(line.rstrip()) > width]
        assert not broad, f"{path.name} {name} at {width} columns: {broad}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_stored_run_keeps_its_numbers_at_every_width(path: Path, width: int):
    held(path, width)
