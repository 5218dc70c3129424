"""Can any answer of the driver break rigbench? Every call it makes × every return code × at first and midway.

The calls are those that the driver library logged, so one that is added to rigbench is tested from then on.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
from fakenvml.library import FAULT, FakeDriver, calls_in

from rigbench.core.errors import BAD_INPUT, FINE, NOTHING, RigbenchError
from rigbench.core.errors import FAULT as FOUND_FAULT
from rigbench.core.record import Absent
from rigbench.machine import nvml
from rigbench.machine.driver import Answer
from rigbench.machine.driver_child import Library
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.monitor.readings import SlowBeat
from rigbench.topology import survey as topology
from rigbench.work.sensors import Sampler

RIGS = Path(__file__).parent / "rigs"
CODES = (*range(1, 31), 999)
HANG, CRASH = 7777, 8888
SETTER = re.compile(r"nvml\w*(Set|Reset|Clear|Create|Destroy|Freeze|Modify|Remove)[A-Z]\w*")
CONTRACT = {FINE, FOUND_FAULT, BAD_INPUT, NOTHING}
SAMPLE, WHOLE_SAMPLE, SEED = 12, 200, 20

# What the two cards of the recording do not have, so that those calls are made too.
MORE_CALLS = """
* nvmlDeviceGetEccMode = 0 1 1
* nvmlDeviceGetTotalEccErrors/0/0 = 0 0
* nvmlDeviceGetTotalEccErrors/0/1 = 0 2
* nvmlDeviceGetTotalEccErrors/1/0 = 0 0
* nvmlDeviceGetTotalEccErrors/1/1 = 0 1
* nvmlDeviceGetRemappedRows = 0 0 0 0 0
* nvmlDeviceGetMigMode = 0 1 1
* nvmlDeviceGetMaxMigDeviceCount = 0 1
0 nvmlDeviceGetMigDeviceHandleByIndex/0 = 0 100
1 nvmlDeviceGetMigDeviceHandleByIndex/0 = 0 200
100 nvmlDeviceGetName = 0 "MIG 1g.10gb"
200 nvmlDeviceGetName = 0 "MIG 1g.10gb"
* nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824
* nvmlDeviceGetNvLinkState/0 = 0 1
* nvmlDeviceGetNvLinkState/1 = 0 1
* nvmlDeviceGetNvLinkRemoteDeviceType/0 = 0 0
* nvmlDeviceGetNvLinkRemoteDeviceType/1 = 0 2
0 nvmlDeviceGetNvLinkRemotePciInfo_v2/0 = 0 "00000000:03:00.0" 0 0
1 nvmlDeviceGetNvLinkRemotePciInfo_v2/0 = 0 "00000000:01:00.0" 0 0
"""


Reading = Callable[[], Gpu | None]


class Combination(NamedTuple):
    """`after` is how often the call still answers as it should."""

    scope: str
    call: str
    code: int
    after: int

    def __str__(self) -> str:
        return " ".join(map(str, self))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "nvml.txt"
    path.write_text((RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text() + MORE_CALLS)
    return path


# What an older driver or another card refuses, so that rigbench asks under another name.
OLDER_DRIVER = "\n".join(
    f"{gpu} nvmlDeviceGet{call}"
    for gpu in (0, 1)
    for call in (
        *("CurrentClocksEventReasons = 13", "MemoryInfo_v2 = 13", "FanSpeed = 3", "FanSpeed_v2/0 = 0 30"),
        *("PowerUsage = 3", "FieldValues/185/0 = 3"),
        *(f"{kind}RunningProcesses_v3 = 13" for kind in ("Compute", "Graphics", "MPSCompute")),
    )
)
OTHER_NAMES = {
    *("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetFanSpeed_v2/0"),
    *("nvmlDeviceGetFieldValues/185/0", "nvmlDeviceGetFieldValues/186/0"),
    *(f"nvmlDeviceGet{kind}RunningProcesses_v2" for kind in ("Compute", "Graphics", "MPSCompute")),
}


class NoMore:
    """A driver as its child answers for it: from a call that hangs or crashes on, that is the answer to everything."""

    fault: ClassVar[Combination | None] = None
    trouble: ClassVar[Absent | None] = None
    asked: ClassVar[int] = 0

    def __init__(self, library: Library) -> None:
        self._library = library

    @classmethod
    def begin(cls, fault: Combination | None) -> None:
        cls.fault, cls.trouble, cls.asked = fault, None, 0

    def ask(self, scope: str, *keys: str) -> list[Answer | Absent]:
        return [self._answer(scope, key) for key in keys]

    def _answer(self, scope: str, key: str) -> Answer | Absent:
        if self.fault and (scope, key) == self.fault[:2]:
            NoMore.asked += 1
            if self.asked > self.fault.after:
                what = f" does not answer ({key}, 5 s)" if self.fault.code == HANG else "'s library crashed (SIGSEGV)"
                NoMore.trouble = self.trouble or Absent(f"the driver{what}")
        return self.trouble or Answer(*self._library.ask(scope, key)[0])


def read(driver: Nvml) -> Gpu | None:
    """Everything that rigbench reads of a driver; the second GPU as it found it."""
    rig = Rig(RecordedSysfs({}, {}), driver)
    found = topology.run(rig, lambda *_facts: Absent("no profile"))
    Sampler(rig).tick()
    SlowBeat(rig, 5.0).read_once()
    return found.gpus[1] if len(found.gpus) > 1 else None


def calls_made(driver: FakeDriver, recording: Path, log: Path, most: int = 2) -> list[tuple[str, str]]:
    """Every function that rigbench calls about the system, the first GPU and a part of it, with so many arguments.

    (NVLink's state is asked link by link: eighteen times the same call.)
    """
    read(Nvml(Library(driver.open(recording, log))))
    made = dict.fromkeys((scope, call) for scope, call, _ in calls_in(log) if scope in ("sys", "0", "100"))
    assert {("0", "nvmlDeviceGetName"), ("0", "nvmlDeviceGetPcieThroughput/0")} <= made.keys()
    if any(call == "nvmlDeviceGetTemperature/0" for _, call in made):
        made["0", "nvmlDeviceGetTemperatureV/0"] = None
    by_function: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for scope, call in made:
        by_function.setdefault((scope, call.partition("/")[0]), []).append((scope, call))
    return [call for variants in by_function.values() for call in variants[:most]]


def outcome(begin: Callable[[], Reading], combination: Combination, expected: Gpu | None) -> str | None:
    """What a fault broke, if anything. `begin` answers what is to be read once the fault is there."""
    reading, no_more = begin(), combination.code in (HANG, CRASH)
    NoMore.begin(combination if no_more else None)
    os.environ[FAULT] = "" if no_more else str(combination)
    try:
        second = reading()
    except RigbenchError:
        return None
    except Exception as error:  # noqa: BLE001 - this is what must not happen
        return f"{combination}: {type(error).__name__}: {error}"
    finally:
        del os.environ[FAULT]
        NoMore.begin(None)
    if combination.scope != "sys" and not no_more and second != expected:
        return f"{combination}: the other GPU reads otherwise"
    return None


@pytest.mark.parametrize("older", [False, True], ids=["newest", "older"])
@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_no_return_code_of_any_call_breaks_a_reading_or_hides_the_other_gpu(
    each: int,
    older: bool,
    fake_driver: FakeDriver,
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "MOST_NVLINKS", 2)  # the same call 36 times tells no more
    calls = calls_made(fake_driver, recording, tmp_path / "log")
    if older:
        recording = tmp_path / "older.txt"
        recording.write_text((RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text() + MORE_CALLS + OLDER_DRIVER)
        known = {call for _, call in calls}
        calls = [it for it in calls_made(fake_driver, recording, tmp_path / "log2", 99) if it[1] not in known]
        assert {call for _, call in calls} | known >= OTHER_NAMES
    library = fake_driver.open(recording)
    running = Nvml(NoMore(Library(library)))
    expected = read(Nvml(NoMore(Library(library)))), running.gpu(1)

    def at_first() -> Reading:
        return lambda: read(Nvml(NoMore(Library(library))))

    def midway() -> Reading:
        sampler = Sampler(Rig(RecordedSysfs({}, {}), running))
        sampler.tick()

        def go_on() -> Gpu:
            running.gpu(0)
            sampler.tick()
            return running.gpu(1)

        return go_on

    codes = (*CODES, HANG, CRASH)
    every = [Combination(scope, call, code, 0) for scope, call in calls for code in codes][::each]
    gc.disable()
    ways = list(zip((at_first, midway), expected, strict=True))
    broken = [outcome(begin, combination, second) for combination in every for begin, second in ways]
    gc.enable()
    with capsys.disabled():
        print(f"\n{len(calls)} calls × {len(codes)} answers × first and midway: {len(broken)} combinations read")
    assert [line for line in broken if line] == []


def test_no_setter_is_ever_called(fake_driver: FakeDriver, recording: Path, tmp_path: Path) -> None:
    for number, command in enumerate(reading_commands(tmp_path / "captured")):
        log = tmp_path / f"log{number}"
        done = fake_driver.run(*command, recording=recording, home=tmp_path / "home", log=log)
        calls = calls_in(log)
        assert done.returncode == FINE, done.stderr
        assert len(calls) > 50
        assert [call for _, call, _ in calls if SETTER.match(call)] == []


def reading_commands(folder: Path) -> list[list[str]]:
    """The commands that read hardware and run no load."""
    return [["topology"], ["capture", "-o", str(folder)], ["doctor"]]


def run_sample(driver: FakeDriver, recording: Path, tmp_path: Path, combinations: Sequence[Combination]) -> list[str]:
    """What went wrong in real processes, one a combination, over the reading commands in turn."""
    commands = reading_commands(tmp_path / "captured")

    def broken(numbered: tuple[int, Combination]) -> str | None:
        number, combination = numbered
        home = tmp_path / f"home{number}"
        command = reading_commands(home / "captured")[number % len(commands)]
        done = driver.run(
            *command, recording=recording, home=home, log=home.with_suffix(".log"), fault=str(combination)
        )
        asked = [call for _, call, _ in calls_in(home.with_suffix(".log"))]
        clean = all(line.startswith("rigbench: ") or line.endswith(" …") for line in done.stderr.splitlines())
        fine = done.returncode in CONTRACT and clean and "Traceback" not in done.stderr + done.stdout
        fine = fine and bool(done.stdout) and bool(asked) and not list(filter(SETTER.match, asked))
        return None if fine else f"{combination} {command[0]}: exit {done.returncode}: {done.stderr}{done.stdout[:200]}"

    with ThreadPoolExecutor(max_workers=2) as pool:
        return [line for line in pool.map(broken, enumerate(combinations)) if line]


def sampled(driver: FakeDriver, recording: Path, log: Path, size: int) -> list[Combination]:
    every = itertools.product(calls_made(driver, recording, log), CODES, (0, 1))
    combinations = [Combination(scope, call, code, after) for (scope, call), code, after in every]
    return random.Random(SEED).sample(combinations, size)


def test_a_sample_of_faults_leaves_real_processes_within_their_contract(
    fake_driver: FakeDriver, recording: Path, tmp_path: Path
) -> None:
    combinations = sampled(fake_driver, recording, tmp_path / "log", SAMPLE)
    assert run_sample(fake_driver, recording, tmp_path, combinations) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_faults_leave_real_processes_within_their_contract(
    fake_driver: FakeDriver, recording: Path, tmp_path: Path
) -> None:
    combinations = sampled(fake_driver, recording, tmp_path / "log", WHOLE_SAMPLE)
    assert run_sample(fake_driver, recording, tmp_path, combinations) == []


@pytest.mark.parametrize("code", [9, 999])
def test_a_driver_that_does_not_start_leaves_a_topology_without_gpus(
    code: int, fake_driver: FakeDriver, recording: Path, tmp_path: Path
) -> None:
    done = fake_driver.run(
        "topology", recording=recording, home=tmp_path, fault=str(Combination("sys", "nvmlInitWithFlags", code, 0))
    )
    assert done.returncode == FINE
    assert "Traceback" not in done.stderr
    assert "GeForce" not in done.stdout
