"""Does the CUDA side of the accelerator seam tell the truth? Needs a CUDA device:  pytest tests/gpu -m gpu"""

import io
import time

import pytest
import torch
from real_card import FAKE, model, only_real

from rigbench.machine.accelerator import CudaAccelerator, choose_device
from rigbench.machine.nvml import Nvml
from rigbench.matmul import probe as matmul
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.train import probe as train
from rigbench.train.record import Options as TrainOptions
from rigbench.work.process import Report

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_first_gpu_is_chosen_and_known_to_the_driver_by_its_uuid():
    assert choose_device(None) == "cuda:0"
    assert CudaAccelerator(0).device.uuid in {gpu.uuid for gpu in Nvml.live().gpus()}


@only_real
def test_events_agree_with_the_wall_clock():
    accelerator = CudaAccelerator(0)
    a = torch.randn(8192, 8192, device="cuda")
    accelerator.timed(lambda _: a @ a, 3)
    accelerator.synchronize()
    started = time.perf_counter()
    start = accelerator.mark()
    for _ in range(20):
        a @ a
    seconds = accelerator.seconds_between(start, accelerator.mark())
    assert seconds == pytest.approx(time.perf_counter() - started, rel=0.02)


@only_real
def test_flushing_the_cache_makes_a_small_read_slower():
    accelerator = CudaAccelerator(0)
    small = torch.randn(4 << 20, device="cuda")  # 16 MiB: inside the L2 of any recent card
    flushed = sorted(accelerator.timed(lambda _: small.sum(), 50))[25]
    accelerator._scrub = torch.empty(1, dtype=torch.uint8, device="cuda")
    cached = sorted(accelerator.timed(lambda _: small.sum(), 50))[25]
    assert flushed > 1.1 * cached


def test_matmul_is_right_and_below_its_datasheet():
    options = MatmulOptions(
        model=model("120M"), device="cuda:0", seconds=8.0 if FAKE else 30.0, hot_seconds=0.5 if FAKE else 2.0
    )
    result = matmul.run(options, Report(io.BytesIO()))
    assert all(row.check.correct for row in result.shapes)


def test_a_slice_trains_and_counts_its_memory(tmp_path):
    options = TrainOptions(model=model("15M"), cache=str(tmp_path), device="cuda:0", seconds=5.0)
    result = train.run(options, Report(io.BytesIO()))
    assert result.recipe.precision == "bf16"
    assert FAKE or result.steps.loss[-1] < result.steps.loss[0]
    assert result.memory.allocated_bytes > 16 * result.model.total_parameters
    assert result.memory.reserved_bytes >= result.memory.allocated_bytes
