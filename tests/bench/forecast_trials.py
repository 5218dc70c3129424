"""Is the end of a five-minute training within the interval that `rigbench watch` told when a fifth of it was done?

    python tests/bench/forecast_trials.py            ten trials at once, five and a half minutes: they sleep

Each training sleeps through its steps, under one kind of noise that trainings have, with a seed of its own, and writes
one of the formats that are read from the output, or calls the hook. What it will do is not told to rigbench. The
forecast that counts is the one that the stored run keeps of the moment when a fifth of the steps was done.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
A_FIFTH = 0.2
NOISES = {
    "even": "steps within 2 % of each other",
    "uneven": "lengths of batches: steps within 30 % of each other, lognormal",
    "evaluations": "10 % noise, an evaluation of 15 steps every twentieth of the way",
    "checkpoints": "5 % noise, a checkpoint of 8 steps every fifteenth of the way",
    "stragglers": "5 % noise, one step in 40 takes five times as long (the loader, another user)",
    "slow start": "the first step takes 60 steps' time (compilation), then 3 % noise",
    "heat": "3 % slower over the first tenth, as a card that grows warm, 2 % noise",
    "waves": "an hour of others beside it: 5 % slower and faster by turns, 12 to the whole",
    "neighbours": "each step resembles the one before: an autocorrelated 10 %",
    "bursts": "2 % noise; its lines come in bursts of five",
}
COLUMNS = (
    "noise",
    "written",
    "seed",
    "told_at_share",
    "told_low_s",
    "told_s",
    "told_high_s",
    "took_s",
    "inside",
    "error_share",
    "watching_share",
)


def lengths(noise: str, count: int, draw: random.Random) -> Iterator[float]:
    """A step's time, in usual steps."""
    before, phase = 0.0, draw.uniform(0, 6.28)
    for step in range(count):
        spread = {"even": 0.02, "uneven": 0.0, "evaluations": 0.1, "slow start": 0.03}.get(noise, 0.05)
        length = max(0.1, draw.gauss(1.0, spread))
        if noise == "uneven":
            length = draw.lognormvariate(0.0, 0.3)
        if noise == "evaluations" and step % (count // 20) == count // 20 - 1:
            length += 15 * draw.uniform(0.9, 1.1)
        if noise == "checkpoints" and step % (count // 15) == count // 15 - 1:
            length += 8 * draw.uniform(0.8, 1.4)
        if noise == "stragglers" and draw.random() < 1 / 40:
            length *= 5
        if noise == "slow start" and not step:
            length = 60.0
        if noise == "heat":
            length = draw.gauss(0.97 + 0.03 * min(1.0, 10 * step / count), 0.02)
        if noise == "waves":
            length *= 1 + (0.05 if int(12 * step / count + phase) % 2 else -0.05)
        if noise == "neighbours":
            before = 0.9 * before + draw.gauss(0, 0.1 * (1 - 0.81) ** 0.5)
            length = max(0.1, 1 + before)
        yield length


def train(noise: str, written: str, seed: int, seconds: float, count: int) -> None:
    """The training itself, in the process that rigbench watches."""
    from rigbench import hooks

    steps = list(lengths(noise, count, random.Random(seed)))
    usual = seconds / sum(steps)
    if written == "nanoGPT":
        print("number of parameters: 123.59M\ntokens per iteration will be: 8,192", flush=True)
    began = before = time.perf_counter()
    due, kept = began, list[str]()
    for step, length in enumerate(steps):
        due += usual * length
        time.sleep(max(0.0, due - time.perf_counter()))
        now = time.perf_counter()
        loss = 9 - 5 * step / count
        if written == "nanoGPT":
            kept.append(f"step {step}/{count}: loss {loss:.4f}, time {(now - before) * 1e3:.2f}ms")
        elif written == "a bar":
            took = int(now - began)
            kept.append(
                f"\r{100 * (step + 1) // count:3d}%|##   | {step + 1}/{count} [{took // 60:02d}:{took % 60:02d}<01:00]"
            )
        elif written == "lines":
            kept.append(f"step {step + 1}/{count} | loss {loss:.3f}")
        else:
            hooks.step(tokens=8192)
            kept.append(f"epoch {step / count:.4f}" if step else f"training {count} steps")
        if len(kept) >= (5 if noise == "bursts" else 1):
            print(*kept, sep="" if written == "a bar" else "\n", end="" if written == "a bar" else "\n", flush=True)
            kept.clear()
        before = now
    print(*kept, sep="\n", flush=True)


def trial(noise: str, written: str, seed: int, seconds: float, home: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rigbench", "--home", home, "watch", "--json"]
    count = int(seconds * random.Random(seed).choice((1, 2, 4)))
    command += ["--tokens", str(8192 * count)] if written == "the hook" else []
    program = [sys.executable, __file__, "--train", noise, written, str(seed), str(seconds), str(count)]
    with open(Path(home) / "run.json", "wb") as document:
        return subprocess.Popen(
            [*command, "--", *program],
            stdout=document,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RIGBENCH_HOME": home},
        )


def result(noise: str, written: str, seed: int, home: str) -> dict[str, object]:
    watched = json.loads((Path(home) / "run.json").read_text())["watched"]
    told = next((it for it in watched["forecasts"] if it["done_share"] >= A_FIFTH), None)
    took = watched["seconds"]
    row: dict[str, object] = {"noise": noise, "written": written, "seed": seed, "took_s": took}
    row["watching_share"] = watched["own"]["cpu_seconds"] / watched["own"]["wall_seconds"]
    if told is None:
        return row | {"inside": False}
    whole = told["whole_seconds"]
    return row | {
        "told_at_share": told["done_share"],
        "told_low_s": whole["low"],
        "told_s": whole["value"],
        "told_high_s": whole["high"],
        "inside": whole["low"] <= took <= whole["high"],
        "error_share": whole["value"] / took - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=ROOT / "reports" / "watch")
    parser.add_argument("--train", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        noise, written, seed, seconds, count = options.train
        train(noise, written, int(seed), float(seconds), int(count))
        return
    writers = ("nanoGPT", "lines", "a bar", "the hook")
    kinds = [
        (list(NOISES)[place % len(NOISES)], writers[place % len(writers)], options.seed + place)
        for place in range(options.trials)
    ]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        homes = [str(Path(folder, str(place))) for place in range(options.trials)]
        for home in homes:
            Path(home).mkdir()
        running = []
        for kind, home in zip(kinds, homes, strict=True):
            running.append(trial(*kind, options.seconds, home))
            time.sleep(1.0)  # so that they do not all load at once
        for process in running:
            process.wait()
        rows = [result(*kind, home) for kind, home in zip(kinds, homes, strict=True)]
    said = [
        f"# {datetime.now(UTC):%Y-%m-%d}, commit {commit}, {len(os.sched_getaffinity(0))} processors, "
        f"Linux {platform.release()}; trainings of {options.seconds:g} s that sleep, {options.trials} at once",
        f"# the end was within the interval told at a fifth: {sum(bool(row['inside']) for row in rows)} "
        f"of {len(rows)} (wanted: 9 of 10)",
    ]
    options.into.mkdir(parents=True, exist_ok=True)
    path = options.into / f"{datetime.now(UTC):%Y-%m-%d}-{commit}-forecasts.csv"
    with path.open("w", newline="") as file:
        file.write("\n".join(said) + "\n")
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows({name: _cell(row.get(name, "")) for name in COLUMNS} for row in rows)
    print("\n".join(said), f"\n{path}\n{path.read_text()}")


def _cell(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
