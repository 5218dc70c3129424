"""Do the P2P checks run on CUDA, and do two GPUs get a verdict? Needs a CUDA device:  pytest tests/gpu -m gpu"""

import os
from pathlib import Path

import pytest
import torch
from p2p_on_one_gpu import OneCard

from rigbench import store
from rigbench.core.progress import Silent
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.p2p import command
from rigbench.p2p.checks import Writes, check_writes
from rigbench.p2p.record import ArmOptions, P2pRank
from rigbench.p2p.record import Options as P2pOptions
from rigbench.work import ranks

CUDA = torch.cuda.is_available()
NCCL = tuple(torch.cuda.nccl.version()[:3]) if CUDA else (0, 0, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device")]
THERE, BOTH = ((0, 1),), ((0, 1), (1, 0))


@pytest.mark.parametrize("ways", [THERE, BOTH])
@pytest.mark.parametrize(("by", "peer_access"), [("copy engine", True), ("copy engine", False), ("kernel", True)])
def test_writes_on_the_device_are_checked_by_it(ways, by, peer_access):
    cards = OneCard()
    copy = cards.peer_copy(2, peer_access)
    for size in (8, 4096, 16 << 20):
        for check in check_writes(cards, copy, Writes(ways, by, size), rounds=3):
            assert (check.checked, check.wrong, check.wrong_values, check.strayed_values) == (3, 0, 0, 0)


def test_a_write_that_the_device_never_made_is_seen():
    (check,) = check_writes(OneCard(), lambda to, of: None, Writes(THERE, "copy engine", 16 << 20), rounds=2)
    assert (check.wrong, check.unchanged_values) == (2, 2 * (2 << 20))


@pytest.mark.skipif(NCCL < (2, 30, 3), reason=f"NCCL {NCCL} refuses two ranks on one GPU")
def test_two_ranks_of_nccl_on_one_gpu_agree(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    outcome = ranks.call(
        "p2p_on_one_gpu",
        ArmOptions(devices=2, peer_access=True),
        P2pRank,
        world_size=2,
        limit_seconds=100,
        environment={"NCCL_MULTI_RANK_GPU_ENABLE": "1"},
    )
    assert outcome.ended == "finished", outcome.reason
    for result in outcome.results:
        assert all(check.correct for check in result.checks)
        assert len(result.checks) == result.steps


@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_two_gpus_get_a_verdict(tmp_path):
    job = Job(store.Store(tmp_path), Rig.live(), "p2p", Silent())
    result = command.run(job, P2pOptions(times=2))
    assert result.verdict in ("works", "not available"), result.reason
    assert all(arm.right for arm in result.arms)
    assert os.environ.get("NCCL_P2P_DISABLE") or any(ratio.what == "all_reduce" for ratio in result.speeds)


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="not one GPU")
def test_one_gpu_is_no_pair(tmp_path):
    result = command.run(Job(store.Store(tmp_path), Rig.live(), "p2p", Silent()), P2pOptions(times=1))
    assert result.verdict == "not applicable"
    assert result.reason.startswith("fewer than two GPUs: this machine has one (")
