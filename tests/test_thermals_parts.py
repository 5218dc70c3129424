"""Do the parts of a soak's summary say what their numbers mean: what held clocks, what froze, what follows what?"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console
from scripted_sensors import RIGS, cpu_only, series, telemetry

from rigbench import store
from rigbench.core import stats as trends
from rigbench.core.estimate import Estimate, ratio
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device, SensorSeries
from rigbench.document import Run
from rigbench.job import Job
from rigbench.machine.record import Gpu
from rigbench.machine.rig import Rig
from rigbench.thermals import command, verdict
from rigbench.thermals import fit as heat_fit
from rigbench.thermals import screen as render
from rigbench.thermals.record import HeatLoad, PowerAdvice, PowerPoint, Thermals
from rigbench.work.telemetry import frozen

# 1 × RTX A5000, ResNet50 images/s at a power limit in watts: dbkinghorn/Notes 2022/A5000-powerscaling, A5000-pl-data.
A5000 = {
    130: 249.8,
    140: 292.5,
    150: 336.9,
    160: 376.7,
    170: 405.9,
    180: 425.3,
    190: 443.8,
    200: 455.8,
    210: 465.8,
    220: 476.0,
    230: 477.6,
}


def load(rates: list[float], seconds: float = 0.5) -> HeatLoad:
    """Windows of half a second at these FLOP/s, from moment 100 on."""
    flop = 2 * 1000**3
    return HeatLoad(
        device=Device("cuda", "a card", Absent("none"), 1, Absent("none")),
        dtype="bf16",
        m=1000,
        n=1000,
        k=1000,
        began_at_seconds=100.0,
        ended_at_seconds=tuple(100.0 + seconds * (i + 1) for i in range(len(rates))),
        products=tuple(round(rate * seconds / flop) for rate in rates),
        seconds=(seconds,) * len(rates),
        checks=(),
        trials={},
    )


def soaked(
    work: HeatLoad | Absent, ended: float, at_seconds: Sequence[float], own: SensorSeries, gpu: Gpu | None = None
) -> verdict.Soaked:
    """A card's load from moment 100 on, and its sensors."""
    sensors = telemetry(at_seconds, own)
    return verdict.Soaked("GPU0", "a card", gpu, work, 100.0, ended, Absent("not declared"), "", sensors, own)


def point(label: str, watts: float, rate: float, limit: float | None = None) -> PowerPoint:
    rates = Estimate(value=rate, low=rate, high=rate, level=0.9, method="published", n=1)
    limits = () if limit is None else ((0, limit),)
    return PowerPoint(label=label, run_id=label, limits_watts=limits, watts=watts, flops_per_s=rates)


def farthest_from_the_chord() -> int:
    """The knee by another way: where the curve, scaled to the unit square, is farthest above its chord (Kneedle)."""
    low, high = min(A5000), max(A5000)
    rise = A5000[high] - A5000[low]
    return max(A5000, key=lambda watts: (A5000[watts] - A5000[low]) / rise - (watts - low) / (high - low))


def test_the_knee_of_a_published_sweep_is_where_its_curve_bends():
    found = verdict.advice([point(f"{watts}W", watts, rate, watts) for watts, rate in A5000.items()])
    assert isinstance(found, PowerAdvice)
    assert found.knee == f"{farthest_from_the_chord()}W" == "170W"
    assert found.plateau == ("160W", "170W", "180W", "190W")  # 2.35, 2.39, 2.36 and 2.34 images a joule
    assert found.sentence == (
        "most work per joule at 170W, within 3 % of it: 160W to 190W; "
        "190W gives 93 % of the throughput of 230W for 83 % of its watts"
    )
    assert found.commands == ("sudo nvidia-smi -i 0 -pl 190",)


def test_a_sweep_that_still_rises_at_its_end_says_so():
    found = verdict.advice([point(f"{watts}W", watts, rate, watts) for watts, rate in A5000.items() if watts <= 160])
    assert isinstance(found, PowerAdvice)
    assert found.sentence.endswith("that is the highest of the sweep, the best may lie beyond")


@pytest.mark.parametrize(("count", "missing"), [(0, 3), (1, 2), (2, 1)])
def test_fewer_than_three_labels_say_how_many_are_missing(count, missing):
    found = verdict.advice([point(f"{watts}W", watts, 100.0) for watts in (100, 200)[:count]])
    assert isinstance(found, Absent)
    assert f"{missing} more needed" in found.reason


def labelled(run: Run, label: str, limit: float, watts: float, rate: float, name: str) -> Run:
    """A stored run as a soak at that limit would have left it: a minute on one card, with a power sensor."""
    ticks = [100.0 + 0.5 * i for i in range(121)]
    own = series(power_watts=tuple(watts + 0.1 * (i % 7) for i in range(121)))
    gpu = Rig.replay(RIGS / "dual-rtx4080s-x8x8").nvml.gpu(1)
    gpu = msgspec.structs.replace(gpu, power_limit_watts=limit)
    card = verdict.card(soaked(load([rate] * 120), 160.0, ticks, own, gpu))
    result = Thermals(
        method=1,
        seconds=60.0,
        replayed=False,
        label=label,
        ambient_celsius=Absent("not declared"),
        cards=(card,),
        hottest=Absent("one device"),
        spread_celsius=Absent("one device"),
        ended_by="time limit",
        ended_because="",
        telemetry=telemetry(ticks, own),
        power=Absent("not looked for"),
        notes=(),
    )
    return msgspec.structs.replace(run, thermals=result, id=name)


def test_a_sweep_is_the_newest_run_of_each_label_of_this_rig(tmp_path):
    job = Job(store.Store(tmp_path), cpu_only({}), "thermals", Silent())
    old = labelled(job.run, "200W", 200.0, 199.0, 1e12, "1")
    runs = [
        labelled(job.run, "200W", 200.0, 198.0, 80e12, "4"),
        labelled(job.run, "260W", 260.0, 255.0, 92e12, "3"),
        labelled(job.run, "150W", 150.0, 149.0, 40e12, "2"),
        old,
    ]
    stranger = msgspec.structs.replace(job.run, rig=msgspec.structs.replace(job.run.rig, fingerprint="another"))
    for run in (*runs, labelled(stranger, "170W", 170.0, 169.0, 300e12, "5")):
        job.store.save(run)
    now = labelled(job.run, "320W", 320.0, 315.0, 97e12, "6")
    advice = verdict.power(now.thermals, now, [run for run in job.holding("thermals") if run.id != now.id])
    assert isinstance(advice, PowerAdvice)
    assert [(it.label, it.run_id) for it in advice.points] == [
        ("150W", "2"),
        ("200W", "4"),
        ("260W", "3"),
        ("320W", "6"),
    ]
    assert [round(it.watts) for it in advice.points] == [149, 198, 255, 315]
    assert advice.knee == "200W"
    assert advice.commands == ("sudo nvidia-smi -i 1 -pl 200",)
    out = io.StringIO()
    shown = msgspec.structs.replace(now.thermals, power=advice)
    render.show(shown, Console(file=out, width=100))
    assert out.getvalue().endswith(
        """throughput per watt, from the newest run of each label
  150W        149 W    40.0 TFLOP/s  268 GFLOP per joule, 66 %
  200W        198 W    80.0 TFLOP/s  403 GFLOP per joule, 100 %  best
  260W        255 W    92.0 TFLOP/s  360 GFLOP per joule, 89 %
  320W        315 W    97.0 TFLOP/s  308 GFLOP per joule, 76 %
  most work per joule at 200W, no other within 3 % of it; 200W gives 82 % of the throughput of 320W
    for 63 % of its watts
  to set it (rigbench does not): sudo nvidia-smi -i 1 -pl 200
"""
    )


def test_runs_under_another_load_are_not_compared(tmp_path):
    job = Job(store.Store(tmp_path), cpu_only({}), "thermals", Silent())
    now = labelled(job.run, "320W", 320.0, 315.0, 97e12, "6")
    other = labelled(job.run, "200W", 200.0, 198.0, 80e12, "4")
    card = other.thermals.cards[0]
    fp32 = msgspec.structs.replace(card, load=msgspec.structs.replace(card.load, dtype="fp32"))
    other = msgspec.structs.replace(other, thermals=msgspec.structs.replace(other.thermals, cards=(fp32,)))
    advice = verdict.power(now.thermals, now, [other])
    assert isinstance(advice, Absent)
    assert advice.reason.startswith("1 labelled run of this rig with watts and throughput, 2 more needed")


def test_labels_at_one_and_the_same_limit_get_no_command():
    found = verdict.advice([point(str(i), 200.0 + i, 100.0 + i, 320.0) for i in range(3)])
    assert isinstance(found, PowerAdvice)
    assert found.commands == ()


def test_heat_costs_what_windows_with_its_bit_lack():
    rates = [100e12] * 40 + [88e12] * 40
    ticks = [100.0 + 0.5 * i for i in range(81)]
    bits = tuple(0x24 if at > 120.0 else 0x4 for at in ticks)
    clocks = tuple(2.2e9 if at > 120.0 else 2.5e9 for at in ticks)
    own = series(throttle_bits=bits, sm_clock_hertz=clocks)
    found = verdict.throttling(soaked(load(rates), 140.0, ticks, own))
    assert [(it.reason, it.severity) for it in found] == [("sw_thermal", "warning"), ("sw_power_cap", "information")]
    heat, cap = found
    assert heat.first_seconds == 20.5
    assert heat.share == 40 / 81
    assert heat.clock_ratio == pytest.approx(0.88)
    assert heat.throughput_ratio == pytest.approx(0.88)
    assert cap.share == 1.0
    assert isinstance(cap.throughput_ratio, Absent)


@pytest.mark.parametrize(
    ("bit", "severity"),
    [(0x2, "information"), (0x4, "information"), (0x8, "fault"), (0x20, "warning"), (0x40, "fault"), (0x80, "fault")],
)
def test_each_reason_has_its_severity_and_idleness_none(bit, severity):
    ticks = [100.0, 101.0, 102.0]
    found = verdict.throttling(soaked(Absent("none"), 102.0, ticks, series(throttle_bits=(1, bit | 1, bit))))
    assert [(it.bit, it.severity, it.share) for it in found] == [(bit, severity, 2 / 3)]


@pytest.mark.parametrize(
    ("watts", "limit", "severity"),
    [(310.0, 320.0, "information"), (200.0, 320.0, "warning"), (200.0, Absent("not reported"), "information")],
)
def test_a_power_cap_far_below_the_limit_is_warned_of(watts, limit, severity):
    blank = dict.fromkeys(Gpu.__struct_fields__, Absent("not asked"))
    gpu = Gpu(**blank | {"index": 0, "power_limit_watts": limit})
    ticks = [100.0, 101.0, 102.0]
    for bits, expected in (((4, 4, 4), severity), ((4, 0, 0), "information")):
        own = series(throttle_bits=bits, power_watts=(watts,) * 3)
        (found,) = verdict.throttling(soaked(Absent("none"), 102.0, ticks, own, gpu))
        assert (found.severity, found.watts) == (expected, watts)
    (other,) = verdict.throttling(soaked(Absent("none"), 102.0, ticks, series(throttle_bits=(2,) * 3), gpu))
    assert other.severity == "information"


def test_windows_held_down_for_less_than_half_of_their_ticks_are_on_neither_side():
    rates = [100e12] * 12 + [60e12] * 10 + [80e12] * 10
    ticks = [100.0 + 0.125 * i for i in range(129)]
    bits = tuple(4 if at > 111.0 or (at > 106.0 and i % 4 == 1) else 0 for i, at in enumerate(ticks))
    (found,) = verdict.throttling(soaked(load(rates), 116.0, ticks, series(throttle_bits=bits)))
    assert found.throughput_ratio == pytest.approx(0.8)


def test_a_load_ends_two_degrees_below_the_slowdown():
    assert verdict.too_hot(88.0, 90.0) == "it reached 88 °C, and slows down at 90"
    assert verdict.too_hot(87.9, 90.0) == verdict.too_hot(Absent("not read"), 90.0) == ""


def test_a_load_of_ten_seconds_has_a_cold_and_a_hot_phase_and_a_steady_state():
    ticks = [100.0 + 0.5 * i for i in range(25)]
    own = series(power_watts=(300.0,) * 25, temperature_celsius=tuple(60.0 + i for i in range(25)))
    for windows, seconds in ((20, 10.0), (24, 12.0)):
        card = verdict.card(soaked(load([1e14] * windows), 100.0 + seconds, ticks, own))
        assert (card.cold.from_seconds, card.cold.to_seconds) == (0.0, 3.0)
        first = next(0.5 * i for i in range(windows) if 0.5 * (i + 1) > seconds * 2 / 3)
        assert (card.hot.from_seconds, card.hot.to_seconds) == (first, seconds)
        assert card.steady.from_seconds == pytest.approx(seconds * 2 / 3)
        assert card.steady.watts.value == pytest.approx(300.0)


def test_ticks_before_the_load_are_not_counted():
    found = verdict.throttling(soaked(Absent("none"), 102.0, [99.0, 101.0], series(throttle_bits=(0x80, 0))))
    assert found == ()


TICKS = [float(i) for i in range(200)]


def moving(step: float, base: float) -> tuple[float, ...]:
    return tuple(base + step * (i * 7 % 11) for i in range(200))


def test_power_that_stands_still_is_named():
    own = series(power_watts=moving(0.1, 300)[:60] + (301.25,) * 140, temperature_celsius=moving(1, 70))
    assert frozen(TICKS, own, 0.0, 199.0) == [
        "its power has read 301.25 W without any change for the last 139 s: do not trust it"
    ]


def test_all_sensors_that_stand_still_together_are_named_once():
    own = series(power_watts=(301.0,) * 200, temperature_celsius=(70.0,) * 200, sm_clock_hertz=(2e9,) * 200)
    assert frozen(TICKS, own, 0.0, 199.0) == [
        "all its sensors have said the same for the last 199 s: the driver may be stuck"
    ]


def test_a_temperature_may_stand_still():
    own = series(power_watts=moving(0.1, 300), temperature_celsius=(70.0,) * 200, sm_clock_hertz=(2e9,) * 200)
    assert frozen(TICKS, own, 0.0, 199.0) == []


def test_throughput_falls_by_the_degree_and_follows_the_clock():
    draw = random.Random(4)
    ticks = [100.0 + 0.5 * i for i in range(241)]
    celsius = tuple(40.0 + 40.0 * (1 - 0.97**i) for i in range(241))
    clocks = tuple(2.5e9 * (1 - 0.002 * (value - 40.0)) for value in celsius)
    rates = [100e12 * clock / 2.5e9 * draw.gauss(1, 0.002) for clock in clocks[1:]]
    own = series(temperature_celsius=celsius, sm_clock_hertz=clocks, power_watts=(300.0,) * 241)
    card = verdict.card(soaked(load(rates), 220.0, ticks, own))
    level = sorted(rates)[120] / 100e12
    assert isinstance(card.per_celsius, Estimate)
    assert card.per_celsius.low <= -0.002 / level <= card.per_celsius.high
    assert card.per_celsius.high < 0
    assert isinstance(card.per_clock, Estimate)
    assert card.per_clock.value == pytest.approx(1.0, abs=0.05)
    assert isinstance(card.hot_over_cold, Estimate)
    cold, hot = sum(rates[:6]) / 6, sum(rates[160:]) / 80
    assert card.hot_over_cold.low <= hot / cold <= card.hot_over_cold.high
    assert card.hot_over_cold.value == pytest.approx(hot / cold, rel=0.001)
    assert card.flop_per_joule.value == pytest.approx(hot / 300.0, rel=0.001)
    assert msgspec.json.decode(msgspec.json.encode(card), type=type(card)) == card


def test_a_temperature_that_hardly_moved_tells_no_slope():
    ticks = [100.0 + 0.5 * i for i in range(121)]
    own = series(temperature_celsius=(70.0, *moving(0.01, 70.0)[:120]), power_watts=(300.0,) * 121)
    card = verdict.card(soaked(load([1e14] * 120), 160.0, ticks, own))
    assert card.per_celsius == Absent("the temperature moved by 0 °C only")


def test_a_short_load_has_neither_cold_nor_hot():
    own = series()
    card = verdict.card(soaked(load([1e14] * 8), 104.0, [100.0, 104.0], own))
    assert card.hot == Absent("4.0 s of load are too short to separate cold from hot")
    assert card.hot_over_cold == card.hot
    assert card.flop_per_joule == card.hot


def test_a_reading_that_comes_while_the_curve_is_looked_at_belongs_to_the_next_look():
    """The sampler's thread adds to it whenever it likes."""

    class Growing(list):
        def __iter__(self):
            found = list(super().__iter__())
            self.append((found[-1][0] + 0.1, 70.0))
            return iter(found)

    curve = Growing((100.0 + tick / 10, 70.0 + tick % 2) for tick in range(3000))
    watch = SimpleNamespace(curves={"GPU0": {"temperature": curve}})
    assert command._settled(load([1e12] * 600), watch, "GPU0") in (True, False)
    assert len(curve) == 3001


def test_throughput_that_holds_is_settled_and_one_that_drifts_is_not():
    draw = random.Random(1)
    at = [0.5 * (i + 1) for i in range(240)]
    steady = heat_fit.throughput_settled(at, [1e12 * draw.gauss(1, 0.01) for _ in at])
    assert steady.settled
    falling = heat_fit.throughput_settled(at, [1e12 * (1 - 0.05 * moment / 120) * draw.gauss(1, 0.01) for moment in at])
    assert not falling.settled
    assert falling.left == pytest.approx(0.05, abs=0.03)
    assert not heat_fit.throughput_settled(at[:20], [1e12] * 20).settled
    assert not heat_fit.throughput_settled([], []).settled


@dataclass
class Held:
    slope: int = 0
    theil_sen: int = 0
    mean: int = 0


def test_the_intervals_of_slopes_and_means_hold_the_truth_about_90_times_in_100():
    held = Held()
    for seed in range(600):
        draw = random.Random(seed)
        values = [5.0 + 0.02 * i + draw.gauss(0, 1) for i in range(60)]
        slope = trends.slope([float(i) for i in range(60)], values)
        held.slope += slope.low <= 0.02 <= slope.high
        robust = trends.theil_sen([(float(i), value) for i, value in enumerate(values)])
        assert isinstance(robust, Estimate)
        held.theil_sen += robust.low <= 0.02 <= robust.high
        mean = trends.mean([draw.gauss(7.0, 2.0) for _ in range(50)])
        held.mean += mean.low <= 7.0 <= mean.high
    assert all(518 <= count <= 562 for count in vars(held).values()), held  # 540 and three deviations of a binomial


def test_a_ratio_of_what_may_be_zero_is_not_made_up():
    one = Estimate(value=2.0, low=-1.0, high=5.0, level=0.9, method="m", n=3)
    two = msgspec.structs.replace(one, low=1.0)
    assert ratio(one, two) == Absent("an interval reaches zero")
    assert ratio(Absent("gone"), two) == Absent("gone")
    assert ratio(two, two).value == 1.0
