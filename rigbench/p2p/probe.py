"""What does one arm find: writes between GPUs read back where they arrive, then collectives checked by value?

One process for each GPU. The first of them makes the copies, since it can name every device; the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rigbench.bandwidth.record import Transfer
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Record
from rigbench.core.units import format_bytes
from rigbench.machine.accelerator import Accelerator, cuda_devices, open_device
from rigbench.machine.cuda_cards import Cards, CudaCards
from rigbench.p2p import collectives as p2p_collectives
from rigbench.p2p import writes as p2p_writes
from rigbench.p2p.collectives import Ranks, TorchRanks
from rigbench.p2p.record import P2pRank, ReduceTimes, ValueCheck
from rigbench.p2p.writes import Writes
from rigbench.work import gpu_copies
from rigbench.work.copies import Budget, Group
from rigbench.work.process import Report
from rigbench.work.ranks import World, join

METHOD = 1
MIB = 1 << 20
MEETINGS_BETWEEN = 3  # after the writes, after the collectives, after timing copies
NO_NCCL = Absent("this torch carries no NCCL")
NOT_A_CPU = Absent("the device is a GPU")


class Options(Record, frozen=True):
    """One arm. `peer_access`: copies go from GPU to GPU as torch makes them, else through the host as the driver does.

    `copies` is off where another arm with the same access has made them. `row_seconds` is how long one timed thing may
    take: a copy one way, or an all_reduce of one size.
    """

    devices: int
    peer_access: bool
    copies: bool = True
    rounds: int = 5
    write_sizes: tuple[int, ...] = (8, 4096, 16 * MIB)
    reduce_sizes: tuple[int, ...] = (4, 16 * MIB)
    copy_bytes: int = 64 * MIB
    row_seconds: float = 0.4
    target_half_width: float = 0.01


def run(options: Options, report: Report, world: World) -> P2pRank:
    """This rank's part, on its GPU.

    Raises:
        RigbenchError: torch does not see as many CUDA devices as the driver lists.
    """
    report.progress(0.0, "loading torch")
    seen = len(cuda_devices())
    if seen < options.devices:
        raise RigbenchError(
            f"the driver lists {options.devices} GPUs, torch sees {seen}",
            "install a CUDA build of torch that fits the driver",
            NOTHING,
        )
    device = f"cuda:{world.local_rank}"
    accelerator = open_device(device)
    join(world, report, "gloo")
    return measure(options, report, CudaCards(), TorchRanks(device, "nccl"), accelerator)


def measure(options: Options, report: Report, cards: Cards, ranks: Ranks, accelerator: Accelerator) -> P2pRank:
    """The arm, by whatever moves the bytes: all checks first, then what is timed."""
    arm = _Arm(options, report, cards, ranks, accelerator)
    if arm.write() and arm.exchange() and arm.time_copies():
        arm.time_reduces()
    return arm.record("", ())


class _Arm:
    """One rank's part in the making. Each step is announced to the parent before it is made: it may be the last."""

    def __init__(self, options: Options, report: Report, cards: Cards, ranks: Ranks, accelerator: Accelerator) -> None:
        self.options, self.report, self.cards, self.ranks, self.accelerator = options, report, cards, ranks, accelerator
        self.leads = ranks.rank == 0 and options.copies
        self.pairs = p2p_writes.pairs_of(options.devices)
        self.access = self._access() if ranks.rank == 0 else {}
        self.writes = self._planned() if self.leads else []
        self.exchanges = p2p_collectives.plan(options.devices, options.reduce_sizes)
        own = sum(exchange.concerns(ranks.rank) for exchange in self.exchanges)
        self.steps = p2p_writes.checks_of(self.writes) + own
        self.meetings = 0
        self.checks: list[ValueCheck] = []
        self.copies: list[Transfer] = []
        self.reduces: list[ReduceTimes] = []

    def write(self) -> bool:
        """The writes between every two GPUs, by rank 0. Whether to go on."""
        copy = self.cards.peer_copy(self.options.devices, self.options.peer_access) if self.writes else None
        for writes in self.writes:
            if self.report.should_stop() or copy is None:
                break
            text = f"{writes.text}, {format_bytes(writes.size_bytes)}"
            self._announce(text, writes.ways[0], len(self.checks) / self.steps)
            self.checks += p2p_writes.perform(self.cards, copy, writes, self.options.rounds)
        return self._go_on("the other ranks, after the writes", ())

    def exchange(self) -> bool:
        """Collectives and send/recv, by all ranks in step. Whether to go on."""
        for exchange in self.exchanges:
            text = f"{exchange.text}, {format_bytes(exchange.size_bytes)}"
            if not self._go_on(text, exchange.pair or ()):
                return False
            if exchange.concerns(self.ranks.rank):
                self.checks.append(p2p_collectives.perform(self.ranks, exchange, self.options.rounds))
        return self._go_on("the other ranks, after the collectives", ())

    def time_copies(self) -> bool:
        """The largest copy one way, back, and both ways at once, by rank 0. Whether to go on."""
        for group in self._copies():
            buffers = group.make()
            for label, row in group.rows[-len(gpu_copies.WAYS) :]:
                if self.report.should_stop():
                    break
                self._announce(f"timing copies: {label}", (), len(self.copies) / (len(self.copies) + 1))
                self.copies.append(row(buffers, self._budget()))
        return self._go_on("the other ranks, after timing copies", ())

    def time_reduces(self) -> None:
        for size in self.options.reduce_sizes:
            if not self._go_on(f"timing all_reduce, {format_bytes(size)}", ()):
                return
            self.reduces.append(p2p_collectives.timed(self.ranks, self.accelerator, size, self._budget()))

    def record(self, at: str, devices: Sequence[int]) -> P2pRank:
        return P2pRank(
            rank=self.ranks.rank,
            pid=os.getpid(),
            device=self.accelerator.device,
            nccl_version=_nccl_version(),
            access=self.access,
            steps=self.steps,
            checks=tuple(self.checks),
            copies=tuple(self.copies),
            reduces=tuple(self.reduces),
            meetings=self.meetings,
            at=at,
            at_devices=tuple(f"cuda:{index}" for index in devices),
        )

    def _announce(self, at: str, devices: Sequence[int], share_to_next_meeting: float = 0.0) -> None:
        """Progress is by meetings, so that the rank with the least is the one that the others wait for."""
        self.report.partial(self.record(at, devices), at_once=True)
        meetings = len(self.exchanges) + MEETINGS_BETWEEN + len(self.options.reduce_sizes)
        self.report.progress((self.meetings + share_to_next_meeting) / (meetings + 1), at)

    def _go_on(self, at: str, devices: Sequence[int]) -> bool:
        """All ranks meet, and go on together unless one of them was told to stop."""
        self.meetings += 1
        self._announce(at, devices)
        return not self.ranks.agree(int(self.report.should_stop()))

    def _access(self) -> dict[str, bool]:
        ways = [way for pair in self.pairs for way in (pair, pair[::-1])]
        return {f"cuda:{one} cuda:{other}": self.cards.may_access(one, other) for one, other in ways}

    def _planned(self) -> list[Writes]:
        """A kernel of one GPU can store into another only where peer access is on."""
        found = []
        for one, other in self.pairs:
            stores = self.options.peer_access and self.access[f"cuda:{one} cuda:{other}"]
            stores = stores and self.access[f"cuda:{other} cuda:{one}"]
            found += p2p_writes.plan(
                [(one, other)], ("copy engine", "kernel") if stores else ("copy engine",), self.options.write_sizes
            )
        return found

    def _copies(self) -> list[Group]:
        if not self.leads:
            return []
        count, access = self.options.devices, self.options.peer_access
        return gpu_copies.plan_peers(self.cards, count, access, self.options.copy_bytes)[0]

    def _budget(self) -> Budget:
        return Budget(
            limit_seconds=self.options.row_seconds,
            target_half_width=self.options.target_half_width,
            should_stop=self.report.should_stop,
        )


def _nccl_version() -> str | Absent:
    import torch

    if not torch.distributed.is_nccl_available():
        return NO_NCCL
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
