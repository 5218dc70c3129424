"""What does the NVIDIA driver say? Every answer is a value or the reason there is none; nothing here raises.

`import pynvml` takes longer than all of `rigbench topology` without a GPU, so the library is looked for first.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import nvml_gpu
from rigbench.machine.nvml_answers import bus_id_of, field_value, member, number, over, positive, text
from rigbench.machine.nvml_codes import CURES, NOT_KNOWN, REASONS, TRY_THE_OTHER_CALL
from rigbench.machine.record import Gpu
from rigbench.machine.sysfs import decode_text

LIBRARY = "libnvidia-ml.so.1"
NO_DRIVER = f"no NVIDIA driver found ({LIBRARY}); install it, or replay a capture with --replay DIR"

POWER_INSTANT_FIELD = 186  # milliwatts; nvmlDeviceGetPowerUsage is a 1 s average on most cards since Ampere
MEMORY_INFO_V2 = 0x2000028  # nvml.h, nvmlMemory_v2: sizeof(structure) | 2 << 24
MOST_GPUS = 64  # in one system; a damaged recording may say four billion
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
        from rigbench.machine.replay import ReplayedLibrary, parse_recording

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RigbenchError(f"{path} cannot be read as a recording: {error}", "capture the rig again") from error
        return cls(ReplayedLibrary(parse_recording(text, path.name)))

    def call(self, name: str, *arguments: Any) -> Any | Absent:
        """One pynvml function: what it returns, or why it does not."""
        return self.absent if self.absent is not None else self._call(name, arguments)

    @property
    def library(self) -> Any | Absent:
        """What answers the calls, or why there is nothing that could."""
        return self._library

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
        except getattr(self._pynvml, "NVMLLibraryMismatchError", ()):  # how some calls say "function not found"
            return Absent(REASONS[13])
        except UnicodeDecodeError:
            return Absent("not text")
        if isinstance(answer, str | bytes):  # old pynvml hands over bytes
            return decode_text(answer.encode() if isinstance(answer, str) else answer)
        return answer

    def ask(self, index: int, name: str, *arguments: Any) -> Any | Absent:
        """A call about one GPU."""
        handle = self.handle(index)
        return handle if isinstance(handle, Absent) else self.call(name, handle, *arguments)

    def handle(self, index: int) -> Any | Absent:
        if index not in self._handles:
            handle = self.call("nvmlDeviceGetHandleByIndex", index)
            if isinstance(handle, Absent):
                return handle
            self._handles[index] = handle
        return self._handles[index]

    def field(self, index: int, field_id: int) -> int | float | Absent:
        """One of nvml.h's NVML_FI_DEV_ values, by its number."""
        return self.fields(index, [field_id])[0]

    def fields(self, index: int, field_ids: Sequence[int]) -> tuple[int | float | Absent, ...]:
        """Several of them in one call; each has a return code of its own."""
        answers = self.ask(index, "nvmlDeviceGetFieldValues", list(field_ids))
        if isinstance(answers, Absent):
            return (answers,) * len(field_ids)
        reasons = [REASONS.get(field.nvmlReturn, f"driver error {field.nvmlReturn}") for field in answers]
        return tuple(
            Absent(reason) if field.nvmlReturn else field_value(field)
            for field, reason in zip(answers, reasons, strict=True)
        )

    def driver_version(self) -> str | Absent:
        version = text(self.call("nvmlSystemGetDriverVersion"))
        return version if isinstance(version, Absent) else version.split(" ")[0]  # drivers 600 and up add a remark

    def cuda_driver_version(self) -> str | Absent:
        """The newest CUDA that the driver serves, e.g. "13.2"."""
        version = number(self.call("nvmlSystemGetCudaDriverVersion_v2"))
        return version if isinstance(version, Absent) else f"{version // 1000}.{version % 1000 // 10}"

    def gpu_count(self) -> int | Absent:
        count = number(self.call("nvmlDeviceGetCount"))
        return count if isinstance(count, Absent) or 0 <= count <= MOST_GPUS else Absent(f"says {count} GPUs")

    def gpus(self) -> tuple[Gpu, ...] | Absent:
        """Every GPU in NVML's order. One that is lost keeps its place, with the reason in each field."""
        count = self.gpu_count()
        return count if isinstance(count, Absent) else tuple(self.gpu(index) for index in range(count))

    def gpu(self, index: int) -> Gpu:
        return nvml_gpu.read_gpu(self, index)

    def uuid(self, index: int) -> str | Absent:
        return text(self.ask(index, "nvmlDeviceGetUUID"))

    def name(self, index: int) -> str | Absent:
        return text(self.ask(index, "nvmlDeviceGetName"))

    def memory_bytes(self, index: int) -> tuple[int | Absent, int | Absent]:
        """(total, used). v2 keeps what the driver reserves out of "used"; unified-memory parts answer neither."""
        info = self.first(index, ("nvmlDeviceGetMemoryInfo", MEMORY_INFO_V2), ("nvmlDeviceGetMemoryInfo",))
        return positive(member(info, "total")), number(member(info, "used"))

    def temperature_celsius(self, index: int) -> float | Absent:
        names = "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"
        return over(self.first(index, *((name, GPU_SENSOR) for name in names)), 1)

    def power_watts(self, index: int) -> float | Absent:
        """Power now where the card tells it, else its running average."""
        instant = self.field(index, POWER_INSTANT_FIELD)
        if not isinstance(instant, Absent) and instant > 0:
            return instant / 1000
        return over(positive(self.ask(index, "nvmlDeviceGetPowerUsage")), 1000)

    def utilisation_share(self, index: int) -> float | Absent:
        return over(member(self.ask(index, "nvmlDeviceGetUtilizationRates"), "gpu"), 100)

    def throttle_bits(self, index: int) -> int | Absent:
        """Why clocks are held down, bit by bit (renamed from Throttle to Event in driver 535)."""
        return number(
            self.first(
                index, ("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",)
            )
        )

    def common_ancestor(self, index: int, other: int) -> str | Absent:
        """What the driver says lies between two GPUs, in the vendor tool's label."""
        handle = self.handle(other)
        level = handle if isinstance(handle, Absent) else self.ask(index, "nvmlDeviceGetTopologyCommonAncestor", handle)
        return level if isinstance(level, Absent) else ANCESTORS.get(level, Absent(f"unknown level {level}"))

    def p2p_code(self, index: int, other: int, capability: int) -> int | Absent:
        """nvmlGpuP2PStatus_t for 0 read, 1 write, 2 NVLink, 3 atomics, 4 PCIe: 0 is OK.

        The numbers are passed as they are: pynvml's NVML_P2P_CAPS_INDEX_READ is a tuple by a stray comma.
        """
        handle = self.handle(other)
        answer = handle if isinstance(handle, Absent) else self.ask(index, "nvmlDeviceGetP2PStatus", handle, capability)
        return number(answer)

    def nvlinks(self, count: int) -> dict[tuple[int, int], int]:
        """Active NVLinks between pairs of GPUs, both ways round; through switches, the fewer of the two sides."""
        by_bus_id = {bus_id: index for index in range(count) if isinstance(bus_id := self.pci_ids(index)[0], str)}
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
            state = self.ask(index, "nvmlDeviceGetNvLinkState", link)
            if isinstance(state, Absent) and link == 0:
                return  # a card without NVLink says so at once
            if state != 1:
                continue
            if self.ask(index, "nvmlDeviceGetNvLinkRemoteDeviceType", link) == NVLINK_REMOTE_IS_SWITCH:
                yield "switch"
                continue
            yield str(bus_id_of(self.ask(index, "nvmlDeviceGetNvLinkRemotePciInfo", link)))

    def pci_ids(self, index: int) -> tuple[str | Absent, str | Absent]:
        """(bus id as sysfs writes it, device id as four hex digits)."""
        info = self.ask(index, "nvmlDeviceGetPciInfo")
        device = number(member(info, "pciDeviceId"))
        return bus_id_of(info), device if isinstance(device, Absent) else f"{device >> 16 & 0xFFFF:04x}"

    def first(self, index: int, *calls: tuple[Any, ...]) -> Any | Absent:
        """The first of several names or versions of one call that this driver answers.

        Where it answers none, its reason for one that it knows.
        """
        refusals = []
        for name, *arguments in calls:
            answer = self.ask(index, name, *arguments)
            if not isinstance(answer, Absent) or answer.reason not in TRY_THE_OTHER_CALL:
                return answer
            refusals.append(answer)
        return next((refusal for refusal in refusals if refusal.reason not in NOT_KNOWN), refusals[0])
