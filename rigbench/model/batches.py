"""How does a training step get its next batch? Random blocks of a token file, labels shifted by one, made ahead."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from rigbench.model.gather import Gatherer
from rigbench.model.tokens import Dtype, check_ids

if TYPE_CHECKING:
    import torch

    from rigbench.model.gather import Starts, Tokens

DRAWN_AT_ONCE = 4096  # starts: a call to the generator costs as much as half a gather
AHEAD = 3  # batches that a GPU's thread may be ahead: one on its way to the device, one ready, one being made


class Batches:
    """Random windows of a token array as (inputs, targets), both int64 [B, T] on the device, fixed by the seed.

    A batch is the caller's to keep. For a GPU a thread makes the next ones, in pinned memory. On a CPU `ahead` is off
    unless asked for: a batch takes 0.03 % of even a 5M model's step there, and the thread would take its time from the
    cores that train. Close it (or use `with`) to end the thread.
    """

    def __init__(
        self,
        tokens: Tokens,
        dtype: Dtype,
        vocabulary: int,
        micro_batch: int,
        sequence: int,
        device: str,
        name: str,
        *,
        seed: int = 1,
        pinned: bool = True,
        ahead: bool | None = None,
    ) -> None:
        import numpy as np

        self.tokens, self.dtype, self.vocabulary, self.name = tokens, dtype, vocabulary, name
        self.micro_batch, self.sequence, self.device = micro_batch, sequence, device
        self._on_gpu = device != "cpu"
        self._pinned = pinned and self._on_gpu
        self._random = np.random.default_rng(seed)
        self._starts = self._draw()
        self._gather = Gatherer(tokens, name, micro_batch, sequence + 1)
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[_Slot]] = deque()
        if self._on_gpu if ahead is None else ahead:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
            self._ahead.extend(self._pool.submit(self._fill, self._slot()) for _ in range(AHEAD))

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, if there is one; there is no next batch after this."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch.

        Raises:
            RigbenchError: an id beyond the vocabulary, in a part of a large file that was not scanned up front; or
                the file shrank or cannot be read any more.
        """
        import numpy as np
        import torch

        if self._pool is None and not self._on_gpu:
            ids = self._rows().astype(np.int64)  # B, T+1
            return torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])
        if self._pool is None:
            block = self._sent(self._fill(self._slot()))
        else:
            slot = self._ahead.popleft().result()
            block = self._sent(slot)
            self._ahead.append(self._pool.submit(self._fill, slot))
        return block[:, :-1], block[:, 1:]

    def _rows(self) -> Tokens:
        """The ids of the next batch, [B, T+1], in a buffer that the next call overwrites."""
        rows = self._gather(self._next_starts())
        if int(rows.max()) >= self.vocabulary:
            check_ids(rows.reshape(-1), self.vocabulary, f"{self.name} (a batch of it)", self.dtype)
        return rows

    def _next_starts(self) -> Starts:
        if len(self._starts) < self.micro_batch:
            self._starts = self._draw()
        starts, self._starts = self._starts[: self.micro_batch], self._starts[self.micro_batch :]
        return starts

    def _draw(self) -> Starts:
        rounds = max(1, DRAWN_AT_ONCE // self.micro_batch)
        return self._random.integers(0, self.tokens.size - self.sequence, size=rounds * self.micro_batch)

    def _slot(self) -> _Slot:
        import torch

        return _Slot(
            torch.empty((self.micro_batch, self.sequence + 1), dtype=torch.int64, pin_memory=self._pinned),
            torch.cuda.Event() if self._on_gpu else None,  # type: ignore[no-untyped-call]
        )

    def _fill(self, slot: _Slot) -> _Slot:
        import numpy as np

        if slot.sent:
            slot.sent.synchronize()  # the copy out of this buffer; returns at once where none was made
        np.copyto(slot.block.numpy(), self._rows())
        return slot

    def _sent(self, slot: _Slot) -> torch.Tensor:
        """The block in the device's memory, [B, T+1], its copy queued before whatever is asked of the device next."""
        if slot.sent is None:
            return slot.block.clone()
        block = slot.block.to(self.device, non_blocking=True)
        slot.sent.record()
        return block


class _Slot:
    """A host buffer, int64 [B, T+1], and the event after the last copy out of it."""

    def __init__(self, block: torch.Tensor, sent: torch.cuda.Event | None) -> None:
        self.block, self.sent = block, sent
