"""For a training script that `rigbench watch` runs: tell it each step, in one line.

    from rigbench import hooks
    for batch in loader:
        train(batch)
        hooks.step(tokens=batch.numel())

Without rigbench around it, step does nothing. For Hugging Face's Trainer add `hooks.trainer_callback()` to its
callbacks, for Lightning `hooks.lightning_callback()`; with Accelerate call step where the optimizer steps. Neither is
imported before it is asked for.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

FOLDER = "RIGBENCH_WATCH"  # where a watch keeps its files
MAGIC = b"rigbench"
HEADER, ENTRY = struct.Struct("<8sQQQ"), struct.Struct("<dd")  # magic, capacity, steps so far, own nanoseconds
CAPACITY = 1 << 16
_clock, _own_clock = time.monotonic, time.perf_counter_ns


class _Writer:
    """Steps in a file that rigbench reads: a header, then a ring of (seconds, tokens). Writing is a store to memory."""

    def __init__(self, path: str) -> None:
        import mmap

        size = HEADER.size + CAPACITY * ENTRY.size
        with open(path, "w+b", buffering=0) as file:
            file.write(bytes(size))  # all of it: a disk that is full says so now, and not by a SIGBUS at a step
            self._memory = mmap.mmap(file.fileno(), size)
        self._count = self._own = 0
        HEADER.pack_into(self._memory, 0, MAGIC, CAPACITY, 0, 0)

    def step(self, tokens: float) -> None:
        begun = _own_clock()
        ENTRY.pack_into(self._memory, HEADER.size + self._count % CAPACITY * ENTRY.size, _clock(), tokens)
        self._count += 1
        self._own += _own_clock() - begun
        HEADER.pack_into(self._memory, 0, MAGIC, CAPACITY, self._count, self._own)


_writer: _Writer | bool | None = None  # False: nobody watches, or the file cannot be had


def step(tokens: float | None = None) -> None:
    """One optimizer step is done; `tokens` is what this process trained in it, all micro-batches together."""
    global _writer
    if _writer is False:
        return
    if _writer is None:
        _writer = _open()
        if not _writer:
            return
    try:
        counted = float("nan" if tokens is None else tokens)
    except (TypeError, ValueError, OverflowError):  # a step all the same
        counted = float("nan")
    _writer.step(counted)  # type: ignore[union-attr]


def _open() -> _Writer | bool:
    """A file of this process. Whatever goes wrong here must not end anybody's training."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return False
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    try:
        return _Writer(os.path.join(folder, f"steps.{int(rank)}.{os.getpid()}"))
    except (OSError, ValueError):
        return False


def trainer_callback(tokens_per_step: float | None = None) -> Any:
    """A callback for transformers.Trainer: its steps, and the tokens of this process where the trainer counts them.

    The trainer counts where its arguments have include_num_input_tokens_seen; else give `tokens_per_step`, this
    process's.
    """
    from transformers import TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        seen = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = float(getattr(state, "num_input_tokens_seen", 0) or 0)
            tokens, self.seen = now - self.seen if now > self.seen else None, max(now, self.seen)
            # what it counts is that of all processes
            step(tokens_per_step if tokens is None else tokens / max(1, getattr(args, "world_size", 1)))

    return Callback()


def lightning_callback(tokens_per_step: float | None = None) -> Any:
    """A callback for Lightning's Trainer: a step for each optimizer step, with the tokens of this process if given."""
    try:
        from lightning.pytorch import Callback as Base
    except ImportError:
        from pytorch_lightning import Callback as Base

    class Callback(Base):  # type: ignore[misc]
        before = 0

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            if trainer.global_step > self.before:
                self.before = trainer.global_step
                step(tokens_per_step)

    return Callback()
