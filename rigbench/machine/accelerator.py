"""The device that does the work, behind one small interface: the CPU and CUDA run the same probe code."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Device
from rigbench.machine import host, obstacles
from rigbench.machine.sysfs import Sysfs

CPU_FLUSH_BYTES = 64 << 20  # more than most last-level caches; a larger cache is flushed by twice its size
# Of the last-level cache: processors have 2 to 16 MiB a core. A virtual machine reports its host's as its own.
MOST_CACHE_BYTES_PER_THREAD = 32 << 20
# A stream is held this long, so that all of a sample is enqueued when its first part starts. Handing out two copies and
# their waits takes Python some 50 µs, a collective about as much; 400,000 cycles are 130 to 270 µs at 1.5 to 3 GHz.
HOLD_CYCLES, MOST_HOLD_CYCLES = 400_000, 6_400_000
# Code for these runs on no other card of their major version, and other code not on them: they are no plug-in cards.
INTEGRATED = ((5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0))
WHEELS = "https://download.pytorch.org/whl/"
LAST_OF_OLD, FIRST_OF_NEW = (7, 0), (10, 0)  # Maxwell to Volta, and Blackwell


class Hold:
    """Keeps a CUDA stream busy while the host hands over what is to be timed on it."""

    def __init__(self) -> None:
        self.cycles = HOLD_CYCLES
        self._late_before = False

    def begin(self) -> None:
        """On the current stream."""
        import torch

        torch.cuda._sleep(self.cycles)  # type: ignore[no-untyped-call]

    def late(self, start: Any) -> bool:
        """Whether the device has passed `start` already. Ask when all but the last event was handed over.

        Such a time may hold some of the host's. After two in a row the hold lasts twice as long from then on: a single
        one may be a kernel's first launch, or a hiccup of the host.
        """
        late = bool(start.query())
        if late and self._late_before:
            self.cycles = min(2 * self.cycles, MOST_HOLD_CYCLES)
        self._late_before = late
        return late


def own_cache_bytes(last_level_bytes: int, threads: int) -> int:
    """What so many threads may fill of the last-level cache that the machine reports."""
    return min(last_level_bytes, MOST_CACHE_BYTES_PER_THREAD * threads)


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
        self._flush_bytes = max(CPU_FLUSH_BYTES, 2 * own_cache_bytes(cache, self.device.threads))
        self._scrub: Any = None  # as in CudaAccelerator
        self.late: tuple[bool, ...] = ()

    def synchronize(self) -> None:
        return None

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, start: float, end: float) -> float:
        return end - start

    def timed(
        self,
        work: Callable[[int], object],
        repeats: int,
        prepare: Callable[[int], object] | None = None,
        align: Callable[[], object] = lambda: None,
    ) -> Sequence[float]:
        """Seconds of each repeat. Before each `prepare`, or else the cache is written over; then ranks `align`."""
        seconds = []
        for index in range(repeats):
            (prepare or self._flush)(index)
            align()
            start = time.perf_counter_ns()
            work(index)
            seconds.append((time.perf_counter_ns() - start) / 1e9)
        return seconds

    def _flush(self, index: int) -> None:
        self._scrub = _bytes(self) if self._scrub is None else self._scrub
        self._scrub.fill_(index & 1)

    def reset_peak_memory(self) -> None:
        self._scrub = None

    empty_cache = synchronize

    def free_bytes(self) -> int | Absent:
        return host.memory(Sysfs()).usable_bytes

    def allocated_peak_bytes(self) -> Absent:
        return Absent("torch keeps no count of CPU allocations")

    reserved_peak_bytes = allocated_peak_bytes

    def allocator_retries(self) -> Absent:
        return Absent("the CPU allocator does not retry")

    def used_outside_allocator_bytes(self, free_before: int | Absent) -> Absent:
        return Absent("a CPU has no device context")


class CudaAccelerator:
    """One CUDA device. Marks are events on the current stream; nothing waits until `seconds_between` or synchronize.

    Memory is asked for by the device's name: a thread that hands over results has the first device as its own.
    """

    def __init__(self, index: int) -> None:
        import torch

        self._torch = torch
        torch.cuda.set_device(index)
        self.torch_device = f"cuda:{index}"
        properties = torch.cuda.get_device_properties(index)
        self.device = _cuda_device(properties)
        l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or (64 << 20)
        self._flush_bytes = 2 * l2_bytes
        self._scrub: Any = None  # written over between timed repeats; made for the first, in no peak of memory
        self._retries_before = 0
        self._hold = Hold()
        self.late: tuple[bool, ...] = ()  # of the last `timed`: in which repeats the host came too late

    def synchronize(self) -> None:
        self._torch.cuda.synchronize(self.torch_device)

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds_between(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def timed(
        self,
        work: Callable[[int], object],
        repeats: int,
        prepare: Callable[[int], object] | None = None,
        align: Callable[[], object] = lambda: None,
    ) -> Sequence[float]:
        """Seconds of each repeat. Before each `prepare`, or else the cache is written over; then ranks `align`.

        The stream is held until all of a repeat was handed over, aligning it included: what the host takes for that,
        and how long a rank prepares, are in no time. Nothing that is called here may wait for the device.
        """
        marks, late = [], []
        for index in range(repeats):
            (prepare or self._flush)(index)
            self._hold.begin()
            align()
            start = self.mark()
            work(index)
            late.append(self._hold.late(start))
            marks.append((start, self.mark()))
        self.synchronize()
        self.late = tuple(late)
        return [self.seconds_between(start, end) for start, end in marks]

    def _flush(self, index: int) -> None:
        self._scrub = _bytes(self) if self._scrub is None else self._scrub
        self._scrub.fill_(index & 1)

    def free_bytes(self) -> int:
        return int(self._torch.cuda.mem_get_info(self.torch_device)[0])

    def reset_peak_memory(self) -> None:
        """From here on peaks and retries count, without what was made to time things."""
        if self._scrub is not None:
            self._scrub = None
            self.empty_cache()
        self._torch.cuda.reset_peak_memory_stats(self.torch_device)
        self._retries_before = self._retries()

    def empty_cache(self) -> None:
        self._torch.cuda.empty_cache()

    def allocated_peak_bytes(self) -> int:
        return int(self._torch.cuda.max_memory_allocated(self.torch_device))

    def reserved_peak_bytes(self) -> int:
        return int(self._torch.cuda.max_memory_reserved(self.torch_device))

    def allocator_retries(self) -> int:
        """Since the peaks were reset."""
        return self._retries() - self._retries_before

    def _retries(self) -> int:
        return int(self._torch.cuda.memory_stats(self.torch_device).get("num_alloc_retries", 0))

    def used_outside_allocator_bytes(self, free_before: int | Absent) -> int | Absent:
        """What this process holds beside the allocator, of a card of which so much was free before it began.

        A desktop's and other processes' memory was in use then; the card's total knows nothing of whose it is.
        """
        if isinstance(free_before, Absent):
            return free_before
        used = free_before - self.free_bytes() - int(self._torch.cuda.memory_reserved(self.torch_device))
        return used if used >= 0 else Absent("another process has given memory back meanwhile")


Accelerator = CpuAccelerator | CudaAccelerator  # all that a probe may ask of a device


def choose_device(wanted: str | None) -> str:
    """ "cpu" or "cuda:N" from what the user asked for; the first GPU of use where there is one, else the CPU.

    "cuda" is such a GPU too, and never the CPU.

    Raises:
        RigbenchError: no such device, an unknown name, or GPUs that cannot be used.
    """
    if wanted == "cpu":  # without a look at any GPU: its driver may be the reason for asking so
        return "cpu"
    if wanted in (None, "", "auto", "cuda"):
        count = obstacles.devices("cuda" if wanted == "cuda" else "")
        usable = next((index for index in range(count) if not no_kernels(index)), 0)
        return _with_kernels(usable) if count else "cpu"
    kind, _, number = str(wanted).partition(":")
    if kind != "cuda" or (number and not re.fullmatch("[0-9]{1,4}", number)):
        raise RigbenchError(f"--device {wanted!r} is not a device", "use cpu, cuda or cuda:N")
    index, count = int(number or 0), obstacles.devices(str(wanted))
    if index >= count:
        names = "cuda:0" if count == 1 else f"cuda:0 {'and' if count == 2 else 'to'} cuda:{count - 1}"
        raise RigbenchError(
            f"--device {wanted}: torch sees {count} CUDA device{'' if count == 1 else 's'}",
            f"use --device cpu, or {names}",
            exit_code=NOTHING,
        )
    return _with_kernels(index)


def _with_kernels(index: int) -> str:
    """Its torch name.

    Raises:
        RigbenchError: this torch has no kernels for it.
    """
    import torch

    if not (reason := no_kernels(index)):
        return f"cuda:{index}"
    major, minor = torch.cuda.get_device_capability(index)
    cure = f"install a torch that was built for {major}.{minor}"
    if (5, 0) <= (major, minor) <= LAST_OF_OLD:
        cure = f"install a CUDA 12.6 build of torch: pip install torch --index-url {WHEELS}cu126"
    elif (major, minor) >= FIRST_OF_NEW:
        cure = f"install torch 2.7 or newer, built for CUDA 12.8 or newer: pip install torch --index-url {WHEELS}cu128"
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    usable = [it for it in range(torch.cuda.device_count()) if not no_kernels(it)]
    others = ",".join(names[it] if len(names) > it and names[it] else str(it) for it in usable)
    otherwise = f"leave the card out with CUDA_VISIBLE_DEVICES={others}" if usable else "measure the CPU: --device cpu"
    raise RigbenchError(reason, f"{cure}; or {otherwise}", exit_code=NOTHING)


def no_kernels(index: int) -> str:
    """Why nothing runs on a card: this torch was built for others. Empty where it has kernels for it."""
    import torch

    known = [name for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]  # ROCm has others
    capability = torch.cuda.get_device_capability(index) if known else (0, 0)
    if not known or any(runs_on(name, capability) for name in known):
        return ""
    name = torch.cuda.get_device_name(index)
    card = f"cuda:{index} ({name}) has compute capability {capability[0]}.{capability[1]}"
    return f"{card}, for which torch {torch.__version__} has no kernels (it has {', '.join(known)})"


def runs_on(code: str, capability: tuple[int, int]) -> bool:
    """Whether code for "sm_86" or "compute_90" runs on a card of such a capability.

    A binary runs on its own major version from its minor on; PTX is compiled for any newer card when it is loaded. A
    suffix ties both: "a" to this very capability, "f" to its major version (CUDA C++ Programming Guide, compatibility).
    """
    kind, _, number = code.partition("_")
    digits = number.rstrip("af")
    built = int(digits[:-1]), int(digits[-1])
    if number.endswith("a") or (kind == "sm" and (built in INTEGRATED or capability in INTEGRATED)):
        return built == capability
    if kind == "compute" and not number.endswith("f"):
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def open_device(wanted: str | None = None, flushed: bool = True) -> Accelerator:
    """What the user asked for (`choose_device`), opened; `flushed`: between timed repeats, the cache is written over.

    Raises:
        RigbenchError: no such device, an unknown name, or a GPU that cannot be used.
    """
    device = choose_device(wanted)
    if device != "cpu":
        index = int(device.partition(":")[2])
        try:
            return CudaAccelerator(index)
        except RuntimeError as error:  # torch's, of CUDA
            raise obstacles.refused_card(index, str(error)) from None
    cpu = host.cpu(Sysfs())
    name = cpu.model if isinstance(cpu.model, str) else f"{cpu.architecture} CPU"
    cache = cpu.l3_bytes if flushed else Absent("nothing is flushed")
    return CpuAccelerator(name, host.memory(Sysfs()).total_bytes, cache)


def _bytes(accelerator: CpuAccelerator | CudaAccelerator) -> Any:
    """A buffer that pushes all else out of the device's last cache when it is written over."""
    import torch

    return torch.empty(accelerator._flush_bytes, dtype=torch.uint8, device=accelerator.torch_device)


def cuda_devices() -> tuple[Device, ...]:
    """Every CUDA device that torch sees, in its order; none of them is touched.

    Raises:
        RigbenchError: GPUs that cannot be used.
    """
    import torch

    return tuple(_cuda_device(torch.cuda.get_device_properties(index)) for index in range(obstacles.devices()))


def _cuda_device(properties: Any) -> Device:
    uuid = getattr(properties, "uuid", None)
    return Device(
        kind="cuda",
        name=properties.name,
        uuid=f"GPU-{uuid}" if uuid else Absent("this torch does not report a device's UUID"),
        threads=1,
        memory_total_bytes=int(properties.total_memory),
    )
