"""A training loop as anybody would write it, without rigbench: a GPT-2, AdamW, bf16, compiled or not. Prints tokens/s.

python plain_loop.py LAYERS WIDTH HEADS VOCABULARY SEQUENCE MICRO_BATCH SECONDS [--compile]
"""

from __future__ import annotations

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(self.before_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.merge(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class Gpt(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, sequence: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(sequence, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.words(ids) + self.places.weight[: ids.shape[1]])
        logits = functional.linear(self.norm(x), self.words.weight)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def train(sizes: list[int], micro_batch: int, seconds: float, compiled: bool) -> dict[str, float]:
    torch.manual_seed(0)
    vocabulary, sequence = sizes[3:]
    model = Gpt(*sizes).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model
    batches = torch.randint(vocabulary, (8, micro_batch, sequence + 1)).pin_memory()

    def step(index: int) -> torch.Tensor:
        ids = batches[index % len(batches)].to("cuda", non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    began = time.perf_counter()
    first = step(0).item()
    ready = time.perf_counter() - began
    for index in range(1, 6):
        loss = step(index)
    torch.cuda.synchronize()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for index in range(4):
            loss = step(index)
        loss.item()  # the host waits: no queue of steps outlives the clock
        count += 4
    took = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated()
    rate = count * micro_batch * sequence / took
    return {"tokens_per_s": rate, "first_step_s": ready, "steps": count, "peak": peak, "loss": [first, loss.item()]}


if __name__ == "__main__":
    *its, micro, most = sys.argv[1:8]
    print(json.dumps(train([int(word) for word in its], int(micro), float(most), "--compile" in sys.argv)))
