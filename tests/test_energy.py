"""Do joules add up, from counters and from power?"""

from __future__ import annotations

import msgspec
import pytest
from scripted_sensors import (
    HOT_CARDS,
    NOT_SUPPORTED,
    Script,
    cpu_only,
    replayed,
    series,
    telemetry,
)

from rigbench.core.record import Absent, Device, Energy
from rigbench.work.record import Draw
from rigbench.work.sensors import Sampler
from rigbench.work.telemetry import draws, energy


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
    counted = energy(record, start, end)
    uncounted = msgspec.structs.replace(record.series[0], energy_joules=NOT_SUPPORTED)
    integrated = energy(telemetry(record.at_seconds, uncounted), start, end)
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
        found = energy(telemetry(at, one), start, end)
        assert isinstance(found, Energy)
        assert found.joules == pytest.approx(joules)


def test_an_end_of_the_window_that_a_counter_missed_is_not_free() -> None:
    at, busy = tuple(map(float, range(21))), Absent("driver timed out")
    late = series(energy_joules=(busy, busy, *(100.0 * tick for tick in range(2, 21))))
    found = energy(telemetry(at, late), 0.0, 20.0)
    assert found == Energy(joules=2000.0, window_seconds=20.0, covers="GPUs only", method="counter")
    later = series(energy_joules=(*[busy] * 3, *(100.0 * tick for tick in range(3, 21))))
    assert energy(telemetry(at, later), 0.0, 20.0) == Absent("GPU0: driver timed out")


def test_the_draws_are_of_the_device_that_worked_the_other_gpus_and_the_package() -> None:
    at = (0.0, 1.0, 2.0, 3.0, 4.0)
    cards = [
        msgspec.structs.replace(series(f"GPU{index}", power_watts=(watts,) * 5), uuid=f"GPU-{index}")
        for index, watts in enumerate((20.0, 300.0, 30.0))
    ]
    package = series("CPU", energy_joules=(0.0, 60.0, 120.0, 180.0, 240.0))
    device = Device(kind="cuda", name="Card", uuid="GPU-1", threads=1, memory_total_bytes=1)
    assert draws(telemetry(at, *cards, package), device, 0.5, 3.5) == (
        Draw("GPUs", 300.0, "integrated"),
        Draw("other GPUs", 50.0, "integrated"),
        Draw("CPU package", 60.0, "counter"),
    )
    on_cpu = msgspec.structs.replace(device, kind="cpu", uuid=Absent("a CPU has none"))
    found = draws(telemetry(at, series("CPU")), on_cpu, 0.5, 3.5)
    assert found == (Draw("CPU package", Absent("CPU: not supported"), Absent("CPU: not supported")),)
