"""How long does `rigbench budget --on` take, with and without recorded steps, and does it load torch?

pytest tests/bench/test_bench_budget.py -m bench -s
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
WORDS = ("budget", "-q", "--flops", "1.2e18", "--on")
SURE = ("2xrtx-4080",)  # fits by the closed form
TIGHT = ("rtx-4090", "--series", "llama", "--params", "1B")  # so tight that steps are recorded: no target for that
LOADED = (
    "import sys; sys.argv = ['rigbench', *sys.argv[1:]]\n"
    "from rigbench.__main__ import _run; code = _run()\n"
    "sys.stderr.write('torch' if 'torch' in sys.modules else 'no torch'); raise SystemExit(code)"
)
COLD_SECONDS, WARM_SECONDS = 10.0, 3.0
REPEATS = 3


def answer(home: Path, question: tuple[str, ...]) -> tuple[float, float, str]:
    """Wall and processor seconds of a whole process, and whether torch was loaded."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *WORDS, *question],
        capture_output=True,
        text=True,
        env={**os.environ, "RIGBENCH_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, busy, done.stderr


@pytest.mark.parametrize("question", [SURE, TIGHT], ids=" ".join)
def test_an_answer_for_another_rig_comes_at_once(tmp_path: Path, question: tuple[str, ...]) -> None:
    cold, warm = [], []
    for repeat in range(REPEATS):
        home = tmp_path / str(repeat)
        cold.append(answer(home, question))
        warm.append(answer(home, question))
    assert {loaded for *_, loaded in warm} == {"no torch"}
    print(f"\n--on {' '.join(question)}")
    for name, found, most in (("nothing recorded", cold, COLD_SECONDS), ("recorded", warm, WARM_SECONDS)):
        wall, busy = (statistics.median(one[i] for one in found) for i in (0, 1))
        each = ", ".join(f"{one[0]:.2f}" for one in found)
        print(f"{name:<18} wall {each} s, median {wall:.2f}; processor median {busy:.2f} s (target {most:g} s)")
        assert busy < most or (question is TIGHT and found is cold)
