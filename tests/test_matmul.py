"""Are matrix products timed, checked and compared, and is a wrong one caught?"""

import io

import msgspec
import pytest
import torch

from rigbench.measure.workers import Report
from rigbench.model import shape
from rigbench.probes import matmul
from rigbench.records import Matmul


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(matmul.SQUARES, "cpu", (64, 96))
    model = shape.model_named("1.7M")
    model = msgspec.structs.replace(model, shape=msgspec.structs.replace(model.shape, sequence=32, vocabulary=512))
    return matmul.Options(model=model, device="cpu", seconds_per_shape=0.2)


def test_every_shape_has_samples_a_rate_and_a_check(small):
    result = matmul.run(small, Report(io.BytesIO()))
    assert [(row.dtype, row.m, row.n, row.k) for row in result.shapes] == [
        (dtype, *dims)
        for dtype in ("bf16", "fp32")
        for dims in ((64, 64, 64), (96, 96, 96), (32, 128, 32), (32, 512, 32))
    ]
    for row in result.shapes:
        seconds = sorted(row.timing.seconds)
        middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
        assert row.flops_per_s.value == pytest.approx(2 * row.m * row.n * row.k / middle)
        assert row.flops_per_s.low <= row.flops_per_s.value <= row.flops_per_s.high
        assert row.check.correct
    for dtype, best in result.best_flops_per_s.items():
        assert best.value == max(row.flops_per_s.value for row in result.shapes if row.dtype == dtype)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Matmul) == result


def test_a_shape_that_would_take_too_long_is_left_out_and_said(small, monkeypatch):
    monkeypatch.setattr(matmul, "EXPECTED_SECONDS_LIMIT", 1e-12)
    result = matmul.run(small, Report(io.BytesIO()))
    assert len(result.shapes) == 2  # the first of each dtype tells how long the others would take
    assert len(result.not_run) == 6
    assert "one product would take about" in result.not_run[0]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [16, 1000, 4096])
def test_right_products_pass_and_wrong_ones_are_caught(kind, k):
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[kind]
    torch.manual_seed(k)
    a, b = torch.randn(8, k).to(kind), torch.randn(k, 64).to(kind)
    right = a @ b
    assert matmul.check(a, b, right, matmul.ROUNDOFF[name]).correct
    for wrong in (right * 1.05, right + 0.2 * k**0.5, torch.full_like(right, float("nan")), torch.zeros_like(right)):
        assert not matmul.check(a, b, wrong, matmul.ROUNDOFF[name]).correct


def test_a_device_that_multiplies_wrongly_is_reported(small, monkeypatch):
    real = torch.mm

    def broken(a, b, out):
        real(a, b, out=out)
        out[:, 0] += 100.0

    monkeypatch.setattr(torch, "mm", broken)
    result = matmul.run(small, Report(io.BytesIO()))
    assert not all(row.check.correct for row in result.shapes)
