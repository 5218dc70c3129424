"""Predicts the memory of a program of the user's: its own code on fake tensors, through a replica of torch's allocator.

Runs in a process of its own. Called for real once, with two samples on the CPU, so that mistakes are its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import Optimizer, Recipe, Strategy
from rigbench.predict import loop, own_time
from rigbench.predict.memory import METHOD, own_row
from rigbench.predict.operations import Operation
from rigbench.predict.own_time import OwnStep
from rigbench.predict.record import OwnCapacity, OwnRow
from rigbench.predict.record import OwnMemoryOptions as Options
from rigbench.predict.trace import Recorder
from rigbench.predict.traces import Trace
from rigbench.predict.usual import MOST_TOKENS_A_CARD
from rigbench.store import now
from rigbench.train.own import TRIAL_SAMPLES, Own, drawn, each, load, refuse_other_size, tried, within_free_memory
from rigbench.train.own_operations import Counted
from rigbench.train.record import OwnModel
from rigbench.work.process import Report

SIZES = 2, 4  # samples that its operations are counted at, and taken to lie on a line through
GAIN = 1.05  # a doubling of samples at once that makes it no faster than this gains nothing worth its memory
CURE = "fake tensors have shapes and no values; `rigbench train-probe --model {name}` measures it on a card"


def run(options: Options, report: Report) -> OwnCapacity:
    """What fits of a program on the target, a row for each optimizer.

    Raises:
        RigbenchError: it is not as the contract says (exit 2), or cannot run on fake tensors (3).
    """
    started_at, started = now(), time.perf_counter()
    torch.manual_seed(0)
    report.progress(0.2, f"calling {options.name}")
    with within_free_memory("cpu"):
        own = load(options.name, options.folder, options.vocabulary, options.sequence)
        its = tried(own, "cpu", TRIAL_SAMPLES)
        refuse_other_size(its.name, its.fixed_samples, options.micro_batch)
        own = own._replace(sequence=its.items_per_sample if its.unit == "tokens" else 0)
        report.progress(0.6, "on fake tensors")
        step = FakeStep(own, options.precision, options.target.kind == "cuda")
        rows = tuple(_row(step, options, optimizer, its.fixed_samples) for optimizer in options.optimizers)
        report.progress(0.8, "its operations")
        timed = _timed(step, options, its, rows[0].micro_batch)
    result = OwnCapacity(
        method=METHOD,
        started_at=started_at,
        seconds=time.perf_counter() - started,
        target=options.target,
        program=own.name,
        unit=its.unit,
        items_per_sample=its.items_per_sample,
        batch=its.batch,
        total_parameters=its.total_parameters,
        trainable_parameters=its.trainable_parameters,
        flop_per_item=its.flop_per_item,
        fixed_samples=its.fixed_samples,
        rows=rows,
        notes=its.notes,
    )
    if isinstance(timed, Absent):
        return msgspec.structs.replace(result, items_per_s=timed)
    samples, row, its_step = timed
    notes = (*result.notes, its_step.note)
    if isinstance(row.micro_batch, Absent):
        notes += (f"{samples:,} samples at once are more than is predicted to fit",)
    rate = samples * its.items_per_sample * options.target.count / its_step.seconds
    return msgspec.structs.replace(
        result, items_per_s=rate, timed_samples=samples, timed_bytes=row.process, parts=its_step.parts, notes=notes
    )


class FakeStep:
    """A program whose weights have become fake, and its steps as they are recorded."""

    def __init__(self, own: Own, precision: str, cuda: bool) -> None:
        self.own, self._precision, self._cuda = own, precision, cuda
        self._flash_workspace = cuda and precision not in ("fp32", "tf32")
        if precision == "bf16-pure":
            own.module.to(torch.bfloat16)
        self._fakes = FakeTensorMode()
        made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by identity: tied weights stay tied
        for part in own.module.modules():
            for held in (part._parameters, part._buffers, vars(part)):  # the last: masks and the like, plain attributes
                fakes: dict[str, Any] = held
                for name, it in fakes.items():
                    if isinstance(it, torch.Tensor):
                        made.setdefault(id(it), (it, self._faked(it)))
                        fakes[name] = made[id(it)][1]
        self._traces: dict[int, Trace] = {}

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._fakes:
            its = torch.empty(tensor.shape, dtype=tensor.dtype)
            return nn.Parameter(its, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else its

    @property
    def weights(self) -> tuple[loop.Weight, ...]:
        return tuple(
            loop.Weight(-1, tuple(it.shape) or (1,), it.element_size(), it.requires_grad)
            for it in self.own.module.parameters()
        )

    def micro_step(self, samples: int) -> Trace:
        """One micro-step of so many samples.

        Raises:
            RigbenchError: what it does needs values, or has no fake form (exit 3).
        """
        if samples not in self._traces:
            try:
                with self.own.blamed("its step on fake tensors", CURE.format(name=self.own.name)):
                    self._traces[samples] = self._recorded(samples)
            except RigbenchError as error:
                raise RigbenchError(error.what_happened, error.what_to_do, NOTHING) from None
        return self._traces[samples]

    def _recorded(self, samples: int) -> Trace:
        module, recorder = self.own.module, Recorder(self.own.vocabulary or -1, self._flash_workspace)
        like = self._like(samples)
        with self._fakes, recorder:
            recorder.begin("weights")
            for _, tensor in [*module.named_parameters(), *module.named_buffers()]:
                recorder.keep(tensor)
            recorder.begin("first batch")
            held = self._play(like, lambda: recorder.begin("first backward start"))
            recorder.begin("first end")
            del held
            for weight in module.parameters():
                if weight.grad is not None:
                    recorder.rename(weight.grad, "gradients outside")
        recorder.end()
        module.zero_grad(set_to_none=True)
        return Trace(recorder.pieces)

    def operations(self, samples: int) -> list[Operation]:
        """What one micro-step of so many samples does."""
        like = self._like(samples)
        counted = Counted()
        with self._fakes, counted:
            self._play(like, lambda: None)
        self.own.module.zero_grad(set_to_none=True)
        return counted.operations

    def _like(self, samples: int) -> Any:
        own = self.own
        return drawn(own, samples) if own.batch else (torch.zeros((samples, own.sequence), dtype=torch.int64),) * 2

    def _play(self, like: Any, turned: Callable[[], None]) -> object:
        """A batch, forward and backward; `turned` in between. What lives until the end of it is given back."""
        own = self.own
        pure, half = self._precision == "bf16-pure", torch.float16 if self._precision == "fp16" else torch.bfloat16

        def made(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty(tensor.shape, dtype=half if pure and tensor.is_floating_point() else tensor.dtype)

        batch = (each(like, made),) if own.batch else each(like, made)
        with (
            torch.autocast("cpu", half, enabled=self._precision in ("bf16", "fp16")),
            _FusedWithDropout() if self._cuda else contextlib.nullcontext(),
        ):
            loss = own.losses(own.module)(*batch)
        turned()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, batch


class _FusedWithDropout(TorchFunctionMode):
    """Attention with dropout is one kernel on a GPU too, where a CPU's is taken apart: here it is without."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention and len(args) > 4:
            args = (*args[:4], 0.0, *args[5:])
        elif func is nn.functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _timed(step: FakeStep, options: Options, its: OwnModel, most: int | Absent) -> tuple[int, OwnRow, OwnStep] | Absent:
    """How many samples at once, what they take, and how long."""
    limits = options.ceilings
    if isinstance(limits, Absent):
        return limits
    if isinstance(its.flop_per_item, Absent):
        return Absent(f"not predicted: {its.flop_per_item.reason}")
    if isinstance(most, Absent) and not options.micro_batch:
        return most
    recipe = _recipe(options, options.optimizers[0])
    trained = [(name, it) for name, it in step.own.module.named_parameters() if it.requires_grad]
    tensors = tuple((name, tuple(it.shape)) for name, it in trained)
    small, large = ([], []) if its.fixed_samples else [step.operations(samples) for samples in SIZES]
    on_a_line = bool(small) and [it.name for it in small] == [it.name for it in large]

    def at(samples: int) -> OwnStep:
        if not on_a_line:
            work = step.operations(samples)
        else:
            share = (samples - SIZES[0]) / (SIZES[1] - SIZES[0])
            pairs = zip(small, large, strict=True)
            work = [
                a._replace(flop=a.flop + share * (b.flop - a.flop), bytes=a.bytes + share * (b.bytes - a.bytes))
                for a, b in pairs
            ]
        tokens = samples * its.items_per_sample if its.unit == "tokens" else 0
        return own_time.predict(work, tensors, recipe, limits, tokens)

    samples = options.micro_batch or its.fixed_samples or 1
    if not options.micro_batch and not its.fixed_samples:
        assert isinstance(most, int)
        if its.unit == "tokens":
            samples = min(most, max(1, MOST_TOKENS_A_CARD // its.items_per_sample))
        else:
            while 2 * samples <= most and 2 * at(samples).seconds.value > GAIN * at(2 * samples).seconds.value:
                samples *= 2
    return samples, _row(step, options, options.optimizers[0], samples), at(samples)


def _row(step: FakeStep, options: Options, optimizer: Optimizer, fixed: int) -> OwnRow:
    target, weights, recipe = options.target, step.weights, _recipe(options, optimizer)
    scratch = target.workspace_bytes
    return own_row(
        lambda samples: loop.compose(step.micro_step(samples), weights, recipe, scratch), recipe, target, fixed
    )


def _recipe(options: Options, optimizer: Optimizer) -> Recipe:
    count = options.target.count
    strategy: Strategy = "ddp" if count > 1 else "single"
    return Recipe(optimizer=optimizer, precision=options.precision, strategy=strategy, ranks=count)
