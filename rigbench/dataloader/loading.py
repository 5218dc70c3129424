"""Times a source of batches as a training loop would wait for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import EndedBy
from rigbench.dataloader.record import Loading
from rigbench.dataloader.sources import MADE_AHEAD, Source
from rigbench.work.timing import StepWatch, never

MOST_SAMPLES = 500  # of a row: fast loaders give several batches to a sample
FEWEST_SAMPLES = 3


def timed(
    source: Source,
    *,
    workers: int,
    limit_seconds: float,
    target_half_width: float,
    finish: Callable[[], object],
    should_stop: Callable[[], bool] = never,
    **facts: Any,
) -> Loading | None:
    """Take batches until the rate is tight or the time is up; None where the source ended before it could be timed.

    The first batch is the start-up, and a few more are what workers had made by then: neither is in the rate. A
    sample is as many batches as take a 500th of the limit, or one; `finish` waits until what they started is done.
    `facts` are the row's fields that timing does not give.
    """
    started = time.perf_counter()
    try:
        source.take()
        finish()
        startup = time.perf_counter() - started - source.untimed_seconds
        for _ in range(MADE_AHEAD * workers):
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
    return Loading(
        **facts,
        workers=workers,
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


def knee(rows: Sequence[Loading]) -> int:
    """The fewest workers whose interval reaches into that of the highest rate."""
    best = max(rows, key=lambda row: row.tokens_per_s.value)
    return min(row.workers for row in rows if row.tokens_per_s.high >= best.tokens_per_s.low)
