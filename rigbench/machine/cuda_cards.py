"""Gives a probe of copies what it needs of CUDA cards: memory on them and beside them, streams, clocks, peers."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from rigbench.machine.accelerator import Hold

Copy = Callable[[torch.Tensor, torch.Tensor], object]
CUDA_SUCCESS = 0


class Lane(NamedTuple):
    """One of the copies that run at once; `stream` is the CUDA stream that it runs on, None on a CPU."""

    work: Callable[[], object]
    stream: Any = None

    def enter(self) -> None:
        with torch.cuda.stream(self.stream) if self.stream is not None else contextlib.nullcontext():
            self.work()


class HostClock:
    """Wall time from before the first call until all is done; several lanes run on a thread each.

    For copies that keep a host thread busy: those inside host memory, and those between a device and pageable memory,
    which the driver carries over through a buffer of its own.
    """

    name: Literal["device", "host"] = "host"
    late = False  # the host is part of what it times

    def __init__(self, card: int | None = None) -> None:
        """Of copies to and from a card: it is its threads' own device, so that they open no context on another."""
        self._synchronize: Callable[[], object] = lambda: None
        begin: Callable[[], object] | None = None
        if card is not None:
            self._synchronize, begin = partial(torch.cuda.synchronize, card), partial(torch.cuda.set_device, card)
        self._threads = ThreadPoolExecutor(2, initializer=begin)

    def __call__(self, lanes: Sequence[Lane]) -> float:
        self._synchronize()
        start = time.perf_counter_ns()
        if len(lanes) == 1:
            lanes[0].enter()
        else:
            for done in [self._threads.submit(lane.enter) for lane in lanes]:
                done.result()
        self._synchronize()
        return (time.perf_counter_ns() - start) / 1e9


class DeviceClock:
    """Events of the first lane's device, around everything: the other lanes wait for its start, its end for them.

    The first lane's stream is held until all is handed over. CUDA events resolve about half a microsecond.
    """

    name: Literal["device", "host"] = "device"

    def __init__(self, devices: Sequence[int]) -> None:
        self._devices, self._hold = devices, Hold()
        self.late = False  # of the last call: whether the copies began before the host had handed over all of them

    def __call__(self, lanes: Sequence[Lane]) -> float:
        for device in self._devices:
            torch.cuda.synchronize(device)
        first = lanes[0].stream
        with torch.cuda.stream(first):
            self._hold.begin()
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record(first)
        for lane in lanes[1:]:
            lane.stream.wait_event(start)
        for lane in lanes:
            lane.enter()
        for lane in lanes[1:]:
            first.wait_stream(lane.stream)
        self.late = self._hold.late(start)
        end.record(first)
        for device in self._devices:
            torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3


Clock = HostClock | DeviceClock  # seconds that copies take which run at once


class CudaCards:
    """Cards by their CUDA index, through torch. A copy's first argument is its destination.

    Where all is about one `card`, it is this thread's own device: no call then opens a context on another.
    """

    def __init__(self, card: int | None = None) -> None:
        if card is not None:
            torch.cuda.set_device(card)

    def free_bytes(self, index: int) -> int:
        return int(torch.cuda.mem_get_info(index)[0])

    def cache_bytes(self, index: int) -> int:
        """The L2 cache; 0 where this torch does not tell."""
        return int(getattr(torch.cuda.get_device_properties(index), "L2_cache_size", 0))

    def memory(self, index: int, values: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(values, dtype=dtype, device=f"cuda:{index}")

    def host_memory(self, index: int, values: int, pinned: bool) -> torch.Tensor:
        """int64. Pinned memory is taken through the context of the present device: no other card gets one by it."""
        torch.cuda.set_device(index)
        return torch.empty(values, dtype=torch.int64, pin_memory=pinned)

    def stream(self, index: int) -> Any:
        return torch.cuda.Stream(f"cuda:{index}")  # type: ignore[no-untyped-call]

    def clock(self, indices: Sequence[int]) -> Clock:
        return DeviceClock(indices)

    def host_clock(self, index: int) -> Clock:
        return HostClock(index)

    def may_access(self, one: int, other: int) -> bool:
        """Permission (cudaDeviceCanAccessPeer), no proof that it works."""
        return torch.cuda.can_device_access_peer(one, other)

    def peer_copy(self, count: int, peer_access: bool) -> Copy:
        """torch's own copy, which enables peer access at its first one; or the driver's, which does not."""
        return enqueued if peer_access else PlainPeerCopies(count).copy


Cards = CudaCards  # tests put cards on the CPU in their place


def enqueued(destination: torch.Tensor, source: torch.Tensor) -> None:
    """Handed to the device, not waited for, where both ends allow it: pinned or device memory."""
    destination.copy_(source, non_blocking=True)


def waited_for(destination: torch.Tensor, source: torch.Tensor) -> None:
    destination.copy_(source)


class PlainPeerCopies:
    """Copies between GPUs by the driver alone (cuMemcpyPeerAsync), in a process that never enables peer access.

    torch enables it at its first copy between two GPUs and has no switch for it. The driver then stages each copy in
    host memory, as it does for cards that have no peer access. RuntimeError: the driver refused a copy.
    """

    def __init__(self, devices: int) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._driver.cuMemcpyPeerAsync.argtypes = [
            *(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p),
            *(ctypes.c_size_t, ctypes.c_void_p),
        ]
        # The contexts that torch uses too; retained for as long as this process lives.
        self._contexts = []
        for index in range(devices):
            device, context = ctypes.c_int(), ctypes.c_void_p()
            self._must(self._driver.cuDeviceGet(ctypes.byref(device), index))
            self._must(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
            self._contexts.append(context)

    def copy(self, destination: Any, source: Any) -> None:
        """Enqueue a copy of equal sizes on the current stream of the source's device."""
        stream = torch.cuda.current_stream(source.device).cuda_stream
        there, here = self._contexts[destination.device.index], self._contexts[source.device.index]
        size = source.numel() * source.element_size()
        with torch.cuda.device(source.device):
            self._must(
                self._driver.cuMemcpyPeerAsync(destination.data_ptr(), there, source.data_ptr(), here, size, stream)
            )

    def _must(self, code: int) -> None:
        if code != CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver refused a copy between GPUs with code {code}")
