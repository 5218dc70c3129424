"""What does the NVIDIA driver say? Every answer is a value or the reason there is none; nothing here raises.

`import pynvml` takes longer than all of `rigbench topology` without a GPU, so the library is looked for first.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rigbench.errors import RigbenchError
from rigbench.hardware.nvml_codes import CURES, REASONS, TRY_THE_OTHER_CALL
from rigbench.hardware.sysfs import decode_text
from rigbench.records import Absent, Gpu

LIBRARY = "libnvidia-ml.so.1"
NO_DRIVER = f"no NVIDIA driver found ({LIBRARY}); install it, or replay a capture with --replay DIR"

POWER_INSTANT_FIELD = 186  # milliwatts; nvmlDeviceGetPowerUsage is a 1 s average on most cards since Ampere
MEMORY_INFO_V2 = 0x2000028  # nvml.h, nvmlMemory_v2: sizeof(structure) | 2 << 24
SM_CLOCK = 1
GPU_SENSOR = 0
NVLINK_REMOTE_IS_SWITCH = 2
ANCESTORS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}


class Nvml:
    """The driver, live or recorded. `absent` says why there is none; then every call answers so too."""

    def __init__(self, library: Any | Absent) -> None:
        self.absent: Absent | None = library if isinstance(library, Absent) else None
        self._library = library
        self._handles: dict[int, Any] = {}
        if self.absent is None:
            import pynvml

            self._pynvml: Any = pynvml
            self.absent = self._initialise()

    @classmethod
    def live(cls) -> Nvml:
        try:
            return cls(ctypes.CDLL(LIBRARY))
        except OSError:
            return cls(Absent(NO_DRIVER))

    @classmethod
    def replay(cls, path: Path) -> Nvml:
        """The driver as `nvml.txt` recorded it.

        Raises:
            RigbenchError: the file cannot be read, or is not a recording.
        """
        from rigbench.hardware.nvml_replay import ReplayedLibrary, parse_recording

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RigbenchError(f"{path} cannot be read as a recording: {error}", "capture the rig again") from error
        return cls(ReplayedLibrary(parse_recording(text, path.name)))

    def call(self, name: str, *arguments: Any) -> Any | Absent:
        """One pynvml function: what it returns, or why it does not."""
        return self.absent if self.absent is not None else self._call(name, arguments)

    def _initialise(self) -> Absent | None:
        answer = self._call("nvmlInit", ())
        if not isinstance(answer, Absent):
            return None
        cure = next((CURES[code] for code in CURES if REASONS[code] == answer.reason), None)
        return Absent(cure or f"the NVIDIA driver did not start ({answer.reason}); see dmesg, or restart")

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any | Absent:
        if self._pynvml.nvmlLib is not self._library:  # pynvml holds one library for the process: make it ours
            self._pynvml.nvmlLib = self._library
            self._pynvml._nvmlGetFunctionPointer_cache.clear()
        function = getattr(self._pynvml, name, None)
        if function is None:
            return Absent("function not found in this pynvml")
        try:
            answer = function(*arguments)
        except self._pynvml.NVMLError as error:
            return Absent(REASONS.get(error.value, f"driver error {error.value}"))
        except UnicodeDecodeError:
            return Absent("not text")
        if isinstance(answer, str | bytes):  # old pynvml hands over bytes
            return decode_text(answer.encode() if isinstance(answer, str) else answer)
        return answer

    def _ask(self, index: int, name: str, *arguments: Any) -> Any | Absent:
        """A call about one GPU."""
        handle = self._handle(index)
        return handle if isinstance(handle, Absent) else self.call(name, handle, *arguments)

    def _handle(self, index: int) -> Any | Absent:
        if index not in self._handles:
            handle = self.call("nvmlDeviceGetHandleByIndex", index)
            if isinstance(handle, Absent):
                return handle
            self._handles[index] = handle
        return self._handles[index]

    def driver_version(self) -> str | Absent:
        version = _text(self.call("nvmlSystemGetDriverVersion"))
        return version if isinstance(version, Absent) else version.split(" ")[0]  # drivers 600 and up add a remark

    def cuda_driver_version(self) -> str | Absent:
        """The newest CUDA that the driver serves, e.g. "13.2"."""
        number = _number(self.call("nvmlSystemGetCudaDriverVersion_v2"))
        return number if isinstance(number, Absent) else f"{number // 1000}.{number % 1000 // 10}"

    def gpu_count(self) -> int | Absent:
        return _number(self.call("nvmlDeviceGetCount"))

    def gpus(self) -> tuple[Gpu, ...] | Absent:
        """Every GPU in NVML's order. One that is lost keeps its place, with the reason in each field."""
        count = self.gpu_count()
        return count if isinstance(count, Absent) else tuple(self.gpu(index) for index in range(count))

    def gpu(self, index: int) -> Gpu:
        bus_id, device_id = self._pci(index)
        total, used = self.memory_bytes(index)
        return Gpu(
            index=index,
            name=_text(self._ask(index, "nvmlDeviceGetName")),
            uuid=self.uuid(index),
            pci_bus_id=bus_id,
            pci_device_id=device_id,
            profile=Absent("not looked up"),
            compute_capability=self._compute_capability(index),
            memory_total_bytes=total,
            memory_used_bytes=used,
            bar1_total_bytes=_number(_field(self._ask(index, "nvmlDeviceGetBAR1MemoryInfo"), "bar1Total")),
            temperature_celsius=self.temperature_celsius(index),
            power_watts=self.power_watts(index),
            power_limit_watts=_over(self._ask(index, "nvmlDeviceGetEnforcedPowerLimit"), 1000),
            power_limit_default_watts=_over(self._ask(index, "nvmlDeviceGetPowerManagementDefaultLimit"), 1000),
            link_generation_now=_positive(self._ask(index, "nvmlDeviceGetCurrPcieLinkGeneration")),
            link_generation_max=_positive(self._ask(index, "nvmlDeviceGetMaxPcieLinkGeneration")),
            link_width_now_lanes=_positive(self._ask(index, "nvmlDeviceGetCurrPcieLinkWidth")),
            link_width_max_lanes=_positive(self._ask(index, "nvmlDeviceGetMaxPcieLinkWidth")),
            performance_state=_performance_state(self._ask(index, "nvmlDeviceGetPerformanceState")),
            numa_node=Absent("not in the PCI tree"),
        )

    def uuid(self, index: int) -> str | Absent:
        return _text(self._ask(index, "nvmlDeviceGetUUID"))

    def memory_bytes(self, index: int) -> tuple[int | Absent, int | Absent]:
        """(total, used). v2 keeps what the driver reserves out of "used"; unified-memory parts answer neither."""
        info = self._first(index, ("nvmlDeviceGetMemoryInfo", MEMORY_INFO_V2), ("nvmlDeviceGetMemoryInfo",))
        return _positive(_field(info, "total")), _number(_field(info, "used"))

    def temperature_celsius(self, index: int) -> float | Absent:
        names = "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"
        return _over(self._first(index, *((name, GPU_SENSOR) for name in names)), 1)

    def power_watts(self, index: int) -> float | Absent:
        """Power now where the card tells it, else its running average."""
        fields = self._ask(index, "nvmlDeviceGetFieldValues", [POWER_INSTANT_FIELD])
        if not isinstance(fields, Absent) and fields[0].nvmlReturn == 0 and fields[0].value.uiVal:
            return float(fields[0].value.uiVal) / 1000
        return _over(_positive(self._ask(index, "nvmlDeviceGetPowerUsage")), 1000)

    def energy_joules(self, index: int) -> float | Absent:
        """The card's own counter since the driver was loaded."""
        return _over(self._ask(index, "nvmlDeviceGetTotalEnergyConsumption"), 1000)

    def sm_clock_hertz(self, index: int) -> float | Absent:
        megahertz = _number(self._ask(index, "nvmlDeviceGetClockInfo", SM_CLOCK))
        return megahertz if isinstance(megahertz, Absent) else megahertz * 1e6

    def utilisation_share(self, index: int) -> float | Absent:
        return _over(_field(self._ask(index, "nvmlDeviceGetUtilizationRates"), "gpu"), 100)

    def throttle_bits(self, index: int) -> int | Absent:
        """Why clocks are held down, bit by bit (renamed from Throttle to Event in driver 535)."""
        return _number(
            self._first(
                index, ("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",)
            )
        )

    def common_ancestor(self, index: int, other: int) -> str | Absent:
        """What the driver says lies between two GPUs, in the vendor tool's label."""
        handle = self._handle(other)
        level = (
            handle if isinstance(handle, Absent) else self._ask(index, "nvmlDeviceGetTopologyCommonAncestor", handle)
        )
        return level if isinstance(level, Absent) else ANCESTORS.get(level, Absent(f"unknown level {level}"))

    def nvlinks(self, count: int) -> dict[tuple[int, int], int]:
        """Active NVLinks between pairs of GPUs, both ways round; through switches, the fewer of the two sides."""
        by_bus_id = {bus_id: index for index in range(count) if isinstance(bus_id := self._pci(index)[0], str)}
        links: dict[tuple[int, int], int] = {}
        to_switch: dict[int, int] = {}
        for index in range(count):
            for remote in self._active_links(index):
                if remote == "switch":
                    to_switch[index] = to_switch.get(index, 0) + 1
                elif remote in by_bus_id:
                    pair = index, by_bus_id[remote]
                    links[pair] = links.get(pair, 0) + 1
        for pair in itertools.permutations(to_switch, 2):
            links[pair] = min(to_switch[pair[0]], to_switch[pair[1]])
        return links

    def _active_links(self, index: int) -> Iterator[str]:
        """For each active NVLink: "switch", or the bus id of the GPU at its other end."""
        for link in range(int(getattr(self._pynvml, "NVML_NVLINK_MAX_LINKS", 18)) if self.absent is None else 0):
            state = self._ask(index, "nvmlDeviceGetNvLinkState", link)
            if isinstance(state, Absent) and link == 0:
                return  # a card without NVLink says so at once
            if state != 1:
                continue
            if self._ask(index, "nvmlDeviceGetNvLinkRemoteDeviceType", link) == NVLINK_REMOTE_IS_SWITCH:
                yield "switch"
                continue
            yield str(_bus_id(self._ask(index, "nvmlDeviceGetNvLinkRemotePciInfo", link)))

    def _pci(self, index: int) -> tuple[str | Absent, str | Absent]:
        """(bus id as sysfs writes it, device id as four hex digits)."""
        info = self._ask(index, "nvmlDeviceGetPciInfo")
        device = _number(_field(info, "pciDeviceId"))
        return _bus_id(info), device if isinstance(device, Absent) else f"{device >> 16 & 0xFFFF:04x}"

    def _compute_capability(self, index: int) -> str | Absent:
        answer = self._ask(index, "nvmlDeviceGetCudaComputeCapability")
        return answer if isinstance(answer, Absent) else f"{answer[0]}.{answer[1]}"

    def _first(self, index: int, *calls: tuple[Any, ...]) -> Any | Absent:
        """The first of several names or versions of one call that this driver answers."""
        answer: Any = Absent("not supported")
        for name, *arguments in calls:
            answer = self._ask(index, name, *arguments)
            if not isinstance(answer, Absent) or answer.reason not in TRY_THE_OTHER_CALL:
                return answer
        return answer


def _text(answer: Any) -> str | Absent:
    return answer if isinstance(answer, Absent) else (str(answer) or Absent("empty answer"))


def _number(answer: Any) -> int | Absent:
    return answer if isinstance(answer, Absent) else int(answer)


def _over(answer: Any, divisor: int) -> float | Absent:
    return answer if isinstance(answer, Absent) else answer / divisor


def _positive(answer: Any) -> int | Absent:
    """A reading whose 0 means that there is none: link widths in a virtual machine, the power of a running card."""
    return answer if isinstance(answer, Absent) else (int(answer) or Absent("not reported"))


def _performance_state(answer: Any) -> int | Absent:
    return answer if isinstance(answer, Absent) else (int(answer) if 0 <= answer <= 15 else Absent("unknown"))


def _field(answer: Any, name: str) -> Any | Absent:
    return answer if isinstance(answer, Absent) else getattr(answer, name)


def _bus_id(info: Any) -> str | Absent:
    """`0000:01:00.0`, as sysfs writes it, from NVML's numbers; its text has an eight-digit domain."""
    if isinstance(info, Absent):
        return info
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"
