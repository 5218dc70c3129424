"""Do the sensors beside a piece of work add up, on a scripted clock?"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rigbench.hardware.gpu_sensors import Reading
from rigbench.hardware.nvml import Nvml
from rigbench.hardware.nvml_replay import Answer, ReplayedLibrary, parse_recording
from rigbench.hardware.rig import Rig
from rigbench.hardware.sysfs import RecordedSysfs
from rigbench.measure import energy
from rigbench.measure.telemetry import Sampler
from rigbench.measure.throttle import decode_throttle, throttle_share
from rigbench.records import Absent, Energy, SensorSeries, Telemetry

RIGS = Path(__file__).parent / "rigs"
HOT_CARDS = RIGS / "dual-rtx4080s-throttling" / "load.nvml.txt"  # 240 ticks, a second apart, as they heat up
CLOCKS_HELD = "1 nvmlDeviceGetCurrentClocksEventReasons = "
NOT_SUPPORTED, LOST = Absent("not supported"), Absent("GPU is lost")


def rig(*lines: str, count: int = 1, files: dict[str, str] | None = None) -> Rig:
    text = "\n".join([f"sys nvmlDeviceGetCount_v2 = 0 {count}", *lines])
    return Rig(RecordedSysfs(files or {}, {}), Nvml(ReplayedLibrary(parse_recording(text))))


def cpu_only(files: dict[str, str]) -> Rig:
    return Rig(RecordedSysfs(files, {}), Nvml(Absent("no driver")))


def replayed(text: str) -> Rig:
    return Rig(RecordedSysfs({}, {}), Nvml(ReplayedLibrary(parse_recording(text))))


def asked(machine: Rig) -> list[tuple[str, str]]:
    """The calls since the last time, (whose, which)."""
    library = machine.nvml.library
    assert isinstance(library, ReplayedLibrary)
    calls = [(scope, key) for scope, key, _ in library.log]
    library.log.clear()
    return calls


def sampled_once(machine: Rig, **options: Any) -> Telemetry:
    sampler = Sampler(machine, **options)
    sampler.tick()
    return sampler.record()


class Script:
    """A clock that moves when the sampler waits, and says stop after a number of waits."""

    def __init__(self, waits: int) -> None:
        self.now, self.waits = 100.0, waits

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waits -= 1
        return self.waits < 0


def sampled(machine: Rig, waits: int, period_seconds: float = 1.0) -> Telemetry:
    script = Script(waits)
    sampler = Sampler(machine, period_seconds, clock=script.clock, wait=script.wait)
    with sampler:
        assert sampler._thread is not None
        sampler._thread.join(5)
    return sampler.record()


def telemetry(at_seconds: Sequence[float], *series: SensorSeries) -> Telemetry:
    return Telemetry(period_seconds=1.0, at_seconds=tuple(at_seconds), series=series)


def series(device: str = "GPU0", **columns: object) -> SensorSeries:
    absent = Absent("not supported")
    names = ("power_watts", "temperature_celsius", "sm_clock_hertz", "utilisation_share", "energy_joules")
    facts = dict.fromkeys(names, absent) | {"throttle_bits": absent, "throttle_share": {}} | columns
    return SensorSeries(device=device, uuid=absent, **facts)  # type: ignore[arg-type]


def test_a_tick_is_taken_each_period_and_one_at_the_end() -> None:
    record = sampled(rig("* nvmlDeviceGetTemperature/0 = 0 60 ; 0 61 ; 0 62 ; 0 63"), waits=2)
    assert record.at_seconds == (100.0, 101.0, 102.0, 103.0)
    assert record.series[0].temperature_celsius == (60.0, 61.0, 62.0, 63.0)
    assert [one.device for one in record.series] == ["GPU0", "CPU"]


def test_a_column_that_is_never_answered_is_one_reason() -> None:
    record = sampled(rig("* nvmlDeviceGetTemperature/0 = 0 60"), waits=3)
    assert record.series[0].power_watts == Absent("not supported")
    assert record.series[1].energy_joules == Absent("no package energy counter")


def test_a_gpu_lost_midway_is_absent_from_then_on_and_hides_no_other() -> None:
    record = sampled(
        rig("0 nvmlDeviceGetPowerUsage = 0 200000 ; 15", "1 nvmlDeviceGetPowerUsage = 0 100000", count=2), 2
    )
    assert record.series[0].power_watts == (200.0, LOST, LOST, LOST)
    assert record.series[1].power_watts == (100.0,) * 4


def test_a_late_tick_is_skipped_not_caught_up() -> None:
    script = Script(waits=2)
    calls = iter([0.0, 0.0, 3.5])  # the second reading takes 3.5 periods
    sampler = Sampler(cpu_only({}), 1.0, clock=script.clock, wait=script.wait)
    read = sampler.tick

    def slow_tick() -> None:
        read()
        script.now += next(calls, 0.0)

    sampler.tick = slow_tick  # type: ignore[method-assign]
    sampler._run()
    assert sampler.record().at_seconds == (100.0, 101.0, 102.0, 106.0)


def test_a_period_below_a_tenth_of_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="sensors are read at most every"):
        Sampler(cpu_only({}), 0.05)


def test_only_the_chosen_gpus_are_read() -> None:
    record = sampled_once(rig(count=4), gpus=[2])
    assert [one.device for one in record.series] == ["GPU2", "CPU"]


def test_a_real_thread_starts_and_stops_within_its_limits() -> None:
    with Sampler(Rig.replay(RIGS / "dual-rtx4080s-throttling"), 0.1) as sampler:
        time.sleep(0.25)
    record = sampler.record()
    assert 3 <= len(record.at_seconds) <= 5
    assert sorted(record.at_seconds) == list(record.at_seconds)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Telemetry) == record


def test_energy_comes_from_the_counter_and_sums_the_gpus() -> None:
    at = (0.0, 1.0, 2.0, 3.0, 4.0)
    one, other = series("GPU0", energy_joules=(0.0, 100.0, 200.0, 300.0, 400.0)), series("GPU1", energy_joules=at)
    found = energy.between(telemetry(at, one, other), 0.5, 3.5)
    assert found == Energy(joules=303.0, window_seconds=3.0, covers="GPUs only", method="counter")
    assert found.watts == 101.0


def test_a_short_window_is_integrated_from_power() -> None:
    both = series(power_watts=(100.0, 200.0, 300.0), energy_joules=(0.0, 0.0, 500.0))
    found = energy.between(telemetry((0.0, 1.0, 2.0), both), 0.5, 2.0)
    assert found == Energy(joules=0.5 * 175.0 + 250.0, window_seconds=1.5, covers="GPUs only", method="integrated")


def test_a_counter_that_stands_still_or_jumps_back_is_missing_not_free() -> None:
    at = (0.0, 1.0, 2.0, 3.0)
    for counter in ((5.0,) * 4, (0.0, 900.0, 10.0, 20.0)):
        assert energy.between(telemetry(at, series(energy_joules=counter)), 0.0, 3.0) == Absent(
            "GPU0: its energy counter does not count"
        )
        found = energy.between(telemetry(at, series(energy_joules=counter, power_watts=(50.0,) * 4)), 0.0, 3.0)
        assert found == Energy(joules=150.0, window_seconds=3.0, covers="GPUs only", method="integrated")
    assert energy.between(telemetry(at, series(power_watts=(0.0,) * 4)), 0.0, 3.0) == Absent(
        "GPU0: its power reads 0 W"
    )


def test_a_gpu_lost_in_the_window_makes_the_sum_absent() -> None:
    lost = Absent("GPU is lost")
    at = (0.0, 1.0, 2.0, 3.0)
    well, ill = series("GPU0", power_watts=(50.0,) * 4), series("GPU1", power_watts=(50.0, 50.0, lost, lost))
    assert energy.between(telemetry(at, well, ill), 0.0, 3.0) == Absent("GPU1: GPU is lost")


def test_one_unanswered_tick_is_bridged() -> None:
    at = (0.0, 1.0, 2.0, 3.0)
    found = energy.between(telemetry(at, series(power_watts=(50.0, Absent("driver timed out"), 50.0, 50.0))), 0.0, 3.0)
    assert isinstance(found, Energy)
    assert found.joules == 150.0


def test_without_a_gpu_the_cpu_package_is_what_there_is() -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    files = {f"{zone}/name": "package-0", f"{zone}/energy_uj": "1000000", f"{zone}/max_energy_range_uj": "9000000"}
    machine, script = cpu_only(files), Script(waits=3)

    def wait(seconds: float) -> bool:
        files[f"{zone}/energy_uj"] = str(int(files[f"{zone}/energy_uj"]) + 4_000_000 - 9_000_000 * (script.waits == 1))
        return script.wait(seconds)

    sampler = Sampler(machine, 1.0, clock=script.clock, wait=wait)
    sampler._run()
    found = energy.between(sampler.record(), 100.0, 104.0)
    assert found == Energy(joules=16.0, window_seconds=4.0, covers="CPU package only", method="counter")


def test_a_window_that_the_sensors_did_not_see_is_absent() -> None:
    record = telemetry((0.0, 1.0, 2.0), series(power_watts=(50.0,) * 3))
    assert energy.between(record, 1.0, 10.0) == Absent("sensors cover 1.0 s of a window of 9.0 s")
    assert energy.between(record, 5.0, 5.0) == Absent("no sensor was read in the window")
    assert energy.between(telemetry(()), 0.0, 1.0) == Absent("no sensor was read in the window")
    assert energy.between(telemetry((0.0, 1.0)), 0.0, 1.0) == Absent("no device was sampled")


def test_a_window_a_little_wider_than_the_ticks_says_what_it_covers() -> None:
    found = energy.between(telemetry((0.0, 5.0, 10.0), series(power_watts=(50.0,) * 3)), -0.2, 10.2)
    assert isinstance(found, Energy)
    assert (found.window_seconds, found.watts) == (10.0, 50.0)


def test_throttle_bits_are_decoded_one_by_one() -> None:
    assert decode_throttle(0) == ()
    assert decode_throttle(0x1FF) == (
        *("gpu_idle", "applications_clocks", "sw_power_cap", "hw_slowdown", "sync_boost"),
        *("sw_thermal", "hw_thermal", "hw_power_brake", "display"),
    )
    assert decode_throttle(0x220) == ("sw_thermal", "bit 0x200")


def test_throttle_shares_are_of_the_answered_ticks_in_the_window() -> None:
    bits = (0x1, 0x4, 0x24, Absent("driver timed out"), 0x24)
    assert throttle_share(bits) == {"gpu_idle": 0.25, "sw_power_cap": 0.75, "sw_thermal": 0.5}
    assert throttle_share(bits, (0.0, 1.0, 2.0, 3.0, 4.0), 1.5, 4.0) == {"sw_power_cap": 1.0, "sw_thermal": 1.0}
    assert throttle_share(Absent("not supported")) == {}


def test_a_recorded_rig_that_runs_hot_shows_its_thermal_slowdown() -> None:
    record = sampled(Rig(RecordedSysfs({}, {}), Nvml.replay(HOT_CARDS)), waits=238)
    assert len(record.at_seconds) == 240
    cool, hot, _ = record.series
    assert [cool.temperature_celsius[:4], hot.temperature_celsius[:4]] == [(43, 44, 45, 45), (41, 42, 43, 44)]
    assert list(hot.temperature_celsius) == sorted(hot.temperature_celsius)
    assert (cool.temperature_celsius[-1], hot.temperature_celsius[-1]) == (72.0, 84.0)
    assert (hot.sm_clock_hertz[0], hot.sm_clock_hertz[-1]) == (2550e6, 2154e6)
    assert (hot.power_watts[0], hot.power_watts[-1]) == (304.0, 232.061)
    assert (hot.fan_share[10], hot.fan_share[-1]) == (0.31, 1.0)

    answers = next(line for line in HOT_CARDS.read_text().splitlines() if line.startswith(CLOCKS_HELD))
    bits = [int(answer.split()[1]) for answer in answers.removeprefix(CLOCKS_HELD).split(" ; ")]
    assert hot.throttle_bits == tuple(bits)
    assert hot.throttle_share["sw_thermal"] == sum(1 for reading in bits if reading & 0x20) / 240 == 140 / 240
    assert "sw_thermal" not in cool.throttle_share
    last_minute = throttle_share(hot.throttle_bits, record.at_seconds, record.at_seconds[-60])
    assert last_minute["sw_thermal"] == 1.0


def test_every_sensor_of_a_card_has_its_column() -> None:
    gpu = sampled_once(replayed((RIGS / "h200-driver-590.48.01" / "load.nvml.txt").read_text())).series[0]
    assert (gpu.temperature_celsius, gpu.memory_temperature_celsius) == ((52.0,), (41.0,))
    assert (gpu.power_watts, gpu.power_instant_watts) == ((627.32,), (625.24,))
    assert (gpu.sm_clock_hertz, gpu.memory_clock_hertz) == ((1980e6,), (3201e6,))
    assert (gpu.utilisation_share, gpu.memory_used_bytes, gpu.pcie_replays) == ((1.0,), (33934016512,), (0,))
    assert (gpu.throttle_bits, gpu.throttle_share) == ((0,), {})
    assert gpu.fan_share == gpu.energy_joules == NOT_SUPPORTED


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
        "nvmlDeviceGetFieldValues/186/0",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
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


def test_gpus_that_the_driver_lists_late_are_read_from_then_on() -> None:
    sampler = Sampler(rig("sys nvmlDeviceGetCount_v2 = 10 ; 0 1", "* nvmlDeviceGetFanSpeed = 0 30"))
    sampler.tick()
    sampler.tick()
    assert sampler.record().series[0].fan_share == (Absent("not listed by the driver yet"), 0.3)


def test_on_a_host_without_any_sensor_everything_is_absent_and_nothing_fails() -> None:
    record = sampled(cpu_only({}), waits=2)
    assert [one.device for one in record.series] == ["CPU"]
    columns = [getattr(record.series[0], name) for name in Reading._fields]
    assert all(isinstance(column, Absent) for column in columns)
    assert record.series[0].throttle_share == {}
    assert energy.between(record, 100.0, 103.0) == Absent("CPU: no package energy counter")
    assert msgspec.json.decode(msgspec.json.encode(record), type=Telemetry) == record


def test_a_card_that_refuses_everything_is_absent_and_so_is_its_energy() -> None:
    record = sampled(rig(), waits=2)
    assert {str(getattr(record.series[0], name)) for name in Reading._fields} == {str(NOT_SUPPORTED)}
    assert energy.between(record, 100.0, 103.0) == Absent("GPU0: not supported")


def test_before_the_first_tick_every_column_says_that_nothing_was_read() -> None:
    assert Sampler(cpu_only({})).record().series[0].temperature_celsius == Absent("no sensor was read")


class HangingLibrary(ReplayedLibrary):
    """GPU 1's fan is asked, and the driver does not come back until it is let go."""

    def __init__(self, text: str) -> None:
        super().__init__(parse_recording(text))
        self.let_go, self.reached = threading.Event(), threading.Event()

    def ask(self, scope: str, key: str) -> Answer:
        if (scope, key) == ("1", "nvmlDeviceGetFanSpeed"):
            self.reached.set()
            self.let_go.wait(10)
        return super().ask(scope, key)


def test_a_driver_call_that_hangs_holds_up_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigbench.measure.telemetry.STOP_WITHIN_SECONDS", 0.05)
    library = HangingLibrary("sys nvmlDeviceGetCount_v2 = 0 3\n* nvmlDeviceGetPowerUsage = 0 100000")
    moments = iter((100.0, 100.0))
    sampler = Sampler(Rig(RecordedSysfs({}, {}), Nvml(library)), 1.0, clock=lambda: next(moments, 105.0))
    sampler.start()
    assert library.reached.wait(5)
    started = time.perf_counter()
    record = sampler.stop()
    assert time.perf_counter() - started < 1.0
    hung = Absent("the driver does not answer")
    assert record.at_seconds == (100.0, 105.0)
    assert [one.power_watts for one in record.series[:3]] == [(100.0, hung), hung, hung]
    assert energy.between(record, 100.0, 105.0) == Absent("GPU0: the driver does not answer")
    library.let_go.set()
    assert sampler._thread is not None
    sampler._thread.join(5)


def as_a_real_card_counts(text: str) -> tuple[str, list[int]]:
    """GPU 1 of a recording with a counter that goes with its watts, told a second late as an average is.

    The recorded counter stands still, and the averaged power reads as of the tick itself.
    """
    key, counter = "1 nvmlDeviceGetPowerUsage = ", "1 nvmlDeviceGetTotalEnergyConsumption = "
    lines = text.splitlines()
    answers = next(line for line in lines if line.startswith(key)).removeprefix(key).split(" ; ")
    milliwatts = [int(answer.split()[1]) for answer in answers]
    counted = [41_000_000 + sum(milliwatts[:tick]) for tick in range(len(milliwatts))]
    late = [milliwatts[0], *milliwatts[:-1]]
    kept = [line for line in lines if not line.startswith((key, counter))]
    ours = [
        prefix + " ; ".join(f"0 {value}" for value in column) for prefix, column in ((key, late), (counter, counted))
    ]
    return "\n".join([*kept, *ours]), milliwatts


def test_counted_and_integrated_energy_of_a_card_that_throttles_agree_within_a_thousandth() -> None:
    text, milliwatts = as_a_real_card_counts(HOT_CARDS.read_text())
    script = Script(waits=238)
    sampler = Sampler(replayed(text), 1.0, gpus=[1], clock=script.clock, wait=script.wait)
    sampler._run()
    record = sampler.record()
    start, end = 110.0, 330.0
    counted = energy.between(record, start, end)
    uncounted = msgspec.structs.replace(record.series[0], energy_joules=NOT_SUPPORTED)
    integrated = energy.between(telemetry(record.at_seconds, uncounted), start, end)
    assert isinstance(counted, Energy)
    assert isinstance(integrated, Energy)
    assert (counted.method, integrated.method) == ("counter", "integrated")
    assert counted.joules == pytest.approx(sum(milliwatts[10:230]) / 1000)
    # An average lags by a second, in which the power of a card that throttles has moved by 72 W of 60 kJ at most.
    assert integrated.joules == pytest.approx(counted.joules, rel=1e-3)
    assert integrated.joules != counted.joules


@pytest.mark.parametrize(("start", "end", "joules"), [(0.0, 10.0, 1000.0), (0.4, 9.7, 930.0), (2.5, 4.75, 225.0)])
def test_a_window_may_begin_and_end_between_ticks(start: float, end: float, joules: float) -> None:
    at = tuple(map(float, range(11)))
    both = series(power_watts=(100.0,) * 11, energy_joules=tuple(100.0 * tick for tick in at))
    for one in (both, msgspec.structs.replace(both, energy_joules=NOT_SUPPORTED)):
        found = energy.between(telemetry(at, one), start, end)
        assert isinstance(found, Energy)
        assert found.joules == pytest.approx(joules)


def test_an_end_of_the_window_that_a_counter_missed_is_not_free() -> None:
    at, busy = tuple(map(float, range(21))), Absent("driver timed out")
    late = series(energy_joules=(busy, busy, *(100.0 * tick for tick in range(2, 21))))
    found = energy.between(telemetry(at, late), 0.0, 20.0)
    assert found == Energy(joules=2000.0, window_seconds=20.0, covers="GPUs only", method="counter")
    later = series(energy_joules=(*[busy] * 3, *(100.0 * tick for tick in range(3, 21))))
    assert energy.between(telemetry(at, later), 0.0, 20.0) == Absent("GPU0: driver timed out")
