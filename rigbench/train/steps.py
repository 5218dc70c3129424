"""Steps a module with its optimizer, and keeps what every part of every step took."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy, Record
from rigbench.machine.accelerator import Accelerator
from rigbench.model import optim
from rigbench.model.recipe import Recipe
from rigbench.train.plan import compiling_lacks
from rigbench.train.record import PARTS, WORTH_STEPS, Options, Steps
from rigbench.work.process import Report
from rigbench.work.timing import StepWatch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # over fp32 weights
SYNCHRONISE_EVERY_SECONDS = 0.25  # on a GPU the host runs ahead in between; on a CPU a mark costs nothing
Around = Callable[[], AbstractContextManager[object]]


class Source(Protocol):
    """Where a step's batches come from: what the module is called with, on the device."""

    def next(self) -> Sequence[Any]: ...


class Wrapped(NamedTuple):
    """A module among its ranks, or by itself."""

    module: nn.Module  # gives this rank's mean loss; its parameters, which may be shards, are stepped
    clip: Callable[[], object]  # the gradients to a norm, taken over all of them
    # Around a micro-step's forward and backward pass: all but the last of a step keep their gradients here.
    synchronised: Callable[[bool], AbstractContextManager[object]] = lambda last: contextlib.nullcontext()
    # Around whole steps: each rank does all of its own work, the optimizer's too, and exchanges neither gradients nor
    # weights, and what it learns is worthless. None where this torch cannot leave the exchange out.
    apart: Around | None = contextlib.nullcontext
    # Makes of the module, compiled or not, what gives a batch's loss.
    called: Callable[[Any], Callable[..., torch.Tensor]] = lambda module: module


class Trained(NamedTuple):
    """A module with its optimizer and all that is around a step of it."""

    wrapped: Wrapped
    loss: Callable[..., torch.Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # of the loss of an fp16 run
    accumulation: int  # micro-steps a step


def stepped(wrapped: Wrapped, recipe: Recipe, kind: str, learning_rate: float) -> Trained:
    """With optimizer, precision and compilation as the recipe says.

    Raises:
        RigbenchError: this kind of device has no such precision, optimizer or compiler.
    """
    if recipe.precision == "tf32" and kind != "cuda":
        raise RigbenchError("a CPU has no tf32", "use --precision fp32 or bf16", NOTHING)
    # fp32 products go through tensor cores where that is the recipe, and not where it is not.
    torch.set_float32_matmul_precision("high" if recipe.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = recipe.precision == "tf32"  # of convolutions, and on by default
    optimizer = optim.build(recipe.optimizer, wrapped.module, learning_rate=learning_rate)
    module: Any = wrapped.module
    if recipe.compiled:
        if lacking := compiling_lacks(kind):
            raise RigbenchError(lacking[0], f"{lacking[1]}, or use --compile off", NOTHING)
        module = torch.compile(module)
    return Trained(
        wrapped=wrapped,
        loss=wrapped.called(InPrecision(module, recipe.precision, kind)),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(kind) if recipe.precision == "fp16" else None,
        accumulation=recipe.accumulation,
    )


class InPrecision(nn.Module):
    """A module that enters its precision itself, in whatever thread it is called.

    Autocast is a thread's own. `nn.DataParallel` calls its replicas in threads and enters autocast there without a
    dtype, which is fp16 (torch/nn/parallel/parallel_apply.py, `_worker`): so it must replicate what enters it anew.
    """

    def __init__(self, module: Any, precision: str, kind: str) -> None:
        super().__init__()
        self.module, self.precision, self.kind = module, precision, kind

    def forward(self, *batch: Any, **named: Any) -> Any:
        with autocast(self.precision, self.kind):
            return self.module(*batch, **named)


def autocast(precision: str, kind: str) -> AbstractContextManager[object]:
    """Autocast over fp32 weights, or nothing."""
    return torch.autocast(kind, dtype=AUTOCAST[precision]) if precision in AUTOCAST else contextlib.nullcontext()


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Python's garbage collector stands still meanwhile."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()  # or what failed here could not be collected before a smaller try


class StepLoop:
    """Trains a model step by step and keeps what every step took.

    A step begins where the last one ended: the parts add up to the step, and the steps to the whole time, with no gap
    but the moments between chunks in which results are handed over. Of several micro-steps the parts are summed.

    What a GPU's host takes to hand its kernels over is only to be seen where nothing holds it back: not where it waits
    for a buffer of the loader's, for CUDA's queue of some thousand launches, or in the optimizer, which may look at
    the gradients. So it is timed in the first step of a chunk alone, before which the device had nothing left to do,
    and there in the first micro-step's forward and backward pass, without the batch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trained: Trained,
        source: Source,
        options: Options,
        items_per_step: int,
        unit: str = "tokens",
    ) -> None:
        self.accelerator, self.trained, self.source, self.options = accelerator, trained, source, options
        self.items_per_step, self.unit = items_per_step, unit
        self.watch = StepWatch(options.target_half_width, options.most_seconds, time.perf_counter())
        self.events: list[str] = []
        self.now_in = "the first step"
        self._seconds: list[float] = []
        self._parts: tuple[list[float], ...] = tuple([] for _ in PARTS)
        self._enqueue: dict[int, float] = {}
        self._passes_handed_over = 0.0
        self._ended: list[float] = []
        self._loss: list[float | Absent] = []

    def run(self, report: Report, record: Callable[[EndedBy], Record]) -> EndedBy:
        """Step until the rate is tight, the time is up, or we are told to stop; `record` makes what is handed over."""
        with without_collection():
            return self._run(report, record)

    def columns(self) -> Steps:
        data, forward, backward, optimizer = (tuple(part) for part in self._parts)
        enqueue = self._enqueue if self.accelerator.device.kind == "cuda" else {}
        return Steps(
            seconds=tuple(self._seconds),
            data_seconds=data,
            forward_seconds=forward,
            backward_seconds=backward,
            optimizer_seconds=optimizer,
            ended_at_seconds=tuple(self._ended),
            loss=tuple(self._loss),
            enqueue_steps=tuple(enqueue),
            enqueue_seconds=tuple(enqueue.values()),
        )

    def one_step(self) -> float:
        """Seconds of a step outside of the loop, its device waited for; it is in no column."""
        started = time.perf_counter()
        self._step()
        self.accelerator.synchronize()
        return time.perf_counter() - started

    def passed(self, clock: float) -> float:
        """The share of the time that is over."""
        return (clock - self.watch.clock_start) / self.watch.limit_seconds

    def agree(self, ended: EndedBy | None, chunk: int) -> tuple[EndedBy | None, int]:
        """Whether to end, and how many steps to make before that is asked again; of several ranks, together."""
        return ended, chunk

    def make(self, count: int) -> tuple[float, EndedBy | None]:
        """So many steps, the device waited for at their end: when that was, and what the watch says."""
        marks, losses = [self.accelerator.mark()], []
        for place in range(count):
            parts, loss = self._step()
            if not place:
                self._enqueue[len(self._seconds)] = self._passes_handed_over
            marks += parts
            losses.append(loss)
        self.accelerator.synchronize()
        clock = time.perf_counter()
        return clock, self._keep(marks, losses, clock)

    def next_chunk(self) -> int:
        """How many steps to make at once, by what the last one took."""
        return max(1, int(SYNCHRONISE_EVERY_SECONDS / max(self._seconds[-1], 1e-4)))

    def _run(self, report: Report, record: Callable[[EndedBy], Record]) -> EndedBy:
        options, watch, chunk = self.options, self.watch, 1
        watch.clock_start = time.perf_counter()
        while True:
            clock, verdict = self.make(chunk)
            if not options.seconds and len(self._seconds) == 2:
                worth = max(options.shortest_seconds, WORTH_STEPS * self._seconds[-1])
                watch.limit_seconds = min(options.longest_seconds, worth)
            if len(self._seconds) >= 3:
                chunk = self.next_chunk()
            ended, chunk = self.agree("interrupted" if report.should_stop() else verdict, chunk)
            if ended:
                return ended
            rate = self.watch.rate(self.items_per_step).value
            report.progress(self.passed(clock), f"step {len(self._seconds)}, {rate:,.0f} {self.unit}/s")
            report.partial(lambda: record("worker died"))

    def _step(self) -> tuple[list[Any], torch.Tensor]:
        """A mark after each part of each micro-step, and after the optimizer."""
        trained, marks, micro_steps, losses = self.trained, [], self.trained.accumulation, []
        for micro_step in range(micro_steps):
            self.now_in = "loading a batch"
            batch = self.source.next()
            marks.append(self.accelerator.mark())
            begun = time.perf_counter()
            with trained.wrapped.synchronised(micro_step == micro_steps - 1):
                self.now_in = "the forward pass"
                loss = trained.loss(*batch)
                if micro_steps > 1:
                    loss = loss / micro_steps
                marks.append(self.accelerator.mark())
                self.now_in = "the backward pass"
                (trained.scaler.scale(loss) if trained.scaler else loss).backward()  # type: ignore[no-untyped-call]
            if not micro_step:
                self._passes_handed_over = time.perf_counter() - begun
            marks.append(self.accelerator.mark())
            losses.append(loss.detach())
        self.now_in = "the optimizer's step"
        self._optimize()
        marks.append(self.accelerator.mark())
        return marks, losses[0] if micro_steps == 1 else sum(losses[1:], losses[0])

    def _optimize(self) -> None:
        optimizer, scaler = self.trained.optimizer, self.trained.scaler
        if scaler is None:
            self.trained.wrapped.clip()
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            self.trained.wrapped.clip()
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def _keep(self, marks: list[Any], losses: list[torch.Tensor], clock: float) -> EndedBy | None:
        """Turn a chunk's marks into columns; the last mark was passed at `clock`."""
        between = [self.accelerator.seconds_between(start, end) for start, end in pairwise(marks)]
        ended, verdict = clock - math.fsum(between), None
        each = 3 * self.trained.accumulation + 1  # data, forward, backward of each micro-step, and the optimizer
        for index, loss in enumerate(map(float, losses)):
            parts = between[each * index : each * (index + 1)]
            step = math.fsum(parts)
            ended += step
            sums = (*(math.fsum(parts[part:-1:3]) for part in range(3)), parts[-1])
            for column, seconds in zip(self._parts, sums, strict=True):
                column.append(seconds)
            self._seconds.append(step)
            self._ended.append(ended)
            if not math.isfinite(loss):
                self.events.append(f"the loss was {loss} at step {len(self._loss)}")
            self._loss.append(loss if math.isfinite(loss) else Absent(f"not finite ({loss})"))
            verdict = self.watch.add(step, ended) or verdict
        return verdict
