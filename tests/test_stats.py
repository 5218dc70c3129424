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


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.25, 1.75), (1.0, 4.0)])
def test_a_quantile_reaches_from_the_least_to_the_greatest(q, expected):
    assert stats.quantile([4.0, 1.0, 3.0, 2.0], q) == expected


@pytest.mark.parametrize("q", [-0.01, 1.01, math.nan])
def test_what_lies_outside_is_no_quantile(q):
    with pytest.raises(ValueError, match="a quantile lies between 0 and 1"):
        stats.quantile([1.0, 2.0], q)


@pytest.mark.parametrize("df", [100, 300, 3_000, 50_000, 1_000_000])
@pytest.mark.parametrize("p", [0.01, 0.45, 0.5001, 0.6, 0.75, 0.95, 0.999])
def test_student_t_of_many_degrees_follows_its_expansion_about_the_normal(p, df):
    """Abramowitz and Stegun 26.7.5, to the third term; what is left out is of the order of df^-4."""
    z = NormalDist().inv_cdf(p)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    expected = sum(term / df**power for power, term in enumerate(terms))
    assert stats.student_t_quantile(p, df) == pytest.approx(expected, rel=1e-5)


def test_student_t_stays_from_a_million_degrees_on_and_is_zero_in_the_middle():
    assert stats.student_t_quantile(0.9, 1e9) == stats.student_t_quantile(0.9, 1e6)
    assert stats.student_t_quantile(0.9, 1e6) != stats.student_t_quantile(0.9, 5e5)
    assert [stats.student_t_quantile(0.5, df) for df in (1, 2.5, 1e6)] == [0.0] * 3


@pytest.mark.parametrize(
    ("n", "level", "method"),
    [
        (2, 0.90, "median, minimum to maximum"),
        (4, 0.90, "median, minimum to maximum"),
        (5, 0.90, "median, binomial order statistics"),
        (2, 0.50, "median, binomial order statistics"),  # the range of two covers exactly half
    ],
)
def test_a_median_says_how_its_interval_was_made(n, level, method):
    assert stats.median_estimate([float(it) for it in range(n)], level).method == method


@pytest.mark.parametrize(
    ("n", "batches"),
    [(3, 3), (5, 5), (6, 5), (95, 5), (96, 6), (111, 6), (112, 7), (319, 19), (320, 20), (336, 20), (2000, 20)],
)
def test_a_rate_has_a_batch_per_16_samples_but_at_least_5_and_at_most_20(n, batches):
    assert stats.rate_estimate(1, noise(1, n)).n == batches


def test_a_rates_interval_is_that_of_a_ratio_where_batches_differ_by_a_sample():
    seconds = noise(4, 12)
    mean = statistics.fmean(seconds)
    batches = [seconds[0:2], seconds[2:4], seconds[4:7], seconds[7:9], seconds[9:12]]
    assert stats.batch_means(seconds, 5) == pytest.approx([statistics.fmean(it) for it in batches])
    squares = sum((sum(it) - len(it) * mean) ** 2 for it in batches)
    half = 2.131847 * math.sqrt(5 / 4 * squares) / 12  # Cochran, §6.4; Student's t of four degrees
    found = stats.rate_estimate(3, seconds)
    assert (found.low, found.high) == pytest.approx((3 / (mean + half), 3 / (mean - half)), rel=1e-6)


def test_a_duration_of_zero_counts_as_a_millionth_of_the_mean():
    assert stats.rate_estimate(1, [0.0, 4.0]).high == pytest.approx(1 / 2e-6)


def test_one_pair_has_no_interval_and_two_have_a_wide_one():
    one, two = stats.paired_ratio([3.0], [2.0]), stats.paired_ratio([2.0, 8.0], [1.0, 2.0])
    assert (one.value, one.low, one.high, one.method) == (*[pytest.approx(1.5)] * 3, "one pair, no interval")
    half = 6.313752 * (math.log(4) - math.log(2)) / 2  # t of one degree times the deviation of two over √2
    assert (two.low, two.high) == pytest.approx((math.sqrt(8) * math.exp(-half), math.sqrt(8) * math.exp(half)))
    assert (two.level, two.n, two.method) == (0.9, 2, "geometric mean of paired ratios, Student t on logarithms")


@pytest.mark.parametrize("n", [2, 7, 30])
def test_none_and_all_of_n_have_the_closed_forms_of_clopper_and_pearson(n):
    assert stats.binomial_interval(0, n) == pytest.approx((0.0, 1 - 0.05 ** (1 / n)))
    assert stats.binomial_interval(n, n) == pytest.approx((0.05 ** (1 / n), 1.0))


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (1, 10), (5, 10), (9, 10), (3, 29)])
def test_at_either_end_of_a_shares_interval_what_was_seen_has_one_chance_in_twenty(successes, n):
    low, high = stats.binomial_interval(successes, n)

    def chance(counts, p):
        return sum(math.comb(n, it) * p**it * (1 - p) ** (n - it) for it in counts)

    assert chance(range(successes, n + 1), low) == pytest.approx(0.05, rel=1e-6)
    assert chance(range(successes + 1), high) == pytest.approx(0.05, rel=1e-6)


def steady(samples):
    """`steady_start` once more, from its description, slowly."""
    n = len(samples)
    if n < 8:
        return 0
    size = -(-n // 100)
    batches = [statistics.fmean(samples[i * size : (i + 1) * size]) for i in range(n // size)]
    smooth = [batches[0], *(statistics.median(batches[i : i + 3]) for i in range(len(batches) - 2)), batches[-1]]

    def differ(before, after):
        middle = statistics.median(after)
        deviation = statistics.median(abs(it - middle) for it in after) / NormalDist().inv_cdf(0.75)
        error = deviation * math.sqrt(1 / len(before) + 1 / len(after))
        return abs(statistics.median(before) - middle) > 6 * error

    cuts = [0, *(cut for cut in range(1, n) if 2 * cut * size <= n and differ(batches[:cut], batches[cut:]))]
    errors = {cut: statistics.pvariance(smooth[cut:]) / len(smooth[cut:]) for cut in cuts}
    return size * min(cut for cut, error in errors.items() if error <= 1.25 * min(errors.values()))


@pytest.mark.parametrize("n", [7, 8, 9, 20, 41, 100, 101, 150, 201, 450])
def test_the_steady_part_begins_where_its_description_says(n):
    """Starts of all lengths, most of them near what is just told or just worth cutting; some in two stages."""
    rng, found = random.Random(n), []
    for seed in range(40 if n <= 101 else 8):
        slow, second = rng.randint(0, max(1, n // 2)), rng.randint(0, n)
        by, after = rng.choice([0.1, 0.2, 0.3, 0.5, 1.0]), rng.choice([0.0, 0.0, 0.2])
        one = [
            x + (by if i < slow else 0) + (after if i < second else 0)
            for i, x in enumerate(noise(seed, n, deviation=0.1))
        ]
        assert stats.steady_start(one) == steady(one)
        found.append(stats.steady_start(one))
    assert n < 8 or len(set(found)) > 3


@pytest.mark.parametrize(("n", "start"), [(7, 0), (8, 1), (100, 7), (101, 8), (200, 8), (201, 9)])
def test_a_slow_start_is_cut_from_8_samples_on_and_in_at_most_100_batches(n, start):
    slow = 1 if n < 10 else 7
    assert stats.steady_start([x * (5 if i < slow else 1) for i, x in enumerate(noise(6, n, deviation=0.01))]) == start


@pytest.mark.parametrize(("n", "of_a_block"), [(10, 1), (300, 1), (600, 2), (900, 3)])
def test_drift_is_exact_where_samples_grow_in_proportion_to_the_time_that_passed(n, of_a_block):
    """Above 300 samples by the medians of 300 blocks, inside which the noise of these cancels."""
    begin, growth, elapsed, samples = 1.0, 1e-3, 0.0, []
    for _ in range(n // of_a_block):
        # a sample is begin + growth · the moment of its block's middle
        middle = (begin + growth * elapsed) / (1 - growth * of_a_block / 2)
        samples += {1: [middle], 2: [0.5 * middle, 1.5 * middle], 3: [1.5 * middle, 0.5 * middle, middle]}[of_a_block]
        elapsed += of_a_block * middle
    medians = sorted(samples) if of_a_block == 1 else samples
    assert stats.drift_per_minute(samples) == pytest.approx(60 * growth / statistics.median(medians), rel=1e-9)


# Of 45 pairs 7 are out of order in the first: p = 0.0073 by the normal approximation; 8 in the second: 0.0123.
@pytest.mark.parametrize(
    ("order", "told"), [((7, 0, 1, 2, 3, 4, 5, 6, 8, 9), True), ((8, 0, 1, 2, 3, 4, 5, 6, 7, 9), False)]
)
def test_a_trend_is_told_where_chance_makes_it_less_than_once_in_a_hundred(order, told):
    assert isinstance(stats.drift_per_minute([1 + it / 100 for it in order]), float) is told


def test_durations_of_zero_tell_no_slope_and_no_time_has_no_drift():
    zeros = [0.0, 0.0, 0.0, *(1.0 + it for it in range(12))]
    assert stats.drift_per_minute(zeros) > 0
    assert stats.drift_per_minute([0.0] * 8 + [1.0] * 4) == Absent("no time passed")
    assert stats.drift_per_minute([0.0] * 3) == Absent("no time passed")


@pytest.mark.parametrize("per_batch", [1, 2, 5])
def test_a_slope_is_that_of_the_textbook_through_ten_means(per_batch):
    n, rng = 10 * per_batch, random.Random(per_batch)
    moments = [3 * it + rng.random() for it in range(n)]
    values = [7 + 0.25 * it + rng.gauss(0, 0.5) for it in moments]
    found = stats.slope(moments, values)
    xs, ys = ([statistics.fmean(its[i : i + per_batch]) for i in range(0, n, per_batch)] for its in (moments, values))
    line = statistics.linear_regression(xs, ys)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    half = 1.859548 * math.sqrt(left / 8 / (statistics.pvariance(xs) * 10))  # the table's t of eight degrees
    assert found.value == pytest.approx(line.slope)
    assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half), rel=1e-6)
    assert (found.level, found.n) == (0.9, 10)


def test_a_slope_needs_ten_values_and_two_moments():
    rising = [float(it) for it in range(10)]
    for moments in ([0.0] * 9 + [1.0], [0.0] + [1.0] * 9):
        assert stats.slope(moments, rising).value > 0
    for moments, values in (([1.0] * 10, rising), (rising[:9], rising[:9])):
        with pytest.raises(ValueError, match="a slope needs 10 values at different moments"):
            stats.slope(moments, values)


@pytest.mark.parametrize(
    ("n", "batches", "t"), [(3, 3, 2.919986), (9, 9, 1.859548), (10, 10, 1.833113), (40, 10, 1.833113)]
)
def test_a_means_interval_is_students_over_at_most_ten_batches(n, batches, t):
    values = noise(n, n)
    means = [statistics.fmean(values[i : i + n // batches]) for i in range(0, n, n // batches)]
    half = t * statistics.stdev(means) / math.sqrt(batches)
    found, middle = stats.mean(values), statistics.fmean(values)
    assert (found.value, found.low, found.high) == pytest.approx((middle, middle - half, middle + half), rel=1e-6)
    assert (found.level, found.n) == (0.9, batches)


def test_one_and_two_values_have_a_range_and_no_level():
    assert stats.mean([2.0]) == Estimate(2.0, 2.0, 2.0, 0.0, "too few values", 1)
    assert stats.mean([2.0, 4.0]) == Estimate(3.0, 2.0, 4.0, 0.0, "too few values", 2)


def kendall_deviation(n):
    """Of Kendall's score over all orders of n values, counted out: the k-th stands before 0 to k-1 of those there."""
    scores = {0: 1}
    for k in range(2, n + 1):
        longer = dict.fromkeys(range(-n * n, n * n + 1), 0)
        for score, ways in scores.items():
            for before in range(k):
                longer[score + k - 1 - 2 * before] += ways
        scores = {score: ways for score, ways in longer.items() if ways}
    return math.sqrt(sum(score**2 * ways for score, ways in scores.items()) / math.factorial(n))


@pytest.mark.parametrize("n", [3, 5, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19])
def test_a_robust_slopes_ends_are_the_ordered_slopes_of_hollander_and_wolfe(n):
    """Their M-th from either end, M = (N - C) / 2 of N slopes, C what Kendall's score keeps within with 90 %."""
    rng = random.Random(n)
    points = [(float(x), rng.random()) for x in range(n)]
    slopes = sorted((d - b) / (c - a) for (a, b), (c, d) in itertools.combinations(points, 2))
    rank = max(1, math.floor((len(slopes) - NormalDist().inv_cdf(0.95) * kendall_deviation(n)) / 2))
    found = stats.theil_sen(points)
    assert found.value == pytest.approx(statistics.median(slopes))
    assert (found.low, found.high) == pytest.approx((slopes[rank - 1], slopes[-rank]))
    assert (found.level, found.n) == (0.9, n)


def test_a_robust_slope_passes_over_readings_of_one_moment_and_needs_as_many_slopes_as_points():
    assert stats.theil_sen([(0.0, 1.0), (0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]).value == 1.0  # of 1, 1, 1, 1.5 and 2
    too_few = Absent("too few different readings")
    assert stats.theil_sen([(0.0, 1.0), (0.0, 2.0), (1.0, 3.0)]) == stats.theil_sen([(0.0, 1.0), (1.0, 2.0)]) == too_few
