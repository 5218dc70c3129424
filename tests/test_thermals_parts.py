"""Do the parts of a soak's summary say what their numbers mean: what held clocks, what froze, what follows what?"""

from __future__ import annotations

import io
import itertools
import math
import random
import statistics
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
from rigbench.core.record import Absent, Device, Figure, SensorSeries
from rigbench.document import Run
from rigbench.job import Job
from rigbench.machine.record import Gpu
from rigbench.machine.rig import Rig
from rigbench.matmul.record import MatmulCheck
from rigbench.thermals import command, verdict
from rigbench.thermals import fit as heat_fit
from rigbench.thermals import screen as render
from rigbench.thermals.record import HeatCard, HeatLoad, PowerAdvice, PowerPoint, Thermals
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


HALVES = [100.0 + 0.5 * i for i in range(241)]  # two ticks a second, two minutes
NONE = Absent("none")


def named(index: int, **facts: object) -> Gpu:
    blank = dict.fromkeys(Gpu.__struct_fields__, Absent("not asked"))
    return Gpu(**blank | {"index": index, "name": f"card {index}"} | facts)


def result(cards: Sequence[HeatCard], **facts: object) -> Thermals:
    base: dict[str, object] = {
        "method": 1,
        "seconds": 60.0,
        "replayed": False,
        "label": Absent("no label"),
        "ambient_celsius": Absent("not declared"),
        "cards": tuple(cards),
        "hottest": Absent("one device"),
        "spread_celsius": Absent("one device"),
        "ended_by": "time limit",
        "ended_because": "",
        "telemetry": telemetry(HALVES, series()),
        "power": Absent("not looked for"),
        "notes": (),
    }
    return Thermals(**base | facts)  # type: ignore[arg-type]


def test_only_answers_under_load_are_readings():
    own = series(temperature_celsius=(90.0, 60.0, Absent("timed out"), 62.0, 95.0))
    it = soaked(NONE, 103.0, [99.0, 100.0, 101.0, 103.0, 104.0], own)
    assert it.readings(own.temperature_celsius) == ([0.0, 3.0], [60.0, 62.0])
    card = verdict.card(it)
    assert (card.peak_celsius, card.loaded_seconds) == (62.0, 3.0)
    assert it.mean(own.temperature_celsius, 0.0, 3.0) == 61.0
    assert it.mean(own.temperature_celsius, 0.5, 2.0) == Absent("no reading fell into it")
    blind = verdict.card(soaked(NONE, 103.0, [99.0], series(temperature_celsius=(90.0,))))
    assert blind.peak_celsius == Absent("no reading under load")


def test_a_card_without_a_sensor_says_why():
    card = verdict.card(soaked(load([1e14] * 240), 220.0, HALVES, series()))
    why = Absent("not supported")
    assert card.fit == card.peak_celsius == card.per_celsius == card.per_clock == why
    assert card.missing == dict.fromkeys(("temperature", "power", "clock", "throttle reasons"), "not supported") | {
        "fan": series().fan_share.reason
    }
    counted = verdict.card(soaked(NONE, 220.0, HALVES, series(energy_joules=tuple(float(i) for i in range(241)))))
    assert "power" not in counted.missing


@pytest.mark.parametrize(
    ("work", "celsius", "what"),
    [(True, True, "temperature"), (True, False, "throughput"), (False, False, "nothing")],
)
def test_a_soak_is_settled_by_what_can_be_read(work: bool, celsius: bool, what: str):
    own = series(temperature_celsius=(70.0,) * 241) if celsius else series()
    card = verdict.card(soaked(load([1e14] * 240) if work else NONE, 220.0, HALVES, own))
    assert card.settled.what == what


@pytest.mark.parametrize("room", [25.0, Absent("not declared")])
def test_the_rise_is_above_the_room(room: float | Absent):
    ambient = Figure(room, "declared", "--ambient") if isinstance(room, float) else room
    it = soaked(NONE, 220.0, HALVES, series(temperature_celsius=(70.0,) * 241))._replace(ambient=ambient)
    rise = verdict.card(it).rise_over_ambient_celsius
    if isinstance(room, float):
        assert isinstance(rise, Estimate)
        assert (rise.value, rise.high - rise.low) == (pytest.approx(45.0), pytest.approx(0.74, abs=0.01))
        few = soaked(NONE, 220.0, HALVES[:5], series(temperature_celsius=(70.0,) * 5))._replace(ambient=ambient)
        assert verdict.card(few).rise_over_ambient_celsius == verdict.card(few).fit
    else:
        assert rise == room


@pytest.mark.parametrize(
    ("seconds", "count", "cold", "hot"),
    [
        (2.0, 8, (0.0, 6.0), (10.0, 16.0)),  # one window ends within three seconds: the first three are taken
        (4.0, 4, (0.0, 12.0), (4.0, 16.0)),  # and of the last third, two
        (0.5, 60, (0.0, 3.0), (20.0, 30.0)),
    ],
)
def test_cold_and_hot_are_of_three_windows_at_least(seconds, count, cold, hot):
    rates = [1e14 - 1e11 * i for i in range(count)]
    ticks = [100.0 + 0.5 * i for i in range(121)]
    own = series(temperature_celsius=tuple(20.0 + i for i in range(121)), power_watts=(300.0,) * 121)
    card = verdict.card(soaked(load(rates, seconds), 100.0 + seconds * count, ticks, own))
    for phase, (start, end) in ((card.cold, cold), (card.hot, hot)):
        assert (phase.from_seconds, phase.to_seconds) == (pytest.approx(start), end)
        inside = rates[round(start / seconds) : round(end / seconds)]
        assert phase.flops_per_s.value == pytest.approx(len(inside) / sum(1 / rate for rate in inside), rel=1e-3)
        assert phase.temperature_celsius == pytest.approx(20.0 + start + end)  # two ticks a second, a degree each
        assert phase.power_watts == 300.0
        assert phase.sm_clock_hertz == Absent("not supported")


def test_a_load_without_a_window_is_too_short():
    card = verdict.card(soaked(load([]), 100.0, [100.0], series()))
    assert card.cold == card.hot == Absent("0.0 s of load are too short to separate cold from hot")
    assert card.steady == Absent("0.0 s of load are too short for a steady state")


@pytest.mark.parametrize("count", [10, 9])
def test_ten_power_readings_have_an_interval_of_their_own(count):
    """Of the last third, as energy over time is."""
    ticks = [100.0 + (i + 0.5) * 10 / count for i in range(3 * count)]
    watts = tuple(300.0 + (i % 3) for i in range(len(ticks)))
    steady = verdict.card(soaked(NONE, 130.0, ticks, series(power_watts=watts))).steady
    assert (steady.from_seconds, steady.to_seconds) == (pytest.approx(20.0), 30.0)
    last = watts[-count:]
    assert steady.watts.value == pytest.approx(sum(last) / count, abs=0.2)
    spread = trends.mean(last) if count == 10 else Estimate(0.0, 0.0, 0.0, 0.0, "", 1)
    assert steady.watts.high - steady.watts.value == pytest.approx((spread.high - spread.low) / 2)
    assert steady.watts.value - steady.watts.low == pytest.approx((spread.high - spread.low) / 2)
    assert (steady.watts.level, steady.watts.n) == ((0.9, 10) if count == 10 else (0.0, 1))
    assert (count == 10) is (steady.watts.high > steady.watts.value)


def test_watts_are_never_below_zero():
    swings = tuple(2000.0 * (i % 40 == 0) for i in range(241))
    steady = verdict.card(soaked(NONE, 220.0, HALVES, series(power_watts=swings))).steady
    assert 0 < steady.watts.low <= 0.001 < steady.watts.value < steady.watts.high


@pytest.mark.parametrize(
    ("windows", "pieces"),
    [(29, 0), (30, 10), (32, 10), (90, 30), (180, 60), (200, 60)],  # of three windows at least, and sixty at most
)
def test_a_slope_is_over_pieces_of_the_load(windows: int, pieces: int):
    draw = random.Random(windows)
    rates = [1e14 * draw.uniform(0.8, 1.0) for _ in range(windows)]
    celsius = tuple(draw.uniform(60.0, 80.0) for _ in range(241))
    work = load(rates)
    found = verdict.card(soaked(work, 220.0, HALVES, series(temperature_celsius=celsius))).per_celsius
    if not pieces:
        assert isinstance(found, Absent)
        return
    assert isinstance(found, Estimate)
    edges = [it * windows // pieces for it in range(pieces + 1)]
    means = [statistics.fmean(celsius[first : last + 1]) for first, last in itertools.pairwise(edges)]
    sums = [sum(work.products[first:last]) / (last - first) for first, last in itertools.pairwise(edges)]
    level = statistics.median(sums)
    slopes = [(sums[i] - sums[j]) / level / (means[i] - means[j]) for i, j in itertools.combinations(range(pieces), 2)]
    assert found.n == pieces
    assert found.value == pytest.approx(statistics.median(slopes))


@pytest.mark.parametrize(("degrees", "told"), [(5.0, True), (4.9, False)])
def test_a_temperature_has_moved_by_five_degrees(degrees: float, told: bool):
    celsius = tuple(70.0 + degrees * (i % 13) / 12 for i in range(241))
    found = verdict.card(soaked(load([1e14] * 240), 220.0, HALVES, series(temperature_celsius=celsius))).per_celsius
    assert isinstance(found, Estimate) is told
    assert told or found == Absent("the temperature moved by 5 °C only")


@pytest.mark.parametrize(("share", "told"), [(0.015, True), (0.008, False)])
def test_a_clock_has_moved_by_a_percent(share: float, told: bool):
    clocks = tuple(2.5e9 * (1 - share * i / 240) for i in range(241))
    rates = [1e14 * (1 - share * i / 240) for i in range(240)]
    found = verdict.card(soaked(load(rates), 220.0, HALVES, series(sm_clock_hertz=clocks))).per_clock
    if told:
        assert isinstance(found, Estimate)
        assert found.value == pytest.approx(1.0, abs=0.1)
    else:
        assert found == Absent("the clock moved by 0.8% only")


def test_a_sensor_that_never_answered_moved_by_nothing():
    silent = (Absent("timed out"),) * 241
    own = series(temperature_celsius=silent, sm_clock_hertz=silent)
    card = verdict.card(soaked(load([1e14] * 240), 220.0, HALVES, own))
    assert card.per_celsius == Absent("the temperature moved by 0 °C only")
    assert card.per_clock == Absent("the clock moved by 0.0% only")
    assert verdict.card(soaked(NONE, 220.0, HALVES, own)).per_celsius == NONE


@pytest.mark.parametrize(("held", "free", "told"), [(5, 5, True), (4, 9, False), (9, 4, False)])
def test_five_ticks_and_windows_on_either_side_are_compared(held: int, free: int, told: bool):
    rates = [2e10] * held + [4e10] * free  # five and ten products a window
    ticks = [100.5 + 0.5 * i for i in range(held + free)]  # at each window's end, which is its own
    bits = (0x20,) * held + (0,) * free
    clocks = (1.2e9,) * held + (2.4e9,) * free
    work = load(rates)
    assert set(work.products) == {5, 10}
    ended = 100.0 + 0.5 * (held + free)
    (found,) = verdict.throttling(soaked(work, ended, ticks, series(throttle_bits=bits, sm_clock_hertz=clocks)))
    assert found.share == held / (held + free)
    nothing = verdict.NOTHING_TO_COMPARE
    assert (found.clock_ratio, found.throughput_ratio) == ((0.5, 0.5) if told else (nothing, nothing))


def test_windows_are_compared_by_all_their_work_over_all_their_time():
    """The slow ones are fewer, and shorter by the device's own clock."""
    work = load([4e10] * 12 + [2e10] * 6)
    seconds = (0.5,) * 12 + (0.4,) * 6
    ticks = [100.25 + 0.5 * i for i in range(18)]
    own = series(throttle_bits=(0,) * 12 + (0x20,) * 6)
    (found,) = verdict.throttling(soaked(msgspec.structs.replace(work, seconds=seconds), 109.0, ticks, own))
    assert found.throughput_ratio == pytest.approx((5 / 0.4) / (10 / 0.5))


def test_a_window_without_a_tick_is_on_neither_side_and_half_of_its_ticks_are_enough():
    rates = [4e10] * 10 + [2e10] * 10
    sparse = [100.5 + i for i in range(10)]  # every other window
    own = series(throttle_bits=(0,) * 5 + (0x20,) * 5)
    (found,) = verdict.throttling(soaked(load(rates), 110.0, sparse, own))
    assert found.throughput_ratio == 0.5
    twice = [100.25 + 0.25 * i for i in range(40)]
    for half, told in (((0x20, 0), True), ((0, 0), False)):
        own = series(throttle_bits=(0, 0) * 10 + half * 5 + (0x20, 0x20) * 5)
        (found,) = verdict.throttling(soaked(load([4e10] * 10 + [1e10] * 5 + [2e10] * 5), 110.0, twice, own))
        low, high = ((2 * 5 + 5 * 5) / 10, 10.0) if told else (5.0, (10 * 10 + 2 * 5) / 15)
        assert found.throughput_ratio == pytest.approx(low / high)


def test_a_clock_that_reads_zero_is_no_measure():
    ticks = [100.0 + i for i in range(12)]
    own = series(throttle_bits=(0x20,) * 6 + (0,) * 6, sm_clock_hertz=(1e9,) * 6 + (0.0,) * 6)
    (found,) = verdict.throttling(soaked(NONE, 112.0, ticks, own))
    assert found.clock_ratio == Absent("the clock reads 0")


def test_ticks_that_were_not_answered_are_none_and_reasons_stand_longest_first():
    silent = Absent("timed out")
    ticks = [100.0 + i for i in range(6)]
    own = series(throttle_bits=(silent, 0x2, 0x12, 0x10, 0x10, silent), power_watts=(silent, silent, *(200.0,) * 4))
    found = verdict.throttling(soaked(NONE, 106.0, ticks, own))
    assert [(it.bit, it.share, it.first_seconds, it.watts) for it in found] == [
        (0x10, 0.75, 2.0, 200.0),
        (0x2, 0.5, 1.0, 200.0),
    ]
    own = series(throttle_bits=(0x2,) * 6, power_watts=(silent,) * 6)
    (found,) = verdict.throttling(soaked(NONE, 106.0, ticks, own))
    assert found.watts == Absent("no reading fell into it")


@pytest.mark.parametrize(
    ("watts", "held", "severity"),
    [
        (288.0, 4, "information"),  # nine tenths of the limit
        (287.9, 4, "warning"),
        (200.0, 2, "warning"),  # half of the time
        (200.0, 1, "information"),
        (Absent("not supported"), 4, "information"),
    ],
)
def test_a_power_cap_is_odd_below_nine_tenths_of_the_limit_half_of_the_time(watts, held, severity):
    column = watts if isinstance(watts, Absent) else (watts,) * 4
    own = series(throttle_bits=(4,) * held + (0,) * (4 - held), power_watts=column)
    it = soaked(NONE, 104.0, [100.0, 101.0, 102.0, 103.0], own, named(0, power_limit_watts=320.0))
    assert [it.severity for it in verdict.throttling(it)] == [severity]


def test_only_a_replayed_load_is_said_to_have_been_stopped():
    own = series(temperature_celsius=tuple(60.0 + i for i in range(40)))
    ticks = [100.0 + i for i in range(40)]
    stopped = "a live test would have been stopped after 28 s, at 88 °C"
    for work, limit, told in (
        (NONE, 90.0, True),
        (load([1e14] * 78), 90.0, False),
        (NONE, Absent("not reported"), False),
        (NONE, 120.0, False),
    ):
        card = verdict.card(soaked(work, 139.0, ticks, own, named(0, slowdown_celsius=limit)))
        assert (stopped in card.notes) is told
    assert verdict.card(soaked(NONE, 139.0, ticks, own)).notes == ()


def test_wrong_products_and_a_lost_card_are_faults():
    checks = tuple(MatmulCheck(16, 16, error, error <= 1) for error in (0.1, 30.0, 4.0, 0.5))
    work = msgspec.structs.replace(load([1e14] * 40), checks=checks)
    card = verdict.card(soaked(work, 120.0, [100.0, 120.0], series())._replace(lost="GPU is lost"))
    assert card.faults == (
        "GPU is lost after 20 s of load; what it reported before is kept",
        "2 of 4 checked products were wrong, by up to 30 times what rounding allows",
    )
    assert verdict.faults(result([card])) == [f"thermals GPU0: {fault}" for fault in card.faults]
    fine = verdict.card(soaked(load([1e14] * 40), 120.0, [100.0, 120.0], series()))
    assert fine.faults == ()
    ends = {"time limit": [], "safety stop": ["thermals: too hot"], "sensors silent": ["thermals: too hot"]}
    for ended_by, lines in ends.items():
        assert verdict.faults(result([fine], ended_by=ended_by, ended_because="too hot")) == lines


def test_cards_are_played_with_their_own_sensors_until_they_are_lost():
    lost, silent = Absent("GPU is lost"), Absent("not supported")
    at = [0.0, 1.0, 2.0, 3.0]
    sensors = telemetry(
        at,
        series("GPU0", temperature_celsius=(50.0, 52.0, lost, lost)),
        series("GPU1", temperature_celsius=(60.0, 61.0, 62.0, 63.0)),
        series("GPU2"),
    )
    gpus = [named(0), named(1, name=silent), named(2), named(3)]
    found = verdict.played(gpus, sensors)
    assert [(it.name, it.device_name, it.index) for it in found] == [
        ("GPU0", "card 0", 0),
        ("GPU1", "unknown GPU", 1),
        ("GPU2", "card 2", 2),
    ]
    assert [(it.loaded_seconds, it.peak_celsius) for it in found] == [(2.0, 52.0), (3.0, 63.0), (3.0, silent)]
    assert [it.faults for it in found] == [
        ("GPU is lost after 2 s of load; what it reported before is kept",),
        (),
        (),
    ]


def test_the_hottest_is_told_with_how_far_the_coolest_is_below():
    def card(name: str, celsius: float | Absent, ended: float = 220.0) -> HeatCard:
        column = celsius if isinstance(celsius, Absent) else (*(celsius - 5,) * 60, *(celsius,) * 180, celsius + 3)
        it = soaked(NONE, ended, HALVES, series(temperature_celsius=column))
        return msgspec.structs.replace(verdict.card(it), name=name)

    silent = Absent("not supported")
    peak = card("GPU2", 70.0, ended=109.0)  # too short to be steady: by its peak, 65 degrees
    cool, hot = card("GPU0", 60.0), card("GPU1", 72.0)
    steady = {it.name: it.steady.temperature_celsius for it in (cool, hot)}
    assert verdict.hottest([cool, hot]) == ("GPU1", pytest.approx(steady["GPU1"] - steady["GPU0"]))
    assert verdict.hottest([hot, cool, peak, card("GPU3", silent)]) == (
        "GPU1",
        pytest.approx(steady["GPU1"] - steady["GPU0"]),
    )
    assert verdict.hottest([cool, peak])[0] == "GPU2"
    assert verdict.hottest([hot]) == verdict.hottest([]) == (Absent("one device"),) * 2
    assert verdict.hottest([card("GPU3", silent)] * 2) == (Absent("no temperature was read"),) * 2
    assert verdict.hottest([hot, card("GPU3", silent)]) == ("GPU1", 0.0)


def test_a_sweep_needs_watts_a_label_and_runs_that_have_them(tmp_path):
    job = Job(store.Store(tmp_path), cpu_only({}), "thermals", Silent())
    now = labelled(job.run, "320W", 320.0, 315.0, 97e12, "6")
    others = [
        labelled(job.run, f"{watts}W", float(watts), watts - 1.0, watts * 3e11, str(watts)) for watts in (150, 200)
    ]

    def changed(run: Run, **facts: object) -> Run:
        return msgspec.structs.replace(run, thermals=msgspec.structs.replace(run.thermals, **facts))

    def count(*earlier: Run) -> int:
        found = verdict.power(now.thermals, now, earlier)
        return len(found.points) if isinstance(found, PowerAdvice) else int(found.reason.split()[0])

    (card,) = others[0].thermals.cards
    assert count(*others) == 3
    assert count(msgspec.structs.replace(others[0], thermals=Absent("not asked for")), others[1]) == 2
    assert count(changed(others[0], label=Absent("no label")), others[1]) == 2
    for facts in (
        {"steady": Absent("too short")},
        {"steady": msgspec.structs.replace(card.steady, watts=Absent("no sensor"))},
        {"hot": Absent("too short")},
    ):
        assert count(changed(others[0], cards=(msgspec.structs.replace(card, **facts),)), others[1]) == 2
    unlabelled = verdict.power(msgspec.structs.replace(now.thermals, label=Absent("no label")), now, others)
    assert unlabelled == Absent("no label; runs at three or more power limits show where watts stop paying")
    short = changed(now, cards=(msgspec.structs.replace(card, steady=Absent("4 s are too short")),))
    assert verdict.power(short.thermals, short, others) == Absent("no watts: 4 s are too short")
    blind = changed(now, cards=(msgspec.structs.replace(card, steady=Absent("no sensor")),))
    assert verdict.power(blind.thermals, blind, others).reason.startswith("no watts: no sensor; a sweep needs a power")


def test_the_cards_of_a_soak_add_up_to_one_point():
    ticks = [100.0 + 0.5 * i for i in range(121)]
    own = series(power_watts=(250.0,) * 121)
    facts = ((0, 300.0), (1, 280.0), (2, Absent("not reported")))
    cards = [
        verdict.card(soaked(load([(1 + index) * 1e14] * 120), 160.0, ticks, own, named(index, power_limit_watts=limit)))
        for index, limit in facts
    ]
    found = verdict._point("a", "1", [*cards, verdict.card(soaked(load([1e14] * 120), 160.0, ticks, own))])
    assert found.watts == pytest.approx(1000.0)
    assert found.flops_per_s.value == pytest.approx(7e14, rel=1e-3)
    assert found.limits_watts == ((0, 300.0), (1, 280.0))


@pytest.mark.parametrize(
    ("rates", "ending", "plateau"),
    [
        ((10_000.0, 12_000.0, 12_100.0), "that is the lowest of the sweep, the best may lie beyond", ("a",)),
        ((5_000.0, 20_000.0, 21_000.0), "for 67 % of its watts", ("b",)),
        ((5_000.0, 12_000.0, 30_000.0), "that is the highest of the sweep, the best may lie beyond", ("c",)),
        ((9_700.0, 20_000.0, 29_400.0), "for 67 % of its watts", ("a", "b", "c")),  # 3 % less is as good
        ((9_699.0, 20_000.0, 29_400.0), "for 67 % of its watts", ("b", "c")),
    ],
)
def test_a_knee_at_either_end_may_lie_beyond(rates, ending, plateau):
    """At 100, 200 and 300 W."""
    points = [point(label, watts, rate) for label, watts, rate in zip("abc", (100.0, 200.0, 300.0), rates, strict=True)]
    found = verdict.advice(points[::-1])
    assert isinstance(found, PowerAdvice)
    assert found.plateau == plateau
    if rates[2] == 29_400.0:
        assert found.sentence == f"most work per joule at b, within 3 % of it: {plateau[0]} to c"
    else:
        assert found.sentence.endswith(ending)


@pytest.mark.parametrize(("count", "said"), [(0, "0 labelled runs"), (1, "1 labelled run"), (2, "2 labelled runs")])
def test_labelled_runs_are_counted(count: int, said: str):
    found = verdict.advice([point(str(i), 100.0 + i, 100.0) for i in range(count)])
    assert found.reason.startswith(f"{said} of this rig with watts and throughput, {3 - count} more needed")


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


@pytest.mark.parametrize("answers", [True, False])
def test_a_look_is_at_the_readings_under_load_that_were_answered(answers, monkeypatch):
    moments = [100.0 + 2 * tick for tick in range(600)]
    celsius = [70.0 + tick % 2 if answers and tick != 500 else math.nan for tick in range(600)]
    asked, looked = [], []
    watch = SimpleNamespace(curve=lambda *asked_for: asked.append(asked_for) or (moments, celsius))
    monkeypatch.setattr(verdict, "settled", lambda load, at, celsius, fit: looked.append((at, celsius)) or Yes())
    assert command._settled(load([1e12] * 600), watch, "GPU0")
    assert asked == [("GPU0", "temperature_celsius", 100.0, 600)]
    pairs = [(at - 100.0, it) for at, it in zip(moments, celsius, strict=True) if it == it]
    assert list(zip(*looked[0], strict=True)) == pairs
    assert len(pairs) == (599 if answers else 0)


class Yes:
    settled = True


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
