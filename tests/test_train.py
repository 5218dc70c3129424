"""Does a slice measure what it says, and survive what can happen to it?"""

import gc
import io
import math
import re
import statistics
import sys
import threading
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from recipes import changed

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model import counts, optim
from rigbench.model.batches import Batches
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.model.tokens import zipf_tokens
from rigbench.train import probe as train
from rigbench.train.record import DEFAULT_MICRO_BATCH, Options, Slice
from rigbench.train.steps import Wrapped, stepped
from rigbench.work.process import Report

SHAPE = Shape(
    style="gpt2", layers=2, width=64, heads=2, kv_heads=2, ffn_width=256, vocabulary=512, sequence=32,
    tied_head=True, biases=True,
)  # fmt: skip
MODEL = counts.describe(SHAPE, "tiny")
FP32 = Recipe(micro_batch=2, precision="fp32")


class Listener(Report):
    """A report that keeps what it was told, and stops when asked to."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__(io.BytesIO())
        self.said, self.partials, self.stop_after = [], [], stop_after

    def progress(self, share: float, text: str) -> None:
        self.said.append(text)

    def partial(self, record) -> None:
        self.partials += [record()] if record else []

    def should_stop(self) -> bool:
        return sum(text.startswith("step") for text in self.said) >= self.stop_after


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of the generated tokens, which take half a second."""
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture
def options(cache):
    return Options(model=MODEL, cache=str(cache), device="cpu", recipe=FP32, seconds=0.3)


def slice_of(options, report=None, **changes) -> Slice:
    return train.run(changed(options, **changes), report or Listener())


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
    first, *later = result.steps.loss
    last = statistics.fmean(later[-len(later) // 4 :])  # one batch's loss alone lies up to a nat beside it
    assert first == pytest.approx(math.log(512), rel=0.05)
    assert last < first - min(0.2, 0.03 * len(later))  # a busy machine comes to a few steps alone


def test_checkpointing_does_more_work_for_the_same_model_flops(options):
    result = slice_of(options, checkpoint_every=1)
    assert result.recipe.checkpoint_every == 1
    assert result.hardware_flops_per_s > result.model_flops_per_s
    assert slice_of(options).hardware_flops_per_s != result.hardware_flops_per_s


def test_precision_on_a_cpu_is_the_faster_of_the_two_measured(options):
    result = slice_of(options, precision="auto")
    assert {trial.precision for trial in result.precision_trials} == {"fp32", "bf16"}
    best = min(result.precision_trials, key=lambda trial: trial.timing.estimate.value)
    assert result.recipe.precision == best.precision
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


def test_partial_results_are_handed_over_while_it_runs(options):
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


def out_of_memory(*_words, **_named):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("rigbench.model.gpt.Decoder.__init__", "building the model"),
        ("rigbench.model.optim.build", "building the optimizer"),
        ("rigbench.model.batches.Batches.next", "loading a batch"),
        ("rigbench.model.gpt.Decoder.forward", "the forward pass"),
        ("torch.Tensor.backward", "the backward pass"),
        ("torch.optim.AdamW.step", "the optimizer's step"),
    ],
)
def test_out_of_memory_at_any_stage_is_a_result_with_its_cure(options, monkeypatch, where, stage):
    monkeypatch.setattr(where, out_of_memory)
    said = re.escape(
        f"tiny at micro-batch 2 does not fit this device's memory (out of memory in {stage}); try a smaller "
    )
    with pytest.raises(RigbenchError, match=said) as caught:
        slice_of(options)
    assert caught.value.exit_code == 3


def test_a_cpu_out_of_memory_is_told_from_other_errors(options, monkeypatch):
    words = iter(["[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory", "shape mismatch"])

    def forward(self, tokens, targets):
        raise RuntimeError(next(words))

    monkeypatch.setattr(Decoder, "forward", forward)
    with pytest.raises(RigbenchError, match="out of memory in the forward pass"):
        slice_of(options)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        slice_of(options)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16-pure"},
        {"precision": "fp16"},
        {"optimizer": "adamw-foreach"},
        {"checkpoint_every": 2},
        {"loss_chunks": 4},
        {"accumulation": 3},
    ],
)
def test_every_way_of_training_learns_alike(options, changes):
    """The same tokens, weights and learning rate: the losses of the first steps agree to the precision's digits."""
    plain = slice_of(options).steps.loss
    result = slice_of(options, **changes)
    rounding = 0.02 if "precision" in changes else 2e-3
    if "accumulation" not in changes:  # which sees other batches in its first step
        assert result.steps.loss[:3] == pytest.approx(plain[:3], rel=rounding)
    assert all(math.isfinite(loss) for loss in result.steps.loss)
    assert result.tokens_per_step == 64 * changes.get("accumulation", 1)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Slice) == result


def test_accumulated_micro_steps_are_one_step_of_their_mean_gradient(options):
    """Against a second loop, written out here, over the same batches."""
    result = slice_of(options, accumulation=2)
    torch.manual_seed(0)
    model = Decoder(SHAPE)
    optimizer = optim.build("adamw", model, learning_rate=3e-4)
    tokens, data = zipf_tokens(Path(options.cache), 512)
    batches = Batches(tokens, data.dtype, 512, 2, 32, "cpu", data.name)
    for expected in result.steps.loss[:3]:
        micro_batches = [batches.next(), batches.next()]
        inputs, targets = (torch.cat(parts) for parts in zip(*micro_batches, strict=True))
        loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "tf32"}, "a CPU has no tf32; use --precision fp32 or bf16"),
        ({"optimizer": "paged-adamw8bit"}, "pages its states between a GPU and the host, and here trains a cpu"),
    ],
)
def test_what_a_cpu_cannot_do_is_said(options, changes, said):
    with pytest.raises(RigbenchError, match=said) as caught:
        slice_of(options, **changes)
    assert caught.value.exit_code == 3


def test_without_bitsandbytes_its_arm_says_what_to_install(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(
        RigbenchError, match=r"adamw8bit needs bitsandbytes \(.*\); install it, or use --optimizer adamw"
    ):
        slice_of(options, optimizer="adamw8bit")


def test_a_bitsandbytes_without_kernels_for_this_cuda_is_quoted_in_one_line(options, monkeypatch):
    def refuse(*_words, **_named):
        raise RuntimeError("\nConfigured CUDA binary not found at libbitsandbytes_cuda131.so\nTry this\nand that")

    monkeypatch.setattr("bitsandbytes.optim.adamw.AdamW8bit.__init__", refuse)
    with pytest.raises(RigbenchError) as caught:
        slice_of(options, optimizer="adamw8bit")
    assert str(caught.value) == (
        "bitsandbytes cannot be used here (Configured CUDA binary not found at libbitsandbytes_cuda131.so); "
        "use --optimizer adamw"
    )


@pytest.mark.parametrize(
    "refusal",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_default_micro_batch_that_does_not_fit_is_halved_and_said(options, monkeypatch, refusal):
    monkeypatch.setitem(DEFAULT_MICRO_BATCH, "cpu", 8)
    whole = Decoder.forward

    def forward(self, tokens, targets):
        if tokens.shape[0] > 2:
            raise refusal
        return whole(self, tokens, targets)

    monkeypatch.setattr(Decoder, "forward", forward)
    result = slice_of(options, micro_batch=0)
    assert result.recipe.micro_batch == 2
    assert result.events[:2] == (
        "out of memory at micro-batch 8; went on with 4",
        "out of memory at micro-batch 4; went on with 2",
    )


def test_what_a_failed_try_leaves_can_be_collected(options):
    before = gc.get_freeze_count()
    slice_of(options)
    assert gc.get_freeze_count() == before


class Thread(torch.nn.Module):
    """Calls a module in a thread of its own, with autocast switched on or off there as `nn.DataParallel` does it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *batch):
        enabled, made = torch.is_autocast_enabled("cpu"), []

        def work():
            with torch.autocast("cpu", enabled=enabled):
                made.append(self.module(*batch))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return made[0]


class Products(torch.nn.Module):
    """Gives the type that it multiplies in."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 4))

    def forward(self, tensor):
        return (tensor @ self.weight).dtype


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_replicas_multiply_in_the_precision_that_the_record_says(precision, dtype):
    module = Products()
    wrapped = Wrapped(module, lambda: None, called=Thread)
    trained = stepped(wrapped, Recipe(precision=precision), "cpu", 1e-3)
    assert trained.loss(torch.ones(2, 4)) == dtype


def test_what_torch_compile_refuses_is_told_by_its_cause_and_is_no_fault(options, monkeypatch):
    def refuse(_graph, _inputs):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nSee also …")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=refuse))
    with pytest.raises(RigbenchError) as caught:
        slice_of(options, compiled=True)
    assert (str(caught.value), caught.value.exit_code) == (
        "torch.compile cannot be used here (Failed to find C compiler. Please specify via CC environment variable.); "
        "use --compile off",
        3,
    )


def test_a_compiled_step_that_fails_is_not_blamed_on_the_compiler(options, monkeypatch):
    def made(graph, _inputs):
        def step(*_values):
            raise ZeroDivisionError("in a step")

        return step

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=made))
    with pytest.raises(ZeroDivisionError, match="in a step"):
        slice_of(options, compiled=True)


class WithoutKernels:
    """bitsandbytes' stand-in for a library that does not load."""

    compiled_with_cuda = False
    error_msg = "Configured CUDA binary not found at /home/anna/lib/bitsandbytes/libbitsandbytes_cuda131.so\nTry …"


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (WithoutKernels(), "Configured CUDA binary not found at libbitsandbytes_cuda131.so"),
        (None, "its library is built without CUDA, or does not load"),  # of 0.45.0
    ],
)
def test_a_bitsandbytes_that_would_fail_at_its_first_step_is_refused_before(monkeypatch, library, said):
    monkeypatch.setattr("bitsandbytes.cextension.lib", library)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(8))]}]
    with pytest.raises(
        RigbenchError, match=re.escape(f"bitsandbytes cannot be used here ({said}); use --optim")
    ) as caught:
        optim._eight_bit("adamw8bit", groups, "cuda", lr=1e-3)
    assert caught.value.exit_code == 3


def test_a_bitsandbytes_whose_kernels_fail_is_quoted_before_the_first_step(options, monkeypatch):
    def refuse(self, *_words, **_named):
        raise RuntimeError("no kernel image is available for execution on the device\nand more")

    monkeypatch.setattr("bitsandbytes.optim.adamw.AdamW8bit.step", refuse)
    with pytest.raises(RigbenchError, match=r"cannot be used here \(no kernel image is available .* device\)"):
        slice_of(options, optimizer="adamw8bit")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True)])
def test_convolutions_follow_the_precision_too(precision, allowed):
    stepped(Wrapped(Products(), lambda: None), Recipe(precision=precision, optimizer="adamw-foreach"), "cuda", 1e-3)
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")


def test_a_model_that_cannot_fit_the_host_is_refused_before_it_is_built(options):
    huge = counts.describe(msgspec.structs.replace(SHAPE, layers=96, width=12288, heads=96, kv_heads=96), "175B")
    with pytest.raises(RigbenchError, match=r"175B needs at least .* GiB") as caught:
        slice_of(options, model=huge)
    assert caught.value.exit_code == 3


def test_memory_says_what_runs_out_first(options):
    memory = slice_of(options).memory
    assert memory.process_bytes > memory.before_model_bytes > 50 << 20
    assert memory.deciding == "process, in host memory"
    assert isinstance(memory.reserved_bytes, Absent)
