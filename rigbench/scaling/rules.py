"""Chooses learning rate, batch and schedule of one model's training: one rule each, with its source."""

from __future__ import annotations

import math
from typing import NamedTuple

from rigbench.budget import laws
from rigbench.core.errors import RigbenchError
from rigbench.model.recipe import Precision
from rigbench.model.record import Model

# Bi et al. 2024 (DeepSeek LLM, arXiv 2401.02954), §3.1: fitted with AdamW and a schedule that stays at its peak for
# four fifths of the tokens, as ours does, on 1e17 to 2e19 FLOP. C is M·D, M FLOP a token without the vocabulary's.
RATE, RATE_POWER = 0.3118, -0.1250
BATCH, BATCH_POWER = 0.2920, 0.3271  # in tokens
FITTED_FLOPS = (1e17, 2e19)
# Hägele et al. 2024 (arXiv 2405.18392): constant, then down to nothing over the last fifth by 1 - sqrt.
DECAY_SHARE, LONGEST_WARM_UP = 0.2, 300
WARM_UP_SHARE = 0.05  # of a run too short for that many steps; assumed
ON_CPU: Precision = "fp32"  # where a measured choice could differ from one model to the next
MOST_AT_ONCE = 8192  # tokens of a micro-batch, unless --micro-batch says otherwise
HELD_OUT_SHARE, LEAST_HELD_OUT, MOST_HELD_OUT = 1 / 16, 1 << 14, 1 << 20  # tokens; the share is of those trained on
LARGEST_HELD_OUT_SHARE = 0.1  # of the file
FEWEST_STEPS = 20  # of the shortest run: fewer tell nothing of a schedule
# Tokens that are few are shared out in so many steps: assumed. Below the critical batch a smaller one learns as much of
# a token, and takes longer.
ENOUGH_STEPS = 1000
SOURCE = "learning rate and batch: DeepSeek LLM 2024 (arXiv 2401.02954, §3.1), of the FLOP without the vocabulary's"
SCHEDULE_SOURCE = "warm-up, stable, 1-sqrt decay over the last fifth: Hägele 2024 (arXiv 2405.18392)"


class Rules(NamedTuple):
    """How one model is trained on `tokens` tokens."""

    learning_rate: float  # of the stable part
    batch_tokens: int  # of a step, in all; a power of two of sequences
    steps: int
    warm_up_steps: int
    decay_steps: int  # of the last branch; of one that ends elsewhere `decay_of` its steps
    critical_batch_tokens: float  # Kaplan's, at the loss that he expects at the end
    beyond_fit: str  # how the rule is stretched beyond what it was fitted on; "" where it is not


def rules(model: Model, tokens: float, multiple: int = 1) -> Rules:
    """`tokens`: of the longest run of this model, since the branches share its trunk; `multiple`: sequences in a step
    are a multiple of that many, as of ranks.

    Raises:
        RigbenchError: the tokens are too few for a schedule.
    """
    shape = model.shape
    flops = (6 * model.non_embedding_parameters + 12 * shape.layers * shape.query_width * shape.sequence) * tokens
    if not (math.isfinite(flops) and flops > 0):
        raise RigbenchError(f"{tokens:g} tokens are none to train on", "give more")
    critical = laws.critical_batch_tokens(laws.kaplan_loss(model.non_embedding_parameters, tokens))
    wanted = min(BATCH * flops**BATCH_POWER, critical, tokens / ENOUGH_STEPS) / (shape.sequence * multiple)
    sequences = multiple * 2 ** max(0, round(math.log2(wanted)))
    batch = sequences * shape.sequence
    steps = int(tokens // batch)
    if steps < FEWEST_STEPS:
        what = f"{tokens:,.0f} tokens are {steps} steps of {batch:,} for {model.name}"
        raise RigbenchError(what, f"give {FEWEST_STEPS * batch:,} tokens or more")
    low, high = FITTED_FLOPS
    beyond = "" if low <= flops <= high else f"fitted on {low:.0e} to {high:.0e} FLOP, used at {flops:.1e}"
    beyond += ": the rate is that at its lower end" if flops < low else ""
    return Rules(
        # Below the fit it is held: carried on, it passes 0.01, at which the series tiny did not fall with size.
        learning_rate=RATE * max(flops, low) ** RATE_POWER,
        batch_tokens=batch,
        steps=steps,
        warm_up_steps=max(1, min(LONGEST_WARM_UP, round(WARM_UP_SHARE * steps))),
        decay_steps=decay_of(steps),
        critical_batch_tokens=critical,
        beyond_fit=beyond.replace("e+", "e"),
    )


def at_once(sequences: int, sequence: int, most: int | None = None) -> int:
    """The micro-batch of a step of so many sequences a rank: all, or the largest part of them up to `most`."""
    most = max(1, MOST_AT_ONCE // sequence) if most is None else most
    return next(count for count in range(min(sequences, most), 0, -1) if sequences % count == 0)


def decay_of(steps: int) -> int:
    """Steps of the decay of a run of so many in all."""
    return max(1, round(DECAY_SHARE * steps))


def held_out_tokens(tokens: float, found: float = math.inf) -> int:
    """Of a file of `found` tokens, beside the most that are trained on: enough for a loss, and not most of the time."""
    return int(min(max(LEAST_HELD_OUT, HELD_OUT_SHARE * tokens), MOST_HELD_OUT, LARGEST_HELD_OUT_SHARE * found))


def share_of_rate(step: int, steps: int, warm_up: int, decay: int) -> float:
    """Of the stable rate, in step `step` (from 0) of `steps`: up in a straight line, level, down by 1 - sqrt."""
    if step < warm_up:
        return (step + 1) / warm_up
    left = steps - step
    return 1.0 if left > decay else 1 - math.sqrt((decay - left) / decay)
