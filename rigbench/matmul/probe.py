"""How fast does this device multiply matrices: at best, hot, and in the model's own shapes?"""

from __future__ import annotations

import math
import time
from collections import Counter

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy, Record
from rigbench.machine import host
from rigbench.machine.accelerator import open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.matmul import ceilings
from rigbench.matmul.fleet import Lane, alone_and_together
from rigbench.matmul.record import Ceiling, GemmStep, Matmul, MatmulCheck, MatmulFleet, MatmulShape
from rigbench.matmul.search import Dims, search
from rigbench.matmul.times import times
from rigbench.model.gemms import Gemm, step_gemms
from rigbench.model.record import Model
from rigbench.store import now
from rigbench.work import products
from rigbench.work.process import Report
from rigbench.work.products import ARITHMETIC, Dtype, Operands
from rigbench.work.timing import sample_until_tight

METHOD = 2
DEFAULT_DTYPES: dict[str, tuple[Dtype, ...]] = {
    "cpu": ("bf16", "fp32"),
    "cuda": ("bf16", "fp16", "tf32", "fp32", "fp8"),
}
NOT_TRAINED_IN = ("fp16-acc16", "fp8", "fp8-fast")  # by rigbench's slices: the model's shapes are left out
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}  # as a slice's
UNIT, LIMIT, MOST_LOOKS = {"cpu": 128, "cuda": 256}, {"cpu": 8192, "cuda": 16384}, 400
MEMORY_SHARE = 0.25  # of the device's, for one product's matrices
FLEET_ALONE_SECONDS, FLEET_TOGETHER_SECONDS = 3.0, 8.0
NO_SENSORS = Absent("no sensor was read beside this probe")


class Options(Record, frozen=True):
    """`model` lends its own layers' shapes. Empty or 0: the device's default.

    `seconds` is for everything together, `hot_seconds` the sustained load of each dtype's fastest shape.
    """

    model: Model
    device: str = "auto"
    dtypes: tuple[Dtype, ...] = ()
    micro_batch: int = 0
    seconds: float = 0.0
    hot_seconds: float = 0.0
    target_half_width: float = 0.01


def run(options: Options, report: Report) -> Matmul:
    """Every dtype on one device, in this process; then one shape on all devices, where there are several.

    Raises:
        RigbenchError: no such device, times that do not fit, or no dtype that it can multiply.
    """
    probe = _Probe(options, report)
    for left, dtype in zip(range(len(probe.dtypes), 0, -1), probe.dtypes, strict=True):
        probe.measure(dtype, probe.seconds_left() / left)
        if report.should_stop():
            return probe.record("interrupted")
        report.partial(probe.record("worker died"))
    probe.all_devices()
    return probe.record("interrupted" if report.should_stop() else "finished")


class _Probe:
    """One run of the probe: the device, the time, and what was measured so far."""

    def __init__(self, options: Options, report: Report) -> None:
        self.started_at, self.started = now(), time.perf_counter()
        report.progress(0.0, "loading torch")
        import torch

        torch.manual_seed(0)
        self.options, self.report = options, report
        cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
        self.accelerator = open_device(options.device)
        self.kind = self.accelerator.device.kind
        self.dtypes, missing = products.offered(options.dtypes or DEFAULT_DTYPES[self.kind], self.accelerator)
        self.not_run = list(missing)
        if not self.dtypes:
            cure = f"--dtypes {','.join(DEFAULT_DTYPES[self.kind])} is this device's default"
            raise RigbenchError(f"nothing to multiply; {'; '.join(missing)}", cure, exit_code=NOTHING)
        self.times = times(options.seconds, options.hot_seconds, self.kind, len(self.dtypes))
        self.rotate_bytes = 2 * products.cache_bytes(self.accelerator, cpu.l3_bytes)
        size = memory.usable_bytes if self.kind == "cpu" else self.accelerator.device.memory_total_bytes
        self.most_bytes = math.inf if isinstance(size, Absent) else MEMORY_SHARE * size
        self.micro_batch = options.micro_batch or DEFAULT_MICRO_BATCH[self.kind]
        self.shapes: list[MatmulShape] = []
        self.ceilings: list[Ceiling] = []
        self.steps: list[GemmStep] = []
        self.fleet: MatmulFleet | Absent = Absent("one device" if self.kind == "cpu" else "not reached")
        report.check()

    def seconds_left(self) -> float:
        return max(1.0, self.times.total - (time.perf_counter() - self.started))

    def record(self, ended_by: EndedBy) -> Matmul:
        return Matmul(
            method=METHOD,
            started_at=self.started_at,
            seconds=time.perf_counter() - self.started,
            device=self.accelerator.device,
            datasheet_flops_per_s={},
            shapes=tuple(self.shapes),
            best_flops_per_s={it.dtype: it.hot.flops_per_s for it in self.ceilings if not isinstance(it.hot, Absent)},
            ended_by=ended_by,
            telemetry=NO_SENSORS,
            not_run=tuple(self.not_run),
            model=self.options.model,
            ceilings=tuple(self.ceilings),
            steps=tuple(self.steps),
            fleet=self.fleet,
        )

    def progress(self, text: str) -> None:
        self.report.progress((time.perf_counter() - self.started) / self.times.total, text)

    def measure(self, dtype: Dtype, seconds: float) -> None:
        """One dtype: the search, the load on what it found, and the model's shapes in what time is left."""
        import torch

        deadline = time.perf_counter() + seconds
        hot = min(self.times.hot, 0.8 * seconds)
        operands = Operands(dtype, self.accelerator.torch_device)
        with products.arithmetic_chosen(dtype, self.kind):
            try:
                self._ceiling(dtype, operands, self.times.search(seconds), hot)
                if dtype not in NOT_TRAINED_IN and not self.report.should_stop():
                    self._model_shapes(dtype, operands, deadline)
            except torch.OutOfMemoryError:
                self.not_run.append(f"{dtype}: out of memory; another process may hold the device")

    def _ceiling(self, dtype: Dtype, operands: Operands, search_seconds: float, hot_seconds: float) -> None:
        began, unit = time.perf_counter(), UNIT[self.kind]
        operands.product(unit, unit, unit).work(0)  # libraries are loaded before anything is timed

        def evaluate(dims: Dims) -> tuple[float, ...]:
            self.progress(f"{dtype}: searching, {dims.m}×{dims.n}×{dims.k}")
            return products.glance(self.accelerator, operands.product(*dims))

        found = search(
            evaluate,
            unit=unit,
            limit=LIMIT[self.kind],
            most_looks=MOST_LOOKS,
            limit_seconds=search_seconds,
            clock=time.perf_counter,
            should_stop=self.report.should_stop,
            allowed=lambda dims: operands.bytes_for(*dims) <= self.most_bytes,
        )
        searched = ceilings.searched(dtype, ARITHMETIC[dtype].accumulate, found, time.perf_counter() - began)
        self.ceilings.append(searched)
        if not self.report.should_stop():
            self.report.partial(self.record("worker died"))
            self.ceilings[-1] = self._sustained(searched, operands, hot_seconds)

    def _sustained(self, searched: Ceiling, operands: Operands, hot_seconds: float) -> Ceiling:
        """The fastest shape again: a rest, then the load, and its result checked before and after."""
        dims = Dims(searched.m, searched.n, searched.k)
        dtype: Dtype = searched.dtype  # type: ignore[assignment]
        product = operands.product(*dims, rotate_bytes=self.rotate_bytes)
        each = stats.median([s for look in searched.looks if (look.m, look.n, look.k) == dims for s in look.seconds])
        checks = [self._check(product, dtype)]
        self._rest()
        began, per_sample = time.perf_counter(), products.products_per_sample(each)
        seconds = products.sustain(
            self.accelerator,
            product.work,
            per_sample,
            hot_seconds,
            time.perf_counter,
            self.report.should_stop,
            lambda elapsed: self.progress(f"{dtype}: {dims.m}×{dims.n}×{dims.k}, {elapsed:.0f} s of load"),
        )
        checks.append(self._check(product, dtype))
        return ceilings.sustained(
            searched,
            rest_seconds=self.times.rest,
            began_at_seconds=began,
            planned_seconds=hot_seconds,
            products_per_sample=per_sample,
            seconds=seconds,
            checks=checks,
        )

    def _check(self, product: products.Product, dtype: Dtype) -> MatmulCheck:
        product.work(0)
        return products.check(*product.sets[0], product.out, dtype)

    def _rest(self) -> None:
        self.accelerator.synchronize()
        until = time.perf_counter() + self.times.rest
        while (left := until - time.perf_counter()) > 0 and not self.report.should_stop():
            self.progress("resting, so that the load begins cool")
            time.sleep(min(0.25, left))

    def _model_shapes(self, dtype: Dtype, operands: Operands, deadline: float) -> None:
        """Each product of a step, the longest first: time for one of each, what is left by the root of their share."""
        gemms = step_gemms(self.options.model.shape, self.micro_batch)
        best = max(2 * it.m * it.n * it.k / stats.median(it.seconds) for it in self.ceilings[-1].looks)
        waiting = sorted(gemms, key=lambda gemm: gemm.flop, reverse=True)
        before, done, reasons = tuple(self.shapes), dict[Gemm, MatmulShape](), list[str]()
        while waiting and not self.report.should_stop():
            left = deadline - time.perf_counter()
            spare = max(0.0, left - sum(gemm.flop for gemm in waiting) / best)
            share = math.sqrt(waiting[0].flop * waiting[0].times) / sum(math.sqrt(it.flop * it.times) for it in waiting)
            gemm = waiting.pop(0)
            if reason := self._out_of_reach(gemm, operands, best, left):
                reasons.append(reason)
                continue
            self.progress(f"{dtype}: {gemm.layer} {gemm.product}, {gemm.m}×{gemm.n}×{gemm.k}")
            done[gemm] = self._measure(dtype, operands, gemm, gemm.flop / best + share * spare)
            self.shapes = [*before, *(done[it] for it in gemms if it in done)]
            self.report.partial(self.record("worker died"))
        for reason, count in Counter(reasons).items():
            self.not_run.append(f"{count} of the model's {len(gemms)} products in {dtype}: {reason}")
        shapes = [done[it] for it in gemms if it in done]
        self.steps.append(ceilings.step(dtype, self.micro_batch, self.options.model.shape.sequence, gemms, shapes))

    def _out_of_reach(self, gemm: Gemm, operands: Operands, best_flops_per_s: float, seconds_left: float) -> str:
        if operands.bytes_for(gemm.m, gemm.n, gemm.k) > self.most_bytes:
            return "they would take more than a quarter of the memory each"
        return "" if gemm.flop / best_flops_per_s <= seconds_left else "the time was up"

    def _measure(self, dtype: Dtype, operands: Operands, gemm: Gemm, limit_seconds: float) -> MatmulShape:
        product = operands.product(gemm.m, gemm.n, gemm.k, gemm.layout)
        timing = sample_until_tight(
            lambda count: self.accelerator.timed(product.work, count),
            time.perf_counter,
            target_half_width=self.options.target_half_width,
            limit_seconds=limit_seconds,
            should_stop=self.report.should_stop,
        )
        return MatmulShape(
            m=gemm.m,
            n=gemm.n,
            k=gemm.k,
            dtype=dtype,
            purpose=gemm.layer,
            flop=product.flop,
            timing=timing,
            flops_per_s=ceilings.inverse(timing.estimate, product.flop),
            share_of_datasheet=ceilings.NO_DATASHEET,
            check=products.check(*product.sets[0], product.out, dtype),  # of the last sample
            product=gemm.product,
            layout=gemm.layout,
            times_per_step=gemm.times,
        )

    def all_devices(self) -> None:
        """The first dtype's fastest shape on every device: alone, then all at once. Only where none was asked for."""
        import torch

        if self.options.device not in ("", "auto"):
            self.fleet = Absent("one device was asked for")
            return
        count = torch.cuda.device_count() if self.kind == "cuda" else 1
        if count == 1:
            self.fleet = Absent("one device")
        if count == 1 or not self.ceilings or isinstance(self.ceilings[0].hot, Absent):
            return
        ceiling = self.ceilings[0]
        self.progress(f"{count} GPUs, one at a time and all at once")
        dtype: Dtype = ceiling.dtype  # type: ignore[assignment]
        with products.arithmetic_chosen(dtype, self.kind):
            lanes = alone_and_together(
                [lambda index=index: self._lane(ceiling, index) for index in range(count)],  # type: ignore[misc]
                FLEET_ALONE_SECONDS,
                FLEET_TOGETHER_SECONDS,
                should_stop=self.report.should_stop,
            )
        self.fleet = ceilings.fleet(ceiling, lanes)

    def _lane(self, ceiling: Ceiling, index: int) -> Lane:
        accelerator = open_device(f"cuda:{index}")
        dtype: Dtype = ceiling.dtype  # type: ignore[assignment]
        operands = Operands(dtype, accelerator.torch_device)
        product = operands.product(ceiling.m, ceiling.n, ceiling.k, rotate_bytes=self.rotate_bytes)
        return Lane(accelerator, product.work, ceiling.products_per_sample, lambda: self._check(product, dtype))
