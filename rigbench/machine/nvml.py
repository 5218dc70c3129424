"""Reads GPUs through the NVIDIA driver. Every answer is a value or the reason why there is none; nothing raises."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular
from rigbench.core.record import Absent
from rigbench.machine.driver import Driver, DriverProcess, is_installed
from rigbench.machine.driver_child import HANDLE, INIT, LIBRARY, NO_LIBRARY, NOT_AVAILABLE
from rigbench.machine.readings import POWER_NOW, REASONS, SENSORS, Answers, Sensor, Values
from rigbench.machine.record import Gpu, GpuProcess, MigDevice

NO_DRIVER = f"no NVIDIA driver found ({LIBRARY}); install it, or replay a capture with --replay DIR"
CURES = {
    4: "no permission to open the NVIDIA driver; check /dev/nvidiactl, or the container's device access",
    9: "the NVIDIA driver's kernel module is not loaded; load it (modprobe nvidia) or reinstall the driver",
    NO_LIBRARY: NO_DRIVER,
    13: "the NVIDIA driver is too old for this pynvml; update the driver",
    17: "the operating system blocks the GPU; under WSL2 run wsl --update, then wsl --shutdown; else check the sandbox",
    18: "the NVIDIA driver and its library differ in version; restart after the update",
}
MOST_GPUS, MOST_MIG_DEVICES, MOST_NVLINKS = 64, 16, 18  # a damaged recording may say four billion
NVLINK_REMOTE_IS_SWITCH = 2
ANCESTORS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
PROCESS_KINDS = ("compute", "graphics", "MPS")
ECC_COUNTS = ("ecc_corrected_errors", "ecc_uncorrected_errors", "ecc_uncorrected_errors_since_load")
WORKING_STATE = 2  # GeForce cards compute in P2, others in P0
AWAKE_READINGS = 3  # a link that was asleep may take a reading or two to show that it woke
FIELDS = "nvmlDeviceGetFieldValues"


class Nvml:
    """The driver, live or recorded, or why there is none: then every answer is that reason.

    Nothing is asked before the first answer is wanted.
    """

    def __init__(self, driver: Driver | Absent) -> None:
        self.driver = driver
        self._initialised = False
        self._refusal: Absent | None = None
        self._opened: set[int] = set()

    @classmethod
    def live(cls) -> Nvml:
        return cls(DriverProcess() if is_installed() else Absent(NO_DRIVER))

    @classmethod
    def replay(cls, path: Path, unsaid: Absent | None = None) -> Nvml:
        """The driver as `nvml.txt` recorded it; `unsaid` answers for every call that was not recorded.

        Raises:
            RigbenchError: the file cannot be read, or is not a recording.
        """
        from rigbench.machine.replay import ReplayedDriver, parse_recording

        try:
            text = read_regular(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise RigbenchError(f"{path} cannot be read as a recording: {error}", "capture the rig again") from error
        return cls(ReplayedDriver(parse_recording(text, path.name), unsaid))

    @property
    def trouble(self) -> Absent | None:
        """Why the driver, which is there, answers no more: a call hung or crashed."""
        return None if isinstance(self.driver, Absent) else self.driver.trouble

    @property
    def trouble_line(self) -> str:
        return f"{self.trouble.reason if self.trouble else ''}; see dmesg, or restart; no GPU was read from then on"

    @property
    def absent(self) -> Absent | None:
        """Why there is no driver to ask; looks for one at first."""
        if isinstance(self.driver, Absent):
            return self.driver
        if not self._initialised:
            [answer] = self.driver.ask("sys", INIT)
            self._initialised = True
            if isinstance(answer, Absent):
                self._refusal = answer
            elif answer[0]:
                reason = REASONS.get(answer[0], f"driver error {answer[0]}")
                cure = f"the NVIDIA driver did not start ({reason}); see dmesg, or restart"
                self._refusal = Absent(CURES.get(answer[0], cure))
        return self._refusal or self.driver.trouble

    def ask(self, scope: int | str, *calls: str) -> list[Values | Absent]:
        """Of each call its values, or why it has none. `scope` is a GPU's index, "sys", or a part's number as text."""
        absent = self._open(scope)
        return [absent] * len(calls) if absent else self._ask(str(scope), *calls)

    def _open(self, scope: int | str) -> Absent | None:
        absent = self.absent
        if absent is None and isinstance(scope, int) and scope not in self._opened:
            [handle] = self._ask(str(scope), HANDLE)
            if isinstance(handle, Absent):
                return handle
            self._opened.add(scope)
        return absent

    def _ask(self, scope: str, *calls: str) -> list[Values | Absent]:
        assert not isinstance(self.driver, Absent)
        answers: list[Values | Absent] = []
        for call, answer in zip(calls, self.driver.ask(scope, *calls), strict=True):
            if isinstance(answer, Absent):
                answers.append(answer)
                continue
            code, values = answer
            if code:
                answers.append(Absent(REASONS.get(code, f"driver error {code}")))
            else:
                answers.append(_field(values) if call.startswith(FIELDS) else values)
        return answers

    def number(self, scope: int | str, call: str) -> int | Absent:
        """The first value of a call."""
        [values] = self.ask(scope, call)
        number: int | Absent = values if isinstance(values, Absent) else Sensor((call,), int).of(values)
        return number

    def reading(self, scope: int | str, name: str) -> Any | Absent:
        """One of SENSORS, in SI units."""
        return self.readings(scope, name)[name]

    def readings(self, scope: int | str, *names: str) -> dict[str, Any]:
        answers = Answers(self, scope, (SENSORS[name].calls[0] for name in names))
        return {name: answers.value(SENSORS[name])[0] for name in names}

    def driver_version(self) -> str | Absent:
        [values] = self.ask("sys", "nvmlSystemGetDriverVersion")
        version = values if isinstance(values, Absent) else SENSORS["name"].of(values)
        return version if isinstance(version, Absent) else str(version).split(" ")[0]  # drivers 600 and up add a remark

    def cuda_driver_version(self) -> str | Absent:
        """The newest CUDA that the driver serves, e.g. "13.2"."""
        version = self.number("sys", "nvmlSystemGetCudaDriverVersion_v2")
        return version if isinstance(version, Absent) else f"{version // 1000}.{version % 1000 // 10}"

    def gpu_count(self) -> int | Absent:
        count = self.number("sys", "nvmlDeviceGetCount_v2")
        return count if isinstance(count, Absent) or 0 <= count <= MOST_GPUS else Absent(f"says {count} GPUs")

    def gpus(self) -> tuple[Gpu, ...] | Absent:
        """Every GPU in NVML's order. One that is lost keeps its place, with the reason in each field."""
        count = self.gpu_count()
        return count if isinstance(count, Absent) else tuple(self.gpu(index) for index in range(count))

    def gpu(self, index: int) -> Gpu:
        """A card that does not tell a fact gives its reason in that field and no other."""
        sensors = {name: SENSORS[name] for name in Gpu.__struct_fields__ if name in SENSORS}
        sensors["power_watts"] = POWER_NOW
        counts = {name: sensors.pop(name) for name in ECC_COUNTS}
        answers = Answers(self, index, (sensor.calls[0] for sensor in sensors.values()))
        facts = {name: answers.value(sensor)[0] for name, sensor in sensors.items()}
        ecc = facts["ecc_enabled"]  # cards without ECC memory are not asked for its counts
        for name, sensor in counts.items():
            facts[name] = answers.value(sensor)[0] if ecc is True else ecc or Absent("ECC is off")
        window, memory = facts["bar1_total_bytes"], facts["memory_total_bytes"]
        missing = next((size for size in (window, memory) if isinstance(size, Absent)), None)
        return Gpu(
            index=index,
            profile=Absent("not looked up"),
            numa_node=Absent("not in the PCI tree"),
            cpu_affinity=Absent("not in the PCI tree"),
            link_generation_awake=Absent("not read under load"),
            bar1_covers_memory=missing or window >= memory,
            processes=self.processes(index),
            mig_devices=self._mig_devices(index) if facts["mig_enabled"] is True else (),
            **facts,
        )

    def processes(self, index: int) -> tuple[GpuProcess, ...] | Absent:
        """Every process that the driver lists once, by its first kind; the reason where it lists none of any kind."""
        found: dict[int, GpuProcess] = {}
        listed = self.readings(index, *(f"{kind}_processes" for kind in PROCESS_KINDS))
        for kind, processes in zip(PROCESS_KINDS, listed.values(), strict=True):
            for pid, used in () if isinstance(processes, Absent) else processes:
                found.setdefault(pid, GpuProcess(pid, kind, Absent("not looked up"), used))
        silent = listed["compute_processes"]
        return silent if isinstance(silent, Absent) and not found else tuple(found.values())

    def _mig_devices(self, index: int) -> tuple[MigDevice, ...] | Absent:
        count = self.number(index, "nvmlDeviceGetMaxMigDeviceCount")
        if isinstance(count, Absent):
            return count
        devices = []
        for place in range(min(count, MOST_MIG_DEVICES)):
            part = self.number(index, f"nvmlDeviceGetMigDeviceHandleByIndex/{place}")
            if not isinstance(part, Absent):  # places that hold no device answer "not found"
                memory = self.number(str(part), "nvmlDeviceGetMemoryInfo")
                facts = self.readings(str(part), "uuid", "name")
                devices.append(MigDevice(index=place, **facts, memory_total_bytes=memory))
        return tuple(devices)

    def generation_awake(self, index: int) -> int | Absent:
        """The best link generation of a few readings, of a driver that is asked while its cards work."""
        generations: list[int] = []
        for _ in range(AWAKE_READINGS):
            generation = self.reading(index, "link_generation_now")
            if isinstance(generation, Absent):
                return generation
            generations.append(generation)
        state = self.reading(index, "performance_state")
        if not isinstance(state, Absent) and state > WORKING_STATE:
            return Absent(f"the load left it in P{state}")
        return max(generations)

    def common_ancestor(self, index: int, other: int) -> str | Absent:
        """What the driver says lies between two GPUs, in the vendor tool's label."""
        level = self._open(other) or self.number(index, f"nvmlDeviceGetTopologyCommonAncestor/{other}")
        return level if isinstance(level, Absent) else ANCESTORS.get(level, Absent(f"unknown level {level}"))

    def p2p_code(self, index: int, other: int, capability: int) -> int | Absent:
        """nvmlGpuP2PStatus_t for 0 read, 1 write, 2 NVLink, 3 atomics: 0 is OK."""
        return self._open(other) or self.number(index, f"nvmlDeviceGetP2PStatus/{other}/{capability}")

    def nvlinks(self, count: int) -> dict[tuple[int, int], int]:
        """Active NVLinks between pairs of GPUs, both ways round; through switches, the fewer of the two sides."""
        by_bus_id = {self.reading(index, "pci_bus_id"): index for index in range(count)}
        links: Counter[tuple[int, int]] = Counter()
        to_switch: Counter[int] = Counter()
        for index in range(count):
            for remote in self._active_links(index):
                if remote == "switch":
                    to_switch[index] += 1
                elif isinstance(remote, str) and remote in by_bus_id:
                    links[index, by_bus_id[remote]] += 1
        for one, other in itertools.permutations(to_switch, 2):
            links[one, other] = min(to_switch[one], to_switch[other])
        return dict(links)

    def _active_links(self, index: int) -> Iterator[str]:
        """For each active NVLink: "switch", or the bus id of the GPU at its other end."""
        for link in range(MOST_NVLINKS):
            state = self.number(index, f"nvmlDeviceGetNvLinkState/{link}")
            if isinstance(state, Absent) and link == 0:
                return  # a card without NVLink says so at once
            if state != 1:
                continue
            if self.number(index, f"nvmlDeviceGetNvLinkRemoteDeviceType/{link}") == NVLINK_REMOTE_IS_SWITCH:
                yield "switch"
                continue
            [remote] = self.ask(index, f"nvmlDeviceGetNvLinkRemotePciInfo_v2/{link}")
            if not isinstance(remote, Absent):
                yield SENSORS["pci_bus_id"].of(remote)


def _field(values: Values) -> Values:
    """A field's number by its nvmlValueType_t, which a recording holds as 64 bits of any sign."""
    kind, value = values if len(values) == 2 else ("", "")
    if not isinstance(kind, int) or not isinstance(value, int):
        return ()
    formats = {0: "<d", 1: "<I", 4: "<q", 5: "<i", 6: "<H"}
    return struct.unpack_from(formats.get(kind, "<Q"), (value & NOT_AVAILABLE).to_bytes(8, "little"))
