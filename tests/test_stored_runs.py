"""Is every run that was ever stored still read, written back the same, and shown the same?

A file per schema, kept forever; in a folder below, runs of one machine that other tests use too. After a deliberate
change of a screen: `python tests/test_stored_runs.py`, then read the difference before keeping it.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rigbench import store
from rigbench.report import screen as render

RUNS = sorted((Path(__file__).parent / "runs").glob("*.json"))
REPORTS = [
    path
    for pattern in ("reports/*/*.json", "tests/runs/*/*.json")
    for path in sorted(Path(__file__).parents[1].glob(pattern))
    if b'"schema"' in path.read_bytes()[:200]
]


def screen(path: Path) -> str:
    out = io.StringIO()
    render.show(store.read(path), Console(file=out, width=100, highlight=False, color_system=None), whole=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_stored_run_is_shown_as_it_was(path: Path) -> None:
    assert screen(path) == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("path", [*RUNS, *REPORTS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_stored_run_is_read_and_written_back_the_same(path: Path) -> None:
    assert store.encode(store.read(path)) == path.read_bytes()


def test_a_stored_run_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    said = (RUNS[0].parent / "schema-1.json").read_text()
    name = store.read(RUNS[0].parent / "schema-1.json").matmul.device.name
    assert name in screen(RUNS[0].parent / "schema-1.json")
    (tmp_path / "odd.json").write_text(said.replace(name, "\\u001b[31mred"))
    assert "\x1b" not in screen(tmp_path / "odd.json")


if __name__ == "__main__":
    for path in RUNS:
        path.with_suffix(".txt").write_text(screen(path))
