"""A recording of two GPUs that tests change line by line."""

from __future__ import annotations

from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import ReplayedDriver, parse_recording

TWO_GPUS = """# fakenvml 1
sys nvmlDeviceGetCount_v2 = 0 2
sys nvmlSystemGetDriverVersion = 0 "595.71.05"
sys nvmlSystemGetCudaDriverVersion_v2 = 0 13020
* nvmlDeviceGetName = 0 "NVIDIA GeForce RTX 4080 SUPER"
* nvmlDeviceGetMemoryInfo = 0 17171480576 16093544448 1077936128
* nvmlDeviceGetMemoryInfo_v2 = 0 17171480576 455081984 16093544448 624951296
* nvmlDeviceGetTemperature/0 = 0 43
* nvmlDeviceGetPowerUsage = 0 25920
* nvmlDeviceGetCurrentClocksEventReasons = 0 4
0 nvmlDeviceGetUUID = 0 "GPU-0"
1 nvmlDeviceGetUUID = 0 "GPU-1"
0 nvmlDeviceGetPciInfo_v3 = 0 "00000000:01:00.0" 0x270210DE 0x000010DE
1 nvmlDeviceGetPciInfo_v3 = 0 "0000000F:03:00.0" 0x270210DE 0x000010DE
"""


def replay(*lines: str, base: str = TWO_GPUS) -> Nvml:
    """The two-GPU recording with some of its lines replaced."""
    return Nvml(ReplayedDriver(parse_recording(base + "\n".join(lines))))


def library(nvml: Nvml) -> ReplayedDriver:
    assert isinstance(nvml.driver, ReplayedDriver)
    return nvml.driver
