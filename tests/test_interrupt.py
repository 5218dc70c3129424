"""Does Ctrl-C end every command, whatever it is doing, in one line, without a traceback, and with nothing lost?"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest

RIG = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"
TOPOLOGY, PREDICTION = ("--replay", str(RIG), "topology"), ("budget", "--on", "2xrtx-4080", "--flops", "1e18")

# Presses Ctrl-C as soon as a module is imported that the test names; the module may then swallow it, or hang.
HOOK = """
import ctypes, importlib.abc, os, signal, sys, time
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != os.environ["INTERRUPT_AT"]:
            return None
        os.environ["INTERRUPT_AT"] = ""
        if os.environ["INTERRUPT_HOW"] == "hang":  # where no Python runs any more, as in a driver's call
            os.environ["INTERRUPT_HOW"] = ""
            os.system(f"(sleep 0.2; kill -INT {os.getpid()}) &")
            mutex = ctypes.create_string_buffer(64)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        try:
            os.kill(os.getpid(), int(os.environ["INTERRUPT_BY"]))
            time.sleep(60)
        except KeyboardInterrupt:
            if os.environ["INTERRUPT_HOW"] != "swallow":
                raise
            time.sleep(60)
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def rigbench(tmp_path):
    """Start the command line with Ctrl-C pressed at a module's import."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)

    def start(*words: str, at: str = "", by: int = signal.SIGINT, how: str = "", ignored: bool = False):
        paths = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
        asked = {"INTERRUPT_AT": at, "INTERRUPT_BY": str(int(by)), "INTERRUPT_HOW": how, "PYTHONPATH": paths}
        return subprocess.Popen(
            [sys.executable, "-m", "rigbench", *words],
            env={**os.environ, **asked, "RIGBENCH_HOME": str(tmp_path / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
        )

    return start


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "at"),
    [
        (TOPOLOGY, "typer"),
        (TOPOLOGY, "rigbench.topology.command"),
        (TOPOLOGY, "rigbench.machine.replay"),
        (TOPOLOGY, "rich.console"),
        (PREDICTION, "rigbench.predict.steptime"),
        (("capacity", "--on", "rtx-4080", "--compile", "off"), "torch"),
    ],
)
def test_it_is_one_line_while_modules_are_imported_a_rig_is_replayed_or_a_budget_predicted(rigbench, words, at, by):
    out, err = (process := rigbench(*words, "--quiet", at=at, by=by)).communicate(timeout=100)
    assert (process.returncode, out, err) == (130, "", "rigbench: interrupted\n")


@pytest.mark.parametrize("how", ["swallow", "hang"])
def test_a_library_that_swallows_it_or_never_returns_does_not_keep_the_command_alive(rigbench, how):
    out, err = (process := rigbench(*TOPOLOGY, at="rich.console", how=how)).communicate(timeout=50)
    assert (process.returncode, out, err) == (130, "", "rigbench: interrupted\n")


def test_it_is_heard_by_a_process_that_was_started_with_it_ignored(rigbench):
    out, err = (process := rigbench(*TOPOLOGY, at="rich.console", ignored=True)).communicate(timeout=50)
    assert (process.returncode, out, err) == (130, "", "rigbench: interrupted\n")


def measuring(rigbench, *presses: int) -> tuple[int, str, str, list[psutil.Process]]:
    """A measurement that is stopped after a while: (exit code, output, error output, its workers)."""
    process = rigbench("bandwidth", "--device", "cpu", "--seconds", "10min", "--json", ignored=True)
    workers: list[psutil.Process] = []

    def press() -> None:
        while not workers:
            time.sleep(0.05)
            workers.extend(psutil.Process(process.pid).children())
        time.sleep(3.0)  # it has loaded torch then; a fast machine has measured all after twice that
        for number in presses:
            process.send_signal(number)
            time.sleep(0.05)

    threading.Thread(target=press, daemon=True).start()
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err, workers


@pytest.mark.parametrize("presses", [(signal.SIGINT,), (signal.SIGHUP,), (signal.SIGINT, signal.SIGINT)])
def test_a_measurement_is_stopped_with_what_it_has_and_its_workers_are_gone(rigbench, presses, tmp_path):
    code, out, err, workers = measuring(rigbench, *presses)
    first, _, more = err.partition("\n")
    assert (code, first) == (130, "rigbench: stopping; keeping what was measured …"), out[-400:]
    last = more.splitlines()[-1]
    assert "Traceback" not in err
    assert workers
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    if "before anything was measured" in err:  # on a very slow machine it was not yet loaded
        return
    (file,) = (tmp_path / "home" / "runs").glob("[0-9]*.json")
    run = json.loads(file.read_text())
    assert run["status"] == "interrupted"
    assert last == f"rigbench: interrupted; what was measured is saved as {run['id']}"
    assert json.loads(out) == run
    (part,) = run["bandwidth"]["parts"]
    assert part["ended"] == "interrupted"
    assert part["transfers"]


END = """
import atexit, os, sys, time
from rigbench import __main__
def wait():
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(60)
atexit.register(wait)
sys.argv = ["rigbench", "profiles"]
__main__.main()
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_has_said_all_ends_with_130_as_well(by):
    with subprocess.Popen([sys.executable, "-c", END], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stderr.readline() == f"{it.pid}\n"
        it.send_signal(by)
        out, err = it.communicate(timeout=60)
    assert (it.returncode, err) == (130, "")
    assert "rtx-4090" in out


def test_a_library_whose_end_never_comes_does_not_keep_a_command_that_has_said_all():
    """No handler runs there, nor where a signal comes between Python's look for one and a long wait in the kernel."""
    lock = "mutex = ctypes.create_string_buffer(64)\n    for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)"
    text = END.replace("import atexit", "import atexit, ctypes").replace("time.sleep(60)", lock)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as it:
        assert it.stderr.readline() == f"{it.pid}\n"
        time.sleep(0.2)
        it.send_signal(signal.SIGINT)
        try:
            out, err = it.communicate(timeout=30)
        finally:
            it.kill()
    assert (it.returncode, err) == (130, "")
    assert "rtx-4090" in out


def test_where_no_thread_may_run_the_main_one_hears_alone():
    none = (
        'import threading\ndef none(*_): raise RuntimeError("can\'t start new thread")\nthreading.Thread.start = none\n'
    )
    with subprocess.Popen(
        [sys.executable, "-c", none + END], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as it:
        assert it.stderr.readline() == f"{it.pid}\n"
        time.sleep(0.2)
        it.send_signal(signal.SIGINT)
        out, err = it.communicate(timeout=30)
    assert (it.returncode, err, "rtx-4090" in out) == (130, "", True)


def test_whoever_starts_it_by_nohup_keeps_it_when_the_terminal_is_closed():
    command = ["nohup", sys.executable, "-c", END.replace("60", "0.2")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as it:
        assert it.stderr.readline() == f"{it.pid}\n"
        it.send_signal(signal.SIGHUP)
        _, err = it.communicate(timeout=60)
    assert (it.returncode, err) == (0, "")


def test_a_terminal_that_is_closed_ends_it_with_what_it_has(tmp_path):
    """No more can be written there, which must not keep the recording from its end."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rigbench", "monitor", "--record", str(tmp_path / "night.jsonl")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    seen = b""
    while b"cores" not in seen:  # of the host, in the picture
        seen += os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait(60) == 0
    assert json.loads((tmp_path / "night.jsonl").read_text().splitlines()[-1])["ended_by"] == "stopped by the user"


SLOW_SUMMARY = """
import sys, time
from rigbench import __main__
from rigbench.monitor import screen
show = screen.show
screen.show = lambda *what: (time.sleep(2.0), show(*what))
sys.argv = ["rigbench", "monitor"]
__main__.main()
"""


def test_the_summary_of_monitor_is_waited_for_however_long_it_takes():
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_SUMMARY], stdout=subprocess.PIPE, text=True, env=environment
    ) as it:
        it.stdout.readline()
        it.stdout.readline()
        it.send_signal(signal.SIGINT)
        out, _ = it.communicate(timeout=60)
    assert (it.returncode, "stopped by the user" in out) == (0, True)
