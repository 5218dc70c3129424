"""Do all arms run on a GPU, and do predictions hold there? pytest tests/gpu/test_cuda_arms.py -m gpu -s"""

import json
import subprocess
import sys

import pytest
import torch
from real_card import MODEL, only_real

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
NEVER_UNDER_BY, WITHIN = 0.01, 0.03
ONE_CARD_SKIPS = {"ddp", "fsdp2", "data-parallel", "accelerate"}


def rigbench(home, *words: str) -> dict:
    command = [sys.executable, "-m", "rigbench", *words, "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def every_arm(tmp_path_factory) -> dict:
    home = tmp_path_factory.mktemp("home")
    return rigbench(home, "train-probe", *MODEL, "--arms", "all", "--seconds", "5s", "--share")


def test_every_arm_is_measured_or_says_why_not(every_arm, capsys):
    rows = every_arm["arms"]["rows"]
    for row in rows:
        rate = every_arm["slices"][row["slice"]]["items_per_s"]["value"] if row["outcome"] == "measured" else 0
        with capsys.disabled():
            print(f"{row['label']:32} {row['outcome']:9} {rate:12,.0f} tokens/s  {row['reason']}")
    allowed = ONE_CARD_SKIPS if torch.cuda.device_count() == 1 else {"accelerate"}
    skipped = {row["label"] for row in rows if row["outcome"] == "skipped"}
    assert skipped <= allowed | {"bf16"} | {row["label"] for row in rows if "bitsandbytes" in row["reason"]}


@only_real
def test_what_was_predicted_is_what_the_allocator_took(every_arm, capsys):
    """Arms that run eagerly; a compiled one takes less than is predicted, and offloaded shards live elsewhere."""
    off = []
    for row in every_arm["arms"]["rows"]:
        if row["outcome"] != "measured" or row["recipe"]["compiled"] or row["memory"]["type"] == "absent":
            continue
        peak = every_arm["slices"][row["slice"]]["memory"]["allocated_bytes"]
        ratio = row["memory"]["allocated_bytes"] / peak
        with capsys.disabled():
            print(f"{row['label']:32} predicted / allocated {ratio:.4f}")
        off.append((row["label"], ratio))
    assert [label for label, ratio in off if not 1 - NEVER_UNDER_BY <= ratio <= 1 + WITHIN] == []


def test_a_gpus_step_is_split_and_its_host_watched(every_arm):
    first = every_arm["slices"][0]
    assert first["device"]["kind"] == "cuda"
    steps = first["steps"]
    assert len(steps["enqueue_seconds"]) == len(steps["enqueue_steps"]) > 0
    assert all(0 <= step < len(steps["seconds"]) for step in steps["enqueue_steps"])
    assert sum(first["step_share"].values()) == pytest.approx(1)


@only_real
def test_the_largest_micro_batch_is_predicted_and_confirmed(tmp_path):
    words = ("--params", "120M", "--micro-batch", "auto", "--seconds", "4s", "--share")
    search = rigbench(tmp_path, "train-probe", *words)["arms"]["micro_batch"]
    assert search["largest"] >= 0.97 * search["largest_predicted"]
    assert search["chosen"] <= search["largest"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-offload"])
def test_ranks_on_several_gpus_tell_what_they_wait_for(strategy, tmp_path):
    words = (*MODEL, "--strategy", strategy, "--seconds", "5s", "--share")
    (found,) = rigbench(tmp_path, "train-probe", *words)["slices"]
    assert found["recipe"]["ranks"] == torch.cuda.device_count()
    assert found["exchange"]["exposed"]["value"] < found["step_seconds"]["value"]


def test_a_program_of_the_users_trains_on_the_gpu(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(Path(__file__).parents[1] / "models")
    own = rigbench(tmp_path, "train-probe", "--model", "tiny_vision:make", "--seconds", "4s")["slices"][0]
    assert (own["device"]["kind"], own["model"]["unit"]) == ("cuda", "samples")
