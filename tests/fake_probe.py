"""A probe that does what its options say, to test the worker with: finish, spin, refuse, die, hang, or wait."""

import os
import signal
import subprocess
import sys
import time

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Record, Telemetry


class Options(Record, frozen=True):
    act: str
    pid_file: str = ""


class Result(Record, frozen=True):
    steps: int
    note: str = ""
    events: tuple[str, ...] = ()
    telemetry: Telemetry | Absent = Absent("no sensor was read")


def run(options: Options, report) -> Result:
    print("a library prints this on standard output")
    if options.pid_file:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(options.pid_file, "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
    report.progress(0.5, "half way")
    if options.act == "refuse":
        raise RigbenchError("the file is empty", "give another", exit_code=3)
    if options.act == "crash":
        raise ZeroDivisionError("one over none")
    if options.act == "CUDA":
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` …")
    if options.act == "abort":  # as std::terminate writes it, with torch's frames
        frames = "".join(f"frame #{number}: <unknown function> + 0xdc253\n" for number in range(200))
        what = "  what():  [Rank 1] Process group watchdog thread terminated with exception: CUDA error: unknown error"
        sys.stderr.write(f"terminate called after throwing an instance of 'c10::DistBackendError'\n{what}\n{frames}")
        sys.stderr.flush()
        os.abort()
    if options.act == "early stop":
        while True:
            report.check()
            time.sleep(0.01)
    if options.act == "escape":
        if os.fork() == 0:  # what a killed process group leaves alive, as a process stuck in a driver would be
            os.setsid()
            time.sleep(20)
            os._exit(0)
        time.sleep(0.5)
    if options.act == "spin":
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            pass
    if options.act in ("finish", "escape", "spin"):
        return Result(steps=7)
    if options.act == "hold back":
        for steps in range(1001):
            report.partial(lambda: Result(steps=steps, note="handed over when told to stop"))  # noqa: B023
        time.sleep(60)
    report.partial(Result(steps=3, note="so far"))
    if options.act == "refuse midway":
        raise RigbenchError("the file shrank", "give another")
    if options.act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while not report.should_stop() or options.act == "hang":
        time.sleep(0.01)
    return Result(steps=5, note="stopped")
