"""What strategies do in ranks, step by step: each rank's account of it."""

import itertools

import torch

from rigbench.core.record import Record
from rigbench.model import optim
from rigbench.model.gpt import Decoder
from rigbench.model.record import Shape
from rigbench.train import parallel
from rigbench.work.ranks import join

SHAPE = Shape(
    style="gpt2", layers=2, width=64, heads=2, kv_heads=2, ffn_width=256, vocabulary=128, sequence=16,
    tied_head=True, biases=True,
)  # fmt: skip


class Options(Record, frozen=True, kw_only=True):
    strategies: tuple[str, ...]


class Account(Record, frozen=True):
    """By strategy: losses of whole batches and of halves of them accumulated; what steps apart moved; both scalers."""

    losses: dict[str, tuple[float, ...]]
    accumulated: dict[str, tuple[float, ...]]
    moved_apart: dict[str, float]
    scaled: dict[str, tuple[bool, ...]]


def batches(rank: int):
    """Random tokens, [4, T+1], others for each rank."""
    generator = torch.Generator().manual_seed(1 + rank)
    while True:
        yield torch.randint(SHAPE.vocabulary, (4, SHAPE.sequence + 1), generator=generator)


def built(strategy: str):
    torch.manual_seed(0)
    wrapped = parallel.wrap(Decoder(SHAPE), strategy, "cpu", 1.0)
    return wrapped, optim.build("adamw", wrapped.module, learning_rate=1e-2)


def step(wrapped, optimizer, ids, parts: int = 1, scaler=None) -> float:
    """The mean loss over so many micro-steps."""
    total = 0.0
    for index, part in enumerate(ids.chunk(parts)):
        with wrapped.synchronised(index == parts - 1):
            loss = wrapped.module(part[:, :-1], part[:, 1:]) / parts
            (scaler.scale(loss) if scaler else loss).backward()
        total += float(loss.detach())
    if scaler:
        scaler.unscale_(optimizer)
    wrapped.clip()
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def own(weight):
    return (weight.to_local() if hasattr(weight, "to_local") else weight).detach()


def moved_apart(wrapped, optimizer, source, steps: int) -> float:
    """The share of weights that steps without exchange changed."""
    before = [own(weight).clone() for weight in wrapped.module.parameters()]
    with wrapped.apart():
        for ids in itertools.islice(source, steps):
            step(wrapped, optimizer, ids, parts=2)
    pairs = list(zip(before, wrapped.module.parameters(), strict=True))
    return sum(not torch.equal(old, own(new)) for old, new in pairs) / len(pairs)


def run(options: Options, report, world) -> Account:
    join(world, report, "gloo")
    found = Account({}, {}, {}, {})
    for strategy in options.strategies:
        pair, source = built(strategy), batches(world.rank)
        found.losses[strategy] = tuple(step(*pair, ids) for ids in itertools.islice(source, 3))
        # Rank 0 makes more of them than rank 1: were anything exchanged, one would wait for the other for ever.
        found.moved_apart[strategy] = moved_apart(*pair, source, 3 if world.rank == 0 else 1)
        step(*pair, next(source))
        pair, source = built(strategy), batches(world.rank)
        found.accumulated[strategy] = tuple(step(*pair, ids, parts=2) for ids in itertools.islice(source, 3))
        scaler = torch.amp.GradScaler("cpu")
        step(*pair, next(source), scaler=scaler)
        with pair[0].apart():
            step(*pair, next(source), scaler=scaler)
        found.scaled[strategy] = tuple(bool(own(w).isfinite().all()) for w in pair[0].module.parameters())
    return found
