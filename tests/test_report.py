"""Are stored runs found, shown in part or whole, and forgotten when they are to be?"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from rigbench import store

RUN = Path(__file__).parent / "runs" / "schema-1.json"
RIG = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"


@pytest.fixture
def home(tmp_path) -> store.Store:
    """Where the fixture `rigbench` keeps its runs: three that measured, one of them long ago."""
    home = store.Store(tmp_path / "home")
    now = datetime.now(UTC)
    for name, age in (("20200101-000000-aaaa", 2000), ("20260101-000000-bbbb", 1), ("20260102-000000-cccc", 0)):
        started = (now - timedelta(days=age)).isoformat(timespec="seconds")
        home.save(msgspec.structs.replace(store.read(RUN), id=name, started_at=started))
    return home


def ids(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line[:2] == "20"]


def test_looks_are_stored_but_neither_listed_nor_the_newest(rigbench, home):
    code, _, err = rigbench("--replay", str(RIG), "topology")
    look = err.split("saved as ")[1].split(";")[0]
    listed, hint = rigbench("report", "--list")[1:]
    assert (code, ids(listed)) == (0, ["20260102-000000-cccc", "20260101-000000-bbbb", "20200101-000000-aaaa"])
    assert "1 more that measured nothing" in hint
    assert ids(rigbench("report", "--list", "--all")[1])[0] == look
    assert "20260102-000000-cccc" in rigbench("report")[1]
    assert "topology: 2 × RTX 4080 SUPER" in rigbench("report", look)[1]


def test_a_line_says_when_on_what_and_with_which_result(rigbench, home):
    rigbench("--replay", str(RIG), "topology")
    head, *entries = re.split(r"^(?=\S)", rigbench("report", "--list", "--all")[1], flags=re.M)[1:]
    look, newest = entries[:2]
    assert head.split()[:2] == ["run", "when"]
    assert "2 × RTX 4080 SUPER" in look
    assert f"{datetime.now(UTC):%Y-%m-%d %H:}" in newest
    assert "training steps " in newest
    assert "5M" in newest


def test_one_probe_of_a_run_is_shown_alone(rigbench, home):
    whole = rigbench("report", "20260102", "-v")[1]
    code, part, _ = rigbench("report", "20260102", "matmul")
    assert code == 0
    assert "matmul on cpu" in part
    assert "PCI tree" in whole
    assert "PCI tree" not in part
    training = rigbench("report", "20260102", "train-probe")[1]
    assert "tokens/s" in training
    assert rigbench("report", "20260102", "training")[1] == training
    assert rigbench("report", "matmul")[1] == part  # of the newest
    document = json.loads(rigbench("report", "20260102", "matmul", "--json")[1])
    assert (document["matmul"]["type"], document["topology"]["type"]) == ("matmul", "absent")
    code, _, err = rigbench("report", "20260102", "thermals")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no thermals; it holds topology, matmul, slices, budget" in err


def test_runs_are_deleted_all_or_none(rigbench, home, tmp_path):
    code, _, err = rigbench("report", "--delete", "20200101", "20260101-000000-zzzz")
    assert (code, len(home.paths())) == (2, 3)
    assert "no stored run is called" in err
    code, _, err = rigbench("report", "--delete", "20200101", "20260102")
    assert (code, [path.stem for path in home.paths()]) == (0, ["20260101-000000-bbbb"])
    assert err == "rigbench: deleted 20200101-000000-aaaa\nrigbench: deleted 20260102-000000-cccc\n"
    assert ids(rigbench("report", "--list")[1]) == ["20260101-000000-bbbb"]
    code, _, err = rigbench("report", "--delete", f"{home.runs}/../runs/20260101-000000-bbbb.json")
    assert (code, home.paths()) == (0, []), err


def test_a_file_elsewhere_is_not_deleted(rigbench, home, tmp_path):
    elsewhere = tmp_path / "run.json"
    elsewhere.write_bytes(RUN.read_bytes())
    code, _, err = rigbench("report", "--delete", str(elsewhere))
    assert (code, elsewhere.exists()) == (2, True)
    assert "is not a run of this home" in err


def test_pruning_says_what_would_go_and_does_it_when_told(rigbench, home):
    code, _, err = rigbench("report", "--prune", "90d")
    assert (code, len(home.paths())) == (0, 3)
    assert (
        "would delete 1 run, among them 3 short training runs and 0 back-tests that budgets are based on; --yes does it"
        in err
    )
    code, _, err = rigbench("report", "--prune", "90d", "--yes")
    assert (code, [path.stem for path in home.paths()]) == (0, ["20260102-000000-cccc", "20260101-000000-bbbb"])
    assert "deleted 1 run" in err
    assert "nothing is that old" in rigbench("report", "--prune", "90d", "--yes")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("--delete",),
        ("--list", "--delete", "2026"),
        ("--list", "2026"),
        ("--prune", "90"),
        ("--prune", "1d", "2026"),
        ("2026", "matmul", "more"),
        ("-q", "-v"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_one_line(rigbench, home, words):
    code, out, err = rigbench("report", *words)
    assert (code, out, err.count("\n"), len(home.paths())) == (2, "", 1, 3)
