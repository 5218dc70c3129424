"""The P2P probe with one GPU for two: two ranks of NCCL share it, which NCCL allows from 2.30.3 on if it is told to."""

from __future__ import annotations

from rigbench.machine.accelerator import CudaAccelerator
from rigbench.machine.cuda_cards import CudaCards, PlainPeerCopies, enqueued
from rigbench.p2p import probe as p2p
from rigbench.p2p.checks import TorchRanks
from rigbench.work import ranks


class OneCard(CudaCards):
    """Every index is the first GPU."""

    def memory(self, index, values, dtype):
        return super().memory(0, values, dtype)

    def stream(self, index):
        return super().stream(0)

    def clock(self, indices):
        return super().clock([0])

    def may_access(self, one, other):
        return True

    def peer_copy(self, count, peer_access):
        return enqueued if peer_access else PlainPeerCopies(1).copy


def run(options, report, world):
    accelerator = CudaAccelerator(0)
    ranks.join(world, report, "gloo")
    return p2p.measure(options, report, OneCard(), TorchRanks("cuda:0", "nccl"), accelerator)
