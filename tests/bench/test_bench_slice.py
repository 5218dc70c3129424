"""Is a slice as fast as the loop a user would write, and does it say the same in the next process?

    pytest tests/bench -m bench -s

Ratios of pairs measured in turn, in one run: a machine that drifts drifts for both. Nothing here is a timed assertion.
"""

import io
import json
import math
import os
import subprocess
import sys
import time

import pytest

from rigbench.core import stats
from rigbench.model import shape
from rigbench.model.recipe import Recipe
from rigbench.train import probe as train
from rigbench.work.process import Report

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
PAIRS = 5


def plain_loop(options: train.Options, steps: int, precision: str) -> float:
    """Tokens/s of the training loop that everyone writes: same model, same batch, torch's defaults, compiled or not."""
    import numpy as np
    import torch

    from rigbench.model.gpt import Decoder

    shape = options.model.shape
    torch.manual_seed(0)
    model = Decoder(shape)
    called = torch.compile(model) if options.compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    file = next(os.scandir(options.cache)).path
    tokens = np.memmap(file, dtype=np.uint16, mode="r")
    B, T = options.micro_batch, shape.sequence
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        starts = torch.randint(len(tokens) - T - 1, (B,)).tolist()
        x = torch.stack([torch.from_numpy(tokens[i : i + T].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = called(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    steady = seconds[stats.steady_start(seconds) :]
    return B * T * len(steady) / math.fsum(steady)


@pytest.mark.parametrize(("params", "compiled"), [("5M", False), ("30M", False), ("5M", True)])
def test_a_slice_next_to_the_plain_loop(params, compiled, tmp_path, benchmark, capsys):
    options = train.Options(
        model=shape.model_named(params),
        cache=str(tmp_path),
        device="cpu",
        seconds=8.0,
        recipe=Recipe(micro_batch=1, compiled=compiled),
    )
    ours, plain = [], []

    def pair() -> None:
        result = train.run(options, Report(io.BytesIO()))
        ours.append(result.tokens_per_s.value)
        plain.append(plain_loop(options, len(result.steps.seconds), result.recipe.precision))

    benchmark.pedantic(pair, rounds=PAIRS)
    ratio = stats.paired_ratio(ours, plain)
    benchmark.extra_info.update(slice=ours, plain_loop=plain, ratio=[ratio.value, ratio.low, ratio.high])
    name = f"{params}, compiled" if compiled else params
    with capsys.disabled():
        interval = f"({ratio.low:.3f} to {ratio.high:.3f})"
        print(f"\n{name}: slice over plain loop {ratio.value:.3f} {interval}, {PAIRS} pairs")
    assert len(ours) == len(plain) == PAIRS


def test_the_same_slice_in_fresh_processes(tmp_path, benchmark, capsys):
    def measure() -> float:
        command = [
            sys.executable,
            "-m",
            "rigbench",
            "train-probe",
            "--params",
            "5M",
            "--seconds",
            "12s",
            "--arms",
            "one",
        ]
        done = subprocess.run([*command, "--json", "--home", str(tmp_path)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["slices"][0]["items_per_s"]["value"]

    first, second = [], []

    def pair() -> None:
        first.append(measure())
        second.append(measure())

    benchmark.pedantic(pair, rounds=PAIRS)
    ratio = stats.paired_ratio(first, second)
    benchmark.extra_info.update(first=first, second=second, ratio=[ratio.value, ratio.low, ratio.high])
    verdict = "contains 1" if ratio.low <= 1 <= ratio.high else "DOES NOT contain 1"
    with capsys.disabled():
        print(f"\n5M against itself: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {PAIRS} pairs: {verdict}")
    assert len(first) == len(second) == PAIRS
