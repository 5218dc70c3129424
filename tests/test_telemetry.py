"""Do the sensors beside a piece of work become a record, on a scripted clock?"""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_sensors import (
    HOT_CARDS,
    LOST,
    RIGS,
    Script,
    cpu_only,
    rig,
    sampled,
    sampled_once,
)

from rigbench.core.record import Absent, Telemetry
from rigbench.machine.nvml import Nvml
from rigbench.machine.readings import NO_FAN, Reading
from rigbench.machine.replay import Answer, ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.work import telemetry
from rigbench.work.sensors import Readings, Sampler, spread
from rigbench.work.telemetry import decode_throttle, throttle_share

CLOCKS_HELD = "1 nvmlDeviceGetCurrentClocksEventReasons = "


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


def test_throttle_bits_are_decoded_one_by_one() -> None:
    assert decode_throttle(0) == ()
    assert decode_throttle(0x1FF) == (
        *("gpu_idle", "applications_clocks", "sw_power_cap", "hw_slowdown", "sync_boost"),
        *("sw_thermal", "hw_thermal", "hw_power_brake", "display"),
    )
    assert decode_throttle(0x220) == ("sw_thermal", "bit 0x200")


def test_throttle_shares_are_of_the_answered_ticks() -> None:
    bits = (0x1, 0x4, 0x24, Absent("driver timed out"), 0x24)
    assert throttle_share(bits) == {"gpu_idle": 0.25, "sw_power_cap": 0.75, "sw_thermal": 0.5}
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
    assert throttle_share(hot.throttle_bits[-60:])["sw_thermal"] == 1.0


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
    assert telemetry.energy(record, 100.0, 103.0) == Absent("CPU: no package energy counter")
    assert msgspec.json.decode(msgspec.json.encode(record), type=Telemetry) == record


def test_a_card_that_refuses_everything_is_absent_and_so_is_its_energy() -> None:
    record = sampled(rig(), waits=2)
    gpu = record.series[0]
    assert {getattr(gpu, name).reason for name in Reading._fields} == {"not supported", NO_FAN}
    assert gpu.fan_share == Absent(NO_FAN)
    assert telemetry.energy(record, 100.0, 103.0) == Absent("GPU0: not supported")


def test_before_the_first_tick_every_column_says_that_nothing_was_read() -> None:
    assert Sampler(cpu_only({})).record().series[0].temperature_celsius == Absent("no sensor was read")


class HangingDriver(ReplayedDriver):
    """GPU 1's fan is asked, and the driver does not come back until it is let go."""

    def __init__(self, text: str) -> None:
        super().__init__(parse_recording(text))
        self.let_go, self.reached = threading.Event(), threading.Event()

    def answer(self, scope: str, key: str) -> Answer:
        if (scope, key) == ("1", "nvmlDeviceGetFanSpeed"):
            self.reached.set()
            self.let_go.wait()
        return super().answer(scope, key)


def test_a_driver_call_that_hangs_holds_up_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigbench.work.sensors.STOP_WITHIN_SECONDS", 0.05)
    library = HangingDriver("sys nvmlDeviceGetCount_v2 = 0 3\n* nvmlDeviceGetPowerUsage = 0 100000")
    moments = iter((100.0, 100.0))
    sampler = Sampler(Rig(RecordedSysfs({}, {}), Nvml(library)), 1.0, clock=lambda: next(moments, 105.0))
    sampler.start()
    assert library.reached.wait(5)
    record = sampler.stop()
    hung = Absent("the driver does not answer")
    assert record.at_seconds == (100.0, 105.0)
    assert [one.power_watts for one in record.series[:3]] == [(100.0, hung), hung, hung]
    assert telemetry.energy(record, 100.0, 105.0) == Absent("GPU0: the driver does not answer")
    library.let_go.set()
    assert sampler._thread is not None
    sampler._thread.join(5)


PUT = st.one_of(
    st.floats(-1e9, 1e9),
    st.integers(-(2**60), 2**60),
    st.sampled_from([Absent("not supported"), LOST, 59.0, math.inf]),
)


@given(st.lists(PUT, max_size=700), st.sampled_from([int, float]), st.integers(0, 800), st.integers(0, 600))
def test_readings_come_back_as_they_were_put(values, kind, most, room):
    column = Readings(kind, room)
    for place, value in enumerate(values):
        column.put(place, value)
    for count in {0, len(values) // 2, len(values)}:
        places = spread(0, count, most)
        found, put = column.at(places), [values[place] for place in places]
        assert found == put
        assert [type(it) for it in found] == [type(it) for it in put]


@given(st.integers(0, 500), st.integers(0, 1500), st.integers(1, 600))
def test_places_are_spread_evenly_and_always_as_many(first, many, most):
    places = spread(first, first + many, most)
    assert len(places) == min(many, most)
    assert list(spread(first, first + many, 0)) == list(range(first, first + many))
    if places:
        apart = {later - earlier for earlier, later in itertools.pairwise(places)}
        assert first == places[0]
        assert len(apart) < 3
        assert max(apart, default=1) - min(apart, default=1) <= 1
        assert places[-1] + max(apart, default=many) >= first + many - 1


def test_a_record_of_every_so_many_ticks_is_of_the_same_readings() -> None:
    whole, machine = Script(0), Rig.replay(RIGS / "dual-rtx4080s-throttling").awake()[0]
    sampler = Sampler(machine, 1.0, clock=whole.clock)
    for _ in range(100):
        sampler.tick()
        whole.wait(1.0)
    everything, some = sampler.record(), sampler.record(most=30)
    places = [0, 3, 6, 10, 13, 16, 20, 23, 26, *range(30, 100, 10), *range(33, 100, 10), *range(36, 100, 10)]
    assert len(everything.at_seconds) == 100
    assert (len(some.at_seconds), some.period_seconds) == (30, pytest.approx(100 / 30))
    assert some.at_seconds == tuple(everything.at_seconds[place] for place in sorted(places))
    for every, each in zip(everything.series, some.series, strict=True):
        for name in Reading._fields:
            column = getattr(every, name)
            if not isinstance(column, Absent):
                column = tuple(column[place] for place in sorted(places))
            assert getattr(each, name) == column
    moments, celsius = sampler.curve("GPU1", "temperature_celsius")
    assert (tuple(moments), tuple(celsius)) == (everything.at_seconds, everything.series[1].temperature_celsius)
    moments, celsius = sampler.curve("GPU1", "temperature_celsius", since=everything.at_seconds[40] - 0.5, most=20)
    assert tuple(moments) == everything.at_seconds[40::3]
    assert tuple(celsius) == everything.series[1].temperature_celsius[40::3]
    assert [len(it) for it in sampler.curve("GPU7", "power_watts")] == [0, 0]


def test_a_sampler_that_was_given_room_stays_as_large_as_it_began() -> None:
    sampler = Sampler(cpu_only({}), 0.1, room=4000)
    missing = Reading(*[Absent("not supported")] * len(Reading._fields))

    def ticks(first: int, count: int) -> int:
        for tick in range(first, first + count):
            moving = missing._replace(
                power_watts=300.0 + tick / 7, temperature_celsius=60.0 + tick % 3, throttle_bits=4
            )
            sampler._keep(tick / 10, {"GPU0": moving, "GPU1": moving, "CPU": missing})
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = ticks(0, 300)
        assert ticks(300, 3000) - first < 3000  # less than a byte a reading
    finally:
        tracemalloc.stop()
