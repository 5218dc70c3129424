"""What a bandwidth measurement is told, how fast bytes moved, whether they arrived, and what their links say to it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rigbench.core.estimate import Estimate, Timing
from rigbench.core.options import Option, seconds, size
from rigbench.core.record import Absent, Device, Figure, Record, Telemetry
from rigbench.machine.record import Gpu, GpuPair, PciPath

METHOD = 2  # 2: the time that is given bounds the making of buffers and all rows
MIB = 1 << 20
Operation = Literal["copy", "triad"]
HostMemory = Literal["pinned", "pageable"]


TIME, SIZE = seconds(1.0, 3600.0, "a minute is usual: 60s"), size(MIB, 64 << 30, "512MiB is usual")


class Options(Record, frozen=True, kw_only=True):
    seconds: Annotated[float, Option(TIME, "For everything; starting each process takes longer.", "TIME")] = 60.0
    largest_bytes: Annotated[
        int, Option(SIZE, "The largest copy; less where memory is short.", "SIZE", ("--largest",))
    ] = 512 * MIB


class PartOptions(Record, frozen=True, kw_only=True):
    """One part of the answer, for a process of its own."""

    part: Literal["device", "peers"] = "device"  # peers: all pairs of GPUs
    device: str = "auto"
    peer_access: bool = True
    seconds: float = 60.0  # for the part, from when its process has begun
    largest_bytes: int = 512 * MIB
    target_half_width: float = 0.01
    local_cpus: dict[str, str] = msgspec.field(default_factory=dict)  # a GPU's UUID to the CPUs next to it

    @property
    def name(self) -> str:
        return f"peers, access {'on' if self.peer_access else 'off'}" if self.part == "peers" else self.device


class CopyCheck(Record, frozen=True):
    """Destinations read back by their own device after a sample and compared, value by value, with what belongs there.

    Before each sample a destination is cleared, so that what an earlier one brought cannot pass.
    """

    checked: int
    wrong: int  # destinations that differed
    wrong_values: int  # of 8 bytes each, 4 for a triad, in all
    first_wrong_byte: int | Absent

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class Transfer(Record, frozen=True, kw_only=True):
    """One way of moving bytes, at one size. A place is "host", "node 0" or "all nodes" of the host's memory, or a GPU.

    A transfer between two places counts each byte once; a copy inside one memory counts 2 bytes a byte (read, write)
    and a triad a = b + 3·c 3 bytes, as STREAM does (McCalpin, https://www.cs.virginia.edu/stream/ref.html, "counting
    bytes"): a line that a cache fetches before it is overwritten is not counted.
    """

    operation: Operation
    source: str
    destination: str
    both_ways: bool  # there and back at the same time; counted_bytes is both together
    host_memory: HostMemory | Absent
    peer_access: bool | Absent  # Absent where no two GPUs take part
    size_bytes: int  # of one array
    counted_bytes: int  # that a sample moved, as its rate counts it
    threads: int  # of the host; 1 where a device's engine copies
    warm: bool  # the arrays may lie in a cache, on purpose for the curve; else they are larger than the last level
    clock: Literal["device", "host"]  # a device's own events around work it was already handed, or the wall clock
    timing: Timing
    bytes_per_s: Estimate
    check: CopyCheck


class Judgement(Record, frozen=True):
    """Whether a rate is what this way should give."""

    verdict: Literal["fine", "low", "unknown"]
    reason: str
    share: float | Absent  # of the theory of all directions used
    expected: Figure | Absent


class Judged(Record, frozen=True):
    """A way in words, the best rate that it reached at a size that says something of its link, and what that means."""

    way: str
    size_bytes: int
    bytes_per_s: float
    judgement: Judgement


class BandwidthPart(Record, frozen=True, kw_only=True):
    """What one process measured: the CPU, one GPU, or the pairs of GPUs with or without peer access."""

    name: str
    devices: tuple[Device, ...]  # all that the process saw, in its order
    seconds: float
    host_cpus: str | Absent  # that the process stayed on, so that its host memory lay next to them
    transfers: tuple[Transfer, ...]
    not_run: tuple[str, ...]
    ended: Literal["finished", "interrupted", "died", "hung"]  # died, hung: a fault; what was measured is kept
    reason: str = ""
    telemetry: Telemetry | Absent = Absent("no sensor was read beside this part")


class Bandwidth(Record, frozen=True, kw_only=True):
    """All parts, the links that they are held against, and the verdict.

    `gpus`, `links` and `pairs` were read while they copied, and are empty where the CPU was measured.
    """

    method: int
    started_at: str
    seconds: float
    verdict: Literal["fine", "low", "unknown", "wrong data", "hung", "died"]  # the worst; unknown: nothing judged
    parts: tuple[BandwidthPart, ...]
    judged: tuple[Judged, ...]
    virtual_machine: str | Absent
    gpus: tuple[Gpu, ...]
    links: tuple[PciPath, ...]  # the ways to the GPUs
    pairs: tuple[GpuPair, ...]  # what they are to each other
    memory_datasheet: dict[str, Figure | Absent]  # a GPU's own memory, by its name here
    peers: Literal["measured"] | Absent = Absent("not reached")  # copies from GPU to GPU
