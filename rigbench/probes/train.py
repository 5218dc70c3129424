"""How fast does this rig train the model? A calibrated slice of the full run: loader, forward, backward, clip, step."""

from __future__ import annotations

import contextlib
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rigbench import stats
from rigbench.errors import NOTHING, RigbenchError
from rigbench.hardware import host
from rigbench.hardware.accelerator import Accelerator, choose_device, open_accelerator
from rigbench.hardware.sysfs import Sysfs
from rigbench.measure.timing import StepWatch, sample_until_tight
from rigbench.measure.workers import Report
from rigbench.model import flops
from rigbench.model.tokens import Batches, Dtype, open_tokens, zipf_tokens
from rigbench.records import (
    Absent,
    Arm,
    Data,
    EndedBy,
    Model,
    PrecisionTrial,
    Record,
    Slice,
    Steps,
    Vram,
)
from rigbench.store import now

if TYPE_CHECKING:
    import torch

METHOD = 1
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}
TRIAL_TOKENS = 256  # enough rows that the matrix products dominate, few enough to decide in a second or two
PARTIAL_EVERY_SECONDS = 5.0
SYNCHRONISE_EVERY_SECONDS = 0.25  # on a GPU the host runs ahead in between


class Options(Record):
    """`seconds` 0: long enough for 16 steps, between 25 and 80 s. `micro_batch` 0: the device's default.

    `cache` is a folder for the generated token file; the runner names it.
    """

    model: Model
    cache: str = ""
    device: str = "auto"
    data: str = ""
    data_dtype: Dtype = "uint16"
    micro_batch: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpointing: Literal["off", "on"] = "off"
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    clip_norm: float = 1.0
    seconds: float = 0.0
    target_half_width: float = 0.01
    seed: int = 0


class Columns:
    """The growing columns of a slice's steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.parts: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
        self.ended: list[float] = []
        self.loss: list[float | Absent] = []

    def record(self) -> Steps:
        data, forward, backward, optimizer = (tuple(part) for part in self.parts)
        return Steps(
            seconds=tuple(self.seconds),
            data_seconds=data,
            forward_seconds=forward,
            backward_seconds=backward,
            optimizer_seconds=optimizer,
            ended_at_seconds=tuple(self.ended),
            loss=tuple(self.loss),
        )


def run(options: Options, report: Report) -> Slice:
    """One slice on one device, in this process, which must be fresh.

    Raises:
        RigbenchError: bad token data (exit 2), no such device or a model that does not fit (exit 3).
    """
    started_at, started = now(), time.perf_counter()
    report.progress(0.0, "token data")
    shape = options.model.shape
    if options.data:
        tokens, data = open_tokens(Path(options.data), options.data_dtype, shape.vocabulary, shape.sequence)
    else:
        tokens, data = zipf_tokens(Path(options.cache), shape.vocabulary)
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(options.seed)
    sysfs = Sysfs()
    accelerator = _open(options, sysfs)
    before_model = host.process_resident_bytes(sysfs)
    precision, chosen_by, trials = _choose_precision(options, accelerator, report)
    micro_batch = options.micro_batch or DEFAULT_MICRO_BATCH[accelerator.device.kind]
    events: list[str] = []
    while True:
        arm = Arm(
            optimizer=options.optimizer,
            checkpointing=options.checkpointing,
            precision=precision,
            precision_chosen_by=chosen_by,
            compiled=False,
            strategy="single",
            micro_batch=micro_batch,
            micro_batch_chosen_by="--micro-batch" if options.micro_batch else f"default on {accelerator.device.kind}",
            accumulation=1,
        )
        batches = Batches(
            tokens, data.dtype, shape.vocabulary, micro_batch, shape.sequence, accelerator.torch_device, data.name
        )
        attempt = _Attempt(options, arm, data, accelerator, batches, trials, before_model, started_at, started, events)
        try:
            return attempt.train(report)
        except torch.OutOfMemoryError:
            attempt.release()
            if options.micro_batch or micro_batch == 1:
                raise RigbenchError(
                    f"{options.model.name} at micro-batch {micro_batch} does not fit this device's memory",
                    "try a smaller --micro-batch, --checkpointing on, or a smaller model",
                    exit_code=NOTHING,
                ) from None
        events.append(f"out of memory at micro-batch {micro_batch}; went on with {micro_batch // 2}")
        micro_batch //= 2


def _open(options: Options, sysfs: Sysfs) -> Accelerator:
    cpu, memory = host.cpu(sysfs), host.memory(sysfs)
    model = cpu.model if isinstance(cpu.model, str) else f"{cpu.architecture} CPU"
    accelerator = open_accelerator(choose_device(options.device), model, memory.total_bytes, cpu.l3_bytes)
    usable = memory.usable_bytes
    # fp32 weights, gradients and two AdamW moments: below this nothing can be trained, so say it before paging starts
    needed = 16 * options.model.total_parameters
    if accelerator.device.kind == "cpu" and not isinstance(usable, Absent) and needed > usable:
        raise RigbenchError(
            f"{options.model.name} needs at least {needed / 2**30:.1f} GiB for weights, gradients and AdamW states, "
            f"and this host has {usable / 2**30:.1f} GiB to give",
            "choose a smaller model",
            exit_code=NOTHING,
        )
    return accelerator


def _choose_precision(
    options: Options, accelerator: Accelerator, report: Report
) -> tuple[Literal["fp32", "bf16"], str, tuple[PrecisionTrial, ...]]:
    """bf16 autocast where a GPU has it; on a CPU whichever trains a one-block model of this width faster, measured."""
    import torch

    if options.precision != "auto":
        return options.precision, "--precision", ()
    if accelerator.device.kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the device multiplies bf16 natively", ()
        return "fp32", "the device does not multiply bf16", ()
    report.progress(0.0, "fp32 or bf16: measuring which is faster here")
    trials = tuple(_trial(name, options, accelerator, report) for name in ("fp32", "bf16"))
    fastest = min(trials, key=lambda trial: trial.timing.estimate.value)
    return fastest.precision, "measured on one block of this model", trials


def _trial(
    precision: Literal["fp32", "bf16"], options: Options, accelerator: Accelerator, report: Report
) -> PrecisionTrial:
    import msgspec
    import torch

    from rigbench.model.gpt import Decoder

    shape = msgspec.structs.replace(options.model.shape, layers=1)
    model = Decoder(shape).to(accelerator.torch_device)
    length = min(shape.sequence, TRIAL_TOKENS)
    block = torch.randint(shape.vocabulary, (1, length + 1), device=accelerator.torch_device)

    def work(_: int) -> None:
        with autocast(precision, accelerator.device.kind):
            loss = model(block[:, :-1], block[:, 1:])
        loss.backward()

    timing = sample_until_tight(
        lambda count: accelerator.timed(work, count),
        time.perf_counter,
        target_half_width=0.05,
        limit_seconds=1.5,
        should_stop=report.should_stop,
    )
    return PrecisionTrial(precision=precision, timing=timing)


def autocast(precision: str, kind: str) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast over fp32 weights, or nothing."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(kind, dtype=torch.bfloat16)


class _Attempt:
    """One try at a slice: the model, its steps so far, and the record they make at any moment."""

    def __init__(
        self,
        options: Options,
        arm: Arm,
        data: Data,
        accelerator: Accelerator,
        batches: Batches,
        trials: tuple[PrecisionTrial, ...],
        before_model_bytes: int | Absent,
        started_at: str,
        started: float,
        events: list[str],
    ) -> None:
        self.options, self.arm, self.data, self.accelerator, self.batches = options, arm, data, accelerator, batches
        self.trials, self.before_model_bytes = trials, before_model_bytes
        self.started_at, self.started, self.events = started_at, started, events
        self.columns = Columns()
        self.setup_seconds = 0.0
        self.watch: StepWatch | None = None
        self.model: torch.nn.Module | None = None
        self.optimizer: Any = None

    def train(self, report: Report) -> Slice:
        from rigbench.model import optim
        from rigbench.model.gpt import Decoder

        report.check()
        report.progress(0.0, "building the model")
        built = time.perf_counter()
        self.accelerator.reset_peak_memory()
        checkpointing = self.arm.checkpointing == "on"
        self.model = Decoder(self.options.model.shape, checkpointing=checkpointing).to(self.accelerator.torch_device)
        self.optimizer = optim.build(self.options.optimizer, self.model, learning_rate=self.options.learning_rate)
        self.accelerator.synchronize()
        self.setup_seconds = time.perf_counter() - built
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            ended_by = self._steps(report)
        finally:
            gc.enable()
        return self.record(ended_by)

    def release(self) -> None:
        """Give the device's memory back after an out-of-memory, so that the next try starts clean."""
        import torch

        self.model = self.optimizer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _steps(self, report: Report) -> EndedBy:
        """Step until the rate is tight, the time is up, or we are told to stop.

        The host looks at the results of a few steps at a time (every step on a CPU), so that a GPU never waits for it.
        A step begins where the last one ended: the steps of a chunk add up to its whole time, with no gap.
        """
        limit = self.options.seconds or 80.0
        watch = self.watch = StepWatch(self.options.target_half_width, limit, time.perf_counter())
        last_partial = time.perf_counter()
        chunk = 1
        while True:
            marks, losses = [self.accelerator.mark()], []
            for _ in range(chunk):
                parts, loss = self._step()
                marks += parts
                losses.append(loss)
            self.accelerator.synchronize()
            clock = time.perf_counter()
            verdict = self._keep(marks, losses, clock, watch)
            if not self.options.seconds and len(self.columns.seconds) == 2:
                watch.limit_seconds = min(80.0, max(25.0, 16 * self.columns.seconds[-1]))
            if report.should_stop():
                return "interrupted"
            if verdict:
                return verdict
            report.progress((clock - watch.clock_start) / watch.limit_seconds, self._said())
            if clock - last_partial > PARTIAL_EVERY_SECONDS:
                report.partial(self.record("worker died"))
                last_partial = time.perf_counter()
            if len(self.columns.seconds) >= 3:
                chunk = max(1, int(SYNCHRONISE_EVERY_SECONDS / max(self.columns.seconds[-1], 1e-4)))

    def _step(self) -> tuple[list[Any], torch.Tensor]:
        import torch

        assert self.model is not None
        inputs, targets = self.batches.next()
        loaded = self.accelerator.mark()
        with autocast(self.arm.precision, self.accelerator.device.kind):
            loss = self.model(inputs, targets)
        forwarded = self.accelerator.mark()
        loss.backward()
        backed = self.accelerator.mark()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return [loaded, forwarded, backed, self.accelerator.mark()], loss.detach()

    def _keep(
        self, marks: list[Any], losses: list[torch.Tensor], clock: float, watch: StepWatch
    ) -> EndedBy | None:
        """Turn a chunk's marks into columns; the last mark was passed at `clock`."""
        between = [self.accelerator.seconds_between(a, b) for a, b in zip(marks, marks[1:], strict=False)]
        ends, verdict = clock - sum(between), None
        for index, loss in enumerate(losses):
            parts = between[4 * index : 4 * index + 4]
            ends += sum(parts)
            self.columns.seconds.append(sum(parts))
            for column, seconds in zip(self.columns.parts, parts, strict=True):
                column.append(seconds)
            self.columns.ended.append(ends)
            value = float(loss)
            if value - value != 0.0:  # NaN or infinite
                self.events.append(f"the loss was {value} at step {len(self.columns.loss)}")
            self.columns.loss.append(value if value - value == 0.0 else Absent(f"not finite ({value})"))
            verdict = watch.add(sum(parts), ends) or verdict
        return verdict

    def _said(self) -> str:
        assert self.watch is not None
        rate = self.watch.rate(self.tokens_per_step)
        return f"step {len(self.columns.seconds)}, {rate.value:,.0f} tokens/s ±{rate.half_width:.1%}"

    @property
    def tokens_per_step(self) -> int:
        return self.arm.micro_batch * self.arm.accumulation * self.options.model.shape.sequence

    def record(self, ended_by: EndedBy) -> Slice:
        """The slice as it stands."""
        assert self.watch is not None
        model, watch = self.options.model, self.watch
        steady = self.columns.seconds[watch.steady_from :]
        rate = watch.rate(self.tokens_per_step)
        checkpointing = self.arm.checkpointing == "on"
        return Slice(
            method=METHOD,
            started_at=self.started_at,
            seconds=time.perf_counter() - self.started,
            device=self.accelerator.device,
            model=model,
            arm=self.arm,
            data=self.data,
            precision_trials=self.trials,
            steps=self.columns.record(),
            steady_from=watch.steady_from,
            ended_by=ended_by,
            target_half_width=self.options.target_half_width,
            tokens_per_step=self.tokens_per_step,
            tokens_per_s=rate,
            step_seconds=stats.median_estimate(steady),
            outliers=len(stats.outliers(steady)),
            step_share=self._step_share(watch.steady_from),
            model_flops_per_s=rate.value * model.flop_per_token,
            hardware_flops_per_s=rate.value * flops.hardware_flop_per_token(model, checkpointing=checkpointing),
            mfu=Absent("not compared with a datasheet yet"),
            share_of_measured_matmul=Absent("not compared with a measured matmul yet"),
            setup_seconds=self.setup_seconds,
            memory=self._memory(),
            energy=Absent("no sensor was read beside this slice"),
            telemetry=Absent("no sensor was read beside this slice"),
            events=tuple(self.events[:100]),
        )

    def _step_share(self, steady_from: int) -> dict[str, float]:
        names = ("data", "forward", "backward", "optimizer")
        total = sum(self.columns.seconds[steady_from:])
        return {name: sum(part[steady_from:]) / total for name, part in zip(names, self.columns.parts, strict=True)}

    def _memory(self) -> Vram:
        on_gpu = self.accelerator.device.kind == "cuda"
        return Vram(
            allocated_bytes=self.accelerator.allocated_peak_bytes(),
            reserved_bytes=self.accelerator.reserved_peak_bytes(),
            process_bytes=host.process_peak_bytes(Sysfs()),
            context_bytes=self.accelerator.used_outside_allocator_bytes(),
            before_model_bytes=self.before_model_bytes,
            allocator_retries=self.accelerator.allocator_retries(),
            deciding="reserved plus context, on the device" if on_gpu else "process, in host memory",
        )
