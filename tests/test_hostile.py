"""Can a file, a name or a stream of whatever kind make a command hang, fail in more than a line, or write raw text?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rigbench.core import config
from rigbench.core.errors import BAD_INPUT, FINE, RigbenchError
from rigbench.core.files import read_regular
from rigbench.core.record import Absent
from rigbench.core.screen import UNPRINTABLE
from rigbench.work.process import Child

Rigbench = Callable[..., tuple[int, str, str]]
STORED = Path(__file__).parent / "runs" / "schema-1.json"
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
        (">/dev/full", BAD_INPUT, "rigbench: cannot write the answer (No space left on device)\n"),
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
