"""Is a disturbed `rigbench matmul --seconds 6` called disturbed, and a quiet one not? Run by hand; writes a table.

    python tests/bench/disturbed_trials.py [--trials 20] [--into reports/trust]

Half of the disturbed trials have a busy loop on each core, half have their worker stopped for a third of the time.
Whether a trial was quiet is told by a process of its own, which reads the kernel's counters of the worker's threads and
of all other processes itself; a quiet trial that was not is written down, does not count, and is made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "rigbench", "matmul", "--seconds", "6", "--json", "--quiet"]
WORKER = "rigbench.matmul.probe"
PERIOD = 0.1
STOPPED, RUNNING = 0.5, 1.0  # seconds in turn
QUIET_WAITED, QUIET_OTHERS, QUIET_STOLEN = 0.05, 0.10, 0.05  # by the witness, at most; others as a share of all cores
MOST_AGAIN = 3  # times as many quiet trials, on a machine that is not
COLUMNS = (
    "kind",
    "exit_code",
    "called_disturbed",
    "evidence_first_try",
    "waited_share_read",
    "paused_share_read",
    "witness_waited_share",
    "witness_others_share",
    "witness_stolen_share",
    "witness_stopped_share",
    "quiet_by_witness",
    "seconds",
)


def text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def workers(parent: int) -> list[int]:
    """The probe's processes below rigbench's."""
    children = text(f"/proc/{parent}/task/{parent}/children").split()
    return [int(pid) for pid in children if WORKER in text(f"/proc/{pid}/cmdline")]


def witness(parent: int) -> None:
    """Until standard input ends; then what was seen, as JSON. Nothing of rigbench is imported here."""
    seen: dict[str, tuple[int, int]] = {}
    ran = waited = ticks = stopped = 0
    used = {}
    first = last = machine()
    os.set_blocking(0, False)
    while not _ended():
        for pid in workers(parent):
            ticks += 1
            stopped += text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["T"]
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                words = text(str(task)).split()
                if len(words) == 3:
                    now = int(words[0]), int(words[1])
                    before = seen.get(str(task), (0, 0))
                    ran, waited = ran + now[0] - before[0], waited + now[1] - before[1]
                    seen[str(task)] = now
            used[pid] = cpu(pid)
        used[parent] = cpu(parent)
        last = machine()
        time.sleep(PERIOD)
    busy, stolen, whole = (after - before for after, before in zip(last, first, strict=True))
    own = sum(used.values())
    print(
        json.dumps(
            {
                "witness_waited_share": waited / max(1, ran + waited),
                "witness_others_share": max(0, busy - own) / max(1, whole),
                "witness_stolen_share": stolen / max(1, busy + stolen),
                "witness_stopped_share": stopped / max(1, ticks),
            }
        )
    )


def _ended() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def cpu(pid: int) -> int:
    words = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(words[11]) + int(words[12]) if len(words) > 12 else 0


def machine() -> tuple[int, int, int]:
    """Ticks in work, stolen, and all."""
    user, nice, system, idle, iowait, irq, soft, stolen, *_ = map(int, text("/proc/stat").split("\n")[0].split()[1:])
    busy = user + nice + system + irq + soft
    return busy, stolen, busy + stolen + idle + iowait


def trial(kind: str, home: str) -> dict[str, object]:
    loops = []
    if kind == "busy loops":
        spin = [sys.executable, "-c", "while True: pass"]
        loops = [subprocess.Popen(spin, start_new_session=True) for _ in range(len(os.sched_getaffinity(0)))]
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RIGBENCH_HOME": home}
    with tempfile.TemporaryFile("w+") as document:  # a pipe would fill, and hold rigbench up
        try:
            code, saw = _run(kind, document, environment)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        document.seek(0)
        first = json.load(document)["disturbances"][0]
    wall = max(1e-9, first["wall_seconds"])
    runs, waits = first["running_seconds"], first["waiting_seconds"]
    return {
        "kind": kind,
        "exit_code": code,
        "called_disturbed": code == 3,
        "evidence_first_try": "; ".join(first["evidence"]),
        "waited_share_read": waits / (runs + waits),
        "paused_share_read": first["paused_seconds"] / wall,
        **saw,
        "quiet_by_witness": saw["witness_waited_share"] < QUIET_WAITED
        and saw["witness_others_share"] < QUIET_OTHERS
        and saw["witness_stolen_share"] < QUIET_STOLEN
        and not saw["witness_stopped_share"],
        "seconds": time.monotonic() - began,
    }


def _run(kind: str, document: IO[str], environment: dict[str, str]) -> tuple[int, dict[str, float]]:
    """rigbench's exit code, and what the witness saw beside it."""
    run = subprocess.Popen(COMMAND, stdout=document, env=environment, cwd=ROOT)
    looks = subprocess.Popen(
        [sys.executable, __file__, "--witness", str(run.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while kind == "paused" and run.poll() is None:
        for what, seconds in ((signal.SIGSTOP, STOPPED), (signal.SIGCONT, RUNNING)):
            for pid in workers(run.pid):
                os.kill(pid, what)
            if _closed(run, seconds):
                break
    run.wait()
    told, _ = looks.communicate()
    return run.returncode, json.loads(told)


def _closed(run: subprocess.Popen[str], seconds: float) -> bool:
    """Wait, but not for a process that has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if run.poll() is not None:
            return True
        time.sleep(0.02)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="disturbed ones, and as many quiet ones")
    parser.add_argument("--into", type=Path, default=ROOT / "reports" / "trust")
    parser.add_argument("--witness", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.witness:
        witness(options.witness)
        return
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as home:
        for kind in ("busy loops", "paused") * (options.trials // 2):
            rows.append(trial(kind, home))
            print(_line(rows[-1]), flush=True)
        for _ in range(MOST_AGAIN * options.trials):
            if sum(row["kind"] == "quiet" and bool(row["quiet_by_witness"]) for row in rows) == options.trials:
                break
            rows.append(trial("quiet", home))
            print(_line(rows[-1]), flush=True)
    disturbed = [row for row in rows if row["kind"] != "quiet"]
    quiet = [row for row in rows if row["kind"] == "quiet" and row["quiet_by_witness"]]
    said = [
        f"# {datetime.now(UTC):%Y-%m-%d}, commit {commit}, {platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} processors, Linux {platform.release()}",
        f"# disturbed trials called disturbed: {sum(bool(row['called_disturbed']) for row in disturbed)} "
        f"of {len(disturbed)} (wanted: 19 of 20)",
        f"# quiet trials called disturbed: {sum(bool(row['called_disturbed']) for row in quiet)} "
        f"of {len(quiet)} (wanted: at most 1 of 20)",
        f"# trials meant to be quiet in which the witness saw others: "
        f"{sum(row['kind'] == 'quiet' for row in rows) - len(quiet)}, which do not count",
    ]
    options.into.mkdir(parents=True, exist_ok=True)
    path = options.into / f"{datetime.now(UTC):%Y-%m-%d}-{commit}.csv"
    with path.open("w", newline="") as file:
        file.write("\n".join(said) + "\n")
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows({name: _cell(row[name]) for name in COLUMNS} for row in rows)
    print("\n".join(said), f"\n{path}")


def _cell(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def _line(row: dict[str, object]) -> str:
    return ", ".join(f"{name} {_cell(row[name])}" for name in COLUMNS)


if __name__ == "__main__":
    main()
