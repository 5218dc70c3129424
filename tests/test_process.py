"""Does a probe in its own process finish, fail, die, hang and stop, and leave nothing behind?"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fake_probe import Options, Result

from rigbench.core.errors import RigbenchError
from rigbench.work import process


@pytest.fixture(autouse=True)
def the_fake_probe_can_be_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def call(act: str, limit_seconds: float = 30.0, pid_file: Path | None = None, **more):
    options = Options(act=act, pid_file=str(pid_file or ""))
    return process.call("fake_probe", options, Result, limit_seconds=limit_seconds, **more)


def gone(pid_file: Path) -> bool:
    """Whether the worker and the child it started have ended, within five seconds."""
    pids = [int(word) for word in pid_file.read_text().split()]
    for _ in range(100):
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_a_result_comes_back_with_its_progress_whatever_the_probe_prints():
    said = []
    outcome = call("finish", on_progress=lambda share, text: said.append((share, text)))
    assert outcome == process.Outcome((Result(steps=7),), "finished")
    assert said == [(0.5, "half way")]


def test_what_python_loads_first_may_print(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert call("finish") == process.Outcome((Result(steps=7),), "finished")


def test_who_holds_its_output_open_is_not_waited_for():
    began = time.monotonic()
    assert call("escape").result == Result(steps=7)
    assert time.monotonic() - began < 15


def test_a_refusal_in_the_middle_of_the_work_keeps_what_was_measured():
    outcome = call("refuse midway")
    assert outcome == process.Outcome((Result(steps=3, note="so far"),), "died", "the file shrank; give another", (0,))


def test_a_refusal_arrives_with_its_cure_and_exit_code():
    with pytest.raises(RigbenchError, match="the file is empty; give another") as caught:
        call("refuse")
    assert caught.value.exit_code == 3


def test_a_crash_is_an_outcome_that_names_its_cause():
    outcome = call("crash")
    assert (outcome.result, outcome.ended) == (None, "died")
    assert "ZeroDivisionError: one over none" in outcome.reason


def test_a_worker_killed_for_memory_hands_over_what_it_had():
    outcome = call("die")
    assert outcome.result == Result(steps=3, note="so far")
    assert outcome.ended == "died"
    assert "as the system does when memory runs out" in outcome.reason


def test_a_worker_that_hangs_is_ended_with_all_its_children(tmp_path):
    pid_file = tmp_path / "pids"
    outcome = call("hang", limit_seconds=1.5, pid_file=pid_file)
    assert outcome.result == Result(steps=3, note="so far")
    assert (outcome.ended, "no answer within" in outcome.reason) == ("hung", True)
    assert gone(pid_file)


def interrupt_after(seconds: float) -> None:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_lets_the_probe_hand_over_what_it_measured():
    interrupt_after(1.0)
    outcome = call("wait")
    assert outcome == process.Outcome((Result(steps=5, note="stopped"),), "interrupted")


def test_ctrl_c_that_ends_no_wait_is_heard_all_the_same():
    """As one between Python's look for signals and a wait in the kernel does not: here another thread gets it."""
    threading.Timer(1.0, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
    assert call("wait", limit_seconds=3600.0).ended == "interrupted"


def test_ctrl_c_before_anything_was_measured_ends_at_once():
    interrupt_after(1.0)
    assert call("early stop") == process.Outcome((None,), "interrupted")


@pytest.mark.parametrize("presses", [(1.0,), (1.0, 1.2)])
def test_a_probe_that_does_not_stop_is_ended_and_what_it_sent_is_kept(presses, capfd, tmp_path):
    for seconds in presses:
        interrupt_after(seconds)
    pid_file = tmp_path / "pids"
    outcome = call("hang", pid_file=pid_file)
    reason = "it did not stop in time and was ended" if len(presses) == 1 else "it was ended at once"
    assert outcome == process.Outcome((Result(steps=3, note="so far"),), "interrupted", reason)
    assert capfd.readouterr().err == "rigbench: stopping; keeping what was measured …\n"
    assert gone(pid_file)


def test_what_was_held_back_is_sent_when_the_parent_says_stop():
    interrupt_after(1.5)
    outcome = call("hold back")
    assert outcome.ended == "interrupted"
    assert outcome.result == Result(steps=1000, note="handed over when told to stop")


def test_partial_results_are_sent_once_a_second_but_those_that_must_arrive():
    out = io.BytesIO()
    report = process.Report(out)
    for step in range(1000):
        report.partial(Result(steps=step))
    assert [json.loads(line)["partial"]["steps"] for line in out.getvalue().splitlines()] == [0]
    report.partial(Result(steps=1000), at_once=True)
    assert json.loads(out.getvalue().splitlines()[-1])["partial"]["steps"] == 1000


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("CUDA", "ended with code 1: RuntimeError: CUDA error: an illegal memory access was encountered"),
        (
            "abort",
            "was ended by SIGABRT: what():  [Rank 1] Process group watchdog thread terminated with exception: CUDA "
            "error: unknown error",
        ),
    ],
)
def test_a_probe_that_dies_is_told_by_its_cause_and_not_by_what_follows_it(act, said):
    assert call(act).reason == f"its process {said}"


def test_a_parent_that_is_killed_leaves_no_process_behind(tmp_path):
    pid_file = tmp_path / "pids"
    code = (
        "from fake_probe import Options, Result; from rigbench.work import process;"
        f"process.call('fake_probe', Options(act='wait', pid_file={str(pid_file)!r}), Result, limit_seconds=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert gone(pid_file)
