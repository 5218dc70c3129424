"""Is the first screen of a back-test its answer: predicted against happened, and whether the interval held?"""

from __future__ import annotations

import math

import msgspec
from test_backtest import FACTS, clocked, compare, stated
from test_first_screens import holds, printed

from rigbench.backtest.record import Backtest, Cause, Reach
from rigbench.backtest.screen import brief
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.logs.stretches import LogRow

INSIDE = """\
ok    backtest: 5M: 2.4 % faster than predicted, inside the interval
  predicted   1,000 tokens/s (950 to 1,050), run r1
  happened    1,020 tokens/s (960 to 1,090), measured over 6 stretches of log.csv (CSV)
  time        70 s of training steps; 72 s (68 to 75) predicted for these tokens
  wall clock  796 tokens/s with everything in it, 22 % less than its training steps
  how sure  one log against one interval of 90 %; its next intervals learn from this
  more      rigbench report RUN --verbose.  next: rigbench backtest --summary
"""
OUTSIDE = """\
warn  backtest: 5M: 2.2 times as slow as predicted, OUTSIDE the interval
  predicted   2,300 tokens/s (2,180 to 2,420), run r1
  happened    1,024 tokens/s, measured over 6 stretches of log.csv (CSV)
  time        1 min 40 s of training steps; 45 s (42 to 47) predicted for these tokens
  wall clock  25.3 tokens/s with everything in it, 98 % less than its training steps
  warn  1 pause, 1 h 6 min in all, left out of the rate
  warn  the step count went back at step 40: a restart
  warn  the loss was not finite at step 30
  warn  tokens a step changed to 2,048 at step 60: the prediction is for one batch size
  how sure  one log against one interval of 90 %; its next intervals learn from this
  more      rigbench report RUN --verbose.  next: rigbench backtest --summary
"""
SLOW = """\
warn  backtest: 120M on 2xrtx-4080: 62,000 tokens/s is SLOW, 53 % of what is predicted
  predicted  117,000 tokens/s (80,000 to 150,000), adamw, bf16, compiled, ddp on 2
  this log   62,000 tokens/s (61,400 to 62,600), train.log (nanoGPT)
  read as   time is of one step
  would be  without torch.compile: 80,000 tokens/s (50,000 to 100,000)
  or        the rate of one card, of which there are 2
  how sure  predicted from datasheets and published runs, 90 %
  more      rigbench report RUN --verbose.  next: rigbench monitor, beside the training
"""


def inside() -> Backtest:
    return compare(clocked([30.0, 10.0, 11.0, 9.0, 10.5, 10.0, 9.5]), tokens_per_step=1024.0)


def outside() -> Backtest:
    """A night asleep, a restart, a changed batch, and a loss that is none."""
    rows = [
        LogRow(step=step, at_seconds=at, tokens=tokens, loss=loss)
        for step, at, tokens, loss in [
            (0, 0, 0, 9.0), (10, 10, 10240, 8.0), (20, 20, 20480, 7.0), (30, 30, 30720, math.nan), (40, 40, 40960, 6.0),
            (50, 4000, 51200, 6.0), (40, 4020, 40960, 6.0), (50, 4030, 51200, 6.0), (60, 4050, 71680, 6.0),
            (70, 4070, 92160, 5.0),
        ]
    ]  # fmt: skip
    return compare(rows, predicted=2300.0)


def reach(rate: float, level: float = 0.9) -> Reach:
    expected = stated(117_000.0, 0.3)
    causes = (Cause("without torch.compile", Estimate(84_000.0, 52_000.0, 100_000.0, 0.9, "a test", 14)),)
    return Reach(
        method=1,
        started_at="2026-11-21T00:00:00Z",
        rig="2xrtx-4080",
        cards=2,
        model="120M",
        recipe="adamw, bf16, compiled, ddp on 2",
        log=msgspec.structs.replace(FACTS, name="train.log", format="nanoGPT", reading=("time is of one step",)),
        expected=expected,
        actual_tokens_per_s=Estimate(rate, rate * 0.99, rate * 1.01, level, "batch means", 20),
        share=rate / 117_000.0,
        causes=causes if rate < 80_000 else (),
        hints=("the rate of one card, of which there are 2",) if rate < 80_000 else (),
    )


def test_inside_the_interval():
    holds(brief, inside(), INSIDE)


def test_outside_the_interval_with_all_that_a_log_may_have():
    holds(brief, outside(), OUTSIDE)


def test_a_log_that_is_slow_for_a_named_card():
    holds(brief, reach(62_000.0), SLOW)


def test_a_log_as_fast_as_it_should_be_leads_to_a_budget():
    text = printed(brief, reach(110_000.0))
    assert text.startswith("ok    backtest: 120M on 2xrtx-4080: 110,000 tokens/s is as it should be\n")
    assert "next: rigbench budget --on 2xrtx-4080" in text
    assert "110,000 tokens/s, of one or two lines: no interval" in printed(brief, reach(110_000.0, level=0.0))


def test_times_are_said_as_people_say_them_and_not_where_the_log_has_none():
    hours = Estimate(0.00593, 0.00528, 0.00658, 0.9, "a test", 3)
    told = msgspec.structs.replace(inside(), hours_predicted=hours, hours_actual=0.0058)
    assert "21 s of training steps; 21 s (19 to 24) predicted for these tokens" in printed(brief, told)
    none = Absent("the log has no times, only rates")
    without = msgspec.structs.replace(told, hours_predicted=none, hours_actual=none)
    assert "  time        n/a (the log has no times, only rates)" in printed(brief, without)
