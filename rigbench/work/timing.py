"""Decides when enough has been measured: warm, tight enough, or out of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rigbench.core import stats
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import EndedBy


@dataclass(frozen=True)
class Limits:
    """The defaults of this module, in one place. Shares are of the time limit."""

    target_half_width: float = 0.01
    limit_seconds: float = 4.0
    min_samples: int = 10
    max_samples: int = 2000  # all of them are stored
    min_seconds: float = 0.1  # of sampling: a burst of microseconds says nothing of the next second
    warmup_share: float = 0.25
    window_share: float = 0.02
    batch_share: float = 0.1
    min_window: int = 3
    max_window: int = 100
    min_steps: int = 8
    min_steady_seconds: float = 3.0
    min_steps_after_first: int = 2


DEFAULT = Limits()


def never() -> bool:
    return False


def sample_until_tight(
    sample: Callable[[int], Sequence[float]],
    clock: Callable[[], float],
    *,
    target_half_width: float = DEFAULT.target_half_width,
    limit_seconds: float = DEFAULT.limit_seconds,
    min_samples: int = DEFAULT.min_samples,
    max_samples: int = DEFAULT.max_samples,
    should_stop: Callable[[], bool] = never,
    late: Callable[[], Sequence[bool]] = tuple,
) -> Timing:
    """Warm up until two consecutive windows agree, then sample until the median's 95 % interval is tight.

    `sample(n)` does the work n times and returns n durations in seconds, in the device's own time; `clock()` is the
    wall clock in seconds, which the limit is about. Work is asked for in batches that grow with the samples at hand,
    at most a tenth of the limit each, so that long work comes one at a time. The interval is looked at after each
    batch: a few looks at growing sizes, for every look is one more chance to stop by luck.

    It ends by "interval" (`min_samples` over a tenth of a second at least, or `max_samples`), "time limit" (before a
    sample that would pass it), "sample limit", or "interrupted" once `should_stop()`. There is always one sample at
    least: where the warm-up used up the time, its last window is what there is.

    `late()` tells in which of the last samples taken the host came too late; nothing where it cannot.

    Raises:
        ValueError: `sample` returned nothing.
    """
    sampler = _Sampler(sample, clock, limit_seconds, should_stop, late)
    warmup, last_window = _warm_up(sampler, target_half_width, max_samples)
    seconds: list[float] = []
    began = clock()
    min_seconds = min(DEFAULT.min_seconds, DEFAULT.batch_share * limit_seconds)
    ended_by: EndedBy | None = sampler.out_of_time()
    while ended_by is None:
        wanted = max(min_samples - len(seconds), len(seconds) // 2)
        room = max_samples - len(seconds)
        seconds += sampler.take(min(wanted, room), DEFAULT.batch_share * limit_seconds)
        full = len(seconds) >= max_samples
        enough = full or (len(seconds) >= min_samples and clock() - began >= min_seconds)
        if enough and _is_tight(stats.median_estimate(seconds, stats.STOPPING_LEVEL), target_half_width):
            ended_by = "interval"
        elif full:
            ended_by = "sample limit"
        else:
            ended_by = sampler.out_of_time()
    if not seconds:
        warmup, seconds = warmup[: len(warmup) - last_window], warmup[len(warmup) - last_window :]
    return Timing(
        warmup_seconds=tuple(warmup),
        seconds=tuple(seconds),
        estimate=stats.median_estimate(seconds),
        target_half_width=target_half_width,
        ended_by=ended_by,
        outliers=len(stats.outliers(seconds)),
        drift_per_minute=stats.drift_per_minute(seconds),
        late=sum(sampler.flags[len(warmup) :]),
    )


class _Sampler:
    """Takes samples in batches, and knows what one costs on the wall clock (which holds more than the work itself)."""

    def __init__(
        self,
        sample: Callable[[int], Sequence[float]],
        clock: Callable[[], float],
        limit_seconds: float,
        should_stop: Callable[[], bool],
        late: Callable[[], Sequence[bool]],
    ) -> None:
        self.sample, self.clock, self.should_stop, self.late = sample, clock, should_stop, late
        self.flags: list[bool] = []  # a sample each, where the device tells
        self.limit_seconds = limit_seconds
        self.started = clock()
        self.wall_per_sample = 0.0

    def take(self, wanted: int, at_most_seconds: float) -> list[float]:
        """Up to `wanted` samples, as many as fit into the given seconds and what is left of the limit, but one."""
        before = self.clock()
        fitting = min(at_most_seconds, self.started + self.limit_seconds - before)
        if self.wall_per_sample > 0:
            wanted = min(wanted, int(fitting / self.wall_per_sample))
        taken = [float(seconds) for seconds in self.sample(max(1, wanted))]
        self.flags += self.late()
        if not taken:
            raise ValueError("sample(n) returned no durations")
        self.wall_per_sample = (self.clock() - before) / len(taken)
        return taken

    def elapsed(self) -> float:
        return self.clock() - self.started

    def out_of_time(self) -> EndedBy | None:
        if self.should_stop():
            return "interrupted"
        return "time limit" if self.elapsed() + self.wall_per_sample > self.limit_seconds else None


def _warm_up(sampler: _Sampler, target: float, max_samples: int) -> tuple[list[float], int]:
    """All warm-up samples, and how many of them are its last window.

    One sample first, whose time sizes the windows. Warm when the median of a window lies within the range of the one
    before it, give or take the target; or when a quarter of the limit (or of the samples) is used up.
    """
    allowance = DEFAULT.warmup_share * sampler.limit_seconds
    warmup = window = sampler.take(1, 0.0)
    while sampler.elapsed() + sampler.wall_per_sample <= allowance and len(warmup) < max_samples // 4:
        if sampler.should_stop():
            break
        size = DEFAULT.max_window
        if sampler.wall_per_sample > 0:
            size = int(DEFAULT.window_share * sampler.limit_seconds / sampler.wall_per_sample)
        size = min(max(size, DEFAULT.min_window), DEFAULT.max_window)
        before, window = window, sampler.take(size, allowance - sampler.elapsed())
        warmup = warmup + window
        if len(before) >= DEFAULT.min_window and _agree(before, window, target):
            break
    return warmup, len(window)


def _agree(before: Sequence[float], after: Sequence[float], target: float) -> bool:
    return min(before) * (1 - target) <= stats.median(after) <= max(before) * (1 + target)


def _is_tight(estimate: Estimate, target: float) -> bool:
    return estimate.level >= stats.STOPPING_LEVEL and estimate.half_width <= target


class StepWatch:
    """Decides, step by step, when a training slice is warm and when its rate is known tightly enough.

    The first step (allocations, kernel choice, the optimizer's states) takes up to 5 times the median and is never
    steady once there is a second; what else is warm-up, stats.steady_start decides from the data.

    To look at the interval after every step would stop by luck: among many looks one is too narrow. So it is looked at
    only once the steady window has `min_steps` steps and 3 seconds (or a third of the limit, if that is less), then
    each time that an eighth more steps are there, three at the least; and two looks in a row must find it tight.
    Simulated with steps that vary by 1 to 10 %, the 90 % interval then holds the true rate 82 to 90 times in 100, and
    71 to 84 times where neighbouring steps have a correlation of 0.5.

    `limit_seconds` may be changed while it runs. Times are seconds of the clock that `clock_start` was read from.
    """

    def __init__(
        self,
        target_half_width: float,
        limit_seconds: float,
        clock_start: float,
        min_steps: int = DEFAULT.min_steps,
    ) -> None:
        self.target_half_width = target_half_width
        self.limit_seconds = limit_seconds
        self.clock_start = clock_start
        self.min_steps = min_steps
        self._seconds: list[float] = []
        self._next_look = min_steps + 1
        self._tight = False
        self._steady = (0, 0)  # for how many steps it was decided, and where the steady window begins

    def add(self, step_seconds: float, now: float) -> EndedBy | None:
        """One more step that ended at `now`: "interval", "time limit" if one more would pass it, or None to go on.

        At least three steps are asked for, whatever the limit: the first says nothing of the others.
        """
        self._seconds.append(step_seconds)
        count = len(self._seconds)
        if count >= self._next_look:
            self._next_look = count + max(3, count // 8)
            was_tight, self._tight = self._tight, self._is_tight()
            if was_tight and self._tight:
                return "interval"
        if count <= DEFAULT.min_steps_after_first:
            return None
        next_step = stats.median(self._seconds[1:][-5:])
        return "time limit" if now - self.clock_start + next_step > self.limit_seconds else None

    @property
    def steady_from(self) -> int:
        """Index of the first steady step; 0 while there is only one."""
        count = len(self._seconds)
        if self._steady[0] != count:
            self._steady = count, 1 + stats.steady_start(self._seconds[1:]) if count > 1 else 0
        return self._steady[1]

    def rate(self, tokens_per_step: int) -> Estimate:
        """Tokens per second over the steady window (stats.rate_estimate).

        Raises:
            ValueError: no step was added.
        """
        return stats.rate_estimate(tokens_per_step, self._seconds[self.steady_from :])

    def _is_tight(self) -> bool:
        steady = self._seconds[self.steady_from :]
        least_seconds = min(DEFAULT.min_steady_seconds, self.limit_seconds / 3)
        if len(steady) < self.min_steps or sum(steady) < least_seconds:
            return False
        return _is_tight(stats.rate_estimate(1, steady, stats.STOPPING_LEVEL), self.target_half_width)
