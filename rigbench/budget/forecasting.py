"""How fast would models train, on a rig one does not have or at sizes not measured here? Predictions for a budget.

The budget knows no prediction: what is worked out here is handed to it as plain rates with their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from rigbench.budget import rigfacts, ways
from rigbench.budget.comparable import Chosen, StoredSlice, Wanted, choose
from rigbench.budget.forecast import Forecast, Known, Machine
from rigbench.budget.plan import Question
from rigbench.budget.record import Configuration, NextSlice, Rate
from rigbench.core import profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.profiles import GpuProfile, RigProfile
from rigbench.core.record import Absent, Device
from rigbench.document import Run
from rigbench.job import Job
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.model.shape import series_names
from rigbench.predict import calibrate, ceilings, steptime
from rigbench.predict import capacity as fitting
from rigbench.predict.calibrate import Correction, Measured
from rigbench.predict.record import StepTime
from rigbench.train.record import Slice

SLICE_SECONDS = 60


@dataclass(frozen=True)
class Elsewhere:
    """A rig that is not here, and its models' forecasts."""

    machine: Machine
    forecasts: tuple[Forecast, ...]


def elsewhere(job: Job, question: Question, rig: RigProfile) -> Elsewhere:
    """What a rig of the profiles would do, by its datasheet and by published runs.

    Raises:
        RigbenchError: the largest model does not fit its cards, which is said with what would; or the datasheet gives
            no peak (exit 3).
    """
    limits = ceilings.from_rig(rig)
    if isinstance(limits, Absent):
        raise RigbenchError(f"{rig.name}: {limits.reason}", "name other hardware", exit_code=NOTHING)
    wanted = question.wanted or Wanted()
    ways.check_batch(question, rig)
    base = ways.fitted(fitting.predictor_of(job), question.models, rig, wanted)
    steps = [
        steptime.predict(model, ways.batched(model, base, question.batch_tokens), limits) for model in question.models
    ]
    gpu = profiles.gpu(rig.gpu)
    known = Known(
        peak_flops_per_s=rigfacts.peak(rig.gpu, base.precision, rig.count),
        hot_extra=(0.0, 0.0, 0.0),
        hot_basis="the published runs that the speed rests on were hot",
        rent=rigfacts.rent(rig.gpu),
        purchase=rigfacts.purchase(gpu, rig.count),
        notes=(_fit_words(question.models, base), *_notes(steps)),
        next_slice=_next(question, steps, calibrate.calibrate([], [])),
    )
    machine = Machine(
        configuration=_configuration(base, gpu),
        cards=rig.count,
        card=rigfacts.short(gpu),
        power=rigfacts.power(question, rig, gpu),
        name=rig.name,
        known=known,
    )
    return Elsewhere(machine, tuple(_forecast(step) for step in steps))


def here(question: Question, slices: Sequence[StoredSlice], runs: Sequence[Run]) -> tuple[Known, dict[str, Rate]]:
    """What this rig's other stored probes add to its slices: heat, datasheet, rates of sizes that were not measured.

    `runs` are of this rig, newest first.

    Raises:
        RigbenchError: no stored slice can be used; exit 3.
    """
    chosen = choose(question.models, slices, question.wanted)
    found = _calibrated(question.models, chosen, runs)
    known = rigfacts.of_device(chosen.configuration, runs, _next_here(question, chosen, found))
    if found is None:
        return known, {}
    measured = {stored.slice.model.shape for stored in chosen.slices}
    rates = {
        step.model.name: _rate(found.correction.apply(step), chosen)
        for step in found.steps
        if step.model.shape not in measured
    }
    return known, rates


@dataclass(frozen=True)
class _Calibrated:
    """Plain predictions of the asked models on this rig, and what its slices correct of them."""

    steps: tuple[StepTime, ...]
    correction: Correction


def _calibrated(models: Sequence[Model], chosen: Chosen, runs: Sequence[Run]) -> _Calibrated | None:
    """None where this rig's ceilings are not stored, or not in this precision."""
    limits = ceilings.from_runs(runs)
    if isinstance(limits, Absent) or limits.kind != chosen.configuration.device.kind:
        return None
    slices = [stored.slice for stored in chosen.slices]
    try:
        predicted = [steptime.predict(it.model, it.recipe, limits) for it in slices]
        measured = [Measured(stored.slice.tokens_per_s, stored.run_id) for stored in chosen.slices]
        steps = tuple(steptime.predict(model, _nearest(model, slices).recipe, limits) for model in models)
        return _Calibrated(steps, calibrate.calibrate(predicted, measured))
    except RigbenchError:
        return None


def _nearest(model: Model, slices: Sequence[Slice]) -> Slice:
    """The slice nearest in size."""
    size = model.flop_per_token
    return min(slices, key=lambda it: max(it.model.flop_per_token / size, size / it.model.flop_per_token))


def _rate(step: StepTime, chosen: Chosen) -> Rate:
    return Rate(
        tokens_per_s=step.tokens_per_s,
        source="predicted",
        rests_on=tuple(f"{stored.run_id} {stored.slice.model.name}" for stored in chosen.slices),
        widened_by=(f"model of the step: {step.seconds.method}",),
    )


def _forecast(step: StepTime) -> Forecast:
    rate = Rate(
        tokens_per_s=step.tokens_per_s,
        source="predicted",
        rests_on=(f"datasheet of {step.ceilings.name}", "published training runs"),
        widened_by=(_interval_words(step),),
    )
    return Forecast(
        model=step.model,
        rate=rate,
        tokens_per_step=step.tokens_per_step,
        batch=_batch_words(step.model, step.recipe),
        optimizer=step.recipe.optimizer,
        compiled=step.recipe.compiled,
    )


def _interval_words(step: StepTime) -> str:
    """The step model's own interval, in words."""
    its = step.seconds
    less, more = (units.format_share(abs(end / its.value - 1)) for end in (its.low, its.high))
    return f"a step takes {less} less to {more} more than predicted, as published runs left out of the fit did"


def _batch_words(model: Model, recipe: Recipe) -> str:
    factors = [f"{recipe.micro_batch} × {model.shape.sequence:,} tokens"]
    factors += [f"{recipe.accumulation} accumulated"] if recipe.accumulation > 1 else []
    factors += [f"{recipe.ranks} cards"] if recipe.ranks > 1 else []
    return " × ".join(factors)


def _fit_words(models: Sequence[Model], recipe: Recipe) -> str:
    """ "120M, the largest, fits a card with 13 sequences at once; every model is trained with as many"."""
    count = recipe.micro_batch
    sequences = f"{count} sequence{'' if count == 1 else 's'} at once ({recipe.words})"
    largest = max(models, key=lambda model: model.total_parameters)
    return f"{largest.name}, the largest, fits a card with {sequences}: every model is trained so"


def _notes(steps: Sequence[StepTime]) -> tuple[str, ...]:
    notes: dict[str, list[str]] = {}
    for step in steps:
        for note in step.notes:
            notes.setdefault(note, []).append(step.model.name)
    return tuple(note if len(names) == len(steps) else f"{', '.join(names)}: {note}" for note, names in notes.items())


def _configuration(recipe: Recipe, gpu: GpuProfile) -> Configuration:
    card = gpu.names[0]
    device = Device(
        kind="cuda",
        name=card,
        uuid=Absent("not here"),
        threads=1,
        memory_total_bytes=round(min(gpu.memory_gib) * (1 << 30)),
    )
    return Configuration(
        device=device,
        optimizer=recipe.optimizer,
        checkpointing="on" if recipe.checkpoint_every else "off",
        precision=recipe.precision,  # type: ignore[arg-type]
        compiled=recipe.compiled,
        strategy=recipe.strategy,
        host_allocator="default",
        checkpoint_every=recipe.checkpoint_every or msgspec.UNSET,
        loss_chunks=recipe.loss_chunks,
        ranks=recipe.ranks,
    )


def _next_here(question: Question, chosen: Chosen, found: _Calibrated | None) -> NextSlice | None:
    if found is not None:
        return _next(question, found.steps, found.correction)
    if not question.wants_next_slice:
        return None
    measured = {stored.slice.model.shape for stored in chosen.slices}
    missing = [model for model in question.models if model.shape not in measured]
    model = missing[len(missing) // 2] if missing else question.models[-1]
    absent = Absent("run `rigbench matmul` and `rigbench bandwidth` first: they let a step be modelled")
    command = _command(question, model, chosen.slices[0].slice.recipe)
    return NextSlice(command, model.name, 0.0, absent, "a size that is not measured yet")


def _next(question: Question, steps: Sequence[StepTime], correction: Correction) -> NextSlice | None:
    """The slice that would narrow the rate of the largest model most, which most hours go to."""
    if not question.wants_next_slice:
        return None
    target = max(steps, key=lambda step: step.model.flop_per_token)
    found = calibrate.suggest(steps, correction, target)
    best = steps[found.candidate]
    return NextSlice(
        command=_command(question, best.model, best.recipe),
        of=target.model.name,
        half_width_now=found.half_width_now,
        half_width_then=found.half_width_then,
        basis="the step's model and what its slices have corrected so far",
    )


def _command(question: Question, model: Model, recipe: Recipe) -> str:
    """The one slice that trains so."""
    words = ["rigbench train-probe", f"--params {model.name}"]
    words += [f"--series {question.series_name}"] if question.series_name in series_names()[1:] else []
    words += [f"--optimizer {recipe.optimizer}", f"--precision {recipe.precision}"]
    words += [f"--compile {'on' if recipe.compiled else 'off'}"]
    words += [f"--checkpointing {recipe.checkpoint_every}"] if recipe.checkpoint_every else []
    words += [f"--loss {recipe.loss_chunks}"] if recipe.loss_chunks > 1 else []
    words += [f"--strategy {recipe.strategy}"] if recipe.strategy != "single" else []
    return " ".join([*words, f"--seconds {SLICE_SECONDS}s"])
