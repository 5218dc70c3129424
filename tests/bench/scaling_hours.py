"""Does a series take what its plan said? `python tests/bench/scaling_hours.py TEXT.bin [TOKENS]` trains `tiny` here.

Both are the real commands, in a home of their own: the plan measures short slices and keeps a budget, whose rates of
each model are held against the seconds of all of its steps, and whose hours with its decays against the whole command.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rigbench import store
from rigbench.core.screen import span
from rigbench.scaling.record import Trained
from rigbench.store import now

BRANCHES = (0.25, 0.5, 1.0)


def command(home: Path, *words: str) -> float:
    began = time.monotonic()
    program = [sys.executable, "-m", "rigbench", "scaling", *words, "--device", "cpu", "--home", str(home)]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    data, tokens = sys.argv[1], float(sys.argv[2] if len(sys.argv) > 2 else "1e6")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        command(home, "plan", "--series", "tiny", "--tokens", f"{tokens:.0f}")
        [planned] = (store.read(path) for path in (home / "runs").glob("*.json"))
        counts = ",".join(f"{tokens * share:.0f}" for share in BRANCHES)
        took = command(home, "run", "--series", "tiny", "--data", data, "--tokens", counts)
        [trained] = (run for path in (home / "runs").glob("*.json") if (run := store.read(path)).id != planned.id)
    rates = {row.model: row.rate.tokens_per_s for row in planned.budget.series}
    print(f"{now()}, {trained.software.torch}, {os.cpu_count()} CPUs; disturbed: {bool(list(planned.disturbed()))}")
    print(f"{'model':8}{'tokens/s of the budget':>36}{'steps took':>12}{'of the budget':>36}  inside")
    every, whole = [], 0.0
    for one in (it for it in trained.scaling if isinstance(it, Trained)):
        steps = [*one.step_seconds, *(its for branch in one.branches for its in branch.step_seconds)]
        rate = rates[one.model.name]
        told = len(steps) * one.tokens_per_step / rate
        every.append(told)
        whole += sum(steps)
        inside = "yes" if told.low <= sum(steps) <= told.high else "no"
        print(f"{one.model.name:8}{span(rate, ''):>36}{sum(steps):>10.1f} s{span(told, 'seconds'):>36}  {inside}")
    told = sum(every[1:], every[0])
    inside = "yes" if told.low <= whole <= told.high else "no"
    print(f"{'steps':8}{'':36}{whole:>10.1f} s{span(told, 'seconds'):>36}  {inside}")
    told = planned.plan.hours * 3600
    inside = "yes" if told.low <= took <= told.high else "no"
    print(f"{'command':8}{'with starts and evaluations':>36}{took:>10.1f} s{span(told, 'seconds'):>36}  {inside}")


main()
