"""Do the sensors, read ten times a second beside the work, cost the work anything?

    pytest tests/bench/test_bench_telemetry.py -m bench -s

The work is a loop of matrix products in a process of its own, as every probe is; the sensors are read in this one.
The halves of a pair are a fifth of a second long and follow each other, every second pair the other way round: a
machine that others use meanwhile slows both alike. Nothing here is a timed assertion.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rigbench.core import stats
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.work.sensors import FASTEST_SECONDS, Sampler

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
HOT_CARDS = Path(__file__).parents[1] / "rigs" / "dual-rtx4080s-throttling" / "load.nvml.txt"
PAIRS = 150

# One line in, one block of work, its seconds out.
WORK = """
import sys, time
import numpy as np
a = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
def block(products):
    started = time.perf_counter()
    for _ in range(products):
        a @ a
    return time.perf_counter() - started
block(50)
products = max(1, int(50 * 0.2 / min(block(50) for _ in range(5))))
for _ in sys.stdin:
    print(block(products), flush=True)
"""


class Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.communicate()

    def seconds(self) -> float:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


class Switched(Sampler):
    """A sampler whose thread can be told to leave the sensors alone, its ticks' processor seconds kept."""

    on = True

    def tick(self) -> None:
        if not self.on:
            return
        started = time.thread_time()
        super().tick()
        self.costs.append(time.thread_time() - started)


@pytest.mark.parametrize("name", ["a replayed rig of 2 GPUs", "the live CPU"])
def test_work_with_sensors_beside_it_and_without(name, benchmark, capsys):
    replayed = name != "the live CPU"
    sampler = Switched(Rig(Sysfs(), Nvml.replay(HOT_CARDS) if replayed else Nvml(Absent("not asked"))), FASTEST_SECONDS)
    sampler.costs = []
    seconds = {True: [], False: []}

    def pair(worker: Worker) -> None:
        first = len(seconds[True]) % 2 == 0
        for on in (first, not first):
            sampler.on = on
            seconds[on].append(worker.seconds())

    with Worker() as worker, sampler:
        worker.seconds()
        benchmark.pedantic(pair, args=(worker,), rounds=PAIRS)
    ratio = stats.paired_ratio(seconds[True], seconds[False])
    tick = statistics.median(sampler.costs)
    benchmark.extra_info.update(
        watched=seconds[True], alone=seconds[False], ratio=[ratio.value, ratio.low, ratio.high], tick_seconds=tick
    )
    verdict = "contains 1" if ratio.low <= 1 <= ratio.high else "DOES NOT contain 1"
    with capsys.disabled():
        print(
            f"\n{name} at 10 Hz: seconds with sensors over seconds without {ratio.value:.4f} "
            f"({ratio.low:.4f} to {ratio.high:.4f}), {PAIRS} pairs: {verdict}; "
            f"{len(sampler.costs)} ticks of {tick * 1e6:.0f} µs, {10 * tick:.2%} of one processor"
        )
    assert len(seconds[True]) == len(seconds[False]) == PAIRS
    assert len(sampler.costs) > PAIRS  # it did run at 10 Hz beside the work
