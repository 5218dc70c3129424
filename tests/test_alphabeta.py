"""Does the line through latencies and bandwidths find what is true, as surely as it says?"""

import math
import random

import pytest

from rigbench.collectives.alphabeta import fit
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
