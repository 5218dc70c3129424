"""Does every answer of the driver become a value or a reason, whatever it answers?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from two_gpus import library, replay

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import driver
from rigbench.machine.nvml import NO_DRIVER, Nvml
from rigbench.machine.readings import REASONS
from rigbench.machine.replay import parse_recording

RIGS = Path(__file__).parent / "rigs"
CODES = [*range(1, 31), 999, 12345]
NOT_SUPPORTED = Absent("not supported")


def test_versions_are_the_drivers_own() -> None:
    nvml = replay()
    assert nvml.driver_version() == "595.71.05"
    assert nvml.cuda_driver_version() == "13.2"


def test_without_a_driver_the_reason_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libno-such-driver.so.1")
    nvml = Nvml.live()
    assert nvml.absent == Absent(NO_DRIVER)
    assert nvml.gpus() == nvml.driver_version() == nvml.reading(0, "throttle_bits") == Absent(NO_DRIVER)
    assert nvml.nvlinks(2) == {}


def test_without_a_library_no_child_is_started_and_pynvml_is_not_imported() -> None:
    code = (
        "import sys; from rigbench.machine import driver, nvml; driver.LIBRARY = 'libno-such-driver.so.1'; "
        "driver.subprocess.Popen = None; assert nvml.Nvml.live().absent; assert 'pynvml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("code", CODES)
def test_a_driver_that_does_not_start_is_absent_with_a_cure(code: int) -> None:
    nvml = replay(f"sys nvmlInitWithFlags = {code}")
    assert nvml.absent is not None
    assert nvml.gpus() == nvml.absent
    if code == 9:
        assert "modprobe nvidia" in nvml.absent.reason


def test_one_lost_gpu_does_not_hide_the_others() -> None:
    gpus = replay("0 nvmlDeviceGetHandleByIndex_v2 = 15").gpus()
    assert isinstance(gpus, tuple)
    assert gpus[0].name == gpus[0].temperature_celsius == gpus[0].memory_total_bytes == Absent("GPU is lost")
    assert gpus[1].name == "NVIDIA GeForce RTX 4080 SUPER"
    assert gpus[1].temperature_celsius == 43.0


def test_a_gpu_lost_midway_keeps_the_readings_before() -> None:
    nvml = replay("0 nvmlDeviceGetTemperature/0 = 0 60 ; 0 61 ; 15")
    lost = Absent("GPU is lost")
    assert [nvml.reading(0, "temperature_celsius") for _ in range(4)] == [60.0, 61.0, lost, lost]
    assert nvml.reading(1, "temperature_celsius") == 43.0


# What rigbench asks about one GPU, and the recorded call behind it.
QUESTIONS: dict[str, Callable[[Nvml, int], object]] = {
    "nvmlDeviceGetName": lambda nvml, index: nvml.gpu(index).name,
    "nvmlDeviceGetUUID": lambda nvml, index: nvml.reading(index, "uuid"),
    "nvmlDeviceGetPciInfo_v3": lambda nvml, index: nvml.gpu(index).pci_bus_id,
    "nvmlDeviceGetCudaComputeCapability": lambda nvml, index: nvml.gpu(index).compute_capability,
    "nvmlDeviceGetBAR1MemoryInfo": lambda nvml, index: nvml.gpu(index).bar1_total_bytes,
    "nvmlDeviceGetTemperature/0": lambda nvml, index: nvml.reading(index, "temperature_celsius"),
    "nvmlDeviceGetPowerUsage": lambda nvml, index: nvml.gpu(index).power_watts,
    "nvmlDeviceGetUtilizationRates": lambda nvml, index: nvml.reading(index, "utilisation_share"),
    "nvmlDeviceGetEnforcedPowerLimit": lambda nvml, index: nvml.gpu(index).power_limit_watts,
    "nvmlDeviceGetPerformanceState": lambda nvml, index: nvml.gpu(index).performance_state,
    "nvmlDeviceGetCurrPcieLinkWidth": lambda nvml, index: nvml.gpu(index).link_width_now_lanes,
}


@pytest.mark.parametrize("call", QUESTIONS)
def test_every_return_code_is_a_reason_and_hides_no_other_gpu(call: str) -> None:
    for code in CODES:
        nvml = replay(f"0 {call} = {code}", f"0 nvmlDeviceGetFieldValues/186/0 = {code}")  # which tells power too
        answer = QUESTIONS[call](nvml, 0)
        expected = REASONS.get(code, f"driver error {code}")
        assert isinstance(answer, Absent)
        assert answer.reason == expected
        assert nvml.gpu(1).name == "NVIDIA GeForce RTX 4080 SUPER"


@pytest.mark.parametrize("call", QUESTIONS)
def test_recorded_values_of_the_wrong_kind_are_a_reason(call: str) -> None:
    for values in ("", '"text" "text" "text"', "-1 -1 -1", "99999999999999999999"):
        replay(f"0 {call} = 0 {values}").gpus()


def test_memory_leaves_out_what_the_driver_reserves_and_falls_back() -> None:
    names = "memory_total_bytes", "memory_used_bytes"
    assert [*replay().readings(0, *names).values()] == [17171480576, 624951296]
    assert [*replay("* nvmlDeviceGetMemoryInfo_v2 = 13").readings(0, *names).values()] == [17171480576, 1077936128]


def test_a_unified_memory_part_tells_no_memory() -> None:
    nvml = replay("* nvmlDeviceGetMemoryInfo_v2 = 3", "* nvmlDeviceGetMemoryInfo = 3")
    assert {*nvml.readings(0, "memory_total_bytes", "memory_used_bytes").values()} == {NOT_SUPPORTED}


def test_power_is_the_instant_reading_where_there_is_one() -> None:
    assert replay("* nvmlDeviceGetFieldValues/186/0 = 0 1 27740").gpu(0).power_watts == 27.74
    assert replay().gpu(0).power_watts == 25.92
    assert replay("* nvmlDeviceGetPowerUsage = 0 0").gpu(0).power_watts == Absent("not reported")


def test_throttle_reasons_are_found_under_their_old_name() -> None:
    nvml = replay("* nvmlDeviceGetCurrentClocksEventReasons = 13", "* nvmlDeviceGetCurrentClocksThrottleReasons = 0 32")
    assert nvml.reading(0, "throttle_bits") == 32


def test_a_lost_gpu_is_not_asked_twice() -> None:
    nvml = replay("0 nvmlDeviceGetCurrentClocksEventReasons = 15")
    assert nvml.reading(0, "throttle_bits") == Absent("GPU is lost")
    assert not [key for _, key, _ in library(nvml).log if "Throttle" in key]


def test_a_name_with_an_escape_sequence_reaches_no_terminal() -> None:
    assert replay('0 nvmlDeviceGetName = 0 "RTX \x1b[31m"').gpu(0).name == Absent("not text")


def test_link_readings_of_zero_are_not_reported() -> None:
    nvml = replay("* nvmlDeviceGetCurrPcieLinkWidth = 0 0", "* nvmlDeviceGetCurrPcieLinkGeneration = 0 0")
    assert nvml.gpu(0).link_width_now_lanes == nvml.gpu(0).link_generation_now == Absent("not reported")


def test_a_bus_id_is_written_as_sysfs_writes_it() -> None:
    assert [gpu.pci_bus_id for gpu in replay().gpus() or ()] == ["0000:01:00.0", "000f:03:00.0"]  # type: ignore[union-attr]


def test_nvlinks_between_two_gpus_are_counted() -> None:
    nvml = replay(
        *(f"* nvmlDeviceGetNvLinkState/{link} = 0 1" for link in range(4)),
        *(f"* nvmlDeviceGetNvLinkRemoteDeviceType/{link} = 0 0" for link in range(4)),
        *(f'0 nvmlDeviceGetNvLinkRemotePciInfo_v2/{link} = 0 "0000000F:03:00.0" 0 0' for link in range(4)),
        *(f'1 nvmlDeviceGetNvLinkRemotePciInfo_v2/{link} = 0 "00000000:01:00.0" 0 0' for link in range(4)),
    )
    assert nvml.nvlinks(2) == {(0, 1): 4, (1, 0): 4}


def test_nvlinks_through_a_switch_are_those_of_the_poorer_side() -> None:
    nvml = replay(
        *(f"0 nvmlDeviceGetNvLinkState/{link} = 0 1" for link in range(18)),
        *(f"1 nvmlDeviceGetNvLinkState/{link} = 0 {int(link != 3)}" for link in range(18)),
        *(f"* nvmlDeviceGetNvLinkRemoteDeviceType/{link} = 0 2" for link in range(18)),
    )
    assert nvml.nvlinks(2) == {(0, 1): 17, (1, 0): 17}


def test_two_drivers_do_not_answer_for_each_other() -> None:
    one, other = replay('0 nvmlDeviceGetName = 0 "one"'), replay('0 nvmlDeviceGetName = 0 "other"')
    assert one.gpu(0).name == "one"
    assert other.gpu(0).name == "other"
    assert one.gpu(0).name == "one"


def test_no_setter_is_ever_called() -> None:
    nvml = replay()
    nvml.gpus()
    nvml.nvlinks(2)
    assert library(nvml).log
    assert not [key for _, key, _ in library(nvml).log if "Set" in key]


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "0 nvmlDeviceGetName 0",
        "0 nvmlDeviceGetName =",
        "0 rm -rf = 0",
        '0 nvmlDeviceGetName = "no code"',
        "=",
    ],
)
def test_a_line_that_is_no_recorded_call_is_told_by_number(line: str) -> None:
    with pytest.raises(RigbenchError, match="line 2 is not a recorded call"):
        parse_recording(f"# fakenvml 1\n{line}\n")


def test_a_recording_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "nvml.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nvml.txt", tmp_path / "missing.txt", tmp_path):
        with pytest.raises(RigbenchError, match="cannot be read"):
            Nvml.replay(path)


def test_text_with_the_formats_own_signs_is_kept() -> None:
    recording = parse_recording('0 nvmlDeviceGetName = 0 "A ; B = C"')
    assert recording["0", "nvmlDeviceGetName"][0].values == ("A ; B = C",)


def test_the_reason_of_a_call_that_the_driver_knows_is_told() -> None:
    nvml = replay("* nvmlDeviceGetCurrentClocksEventReasons = 13", "* nvmlDeviceGetCurrentClocksThrottleReasons = 3")
    assert nvml.reading(0, "throttle_bits") == NOT_SUPPORTED
    nvml = replay("* nvmlDeviceGetCurrentClocksEventReasons = 26", "* nvmlDeviceGetCurrentClocksThrottleReasons = 13")
    assert nvml.reading(0, "throttle_bits") == Absent("deprecated in this driver")
