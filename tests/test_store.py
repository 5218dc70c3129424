"""Do runs reach the disk whole, come back as they were, and say clearly when they cannot?"""

import errno
import json
import os
import re
import stat
from datetime import datetime, timedelta

import msgspec
import pytest

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.document import SCHEMA, Run
from rigbench.machine.record import RigId, Software


def make_run(**changes: object) -> Run:
    rig = RigId(fingerprint="0123456789ab", cpu_model="A CPU", memory_total_bytes=1 << 34, gpu_uuids=(), gpu_names=())
    nothing = Absent("not installed")
    software = Software(
        rigbench="0.1.0",
        python="3.11",
        torch=nothing,
        bitsandbytes=nothing,
        nvidia_driver=nothing,
        cuda_driver=nothing,
        kernel="6.8",
    )
    run = Run(
        id=store.new_run_id(), started_at=store.now(), command="topology", status="running", rig=rig, software=software
    )
    return msgspec.structs.replace(run, **changes)


@pytest.fixture
def home(tmp_path):
    return store.Store(tmp_path / "home")


def test_a_run_comes_back_as_it_was_saved(home):
    run = make_run()
    path = home.save(run)
    assert store.read(path) == run
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert [p.name for p in home.runs.iterdir()] == [f"{run.id}.json"]


def test_runs_are_for_their_user_alone_unless_the_folder_was_made_for_others(home, tmp_path):
    """They hold the UUIDs of cards, and what programs and the kernel name the machine."""
    home.save(make_run())
    assert stat.S_IMODE(home.runs.stat().st_mode) == 0o700
    (tmp_path / "shared" / "runs").mkdir(0o755, parents=True)
    store.Store(tmp_path / "shared").save(make_run())
    assert stat.S_IMODE((tmp_path / "shared" / "runs").stat().st_mode) == 0o755


def test_saving_again_replaces_the_file_whole(home):
    run = make_run()
    home.save(run)
    path = home.save(msgspec.structs.replace(run, status="finished"))
    assert store.read(path).status == "finished"
    assert len(list(home.runs.iterdir())) == 1


def test_a_full_disk_keeps_the_run_elsewhere_and_says_where(home, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(store.tempfile, "gettempdir", lambda: str(elsewhere))
    real = os.fsync

    def full(handle: int) -> None:
        if str(home.runs) in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(store.os, "fsync", full)
    run = make_run()
    with pytest.raises(RigbenchError, match=r"no space left on device\); the run is kept in") as caught:
        home.save(run)
    kept = elsewhere / f"rigbench-{run.id}.json"
    assert str(kept) in str(caught.value)
    assert store.read(kept) == run
    assert list(home.runs.iterdir()) == []


def test_an_unwritable_home_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RigbenchError, match=r"cannot keep runs in .*not a directory\); choose a folder with --home"):
        store.Store(tmp_path / "file").check_writable()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"\x00\xff\xfe", "is not JSON"),
        (b"[1, 2]", "is not a rigbench run"),
        (b'{"schema": "one"}', "is not a rigbench run"),
        (b'{"schema": true}', "is not a rigbench run"),
        (b'{"schema": 99, "id": "x"}', "was written by a newer rigbench"),
        (b'{"schema": 1, "type": "run", "id": 7}', r"is not a valid run \(.*id"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, content, said):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RigbenchError, match=said) as caught:
        store.read(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused_in_one_line(home):
    path = home.save(make_run())
    whole = path.read_bytes().rstrip()
    for length in range(1, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(RigbenchError, match="was cut short"):
            store.read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(RigbenchError, match="no such file or directory"):
        store.read(tmp_path / "absent.json")
    with pytest.raises(RigbenchError, match="is a directory"):
        store.read(tmp_path)


def test_a_run_is_found_by_id_by_its_start_and_as_the_newest(home):
    for second in ("20260101-000000-aaaa", "20260101-000001-bbbb"):
        home.save(make_run(id=second))
    assert home.find(None).stem == "20260101-000001-bbbb"
    assert home.find("20260101-000000").stem == "20260101-000000-aaaa"
    with pytest.raises(RigbenchError, match="2 runs start with"):
        home.find("20260101")
    with pytest.raises(RigbenchError, match="no stored run is called"):
        home.find("1999")


def test_one_broken_file_does_not_hide_the_others(home):
    home.save(make_run(id="20260101-000000-aaaa"))
    (home.runs / "20260102-000000-bbbb.json").write_text("{")
    index = home.index()
    runs, unreadable = list(index.entries()), index.unreadable()
    assert [run.id for run in runs] == ["20260101-000000-aaaa"]
    assert len(unreadable) == 1
    assert "was cut short" in unreadable[0]


def test_a_record_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="is nan"):
        msgspec.structs.replace(make_run().rig, memory_total_bytes=float("nan"))


def test_half_a_character_in_a_run_is_shown_as_one_that_is_not_known(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(store.encode(make_run()).decode().replace('"command": "', '"command": "\\ud800', 1))
    assert "\ufffd" in store.encode(store.read(path)).decode()


def test_of_two_runs_of_one_second_the_later_is_last(monkeypatch):
    """So that of several back-tests of one log the last counts, and `report` shows the newest."""

    class Clock(datetime):
        moments = iter([0, 1, 15, 16, 500_000, 999_999, 1_000_000])

        @classmethod
        def now(cls, tz=None):
            return cls(2026, 3, 1, 9, 0, 59, tzinfo=tz) + timedelta(microseconds=next(cls.moments))

    monkeypatch.setattr(store, "datetime", Clock)
    ids = [store.new_run_id() for _ in range(7)]
    assert ids == sorted(ids)
    assert ids[0::3] == ["20260301-090059-0000", "20260301-090059-0001", "20260301-090100-0000"]
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", it) for it in ids)
