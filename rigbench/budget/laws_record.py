"""What do published scaling laws say of a budget: the best size, the tokens, the loss, the batch?"""

from __future__ import annotations

from rigbench.core.record import Absent, Record


class LawOptimum(Record, frozen=True):
    """One law's compute-optimal model for a budget. `counts` says which parameters and which FLOP the law means.

    `loss` is in nats a token on the law's own data set; `beyond_fit` says how the answer leaves the fitted range.
    """

    law: str
    parameters: float
    tokens: float
    loss: float
    counts: str
    source: str
    beyond_fit: str | Absent


class LawLoss(Record, frozen=True):
    """One law's loss, nats a token on its own data set, of one model after so many tokens."""

    law: str
    loss: float
    source: str


class ScalingLaws(Record, frozen=True):
    """Predictions of published fits, never measurements. The laws' spread is the honest interval: the published
    standard errors of one fit are correlated, and are not propagated.

    `critical_batch_tokens` is Kaplan's, at the lowest and the highest of the laws' losses (high loss, small batch).
    """

    flops: float
    optima: tuple[LawOptimum, ...]
    parameters_low: float
    parameters_high: float
    tokens_low: float
    tokens_high: float
    critical_batch_tokens_low: float
    critical_batch_tokens_high: float
    caveat: str
