"""Two CUDA cards that are really this host's memory, so that what is measured between cards runs without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rigbench.machine import cuda_cards
from rigbench.machine import cuda_cards as cards

FREE_BYTES = 64 << 20


class CardsOnCpu:
    """`spoil(destination, source)` copies wrongly; with None copies are right. `refused` pairs have no peer access."""

    spoil: Callable[[torch.Tensor, torch.Tensor], object] | None = None
    refused: tuple[tuple[int, int], ...] = ()

    def free_bytes(self, index: int) -> int:
        return FREE_BYTES

    def cache_bytes(self, index: int) -> int:
        return 1 << 18

    def memory(self, index: int, values: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(values, dtype=dtype)

    def host_memory(self, index: int, values: int, pinned: bool) -> torch.Tensor:
        return torch.empty(values, dtype=torch.int64)

    def stream(self, index: int) -> None:
        return None

    def clock(self, indices: Sequence[int]) -> cuda_cards.Clock:
        clock = cuda_cards.HostClock()
        clock.name = "device"
        return clock

    def host_clock(self, index: int) -> cuda_cards.Clock:
        return cuda_cards.HostClock()

    def may_access(self, one: int, other: int) -> bool:
        return (one, other) not in self.refused

    def peer_copy(self, count: int, peer_access: bool) -> cards.Copy:
        return self.spoil or cards.enqueued
