"""Does an estimate's arithmetic follow its rules: sums of ends, ratios by squares, and nothing over zero?"""

from __future__ import annotations

import math

import pytest

from rigbench.core.estimate import Estimate, Timing, ratio
from rigbench.core.record import Absent, Figure

some, other = Estimate(2.0, 1.0, 4.0, 0.9, "a", 5), Estimate(3.0, 2.0, 4.0, 0.8, "b", 20)


def test_a_sum_adds_middles_lows_and_highs_and_a_number_shifts_all_three():
    assert some + other == Estimate(5.0, 3.0, 8.0, 0.8, "sum of lows and of highs", 5)
    assert some + 10 == 10 + some == Estimate(12.0, 11.0, 14.0, 0.9, "a", 5)


def test_a_product_and_a_ratio_are_away_from_their_middles_by_the_root_of_both_ends_squares():
    down, up = math.hypot(math.log(2), math.log(4 / 3)), math.hypot(math.log(2), math.log(3 / 2))
    for found, middle, ends in (
        (some / other, 2 / 3, (down, up)),
        (some * other, 6, (math.hypot(math.log(2), math.log(3 / 2)), math.hypot(math.log(2), math.log(4 / 3)))),
    ):
        assert found.value == pytest.approx(middle)
        assert (found.low, found.high) == pytest.approx((middle * math.exp(-ends[0]), middle * math.exp(ends[1])))
        assert found.method == "ratio of two estimates, half widths added as squares"


def test_a_number_scales_an_estimate_and_turns_it_round_where_it_is_negative_or_below_the_line():
    assert some * -3 == Estimate(-6.0, -12.0, -3.0, 0.9, "a", 5)
    assert some / 4 == Estimate(0.5, 0.25, 1.0, 0.9, "a", 5)
    assert 8 / some == Estimate(4.0, 2.0, 8.0, 0.9, "a", 5)
    assert some.inverse() == Estimate(0.5, 0.25, 1.0, 0.9, "a", 5)


def test_an_interval_is_widened_in_logarithms():
    assert some.widened(2) == Estimate(2.0, 0.5, 8.0, 0.9, "a", 5)
    assert some.widened(1) == some


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_what_may_be_zero_divides_nothing_and_is_divided_by_nothing(low):
    zero = Estimate(2.0, low, 4.0, 0.9, "a", 5)
    for above, below in ((zero, some), (some, zero)):
        assert ratio(above, below) == Absent("an interval reaches zero")
        with pytest.raises(ValueError, match="a ratio of intervals that reach zero"):
            above / below
    with pytest.raises(ValueError, match="the inverse of an interval that reaches zero"):
        1 / zero


def test_a_ratio_of_what_is_small_is_told_and_of_what_is_absent_is_why():
    small = Estimate(0.2, 0.1, 0.4, 0.9, "a", 5)
    assert ratio(small, other) == small / other
    assert ratio(other, small) == other / small
    assert (1 / small).high == pytest.approx(10)
    assert ratio(Absent("one"), other) == ratio(Absent("one"), Absent("two")) == Absent("one")
    assert ratio(some, Absent("two")) == Absent("two")


@pytest.mark.parametrize(
    ("value", "low", "high", "half_width"), [(2.0, 1.0, 4.0, 0.75), (-2.0, -4.0, -1.0, 0.75), (0.0, -1.0, 1.0, 0.0)]
)
def test_half_a_width_is_a_share_of_the_middle_and_none_of_zero(value, low, high, half_width):
    assert Estimate(value, low, high, 0.9, "", 5).half_width == half_width


def test_beyond_half_its_middle_to_either_side_only_the_range_is_said():
    assert Estimate(2.0, 1.0, 3.0, 0.9, "", 5).has_middle
    assert not Estimate(2.0, 1.0, 3.01, 0.9, "", 5).has_middle


def test_an_estimate_becomes_a_predicted_figure_with_its_ends():
    assert some.figure("counts") == Figure(2.0, "predicted", "counts", 1.0, 4.0)


def test_a_timing_says_of_no_sample_that_it_was_late_unless_told():
    assert Timing((), (1.0,), some, 0.01, "precise", 0, Absent("few")).late == 0


def test_what_was_measured_is_not_changed_afterwards():
    timing = Timing((), (1.0,), some, 0.01, "interval", 0, Absent("few"))
    for record in (some, timing):
        for name in record.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(record, name, 0)
