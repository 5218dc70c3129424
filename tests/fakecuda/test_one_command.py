"""Do all pieces of the one command for a real card run on a fake one, and write what they are to write?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fake_rig import REPOSITORY

ROWS = {
    "rig": {"asked", "exit", "out"},
    "main": {"command", "exit", "seconds", "rooms", "ceilings"},
    "vram": {"size", "way"},
    "ceiling": {"dtype", "side", "flops_per_s"},
    "loop": {"how", "by", "tokens_per_s", "peak", "loss"},
    "speed": {"training", "predicted", "tokens_per_s"},
    "resume": {"exit", "events"},
    "energy": {"seconds", "watts", "readings"},
    "holds": set(),
    "wrapped": {"arm", "exit"},
    "heat": {"exit", "steady"},
    "suite": {"test", "outcome", "seconds"},
}


def test_every_piece_answers_on_one_fake_card(rig: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = ["bash", str(REPOSITORY / "tests/gpu/one_shot.sh"), sys.executable, str(out), "--tiny"]
    environment = rig.variables | {"CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=1200)
    found = json.loads((out / "summary.json").read_text())
    assert {one["name"]: one["status"] for one in found["groups"]} == dict.fromkeys(ROWS, "ok"), done.stdout
    assert (done.returncode, found["ended"], found["settings_changed"]) == (0, "finished", [])
    assert found["card"]["name"] == found["torch"]["device"] == "NVIDIA GeForce RTX 4080 SUPER"
    for name, keys in ROWS.items():
        piece = json.loads((out / f"{name}.json").read_text())
        assert piece["rows"], name
        assert all(keys <= row.keys() for row in piece["rows"]), name
        assert piece["learnt"]
        assert (out / f"{name}.log").exists()
    rows = {name: json.loads((out / f"{name}.json").read_text())["rows"] for name in ROWS}
    assert [(row["how"], row["by"]) for row in rows["loop"]] == [
        (how, by) for how in ("eager", "compiled") for by in ("plain loop", "rigbench")
    ]
    assert (rows["main"][0]["exit"], rows["main"][0]["rooms"]["matmul"]) == (0, "")
    vram = json.loads((out / "vram.json").read_text())
    assert any("context 420 MiB (beside 596 of others)" in str(line) for line in vram["learnt"])
    assert {row["outcome"] for row in rows["suite"]} == {"passed"}
    assert [row["arm"] for row in rows["wrapped"]] == ["plain", "fsdp2", "adamw8bit"]
    assert not list(out.glob("home*/cache"))
