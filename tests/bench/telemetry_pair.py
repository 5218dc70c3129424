"""Is telemetry at 10 Hz as cheap as it was in an older tree?

    python tests/bench/telemetry_pair.py OLDER_TREE [--pairs 150]

Two samplers, of the package here and of the one in an older tree (46a3f22 was the last to call the driver itself), read
the same fake driver of two cards ten times a second, in turns, beside a loop of matrix products in a third process. The
halves of a pair follow each other, every second pair the other way round. Printed are the work's seconds with the one
over those with the other, and the processor time of a tick, that of the driver's child in it. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]
from fakenvml import library  # noqa: E402
from test_bench_telemetry import HOT_CARDS, Worker  # noqa: E402

from rigbench.core import stats  # noqa: E402

SAMPLES = """
import json, sys, time
from pathlib import Path
try:
    from rigbench.machine.rig import Rig
    from rigbench.work.sensors import Sampler
except ImportError:  # as it was called
    from rigbench.hardware.rig import Rig
    from rigbench.measure.telemetry import Sampler

class Switched(Sampler):
    on, ticks = True, 0
    def tick(self):
        if self.on:
            super().tick()
            self.ticks += 1

def cpu_seconds():
    children = Path("/proc/self/task").glob("*/children")
    pids = {pid for path in children for pid in path.read_text().split()}
    of_tasks = (path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return time.process_time() + sum(int(path.read_text().split()[0]) for path in of_tasks) / 1e9

sampler = Switched(Rig.live(), 0.1)
sampler.tick()
sampler.on, series = False, len(sampler.record().series)
with sampler:
    for line in sys.stdin:
        sampler.on = line == "on\\n"
        print(json.dumps([sampler.ticks, cpu_seconds(), series]), flush=True)
"""


class Samples:
    def __init__(self, tree: Path, driver: library.FakeDriver) -> None:
        environment = os.environ | driver.environment(HOT_CARDS) | {"PYTHONPATH": str(tree)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SAMPLES],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ticks, self.cpu_seconds = 0, 0.0

    def switch(self, word: str) -> tuple[int, float, int]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        ticks, seconds, series = json.loads(self._process.stdout.readline())
        return ticks, seconds, series

    def beside(self, worker: Worker, blocks: int = 3) -> float:
        ticks, cpu_seconds, _ = self.switch("on")
        took = sum(worker.seconds() for _ in range(blocks))
        later, cpu_later, _ = self.switch("off")
        self.ticks, self.cpu_seconds = self.ticks + later - ticks, self.cpu_seconds + cpu_later - cpu_seconds
        return took

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path)
    parser.add_argument("--pairs", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        driver = library.build(Path(folder))
        both = [Samples(asked.older.resolve(), driver), Samples(ROOT, driver)]
        for its in both:
            cards = its.switch("on")[2]
            assert cards == 3, f"two cards and the processor, not {cards}"
            its.switch("off")
        worker.seconds()
        seconds: list[list[float]] = [[], []]
        for pair in range(asked.pairs):
            for place in (0, 1) if pair % 2 else (1, 0):
                seconds[place].append(both[place].beside(worker))
        for its in both:
            its.close()
    ratio = stats.paired_ratio(seconds[1], seconds[0])
    older, newer = (its.cpu_seconds / its.ticks for its in both)
    print(
        "seconds of work beside telemetry at 10 Hz, as it is over as it was: "
        f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f}), {asked.pairs} pairs; "
        f"a tick of two cards takes {newer * 1e3:.2f} ms of "
        f"processor time, {older * 1e3:.2f} ms before ({both[1].ticks} and {both[0].ticks} ticks); "
        f"{10 * newer:.1%} of one processor, {10 * older:.1%} before"
    )


if __name__ == "__main__":
    main()
