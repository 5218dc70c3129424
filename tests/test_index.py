"""The index of stored runs: true after every change of the files, made anew when it is lost, never in the way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rigbench import store
from rigbench.core.progress import SILENT
from rigbench.document import Run
from rigbench.index import Entry, Index
from rigbench.train.record import Slice, StoredSlice

RUN = Path(__file__).parent / "runs" / "schema-1.json"


@pytest.fixture
def home(tmp_path: Path) -> store.Store:
    made = store.Store(tmp_path)
    made.runs.mkdir()
    for number in range(3):
        keep(made, f"20260101-00000{number}-aaaa")
    return made


def keep(home: store.Store, run_id: str, **changes: object) -> Path:
    return home.save(msgspec.structs.replace(store.read(RUN), id=run_id, **changes))


def ids(index: Index, rig: str | None = None) -> list[str]:
    return [entry.id for entry in index.entries(rig)]


def opened(home: store.Store) -> tuple[Index, int]:
    """The index, and how many files were read for it."""
    read = 0

    def counted(path: Path) -> Run:
        nonlocal read
        read += 1
        return store.read(path)

    return Index(home.runs, counted, SILENT), read


def test_an_entry_says_what_the_run_says(home):
    entry: Entry = next(opened(home)[0].entries())
    run = store.read(home.runs / f"{entry.id}.json")
    slices = [item for item in run.slices if isinstance(item, Slice)]
    assert (entry.id, entry.command, entry.rig) == ("20260101-000002-aaaa", run.command, run.rig.fingerprint)
    assert entry.rooms == ("topology", "matmul", "slices", "budget")
    for stored, whole in zip(entry.slices, slices, strict=True):
        assert stored.slice.tokens_per_s == whole.tokens_per_s
        assert stored.steady_steps == len(whole.steps.seconds[whole.steady_from :])
        assert stored.early_seconds == pytest.approx(sum(whole.steps.seconds[: whole.steady_from]))
        assert stored.is_finite
        middle, low, high, n = entry.metrics[f"slices.{whole.model.name}.items_per_s"]
        assert (middle, low, high, n) == (*msgspec.structs.astuple(whole.tokens_per_s)[:3], whole.tokens_per_s.n)
    assert {path.partition(".")[0] for path in entry.metrics} == {"slices", "budget"}


def test_files_are_read_once_and_again_only_when_they_change(home):
    assert opened(home)[1] == 3
    assert opened(home)[1] == 0
    keep(home, "20260101-000001-aaaa", command="changed")
    index, read = opened(home)
    assert read == 1
    assert [entry.command for entry in index.entries()] == ["run", "changed", "run"]


def test_a_file_that_is_newer_than_the_index_but_as_large_is_read_again(home):
    opened(home)
    path = home.runs / "20260101-000001-aaaa.json"
    path.write_bytes(path.read_bytes().replace(b'"command": "run"', b'"command": "ran"'))
    os.utime(path, (1, 1))
    assert [entry.command for entry in opened(home)[0].entries()] == ["run", "ran", "run"]


def test_new_runs_come_in_and_lost_ones_go(home):
    opened(home)
    keep(home, "20260102-000000-bbbb")
    (home.runs / "20260101-000000-aaaa.json").unlink()
    assert ids(opened(home)[0]) == ["20260102-000000-bbbb", "20260101-000002-aaaa", "20260101-000001-aaaa"]


def test_entries_of_one_rig_alone(home):
    other = msgspec.structs.replace(store.read(RUN).rig, fingerprint="elsewhere")
    keep(home, "20260103-000000-cccc", rig=other)
    assert ids(opened(home)[0], "elsewhere") == ["20260103-000000-cccc"]
    assert len(ids(opened(home)[0], store.read(RUN).rig.fingerprint)) == 3


def altered(file, statement):
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b"not a database, but as long as one may be" * 100),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes((whole := file.read_bytes())[:8192] + b"\xff" * 4096 + whole[12288:]),
        lambda file: altered(file, "DROP TABLE runs"),
        lambda file: altered(file, "ALTER TABLE runs DROP COLUMN slices"),
    ],
    ids=["missing", "garbage", "cut short", "empty", "a page of it damaged", "without its table", "without a column"],
)
def test_a_lost_or_broken_index_is_made_anew(home, damage):
    before = ids(opened(home)[0])
    damage(home.home / "index.sqlite")
    index, read = opened(home)
    assert (ids(index), read) == (before, 3)
    assert opened(home)[1] == 0


def test_an_index_of_another_version_is_made_anew(home, monkeypatch):
    opened(home)
    monkeypatch.setattr("rigbench.index.VERSION", 7)
    index, read = opened(home)
    assert (len(ids(index)), read) == (3, 3)


def test_a_run_that_cannot_be_read_is_named_once_read_and_not_read_again(home):
    (home.runs / "20260104-000000-dddd.json").write_text('{"schema": 99}')
    for _ in range(2):
        index, _ = opened(home)
        assert [line for line in index.unreadable() if "written by a newer rigbench" in line]
        assert len(ids(index)) == 3
    assert opened(home)[1] == 0


def test_where_the_index_cannot_be_written_runs_are_still_found(home, monkeypatch):
    (home.home / "index.sqlite").mkdir()  # as root may write anywhere, a folder stands in the way
    assert len(ids(opened(home)[0])) == 3


def test_where_somebody_else_writes_the_index_for_long_new_runs_are_still_found(home, monkeypatch):
    assert len(ids(home.index())) == 3
    monkeypatch.setattr("rigbench.index.WAIT_SECONDS", 0.1)
    keep(home, "20260105-000000-eeee")
    with contextlib.closing(sqlite3.connect(home.home / "index.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(ids(home.index())) == 4


NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
static int refuse(int fd, int what, void *more, const char *name) {
    if (what == F_SETLK || what == F_SETLKW) { errno = atoi(getenv("LOCK_ERRNO")); return -1; }
    return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, name))(fd, what, more);
}
#define SERVE(name) int name(int fd, int what, ...) { va_list rest; va_start(rest, what); \\
    void *more = va_arg(rest, void *); va_end(rest); return refuse(fd, what, more, #name); }
SERVE(fcntl)
SERVE(fcntl64)
"""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_on_a_file_system_that_has_no_locks_runs_are_found_and_it_is_said_once(home, tmp_path, number):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: no file system without locks can be had; install gcc")
    source, library = tmp_path / "no_locks.c", tmp_path / "no_locks.so"
    source.write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    home.index()  # it was made on another machine
    environment = {**os.environ, "LD_PRELOAD": str(library), "LOCK_ERRNO": str(number)}
    command = [sys.executable, "-m", "rigbench", "--home", str(home.home), "report", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n202601")) == (0, 3)
    assert done.stderr.count("index.sqlite cannot be used (") == 1
    assert "every stored run is read anew each time" in done.stderr


def test_what_sqlite_does_not_see_in_a_damaged_row_is_read_from_its_run(home):
    entries, numbers = list(home.index().entries()), list(home.index().measured())
    with contextlib.closing(sqlite3.connect(home.home / "index.sqlite")) as database, database:
        database.execute(
            "UPDATE runs SET entry = CAST('{\"' AS BLOB), measured = CAST('[[' AS BLOB) WHERE name LIKE '%1-aaaa%'"
        )
    assert list(home.index().entries()) == entries
    assert list(home.index().measured()) == numbers


def test_three_processes_that_make_it_at_once_all_find_all(home):
    command = [sys.executable, "-m", "rigbench", "--home", str(home.home), "report", "--list"]
    at_once = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate() for process in at_once]
    assert [(out.count("\n202601"), "index" in err) for out, err in said] == [(3, False)] * 3
    assert opened(home)[1] == 0


def test_a_clock_that_jumps_hides_no_run_and_gives_no_id_twice(home, monkeypatch):
    """Back by a century, on by one, and back to a second in which a run was stored: its id is not given again."""
    paths = [keep(home, run_id) for run_id in ("19260101-000000-aaaa", "21260101-000000-aaaa")]
    for path, moment in zip(paths, (0, 4e9), strict=True):
        os.utime(path, (moment, moment))
    assert [it[:4] for it in ids(home.index())] == ["2126", "2026", "2026", "2026", "1926"]
    keep(home, "19260101-000000-aaaa", command="changed")
    os.utime(paths[0], (5e9, 5e9))
    assert [entry.command for entry in home.index().entries()][-1] == "changed"
    monkeypatch.setattr(store, "new_run_id", lambda: "20260101-000001-aaaa")
    assert home.new_run_id() == "20260101-000001-aaab"


def test_a_link_to_nothing_hides_no_run(home):
    for number in range(50):  # in whatever order the folder is read
        (home.runs / f"{number}.json").symlink_to("nowhere")
    assert len(ids(home.index())) == 3


def test_an_index_of_no_runs_is_empty(tmp_path):
    index = store.Store(tmp_path / "none").index()
    assert (ids(index), index.unreadable()) == ([], [])


def test_two_that_open_it_at_once_both_find_all(home):
    first, second = home.index(), home.index()
    keep(home, "20260105-000000-eeee")
    assert len(ids(home.index())) == 4
    assert len(ids(first)) >= 3
    assert len(ids(second)) >= 3


def test_a_stored_slice_has_no_raw_samples():
    whole = next(item for item in store.read(RUN).slices if isinstance(item, Slice))
    stored = StoredSlice.of("a", whole)
    assert len(msgspec.json.encode(stored)) < len(msgspec.json.encode(whole)) / 2
    assert msgspec.json.decode(msgspec.json.encode(stored), type=StoredSlice) == stored


def test_the_list_of_runs_tells_what_was_passed_over(home, capsys, monkeypatch):
    from rigbench import __main__

    shutil.copy(RUN, home.runs / "20260106-000000-ffff.json")
    (home.runs / "20260106-000001-ffff.json").write_text("{")
    monkeypatch.setattr("sys.argv", ["rigbench", "report", "--list", "--home", str(home.home)])
    assert __main__._run() == 0
    out, err = capsys.readouterr()
    assert out.count("\n20") == 4
    assert "not used" in err
    assert "20260106-000001-ffff.json was cut short" in err or "20260106-000001-ffff.json is not JSON" in err


def test_a_pipe_or_a_device_among_the_runs_is_passed_over(home):
    os.mkfifo(home.runs / "20260107-000000-aaaa.json")
    (home.runs / "20260107-000001-aaaa.json").symlink_to("/dev/zero")
    index, _ = opened(home)
    assert len(ids(index)) == 3
    assert sum("not a regular file" in line for line in index.unreadable()) == 2
