"""Does the fit find a known steady temperature and time constant, with honest intervals, and when is it settled?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench import store
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.thermals import fit as heat_fit
from rigbench.thermals.record import HeatFit

SEEDS = 1000


def readings(
    truth: Callable[[np.ndarray], np.ndarray], at: np.ndarray, seed: int, noise: float, memory: float = 0.0
) -> np.ndarray:
    """Whole degrees of a truth with Gaussian sensor noise, neighbouring readings alike for `memory` seconds."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal(len(at))
    if memory:
        stay = math.exp(-(at[1] - at[0]) / memory)
        for i in range(1, len(draw)):
            draw[i] = stay * draw[i - 1] + math.sqrt(1 - stay**2) * draw[i]
    return np.round(truth(at) + noise * draw)


def one(steady: float, start: float, tau: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda at: steady - (steady - start) * np.exp(-at / tau)


@pytest.mark.parametrize(
    ("tau", "seconds", "hertz", "memory"),
    [(40.0, 240.0, 2.0, 0.0), (100.0, 200.0, 1.0, 2.0)],
    ids=["6 time constants", "2 time constants and noise that lasts 2 s"],
)
def test_each_90_percent_interval_holds_the_truth_in_872_to_928_of_1000_seeds(tau, seconds, hertz, memory):
    at = np.arange(int(seconds * hertz)) / hertz
    held = [0, 0, 0]
    for seed in range(SEEDS):
        draw = np.random.default_rng(SEEDS + seed)
        steady, start = draw.uniform(65.0, 85.0), draw.uniform(35.0, 46.0)
        found = heat_fit.fit(at, readings(one(steady, start, tau), at, seed, noise=0.5, memory=memory))
        estimates = (found.steady_celsius, found.tau_seconds, found.start_celsius)
        for index, (estimate, truth) in enumerate(zip(estimates, (steady, tau, start), strict=True)):
            held[index] += isinstance(estimate, Estimate) and estimate.low <= truth <= estimate.high
    assert all(872 <= count <= 928 for count in held), held  # 900 and three deviations of a binomial


def test_the_fit_agrees_with_a_search_over_all_three_parameters():
    at = np.arange(0.0, 200.0)
    values = readings(one(71.0, 40.0, 50.0), at, seed=3, noise=0.6)

    def error(steady: float, start: float, tau: float) -> float:
        return float(((one(steady, start, tau)(at) - values) ** 2).sum())

    best, step = [70.0, 38.0, 40.0], [1.0, 1.0, 4.0]
    while max(step) > 1e-5:  # a plain pattern search, which knows nothing of exponentials
        tried = [(i, sign) for i in range(3) for sign in (-1, 1)]
        moves = [[v + (sign * step[i] if j == i else 0.0) for j, v in enumerate(best)] for i, sign in tried]
        nearest = min(moves, key=lambda move: error(*move))
        if error(*nearest) < error(*best):
            best = nearest
        else:
            step = [it / 2 for it in step]
    found = heat_fit.fit(at, values)
    assert isinstance(found.tau_seconds, Estimate)
    estimates = (found.steady_celsius, found.start_celsius, found.tau_seconds)
    for estimate, searched in zip(estimates, best, strict=True):  # whitening weighs readings a little otherwise
        assert abs(estimate.value - searched) < 0.25 * (estimate.high - estimate.low)
    assert error(*(estimate.value for estimate in estimates)) <= error(*best) * 1.01


def test_a_curve_that_has_not_bent_yet_gives_no_steady_temperature_but_a_bound():
    at = np.arange(0.0, 40.0, 0.5)
    found = heat_fit.fit(at, readings(one(90.0, 40.0, 200.0), at, seed=1, noise=0.5))
    assert isinstance(found.steady_celsius, Absent)
    assert "the curve has not bent enough in 40 s: it settles at" in found.steady_celsius.reason


def test_a_card_that_is_already_warm_has_a_steady_temperature_and_no_time_constant():
    at = np.arange(0.0, 300.0)
    found = heat_fit.best_fit(at, readings(lambda t: 71.3 + 0 * t, at, seed=2, noise=0.5))
    assert isinstance(found.steady_celsius, Estimate)
    assert found.steady_celsius.low <= 71.3 <= found.steady_celsius.high
    assert found.tau_seconds == Absent("the temperature did not move more than its noise")
    assert not found.trend


def test_readings_that_are_all_the_same_are_known_to_half_a_degree_and_no_better():
    found = heat_fit.fit(np.arange(0.0, 100.0), [70.0] * 100)
    assert isinstance(found.steady_celsius, Estimate)
    assert found.steady_celsius.high - 70.0 == pytest.approx(0.37, abs=0.01)  # 1.645 / √2 / π
    assert found.steady_celsius.low == pytest.approx(70.0 - 0.37, abs=0.01)


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (0, "0 readings are too few for a fit"),
        (1, "1 reading is too few for a fit"),
        (23, "23 readings are too few for a fit"),
    ],
)
def test_too_few_readings_are_refused(count, reason):
    found = heat_fit.best_fit([float(i) for i in range(count)], [60.0] * count)
    assert isinstance(found, Absent)
    assert reason in found.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-50, 120), min_size=24, max_size=60), st.sampled_from([0.0, 0.1, 1.0]))
def test_no_readings_whatever_break_the_fit(values, step):
    at = [index * step for index in range(len(values))]
    found = heat_fit.best_fit(at, [float(value) for value in values])
    settled = heat_fit.settled(at, [float(value) for value in values], found)
    assert isinstance(found, HeatFit | Absent)
    assert settled.because


def test_a_die_and_a_case_are_told_apart_and_the_later_curve_is_the_case():
    at = np.arange(0.0, 900.0, 0.5)
    found = heat_fit.best_fit(at, readings(lambda t: 75 - 20 * np.exp(-t / 8) - 14 * np.exp(-t / 150), at, 5, 0.5))
    assert heat_fit.fit(at, readings(lambda t: 75 - 20 * np.exp(-t / 8) - 14 * np.exp(-t / 150), at, 5, 0.5)).trend
    assert found.from_seconds > 0
    assert not found.trend
    assert found.tau_seconds.low <= 150 <= found.tau_seconds.high
    assert found.steady_celsius.low <= 75 <= found.steady_celsius.high


def settled_after(truth: Callable[[np.ndarray], np.ndarray], seed: int, noise: float, until: float) -> float | None:
    """Twice in a row, as the heat test asks for."""
    before, at = False, np.arange(0.0, until, 0.5)
    values = readings(truth, at, seed, noise)
    for seconds in range(40, int(until), 20):
        count = seconds * 2
        found = heat_fit.best_fit(at[:count], values[:count])
        settled = heat_fit.settled(list(at[:count]), list(values[:count]), found).settled
        if before and settled:
            return float(seconds)
        before = settled
    return None


@pytest.mark.parametrize("seed", range(3))
def test_one_time_constant_is_settled_early_and_within_a_degree(seed):
    seconds = settled_after(one(75.0, 42.0, 40.0), seed, 0.5, until=600)
    assert seconds is not None
    assert seconds < 400
    assert 33.0 * math.exp(-seconds / 40.0) < 1.0


@pytest.mark.parametrize(
    ("case_celsius", "case_tau"), [(13.0, 300.0), (5.0, 600.0), (10.0, 1800.0)], ids=["case", "slow case", "chassis"]
)
@pytest.mark.parametrize(("seed", "noise"), [(0, 0.5), (1, 0.5), (2, 0.0)])
def test_a_die_that_is_warm_before_its_case_is_not_called_settled(case_celsius, case_tau, seed, noise):
    def truth(at: np.ndarray) -> np.ndarray:
        return 75 - 20 * np.exp(-at / 10) - case_celsius * np.exp(-at / case_tau)

    seconds = settled_after(truth, seed, noise, until=460)
    assert seconds is None or case_celsius * math.exp(-seconds / case_tau) < 1.0


def test_a_card_held_at_its_target_does_not_head_beyond_it():
    at = np.arange(0.0, 300.0)
    climb = np.minimum(one(95.0, 41.0, 60.0)(at), 84.0)
    found = heat_fit.best_fit(at, np.round(climb + 0.3 * np.random.default_rng(0).standard_normal(300)))
    assert isinstance(found.steady_celsius, Estimate)
    assert found.steady_celsius.low <= 84.0 <= found.steady_celsius.high


def test_a_jump_between_two_readings_has_no_time_constant():
    at = np.arange(0.0, 400.0)
    found = heat_fit.fit(at, readings(lambda t: np.where(t < 1, 40.0, 75.0), at, 0, noise=0.5))
    assert found.tau_seconds == Absent("it rose faster than readings 1 s apart can show")
    assert found.steady_celsius.low <= 75.0 <= found.steady_celsius.high


@pytest.mark.parametrize("steady", [74.7, 75.0, 75.3])
def test_a_plateau_without_noise_is_known_no_better_than_rounding_lets_it(steady):
    at = np.arange(0.0, 400.0)
    found = heat_fit.fit(at, readings(one(steady, 40.0, 10.0), at, 0, noise=0.0)).steady_celsius
    assert (found.high - found.low) / 2 == pytest.approx(0.37, abs=0.01)  # 1.645 / √2 / π, as of readings all the same
    assert found.low <= steady <= found.high


def drift(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    return lambda at: 3 * at / 600  # 3 degrees in ten minutes


def case(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    rise, tau = rng.uniform(0.5, 8.0), math.exp(rng.uniform(math.log(15), math.log(600)))
    return lambda at: rise * (1 - np.exp(-at / tau))


def slow_case(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    return lambda at: 3 * (1 - np.exp(-at / 300))


def none(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    return lambda at: 0 * at


@pytest.mark.parametrize("seconds", [62.0, 120.0, 300.0])
@pytest.mark.parametrize("slow", [drift, case, slow_case, none])
def test_what_may_still_come_covers_what_does_in_9_of_10_soaks_on_a_sensor_of_whole_degrees(
    slow: Callable[[np.random.Generator], Callable[[np.ndarray], np.ndarray]], seconds: float
) -> None:
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rise, tau, steady, beside = rng.uniform(10, 35), rng.uniform(0.5, 8), rng.uniform(58.5, 59.5), slow(rng)
        noise, memory = rng.choice([0.0, 0.1, 0.25, 0.4, 0.6]), rng.choice([0.0, 0.3, 1.0])
        at = np.arange(0.05, seconds, 0.1 if seconds < 200 else 0.25)
        truth = lambda at: steady - rise * np.exp(-at / tau) + beside(at)  # noqa: B023, E731
        celsius = readings(truth, at, seed, noise, memory)
        found = heat_fit.settled(list(at), list(celsius), heat_fit.best_fit(at, celsius))
        if isinstance(found.left, float):
            end = at[-1]
            held.append(abs(truth(end + max(300.0, end)) - truth(end)) <= found.left)
    assert len(held) >= 20
    assert sum(held) >= 0.9 * len(held), f"{sum(held)} of {len(held)}"


def test_a_minute_of_a_server_card_may_go_on_by_what_its_last_readings_allow() -> None:
    """An H200's own, 34 to 58 °C in some seconds and 59 from then on; 6.9 °C were told while its first rise counted."""
    soak = store.read(Path(__file__).parent / "runs" / "heat-h200.json").thermals
    (card,), sensors = soak.cards, soak.telemetry
    pairs = zip(sensors.at_seconds, sensors.series[0].temperature_celsius, strict=True)
    load = card.load
    inside = [(at - load.began_at_seconds, it) for at, it in pairs if at - load.began_at_seconds >= 0]
    at, celsius = zip(*[it for it in inside if it[0] <= card.loaded_seconds], strict=True)
    late = [(moment, value) for moment, value in zip(at, celsius, strict=True) if moment >= 30]
    line = 300 * np.polyfit(*zip(*late, strict=True), 1)[0]  # of the last half alone
    found = heat_fit.settled(at, celsius, heat_fit.best_fit(at, celsius))
    assert line == pytest.approx(2.7, abs=0.1)
    assert line < found.left < 4.5
    assert found.left == pytest.approx(card.settled.left)  # libraries of linear algebra round otherwise
    assert (found.because, found.settled, card.settled.settled) == (card.settled.because, False, False)
