"""Do a watch's parts hold: what windows hint at, what adds up in constant memory, what the host and its files tell?"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from scripted_sensors import cpu_only, rig

from rigbench.core.record import Absent
from rigbench.machine.host_load import (
    HostLoad,
    ProcessLoad,
    ProcessLoads,
    parse_diskstats,
    parse_process_ticks,
    parse_stat,
)
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import Answer, ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.monitor import readings, recording
from rigbench.monitor.readings import SlowBeat
from rigbench.monitor.record import (
    Gone,
    GpuTick,
    HostTick,
    MonitorCard,
    MonitorHeader,
    MonitorTick,
    Options,
    Watched,
    WatchedEnergy,
)
from rigbench.monitor.summary import EnergyTally, Fold, Tally
from rigbench.monitor.verdict import CardWindow, HostWindow, Window, hints

GIB = 1 << 30
N = 61
NOTHING = Absent("not read")


def card(device: str, busy: object, used: float = 14 * GIB, watts: float = 0.9, **more: object) -> CardWindow:
    busy = [busy] * N if isinstance(busy, float) else busy
    facts = {"throttle_share": {}, "processes": ("python 7",)} | more
    return CardWindow(device, "Card", 16.0 * GIB, busy, [used] * N, [watts] * N, **facts)  # type: ignore[arg-type]


def window(*cards: CardWindow, cpu: float = 0.1, iowait: float = 0.0, full: float = 0.0, reads: float = 0.0) -> Window:
    return Window(60.0, N, cards, HostWindow([cpu] * N, [iowait] * N, [full] * N, [reads] * N))


def told(seen: Window) -> list[tuple[str, tuple[str, ...]]]:
    return [(hint.code, hint.where) for hint in hints(seen)]


SWINGING = [1.0, 1.0, 0.1] * 20 + [1.0]


def test_a_healthy_run_is_left_alone():
    rng = random.Random(3)
    for _ in range(100):
        healthy = [[min(1.0, rng.gauss(0.97, 0.03)) for _ in range(N)] for _ in range(2)]
        assert told(window(card("GPU0", healthy[0]), card("GPU1", healthy[1]), cpu=0.95, reads=1e9)) == []


def test_one_card_at_99_and_the_other_at_10_is_an_imbalance_with_its_evidence():
    (hint,) = hints(window(card("GPU0", 0.99), card("GPU1", 0.10), cpu=0.9))
    assert (hint.code, hint.severity, hint.where) == ("imbalance", "warning", ("GPU1",))
    assert hint.evidence == (
        "GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings",
        "GPU1 holds 14 GiB of 16 GiB",
        "GPU0 holds 14 GiB of 16 GiB",
    )
    assert "rigbench collectives" in hint.cure


def test_a_single_low_sample_or_cards_that_take_turns_are_no_imbalance():
    one_dip = [0.99] * 30 + [0.0] + [0.99] * 30
    assert told(window(card("GPU0", 0.99), card("GPU1", one_dip))) == []
    turns = [float(tick % 2) for tick in range(N)]
    other = [1 - value for value in turns]
    assert all(code != "imbalance" for code, _ in told(window(card("GPU0", turns), card("GPU1", other))))


def test_a_card_that_holds_nothing_is_unused_and_one_of_another_kind_is_not_compared():
    idle = card("GPU1", 0.0, used=0.1 * GIB, processes=())
    assert told(window(card("GPU0", 0.99), idle)) == [("unused-gpu", ("GPU1",))]
    assert told(window(card("GPU0", 0.99), idle._replace(name="Display Card"))) == []


def test_a_card_that_spins_in_a_collective_is_busy_and_draws_little():
    (hint,) = hints(window(card("GPU0", 0.99, watts=0.93), card("GPU1", 0.99, watts=0.45)))
    assert (hint.code, hint.where) == ("waits-for-peer", ("GPU1",))
    assert hint.evidence == (
        "busy over 1 min: GPU0 99 %, GPU1 99 %",
        "power: GPU0 93 % of its limit, GPU1 45 % of its limit",
    )


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ({"cpu": 0.9}, "while the CPU is busy"),
        ({"full": 1.0}, "while a core is at its limit"),
        ({"reads": 200e6}, "while the disk is read"),
        ({"iowait": 0.3}, "while the CPU waits for the disk"),
        ({"cpu": 0.9, "reads": 200e6}, "while the CPU is busy and the disk is read"),
    ],
)
@pytest.mark.parametrize("busy", [SWINGING, 0.4])
def test_a_model_in_memory_that_is_often_without_work_hints_at_its_data(busy: object, host: dict, cause: str):
    (hint,) = hints(window(card("GPU0", busy), card("GPU1", busy), **host))
    assert (hint.code, hint.where) == ("data-starvation", ("GPU0", "GPU1"))
    assert cause in hint.title
    assert hint.cure.startswith("rigbench dataloader")
    assert any("CPU" in text and "disks read" in text for text in hint.evidence)


def test_the_sawtooth_is_counted():
    (hint,) = hints(window(card("GPU0", SWINGING), cpu=0.9, reads=210e6))
    assert hint.evidence == (
        "GPU0 70 % busy over 1 min, up and down 20 times (below 30 % at 20 of 61 readings, above 80 % at 41); "
        "GPU0 holds 14 GiB of 16 GiB",
        "CPU 90 % busy, 0 cores at their limit, 0 % waiting for a disk, disks read 210 MB/s",
    )


def test_workers_at_their_limit_are_a_cause_on_a_host_of_many_cores():
    starved = card("GPU0", 0.4, workers_full=4.0)
    (hint,) = hints(window(starved, cpu=0.05))
    assert "its worker processes are at their limit" in hint.title


def test_without_a_busy_host_it_is_only_said_that_the_card_waits():
    (hint,) = hints(window(card("GPU0", 0.4)))
    assert hint.code == "gpu-waits"
    assert "the host does little" in hint.title
    unread = HostWindow(*[[NOTHING] * N] * 4)
    (hint,) = hints(window(card("GPU0", 0.4))._replace(host=unread))
    assert "the host's load cannot be read" in hint.title


def test_memory_held_by_an_idle_process_is_told_and_an_empty_idle_card_is_not():
    (hint,) = hints(window(card("GPU0", 0.0)))
    assert (hint.code, hint.evidence[1]) == ("held-idle", "held by python 7")
    assert told(window(card("GPU0", 0.0, used=0.2 * GIB))) == []


def test_a_card_that_is_not_busy_all_the_time_waits_for_no_peer():
    cards = card("GPU0", 0.97, watts=0.9), card("GPU1", 0.97, watts=0.3)
    assert told(window(*cards)) == [("waits-for-peer", ("GPU1",))]
    for busy in ((0.97, 0.8), (0.8, 0.97)):
        cards = card("GPU0", busy[0], watts=0.9), card("GPU1", busy[1], watts=0.3)
        assert told(window(*cards)) == []


def test_a_fifth_of_a_small_cards_memory_is_a_model():
    for used, codes in ((GIB, ["held-idle"]), (GIB - 1, [])):
        one = card("GPU0", 0.0, used=float(used))._replace(memory_total_bytes=5.0 * GIB)
        assert [code for code, _ in told(window(one))] == codes


@pytest.mark.parametrize(("cpu", "code"), [(0.75, "data-starvation"), (0.7, "data-starvation"), (0.69, "gpu-waits")])
def test_a_host_is_busy_from_seven_tenths_on(cpu: float, code: str):
    assert told(window(card("GPU0", 0.5), cpu=cpu)) == [(code, ("GPU0",))]


def test_hints_are_worst_first_whatever_they_are_about():
    cards = (
        card("GPU0", 0.6, throttle_share={"hw_thermal": 0.5}),
        card("GPU1", 0.0, used=0.0, processes=()),
        card("GPU2", 0.0)._replace(name="Other card"),
    )
    found = hints(window(*cards))
    assert [hint.severity for hint in found] == ["fault", "warning", "information", "information"]
    assert [hint.code for hint in found[:3]] == ["throttled-hw-thermal", "gpu-waits", "unused-gpu"]


def test_twenty_readings_are_enough_and_nineteen_are_not():
    for count, codes in ((20, ["gpu-waits"]), (19, [])):
        one = card("GPU0", [0.5] * count)
        assert [code for code, _ in told(window(one)._replace(ticks=count))] == codes
        idle = card("GPU0", [0.0] * count)
        assert [code for code, _ in told(window(idle)._replace(ticks=count))] == (["held-idle"] if codes else [])


def test_what_the_hardware_holds_down_is_a_fault_and_a_power_limit_is_none():
    held = card("GPU0", 0.99, throttle_share={"sw_power_cap": 1.0, "hw_thermal": 0.1, "sw_thermal": 0.1})
    (hint,) = hints(window(held))
    assert (hint.code, hint.severity) == ("throttled-hw-thermal", "fault")
    assert hint.evidence == ("hardware thermal slowdown at 10 % of the readings of 1 min",)


@pytest.mark.parametrize(
    ("lead", "behind", "codes"),
    [
        (0.5, 0.1, ["imbalance"]),  # a card is at work from half on
        (0.49, 0.1, []),
        (0.6, 0.3, ["imbalance"]),  # 30 points behind is far
        (0.6, 0.31, []),
    ],
)
def test_a_card_is_behind_by_thirty_points_of_one_that_works(lead: float, behind: float, codes: list[str]):
    found = told(window(card("GPU0", lead, used=0.0), card("GPU1", behind, used=0.0)))
    assert found == [(code, ("GPU1",)) for code in codes]


@pytest.mark.parametrize(
    ("busy", "watts", "codes"),
    [(0.9, 0.3, ["waits-for-peer"]), (0.89, 0.3, []), (0.9, 0.31, [])],
)
def test_a_card_that_waits_for_a_peer_is_nine_tenths_busy_at_thirty_points_less_power(
    busy: float, watts: float, codes: list[str]
):
    for one, other in ((busy, 1.0), (1.0, busy)):
        found = told(window(card("GPU0", one, watts=0.6), card("GPU1", other, watts=watts)))
        assert found == [(code, ("GPU1",)) for code in codes]


@pytest.mark.parametrize(("behind", "count"), [(48, 1), (47, 0)])  # of 60
def test_a_card_is_behind_that_is_so_at_four_of_five_readings(behind: int, count: int):
    now_and_then = [0.0] * behind + [0.9] * (60 - behind)  # as busy as the other at the rest of them
    found = hints(window(card("GPU0", [0.9] * 60, used=0.0), card("GPU1", now_and_then, used=0.0)))
    assert [hint.code for hint in found] == ["imbalance"] * count
    assert all("GPU1 was behind at 48 of 60 readings" in hint.evidence[0] for hint in found)


@pytest.mark.parametrize(("common", "count"), [(20, 1), (19, 0), (0, 0)])
def test_two_cards_are_compared_at_twenty_readings_that_both_have(common: int, count: int):
    """Each has more of its own."""
    lead = [0.9] * (25 + common) + [NOTHING] * 25
    other = [NOTHING] * 25 + [0.1] * (25 + common)
    found = told(window(card("GPU0", lead, used=0.0), card("GPU1", other, used=0.0)))
    assert found == [("imbalance", ("GPU1",))] * count


@pytest.mark.parametrize(("readings", "leader"), [(20, "GPU0"), (19, "GPU1")])
def test_a_card_of_fewer_than_twenty_readings_leads_nobody(readings: int, leader: str):
    brief = [1.0] * readings + [NOTHING] * (N - readings)
    (hint,) = hints(window(card("GPU0", brief), card("GPU1", 0.9), card("GPU2", 0.1)))
    assert hint.evidence[0].startswith(f"{leader} ")


@pytest.mark.parametrize(
    ("busy", "used", "code"),
    [(0.019, 0.0, "unused-gpu"), (0.02, 0.0, "imbalance"), (0.0, 14.0 * GIB, "imbalance")],
)
def test_unused_is_a_card_that_does_nothing_and_holds_nothing(busy: float, used: float, code: str):
    assert told(window(card("GPU0", 0.99), card("GPU1", busy, used=used))) == [(code, ("GPU1",))]


@pytest.mark.parametrize(("busy", "code"), [(0.02, "gpu-waits"), (0.019, "held-idle")])
def test_two_percent_at_one_reading_is_work(busy: float, code: str):
    assert told(window(card("GPU0", [0.0] * 60 + [busy]))) == [(code, ("GPU0",))]


def test_memory_that_no_process_is_known_to_hold_is_not_called_held():
    assert told(window(card("GPU0", 0.0, processes=()))) == []
    (hint,) = hints(window(card("GPU0", 0.0, processes=("a 1", "b 2", "c 3", "d 4"))))
    assert hint.evidence[1] == "held by a 1, b 2, c 3"


@pytest.mark.parametrize("total", [16.0 * GIB, Absent("not reported")])
@pytest.mark.parametrize(("used", "codes"), [(2.0 * GIB, ["held-idle"]), (2.0 * GIB - 1, [])])
def test_two_gibibytes_are_a_model_on_any_card(total: float | Absent, used: float, codes: list[str]):
    one = card("GPU0", 0.0)._replace(memory_total_bytes=total)
    for before in (0.0, 14.0 * GIB):  # what it holds now counts
        seen = window(one._replace(memory_used_bytes=[before] * 60 + [used]))
        assert [code for code, _ in told(seen)] == codes
        assert all("holds 2 GiB" in hint.evidence[0] for hint in hints(seen))
    assert told(window(one._replace(memory_used_bytes=[NOTHING] * N))) == []


@pytest.mark.parametrize(("busy", "codes"), [(0.69, ["gpu-waits"]), (0.7, [])])
def test_a_card_without_swings_waits_below_seven_tenths(busy: float, codes: list[str]):
    assert [code for code, _ in told(window(card("GPU0", busy)))] == codes


@pytest.mark.parametrize(
    ("low", "high", "swings", "codes"),
    [
        (0.29, 0.81, 3, ["gpu-waits"]),
        (0.3, 0.81, 3, []),  # not low
        (0.29, 0.8, 3, []),  # not high
        (0.29, 0.81, 2, []),  # too seldom
    ],
)
def test_a_card_swings_from_below_three_tenths_to_above_eight_three_times(
    low: float, high: float, swings: int, codes: list[str]
):
    found = hints(window(card("GPU0", [*([high] * 18 + [low]) * swings, *[high] * 18])))
    assert [hint.code for hint in found] == codes
    assert all("up and down 3 times (below 30 % at 3 of 75 readings, above" in hint.evidence[0] for hint in found)


def test_readings_at_the_edges_are_neither_below_nor_above():
    (hint,) = hints(window(card("GPU0", [0.1, 0.3, 0.8, 0.9] * 6)))
    assert "up and down 6 times (below 30 % at 6 of 24 readings, above 80 % at 6)" in hint.evidence[0]


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ({"iowait": 0.1}, "the CPU waits for the disk"),
        ({"iowait": 0.09}, ""),
        ({"reads": 20e6}, "the disk is read"),
        ({"reads": 19.9e6}, ""),
        ({"reads": 20e6, "iowait": 0.1}, "the disk is read"),
        ({"full": 0.8}, "a core is at its limit"),
        ({"full": 0.79}, ""),
        ({"full": 0.8, "cpu": 0.9}, "the CPU is busy"),
    ],
)
def test_a_host_is_late_from_its_limits_on(host: dict[str, float], cause: str):
    (hint,) = hints(window(card("GPU0", 0.5), **host))
    assert hint.code == ("data-starvation" if cause else "gpu-waits")
    assert hint.title.startswith(f"GPU0 is often without work{f' while {cause}: ' if cause else ', and'}")


@pytest.mark.parametrize(("workers", "code"), [(1.0, "data-starvation"), (0.99, "gpu-waits")])
def test_one_worker_at_its_limit_is_a_cause(workers: float, code: str):
    seen = window(card("GPU0", 0.5, workers_full=workers), card("GPU1", 0.5, workers_full=0.2))
    (hint,) = hints(seen)
    assert (hint.code, hint.where) == (code, ("GPU0", "GPU1"))
    assert hint.title.startswith("GPU0, GPU1 are often without work")


@pytest.mark.parametrize(
    ("reason", "share", "severity"),
    [
        ("hw_slowdown", 0.05, "fault"),
        ("hw_thermal", 0.05, "fault"),
        ("hw_power_brake", 0.05, "fault"),
        ("sw_thermal", 0.2, "warning"),
    ],
)
def test_clocks_held_down_are_told_from_a_share_of_the_readings_on(reason: str, share: float, severity: str):
    (hint,) = hints(window(card("GPU0", 0.99, throttle_share={reason: share})))
    assert (hint.code, hint.severity) == (f"throttled-{reason.replace('_', '-')}", severity)
    assert told(window(card("GPU0", 0.99, throttle_share={reason: 0.99 * share}))) == []


@pytest.mark.parametrize(
    ("seconds", "length"), [(29.4, None), (29.6, "30 s"), (59.4, "59 s"), (59.5, "1 min"), (90.2, "1 min 30 s")]
)
def test_half_a_minute_is_a_window(seconds: float, length: str | None):
    found = hints(window(card("GPU0", 0.0))._replace(seconds=seconds))
    assert [hint.evidence[0].split(";")[0] for hint in found] == ([f"no kernel for {length}"] if length else [])


def test_nothing_is_told_of_a_short_window_or_of_readings_that_are_missing():
    uneven = card("GPU0", 0.99), card("GPU1", 0.10)
    assert told(window(*uneven)._replace(seconds=20.0)) == []
    assert told(window(*uneven)._replace(ticks=10)) == []
    gone = [NOTHING] * 50 + [0.1] * 11
    assert told(window(card("GPU0", 0.99), card("GPU1", gone))) == []


def header(interval: float = 1.0, gpu_count: int | Absent = 1) -> MonitorHeader:
    return MonitorHeader(
        started_at="2026-01-01T00:00:00Z",
        interval_seconds=interval,
        slow_seconds=5.0,
        replayed=False,
        core_count=16,
        host_memory_total_bytes=64 * GIB,
        gpu_count=gpu_count,
    )


def tick(at: float, **readings: object) -> MonitorTick:
    return MonitorTick(at, {"GPU0": GpuTick(**readings)}, HostTick(busy_share=0.5))  # type: ignore[arg-type]


def silent(at: float, reason: str) -> MonitorTick:
    return tick(at, **dict.fromkeys(GpuTick.__struct_fields__, Absent(reason)))


def test_shares_means_and_joules_are_those_of_all_the_time():
    fold = Fold(header())
    watts = [100.0 + 0.5 * second for second in range(301)]
    for second in range(301):
        fold.add(tick(float(second), power_watts=watts[second], throttle_bits=0x24 if second % 3 == 0 else 0x4))
    (gpu,) = fold.record().gpus
    assert gpu.power_watts == Watched(now=250.0, mean=pytest.approx(175.0), low=100.0, high=250.0, n=301)
    assert gpu.throttle_share == {"sw_power_cap": 1.0, "sw_thermal": 101 / 301}
    assert gpu.energy == WatchedEnergy(pytest.approx((100 + 250) / 2 * 300), 300.0, "integrated")


def test_hints_are_of_the_last_minute():
    fold = Fold(header())
    for second in range(124):
        fold.add(tick(float(second), throttle_bits=0x40 if second < 60 else 0))
        if second == 60:
            assert [hint.code for hint in fold.hints_now] == ["throttled-hw-thermal"]
    assert fold.hints_now == ()


def test_memory_does_not_grow_with_the_time_watched():
    fold = Fold(header(0.1))
    fold.add(
        MonitorCard(at_seconds=0, device="GPU0", name="Card", uuid="u", memory_total_bytes=1, power_limit_watts=1.0)
    )
    for second in range(5000):
        fold.add(tick(0.1 * second, utilisation_share=0.5, power_watts=100.0 + second % 7))
    assert len(fold._window) == 601
    assert fold.record().ticks == 5000
    assert len(fold.chart("GPU0")) == 601


def test_a_power_limit_of_no_watts_is_no_limit():
    fold = Fold(header())
    fold.add(MonitorCard(at_seconds=0, device="GPU0", name="a", uuid="u", memory_total_bytes=1, power_limit_watts=0.0))
    for second in range(40):
        fold.add(tick(float(second), utilisation_share=0.9, power_watts=100.0))
    assert fold.record().gpus[0].power_limit_watts == 0.0


def test_a_counter_is_preferred_and_one_that_starts_again_loses_nothing_else():
    energy = EnergyTally(1.0)
    for at, joules in ((0.0, 500.0), (1.0, 700.0), (2.0, 0.0), (3.0, 150.0)):
        energy.add(at, joules, 90.0)
    assert energy.record() == WatchedEnergy(350.0, 2.0, "counter")


def test_power_is_not_bridged_over_a_long_gap_and_0_joules_are_missing():
    energy = EnergyTally(1.0)
    for at in (0.0, 1.0, 60.0, 61.0):
        energy.add(at, NOTHING, 100.0)
    assert energy.record() == WatchedEnergy(200.0, 2.0, "integrated")
    still = EnergyTally(1.0)
    for at in (0.0, 1.0, 2.0):
        still.add(at, 41.0, NOTHING)
    assert still.record() == Absent("its energy counter has not counted yet")
    assert EnergyTally(1.0).record() == Absent("not read yet")


def test_a_sum_of_a_week_of_bytes_does_not_round_away():
    tally = Tally()
    for _ in range(200_000):
        tally.add(0.1)
    found = tally.record()
    assert isinstance(found, Watched)
    assert found.mean == pytest.approx(0.1, rel=1e-15)


def test_a_power_that_stands_still_while_the_card_works_is_frozen():
    still = Fold(header())
    for second in range(99):
        still.add(tick(float(second), power_watts=123.456))
    assert still.record().gpus[0].frozen == Absent("its readings move")
    still.add(tick(99.0, power_watts=123.456))
    said = "its power has read 123.456 W without any change for 99 s of work"
    assert still.record().gpus[0].frozen == said
    still.add(tick(100.0, power_watts=123.5))
    assert still.record().gpus[0].frozen == Absent("its readings move")
    idle = Fold(header())
    for second in range(200):
        idle.add(tick(float(second), power_watts=25.0, utilisation_share=0.0))
    assert idle.record().gpus[0].frozen == Absent("its readings move")


def test_a_card_that_is_lost_stays_gone_and_one_that_missed_a_tick_does_not():
    fold = Fold(header())
    fold.add(tick(0.0, power_watts=100.0))
    fold.add(silent(1.0, "driver timed out"))
    assert fold.record().gpus[0].gone == Gone(1.0, "driver timed out")
    fold.add(tick(2.0, power_watts=100.0))
    (gpu,) = fold.record().gpus
    assert (gpu.gone, gpu.unanswered_ticks) == (Absent("not gone"), 1)
    fold.add(silent(3.0, "GPU is lost"))
    fold.add(silent(4.0, "GPU is lost"))
    record = fold.record()
    assert record.gpus[0].gone == Gone(3.0, "GPU is lost")
    assert record.at_fault
    assert record.gpus[0].power_watts == Watched(Absent("GPU is lost"), 100.0, 100.0, 100.0, 2)


def test_a_card_that_never_tells_anything_is_silent_and_not_gone():
    fold = Fold(header())
    fold.add(silent(0.0, "not supported"))
    record = fold.record()
    assert record.gpus[0].gone == Absent("not gone")
    assert record.gpus[0].power_watts == Absent("not supported")
    assert not record.at_fault
    lost = Fold(header())
    lost.add(silent(0.0, "GPU is lost"))
    assert lost.record().gpus[0].gone == Gone(0.0, "GPU is lost")


def test_ticks_that_came_late_are_counted():
    fold = Fold(header())
    for at in (0.0, 1.0, 2.1, 7.0, 8.0):
        fold.add(tick(at))
    assert (fold.record().ticks, fold.record().late_ticks) == (5, 4)


STAT = {
    "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 50 0 50 350 50 0 0 0 0 0\ncpu1 50 0 50 350 50 0 0 0 0 0\nx 1",
    "proc/loadavg": "1.25 1.00 0.50 3/400 1234",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB",
    "proc/diskstats": "259 0 nvme0n1 10 0 1000 5 20 0 400 5 0 5 5\n7 0 loop0 1 0 9999 1 1 0 9999 1 0 1 1",
    "sys/block/nvme0n1/size": "1",
    "sys/block/loop0/size": "1",
}


def test_the_host_load_is_what_its_counters_rose_by():
    files, clock = dict(STAT), [10.0]
    load = HostLoad(RecordedSysfs(files, {}), lambda: clock[0])
    first = load.read()
    assert isinstance(first.busy_share, Absent)
    assert (first.load_average, first.memory_used_bytes, first.swap_used_bytes) == (1.25, 600 * 1024, 10 * 1024)
    files["proc/stat"] = (
        "cpu  190 0 110 760 140 0 0 0 0 0\ncpu0 140 0 60 350 50 0 0 0 0 0\ncpu1 50 0 50 410 90 0 0 0 0 0"
    )
    files["proc/diskstats"] = "259 0 nvme0n1 10 0 5000 5 20 0 600 5 0 5 5\n7 0 loop0 1 0 99999 1 1 0 99999 1 0 1 1"
    clock[0] = 12.0
    second = load.read()
    assert (second.busy_share, second.iowait_share, second.cores_at_limit) == (0.5, 0.2, 1)
    assert (second.disk_read_bytes_per_s, second.disk_write_bytes_per_s) == (4000 * 512 / 2, 200 * 512 / 2)
    assert load.core_count() == 2


def test_a_host_that_tells_nothing_fails_nothing():
    reading = HostLoad(RecordedSysfs({}, {})).read()
    assert all(isinstance(value, Absent) for value in reading)
    odd = {
        "proc/stat": "cpu x\n\x00",
        "proc/loadavg": "no",
        "proc/meminfo": "?",
        "proc/diskstats": "1 2",
        "sys/block/sda/size": "1",
    }
    HostLoad(RecordedSysfs(odd, {})).read()
    assert parse_stat("cpu 1 2") == {}
    assert parse_diskstats("a b sda c d e f g h i", frozenset({"sda"})) == (0, 0)


def test_a_process_and_its_workers_are_counted_whatever_their_names():
    files = {
        "proc/7/stat": "7 (py ) 1 2) S 1 7 7 0 -1 0 0 0 0 0 100 50 0 0 20 0",
        "proc/7/task/7/children": "8 9 ",
        "proc/8/stat": "8 (w) S 7 7 7 0 -1 0 0 0 0 0 10 0 0 0 20 0",
        "proc/9/stat": "9 (w) S 7 7 7 0 -1 0 0 0 0 0 20 0 0 0 20 0",
    }
    clock = [0.0]
    loads = ProcessLoads(RecordedSysfs(files, {}), lambda: clock[0])
    loads._ticks_per_second = 100
    assert parse_process_ticks(files["proc/7/stat"]) == 150
    assert loads.read([7, 7, 99])[99] == Absent("not recorded")
    files["proc/7/stat"] = files["proc/7/stat"].replace(" 100 50 ", " 150 50 ")
    files["proc/8/stat"] = files["proc/8/stat"].replace(" 10 0 0 ", " 410 100 0 ")
    clock[0] = 5.0
    assert loads.read([7])[7] == ProcessLoad(children=2, cores=(50 + 500) / 100 / 5, children_at_limit=1)
    assert parse_process_ticks("nonsense") == Absent("not understood")


def test_the_slow_beat_reads_traffic_in_bytes_and_tells_a_card_once():
    machine = rig(
        '0 nvmlDeviceGetName = 0 "Card"',
        "0 nvmlDeviceGetPcieThroughput/0 = 0 488",
        "0 nvmlDeviceGetPcieThroughput/1 = 0 537 ; 15",
        "0 nvmlDeviceGetEnforcedPowerLimit = 0 320000 ; 0 250000 ; 15",
        "0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824",
        files={"proc/4242/comm": "python"},
    )
    slow = SlowBeat(machine, 5.0)
    slow.read_once()
    found = slow.take()
    assert found is not None
    assert (found.gpus["GPU0"].to_gpu_bytes_per_s, found.gpus["GPU0"].from_gpu_bytes_per_s) == (537e3, 488e3)
    assert found.gpus["GPU0"].processes[0].name == "python"  # type: ignore[index]
    assert [(one["name"], one["power_limit_watts"]) for one in found.cards] == [("Card", 320.0)]
    assert slow.take() is None
    slow.read_once()
    changed = slow.take()
    assert changed is not None
    assert [one["power_limit_watts"] for one in changed.cards] == [250.0]
    assert changed.gpus["GPU0"].to_gpu_bytes_per_s == Absent("GPU is lost")
    slow.read_once()
    lost = slow.take()
    assert lost is not None
    assert (lost.cards, lost.gpus["GPU0"].processes) == ((), Absent("GPU is lost"))


class HangingDriver(ReplayedDriver):
    """The third time GPU 0's power is asked, the driver does not come back until it is let go."""

    def __init__(self, text: str) -> None:
        super().__init__(parse_recording(text))
        self.let_go, self.asked = threading.Event(), 0

    def answer(self, scope: str, key: str) -> Answer:
        if key == "nvmlDeviceGetPowerUsage":
            self.asked += 1
            if self.asked >= 3:
                self.let_go.wait()
        return super().answer(scope, key)


def test_a_driver_that_hangs_holds_up_neither_the_host_nor_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readings, "SILENT_SECONDS", 0.3)
    library = HangingDriver("sys nvmlDeviceGetCount_v2 = 0 1\n0 nvmlDeviceGetPowerUsage = 0 200000")
    machine = Rig(RecordedSysfs(STAT, {}), Nvml(library))
    events = readings.live(machine, Options(interval=0.1, seconds=1.2), lambda: False)
    first = next(events)
    assert isinstance(first, MonitorHeader)
    fold = Fold(first)
    for event in events:
        fold.add(event)
    library.let_go.set()  # until here it hung
    record = fold.record()
    assert isinstance(record.gpus[0].gone, Gone)
    assert record.gpus[0].gone.reason == "the driver does not answer"
    assert record.gpus[0].power_watts.n == 2  # type: ignore[union-attr]
    assert record.host.load_average.n == record.ticks > 5  # type: ignore[union-attr]


def test_a_driver_that_goes_away_is_told_and_the_host_goes_on():
    text = ["sys nvmlDeviceGetCount_v2 = 0 2", "* nvmlDeviceGetTemperature/0 = 0 50 ; 0 51 ; 9"]
    machine = rig(*text[1:], count=2, files=STAT)
    events = list(readings.replayed(machine, rig(*text[1:], count=2), Options()))
    fold = Fold(events[0])  # type: ignore[arg-type]
    for event in events[1:]:
        fold.add(event)
    record = fold.record()
    assert [gpu.gone for gpu in record.gpus] == [Gone(2.0, "driver not loaded")] * 2
    assert record.host.load_average.n == 3  # type: ignore[union-attr]


def test_without_a_driver_the_host_is_watched_and_the_reason_told():
    events = list(readings.live(cpu_only(STAT), Options(interval=0.1, seconds=0.2), lambda: False))
    header_event, *rest = events
    assert isinstance(header_event, MonitorHeader)
    assert header_event.gpu_count == Absent("no driver")
    assert sum(isinstance(event, MonitorTick) for event in rest) == 3


def test_a_partly_written_line_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "watch.jsonl"
    whole = recording.os.write
    with recording.Recorder(path, force=False) as recorder:
        recorder.write(header())
        size = path.stat().st_size

        room = [20]

        def nearly_full(file: int, line: bytes) -> int:
            if not room:
                raise OSError(28, "No space left on device")
            return whole(file, line[: room.pop()])

        monkeypatch.setattr(recording.os, "write", nearly_full)
        recorder.write(tick(0.0))
        monkeypatch.setattr(recording.os, "write", whole)
        recorder.write(tick(1.0))
    assert path.stat().st_size == size
    assert recorder.trouble is not None
    assert "ends after 1 line (no space left on device)" in str(recorder.trouble)
    assert list(recording.read(path)) == [header()]


@pytest.mark.parametrize("code", [*range(1, 31), 999, 4242])
def test_whatever_the_driver_answers_the_slow_beat_reads_on(code: int):
    calls = (
        *("nvmlDeviceGetPcieThroughput/0", "nvmlDeviceGetPcieThroughput/1", "nvmlDeviceGetEnforcedPowerLimit"),
        *("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo_v2"),
    )
    broken = [f"0 {call} = {code}" for call in calls]
    well = ["1 nvmlDeviceGetPcieThroughput/0 = 0 1", "1 nvmlDeviceGetPcieThroughput/1 = 0 2"]
    slow = SlowBeat(rig(*broken, *well, count=2), 5.0)
    for _ in range(2):
        slow.read_once()
        found = slow.take()
        assert found is not None
        assert isinstance(found.gpus["GPU0"].to_gpu_bytes_per_s, Absent)
        assert found.gpus["GPU1"].to_gpu_bytes_per_s == 2000.0
