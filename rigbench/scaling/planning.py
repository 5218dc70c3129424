"""Plans a series: the rules of each model beside the budget that they lead to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rigbench.budget.plan import HOUR, Request
from rigbench.budget.record import Budget
from rigbench.budget.training import STEPS_NEEDED
from rigbench.core.estimate import Estimate
from rigbench.machine.cuda_map import Cards
from rigbench.model import shape
from rigbench.model.record import Model
from rigbench.scaling import rules, sizes
from rigbench.scaling.record import EVALUATIONS, PlannedModel, SeriesPlan
from rigbench.scaling.rules import Rules
from rigbench.train.record import Options as SliceOptions

SLOW_CPU = 3e10  # FLOP/s in training, of two cores: assumed
PROCESS_SECONDS = 2.0, 1.0, 6.0  # until Python has torch in its memory: 1.3 s on two CPUs, assumed elsewhere
BRANCHES = (0.25, 0.5)  # of the tokens, beside all of them: three numbers of tokens a model, as L(N, D) needs


def ruled(request: Request, cards: int) -> list[Rules]:
    """How each model is to be trained on so many cards."""
    return [rules.rules(model, tokens, cards) for model, tokens in zip(request.models, request.tokens(), strict=True)]


def as_trained(
    slices: Sequence[SliceOptions], request: Request, its: Sequence[Rules], cards: Cards
) -> list[SliceOptions]:
    """Slices as `scaling run` would train each; on a CPU of fewer sequences where it would not come to five steps."""
    count, made = max(1, len(cards.gpus)), []
    for one in slices:
        assert isinstance(one.model, Model)
        batch, sequence = its[request.models.index(one.model)].batch_tokens, one.model.shape.sequence
        micro = rules.at_once(batch // sequence // count, sequence)
        recipe = msgspec.structs.replace(one.recipe, micro_batch=micro)
        if not cards.gpus:
            most = int(one.seconds / STEPS_NEEDED * SLOW_CPU / one.model.flop_per_token / sequence)
            recipe = msgspec.structs.replace(recipe, precision=rules.ON_CPU, micro_batch=max(1, min(micro, most)))
        made.append(msgspec.structs.replace(one, recipe=recipe, micro_batch_by="the rule"))
    return made


def planned(request: Request, its: Sequence[Rules], budget: Budget) -> SeriesPlan:
    rows = []
    for model, one, row in zip(request.models, its, budget.series, strict=True):
        rows.append(
            PlannedModel(
                model=model.name,
                parameters=model.total_parameters,
                tokens=row.tokens,
                learning_rate=one.learning_rate,
                batch_tokens=one.batch_tokens,
                critical_batch_tokens=one.critical_batch_tokens,
                steps=one.steps,
                warm_up_steps=one.warm_up_steps,
                decay_steps=one.decay_steps,
                micro_batch=row.micro_batch,
                memory=row.memory,
                beyond=one.beyond_fit,
            )
        )
    share = rules.DECAY_SHARE * sum(BRANCHES)
    return SeriesPlan(
        series=request.name,
        models=tuple(rows),
        sources=(rules.SOURCE, rules.SCHEDULE_SOURCE),
        branches=BRANCHES,
        branches_share=share,
        hours=_hours(request, budget, share),
    )


def _hours(request: Request, budget: Budget, share: float) -> Estimate:
    """Of all that `scaling run` does: the steps with those of the branches, its own evaluations, and its processes."""
    whole = budget.series_hours * (1 + share)
    for row in budget.series:
        evaluated = (EVALUATIONS + len(BRANCHES) + 1) * sizes.FORWARD_SHARE * rules.held_out_tokens(row.tokens)
        whole += evaluated / row.rate.tokens_per_s / HOUR
    for overhead in budget.overheads:
        if overhead.name != "evaluation":  # that of a program whose evaluations are not known
            whole += Estimate(overhead.hours.value, *overhead.hours.ends, whole.level, "", 0)
    processes = len(budget.series)
    if request.name in shape.series_names() and shape.series(request.name).within_minutes:  # which are chosen first
        processes += 2
        whole += 2 * sizes.TRIED_SECONDS / HOUR
    return whole + processes * Estimate(*PROCESS_SECONDS, whole.level, "assumed", 0) / HOUR
