"""Keeps one device as busy as it can be: the same large matrix product again and again, its results checked."""

from __future__ import annotations

import time

import torch

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
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
WINDOWS = 60  # such a part of the load so far is a window later on
LONGEST_PRODUCT_SECONDS = 0.2  # so that a window holds a few
CHECK_EVERY_SECONDS = 30.0
SHARE_OF_PERIOD = 1 / 20  # a product, and a sample, of a load that comes and goes: the step is to be sharp
POLL_SECONDS = 0.005


def run(options: Options, report: Report) -> HeatLoad:
    """One device, in this process, busy without a gap until the time is up or the parent says stop."""
    report.progress(0.0, "loading torch")
    accelerator = open_device(options.device)
    report.progress(0.0, "choosing what heats most")
    dtype, trials = _choose(accelerator, options.size)
    report.check()
    windows: list[tuple[float, int, float]] = []  # when each ended, its products, its seconds
    checks: list[MatmulCheck] = []
    with products.arithmetic_chosen(dtype, accelerator.device.kind):
        longest = options.period_seconds * SHARE_OF_PERIOD or LONGEST_PRODUCT_SECONDS
        product = _largest(dtype, accelerator, options.size, longest)
        (m, k), n = product.sets[0][0].shape, product.sets[0][1].shape[1]

        def check() -> None:
            """A device that computes wrong when hot is broken, however fast it is."""
            product.work(0)
            accelerator.synchronize()
            checks.append(products.check(*product.sets[0], product.out, dtype))

        def load() -> HeatLoad:
            so_far = tuple(windows)
            return HeatLoad(
                device=accelerator.device,
                dtype=dtype,
                m=m,
                n=n,
                k=k,
                began_at_seconds=began,
                ended_at_seconds=tuple(at for at, _, _ in so_far),
                products=tuple(count for _, count, _ in so_far),
                seconds=tuple(took for _, _, took in so_far),
                checks=tuple(checks),
                trials=trials,
            )

        check()
        each = stats.median(accelerator.timed(product.work, 3))
        sample = min(products.SAMPLE_SECONDS, options.period_seconds * SHARE_OF_PERIOD or products.SAMPLE_SECONDS)
        count = max(1, round(sample / max(each, 1e-6)))
        clock = time.perf_counter
        began = checked = clock()
        while (now := clock()) - began < options.seconds and not report.should_stop():
            window = on_seconds(now, options.period_seconds) if options.period_seconds else window_seconds(now - began)
            if window <= 0:
                time.sleep(min(-window, POLL_SECONDS))
                continue
            samples = products.sustain(accelerator, product.work, count, window, clock, report.should_stop)
            windows.append((clock(), count * len(samples), sum(samples)))
            if now - checked >= CHECK_EVERY_SECONDS:
                check()
                checked = now
            report.partial(load)
            report.progress((now - began) / options.seconds, f"{accelerator.torch_device} under load")
        check()
    if not windows:
        report.check()
    return load()


def _choose(accelerator: Accelerator, size: int | Absent) -> tuple[Dtype, dict[str, float]]:
    """The first that a GPU has natively; on a CPU the fastest, with the seconds of one product of each."""
    kind = accelerator.device.kind
    usable = [dtype for dtype in CANDIDATES[kind] if not products.unavailable(dtype, accelerator.torch_device)]
    if kind == "cuda":
        return usable[0], {}
    smallest = SIZES[kind][-1]
    side = smallest if isinstance(size, Absent) else min(size, smallest)
    trials: dict[str, float] = {}
    for dtype in usable:
        product = Operands(dtype, accelerator.torch_device).product(side, side, side)
        trials[dtype] = stats.median(products.glance(accelerator, product))
    return min(usable, key=lambda dtype: trials[dtype]), trials


def window_seconds(elapsed: float) -> float:
    """Of the next window: longer and longer, so that the windows of a long load are hardly more than of a short one."""
    return max(WINDOW_SECONDS, elapsed / WINDOWS)


def on_seconds(at: float, period_seconds: float) -> float:
    """What is left of the full half of a period, or, below 0, of the idle half that comes first.

    By the machine's one clock, so that all devices step at the same moments without a word between them.
    """
    phase, half = at % period_seconds, period_seconds / 2
    return period_seconds - phase if phase >= half else phase - half


def _largest(dtype: Dtype, accelerator: Accelerator, size: int | Absent, longest_seconds: float) -> Product:
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
            accelerator.timed(product.work, 1)  # loads the kernel, and its library with a workspace of its own
            (once,) = accelerator.timed(product.work, 1)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            continue
        if once <= longest_seconds or side == sides[-1]:
            return product
    raise RigbenchError(
        f"not even a {sides[-1]}×{sides[-1]} matrix product fits the free memory of {accelerator.device.name}",
        "end the program that holds it",
        exit_code=NOTHING,
    )
