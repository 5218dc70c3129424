"""Do the sensors beside a piece of work add up, on a scripted clock?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from rigbench.hardware.nvml import Nvml
from rigbench.hardware.nvml_replay import ReplayedLibrary, parse_recording
from rigbench.hardware.rig import Rig
from rigbench.hardware.sysfs import RecordedSysfs
from rigbench.measure.telemetry import Sampler, decode_throttle, energy, throttle_share
from rigbench.records import Absent, Energy, SensorSeries, Telemetry

RIGS = Path(__file__).parent / "rigs"
NO_SYSFS = RecordedSysfs({}, {})


def rig(*lines: str, count: int = 1, files: dict[str, str] | None = None) -> Rig:
    text = "\n".join([f"sys nvmlDeviceGetCount_v2 = 0 {count}", *lines])
    return Rig(RecordedSysfs(files or {}, {}), Nvml(ReplayedLibrary(parse_recording(text))))


def cpu_only(files: dict[str, str]) -> Rig:
    return Rig(RecordedSysfs(files, {}), Nvml(Absent("no driver")))


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
    lost = Absent("GPU is lost")
    assert record.series[0].power_watts == (200.0, lost, lost, lost)
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
    record = Sampler(rig(count=4), gpus=[2]).record()
    assert [one.device for one in record.series] == ["GPU2", "CPU"]


def test_a_real_thread_starts_and_stops_within_its_limits() -> None:
    with Sampler(Rig.replay(RIGS / "dual-rtx4080s-throttling"), 0.1) as sampler:
        time.sleep(0.25)
    record = sampler.record()
    assert 3 <= len(record.at_seconds) <= 5
    assert sorted(record.at_seconds) == list(record.at_seconds)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Telemetry) == record


def test_a_sensor_that_hangs_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigbench.measure.telemetry.STOP_WITHIN_SECONDS", 0.05)
    sampler = Sampler(cpu_only({}))
    sampler.tick = lambda: time.sleep(1)  # type: ignore[method-assign]
    sampler.start()
    start = time.perf_counter()
    assert sampler.stop().at_seconds == ()
    assert time.perf_counter() - start < 0.5


def test_energy_comes_from_the_counter_and_sums_the_gpus() -> None:
    at = (0.0, 1.0, 2.0, 3.0, 4.0)
    one, other = series("GPU0", energy_joules=(0.0, 100.0, 200.0, 300.0, 400.0)), series("GPU1", energy_joules=at)
    found = energy(telemetry(at, one, other), 0.5, 3.5)
    assert found == Energy(joules=303.0, window_seconds=3.0, covers="GPUs only", method="counter")
    assert found.watts == 101.0


def test_a_short_window_is_integrated_from_power() -> None:
    both = series(power_watts=(100.0, 200.0, 300.0), energy_joules=(0.0, 0.0, 500.0))
    found = energy(telemetry((0.0, 1.0, 2.0), both), 0.5, 2.0)
    assert found == Energy(joules=0.5 * 175.0 + 250.0, window_seconds=1.5, covers="GPUs only", method="integrated")


def test_a_counter_that_stands_still_or_jumps_back_is_missing_not_free() -> None:
    at = (0.0, 1.0, 2.0, 3.0)
    for counter in ((5.0,) * 4, (0.0, 900.0, 10.0, 20.0)):
        assert energy(telemetry(at, series(energy_joules=counter)), 0.0, 3.0) == Absent(
            "GPU0: its energy counter does not count"
        )
        found = energy(telemetry(at, series(energy_joules=counter, power_watts=(50.0,) * 4)), 0.0, 3.0)
        assert found == Energy(joules=150.0, window_seconds=3.0, covers="GPUs only", method="integrated")
    assert energy(telemetry(at, series(power_watts=(0.0,) * 4)), 0.0, 3.0) == Absent("GPU0: its power reads 0 W")


def test_a_gpu_lost_in_the_window_makes_the_sum_absent() -> None:
    lost = Absent("GPU is lost")
    at = (0.0, 1.0, 2.0, 3.0)
    well, ill = series("GPU0", power_watts=(50.0,) * 4), series("GPU1", power_watts=(50.0, 50.0, lost, lost))
    assert energy(telemetry(at, well, ill), 0.0, 3.0) == Absent("GPU1: GPU is lost")


def test_one_unanswered_tick_is_bridged() -> None:
    at = (0.0, 1.0, 2.0, 3.0)
    found = energy(telemetry(at, series(power_watts=(50.0, Absent("driver timed out"), 50.0, 50.0))), 0.0, 3.0)
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
    found = energy(sampler.record(), 100.0, 104.0)
    assert found == Energy(joules=16.0, window_seconds=4.0, covers="CPU package only", method="counter")


def test_a_window_that_the_sensors_did_not_see_is_absent() -> None:
    record = telemetry((0.0, 1.0, 2.0), series(power_watts=(50.0,) * 3))
    assert energy(record, 1.0, 10.0) == Absent("sensors cover 1.0 s of a window of 9.0 s")
    assert energy(record, 5.0, 5.0) == Absent("no sensor was read in the window")
    assert energy(telemetry(()), 0.0, 1.0) == Absent("no sensor was read in the window")
    assert energy(telemetry((0.0, 1.0)), 0.0, 1.0) == Absent("no device was sampled")


def test_a_window_a_little_wider_than_the_ticks_says_what_it_covers() -> None:
    found = energy(telemetry((0.0, 5.0, 10.0), series(power_watts=(50.0,) * 3)), -0.2, 10.2)
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
    machine = Rig(NO_SYSFS, Nvml.replay(RIGS / "dual-rtx4080s-throttling" / "load.nvml.txt"))
    record = sampled(machine, waits=400)
    temperatures = record.series[1].temperature_celsius
    assert isinstance(temperatures, tuple)
    assert max(value for value in temperatures if isinstance(value, float)) >= 83.0
    assert record.series[1].throttle_share.get("sw_thermal", 0.0) > 0.1
