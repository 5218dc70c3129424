"""Runs one arm in a rank for each GPU: writes read back where they arrive, collectives checked by value, then times.

The first rank makes the copies, since it can name every device; the others wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from rigbench.bandwidth.record import Transfer
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent
from rigbench.core.units import format_bytes
from rigbench.machine.accelerator import Accelerator, cuda_devices, open_device
from rigbench.machine.cuda_cards import Cards, CudaCards
from rigbench.p2p.checks import (
    TorchRanks,
    Writes,
    check_exchange,
    check_writes,
    planned_exchanges,
    planned_writes,
    time_reduces,
)
from rigbench.p2p.record import ArmOptions as Options
from rigbench.p2p.record import P2pRank, ReduceTimes, ValueCheck, Way
from rigbench.work import copies
from rigbench.work.copies import Budget
from rigbench.work.process import Report
from rigbench.work.ranks import World, join, refuse_without_nccl

MEETINGS_BETWEEN = 3  # after the writes, after the collectives, after timing copies


def run(options: Options, report: Report, world: World) -> P2pRank:
    """This rank's part, on its GPU."""
    seen = len(cuda_devices())
    if seen < options.devices:
        raise RigbenchError(
            f"the driver lists {options.devices} GPUs, torch sees {seen}",
            "install a CUDA build of torch that fits the driver",
            NOTHING,
        )
    refuse_without_nccl()
    device = f"cuda:{world.local_rank}"
    accelerator = open_device(device)
    join(world, report, "gloo")
    try:
        return measure(options, report, CudaCards(), TorchRanks(device, "nccl"), accelerator)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        why = f"{device} ran out of memory in the checks, which says nothing of P2P"
        raise RigbenchError(why, "end the program that holds it", NOTHING) from None


def measure(options: Options, report: Report, cards: Cards, ranks: TorchRanks, accelerator: Accelerator) -> P2pRank:
    """The arm, by whatever moves the bytes: all checks first, then what is timed."""
    arm = _Arm(options, report, cards, ranks, accelerator)
    if arm.write() and arm.exchange() and arm.time_copies():
        arm.time_reduces()
    return arm.record("", ())


class _Arm:
    """One rank's part in the making. Each step is announced to the parent before it is made: it may be the last."""

    def __init__(
        self, options: Options, report: Report, cards: Cards, ranks: TorchRanks, accelerator: Accelerator
    ) -> None:
        self.options, self.report, self.cards, self.ranks, self.accelerator = options, report, cards, ranks, accelerator
        self.leads = ranks.rank == 0 and options.copies
        self.access: dict[str, bool] = {}
        self.writes: list[Writes] = []
        for one, other in itertools.combinations(range(options.devices), 2) if ranks.rank == 0 else ():
            ways = {f"cuda:{a} cuda:{b}": cards.may_access(a, b) for a, b in ((one, other), (other, one))}
            self.access |= ways
            # A kernel of one GPU can store into another only where peer access is on, both ways.
            stores = options.peer_access and all(ways.values())
            by: tuple[Way, ...] = ("copy engine", "kernel") if stores else ("copy engine",)
            self.writes += planned_writes((one, other), by, options.write_sizes) if self.leads else ()
        self.exchanges = planned_exchanges(options.devices, options.reduce_sizes)
        self.steps = sum(len(writes.ways) for writes in self.writes)
        self.steps += sum(exchange.concerns(ranks.rank) for exchange in self.exchanges)
        self.meetings = 0
        self.checks, self.copies, self.reduces = list[ValueCheck](), list[Transfer](), list[ReduceTimes]()
        seconds, half_width = options.row_seconds, options.target_half_width
        self.budget = Budget(limit_seconds=seconds, target_half_width=half_width, should_stop=report.should_stop)

    def write(self) -> bool:
        """The writes between every two GPUs, by rank 0. Whether to go on."""
        copy = self.cards.peer_copy(self.options.devices, self.options.peer_access) if self.writes else None
        for writes in self.writes:
            if self.report.should_stop() or copy is None:
                break
            text = f"{writes.text}, {format_bytes(writes.size_bytes)}"
            self._announce(text, writes.ways[0], len(self.checks) / self.steps)
            self.checks += check_writes(self.cards, copy, writes, self.options.rounds)
        return self._go_on("the other ranks, after the writes")

    def exchange(self) -> bool:
        """Collectives and send/recv, by all ranks in step. Whether to go on."""
        for exchange in self.exchanges:
            if not self._go_on(f"{exchange.text}, {format_bytes(exchange.size_bytes)}", exchange.pair or ()):
                return False
            if exchange.concerns(self.ranks.rank):
                self.checks.append(check_exchange(self.ranks, exchange, self.options.rounds))
        return self._go_on("the other ranks, after the collectives")

    def time_copies(self) -> bool:
        """The largest copy one way, back, and both ways at once, by rank 0. Whether to go on."""
        facts = (range(self.options.devices), self.options.peer_access, self.options.copy_bytes)
        for group in copies.plan_peers(self.cards, *facts)[0] if self.leads else ():
            buffers = group.make()
            for label, row in group.rows[-len(copies.WAYS) :]:
                if self.report.should_stop():
                    break
                self._announce(f"timing copies: {label}", (), len(self.copies) / (len(self.copies) + 1))
                self.copies.append(row(buffers, self.budget))
        return self._go_on("the other ranks, after timing copies")

    def time_reduces(self) -> None:
        for size in self.options.reduce_sizes:
            if not self._go_on(f"timing all_reduce, {format_bytes(size)}"):
                return
            self.reduces.append(time_reduces(self.ranks, self.accelerator, size, self.budget))

    def record(self, at: str, devices: Sequence[int]) -> P2pRank:
        nccl: str | Absent = Absent("this torch carries no NCCL")
        if torch.distributed.is_nccl_available():
            nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        return P2pRank(
            rank=self.ranks.rank,
            device=self.accelerator.device,
            nccl_version=nccl,
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

    def _go_on(self, at: str, devices: Sequence[int] = ()) -> bool:
        """All ranks meet, and go on together unless one of them was told to stop."""
        self.meetings += 1
        self._announce(at, devices)
        return not self.ranks.agree(int(self.report.should_stop()))
