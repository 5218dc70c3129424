"""The one recipe in which train-probe, capacity and budget have a model trained on hardware that is not here.

Compiled, in bf16 where the card has it, by ddp on several cards, with as many sequences at once as are predicted to fit
and no more than gain something; with the loss in parts, and then with checkpointing, where nearly nothing fits else.
"""

from __future__ import annotations

import msgspec

from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.model.recipe import LOSS_CHUNKS, Adapter, Precision, Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Largest, Target

MOST_TOKENS_A_CARD = 32768  # of a micro-batch: what is larger gains little
FEWEST_TOKENS_A_CARD = 4096  # with fewer the next way is tried
# (recompute every k-th block, parts of the loss): the first that fits the model well.
WAYS = ((0, 1), (0, LOSS_CHUNKS), (1, LOSS_CHUNKS))


def plain(target: Target, adapter: Adapter = "none") -> Recipe:
    """Of one sequence, with nothing said but which adapter is trained."""
    return Recipe(
        precision=native_precision(target, adapter),
        compiled=target.kind == "cuda" and adapter != "qlora",
        strategy="ddp" if target.count > 1 else "single",
        ranks=target.count,
        micro_batch=1,
    )


def native_precision(target: Target, adapter: Adapter = "none") -> Precision:
    """bf16 where the card multiplies it natively, fp16 on those that only have that, else fp32; a CPU takes bf16. With
    an adapter bf16-pure in bf16's place on a card, as frozen weights need no fp32, and always where 4 bits unpack.
    """
    if adapter != "none":
        pure = adapter == "qlora" or (native_precision(target) == "bf16" and target.kind == "cuda")
        return "bf16-pure" if pure else native_precision(target)
    if isinstance(target.gpu, Absent) or not isinstance(profiles.gpu(target.gpu).bf16_tflop_per_s, Absent):
        return "bf16"
    return "fp16" if "fp16" in profiles.peaks(target.gpu) else "fp32"


def recipe(predictor: Predictor, model: Model, said: RecipeOptions, target: Target) -> Recipe | Absent:
    """With its micro-batch; Absent where not even one sequence fits in any way that was left open, not even at the low
    end of what it is predicted to take.

    `said` has no "auto" precision in it. With strategy "single" the target's further cards do not count.
    """
    first: Recipe | Absent = Absent("not even one sequence fits")
    unsure = first
    for every, chunks in WAYS:
        asked = said.over(
            msgspec.structs.replace(plain(target, said.adapter_kind), checkpoint_every=every, loss_chunks=chunks)
        )
        if bool(every) != bool(asked.checkpoint_every):
            continue
        asked = msgspec.structs.replace(asked, ranks=1 if asked.strategy == "single" else target.count)
        made = with_most(predictor, model, asked, target)
        if isinstance(made, Recipe):
            if made.micro_batch * model.shape.sequence >= FEWEST_TOKENS_A_CARD:
                return made
            first = first if isinstance(first, Recipe) else made
        elif predictor.predict(model, asked, target).low_end <= target.usable.value:
            unsure = asked
    return first if isinstance(first, Recipe) else unsure


def with_most(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> Recipe | Absent:
    """With as many sequences at once as are predicted to fit and gain something."""
    largest = predictor.largest_micro_batch(model, recipe, target)
    if not isinstance(largest, Largest):
        return largest
    most = max(1, MOST_TOKENS_A_CARD // model.shape.sequence)
    return msgspec.structs.replace(recipe, micro_batch=min(largest.value, most))
