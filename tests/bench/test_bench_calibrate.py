"""Do a minute of small slices tell how fast a larger model, and a ten times longer run, will be on this machine?

    pytest tests/bench/test_bench_calibrate.py -m bench -s

Ceilings from rigbench's own probes; slices of 5M and 15M in turn, three of each, 60 s of steps in all, of which each
size's median counts; then the targets are run and held against what was said. On a machine that others use the same
slice may be three times as fast a minute later: every slice is printed, so that the table can be judged.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from rigbench.document import Run
from rigbench.predict import calibrate, ceilings, steptime
from rigbench.predict.calibrate import Measured
from rigbench.predict.record import Ceilings, StepTime
from rigbench.train.record import Slice

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
SLICE_SECONDS, ROUNDS = 10, 3
LONG_SECONDS = 10 * SLICE_SECONDS
ARM = ("--arms", "one", "--micro-batch", "1", "--precision", "fp32")


class Target(NamedTuple):
    name: str
    params: str
    seconds: int
    rounds: int
    widest: float


TARGETS = (
    Target("30M, unmeasured", "30M", 20, 3, 0.15),
    Target("5M, ten times longer", "5M", LONG_SECONDS, 1, 0.07),
)


def rigbench(home: Path, *words: str) -> Run:
    command = [sys.executable, "-m", "rigbench", *words, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Run)


def train(home: Path, params: str, seconds: int) -> tuple[StepTime, Measured]:
    """A slice, and what was predicted for it by the ceilings alone."""
    run = rigbench(home, "train-probe", "--params", params, "--seconds", str(seconds), *ARM)
    own = run.slices[0]
    assert isinstance(own, Slice)
    return steptime.predict(own.model, own.recipe, of_this_machine(home)), Measured(own.tokens_per_s, run.id)


def middle(slices: list[tuple[StepTime, Measured]]) -> tuple[StepTime, Measured]:
    """The slice of the median rate (of an odd number of them)."""
    return sorted(slices, key=lambda each: each[1].tokens_per_s.value)[len(slices) // 2]


def of_this_machine(home: Path) -> Ceilings:
    stored = [msgspec.json.decode(path.read_bytes(), type=Run) for path in (home / "runs").glob("*.json")]
    found = ceilings.from_runs(sorted(stored, key=lambda run: run.started_at, reverse=True))
    assert isinstance(found, Ceilings), found
    return found


def test_a_minute_of_slices_predicts_a_larger_model_and_a_longer_run(tmp_path: Path) -> None:
    rigbench(tmp_path, "matmul", "--params", "5M", "--dtypes", "fp32", "--seconds", "15s", "--hot-seconds", "4s")
    rigbench(tmp_path, "bandwidth")
    slices = [train(tmp_path, params, SLICE_SECONDS) for _ in range(ROUNDS) for params in ("5M", "15M")]
    by_size = [middle(slices[size::2]) for size in range(2)]
    correction = calibrate.calibrate([predicted for predicted, _ in by_size], [own for _, own in by_size])
    print(f"\nload {os.getloadavg()[0]:.1f}; scale {correction.scale:.2f}, widened {correction.widening:.2f} times")
    for predicted, own in slices:
        left = predicted.tokens_per_step / own.tokens_per_s.value - predicted.seconds.value
        print(
            f"slice {predicted.model.name:<4} {own.tokens_per_s.value:6.0f} tokens/s"
            f" ±{own.tokens_per_s.half_width:.0%}, plain prediction {predicted.tokens_per_s.value:6.0f},"
            f" {left:+.2f} s a step unexplained"
        )
    failed = []
    for target in TARGETS:
        plain, own = middle([train(tmp_path, target.params, target.seconds) for _ in range(target.rounds)])
        said = correction.apply(plain).tokens_per_s
        error = said.value / own.tokens_per_s.value - 1
        width = (said.high / said.low) ** 0.5 - 1
        inside = said.low <= own.tokens_per_s.value <= said.high
        print(
            f"{target.name:<21} said {said.value:6.0f} ±{width:.1%} (widest {target.widest:.0%}),"
            f" was {own.tokens_per_s.value:6.0f} tokens/s: {error:+.1%}, {'inside' if inside else 'OUTSIDE'}"
        )
        failed += [target.name] * (not inside or width > target.widest)
    assert not failed
