"""How would models be trained on cards that one does not have: what fits them, in which batches?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from rigbench.budget.comparable import Wanted
from rigbench.budget.plan import Question
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import RigProfile
from rigbench.model.recipe import LOSS_CHUNKS, Recipe
from rigbench.model.record import Model
from rigbench.predict import capacity as fitting
from rigbench.predict import cards
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Largest, Target

MOST_TOKENS_A_CARD = 32768  # of a micro-batch: what is larger gains little
FEWEST_TOKENS_A_CARD = 4096  # with fewer the next way is tried
# What recorded steps of both series hold, and the allocator rounds up: bytes a token for each entry of the vocabulary
# (three fp32 copies) and for each of a block's width; a parameter's half-precision copy and what else is of its size.
LOGITS_BYTES, KEPT_BYTES = 13.5, {"gpt2": 39, "llama": 47}
COPIES_BYTES, SCRATCH_BYTES, SAFETY = 3, 128 << 20, 0.92
# (recompute every k-th block, parts of the loss): the first that fits the largest model well is taken for all.
WAYS = ((0, 1), (0, LOSS_CHUNKS), (1, LOSS_CHUNKS))


def fitted(predictor: Predictor, models: Sequence[Model], rig: RigProfile, wanted: Wanted) -> Recipe:
    """How the largest model fits the rig's cards, with the micro-batch that all models are then trained with.

    One for all, so that a single model has to be recorded: the smaller ones would fit more, and gain little by it.

    Raises:
        RigbenchError: it does not, or the strategy asked for is not one for so many cards.
    """
    if wanted.strategy is not None and (wanted.strategy == "single") != (rig.count == 1):
        cards_of = "one card" if rig.count == 1 else f"{rig.count} cards"
        raise RigbenchError(f"--strategy {wanted.strategy} is none for the {cards_of} of {rig.name}", "leave it out")
    target = cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)
    largest = max(models, key=lambda model: model.total_parameters)
    base = Recipe(
        optimizer=wanted.optimizer or "adamw",  # type: ignore[arg-type]
        precision=wanted.precision or fitting.arm_precision("auto", target),
        strategy=wanted.strategy or ("ddp" if rig.count > 1 else "single"),  # type: ignore[arg-type]
        ranks=rig.count,
        compiled=True if wanted.compiled is None else wanted.compiled,
        micro_batch=1,
    )
    ways = [way for way in WAYS if wanted.checkpointing in (None, "on" if way[0] else "off")]
    ample = micro_batch_that_surely_fits(predictor, largest, base, target)
    most = max(1, MOST_TOKENS_A_CARD // largest.shape.sequence)
    if ample * largest.shape.sequence >= FEWEST_TOKENS_A_CARD and wanted.checkpointing != "on":
        return msgspec.structs.replace(base, micro_batch=min(ample, most))
    first: Recipe | None = None
    for every, chunks in ways:
        recipe = msgspec.structs.replace(base, checkpoint_every=every, loss_chunks=chunks)
        found = predictor.largest_micro_batch(largest, recipe, target)
        if isinstance(found, Largest):
            recipe = msgspec.structs.replace(recipe, micro_batch=min(found.value, most))
            if recipe.micro_batch * largest.shape.sequence >= FEWEST_TOKENS_A_CARD:
                return recipe
            first = first or recipe
    if first:
        return first
    raise _does_not_fit(predictor, largest, recipe, rig)


def micro_batch_that_surely_fits(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> int:
    """A lower bound in closed form of the largest micro-batch, without a recorded step; 0 where it says nothing.

    A few per cent below what the recorded steps give (tests/test_ways.py), so that most questions need no torch. Of
    half precision with the plain loss and nothing recomputed: logits are three fp32 copies, a block keeps so many bytes
    for each element of its width.
    """
    shape = model.shape
    kept = KEPT_BYTES.get(shape.style)
    if kept is None or recipe.precision not in ("bf16", "fp16") or recipe.strategy not in ("single", "ddp"):
        return 0
    buckets = 4 if recipe.strategy == "ddp" else 0
    fixed = predictor.least_bytes(model, recipe) + (COPIES_BYTES + buckets) * model.total_parameters + SCRATCH_BYTES
    each = shape.sequence * (LOGITS_BYTES * shape.vocabulary + kept * shape.layers * shape.width)
    return max(0, math.floor((SAFETY * cards.room_bytes(target) - fixed) / each))


def _does_not_fit(predictor: Predictor, model: Model, recipe: Recipe, rig: RigProfile) -> RigbenchError:
    """With the least that would: sharding over more of these cards, or the smallest card that has the room."""
    size = min(profiles.gpu(rig.gpu).memory_gib)
    target = cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)
    short = predictor.predict(model, recipe, target).short_bytes
    larger = sorted((gpu for gpu in profiles.gpus() if min(gpu.memory_gib) > size), key=lambda g: min(g.memory_gib))
    enough = next(
        (gpu for gpu in larger if predictor.fits(model, recipe, cards.of_profile(gpu, gpu.id, rig.count))), None
    )
    cures = [f"--on {rig.count}x{enough.id}" if rig.count > 1 else f"--on {enough.id}"] if enough else []
    changes: list[dict[str, str]] = [{"optimizer": "adamw8bit"}]
    changes += [{"strategy": "fsdp2"}, {"strategy": "fsdp2", "optimizer": "adamw8bit"}] if rig.count > 1 else []
    other = next((it for it in changes if predictor.fits(model, msgspec.structs.replace(recipe, **it), target)), None)
    cures += [" ".join(f"--{option} {name}" for option, name in other.items())] if other else []
    cures.append(f"a smaller model (`rigbench capacity --on {rig.name}` tells the largest)")
    what = f"{model.name} does not fit a card of {rig.name} even with checkpointing and a chunked loss"
    return RigbenchError(f"{what}: {short / (1 << 30):.1f} GiB are missing", f"what would do: {' or '.join(cures)}")


def check_batch(question: Question, rig: RigProfile) -> None:
    least = rig.count * max(model.shape.sequence for model in question.models)
    if question.batch_tokens is not None and question.batch_tokens < least:
        raise RigbenchError(
            f"--batch-tokens {question.batch_tokens:,} is less than a sequence for each card",
            f"give {least:,} or more",
        )


def batched(model: Model, recipe: Recipe, batch_tokens: int | None) -> Recipe:
    """With so many tokens in a step, of all cards together; None: one micro-batch on each card."""
    if batch_tokens is None:
        return recipe
    each = batch_tokens / model.shape.sequence / recipe.ranks
    accumulation = -(-round(each) // recipe.micro_batch)
    return msgspec.structs.replace(recipe, micro_batch=max(1, round(each / accumulation)), accumulation=accumulation)
