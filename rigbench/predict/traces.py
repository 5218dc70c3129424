"""Which steps have been recorded already? Traces by shape and options, kept in memory and on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import msgspec

from rigbench.core.record import Record
from rigbench.model.record import Shape
from rigbench.predict.script import NotPeriodic, Trace, between, stretch, worth_recording
from rigbench.store import write_whole

PACKAGE = Path(__file__).resolve().parents[1]
RECORDED_BY = ("model/gpt.py", "predict/trace.py", "predict/script.py")  # a change in one of them makes traces stale
MICRO_BATCHES = (2, 3)  # the line goes through these; one sequence alone takes other operations
WIDTHS, HEAD = (512, 768, 1024), 64  # with heads of 64 and an MLP of four widths, sizes are a parabola in the width
SEQUENCES = (512, 1024)  # tokens: sizes are a line in them, from tile to tile of flash attention's


class Step(Record, frozen=True):
    """What a step's trace depends on, besides its depth, batch and sequence."""

    shape: Shape
    precision: str
    checkpoint_every: int
    loss_chunks: int
    accumulating: bool
    cuda: bool


class Traces:
    """Recorded steps. `folder` None: nothing is kept on disk."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._whole: dict[tuple[Step, int], Trace] = {}
        self._short: dict[tuple[Step, int], Trace] = {}

    def at(self, step: Step, micro_batch: int) -> Trace:
        """The step at a micro-batch: on the line through two recorded ones, or recorded itself."""
        if micro_batch <= MICRO_BATCHES[-1]:
            return self._deep(step, micro_batch)
        try:
            return between([(known, self._deep(step, known)) for known in MICRO_BATCHES], micro_batch)
        except NotPeriodic:
            return self._deep(step, micro_batch)

    def of_one_sequence(self, step: Step) -> Trace:
        """The same for one sequence, without a record of its own where three widths tell those of all others."""
        shape, period = step.shape, max(1, step.checkpoint_every)
        if not (shape.width == HEAD * shape.heads == HEAD * shape.kv_heads and shape.ffn_width == 4 * shape.width):
            return self._deep(step, 1)
        depth = worth_recording(shape.layers, period)[0]
        try:
            points = [(width, self._recorded(_at_width(step, width), depth, 1)) for width in WIDTHS]
            return stretch(between(points, shape.width), shape.layers, period)
        except NotPeriodic:
            return self._deep(step, 1)

    def at_sequence(self, step: Step, tokens: int) -> Trace:
        """One sequence of so many tokens, a multiple of 128 (flash attention's tiles)."""
        try:
            points = [(known, self._deep(_at_sequence(step, known), 1)) for known in SEQUENCES]
            return between(points, tokens)
        except NotPeriodic:
            return self._deep(_at_sequence(step, tokens), 1)

    def block(self, shape: Shape, tokens: int) -> int:
        """Peak bytes of one block that reads a prompt of so many tokens in bf16, without gradients."""
        low, high = SEQUENCES
        small, large = (self._block_peak(msgspec.structs.replace(shape, layers=1), length) for length in (low, high))
        return round(small + (large - small) / (high - low) * (tokens - low))

    def _block_peak(self, shape: Shape, tokens: int) -> int:
        shape = msgspec.structs.replace(shape, sequence=tokens)
        key = Step(shape, "bf16 inference", 0, 0, accumulating=False, cuda=True)
        trace = self._kept(key, 1, lambda recording: recording.record_block(shape, 1))
        live = peak = 0
        for _, number, freed in trace.pieces[0].events:
            live += -trace.pieces[0].sizes[number] if freed else trace.pieces[0].sizes[number]
            peak = max(peak, live)
        return peak

    def _deep(self, step: Step, micro_batch: int) -> Trace:
        """At full depth, stretched from the shallowest trace that can be."""
        key = step, micro_batch
        if key not in self._whole:
            self._whole[key] = self._stretched(step, micro_batch)
        return self._whole[key]

    def _stretched(self, step: Step, micro_batch: int) -> Trace:
        layers, period = step.shape.layers, max(1, step.checkpoint_every)
        *shallow, whole = worth_recording(layers, period)
        for depth in shallow:
            with contextlib.suppress(NotPeriodic):
                return stretch(self._recorded(step, depth, micro_batch), layers, period)
        return self._recorded(step, whole, micro_batch)

    def _recorded(self, step: Step, depth: int, micro_batch: int) -> Trace:
        step = msgspec.structs.replace(step, shape=msgspec.structs.replace(step.shape, layers=depth))
        options = (step.precision, step.checkpoint_every, step.loss_chunks, step.accumulating, step.cuda)
        return self._kept(step, micro_batch, lambda recording: recording.record(step.shape, micro_batch, *options))

    def _kept(self, step: Step, micro_batch: int, make: Callable[[ModuleType], Trace]) -> Trace:
        """Known already, or on disk, else recorded now: only that needs torch, which takes seconds to load."""
        key = step, micro_batch
        if key not in self._short:
            self._short[key] = self._from_disk(step, micro_batch, make)
        return self._short[key]

    def _from_disk(self, step: Step, micro_batch: int, make: Callable[[ModuleType], Trace]) -> Trace:
        path = self.folder and self.folder / f"{_digest(step, micro_batch)}.json"
        if path:
            with contextlib.suppress(OSError, msgspec.DecodeError):  # a torn file is recorded again
                return msgspec.json.decode(path.read_bytes(), type=Trace)
        made = make(importlib.import_module("rigbench.predict.trace"))
        if path:
            with contextlib.suppress(OSError):  # a full disk costs time, not the answer
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, msgspec.json.encode(made))
        return made


def _at_width(step: Step, width: int) -> Step:
    heads = width // HEAD
    shape = msgspec.structs.replace(step.shape, width=width, heads=heads, kv_heads=heads, ffn_width=4 * width)
    return msgspec.structs.replace(step, shape=shape)


def _at_sequence(step: Step, tokens: int) -> Step:
    return msgspec.structs.replace(step, shape=msgspec.structs.replace(step.shape, sequence=tokens))


def _digest(step: Step, micro_batch: int) -> str:
    text = msgspec.json.encode((_code(), step, micro_batch))
    return hashlib.sha256(text).hexdigest()[:24]


@functools.cache
def _code() -> str:
    """The code and the torch that recorded: either may change what is allocated."""
    content = b"".join((PACKAGE / name).read_bytes() for name in RECORDED_BY)
    return hashlib.sha256(content + metadata.version("torch").encode()).hexdigest()
