"""The P2P probe with this host's memory for cards and gloo for NCCL: the same checks, for real, with faults to order.

`P2P_FAULT` names a fault of the arms that have P2P on, `P2P_FAULT_ALWAYS` one that P2P off does not cure.
"""

from __future__ import annotations

import os
import signal
import time

import msgspec
import torch
from cards_on_cpu import CardsOnCpu

from rigbench.core.record import Absent
from rigbench.machine.accelerator import CpuAccelerator
from rigbench.p2p import probe as p2p
from rigbench.p2p.checks import TorchRanks
from rigbench.work import ranks

Options = p2p.Options
SMALLER = {
    "rounds": 3,
    "write_sizes": (8, 64 << 10),
    "reduce_sizes": (4, 1 << 20),
    "copy_bytes": 1 << 20,
    "row_seconds": 0.05,
}


def fault() -> str:
    on = os.environ.get("NCCL_P2P_DISABLE") != "1"
    return (os.environ.get("P2P_FAULT") if on else None) or os.environ.get("P2P_FAULT_ALWAYS") or ""


class FaultyCards(CardsOnCpu):
    """A bridge that drops writes, turns them back, brings old ones, or writes too much. Small ones come through."""

    def __init__(self, kind: str = "", above_bytes: int = 4096) -> None:
        self.kind, self.above_bytes = kind, above_bytes
        self.made: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def memory(self, index, values, dtype):
        self.made.append(super().memory(index, values, dtype))
        return self.made[-1]

    def peer_copy(self, count, peer_access):
        return self.copy

    def copy(self, destination, source):
        if self.kind == "dropped write" and destination.nbytes > self.above_bytes:
            return
        if self.kind == "mirrored write" and destination.nbytes > self.above_bytes:
            destination = self._at_the_sender(destination)
        before, self.last = self.last, source.clone()
        if self.kind == "stale write" and before is not None and before.numel() == source.numel():
            source = before
        destination.copy_(source)
        if self.kind == "flipped bit":
            destination[-1] ^= 1
        if self.kind == "stray write":
            destination._base[3] = 0

    def _at_the_sender(self, destination):
        """The same place in the other card's landing."""
        landing = destination._base
        alike = [buffer for buffer in self.made if buffer.numel() == landing.numel() and buffer is not landing]
        return torch.as_strided(alike[-1], destination.size(), destination.stride(), destination.storage_offset())


class FaultyRanks(TorchRanks):
    def __init__(self, kind: str) -> None:
        super().__init__("cpu", "gloo")
        self.kind = kind

    def all_reduce(self, buffer):
        if buffer.numel() > 1 and self.rank == 1:
            if self.kind == "hang":
                time.sleep(3600)
            if self.kind == "death":
                os.kill(os.getpid(), signal.SIGSEGV)
        super().all_reduce(buffer)
        if self.kind == "wrong sum" and self.rank == 1:
            buffer[buffer.numel() // 2] += 1


def write_log(rank: int) -> None:
    """As NCCL would between two cards on one host bridge: P2P only where it is told that it may go so far."""
    way = "P2P/CUMEM/read" if os.environ.get("NCCL_P2P_LEVEL") else "SHM/direct/direct"
    file = os.environ["NCCL_DEBUG_FILE"].replace("%p", str(os.getpid()))
    with open(file, "w") as log:
        log.write(f"rig:1:2 [{rank}] NCCL INFO Channel 00/0 : {rank}[{rank}] -> {1 - rank}[{1 - rank}] via {way}\n")


def run(options: Options, report, world):
    torch.set_num_threads(1)
    write_log(world.rank)
    ranks.join(world, report, "gloo")
    nothing = Absent("not asked")
    accelerator = CpuAccelerator("the host's memory", nothing, nothing)
    smaller = msgspec.structs.replace(options, **SMALLER)
    return p2p.measure(smaller, report, FaultyCards(fault()), FaultyRanks(fault()), accelerator)
