"""Is a training log, named in a row of --known, the same as the speed that it tells?"""

import pytest

from rigbench.core.errors import RigbenchError
from rigbench.model.shape import model_named
from rigbench.predict.known import told
from rigbench.predict.record import ToldOptions

NANOGPT = "tokens per iteration will be: 491,520\n" + "".join(
    f"iter {number}: loss 3.1000, time {4620 + number % 3:.2f}ms, mfu 40.00%\n" for number in range(0, 300, 10)
)
TORCHTITAN = "".join(
    f"[rank0]:2026-11-28 12:00:{number:02},000 - root - INFO - step: {number}  loss: 8.0  memory: 20.00GiB(50.0%)  "
    "tps: 12,341  tflops: 90.0  mfu: 30.00%\n"
    for number in range(1, 40)
)


def row(known):
    [found] = told(ToldOptions(known=known), model_named("120M"), lambda name: pytest.fail("no stored run")).known
    return found


@pytest.mark.parametrize(
    ("card", "text", "rate"),
    [("rtx-4090", NANOGPT, 491_520 / 4.621), ("2xrtx-4090", NANOGPT, 491_520 / 4.621), ("rtx-4090", TORCHTITAN, 12_341),
     ("4xrtx-4090", TORCHTITAN, 4 * 12_341)],
)  # fmt: skip
def test_a_log_stands_for_its_speed(tmp_path, monkeypatch, card, text, rate):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text(text)
    by_log, by_words = (
        row(f"{card}, gpt2-124m, bf16, compiled, micro-batch 12, {it}") for it in ("train.log", f"{rate:.0f} tokens/s")
    )
    assert by_log.log_seconds == pytest.approx(by_words.log_seconds, abs=0.001)
    assert by_log.case == by_words.case


def test_a_log_whose_speed_can_be_read_in_two_ways_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"step {10 * number} | loss 3.1 | dt {2 + number % 3 / 100:.2f}s\n" for number in range(40))
    (tmp_path / "train.log").write_text("tokens per iteration will be: 104,000\n" + lines)
    with pytest.raises(RigbenchError, match=r"train.log: dt is taken as one step's; if it is of the 10"):
        row("rtx-4090, gpt2-124m, bf16, compiled, micro-batch 12, train.log")


def test_a_log_that_tells_no_speed_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.log").write_text("step 1 loss 3\nstep 2 loss 2\n")
    with pytest.raises(RigbenchError, match="does not say how long its steps took"):
        row("rtx-4090, gpt2-124m, train.log")
