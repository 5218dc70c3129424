"""Did a projection keep its word: what was predicted, what really happened, and how often that agreed so far?"""

from __future__ import annotations

from rigbench.budget.record import Rate
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Record


class LogFacts(Record, frozen=True):
    """What a log tells besides its rate. Steps are the log's own numbers.

    `pauses` are stretches (first step after it, seconds) that took over ten times the usual time a step, `resets` steps
    at which the count went back, `non_finite_losses` steps with a NaN or infinite loss, `batch_changes` (step, tokens a
    step from there on).
    """

    name: str
    sha256: str
    format: str
    rows: int
    pauses: tuple[tuple[int, float], ...]
    resets: tuple[int, ...]
    non_finite_losses: tuple[int, ...]
    batch_changes: tuple[tuple[int, float], ...]


class Backtest(Record, frozen=True):
    """One log against one run's prediction for a model.

    `seconds` and `tokens` are the raw stretches between logged steps that the actual rate comes from, pauses and the
    first stretch left out; `wall_tokens_per_s` has everything in it, Absent where the log has no clock. `error_share`
    is actual over predicted, less 1. `inside` says whether the actual rate lies in the stated interval.
    """

    method: int
    started_at: str
    run_id: str
    model: str
    log: LogFacts
    predicted: Rate
    actual_tokens_per_s: Estimate
    wall_tokens_per_s: float | Absent
    error_share: float
    inside: bool
    hours_predicted: Estimate
    hours_actual: float
    seconds: tuple[float, ...]
    tokens: tuple[float, ...]


class Coverage(Record, frozen=True):
    """How often the stated intervals held, over all back-tests of one rig.

    `low` and `high` bound the true share with 95 % (Clopper and Pearson). `median_error_share` shows a lean.
    `widen_by` is what the next interval's logarithmic half-width is multiplied with, and `why` where it comes from.
    """

    backtests: int
    inside: int
    low: float
    high: float
    stated: float
    median_error_share: float
    widen_by: float
    why: str
