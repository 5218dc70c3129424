"""How long do copies take that run at once: on the host's clock, or on a device's own while the host only hands out?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

# The first stream is held this long, so that the copies of a sample are all enqueued when it starts. Handing out two
# copies and their waits takes Python some 50 µs; 400,000 cycles are 130 to 270 µs at 1.5 to 3 GHz.
HOLD_CYCLES = 400_000


class Lane(NamedTuple):
    """One of the copies that run at once; `stream` is the CUDA stream that it runs on, None on a CPU."""

    work: Callable[[], object]
    stream: Any = None


class Clock(Protocol):
    """Seconds that copies take which run at once. `name` says whose time it is."""

    name: Literal["device", "host"]

    def __call__(self, lanes: Sequence[Lane]) -> float: ...


class HostClock:
    """Wall time from before the first call until all is done; several lanes run on a thread each.

    For copies that keep a host thread busy: those inside host memory, and those between a device and pageable memory,
    which the driver carries over through a buffer of its own.
    """

    name: Literal["device", "host"] = "host"

    def __init__(self, synchronize: Callable[[], object] = lambda: None) -> None:
        self._synchronize = synchronize
        self._threads = ThreadPoolExecutor(2)

    def __call__(self, lanes: Sequence[Lane]) -> float:
        """Seconds."""
        self._synchronize()
        start = time.perf_counter_ns()
        if len(lanes) == 1:
            _enter(lanes[0])
        else:
            for done in [self._threads.submit(_enter, lane) for lane in lanes]:
                done.result()
        self._synchronize()
        return (time.perf_counter_ns() - start) / 1e9


class DeviceClock:
    """Events of the first lane's device, around everything: the other lanes wait for its start, its end for them."""

    name: Literal["device", "host"] = "device"

    def __init__(self, devices: Sequence[int]) -> None:
        self._devices = devices

    def __call__(self, lanes: Sequence[Lane]) -> float:
        """Seconds, to about half a microsecond, which is what CUDA events resolve."""
        import torch

        for device in self._devices:
            torch.cuda.synchronize(device)
        first = lanes[0].stream
        with torch.cuda.stream(first):
            torch.cuda._sleep(HOLD_CYCLES)  # type: ignore[no-untyped-call]
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record(first)
        for lane in lanes[1:]:
            lane.stream.wait_event(start)
        for lane in lanes:
            _enter(lane)
        for lane in lanes[1:]:
            first.wait_stream(lane.stream)
        end.record(first)
        for device in self._devices:
            torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3


def _enter(lane: Lane) -> None:
    if lane.stream is None:
        lane.work()
        return
    import torch

    with torch.cuda.stream(lane.stream):
        lane.work()
