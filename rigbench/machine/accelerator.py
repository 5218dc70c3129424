"""The device that does the work, behind one small interface: the CPU and CUDA run the same probe code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Device
from rigbench.machine import host
from rigbench.machine.sysfs import Sysfs

CPU_FLUSH_BYTES = 64 << 20  # more than most last-level caches; a larger cache is flushed by its own size


class CpuAccelerator:
    """The host's processor. Marks are readings of the monotonic clock; work is done when its call returns."""

    torch_device = "cpu"

    def __init__(self, cpu_model: str, memory_total_bytes: int | Absent, last_level_cache_bytes: int | Absent) -> None:
        import torch

        self.device = Device(
            kind="cpu",
            name=cpu_model,
            uuid=Absent("a CPU has no UUID"),
            threads=torch.get_num_threads(),
            memory_total_bytes=memory_total_bytes,
        )
        cache = 0 if isinstance(last_level_cache_bytes, Absent) else last_level_cache_bytes
        self._scrub = torch.empty(max(CPU_FLUSH_BYTES, 2 * cache), dtype=torch.uint8)

    def synchronize(self) -> None:
        return None

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, start: float, end: float) -> float:
        return end - start

    def timed(self, work: Callable[[int], object], repeats: int) -> Sequence[float]:
        seconds = []
        for index in range(repeats):
            self._scrub.fill_(index & 1)
            start = time.perf_counter_ns()
            work(index)
            seconds.append((time.perf_counter_ns() - start) / 1e9)
        return seconds

    reset_peak_memory = empty_cache = synchronize

    def allocated_peak_bytes(self) -> Absent:
        return Absent("torch keeps no count of CPU allocations")

    reserved_peak_bytes = allocated_peak_bytes

    def allocator_retries(self) -> Absent:
        return Absent("the CPU allocator does not retry")

    def used_outside_allocator_bytes(self) -> Absent:
        return Absent("a CPU has no device context")


class CudaAccelerator:
    """One CUDA device. Marks are events on the current stream; nothing waits until `seconds_between` or synchronize."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch = torch
        torch.cuda.set_device(index)
        self.torch_device = f"cuda:{index}"
        properties = torch.cuda.get_device_properties(index)
        self.device = _cuda_device(properties)
        l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or (64 << 20)
        self._scrub = torch.empty(2 * l2_bytes, dtype=torch.uint8, device=self.torch_device)

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def timed(self, work: Callable[[int], object], repeats: int) -> Sequence[float]:
        marks = []
        for index in range(repeats):
            self._scrub.fill_(index & 1)
            start = self.mark()
            work(index)
            marks.append((start, self.mark()))
        self.synchronize()
        return [self.seconds_between(start, end) for start, end in marks]

    def reset_peak_memory(self) -> None:
        self._torch.cuda.reset_peak_memory_stats()

    def empty_cache(self) -> None:
        self._torch.cuda.empty_cache()

    def allocated_peak_bytes(self) -> int:
        return int(self._torch.cuda.max_memory_allocated())

    def reserved_peak_bytes(self) -> int:
        return int(self._torch.cuda.max_memory_reserved())

    def allocator_retries(self) -> int:
        return int(self._torch.cuda.memory_stats().get("num_alloc_retries", 0))

    def used_outside_allocator_bytes(self) -> int:
        free, total = self._torch.cuda.mem_get_info()
        return int(total - free - self._torch.cuda.memory_reserved())


Accelerator = CpuAccelerator | CudaAccelerator  # all that a probe may ask of a device


def choose_device(wanted: str | None) -> str:
    """ "cpu" or "cuda:N" from what the user asked for; the first GPU where there is one, else the CPU.

    Raises:
        RigbenchError: no such device, or an unknown name.
    """
    if wanted == "cpu":  # without a look at any GPU: its driver may be the reason for asking so
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted in (None, "", "auto"):
        return "cuda:0" if count else "cpu"
    kind, _, number = str(wanted).partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise RigbenchError(f"--device {wanted!r} is not a device", "use cpu, cuda or cuda:N")
    why = " (this torch is a CPU build)" if not count and torch.version.cuda is None else ""
    if int(number or 0) >= count:
        raise RigbenchError(
            f"--device {wanted}: torch sees {count} CUDA devices{why}",
            "use --device cpu, or install a CUDA build of torch and the driver",
            exit_code=NOTHING,
        )
    return f"cuda:{int(number or 0)}"


def open_device(wanted: str | None = None, flushed: bool = True) -> Accelerator:
    """What the user asked for (`choose_device`), opened; `flushed`: between timed repeats, the cache is written over.

    Raises:
        RigbenchError: no such device, or an unknown name.
    """
    device = choose_device(wanted)
    if device != "cpu":
        return CudaAccelerator(int(device.partition(":")[2]))
    cpu = host.cpu(Sysfs())
    name = cpu.model if isinstance(cpu.model, str) else f"{cpu.architecture} CPU"
    cache = cpu.l3_bytes if flushed else Absent("nothing is flushed")
    return CpuAccelerator(name, host.memory(Sysfs()).total_bytes, cache)


def cuda_devices() -> tuple[Device, ...]:
    """Every CUDA device that torch sees, in its order; none of them is touched."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(_cuda_device(torch.cuda.get_device_properties(index)) for index in range(count))


def _cuda_device(properties: Any) -> Device:
    uuid = getattr(properties, "uuid", None)
    return Device(
        kind="cuda",
        name=properties.name,
        uuid=f"GPU-{uuid}" if uuid else Absent("this torch does not tell a device's UUID"),
        threads=1,
        memory_total_bytes=int(properties.total_memory),
    )
