"""Does a soak heat a real GPU, and do its sensors tell so? Needs a CUDA device:  pytest tests/gpu -m gpu"""

import io

import pytest
import torch
from real_card import only_real

from rigbench import store
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Silent
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.thermals import command as thermals
from rigbench.thermals import probe as heat_load
from rigbench.thermals.record import HeatFit, LoadOptions, Options
from rigbench.work.process import Report

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_load_keeps_tensor_cores_busy_without_a_gap():
    result = heat_load.run(LoadOptions(seconds=5.0, device="cuda:0"), Report(io.BytesIO()))
    wall = result.ended_at_seconds[-1] - result.began_at_seconds
    assert sum(result.seconds) == pytest.approx(wall, rel=0.05)
    assert all(check.correct for check in result.checks)
    if torch.cuda.get_device_capability(0) >= (8, 0):
        assert result.dtype == "bf16"


@only_real
def test_a_soak_warms_every_card_and_tells_watts_and_clocks(tmp_path):
    job = Job(store.Store(tmp_path), Rig.live(), "thermals", Silent())
    result = thermals.run(job, Options(minutes=0.75))
    assert len(result.cards) == torch.cuda.device_count()
    for card in result.cards:
        assert isinstance(card.fit, HeatFit)
        assert card.peak_celsius > 30
        assert isinstance(card.steady.watts, Estimate)
        assert card.steady.watts.value > 50
        assert card.steady.sm_clock_hertz > 5e8
        assert isinstance(card.hot_over_cold, Estimate)
        assert 0.5 < card.hot_over_cold.value < 1.1
        assert isinstance(card.flop_per_joule, Estimate)
        assert not card.notes
    assert result.telemetry.period_seconds == pytest.approx(0.1)
    assert not result.notes
