"""Is each part of the heat fit what the textbook has? By plain least squares, published quantiles, sums by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.thermals import fit as heat_fit
from rigbench.thermals.fit import Blocks, Profile
from rigbench.thermals.record import HeatFit

Array = Any


def noisy(seed: int, count: int, noise: float = 0.4, tau: float = 12.0) -> tuple[Array, Array]:
    """(moments, degrees): a reading a second, not rounded, so that rounding hides nothing."""
    at = np.arange(float(count))
    return at, 70.0 - 30.0 * np.exp(-at / tau) + noise * np.random.default_rng(seed).standard_normal(count)


def whitener(count: int, correlation: float) -> Array:
    """The matrix that takes the memory out of AR(1) noise: Cholesky's root of the inverse of its covariance."""
    places = np.arange(count)
    covariance = correlation ** np.abs(places[:, None] - places[None, :])
    return np.linalg.cholesky(np.linalg.inv(covariance) * (1 - correlation**2)).T


def left(columns: Array, values: Array) -> float:
    """The squared error of least squares."""
    found = np.linalg.lstsq(columns, values, rcond=None)[0]
    return float(np.sum((values - columns @ found) ** 2))


def blocks_of(values: Array, correlation: float = 0.0, each: float = 1.0, spacing: float = 1.0) -> Blocks:
    values = np.asarray(values, dtype=float)
    at = (np.arange(len(values)) * each + (each - 1) / 2) * spacing
    return Blocks(at, values, 60.0, each, spacing, correlation)


@pytest.mark.parametrize(("noise", "step"), [(0.3, 1.0), (0.4, 1.0), (0.15, 0.5), (0.7, 2.0)])
def test_the_bias_of_rounding_is_that_of_a_sum_over_the_normal_distribution(noise: float, step: float) -> None:
    def mean(truth: float) -> float:
        edges = [(number - 0.5) * step for number in range(-40, 41)]
        below = [0.5 * (1 + math.erf((edge - truth) / noise / math.sqrt(2))) for edge in edges]
        return sum(number * step * (b - a) for number, (a, b) in enumerate(itertools.pairwise(below), -40))

    worst = max(abs(mean(share * step / 200) - share * step / 200) for share in range(100))
    assert heat_fit.rounding_bias(noise**2 + step**2 / 12, step) == pytest.approx(worst, rel=0.02)


@pytest.mark.parametrize("variance", [0.0, 4.0 / 12])
def test_without_noise_a_step_of_two_degrees_leaves_up_to_its_share_of_pi(variance: float) -> None:
    assert heat_fit.rounding_bias(variance, 2.0) == pytest.approx(2.0 / math.pi)


# Quantiles of F with 2 and ν degrees of freedom, as tables of the distribution have them.
@pytest.mark.parametrize(
    ("degrees", "quantile", "tail"),
    [(10, 4.103, 0.05), (10, 7.559, 0.01), (20, 3.493, 0.05), (30, 5.390, 0.01), (60, 7.768, 0.001)],
)
def test_the_tail_of_f_with_two_degrees_is_that_of_the_tables(degrees: int, quantile: float, tail: float) -> None:
    for full in (7.0, 0.3):
        restricted = full * (1 + 2 * quantile / degrees)
        assert heat_fit._f_tail_two(restricted, full, degrees) == pytest.approx(tail, rel=0.002)


def test_the_tail_of_f_where_there_is_no_error_or_none_more() -> None:
    assert heat_fit._f_tail_two(3.0, 4.0, 10) == heat_fit._f_tail_two(0.0, 0.0, 10) == 1.0
    assert heat_fit._f_tail_two(0.5, 0.0, 10) == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.3])
def test_whitening_is_the_root_of_the_inverse_covariance(correlation: float) -> None:
    rows = np.random.default_rng(1).standard_normal((3, 30))
    found = blocks_of(rows[0], correlation).whitened(rows)
    root = whitener(30, correlation)
    assert found @ found.T == pytest.approx(rows @ root.T @ root @ rows.T)
    assert found[:, 1:] == pytest.approx(rows[:, 1:] - correlation * rows[:, :-1])
    plain = Blocks(np.arange(30.0), rows[0], 0.0, 1.0, 1.0)
    assert plain.whitened(rows) == pytest.approx(rows)  # without a word, neighbours are strangers


def test_a_block_decays_as_the_mean_of_its_readings() -> None:
    taus = np.array([0.7, 5.0, 80.0])
    found = blocks_of(np.zeros(6), each=4.0, spacing=0.5).decay(taus)
    moments = 0.5 * np.arange(24.0)
    plain = np.exp(-moments[None, :] / taus[:, None]).reshape(3, 6, 4).mean(axis=2)
    assert found == pytest.approx(plain)


@pytest.mark.parametrize(("count", "blocks"), [(24, 24), (120, 120), (121, 120), (300, 120)])
def test_readings_are_gathered_into_contiguous_blocks(count: int, blocks: int) -> None:
    at = 5.0 + 0.25 * np.arange(count)
    readings = 50.0 + np.random.default_rng(0).standard_normal(count)
    found = heat_fit._blocks(at, readings)
    owners = np.array([next(b for b in range(blocks)[::-1] if b * count // blocks <= i) for i in range(count)])
    assert len(found.at) == blocks
    assert found.level == pytest.approx(readings.mean())
    for block in range(blocks):
        assert found.at[block] == pytest.approx(at[owners == block].mean())
        assert found.values[block] == pytest.approx(readings[owners == block].mean() - found.level)
    assert (found.readings_each, found.spacing) == pytest.approx((count / blocks, 0.25))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_profile_is_a_least_squares_fit_for_every_tau(correlation: float) -> None:
    _, readings = noisy(2, 40, noise=0.05)
    blocks, taus = blocks_of(readings - 60.0, correlation), np.array([3.0, 12.0, 40.0])
    found, root = heat_fit._profile(blocks, taus), whitener(40, correlation)
    for place, tau in enumerate(taus):
        columns = root @ np.vstack([np.ones(40), np.exp(-blocks.at / tau)]).T
        (steady, amplitude), *_ = np.linalg.lstsq(columns, root @ blocks.values, rcond=None)
        covariance = np.linalg.inv(columns.T @ columns)
        assert (found.steady[place], found.amplitude[place]) == pytest.approx((steady, amplitude))
        assert found.errors[place] == pytest.approx(left(columns, root @ blocks.values), rel=1e-6)
        assert found.variance_steady[place] == pytest.approx(covariance[0, 0])
        assert found.variance_start[place] == pytest.approx(covariance.sum())  # of the sum of both
    assert (found.best, found.tau) == (1, 12.0)


def test_the_rich_model_adds_a_slower_and_a_faster_exponential() -> None:
    _, readings = noisy(3, 60)
    blocks, tau = blocks_of(readings - 60.0, 0.3), 11.0
    components, residuals = heat_fit._rich_model(blocks, tau)
    root, at = whitener(60, 0.3), blocks.at
    curve = [np.ones(60), np.exp(-at / tau), at * np.exp(-at / tau)]
    all_of_it = [*curve, np.exp(-at / (3 * tau)), np.exp(-3 * at / tau)]
    values = root @ blocks.values
    assert residuals @ residuals == pytest.approx(left(root @ np.array(all_of_it).T, values))
    along = values @ values - left(root @ np.array(curve).T, values)  # the first three are the curve's own
    assert components[:3] @ components[:3] == pytest.approx(along)
    assert components[:2] @ components[:2] == pytest.approx(
        values @ values - left(root @ np.array(curve[:2]).T, values)
    )


@pytest.mark.parametrize("noise", [0.3, 0.03])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_correlation_is_that_of_neighbours_with_what_a_fit_takes_away_put_back(memory: float, noise: float) -> None:
    """Kendall 1954: of n residuals of p parameters it is lower by (p·(1 + ρ) + 2ρ)/n in the mean."""
    draw = np.random.default_rng(4).standard_normal(80)
    for place in range(1, 80):
        draw[place] += memory * draw[place - 1]
    blocks = blocks_of(noisy(0, 80, noise=0.0)[1] - 60.0 + noise * draw)
    _, residuals = heat_fit._rich_model(blocks, 12.0)
    seen = sum(a * b for a, b in itertools.pairwise(residuals)) / sum(a * a for a in residuals)
    found = heat_fit._correlation(blocks, 12.0)
    assert found - (5 * (1 + found) + 2 * found) / 80 == pytest.approx(seen)


def test_correlation_stays_where_whitening_is_sound() -> None:
    wave = np.cos(np.arange(100) / 4.0)
    assert heat_fit._correlation(blocks_of(wave), 30.0) == 0.95
    assert heat_fit._correlation(blocks_of(wave * (-1.0) ** np.arange(100)), 30.0) == -0.3
    mild = np.random.default_rng(0).standard_normal(200)
    assert -0.3 < heat_fit._correlation(blocks_of(mild[1:] - 0.25 * mild[:-1]), 30.0) < -0.05
    assert heat_fit._correlation(blocks_of(np.zeros(50)), 30.0) == 0.0


T_24 = 1.7109  # Student's t with 24 degrees of freedom, 90 % two-sided


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_flat_record_is_known_to_students_t_and_to_rounding(correlation: float) -> None:
    values = np.random.default_rng(5).standard_normal(25) + 0.7
    blocks, inverse = blocks_of(values, correlation), whitener(25, correlation).T @ whitener(25, correlation)
    weight = inverse.sum()
    middle = (inverse @ values).sum() / weight
    squares = (values - middle) @ inverse @ (values - middle)
    half = T_24 * math.sqrt(squares / 24 / weight)
    found = heat_fit._flat(blocks, squares, np.zeros(3), 1e-9)
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(60.0 + middle), 25)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=1e-4)
    rounded = heat_fit._flat(blocks, squares, np.zeros(3), 3.0)  # no noise in readings of steps of 3 degrees
    assert rounded is not None
    assert rounded.high - rounded.value == pytest.approx(
        math.hypot(half, 1.6449 * 3 / math.pi / math.sqrt(2)), rel=1e-4
    )


@pytest.mark.parametrize(("tail", "flat"), [(0.0011, True), (0.0009, False)])
def test_a_record_is_flat_unless_a_curve_explains_it_at_one_in_a_thousand(tail: float, flat: bool) -> None:
    values = np.random.default_rng(6).standard_normal(25)
    squares = float(np.sum((values - values.mean()) ** 2))
    error = squares * tail ** (2 / (25 - 3))
    assert (heat_fit._flat(blocks_of(values), error, values, 1e-9) is not None) is flat


def handmade(rise: float = 0.1) -> Profile:
    """Errors that rise on both sides of the 13th of 24 taus, a tenth of its logarithm apart."""
    away = np.arange(24.0) - 12
    return Profile(
        taus=50 * np.exp(0.1 * away),
        errors=1 + rise * np.abs(away),
        steady=10 + 0.5 * away,
        amplitude=-3 - 0.2 * away,
        variance_steady=4 + 0.1 * away,
        variance_start=9 - 0.1 * away,
        best=12,
    )


def test_estimates_reach_over_all_taus_whose_error_is_allowed() -> None:
    blocks, profile = blocks_of(np.zeros(30)), handmade()
    steady, tau, start = heat_fit._estimates(blocks, profile, 1.35, np.zeros(3))
    assert (tau.low, tau.value, tau.high) == pytest.approx((50 * math.exp(-0.35), 50.0, 50 * math.exp(0.35)))
    possible = [(away, math.sqrt(0.35 - 0.1 * abs(away))) for away in range(-3, 4)]
    ends = [(10 + 0.5 * it, room * math.sqrt(4 + 0.1 * it)) for it, room in possible]
    assert (steady.value, steady.low, steady.high) == pytest.approx(
        (70.0, 60 + min(a - b for a, b in ends), 60 + max(a + b for a, b in ends))
    )
    ends = [(7 + 0.3 * it, room * math.sqrt(9 - 0.1 * it)) for it, room in possible]
    assert (start.value, start.low, start.high) == pytest.approx(
        (67.0, 60 + min(a - b for a, b in ends), 60 + max(a + b for a, b in ends))
    )
    assert (steady.n, steady.level) == (30, 0.9)


def test_what_rounding_hides_is_added_as_squares() -> None:
    blocks, profile, hidden = blocks_of(np.zeros(30)), handmade(), np.array([0.4, 5.0, 0.6])
    plain = heat_fit._estimates(blocks, profile, 1.35, np.zeros(3))
    for one, other, unseen in zip(plain, heat_fit._estimates(blocks, profile, 1.35, hidden), hidden, strict=True):
        assert other.value == one.value
        assert other.value - other.low == pytest.approx(math.hypot(one.value - one.low, unseen))
        assert other.high - other.value == pytest.approx(math.hypot(one.high - one.value, unseen))


def test_the_end_of_a_bent_profile_is_between_the_nearest_neighbours() -> None:
    """1 + x²/10 at whole x: 1.35 is five sixths of the way from 1 to 2."""
    profile = handmade()._replace(errors=1 + 0.1 * (np.arange(24.0) - 12) ** 2)
    _, tau, _ = heat_fit._estimates(blocks_of(np.zeros(30)), profile, 1.35, np.zeros(3))
    assert (tau.low, tau.high) == pytest.approx((50 * math.exp(-11 / 60), 50 * math.exp(11 / 60)))


@pytest.mark.parametrize("steps", [4.0, 0.5])
def test_an_error_that_is_just_allowed_is_inside(steps: float) -> None:
    profile = handmade()._replace(errors=1 + np.abs(np.arange(24.0) - 12) / 8)
    _, tau, _ = heat_fit._estimates(blocks_of(np.zeros(30)), profile, 1 + steps / 8, np.zeros(3))
    assert (tau.low, tau.high) == pytest.approx((50 * math.exp(-0.1 * steps), 50 * math.exp(0.1 * steps)))


def test_taus_end_where_none_farther_were_looked_at() -> None:
    _, tau, _ = heat_fit._estimates(blocks_of(np.zeros(30)), handmade(0.01), 2.0, np.zeros(3))
    assert (tau.low, tau.high) == pytest.approx((50 * math.exp(-1.2), 50 * math.exp(1.1)))
    _, tau, _ = heat_fit._estimates(blocks_of(np.zeros(30)), handmade(0.1), 2.15, np.zeros(3))  # to 11.5 steps away
    assert (tau.low, tau.high) == pytest.approx((50 * math.exp(-1.15), 50 * math.exp(1.1)))


@pytest.mark.parametrize("each", [1, 4])
def test_rounding_hides_what_moves_the_curve_by_its_bias_on_the_plateau(each: int) -> None:
    """The derivatives of the curve by its parameters are differences here."""
    count, tau, amplitude, step = 100, 20.0, -20.0, 1.0
    at = np.arange(float(count * each))
    readings = np.round(70.2 + amplitude * np.exp(-at / tau / each))
    blocks = blocks_of(np.zeros(count), each=float(each), spacing=1.0 / each)
    profile = handmade()._replace(taus=np.full(24, tau), amplitude=np.full(24, amplitude))
    bias, hidden = heat_fit._hidden_by_rounding(blocks, profile, readings, step)
    half_a_step = next(i for i, it in enumerate(blocks.decay(np.array([tau]))[0]) if 20.0 * it < 0.5)
    assert 60 < half_a_step < 80
    assert bias == heat_fit.rounding_bias(float(np.var(readings[half_a_step * each :])), step) > 0.1

    def curve(steady: float, height: float, time: float) -> Array:
        return steady + height * np.exp(-blocks.at / time)

    own = (0.0, amplitude, tau)
    moved = [[it + 1e-4 * (i == j) for j, it in enumerate(own)] for i in range(3)]
    columns = np.array([(curve(*it) - curve(*own)) / 1e-4 for it in moved]).T
    error = np.where(np.arange(count) >= half_a_step, bias / math.sqrt(2), 0.0)
    steady, height, time = np.abs(np.linalg.lstsq(columns, error, rcond=None)[0])
    assert hidden == pytest.approx(1.6449 * np.array([steady, time, steady + height]), rel=1e-2)


def test_a_curve_without_a_plateau_averages_its_rounding_out() -> None:
    profile = handmade()._replace(taus=np.full(24, 500.0), amplitude=np.full(24, -20.0))
    bias, hidden = heat_fit._hidden_by_rounding(blocks_of(np.zeros(60)), profile, np.zeros(60), 1.0)
    assert (bias, list(hidden)) == (0.0, [0.0, 0.0, 0.0])


def finely(blocks: Blocks, span: float) -> tuple[Array, Array]:
    """(taus, errors) by 4,000 fits."""
    taus = np.exp(np.linspace(math.log(span / 200), math.log(30 * span), 4000))
    return taus, heat_fit._profile(blocks, taus).errors


@pytest.mark.parametrize("room", [0.0, 0.05, 0.5])
def test_looking_closer_and_closer_finds_the_least_and_all_that_is_near(room: float) -> None:
    at, readings = noisy(8, 80)
    blocks = heat_fit._blocks(at, readings)
    taus, errors = finely(blocks, 79.0)
    floor = 5.0
    assert heat_fit._zoomed(blocks, 79.0, room)[1] == pytest.approx(errors.min(), rel=1e-3 + room / 50)
    profile, error = heat_fit._zoomed(blocks, 79.0, room, floor)
    assert error == pytest.approx(errors.min() + floor, rel=1e-4 + room / 200)
    allowed = (errors.min() + floor) * (1 + room) - floor
    near = taus[errors <= allowed]
    assert profile.taus[0] <= near[0] * 1.01
    assert profile.taus[-1] >= near[-1] * 0.99
    inside = int(np.sum(profile.errors <= allowed))
    assert inside >= 10 or not room  # so that each end lies between close neighbours


def test_a_straight_line_is_looked_at_up_to_thirty_times_its_length_and_a_jump_down_to_a_200th() -> None:
    at = np.arange(100.0)
    line, _ = heat_fit._zoomed(heat_fit._blocks(at, 40 + 0.1 * at), 99.0, 0.1, 1e-6)
    assert line.taus[-1] == pytest.approx(30 * 99.0)
    jump, _ = heat_fit._zoomed(heat_fit._blocks(at, np.where(at < 1, 40.0, 70.0)), 99.0, 0.1, 1e-6)
    assert jump.taus[0] == pytest.approx(99.0 / 200)


# Student's t with 40, 60 and 120 less 3 degrees of freedom, 90 % two-sided.
STUDENT = {40: 1.6871, 60: 1.6720, 120: 1.6580}


def plainly(at: Array, readings: Array) -> tuple[Array, Callable[[float], float], float, float]:
    """(what whitens, the squared error at a tau, the least of it, what of it is allowed), by least squares."""
    memoryless, count = heat_fit._blocks(at, readings), len(at)
    taus, errors = finely(memoryless, float(at[-1]))
    root = whitener(count, heat_fit._correlation(memoryless, float(taus[errors.argmin()])))

    def error(tau: float) -> float:
        return left(root @ np.array([np.ones(count), np.exp(-at / tau)]).T, root @ readings)

    least = min(error(tau) for tau in np.geomspace(at[-1] / 200, 30 * at[-1], 300))
    return root, error, least, least * (1 + STUDENT[count] ** 2 / (count - 3))


@pytest.mark.parametrize("seed", [11, 12])
def test_intervals_end_where_the_squared_error_is_that_much_larger(seed: int) -> None:
    at, readings = noisy(seed, 40)
    found = heat_fit.fit(at, readings)
    assert isinstance(found, HeatFit)
    steady, tau, start = found.steady_celsius, found.tau_seconds, found.start_celsius
    assert isinstance(steady, Estimate)
    assert isinstance(tau, Estimate)
    assert isinstance(start, Estimate)
    root, error, least, allowed = plainly(at, readings)
    ones, values = root @ np.ones(40), root @ readings
    decays = [root @ np.exp(-at / it) for it in np.geomspace(4.0, 40.0, 1500)]
    assert found.residual_celsius == pytest.approx(math.sqrt(least / 40), rel=1e-3)
    for end in (tau.low, tau.high):
        assert error(end) - least == pytest.approx(allowed - least, rel=0.03)
    for end in (steady.low, steady.high):  # with T∞ given, the amplitude alone is left beside tau
        most = min(left(it[:, None], values - end * ones) for it in decays)
        assert most - least == pytest.approx(allowed - least, rel=0.03)
    for end in (start.low, start.high):  # with T₀ given, T∞ alone
        most = min(left((ones - it)[:, None], values - end * it) for it in decays)
        assert most - least == pytest.approx(allowed - least, rel=0.03)


@pytest.mark.parametrize(
    ("count", "tau", "scales", "share", "reason"),
    [
        (60, 300.0, (0.06, 0.072, 0.076, 0.080, 0.1), 30.0, "the curve has not bent enough in 59 s"),
        (120, 1.0, (5.0, 6.5, 6.9, 7.25, 8.0), 1 / 200, "it rose faster than readings 1 s apart can show"),
    ],
)
def test_a_tau_is_told_where_none_beyond_those_looked_at_is_possible(count, tau, scales, share, reason) -> None:
    """The noisier, the farther the interval reaches; of these noises some have an end hardly within."""
    at, draw, told = np.arange(float(count)), np.random.default_rng(5).standard_normal(count), []
    for scale in scales:
        readings = 70 - 30 * np.exp(-at / tau) + scale * draw
        found = heat_fit.fit(at, readings).tau_seconds
        _, error, _, allowed = plainly(at, readings)
        told.append(error(share * at[-1]) > allowed)
        assert isinstance(found, Estimate) is told[-1]
        assert told[-1] or found.reason.startswith(reason)
    assert told == [True, True, True, False, False]


def test_a_fit_counts_its_seconds_from_the_moment_given() -> None:
    at, readings = noisy(9, 60)
    plain, later = heat_fit.fit(at, readings), heat_fit.fit(at + 500.0, readings, 480.0)
    assert isinstance(plain, HeatFit)
    assert isinstance(later, HeatFit)
    assert (plain.from_seconds, plain.to_seconds) == (0.0, 59.0)
    assert (later.from_seconds, later.to_seconds) == (480.0, 559.0)
    assert isinstance(later.tau_seconds, Estimate)
    assert later.tau_seconds.value == pytest.approx(plain.tau_seconds.value, rel=1e-3)
    assert later.steady_celsius.value == pytest.approx(plain.steady_celsius.value, rel=1e-4)
    assert heat_fit.best_fit(at + 5.0, readings).from_seconds == 5.0


@pytest.mark.parametrize(
    ("readings", "resolution"),
    [([70.0] * 30, 1.0), ([70.3] * 30, 0.1), ([70.0, 70.5, 72.0] * 10, 0.5), ([70.0, 73.0] * 15, 3.0)],
)
def test_the_resolution_is_the_smallest_step(readings: list[float], resolution: float) -> None:
    found = heat_fit.fit(np.arange(30.0), readings)
    assert isinstance(found, HeatFit)
    assert found.resolution_celsius == pytest.approx(resolution)
    assert not found.trend


def test_readings_on_a_curve_are_known_to_a_thousandth_of_a_step() -> None:
    at, readings = noisy(0, 60, noise=0.0)
    found = heat_fit.fit(at, readings)
    assert isinstance(found, HeatFit)
    assert found.residual_celsius == pytest.approx((readings[-1] - readings[-2]) / 1000, rel=0.05)


def test_24_readings_are_enough_and_all_of_one_moment_are_none() -> None:
    at, readings = noisy(1, 24, tau=4.0)
    assert isinstance(heat_fit.fit(at, readings), HeatFit)
    assert isinstance(heat_fit.fit(at / 46, readings), HeatFit)  # within half a second
    assert heat_fit.fit(np.ones(24), readings) == Absent("all readings are of one moment")


@pytest.mark.parametrize("step", [1.0, 0.1])
@pytest.mark.parametrize(("steps", "known"), [(1.2, False), (1.8, True)])
def test_a_rise_of_a_step_and_a_half_tells_a_time_constant(step: float, steps: float, known: bool) -> None:
    at = np.arange(2000.0)
    rise = steps * (1 - np.exp(-at / 200))
    readings = step * np.round(70 + rise + 0.5 * np.random.default_rng(3).standard_normal(2000))
    found = heat_fit.fit(at, np.round(readings, 9))
    assert isinstance(found, HeatFit)
    if known:
        assert isinstance(found.tau_seconds, Estimate)
    else:
        moved = f"it moved by {step * 1.2:.1f} °C only, hardly a step of the sensor"
        assert found.tau_seconds == found.start_celsius == Absent(moved)
        assert isinstance(found.steady_celsius, Estimate)


def test_a_second_exponential_is_a_trend_where_chance_makes_it_one_time_in_a_hundred() -> None:
    at = np.arange(60.0)
    noise = 0.3 * np.random.default_rng(1).standard_normal(60)

    def trend(share: float) -> tuple[bool, float]:
        """Whether it is called so, and the tail of F by plain least squares."""
        readings = 70 - 20 * np.exp(-at / 20) - share * np.exp(-at / 3) + noise
        found = heat_fit.fit(at, readings)
        assert isinstance(found, HeatFit)
        plain = heat_fit._blocks(at, readings)
        first = heat_fit._zoomed(plain, 59.0, 0.0, zooms=3)[0].tau
        root = whitener(60, heat_fit._correlation(plain, first))
        tau = found.tau_seconds.value
        curve = [np.ones(60), np.exp(-at / tau), at * np.exp(-at / tau)]
        rich = [*curve, np.exp(-at / (3 * tau)), np.exp(-3 * at / tau)]
        errors = [left(root @ np.array(columns).T, root @ readings) for columns in (curve, rich)]
        return found.trend, (errors[0] / errors[1]) ** (-(60 - 5) / 2)

    found = [trend(share) for share in np.linspace(1.2, 1.8, 21)]
    assert 5 < sum(called for called, _ in found) < 16
    assert all(tail > 0.0095 for called, tail in found if not called)
    assert all(tail < 0.0105 for called, tail in found if called)
    assert any(0.005 < tail < 0.01 for called, tail in found if called)
    assert any(0.01 < tail < 0.02 for called, tail in found if not called)


# Of a settled card whose readings are two seconds apart, and remember their noise for fifteen: the residuals of these
# seeds are no second exponential (their F is ordinary). Noise of a sensor would leave e^(−2/5) + 0.1 = 0.77 between
# neighbours.
@pytest.mark.parametrize(
    ("seed", "noise", "step", "trend"),
    [
        (2, 0.7, 0.1, True),  # 0.79 between neighbours
        (18, 0.7, 0.1, True),  # 0.78
        (1, 0.7, 0.1, False),  # 0.72
        (53, 0.7, 0.1, False),  # 0.72
        (11, 0.7, 0.4, True),  # 0.79, of 1.3 steps
        (28, 0.38, 1.0, False),  # 0.81, of 0.44 degrees: no more than rounding to whole ones leaves
    ],
)
def test_what_stays_longer_than_a_sensors_noise_is_the_temperatures(
    seed: int, noise: float, step: float, trend: bool
) -> None:
    at, draw = 2.0 * np.arange(120.0), np.random.default_rng(seed).standard_normal(120)
    stay = math.exp(-2 / 15)
    for place in range(1, 120):
        draw[place] = stay * draw[place - 1] + math.sqrt(1 - stay**2) * draw[place]
    found = heat_fit.fit(at, np.round((70 - 30 * np.exp(-at / 24) + noise * draw) / step) * step)
    assert isinstance(found, HeatFit)
    assert found.trend is trend


def test_what_rounding_leaves_on_a_plateau_is_no_trend() -> None:
    """A bias of the plateau against the rise looks like a second exponential; half its square is taken for noise."""
    at, draw, called = np.arange(120.0), np.random.default_rng(3).standard_normal(120), []
    for share in (2.15, *np.linspace(2.6, 3.8, 8)):  # the first has a tail of 0.013, and of 0.006 with less for noise
        readings = np.round(70.3 - 20 * np.exp(-at / 12) - share * np.exp(-at / 2) + 0.15 * draw)
        found = heat_fit.fit(at, readings)
        assert isinstance(found, HeatFit)
        plain = heat_fit._blocks(at, readings)
        first = heat_fit._zoomed(plain, 119.0, 0.0, zooms=3)[0].tau
        root, tau = whitener(120, heat_fit._correlation(plain, first)), found.tau_seconds.value
        amplitude = found.steady_celsius.value - found.start_celsius.value
        plateau = readings[np.abs(amplitude) * np.exp(-at / tau) < 0.5]
        bias = heat_fit.rounding_bias(float(np.var(plateau)), 1.0)
        assert bias > 0.05
        curve = [np.ones(120), np.exp(-at / tau), at * np.exp(-at / tau)]
        rich = [*curve, np.exp(-at / (3 * tau)), np.exp(-3 * at / tau)]
        few, all_of_it = (left(root @ np.array(columns).T, root @ readings) for columns in (curve, rich))
        hidden = 120 * bias**2 / 2
        tail = ((few + hidden) / (all_of_it + hidden)) ** (-(120 - 5) / 2)
        called.append(found.trend)
        assert found.trend is (tail < 0.01) or tail == pytest.approx(0.01, rel=0.1)
    assert 2 < sum(called) < 7


def test_a_fit_begins_at_the_first_eighth_whose_rest_has_no_trend(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    base = heat_fit.fit(*noisy(9, 60))
    assert isinstance(base, HeatFit)

    def until(clean: float) -> Callable[..., HeatFit | Absent]:
        def fit(at: Array, celsius: Array, start: float) -> HeatFit | Absent:
            asked.append(start)
            assert len(at) == len(celsius) == 800 - start
            if start == 200:
                return Absent("too few")
            return msgspec.structs.replace(base, from_seconds=start, trend=start < clean)

        return fit

    at = np.arange(800.0)
    monkeypatch.setattr(heat_fit, "fit", until(1e9))
    found = heat_fit.best_fit(at, at)
    assert (asked, found.from_seconds, found.trend) == ([0.0, 100.0, 200.0, 300.0, 400.0], 0.0, True)
    for clean in (0.0, 100.0, 300.0, 400.0):
        monkeypatch.setattr(heat_fit, "fit", until(clean))
        assert heat_fit.best_fit(at, at).from_seconds == clean


def known(value: float, high: float | None = None) -> Estimate:
    return Estimate(value, value, value if high is None else high, 0.9, "test", 1)


def fitted(**changes: Any) -> HeatFit:
    """35 degrees up in 20 s, known exactly, on a sensor that rounds nothing."""
    base = HeatFit(
        from_seconds=0.0,
        to_seconds=200.0,
        steady_celsius=known(75.0),
        tau_seconds=known(20.0),
        start_celsius=known(40.0),
        residual_celsius=0.3,
        resolution_celsius=1e-9,
        trend=False,
    )
    return msgspec.structs.replace(base, **changes)


FLAT = {"tau_seconds": Absent("flat"), "start_celsius": Absent("flat")}


def remains(heat: HeatFit, more: Callable[[float], float] = lambda at: 0.0, every: float = 1.0) -> float:
    """What may still change, of readings on the curve and so much above it."""
    count = int(heat.to_seconds / every) + 1
    at = [every * i for i in range(count)]
    steady = heat.steady_celsius.value
    rises = isinstance(heat.tau_seconds, Estimate)
    celsius = [steady - 35.0 * rises * math.exp(-(moment - heat.from_seconds) / 20.0) + more(moment) for moment in at]
    found = heat_fit.settled(at, celsius, heat)
    assert isinstance(found.left, float), found.because
    assert found.settled == (found.left <= 1.0)
    return found.left


def test_what_a_curve_has_to_go_is_its_own() -> None:
    assert remains(fitted(to_seconds=60.0)) == pytest.approx(35.0 * math.exp(-60 / 20), rel=0.05)  # the grid's own τ
    assert remains(fitted(to_seconds=400.0)) == pytest.approx(0.0, abs=0.05)
    assert remains(fitted(to_seconds=400.0, **FLAT)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("until", "ahead"), [(200.0, 300.0), (300.0, 300.0), (500.0, 500.0)])
@pytest.mark.parametrize("slope", [0.001, -0.001])
def test_a_drift_goes_on_for_as_long_again_and_for_five_minutes_at_least(
    until: float, ahead: float, slope: float
) -> None:
    flat = fitted(to_seconds=until, **FLAT)
    assert remains(flat, lambda at: slope * at) == pytest.approx(0.001 * ahead, rel=1e-3)


@pytest.mark.parametrize(("tau", "seed", "ahead"), [(4.0, 1, 300.0), (15.0, 2, 300.0), (60.0, 3, 700.0)])
def test_what_may_come_is_the_far_end_of_a_line_and_an_exponential_beside_it(
    tau: float, seed: int, ahead: float
) -> None:
    """By the textbook's covariance, for every τ no longer than a third of the record; Student's t of 116 degrees."""
    at, celsius = noisy(seed, 120, tau=tau)
    celsius = celsius + 0.01 * at
    blocks, _ = heat_fit._correlated(at, celsius)
    root, ends = whitener(120, blocks.correlation), []
    for each in np.geomspace(119 / 200, 119 / 3, 96):
        columns = root @ np.array([np.ones(120), at, np.exp(-at / each)]).T
        found = np.linalg.lstsq(columns, root @ celsius, rcond=None)[0]
        coming = np.array([0.0, ahead, math.exp(-(119 + ahead) / each) - math.exp(-119 / each)])
        variance = coming @ np.linalg.inv(columns.T @ columns) @ coming
        ends.append((left(columns, root @ celsius), coming @ found, variance))
    allowed = min(ends)[0] * (1 + 1.6581**2 / 116)
    far = max(
        abs(change) + math.sqrt((allowed - error) * variance) for error, change, variance in ends if error <= allowed
    )
    assert heat_fit._still_to_come(at, celsius, ahead, 1e-9) == pytest.approx(far, rel=1e-3)
    assert heat_fit._still_to_come(at + 50.0, -celsius, ahead, 1e-9) == pytest.approx(far, rel=1e-3)


def test_readings_before_the_fit_begins_count_for_nothing() -> None:
    def early(at: float) -> float:
        return 5.0 if at < 250.0 else 0.0

    assert remains(fitted(from_seconds=250.0, to_seconds=400.0, **FLAT), early) < 0.01
    assert remains(fitted(from_seconds=249.0, to_seconds=400.0, **FLAT), early) > 0.01


@pytest.mark.parametrize(("step", "ahead"), [(0.5, 300.0), (1.0, 600.0)])
def test_readings_all_the_same_may_hide_all_but_a_step(step: float, ahead: float) -> None:
    at = np.arange(300.0)
    assert heat_fit._still_to_come(at, 75.0 + 0 * at, ahead, step) == pytest.approx(0.95 * step * ahead / 299, rel=0.01)


def test_noise_lets_a_mean_see_less_than_a_step() -> None:
    at = np.arange(0.0, 300.0, 0.25)
    noise = 0.5 * np.random.default_rng(0).standard_normal(len(at))
    assert heat_fit._still_to_come(at, np.round(75.2 + noise), 300.0, 1.0) < 0.45


@pytest.mark.parametrize(("count", "finite"), [(24, True), (23, False)])
def test_as_many_readings_as_a_fit_needs_tell_a_drift(count: int, finite: bool) -> None:
    at = [100.0 + 4.0 * i for i in range(count)]
    found = heat_fit.settled(at, [75.0] * count, fitted(from_seconds=0.0, to_seconds=200.0))
    assert isinstance(found.left, float) is finite
    assert finite or found.because == "23 readings are too few to tell a drift (24 are needed)"


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"steady_celsius": Absent("it climbs")}, "it climbs"),
        ({"to_seconds": 59.9, "tau_seconds": known(5.0)}, "60 s of load are too few; it takes 60 s"),
        ({"to_seconds": 60.0, "tau_seconds": known(5.0)}, ""),
        ({"trend": True}, "the curve is no single exponential yet (the case warms slower than the die)"),
        ({"tau_seconds": known(20.0, 67.0)}, "200 s are 10.0 time constants; 3 are needed"),
        ({"to_seconds": 201.0, "tau_seconds": known(20.0, 67.0)}, ""),  # three of the longest
    ],
)
def test_what_is_not_yet_settled_says_why(changes: dict[str, Any], because: str) -> None:
    heat = fitted(**changes)
    at = [0.5 * i for i in range(int(2 * heat.to_seconds) + 1)]
    found = heat_fit.settled(at, [75 - 35 * math.exp(-moment / 20) for moment in at], heat)
    if because:
        assert (found.settled, found.because, found.left) == (False, because, Absent(because))
    else:
        assert isinstance(found.left, float)


def test_no_fit_is_not_settled_and_says_what_it_is_about() -> None:
    found = heat_fit.settled([], [], Absent("too few"))
    assert (found.settled, found.what, found.because) == (False, "temperature", "too few")


@pytest.mark.parametrize(("left_over", "settled"), [(0.99, True), (1.01, False)])
def test_a_degree_is_what_a_settled_card_may_change_by(left_over: float, settled: bool) -> None:
    at = [float(i) for i in range(301)]
    heat = fitted(to_seconds=300.0, **FLAT)
    found = heat_fit.settled(at, [75.0 + left_over / 300.0 * moment for moment in at], heat)
    assert found.settled is settled
    said = f"{left_over:.1f} °C in the next 5 min"
    assert found.because == (f"it may change by at most {said}" if settled else f"it may still change by up to {said}")


def test_exactly_what_is_allowed_is_settled() -> None:
    assert heat_fit._within("throughput", 0.02, 0.02, "x").settled
    assert heat_fit._within("throughput", 0.02, 0.02, "x").because == "it may change by at most x"


def falling(share: float, seconds: float = 120.0, count: int = 240) -> tuple[list[float], list[float]]:
    """Windows whose rate falls by this share of the second half's mean in as long as the whole takes."""
    at = [seconds * (i + 1) / count for i in range(count)]
    slope = share / seconds / (1 + share * (0.75 - 1.0))  # of what it was at the end of three quarters
    return at, [1e12 * (1 - slope * (moment - seconds)) for moment in at]


@pytest.mark.parametrize(("sign", "share"), [(1, 0.01), (-1, 0.019), (1, 0.021), (-1, 0.49)])
def test_a_rate_goes_on_as_it_did_in_its_second_half(sign: int, share: float) -> None:
    at, rates = falling(0.0)
    rates = [1e12 * (1 + sign * share * (moment - 90.0) / 120.0) for moment in at]  # its mean there is at 90 s
    wild = [3e12 * (i % 2) for i in range(120)]  # which the first half does not show
    found = heat_fit.throughput_settled(at, wild + rates[120:])
    assert found.left == pytest.approx(share, rel=0.01)
    assert found.settled is (share < 0.02)
    assert found.what == "throughput"


def test_of_a_rate_within_noise_the_far_end_counts() -> None:
    at = [0.5 * (i + 1) for i in range(240)]
    for sign in (1, -1):
        rates = [1e12 * (1 + sign * 5e-5 * moment + 0.01 * math.sin(moment * moment)) for moment in at]
        slope = stats.slope(at[120:], rates[120:])
        far = max(slope.high, -slope.low)
        mean = sum(rates[120:]) / 120
        assert heat_fit.throughput_settled(at, rates).left == pytest.approx(far * 120.0 / mean)
        assert far > 1.5 * min(abs(slope.low), abs(slope.high))


@pytest.mark.parametrize(("share", "wild"), [(0.49, False), (0.51, True)])
def test_a_rate_that_may_halve_swings_too_much(share: float, wild: bool) -> None:
    at = [0.5 * (i + 1) for i in range(240)]
    found = heat_fit.throughput_settled(at, [1e12 * (1 - share * (moment - 90.0) / 120.0) for moment in at])
    assert not found.settled
    assert (found.because == "it swings too much: what else runs here?") is wild
    assert found.left == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "count", "enough"),
    [
        (60.0, 240, True),
        (59.9, 240, False),
        (120.0, 40, True),
        (120.0, 41, True),
        (120.0, 39, False),
        (59.9, 39, False),
    ],
)
def test_a_minute_of_forty_windows_tells_a_rate(seconds: float, count: int, enough: bool) -> None:
    at = [seconds * (i + 1) / count for i in range(count)]
    found = heat_fit.throughput_settled(at, [1e12] * count)
    assert (found.settled, found.what) == (enough, "throughput")
    assert enough or "of load are too few; it takes 60 s" in found.because
    assert heat_fit.throughput_settled([], []).because == "0 s of load are too few; it takes 60 s"
