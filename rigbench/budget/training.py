"""Trains the slices that a budget rests on as a full run would train here: by ddp on all alike cards of several."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rigbench.budget.forecast import micro_batch_that_surely_fits
from rigbench.budget.slices import ANY_RECIPE, Wanted, one_of_cards
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.job import Job
from rigbench.model.recipe import SEVERAL_GPUS, RecipeOptions
from rigbench.model.record import Model
from rigbench.predict import capacity, steptime
from rigbench.predict.record import Ceilings
from rigbench.train import slices as train
from rigbench.train.record import DEFAULT_MICRO_BATCH, AnySlice, Slice
from rigbench.train.record import Options as SliceOptions
from rigbench.work.record import WattOptions

# Sizes and seconds of the short slices: the smallest, a middle and the largest model show how efficiency rises with
# size, and the middle one is the check on interpolating between the other two.
QUICK_SECONDS = (15.0, 25.0, 60.0)
STEPS_NEEDED = 5  # of a slice, for an interval that says something
IN_A_SLICE = Absent("one card alone has a short run of its own, of the largest model")
ALONE_SECONDS = 25.0  # of the slice on one card, beside those on all


def wanted(job: Job, device: str | None, recipe: RecipeOptions) -> Wanted:
    """All alike cards that are visible, by the strategy that was said, else ddp where they are several.

    Raises:
        RigbenchError: no such device, or a strategy for several cards where one is.
    """
    cards = job.cards(device).alike
    strategy = recipe.strategy
    if isinstance(strategy, Absent):
        return Wanted(cards, "ddp" if len(cards.gpus) > 1 else "single")
    if strategy in SEVERAL_GPUS and len(cards.gpus) == 1:
        what = f"strategy {strategy} is for several GPUs, and {cards.why or 'here is one'}"
        raise RigbenchError(what, "leave it out, or use --set strategy=single")
    return Wanted(cards.first if strategy == "single" else cards, strategy)


def short_slices(models: Sequence[Model], device: str | None) -> tuple[SliceOptions, ...]:
    """A short slice of the smallest, the middle and the largest model of a series."""
    picked = (models[0], models[len(models) // 2], models[-1])[: len(models)]
    return tuple(
        SliceOptions(model=model, device=device or "auto", seconds=seconds)
        for model, seconds in zip(picked, QUICK_SECONDS, strict=False)
    )


def in_their_time(
    job: Job, slices: Sequence[SliceOptions], models: Sequence[Model], ceilings: Ceilings | Absent
) -> list[SliceOptions]:
    """Slices of the largest models that are predicted to make STEPS_NEEDED steps in their time; the others are named.

    `models`: the sizes to choose from in the place of one that is too large, smallest first. Without ceilings nobody
    knows, and the slices stay as they are.
    """
    if isinstance(ceilings, Absent):
        return list(slices)

    def fits(options: SliceOptions) -> bool:
        model, rates = options.model, ceilings.matmul_flops_per_s
        usual = max((precision for precision in ("bf16", "fp32") if precision in rates), key=lambda it: rates[it].value)
        precision = usual if options.recipe.precision == "auto" else options.recipe.precision
        size = options.recipe.micro_batch or DEFAULT_MICRO_BATCH[ceilings.kind]
        recipe = msgspec.structs.replace(options.recipe, precision=precision, micro_batch=size)
        seconds = steptime.predict(model, recipe, ceilings).seconds.value if isinstance(model, Model) else 0.0
        return STEPS_NEEDED * seconds <= (options.seconds or options.longest_seconds)

    left = [options for options in slices if fits(options)]
    large = [options for options in slices if options not in left]
    if not large:
        return left
    taken = {options.model for options in left}
    for options in large:
        smaller = [it for it in models if it.flop_per_token < _work(options) and it not in taken]
        tries = (msgspec.structs.replace(options, model=model) for model in reversed(smaller))
        if (instead := next(filter(fits, tries), None)) is not None:
            left.append(instead)
            taken.add(instead.model)
    names = ", ".join(options.model.name for options in large)
    left = left or [slices[0]]
    job.warn(
        f"{names}: predicted to make fewer than {STEPS_NEEDED} steps in the time of a short run here, so "
        f"{', '.join(options.model.name for options in left)} {'is' if len(left) == 1 else 'are'} trained, and the "
        "rates of the others come from the step model"
    )
    return sorted(left, key=_work)


def _work(options: SliceOptions) -> float:
    return options.model.flop_per_token if isinstance(options.model, Model) else 0.0


def train_slices(
    job: Job, slices: Sequence[SliceOptions], watts: WattOptions, recipe: RecipeOptions = ANY_RECIPE
) -> None:
    """One after the other; one that is refused is kept as Skipped, and the others go on.

    Of several alike cards all train, and the largest model once more on a single one, so that scaling is seen. Where
    the first of these slices does not train, one card trains them all, and that is said.
    """
    slices = [msgspec.structs.replace(options, recipe=recipe.over(options.recipe)) for options in slices]
    its = wanted(job, slices[0].device, recipe)
    if its.ranks == 1 or its.strategy == "single":
        for options in slices:
            _slice(job, options, watts, its)
        return
    for number, options in enumerate(slices):
        size = _micro_batch(job, options, its)
        chosen = msgspec.structs.replace(options.recipe, strategy=its.strategy, micro_batch=size)
        together = msgspec.structs.replace(options, recipe=chosen, device="cuda", alone=IN_A_SLICE)
        if size and not options.recipe.micro_batch:
            together = msgspec.structs.replace(together, micro_batch_by="by what is predicted to fit")
        result = _slice(job, together, watts, its)
        if number == 0 and isinstance(result, Skipped) and isinstance(recipe.strategy, Absent):
            _on_one(job, slices, watts, its, result.reason)
            return
    trained = [it for it in job.run.slices if isinstance(it, Slice) and it.recipe.ranks == its.ranks]
    if not trained or not isinstance(recipe.strategy, Absent):
        return
    largest = max(trained, key=lambda it: it.model.flop_per_token)
    options = next(it for it in slices if it.model == largest.model)
    alone = msgspec.structs.replace(options.recipe, micro_batch=largest.recipe.micro_batch)
    seconds = min(ALONE_SECONDS, options.seconds or ALONE_SECONDS)
    options = msgspec.structs.replace(options, recipe=alone, seconds=seconds, micro_batch_by="as on all cards")
    _slice(job, options, watts, Wanted(its.cards.first))


def _on_one(job: Job, slices: Sequence[SliceOptions], watts: WattOptions, its: Wanted, reason: str) -> None:
    alone = Wanted(its.cards.first)
    for number, options in enumerate(slices):
        result = _slice(job, options, watts, alone)
        if number or not isinstance(result, AnySlice):
            continue
        why = f"{its.strategy} on {its.ranks} cards did not train ({reason})"
        what = "the CPU" if result.device.kind == "cpu" else f"{one_of_cards(1, its.ranks)} alone"
        job.warn(f"{what} was measured: {why}")


def _slice(job: Job, options: SliceOptions, watts: WattOptions, its: Wanted) -> AnySlice | Skipped:
    try:
        return train.run(job, options, watts, its=its.cards if its.cards.gpus else None)
    except RigbenchError as error:
        skipped = Skipped(train.skipped_as(options.recipe.strategy, its.ranks), str(error))
        job.keep(slices=(*job.run.slices, skipped))
        return skipped


def did_not_train(job: Job, its: Wanted) -> str:
    """Why all cards together did not, the last time that slices were measured on this rig; "" where nothing says so."""
    run = next(job.holding("slices"), None)
    name = train.skipped_as(its.strategy, its.ranks)
    failed = [it for it in (run.slices if run else ()) if isinstance(it, Skipped) and it.probe == name]
    if its.ranks == 1 or not run or not failed:
        return ""
    return f"{its.strategy} on {its.ranks} cards did not train in run {run.id} ({failed[0].reason})"


def _micro_batch(job: Job, options: SliceOptions, its: Wanted) -> int:
    """Of each rank: what was said, else 0, the default, or where that is predicted not to fit what does.

    A single process halves it by itself when memory runs out; ranks cannot, since the others wait.
    """
    size, recipe, model = options.recipe.micro_batch, options.recipe, options.model
    if size or not isinstance(model, Model) or not its.cards.gpus:
        return size
    try:
        target = capacity.target(job, None, its.cards)
    except RigbenchError:  # a driver that does not tell its memory
        return 0
    precision = capacity.arm_precision(recipe.precision, target, recipe.adapter)
    recipe = msgspec.structs.replace(recipe, strategy=its.strategy, ranks=its.ranks, precision=precision)
    predictor, size = capacity.predictor_of(job), DEFAULT_MICRO_BATCH["cuda"]
    if micro_batch_that_surely_fits(predictor, model, recipe, target) >= size:
        return 0
    while size > 1 and not predictor.predict(model, msgspec.structs.replace(recipe, micro_batch=size), target).fits:
        size //= 2
    return size
