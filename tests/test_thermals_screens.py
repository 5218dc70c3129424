"""Does a replayed soak say on one screen what its owner needs to know, and do charts fit any terminal?"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import msgspec
import pytest
from heat import record as scripted
from rich.console import Console

from rigbench import store
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import spark
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.thermals import command as thermals
from rigbench.thermals import screen as render
from rigbench.thermals import screen as thermals_live
from rigbench.thermals.record import Options, Thermals

HERE = Path(__file__).parent
RECORDINGS = {
    "heat": HERE / "rigs" / "dual-rtx4080s-throttling",
    **{name: HERE / "heat" / name for name in scripted.WAYS},
}
SCREENS = HERE / "heat" / "screens"
EXIT_CODES = {"heat": 0, "power-cap": 0, "power-brake": 1, "lost-midway": 1}
FAULTS = {
    "power-brake": "rigbench: fault: thermals GPU1: slowed down by hw_power_brake (0x80) 13 % of the time\n",
    "lost-midway": "rigbench: fault: thermals GPU1: GPU is lost after 120 s of load; what it reported before is kept\n",
}


def replayed(folder: Path, home: Path, **options: object) -> Thermals:
    job = Job(store.Store(home), Rig.replay(folder), "thermals", Silent())
    result = thermals.run(job, Options(**options))
    assert isinstance(result, Thermals)
    return result


def screen(result: Thermals, width: int) -> str:
    out = io.StringIO()
    render.show(result, Console(file=out, width=width, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_replayed_soak_is_one_literal_screen(rigbench, name):
    code, _, err = rigbench("--replay", str(RECORDINGS[name]), "thermals", "-q")
    assert (code, err) == (EXIT_CODES[name], FAULTS.get(name, ""))
    code, out, _ = rigbench("report", "--verbose")
    _, _, out = out.partition("\n\n")
    assert out == (SCREENS / f"{name}.txt").read_text()
    assert out.count("\n") <= 27  # 25, and what a composed recording is


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("width", [40])
def test_no_line_is_wider_than_the_terminal(name, width, tmp_path):
    lines = screen(replayed(RECORDINGS[name], tmp_path), width).splitlines()
    assert max(map(len, lines)) <= width


def test_the_recorded_truths_lie_in_the_intervals(tmp_path):
    """Nine in ten of them, and none farther out than an interval of 99.9 % (3.3 deviations to 1.64) would reach."""
    held = []
    for name, truths in scripted.TRUTHS.items():
        for card, truth in zip(replayed(RECORDINGS[name], tmp_path).cards, truths, strict=True):
            for estimate, true in ((card.fit.steady_celsius, truth.steady), (card.fit.tau_seconds, truth.tau)):
                held.append(estimate.low <= true <= estimate.high)
                assert estimate.widened(2.0).low <= true <= estimate.widened(2.0).high
    assert len(held) == 12
    assert sum(held) >= 10


@pytest.mark.parametrize("name", scripted.WAYS)
def test_the_recordings_are_those_of_the_script(name, tmp_path):
    scripted.write(name, tmp_path / name)
    for file in ("load.nvml.txt", "rig.json", "nvml.txt", "pci.json"):
        assert (tmp_path / name / file).read_bytes() == (HERE / "heat" / name / file).read_bytes()


def test_heat_is_a_warning_with_its_cost_and_its_beginning(tmp_path):
    hot = replayed(RECORDINGS["heat"], tmp_path).cards[1]
    (warning,) = [it for it in hot.throttling if it.severity == "warning"]
    assert (warning.reason, warning.bit, warning.first_seconds) == ("sw_thermal", 0x20, 100.0)
    assert warning.share == 140 / 240
    lines = (RECORDINGS["heat"] / "load.nvml.txt").read_text().splitlines()
    clocks, bits = (
        [
            int(answer.split()[1])
            for answer in next(it for it in lines if it.startswith(f"1 {call} = ")).split(" = ")[1].split(" ; ")
        ]
        for call in ("nvmlDeviceGetClockInfo/1", "nvmlDeviceGetCurrentClocksEventReasons")
    )
    held = sorted(clock for clock, bit in zip(clocks, bits, strict=True) if bit & 0x20)
    free = sorted(clock for clock, bit in zip(clocks, bits, strict=True) if not bit & 0x20)
    assert warning.clock_ratio == pytest.approx((held[69] + held[70]) / 2 / ((free[49] + free[50]) / 2))
    assert warning.throughput_ratio == Absent("a replayed rig runs no load")


def test_the_room_is_taken_off_where_it_is_declared(tmp_path):
    result = replayed(RECORDINGS["power-cap"], tmp_path, ambient=Figure(24.0, "declared", "--ambient"))
    card = result.cards[0]
    assert isinstance(card.rise_over_ambient_celsius, Estimate)
    assert card.rise_over_ambient_celsius.value == pytest.approx(card.fit.steady_celsius.value - 24)
    assert card.rise_over_ambient_celsius.high == pytest.approx(card.fit.steady_celsius.high - 24)
    assert "  rise     44.3 °C (44.2 to 44.3) over the room's 24 °C (--ambient)\n" in screen(result, 100)


def test_a_recording_without_a_sequence_says_so(tmp_path):
    result = replayed(HERE / "rigs" / "wrx90-2switch-flat", tmp_path)
    assert "the recording holds no sequence: nothing moves in it" in result.notes
    assert "thermals of a recording: one reading; no load was run" in screen(result, 100)


def test_a_recording_without_a_driver_is_exit_code_3(rigbench, tmp_path):
    shutil.copy(RECORDINGS["heat"] / "rig.json", tmp_path / "rig.json")
    code, out, err = rigbench("--replay", str(tmp_path), "thermals")
    assert (code, out) == (3, "")
    assert err == ("rigbench: the recording has no sensors (the recording has no nvml.txt); capture the rig again\n")


REFUSED = {
    ("--minutes", "0"): "--minutes '0' is zero",
    ("--minutes", "-1"): "--minutes '-1' is negative",
    ("--minutes", "0.01"): "--minutes '0.01' is below the sensible range",
    ("--minutes", "121"): "--minutes '121' is above the sensible range",
    ("--minutes", "two"): "--minutes 'two' is not a number",
    ("--ambient", "200"): "--ambient '200' is above the sensible range",
    ("--ambient", "24C"): "--ambient '24C' has a unit that I do not know",
    ("--label", " "): "--label ' ' is no label",
    ("--device", "tpu"): "--device 'tpu' is not a device",
    ("--device", "cpu", "--replay", "x"): "--device and --replay exclude each other",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_bad_input_is_one_line_and_exit_code_2(rigbench, words):
    code, out, err = rigbench("thermals", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"rigbench: {REFUSED[words]}")
    assert err.count("\n") == 1


def test_a_stored_soak_is_shown_again(rigbench):
    rigbench("--replay", str(RECORDINGS["heat"]), "thermals", "-q")
    code, out, _ = rigbench("report", "--verbose")
    assert code == 0
    assert (SCREENS / "heat.txt").read_text() in out
    assert "thermals" in rigbench("report", "--list", "--all")[1]


def test_json_is_the_stored_document(rigbench, tmp_path):
    code, out, err = rigbench("--replay", str(RECORDINGS["power-cap"]), "thermals", "--json")
    assert (code, err) == (0, "")
    assert out == next((tmp_path / "home" / "runs").glob("*.json")).read_text()
    assert msgspec.json.decode(out)["thermals"]["cards"][0]["name"] == "GPU0"


def test_a_spark_is_as_wide_as_asked_with_gaps_where_nothing_was_read():
    ramp = [(float(i), float(i)) for i in range(8)]
    assert spark(ramp, 8, 0.0, 8.0) == "▁▂▃▄▅▆▇█"
    assert spark(ramp, 4, 0.0, 8.0) == "▁▃▆█"
    dense = [(i / 4, float(i)) for i in range(32) if not 8 <= i < 20]
    assert spark(dense, 8, 0.0, 8.0) == "▁▂   ▆▇█"
    assert spark([ramp[0], ramp[4], ramp[6]], 8, 0.0, 8.0) == "▁▁▁▁▆▆█ "  # each lasts as long as they are apart
    assert spark([(0.0, 5.0), (7.0, 5.0)], 2, 0.0, 8.0) == "▅▅"
    assert spark([], 3, 0.0, 8.0) == "   "
    assert spark(ramp, 0, 0.0, 8.0) == spark(ramp, 5, 1.0, 1.0) == ""
    assert spark([(0.0, 100.0), (7.0, 101.0)], 2, 0.0, 8.0, least_range=50.0) == "▄▅"


CURVES = {
    "GPU0": {
        "temperature": [(0.0, 43.0), (10.0, 60.0), (20.0, 71.0)],
        "clock": [(0.0, 2.61e9), (10.0, 2.6e9), (20.0, 2.55e9)],
        "power": [(0.0, 28.0), (10.0, 318.0), (20.0, 320.0)],
        "throughput": [(10.0, 95e12), (20.0, 93.2e12)],
    },
    "GPU1": {},
}


def test_the_live_picture_fits_forty_columns():
    assert str(thermals_live.frame(20.0, 600.0, CURVES, 40)) == (
        "heat test 20.0 s of at most 10 min\n"
        "GPU0\n"
        "  temperature         71 °C ▁▁▁▁▁▁▅▅▅▅▅█\n"
        "  clock           2,550 MHz ██████▇▇▇▇▇▁\n"
        "  power               320 W ▁▁▁▁▁▁██████\n"
        "  throughput   93.2 TFLOP/s       █████▁\n"
        "GPU1\n"
        "  no sensor answers yet"
    )


@pytest.mark.parametrize("width", [1, 10, 39, 80, 300])
def test_the_live_picture_is_never_wider_than_its_terminal(width):
    for elapsed in (0.0, 20.0):
        assert max(map(len, str(thermals_live.frame(elapsed, 600.0, CURVES, width)).split("\n"))) <= width


def test_the_live_display_leaves_nothing_behind():
    out = io.StringIO()
    display = thermals_live.Display(Console(file=out, force_terminal=True, width=40))
    display(20.0, 600.0, CURVES)
    display.close()
    display.close()
    assert "71 °C" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")
