"""What does one GPU say right now, asked again and again at the least cost?

The first reading finds out what the card tells and under which name; later ones ask nothing that it refused. A GPU that
is lost is asked nothing more. nvmlDeviceGetPcieThroughput has no place here: it takes 20 ms to answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.nvml import GPU_SENSOR, MEMORY_INFO_V2, POWER_INSTANT_FIELD, SM_CLOCK, Nvml
from rigbench.machine.nvml_codes import NOT_KNOWN, REASONS, TRY_THE_OTHER_CALL
from rigbench.machine.nvml_gpu import MEMORY_TEMPERATURE_FIELD

POWER_AVERAGE_FIELD = 185  # nvml.h, NVML_FI_DEV_POWER_AVERAGE: milliwatts over the last second
MEMORY_CLOCK = 2
GA100 = (8, 0)
NOT_REPORTED = Absent("not reported")
LOST = REASONS[15]

Value = float | int | Absent
Source = int | tuple[Any, ...]  # one of nvml.h's NVML_FI_DEV_ fields, or a call and its arguments
Answers = dict[Source, Any]

POWER: Source = ("nvmlDeviceGetPowerUsage",)


class Reading(NamedTuple):
    """One device at one tick. The names are those of the columns of SensorSeries."""

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


class Sensor(NamedTuple):
    sources: tuple[Source, ...]  # the best first
    convert: Callable[[Any], Value]


class GpuSensors:
    """One GPU's sensors. Nothing is asked before the first `read`."""

    def __init__(self, nvml: Nvml, index: int) -> None:
        self._nvml = nvml
        self._index = index
        self._lost: Absent | None = None
        self._sensors: dict[str, Sensor] = {}
        self._settled: dict[str, Source | Absent] = {}  # the source that answers, or why none ever will

    def read(self) -> Reading:
        if not self._sensors:
            self._sensors = sensors_of(self._nvml.ask(self._index, "nvmlDeviceGetCudaComputeCapability"))
        answers = self._fields()
        values: dict[str, Any] = {name: self._value(name, answers) for name in Reading._fields}
        return Reading(**values)

    def _fields(self) -> Answers:
        """All fields that are still of interest, in one call."""
        ids = sorted(
            {source for name in self._sensors for source in self._of_interest(name) if isinstance(source, int)}
        )
        if not ids:
            return {}
        found = (self._lost,) * len(ids) if self._lost else self._nvml.fields(self._index, ids)
        return {source: self._noted(answer) for source, answer in zip(ids, found, strict=True)}

    def _of_interest(self, name: str) -> tuple[Source, ...]:
        settled = self._settled.get(name)
        if settled is None:
            return self._sensors[name].sources
        return () if isinstance(settled, Absent) else (settled,)

    def _value(self, name: str, answers: Answers) -> Value:
        settled, sensor = self._settled.get(name), self._sensors[name]
        if settled is None:
            return self._settle(name, sensor, answers)
        return settled if isinstance(settled, Absent) else self._ask(sensor, settled, answers)

    def _settle(self, name: str, sensor: Sensor, answers: Answers) -> Value:
        """The first source that answers is kept; where all say that they never will, so is that."""
        refusals: list[Absent] = []
        for source in sensor.sources:
            value = self._ask(sensor, source, answers)
            if not isinstance(value, Absent):
                self._settled[name] = source
                return value
            refusals.append(value)
            if value != NOT_REPORTED and value.reason not in TRY_THE_OTHER_CALL:
                return value
        why = next((refusal for refusal in refusals if refusal.reason not in NOT_KNOWN), refusals[0])
        if NOT_REPORTED not in refusals:
            self._settled[name] = why
        return why

    def _ask(self, sensor: Sensor, source: Source, answers: Answers) -> Value:
        if source not in answers and isinstance(source, tuple):
            answers[source] = self._lost or self._noted(self._nvml.ask(self._index, *source))
        answer = answers[source]
        return answer if isinstance(answer, Absent) else sensor.convert(answer)

    def _noted(self, answer: Any) -> Any:
        if isinstance(answer, Absent) and answer.reason == LOST:
            self._lost = answer
        return answer


def sensors_of(compute_capability: tuple[int, int] | Absent) -> dict[str, Sensor]:
    """How each reading is asked for.

    nvmlDeviceGetPowerUsage is an average over 1 s since Ampere; on GA100 and before, it is the power now (nvml.h).
    """
    old = not isinstance(compute_capability, Absent) and tuple(compute_capability) <= GA100
    average = (POWER_AVERAGE_FIELD, POWER) if old else (POWER, POWER_AVERAGE_FIELD)
    return {
        "energy_joules": Sensor((("nvmlDeviceGetTotalEnergyConsumption",),), _over(1000)),
        "power_watts": Sensor((*average, POWER_INSTANT_FIELD), _positive_over(1000)),
        "power_instant_watts": Sensor(
            (POWER_INSTANT_FIELD, POWER) if old else (POWER_INSTANT_FIELD,), _positive_over(1000)
        ),
        "throttle_bits": Sensor(
            (("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",)), int
        ),
        "sm_clock_hertz": Sensor((("nvmlDeviceGetClockInfo", SM_CLOCK),), _hertz),
        "memory_clock_hertz": Sensor((("nvmlDeviceGetClockInfo", MEMORY_CLOCK),), _hertz),
        "temperature_celsius": Sensor(
            (("nvmlDeviceGetTemperatureV", GPU_SENSOR), ("nvmlDeviceGetTemperature", GPU_SENSOR)), float
        ),
        "memory_temperature_celsius": Sensor((MEMORY_TEMPERATURE_FIELD,), _positive_over(1)),
        "fan_share": Sensor((("nvmlDeviceGetFanSpeed",), ("nvmlDeviceGetFanSpeed_v2", 0)), _over(100)),
        "utilisation_share": Sensor((("nvmlDeviceGetUtilizationRates",),), lambda rates: float(rates.gpu / 100)),
        "memory_used_bytes": Sensor(
            (("nvmlDeviceGetMemoryInfo", MEMORY_INFO_V2), ("nvmlDeviceGetMemoryInfo",)), lambda info: int(info.used)
        ),
        "pcie_replays": Sensor((("nvmlDeviceGetPcieReplayCounter",),), int),
    }


def _over(divisor: int) -> Callable[[Any], float | Absent]:
    def convert(answer: Any) -> float | Absent:
        value = float(answer) / divisor
        return value if math.isfinite(value) else Absent("not a number")

    return convert


def _positive_over(divisor: int) -> Callable[[Any], float | Absent]:
    """A reading whose 0 means that there is none: a running card draws power."""
    return lambda answer: _over(divisor)(answer) if answer > 0 else NOT_REPORTED


def _hertz(megahertz: int) -> float:
    return megahertz * 1e6
