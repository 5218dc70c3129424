"""Does a long watch stay as small as it began? `monitor`, `watch` and `thermals` beside a fake driver, looked at from inside.

    python tests/fuzz/soak.py --readings 36000     one after another, on a clock that runs PACE times as fast
    python tests/fuzz/soak.py --minutes 20         all three at once, in real time, ten readings a second
    python tests/fuzz/soak.py ... --into reports/fuzz    stores the figures with date and commit

`monitor` records to a file of bounded size, `watch` follows a small real training, `thermals` watches two cards under a
load that is none. Each is the command itself, every thread and process of it; only its clocks and waits are changed, and
that a soak does not end because it is settled. Every so many readings it notes what of memory, threads, file descriptors
and files it has, and what memory those of its children have that stay as long as it (the driver's, the relay).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]

from rigbench.core.errors import FINE, INTERRUPTED, NOTHING  # noqa: E402
from rigbench.core.record import Absent, Device  # noqa: E402
from rigbench.thermals.record import HeatLoad  # noqa: E402
from rigbench.thermals.record import LoadOptions as Options  # noqa: E402

NAMES = ("monitor", "watch", "thermals")
PACE, PACED = 15.0, "RIGBENCH_SOAK_PACE"  # so many readings are real that a machine with two cores can take them
INTERVAL_SECONDS, SOAK_MINUTES = 0.1, 20.0  # between readings; of one soak of thermals, after which another begins
WARM_SHARE, EACH = 0.4, 10_000  # of the time, or of the readings, is left out of the slope, which is told for so many
RECORDED_BYTES, MIB = 1 << 20, 1 << 20
FLAT_MIB = 1.0  # in an hour, or in EACH readings
LOOP = """
import os, sys, time, torch
from rigbench import hooks
pace = float(sys.argv[1])
hooks._clock = lambda: pace * time.monotonic()
torch.set_num_threads(1)
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.AdamW(model.parameters())
step = 0
try:
    while os.path.exists(__file__):  # else the soak was ended, and this one is left behind
        loss = (model(torch.randn(32, 64)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        hooks.step(tokens=32)
        print(f"step {step} of 10000000 | loss {loss.item():.4f} | time 50 ms", flush=True)
        time.sleep(max(0.02, 0.05 / pace))
except KeyboardInterrupt:
    pass
"""
CARDS = (
    "sys nvmlDeviceGetCount_v2 = 0 2", 'sys nvmlSystemGetDriverVersion = 0 "595.71.05"', '0 nvmlDeviceGetUUID = 0 "GPU-a"',
    '1 nvmlDeviceGetUUID = 0 "GPU-b"', '* nvmlDeviceGetName = 0 "NVIDIA GeForce RTX 4080 SUPER"',
    '0 nvmlDeviceGetPciInfo_v3 = 0 "00000000:01:00.0" 654446814 1360008290',
    '1 nvmlDeviceGetPciInfo_v3 = 0 "00000000:03:00.0" 654446814 1360008290', "* nvmlDeviceGetTemperatureThreshold/1 = 0 96",
    "* nvmlDeviceGetEnforcedPowerLimit = 0 320000", "* nvmlDeviceGetMemoryInfo_v2 = 0 17171480576 455081984 1900000000 14816398592",
    "* nvmlDeviceGetCurrentClocksEventReasons = " + " ; ".join(f"0 {4 * (tick % 3 == 0)}" for tick in range(50_000)),
    "* nvmlDeviceGetUtilizationRates = " + " ; ".join(f"0 {90 + tick % 9} 60" for tick in range(50_000)),
    "* nvmlDeviceGetTemperature/0 = " + " ; ".join(f"0 {60 + tick * tick % 7}" for tick in range(50_000)),
    "* nvmlDeviceGetPowerUsage = " + " ; ".join(f"0 {290_000 + tick * 7919 % 9999}" for tick in range(50_000)),
    "* nvmlDeviceGetClockInfo/1 = " + " ; ".join(f"0 {2500 + tick * 31 % 60}" for tick in range(50_000)),
    "* nvmlDeviceGetPcieThroughput/0 = 0 488", "* nvmlDeviceGetPcieThroughput/1 = 0 537",
)  # fmt: skip


# ------------------------------------------------------------------------------------- inside: one command under its watch


def hasten(pace: float) -> None:
    """All clocks and waits of this process run so many times as fast."""

    def faster(clock: Any) -> Any:
        return lambda: pace * clock()

    for name in ("monotonic", "perf_counter"):
        setattr(time, name, faster(getattr(time, name)))
    sleep, wait, ready = time.sleep, threading.Condition.wait, select.select
    time.sleep = lambda seconds: sleep(seconds / pace)
    threading.Condition.wait = lambda self, timeout=None: wait(self, None if timeout is None else timeout / pace)  # type: ignore[method-assign]
    queue.time = time.monotonic  # type: ignore[attr-defined]
    select.select = lambda r, w, x, timeout=None: ready(r, w, x, None if timeout is None else timeout / pace)  # type: ignore[assignment, misc]


def run(options: Options, report: Any) -> HeatLoad:
    """A load that is none, for the worker that thermals starts: windows as long as a real one's."""
    from rigbench.thermals.probe import window_seconds  # loads torch, as a load does

    pace = float(os.environ[PACED])
    began = pace * time.perf_counter()
    ended, took = list[float](), list[float]()

    def record() -> HeatLoad:
        kind = "cpu" if options.device == "cpu" else "cuda"
        device = Device(kind, "a fake card", Absent("fake"), 1, Absent("fake"))
        return HeatLoad(
            device=device, dtype="bf16", m=1000, n=1000, k=1000, began_at_seconds=began, ended_at_seconds=tuple(ended),
            products=tuple(round(1000 * it) for it in took), seconds=tuple(took), checks=(), trials={},
        )  # fmt: skip

    report.progress(0.1, "under load")
    while (now := pace * time.perf_counter()) - began < options.seconds and not report.should_stop():
        window = window_seconds(now - began)
        time.sleep(window / pace)
        ended.append(now)
        took.append(window)
        report.partial(record())
    return record()


class Notes:
    """What this process has, a JSON line every so many readings."""

    def __init__(self, file: Path, every: int, most: int, folder: Path) -> None:
        self._file, self._every, self._most, self._folder = file.open("w", buffering=1), every, most, folder
        self.readings, self._began = 0, time.time()

    def count(self) -> None:
        self.readings += 1
        if self.readings % self._every == 0 or self.readings == self._most:
            self._file.write(json.dumps(self.note()) + "\n")
        if self.readings == self._most:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self) -> dict[str, Any]:
        children = {}
        for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                kind = next((it for it in ("driver_child", "relay") if it.encode() in words), None)
                if kind:
                    children[kind] = resident(pid)
            except OSError:  # it has just ended
                continue
        files = sum(it.stat().st_size for it in self._folder.rglob("*") if it.is_file())
        return {
            "readings": self.readings,
            "seconds": round(time.time() - self._began, 1),
            "rss_bytes": resident("self"),
            "children_bytes": children,
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "file_bytes": files,
        }


def resident(pid: str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one(name: str, readings: int, pace: float, folder: Path, driver: Path) -> int:
    """The command, until it has taken so many readings."""
    os.environ |= {
        "RIGBENCH_HOME": str(folder / "home"),
        "RIGBENCH_KERNEL_LOG": os.devnull,
        "TMPDIR": str(folder / "tmp"),
        "LD_LIBRARY_PATH": str(driver.parent),
        "FAKE_NVML_FILE": str(driver.parent / "cards.txt"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
        PACED: str(pace),
    }
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if pace != 1.0:
        hasten(pace)
    from rigbench import __main__
    from rigbench.monitor import readings as monitor_readings
    from rigbench.monitor.record import Options as Rhythm
    from rigbench.monitor.summary import Fold
    from rigbench.thermals import command as thermals
    from rigbench.watch import relay

    notes = Notes(folder / "notes.jsonl", 1000 if pace != 1.0 else 100, readings, folder)

    def counted(method: Any) -> Any:
        def call(self: Any, *given: Any) -> None:
            method(self, *given)
            notes.count()

        return call

    if name == "thermals":
        thermals.HeatWatch.tick = counted(thermals.HeatWatch.tick)  # type: ignore[method-assign]
        thermals.PROBE = "fuzz.soak"
        settled = thermals._settled
        thermals._settled = lambda *given: settled(*given) and False
        words = ["thermals", "--minutes", f"{SOAK_MINUTES:g}"]
    else:
        Fold._tick = counted(Fold._tick)  # type: ignore[method-assign]
        words = ["monitor", "--interval", f"{INTERVAL_SECONDS}s", "--record", str(folder / "night.jsonl")]
        words += ["--record-limit", str(RECORDED_BYTES)]
    if name == "watch":
        live = monitor_readings.live
        monitor_readings.live = lambda rig, options, *given: live(rig, Rhythm(interval=INTERVAL_SECONDS), *given)
        fast = folder / "relay.py"
        first = f"import time\nreal = time.monotonic\ntime.monotonic = lambda: {pace} * real()\n"
        fast.write_text(f"{first}exec(compile(open({relay.__file__!r}).read(), 'relay.py', 'exec'))\n")
        relay.__file__ = str(fast)
        (folder / "loop.py").write_text(LOOP)
        words = ["watch", "--", sys.executable, str(folder / "loop.py"), str(pace)]
    sys.argv = ["rigbench", *words]
    while name == "thermals" and notes.readings < readings and pace != 1.0:
        code = __main__._run()  # an interrupted soak is the last one
        if code == 130:
            return 0
    __main__.main()  # does not come back
    return 1


# ------------------------------------------------------------------------------------------------- outside: all of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, help="of each, as fast as they can be taken")
    parser.add_argument("--minutes", type=float, help="of all at once, in real time")
    parser.add_argument("--names", nargs="*", default=list(NAMES))
    parser.add_argument("--pace", type=float, default=PACE)
    parser.add_argument("--into", type=Path, help="a folder for the figures")
    parser.add_argument(
        "--one", nargs=5, metavar=("NAME", "READINGS", "PACE", "FOLDER", "DRIVER"), help="used by itself"
    )
    asked = parser.parse_args()
    if asked.one:
        name, readings, pace, folder, driver = asked.one
        return one(name, int(readings), float(pace), Path(folder), Path(driver))
    if (asked.readings is None) == (asked.minutes is None):
        parser.error("give --readings or --minutes")
    from fakenvml import library

    real = asked.readings is None
    readings = asked.readings or round(asked.minutes * 60 / INTERVAL_SECONDS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        place = Path(scratch)
        (place / "driver").mkdir()
        driver = library.build(place / "driver").library
        (place / "driver" / "cards.txt").write_text("\n".join(CARDS) + "\n")
        started: dict[str, subprocess.Popen[bytes]] = {}
        for name in asked.names:
            folder = place / name
            for below in ("home", "tmp"):
                (folder / below).mkdir(parents=True)
            words = ["--one", name, str(readings), str(1.0 if real else asked.pace), str(folder), str(driver)]
            said = (folder.parent / f"{name}.txt").open("wb")
            started[name] = subprocess.Popen(
                [sys.executable, __file__, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=place,
            )
            if not real:
                started[name].wait()
        for name, process in started.items():
            code = process.wait()
            lines = (place / name / "notes.jsonl").read_text().splitlines()
            found[name] = told(name, code, [json.loads(line) for line in lines], real)
            print(found[name]["figure"], flush=True)
            if found[name]["not_flat"]:
                print((place / f"{name}.txt").read_text(errors="replace")[-2000:])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    stored = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}",
        "how": f"{asked.minutes:g} min, all at once, in real time"
        if real
        else f"each alone, {asked.pace:g} times as fast",
        **found,
    }
    if asked.into:
        asked.into.mkdir(parents=True, exist_ok=True)
        path = asked.into / f"{stored['date']}-{stored['commit']}-soak-{'real' if real else 'fast'}.json"
        path.write_text(json.dumps(stored, indent=1) + "\n")
        print(f"stored as {path}")
    return 1 if any(it["not_flat"] for it in found.values()) else 0


def told(name: str, code: int, notes: list[dict[str, Any]], real: bool) -> dict[str, Any]:
    """Whether it stayed flat once it was warm: its memory by the slope of what was noted, with its interval."""
    from rigbench.core import stats

    last = notes[-1]
    by, unit, per = ("seconds", "hour", 3600) if real else ("readings", f"{EACH:,} readings", EACH)
    rest = [it for it in notes if it[by] >= WARM_SHARE * last[by]]
    whole = [it["rss_bytes"] + sum(it["children_bytes"].values()) for it in rest]
    slope = stats.theil_sen([(it[by] / per, size / MIB) for it, size in zip(rest, whole, strict=True)])
    assert not isinstance(slope, Absent), slope
    moved = {key: sorted({it[key] for it in rest}) for key in ("threads", "descriptors")}
    figure = (
        f"{name}: {last['readings']:,} readings in {last['seconds']:.0f} s, exit code {code}; memory {whole[0] / MIB:.1f} to "
        f"{whole[-1] / MIB:.1f} MiB, slope {slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f}) MiB per {unit} of "
        f"{len(rest)} notes; threads {moved['threads']}, descriptors {moved['descriptors']}, files at most "
        f"{max(it['file_bytes'] for it in notes) / MIB:.1f} MiB"
    )
    return {
        "figure": figure,
        "slope_mib": [slope.value, slope.low, slope.high],
        "not_flat": slope.high >= FLAT_MIB
        or moved["descriptors"][-1] > rest[0]["descriptors"] + 2
        or code not in ((FINE, NOTHING, INTERRUPTED) if name == "thermals" else (FINE,)),
        f"every_{EACH}_readings": [it for it in notes if it["readings"] % EACH == 0] + [last],
        "warm": {"rss_mib": [round(size / MIB, 2) for size in whole], by: [it[by] for it in rest]},
    }


if __name__ == "__main__":
    sys.exit(main())
