"""What does each step of a training slice take, part by part? The loop itself, and the columns it fills."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from rigbench.core.record import Absent, EndedBy
from rigbench.machine.accelerator import Accelerator
from rigbench.train.record import Steps
from rigbench.train.training import Trained
from rigbench.work.process import Report
from rigbench.work.timing import StepWatch

if TYPE_CHECKING:
    import torch

PARTS = ("data", "forward", "backward", "optimizer")
SYNCHRONISE_EVERY_SECONDS = 0.25  # on a GPU the host runs ahead in between; on a CPU a mark costs nothing
PARTIAL_EVERY_SECONDS = 5.0
# Where no time limit is asked for: 16 steps' worth, within these bounds.
WORTH_STEPS, SHORTEST_SECONDS, LONGEST_SECONDS = 16, 25.0, 80.0


class Source(Protocol):
    """Where a step's batches come from: what the module is called with, on the device."""

    def next(self) -> Sequence[Any]: ...


class Patience(NamedTuple):
    """How long a slice may take. `seconds` 0: 16 steps' worth, between the two others."""

    seconds: float = 0.0
    shortest_seconds: float = SHORTEST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    target_half_width: float = 0.01


class StepLoop:
    """Trains a model step by step and keeps what every step took.

    A step begins where the last one ended: the parts add up to the step, and the steps to the whole time, with no gap
    but the moments between chunks in which results are handed over. Of several micro-steps the parts are summed.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trained: Trained,
        source: Source,
        items_per_step: int,
        patience: Patience,
        unit: str = "tokens/s",
    ) -> None:
        self.accelerator, self.trained, self.source, self.patience = accelerator, trained, source, patience
        self.items_per_step, self.unit = items_per_step, unit
        limit = patience.seconds or patience.longest_seconds
        self.watch = StepWatch(patience.target_half_width, limit, time.perf_counter())
        self.events: list[str] = []
        self.now_in = "the first step"
        self._seconds: list[float] = []
        self._parts: tuple[list[float], ...] = tuple([] for _ in PARTS)
        self._enqueue: list[float] = []
        self._ended: list[float] = []
        self._loss: list[float | Absent] = []

    def run(self, report: Report, partial: Callable[[], None]) -> EndedBy:
        """Step until the rate is tight, the time is up, or we are told to stop; `partial` is called now and then."""
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            return self._run(report, partial)
        finally:
            gc.enable()

    def columns(self) -> Steps:
        data, forward, backward, optimizer = (tuple(part) for part in self._parts)
        return Steps(
            seconds=tuple(self._seconds),
            data_seconds=data,
            forward_seconds=forward,
            backward_seconds=backward,
            optimizer_seconds=optimizer,
            ended_at_seconds=tuple(self._ended),
            loss=tuple(self._loss),
            enqueue_seconds=tuple(self._enqueue) if self.accelerator.device.kind == "cuda" else msgspec.UNSET,
        )

    def one_step(self) -> float:
        """Seconds of a step outside of the loop, its device waited for; it is in no column."""
        started = time.perf_counter()
        self._step()
        self.accelerator.synchronize()
        return time.perf_counter() - started

    def agree(self, ended: EndedBy | None, chunk: int) -> tuple[EndedBy | None, int]:
        """Whether to end, and how many steps to make before that is asked again; of several ranks, together."""
        return ended, chunk

    def _run(self, report: Report, partial: Callable[[], None]) -> EndedBy:
        watch, chunk = self.watch, 1
        watch.clock_start = last_partial = time.perf_counter()
        while True:
            marks, losses = [self.accelerator.mark()], []
            for _ in range(chunk):
                begun = time.perf_counter()
                parts, loss = self._step()
                self._enqueue.append(time.perf_counter() - begun)
                marks += parts
                losses.append(loss)
            self.accelerator.synchronize()
            clock = time.perf_counter()
            verdict = self._keep(marks, losses, clock)
            if not self.patience.seconds and len(self._seconds) == 2:
                worth = max(self.patience.shortest_seconds, WORTH_STEPS * self._seconds[-1])
                watch.limit_seconds = min(self.patience.longest_seconds, worth)
            if len(self._seconds) >= 3:
                chunk = max(1, int(SYNCHRONISE_EVERY_SECONDS / max(self._seconds[-1], 1e-4)))
            ended, chunk = self.agree("interrupted" if report.should_stop() else verdict, chunk)
            if ended:
                return ended
            report.progress((clock - watch.clock_start) / watch.limit_seconds, self._said())
            if clock - last_partial > PARTIAL_EVERY_SECONDS:
                partial()
                last_partial = time.perf_counter()

    def _step(self) -> tuple[list[Any], torch.Tensor]:
        """A mark after each part of each micro-step, and after the optimizer."""
        trained, marks, micro_steps, losses = self.trained, [], self.trained.accumulation, []
        for micro_step in range(micro_steps):
            self.now_in = "loading a batch"
            batch = self.source.next()
            marks.append(self.accelerator.mark())
            with trained.synchronised(micro_step == micro_steps - 1):
                self.now_in = "the forward pass"
                with trained.precision():
                    loss = trained.module(*batch)
                if micro_steps > 1:
                    loss = loss / micro_steps
                marks.append(self.accelerator.mark())
                self.now_in = "the backward pass"
                (trained.scaler.scale(loss) if trained.scaler else loss).backward()  # type: ignore[no-untyped-call]
            marks.append(self.accelerator.mark())
            losses.append(loss.detach())
        self.now_in = "the optimizer's step"
        self._optimize()
        marks.append(self.accelerator.mark())
        return marks, losses[0] if micro_steps == 1 else sum(losses[1:], losses[0])

    def _optimize(self) -> None:
        optimizer, scaler = self.trained.optimizer, self.trained.scaler
        if scaler is None:
            self.trained.clip()
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            self.trained.clip()
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def _keep(self, marks: list[Any], losses: list[torch.Tensor], clock: float) -> EndedBy | None:
        """Turn a chunk's marks into columns; the last mark was passed at `clock`."""
        between = [self.accelerator.seconds_between(start, end) for start, end in pairwise(marks)]
        ended, verdict = clock - math.fsum(between), None
        each = 3 * self.trained.accumulation + 1  # data, forward, backward of each micro-step, and the optimizer
        for index, loss in enumerate(losses):
            parts = between[each * index : each * (index + 1)]
            step = math.fsum(parts)
            ended += step
            sums = (*(math.fsum(parts[part:-1:3]) for part in range(3)), parts[-1])
            for column, seconds in zip(self._parts, sums, strict=True):
                column.append(seconds)
            self._seconds.append(step)
            self._ended.append(ended)
            self._keep_loss(float(loss))
            verdict = self.watch.add(step, ended) or verdict
        return verdict

    def _keep_loss(self, loss: float) -> None:
        if math.isfinite(loss):
            self._loss.append(loss)
            return
        self.events.append(f"the loss was {loss} at step {len(self._loss)}")
        self._loss.append(Absent(f"not finite ({loss})"))

    def _said(self) -> str:
        rate = self.watch.rate(self.items_per_step)
        return f"step {len(self._seconds)}, {rate.value:,.0f} {self.unit}"
