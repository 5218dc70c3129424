"""Does a slice measure what it says, and survive what can happen to it?"""

import io
import math

import msgspec
import pytest
import torch

from rigbench.errors import RigbenchError
from rigbench.measure.workers import Report
from rigbench.model import flops
from rigbench.model.gpt import Decoder
from rigbench.probes import train
from rigbench.records import Absent, Shape, Slice

SHAPE = Shape(
    style="gpt2", layers=2, width=64, heads=2, kv_heads=2, ffn_width=256, vocabulary=512, sequence=32,
    tied_head=True, biases=True,
)  # fmt: skip
MODEL = flops.describe(SHAPE, "tiny")


class Listener(Report):
    """A report that keeps what it was told, and stops when asked to."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__(io.BytesIO())
        self.said, self.partials, self.stop_after = [], [], stop_after

    def progress(self, share: float, text: str) -> None:
        self.said.append(text)

    def partial(self, record) -> None:
        self.partials.append(record)

    def should_stop(self) -> bool:
        return sum(text.startswith("step") for text in self.said) >= self.stop_after


@pytest.fixture
def options(tmp_path):
    return train.Options(model=MODEL, cache=str(tmp_path), device="cpu", micro_batch=2, precision="fp32", seconds=0.6)


def slice_of(options, report=None, **changes) -> Slice:
    return train.run(msgspec.structs.replace(options, **changes), report or Listener())


def test_every_figure_follows_from_the_raw_steps(options):
    result = slice_of(options)
    steps = result.steps
    steady = steps.seconds[result.steady_from :]
    assert result.tokens_per_step == 2 * 32
    assert result.tokens_per_s.value == pytest.approx(64 * len(steady) / math.fsum(steady))
    assert result.tokens_per_s.low <= result.tokens_per_s.value <= result.tokens_per_s.high
    assert result.model_flops_per_s == pytest.approx(result.tokens_per_s.value * MODEL.flop_per_token)
    parts = zip(steps.data_seconds, steps.forward_seconds, steps.backward_seconds, steps.optimizer_seconds, strict=True)
    assert [math.fsum(part) for part in parts] == pytest.approx(list(steps.seconds))
    assert math.fsum(result.step_share.values()) == pytest.approx(1)
    assert len(steps.loss) == len(steps.ended_at_seconds) == len(steps.seconds)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Slice) == result


def test_steps_lie_end_to_end_on_the_clock(options):
    steps = slice_of(options).steps
    gaps = [
        ended - took - before
        for before, ended, took in zip(
            steps.ended_at_seconds, steps.ended_at_seconds[1:], steps.seconds[1:], strict=False
        )
    ]
    assert min(gaps) > -1e-6


def test_the_model_learns_the_distribution_of_the_tokens(options):
    result = slice_of(options, seconds=2.0, learning_rate=3e-3)
    first, last = result.steps.loss[0], result.steps.loss[-1]
    assert first == pytest.approx(math.log(512), rel=0.05)
    assert last < first - 0.2


def test_checkpointing_does_more_work_for_the_same_model_flops(options):
    result = slice_of(options, checkpointing="on")
    assert result.arm.checkpointing == "on"
    assert result.hardware_flops_per_s > result.model_flops_per_s
    assert slice_of(options).hardware_flops_per_s != result.hardware_flops_per_s


def test_precision_on_a_cpu_is_the_faster_of_the_two_measured(options):
    result = slice_of(options, precision="auto")
    assert {trial.precision for trial in result.precision_trials} == {"fp32", "bf16"}
    best = min(result.precision_trials, key=lambda trial: trial.timing.estimate.value)
    assert result.arm.precision == best.precision
    assert all(trial.timing.seconds for trial in result.precision_trials)


def test_an_interrupted_slice_keeps_its_steps(options):
    result = slice_of(options, Listener(stop_after=4), seconds=30.0)
    assert result.ended_by == "interrupted"
    assert 1 <= len(result.steps.seconds) < 1000


def test_told_to_stop_before_the_first_step_leaves_at_once(options):
    report = Listener()
    report._stop.set()
    with pytest.raises(KeyboardInterrupt):
        slice_of(options, report)


def test_partial_results_are_handed_over_while_it_runs(options, monkeypatch):
    monkeypatch.setattr("rigbench.measure.steps.PARTIAL_EVERY_SECONDS", 0.1)
    report = Listener()
    slice_of(options, report, seconds=2.0)
    assert report.partials
    assert all(partial.ended_by == "worker died" for partial in report.partials)


def test_a_loss_that_is_not_a_number_is_an_event_with_its_step(options, monkeypatch):
    whole = Decoder.forward
    calls = []

    def forward(self, tokens, targets):
        calls.append(1)
        return whole(self, tokens, targets) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(Decoder, "forward", forward)
    result = slice_of(options, clip_norm=1.0)
    assert "the loss was nan at step 2" in result.events
    assert isinstance(result.steps.loss[2], Absent)
    msgspec.json.decode(msgspec.json.encode(result), type=Slice)


def test_out_of_memory_is_a_result_with_its_cure(options, monkeypatch):
    def forward(self, tokens, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Decoder, "forward", forward)
    with pytest.raises(RigbenchError, match="does not fit this device's memory; try a smaller --micro-batch") as caught:
        slice_of(options)
    assert caught.value.exit_code == 3


def test_a_default_micro_batch_that_does_not_fit_is_halved_and_said(options, monkeypatch):
    monkeypatch.setitem(train.DEFAULT_MICRO_BATCH, "cpu", 8)
    whole = Decoder.forward

    def forward(self, tokens, targets):
        if tokens.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, tokens, targets)

    monkeypatch.setattr(Decoder, "forward", forward)
    result = slice_of(options, micro_batch=0)
    assert result.arm.micro_batch == 2
    assert result.events[:2] == (
        "out of memory at micro-batch 8; went on with 4",
        "out of memory at micro-batch 4; went on with 2",
    )


def test_a_model_that_cannot_fit_the_host_is_refused_before_it_is_built(options):
    huge = flops.describe(msgspec.structs.replace(SHAPE, layers=96, width=12288, heads=96, kv_heads=96), "175B")
    with pytest.raises(RigbenchError, match=r"175B needs at least .* GiB") as caught:
        slice_of(options, model=huge)
    assert caught.value.exit_code == 3


def test_memory_says_what_runs_out_first(options):
    memory = slice_of(options).memory
    assert memory.process_bytes > memory.before_model_bytes > 50 << 20
    assert memory.deciding == "process, in host memory"
    assert isinstance(memory.reserved_bytes, Absent)
