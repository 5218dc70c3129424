"""Does a driver that hangs or crashes harm nothing but its own answers, and is the child that asks it never left?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakenvml.library import FAULT, FakeDriver, calls_in

from rigbench.core.errors import FAULT as FOUND_FAULT
from rigbench.core.errors import FINE, INTERRUPTED
from rigbench.core.record import Absent
from rigbench.machine import driver
from rigbench.machine.driver import DriverProcess
from rigbench.machine.driver_child import HANDLE, INIT
from rigbench.machine.nvml import NO_DRIVER, Nvml
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.thermals.command import HeatWatch
from rigbench.work.sensors import Sampler

RIGS = Path(__file__).parent / "rigs"
RECORDING = RIGS / "dual-rtx4080s-x8x8" / "nvml.txt"
HANG, CRASH = 7777, 8888
COUNT, NAME = "nvmlDeviceGetCount_v2", "nvmlDeviceGetName"


@pytest.fixture
def driver_of(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch):
    """A live driver, asked through a child that finds the fake library; a hang is over after a moment."""
    for limit in ("OPEN_SECONDS", "CALL_SECONDS"):
        monkeypatch.setattr(driver, limit, 1.0)  # what a busy machine may take for a call that answers

    def start(recording: Path = RECORDING, fault: str = "", log: Path | None = None) -> Nvml:
        for name, value in fake_driver.environment(recording, log).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(FAULT, fault) if fault else monkeypatch.delenv(FAULT, raising=False)
        nvml = Nvml.live()
        assert isinstance(nvml.driver, DriverProcess)
        return nvml

    return start


def child_of(nvml: Nvml) -> int:
    assert isinstance(nvml.driver, DriverProcess)
    assert nvml.driver._process is not None
    return nvml.driver._process.pid


def child_waits(nvml: Nvml) -> None:
    """Until the question is with the child, which sleeps on it."""
    assert isinstance(nvml.driver, DriverProcess)
    while not nvml.driver._lock.locked():
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RIGS.glob("*/nvml.txt")))
def test_the_child_and_the_replay_read_the_same_gpus(name: str, driver_of) -> None:
    live, replayed = driver_of(RIGS / name / "nvml.txt"), Nvml.replay(RIGS / name / "nvml.txt")
    assert live.gpus() == replayed.gpus()
    count = live.gpu_count()
    assert live.nvlinks(count) == replayed.nvlinks(count)
    assert live.driver_version() == replayed.driver_version()


def test_what_python_loads_first_may_print(driver_of, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello\\n' * 2000, flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert driver_of().gpu_count() == 2


@pytest.mark.parametrize(
    ("call", "named"),
    [(INIT, "nvmlInit"), (COUNT, COUNT[:-3]), (NAME, NAME), (HANDLE, HANDLE[:-3])],
)
def test_a_call_that_hangs_is_given_up_once_and_told(call: str, named: str, driver_of, monkeypatch) -> None:
    scope = "0" if call in (NAME, HANDLE) else "sys"
    nvml = driver_of(fault=f"{scope} {call} {HANG} 0")
    assert nvml.driver_version() == ("595.71.05" if call != INIT else nvml.absent)
    nvml.gpus()
    reason = Absent(f"the driver does not answer ({named}, 1 s)")
    assert nvml.absent == nvml.trouble == reason
    monkeypatch.setattr(driver, "CALL_SECONDS", 3600.0)
    assert nvml.gpus() == reason  # nobody waits for it again


@pytest.mark.parametrize("call", [INIT, COUNT, HANDLE, NAME])
def test_a_crash_in_the_library_is_a_reason(call: str, driver_of) -> None:
    nvml = driver_of(fault=f"{'0' if call in (NAME, HANDLE) else 'sys'} {call} {CRASH} 0")
    gpus = nvml.gpus()
    named = call.removesuffix("_v2").removesuffix("WithFlags")
    reason = Absent(f"the driver's library crashed (SIGSEGV) in {named}")
    assert nvml.trouble == reason
    assert (gpus[1].uuid if isinstance(gpus, tuple) else gpus) == reason


def test_what_was_read_before_a_card_hung_is_kept(driver_of) -> None:
    gpus = driver_of(fault=f"1 nvmlDeviceGetTemperature/0 {HANG} 0").gpus()
    reason = Absent("the driver does not answer (nvmlDeviceGetTemperature, 1 s)")
    assert [gpu.uuid for gpu in gpus] == [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in (0, 1)]
    assert (gpus[0].temperature_celsius, gpus[1].temperature_celsius) == (43.0, reason)
    assert gpus[1].pcie_replays == reason


def test_sensors_go_through_the_child_and_a_card_that_hangs_has_its_reason(driver_of) -> None:
    nvml = driver_of(fault=f"1 nvmlDeviceGetPowerUsage {HANG} 2")
    sampler = Sampler(Rig(RecordedSysfs({}, {}), nvml))
    for _ in range(4):
        sampler.tick()
    first, second, _ = sampler.record().series
    reason = Absent("the driver does not answer (nvmlDeviceGetPowerUsage, 1 s)")
    assert first.power_watts == (25.92, 25.92, 25.92, reason)
    assert second.power_watts == (21.4, 21.4, reason, reason)
    assert second.sm_clock_hertz[2] == reason


def test_no_card_is_heated_by_a_driver_that_answers_no_more(driver_of) -> None:
    nvml = driver_of(fault=f"0 nvmlDeviceGetPowerUsage {CRASH} 1")
    moments = iter(range(100))
    rig = Rig(RecordedSysfs({}, {}), nvml)
    watch = HeatWatch(rig, {"GPU0": nvml.gpu(0)}, 1.0, clock=lambda: float(next(moments)))
    silent = []
    for _ in range(4):
        watch.tick()
        silent.append(next(moments) - watch.heard)
    assert silent[0] == 1.0 < silent[1] < silent[2] < silent[3]  # the second tick is the last that was answered


def test_a_library_that_is_none_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / driver.LIBRARY).write_text("GROUP ( nothing )")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert driver.is_installed()
    assert Nvml.live().absent == Absent(NO_DRIVER)


def test_a_library_is_looked_for_where_the_loader_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libno-such-driver.so.1")
    monkeypatch.setattr(driver, "LOADER_CACHE", tmp_path / "ld.so.cache")
    assert driver.is_installed()  # nobody knows
    (tmp_path / "ld.so.cache").write_bytes(b"\0libc.so.6\0")
    assert not driver.is_installed()
    (tmp_path / "ld.so.cache").write_bytes(b"\0libno-such-driver.so.1\0")
    assert driver.is_installed()


def test_the_child_ignores_ctrl_c_and_is_not_asked_before_an_answer_is_wanted(driver_of, tmp_path: Path) -> None:
    nvml = driver_of(log=tmp_path / "log")
    assert calls_in(tmp_path / "log") == []
    assert nvml.gpu_count() == 2
    os.kill(child_of(nvml), signal.SIGINT)
    assert nvml.reading(0, "temperature_celsius") == 43.0


def test_a_child_that_is_killed_is_told_and_not_started_again(driver_of) -> None:
    nvml = driver_of()
    assert nvml.gpu_count() == 2
    os.kill(child_of(nvml), signal.SIGKILL)
    reason = Absent("the process that asks the driver ended by SIGKILL in nvmlDeviceGetCount")
    assert nvml.gpu_count() == nvml.trouble == reason


def test_a_thread_that_asks_while_the_interpreter_ends_has_an_answer_like_any_other(driver_of, monkeypatch) -> None:
    nvml = driver_of(fault=f"sys {COUNT} {HANG} 0")
    assert nvml.driver_version() == "595.71.05"
    monkeypatch.setattr(driver, "CALL_SECONDS", 3600.0)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(nvml.gpu_count)
        child_waits(nvml)
        driver._kill(nvml.driver._process)  # as the finalizer does
        assert asked.result() == Absent("the process that asks the driver ended by SIGKILL in nvmlDeviceGetCount")


def test_an_interrupted_question_leaves_no_answer_for_the_next_one(driver_of, monkeypatch) -> None:
    nvml = driver_of()
    assert nvml.gpu_count() == 2
    child = child_of(nvml)
    monkeypatch.setattr(DriverProcess, "_answer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        nvml.gpu_count()
    assert nvml.trouble is not None
    assert is_gone(child)


@pytest.mark.parametrize("fault", ["", f"sys {COUNT} {HANG} 0"])
def test_the_child_ends_with_its_parent_however_that_dies(fault: str, fake_driver: FakeDriver, tmp_path: Path) -> None:
    code = (
        "import threading, time; from rigbench.machine.nvml import Nvml; nvml = Nvml.live(); nvml.driver_version()\n"
        "threading.Thread(target=nvml.gpu_count, daemon=True).start(); time.sleep(0.3)\n"
        "print(nvml.driver._process.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | fake_driver.environment(RECORDING) | ({FAULT: fault} if fault else {})
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert is_gone(child)


def test_a_driver_that_is_let_go_leaves_no_child(driver_of) -> None:
    nvml = driver_of()
    nvml.gpu_count()
    child = child_of(nvml)
    del nvml
    assert is_gone(child)


LOOKS: list[tuple[str, ...]] = [
    ("topology",),
    ("doctor",),
    ("capture", "-o", "{folder}/captured"),
    ("monitor", "--once"),
    ("monitor", "--seconds", "2"),
    ("watch", "--", "sleep", "2"),
]
MEASURES: list[tuple[str, ...]] = [
    *(("thermals",), ("bandwidth",), ("p2p",), ("collectives",), ("matmul",), ("dataloader",), ("run", "--quick")),
    *(("train-probe", "--params", "5M"), ("capacity", "--params", "5M"), ("budget", "--flops", "1e15")),
]
CALLS = (INIT, COUNT, HANDLE, NAME, "nvmlDeviceGetTemperature/0", "nvmlDeviceGetPowerUsage")
LOOKED = [
    (command, call, code)
    for command in LOOKS
    for call in CALLS
    for code in (HANG, CRASH)
    if call != CALLS[-1] or command[0] not in ("topology", "doctor")  # which do not ask for it
]
# Every command, every call, a hang and a crash once; all of them together are slow.
FEW = [LOOKED[0], LOOKED[15], LOOKED[24], LOOKED[34], LOOKED[48], LOOKED[56]]


def words(command: tuple[str, ...], call: str, code: int) -> str:
    """What is said of it, in one line."""
    named = call.partition("/")[0].removesuffix("_v2").removesuffix("WithFlags")
    hangs, crashes = f"the driver does not answer ({named}, 1 s)", f"the driver's library crashed (SIGSEGV) in {named}"
    return hangs if code == HANG else crashes


def fault_of(call: str, code: int) -> str:
    return f"{'sys' if call in (INIT, COUNT) else '0'} {call} {code} 0"


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the processes that a test starts: tests/quiet reads it. (Ten seconds are for the full matrix of a driver.)"""
    monkeypatch.setenv("TEST_DRIVER_SECONDS", "1")


@pytest.mark.parametrize(
    ("command", "call", "code"),
    [pytest.param(*of, marks=[] if of in FEW else pytest.mark.slow) for of in LOOKED],
    ids=lambda it: it if isinstance(it, str) else it[0] + it[-1] if isinstance(it, tuple) else "",
)
def test_a_command_says_that_the_driver_hangs_or_crashed_and_answers_the_rest(
    command: tuple[str, ...], call: str, code: int, fake_driver: FakeDriver, tmp_path: Path, one_second: None
) -> None:
    typed = [word.format(folder=tmp_path) for word in command]
    done = fake_driver.run(*typed, recording=RECORDING, home=tmp_path / "home", fault=fault_of(call, code))
    assert done.returncode in (FINE, FOUND_FAULT), done.stderr
    assert "Traceback" not in done.stderr
    said = words(command, call, code)
    if command[0] == "monitor":
        assert said in " ".join((done.stdout + done.stderr).split())
    else:
        assert done.stderr.count(f"rigbench: warning: {said}; see dmesg, or restart") == 1
    for stored in (tmp_path / "home" / "runs").glob("*.json"):
        document = json.loads(stored.read_text())
        assert said in json.dumps(document[{"watch": "watched"}.get(command[0], "topology")])
        if command[0] != "watch":
            assert document["topology"]["cpu"]["logical_cpus"] == os.cpu_count()


@pytest.mark.parametrize(
    ("command", "call", "code"),
    [
        pytest.param(command, call, code, marks=[] if command[0] == "matmul" and code == HANG else pytest.mark.slow)
        for command in MEASURES
        for call, code in ((COUNT, HANG), (INIT, CRASH))
    ],
    ids=lambda it: it[0] if isinstance(it, tuple) else str(it),
)
def test_a_command_that_measures_says_so_before_it_measures_and_hears_a_signal(
    command: tuple[str, ...], call: str, code: int, fake_driver: FakeDriver, tmp_path: Path, one_second: None
) -> None:
    variables = fake_driver.environment(RECORDING) | {FAULT: fault_of(call, code)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rigbench", *command, "--home", str(tmp_path)],
        env=os.environ | variables,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr
    assert process.stderr.readline().startswith(f"rigbench: warning: {words(command, call, code)}; see dmesg")
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert (process.returncode, "Traceback" in said) == (INTERRUPTED, False)
    assert said.splitlines()[-1].startswith("rigbench: interrupted")


def test_no_driver_is_asked_for_the_cpu_or_for_other_hardware(fake_driver: FakeDriver, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for command in (
        ("budget", "--on", "2xrtx-4080", "--flops", "1e17", "-q"),
        ("matmul", "--device", "cpu", "--params", "5M", "--dtypes", "fp32", "--seconds", "1", "-q"),
        ("--replay", str(RIGS / "h200-driver-590.48.01"), "topology"),
        ("report", "--list"),
        ("profiles",),
    ):
        done = fake_driver.run(*command, recording=RECORDING, home=tmp_path, log=log)
        assert done.returncode == FINE, done.stderr
    assert calls_in(log) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[] if command[0] in ("topology", "monitor") else pytest.mark.slow)
        for command in [("topology",), ("monitor", "--seconds", "30"), *LOOKS[1:4], *MEASURES]
    ],
    ids=lambda command: command[0] + command[-1],
)
def test_a_signal_does_not_wait_for_a_driver_that_hangs(
    command: tuple[str, ...], number: int, fake_driver: FakeDriver, tmp_path: Path
) -> None:
    """It ends before the driver's limit is up: that would have been said."""
    variables = fake_driver.environment(RECORDING, tmp_path / "log") | {FAULT: f"sys {INIT} {HANG} 0"}
    typed = [word.format(folder=tmp_path) for word in command]
    process = subprocess.Popen(
        [sys.executable, "-m", "rigbench", "--home", str(tmp_path), *typed],
        env=os.environ | variables,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    log = tmp_path / "log"
    while not (log.exists() and str(HANG) in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == INTERRUPTED
    assert "interrupted" in said
    assert "does not answer" not in said
