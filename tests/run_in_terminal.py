"""`rigbench run --quick` on the terminal it has, its clock and stages scripted: each stage waits for a line in a pipe.

python run_in_terminal.py PIPE
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from rigbench import __main__, store
from rigbench.everything import plan, progress
from rigbench.job import Job

STORED = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
STAGES = {"topology": 1.0, "bandwidth": 16.0, "matmul": 24.0}  # planned seconds; each takes twice as long
TEXT = "bf16: mlp down weight gradient, 4,096 × 768 × 3,072, the third of twelve products of the model"


def main() -> None:
    now, run, pipe = [0.0], store.read(STORED), Path(sys.argv[1])
    progress.Overall = functools.partial(progress.Overall, clock=lambda: now[0])  # type: ignore[misc, assignment]

    def stage(job: Job, room: str) -> None:
        job.progress.stage(room, STAGES[room])
        now[0] += STAGES[room] / 2
        job.progress.update(0.5, TEXT)
        if room != "topology":
            pipe.read_text()  # until the test has seen it
        now[0] += STAGES[room] * 1.5
        job.keep(**{room: getattr(run, room)})

    made = [plan.Stage(room, functools.partial(stage, room=room), seconds) for room, seconds in STAGES.items()]
    plan.whole_run = lambda *asked: made  # type: ignore[assignment]
    sys.argv = ["rigbench", "--device", "cpu", "run", "--quick"]
    __main__.main()


main()
