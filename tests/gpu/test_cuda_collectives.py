"""Do collectives over NCCL bring the right values, and is its log understood? Needs a CUDA device."""

import os
from pathlib import Path

import pytest
import torch
from real_card import FAKE

from rigbench import store
from rigbench.collectives import command, verdict
from rigbench.collectives.record import NAMES, Options
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Tally
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.work.ranks import SEVERAL_ON_ONE_GPU

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SEVERAL_SINCE = (2, 30, 3)
LARGEST_BYTES = 1 << 20 if FAKE else 64 << 20


def measured(home: Path, count: int):
    options = Options(device="cuda", max_bytes=LARGEST_BYTES, seconds=15.0, limit_seconds=180.0)
    job = Job(store.Store(home), Rig.live(), "collectives", Silent())
    result = command.judged(command.started(job, options, None, count, lambda share, text: None), count)
    assert result is not None
    assert (result.verdict, result.reason, verdict.faults(result)) == ("fine", "", [])
    assert (result.backend, result.world_size) == ("nccl", count)
    assert tuple(one.operation for one in result.operations) == NAMES
    for one in result.operations:
        assert one.not_run == ""
        assert all(row.check.correct and len(row.rank_seconds) == count for row in one.sizes)
    return result


def test_one_rank_brings_every_operation_its_own_values(tmp_path):
    result = measured(tmp_path, 1)
    assert all(isinstance(one.sizes[-1].bus_bytes_per_s, Absent) for one in result.operations if one.bus_factor == 0)
    assert result.ranks[0].device.kind == "cuda"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_rank_for_each_gpu_brings_the_right_values_and_names_its_way(tmp_path):
    result = measured(tmp_path, torch.cuda.device_count())
    assert all(isinstance(place.ways, Tally) for place in result.ranks)
    assert len({place.device.uuid for place in result.ranks}) == result.world_size


def test_two_ranks_share_one_card_where_nccl_allows_it(monkeypatch, tmp_path):
    if torch.cuda.nccl.version() < SEVERAL_SINCE:
        pytest.skip(f"NCCL {torch.cuda.nccl.version()} refuses two ranks on one GPU; 2.30.3 allows it")
    monkeypatch.setitem(os.environ, SEVERAL_ON_ONE_GPU, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
    result = measured(tmp_path, 2)
    assert all(isinstance(place.ways, Tally) and place.ways.counts for place in result.ranks)
