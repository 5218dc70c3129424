"""Do slices correct the prediction as far as they tell, and does the interval keep its word?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from recipes import recipe

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.model.shape import model_named
from rigbench.predict import calibrate, ceilings, steptime
from rigbench.predict.calibrate import Correction, Measured
from rigbench.predict.record import Ceilings, StepTime

NOISE = 0.01  # of a slice's own steady window, which its interval tells


def rig(text: str = "rtx-4090") -> Ceilings:
    found = ceilings.from_rig(profiles.rig_named(text))
    assert isinstance(found, Ceilings)
    return found


def step(params: str, card: str = "rtx-4090", **choices: Any) -> StepTime:
    return steptime.predict(model_named(params), recipe(**{"micro_batch": 8, **choices}), rig(card))


def measured(predicted: StepTime, seconds: float, noise: float = NOISE) -> Measured:
    rate = predicted.tokens_per_step / seconds
    ends = 2.1 * noise  # Student t with 20 batches
    estimate = Estimate(rate, rate * math.exp(-ends), rate * math.exp(ends), 0.95, "batch means", 20)
    return Measured(estimate, f"slice of {predicted.model.name}")


def corrected(slices: dict[str, float], target: str) -> StepTime:
    """The target's prediction after slices that were so many times as slow as predicted."""
    predicted = [step(params) for params in slices]
    found = [measured(its, times * its.seconds.value) for its, times in zip(predicted, slices.values(), strict=True)]
    return calibrate.calibrate(predicted, found).apply(step(target))


def half_width(found: StepTime) -> float:
    return math.log(found.seconds.high / found.seconds.low) / 2


def covered(rigs: int, slices: Sequence[str], target: str, card: str, seed: int) -> float:
    """Simulated rigs: each part's efficiency, the rig's scale, what alike models share and every process at random."""
    random = np.random.default_rng(seed)
    steps = [step(params, card) for params in (*slices, target)]
    places = [calibrate._place(its) for its in steps]
    alike = np.array([[calibrate._alike(a, b) for b in places] for a in places]) * calibrate.DISCREPANCY_SPREAD**2
    shared = random.multivariate_normal(np.zeros(len(steps)), alike, size=rigs)
    scale = random.normal(0, calibrate._spread(steps[-1]), size=(rigs, 1))
    efficiency = random.normal(0, calibrate.GROUP_SPREAD, size=(rigs, calibrate.GROUP_COUNT))
    process = random.normal(0, calibrate.PROCESS_SPREAD, size=shared.shape)
    seconds = np.array([calibrate._groups(its) for its in steps])
    truth = np.exp(efficiency) @ seconds.T * np.exp(scale + shared + process)
    seen = truth * np.exp(random.normal(0, NOISE, size=truth.shape))
    inside = 0
    for own, read in zip(truth, seen, strict=True):
        found = [measured(its, float(value)) for its, value in zip(steps[:-1], read[:-1], strict=True)]
        estimate = calibrate.calibrate(steps[:-1], found).apply(steps[-1]).seconds
        inside += estimate.low <= own[-1] <= estimate.high
    return inside / rigs


CASES = [(("5M", "15M"), "30M", "rtx-4090"), (("5M",), "30M", "h200"), (("5M", "15M", "30M"), "120M", "rtx-4080")]


@pytest.mark.parametrize(("slices", "target", "card"), CASES[:1])
def test_the_interval_holds_the_truth_on_200_simulated_rigs(slices: tuple[str, ...], target: str, card: str) -> None:
    assert 0.85 <= covered(200, slices, target, card, seed=3) <= 0.965  # three standard errors about 0.91


@pytest.mark.slow
@pytest.mark.parametrize(("slices", "target", "card"), CASES)
def test_the_interval_holds_the_truth_on_9_in_10_of_1000_simulated_rigs(
    slices: tuple[str, ...], target: str, card: str
) -> None:
    assert 0.88 <= covered(1000, slices, target, card, seed=7) <= 0.925


def test_without_slices_nothing_changes() -> None:
    plain = step("30M")
    assert calibrate.calibrate([], []).apply(plain) == plain


def test_one_slice_sets_the_rigs_scale() -> None:
    found = corrected({"15M": 1.5}, "15M")
    assert found.seconds.value / step("15M").seconds.value == pytest.approx(1.5, rel=0.05)
    assert half_width(found) < 0.35 * half_width(step("15M"))
    other = corrected({"15M": 1.5}, "30M")
    assert 1.3 < other.seconds.value / step("30M").seconds.value < 1.55


def test_two_sizes_correct_the_slope() -> None:
    rising = corrected({"5M": 1.0, "30M": 1.3}, "60M").seconds.value
    flat = corrected({"5M": 1.15, "30M": 1.15}, "60M").seconds.value
    assert rising > 1.08 * flat
    between = corrected({"5M": 1.0, "30M": 1.3}, "15M").seconds.value / step("15M").seconds.value
    assert 1.0 < between < 1.3


def test_the_interval_is_wider_outside_of_what_was_measured() -> None:
    slices = {"5M": 1.2, "15M": 1.2}
    widths = [half_width(corrected(slices, target)) for target in ("15M", "30M", "60M", "120M")]
    assert widths == sorted(widths)
    assert widths[-1] > 1.3 * widths[0]
    assert corrected(slices, "120M").notes[-1].endswith("times outside of the sizes that were measured")
    assert corrected(slices, "15M").notes == step("15M").notes


def test_slices_that_contradict_the_model_widen_the_interval() -> None:
    agreeing = corrected({"5M": 1.2, "15M": 1.2, "30M": 1.2}, "60M")
    quarrelling = corrected({"5M": 1.2, "15M": 0.7, "30M": 1.4}, "60M")
    assert half_width(quarrelling) > 1.4 * half_width(agreeing)


def test_a_slice_that_is_itself_unsure_counts_less() -> None:
    predicted = step("5M")
    sure, unsure = (measured(predicted, 1.5 * predicted.seconds.value, noise) for noise in (0.01, 0.2))
    sure_step, unsure_step = (calibrate.calibrate([predicted], [its]).apply(predicted) for its in (sure, unsure))
    assert unsure_step.seconds.value < sure_step.seconds.value
    assert half_width(unsure_step) > 2 * half_width(sure_step)


def test_a_slice_of_one_step_is_not_taken_to_be_sure() -> None:
    predicted = step("5M")
    sure = measured(predicted, 1.5 * predicted.seconds.value)
    rate = sure.tokens_per_s.value
    single = sure._replace(tokens_per_s=Estimate(rate, rate, rate, 0.0, "one sample, no interval", 1))
    found, usual = (calibrate.calibrate([predicted], [its]).apply(predicted) for its in (single, sure))
    assert half_width(found) > 2 * half_width(usual)


def test_a_corrected_step_still_accounts_for_every_second() -> None:
    found = corrected({"5M": 1.4, "30M": 0.9}, "60M")
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.seconds.value, rel=1e-12)
    assert found.tokens_per_s.value == pytest.approx(found.tokens_per_step / found.seconds.value, rel=1e-12)
    assert found.source == "predicted"
    assert "slice of 5M, slice of 30M" in found.basis
    assert msgspec.json.decode(msgspec.json.encode(found), type=StepTime) == found


def test_leave_one_out_errors_are_those_of_calibrating_without_the_slice() -> None:
    """The closed form (Rasmussen and Williams, §5.4.2) against doing it; shares are linear about all slices there."""
    slices = {"5M": 1.1, "15M": 1.3, "60M": 1.2}
    predicted = [step(params) for params in slices]
    found = [measured(its, times * its.seconds.value) for its, times in zip(predicted, slices.values(), strict=True)]
    whole = calibrate.calibrate(predicted, found)
    for index, own in enumerate(predicted):
        rest = [i for i in range(3) if i != index]
        without = calibrate.calibrate([predicted[i] for i in rest], [found[i] for i in rest]).apply(own)
        error = math.log(found[index].tokens_per_s.value ** -1 * own.tokens_per_step / without.seconds.value)
        assert whole.left_out[index] == pytest.approx(error, abs=0.03)


def test_the_next_slice_is_the_one_nearest_to_the_target() -> None:
    candidates = [step(params) for params in ("5M", "15M", "30M", "60M")]
    done = calibrate.calibrate([step("5M")], [measured(step("5M"), step("5M").seconds.value)])
    found = calibrate.suggest(candidates, done, step("60M"))
    assert found.candidate == 3
    assert found.half_width_then < 0.7 * found.half_width_now
    small = calibrate.suggest(candidates[:3], done, step("60M"))
    assert small.candidate == 2
    assert found.half_width_then < small.half_width_then < small.half_width_now


def test_a_suggestion_needs_no_slice_to_begin_with() -> None:
    nothing: Correction = calibrate.calibrate([], [])
    found = calibrate.suggest([step("5M"), step("30M")], nothing, step("30M"))
    assert found.candidate == 1
    assert found.half_width_then < 0.4 * found.half_width_now


def test_slices_of_another_card_are_refused() -> None:
    both = [step("5M"), step("5M", card="h200")]
    with pytest.raises(RigbenchError, match="short runs of h200, rtx-4090 cannot correct each other"):
        calibrate.calibrate(both, [measured(its, 1.0) for its in both])


@pytest.mark.parametrize("times", [(0.02, 0.02, 5), (0.3, 40, 1), (200, 0.02, 40)])
def test_slices_that_disagree_wildly_give_a_wide_interval_and_no_error(times: tuple[float, ...]) -> None:
    """As on a machine that does other work: the groups' factors do not settle, and variances stay positive."""
    slices = dict(zip(("5M", "30M", "120M"), times, strict=True))
    for target in ("5M", "15M", "120M", "1B"):
        assert half_width(corrected(slices, target)) > half_width(corrected(dict.fromkeys(slices, 1.0), target))
