"""Keeps one device as busy as it can be: the same large matrix product again and again, its results checked."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.matmul.record import Dtype, MatmulCheck
from rigbench.thermals.record import HeatLoad
from rigbench.thermals.record import LoadOptions as Options
from rigbench.work import products
from rigbench.work.process import Report
from rigbench.work.products import Operands, Product

# Tensor cores draw the most where a card has them; on a CPU the faster of the two is the busier.
CANDIDATES: dict[str, tuple[Dtype, ...]] = {"cuda": ("bf16", "fp16", "fp32"), "cpu": ("bf16", "fp32")}
SIZES = {"cuda": (8192, 4096, 2048), "cpu": (2048, 1024, 512)}
SHARE_OF_MEMORY = 0.25
WINDOW_SECONDS = 0.5  # a window of throughput: as long as sensors take to tell a change
LONGEST_PRODUCT_SECONDS = 0.2  # so that a window holds a few
TELL_EVERY_SECONDS, CHECK_EVERY_SECONDS = 1.0, 30.0


def run(options: Options, report: Report) -> HeatLoad:
    """One device, in this process, busy without a gap until the time is up or the parent says stop."""
    report.progress(0.0, "loading torch")
    accelerator = open_device(options.device)
    kind = accelerator.device.kind
    report.progress(0.0, "choosing what heats most")
    dtype, trials = _choose(accelerator, options.size)
    report.check()
    with products.arithmetic_chosen(dtype, kind):
        product = _largest(dtype, accelerator, options.size)
        soak = _Soak(accelerator, dtype, product, trials)
        soak.run(options.seconds, report, time.perf_counter)
    if not soak.seconds:
        report.check()
    return soak.record()


class _Soak:
    """A load under way: its windows so far, and the record of them at any moment."""

    def __init__(self, accelerator: Accelerator, dtype: Dtype, product: Product, trials: dict[str, float]) -> None:
        self.accelerator, self.dtype, self.product, self.trials = accelerator, dtype, product, trials
        self.began = 0.0
        self.ended_at: list[float] = []
        self.products: list[int] = []
        self.seconds: list[float] = []
        self.checks: list[MatmulCheck] = []

    def run(self, limit_seconds: float, report: Report, clock: Callable[[], float]) -> None:
        self.check()
        each = stats.median(self.accelerator.timed(self.product.work, 3))
        count = max(1, round(products.SAMPLE_SECONDS / max(each, 1e-6)))
        self.began = sent = checked = clock()
        while (now := clock()) - self.began < limit_seconds and not report.should_stop():
            samples = products.sustain(
                self.accelerator, self.product.work, count, WINDOW_SECONDS, clock, report.should_stop
            )
            self.ended_at.append(clock())
            self.products.append(count * len(samples))
            self.seconds.append(sum(samples))
            if now - checked >= CHECK_EVERY_SECONDS:
                self.check()
                checked = now
            if now - sent >= TELL_EVERY_SECONDS or len(self.seconds) == 1:
                sent = now
                report.partial(self.record())
                report.progress((now - self.began) / limit_seconds, f"{self.accelerator.torch_device} under load")
        self.check()

    def check(self) -> None:
        """A device that computes wrong when hot is broken, however fast it is."""
        self.product.work(0)
        self.accelerator.synchronize()
        self.checks.append(products.check(*self.product.sets[0], self.product.out, self.dtype))

    def record(self) -> HeatLoad:
        (m, k), n = self.product.sets[0][0].shape, self.product.sets[0][1].shape[1]
        return HeatLoad(
            device=self.accelerator.device,
            dtype=self.dtype,
            m=m,
            n=n,
            k=k,
            began_at_seconds=self.began,
            ended_at_seconds=tuple(self.ended_at),
            products=tuple(self.products),
            seconds=tuple(self.seconds),
            checks=tuple(self.checks),
            trials=self.trials,
        )


def _choose(accelerator: Accelerator, size: int | Absent) -> tuple[Dtype, dict[str, float]]:
    """The first that a GPU has natively; on a CPU the fastest, with the seconds of one product of each."""
    kind = accelerator.device.kind
    usable = [dtype for dtype in CANDIDATES[kind] if not products.unavailable(dtype, accelerator)]
    if kind == "cuda":
        return usable[0], {}
    smallest = SIZES[kind][-1]
    side = smallest if isinstance(size, Absent) else min(size, smallest)
    trials: dict[str, float] = {}
    for dtype in usable:
        product = Operands(dtype, accelerator.torch_device).product(side, side, side)
        trials[dtype] = stats.median(products.glance(accelerator, product))
    return min(usable, key=lambda dtype: trials[dtype]), trials


def _largest(dtype: Dtype, accelerator: Accelerator, size: int | Absent) -> Product:
    """The largest square product that fits a quarter of the memory and whose one run is short."""
    operands = Operands(dtype, accelerator.torch_device)
    sides = SIZES[accelerator.device.kind] if isinstance(size, Absent) else (size,)
    if accelerator.device.kind == "cuda":
        free = float(torch.cuda.mem_get_info()[0])
    else:
        usable = host.memory(Sysfs()).usable_bytes
        free = usable if isinstance(usable, int) else float("inf")
    for side in sides:
        if isinstance(size, Absent) and operands.bytes_for(side, side, side) > SHARE_OF_MEMORY * free:
            continue
        try:
            product = operands.product(side, side, side)
        except torch.OutOfMemoryError:
            continue
        accelerator.timed(product.work, 1)  # loads the kernel
        (once,) = accelerator.timed(product.work, 1)
        if once <= LONGEST_PRODUCT_SECONDS or side == sides[-1]:
            return product
    raise RigbenchError(
        f"not even a {sides[-1]}×{sides[-1]} matrix product fits the free memory of {accelerator.device.name}",
        "end the program that holds it",
        exit_code=NOTHING,
    )
