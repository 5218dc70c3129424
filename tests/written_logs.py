"""Writes logs as training programs write them, of a run whose truth is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate

BATCH, SEQUENCE, DEVICES = 64, 1024, 4


@dataclass
class Training:
    """What really happened: the seconds of each step from `first` on, and what an evaluation after a step took."""

    seconds: list[float]
    first: int = 1
    tokens: int = BATCH * SEQUENCE
    breaks: dict[int, float] = field(
        default_factory=dict
    )  # seconds of an evaluation after a step, which is not training

    def ends(self) -> Iterator[tuple[int, float, float, float]]:
        """Each step: its number, its seconds, training seconds so far, wall seconds so far."""
        paused = 0.0
        for index, (own, so_far) in enumerate(zip(self.seconds, accumulate(self.seconds), strict=True)):
            step = self.first + index
            yield step, own, so_far, so_far + paused
            paused += self.breaks.get(step, 0.0)

    @property
    def rate(self) -> float:
        return self.tokens * len(self.seconds) / sum(self.seconds)


def steady(
    steps: int = 60, seconds: float = 1.25, first: int = 1, jitter: float = 0.01, seed: int = 0, **more
) -> Training:
    draw = random.Random(seed)
    return Training([seconds * (1 + draw.uniform(-jitter, jitter)) for _ in range(steps)], first, **more)


def _date(at: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return (datetime(2026, 3, 1, 9, 0) + timedelta(seconds=at)).strftime(form)


def _hms(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _bar(seconds: float) -> str:
    whole = int(seconds)
    return (
        f"{whole // 60:02d}:{whole % 60:02d}"
        if whole < 3600
        else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    )


def nanogpt(it: Training) -> Iterator[str]:
    yield f"tokens per iteration will be: {it.tokens:,}"
    yield "found vocab_size = 50304 (inside data/meta.pkl)"
    yield "number of parameters: 123.59M"
    for step, own, _, _ in it.ends():
        if step % 25 == 0:
            yield f"step {step}: train loss 3.2000, val loss 3.3000"
            yield "saving checkpoint to out"
        if step % 5 == 0:
            yield f"iter {step}: loss 3.2185, time {own * 1e3:.2f}ms, mfu 29.50%"


def llama2c(it: Training) -> Iterator[str]:
    yield f"tokens per iteration will be: {it.tokens:,}"
    yield f"breaks down as: 4 grad accum steps * 1 processes * 16 batch size * {SEQUENCE} max seq len"
    for step, own, _, _ in it.ends():
        if step % 5 == 0:
            yield f"{step} | loss 3.2185 | lr 5.000000e-04 | {own * 1e3:.2f}ms | mfu 12.30%"


def llmc(it: Training) -> Iterator[str]:
    yield "| parameter             | value                                              |"
    yield "allocating 1439 MiB for activations"
    smooth = 0.0
    for step, own, _, _ in it.ends():
        smooth = 0.95 * smooth + 0.05 * it.tokens / own
        rate = smooth / (1 - 0.95 ** (step - it.first + 1))
        if step % 20 == 0:
            yield "val loss 3.301"
        yield (
            f"step {step:4d}/19560 | loss 3.218513 (+0.12z)| norm 0.3021 (-0.33z)| lr 6.00e-04 | {own * 1e3:.2f} ms | "
            f"42.6% bf16 MFU | {rate:.0f} tok/s"
        )


def llmc_torch(it: Training) -> Iterator[str]:
    for step, own, _, _ in it.ends():
        yield (
            f"step {step:4d}/500 | train loss 3.218513 | norm 0.3021 | lr 6.00e-04 | ({own * 1e3:.2f} ms | "
            f"{it.tokens / own:.0f} tok/s)"
        )


def speedrun(it: Training) -> Iterator[str]:
    yield "import torch"
    yield "train_steps = 60; for step in range(train_steps + 1): pass"
    for step, _, so_far, _ in it.ends():
        average = so_far / (step - it.first + 1)
        yield f"step:{step}/600 train_loss:3.2185 train_time:{so_far * 1e3:.0f}ms step_avg:{average * 1e3:.2f}ms"
        if step % 20 == 0:
            yield f"step:{step}/600 val_loss:3.3013 train_time:{so_far * 1e3:.0f}ms step_avg:{average * 1e3:.2f}ms"


def nanochat(it: Training) -> Iterator[str]:
    yield f"Total batch size {it.tokens:,} => gradient accumulation steps: 2"
    yield f"Tokens / micro-batch / rank: 32 x 2048 = {it.tokens // 2:,}"
    for step, own, so_far, _ in it.ends():
        yield (
            f"step {step:05d}/21400 ({step / 214:.2f}%) | loss: 3.218513 | lrm: 1.00 | dt: {own * 1e3:.2f}ms | "
            f"tok/sec: {int(it.tokens / own):,} | mfu: 47.21 | total time: {so_far / 60:.2f}m"
        )


def litgpt(it: Training) -> Iterator[str]:
    iteration = 4 * (it.first - 1)
    for step, own, _, _ in it.ends():
        for part in range(4):
            iteration += 1
            ends = part == 3
            share = 0.31 if ends else 0.23
            yield (
                f"Epoch 1 | iter {iteration} step {step if ends else step - 1} | loss train: 3.219, val: n/a | "
                f"iter time: {own * share * 1e3:.2f} ms{' (step)' if ends else ''} remaining time: 0:40:00"
            )
        if step % 20 == 0:
            yield f"iter {iteration}: val loss 3.3013, val time: 4210.20 ms"


def litgpt_csv(it: Training) -> Iterator[str]:
    yield "epoch,iter,iter_time,learning_rate,loss,remaining_time,step,time,tokens,total_tokens,val_loss"
    for step, own, _, wall in it.ends():
        if step % 5 == 0:
            own_tokens = step * it.tokens // DEVICES
            yield f"0,{4 * step},{own * 0.31:.5f},0.0004,3.21,1000.5,{step},{wall:.4f},{own_tokens},{step * it.tokens},"
        if step % 20 == 0:
            yield f",,,,,,{step},,,,3.3"


def megatron(it: Training) -> Iterator[str]:
    yield f"  seq_length ...................................... {SEQUENCE}"
    yield f"  global_batch_size ............................... {BATCH}"
    yield "  train_iters ..................................... 500"
    since: list[float] = []
    for step, own, _, wall in it.ends():
        since.append(own)
        if step % 5 == 0:
            mean = sum(since) / len(since)
            since = []
            yield (
                f" [{_date(wall)}] iteration {step:8d}/     500 | consumed samples: {step * BATCH:12d} | elapsed time per "
                f"iteration (ms): {mean * 1e3:.1f} | throughput per GPU (TFLOP/s/GPU): 188.0 | learning rate: 1.2E-04 | "
                f"global batch size: {BATCH:5d} | lm loss: 2.25E+00 | loss scale: 1.0 | grad norm: 0.800 |"
            )
        if step % 20 == 0:
            yield "-" * 100
            yield f" validation loss at iteration {step} | lm loss value: 2.3E+00 | lm loss PPL: 9.97E+00 | "


def titan(it: Training) -> Iterator[str]:
    def line(at: float, text: str) -> str:
        return f"[rank0]:[titan] {_date(at)},{int(at % 1 * 1000):03d} - root - INFO - {text}"

    yield line(0, "Building 1-D device mesh with ['dp_shard'], [4]")
    yield line(
        0, f"Training starts at step 1, with local batch size 16, global batch size {BATCH}, sequence length {SEQUENCE}, "
        "total steps 500 (warmup 2)",
    )  # fmt: skip
    since, tokens = 0.0, 0
    for step, own, _, wall in it.ends():
        since, tokens = since + own, tokens + it.tokens // DEVICES
        if step % 5 == 0:
            rate, since, tokens = tokens / since, 0.0, 0
            yield line(
                wall,
                f"\x1b[31mstep: {step:2d}  \x1b[32mloss:  3.21850  \x1b[38;2;180;60;0mgrad_norm:  0.3021  \x1b[38;2;54;234;195m"
                f"memory: 41.30GiB(52.10%)  \x1b[34mtps: {rate:,.0f}  \x1b[36mtflops: 201.50  \x1b[35mmfu: 20.37%\x1b[39m",
            )
        if step % 20 == 0:
            yield line(
                wall, f"\x1b[33mvalidate step: {step:2d}  loss: 3.30  memory: 41.30GiB(52.10%)  tps: 99,340\x1b[39m"
            )


def titan_2024(it: Training) -> Iterator[str]:
    since = 0.0
    for step, own, _, wall in it.ends():
        since += own
        if step % 5 == 0:
            rate, since = 5 * it.tokens / DEVICES / since, 0.0
            yield (
                f"[rank0]:{_date(wall)},{int(wall % 1 * 1000):03d} - root - INFO - \x1b[36mstep: {step:2d}  \x1b[32mloss: 8.1234  "
                f"\x1b[33mmemory: 39.21GiB(41.28%)  \x1b[34mwps: {rate:,.0f}  \x1b[35mmfu: 30.35%\x1b[39m"
            )


def hf(it: Training) -> Iterator[str]:
    yield "\rMap:  50%|#####     | 500/1000 [00:01<00:01, 480.00 examples/s]\rMap: 100%|##| 1000/1000 [00:02<00:00, 480.00 examples/s]"
    line = "  0%|          | 0/500 [00:00<?, ?it/s]"
    for step, own, _, wall in it.ends():
        line += f"\r {step // 5}%|###       | {step}/500 [{_bar(wall)}<43:27,  {own:.2f}s/it]"
        if step % 5 == 0:
            yield line
            yield str(
                {
                    "loss": 3.2185,
                    "grad_norm": 0.3,
                    "learning_rate": 0.0001,
                    "num_tokens": step * it.tokens * 1.0,
                    "epoch": 0.1,
                }
            )
            line = ""
        if step % 20 == 0:
            for shard in range(9):
                line += f"\r {shard}%|#     | {shard}/9 [00:0{shard // 4}<00:02,  3.90it/s]\x1b[A"
    yield line


def factory(it: Training) -> Iterator[str]:
    for step, _, _, wall in it.ends():
        if step % 5 == 0:
            steps = step - it.first + 1
            yield json.dumps(
                {"current_steps": step, "total_steps": 500, "loss": 3.2, "lr": 1e-4, "epoch": 0.1, "percentage": step / 5,
                 "elapsed_time": _hms(wall), "remaining_time": "1:00:00",
                 "throughput": round(steps * it.tokens / wall, 2), "total_tokens": step * it.tokens}
            )  # fmt: skip
        if step % 20 == 0:
            yield json.dumps({"current_steps": step, "total_steps": 500, "eval_loss": 3.3, "elapsed_time": _hms(wall)})


def deepspeed(it: Training) -> Iterator[str]:
    for step, own, _, wall in it.ends():
        if step % 5 == 0:
            date = f"[{_date(wall)},{int(wall % 1 * 1000):03d}] [INFO]"
            yield f"{date} [logging.py:96:log_dist] [Rank 0] step={step}, skipped=0, lr=[0.0001, 0.0001], mom=[(0.9, 0.95)]"
            yield (
                f"{date} [timer.py:260:stop] epoch=0/micro_step={4 * step}/global_step={step}, RunningAvgSamplesPerSec=50.1, "
                f"CurrSamplesPerSec={BATCH / own}, MemAllocated=4.32GB, MaxMemAllocated=38.49GB"
            )


def pipeline(it: Training) -> Iterator[str]:
    for step, own, _, _ in it.ends():
        yield f"steps: {step} loss: 3.2185 iter time (s): {own:0.3f} samples/sec: {BATCH / own:0.3f}"


def nemo(it: Training) -> Iterator[str]:
    for step, own, _, _ in it.ends():
        yield (
            f"Training epoch 0, iteration {step}/499 | lr: 1.961e-06 | global_batch_size: {BATCH} | global_step: {step} | "
            f"reduced_train_loss: 3.218 | train_step_timing in s: {own:.4g} | consumed_samples: {(step + 1) * BATCH}"
        )


def nemo_bar(it: Training) -> Iterator[str]:
    line = ""
    for step, own, _, wall in it.ends():
        line += (
            f"\rEpoch 0: :  10%|█         | {step}/500 [{_bar(wall)}<10:48, v_num=1, reduced_train_loss=3.21, "
            f"global_step={step - 1}.00, consumed_samples={step * BATCH}.0, train_step_timing in s={own:.3f}]"
        )
    yield line


def olmo(it: Training) -> Iterator[str]:
    for step, own, _, wall in it.ends():
        if step % 5 == 0:
            yield f"{_date(wall)}.{int(wall % 1 * 1000):03d}\thost:0\tolmo.train:968\tINFO\t[step={step}/500,epoch=0]"
            yield "    optim/total_grad_norm=0.3021"
            yield "    train/CrossEntropyLoss=3.219"
            yield "    train/Perplexity=24.99"
            yield f"    throughput/total_tokens={step * it.tokens:,}"
            yield f"    throughput/device/tokens_per_second={it.tokens / DEVICES / own:,.0f}"
            yield "    throughput/device/batches_per_second=0.7995"


def olmo_core(it: Training) -> Iterator[str]:
    for step, own, _, wall in it.ends():
        if step % 5 == 0:
            yield f"{_date(wall)}.{int(wall % 1 * 1000):03d}\thost:0\tolmo_core.callbacks:85\tINFO\t[step={step}/500,epoch=1,eta=1:02:03]"
            yield "    optim/total grad norm=0.3021"
            yield "    throughput/device/BPS=0.7995"
            yield "    throughput/device/BPS (actual avg)=0.7901"
            yield f"    throughput/device/TPS={it.tokens / DEVICES / own:,.0f}"
            yield f"    throughput/device/TPS (actual avg)={it.tokens / DEVICES / own * 0.97:,.0f}"
            yield f"    throughput/total tokens={step * it.tokens:,}"
            yield "    train/CE loss=3.219"


def torchtune(it: Training) -> Iterator[str]:
    for step, own, _, _ in it.ends():
        yield f"Step {step} | loss:3.2185 lr:2e-05 tokens_per_second_per_gpu:{it.tokens / own:.3f} peak_memory_active:21.5"


def wandb_csv(it: Training) -> Iterator[str]:
    yield "_step,_runtime,_timestamp,train/loss,train/global_step,eval/loss"
    calls = 0
    for step, _, _, wall in it.ends():
        if step % 5 == 0:
            yield f"{calls},{wall + 3.1:.3f},{1740819120.5 + wall:.3f},3.2185,{step},"
            calls += 1
        if step % 20 == 0:
            yield f"{calls},{wall + 3.9:.3f},{1740819121.3 + wall:.3f},,,3.3"
            calls += 1


def wandb_api(it: Training) -> Iterator[str]:
    records = [
        {
            "_step": index,
            "_runtime": wall + 3.1,
            "_timestamp": 1740819120.5 + wall,
            "train/loss": 3.2,
            "train/global_step": step,
        }
        for index, (step, _, _, wall) in enumerate(it.ends())
        if step % 5 == 0
    ]
    yield json.dumps(records)


def lightning_csv(it: Training) -> Iterator[str]:
    yield "epoch,lr-AdamW,step,time,train_loss,val_loss"
    for step, _, _, wall in it.ends():
        if step % 5 == 0:
            yield f"0,0.0001,{step},{wall:.4f},3.2185,"
        if step % 20 == 0:
            yield f"0,,{step},,,3.3"


def plain(it: Training) -> Iterator[str]:
    for step, own, _, _ in it.ends():
        yield f"step {step}: loss 3.21, time {own:.3f}s, {it.tokens / own:,.0f} tokens/sec"


def dates_alone(it: Training) -> Iterator[str]:
    for step, _, _, wall in it.ends():
        yield f"{_date(wall, '%m/%d/%Y %H:%M:%S')} - INFO - __main__ -   step {step} loss 3.2185"


Writer = Callable[[Training], Iterator[str]]
# Each with the format that it is read as, and whether it tells its tokens itself.
WRITERS: dict[str, tuple[Writer, str, bool]] = {
    "nanogpt": (nanogpt, "nanoGPT", True),
    "llama2c": (llama2c, "llama2.c", True),
    "llmc": (llmc, "llm.c", True),
    "llmc_torch": (llmc_torch, "text", True),
    "speedrun": (speedrun, "modded-nanogpt", False),
    "nanochat": (nanochat, "nanochat", True),
    "litgpt": (litgpt, "litgpt", False),
    "litgpt_csv": (litgpt_csv, "litgpt metrics.csv", True),
    "megatron": (megatron, "Megatron-LM", True),
    "titan": (titan, "torchtitan", True),
    "titan_2024": (titan_2024, "torchtitan of 2024", False),
    "hf": (hf, "Hugging Face Trainer, trl, axolotl", True),
    "factory": (factory, "LLaMA-Factory trainer_log.jsonl", True),
    "deepspeed": (deepspeed, "DeepSpeed", False),
    "pipeline": (pipeline, "DeepSpeed pipeline", False),
    "nemo": (nemo, "NeMo", False),
    "nemo_bar": (nemo_bar, "NeMo", False),
    "olmo": (olmo, "OLMo", True),
    "olmo_core": (olmo_core, "OLMo-core", True),
    "wandb_csv": (wandb_csv, "W&B history", False),
    "wandb_api": (wandb_api, "W&B history", False),
    "lightning_csv": (lightning_csv, "Lightning metrics.csv", False),
    "plain": (plain, "text", True),
    "dates_alone": (dates_alone, "text", False),
    "torchtune": (torchtune, "torchtune", True),
}
