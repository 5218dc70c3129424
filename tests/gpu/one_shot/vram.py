"""Does a training step take the memory that was predicted? Every arm and size in a process of its own.

The step is written here anew, around rigbench's model alone: two steps, then the allocator's own peaks. Processes are
forked from one that has loaded torch and touched no card, so that an arm costs a context and not an import, and the
weights are drawn where they are trained. What is predicted is worked out beside the first arms.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import msgspec
import torch

from one_shot import driver
from one_shot.piece import Piece
from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.model import counts, optim, shape
from rigbench.model.gpt import INIT_STD, Decoder, rope_tables
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.predict import cards, memory, traces

LEAST, MOST = 0.99, 1.03  # predicted over measured: what this project promises of eager arms
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"checkpoint_every": 1},
    {"accumulation": 2},
    {"micro_batch": 1},
    {"micro_batch": 32},
    {"precision": "bf16-pure"},
    {"loss_chunks": 8},
    {"precision": "fp32"},
    {"optimizer": "adamw8bit"},
    {"checkpoint_every": 3},
    {"checkpoint_every": 1, "loss_chunks": 8},
    {"optimizer": "adamw-foreach"},
    {"optimizer": "paged-adamw8bit"},
)
SIZES = (("15M", "diy", 8), ("500M", "llama", 2), ("120M", "diy", 12))
TINY_SHAPE = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "ffn_width": 256, "vocabulary": 512, "sequence": 32}
ARM_BYTES, MOST_AT_ONCE = 34 << 30, 4  # what the largest arm takes, its context included: so many arms at once fit


def eight_bit(model: torch.nn.Module, name: str) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    return (AdamW8bit if name == "adamw8bit" else PagedAdamW8bit)(model.parameters())


def drawn(its: Shape, way: Recipe) -> Decoder:
    """The model on the card, its weights in the order of its modules, and nothing else made there on the way."""
    with torch.device("meta"):
        model = Decoder(its, way.checkpoint_every, way.loss_chunks)
    if way.precision == "bf16-pure":
        model = model.bfloat16()
    model = model.to_empty(device="cuda")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(std=INIT_STD)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for table, values in zip((model.cos, model.sin), rope_tables(its), strict=True):
            table.copy_(values)
    return model


def steps(its: Shape, way: Recipe) -> dict[str, int]:
    """Two steps of a recipe: bytes that the allocator gave out and held at most, and those beside it."""
    torch.cuda.init()
    model = drawn(its, way)
    if way.optimizer.endswith("8bit"):
        optimizer = eight_bit(model, way.optimizer)
    else:
        optimizer = optim.build("adamw", model)
        for group in optimizer.param_groups:
            group.update(fused=way.optimizer == "adamw", foreach=way.optimizer == "adamw-foreach")
    half = torch.autocast("cuda", torch.bfloat16, enabled=way.precision == "bf16")
    for _ in range(2):
        for _ in range(way.accumulation):
            block = torch.randint(its.vocabulary, (way.micro_batch, its.sequence + 1), device="cuda")
            with half:
                loss = model(block[:, :-1], block[:, 1:])
            loss.backward()
            del loss, block
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    beside = total - free - torch.cuda.memory_reserved()
    return {"allocated": allocated, "reserved": reserved, "beside": beside, "total": total}


def used_before() -> int | str:
    """Bytes of the card that programs hold, or why that is not told."""
    return driver.answers().get("used_bytes", "not asked")


def predictions(wanted: list[tuple[Shape, Recipe]]) -> list[dict[str, float]]:
    gpus = Nvml.live().gpus()
    assert not isinstance(gpus, Absent), gpus.reason
    card = gpus[0]
    assert isinstance(card.name, str)
    assert isinstance(card.memory_total_bytes, int)
    profile = profiles.match_gpu(None, card.name, card.memory_total_bytes)
    target = cards.of_gpus([msgspec.structs.replace(card, profile=profile)])
    predictor, found = memory.Predictor(traces.Traces(None)), []
    for its, way in wanted:
        one = predictor.predict(counts.describe(its, "asked"), way, target)
        low, high = target.context.ends
        bytes_of = {"allocated": one.allocated_bytes, "reserved": one.reserved_bytes}
        found.append(bytes_of | {"context_low": low, "context_high": high, "usable": target.usable.value})
    return found


def _child(to: Connection, work: Any, words: tuple[Any, ...]) -> None:
    try:
        to.send(work(*words))
    except Exception as error:  # noqa: BLE001 # a worker's boundary: the parent makes a row of it
        lines = str(error).strip().splitlines() or [""]
        to.send(f"{type(error).__name__}: {lines[0]}")


def started(work: Any, words: tuple[Any, ...]) -> tuple[Connection, ForkProcess]:
    """Where what `work` returns will come from, and the process that does it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, words), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def forked(work: Any, jobs: Sequence[tuple[Any, ...]], most: int = 1) -> Iterator[tuple[int, Any]]:
    """(place in `jobs`, what `work` returned for it in a process of its own, or a line on how that ended).

    Of `most` at once.
    """
    waiting, running = list(enumerate(jobs)), dict[Any, tuple[int, ForkProcess]]()
    while waiting or running:
        while waiting and len(running) < most:
            place, words = waiting.pop(0)
            ours, process = started(work, words)
            running[ours] = place, process
        for ours in wait(list(running)):
            place, process = running.pop(ours)
            try:
                answer = ours.recv()
            except EOFError:
                answer = ""
            process.join()
            yield place, answer or f"died with exit code {process.exitcode}"


def asked(tiny: bool) -> list[tuple[str, Shape, Recipe, dict[str, Any]]]:
    """Every way of one size, then of the others: what is most telling comes first."""
    if tiny:
        its = msgspec.structs.replace(shape.model_named("5M", "diy").shape, **TINY_SHAPE)
        ways = ({}, {"checkpoint_every": 1}, {"optimizer": "adamw8bit"})
        return [("tiny", its, Recipe(**{"precision": "bf16", "micro_batch": 2, **way}), way) for way in ways]
    models = [(name, shape.model_named(name, series).shape, batch) for name, series, batch in SIZES]
    return [
        (name, its, Recipe(**{"precision": "bf16", "micro_batch": batch, **way}), way)
        for name, its, batch in models
        for way in WAYS
        if "micro_batch" not in way or batch == SIZES[0][2]
    ]


def at_once(total_bytes: int) -> int:
    """How many arms the memory and the processors are enough for."""
    return max(1, min(MOST_AT_ONCE, total_bytes // ARM_BYTES, (os.cpu_count() or 1) // 2))


def measured(piece: Piece, jobs: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """The first arm alone on the card, whose bytes beside the allocator are its context; then others while time is."""
    ((_, first),) = forked(steps, jobs[:1])
    yield 0, first
    rest = () if isinstance(first, str) else forked(steps, jobs[1:], at_once(first["total"]))
    for place, one in rest:
        if not isinstance(one, str):
            del one["beside"]  # the memory of others is in it
        yield place + 1, one
        if piece.left_seconds() < 5.0:
            return


def as_known(ahead: Connection, found: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any, Any]]:
    """Each of `found` with what comes `ahead` for it, once that is there; it may be a line on why nothing does."""
    waiting, predicted = list[tuple[int, Any]](), None
    for one in found:
        waiting.append(one)
        if predicted is None and ahead.poll():
            predicted = ahead.recv()
        if predicted is not None:
            yield from ((place, it, predicted) for place, it in waiting)
            waiting.clear()
    if waiting:
        predicted = ahead.recv() if ahead.poll(3.0) else "the predictions took too long"
        yield from ((place, it, predicted) for place, it in waiting)


def of_the_card(piece: Piece, first: dict[str, int], said: dict[str, float], others: int) -> None:
    low, high = said["context_low"], said["context_high"]
    context = first["beside"] - others
    words = f"context {context / 2**20:.0f} MiB (beside {others / 2**20:.0f} of others), predicted "
    piece.learn(f"{words}{low / 2**20:.0f} to {high / 2**20:.0f}", off=not low <= context <= high)
    words = f"memory {first['total'] / 2**30:.2f} GiB, taken to be {said['usable'] / 2**30:.2f}"
    piece.learn(words, off=abs(first["total"] / said["usable"] - 1) > 0.02)


def main() -> int:
    piece = Piece("vram")
    wanted = asked(piece.tiny)
    jobs = [(its, way) for _, its, way, _ in wanted]
    ((_, used),) = forked(used_before, [()])  # no card yet, as for the predictions
    ahead, _ = started(predictions, (jobs,))
    ratios = []
    for place, one, predicted in as_known(ahead, measured(piece, jobs)):
        name, _, _, way = wanted[place]
        if isinstance(predicted, str):
            piece.row(size=name, way=way, measured=one)
            piece.learn(f"nothing could be compared: {predicted}", off=True)
        elif isinstance(one, str):
            piece.row(size=name, way=way, failed=one)
            expected = way.get("optimizer", "").endswith("8bit")  # a build without kernels for this CUDA
            piece.learn(f"{name} {json.dumps(way)}: {one}", off=not expected)
        else:
            said = predicted[place]
            if not place:
                of_the_card(piece, one, said, used if isinstance(used, int) else 0)
            both = [said[kind] / one[kind] for kind in ("allocated", "reserved")]
            piece.row(size=name, way=way, measured=one, predicted=said, allocated=both[0], reserved=both[1])
            ratios.append(both)
            if not all(LEAST <= ratio <= MOST for ratio in both):
                words = (
                    f"{name} {json.dumps(way)}: predicted / measured {both[0]:.4f} allocated, {both[1]:.4f} reserved"
                )
                piece.learn(words, off=True)
    if len(piece.kept["rows"]) < len(wanted):
        piece.learn(f"time was up after {len(piece.kept['rows'])} of {len(wanted)} arms")
    if ratios:
        ends = [(min(column), max(column)) for column in zip(*ratios, strict=True)]
        piece.learn(
            f"{len(ratios)} arms, predicted / measured: allocated {ends[0][0]:.4f} to {ends[0][1]:.4f}, "
            f"reserved {ends[1][0]:.4f} to {ends[1][1]:.4f}"
        )
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
