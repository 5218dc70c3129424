"""How much faster than the tutorial's Dataset and DataLoader does our own loader make batches?

    pytest tests/bench/test_bench_loader.py -m bench -s

The same file, warm, the same batch of 16 × 1024 tokens, inputs and labels as int64. Each round times both, in turns of
a fraction of a second, every second round the other way round. Nothing here is a timed assertion.
"""

import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from rigbench.core import stats
from rigbench.model.batches import Batches
from rigbench.model.tokens import zipf_tokens

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
ROUNDS = 30
B, T = 16, 1024
VOCABULARY = 50304


class Tutorial(Dataset):
    """What the usual tutorial has: a memory map, a slice of it for the inputs and one a token later for the labels."""

    def __init__(self, path, sequence):
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.sequence = sequence

    def __len__(self):
        return len(self.tokens) - self.sequence

    def __getitem__(self, start):
        x = torch.from_numpy(self.tokens[start : start + self.sequence].astype(np.int64))
        y = torch.from_numpy(self.tokens[start + 1 : start + 1 + self.sequence].astype(np.int64))
        return x, y


def tokens_per_second(next_batch, batches) -> float:
    started = time.perf_counter()
    for _ in range(batches):
        next_batch()
    return batches * B * T / (time.perf_counter() - started)


def test_our_loader_next_to_the_tutorials(tmp_path, benchmark, capsys):
    tokens, data = zipf_tokens(tmp_path, VOCABULARY)
    ours = Batches(tokens, data.dtype, VOCABULARY, B, T, "cpu", data.name)
    dataset = Tutorial(tmp_path / data.name, T)
    tutorials = {
        workers: iter(DataLoader(dataset, batch_size=B, shuffle=True, num_workers=workers, drop_last=True))
        for workers in (0, 2)
    }
    rates = {name: [] for name in ("ours", *tutorials)}

    def pair() -> None:
        turns = [("ours", ours.next, 2000)]
        turns += [(workers, lambda batches=batches: next(batches), 200) for workers, batches in tutorials.items()]
        for name, next_batch, count in turns if len(rates["ours"]) % 2 else reversed(turns):
            for _ in range(count // 10):
                next_batch()
            rates[name].append(tokens_per_second(next_batch, count))

    pair()  # the workers have started and every page has been touched
    for samples in rates.values():
        samples.clear()
    benchmark.pedantic(pair, rounds=ROUNDS)
    best = max(tutorials, key=lambda workers: stats.median(rates[workers]))
    ratio = stats.paired_ratio(rates["ours"], rates[best])
    benchmark.extra_info.update(
        rates={str(name): samples for name, samples in rates.items()}, ratio=[ratio.value, ratio.low, ratio.high]
    )
    with capsys.disabled():
        medians = {name: f"{stats.median(samples) / 1e6:.0f}M" for name, samples in rates.items()}
        print(
            f"\ntokens/s: ours {medians['ours']}, tutorial {medians[0]} with 0 workers, {medians[2]} with 2; "
            f"ours over the best of them ({best} workers) {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), "
            f"{ROUNDS} pairs"
        )
    assert len(rates["ours"]) == len(rates[0]) == len(rates[2]) == ROUNDS
