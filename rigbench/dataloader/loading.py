"""How many tokens per second does a source of batches give, once it has started?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import EndedBy
from rigbench.dataloader.record import Loading
from rigbench.work.timing import StepWatch, never

MOST_SAMPLES = 500  # of a row: fast loaders give several batches to a sample
FEWEST_SAMPLES = 3


class Source(Protocol):
    """Something that gives batches, each as the number of its input tokens.

    `untimed_seconds` has grown by what a call spent on starting over; `restarts` counts how often that was.
    """

    untimed_seconds: float
    restarts: int

    def take(self) -> int: ...


class Timed(NamedTuple):
    """The fields of a Loading that come from timing it."""

    startup_seconds: float
    batches_per_sample: int
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    steady_from: int
    tokens_per_s: Estimate
    restarts: int
    ended_by: EndedBy


def timed(
    source: Source,
    *,
    skip: int,
    limit_seconds: float,
    target_half_width: float,
    finish: Callable[[], object],
    should_stop: Callable[[], bool] = never,
) -> Timed | None:
    """Take batches until the rate is tight or the time is up; None where the source ended before it could be timed.

    The first batch is the start-up, and `skip` more are what workers had made by then: neither is in the rate. A
    sample is as many batches as take a 500th of the limit, or one; `finish` waits until what they started is done.
    """
    started = time.perf_counter()
    try:
        source.take()
        finish()
        startup = time.perf_counter() - started
        for _ in range(skip):
            source.take()
        batches = _batches_per_sample(source, limit_seconds / MOST_SAMPLES, finish)
    except StopIteration:
        return None
    watch = StepWatch(target_half_width, limit_seconds, time.perf_counter())
    tokens: list[int] = []
    seconds: list[float] = []
    ended_by: EndedBy | None = None
    while ended_by is None:
        begun, untimed = time.perf_counter(), source.untimed_seconds
        try:
            taken = sum([source.take() for _ in range(batches)])  # a list: StopIteration must get out
        except StopIteration:
            ended_by = "finished"
            break
        finish()
        now = time.perf_counter()
        tokens.append(taken)
        seconds.append(max(now - begun - (source.untimed_seconds - untimed), 1e-9))
        ended_by = "interrupted" if should_stop() else watch.add(seconds[-1], now)
    if len(seconds) < FEWEST_SAMPLES:
        return None
    return Timed(
        startup_seconds=startup,
        batches_per_sample=batches,
        tokens=tuple(tokens),
        seconds=tuple(seconds),
        steady_from=watch.steady_from,
        tokens_per_s=rate(tokens[watch.steady_from :], seconds[watch.steady_from :]),
        restarts=source.restarts,
        ended_by=ended_by,
    )


def _batches_per_sample(source: Source, sample_seconds: float, finish: Callable[[], object]) -> int:
    started, untimed, batches = time.perf_counter(), source.untimed_seconds, 0
    while True:
        source.take()
        batches += 1
        if time.perf_counter() - started - (source.untimed_seconds - untimed) >= sample_seconds:
            finish()
            return batches


def rate(tokens: Sequence[int], seconds: Sequence[float]) -> Estimate:
    """Total tokens over total seconds, with the interval of a ratio where samples differ in size.

    A sample's seconds are corrected by what its surplus of tokens takes at the overall rate: the sum stays the same,
    and their spread becomes that of the ratio's linearised error (Cochran, Sampling Techniques, §6.4).
    """
    mean = math.fsum(tokens) / len(tokens)
    per_token = math.fsum(seconds) / math.fsum(tokens)
    corrected = [second - (count - mean) * per_token for count, second in zip(tokens, seconds, strict=True)]
    return stats.rate_estimate(mean, corrected)


def best_and_knee(rows: Sequence[Loading]) -> tuple[int, int]:
    """(the worker count of the highest rate, the fewest workers whose interval reaches into the best one's).

    Raises:
        ValueError: no rows.
    """
    best = max(rows, key=lambda row: row.tokens_per_s.value)
    near = [row.workers for row in rows if row.tokens_per_s.high >= best.tokens_per_s.low]
    return best.workers, min([*near, best.workers])


def ratio(above: Estimate, below: Estimate) -> Estimate:
    """One rate over another, measured apart: the interval spans the ends of both, so it is wider than 95 %."""
    return Estimate(
        value=above.value / below.value,
        low=above.low / below.high,
        high=above.high / below.low,
        level=min(above.level, below.level),
        method="ratio of two rates, interval from the ends of both",
        n=min(above.n, below.n),
    )
