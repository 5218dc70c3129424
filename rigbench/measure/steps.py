"""What does each step of a training slice take, part by part? The loop itself, and the columns it fills."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rigbench.hardware.accelerator import Accelerator
from rigbench.measure.timing import StepWatch
from rigbench.measure.workers import Report
from rigbench.model.batches import Batches
from rigbench.records import Absent, EndedBy, Steps

if TYPE_CHECKING:
    import torch

PARTS = ("data", "forward", "backward", "optimizer")
SYNCHRONISE_EVERY_SECONDS = 0.25  # on a GPU the host runs ahead in between; on a CPU a mark costs nothing
PARTIAL_EVERY_SECONDS = 5.0
# Where no time limit is asked for: 16 steps' worth, within these bounds.
WORTH_STEPS, SHORTEST_SECONDS, LONGEST_SECONDS = 16, 25.0, 80.0


class StepLoop:
    """Trains `model` step by step and keeps what every step took.

    A step begins where the last one ended: the parts add up to the step, and the steps to the whole time, with no gap
    but the moments between chunks in which results are handed over. `seconds` 0 means 16 steps' worth.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        precision: Callable[[], AbstractContextManager[object]],
        clip_norm: float,
        seconds: float,
        target_half_width: float,
    ) -> None:
        self.accelerator, self.model, self.optimizer, self.batches = accelerator, model, optimizer, batches
        self.precision, self.clip_norm, self.seconds = precision, clip_norm, seconds
        self.watch = StepWatch(target_half_width, seconds or LONGEST_SECONDS, time.perf_counter())
        self.events: list[str] = []
        self._seconds: list[float] = []
        self._parts: tuple[list[float], ...] = tuple([] for _ in PARTS)
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
        )

    def shares(self) -> dict[str, float]:
        """Each part's share of the steady window."""
        start = self.watch.steady_from
        total = math.fsum(self._seconds[start:])
        return {name: math.fsum(part[start:]) / total for name, part in zip(PARTS, self._parts, strict=True)}

    def _run(self, report: Report, partial: Callable[[], None]) -> EndedBy:
        watch, chunk = self.watch, 1
        watch.clock_start = last_partial = time.perf_counter()
        while True:
            marks, losses = [self.accelerator.mark()], []
            for _ in range(chunk):
                parts, loss = self._step()
                marks += parts
                losses.append(loss)
            self.accelerator.synchronize()
            clock = time.perf_counter()
            verdict = self._keep(marks, losses, clock)
            if not self.seconds and len(self._seconds) == 2:
                worth = WORTH_STEPS * self._seconds[-1]
                watch.limit_seconds = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, worth))
            if verdict or report.should_stop():
                return verdict or "interrupted"
            report.progress((clock - watch.clock_start) / watch.limit_seconds, self._said())
            if clock - last_partial > PARTIAL_EVERY_SECONDS:
                partial()
                last_partial = time.perf_counter()
            if len(self._seconds) >= 3:
                chunk = max(1, int(SYNCHRONISE_EVERY_SECONDS / max(self._seconds[-1], 1e-4)))

    def _step(self) -> tuple[list[Any], torch.Tensor]:
        from torch.nn.utils import clip_grad_norm_

        inputs, targets = self.batches.next()
        loaded = self.accelerator.mark()
        with self.precision():
            loss = self.model(inputs, targets)
        forwarded = self.accelerator.mark()
        loss.backward()
        backed = self.accelerator.mark()
        clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return [loaded, forwarded, backed, self.accelerator.mark()], loss.detach()

    def _keep(self, marks: list[Any], losses: list[torch.Tensor], clock: float) -> EndedBy | None:
        """Turn a chunk's marks into columns; the last mark was passed at `clock`."""
        between = [self.accelerator.seconds_between(start, end) for start, end in pairwise(marks)]
        ended, verdict = clock - math.fsum(between), None
        for index, loss in enumerate(losses):
            parts = between[len(PARTS) * index : len(PARTS) * (index + 1)]
            step = math.fsum(parts)
            ended += step
            for column, seconds in zip(self._parts, parts, strict=True):
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
        rate = self.watch.rate(self.batches.micro_batch * self.batches.sequence)
        return f"step {len(self._seconds)}, {rate.value:,.0f} tokens/s"
