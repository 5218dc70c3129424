"""Times matrix products on a device: at best, under sustained load, in the model's own shapes, on all devices."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from msgspec.structs import replace

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.matmul import verdict
from rigbench.matmul.record import (
    DEFAULT_DTYPES,
    METHOD,
    Ceiling,
    Dtype,
    GemmStep,
    Matmul,
    MatmulCheck,
    MatmulFleet,
    MatmulLane,
    MatmulShape,
)
from rigbench.matmul.record import ProbeOptions as Options
from rigbench.matmul.search import Dims, Search
from rigbench.model.counts import Gemm, step_gemms
from rigbench.store import now
from rigbench.work import products
from rigbench.work.process import Report
from rigbench.work.products import ARITHMETIC, Operands
from rigbench.work.timing import never, sample_until_tight

NOT_TRAINED_IN = ("fp16-acc16", "fp8", "fp8-fast")  # by rigbench's slices: the model's shapes are left out
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}  # as a slice's
UNIT, LIMIT, MOST_LOOKS = {"cpu": 128, "cuda": 256}, {"cpu": 8192, "cuda": 16384}, 400
SEARCH_SHARE = 0.35  # of what load and rest leave of a dtype's time
MEMORY_SHARE = 0.25  # of the device's, for one product's matrices
FLEET_ALONE_SECONDS, FLEET_TOGETHER_SECONDS = 3.0, 8.0
FLEET_WARM_UP_SHARE = 0.2  # of each of these loads: its beginning is not counted
MEET_WITHIN_SECONDS = 60.0


def run(options: Options, report: Report) -> Matmul:
    """Every dtype on one device, in this process; then one shape on all devices, where there are several.

    Raises:
        RigbenchError: no such device, times that do not fit, or no dtype that it can multiply.
    """
    probe = _Probe(options, report)
    for left, dtype in zip(range(len(probe.dtypes), 0, -1), probe.dtypes, strict=True):
        seconds_left = max(1.0, probe.times.total - (time.perf_counter() - probe.started))
        probe.measure(dtype, seconds_left / left)
        if report.should_stop():
            return probe.record("interrupted")
        report.partial(probe.record("worker died"))
    probe.all_devices()
    return probe.record("interrupted" if report.should_stop() else "finished")


class _Probe:
    """One run of the probe: the device, the time, and what was measured so far."""

    def __init__(self, options: Options, report: Report) -> None:
        self.started_at, self.started = now(), time.perf_counter()
        report.progress(0.0, "opening the device")
        torch.manual_seed(0)
        self.options, self.report = options, report
        cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
        self.accelerator = open_device(options.device)
        self.kind = self.accelerator.device.kind
        self.dtypes, missing = products.offered(options.dtypes_on(self.kind), self.accelerator)
        self.not_run = list(missing)
        if not self.dtypes:
            cure = f"--dtypes {','.join(DEFAULT_DTYPES[self.kind])} is this device's default"
            raise RigbenchError(f"nothing to multiply; {'; '.join(missing)}", cure, exit_code=NOTHING)
        self.times = options.times(self.kind, len(self.dtypes))
        self.rotate_bytes = 2 * products.cache_bytes(self.accelerator, cpu.l3_bytes)
        size = memory.usable_bytes if self.kind == "cpu" else self.accelerator.device.memory_total_bytes
        self.most_bytes = math.inf if isinstance(size, Absent) else MEMORY_SHARE * size
        chosen = options.micro_batch
        self.micro_batch = DEFAULT_MICRO_BATCH[self.kind] if isinstance(chosen, Absent) else chosen
        self.shapes: list[MatmulShape] = []
        self.ceilings: list[Ceiling] = []
        self.steps: list[GemmStep] = []
        self.fleet: MatmulFleet | Absent = Absent("one device" if self.kind == "cpu" else "not reached")
        report.check()

    def record(self, ended_by: EndedBy) -> Matmul:
        return Matmul(
            method=METHOD,
            started_at=self.started_at,
            seconds=time.perf_counter() - self.started,
            device=self.accelerator.device,
            datasheet_flops_per_s={},
            model=self.options.model,
            shapes=tuple(self.shapes),
            ceilings=tuple(self.ceilings),
            best_flops_per_s={it.dtype: it.hot.flops_per_s for it in self.ceilings if not isinstance(it.hot, Absent)},
            steps=tuple(self.steps),
            fleet=self.fleet,
            ended_by=ended_by,
            telemetry=Absent("no sensor was read beside this probe"),
            not_run=tuple(self.not_run),
        )

    def progress(self, text: str) -> None:
        self.report.progress((time.perf_counter() - self.started) / self.times.total, text)

    def measure(self, dtype: Dtype, seconds: float) -> None:
        """One dtype: the search, the load on what it found, and the model's shapes in what time is left."""
        deadline = time.perf_counter() + seconds
        operands = Operands(dtype, self.accelerator.torch_device)
        search_seconds = SEARCH_SHARE * max(seconds - self.times.hot - self.times.rest, 0.2 * seconds)
        with products.arithmetic_chosen(dtype, self.kind):
            try:
                self.ceilings.append(self._search(dtype, operands, search_seconds))
                if not self.report.should_stop():
                    self.report.partial(self.record("worker died"))
                    hot_seconds = min(self.times.hot, 0.8 * seconds)
                    self.ceilings[-1] = self._load(self.ceilings[-1], dtype, operands, hot_seconds)
                if dtype not in NOT_TRAINED_IN and not self.report.should_stop():
                    self._model_shapes(dtype, operands, deadline)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.not_run.append(f"{dtype}: out of memory; another process may hold the device")

    def _search(self, dtype: Dtype, operands: Operands, limit_seconds: float) -> Ceiling:
        """A ceiling whose shape is known, and nothing else yet."""
        began, unit = time.perf_counter(), UNIT[self.kind]
        operands.product(unit, unit, unit).work(0)  # libraries are loaded before anything is timed

        def evaluate(dims: Dims) -> tuple[float, ...]:
            self.progress(f"{dtype}: searching, {dims.m}×{dims.n}×{dims.k}")
            return products.glance(self.accelerator, operands.product(*dims))

        found = Search(
            evaluate,
            unit=unit,
            limit=LIMIT[self.kind],
            most_looks=MOST_LOOKS,
            limit_seconds=limit_seconds,
            clock=time.perf_counter,
            should_stop=self.report.should_stop,
            allowed=lambda dims: operands.bytes_for(*dims) <= self.most_bytes,
        ).run()
        return Ceiling(
            *found.best,
            dtype=dtype,
            accumulate=ARITHMETIC[dtype].accumulate,
            looks=found.looks,
            search_seconds=time.perf_counter() - began,
            search_ended_by=found.ended_by,
        )

    def _load(self, ceiling: Ceiling, dtype: Dtype, operands: Operands, seconds: float) -> Ceiling:
        """The fastest shape again: a rest, then the load, and its result checked before and after."""
        product = operands.product(*ceiling.dims, rotate_bytes=self.rotate_bytes)
        before = self._check(product, dtype)
        self.accelerator.synchronize()
        until = time.perf_counter() + self.times.rest
        while (left := until - time.perf_counter()) > 0 and not self.report.should_stop():
            self.progress("resting, so that the load begins cool")
            time.sleep(min(0.25, left))
        began, per_sample = time.perf_counter(), products.products_per_sample(stats.median(ceiling.searched_seconds))
        samples = products.sustain(
            self.accelerator,
            product.work,
            per_sample,
            seconds,
            time.perf_counter,
            self.report.should_stop,
            lambda elapsed: self.progress(f"{dtype}: {ceiling.words}, {elapsed:.0f} s of load"),
        )
        loaded = replace(
            ceiling,
            rest_seconds=self.times.rest,
            began_at_seconds=began,
            products_per_sample=per_sample,
            checks=(before, self._check(product, dtype)),
        )
        return verdict.loaded(loaded, samples, seconds)

    def _check(self, product: products.Product, dtype: Dtype) -> MatmulCheck:
        product.work(0)
        return products.check(*product.sets[0], product.out, dtype)

    def _model_shapes(self, dtype: Dtype, operands: Operands, deadline: float) -> None:
        """Each product of a step, the longest first: time for one of each, what is left by the root of their share."""
        gemms = step_gemms(self.options.model.shape, self.micro_batch)
        best = max(look.flop / stats.median(look.seconds) for look in self.ceilings[-1].looks)
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
        self.steps.append(verdict.step(dtype, self.micro_batch, self.options.model.shape.sequence, gemms, shapes))

    def _out_of_reach(self, gemm: Gemm, operands: Operands, best_flops_per_s: float, seconds_left: float) -> str:
        if operands.bytes_for(gemm.m, gemm.n, gemm.k) > self.most_bytes:
            return "they would take more than a quarter of the memory each"
        return "" if gemm.flop / best_flops_per_s <= seconds_left else "ran out of time"

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
            gemm.m,
            gemm.n,
            gemm.k,
            dtype=dtype,
            purpose=gemm.layer,
            product=gemm.product,
            layout=gemm.layout,
            times_per_step=gemm.times,
            timing=timing,
            flops_per_s=product.flop / timing.estimate,
            check=products.check(*product.sets[0], product.out, dtype),  # of the last sample
        )

    def all_devices(self) -> None:
        """The first dtype's fastest shape on every device: alone, then all at once. Only where none was asked for."""
        if self.options.device not in ("", "auto", "cuda"):
            self.fleet = Absent("one device was asked for")
            return
        count = torch.cuda.device_count() if self.kind == "cuda" else 1
        if count == 1:
            self.fleet = Absent("one device")
        if count == 1 or not self.ceilings or isinstance(self.ceilings[0].hot, Absent):
            return
        ceiling, dtype = self.ceilings[0], self.dtypes[0]
        self.progress(f"{count} GPUs, one at a time and all at once")

        def lane(index: int) -> Lane:
            accelerator = open_device(f"cuda:{index}")
            operands = Operands(dtype, accelerator.torch_device)
            product = operands.product(*ceiling.dims, rotate_bytes=self.rotate_bytes)
            return Lane(
                accelerator,
                product.work,
                ceiling.flop,
                ceiling.products_per_sample,
                lambda: self._check(product, dtype),
            )

        with products.arithmetic_chosen(dtype, self.kind):
            lanes = alone_and_together(
                [partial(lane, index) for index in range(count)],
                FLEET_ALONE_SECONDS,
                FLEET_TOGETHER_SECONDS,
                should_stop=self.report.should_stop,
            )
        self.fleet = MatmulFleet(*ceiling.dims, dtype=dtype, lanes=lanes)


class Lane(NamedTuple):
    """A device with its work, made by and for one thread."""

    accelerator: Accelerator
    work: Callable[[int], object]
    flop: int  # of one product
    products_per_sample: int
    check: Callable[[], MatmulCheck]


def alone_and_together(
    openers: Sequence[Callable[[], Lane]],
    alone_seconds: float,
    together_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    should_stop: Callable[[], bool] = never,
) -> tuple[MatmulLane, ...]:
    """Load each lane in turn, then all at the same moment; the steady samples of either are kept.

    A thread a lane, since CUDA's current device is a thread's own; an opener runs in its lane's thread. A product's
    launch releases Python's lock and takes microseconds, so the threads do not hold each other up.

    Raises:
        threading.BrokenBarrierError: a lane did not come to the common start within a minute.
    """
    barrier = threading.Barrier(len(openers))

    def load(lane: Lane, seconds: float, meet: bool) -> tuple[float, ...]:
        lane.work(0)  # kernels are loaded before anything is timed
        lane.accelerator.synchronize()
        if meet:
            barrier.wait(MEET_WITHIN_SECONDS)
        samples = products.sustain(lane.accelerator, lane.work, lane.products_per_sample, seconds, clock, should_stop)
        return samples[min(int(FLEET_WARM_UP_SHARE * len(samples)), len(samples) - 1) :]

    def record(index: int, lane: Lane, alone: tuple[float, ...], together: tuple[float, ...]) -> MatmulLane:
        work = float(lane.flop * lane.products_per_sample)
        return MatmulLane(
            device=lane.accelerator.device,
            name=f"{lane.accelerator.device.kind}:{index}",
            products_per_sample=lane.products_per_sample,
            alone_seconds=alone,
            together_seconds=together,
            alone_flops_per_s=stats.rate_estimate(work, alone),
            together_flops_per_s=stats.rate_estimate(work, together),
            check=threads[index].submit(lane.check).result(),
        )

    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in openers]
        lanes = [thread.submit(opener).result() for thread, opener in zip(threads, openers, strict=True)]
        pairs = list(zip(threads, lanes, strict=True))
        alone = [thread.submit(load, lane, alone_seconds, False).result() for thread, lane in pairs]
        waiting = [thread.submit(load, lane, together_seconds, True) for thread, lane in pairs]
        together = [future.result() for future in waiting]
        return tuple(map(record, range(len(lanes)), lanes, alone, together))
