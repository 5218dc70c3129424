"""Does the one command for a real card go on whatever a piece does, and does it read rigbench's documents right?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GPU_TESTS = ROOT / "tests/gpu"
sys.path.insert(0, str(GPU_TESTS))

from one_shot import __main__ as one_shot  # noqa: E402
from one_shot import main as main_job  # noqa: E402

QUICK = json.loads((ROOT / "tests/runs/xeon-2.5ghz-2-cores/run-quick-every-probe.json").read_text())
WRITES = """
import sys
sys.path.insert(0, sys.argv[1])
from one_shot.piece import Piece
piece = Piece("{name}", [sys.argv[2]])
piece.row(what="before")
piece.learn("{learnt}", off={off})
"""
HANGS = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('hanging', flush=True); time.sleep(60)"
)


def toy(name: str, out: Path, then: str, learnt: str = "a thing", off: bool = False, seconds: float = 20.0):
    code = WRITES.format(name=name, learnt=learnt, off=off) + then
    return one_shot.Group(name, seconds, "?", (sys.executable, "-c", code, str(GPU_TESTS), str(out)))


def test_a_piece_that_hangs_dies_or_is_off_is_told_and_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(one_shot, "GRACE_SECONDS", 0.5)
    groups = [
        toy("hangs", tmp_path, HANGS, seconds=2.0),
        toy("dies", tmp_path, "import os; os.abort()"),
        toy("raises", tmp_path, "raise ValueError('no such card')"),
        toy("off", tmp_path, "sys.exit(piece.end())", learnt="twice what was predicted", off=True),
        toy("ends", tmp_path, "sys.exit(piece.end())"),
    ]
    found = one_shot.run_all(groups, tmp_path, 60.0)
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    ended = {one["name"]: (one["status"], one["why"]) for one in found["groups"]}
    assert list(ended) == ["hangs", "dies", "raises", "off", "ends"]
    assert ended["hangs"][0] == "timed out"
    assert ended["dies"] == ("failed", "exit 134: it was killed by signal 6")
    assert ended["raises"] == ("failed", "exit 1: ValueError: no such card")
    assert ended["off"] == ("failed", "twice what was predicted")
    assert ended["ends"] == ("ok", "")
    for name in ended:
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == [{"what": "before"}]
    assert all(one["learnt"] for one in found["groups"])
    assert "a thing" in capsys.readouterr().out


def test_where_no_time_is_left_the_rest_is_not_begun(tmp_path):
    found = one_shot.run_all([one_shot.Group("vram", 50.0, "?")], tmp_path, 10.0)
    assert [one["status"] for one in found["groups"]] == ["no time left"]


def test_the_tests_take_what_is_left():
    assert one_shot.GROUPS[-1].seconds == 0.0
    assert all((GPU_TESTS / f"one_shot/{group.name}.py").exists() for group in one_shot.GROUPS)


def test_a_run_is_read_as_it_is_written():
    rooms = main_job.rooms(QUICK)
    assert set(main_job.ROOMS) | {"slices"} == set(rooms)
    assert rooms["matmul"] == rooms["slices"] == rooms["budget"] == ""
    assert main_job.ceilings(QUICK) == {
        dtype: best["value"] for dtype, best in QUICK["matmul"]["best_flops_per_s"].items()
    }
    first = next(iter(main_job.slices(QUICK)))
    assert first.startswith(f"{QUICK['slices'][0]['model']['name']} (fp32, micro-batch 1): ")
    assert main_job.rooms({})["matmul"] == "no such room"


def test_a_fault_of_the_rig_is_none_of_ours():
    said = "rigbench: fault: GPU0: its link is narrow (link-width)\nrigbench: fault: matmul: its worker died\n"
    assert main_job.ours(said) == ["matmul: its worker died"]


@pytest.mark.parametrize("words", [[], ["--tiny"], ["/no/such/python", "out"]])
def test_the_script_says_what_it_needs(words, tmp_path):
    script = ["bash", str(GPU_TESTS / "one_shot.sh"), *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "one_shot.sh" in done.stderr
