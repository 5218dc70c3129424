"""Predicts how long a step of a program of the user's takes, from what its own code was counted to do on fake tensors.

By the terms, constants and level of eager code of published runs, which are of language models: rigbench's own decoder,
brought as a program, gets the answer that it gets by its name. What is less like them has a wider interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.model.counts import Tensors
from rigbench.model.recipe import Recipe
from rigbench.predict import operations, posterior
from rigbench.predict.operations import Operation
from rigbench.predict.posterior import Case
from rigbench.predict.record import Ceilings, StepPart
from rigbench.predict.steptime import beyond_fitted, seconds_by_part
from rigbench.predict.terms import of_work, reduced_seconds

# Kernels of a GPT-2's micro-step outside its layers, and of each: the host is fitted by layers. In autocast, and plain.
KERNELS, KERNELS_PLAIN = (24, 51), (18, 29)
# The interval is wider by so much, each way, of ln(seconds). Assumed. Of four published ResNet-50 (NVIDIA's
# DeepLearningExamples, A100 and V100, 2021-03) the seconds lie a factor 0.8 to 1.9 from what is predicted here.
ALIKE_SPREAD, UNLIKE_SPREAD = 0.1, 0.5
CONVOLUTION = "convolution"


class OwnStep(NamedTuple):
    """One step of all cards."""

    seconds: Estimate
    parts: tuple[StepPart, ...]
    note: str


def predict(work: Sequence[Operation], tensors: Tensors, recipe: Recipe, ceilings: Ceilings, tokens: int) -> OwnStep:
    """One micro-step of `work` and the optimizer's over `tensors`, on cards known by their datasheet. `tokens`: of the
    micro-step on a card; 0: its samples are no tokens."""
    every = [(it, 1.0) for it in (*work, *operations.stepped(tensors, recipe))]
    outside, each = KERNELS if recipe.precision in ("bf16", "fp16") else KERNELS_PLAIN
    layers = max(0.0, sum(it.times * it.kernels for it in work) - outside) / each
    gradients = recipe.weight_bytes * sum(math.prod(dims) for _, dims in tensors)
    sent = reduced_seconds(gradients, ceilings) if recipe.ranks > 1 else 0.0
    found = of_work(every, recipe, ceilings, layers, sent)
    answer = posterior.answer(
        Case(
            device=tuple(map(sum, zip(*found.parts.values(), strict=True))),
            power=found.power,
            host=found.host,
            kind="eager",
            program="",
            card=ceilings.gpu,
            year=posterior.YEARS[1],
            place=(),
            recipe=("own",),
            maker="nvidia" if ceilings.compute_capability else "other",
        )
    )
    parts = seconds_by_part(found, answer.constants, "cuda", answer.level)
    alike = tokens > 0 and not any(CONVOLUTION in it.name for it in work)
    wider = ALIKE_SPREAD if alike else UNLIKE_SPREAD
    half, total = answer.half_width + wider, sum(part.seconds for part in parts)
    half += beyond_fitted(tokens) if alike else 0.0
    why = "no such program" if alike else "nothing but language models"
    note = f"its speed: {why} is behind the constants, so its interval is wider by e^{wider:g} (assumed)"
    ends = total * math.exp(-half), total * math.exp(half)
    return OwnStep(Estimate(total, *ends, stats.LEVEL, answer.basis, answer.sources), parts, note)
