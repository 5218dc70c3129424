"""Do ranks train on GPUs with NCCL as one process would? pytest tests/gpu/test_cuda_train_ranks.py -m gpu -s"""

import json
import subprocess
import sys

import pytest
import torch
from real_card import MODEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
several = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")


def slice_of(home, strategy: str, *words: str, torchrun: bool = False) -> dict:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"] if torchrun else []
    asked = ["-m", "rigbench", "train-probe", *MODEL, "--strategy", strategy, "--precision", "fp32", *words]
    command = [sys.executable, *start, *asked, "--seconds", "4s", "--share", "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["slices"]
    assert found["type"] == "slice", found
    return found


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict:
    return slice_of(tmp_path_factory.mktemp("home"), "single", "--micro-batch", "4")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-offload"])
def test_one_rank_under_torchrun_makes_the_steps_of_a_single_process(strategy, single, tmp_path, capsys):
    """One GPU is enough: the wrapping, NCCL's group and gloo beside it, with nobody to exchange with."""
    found = slice_of(tmp_path, strategy, "--micro-batch", "4", torchrun=True)
    with capsys.disabled():
        print(f"{strategy:14} {found['items_per_s']['value']:12,.0f} of {single['items_per_s']['value']:12,.0f}")
    assert (found["device"]["kind"], found["recipe"]["ranks"]) == ("cuda", 1)
    both = min(8, len(found["steps"]["loss"]), len(single["steps"]["loss"]))
    assert found["steps"]["loss"][:both] == pytest.approx(single["steps"]["loss"][:both], rel=1e-3)


@several
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-offload", "accelerate"])
def test_ranks_on_several_gpus_tell_where_their_step_goes(strategy, tmp_path):
    if strategy == "accelerate":
        pytest.importorskip("accelerate")
    found = slice_of(tmp_path, strategy)
    its, step = found["exchange"], found["step_seconds"]["value"]
    assert found["recipe"]["ranks"] == len(its["without_samples"]) == torch.cuda.device_count()
    parts = ("shared_seconds", "imbalance_seconds", "unexplained_seconds")
    assert its["alone_seconds"]["value"] + its["exposed"]["value"] + sum(its[part] for part in parts) == pytest.approx(
        step
    )
    assert its["exposed"]["value"] < step


@several
def test_data_parallel_splits_one_batch_over_the_cards(tmp_path):
    found = slice_of(tmp_path, "data-parallel", "--micro-batch", "8")
    assert found["recipe"]["strategy"] == "data-parallel"
