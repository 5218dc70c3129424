"""Do the parts add up to the watts at the wall, each with its source, and is a contradiction said?"""

from __future__ import annotations

import io
import math
from typing import Any

import msgspec
import pytest
from budget_slices import CPU, GPU, M120, energy, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scripted_sensors import series, telemetry

from rigbench.command import choices_of, read
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.train import screen as render
from rigbench.train.record import Slice
from rigbench.train.slices import at_wall
from rigbench.work import power as cost
from rigbench.work.record import NO_RATING, NOTHING_DECLARED, Draw, Power, PowerPart, WattOptions

LOST = Absent("GPU is lost")


def declared(value: float, option: str) -> Figure:
    return Figure(value=value, source="declared", basis=option)


def host(watts: float | None = None, psu: float | None = None, efficiency: float | None = None) -> WattOptions:
    words = {"host_watts": watts, "psu_watts": psu, "psu_efficiency": efficiency}
    return WattOptions(**{name: value for name, value in words.items() if value is not None})


def at_meter(watts: float, said: WattOptions = NOTHING_DECLARED) -> WattOptions:
    return msgspec.structs.replace(said, wall_watts=watts)


def draw(name: str, watts: float | Absent) -> Draw:
    return Draw(name, watts, watts if isinstance(watts, Absent) else "counter")  # type: ignore[arg-type]


def sliced(*draws: Draw, gpu_watts: float | None = 300.0, **changes: Any) -> Slice:
    read = Absent("no sensor") if gpu_watts is None else energy(gpu_watts)
    changes = {"device": GPU, "energy": read, "draws": draws} | changes
    return whole(M120, 1000.0, **changes)


def parts_of(power: Power | Absent) -> dict[str, tuple[float, str]]:
    assert isinstance(power, Power)
    assert power.split
    return {part.name: (round(part.watts.value, 6), part.watts.source) for part in power.split}


def test_gpus_idle_gpus_package_rest_and_loss_add_up_to_the_wall():
    draws = draw("GPUs", 300.0), draw("other GPUs", 25.0), draw("CPU package", 55.0)
    power = cost.power([sliced(*draws)], host(110.0, efficiency=0.87))
    assert parts_of(power) == {
        "GPUs": (300.0, "measured"),
        "other GPUs": (25.0, "measured"),
        "CPU package": (55.0, "measured"),
        "rest of the host": (55.0, "declared"),
        "power supply": (65.0, "predicted"),
    }
    assert isinstance(power, Power)
    assert power.watts.value == pytest.approx((300 + 25 + 110) / 0.87) == pytest.approx(500.0)
    assert power.watts.basis == "(GPUs + other GPUs + CPU package + rest of the host) / 0.87, the parts below"
    rest = power.split[3].watts  # type: ignore[index]
    assert rest.basis == "110 W (host-watts) less the CPU package"


@settings(deadline=None, max_examples=200)
@given(
    gpus=st.floats(1, 5000),
    others=st.none() | st.floats(0.5, 500),
    package=st.none() | st.floats(0.5, 500),
    rest=st.floats(1, 2000),
    efficiency=st.floats(0.51, 1.0),
)
def test_whatever_the_parts_are_their_sum_is_the_walls(
    gpus: float, others: float | None, package: float | None, rest: float, efficiency: float
):
    read = {"other GPUs": others, "CPU package": package}
    draws = [draw(name, watts) for name, watts in read.items() if watts is not None]
    power = cost.power([sliced(*draws, gpu_watts=gpus)], host(rest, efficiency=efficiency))
    assert isinstance(power, Power)
    assert math.fsum(part.watts.value for part in power.split or ()) == pytest.approx(power.watts.value)
    behind = gpus + (others or 0.0) + max(rest, package or 0.0)
    assert power.watts.value == pytest.approx(behind / efficiency)
    assert bool(power.warnings) == (package is not None and package > rest)


def test_several_slices_are_a_mean_with_least_and_most_and_the_host_does_not_vary():
    both = [
        sliced(draw("CPU package", 50.0), gpu_watts=280.0),
        sliced(draw("CPU package", 60.0), gpu_watts=320.0),
    ]
    power = cost.power(both, host(100.0, efficiency=0.8))
    assert isinstance(power, Power)
    assert (power.watts.low, power.watts.value, power.watts.high) == pytest.approx((475.0, 500.0, 525.0))
    assert power.split
    assert power.split[0].watts == Figure(
        value=300.0, source="measured", basis="GPUs read beside 2 short runs", low=280.0, high=320.0
    )


def test_a_slice_counts_by_the_hours_that_it_stands_for():
    both = [sliced(draw("CPU package", 50.0), gpu_watts=280.0), sliced(gpu_watts=320.0)]
    parts = parts_of(cost.power(both, host(100.0, efficiency=1.0), hours=[1.0, 3.0]))
    assert (parts["GPUs"], parts["CPU package"]) == ((310.0, "measured"), (50.0, "measured"))  # the one that was read
    for hours in ([0.0, 0.0], [2.0, 2.0], []):
        assert parts_of(cost.power(both, host(100.0), hours=hours))["GPUs"] == (300.0, "measured")


def test_a_package_above_what_was_declared_for_the_host_is_said():
    power = cost.power([sliced(draw("CPU package", 150.0))], host(90.0))
    assert isinstance(power, Power)
    assert power.warnings == ("the CPU package alone drew 150 W, more than the 90.0 W declared for the whole host",)
    assert power.watts.value == pytest.approx((300 + 150) / 0.9)


def test_another_gpu_that_was_not_read_is_said_and_a_package_that_was_not_is_within_the_host():
    power = cost.power([sliced(draw("other GPUs", LOST), draw("CPU package", Absent("no permission")))], host(90.0))
    assert isinstance(power, Power)
    assert power.warnings == ("the watts of the other GPUs are not read (GPU is lost): they are not in the sum",)
    assert set(parts_of(power)) == {"GPUs", "host", "power supply"}


def test_on_a_cpu_the_hosts_watts_are_all_there_is_whether_its_package_is_read_or_not():
    unread = sliced(draw("CPU package", Absent("no package energy counter")), gpu_watts=None, device=CPU)
    assert parts_of(cost.power([unread], host(81.0))) == {
        "host": (81.0, "declared"),
        "power supply": (9.0, "predicted"),
    }
    read = sliced(device=CPU, energy=energy(50.0, "CPU package only"))
    assert parts_of(cost.power([read], host(81.0))) == {
        "CPU package": (50.0, "measured"),
        "rest of the host": (31.0, "declared"),
        "power supply": (9.0, "predicted"),
    }


def test_a_gpu_without_a_reading_gets_no_watts_from_the_host_alone():
    assert cost.power([sliced(gpu_watts=None)], host(90.0)) == cost.HOST_ALONE
    assert cost.power([sliced(gpu_watts=None)]) == cost.NO_WATTS


def test_watts_declared_at_the_wall_are_taken_apart():
    draws = draw("GPUs", 300.0), draw("CPU package", 60.0)
    power = cost.power([sliced(*draws)], at_meter(500.0, host(efficiency=0.9)))
    assert isinstance(power, Power)
    assert power.watts == declared(500.0, "wall-watts")
    assert parts_of(power) == {
        "GPUs": (300.0, "measured"),
        "CPU package": (60.0, "measured"),
        "power supply": (50.0, "predicted"),
        "everything else": (90.0, "predicted"),
    }
    without = cost.power([sliced(*draws)], at_meter(500.0))
    assert parts_of(without)["everything else"] == (
        140.0,
        "predicted",
    )  # the supply's loss is not known, so it is in it
    assert cost.power([], at_meter(500.0)) == Power(watts=declared(500.0, "wall-watts"), covers="wall")


def test_parts_above_what_was_declared_at_the_wall_are_said():
    power = cost.power([sliced()], at_meter(250.0))
    assert isinstance(power, Power)
    assert power.warnings == ("the parts that are known come to 300 W, more than the 250 W declared at the wall",)
    assert power.watts.value == 250.0


def test_watts_that_are_stated_at_the_wall_have_no_loss_of_their_own():
    power = cost.power([sliced(gpu_watts=700.0)], typed(rig_profile="single-h200"))
    assert parts_of(power) == {"GPUs": (700.0, "measured"), "host": (575.0, "declared")}
    assert isinstance(power, Power)
    assert power.watts.value == pytest.approx(1275.0)


def with_ticks(**columns: Any) -> Slice:
    at = (0.0, 1.0, 2.0)
    return sliced(telemetry=telemetry(at, series("GPU0", **columns), series("CPU")))


def test_the_peak_is_the_higher_of_now_and_average_and_a_lost_tick_hides_no_other():
    ticks = with_ticks(power_watts=(300.0, 310.0, LOST), power_instant_watts=(280.0, 345.0, LOST))
    found = cost.headroom([ticks], host(55.0, psu=500.0))
    assert not isinstance(found, Absent)
    assert (found.peak_watts.value, found.share) == (400.0, 0.8)
    assert found.peak_watts.basis == "highest tick of the sensors + host 55 W"
    stuck = with_ticks(power_watts=(300.0, 310.0, 305.0), power_instant_watts=(27.0, 27.0, 27.0))
    found = cost.headroom([stuck], host(psu=500.0))
    assert not isinstance(found, Absent)
    assert found.peak_watts == Figure(310.0, "measured", "highest tick of the sensors, without the host")


def test_the_supply_is_held_against_what_is_behind_it_with_the_wall_declared_too():
    ticks = with_ticks(power_watts=(290.0, 350.0, 300.0))
    power = cost.power([ticks], at_meter(500.0, host(psu=450.0, efficiency=0.9)))
    assert isinstance(power, Power)
    assert power.psu
    assert power.psu.peak_watts.value == pytest.approx(350 + 500 * 0.9 - 300)
    assert power.warnings == (
        "the sampled peak of 500 W is more than the power supply's 450 W, and single milliseconds draw more: "
        "expect it to switch off",
    )


def test_on_a_cpu_the_supply_is_held_against_what_is_declared():
    slow = sliced(gpu_watts=None, device=CPU, telemetry=telemetry((0.0, 1.0), series("CPU")))
    power = cost.power([slow], host(90.0, psu=450.0))
    assert isinstance(power, Power)
    assert power.psu
    assert power.psu.peak_watts == Figure(90.0, "declared", "host 90 W: no sensor reports a peak")
    assert cost.headroom([slow], host(90.0)) == NO_RATING


def typed(**words: str) -> WattOptions:
    """The options as typed on a command line."""
    said: WattOptions = read(WattOptions, list(choices_of(WattOptions)), words)
    return said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"wall_watts": "0"}, "--wall-watts '0' is zero"),
        ({"wall_watts": "nan"}, "--wall-watts 'nan' is not a number"),
        ({"host_watts": "-5"}, "--host-watts '-5' is negative"),
        ({"psu_watts": "1kW"}, "--psu-watts '1kW' has a unit that I do not know"),
        ({"psu_efficiency": "92"}, "--psu-efficiency '92' is above the sensible range"),
        ({"psu_efficiency": "0.49"}, "--psu-efficiency '0.49' is below the sensible range"),
        ({"wall_watts": "500", "host_watts": "90"}, "--wall-watts covers the host already"),
        ({"rig_profile": "nonesuch"}, "no rig or GPU profile 'nonesuch' for --rig-profile"),
    ],
)
def test_declarations_that_cannot_be_are_refused_before_anything_is_measured(words: dict[str, str], said: str):
    with pytest.raises(RigbenchError) as refused:
        typed(**words)
    assert said in str(refused.value)


def test_a_rig_profile_lends_its_host_and_power_supply_where_none_is_declared():
    found = typed(psu_watts="900", rig_profile="dual-rtx-4080")
    assert isinstance(found.host, Figure)
    assert found.host.value == 90
    assert found.host.basis.startswith("rig profile dual-rtx-4080, assumption")
    assert found.supply == Figure(900.0, "declared", "psu-watts")


def test_a_wall_meter_beside_a_profile_keeps_the_profiles_supply():
    found = typed(wall_watts="600", rig_profile="dual-rtx-4080")
    assert isinstance(found.supply, Figure)
    assert (found.wall_watts, found.supply.value, found.efficiency.value) == (600.0, 1200.0, 0.9)


def test_a_slice_shows_its_joules_and_the_walls_parts_and_survives_its_file():
    measured = sliced(draw("GPUs", 300.0), draw("CPU package", 55.0))
    measured = msgspec.structs.replace(measured, joules_per_item=0.3, model_flop_per_joule=2.5e9)
    done = at_wall(measured, host(90.0, psu=400.0, efficiency=0.9))
    assert msgspec.json.decode(msgspec.json.encode(done), type=Slice) == done
    out = io.StringIO()
    render.show(done, Console(file=out, width=200, color_system=None))
    said = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    start = next(index for index, line in enumerate(said) if line.startswith("energy"))
    assert said[start : start + 6] == [
        "energy 300 W (GPUs only, counter) over 10.0 s; 0.300 J a token, 2.5 GFLOP a joule (model FLOP)",
        "wall 433 W (wall), predicted: (GPUs + CPU package + rest of the host) / 0.90, the parts below; "
        "0.433 J a token, 1.97 GFLOP a joule at the wall",
        "GPUs 300 W, measured: GPUs read beside 1 short run",
        "CPU package 55.0 W, measured: CPU package read beside 1 short run",
        "rest of the host 35.0 W, declared: 90.0 W (host-watts) less the CPU package",
        "power supply 43.3 W, predicted: 0.90 efficiency, declared: psu-efficiency",
    ]


def test_a_slice_without_watts_says_what_would_tell_them():
    bare = sliced(draw("CPU package", Absent("no package energy counter")), gpu_watts=None, device=CPU)
    assert at_wall(bare, host()) == bare
    out = io.StringIO()
    render.show(bare, Console(file=out, width=200, color_system=None))
    assert "energy  n/a (no sensor; --set host-watts=W or --wall-watts W declares watts)" in out.getvalue().replace(
        "   ", "  "
    )


def test_parts_of_a_mean_are_read_only_where_they_were_read():
    parts, missing = cost.read_beside([sliced(draw("other GPUs", 20.0)), sliced(draw("other GPUs", LOST))])
    assert [part.name for part in parts] == ["GPUs", "other GPUs"]
    assert parts[1] == PowerPart(
        "other GPUs", Figure(20.0, "measured", "other GPUs read beside 1 short run", 20.0, 20.0)
    )
    assert missing == ()
