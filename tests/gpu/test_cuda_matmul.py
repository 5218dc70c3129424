"""Do the arithmetics, the search and the load do on a GPU what they say? With a CUDA device: pytest tests/gpu -m gpu"""

import io
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from real_card import FAKE, only_real

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from ceiling_pair import compare

from rigbench.core.record import Absent
from rigbench.machine.accelerator import CudaAccelerator
from rigbench.matmul import probe as matmul
from rigbench.matmul.record import DTYPES, ProbeOptions
from rigbench.model import shape
from rigbench.work import products
from rigbench.work.process import Report
from rigbench.work.products import Operands

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", [(256, 512, 768)] + [(2048, 2048, 8192), (4096, 4096, 16384)] * (not FAKE))
def test_every_arithmetic_gives_a_right_product_and_a_wrong_one_is_caught(dtype, sides):
    accelerator = CudaAccelerator(0)
    reason = products.unavailable(dtype, accelerator.torch_device)
    if reason:
        pytest.skip(reason)
    with products.arithmetic_chosen(dtype, "cuda"):
        product = Operands(dtype, accelerator.torch_device).product(*sides, rotate_bytes=1 << 20)
        for index, (a, b) in enumerate(product.sets):
            product.work(index)
            assert products.check(a, b, product.out, dtype).correct
        product.out[:, ::50] += sides[2] ** 0.5
        assert not products.check(*product.sets[-1], product.out, dtype).correct


def test_the_switches_are_put_back():
    switches = torch.backends.cuda.matmul
    before = (switches.allow_tf32, getattr(switches, "allow_fp16_accumulation", None))
    for dtype in DTYPES:
        with products.arithmetic_chosen(dtype, "cuda"):
            assert switches.allow_tf32 == (dtype == "tf32")
    assert (switches.allow_tf32, getattr(switches, "allow_fp16_accumulation", None)) == before


@only_real
def test_a_load_leaves_the_device_no_gap():
    """The samples' own seconds, from events, add up to the wall clock's."""
    accelerator = CudaAccelerator(0)
    product = Operands("bf16", accelerator.torch_device).product(8192, 8192, 8192)
    product.work(0)
    accelerator.synchronize()
    started = time.perf_counter()
    seconds = products.sustain(accelerator, product.work, 50, 3.0, time.perf_counter)
    assert sum(seconds) == pytest.approx(time.perf_counter() - started, rel=0.02)


@only_real
@pytest.mark.parametrize(("dtype", "unit", "limit"), [("bf16", 512, 8192), ("fp32", 512, 4096)])
def test_a_tenth_of_the_looks_next_to_all_of_them(dtype, unit, limit, capsys):
    accelerator = CudaAccelerator(0)
    pair = compare(accelerator, dtype, unit, limit, pairs=20, block_seconds=0.5)
    with capsys.disabled():
        print(f"\n{dtype} on {accelerator.device.name}: {pair.line()}")
    assert pair.looks * 10 <= pair.shapes


@only_real
def test_the_whole_probe_runs_in_every_arithmetic_that_the_device_has(capsys):
    options = ProbeOptions(
        model=shape.model_named("120M"), device="cuda:0", dtypes=DTYPES, seconds=100.0, hot_seconds=4.0
    )
    result = matmul.run(options, Report(io.BytesIO()))
    with capsys.disabled():
        print(
            json.dumps({dtype: f"{best.value / 1e12:.1f} TFLOP/s" for dtype, best in result.best_flops_per_s.items()})
        )
        print(result.not_run)
    assert result.ended_by == "finished"
    assert all(check.correct for ceiling in result.ceilings for check in ceiling.checks)
    assert all(it.check.correct for it in result.shapes)
    assert not any(isinstance(step.seconds, Absent) for step in result.steps)
    assert {"bf16", "tf32", "fp32"} <= result.best_flops_per_s.keys() or torch.cuda.get_device_capability() < (8, 0)
