"""How fast did bytes move on this rig, did they arrive as they were sent, and is that what the link should give?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, Figure, Record, Telemetry
from rigbench.machine.record import Gpu, GpuPair, PciPath

Operation = Literal["copy", "triad"]
HostMemory = Literal["pinned", "pageable"]


class CopyCheck(Record, frozen=True):
    """Destinations read back by their own device after a sample and compared, value by value, with what belongs there.

    Before each sample a destination is cleared, so that what an earlier one brought cannot pass. `wrong` is how many
    of the `checked` destinations differed, `wrong_values` how many values (8 bytes each, 4 for a triad) did in all.
    """

    checked: int
    wrong: int
    wrong_values: int
    first_wrong_byte: int | Absent

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class Transfer(Record, frozen=True, kw_only=True):
    """One way of moving bytes, at one size. A place is "host", "node 0" or "all nodes" of the host's memory, or a GPU.

    `size_bytes` is one array's. `counted_bytes` is what a sample of `timing` moved, as its rate counts it: a transfer
    between two places counts each byte once; a copy inside one memory counts 2 bytes a byte (read, write) and a triad
    a = b + 3·c 3 bytes, as STREAM does (McCalpin, https://www.cs.virginia.edu/stream/ref.html, "counting bytes"): a
    line that a cache fetches before it is overwritten is not counted.
    `both_ways`: there and back at the same time, and `counted_bytes` is both together.
    `peer_access` is Absent where no two GPUs take part. `threads` is the host's, 1 where a device's engine copies.
    `warm`: the arrays may lie in a cache, which is on purpose for the curve; else they are larger than the last level.
    `clock`: "device" for a device's own events around work that it was already handed, "host" for the wall clock.
    """

    operation: Operation
    source: str
    destination: str
    both_ways: bool
    host_memory: HostMemory | Absent
    peer_access: bool | Absent
    size_bytes: int
    counted_bytes: int
    threads: int
    warm: bool
    clock: Literal["device", "host"]
    timing: Timing
    bytes_per_s: Estimate
    check: CopyCheck


class Judgement(Record, frozen=True):
    """Is a rate what this way should give? `share` is of the theory of all directions used; reason is for people."""

    verdict: Literal["fine", "low", "unknown"]
    reason: str
    share: float | Absent
    expected: Figure | Absent


class Judged(Record, frozen=True):
    """A way in words, the best rate that it reached at a size that says something of its link, and what that means."""

    way: str
    size_bytes: int
    bytes_per_s: float
    judgement: Judgement


class BandwidthPart(Record, frozen=True, kw_only=True):
    """What one process measured: the CPU, one GPU, or the pairs of GPUs with or without peer access.

    `devices` are all that the process saw, in its order. `host_cpus` are the CPUs that it stayed on, so that its host
    memory lay next to them. `ended` "hung" and "died" are faults; what was measured until then is kept.
    """

    name: str
    devices: tuple[Device, ...]
    seconds: float
    host_cpus: str | Absent
    transfers: tuple[Transfer, ...]
    not_run: tuple[str, ...]
    ended: Literal["finished", "interrupted", "died", "hung"]
    reason: str = ""
    telemetry: Telemetry | Absent = Absent("no sensor was read beside this part")


class Bandwidth(Record, frozen=True, kw_only=True):
    """All parts, the links that they are held against, and the verdict.

    `verdict` is the worst of: "wrong data", "hung", "died", "low", "fine"; "unknown" where nothing could be judged.
    `gpus`, `links` (the ways to them) and `pairs` (what they are to each other) were read while they copied, and are
    empty where the CPU was measured. `memory_datasheet` is a GPU's own memory, by its name here. `peers_absent` says
    why no peer copy was made.
    """

    method: int
    started_at: str
    seconds: float
    verdict: Literal["fine", "low", "unknown", "wrong data", "hung", "died"]
    parts: tuple[BandwidthPart, ...]
    judged: tuple[Judged, ...]
    virtual_machine: str | Absent
    gpus: tuple[Gpu, ...]
    links: tuple[PciPath, ...]
    pairs: tuple[GpuPair, ...]
    memory_datasheet: dict[str, Figure | Absent]
    peers_absent: Absent | msgspec.UnsetType = msgspec.UNSET
