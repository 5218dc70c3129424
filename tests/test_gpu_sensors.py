"""Is a card asked for all that it tells, under the names it knows, and no more?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scripted_sensors import (
    HOT_CARDS,
    LOST,
    NOT_SUPPORTED,
    RIGS,
    asked,
    replayed,
    rig,
    sampled,
    sampled_once,
)

from rigbench.core.record import Absent
from rigbench.machine.readings import NO_FAN
from rigbench.work.sensors import Sampler


def test_every_sensor_of_a_card_has_its_column() -> None:
    gpu = sampled_once(replayed((RIGS / "h200-driver-590.48.01" / "load.nvml.txt").read_text())).series[0]
    assert (gpu.temperature_celsius, gpu.memory_temperature_celsius) == ((52.0,), (41.0,))
    assert (gpu.power_watts, gpu.power_instant_watts) == ((627.32,), (625.24,))
    assert (gpu.sm_clock_hertz, gpu.memory_clock_hertz) == ((1980e6,), (3201e6,))
    assert (gpu.utilisation_share, gpu.memory_used_bytes, gpu.pcie_replays) == ((1.0,), (33934016512,), (0,))
    assert (gpu.throttle_bits, gpu.throttle_share) == ((0,), {})
    assert (gpu.fan_share, gpu.energy_joules) == (Absent(NO_FAN), NOT_SUPPORTED)


@pytest.mark.parametrize(("other", "why"), [("2", NO_FAN), ("3", NO_FAN), ("10", "driver timed out")])
def test_a_card_that_refuses_its_fan_has_none(other: str, why: str) -> None:
    """As an H200 does with driver 580.159.04: nvidia-smi's own call is not supported, and there is no fan 0."""
    machine = rig("0 nvmlDeviceGetFanSpeed = 3", f"0 nvmlDeviceGetFanSpeed_v2/0 = {other}")
    assert sampled(machine, 2).series[0].fan_share == Absent(why)
    assert machine.nvml.reading(0, "fan_share") == Absent(why)


POWER, AVERAGE, INSTANT = (
    "* nvmlDeviceGetPowerUsage = 0 100000",
    "* nvmlDeviceGetFieldValues/185/0 = 0 1 200000",
    "* nvmlDeviceGetFieldValues/186/0 = 0 1 300000",
)


@pytest.mark.parametrize(
    ("capability", "lines", "average", "instant"),
    [
        ("8 9", (POWER, AVERAGE, INSTANT), (100.0,), (300.0,)),  # Ada: the plain call is the average
        ("8 9", (POWER,), (100.0,), NOT_SUPPORTED),
        ("9 0", (AVERAGE, INSTANT), (200.0,), (300.0,)),
        ("8 0", (POWER, AVERAGE, INSTANT), (200.0,), (300.0,)),  # GA100: the plain call is the power now
        ("8 0", (POWER, AVERAGE), (200.0,), (100.0,)),
        ("7 5", (POWER, INSTANT), (100.0,), (300.0,)),  # Turing: no average
        ("7 5", (POWER,), (100.0,), (100.0,)),
        ("7 5", ("* nvmlDeviceGetPowerUsage = 0 0", INSTANT), (300.0,), (300.0,)),
        ("9 0", (), NOT_SUPPORTED, NOT_SUPPORTED),
    ],
)
def test_power_is_averaged_where_the_card_does_so(
    capability: str, lines: Sequence[str], average: object, instant: object
) -> None:
    gpu = sampled_once(rig(f"* nvmlDeviceGetCudaComputeCapability = 0 {capability}", *lines)).series[0]
    assert (gpu.power_watts, gpu.power_instant_watts) == (average, instant)


def test_a_power_of_zero_is_missing_not_free() -> None:
    assert sampled_once(rig("* nvmlDeviceGetPowerUsage = 0 0")).series[0].power_watts == Absent("not reported")


def test_what_the_card_refused_at_first_is_not_asked_again() -> None:
    machine = replayed(HOT_CARDS.read_text())
    sampler = Sampler(machine)
    sampler.tick()
    assert ("1", "nvmlDeviceGetFieldValues/82/0") in asked(machine)
    sampler.tick()
    everything = (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetFieldValues/186/0",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetClockInfo/1",
        "nvmlDeviceGetClockInfo/2",
        "nvmlDeviceGetTemperature/0",
        "nvmlDeviceGetFanSpeed",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetPcieReplayCounter",
    )
    assert asked(machine) == [(gpu, call) for gpu in "01" for call in everything]


def test_the_older_name_of_a_call_is_remembered() -> None:
    machine = rig(
        "* nvmlDeviceGetCurrentClocksEventReasons = 13",
        "* nvmlDeviceGetCurrentClocksThrottleReasons = 0 4",
        "* nvmlDeviceGetMemoryInfo_v2 = 25",
        "* nvmlDeviceGetMemoryInfo = 0 100 60 40",
    )
    sampler = Sampler(machine)
    sampler.tick()
    asked(machine)
    sampler.tick()
    calls = ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetMemoryInfo")
    assert asked(machine) == [("0", call) for call in calls]
    gpu = sampler.record().series[0]
    assert (gpu.throttle_bits, gpu.memory_used_bytes) == ((4, 4), (40, 40))


def test_a_card_that_was_only_busy_at_first_is_asked_again() -> None:
    record = sampled(
        rig("* nvmlDeviceGetFanSpeed = 10 ; 0 30 ; 3 ; 0 31", "* nvmlDeviceGetFieldValues/82/0 = 10 ; 0 1 50"), 2
    )
    assert record.series[0].fan_share == (Absent("driver timed out"), 0.3, NOT_SUPPORTED, 0.31)
    assert record.series[0].memory_temperature_celsius == (Absent("driver timed out"), 50.0, 50.0, 50.0)


def test_a_lost_gpu_is_asked_nothing_more_and_the_others_everything() -> None:
    machine = rig(
        "* nvmlDeviceGetTotalEnergyConsumption = 0 1000",
        "0 nvmlDeviceGetClockInfo/1 = 0 2000 ; 15",
        "1 nvmlDeviceGetClockInfo/1 = 0 2000",
        "* nvmlDeviceGetFanSpeed = 0 30",
        count=2,
    )
    sampler = Sampler(machine)
    sampler.tick()
    sampler.tick()
    asked(machine)
    sampler.tick()
    assert {scope for scope, _ in asked(machine)} == {"1"}
    lost, well, _ = sampler.record().series
    assert lost.energy_joules == (1.0, 1.0, LOST)  # asked before the call that found it lost
    assert lost.sm_clock_hertz == (2e9, LOST, LOST)
    assert lost.fan_share == (0.3, LOST, LOST)
    assert lost.pcie_replays == NOT_SUPPORTED
    assert (well.sm_clock_hertz, well.fan_share) == ((2e9,) * 3, (0.3,) * 3)


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetFieldValues/82/0"])
def test_a_gpu_lost_from_the_start_is_one_reason_in_each_column(call: str) -> None:
    record = sampled(rig(f"0 {call} = 15", "1 nvmlDeviceGetFanSpeed = 0 30", count=2), 2)
    assert record.series[0].fan_share == record.series[0].power_watts == record.series[0].throttle_bits == LOST
    assert record.series[1].fan_share == (0.3,) * 4


def test_a_column_of_several_refusals_is_one_reason() -> None:
    machine = rig("0 nvmlDeviceGetPowerUsage = 0 100000 ; 15", "0 nvmlDeviceGetFanSpeed = 10 ; 10 ; 0 30")
    assert sampled(machine, 1).series[0].fan_share == Absent("driver timed out")


def test_pcie_throughput_which_takes_20_ms_is_never_asked() -> None:
    machine = replayed(HOT_CARDS.read_text())
    sampled_once(machine)
    assert not [call for _, call in asked(machine) if "Throughput" in call]
