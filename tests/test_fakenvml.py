"""Does the driver library of our own making answer the real pynvml as a recording says, and as the replay does?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pynvml
import pytest
from fakenvml import library
from fakenvml.library import FakeDriver, calls_in

from rigbench.core.record import Absent
from rigbench.machine.driver_child import Library
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu

RIGS = Path(__file__).parent / "rigs"
ALL = sorted(path.parent.name for path in RIGS.glob("*/nvml.txt"))

ONE_BUSY_GPU = """# one card with two processes, split in two
sys nvmlDeviceGetCount_v2 = 0 1
0 nvmlDeviceGetName = 0 "A ; B = C"
0 nvmlDeviceGetTemperature/0 = 0 43 ; 0 44 ; 0 61 ; 15
0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824 4243 2147483648
0 nvmlDeviceGetMigMode = 0 1 1
0 nvmlDeviceGetMaxMigDeviceCount = 0 2
0 nvmlDeviceGetMigDeviceHandleByIndex/0 = 0 100
100 nvmlDeviceGetName = 0 "NVIDIA H100 MIG 1g.10gb"
100 nvmlDeviceGetUUID = 0 "MIG-00000000-0000-0000-0000-000000000000"
100 nvmlDeviceGetMemoryInfo = 0 100 60 40
0 nvmlDeviceGetMarginTemperature = 0 -3
0 nvmlDeviceGetFieldValues/82/0 = 0 1 55
"""


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    recording = tmp_path / "nvml.txt"
    recording.write_text(ONE_BUSY_GPU)
    return recording


def open_driver(driver: FakeDriver, recording: Path, log: Path | None = None) -> Nvml:
    return Nvml(Library(driver.open(recording, log)))


@pytest.mark.parametrize("name", ALL)
def test_the_real_library_and_the_replay_read_the_same_gpus(name: str, fake_driver: FakeDriver) -> None:
    recording = RIGS / name / "nvml.txt"
    live, replayed = open_driver(fake_driver, recording), Nvml.replay(recording)
    assert live.gpus() == replayed.gpus()
    count = live.gpu_count()
    assert isinstance(count, int)
    assert count > 0
    assert live.nvlinks(count) == replayed.nvlinks(count)
    assert (live.driver_version(), live.cuda_driver_version()) == (
        replayed.driver_version(),
        replayed.cuda_driver_version(),
    )


def test_processes_parts_and_sequences_come_through_both(fake_driver: FakeDriver, busy: Path) -> None:
    for nvml in (open_driver(fake_driver, busy), Nvml.replay(busy)):
        gpu = nvml.gpu(0)
        assert gpu.name == "A ; B = C"
        assert isinstance(gpu.processes, tuple)
        assert [(process.pid, process.memory_bytes) for process in gpu.processes] == [(4242, 1 << 30), (4243, 2 << 30)]
        assert isinstance(gpu.mig_devices, tuple)
        assert [device.name for device in gpu.mig_devices] == ["NVIDIA H100 MIG 1g.10gb"]
        assert (gpu.margin_celsius, gpu.memory_temperature_celsius, gpu.temperature_celsius) == (-3.0, 55.0, 43.0)
        rest = [nvml.reading(0, "temperature_celsius") for _ in range(4)]
        assert rest == [44.0, 61.0, Absent("GPU is lost"), Absent("GPU is lost")]


def test_sequences_can_follow_the_clock(fake_driver: FakeDriver, busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = open_driver(fake_driver, busy)
    monkeypatch.setenv("FAKE_NVML_TICK_MS", "600000")
    assert [nvml.reading(0, "temperature_celsius") for _ in range(3)] == [43.0, 43.0, 43.0]


def test_no_recording_is_a_driver_that_is_not_loaded(fake_driver: FakeDriver, tmp_path: Path) -> None:
    nvml = open_driver(fake_driver, tmp_path / "missing.txt")
    assert nvml.absent is not None
    assert "modprobe nvidia" in nvml.absent.reason


def test_every_name_of_pynvml_is_there_and_no_setter_is_allowed(
    fake_driver: FakeDriver, busy: Path, tmp_path: Path
) -> None:
    names = library.names_known_to_pynvml()
    opened = fake_driver.open(busy, tmp_path / "log")
    assert len(names) > 350
    assert [name for name in names if not hasattr(opened, name)] == []
    assert Nvml(Library(opened)).ask(0, "nvmlDeviceSetPowerManagementLimit/100000") == [Absent("no permission")]
    assert calls_in(tmp_path / "log")[-1] == ("?", "nvmlDeviceSetPowerManagementLimit", 4)


def test_names_that_a_driver_does_not_export_are_a_reason_or_found_under_their_old_name(
    fake_driver: FakeDriver, tmp_path: Path
) -> None:
    hidden = (
        *("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMemoryInfo_v2"),
        *("nvmlDeviceGetFieldValues", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMarginTemperature"),
    )
    recording = RIGS / "dual-rtx4080s-x8x8" / "nvml.txt"
    new, old = open_driver(fake_driver, recording).gpu(1), open_driver(library.build(tmp_path, hidden), recording)
    gpu = old.gpu(1)
    assert (gpu.temperature_celsius, gpu.throttle_bits) == (new.temperature_celsius, new.throttle_bits)
    assert gpu.memory_used_bytes == 1077936128  # the older call counts what the driver reserves
    assert gpu.power_watts == 21.4
    assert gpu.margin_celsius == Absent("function not found in this driver")


def test_temperature_survives_a_pynvml_without_the_new_call(
    fake_driver: FakeDriver, busy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperatureV")
    assert open_driver(fake_driver, busy).reading(0, "temperature_celsius") == 43.0


def test_a_call_that_this_pynvml_lacks_is_a_reason(
    fake_driver: FakeDriver, busy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pynvml, "nvmlDeviceGetUtilizationRates")
    reason = Absent("function not found in this pynvml")
    assert open_driver(fake_driver, busy).reading(0, "utilisation_share") == reason


def test_bytes_from_an_old_pynvml_are_text(
    fake_driver: FakeDriver, busy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _handle: b"NVIDIA Tesla P100")
    assert open_driver(fake_driver, busy).gpu(0).name == "NVIDIA Tesla P100"
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _handle: b"\xff")
    assert open_driver(fake_driver, busy).gpu(0).name == Absent("not text")


def test_pynvmls_other_word_for_a_missing_function_is_a_reason(fake_driver: FakeDriver, busy: Path) -> None:
    busy.write_text(ONE_BUSY_GPU + "0 nvmlDeviceGetComputeRunningProcesses_v3 = 13\n")
    [answer] = open_driver(fake_driver, busy).ask(0, "nvmlDeviceGetComputeRunningProcesses")
    assert answer == Absent("function not found in this driver")


def test_a_whole_process_finds_the_library_and_reads_the_rig(fake_driver: FakeDriver, tmp_path: Path) -> None:
    recording, log = RIGS / "dual-rtx4080s-x8x8" / "nvml.txt", tmp_path / "log"
    done = fake_driver.run("topology", recording=recording, home=tmp_path / "home", log=log)
    assert done.returncode == 0
    assert "RTX 4080 SUPER" in done.stdout
    assert ("0", "nvmlDeviceGetName", 0) in calls_in(log)


def test_what_rigbench_asks_is_served_and_not_stubbed(fake_driver: FakeDriver, busy: Path, tmp_path: Path) -> None:
    nvml = open_driver(fake_driver, busy, tmp_path / "log")
    assert isinstance(nvml.gpu(0), Gpu)
    stubbed = {call for scope, call, _ in calls_in(tmp_path / "log") if scope == "?"}
    older_names = {"nvmlDeviceGetPciInfo_v2", *(call for call in stubbed if call.endswith("RunningProcesses_v2"))}
    assert stubbed <= older_names


@pytest.mark.gpu  # where CUDA's toolkit is; elsewhere there is no nvml.h to hold it against
def test_the_source_has_the_vendors_signatures_where_their_header_is_at_hand(tmp_path: Path) -> None:
    headers = [*Path("/usr").glob("local/cuda*/include/nvml.h"), *Path("/usr").glob("include/nvml.h")]
    if not headers or not library.has_compiler():
        pytest.skip("NVIDIA's nvml.h is not installed")
    command = ["gcc", "-fsyntax-only", "-DCHECK_AGAINST_NVML_H", f"-I{headers[0].parent}"]
    subprocess.run([*command, str(library.HERE / "fakenvml.c")], check=True)
