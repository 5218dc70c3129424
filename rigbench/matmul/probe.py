"""Times matrix products on a device: at best, under sustained load, in the model's own shapes, on all devices."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from msgspec.structs import replace

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, no_kernels, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.matmul import verdict
from rigbench.matmul.record import (
    DEFAULT_DTYPES,
    METHOD,
    NOT_LOADED,
    SAME_SHAPE,
    Ceiling,
    Dtype,
    GemmStep,
    Matmul,
    MatmulCheck,
    MatmulDims,
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
MEMORY_SHARE = 0.25  # of what is free on the device, for one product's matrices
FLEET_ALONE_SECONDS, FLEET_TOGETHER_SECONDS = 3.0, 8.0
FLEET_WARM_UP_SHARE = 0.2  # of each of these loads: its beginning is not counted
MEET_WITHIN_SECONDS = 60.0
LEAST_DIMENSION = 256  # of a product that says something of a card
T = TypeVar("T")


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
        self.l3_bytes = host.cpu(Sysfs()).l3_bytes
        self.accelerator = open_device(options.device)
        self.kind = self.accelerator.device.kind
        self.dtypes, missing = products.offered(options.dtypes_on(self.kind), self.accelerator)
        self.not_run = list(missing)
        if not self.dtypes:
            cure = f"--dtypes {','.join(DEFAULT_DTYPES[self.kind])} is this device's default"
            raise RigbenchError(f"nothing to multiply; {'; '.join(missing)}", cure, exit_code=NOTHING)
        self.times = options.times(self.kind, len(self.dtypes))
        self.rotate_bytes = 2 * products.cache_bytes(self.accelerator, self.l3_bytes)
        size = self.accelerator.free_bytes()
        self.most_bytes = math.inf if isinstance(size, Absent) else MEMORY_SHARE * size
        chosen = options.micro_batch
        self.micro_batch = DEFAULT_MICRO_BATCH[self.kind] if isinstance(chosen, Absent) else chosen
        self.shapes: list[MatmulShape] = []
        self.ceilings: list[Ceiling] = []
        self.steps: list[GemmStep] = []
        self.failures = list[str]()
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
            failures=tuple(self.failures),
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
                if self.ceilings[-1].hot == NOT_LOADED and not self.report.should_stop():
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
        least = operands.product(unit, unit, unit)
        least.work(0)  # libraries are loaded before anything is timed
        known = min(self.accelerator.timed(least.work, 3, prepare=lambda index: None))

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
            prepared_seconds=lambda dims: operands.draw_seconds(*dims),
            known_flops_per_s=least.flop / known,
        ).run()
        return Ceiling(
            *found.best,
            dtype=dtype,
            accumulate=ARITHMETIC[dtype].accumulate,
            looks=found.looks,
            search_seconds=time.perf_counter() - began,
            search_ended_by=found.ended_by,
            hot=Absent(f"not found: ran out of time; {found.short_of}") if found.short_of else NOT_LOADED,
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
            return "they would take more than a quarter of the free memory each"
        return "" if gemm.flop / best_flops_per_s <= seconds_left else "ran out of time"

    def _measure(self, dtype: Dtype, operands: Operands, gemm: Gemm, limit_seconds: float) -> MatmulShape:
        product = operands.product(gemm.m, gemm.n, gemm.k, gemm.layout)
        timing = sample_until_tight(
            lambda count: self.accelerator.timed(product.work, count),
            time.perf_counter,
            target_half_width=self.options.target_half_width,
            limit_seconds=limit_seconds,
            should_stop=self.report.should_stop,
            late=lambda: self.accelerator.late,
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
        """One shape on every device: alone, then all at once. Only where none was asked for.

        The shape is the fastest in the first arithmetic that all of them have; what a device cannot take is its own
        matter, and leaves the figure of the others.
        """
        if self.options.device not in ("", "auto", "cuda"):
            self.fleet = Absent("one device was asked for")
            return
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count() if self.kind == "cuda" else 1)]
        if len(names) == 1:
            self.fleet = Absent("one device")
        measured = {it.dtype: it for it in self.ceilings if not isinstance(it.hot, Absent)}
        if len(names) == 1 or not measured:
            return
        old = {name: why.removeprefix(f"{name} ") for index, name in enumerate(names) if (why := no_kernels(index))}
        lacking = {
            dtype: {name: reason for name in names if name not in old and (reason := products.unavailable(dtype, name))}
            for dtype in self.dtypes
            if dtype in measured
        }
        dtype = next((it for it, reasons in lacking.items() if not reasons), next(iter(lacking)))
        left_out = old | {name: f"{dtype} {reason}" for name, reason in lacking[dtype].items()}
        openers = {name: partial(self._lane, name, dtype, measured[dtype]) for name in names if name not in left_out}
        self.progress(f"{len(openers)} GPUs, one at a time and all at once")
        with products.arithmetic_chosen(dtype, self.kind):
            stop = self.report.should_stop
            lanes, failed = alone_and_together(openers, FLEET_ALONE_SECONDS, FLEET_TOGETHER_SECONDS, should_stop=stop)
        for name, error in failed.items():
            words = str(error).strip().partition("\n")[0]
            left_out[name] = "no memory for its matrices" if is_out_of_memory(error) else words
            if not is_out_of_memory(error) and not isinstance(error, RigbenchError):
                self.failures.append(f"{name}, under the load of all: {words}")
        said = tuple(f"{name}: {left_out[name]}" for name in names if name in left_out)
        if len(lanes) > 1:
            self.fleet = MatmulFleet(*measured[dtype].dims, dtype=dtype, lanes=lanes, left_out=said)
        else:
            self.fleet = Absent("; ".join(said) or "stopped before all were loaded")

    def _lane(self, name: str, dtype: Dtype, ceiling: Ceiling) -> Lane:
        """A device with its work: the shape of all, or what fits its free memory, at its own pace, past its own cache.

        Raises:
            RigbenchError: there is no room for any.
        """
        accelerator = open_device(name)
        operands, free = Operands(dtype, accelerator.torch_device), accelerator.free_bytes()
        dims = ceiling.dims if isinstance(free, Absent) else fitting(ceiling.dims, operands, MEMORY_SHARE * free)
        product = operands.product(*dims, rotate_bytes=2 * products.cache_bytes(accelerator, self.l3_bytes))
        seconds = stats.median(products.glance(accelerator, product))
        check = partial(self._check, product, dtype)
        shape = SAME_SHAPE if dims == ceiling.dims else MatmulDims(*dims)
        return Lane(accelerator, product.work, product.flop, products.products_per_sample(seconds), check, shape)


def fitting(dims: tuple[int, int, int], operands: Operands, most_bytes: float) -> tuple[int, int, int]:
    """The largest dimension halved until the matrices fit.

    Raises:
        RigbenchError: not even those of `LEAST_DIMENSION` do.
    """
    sides = list(dims)
    while operands.bytes_for(*sides) > most_bytes:
        largest = sides.index(max(sides))
        if sides[largest] < 2 * LEAST_DIMENSION:
            raise RigbenchError("no memory for its matrices", "end the program that holds it", exit_code=NOTHING)
        sides[largest] //= 2
    return sides[0], sides[1], sides[2]


class Lane(NamedTuple):
    """A device with its work, made by and for one thread."""

    accelerator: Accelerator
    work: Callable[[int], object]
    flop: int  # of one product
    products_per_sample: int
    check: Callable[[], MatmulCheck]
    shape: MatmulDims | Absent = SAME_SHAPE


def alone_and_together(
    openers: Mapping[str, Callable[[], Lane]],
    alone_seconds: float,
    together_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    should_stop: Callable[[], bool] = never,
) -> tuple[tuple[MatmulLane, ...], dict[str, Exception]]:
    """Load each lane in turn, then all at the same moment; the steady samples of either are kept.

    Also which lanes failed, and how: the others go on, and are loaded once more together where one failed beside them.

    A thread a lane, since CUDA's current device is a thread's own; an opener runs in its lane's thread. A product's
    launch releases Python's lock and takes microseconds, so the threads do not hold each other up.
    """
    failed: dict[str, Exception] = {}

    def load(lane: Lane, seconds: float, barrier: threading.Barrier) -> tuple[float, ...]:
        try:
            lane.work(0)  # kernels are loaded before anything is timed
            lane.accelerator.synchronize()
        except RuntimeError:
            barrier.abort()
            raise
        barrier.wait(MEET_WITHIN_SECONDS)
        samples = products.sustain(lane.accelerator, lane.work, lane.products_per_sample, seconds, clock, should_stop)
        return samples[min(int(FLEET_WARM_UP_SHARE * len(samples)), len(samples) - 1) :]

    def done(futures: Mapping[str, Future[T]]) -> dict[str, T]:
        """Their results; what failed of itself, and not because another did not come, is out of all that follows."""
        results = dict[str, T]()
        for name, future in futures.items():
            try:
                results[name] = future.result()
            except threading.BrokenBarrierError:
                continue
            except (RuntimeError, RigbenchError) as error:
                failed[name] = error
        return results

    with contextlib.ExitStack() as stack:
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in openers}
        lanes = dict[str, Lane]()
        for name, opener in openers.items():
            lanes |= done({name: threads[name].submit(opener)})
        alone = dict[str, tuple[float, ...]]()
        for name, lane in lanes.items():
            alone |= done({name: threads[name].submit(load, lane, alone_seconds, threading.Barrier(1))})
        together, names = dict[str, tuple[float, ...]](), list(alone)
        while len(names) > 1 and len(together) < len(names):
            barrier = threading.Barrier(len(names))
            waiting = {name: threads[name].submit(load, lanes[name], together_seconds, barrier) for name in names}
            together = done(waiting)
            late = [name for name in names if name not in together and name not in failed]
            if len(late) + len(together) == len(names) and late:  # none failed: one did not come within a minute
                failed |= dict.fromkeys(late, RuntimeError("the devices did not come to a common start"))
            names = [name for name in names if name not in failed]
        checks = done({name: threads[name].submit(lanes[name].check) for name in names if len(names) > 1})
        return tuple(
            _fleet_lane(name, lanes[name], alone[name], together[name], checks[name]) for name in checks
        ), failed


def _fleet_lane(
    name: str, lane: Lane, alone: tuple[float, ...], together: tuple[float, ...], check: MatmulCheck
) -> MatmulLane:
    work = float(lane.flop * lane.products_per_sample)
    return MatmulLane(
        device=lane.accelerator.device,
        name=name,
        products_per_sample=lane.products_per_sample,
        alone_seconds=alone,
        together_seconds=together,
        alone_flops_per_s=stats.rate_estimate(work, alone),
        together_flops_per_s=stats.rate_estimate(work, together),
        check=check,
        shape=lane.shape,
    )
