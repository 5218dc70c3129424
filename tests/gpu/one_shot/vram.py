"""Does a training step take the memory that was predicted? Every arm and size in a process of its own.

The step is written here anew, around rigbench's model alone: two steps, then the allocator's own peaks. Processes are
forked from one that has loaded torch and touched no card, so that an arm costs a context and not an import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import Any

import msgspec
import torch

from one_shot import driver
from one_shot.piece import Piece
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.model import counts, optim, shape
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.predict import cards, memory, traces

LEAST, MOST = 0.99, 1.03  # predicted over measured: what this project promises of eager arms
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"checkpoint_every": 1},
    {"loss_chunks": 8},
    {"precision": "fp32"},
    {"optimizer": "adamw-foreach"},
    {"optimizer": "adamw8bit"},
    {"optimizer": "paged-adamw8bit"},
    {"accumulation": 2},
    {"checkpoint_every": 3},
    {"checkpoint_every": 1, "loss_chunks": 8},
    {"precision": "bf16-pure"},
)
SIZES = (("15M", "diy", 8), ("120M", "diy", 12), ("500M", "llama", 2))
TINY_SHAPE = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "ffn_width": 256, "vocabulary": 512, "sequence": 32}
ROOMY_BYTES = 60 << 30  # with so much, three arms at once fit


def eight_bit(model: torch.nn.Module, name: str) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    return (AdamW8bit if name == "adamw8bit" else PagedAdamW8bit)(model.parameters())


def steps(its: Shape, way: Recipe) -> dict[str, int]:
    """Two steps of a recipe: bytes that the allocator gave out and held at most, and those beside it."""
    torch.cuda.init()
    model = Decoder(its, way.checkpoint_every, way.loss_chunks).cuda()
    if way.precision == "bf16-pure":
        model = model.bfloat16()
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
    target = cards.of_gpus(gpus[:1])
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


def forked(work: Any, jobs: Sequence[tuple[Any, ...]], at_once: int = 1) -> Iterator[tuple[int, Any]]:
    """(place in `jobs`, what `work` returned for it in a process of its own, or a line on how that ended)."""
    context, waiting, running = multiprocessing.get_context("fork"), list(enumerate(jobs)), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            place, words = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, work, words), daemon=True)
            process.start()
            theirs.close()
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
    """Size by size of the plain way first, then way by way: what is most telling comes first."""
    if tiny:
        its = msgspec.structs.replace(shape.model_named("5M", "diy").shape, **TINY_SHAPE)
        ways = ({}, {"checkpoint_every": 1}, {"optimizer": "adamw8bit"})
        return [("tiny", its, Recipe(**{"precision": "bf16", "micro_batch": 2, **way}), way) for way in ways]
    models = [(name, shape.model_named(name, series).shape, batch) for name, series, batch in SIZES]
    return [
        (name, its, Recipe(**{"precision": "bf16", "micro_batch": batch, **way}), way)
        for way in WAYS
        for name, its, batch in models
    ]


def main() -> int:
    piece = Piece("vram")
    wanted = asked(piece.tiny)
    # No card yet: the predictions, and then the first arm alone, whose bytes beside the allocator are its context.
    ((_, used),) = forked(used_before, [()])
    ((_, predicted),) = forked(predictions, [([(its, way) for _, its, way, _ in wanted],)])
    jobs = [(its, way) for _, its, way, _ in wanted]
    ((_, first),) = forked(steps, jobs[:1])
    if isinstance(predicted, str) or isinstance(first, str):
        piece.learn(f"nothing could be compared: {predicted if isinstance(predicted, str) else first}", off=True)
        return 1
    low, high = predicted[0]["context_low"], predicted[0]["context_high"]
    others = used if isinstance(used, int) else 0
    words = f"context {(first['beside'] - others) / 2**20:.0f} MiB (beside {others / 2**20:.0f} of others), predicted "
    piece.learn(f"{words}{low / 2**20:.0f} to {high / 2**20:.0f}", off=not low <= first["beside"] - others <= high)
    usable = predicted[0]["usable"]
    words = f"memory {first['total'] / 2**30:.2f} GiB, taken to be {usable / 2**30:.2f}"
    piece.learn(words, off=abs(first["total"] / usable - 1) > 0.02)
    at_once = 3 if first["total"] >= ROOMY_BYTES and (os.cpu_count() or 1) >= 8 else 1
    ratios = []
    rest = ((place + 1, measured) for place, measured in forked(steps, jobs[1:], at_once))
    for place, measured in chain([(0, first)], rest):
        (name, _, _, way), one = wanted[place], predicted[place]
        if isinstance(measured, str):
            piece.row(size=name, way=way, failed=measured)
            expected = way.get("optimizer", "").endswith("8bit")  # a build without kernels for this CUDA
            piece.learn(f"{name} {json.dumps(way)}: {measured}", off=not expected)
        else:
            both = [one[kind] / measured[kind] for kind in ("allocated", "reserved")]
            piece.row(size=name, way=way, measured=measured, predicted=one, allocated=both[0], reserved=both[1])
            ratios.append((both, name, way))
        if piece.left_seconds() < 5.0:
            piece.learn(f"time was up after {len(piece.kept['rows'])} of {len(wanted)} arms")
            break
    for both, name, way in ratios:
        if not all(LEAST <= ratio <= MOST for ratio in both):
            words = f"{name} {json.dumps(way)}: predicted / measured {both[0]:.4f} allocated, {both[1]:.4f} reserved"
            piece.learn(words, off=True)
    if ratios:
        ends = [(min(it[0][i] for it in ratios), max(it[0][i] for it in ratios)) for i in (0, 1)]
        piece.learn(
            f"{len(ratios)} arms, predicted / measured: allocated {ends[0][0]:.4f} to {ends[0][1]:.4f}, "
            f"reserved {ends[1][0]:.4f} to {ends[1][1]:.4f}"
        )
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
