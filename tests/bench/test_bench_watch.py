"""Does a training take longer with `rigbench watch` around it?

    pytest tests/bench/test_bench_watch.py -m bench -s

The training is a loop of matrix products that writes a line a step or calls the hook, started by `rigbench watch`. Of a
pair of blocks one is trained while all of watch's processes are stopped (SIGSTOP), the other while they run; they
follow each other, every second pair the other way round: a machine that others use meanwhile slows both alike. Nothing
here is a timed assertion.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from watch_cost import below, part_of

from rigbench.core import stats

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
PAIRS = 150

# One line in, one block of work with its steps' lines, its seconds out.
WORK = """
import sys, time
import numpy as np
from rigbench import hooks
print("tokens per iteration will be: 4,096")
a = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
step = 0
def block(products):
    global step
    started = time.perf_counter()
    for n in range(products):
        a @ a
        if n % 10 == 0:
            step += 1
            if sys.argv[3] == "hook":
                hooks.step(tokens=4096)
            else:
                print(f"iter {step}: loss 2.5, time 20.00ms", flush=True)
    return time.perf_counter() - started
block(50)
products = max(1, int(50 * 0.4 / min(block(50) for _ in range(5))))
with open(sys.argv[1]) as asked, open(sys.argv[2], "w") as told:
    for _ in asked:
        print(block(products), file=told, flush=True)
"""


@pytest.mark.parametrize("how", ["lines", "hook"])
def test_a_training_watched_and_alone(how, benchmark, capsys, tmp_path):
    for name in ("asked", "told"):
        os.mkfifo(tmp_path / name)
    words = [sys.executable, "-c", WORK, str(tmp_path / "asked"), str(tmp_path / "told"), how]
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path / "home"), "watch", "--", *words]
    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path.cwd())
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with open(tmp_path / "asked", "w") as asked, open(tmp_path / "told") as told:

        def measured() -> float:
            asked.write("\n")
            asked.flush()
            return float(told.readline())

        measured()
        own = [pid for pid, line in below(watch.pid) if part_of(line)]

        def pair() -> None:
            first = len(seconds[True]) % 2 == 0
            for watched in (first, not first):
                for pid in own:
                    os.kill(pid, signal.SIGCONT if watched else signal.SIGSTOP)
                seconds[watched].append(measured())

        try:
            benchmark.pedantic(pair, rounds=PAIRS)
        finally:
            for pid in own:
                os.kill(pid, signal.SIGCONT)
    assert watch.wait(60) == 0
    ratio = stats.paired_ratio(seconds[True], seconds[False])
    benchmark.extra_info.update(watched=seconds[True], alone=seconds[False], ratio=[ratio.value, ratio.low, ratio.high])
    verdict = "contains 1" if ratio.low <= 1 <= ratio.high else "DOES NOT contain 1"
    with capsys.disabled():
        print(
            f"\nby the {how}: seconds of a block watched over seconds alone {ratio.value:.4f} "
            f"({ratio.low:.4f} to {ratio.high:.4f}), {PAIRS} pairs of blocks of {stats.median(seconds[False]):.2f} s: "
            f"{verdict}"
        )
    assert len(seconds[True]) == len(seconds[False]) == PAIRS
