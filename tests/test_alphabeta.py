"""Does the line through latencies and bandwidths find what is true, as surely as it says?"""

import math
import random

import numpy as np
import pytest

from rigbench.collectives.alphabeta import _points, fit
from rigbench.core.record import Absent

SIZES = [8 * 4**step for step in range(12)]
ALPHA, BETA = 20e-6, 10e9
SEEDS = 600


def samples(rng: random.Random, size: int, count: int, off_the_line: float, noise: float) -> list[float]:
    """Times that scatter about a middle that lies off the line itself."""
    middle = (ALPHA + size / BETA) * (1 + rng.gauss(0, off_the_line))
    return [middle * math.exp(rng.gauss(0, noise)) for _ in range(count)]


def test_a_line_without_noise_is_found_exactly():
    found = fit({size: [ALPHA + size / BETA] * 9 for size in SIZES})
    assert found.latency_seconds.value == pytest.approx(ALPHA, rel=1e-9)
    assert found.bytes_per_s.value == pytest.approx(BETA, rel=1e-9)
    assert found.sizes_left_out == ()


# Large messages take long, so there are few of them; and no library's times lie on a line to the percent.
@pytest.mark.parametrize(
    ("counts", "off_the_line", "noise"),
    [([20] * 12, 0.0, 0.1), ([50] * 5 + [40, 30, 20, 12, 8, 5, 3], 0.03, 0.1)],
    ids=["a true line", "nearly a line, few large samples"],
)
def test_90_of_100_intervals_hold_the_true_latency_and_bandwidth(counts, off_the_line, noise):
    held_alpha = held_beta = 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        measured = {it: samples(rng, it, n, off_the_line, noise) for it, n in zip(SIZES, counts, strict=True)}
        found = fit(measured)
        held_alpha += found.latency_seconds.low <= ALPHA <= found.latency_seconds.high
        held_beta += found.bytes_per_s.low <= BETA <= found.bytes_per_s.high
    assert 0.87 * SEEDS <= held_alpha <= 0.93 * SEEDS
    assert 0.87 * SEEDS <= held_beta <= 0.93 * SEEDS


def test_small_sizes_decide_the_latency_and_large_ones_the_bandwidth():
    times = {size: [ALPHA + size / BETA] * 9 for size in SIZES}
    slow_large = fit({**times, SIZES[-1]: [1.2 * it for it in times[SIZES[-1]]]})
    slow_small = fit({**times, SIZES[0]: [1.2 * it for it in times[SIZES[0]]]})
    assert slow_large.latency_seconds.value == pytest.approx(ALPHA, rel=0.01)
    assert slow_large.bytes_per_s.value < 0.97 * BETA
    assert slow_small.latency_seconds.value > 1.02 * ALPHA
    assert slow_small.bytes_per_s.value == pytest.approx(BETA, rel=0.01)


def test_a_change_of_protocol_in_the_middle_leaves_both_ends_of_the_line():
    """Above 32 KiB another protocol: 40 µs more to begin with, and five times the bandwidth."""
    times = {it: [20e-6 + it / 4e9 if it <= 32768 else 60e-6 + it / 20e9] * 9 for it in [*SIZES, SIZES[-1] * 4]}
    found = fit(times)
    assert found.latency_seconds.low <= 20e-6 <= found.latency_seconds.high
    assert found.bytes_per_s.low <= 20e9 <= found.bytes_per_s.high
    assert found.sizes_left_out == (131072, 524288)


def test_a_latency_that_cannot_be_told_from_nothing_is_not_negative():
    found = fit({size: [size / BETA] * 5 for size in range(1 << 20, 9 << 20, 1 << 20)})
    assert found.latency_seconds.low == 0.0
    assert found.latency_seconds.value < 1e-9


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({}, "a line needs 4 sizes, and there were 0"),
        ({8: [1e-6], 32: [1e-6], 128: [1e-6]}, "a line needs 4 sizes, and there were 3"),
        ({size: [1e-6] for size in (8, 16, 32, 64)}, "the largest size is too small"),
        ({8: [1e-6], 16: [0.0], 32: [1e-6], 64: [1e-6]}, "a line needs 4 sizes"),
    ],
)
def test_there_is_no_line_where_none_can_be_told(times, words):
    found = fit(times)
    assert isinstance(found, Absent)
    assert words in found.reason


def test_both_ends_lie_on_the_line_however_many_others_agree_without_them():
    times = {size: [ALPHA + size / BETA] * 9 for size in SIZES}
    found = fit({**times, SIZES[-1]: [2 * it for it in times[SIZES[-1]]]})
    assert {SIZES[0], SIZES[-1]}.isdisjoint(found.sizes_left_out)
    assert found.bytes_per_s.value == pytest.approx(BETA / 2, rel=0.1)
    found = fit({**times, SIZES[0]: [2 * it for it in times[SIZES[0]]]})
    assert {SIZES[0], SIZES[-1]}.isdisjoint(found.sizes_left_out)


def test_a_size_of_which_a_time_is_zero_is_none():
    times = {size: [ALPHA + size / BETA] * 9 for size in SIZES}
    assert fit({**times, 1000: [0.0, ALPHA, ALPHA], 2000: []}) == fit(times)


# Upper quantiles of Student's t, from the printed table, by degrees of freedom: at 0.95, and at 0.875 of two.
T_95 = {2: 2.919986, 4: 2.131847, 6: 1.943180, 10: 1.812461}
T_875_OF_TWO = (2 * 0.875 - 1) * math.sqrt(2 / (4 * 0.875 * 0.125))  # its closed form


def weighted(times: dict[int, float], variance: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Relative least squares by the normal equations, three times; (line, half widths of the 90 % intervals).

    The variance of a share is given, or that of the residuals.
    """
    sizes, seconds = np.array([*times]), np.array([*times.values()])
    table, expected = np.stack([np.ones(len(sizes)), sizes], 1), seconds
    for _ in range(3):
        weights = np.diag(expected**-2.0)
        cofactors = np.linalg.inv(table.T @ weights @ table)
        line = cofactors @ table.T @ weights @ seconds
        squares = (seconds - table @ line) @ weights @ (seconds - table @ line)
        expected = table @ line
    freedom = len(sizes) - 2
    variance = squares / freedom if variance is None else variance
    return line, T_95[freedom] * np.sqrt(np.diag(cofactors) * variance)


def assert_is(found, line: np.ndarray, half: np.ndarray, rel: float = 2e-4) -> None:
    latency, slope = found.latency_seconds, 1 / found.bytes_per_s
    assert (latency.value, slope.value) == pytest.approx(tuple(line), rel=1e-9)
    assert (latency.high - latency.value, slope.high - slope.value) == pytest.approx(tuple(half), rel=rel)
    assert slope.value - slope.low == pytest.approx(half[1], rel=rel)
    assert latency.low == pytest.approx(max(0, line[0] - half[0]), rel=rel)


@pytest.mark.parametrize("count", [4, 6, 8, 12])
@pytest.mark.parametrize("scatter", [0.05, 0.1])
def test_where_only_the_line_scatters_it_is_the_textbooks_weighted_regression(count, scatter):
    rng = random.Random(count)
    sizes = [8 * (8 if count > 4 else 512) ** step for step in range(count)]
    times = {size: (ALPHA + size / BETA) * (1 + rng.uniform(-scatter, scatter)) for size in sizes}
    found = fit({size: [it] * 9 for size, it in times.items()})
    assert found.sizes_left_out == ()
    assert_is(found, *weighted(times, None))
    assert (found.latency_seconds.n, found.bytes_per_s.n, found.bytes_per_s.level) == (count, count, 0.9)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_where_only_the_samples_scatter_their_own_intervals_say_how_sure_the_line_is(share):
    """Of three samples the median's interval is their range and holds 75 %: as Student's, it is t(0.875, 2) errors."""
    times = {size: ALPHA + size / BETA for size in SIZES}
    found = fit({size: [it * (1 - share), it, it * (1 + share)] for size, it in times.items()})
    assert_is(found, *weighted(times, (share / T_875_OF_TWO) ** 2 + 1e-9))


@pytest.mark.parametrize("samples", [1, 9])
def test_equal_times_are_not_infinitely_sure_but_to_some_30_millionths(samples):
    times = {size: ALPHA + size / BETA for size in SIZES}
    assert_is(fit({size: [it] * samples for size, it in times.items()}), *weighted(times, 1e-9))


def test_a_size_whose_few_samples_agree_has_a_share_of_the_scatter_that_is_usual():
    """As of four samples more: beside three of its own that agree it has 4/7 of the usual variance, alone all of it."""
    scattered = {size: [0.9, 1.0, 1.1] for size in (8, 16, 32)}
    usual = (0.1 / T_875_OF_TWO) ** 2  # of the median of three
    errors = {it.size_bytes: it.error**2 for it in _points({**scattered, 64: [1.0] * 3, 128: [1.0], 256: [1.0] * 4})}
    assert errors == pytest.approx(
        {**dict.fromkeys(scattered, usual), 64: 4 / 7 * usual, 128: 3 * usual, 256: 3 / 8 * usual}
    )
    half = 0.2 / 2 / 1.0  # two samples hold 50 %: t(0.75, 1) is 1
    (one,) = _points({8: [0.9, 1.1]})
    assert (one.seconds, one.error) == pytest.approx((1.0, half))


@pytest.mark.parametrize(("off", "left_out"), [(0.79, True), (0.81, False), (1.32, False), (1.35, True)])
def test_a_size_is_left_out_where_the_line_is_off_by_more_than_a_quarter_of_its_time(off, left_out):
    times = {size: [ALPHA + size / BETA] * 9 for size in SIZES}
    found = fit({**times, SIZES[6]: [off * it for it in times[SIZES[6]]]})
    assert found.sizes_left_out == ((SIZES[6],) if left_out else ())


@pytest.mark.parametrize(("times_as_long", "left_out"), [(1.55, False), (2.5, True)])
def test_among_sizes_that_scatter_only_what_lies_five_deviations_off_is_left_out(times_as_long, left_out):
    """Every second size lies a fifth above the line through the others: the middle residual is a sixth, or none."""
    off = [1, 1.2, 1.15, 1, 1.2, 1.15, 1, 1.15, 1.2, 1.15, 1.2, 1]
    times = {size: [(ALPHA + size / BETA) * it] * 9 for size, it in zip(SIZES, off, strict=True)}
    found = fit({**times, SIZES[3]: [times_as_long * it for it in times[SIZES[3]]]})
    assert found.sizes_left_out == ((SIZES[3],) if left_out else ())


def test_a_size_that_scatters_itself_is_kept_though_its_median_lies_off():
    times = {size: [ALPHA + size / BETA] * 9 for size in SIZES}
    middle = 1.5 * (ALPHA + SIZES[6] / BETA)
    assert fit({**times, SIZES[6]: [middle] * 9}).sizes_left_out == (SIZES[6],)
    assert (
        fit({**times, SIZES[6]: [middle * it for it in (0.8, 0.8, 0.8, 0.9, 1, 1.1, 1.2, 1.2, 1.2)]}).sizes_left_out
        == ()
    )


def test_of_four_sizes_all_must_lie_on_the_line():
    times = {size: [ALPHA + size / 1e6] for size in (8, 64, 512, 4096)}
    assert fit(times).sizes_left_out == ()
    assert fit({**times, 64: [3 * times[64][0]]}) == Absent("the times of the sizes lie on no line")


def test_times_that_fall_with_the_size_have_no_bandwidth():
    found = fit({size: [ALPHA * (1 - size / 1e6)] * 9 for size in (8, 64, 512, 4096, 32768)})
    assert found == Absent("the times scatter too much for a line through them, or the largest size is too small")


def test_a_bandwidth_whose_ends_differ_more_than_fourfold_is_not_told():
    ratios, untold = [], 0
    for seed in range(100):
        rng = random.Random(seed)
        times = {size: [(20e-6 + size / 1e9) * math.exp(rng.gauss(0, 0.1))] for size in (1024, 2048, 4096, 8192, 16384)}
        found = fit(times)
        if isinstance(found, Absent):
            untold += 1
        else:
            ratios.append(found.bytes_per_s.high / found.bytes_per_s.low)
    assert 3 < max(ratios) <= 4
    assert untold > 3
