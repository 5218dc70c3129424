"""Can a file, a name or a stream of whatever kind make a command hang, fail in more than a line, or write raw text?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import rigbench as rigbench_of_python
from rigbench import __main__, hooks
from rigbench.core import config, files, home
from rigbench.core.errors import BAD_INPUT, FINE, NOTHING, RigbenchError
from rigbench.core.files import read_regular
from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.core.screen import UNPRINTABLE
from rigbench.logs import columns
from rigbench.model.tokens import open_all
from rigbench.watch import relay
from rigbench.watch.session import Tape
from rigbench.watch.steps import HookSteps
from rigbench.work.process import Child

Rigbench = Callable[..., tuple[int, str, str]]
STORED = Path(__file__).parent / "runs" / "schema-1.json"
ARMS = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "train-probe-120M-arms.json"
LONG = "A" * 5000
# No TOML, as far as Python's reader finds out, or none that anything could be made of.
NO_TOML = {
    "deep": b"layers = " + b"[" * 3000,
    "digits": b"layers = " + b"9" * 5000,
    "not UTF-8": b"layers = \xff",
    "NUL": b"layers\0 = 1",
    "table of itself": b"[layers]\n[layers]",
    "beyond floats": b"layers = 1e400",
    "no number": b"layers = nan",
    "a date": b"layers = 2026-01-01",
    "a long key": b".".join([b"layers"] * 9000) + b" = 1",
    "a long table": b'["' + b'" . "'.join([b"layers"] * 9000) + b'"]',
    "hexadecimal digits": b"layers = 0x" + b"f" * 5000,
}


def one_line(code: int, err: str) -> None:
    told = [line for line in err.splitlines() if line.startswith("rigbench: ")]
    assert code == BAD_INPUT
    assert len(told) == 1
    assert "internal error" not in err


@pytest.mark.parametrize("content", NO_TOML.values(), ids=NO_TOML)
def test_what_is_no_toml_is_refused_in_one_line(
    content: bytes, rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_bytes(content)
    for words in (("capacity", "--on", "rtx-4080", "--model", mine), ("budget", "--on", mine)):
        code, _, err = rigbench(*words)
        one_line(code, err)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "gpus.toml").write_bytes(content)
    monkeypatch.setenv("RIGBENCH_PROFILES", str(tmp_path / "profiles"))
    code, _, err = rigbench("profiles")
    one_line(code, err)
    monkeypatch.delenv("RIGBENCH_PROFILES")
    monkeypatch.chdir(tmp_path)
    mine.rename(config.FILE)
    code, out, err = rigbench("config", "budget")
    if "not used: layers" not in out:
        one_line(code, err)


@pytest.mark.parametrize(
    "name",
    ["runs/20260101-000000-aaaa.json", "accepted.json", "power-steps.json", "index.sqlite", "m.toml", "config.json"],
)
def test_a_pipe_is_not_waited_for_and_a_device_is_not_read(name: str, rigbench: Rigbench, tmp_path: Path) -> None:
    place = tmp_path / "home" / name
    place.parent.mkdir(parents=True)
    for make in (lambda: os.mkfifo(place), lambda: place.symlink_to("/dev/zero")):
        make()
        if place.suffix == ".toml" or name == "config.json":
            code, _, err = rigbench("capacity", "--on", "rtx-4080", "--model", place)
            one_line(code, err)
            assert "not a regular file" in err
        else:
            code, _, err = rigbench("report", "--list")
            assert (code, "internal error" in err) == (FINE, False)
            assert rigbench("--replay", STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8", "doctor")[0] in (0, 1, 2)
        place.unlink()
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_regular(STORED, 100)


@pytest.mark.parametrize(
    "words",
    [
        ("--replay", LONG, "topology"),
        ("report", f"{LONG}.json"),
        ("backtest", STORED, LONG),
        ("compare", f"/{LONG}", STORED),
        ("pack", STORED, "--tokenizer", "bytes", "-o", LONG),
        ("pack", LONG, "--tokenizer", "bytes", "-o", "x.bin"),
        ("capture", "-o", LONG),
        ("monitor", "--from", LONG),
        ("doctor", "--nccl-log", LONG, STORED),
        ("capacity", "--on", f"{LONG}.toml"),
        ("budget", "--model", f"{LONG}.toml", "--on", "rtx-4080"),
        ("topology", "--home", LONG),
    ],
    ids=lambda words: " ".join(str(word) for word in words if LONG not in str(word) and word != STORED),
)  # fmt: skip
def test_a_name_that_is_too_long_is_refused_in_one_short_line(
    words: tuple[str | Path, ...], rigbench: Rigbench
) -> None:
    code, _, err = rigbench(*words)
    one_line(code, err)
    assert len(err) < 1000


def test_a_name_that_is_not_utf_8_is_kept_with_a_replacement_character(
    rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"t\xffxt.txt")
    Path(name).write_text("one two three\n" * 100)
    code, out, _ = rigbench("pack", name, "--tokenizer", "bytes", "-o", os.fsdecode(b"x\xff.bin"), "--json")
    assert code == FINE
    assert json.loads(out)["sources"] == ["t\ufffdxt.txt"]
    code, _, err = rigbench("report", name)
    one_line(code, err)
    with pytest.raises(RigbenchError, match="is not UTF-8; rename"):
        Child("rigbench.p2p.probe", Absent(name), {})


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (
            ">/dev/full",
            BAD_INPUT,
            "rigbench: cannot write the answer (No space left on device); free space, or write it elsewhere\n",
        ),
        ("2>/dev/full", FINE, None),
        (">&-", FINE, ""),
        ("2>&-", FINE, None),
        ("<&-", FINE, ""),
        ("<&- >&- 2>&-", FINE, None),
        ("| head -1", FINE, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_hides_no_answer(redirect: str, code: int, said: str | None) -> None:
    """What is left of a stored run's whole screen, and what is said about it."""
    command = f'"{sys.executable}" -m rigbench report --verbose "{STORED}" {redirect}'
    shell = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"]
    ended = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert ended.returncode == code, ended.stderr
    assert said is None or ended.stderr == said
    assert ended.stdout.isascii()
    assert len(ended.stdout.splitlines()) == (0 if ">" in redirect.replace("2>", "") else 1 if "|" in redirect else 166)
    assert not UNPRINTABLE.search(ended.stdout)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("arms", "rows", 1, "slice"), 99, "is slice 99 of"),
        (("slices", 0, "items_per_s", "high"), 1e308, "says 1e+308, which nothing measures"),
        (("rig", "cpu_model"), "\ud800", ""),
    ],
)
def test_a_stored_run_that_contradicts_itself_hides_no_other(
    place: tuple[str | int, ...], value: object, said: str, rigbench: Rigbench, tmp_path: Path
) -> None:
    document = json.loads(ARMS.read_text())
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / "home" / "runs").mkdir(parents=True)
    for name in ("20260101-000000-aaaa", "20260101-000000-bbbb"):
        content = json.dumps(document) if name[-1] == "a" else STORED.read_text()
        (tmp_path / "home" / "runs" / f"{name}.json").write_text(content)
    code, _, err = rigbench("doctor", "20260101-000000-aaaa")
    assert said in err
    if said:
        one_line(code, err)
    code, out, err = rigbench("report", "--list")
    assert (code, "20260101-000000-bbbb" in out, "internal" in err) == (FINE, True, False)


def test_telemetry_has_a_reading_for_each_tick() -> None:
    row = {"power_watts": (1.0,), "energy_joules": (1.0, 2.0)}
    others = ("temperature_celsius", "sm_clock_hertz", "memory_clock_hertz", "utilisation_share", "throttle_bits")
    absent = dict.fromkeys(("uuid", *others), Absent("none"))
    with pytest.raises(ValueError, match="GPU0 has 1 of power_watts, and 2 ticks"):
        Telemetry(1.0, (0.0, 1.0), (SensorSeries(device="GPU0", throttle_share={}, **row, **absent),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head_dim", {}),
        ("num_key_value_heads", -1),
        ("num_key_value_heads", 10**9),
        ("tie_word_embeddings", 2),
        ("sliding_window", True),
        ("num_hidden_layers", "x"),
    ],
)
def test_a_config_json_with_a_value_of_another_kind_is_refused(
    key: str, value: object, rigbench: Rigbench, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"vocab_size": 99, "intermediate_size": 128, "max_position_embeddings": 64, key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = rigbench("budget", "--on", "rtx-4080", "--model", tmp_path / "config.json")
    one_line(code, err)
    assert key in err
    assert "1000000000 is not a whole number;" not in err


def test_what_looks_like_a_file_and_has_no_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg, which only root may read; a pipe that somebody may yet write to stands for it."""
    os.mkfifo(tmp_path / "kmsg")
    writer = os.open(tmp_path / "kmsg", os.O_RDWR)
    monkeypatch.setattr(files.stat, "S_ISREG", lambda _mode: True)
    with pytest.raises(OSError, match="it has no end"):
        read_regular(tmp_path / "kmsg")
    os.close(writer)


def test_what_an_editor_puts_before_a_text_hides_nothing_of_it(rigbench: Rigbench, tmp_path: Path) -> None:
    shape = "style = 'llama'\nlayers = 2\nwidth = 64\nheads = 2\nvocabulary = 99\nsequence = 64\n"
    rows = "card,cards,model,tokens_per_s\nrtx-4090,1,gpt2-124m,150000\n"
    for option, text in (("--model", shape), ("--known", rows)):
        file = tmp_path / ("mine.csv" if option == "--known" else "mine.toml")
        file.write_text(text, encoding="utf-8-sig")
        params = ("--params", "120M") if option == "--known" else ()
        assert rigbench("budget", "--on", "rtx-4090", *params, option, file)[0] == FINE
    (tmp_path / "mine.csv").write_text(rows.replace(",", ";"))
    code, _, err = rigbench("budget", "--on", "rtx-4090", "--params", "120M", "--known", tmp_path / "mine.csv")
    one_line(code, err)
    assert "no column card" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--replay", STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8", "capture", "-o", "x"),
        ("capture", "-o", "x"),
        ("watch", "--", "true"),
        ("scaling", "run", "--series", "tiny", "--data", "x.bin"),
        ("train-probe", "--device", "cpu", "--model", "mine:make"),
        ("matmul", "--device", "cpu", "--params", "5M"),
    ],
    ids=lambda words: next(it for it in words if it in ("capture", "watch", "scaling", "train-probe", "matmul")),
)
def test_a_folder_that_was_removed_below_ones_feet_is_named(
    words: tuple[str | Path, ...], rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = rigbench(*words)
    one_line(code, err)


def test_a_name_that_leads_nowhere_or_is_none_is_refused_in_one_line(
    rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    replayed = STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8"
    code, _, err = rigbench("--replay", replayed, "capture", "-o", tmp_path / "loop")
    one_line(code, err)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config.user_file().parent.mkdir()
    config.user_file().write_text('home = "a\\u0000b"')
    code, _, err = rigbench("report", "--list")
    one_line(code, err)
    config.user_file().write_text('home = "~nobody-of-this-name/x"')
    assert rigbench("report", "--list")[0] == FINE
    monkeypatch.setattr(home, "_used", [Path("a\0b")])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # in /tmp it may be another user's
    assert home.log_error("no home to keep it in").endswith("rigbench-internal-errors.log")


def test_a_user_who_has_no_name_and_no_home_is_told_where_one_may_be(
    rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `docker run -u 1234` makes one."""

    def unknown(*_of: object, **_named: object) -> NoReturn:
        raise RuntimeError("could not determine the home directory")

    def nobody() -> NoReturn:
        raise KeyError("getpwuid(): uid not found: 1234")

    for name in ("user_data_dir", "user_config_dir"):
        monkeypatch.setattr(f"platformdirs.{name}", unknown)
    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.delenv("RIGBENCH_HOME")
    monkeypatch.setattr(home, "_used", [])
    for words in (("profiles", "--quiet"), ("config",), ("explain", "formats")):
        assert rigbench(*words)[0] == FINE
    replayed = ("--replay", STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8", "topology", "--quiet")
    code, _, err = rigbench(*replayed)
    one_line(code, err)
    assert "set HOME or RIGBENCH_HOME, or give --home DIR" in err
    assert rigbench(*replayed, "--home", tmp_path)[0] == FINE
    assert rigbench("report", "--home", tmp_path, "--html", tmp_path / "page.html")[0] == FINE


def test_where_no_temporary_folder_can_be_written_the_home_is_one(
    rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file system may only be read, but for the home."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc", "/nowhere"])
    words = ("train-probe", "--params", "0.8M", "--series", "tiny", "--device", "cpu", "--seconds", "1s")
    monkeypatch.setenv("RIGBENCH_PROFILES", str(Path(__file__).parent / "profiles"))
    code, _, err = rigbench(*words, "--precision", "fp32", "--arms", "one", "--quiet")
    assert (code, os.environ["TMPDIR"]) == (FINE, str(tmp_path / "home")), err
    assert rigbench("report", "--html", tmp_path / "page.html")[0] == FINE


@pytest.mark.parametrize("refused", ["a thread", "a process"])
def test_a_limit_on_processes_and_threads_is_named(
    rigbench: Rigbench, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """As `ulimit -u`, which root does not feel, or a container's."""

    def too_many(*_of: object, **_named: object) -> NoReturn:
        if refused == "a thread":
            raise RuntimeError("can't start new thread")
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("threading.Thread.start" if refused == "a thread" else "subprocess.Popen.__init__", too_many)
    code, out, err = rigbench("bandwidth", "--device", "cpu", "--seconds", "1s", "--quiet")
    assert (code, out, err) == (3, "", f"rigbench: {__main__.TOO_MANY}\n")


def test_numbers_of_a_csv_and_of_a_header_are_read_as_such_or_refused(rigbench: Rigbench, tmp_path: Path) -> None:
    for cards in ("x", "-1", "1e400", "9" * 5000, "0"):
        (tmp_path / "known.csv").write_text(f"card,cards,tokens_per_s\nrtx-4090,{cards},1000\n")
        code, _, err = rigbench("budget", "--on", "rtx-4090", "--params", "120M", "--known", tmp_path / "known.csv")
        one_line(code, err)
    (tmp_path / "ids.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n" + bytes(4000))
    with pytest.raises(RigbenchError, match="broken header"):
        open_all(tmp_path / "ids.npy", "auto", None, 64)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "--delete", ""),
        ("report", ""),
        ("compare", "", STORED),
        ("doctor", ""),
        ("run", "--only", ""),
        ("train-probe", "--device", "cpu", "--data", ""),
        ("budget", "--on", "cpu", "--program", ""),
    ],
)
def test_what_is_empty_is_not_taken_for_the_newest_run_or_for_nothing_asked(
    words: tuple[str | Path, ...], rigbench: Rigbench, tmp_path: Path
) -> None:
    """A script's variable that was not set must not delete what was measured last, nor measure all for a part."""
    stored = tmp_path / "home" / "runs" / "20260101-000000-aaaa.json"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(STORED.read_bytes())
    code, _, err = rigbench(*words)
    one_line(code, err)
    assert stored.exists()


@pytest.mark.parametrize("limit", ["-n 5", "-v 300000"])
def test_a_limit_on_files_or_memory_is_no_traceback(limit: str) -> None:
    replay = STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8"
    command = f'ulimit {limit}; "{sys.executable}" -m rigbench --replay "{replay}" monitor'
    bare = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it opens files too
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=bare)
    assert ended.returncode == (FINE if "v" in limit else BAD_INPUT), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr == ("" if "v" in limit else "rigbench: too few files may be open; raise `ulimit -n`\n")


def test_memory_that_is_not_there_is_said(rigbench: Rigbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_given: object) -> None:
        raise MemoryError

    monkeypatch.setattr("rigbench.store.read", none_left)
    code, _, err = rigbench("report", STORED)
    assert (code, err.count("\n"), "not enough memory" in err) == (NOTHING, 1, True)


def test_a_watch_whose_run_cannot_be_kept_does_not_say_that_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    breaks = f'rm -r "{home}/runs"; touch "{home}/runs"'
    words = [sys.executable, "-m", "rigbench", "watch", "--home", str(home), "--", "sh", "-c", breaks]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert ended.returncode == FINE
    assert "saved as" not in ended.stderr
    (kept,) = tmp_path.glob("rigbench-2*.json")
    assert f"the run is kept in {kept}" in ended.stderr


def test_a_run_whose_file_was_renamed_does_not_hide_the_newest(rigbench: Rigbench, tmp_path: Path) -> None:
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "20260101-000000-mine.json").write_bytes(STORED.read_bytes())
    assert rigbench("report")[0] == FINE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("budget", "--on", "rtx-4090", "--set", "purchase=900 EUR", "--set", "lifetime=1e-308"), "next to nothing"),
        (("budget", "--on", "rtx-4080", "--deadline", "0001-01-01"), "at an end of the calendar"),
        (("budget", "--on", "rtx-4080", "--deadline", "9999-12-31"), "more than 1000 years away"),
        (("budget", "--on", "9x²²"), "²"),
        (("capacity", "--on", f"9x{'9' * 5000}"), "99"),
        (("watch", "--openmetrics", "9" * 5000, "--", "true"), "is no address"),
        (("matmul", "--device", "cuda:²"), "is not a device"),
        (("matmul", "--device", f"cuda:{'9' * 5000}"), "is not a device"),
        (("p2p", "--times", f"{'0' * 29}1{'9' * 100}"), "is not a whole number"),
        (("p2p", "--times", "0" * 4999 + "1"), "is not a whole number"),
        (
            ("backtest", "--on", "rtx-4090", "--model", "5M", "--pattern", "(" * 5000, STORED),
            "not a regular expression",
        ),
    ],
    ids=lambda it: it[0] if isinstance(it, tuple) else "",
)
def test_a_number_or_a_pattern_of_another_kind_is_refused_in_one_line(
    words: tuple[str | Path, ...], said: str, rigbench: Rigbench
) -> None:
    code, _, err = rigbench(*words)
    one_line(code, err)
    assert said in err


def test_what_reads_toml_says_what_is_wrong_in_words(rigbench: Rigbench, tmp_path: Path) -> None:
    for content, said in (("x = " + "[" * 3000, "nested too deeply"), ("x = " + "9" * 5000, "value has 5000 digits;")):
        (tmp_path / "m.toml").write_text(content)
        code, _, err = rigbench("capacity", "--on", "rtx-4080", "--model", tmp_path / "m.toml")
        one_line(code, err)
        assert said in err
        assert "sys." not in err


@pytest.mark.parametrize("name", ["n_layers", "d_model", "n_heads", "seq", "vocab"])
@pytest.mark.parametrize("value", ["0", "9" * 400, "9" * 5000, "²", "99999999999"])
def test_a_shape_in_a_known_run_is_within_bounds(name: str, value: str, rigbench: Rigbench, tmp_path: Path) -> None:
    row = {"card": "rtx-4090", "n_layers": "12", "d_model": "768", "tokens_per_s": "9000", name: value}
    (tmp_path / "known.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    code, _, err = rigbench("budget", "--on", "rtx-4090", "--params", "120M", "--known", tmp_path / "known.csv")
    one_line(code, err)
    assert name in err


@pytest.mark.parametrize(
    "content",
    [
        "step,loss,tokens\r1,2,3\r\r2,3,4\r5\n6,7,8\r",
        'step,loss\n1,"' + "x" * 200_000 + '"\n2,3\n',
        '{"step":' + "9" * 400 + ',"loss":2,"log_history":[{"step":1,"loss":2},{"step":2,"loss":1}]}',
    ],
    ids=["carriage returns", "a long cell", "an integer beyond floats"],
)
def test_a_log_of_odd_lines_cells_or_numbers_is_refused_or_read(
    content: str, rigbench: Rigbench, tmp_path: Path
) -> None:
    (tmp_path / "f.log").write_bytes(content.encode())
    for words in (("scaling", "fit"), ("backtest", "--on", "rtx-4090", "--model", "30M")):
        code, _, err = rigbench(*words, tmp_path / "f.log")
        assert (code in (BAD_INPUT, NOTHING), err.count("rigbench: "), "internal" in err) == (True, 1, False)


def test_a_pattern_that_is_offered_fits_the_line_with_tabs() -> None:
    told = columns.quoted("10\t250.5\t8192\n11\t250.5\t8192\n")
    pattern = told.partition("which '")[2].partition("' fits")[0]
    assert re.search(pattern, "10\t250.5\t8192")
    assert "\t" not in told


def test_folders_of_logs_that_hold_what_cannot_be_read_are_refused(rigbench: Rigbench, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for make in (os.mkfifo, os.mkdir):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / "x.tfevents.1")
        for words in (("scaling", "fit"), ("backtest", "--on", "rtx-4090", "--model", "30M")):
            code, _, err = rigbench(*words, folder)
            one_line(code, err)
    (tmp_path / "x.json").symlink_to("/proc/self/mem")
    code, _, err = rigbench("scaling", "fit", tmp_path / "x.json")
    one_line(code, err)


def test_a_recorded_process_has_any_number(rigbench: Rigbench, tmp_path: Path) -> None:
    shutil.copytree(STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8", tmp_path / "rig")
    with (tmp_path / "rig" / "nvml.txt").open("a") as file:
        file.write(
            '0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 "abc" 5\nsys nvmlSystemGetProcessName/² = 0 "secret"\n'
        )
    assert rigbench("--replay", tmp_path / "rig", "capture", "-o", tmp_path / "again")[0] == FINE
    written = (tmp_path / "again" / "nvml.txt").read_text()
    assert "abc" not in written
    assert "secret" not in written


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "5"}, "there is no rank 5 of 2"),
        ({"RANK": "9" * 5000}, "RANK is '999"),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE is 'x', not a number"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE is '', not a number"),
        ({"MASTER_ADDR": "a..b"}, "MASTER_ADDR is 'a..b', no host's name"),
    ],
)
def test_a_launchers_variable_that_makes_no_sense_is_named(
    variables: dict[str, str], said: str, rigbench: Rigbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", **variables}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    code, _, err = rigbench("collectives", "--device", "cpu")
    one_line(code, err)
    assert said in err


def test_a_hook_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by what it is told, nor by a disk that is full."""
    monkeypatch.setattr(hooks, "_writer", None)
    monkeypatch.setenv(hooks.FOLDER, str(tmp_path))
    for tokens in (10**400, "x", [], b"1", float("nan"), float("inf"), -1, 8):
        hooks.step(tokens=tokens)  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "steps.1.1")
    for name in ("steps.", "steps.x.1", "steps"):
        (tmp_path / name).touch()
    seen = HookSteps(tmp_path)
    seen.look()
    assert seen.done == 8
    monkeypatch.setattr(hooks, "_writer", None)
    limit = f"ulimit -f 8; trap '' XFSZ; RIGBENCH_WATCH={tmp_path} {sys.executable} -c "
    script = "'from rigbench import hooks; [hooks.step(1) for _ in range(9000)]; print(hooks._writer)'"
    ended = subprocess.run(["bash", "-c", limit + script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr


def test_times_in_a_hooks_file_that_cannot_be_are_passed_over(tmp_path: Path) -> None:
    entries = [(float("nan"), float("inf")), (1e308, 1e308), (-1e308, -1e308), (5.0, 8.0), (6.0, 8.0)]
    head = hooks.HEADER.pack(hooks.MAGIC, hooks.CAPACITY, len(entries), 0)
    (tmp_path / "steps.0.7").write_bytes(head + b"".join(hooks.ENTRY.pack(*it) for it in entries))
    steps = HookSteps(tmp_path)
    steps.look()
    assert (steps.done, steps.last_seconds) == (5, 6.0)
    seen = steps.seen(None)
    assert seen is not None
    assert [row.at_seconds for row in seen.reading.rows] == [5.0, 6.0]
    (tmp_path / "output.²").touch()
    assert list(Tape(tmp_path).read()) == []


def test_a_line_of_jsonl_with_a_number_of_thousands_of_digits_is_named(rigbench: Rigbench, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"n": ' + "9" * 5000 + "}\n")
    code, _, err = rigbench("pack", tmp_path / "x.jsonl", "-o", tmp_path / "x.bin")
    one_line(code, err)
    assert "no field 'text'" in err


@pytest.mark.parametrize(
    "name", ["../../out", "/tmp/out", "", ".hidden", "a\0b", "x" * 300, "a\nrigbench: forged", "\ud800"]
)
def test_a_run_of_a_stranger_names_no_place_to_write_to(name: str, rigbench: Rigbench, tmp_path: Path) -> None:
    """Its page is HOME/pages/ID.html, its exports lie in a folder of that name."""
    (tmp_path / "theirs.json").write_text(json.dumps(json.loads(STORED.read_text()) | {"id": name}))
    code, _, err = rigbench("report", tmp_path / "theirs.json", "--html")
    if name == "\ud800":  # kept with a replacement character
        assert code == FINE
    else:
        one_line(code, err)
        assert "is no file's name" in err
    assert {it.name for it in tmp_path.rglob("*.html")} <= {"\ufffd.html"}


def test_a_name_among_the_runs_that_is_no_text_hides_no_other(rigbench: Rigbench, tmp_path: Path) -> None:
    runs = tmp_path / "home" / "runs"
    runs.mkdir(parents=True)
    for name in (
        b"2026\xff.json",
        b"2026\nrigbench: forged.json",
        b"20260101-000000-aaaa.json",
        b"20260102 (copy).json",
    ):
        Path(os.fsdecode(os.fsencode(runs) + b"/" + name)).write_bytes(STORED.read_bytes())
    code, out, err = rigbench("report", "--list")
    assert (code, "20260101-000000-aaaa" in out, "20260102 (copy)" in out, "forged" in out + err) == (
        FINE,
        True,
        True,
        False,
    )
    assert rigbench("compare")[0] == FINE
    code, out, err = rigbench("report", "20260102")
    assert code == FINE, err


@pytest.mark.parametrize("value", [None, 7, b"[" * 100_000, "[]"])
def test_an_entry_of_the_index_that_is_none_is_read_again(value: object, rigbench: Rigbench, tmp_path: Path) -> None:
    runs = tmp_path / "home" / "runs"
    runs.mkdir(parents=True)
    (runs / "20260101-000000-aaaa.json").write_bytes(STORED.read_bytes())
    assert rigbench("report", "--list")[0] == FINE
    with contextlib.closing(sqlite3.connect(runs.parent / "index.sqlite")) as database:
        database.execute("UPDATE runs SET entry = ?, measured = ?", (value, value))
        database.commit()
    for words in (("report", "--list"), ("fleet",)):
        code, _, err = rigbench(*words)
        assert (code in (FINE, BAD_INPUT, NOTHING), "internal" in err) == (True, False), err


def test_what_is_stopped_ends_when_its_time_is_over(tmp_path: Path) -> None:
    stops = "import os; os.kill(os.getpid(), 19)"
    words = ["watch", "--home", str(tmp_path), "--for", "2s", "--", sys.executable, "-c", stops]
    ended = subprocess.run([sys.executable, "-m", "rigbench", *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130 or ended.returncode == FINE, ended.stderr


def test_a_page_needs_no_date_of_the_environment(
    rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "x")
    assert rigbench("report", STORED, tmp_path / "page.html", "--html")[0] == FINE


def test_a_watched_command_runs_though_nothing_of_its_output_can_be_kept(tmp_path: Path) -> None:
    tape = relay.Tape(str(tmp_path / "later"))
    tape.add(b"one\n")
    (tmp_path / "later").mkdir()
    tape.add(b"two\n")
    assert [piece.text for piece in Tape(tmp_path / "later").read()] == [b"two\n"]


@pytest.mark.parametrize("flops", [float("nan"), float("inf"), 10**400, -1, 0, 1e-300, True, "x"])
def test_a_forecast_of_no_amount_is_refused(flops: float) -> None:
    with pytest.raises(RigbenchError, match="flops"):
        rigbench_of_python.forecast(flops=flops, on="rtx-4080")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("watch", "--openmetrics", "a..b:80", "--", "true"), "is no address"),
        (("watch", "--openmetrics", f"{'a' * 64}.b:80", "--", "true"), "is no address"),
        (("pack", STORED, "-o", "x.bin", "--field", 'a"b'), "what no field's name may"),
        (("pack", STORED, "-o", "x.bin", "--field", "\x1b[31m"), "what no field's name may"),
        (("pack", STORED, "-o", "x.bin", "--field", "a." * 5000), "what no field's name may"),
        (("report", STORED, "--wandb", os.fsdecode(b"x\xff")), "its name is not UTF-8"),
    ],
)
def test_a_name_that_no_host_field_or_folder_has_is_refused_in_one_line(
    words: tuple[str | Path, ...], said: str, rigbench: Rigbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--wandb" in words:
        pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    code, _, err = rigbench(*words, *(("--quiet",) if "--wandb" in words else ()))
    one_line(code, err)
    assert said in err


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_packed_without_an_end(device: str, rigbench: Rigbench, tmp_path: Path) -> None:
    code, _, err = rigbench("pack", device, "-o", tmp_path / "x.bin", "--skip-bad")
    one_line(code, err)
    assert "is a device" in err


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("Temperature/0", "1000000"),
        ("EnforcedPowerLimit", "0"),
        ("ClockInfo/1", "-500"),
        ("UtilizationRates", "255 255"),
        ("MemoryInfo_v2", "18446744073709551615 0 0 18446744073709551615"),
        ("CurrentClocksEventReasons", "18446744073709551615"),
        ("CurrPcieLinkWidth", "3"),
    ],
)
def test_what_no_card_can_say_is_no_reading(call: str, said: str, rigbench: Rigbench, tmp_path: Path) -> None:
    rig = tmp_path / "rig"
    shutil.copytree(STORED.parents[1] / "rigs" / "dual-rtx4080s-throttling", rig)
    for name in ("nvml.txt", "load.nvml.txt"):
        lines = [it for it in (rig / name).read_text().splitlines() if f" nvmlDeviceGet{call} =" not in it]
        (rig / name).write_text("\n".join([*lines, f"* nvmlDeviceGet{call} = 0 {said}", ""]))
    for words in (("topology", "-v"), ("doctor", "-v"), ("monitor", "--once"), ("capacity",)):
        code, out, err = rigbench("--replay", rig, *words)
        assert (code, "internal error" in err) == (FINE, False)
        shown = re.sub(r"says \S+, which", "", out)
        assert not re.search(r"1,?000,?000|e\+06|-500|255 %|EiB|0x\d0{6}|-at-0w|x3\b", shown)


def test_bridges_below_bridges_without_an_end_are_no_hang(rigbench: Rigbench, tmp_path: Path) -> None:
    rig = tmp_path / "rig"
    shutil.copytree(STORED.parents[1] / "rigs" / "dual-rtx4080s-x8x8", rig)
    tree = json.loads((rig / "pci.json").read_text())
    bridge = tree["0000:00:01.0"]
    tree |= {f"{it:04x}:00:00.0": bridge | {"parent": f"{it - 1:04x}:00:00.0"} for it in range(1, 1000)}
    (rig / "pci.json").write_text(json.dumps(tree))
    before = time.process_time()
    assert rigbench("--replay", rig, "topology")[0] == FINE
    assert time.process_time() - before < 10


@pytest.mark.parametrize(
    ("run", "at", "value", "code"),
    [
        ("xeon-2.5ghz-2-cores/budget.json", ("budget", "series"), [], BAD_INPUT),
        ("xeon-2.5ghz-2-cores/budget.json", ("budget", "series", -1, "losses"), [], FINE),
        ("xeon-2.5ghz-2-cores/train-probe-120M-arms.json", ("arms", "least_memory"), "none", BAD_INPUT),
        ("xeon-2.5ghz-2-cores/train-probe-5M.json", ("slices", 0, "model", "flop_per_token"), -1.0, BAD_INPUT),
        ("schema-1.json", ("matmul", "ceilings", 0, "looks", 0, "seconds"), [], BAD_INPUT),
        ("xeon-2.5ghz-2-cores/run-quick-every-probe.json", ("bandwidth", "parts", 0, "transfers"), [], FINE),
        ("watched-two-rtx-4080-super.json", ("watched", "steps", "step"), [1], FINE),
        ("../../reports/intel-xeon-2-cores/scaling-tiny.json", ("law", "points"), [], BAD_INPUT),
        ("../../reports/intel-xeon-2-cores/scaling-tiny.json", ("scaling", 0, "schedule", "steps"), [], BAD_INPUT),
        ("../../reports/intel-xeon-2-cores/scaling-tiny.json", ("scaling", 0, "step_seconds"), [0.0] * 9, FINE),
        ("heat-h200.json", ("thermals", "cards", 0, "hot", "flops_per_s", "value"), 1e-300, FINE),
    ],
)
def test_a_stored_run_with_what_cannot_be_is_refused_or_shown(
    run: str, at: tuple[str | int, ...], value: object, code: int, rigbench: Rigbench, tmp_path: Path
) -> None:
    whole = json.loads((STORED.parent / run).read_text())
    place = whole
    for step in at[:-1]:
        place = place[step]
    place[at[-1]] = value
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(whole))
    for words in (
        ("report", odd, "-v"),
        ("report", odd, "--format", "pytest-benchmark"),
        ("compare", odd, STORED.parent / run),
    ):
        found, _, err = rigbench(*words)
        assert (found, "internal error" in err) == (BAD_INPUT if code else found, False)
    assert rigbench("report", odd)[0] == code
