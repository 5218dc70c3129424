"""What does kill -9 at a random moment cost? Kills real commands, looks at what is left, and stores the figures.

    python tests/fuzz/kills.py [--trials 50] [--seed 1] [--into reports/fuzz]

A command that ends before it is killed does not count. All share one home, one temporary folder and one of outputs.
After each: are all processes that it started gone (a watched command goes on, and ends by itself), is every run that
was there before the same byte for byte, can every run be read, does a whole run go on with --resume, and is nothing
temporary left after the next start, which is `rigbench report --list`?
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
RUN = ROOT / "tests" / "runs" / "schema-1.json"
MARK = "RIGBENCH_KILL_TRIAL"
LOOP = "import time\nfor i in range(60): print(f'iter {i}: loss {9 - i / 10}, time 100ms', flush=True); time.sleep(0.1)"
CPU = ("--device", "cpu")
# Each with the longest time after which it is killed; most end later than that.
COMMANDS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.6, ("topology",)),
    (0.9, ("doctor",)),
    (0.6, ("capture", "-o", "{out}/captured", "--force")),
    (4.0, ("monitor", "--seconds", "60", "--record", "{out}/night.jsonl", "--force")),
    (5.0, ("watch", "--", sys.executable, "-c", LOOP)),
    (2.0, ("pack", "{out}/text.txt", "-o", "{out}/tokens.bin", "--force")),
    (10.0, ("bandwidth", *CPU, "--seconds", "10")),
    (10.0, ("collectives", *CPU)),
    (10.0, ("matmul", *CPU, "--params", "5M", "--seconds", "10")),
    (8.0, ("dataloader", *CPU)),
    (2.0, ("capacity", "--on", "rtx-4080", "--compile", "off")),
    (15.0, ("train-probe", *CPU, "--params", "5M", "--arms", "one", "--seconds", "20")),
    (20.0, ("train-probe", *CPU, "--params", "5M", "--arms", "one", "--strategy", "ddp")),
    (20.0, ("train-probe", *CPU, "--params", "5M", "--arms", "one", "--compile", "on")),
    (1.0, ("budget", "--on", "2xrtx-4080", "--flops", "1e18")),
    (40.0, ("run", "--quick", *CPU)),
    (40.0, ("run", "--quick", *CPU)),
)
ENDS_SECONDS = 30.0  # after which whatever still runs is an orphan; the watched command takes six


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, default=ROOT / "reports" / "fuzz")
    asked = parser.parse_args()
    drawn, trials = random.Random(asked.seed), []
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        place = Path(folder)
        for name in ("home", "out", "tmp"):
            (place / name).mkdir()
        (place / "home" / "runs").mkdir()
        for number in range(3):  # what must not be lost
            shutil.copy(RUN, place / "home" / "runs" / f"20260101-00000{number}-aaaa.json")
        (place / "out" / "text.txt").write_text("All happy rigs are alike. " * 2_000_000)
        while sum(it["killed_while_running"] for it in trials) < asked.trials:
            longest, words = COMMANDS[len(trials) % len(COMMANDS)]
            trials.append(trial(place, len(trials), words, drawn.uniform(0.05, longest)))
            print(f"{len(trials):3} {json.dumps(trials[-1])}", flush=True)
    stored = summary(asked, trials)
    asked.into.mkdir(parents=True, exist_ok=True)
    path = asked.into / f"{stored['date']}-{stored['commit']}-kills.json"
    path.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"{stored['figure']}; stored as {path}")
    return 1 if stored["not_clean"] else 0


def trial(place: Path, number: int, words: tuple[str, ...], seconds: float) -> dict[str, Any]:
    environment = os.environ | {
        MARK: f"{os.getpid()}.{number}",
        "TMPDIR": str(place / "tmp"),
        "RIGBENCH_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "RIGBENCH_KERNEL_LOG": os.devnull,
    }
    typed = [word.format(out=place / "out") if "{out}" in word else word for word in words]
    command = [sys.executable, "-m", "rigbench"]
    before, shared = runs(place), set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [*command, *typed], env=environment, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    orphans = still_running(f"{MARK}={os.getpid()}.{number}".encode())
    after = runs(place)
    left_before = left(place)
    new = sorted(after.keys() - before.keys())
    resumed = goes_on([*command, *words, "--resume"], new[-1], environment) if words[0] == "run" and new else None
    quick = [*command, "report", "--list", "--quiet"]
    started = subprocess.run(quick, env=environment, cwd=place, capture_output=True, text=True, check=False)
    return {
        "command": " ".join(words[:1] if words[0] == "watch" else words),
        "after_seconds": round(seconds, 2),
        "killed_while_running": code == -9,
        "orphans": orphans,
        "runs": len(after),
        "lost_or_changed": sorted(name for name in before if after.get(name) != before[name]),
        "unreadable": [name for name in after if not reads(place / "home" / "runs" / name)],
        "not_resumed": new if resumed is False else [],
        "resumed": resumed is True,
        "shared_memory": sorted(set(os.listdir("/dev/shm")) - shared),
        "left_after_the_kill": left_before,
        "next_start": started.returncode if "Traceback" not in started.stderr else "Traceback",
        "left_after_the_next_start": left(place),
    }


def goes_on(command: list[str], name: str, environment: dict[str, str]) -> bool:
    """Whether the run that was killed is the one that --resume goes on with; it is then stopped by Ctrl-C."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(4.0)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    return process.returncode == 130 and f"what was measured is saved as {Path(name).stem}" in said


def runs(place: Path) -> dict[str, str]:
    """Every stored run, by the hash of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.glob("home/runs/[0-9]*.json")}


def reads(path: Path) -> bool:
    from rigbench import store
    from rigbench.core.errors import RigbenchError

    try:
        store.read(path)
    except RigbenchError:
        return False
    return True


def left(place: Path) -> list[str]:
    """What is temporary in the three folders: everything there that no command was to write."""
    wanted = {"text.txt", "tokens.bin", "tokens.bin.json", "captured", "night.jsonl"}
    found = [path.name for path in (place / "out").iterdir() if path.name not in wanted]
    found += [path.name for path in (place / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
    for path in (place / "home").rglob("*"):
        if path.name.startswith((".", "rigbench-")) or path.suffix in (".tmp", ".sqlite-journal"):
            found.append(path.name)
    return sorted(found)


def still_running(mark: bytes) -> list[str]:
    """Processes that the trial started, by a variable that all inherit, once they have had time to end."""
    until = time.monotonic() + ENDS_SECONDS
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                ended = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not ended and mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
            except OSError:
                continue
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def summary(asked: argparse.Namespace, trials: list[dict[str, Any]]) -> dict[str, Any]:
    told = ("orphans", "lost_or_changed", "unreadable", "not_resumed", "shared_memory", "left_after_the_next_start")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    bad = [it for it in trials if any(it[name] for name in told) or it["next_start"] not in (0, 3)]
    killed = [it for it in trials if it["killed_while_running"]]
    clean = sum(it not in bad for it in killed)
    by = Counter(it["command"] for it in killed)
    figure = f"{clean} of {len(killed)} kills cost nothing"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}",
        "seed": asked.seed,
        "figure": figure,
        "ended_before_they_were_killed": len(trials) - len(killed),
        "left_after_the_kill_and_removed": sum(len(it["left_after_the_kill"]) for it in trials),
        **{name: sum(len(it[name]) for it in trials) for name in told},
        "resumed": sum(it["resumed"] for it in trials),
        "runs_at_the_end": trials[-1]["runs"] if trials else 0,
        "kills": by,
        "not_clean": bad,
    }


if __name__ == "__main__":
    sys.exit(main())
