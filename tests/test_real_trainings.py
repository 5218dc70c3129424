"""Does a watch count what trainings count of themselves? Loops, Trainer, Lightning, Accelerate, torchrun, a script.

Those whose package is not installed are skipped, with its name: `pip install transformers accelerate lightning
deepspeed`.
srun is a stand-in that starts the ranks as it does, since it does not run without its cluster.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PROGRAM = str(Path(__file__).parent / "real_trainings.py")
TOKENS = 4 * 64  # of a step, of one rank
SHELL = f'#!/bin/sh\necho preparing\n{sys.executable} {PROGRAM} "$@"\n'
# srun gives each task its number and a place to meet.
STAND_IN = """#!/bin/sh
[ "$1" = -n ] && shift 2
export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29571
RANK=1 SLURM_PROCID=1 "$@" & RANK=0 SLURM_PROCID=0 "$@"
wait
"""
HERE, OWN = [sys.executable, PROGRAM], 0.02  # how far the two counts may be apart


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("hook", [False, True], ids=["its output", "the hook"])
@pytest.mark.parametrize(
    ("start", "name", "packages", "ranks"),
    [
        (HERE, "plain", (), 1),
        (["shell"], "plain", (), 1),
        ([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", PROGRAM], "plain", (), 2),
        (["srun", "-n", "2", *HERE], "plain", (), 2),
        ([sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--no_local_rank",
          "--master_port", "29577", PROGRAM], "plain", ("deepspeed",), 2),
        (HERE, "trainer", ("transformers", "accelerate"), 1),
        (HERE, "lightning", ("lightning",), 1),
        (HERE, "accelerated", ("accelerate",), 1),
        (
            [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
             "--mixed_precision", "no", "--dynamo_backend", "no", PROGRAM],
            "accelerated",
            ("accelerate",),
            1,
        ),
    ],
    ids=["a loop", "a shell script", "torchrun", "srun", "deepspeed", "Trainer", "Lightning", "Accelerate",
         "accelerate launch"],
)  # fmt: skip
def test_its_own_count(
    tmp_path: Path, start: list[str], name: str, packages: tuple[str, ...], ranks: int, hook: bool
) -> None:
    needs(*packages)
    if name == "lightning" and not hook:
        pytest.skip("its bar is drawn on a terminal alone; its callback is for pipes")
    for script, text in (("shell", SHELL), ("srun", STAND_IN)):
        (tmp_path / script).write_text(text)
        (tmp_path / script).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REAL_TRAINING_OUT": str(tmp_path / "out")}
    environment |= {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "2"} if "deepspeed" in packages else {}
    words = [] if hook else ["--tokens-per-step", str(TOKENS * ranks)]
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path / "home"), "watch", "--json", *words, "--"]
    done = subprocess.run(
        [*command, *start, name, *(["hook"] if hook else [])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    own = float(next(line for line in done.stderr.splitlines() if line.startswith("own rate")).split()[-1])
    watched = json.loads(done.stdout)["watched"]
    assert watched["steps"]["unit"] == "tokens"
    assert watched["steps"]["source"] == ("the hook" if hook else "the output")
    assert watched["steps"]["rate"]["value"] == pytest.approx(own, rel=OWN)
