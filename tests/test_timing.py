"""Does sampling stop exactly when the scripted clock and samples say that it should?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench.core.estimate import Timing
from rigbench.core.record import Absent
from rigbench.work.timing import StepWatch, sample_until_tight


class Script:
    """Work whose n-th run takes `durations(n)` seconds of device time, and `overhead` more on the wall clock."""

    def __init__(self, durations, overhead: float = 0.0) -> None:
        self.durations, self.overhead = durations, overhead
        self.now, self.runs, self.batches = 100.0, 0, []

    def sample(self, n: int) -> list[float]:
        taken = [self.durations(self.runs + i) for i in range(n)]
        self.runs += n
        self.batches.append(n)
        self.now += sum(taken) + n * self.overhead
        return taken

    def clock(self) -> float:
        return self.now

    def until_tight(self, **options) -> Timing:
        return sample_until_tight(self.sample, self.clock, **options)


def wobble(deviation: float, mean: float = 1.0, seed: int = 1):
    rng = random.Random(seed)
    drawn = [mean * (1 + deviation * rng.gauss(0, 1)) for _ in range(5000)]
    return lambda n: drawn[n]


def test_quiet_work_ends_by_interval_after_the_least_samples():
    script = Script(lambda n: 0.0625)
    timing = script.until_tight(limit_seconds=8.0)
    assert script.batches == [1, 3, 3, 10]  # first look, two windows that agree, then ten samples at once
    assert timing.ended_by == "interval"
    assert (len(timing.warmup_seconds), len(timing.seconds)) == (7, 10)
    assert (timing.estimate.value, timing.estimate.half_width) == (0.0625, 0.0)
    assert timing.target_half_width == 0.01
    assert timing.outliers == 0
    assert isinstance(timing.drift_per_minute, Absent)


def test_long_work_is_sampled_one_at_a_time_until_the_limit():
    script = Script(lambda n: 1.0)
    timing = script.until_tight(limit_seconds=4.0)
    assert script.batches == [1, 1, 1, 1]
    assert timing.ended_by == "time limit"
    assert timing.warmup_seconds == (1.0,)
    assert timing.seconds == (1.0, 1.0, 1.0)
    assert timing.estimate.level == 0.75
    assert script.now == 104.0


def test_very_short_work_is_sampled_in_growing_batches_up_to_the_sample_limit():
    script = Script(wobble(0.5, mean=1e-5))
    timing = script.until_tight()
    assert script.batches == [1, 100, 100, 10, 5, 7, 11, 16, 24, 36, 54, 81, 122, 183, 274, 411, 617, 149]
    assert (timing.ended_by, len(timing.seconds)) == ("sample limit", 2000)


def test_quiet_short_work_is_watched_for_a_tenth_of_a_second():
    script = Script(lambda n: 1e-3)
    timing = script.until_tight()
    assert timing.ended_by == "interval"
    assert 0.1 <= sum(timing.seconds) <= 0.16


def test_the_warm_up_lasts_until_two_windows_agree():
    script = Script(lambda n: max(0.0625, 0.25 - 0.03125 * n))  # steady from the seventh run on
    timing = script.until_tight(limit_seconds=16.0)
    # 0.25 | .21875 .1875 .15625 | .125 .09375 .0625 | .0625 .0625 .0625: window ranges meet only in the last two
    assert timing.warmup_seconds[-4:] == (0.0625,) * 4
    assert len(timing.warmup_seconds) == 1 + 3 + 3 + 3
    assert set(timing.seconds) == {0.0625}


def test_a_warm_up_that_never_settles_takes_at_most_a_quarter_of_the_limit():
    script = Script(lambda n: 0.5 * 0.97**n)
    timing = script.until_tight(limit_seconds=8.0)
    assert sum(timing.warmup_seconds) <= 2.0
    assert sum(timing.warmup_seconds) + sum(timing.seconds) <= 8.0


def test_noise_is_sampled_until_the_interval_is_within_the_target():
    script = Script(wobble(0.05, mean=0.01))
    timing = script.until_tight(limit_seconds=60.0)
    assert timing.ended_by == "interval"
    assert timing.estimate.half_width <= 0.01
    assert timing.estimate.low <= 0.01 <= timing.estimate.high
    assert 60 <= len(timing.seconds) <= 600


def test_drift_and_outliers_are_reported_and_nothing_is_discarded():
    quiet = wobble(0.001, mean=0.1)
    script = Script(lambda n: quiet(n) * (1 + 0.002 * n) * (10 if n == 40 else 1))
    timing = script.until_tight(limit_seconds=12.0, target_half_width=0.001)
    assert timing.ended_by == "time limit"
    assert timing.outliers == 1
    assert max(timing.seconds) > 1.0
    assert len(timing.warmup_seconds) + len(timing.seconds) == script.runs
    assert isinstance(timing.drift_per_minute, float)
    # 0.2 % of the first a sample, 600 first samples a minute, against a median that is about 12 % longer
    assert timing.drift_per_minute == pytest.approx(1.2 / 1.12**2, rel=0.1)


def test_the_limit_is_about_the_wall_clock_and_not_the_devices_time():
    script = Script(wobble(0.3, mean=0.001), overhead=0.1)
    timing = script.until_tight(limit_seconds=4.0)
    assert timing.ended_by == "time limit"
    assert 103.8 <= script.now <= 104.0


def test_one_run_longer_than_the_limit_is_the_one_sample():
    script = Script(lambda n: 30.0)
    timing = script.until_tight(limit_seconds=4.0)
    assert (timing.warmup_seconds, timing.seconds, timing.ended_by) == ((), (30.0,), "time limit")
    assert timing.estimate.level == 0.0
    assert script.runs == 1


def test_an_interruption_keeps_what_there_is():
    script = Script(wobble(0.3))
    timing = script.until_tight(limit_seconds=100.0, should_stop=lambda: script.runs >= 10)
    assert timing.ended_by == "interrupted"
    assert sum(script.batches[:-1]) < 10 <= script.runs  # the batch under way is finished, none is begun
    assert len(timing.warmup_seconds) + len(timing.seconds) == script.runs
    at_once = Script(lambda n: 0.5).until_tight(should_stop=lambda: True)
    assert (at_once.seconds, at_once.ended_by) == ((0.5,), "interrupted")


def test_work_that_returns_no_durations_is_refused():
    with pytest.raises(ValueError, match="no durations"):
        sample_until_tight(lambda n: [], lambda: 0.0)


@settings(max_examples=60)
@given(
    mean=st.floats(min_value=1e-4, max_value=3.0),
    deviation=st.floats(min_value=0.0, max_value=0.15),
    overhead=st.floats(min_value=0.0, max_value=0.5),
    limit=st.floats(min_value=0.01, max_value=10.0),
    seed=st.integers(min_value=0, max_value=10),
)
def test_the_limit_is_never_passed_by_more_than_the_last_batch(mean, deviation, overhead, limit, seed):
    script = Script(wobble(deviation, mean, seed), overhead)
    timing = script.until_tight(limit_seconds=limit)
    last = sum((timing.warmup_seconds + timing.seconds)[-script.batches[-1] :]) + script.batches[-1] * overhead
    assert script.now - 100.0 <= limit + last
    assert timing.seconds
    assert len(timing.warmup_seconds) + len(timing.seconds) == script.runs


def watched(watch: StepWatch, steps, start: float = 0.0):
    """Feed steps until the watch says stop; the reason and how many steps it took."""
    now, count, reason = start, 0, None
    for seconds in steps:
        now, count = now + seconds, count + 1
        reason = watch.add(seconds, now)
        if reason:
            break
    return reason, count, now


def test_quiet_steps_end_by_interval_at_the_second_look():
    watch = StepWatch(0.02, 60.0, 50.0)
    reason, count, _ = watched(watch, [5.0] + [1.0] * 50, start=50.0)
    assert (reason, count) == ("interval", 12)  # first look at step 9 (8 steady), the next three steps on
    assert watch.steady_from == 1
    assert watch.rate(1024).value == 1024.0
    assert watch.rate(1024).half_width == 0.0


def test_fast_steps_are_watched_for_three_seconds():
    reason, _, now = watched(StepWatch(0.02, 60.0, 0.0), [0.01] * 1000)
    assert reason == "interval"
    assert 3.0 < now < 4.5


def test_a_third_of_a_short_limit_is_enough():
    reason, _, now = watched(StepWatch(0.02, 3.0, 0.0), [0.01] * 1000)
    assert reason == "interval"
    assert 1.0 < now < 1.5


def test_noisy_steps_end_before_the_one_that_would_pass_the_limit():
    noisy = wobble(0.3)
    reason, count, now = watched(StepWatch(0.001, 25.0, 0.0), [noisy(n) for n in range(100)])
    assert reason == "time limit"
    assert 23.0 < now <= 25.0
    assert count < 40


def test_equal_steps_fill_the_limit_exactly():
    reason, count, now = watched(StepWatch(0.0, 10.0, 0.0, min_steps=100), [1.0] * 100)
    assert (reason, count, now) == ("time limit", 10, 10.0)


def test_two_steps_after_the_first_are_taken_whatever_the_limit():
    watch = StepWatch(0.02, 5.0, 0.0)
    reason, count, _ = watched(watch, [50.0, 10.0, 11.0, 12.0])
    assert (reason, count) == ("time limit", 3)
    assert watch.steady_from == 1
    assert watch.rate(21).value == pytest.approx(2.0)


def test_the_first_step_stands_alone_until_there_is_a_second():
    watch = StepWatch(0.02, 60.0, 0.0)
    assert watch.add(5.0, 5.0) is None
    assert (watch.steady_from, watch.rate(10).value, watch.rate(10).level) == (0, 2.0, 0.0)
    assert watch.add(1.0, 6.0) is None
    assert (watch.steady_from, watch.rate(10).value) == (1, 10.0)


def test_a_longer_warm_up_is_left_out_of_the_rate():
    quiet = wobble(0.005)
    watch = StepWatch(0.01, 200.0, 0.0)
    watched(watch, [5.0, 3.0, 3.0, 2.0, *(quiet(n) for n in range(60))])
    assert 4 <= watch.steady_from <= 6  # never sooner; noise may cost a step or two
    assert watch.rate(1).value == pytest.approx(1.0, rel=0.01)


def test_the_limit_may_be_changed_under_way():
    watch = StepWatch(0.0, 1000.0, 0.0, min_steps=500)
    assert watched(watch, [1.0] * 5)[0] is None
    watch.limit_seconds = 6.5
    assert watch.add(1.0, 6.0) == "time limit"


def test_stopping_when_tight_still_holds_the_true_rate_most_of_the_time():
    held = 0
    for seed in range(150):
        noisy, watch = wobble(0.03, seed=seed), StepWatch(0.02, 300.0, 0.0)
        watched(watch, (noisy(n) for n in range(400)))
        held += watch.rate(1).low <= 1.0 <= watch.rate(1).high
    assert 0.78 <= held / 150 <= 0.96


@settings(max_examples=60)
@given(
    st.lists(st.floats(min_value=0.01, max_value=2.0), min_size=3, max_size=200),
    st.floats(min_value=0.1, max_value=50.0),
)
def test_a_slice_never_passes_its_limit_by_more_than_one_step_after_the_first_three(steps, limit):
    reason, count, now = watched(StepWatch(0.02, limit, 0.0), steps)
    assert now <= max(limit + steps[count - 1], sum(steps[:3]) + 1e-9)
    assert reason or count == len(steps)
