"""Do a real GPU's energy counter and its integrated power agree? Needs a CUDA device:  pytest tests/gpu -m gpu"""

from __future__ import annotations

import time

import msgspec
import pytest
import torch
from real_card import only_real

from rigbench.core.record import Absent, Energy
from rigbench.machine.accelerator import CudaAccelerator
from rigbench.machine.rig import Rig
from rigbench.monitor import command as monitor_command
from rigbench.monitor.record import Options
from rigbench.work import telemetry
from rigbench.work.sensors import Sampler

pytestmark = [
    pytest.mark.gpu,
    only_real,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def busy(seconds: float) -> None:
    """Keeps the first GPU at work, and comes back when it is done."""
    one = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    other = torch.randn_like(one)
    out = torch.empty_like(one)
    ended = time.perf_counter() + seconds
    while time.perf_counter() < ended:
        for _ in range(50):
            torch.mm(one, other, out=out)
        torch.cuda.synchronize()


def test_the_energy_counter_agrees_with_the_power_over_time():
    busy(3.0)  # an average over a second must not remember idleness
    device = CudaAccelerator(0).device
    with Sampler(Rig.live(), 0.1) as sampler:
        time.sleep(0.5)
        start = time.perf_counter()
        busy(12.0)
        end = time.perf_counter()
        busy(0.5)
    record = sampler.record()
    own = msgspec.structs.replace(record, series=tuple(one for one in record.series if one.uuid == device.uuid))
    assert len(own.series) == 1
    counted = telemetry.energy(own, start, end)
    if isinstance(own.series[0].energy_joules, Absent):
        pytest.skip(f"this card has no energy counter: {own.series[0].energy_joules.reason}")
    assert isinstance(counted, Energy)
    assert counted.method == "counter"
    without = msgspec.structs.replace(own.series[0], energy_joules=Absent("left out"))
    integrated = telemetry.energy(msgspec.structs.replace(own, series=(without,)), start, end)
    assert isinstance(integrated, Energy)
    assert integrated.method == "integrated"
    assert integrated.joules == pytest.approx(counted.joules, rel=0.05)
    assert counted.watts > 50
    names = [draw.name for draw in telemetry.draws(record, device, start, end)]
    assert names[0] == "GPUs"
    assert names[-1] == "CPU package"


def test_monitor_sees_a_busy_gpu_with_its_watts_traffic_and_process():
    import threading

    worker = threading.Thread(target=busy, args=(8.0,))
    worker.start()
    time.sleep(2.0)
    found, trouble = monitor_command.watch(Options(interval=0.5, seconds=5.0), None, None)
    worker.join()
    assert trouble is None
    gpu = next(one for one in found.gpus if one.uuid == CudaAccelerator(0).device.uuid)
    assert isinstance(gpu.gone, Absent)
    assert gpu.utilisation_share.mean > 0.8
    assert gpu.power_watts.mean > 50
    assert gpu.energy.joules == pytest.approx(gpu.power_watts.mean * gpu.energy.seconds, rel=0.1)
    assert not isinstance(gpu.to_gpu_bytes_per_s, Absent)
    assert found.late_ticks <= 1
