"""Do batches reach a GPU whole, from pinned and from pageable memory, and is the copy in the loader's time?

pytest tests/gpu -m gpu
"""

import io

import numpy as np
import pytest
import torch

from rigbench.dataloader import probe as dataloader
from rigbench.dataloader.record import Loading, Options
from rigbench.model.batches import Batches
from rigbench.work.process import Report

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ids.bin"
    np.random.default_rng(0).integers(0, 60_000, 1_000_000).astype("<u2").tofile(path)
    return path


@pytest.mark.parametrize(("pinned", "ahead"), [(True, True), (False, True), (True, False)])
def test_batches_on_the_gpu_are_those_of_the_cpu_however_they_get_there(file, pinned, ahead):
    tokens = np.memmap(file, dtype="<u2", mode="r")
    with (
        Batches(tokens, "uint16", 1 << 16, 16, 1024, "cpu", "ids.bin") as on_cpu,
        Batches(tokens, "uint16", 1 << 16, 16, 1024, "cuda:0", "ids.bin", pinned=pinned, ahead=ahead) as on_gpu,
    ):
        kept = [(on_cpu.next(), on_gpu.next()) for _ in range(200)]  # no look in between: the copies may overlap
        for (inputs, targets), (gpu_inputs, gpu_targets) in kept:
            assert gpu_inputs.device.type == "cuda"
            assert torch.equal(gpu_inputs.cpu(), inputs)
            assert torch.equal(gpu_targets.cpu(), targets)


def test_every_path_is_copied_to_the_gpu_pinned_and_not(file, tmp_path):
    options = Options(device="cuda:0", data=str(file), cache=str(tmp_path), micro_batch=16, workers=(0, 2), seconds=0.5)
    result = dataloader.run(options, Report(io.BytesIO()))
    assert [sweep.path for sweep in result.sweeps] == ["own loader", "memory map"]
    for sweep in result.sweeps:
        assert all(row.pinned and row.to_device for row in sweep.rows)
        assert isinstance(sweep.unpinned, Loading)
        assert not sweep.unpinned.pinned
