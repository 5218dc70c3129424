"""Are results completed with what the parent knows: the datasheet, the measured ceiling, the sensors' joules?"""

import msgspec
import pytest
from budget_slices import M5, whole

from rigbench import store
from rigbench.core import profiles
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device, Figure, SensorSeries, Telemetry
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.train import slices as train
from rigbench.work.record import NOTHING_DECLARED
from rigbench.work.telemetry import of_device


@pytest.fixture
def job(tmp_path, request):
    folder = request.path.parent / "rigs" / "dual-rtx4080s-x8x8"
    return Job(store.Store(tmp_path), Rig.replay(folder), "train-probe", Silent())


def on_gpu(uuid: str) -> Device:
    return Device(kind="cuda", name="NVIDIA GeForce RTX 4080 SUPER", uuid=uuid, threads=1, memory_total_bytes=1 << 34)


def test_mfu_is_of_the_datasheet_of_the_card_that_worked(job):
    result = whole(M5, 1000.0)
    uuid = str(job.gpus[1].uuid)
    result = msgspec.structs.replace(result, device=on_gpu(uuid), model_flops_per_s=20e12)
    mfu = train._of_peak(job, result, result.model_flops_per_s)
    assert isinstance(mfu, Figure)
    assert mfu.value == pytest.approx(20 / 104.4)  # gpus.csv: 104.4 TFLOP/s bf16 with fp32 accumulate
    assert "RTX 4080 SUPER" in mfu.basis


def test_a_cpu_and_an_unknown_card_have_no_mfu_rather_than_a_guess(job):
    result = whole(M5, 1000.0)
    assert isinstance(train._of_peak(job, result, 1e12), Absent)
    stranger = msgspec.structs.replace(result, device=on_gpu("GPU-elsewhere"))
    assert isinstance(train._of_peak(job, stranger, 1e12), Absent)


def test_only_the_card_that_worked_is_charged(job):
    nothing = Absent("not asked")

    def series(device: str, uuid: str | Absent, watts: float) -> SensorSeries:
        columns = dict.fromkeys(SensorSeries.__struct_fields__, nothing)
        columns |= {"device": device, "uuid": uuid, "power_watts": (watts,) * 40, "throttle_share": {}}
        return SensorSeries(**columns)

    sensors = Telemetry(
        period_seconds=0.25,
        at_seconds=tuple(0.25 * tick for tick in range(40)),
        series=(series("GPU0", "GPU-a", 300.0), series("GPU1", "GPU-b", 25.0), series("CPU", nothing, 60.0)),
    )
    own = of_device(sensors, on_gpu("GPU-a"))
    assert [one.device for one in own.series] == ["GPU0"]
    host = msgspec.structs.replace(on_gpu("GPU-a"), kind="cpu")
    assert [one.device for one in of_device(sensors, host).series] == ["CPU"]


def test_every_dtype_of_the_matmul_probe_may_have_a_peak():
    assert {"bf16", "fp32"} <= profiles.peaks("rtx-4080-super").keys()


def test_joules_per_item_and_flop_per_joule_are_those_of_the_steady_window(job):
    result = whole(M5, 1000.0)
    result = msgspec.structs.replace(result, device=on_gpu("GPU-a"))
    nothing = Absent("not asked")
    columns = dict.fromkeys(SensorSeries.__struct_fields__, nothing)
    columns |= {"device": "GPU0", "uuid": "GPU-a", "power_watts": (250.0,) * 60, "throttle_share": {}}
    at = tuple(0.1 * tick for tick in range(60))
    sensors = Telemetry(period_seconds=0.1, at_seconds=at, series=(SensorSeries(**columns),))
    done = train.completed(job, msgspec.structs.replace(result, telemetry=sensors), NOTHING_DECLARED)
    assert done.energy.watts == pytest.approx(250.0)
    assert done.joules_per_item == pytest.approx(250.0 / 1000.0)
    assert done.model_flop_per_joule == pytest.approx(1000.0 * M5.flop_per_token / 250.0)
    bare = msgspec.structs.replace(result, telemetry=msgspec.structs.replace(sensors, series=()))
    idle = train.completed(job, bare, NOTHING_DECLARED)
    assert isinstance(idle.energy, Absent)
    assert (idle.joules_per_item, idle.model_flop_per_joule) == (idle.energy,) * 2
