"""Trainings as people start them, for test_real_trainings.py: `python real_trainings.py NAME [hook]`.

Each is tiny, trains for real, and tells at its end what it counted by its own clock: `own rate TOKENS_PER_S`, of all
ranks, from the end of its first tenth to its end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

VOCABULARY, SEQUENCE, MICRO_BATCH, STEPS = 128, 64, 4, 120
STEP_SECONDS = 0.08  # at least: so that a busy machine's moods are a small part of it


class Own:
    """A program's own count of tokens a second."""

    def __init__(self, ranks: int = 1) -> None:
        self._marks: list[float] = []
        self._tokens = MICRO_BATCH * SEQUENCE * ranks

    def step(self) -> None:
        self._marks.append(time.perf_counter())

    def tell(self) -> None:
        kept = self._marks[STEPS // 10 :]
        print(f"own rate {self._tokens * (len(kept) - 1) / (kept[-1] - kept[0]):.2f}", flush=True)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch.nn.Sequential(torch.nn.Embedding(VOCABULARY, 32), torch.nn.Linear(32, VOCABULARY))


def batches() -> Iterator[torch.Tensor]:
    for _ in range(STEPS):
        yield torch.randint(VOCABULARY, (MICRO_BATCH, SEQUENCE))


def loss_of(net: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def plain(hook: bool) -> None:
    """A loop of one's own, with nanoGPT's lines or the hook; under torchrun, of two ranks over gloo."""
    from rigbench import hooks

    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    net = model()
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        net = torch.nn.parallel.DistributedDataParallel(net)
    optimizer, own = torch.optim.AdamW(net.parameters()), Own(ranks)
    if rank == 0:
        print(f"tokens per iteration will be: {MICRO_BATCH * SEQUENCE * ranks:,}", flush=True)
    before = time.perf_counter()
    for step, ids in enumerate(batches()):
        loss = loss_of(net, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(STEP_SECONDS)
        own.step()
        now = time.perf_counter()
        if hook:
            hooks.step(tokens=ids.numel())
        elif rank == 0:
            print(f"iter {step}: loss {loss.item():.4f}, time {(now - before) * 1e3:.2f}ms", flush=True)
        before = now
    if rank == 0:
        own.tell()
    if ranks > 1:
        torch.distributed.destroy_process_group()


def accelerated(hook: bool) -> None:
    """Accelerate's way; the hook where its optimizer steps."""
    from accelerate import Accelerator

    from rigbench import hooks

    its = Accelerator(cpu=True)
    net = model()
    net, optimizer = its.prepare(net, torch.optim.AdamW(net.parameters()))
    own = Own(its.num_processes)
    for step, ids in enumerate(batches()):
        loss = loss_of(net, ids)
        its.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(STEP_SECONDS)
        own.step()
        if hook:
            hooks.step(tokens=ids.numel())
        else:
            its.print(f"step {step} | loss {loss.item():.4f}", flush=True)
    if its.is_main_process:
        own.tell()


def trainer(hook: bool) -> None:
    """Hugging Face's Trainer, with its bar and its dicts, or the callback."""
    import transformers

    from rigbench import hooks

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return STEPS * MICRO_BATCH

        def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
            time.sleep(STEP_SECONDS / MICRO_BATCH)
            ids = torch.randint(VOCABULARY, (SEQUENCE,))
            return {"input_ids": ids, "labels": ids}

    own = Own()

    class Count(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            own.step()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=SEQUENCE, n_embd=32, n_layer=1, n_head=2)
    arguments = transformers.TrainingArguments(
        output_dir=os.environ.get("REAL_TRAINING_OUT", "out"),
        per_device_train_batch_size=MICRO_BATCH,
        max_steps=STEPS,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        include_num_input_tokens_seen=hook,
    )
    callbacks: list[Any] = [Count(), *([hooks.trainer_callback()] if hook else [])]
    transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config), args=arguments, train_dataset=Rows(), callbacks=callbacks
    ).train()
    own.tell()


def lightning(hook: bool) -> None:
    """Lightning's Trainer, with its bar or the callback."""
    import lightning.pytorch as pl

    from rigbench import hooks

    own = Own()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def training_step(self, ids: torch.Tensor, _: int) -> torch.Tensor:
            time.sleep(STEP_SECONDS)
            return loss_of(self.net, ids[0])

        def on_train_batch_end(self, *_: Any) -> None:
            own.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    callbacks = [hooks.lightning_callback(MICRO_BATCH * SEQUENCE)] if hook else []
    rows = torch.utils.data.TensorDataset(torch.randint(VOCABULARY, (STEPS, MICRO_BATCH, SEQUENCE)))
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=callbacks,
    ).fit(Module(), torch.utils.data.DataLoader([row[0][None] for row in rows], batch_size=None))
    own.tell()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2:] == ["hook"])
