"""The table of what a GPU can tell: for each reading the calls that give it, the best first, and their unit.

A call is named as a recording names it, with its arguments. A renamed one stands beside its older name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.driver_child import NOT_AVAILABLE, NOT_IN_PYNVML, NOT_TEXT
from rigbench.machine.pci import parse_link_width
from rigbench.machine.sysfs import decode_text

if TYPE_CHECKING:
    from rigbench.machine.nvml import Nvml

# nvml.h, nvmlReturn_t. Numbers newer than this table are told as they are.
REASONS = {
    NOT_IN_PYNVML: "function not found in this pynvml",
    NOT_TEXT: "not text",
    1: "driver library not initialised",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    7: "answer too long",
    8: "external power cable not attached",
    9: "driver not loaded",
    10: "driver timed out",
    11: "interrupt problem",
    12: "driver library not found",
    13: "function not found in this driver",
    14: "corrupted infoROM",
    15: "GPU is lost",
    16: "GPU needs a reset",
    17: "blocked by the operating system",
    18: "driver and library versions differ",
    19: "in use",
    20: "driver out of memory",
    21: "no data",
    22: "not supported with vGPU ECC",
    23: "insufficient resources",
    24: "frequency not supported",
    25: "structure version not known to this driver",
    26: "deprecated in this driver",
    27: "not ready",
    28: "GPU not found",
    29: "invalid state",
    30: "reset type not supported",
    999: "unknown driver error",
}
# A renamed or versioned call is worth another try after these; after any other answer it is not.
NOT_KNOWN = {REASONS[code] for code in (13, 25, 26, NOT_IN_PYNVML)}
TRY_THE_OTHER_CALL = {REASONS[2], REASONS[3]} | NOT_KNOWN
LOST = REASONS[15]
NOT_REPORTED = Absent("not reported")
UNSAID = "not in what this recording was"  # how the reason begins of what a paste does not say
NO_FAN = "no fan of its own, the driver tells none"
WRONG_KIND = Absent(REASONS[999])

Value = Any  # float, int, bool, str, tuple or Absent
Values = tuple[int | str, ...]


class Sensor(NamedTuple):
    calls: tuple[str, ...]  # the best first
    unit: Callable[[Any], Value]
    place: int | None = 0  # among the values of an answer; None takes them all
    refused: str = ""  # what it means where the driver refuses it

    def of(self, values: Values) -> Value:
        """From an answer's values, which may be damaged in a recording."""
        try:
            value = self.unit(values if self.place is None else values[self.place])
        except (AttributeError, IndexError, TypeError, ValueError):
            return WRONG_KIND
        return Absent("not a number") if isinstance(value, float) and not math.isfinite(value) else value


def _sensor(unit: Callable[[Any], Value], *calls: str, place: int | None = 0) -> Sensor:
    return Sensor(tuple(f"nvmlDeviceGet{call}" for call in calls), unit, place)


def _text(answer: str) -> str | Absent:
    return decode_text(answer.encode(errors="replace")) or Absent("empty answer")


def _bus_id(answer: str) -> str | Absent:
    """`0000:01:00.0`, as sysfs writes it; NVML writes an eight-digit domain."""
    match = re.fullmatch(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.[0-7])?", answer)
    return f"{int(match[1], 16):04x}:{match[2]}:{match[3]}.0".lower() if match else WRONG_KIND


def _processes(answer: tuple[int, ...]) -> tuple[tuple[int, int | Absent], ...]:
    """Of each its id and its memory."""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return tuple((int(pid), NOT_REPORTED if used == NOT_AVAILABLE else int(used)) for pid, used in pairs)


def _samples(answer: tuple[int, ...]) -> tuple[tuple[int, int, float], ...]:
    """Of each sample of a process its id, its moment in microseconds, and its share of the multiprocessors' time."""
    fields = zip(*(answer[place::6] for place in range(3)), strict=True)  # nvml.h, nvmlProcessUtilizationSample_t
    return tuple((int(pid), int(at), busy / 100) for pid, at, busy in fields)


def _switch(answer: int) -> bool:
    """nvmlEnableState_t: 0 is off."""
    return bool(int(answer))


def _over(divisor: int) -> Callable[[Any], float]:
    return lambda answer: float(answer / divisor)


def _positive(unit: Callable[[Any], Value]) -> Callable[[Any], Value]:
    """A reading whose 0 means that there is none: link widths in a virtual machine, the power of a running card."""
    return lambda answer: unit(answer) if answer > 0 else NOT_REPORTED


def _within(low: float, high: float, unit: Callable[[Any], Value] = int) -> Callable[[Any], Value]:
    """A reading that lies between what is possible. Broken cards and drivers say 4294967295, most of all."""
    return lambda it: value if low <= (value := unit(it)) <= high else Absent(f"says {it}, which cannot be")


_limit, _bytes, _count, _bits = _within(0, 1e5, _over(1000)), _within(0, 2**50), _within(0, 2**48), _within(0, 2**31)
_celsius, _hertz = _within(-100, 250, float), _within(0, 1e10, lambda megahertz: megahertz * 1e6)
_watts, _degrees, _generation = _positive(_limit), _positive(_celsius), _positive(_within(1, 9))
_lanes = _positive(lambda lanes: parse_link_width(str(lanes)))
_rate = _within(0, 1e13, lambda kilobytes: kilobytes * 1000.0)
USAGE, AVERAGE, INSTANT = (f"nvmlDeviceGet{call}" for call in ("PowerUsage", "FieldValues/185/0", "FieldValues/186/0"))
COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}

SENSORS = {
    # What moves while a GPU works; the names are those of the columns of SensorSeries. nvmlDeviceGetPowerUsage is an
    # average over a second since Ampere, and the power now on GA100 and before (nvml.h): see OLDER_POWER.
    "energy_joules": _sensor(_within(0, 1e13, _over(1000)), "TotalEnergyConsumption"),
    "power_watts": Sensor((USAGE, AVERAGE, INSTANT), _watts),
    "power_instant_watts": Sensor((INSTANT,), _watts),
    "throttle_bits": _sensor(_bits, "CurrentClocksEventReasons", "CurrentClocksThrottleReasons"),  # since driver 535
    "sm_clock_hertz": _sensor(_hertz, "ClockInfo/1"),
    "memory_clock_hertz": _sensor(_hertz, "ClockInfo/2"),
    "temperature_celsius": _sensor(_celsius, "Temperature/0"),
    "memory_temperature_celsius": _sensor(_degrees, "FieldValues/82/0"),
    # Of the first fan; 0 is a fan at rest. A card without one refuses the first call, and knows no fan 0.
    "fan_share": _sensor(_within(0, 2, _over(100)), "FanSpeed", "FanSpeed_v2/0")._replace(refused=NO_FAN),
    "utilisation_share": _sensor(_within(0, 1, _over(100)), "UtilizationRates"),
    # v2 keeps what the driver reserves out of "used", the last value; unified-memory parts answer neither.
    "memory_used_bytes": _sensor(_bytes, "MemoryInfo_v2", "MemoryInfo", place=-1),
    "memory_free_bytes": _sensor(_bytes, "MemoryInfo_v2", "MemoryInfo", place=-2),
    "pcie_replays": _sensor(_within(0, 2**32 - 2), "PcieReplayCounter"),
    # Facts of a card; the names are those of Gpu.
    "name": _sensor(_text, "Name"),
    "uuid": _sensor(_text, "UUID"),
    "pci_bus_id": _sensor(_bus_id, "PciInfo_v3"),
    "pci_device_id": _sensor(lambda both: f"{both >> 16 & 0xFFFF:04x}", "PciInfo_v3", place=1),
    "memory_total_bytes": _sensor(_positive(_bytes), "MemoryInfo_v2", "MemoryInfo"),
    "compute_capability": _sensor(lambda both: f"{both[0]:d}.{both[1]:d}", "CudaComputeCapability", place=None),
    "bar1_total_bytes": _sensor(_bytes, "BAR1MemoryInfo"),
    "link_generation_now": _sensor(_generation, "CurrPcieLinkGeneration"),
    "link_generation_max": _sensor(_generation, "MaxPcieLinkGeneration"),
    "link_width_now_lanes": _sensor(_lanes, "CurrPcieLinkWidth"),
    "link_width_max_lanes": _sensor(_lanes, "MaxPcieLinkWidth"),
    "performance_state": _sensor(lambda state: state if 0 <= state <= 15 else Absent("unknown"), "PerformanceState"),
    "slowdown_celsius": _sensor(_degrees, "TemperatureThreshold/1"),
    "target_celsius": _sensor(_degrees, "TemperatureThreshold/5"),
    "margin_celsius": _sensor(_celsius, "MarginTemperature"),
    "slowdown_at_margin_celsius": _sensor(_celsius, "FieldValues/194/0"),
    "power_limit_watts": _sensor(_watts, "EnforcedPowerLimit"),
    "power_limit_default_watts": _sensor(_watts, "PowerManagementDefaultLimit"),
    "power_limit_min_watts": _sensor(_limit, "PowerManagementLimitConstraints"),
    "power_limit_max_watts": _sensor(_watts, "PowerManagementLimitConstraints", place=1),
    "persistence": _sensor(_switch, "PersistenceMode"),
    "compute_mode": _sensor(lambda mode: COMPUTE_MODES.get(mode, f"mode {mode}"), "ComputeMode"),
    "display_active": _sensor(_switch, "DisplayActive"),
    "mig_enabled": _sensor(_switch, "MigMode"),
    "ecc_enabled": _sensor(_switch, "EccMode"),
    "ecc_corrected_errors": _sensor(_count, "TotalEccErrors/0/1"),
    "ecc_uncorrected_errors": _sensor(_count, "TotalEccErrors/1/1"),
    "ecc_uncorrected_errors_since_load": _sensor(_count, "TotalEccErrors/1/0"),
    "remapped_rows_corrected": _sensor(_count, "RemappedRows"),
    "remapped_rows_uncorrected": _sensor(_count, "RemappedRows", place=1),
    "row_remap_pending": _sensor(_switch, "RemappedRows", place=2),
    "row_remap_failed": _sensor(_switch, "RemappedRows", place=3),
    "compute_processes": _sensor(_processes, "ComputeRunningProcesses_v3", "ComputeRunningProcesses_v2", place=None),
    "graphics_processes": _sensor(_processes, "GraphicsRunningProcesses_v3", "GraphicsRunningProcesses_v2", place=None),
    "MPS_processes": _sensor(_processes, "MPSComputeRunningProcesses_v3", "MPSComputeRunningProcesses_v2", place=None),
    "process_utilisation": _sensor(_samples, "ProcessUtilization/0", place=None),
    # PCIe traffic as the card sees it, over the 20 ms that the call takes: it has no place among what moves.
    "from_gpu_bytes_per_s": _sensor(_rate, "PcieThroughput/0"),
    "to_gpu_bytes_per_s": _sensor(_rate, "PcieThroughput/1"),
}
POWER_NOW = Sensor((INSTANT, USAGE), _watts)  # where the card tells it, else its running average
OLDER_POWER = {"power_watts": Sensor((AVERAGE, USAGE, INSTANT), _watts), "power_instant_watts": POWER_NOW}
GA100 = (8, 0)


class Reading(NamedTuple):
    """What one device says at one moment. The names are those of the columns of SensorSeries."""

    energy_joules: float | Absent
    power_watts: float | Absent
    power_instant_watts: float | Absent
    throttle_bits: int | Absent
    sm_clock_hertz: float | Absent
    memory_clock_hertz: float | Absent
    temperature_celsius: float | Absent
    memory_temperature_celsius: float | Absent
    fan_share: float | Absent
    utilisation_share: float | Absent
    memory_used_bytes: int | Absent
    pcie_replays: int | Absent


class Answers:
    """What one GPU answers at one moment: each call is made once, and none after one that found the GPU lost."""

    def __init__(self, nvml: Nvml, scope: int | str, calls: Iterable[str]) -> None:
        """`calls` are made at once."""
        self._nvml, self._scope = nvml, scope
        self.lost: Absent | None = None
        calls = tuple(dict.fromkeys(calls))
        self._answers: dict[str, Values | Absent] = {}
        for call, answer in zip(calls, nvml.ask(scope, *calls), strict=True):
            self._note(call, answer)

    def value(self, sensor: Sensor) -> tuple[Value, tuple[str, ...]]:
        """A reading, or why there is none, by the first call that answers; and the calls worth making from now on."""
        refusals: list[Absent] = []
        for call in sensor.calls:
            if call not in self._answers:
                self._note(call, self._nvml.ask(self._scope, call)[0])
            answer = self._answers[call]
            value = answer if isinstance(answer, Absent) else sensor.of(answer)
            if not isinstance(value, Absent):
                return value, (call,)
            refusals.append(value)
            unsaid = value.reason.startswith(UNSAID)
            if value != NOT_REPORTED and value.reason not in TRY_THE_OTHER_CALL and not unsaid:
                return value, sensor.calls
        # A call that the driver knows tells more than one that it does not, and "not supported" tells little.
        why = max(refusals, key=lambda refusal: (refusal.reason not in NOT_KNOWN, refusal.reason != REASONS[3]))
        if sensor.refused and why.reason in (REASONS[2], REASONS[3]):
            why = Absent(sensor.refused)
        return why, sensor.calls if NOT_REPORTED in refusals else ()

    def _note(self, call: str, answer: Values | Absent) -> None:
        self._answers[call] = self.lost or answer
        if isinstance(answer, Absent) and answer.reason == LOST:
            self.lost = self.lost or answer


class GpuSensors:
    """One GPU's sensors, read again and again at the least cost.

    The first reading finds out what the card tells and under which name; later ones ask nothing that it refused, and
    everything else at once. A GPU that is lost is asked nothing more. Nothing is asked before the first `read`.
    """

    def __init__(self, nvml: Nvml, index: int) -> None:
        self._nvml, self._index = nvml, index
        self._sensors: dict[str, Sensor] = {}
        self._settled: set[str] = set()  # sensors of which the call that answers is known
        self._refused: dict[str, Absent] = {}  # those that never will answer, and why
        self._lost: Absent | None = None

    def read(self) -> Reading:
        if not self._sensors and not self._refused:
            capability = self._nvml.reading(self._index, "compute_capability")
            older = isinstance(capability, str) and tuple(map(int, capability.split("."))) <= GA100
            self._sensors = {name: SENSORS[name] for name in Reading._fields} | (OLDER_POWER if older else {})
        values: dict[str, Any] = dict.fromkeys(Reading._fields, self._lost) | self._refused
        if self._lost is None:
            answers = Answers(self._nvml, self._index, (sensor.calls[0] for sensor in self._sensors.values()))
            for name, sensor in list(self._sensors.items()):
                values[name], calls = answers.value(sensor)
                if name in self._settled:
                    continue
                if not calls:
                    self._refused[name] = values[name]
                    del self._sensors[name]
                elif not isinstance(values[name], Absent):
                    self._sensors[name] = sensor._replace(calls=calls, refused="")
                    self._settled.add(name)
            self._lost = answers.lost
        return Reading(**values)
