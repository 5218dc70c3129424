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
from rigbench.model.record import Model
from rigbench.predict import calibrate, ceilings, steptime
from rigbench.predict import capacity as fitting
from rigbench.predict.calibrate import Correction, Measured
from rigbench.predict.record import Ceilings, StepTime, Training
from rigbench.train.record import Slice

SLICE_SECONDS = 60
LIKE_DDP = {"accelerate": "ddp", "data-parallel": "ddp"}  # the same gradients go round


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
    base = ways.fitted(fitting.predictor(job), question.models, rig, wanted)
    compiled = True if wanted.compiled is None else wanted.compiled
    steps = []
    for model in question.models:
        training = ways.batched(msgspec.structs.replace(base, model=model), question.batch_tokens)
        steps.append(steptime.predict(training, limits, compiled))
    gpu = profiles.gpu(rig.gpu)
    known = Known(
        peak_flops_per_s=rigfacts.peak(rig.gpu, base.precision, rig.count),
        hot_extra=(0.0, 0.0, 0.0),
        hot_basis="the published runs that the speed rests on were hot",
        rent=rigfacts.rent(rig.gpu),
        purchase=rigfacts.purchase(gpu, rig.count),
        notes=(_fit_words(base), *_notes(steps)),
        next_slice=_next(question, steps, calibrate.calibrate([], [])),
    )
    machine = Machine(
        configuration=_configuration(base, gpu, compiled),
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
        step.training.model.name: _rate(found.correction.apply(step), chosen)
        for step in found.steps
        if step.training.model.shape not in measured
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
    compiled = chosen.configuration.compiled
    try:
        known = [(_training_of(stored.slice), stored) for stored in chosen.slices]
        predicted = [steptime.predict(training, limits, compiled) for training, _ in known]
        measured = [
            Measured(training, compiled, stored.slice.tokens_per_s, stored.run_id) for training, stored in known
        ]
        steps = tuple(_like_nearest(model, known, limits, compiled) for model in models)
        return _Calibrated(steps, calibrate.calibrate(predicted, measured))
    except RigbenchError:
        return None


def _like_nearest(
    model: Model, known: Sequence[tuple[Training, StoredSlice]], limits: Ceilings, compiled: bool
) -> StepTime:
    """As the slice nearest in size was trained."""
    size = model.flop_per_token
    nearest = min(known, key=lambda it: max(it[0].model.flop_per_token / size, size / it[0].model.flop_per_token))[0]
    return steptime.predict(msgspec.structs.replace(nearest, model=model), limits, compiled)


def _training_of(its: Slice) -> Training:
    recipe = its.recipe
    return Training(
        model=its.model,
        micro_batch=recipe.micro_batch,
        accumulation=recipe.accumulation,
        optimizer=recipe.optimizer,
        checkpoint_every=recipe.checkpoint_every,
        precision=recipe.precision,  # type: ignore[arg-type]
        loss_chunks=recipe.loss_chunks,
        strategy=LIKE_DDP.get(recipe.strategy, recipe.strategy),  # type: ignore[arg-type]
        ranks=recipe.ranks,
    )


def _rate(step: StepTime, chosen: Chosen) -> Rate:
    return Rate(
        tokens_per_s=step.tokens_per_s,
        source="predicted",
        rests_on=tuple(f"{stored.run_id} {stored.slice.model.name}" for stored in chosen.slices),
        widened_by=(f"model of the step: {step.seconds.method}",),
    )


def _forecast(step: StepTime) -> Forecast:
    training = step.training
    rate = Rate(
        tokens_per_s=step.tokens_per_s,
        source="predicted",
        rests_on=(f"datasheet of {step.ceilings.name}", "published training runs"),
        widened_by=(_interval_words(step),),
    )
    return Forecast(
        model=training.model,
        rate=rate,
        tokens_per_step=step.tokens_per_step,
        batch=_batch_words(training),
        optimizer=training.optimizer,
        compiled=step.compiled,
    )


def _interval_words(step: StepTime) -> str:
    """The step model's own interval, in words."""
    its = step.seconds
    less, more = (units.format_share(abs(end / its.value - 1)) for end in (its.low, its.high))
    return f"a step takes {less} less to {more} more than predicted, as published runs left out of the fit did"


def _batch_words(training: Training) -> str:
    factors = [f"{training.micro_batch} × {training.model.shape.sequence:,} tokens"]
    factors += [f"{training.accumulation} accumulated"] if training.accumulation > 1 else []
    factors += [f"{training.ranks} cards"] if training.ranks > 1 else []
    return " × ".join(factors)


def _fit_words(training: Training) -> str:
    """ "120M, the largest, fits a card with 13 sequences at once; every model is trained with as many"."""
    count = training.micro_batch
    sequences = f"{count} sequence{'' if count == 1 else 's'} at once ({fitting.way_words(training)})"
    return f"{training.model.name}, the largest, fits a card with {sequences}: every model is trained so"


def _notes(steps: Sequence[StepTime]) -> tuple[str, ...]:
    notes: dict[str, list[str]] = {}
    for step in steps:
        for note in step.notes:
            notes.setdefault(note, []).append(step.training.model.name)
    return tuple(note if len(names) == len(steps) else f"{', '.join(names)}: {note}" for note, names in notes.items())


def _configuration(training: Training, gpu: GpuProfile, compiled: bool) -> Configuration:
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
        optimizer=training.optimizer,
        checkpointing="on" if training.checkpoint_every else "off",
        precision=training.precision,
        compiled=compiled,
        strategy=training.strategy,
        host_allocator="default",
        checkpoint_every=training.checkpoint_every or msgspec.UNSET,
        loss_chunks=training.loss_chunks,
        ranks=training.ranks,
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
    like = msgspec.structs.replace(_training_of(chosen.slices[0].slice), model=model)
    command = _command(question, like, chosen.configuration.compiled)
    return NextSlice(command, model.name, 0.0, absent, "a size that is not measured yet")


def _next(question: Question, steps: Sequence[StepTime], correction: Correction) -> NextSlice | None:
    """The slice that would narrow the rate of the largest model most, which most hours go to."""
    if not question.wants_next_slice:
        return None
    target = max(steps, key=lambda step: step.training.model.flop_per_token)
    found = calibrate.suggest(steps, correction, target)
    best = steps[found.candidate]
    return NextSlice(
        command=_command(question, best.training, best.compiled),
        of=target.training.model.name,
        half_width_now=found.half_width_now,
        half_width_then=found.half_width_then,
        basis="the step's model and what its slices have corrected so far",
    )


def _command(question: Question, training: Training, compiled: bool) -> str:
    """The one slice that trains so."""
    words = ["rigbench train-probe", f"--params {training.model.name}"]
    words += [f"--series {question.series_name}"] if question.series_name in profiles.series_names()[1:] else []
    words += [f"--optimizer {training.optimizer}", f"--precision {training.precision}"]
    words += [f"--compile {'on' if compiled else 'off'}"]
    words += [f"--checkpointing {training.checkpoint_every}"] if training.checkpoint_every else []
    words += [f"--loss {training.loss_chunks}"] if training.loss_chunks > 1 else []
    words += [f"--strategy {training.strategy}"] if training.strategy != "single" else []
    return " ".join([*words, f"--seconds {SLICE_SECONDS}s"])
