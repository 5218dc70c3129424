"""Do power steps go through every rhythm, stop when they must, and leave on disk at which one the machine went down?"""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from scripted_sensors import rig
from test_thermals import TWO

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.doctor import diagnosis
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs, Sysfs
from rigbench.thermals import command as thermals
from rigbench.thermals import probe, screen, steps, steps_verdict, underway
from rigbench.thermals.record import LoadOptions, Options, PowerSteps
from rigbench.work.process import Report

BOOT = "proc/sys/kernel/random/boot_id"
FILES = {BOOT: "first"}


@pytest.fixture(autouse=True)
def a_fake_load(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(thermals, "PROBE", "fake_heat")
    monkeypatch.setattr(thermals, "LISTEN_SECONDS", 0.05)
    monkeypatch.setattr(steps, "PERIODS", (5.0, 1.0, 0.2))
    monkeypatch.setattr(steps, "LEAST_PERIODS", 0)  # a fake load needs no whole one


def job_of(home: Path, machine: Rig) -> Job:
    return Job(store.Store(home), machine, "thermals", Silent())


def options(seconds: float = 0.25) -> Options:
    return Options(power_steps=True, step_seconds=seconds, yes=True)


def test_both_cards_go_through_every_rhythm_and_nothing_is_left_on_the_disk(tmp_path, monkeypatch):
    begun: list[underway.Underway] = []
    begin = underway.begin
    monkeypatch.setattr(underway, "begin", lambda home, it: (begin(home, it), begun.append(it)))
    job = job_of(tmp_path, rig(*TWO, count=2, files=FILES))
    result = steps.run(job, options())
    assert (result.ended_by, result.devices) == ("finished", ("GPU0", "GPU1"))
    assert [step.period_seconds for step in result.steps] == [5.0, 1.0, 0.2]
    assert all(step.pulses for step in result.steps)
    assert all(590 < step.lowest_watts <= step.highest_watts < 610 for step in result.steps)  # of both, 300 W each
    assert [(it.step, len(it.steps), it.boot) for it in begun] == [(0, 0, "first"), (1, 1, "first"), (2, 2, "first")]
    assert not (tmp_path / underway.FILE).exists()
    assert store.read(job.store.find(job.run.id)).thermals == result
    assert not job.faults


@pytest.mark.parametrize(
    ("line", "ended_by", "words"),
    [
        ("* nvmlDeviceGetTemperature/0 = 0 95", "safety stop", "it reached 95 °C, and slows down at 96"),
        ("1 nvmlDeviceGetPowerUsage = 0 500000", "safety stop", "GPU1 drew 500 W, over its limit of 320 W"),
        ("1 nvmlDeviceGetPowerUsage = 15", "GPU lost", "GPU1: GPU is lost"),
    ],
)
def test_heat_power_and_a_lost_card_end_it(tmp_path, line, ended_by, words):
    key = line.partition(" = ")[0].split()[1]
    lines = [it for it in TWO if key not in it]
    lines += [line, *(["0 nvmlDeviceGetPowerUsage = 0 300000"] if "1 nvml" in line else [])]
    lines.append("* nvmlDeviceGetEnforcedPowerLimit = 0 320000")
    job = job_of(tmp_path, rig(*lines, count=2, files=FILES))
    result = steps.run(job, options(30.0))
    assert result.ended_by == ended_by
    assert words in result.ended_because
    assert len(result.steps) == 1  # none after it
    assert bool(job.faults) == (ended_by == "GPU lost")
    assert not (tmp_path / underway.FILE).exists()


def test_a_load_that_dies_is_a_fault_with_its_step(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_HEAT", "cuda:1 die")
    job = job_of(tmp_path, rig(*TWO, count=2, files=FILES))
    result = steps.run(job, options(1.0))
    assert (result.ended_by, len(result.steps)) == ("worker died", 1)
    (found,) = steps_verdict.diagnose(result)
    assert (found.code, found.severity, found.where) == ("power-steps", "fault", ("GPU1",))
    assert found.detail == "in step 1 of 3, from idle to full every 5 s"
    assert [item.code for item in diagnosis.diagnosed(job.run).findings] == ["power-steps"]


def test_ctrl_c_ends_it_and_keeps_what_there_is(tmp_path):
    job = job_of(tmp_path, rig(*TWO, count=2, files=FILES))
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        steps.run(job, options(30.0))
    assert job.run.thermals.ended_by == "interrupted"
    assert not (tmp_path / underway.FILE).exists()


def test_every_rhythm_has_whole_steps_however_short_it_was_asked_for(monkeypatch):
    monkeypatch.undo()
    assert [steps.lasts(period, options(1.0)) for period in steps.PERIODS] == [10.0, 4.0, 2.0, 1.0, 1.0]


def test_a_rhythm_without_a_step_proves_nothing():
    step = steps.PowerStep(period_seconds=5.0, seconds=1.0, pulses=0, lowest_watts=40.0, highest_watts=41.0)
    result = PowerSteps(
        method=1, devices=("GPU0",), planned=(5.0,), steps=(step,), ended_by="finished", ended_because="the end"
    )
    console = Console(file=io.StringIO(), width=100)
    screen.show(result, console)
    assert console.file.getvalue().startswith("warn  power steps: GPU0 did not come to full in 1 of 1 rhythms")


# ---- the machine goes down


def left_behind(home: Path, boot: str = "first", pid: int = 1 << 22) -> None:
    its = underway.Underway(
        boot=boot, pid=pid, at="2026-11-28T22:00:00Z", step=1, planned=(5.0, 1.0, 0.2), devices=("GPU0",), steps=()
    )
    step = steps.PowerStep(period_seconds=5.0, seconds=20.0, pulses=4, lowest_watts=40.0, highest_watts=310.0)
    underway.begin(home, msgspec.structs.replace(its, steps=(step,)))


def test_the_next_start_says_at_which_step_the_machine_went_down(tmp_path):
    left_behind(tmp_path)
    found = underway.went_down(tmp_path, RecordedSysfs({BOOT: "second"}, {}))
    assert isinstance(found, PowerSteps)
    assert steps_verdict.step_words(found) == "in step 2 of 3, from idle to full every 1 s"
    assert "since step 2 of 3 began, at 2026-11-28T22:00:00Z" in found.ended_because
    (finding,) = steps_verdict.diagnose(found)
    assert finding.what == "went down when its GPUs went from idle to full"
    assert finding.evidence[1] == "every 5 s, 4 times: 40.0 W to 310 W"
    assert underway.went_down(tmp_path, RecordedSysfs({BOOT: "second"}, {})) == found  # until others end in good order


def test_without_a_boot_id_the_time_of_the_start_tells_it(tmp_path):
    early, late = (RecordedSysfs({"proc/stat": f"cpu 1\nbtime {at}\n"}, {}) for at in (100, 200))
    left_behind(tmp_path, underway.boot(early))
    assert underway.went_down(tmp_path, early) is None
    left_behind(tmp_path, underway.boot(early))
    assert underway.went_down(tmp_path, late) is not None
    assert underway.went_down(tmp_path, RecordedSysfs({}, {})) is None  # nobody knows


def test_a_program_that_was_killed_says_nothing_of_the_machine(tmp_path):
    same = RecordedSysfs(FILES, {})
    left_behind(tmp_path, pid=os.getpid())
    assert underway.went_down(tmp_path, same) is None
    assert (tmp_path / underway.FILE).exists()  # it still runs
    left_behind(tmp_path)
    assert underway.went_down(tmp_path, same) is None
    assert not (tmp_path / underway.FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type":"underway"}', "\x00" * 100])
def test_a_damaged_marker_says_nothing(tmp_path, text):
    (tmp_path / underway.FILE).write_text(text)
    assert underway.went_down(tmp_path, RecordedSysfs(FILES, {})) is None


def test_doctor_counts_it_as_a_fault(rigbench, tmp_path):
    left_behind(tmp_path / "home", boot="another start")
    assert underway.boot(Sysfs())
    code, out, err = rigbench("doctor")
    assert code == 1
    assert out.startswith("1 fault: went down when its GPUs went from idle to full")
    assert "rigbench: fault: The machine or a card failed when its GPUs went from idle to full (power-steps)\n" in err


def test_whoever_cannot_be_asked_is_refused_and_told_what_may_happen(rigbench, monkeypatch):
    monkeypatch.setattr(thermals, "_refuse_blind", lambda *_: None)
    code, _, err = rigbench("--device", "cpu", "thermals", "--power-steps")
    words = " ".join(err.split())
    assert code == 2
    assert "may switch this machine off" in words
    assert "give --yes" in words


def test_only_a_yes_begins_it(monkeypatch):
    class Typed:
        def __init__(self, line: str) -> None:
            self.line = line

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.line

    monkeypatch.setattr(steps.sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(steps.sys, "stdin", Typed("y\n"))
    steps.confirm(2, Options(power_steps=True))
    monkeypatch.setattr(steps.sys, "stdin", Typed("\n"))
    with pytest.raises(RigbenchError, match="not begun"):
        steps.confirm(2, Options(power_steps=True))


def test_a_recorded_rig_takes_no_steps(rigbench):
    rigs = Path(__file__).parent / "rigs"
    code, _, err = rigbench("--replay", str(rigs / "dual-rtx4080s-x8x8"), "thermals", "--power-steps", "--yes")
    assert code == 2
    assert "of another" in err


def test_a_whole_command_says_where_the_machine_went_down_before_and_what_it_did(rigbench, monkeypatch, tmp_path):
    monkeypatch.setattr(thermals, "_refuse_blind", lambda *_: None)
    left_behind(tmp_path / "home", boot="another start")
    code, out, err = rigbench("--device", "cpu", "thermals", "--power-steps", "--yes", "--step-seconds", "1s")
    assert code == 0
    assert out.startswith("ok    power steps: CPU went from idle to full and back in all 3 rhythms")
    assert "warning: this machine went down in step 2 of 3, from idle to full every 1 s" in err
    assert not (tmp_path / "home" / underway.FILE).exists()  # these ended in good order
    assert re.search(r"^ *every 0.2 s +\d+ +", out, re.MULTILINE)
    _, again, _ = rigbench("report")
    assert "every 0.2 s" in again


# ---- the load itself


@pytest.mark.parametrize(
    ("at", "left"), [(0.0, -1.0), (0.4, -0.6), (1.0, 1.0), (1.5, 0.5), (2.0, -1.0), (1001.25, 0.75)]
)
def test_the_full_half_of_a_period_is_the_second(at, left):
    assert probe.on_seconds(at, 2.0) == pytest.approx(left)


def test_a_load_works_in_the_full_halves_alone(monkeypatch):
    """On a scripted clock: a product takes 10 ms, a wait what it was asked for."""

    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            assert seconds >= 0
            self.now += max(seconds, 1e-6)

    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    busy: list[tuple[float, float]] = []

    def sustain(accelerator, work, count, seconds, clock_of, should_stop):
        start = clock.now
        clock.now += seconds
        busy.append((start, clock.now))
        return (seconds,)

    monkeypatch.setattr(probe.products, "sustain", sustain)
    load = probe.run(LoadOptions(seconds=2.0, device="cpu", size=32, period_seconds=0.5), Report(io.BytesIO()))
    assert len(busy) == len(load.ended_at_seconds) == 4
    for start, end in busy:
        assert start % 0.5 == pytest.approx(0.25, abs=0.006)
        assert end % 0.5 == pytest.approx(0.0, abs=1e-6) or end % 0.5 == pytest.approx(0.5, abs=1e-6)
