"""Do the statistics agree with published tables, with the standard library, and with the truth of simulated noise?"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=60)


def noise(seed: int, n: int, correlation: float = 0.0, deviation: float = 0.1) -> list[float]:
    """AR(1) with mean 1: each sample remembers `correlation` of the one before."""
    rng = random.Random(seed)
    state, out = rng.gauss(0, 1), []
    for _ in range(n):
        out.append(1 + deviation * state)
        state = correlation * state + math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
    return out


@given(SAMPLES)
def test_the_median_is_the_standard_librarys(samples):
    assert stats.median(samples) == pytest.approx(statistics.median(samples), rel=1e-12)


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=2, max_size=60))
def test_quartiles_are_the_standard_librarys_inclusive_ones(samples):
    expected = statistics.quantiles(samples, n=4, method="inclusive")
    assert [stats.quantile(samples, q) for q in (0.25, 0.5, 0.75)] == pytest.approx(expected, rel=1e-9)


# Upper quantiles from the printed table of Student's t (Fisher and Yates; NIST/SEMATECH e-Handbook 1.3.6.7.2).
T_TABLE = {
    (0.975, 1): 12.706,
    (0.975, 2): 4.303,
    (0.975, 3): 3.182,
    (0.975, 4): 2.776,
    (0.975, 5): 2.571,
    (0.975, 9): 2.262,
    (0.975, 19): 2.093,
    (0.975, 30): 2.042,
    (0.975, 100): 1.984,
    (0.9, 1): 3.078,
    (0.9, 7): 1.415,
    (0.95, 10): 1.812,
    (0.99, 3): 4.541,
    (0.995, 2): 9.925,
    (0.995, 12): 3.055,
    (0.999, 6): 5.208,
    (0.999, 1): 318.309,
}


@pytest.mark.parametrize(("p", "df"), T_TABLE)
def test_student_t_is_that_of_the_printed_table(p, df):
    assert stats.student_t_quantile(p, df) == pytest.approx(T_TABLE[p, df], abs=6e-4, rel=1e-5)


@given(st.floats(min_value=1e-5, max_value=1 - 1e-5))
def test_student_t_has_its_closed_forms_for_one_and_two_degrees(p):
    assert stats.student_t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-8, abs=1e-8)
    closed = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    assert stats.student_t_quantile(p, 2) == pytest.approx(closed, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("df", [1e5, 1e6, 1e9])
def test_student_t_becomes_normal(df):
    assert stats.student_t_quantile(0.975, df) == pytest.approx(NormalDist().inv_cdf(0.975), rel=2e-5)


@pytest.mark.parametrize(("p", "df"), [(0.0, 5), (1.0, 5), (0.9, 0.5), (math.nan, 5)])
def test_student_t_refuses_what_has_no_quantile(p, df):
    with pytest.raises(ValueError, match="no Student t"):
        stats.student_t_quantile(p, df)


# Ranks (from 1) of the interval of a median: Conover, Practical Nonparametric Statistics; exact binomial coverage.
@pytest.mark.parametrize(
    ("n", "low_rank", "confidence"), [(6, 1, 0.96875), (9, 2, 0.9609375), (10, 2, 0.978515625), (20, 6, 0.9586105)]
)
def test_the_medians_interval_is_that_of_the_binomial_tables(n, low_rank, confidence):
    estimate = stats.median_estimate([float(rank) for rank in range(n, 0, -1)])
    assert (estimate.low, estimate.high) == (low_rank, n + 1 - low_rank)
    assert estimate.level == pytest.approx(confidence, abs=1e-7)
    assert estimate.n == n


def test_the_medians_coverage_is_exact_by_whole_number_arithmetic():
    for n in range(5, 400, 7):
        estimate = stats.median_estimate([float(i) for i in range(n)])
        rank = int(estimate.low)
        outside = 2 * sum(math.comb(n, i) for i in range(rank + 1))
        assert estimate.level == pytest.approx(1 - outside / 2**n, rel=1e-9)
        assert 1 - (outside + 2 * math.comb(n, rank + 1)) / 2**n < 0.90


def test_few_samples_admit_how_little_their_range_covers():
    confidences = [stats.median_estimate([1.0, 2.0, 3.0, 4.0, 5.0][:n]).level for n in range(1, 6)]
    assert confidences == [0.0, 0.5, 0.75, 0.875, 0.9375]
    one = stats.median_estimate([3.0])
    assert (one.value, one.low, one.high, one.method) == (3.0, 3.0, 3.0, "one sample, no interval")


def test_a_rate_is_total_work_over_total_time_and_not_the_median():
    estimate = stats.rate_estimate(1024, [1.0] * 9 + [11.0])
    assert estimate.value == 1024 * 10 / 20
    assert estimate.low < estimate.value < estimate.high


def test_a_rates_interval_is_students_where_batches_are_single_samples():
    seconds = [2.0, 2.1, 1.9, 2.2, 1.8]
    half = 2.131847 * statistics.stdev(seconds) / math.sqrt(5)
    estimate = stats.rate_estimate(10, seconds)
    assert (estimate.value, estimate.n, estimate.level) == (pytest.approx(5.0), 5, 0.90)
    assert (estimate.low, estimate.high) == pytest.approx((10 / (2 + half), 10 / (2 - half)), rel=1e-6)


def test_a_rates_fast_end_is_at_most_twice_the_rate_where_student_would_reach_further():
    seconds = [2.0, 2.1, 3.5]
    assert stats.rate_estimate(10, seconds).high == pytest.approx(10 / (statistics.fmean(seconds) / 2))
    assert stats.rate_estimate(10, [0.5, 2.0, 4.0]).high == pytest.approx(10 / 0.5)  # the fastest step that was seen


@pytest.mark.parametrize(("correlation", "least", "most"), [(0.0, 0.86, 0.94), (0.5, 0.83, 0.93), (0.8, 0.80, 0.93)])
def test_the_rates_interval_holds_the_truth_as_often_as_it_says(correlation, least, most):
    estimates = [stats.rate_estimate(1, noise(seed, 200, correlation)) for seed in range(500)]
    assert least <= sum(e.low <= 1 <= e.high for e in estimates) / 500 <= most


@given(st.lists(st.floats(min_value=0, max_value=1e3), min_size=1, max_size=30).filter(lambda x: sum(x) > 1e-3))
def test_any_durations_give_a_positive_finite_interval_around_the_rate(seconds):
    estimate = stats.rate_estimate(7.0, seconds)
    assert 0 < estimate.low <= estimate.value * (1 + 1e-9)
    assert estimate.value <= estimate.high * (1 + 1e-9)
    assert math.isfinite(estimate.high)


def test_one_and_two_durations_claim_little():
    one, two = stats.rate_estimate(6, [2.0]), stats.rate_estimate(6, [2.0, 3.0])
    assert (one.value, one.low, one.high, one.level) == (3.0, 3.0, 3.0, 0.0)
    assert (two.value, two.low, two.high, two.level) == (pytest.approx(2.4), 2.0, 3.0, 0.5)


def test_no_time_and_no_samples_are_refused():
    with pytest.raises(ValueError, match="no time passed"):
        stats.rate_estimate(1, [0.0, 0.0])
    for summarise in (stats.median, stats.median_estimate, stats.outliers, stats.steady_start, stats.drift_per_minute):
        with pytest.raises(ValueError, match="no samples"):
            summarise([])


def test_a_paired_ratio_is_a_paired_t_test_on_logarithms():
    a, b = [1.1, 2.3, 3.2, 4.1, 5.6], [1.0, 2.0, 3.0, 4.0, 5.0]
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    half = 2.131847 * statistics.stdev(logs) / math.sqrt(5)
    estimate = stats.paired_ratio(a, b)
    assert estimate.value == pytest.approx(statistics.geometric_mean(x / y for x, y in zip(a, b, strict=True)))
    middle = statistics.fmean(logs)
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(middle - half), math.exp(middle + half)), rel=1e-6)


def test_a_paired_ratio_needs_pairs_of_positive_values():
    assert stats.paired_ratio([2.0], [1.0]).level == 0.0
    for a, b in (([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])):
        with pytest.raises(ValueError, match="pairs need"):
            stats.paired_ratio(a, b)


def test_only_samples_beyond_three_interquartile_ranges_are_outliers():
    # quartiles 3 and 7 by the inclusive method: the outer fences are at -9 and 19
    assert stats.outliers([1, 2, 3, 4, 5, 6, 7, 8, 19]) == ()
    assert stats.outliers([1, 2, 3, 4, 5, 6, 7, 8, 19.1]) == (8,)
    assert stats.outliers([5.0, 1.0, 1.01, 0.99, 1.0, 1.02]) == (0,)
    assert stats.outliers([-9, 2, 3, 4, 5, 6, 7, 8, 9]) == ()
    assert stats.outliers([-9.1, 2, 3, 4, 5, 6, 7, 8, 9]) == (0,)
    assert stats.outliers([-9.1, 2, 3, 4, 5, 6, 7, 8, 30]) == (0, 8)


@pytest.mark.parametrize(
    "values", [(2, 1, 4, 3, 6, 5), (1, 1, 1, 1, 2, 2, 2), (1, 1, 2, 2, 3, 3, 2), (1, 3, 2, 4, 3, 5, 4)]
)
def test_the_p_of_a_trend_is_that_of_all_orders_counted_out(values):
    """Mann and Kendall's score in every order of the values, ties and all; the normal approximation is near it."""

    def score(order):
        return abs(sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2)))

    orders = list(itertools.permutations(values))
    exact = sum(score(order) >= score(values) for order in orders) / len(orders)
    assert stats._mann_kendall_p(values) == pytest.approx(exact, abs=0.006)
    assert stats.outliers([1.0]) == ()


@pytest.mark.parametrize("slow", [1, 2, 3, 8])
def test_a_slow_start_is_cut_exactly_where_it_ends(slow):
    samples = [x * (5 if i < slow else 1) for i, x in enumerate(noise(slow, 40, deviation=0.02))]
    assert stats.steady_start(samples) == slow


def test_a_fast_start_is_cut_as_well():
    samples = [x * (0.8 if i < 10 else 1) for i, x in enumerate(noise(5, 40, deviation=0.02))]
    assert stats.steady_start(samples) == 10


def test_an_exponential_approach_is_cut_where_the_noise_swallows_it():
    samples = [x + 4 * math.exp(-i / 5) for i, x in enumerate(noise(2, 100, deviation=0.02))]
    assert 15 <= stats.steady_start(samples) <= 40


def test_a_long_series_is_cut_to_within_a_batch():
    samples = [x * (3 if i < 130 else 1) for i, x in enumerate(noise(3, 1000, deviation=0.05))]
    assert 130 <= stats.steady_start(samples) <= 140


def test_where_there_is_no_warm_up_nothing_is_cut():
    assert stats.steady_start([1.0] * 50) == 0
    assert sum(stats.steady_start(noise(seed, 40)) > 0 for seed in range(200)) <= 10


@pytest.mark.parametrize("stall", [[12], [8, 9, 10]])
def test_a_stall_in_mid_run_is_kept_as_part_of_the_rate(stall):
    samples = [x * (5 if i in stall else 1) for i, x in enumerate(noise(1, 40, deviation=0.02))]
    assert stats.steady_start(samples) == 0


@given(SAMPLES)
def test_at_least_half_of_the_samples_remain(samples):
    assert 0 <= stats.steady_start(samples) <= len(samples) // 2


def test_drift_is_the_relative_slope_per_minute():
    # 1 s samples that grow by 1e-4 s each: in a minute about 60 of them, so 0.6 %
    drift = stats.drift_per_minute([1 + 1e-4 * i for i in range(100)])
    assert drift == pytest.approx(0.006, rel=0.02)


def test_drift_shows_through_noise_and_outliers_and_among_thousands():
    few = [x + 0.005 * i for i, x in enumerate(noise(1, 100, deviation=0.05))]
    few[40] = few[90] = 30.0
    many = [x * 1e-3 * (1 + 0.2 * i / 5000) for i, x in enumerate(noise(2, 5000))]
    assert stats.drift_per_minute(few) == pytest.approx(0.2, rel=0.4)  # 0.005 a sample, 60/1.6 samples, median 1.25
    assert stats.drift_per_minute(many) == pytest.approx(0.2 / 1.1 / (5000 * 1.1e-3 / 60), rel=0.15)


def test_drift_that_noise_could_make_is_absent():
    found = [stats.drift_per_minute(noise(seed, 60)) for seed in range(200)]
    assert sum(not isinstance(drift, Absent) for drift in found) <= 8
    assert stats.drift_per_minute([1.0] * 20) == Absent("no different from noise")
    assert stats.drift_per_minute([1.0 + i for i in range(9)]) == Absent("fewer than 10 samples")


def test_a_rate_of_steps_that_vary_is_at_most_twice_as_fast_as_its_mean_says():
    seconds = [1.5, 1.5, 1.5, 1.5, 4.0]  # the interval alone would reach to 0.934 s, under half of the mean
    assert stats.rate_estimate(10, seconds).high == pytest.approx(10 / 1.0)
    three = stats.rate_estimate(6, [1.9, 2.0, 2.1])
    half = 2.919986 * 0.1 / math.sqrt(3)  # the table's t for two degrees of freedom
    assert (three.level, three.n) == (0.9, 3)
    assert (three.low, three.high) == pytest.approx((6 / (2 + half), 6 / (2 - half)), rel=1e-5)


def test_a_mean_has_students_interval_to_both_sides():
    found = stats.mean([1.0, 2.0, 3.0])
    half = 2.919986 / math.sqrt(3)
    assert (found.low, found.value, found.high) == pytest.approx((2 - half, 2, 2 + half), rel=1e-5)
    assert (stats.mean([1.0, 3.0]).low, stats.mean([1.0, 3.0]).high) == (1.0, 3.0)


def test_a_robust_slope_of_few_points_reaches_from_the_least_to_the_greatest_of_their_slopes():
    found = stats.theil_sen([(0.0, 0.0), (1.0, 1.0), (2.0, 4.0), (3.0, 9.0)])  # slopes 1, 2, 3, 3, 4, 5
    assert (found.low, found.value, found.high) == (1.0, 3.0, 5.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_no_trials_have_no_share(successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        stats.binomial_interval(successes, n)


def test_one_trial_has_the_share_that_the_two_ends_give():
    assert stats.binomial_interval(1, 1) == pytest.approx((0.05, 1.0))
    assert stats.binomial_interval(0, 1) == pytest.approx((0.0, 0.95))


def test_an_estimate_is_scaled_and_of_two_the_fewer_samples_count():
    one, other = Estimate(2.0, 1.0, 4.0, 0.9, "a", 5), Estimate(3.0, 2.0, 4.0, 0.8, "b", 20)
    assert one * 4 == 4 * one == Estimate(8.0, 4.0, 16.0, 0.9, "a", 5)
    for both in (one + other, one * other, one / other, other / one):
        assert (both.level, both.n) == (0.8, 5)
    with pytest.raises(ValueError, match="reaches zero"):
        Estimate(2.0, 0.0, 4.0, 0.9, "a", 5).inverse()
