"""Does a soak end when it must, keep what it has whatever fails, and say what it could not see?"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
import torch
from scripted_sensors import cpu_only, rig

from rigbench import __main__, store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.document import Run
from rigbench.job import Interrupted, Job
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.thermals import command as thermals
from rigbench.thermals import fit as heat_fit
from rigbench.thermals import probe as heat_load
from rigbench.thermals import verdict
from rigbench.thermals.record import HeatLoad, Options, Thermals
from rigbench.work import process
from rigbench.work.process import Report

TWO = (
    '0 nvmlDeviceGetUUID = 0 "GPU-a"',
    '1 nvmlDeviceGetUUID = 0 "GPU-b"',
    '* nvmlDeviceGetName = 0 "NVIDIA GeForce RTX 4080 SUPER"',
    '0 nvmlDeviceGetPciInfo_v3 = 0 "00000000:01:00.0" 654446814 1360008290',
    '1 nvmlDeviceGetPciInfo_v3 = 0 "00000000:03:00.0" 654446814 1360008290',
    "* nvmlDeviceGetTemperatureThreshold/1 = 0 96",
    "* nvmlDeviceGetTemperature/0 = 0 60 ; 0 61 ; 0 60 ; 0 62 ; 0 61",
    "* nvmlDeviceGetPowerUsage = 0 300000 ; 0 301000",
    "* nvmlDeviceGetClockInfo/1 = 0 2600",
    "* nvmlDeviceGetCurrentClocksEventReasons = 0 4",
)


@pytest.fixture(autouse=True)
def a_fake_load(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(thermals, "PROBE", "fake_heat")
    monkeypatch.setattr(thermals, "LISTEN_SECONDS", 0.05)


@pytest.fixture
def soak(tmp_path):
    """Soak a rig for some seconds: its job and what became of it."""

    def call(machine: Rig, seconds: float = 1.5, watcher=None):
        job = Job(store.Store(tmp_path), machine, "thermals", Silent())
        options = Options(minutes=seconds / 60, ambient=Figure(24.0, "declared", "--ambient"))
        return job, thermals.run(job, options, watcher)

    return call


def test_all_gpus_are_loaded_at_once_and_each_has_its_own_readings(soak):
    seen = []
    job, result = soak(rig(*TWO, count=2), seconds=3.0, watcher=lambda *picture: seen.append(picture))
    assert isinstance(result, Thermals)
    assert [(card.name, card.index) for card in result.cards] == [("GPU0", 0), ("GPU1", 1)]
    first, second = (card.load for card in result.cards)
    assert max(first.began_at_seconds, second.began_at_seconds) < min(
        first.ended_at_seconds[-1], second.ended_at_seconds[-1]
    )
    assert result.ended_by == "time limit"
    assert result.cards[0].throttling[0].severity == "information"
    assert result.cards[0].throttling[0].share == 1.0
    assert result.ambient_celsius.value == 24.0
    assert job.faults == []
    stored = store.read(job.store.paths()[0])
    assert stored.thermals == result
    (first_elapsed, _, _), (last_elapsed, planned, curves) = seen[0], seen[-1]
    assert first_elapsed == 0.0 < last_elapsed <= planned + 1
    assert set(curves["GPU1"]) == {"temperature", "clock", "power", "throughput"}
    assert msgspec.json.decode(msgspec.json.encode(result), type=Thermals) == result


class Turning(ReplayedDriver):
    """Some answers are others once the load is under way, which its watcher tells it."""

    def __init__(self, lines: tuple[str, ...], later: tuple[str, ...], count: int) -> None:
        super().__init__(parse_recording("\n".join([f"sys nvmlDeviceGetCount_v2 = 0 {count}", *lines])))
        self.later = parse_recording("\n".join(later))
        self.turned = False

    def answer(self, scope, key):
        if self.turned and (scope, key) in self.later:
            self.recording[scope, key] = self.later.pop((scope, key))
            self._calls_so_far[scope, key] = 0
        return super().answer(scope, key)

    @property
    def rig(self) -> Rig:
        return Rig(RecordedSysfs({}, {}), Nvml(self))

    def watch(self, elapsed: float, planned: float, curves) -> None:
        self.turned |= all(len(own.get("throughput", ())) > 3 for own in curves.values())


def test_the_load_is_stopped_two_degrees_below_the_cards_own_limit(soak):
    hot = "0 nvmlDeviceGetTemperature/0 = " + " ; ".join(f"0 {70 + 3 * tick}" for tick in range(9))
    card = Turning(TWO, (hot,), count=2)
    job, result = soak(card.rig, seconds=60.0, watcher=card.watch)
    assert result.ended_by == "safety stop"
    assert result.ended_because == "GPU0: it reached 94 °C, and slows down at 96"
    assert all(card.loaded_seconds < 50 for card in result.cards)
    assert job.faults == ["thermals: GPU0: it reached 94 °C, and slows down at 96"]


def test_a_card_that_tells_only_margins_is_stopped_by_its_margin(soak):
    lines = (
        *(line for line in TWO if "Threshold" not in line),
        "* nvmlDeviceGetMarginTemperature = 0 30",
        "* nvmlDeviceGetFieldValues/194/0 = 0 5 -2",
    )
    card = Turning(lines, ("0 nvmlDeviceGetMarginTemperature = 0 8 ; 0 1 ; 0 0",), count=1)
    _, result = soak(card.rig, seconds=60.0, watcher=card.watch)
    assert result.ended_by == "safety stop"
    assert result.ended_because == "GPU0: its margin was 0 °C, and it slows down at -2"


def test_a_card_that_is_too_hot_before_its_load_begins_is_not_heated(soak):
    job, result = soak(rig(*TWO, "0 nvmlDeviceGetTemperature/0 = 0 95", count=1), seconds=60.0)
    assert isinstance(result, Skipped | Thermals)
    assert job.faults == ["thermals: GPU0: it reached 95 °C, and slows down at 96"]


def test_a_card_that_tells_no_limit_at_all_is_soaked_and_that_is_said(soak):
    _, result = soak(rig(*(line for line in TWO if "Threshold" not in line), count=1), seconds=0.5)
    assert (
        "GPU0 reports no slowdown limit: only the card itself could have stopped this load, rigbench not"
        in result.notes
    )


def test_a_gpu_lost_midway_is_a_fault_and_hides_no_other(soak):
    card = Turning(TWO, ("1 nvmlDeviceGetTemperature/0 = 15",), count=2)
    job, result = soak(card.rig, seconds=3.0, watcher=card.watch)
    whole, lost = result.cards
    assert whole.loaded_seconds > lost.loaded_seconds
    assert lost.peak_celsius in (60.0, 61.0, 62.0)
    assert lost.load.ended_at_seconds
    assert lost.faults[0].startswith("GPU is lost after ")
    assert job.faults == [f"thermals GPU1: {lost.faults[0]}"]


def test_a_gpu_lost_before_its_load_began_is_a_fault_too(soak):
    job, _ = soak(rig(*TWO, "1 nvmlDeviceGetTemperature/0 = 15", count=2), seconds=0.5)
    assert job.faults[0].startswith("thermals GPU1: GPU is lost")


def test_a_load_that_dies_keeps_its_windows_and_the_other_goes_on(soak, monkeypatch):
    monkeypatch.setenv("FAKE_HEAT", "cuda:1 die")
    job, result = soak(rig(*TWO, count=2))
    assert [len(card.load.ended_at_seconds) >= 3 for card in result.cards] == [True, True]
    assert result.cards[0].loaded_seconds > result.cards[1].loaded_seconds
    assert len(job.faults) == 1
    assert job.faults[0].startswith("thermals GPU1: its load died: its process was killed")


def test_a_card_that_refuses_its_load_leaves_the_other_its_soak_and_is_no_fault(soak, monkeypatch):
    monkeypatch.setenv("FAKE_HEAT", "cuda:1 refuse")
    job, result = soak(rig(*TWO, count=2))
    assert [card.name for card in result.cards] == ["GPU0"]
    assert not [line for line in job.faults if "GPU1" in line]
    assert "GPU1 was not heated: cuda:1 is too old for this torch; install another" in job.run.warnings


def test_where_all_cards_refuse_the_command_does(soak, monkeypatch):
    monkeypatch.setenv("FAKE_HEAT", "all refuse")
    with pytest.raises(RigbenchError, match="is too old for this torch; install another"):
        soak(rig(*TWO, count=2))


def test_a_load_that_does_not_stop_is_ended(soak, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    monkeypatch.setenv("FAKE_HEAT", "cuda:0 deaf")
    card = Turning(TWO, ("0 nvmlDeviceGetTemperature/0 = 0 99",), count=1)
    job, result = soak(card.rig, seconds=60.0, watcher=card.watch)
    assert result.ended_by == "safety stop"
    assert result.cards[0].loaded_seconds < 50
    assert "thermals GPU0: its load hung: it did not stop when asked to; its processes were ended" in job.faults


class Silence(Turning):
    """Once the load is under way the driver does not come back until it is let go."""

    let_go = threading.Event()

    def answer(self, scope, key):
        if self.turned and key == "nvmlDeviceGetPowerUsage":
            self.let_go.wait(60)
        return super().answer(scope, key)


def test_no_card_is_heated_while_the_sensors_are_silent(soak, monkeypatch):
    monkeypatch.setattr(thermals, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr("rigbench.work.sensors.STOP_WITHIN_SECONDS", 0.05)
    library = Silence(TWO, (), count=1)
    job, result = soak(library.rig, seconds=60.0, watcher=library.watch)
    library.let_go.set()
    assert result.ended_by == "sensors silent"
    assert "without them no card may be heated" in job.faults[0]
    assert result.cards[0].loaded_seconds < 50


class Slow(ReplayedDriver):
    def answer(self, scope, key):
        if key == "nvmlDeviceGetPowerUsage":
            time.sleep(0.25)
        return super().answer(scope, key)


def test_telemetry_slower_than_asked_is_said(soak):
    library = Slow(parse_recording("\n".join(["sys nvmlDeviceGetCount_v2 = 0 1", *TWO])))
    _, result = soak(Rig(RecordedSysfs({}, {}), Nvml(library)), seconds=0.9)
    assert any(note.startswith("telemetry was slower than asked: every 0.") for note in result.notes)


@pytest.mark.parametrize(("number", "by"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_ctrl_c_keeps_and_summarises_what_was_sampled(tmp_path, number, by):
    job = Job(store.Store(tmp_path), rig(*TWO, count=2), "thermals", Silent())
    interrupted = []

    def interrupt(elapsed: float, planned: float, curves) -> None:
        if not interrupted and all(len(own.get("throughput", ())) > 3 for own in curves.values()):
            interrupted.append(elapsed)
            os.kill(os.getpid(), number)

    before = signal.signal(number, __main__._interrupt)
    try:
        with pytest.raises(Interrupted):
            thermals.run(job, Options(minutes=5.0), interrupt)
    finally:
        signal.signal(number, before)
    kept = store.read(job.store.paths()[0]).thermals
    assert (kept.ended_by, kept.ended_because) == ("interrupted", f"stopped by {by}")
    assert len(kept.telemetry.at_seconds) > 3
    assert [card.load is not None for card in kept.cards] == [True, True]


def test_it_ends_as_soon_as_every_card_is_settled(soak, monkeypatch):
    monkeypatch.setattr(heat_fit, "LEAST_SECONDS", 4.0)
    monkeypatch.setattr(heat_fit, "AHEAD_SECONDS", 1.0)
    monkeypatch.setattr(thermals, "LOOK_SECONDS", 0.2)
    wobble = "* nvmlDeviceGetTemperature/0 = " + " ; ".join(f"0 {70 + tick % 2}" for tick in range(600))
    _, result = soak(rig(*TWO, wobble, count=2), seconds=60.0)
    assert result.ended_by == "settled"
    assert all(card.settled.settled for card in result.cards)
    assert all(card.loaded_seconds < 40 for card in result.cards)


def test_without_any_sensor_it_says_which_are_missing_and_still_tells_throughput(soak):
    _, result = soak(cpu_only({}), seconds=1.0)
    (card,) = result.cards
    assert card.name == "CPU"
    assert card.missing == {
        "temperature": "no CPU temperature sensor",
        "power": "no package energy counter",
        "clock": "not sampled on a CPU",
        "fan": "not sampled on a CPU",
        "throttle reasons": "not sampled on a CPU",
    }
    assert card.settled.what == "throughput"
    assert isinstance(result.power, Absent)
    assert "no package energy counter" in result.power.reason or "too short" in result.power.reason


def test_nothing_is_heated_where_no_sensor_answers(rigbench, monkeypatch):
    monkeypatch.setattr(Rig, "live", lambda ask_driver=True: cpu_only({}))
    monkeypatch.setattr(thermals, "run", None)
    code, out, err = rigbench("thermals", "--device", "cpu")
    assert (code, out) == (3, "")
    assert err == (
        "rigbench: no sensor would report how hot it gets (CPU: no CPU temperature sensor): nothing was heated; "
        "`rigbench matmul` shows without sensors whether the speed holds under load\n"
    )


def test_nothing_measured_is_skipped_with_its_reason(soak, monkeypatch):
    monkeypatch.setattr(thermals, "PROBE", "no_such_probe")
    job, result = soak(cpu_only({}))
    assert isinstance(result, Skipped)
    assert "no_such_probe" in result.reason
    assert isinstance(job.run, Run)


def test_a_real_load_multiplies_without_a_gap_and_checks_itself():
    result = heat_load.run(heat_load.Options(seconds=1.2, device="cpu", size=128), Report(io.BytesIO()))
    assert result.dtype in ("fp32", "bf16")
    assert sum(result.seconds) == pytest.approx(result.ended_at_seconds[-1] - result.began_at_seconds, rel=0.2)
    assert all(check.correct for check in result.checks)
    assert len(result.checks) == 2
    assert msgspec.json.decode(msgspec.json.encode(result), type=HeatLoad) == result


def test_a_device_that_multiplies_wrongly_is_caught(monkeypatch):
    real = torch.mm

    def broken(a, b, out):
        real(a, b, out=out)
        out[:, 0] += 100.0

    monkeypatch.setattr(torch, "mm", broken)
    result = heat_load.run(heat_load.Options(seconds=0.3, device="cpu", size=64), Report(io.BytesIO()))
    assert not any(check.correct for check in result.checks)


def test_a_limit_is_the_cards_own():
    assert verdict.too_hot(93.9, 96.0) == ""
    assert verdict.too_hot(94.0, 96.0) == "it reached 94 °C, and slows down at 96"
    assert verdict.too_hot(Absent("not supported"), 96.0) == ""
