"""How fast is each of several devices alone, and beside all the others?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rigbench.core.record import Device
from rigbench.machine.accelerator import Accelerator
from rigbench.matmul.record import MatmulCheck
from rigbench.work.products import sustain
from rigbench.work.timing import never

WARM_UP_SHARE = 0.2  # of each load: its beginning is not counted
MEET_WITHIN_SECONDS = 60.0


class Lane(NamedTuple):
    """A device with its work, made by and for one thread."""

    accelerator: Accelerator
    work: Callable[[int], object]
    products_per_sample: int
    check: Callable[[], MatmulCheck]


class LaneSeconds(NamedTuple):
    device: Device
    products_per_sample: int
    alone: tuple[float, ...]
    together: tuple[float, ...]
    check: MatmulCheck


def alone_and_together(
    openers: Sequence[Callable[[], Lane]],
    alone_seconds: float,
    together_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    should_stop: Callable[[], bool] = never,
) -> list[LaneSeconds]:
    """Load each lane in turn, then all at the same moment; the steady samples' seconds of either.

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
        samples = sustain(lane.accelerator, lane.work, lane.products_per_sample, seconds, clock, should_stop)
        return samples[min(int(WARM_UP_SHARE * len(samples)), len(samples) - 1) :]

    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in openers]
        lanes = [thread.submit(opener).result() for thread, opener in zip(threads, openers, strict=True)]
        alone = [
            thread.submit(load, lane, alone_seconds, False).result()
            for thread, lane in zip(threads, lanes, strict=True)
        ]
        waiting = [
            thread.submit(load, lane, together_seconds, True) for thread, lane in zip(threads, lanes, strict=True)
        ]
        together = [future.result() for future in waiting]
        checks = [thread.submit(lane.check).result() for thread, lane in zip(threads, lanes, strict=True)]
    return [
        LaneSeconds(lane.accelerator.device, lane.products_per_sample, own, beside, check)
        for lane, own, beside, check in zip(lanes, alone, together, checks, strict=True)
    ]
