"""Back-tests: what was predicted, what really happened, and how often that agreed so far."""

from __future__ import annotations

from typing import Annotated

from rigbench.budget.record import Rate
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader
from rigbench.core.record import Absent, Record

METHOD = 1


class Options(Record, frozen=True, kw_only=True):
    """How a log is read."""

    model: Annotated[
        str | Absent,
        Option(TEXT, "The model of this log: one of the run's; with --on a size, as 120M, or a published one.", "NAME"),
    ] = NOT_GIVEN
    tokens_per_step: Annotated[
        float | Absent,
        Option(Reader(units.parse_count), "Tokens of one optimizer step, where the log does not say.", "N"),
    ] = NOT_GIVEN
    pattern: Annotated[
        str | Absent, Option(TEXT, "Named groups: step, and ms, at_seconds, tokens, tokens_per_s, loss.", "REGEX")
    ] = NOT_GIVEN
    columns: Annotated[
        str, Option(TEXT, "Which column or scalar is what, as step=iter,tokens=seen.", "ROLE=NAME,…")
    ] = ""
    forget: Annotated[
        str | Absent, Option(TEXT, "Withdraw a back-test: its own run, or the run that predicted.", "RUN")
    ] = NOT_GIVEN
    summary: Annotated[bool, Option(None, "All back-tests of this rig: did intervals hold?", names=("--summary",))] = (
        False
    )


class LogFacts(Record, frozen=True):
    """What a log tells besides its rate. Steps are the log's own numbers."""

    name: str
    sha256: str
    format: str
    rows: int
    pauses: tuple[tuple[int, float], ...]  # stretches (first step after it, seconds) of over ten times the usual time
    resets: tuple[int, ...]  # steps at which the count went back
    non_finite_losses: tuple[int, ...]
    batch_changes: tuple[tuple[int, float], ...]  # (step, tokens a step from there on)
    reading: tuple[str, ...] = ()  # what its numbers were taken for
    warmup: int = 0  # slow stretches at its start that were left out, besides the first
    jumps: int = 0  # stretches over which the step count jumped faster than any training, left out
    breaks: int = 0  # stretches with an evaluation or a checkpoint in them, left out
    breaks_within: int = 0  # and those that are in the rate, since hardly any is without


class Backtest(Record, frozen=True):
    """One log against one run's prediction for a model."""

    method: int
    started_at: str
    run_id: str
    model: str
    log: LogFacts
    predicted: Rate
    actual_tokens_per_s: Estimate
    wall_tokens_per_s: float | Absent  # with everything in it
    error_share: float  # actual over predicted, less 1
    inside: bool  # whether the actual rate lies in the stated interval
    hours_predicted: Estimate | Absent
    hours_actual: float | Absent
    seconds: tuple[float, ...]  # stretches that the actual rate comes from, without pauses and the first
    tokens: tuple[float, ...]
    rig: str = ""  # hardware that the prediction named; "" is the rig whose run it was


class Cause(Record, frozen=True):
    """One thing done otherwise, and the rate that the step model then predicts."""

    words: str
    tokens_per_s: Estimate


class Reach(Record, frozen=True):
    """A log's rate beside what this program predicts for named hardware, of which no run need be stored."""

    method: int
    started_at: str
    rig: str
    cards: int
    model: str
    recipe: str  # that the prediction is for
    log: LogFacts
    expected: Rate
    actual_tokens_per_s: Estimate
    share: float  # actual over expected
    causes: tuple[Cause, ...]  # whose predicted interval holds the actual rate, the nearest first
    hints: tuple[str, ...]  # what such a factor also is


class Coverage(Record, frozen=True):
    """How often the stated intervals held, over all back-tests of one rig."""

    backtests: int
    inside: int
    low: float  # of the true share, 90 % (Clopper and Pearson)
    high: float
    stated: float
    median_error_share: float  # shows a lean
    widen_by: float  # what the next interval's logarithmic half-width is multiplied with
    why: str
