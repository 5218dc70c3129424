"""Is what killed processes left removed by the next start, and nothing else? Is the log of internal errors short?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rigbench.core import files, home

OWNER = """
import sys; from pathlib import Path; from rigbench.core import files, home
with home.scratch(Path(sys.argv[1])) as folder, home.scratch(Path(sys.argv[1]), hidden=True) as other:
    (folder / "rank0.log").write_text("said")
    with files.replacing(Path(sys.argv[1]) / "tokens.bin") as file:
        file.write(b"half")
        print("there", flush=True)
        sys.stdin.read()
"""


def left_by_a_killed_process(folder: Path) -> list[str]:
    with subprocess.Popen([sys.executable, "-c", OWNER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as it:
        assert it.stdout
        assert it.stdout.readline() == b"there\n"
        home.sweep(folder)
        left = sorted(os.listdir(folder))
        assert len(left) == 2  # they stay while their owner lives; a file has no name before its end
        it.kill()
    return left


def test_what_a_killed_process_left_goes_and_all_else_stays(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    pid, mine = os.getpid(), home.temporary_name()
    beside = ["tokens.bin", "rigbench-notes", "rigbench-01234567-1-2-of-another-boot", f"{mine}at-work", f".{mine}too"]
    for name in beside:
        (tmp_path / name).write_text("somebody's")
    place = home.temporary_name().split("-")[1]
    for number, name in enumerate((f".rigbench-{place}-{pid}-1-x", f"rigbench-{place}-999999999-1-x")):
        (tmp_path / name).write_text(f"of a process id that came again, and of none: {number}")
    home.sweep(tmp_path, tmp_path / "no such folder")
    assert sorted(os.listdir(tmp_path)) == sorted(beside)


def test_what_another_boot_left_goes_after_a_week_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept").write_text("kept")
    old, new = (tmp_path / f"rigbench-01234567-{pid}-5-x" for pid in (1, 2))
    old.mkdir()
    new.mkdir()
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    (tmp_path / f"rigbench-{home.temporary_name().split('-')[1]}-999999999-1-x").symlink_to("data")
    home.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["data", new.name]
    assert (tmp_path / "data" / "kept").exists()


def test_a_folder_that_a_process_has_among_its_words_stays(tmp_path: Path) -> None:
    name, _ = left_by_a_killed_process(tmp_path)
    words = [sys.executable, "-c", "print(flush=True); input()", tmp_path / name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        home.sweep(tmp_path)
        assert os.listdir(tmp_path) == [name]
        holder.kill()
    home.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_any_command_begins_with_it_in_its_home_and_in_the_temporary_folder(rigbench, tmp_path, monkeypatch) -> None:
    import tempfile

    folders = [tmp_path / "home", tmp_path / "home" / "runs", tmp_path / "home" / "cache", tmp_path / "temporary"]
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folders[-1]))
    name = f"rigbench-{home.temporary_name().split('-')[1]}-999999999-1-x"
    for folder in folders:
        (folder / name).mkdir(parents=True)
        (folder / f".{name}").write_text("half")
    assert rigbench("profiles")[0] == 0
    assert not [path for folder in folders for path in folder.iterdir() if "rigbench-" in path.name]


@pytest.mark.parametrize("flag", ["nameless", "by name", "without /proc"])
def test_a_file_is_whole_or_not_there_whether_or_not_the_disk_has_files_without_names(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flag == "by name":
        monkeypatch.delattr(os, "O_TMPFILE")
    if flag == "without /proc":
        monkeypatch.setattr(files, "BY_HANDLE", str(tmp_path / "none"))
    target = tmp_path / "run.json"
    files.write_whole(target, b"old")
    with contextlib.suppress(KeyboardInterrupt), files.replacing(target) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert (os.listdir(tmp_path), target.read_bytes()) == (["run.json"], b"old")
    files.write_whole(target, b"new")
    assert (os.listdir(tmp_path), target.read_bytes(), target.stat().st_mode & 0o777) == (["run.json"], b"new", 0o644)


def test_where_the_system_does_not_tell_who_runs_nothing_is_removed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / f"rigbench-{home.temporary_name().split('-')[1]}-999999999-1-x").mkdir()
    monkeypatch.setattr(os, "readlink", lambda path: (_ for _ in ()).throw(FileNotFoundError))
    home.sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 1


def test_internal_errors_share_one_log_that_stays_short_and_safe_to_look_at(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(home, "_used", [tmp_path])
    for number in range(100):
        said = home.log_error(f"Traceback\n\x1b]0;title\x07\ud800 number {number:03} " + "x" * 20_000 + " its end")
    path = tmp_path / home.LOG
    text = path.read_text()
    assert said == f" with {path}"
    assert os.listdir(tmp_path) == [home.LOG]
    assert path.stat().st_size < home.LOG_BYTES + 2 * home.ENTRY_BYTES
    assert text.endswith(" its end")
    home.log_error("short \x1b]0;title\x07\ud800")
    assert path.read_text().endswith("short \\x1b]0;title\\x07\\ud800")


def test_where_the_home_takes_no_log_it_is_in_the_temporary_folder_or_nowhere(tmp_path: Path, monkeypatch) -> None:
    import tempfile

    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(home, "_used", [tmp_path / "a file"])
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert home.log_error("Traceback") == f" with {tmp_path / 'rigbench-internal-errors.log'}"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "a file"))
    assert home.log_error("Traceback") == ""
