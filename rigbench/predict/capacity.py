"""What fits here, or on a rig that one does not have? Words become trainings, predictions become a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from rigbench.core import on, profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.options import NOT_GIVEN
from rigbench.core.profiles import Series
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine import host
from rigbench.model import flops, named, shape
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import Precision
from rigbench.model.record import Model
from rigbench.predict import cards, inference
from rigbench.predict.memory import METHOD, Predictor
from rigbench.predict.record import Capacity, CapacityRow, Target, Training, VramPrediction
from rigbench.predict.traces import Traces
from rigbench.store import now

LOSS_CHUNKS = 8  # of the chunked loss
CHECKPOINT_EVERY, CHUNKS = (0, 1), (1, LOSS_CHUNKS)
DEFAULT_OPTIMIZERS = ("adamw", "adamw8bit")
# Preferred numbers (ISO 3, R10): sizes a quarter apart, as fine as the question of the largest model deserves.
PREFERRED = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)


@dataclass(frozen=True)
class Question:
    """What is asked, in checked words. `precision` "auto": the best that the card multiplies natively."""

    series: str
    model: Model
    on: str | None
    optimizers: tuple[str, ...]
    precision: str
    strategy: str
    context_tokens: int = 0  # of an inference's cache; 0: training is asked about


def question(
    model: ModelOptions,
    on_name: str | None,
    optimizer: str | None,
    precision: str,
    strategy: str,
    context: str | None,
) -> Question:
    """A series may be asked about beside a published model: it is the one of which the largest is wanted.

    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    series = model.series_name
    largest = profiles.series(series).models[-1]
    wanted = model if isinstance(model.model, Absent) else msgspec.structs.replace(model, series=NOT_GIVEN)
    chosen = named.choose(wanted, flops.describe(largest.shape, largest.name))
    if on_name is not None:
        on.rig(on_name)
    tokens = 0 if context is None else units.parse_whole(context, "--context", 1, named.LONGEST_SEQUENCE)
    return Question(
        series, chosen, on_name, DEFAULT_OPTIMIZERS if optimizer is None else (optimizer,), precision, strategy, tokens
    )


def with_sequence(model: Model, tokens: int) -> Model:
    return flops.describe(msgspec.structs.replace(model.shape, sequence=tokens), model.name)


def target(job: Job, on_name: str | None) -> Target:
    """What is predicted for: the rig named, else this machine's GPUs, else its host memory.

    Raises:
        RigbenchError: no profile of that name, or the machine does not tell its memory.
    """
    if on_name is not None:
        rig = on.rig(on_name)
        return cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)
    try:
        if not job.gpus:
            return cards.of_host(host.memory(job.rig.sysfs))
        known = job.gpus[0].profile
        return cards.of_gpus(job.gpus, None if isinstance(known, Absent) else profiles.gpu(known))
    except ValueError as error:
        raise RigbenchError(
            f"the memory here is not known ({error})", "name hardware with --on NAME", exit_code=NOTHING
        ) from None


def predictor(job: Job) -> Predictor:
    """Predictions whose traces are kept in this home's cache."""
    return Predictor(Traces(job.store.home / "cache" / "steps"))


def predict(job: Job, training: Training, on_name: str | None) -> VramPrediction:
    """One training step's memory, here or on other hardware.

    Raises:
        RigbenchError: no profile of that name, or the machine does not tell its memory.
    """
    return predictor(job).predict(training, target(job, on_name))


def capacity(job: Job, asked: Question) -> Capacity:
    """What fits; kept in the job.

    Raises:
        RigbenchError: no profile of that name, or the machine does not tell its memory.
    """
    started_at, started = now(), time.perf_counter()
    place = target(job, asked.on)
    predict = predictor(job)
    precision = native_precision(place) if asked.precision == "auto" else asked.precision
    strategy = asked.strategy
    if strategy == "auto":
        strategy = "single" if place.count == 1 else "ddp"
    if strategy != "single" and place.count == 1:
        raise RigbenchError(
            f"--strategy {strategy} needs several cards, and {place.name} is one", "name several, as 2xrtx-4090"
        )
    result = Capacity(
        method=METHOD,
        started_at=started_at,
        seconds=0.0,
        target=place,
        series=asked.series,
        model=asked.model,
        precision=precision,
        strategy=strategy,
        context_tokens=asked.context_tokens,
    )
    if strategy == "single" and place.count > 1:  # one card of several, with nothing to tell the others
        place = msgspec.structs.replace(place, communication=cards.communication(1))
        result = msgspec.structs.replace(result, target=place)
    job.progress.stage(f"capacity on {place.name}", 10)
    result = _inference(result, asked, predict) if asked.context_tokens else _training(job, result, asked, predict)
    result = msgspec.structs.replace(result, seconds=time.perf_counter() - started)
    job.keep(capacity=result)
    return result


def native_precision(place: Target) -> str:
    """bf16 where the card multiplies it natively, fp16 on those that only have that, else fp32; a CPU takes bf16."""
    if isinstance(place.gpu, Absent):
        return "bf16"
    peaks = profiles.peaks(place.gpu)
    gpu = profiles.gpu(place.gpu)
    if not isinstance(gpu.bf16_tflop_per_s, Absent):
        return "bf16"
    return "fp16" if "fp16" in peaks else "fp32"


def arm_precision(precision: str, place: Target) -> Precision:
    """The precision that a prediction is for, where the slice will choose its own."""
    return cast(Precision, native_precision(place) if precision == "auto" else precision)


def sizes(series: Series) -> tuple[Model, ...]:
    """Models of a series from its smallest to 100B: its own, and sensible shapes a quarter apart beyond and between."""
    own = [flops.describe(entry.shape, entry.name) for entry in series.models]
    smallest = min(model.total_parameters for model in own)
    wishes = [round(factor * 10**power) for power in range(6, 11) for factor in PREFERRED]
    wishes = [wish for wish in (*wishes, shape.LARGEST_PARAMETERS) if wish > smallest]
    found = {model.total_parameters: model for model in [*(shape.shape_for(wish, series) for wish in wishes), *own]}
    return tuple(model for _, model in sorted(found.items()))


def _training(job: Job, result: Capacity, asked: Question, predict: Predictor) -> Capacity:
    ways = [
        Training(
            model=asked.model,
            optimizer=optimizer,  # type: ignore[arg-type]
            checkpoint_every=every,
            precision=result.precision,  # type: ignore[arg-type]
            loss_chunks=chunks,
            strategy=result.strategy,  # type: ignore[arg-type]
            ranks=1 if result.strategy == "single" else result.target.count,
        )
        for optimizer in asked.optimizers
        for every in CHECKPOINT_EVERY
        for chunks in CHUNKS
    ]
    models = tuple(with_sequence(model, asked.model.shape.sequence) for model in sizes(profiles.series(asked.series)))
    rows = []
    for index, way in enumerate(ways):
        job.progress.update(index / len(ways), f"{way.optimizer}, {index + 1} of {len(ways)}")
        rows.append(
            CapacityRow(
                optimizer=way.optimizer,
                checkpoint_every=way.checkpoint_every,
                loss_chunks=way.loss_chunks,
                micro_batch=predict.largest_micro_batch(way, result.target),
                sequence=predict.longest_sequence(way, result.target),
                model=predict.largest_model(way, models, result.target),
            )
        )
    result = msgspec.structs.replace(result, rows=tuple(rows))
    if all(isinstance(row.micro_batch, Absent) for row in rows):
        result = msgspec.structs.replace(result, would_fit=_would_fit(predict, ways, result))
    return result


def _would_fit(predict: Predictor, ways: Sequence[Training], result: Capacity) -> tuple[str, ...]:
    """What would do for a model that fits in no way: the least memory, the smallest card with it, shards."""
    found = [predict.predict(way, result.target) for way in ways]
    least = min(found, key=lambda one: one.process.value)
    lines = [f"one sequence takes {units.format_bytes(least.process.value)} at least, with {way_words(least.training)}"]
    if result.target.kind == "cuda":
        by_size = sorted(profiles.gpus(), key=lambda gpu: min(gpu.memory_gib))
        alone = msgspec.structs.replace(least.training, strategy="single", ranks=1)
        enough = next((gpu for gpu in by_size if _fits_on(predict, alone, gpu.id, 1)), None)
        if enough:
            lines.append(f"that way it would fit with --on {enough.id} ({min(enough.memory_gib):g} GiB)")
        card = result.target.gpu
        if isinstance(card, str):
            lines += _shards(predict, least.training, card)
    return tuple(lines)


def _shards(predict: Predictor, training: Training, card: str) -> list[str]:
    for strategy in ("fsdp2", "fsdp2-offload"):
        for count in (2, 4, 8):
            sharded = msgspec.structs.replace(training, strategy=strategy, ranks=count)
            if _fits_on(predict, sharded, card, count):
                return [f"it would fit with --strategy {strategy} --on {count}x{card}"]
    return []


def _fits_on(predict: Predictor, training: Training, card: str, count: int) -> bool:
    return predict.fits(training, cards.of_profile(profiles.gpu(card), card, count))


def way_words(training: Training) -> str:
    """ "adamw8bit, checkpointing, chunked loss"."""
    words: list[str] = [training.optimizer]
    every = training.checkpoint_every
    if every:
        words.append("checkpointing" if every == 1 else f"checkpointing of every {every}th block")
    if training.loss_chunks > 1:
        words.append("chunked loss")
    return ", ".join(words)


def _inference(result: Capacity, asked: Question, predict: Predictor) -> Capacity:
    place = msgspec.structs.replace(result.target, communication=cards.communication(1))
    models = sizes(profiles.series(asked.series))
    formats = ("bf16", "8-bit", "4-bit")
    rows = tuple(
        inference.row(asked.model, place, weights, asked.context_tokens, predict.traces, models)  # type: ignore[arg-type]
        for weights in formats
    )
    notes = []
    if asked.model.shape.style == "gpt2" and asked.context_tokens > asked.model.shape.sequence:
        notes.append(f"beyond the {asked.model.shape.sequence:,} positions that this model learns")
    if place.count > 1:
        notes.append(f"on one card of the {place.count}")
    return msgspec.structs.replace(result, target=place, inference=rows, notes=tuple(notes))
