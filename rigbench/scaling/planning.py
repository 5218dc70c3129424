"""Plans a series: the rules of each model beside the budget that they lead to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rigbench.budget.plan import Request
from rigbench.budget.record import Budget
from rigbench.budget.training import STEPS_NEEDED
from rigbench.machine.cuda_map import Cards
from rigbench.model.record import Model
from rigbench.scaling import rules
from rigbench.scaling.record import PlannedModel, SeriesPlan
from rigbench.scaling.rules import Rules
from rigbench.train.record import Options as SliceOptions

SLOW_CPU = 3e10  # FLOP/s in training, of two cores: assumed
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
        hours=budget.whole.hours + budget.series_hours * share,
    )
