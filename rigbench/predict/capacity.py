"""Predicts what fits, here or on a rig that is not here: a row for each way of training, or of keeping weights."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from rigbench.core import profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.profiles import GpuProfile, RigProfile
from rigbench.core.record import Absent
from rigbench.job import Interrupted, Job
from rigbench.machine import host
from rigbench.machine.cuda_map import Cards
from rigbench.model import counts, shape
from rigbench.model.recipe import LOSS_CHUNKS, Adapter, Optimizer, Precision, Recipe, RecipeOptions, Strategy
from rigbench.model.record import Model
from rigbench.model.shape import Series
from rigbench.predict import cards, ceilings, inference, steptime, usual
from rigbench.predict.memory import METHOD, Predictor
from rigbench.predict.record import (
    NOT_ASKED,
    WEIGHT_FORMATS,
    Capacity,
    CapacityRow,
    Largest,
    Options,
    OwnCapacity,
    OwnMemoryOptions,
    Target,
    UsualStep,
)
from rigbench.predict.traces import Traces
from rigbench.store import now
from rigbench.work import process

USUAL_OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "adamw8bit")
CHECKPOINT_EVERY, CHUNKS = (0, 1), (1, LOSS_CHUNKS)
ADAPTER_FIELDS = ("adapter", "adapter_rank", "adapter_targets")
DEFAULT_CONTEXT = 4096
OWN_MEMORY, OWN_SECONDS = "rigbench.train.own_memory", 600.0  # at most; a program's factory may load weights
# Preferred numbers (ISO 3, R10): sizes a quarter apart, as fine as the question of the largest model deserves.
PREFERRED = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)


def predicted(
    job: Job,
    model: Model,
    series: Series,
    options: Options,
    on_name: str | None,
    device: str | None = None,
    of_series: bool = True,
) -> Capacity:
    """What fits; kept in the job. Not `of_series`: of this model alone, not which of the series is the largest."""
    started_at, started = now(), time.perf_counter()
    alone = options.strategy == "single" or options.inference
    its = Cards() if on_name else job.cards(device).alike
    its = its.first if alone else its
    place = target(job, on_name, its)
    choices = RecipeOptions(**{name: getattr(options, name) for name in ADAPTER_FIELDS})
    choices.refuse_beyond(model.shape)
    precision = arm_precision(options.precision, place, choices.adapter_kind)
    strategy = ("single" if place.count == 1 else "ddp") if options.strategy == "auto" else options.strategy
    if strategy != "single" and place.count == 1:
        why = its.why or f"{place.name} is one"
        raise RigbenchError(f"--strategy {strategy} needs several cards, and {why}", "name several, as 2xrtx-4090")
    if place.count > 1 and alone:  # one card of several, with nothing to tell the others
        place = msgspec.structs.replace(place, communication=cards.communication(1))
    result = Capacity(
        method=METHOD,
        started_at=started_at,
        seconds=0.0,
        target=place,
        series=series.name,
        model=model,
        notes=(f"of {', '.join(gpu.label for gpu in its.gpus)}: {its.why}",)
        if its.gpus and its.hidden
        else tuple(
            filter(None, [profiles.rig_named(on_name).notes, profiles.rig_named(on_name).heat] if on_name else [])
        ),
    )
    predictor = predictor_of(job)
    job.progress.stage(f"capacity on {place.name}", 10)
    if options.inference:
        tokens = DEFAULT_CONTEXT if isinstance(options.context_tokens, Absent) else options.context_tokens
        result = _inference(result, series, tokens, predictor)
    else:
        usually = on_name is not None and choices.adapter_kind != "qlora"
        compiled = usually if isinstance(options.compiled, Absent) else options.compiled
        recipes = _recipes(options, strategy, precision, 1 if strategy == "single" else place.count, compiled, choices)
        result = msgspec.structs.replace(result, model=counts.adapted(model, recipes[0]))
        result = _training(job, result, sizes(series) if of_series else (), recipes, predictor)
        if on_name is not None:
            said = RecipeOptions(
                optimizer=options.optimizer,
                precision=precision,
                compiled=options.compiled,
                strategy=strategy,
                attention=options.attention,
                adapter=options.adapter,
                adapter_rank=options.adapter_rank,
                adapter_targets=options.adapter_targets,
            )
            result = msgspec.structs.replace(result, usual=_usual(result, said, profiles.rig_named(on_name), predictor))
    result = msgspec.structs.replace(result, seconds=time.perf_counter() - started)
    job.keep(capacity=result)
    return result


def predicted_program(
    job: Job,
    program: str,
    sizes: Sequence[int],
    options: Options,
    on_name: str | None,
    device: str | None,
    micro_batch: int = 0,
) -> OwnCapacity:
    """What fits of a program of the user's, and with a rig named how fast it trains, with so many samples at once where
    that was said; kept in the job. `sizes`: --vocab and --seq, 0 where they were not said.

    Raises:
        RigbenchError: options that a program decides, or its own mistakes.
    """
    decided = {
        "--inference": options.inference,
        "--context": not isinstance(options.context_tokens, Absent),
        "--compile on": options.compiled is True,
        "--attention": options.attention != "fused",
        "--adapter": not isinstance(options.adapter, Absent),
        "--rank": not isinstance(options.adapter_rank, Absent),
        "--targets": not isinstance(options.adapter_targets, Absent),
        "--optimizer muon": options.optimizer == "muon",
        f"--strategy {options.strategy}": options.strategy not in ("auto", "single", "ddp"),
    }
    for option in (option for option, value in decided.items() if value):
        raise RigbenchError(f"{option} is not for a program, and --model {program} is one", f"leave {option} out")
    its = Cards() if on_name else job.cards(device).alike
    its = its.first if options.strategy == "single" else its
    place = target(job, on_name, its)
    if options.strategy == "ddp" and place.count == 1:
        what = f"--strategy ddp needs several cards, and {place.name} is one"
        raise RigbenchError(what, "name several, as 2xrtx-4090")
    if options.strategy == "single":
        place = msgspec.structs.replace(place, count=1, communication=cards.communication(1))
    asked = OwnMemoryOptions(
        name=program,
        folder=os.getcwd(),
        vocabulary=sizes[0],
        sequence=sizes[1],
        target=place,
        optimizers=USUAL_OPTIMIZERS if isinstance(options.optimizer, Absent) else (options.optimizer,),
        precision=arm_precision(options.precision, place),
        micro_batch=micro_batch,
    )
    if on_name is not None:
        limits = ceilings.from_rig(profiles.rig_named(on_name))
        if isinstance(limits, Absent) or options.strategy != "single":
            asked = msgspec.structs.replace(asked, ceilings=limits)
        else:
            asked = msgspec.structs.replace(asked, ceilings=msgspec.structs.replace(limits, count=1))
    job.progress.stage(f"{job.run.command} of {program} on {place.name}", 15)
    outcome = process.call(OWN_MEMORY, asked, OwnCapacity, limit_seconds=OWN_SECONDS, on_progress=job.progress.update)
    if outcome.ended == "interrupted":
        raise Interrupted
    if outcome.result is None:
        raise RigbenchError(f"--model {program}: {outcome.reason}", "try it in a Python shell first", exit_code=NOTHING)
    result = msgspec.structs.replace(outcome.result, asked_by=job.run.command)
    job.keep(capacity=result)
    return result


def _recipes(
    options: Options, strategy: Strategy, precision: Precision, ranks: int, is_compiled: bool, choices: RecipeOptions
) -> list[Recipe]:
    """A row each; of the usual optimizers those that can step what the strategy leaves."""
    recipes = [
        Recipe(
            optimizer=optimizer,
            checkpoint_every=every,
            precision=precision,
            compiled=is_compiled,
            loss_chunks=chunks,
            strategy=strategy,
            ranks=ranks,
            micro_batch=1,
            attention=options.attention,
        )
        for optimizer in (USUAL_OPTIMIZERS if isinstance(options.optimizer, Absent) else (options.optimizer,))
        for every in CHECKPOINT_EVERY
        for chunks in CHUNKS
    ]
    recipes = [choices.over(recipe) for recipe in recipes]
    recipes[0].refuse_contradiction()
    return [recipe for recipe in recipes if not recipe.contradiction]


def _usual(result: Capacity, said: RecipeOptions, rig: RigProfile, predictor: Predictor) -> UsualStep | Absent:
    """How train-probe and budget have this model trained there."""
    recipe = usual.recipe(predictor, result.model, said, result.target)
    if isinstance(recipe, Absent):
        return recipe
    limits = ceilings.from_rig(rig)
    rate: Estimate | Absent
    try:
        rate = limits if isinstance(limits, Absent) else steptime.predict(result.model, recipe, limits).tokens_per_s
    except RigbenchError as error:
        rate = Absent(str(error))
    memory = predictor.predict(result.model, recipe, result.target)
    return UsualStep(recipe=recipe, memory=memory, tokens_per_s=rate)


def predictor_of(job: Job) -> Predictor:
    """Predictions whose traces are kept in this home's cache."""
    return predictor_in(job.store.home)


def predictor_in(home: Path) -> Predictor:
    return Predictor(Traces(home / "cache" / "steps"))


def target(job: Job, on_name: str | None, its: Cards) -> Target:
    """What is predicted for: the rig named, else these GPUs of this machine, else its host memory."""
    if on_name is not None:
        rig = profiles.rig_named(on_name)
        return cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)
    try:
        return cards.of_gpus(its.gpus) if its.gpus else cards.of_host(host.memory(job.rig.sysfs))
    except ValueError as error:
        what = f"the memory here is not known ({error})"
        raise RigbenchError(what, "name hardware with --on NAME", exit_code=NOTHING) from None


def arm_precision(precision: Precision | Literal["auto"], place: Target, adapter: Adapter = "none") -> Precision:
    """What is predicted for "auto", where a slice will choose its own."""
    return usual.native_precision(place, adapter) if precision == "auto" else precision


def sizes(series: Series) -> tuple[Model, ...]:
    """Models of a series from its smallest to 100B: its own, and sensible shapes a quarter apart beyond and between."""
    own = [entry.model for entry in series.models]
    smallest = min(model.total_parameters for model in own)
    wishes = [round(factor * 10**power) for power in range(6, 11) for factor in PREFERRED]
    wishes = [wish for wish in (*wishes, shape.LARGEST_PARAMETERS) if wish > smallest]
    models = {model.total_parameters: model for model in [*(shape.shape_for(wish, series) for wish in wishes), *own]}
    return tuple(model for _, model in sorted(models.items()))


def with_sequence(model: Model, tokens: int) -> Model:
    return counts.describe(msgspec.structs.replace(model.shape, sequence=tokens), model.name)


def _training(
    job: Job, result: Capacity, series: Sequence[Model], recipes: Sequence[Recipe], predictor: Predictor
) -> Capacity:
    model, place = result.model, result.target
    models = tuple(with_sequence(other, model.shape.sequence) for other in series)
    first = predictor.largest_micro_batch(model, recipes[0], place)
    if isinstance(first, Largest):  # the answer to most questions, long before the table is full
        job.progress.line(f"{model.name} fits with micro-batch {first.value} ({recipes[0].words}); the table follows")
    rows = []
    for index, recipe in enumerate(recipes):
        job.progress.update(index / len(recipes), f"{recipe.optimizer}, {index + 1} of {len(recipes)}")
        rows.append(
            CapacityRow(
                recipe=recipe,
                micro_batch=predictor.largest_micro_batch(model, recipe, place) if index else first,
                sequence=predictor.longest_sequence(model, recipe, place),
                model=predictor.largest_model(models, recipe, place) if models else NOT_ASKED,
            )
        )
    result = msgspec.structs.replace(result, rows=tuple(rows))
    if any(not isinstance(row.micro_batch, Absent) for row in rows):
        return result
    return msgspec.structs.replace(result, would_fit=_would_fit(predictor, result))


def _would_fit(predictor: Predictor, result: Capacity) -> tuple[str, ...]:
    """What would do for a model that fits in no way: the least memory, the smallest card with it, shards."""
    model, card = result.model, result.target.gpu
    predictions = [predictor.predict(model, row.recipe, result.target) for row in result.rows]
    least = min(predictions, key=lambda one: one.process.value)
    needed = units.format_bytes(least.process.value)
    lines = [f"one sequence takes {needed} at least, with {least.recipe.words}"]
    if result.target.kind == "cpu":
        return tuple(lines)

    def fits(strategy: Strategy, gpu: GpuProfile, count: int) -> bool:
        recipe = msgspec.structs.replace(least.recipe, strategy=strategy, ranks=count)
        return predictor.fits(model, recipe, cards.of_profile(gpu, gpu.id, count))

    by_size = sorted(profiles.for_sale(), key=lambda gpu: min(gpu.memory_gib))
    enough = next((gpu for gpu in by_size if fits("single", gpu, 1)), None)
    if enough:
        lines.append(f"that way it would fit with --on {enough.id} ({min(enough.memory_gib):g} GiB)")
    if isinstance(card, str):
        shards: list[tuple[Strategy, int]] = [("fsdp2", 2), ("fsdp2", 4), ("fsdp2", 8)]
        shards += [("fsdp2-offload", 2), ("fsdp2-offload", 4), ("fsdp2-offload", 8)]
        gpu = profiles.gpu(card)
        cures = (f"--strategy {way} --on {count}x{card}" for way, count in shards if fits(way, gpu, count))
        lines += [f"it would fit with {cure}" for cure in itertools.islice(cures, 1)]
    return tuple(lines)


def _inference(result: Capacity, series: Series, tokens: int, predictor: Predictor) -> Capacity:
    model, place, models = result.model, result.target, sizes(series)
    rows = tuple(inference.row(model, place, weights, tokens, predictor.traces, models) for weights in WEIGHT_FORMATS)
    notes = []
    if model.shape.style == "gpt2" and tokens > model.shape.sequence:
        notes.append(f"beyond the {model.shape.sequence:,} positions that this model learns")
    if place.count > 1:
        notes.append(f"on one card of the {place.count}")
    return msgspec.structs.replace(result, context_tokens=tokens, inference=rows, notes=(*result.notes, *notes))
