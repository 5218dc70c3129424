"""What may a probe of copies ask of CUDA cards: memory on them and beside them, streams, clocks, peers?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rigbench.machine.copy_clock import Clock, DeviceClock, HostClock

if TYPE_CHECKING:
    import torch

Copy = Callable[["torch.Tensor", "torch.Tensor"], object]
CUDA_SUCCESS = 0


class Cards(Protocol):
    """Cards by their CUDA index. A copy's first argument is its destination."""

    def free_bytes(self, index: int) -> int: ...

    def cache_bytes(self, index: int) -> int: ...

    def memory(self, index: int, values: int, dtype: torch.dtype) -> torch.Tensor: ...

    def host_memory(self, index: int, values: int, pinned: bool) -> torch.Tensor: ...

    def stream(self, index: int) -> Any: ...

    def clock(self, indices: Sequence[int]) -> Clock: ...

    def host_clock(self, index: int) -> Clock: ...

    def may_access(self, one: int, other: int) -> bool: ...

    def peer_copy(self, count: int, peer_access: bool) -> Copy: ...


class CudaCards:
    """The real ones, through torch."""

    def free_bytes(self, index: int) -> int:
        import torch

        return int(torch.cuda.mem_get_info(index)[0])

    def cache_bytes(self, index: int) -> int:
        """The L2 cache; 0 where this torch does not tell."""
        import torch

        return int(getattr(torch.cuda.get_device_properties(index), "L2_cache_size", 0))

    def memory(self, index: int, values: int, dtype: torch.dtype) -> torch.Tensor:
        import torch

        return torch.empty(values, dtype=dtype, device=f"cuda:{index}")

    def host_memory(self, index: int, values: int, pinned: bool) -> torch.Tensor:
        """int64. Pinned memory is taken through the context of the present device: no other card gets one by it."""
        import torch

        torch.cuda.set_device(index)
        return torch.empty(values, dtype=torch.int64, pin_memory=pinned)

    def stream(self, index: int) -> Any:
        import torch

        return torch.cuda.Stream(f"cuda:{index}")  # type: ignore[no-untyped-call]

    def clock(self, indices: Sequence[int]) -> Clock:
        return DeviceClock(indices)

    def host_clock(self, index: int) -> Clock:
        import torch

        return HostClock(partial(torch.cuda.synchronize, index))

    def may_access(self, one: int, other: int) -> bool:
        """Permission (cudaDeviceCanAccessPeer), no proof that it works."""
        import torch

        return torch.cuda.can_device_access_peer(one, other)

    def peer_copy(self, count: int, peer_access: bool) -> Copy:
        """torch's own copy, which enables peer access at its first one; or the driver's, which does not."""
        return enqueued if peer_access else PlainPeerCopies(count).copy


def enqueued(destination: torch.Tensor, source: torch.Tensor) -> None:
    """Handed to the device, not waited for, where both ends allow it: pinned or device memory."""
    destination.copy_(source, non_blocking=True)


def waited_for(destination: torch.Tensor, source: torch.Tensor) -> None:
    destination.copy_(source)


class PlainPeerCopies:
    """Copies between GPUs by the driver alone (cuMemcpyPeerAsync), in a process that never enables peer access.

    torch enables it at its first copy between two GPUs and has no switch for it. The driver then stages each copy in
    host memory, as it does for cards that have no peer access.
    """

    def __init__(self, devices: int) -> None:
        """
        Raises:
            RuntimeError: the driver refused.
            OSError: there is no driver library.
        """
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._driver.cuMemcpyPeerAsync.argtypes = [
            *(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p),
            *(ctypes.c_size_t, ctypes.c_void_p),
        ]
        self._contexts = [self._primary_context(index) for index in range(devices)]

    def copy(self, destination: Any, source: Any) -> None:
        """Enqueue a copy of equal sizes on the current stream of the source's device.

        Raises:
            RuntimeError: the driver refused.
        """
        import torch

        stream = torch.cuda.current_stream(source.device).cuda_stream
        there, here = self._contexts[destination.device.index], self._contexts[source.device.index]
        size = source.numel() * source.element_size()
        with torch.cuda.device(source.device):
            self._must(
                self._driver.cuMemcpyPeerAsync(destination.data_ptr(), there, source.data_ptr(), here, size, stream)
            )

    def _primary_context(self, index: int) -> ctypes.c_void_p:
        """The context that torch uses too; retained, for as long as this process lives."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._must(self._driver.cuDeviceGet(ctypes.byref(device), index))
        self._must(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        return context

    def _must(self, code: int) -> None:
        if code != CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver refused a copy between GPUs with code {code}")
