"""Predicts the memory of a program of the user's: its own code on fake tensors, through a replica of torch's allocator.

Runs in a process of its own. Called for real once, with two samples on the CPU, so that mistakes are its own.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.model.recipe import Optimizer, Recipe
from rigbench.predict import loop
from rigbench.predict.memory import METHOD, own_row
from rigbench.predict.record import OwnCapacity, OwnRow
from rigbench.predict.record import OwnMemoryOptions as Options
from rigbench.predict.trace import Recorder
from rigbench.predict.traces import Trace
from rigbench.store import now
from rigbench.train.own import TRIAL_SAMPLES, Own, drawn, each, load, tried, within_free_memory
from rigbench.work.process import Report

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
        own = own._replace(sequence=its.items_per_sample if its.unit == "tokens" else 0)
        report.progress(0.6, "on fake tensors")
        step = FakeStep(own, options.precision, options.target.kind == "cuda")
        rows = tuple(_row(step, options, optimizer, its.fixed_samples) for optimizer in options.optimizers)
    return OwnCapacity(
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


class FakeStep:
    """A program whose weights have become fake, and its steps as they are recorded."""

    def __init__(self, own: Own, precision: str, cuda: bool) -> None:
        self.own, self._precision = own, precision
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
        own, module = self.own, self.own.module
        like = drawn(own, samples) if own.batch else (torch.zeros((samples, own.sequence), dtype=torch.int64),) * 2
        pure, half = self._precision == "bf16-pure", torch.float16 if self._precision == "fp16" else torch.bfloat16
        recorder = Recorder(own.vocabulary or -1, self._flash_workspace)

        def made(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty(tensor.shape, dtype=half if pure and tensor.is_floating_point() else tensor.dtype)

        with self._fakes, recorder:
            recorder.begin("weights")
            for _, tensor in [*module.named_parameters(), *module.named_buffers()]:
                recorder.keep(tensor)
            recorder.begin("first batch")
            batch = (each(like, made),) if own.batch else each(like, made)
            with torch.autocast("cpu", half, enabled=self._precision in ("bf16", "fp16")):
                loss = own.losses(module)(*batch)
            recorder.begin("first backward start")
            loss.backward()  # type: ignore[no-untyped-call]
            recorder.begin("first end")
            del loss, batch
            for weight in module.parameters():
                if weight.grad is not None:
                    recorder.rename(weight.grad, "gradients outside")
        recorder.end()
        module.zero_grad(set_to_none=True)
        return Trace(recorder.pieces)


def _row(step: FakeStep, options: Options, optimizer: Optimizer, fixed: int) -> OwnRow:
    target, weights = options.target, step.weights
    recipe = Recipe(
        optimizer=optimizer,
        precision=options.precision,
        strategy="ddp" if target.count > 1 else "single",
        ranks=target.count,
    )
    scratch = target.workspace_bytes
    return own_row(
        lambda samples: loop.compose(step.micro_step(samples), weights, recipe, scratch), recipe, target, fixed
    )
