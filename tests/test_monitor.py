"""Does monitor watch a rig, record it, end as it says, and tell the same again from the file?"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakenvml.library import FakeDriver

RIGS = Path(__file__).parent / "rigs"
HOT = RIGS / "dual-rtx4080s-throttling"
SCREEN = """\
warn  monitor: GPU1: the driver slows it down at its target temperature: it needs more air
 card  busy   memory    W  limit  °C  hottest    MHz   fan  slowed by
 GPU0  97 %  596 MiB  298    320  68       72  2,532  36 %  power limit 9.2 %
 GPU1  97 %  596 MiB  269    320  78       84  2,359  86 %  thermal slowdown by the driver 58 %,
                                                            power limit 11 %
  warn  GPU1: the driver slows it down at its target temperature: it needs more air: thermal
        slowdown by the driver at 100 % of the readings of 1 min; so 60 % of the time watched, and
        still so; next: rigbench thermals (what it costs, and when it sets in)
  note  composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; the upper card
        runs hot (exponential, tau 95 s, settling at its 84 C target)
  how sure  3 min 59 s of a recorded rig: 240 readings, one each 1 s; recording ended
  more      --verbose: every reading of each card, and what was not reported
"""
WHOLE = """\
watched 3 min 59 s of a recorded rig: 240 readings, one each 1 s; recording ended
GPU0  NVIDIA GeForce RTX 4080 SUPER
  busy       97 %
  memory     596 MiB of 16 GiB
  power      298 W on average (296 W to 301 W), limit 320 W
  heat       68 °C on average (43 °C to 72 °C)
  clock      2,532 MHz on average (2,522 MHz to 2,550 MHz)
  fan        36 % on average (0 % to 44 %)
  slowed by  power limit 9.2 % of the time
  PCIe       in 537 kB/s, out 488 kB/s; 20 ms of every 1 s, 240 times
  energy     0.0198 kWh in 3 min 59 s (integrated)
  processes  no process
GPU1  NVIDIA GeForce RTX 4080 SUPER
  busy       97 %
  memory     596 MiB of 16 GiB
  power      269 W on average (232 W to 304 W), limit 320 W
  heat       78 °C on average (41 °C to 84 °C)
  clock      2,359 MHz on average (2,154 MHz to 2,550 MHz)
  fan        86 % on average (0 % to 100 %)
  slowed by  thermal slowdown by the driver 58 %, power limit 11 % of the time
  PCIe       in 537 kB/s, out 488 kB/s; 20 ms of every 1 s, 240 times
  energy     0.0179 kWh in 3 min 59 s (integrated)
  processes  no process
host
  missing  n/a (not recorded): CPU load, disks; n/a (no CPU temperature sensor): CPU temperature;
           n/a (no package energy counter): CPU package energy; n/a (not reported): memory
hint (warning)  GPU1: the driver slows it down at its target temperature: it needs more air
  seen     thermal slowdown by the driver at 100 % of the readings of 1 min
  seen at  60 % of the readings, one every 5 s; first after 1 min 55 s, last after 3 min 55 s, still
           so
  next     rigbench thermals (what it costs, and when it sets in)
note: composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; the upper card runs
hot (exponential, tau 95 s, settling at its 84 C target)
"""

MOVING = [
    "sys nvmlDeviceGetCount_v2 = 0 2",
    'sys nvmlSystemGetDriverVersion = 0 "595.71.05"',
    '* nvmlDeviceGetName = 0 "Test Card"',
    "* nvmlDeviceGetEnforcedPowerLimit = 0 320000",
    "* nvmlDeviceGetMemoryInfo_v2 = 0 17171480576 455081984 1900000000 14816398592",
    "* nvmlDeviceGetCurrentClocksEventReasons = 0 0",
    "0 nvmlDeviceGetUtilizationRates = " + " ; ".join(f"0 {98 + tick % 3} 60" for tick in range(100)),
    "1 nvmlDeviceGetUtilizationRates = " + " ; ".join(f"0 {8 + tick % 5} 6" for tick in range(100)),
    "* nvmlDeviceGetTemperature/0 = " + " ; ".join(f"0 {40 + tick // 2}" for tick in range(100)),
    "* nvmlDeviceGetPowerUsage = " + " ; ".join(f"0 {300000 + 37 * tick}" for tick in range(100)),
    "* nvmlDeviceGetClockInfo/1 = 0 2550",
    "* nvmlDeviceGetPcieThroughput/0 = 0 488",
    "* nvmlDeviceGetPcieThroughput/1 = 0 537",
]


def stripped(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    (tmp_path / "moving").mkdir()
    recording = tmp_path / "moving" / "nvml.txt"
    recording.write_text("\n".join(MOVING) + "\n")
    return recording


def test_a_recorded_rig_is_told_on_one_screen(rigbench):
    code, out, err = rigbench("monitor", "--replay", str(HOT))
    assert (code, stripped(out), err) == (0, SCREEN, "")
    assert stripped(rigbench("monitor", "--replay", str(HOT), "--verbose")[1]) == WHOLE
    quiet = stripped(rigbench("monitor", "--replay", str(HOT), "--quiet")[1])
    assert SCREEN.startswith(quiet)
    assert "GPU1  97 %" in quiet


def recorded(scope: str, call: str) -> list[list[int]]:
    lines = (HOT / "load.nvml.txt").read_text().splitlines()
    answers = next(line for line in lines if line.startswith(f"{scope} {call} = ")).partition(" = ")[2]
    return [[int(word, 0) for word in answer.split()[1:]] for answer in answers.split(" ; ")]


def test_the_numbers_are_those_of_the_recording_one_step_a_tick(rigbench):
    code, out, err = rigbench("--json", "monitor", "--replay", str(HOT), "--interval", "2s")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["type"], document["ticks"], document["seconds"]) == ("monitor", 240, 478.0)
    hot = document["gpus"][1]
    degrees = [value for (value,) in recorded("1", "nvmlDeviceGetTemperature/0")]
    watts = [value / 1000 for (value,) in recorded("1", "nvmlDeviceGetPowerUsage")]
    assert hot["temperature_celsius"] == {
        "type": "watched",
        "now": float(degrees[-1]),
        "mean": pytest.approx(sum(degrees) / 240),
        "low": float(min(degrees)),
        "high": float(max(degrees)),
        "n": 240,
    }
    trapezoids = sum((one + other) / 2 * 2.0 for one, other in itertools.pairwise(watts))
    assert hot["energy"]["joules"] == pytest.approx(trapezoids)
    assert hot["energy"]["method"] == "integrated"
    bits = [value for (value,) in recorded("1", "nvmlDeviceGetCurrentClocksEventReasons")]
    assert hot["throttle_share"]["sw_thermal"] == sum(1 for value in bits if value & 0x20) / 240


def test_seconds_end_a_replay_early(rigbench):
    document = json.loads(rigbench("--json", "monitor", "--replay", str(HOT), "--seconds", "10")[1])
    assert (document["ticks"], document["seconds"]) == (11, 10.0)


def test_a_replayed_imbalance_is_named_with_its_evidence(rigbench, moving):
    code, out, _ = rigbench("--json", "monitor", "--replay", str(moving.parent))
    held = json.loads(out)["hints"]
    assert code == 0
    assert [one["hint"]["code"] for one in held] == ["imbalance"]
    assert held[0]["hint"]["evidence"][0] == (
        "GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings"
    )
    assert held[0]["looks"] == held[0]["held_looks"] == 14  # at 30 s, 35 s, … 95 s


def test_what_was_recorded_is_summarised_the_same(rigbench, tmp_path):
    file = tmp_path / "watch.jsonl"
    live = rigbench("monitor", "--replay", str(HOT), "--record", str(file), "--json")
    again = rigbench("monitor", "--from", str(file), "--json")
    assert live == again
    assert stripped(rigbench("monitor", "--from", str(file))[1]) == SCREEN
    lines = file.read_bytes().splitlines()
    assert len(lines) == 1 + 2 + 240 + 240 + 1  # header, cards, slow beats, ticks, end


def test_a_recording_that_was_cut_short_is_read_up_to_there(rigbench, tmp_path):
    file = tmp_path / "watch.jsonl"
    rigbench("monitor", "--replay", str(HOT), "--record", str(file), "-q")
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 40])
    code, out, err = rigbench("monitor", "--from", str(file))
    assert (code, err) == (0, "")
    assert "one each 1 s; cut short\n" in out
    assert "note  the recording's last line was cut short, and is left out" in out
    assert "note  the recording has no end: it was killed, its disk was full, or it still goes on" in out


def test_a_damaged_recording_gets_one_line_with_its_number(rigbench, tmp_path):
    file = tmp_path / "watch.jsonl"
    rigbench("monitor", "--replay", str(HOT), "--seconds", "3", "--record", str(file), "-q")
    lines = file.read_bytes().splitlines(keepends=True)
    headless, newer = b"".join(lines[1:]), lines[0].replace(b'"rigbench_monitor":1', b'"rigbench_monitor":9')
    for content, said in {
        b"".join([*lines[:3], b"{}\n", *lines[3:]]): "line 4 is damaged",
        b"".join([*lines[:3], b"\xff\xfe\n", *lines[3:]]): "line 4 is damaged",
        b"".join([*lines, lines[0]]): f"second header in line {len(lines) + 1}",
        headless: "is no recording of monitor",
        lines[0].replace(b'"interval_seconds":1.0', b'"interval_seconds":0.0'): "is no recording of monitor",
        lines[0].replace(b'"interval_seconds":1.0', b'"interval_seconds":1e-308'): "is no recording of monitor",
        newer + headless: "was written by a newer rigbench",
        b"": "is empty",
        b"\x00" * 100: "is no recording of monitor",
        b"[" * 200_000 + b"\n": "is no recording of monitor",
        lines[0] + b"[" * 200_000 + b"1e99]\n": "line 2 is damaged",
    }.items():
        file.write_bytes(content)
        code, out, err = rigbench("monitor", "--from", str(file))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


REFUSED = {
    "monitor --seconds 0": "--seconds '0' is zero",
    "monitor --seconds -3": "--seconds '-3' is negative",
    "monitor --seconds soon": "--seconds 'soon' is not a duration",
    "monitor --seconds nan": "--seconds 'nan' is not a number",
    "monitor --seconds 0.5": "--seconds 0.5 is shorter than --interval 1s",
    "monitor --interval 10ms": "--interval '10ms': sensors move ten times a second; give 0.1s to 1h",
    "monitor --interval 2h": "--interval '2h': nothing would be seen",
    "monitor --once --seconds 3": "--once and --seconds exclude each other",
    "monitor --force": "--force is for --record FILE",
    "monitor --from a --once": "--from FILE is a watch that is over",
    "monitor --from a --replay b": "--from FILE is a watch that is over",
    "monitor --from /nowhere": "cannot read /nowhere (no such file or directory)",
    "monitor --from /": "cannot read / (is a directory)",
    "monitor --replay /nowhere": "--replay /nowhere is not a folder",
    "monitor --record /nowhere/file --seconds 1": "cannot write to /nowhere/file (no such file or directory)",
    "monitor --record / --seconds 1": "/ is there already",
    "monitor --device cpu": "monitor does not take --device",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench(*typed.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert REFUSED[typed] in err


def test_a_file_that_is_there_is_not_replaced_without_force(rigbench, tmp_path):
    file = tmp_path / "precious.txt"
    file.write_text("mine")
    code, _, err = rigbench("monitor", "--replay", str(HOT), "--record", str(file))
    assert code == 2
    assert f"{file} is there already; name another file, or --force to replace it" in err
    assert file.read_text() == "mine"
    assert rigbench("monitor", "--replay", str(HOT), "--record", str(file), "--force", "-q")[0] == 0
    assert file.read_text().startswith('{"type":"monitorheader","rigbench_monitor":1,')


def test_a_full_disk_ends_the_recording_and_not_the_watch(rigbench):
    code, out, err = rigbench("monitor", "--replay", str(HOT), "--record", "/dev/full", "--force")
    assert (code, stripped(out)) == (2, SCREEN)
    assert "the recording /dev/full ends after 0 lines (no space left on device); free space" in err


def test_one_look_without_a_gpu_tells_the_host_and_why_no_gpu_is_seen(rigbench):
    code, out, err = rigbench("monitor", "--once", "--interval", "0.2s", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["ended_by"], document["ticks"], document["gpus"]) == ("one look", 2, [])
    assert "no NVIDIA driver found" in document["gpu_count"]["reason"]
    busy, memory = document["host"]["busy_share"], document["host"]["memory_used_bytes"]
    assert 0 <= busy["low"] <= busy["now"] <= busy["high"] <= 1
    assert 1 << 20 < memory["now"] < document["host"]["memory_total_bytes"]
    assert document["host"]["core_count"] == os.cpu_count()


def test_a_gpu_lost_midway_is_told_and_the_other_goes_on(fake_driver: FakeDriver, moving: Path, tmp_path: Path):
    words = ("monitor", "--seconds", "1", "--interval", "0.2s")
    fault = "1 nvmlDeviceGetPowerUsage 15 2"
    done = fake_driver.run(*words, recording=moving, home=tmp_path / "home", fault=fault)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    last = [line for line in lines if line.startswith("1.0 s")]
    assert last[0].startswith("1.0 s  GPU0  ")
    assert " %, 13.8 GiB of 16 GiB, 30" in last[0]
    assert last[1].startswith("1.0 s  GPU1  gone since 0.")
    assert last[1].endswith(" s: GPU is lost")
    assert re.search(r"^fault monitor: GPU1 answers no more since 0\.\d s \(GPU is lost\)$", done.stdout, re.M)
    assert re.search(r"^ GPU1  +[\d.]+ %  13.8 GiB", done.stdout, re.M)  # as it was before


def start(driver: FakeDriver, recording: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rigbench", "monitor", *words],
        env=os.environ | driver.environment(recording) | {"FAKE_NVML_TICK_MS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("words", "code"), [(("--seconds", "forever"), 0), (("--seconds", "10min"), 130)])
def test_ctrl_c_is_the_end_of_a_watch_that_has_no_other(
    fake_driver: FakeDriver, moving: Path, tmp_path: Path, words: tuple[str, ...], code: int
):
    file = tmp_path / "watch.jsonl"
    process = start(fake_driver, moving, "--interval", "0.1s", "--record", str(file), *words)
    deadline = time.monotonic() + 30
    while (
        time.monotonic() < deadline
        and file.exists() + (file.read_bytes().count(b"monitortick") if file.exists() else 0) < 6
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "stopped by the user" in out
    assert file.read_bytes().endswith(b'"ended_by":"stopped by the user"}\n')
    assert f"recorded in {file}; `rigbench monitor --from {file}` shows this again" in err


def test_a_reader_that_goes_away_is_an_end_like_any_other(fake_driver: FakeDriver, moving: Path):
    process = start(fake_driver, moving, "--interval", "0.1s")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
