"""Do the scaling laws give what their papers, and those who checked them, print?"""

import math

import pytest

from rigbench.budget import laws
from rigbench.core.record import Absent


def least_loss_by_search(fit: laws.Fit, flops: float) -> tuple[float, float]:
    """A second way to the optimum: walk along 6·N·D = flops in steps of a thousandth."""
    sizes = [10 ** (5 + step / 1000) for step in range(8000)]
    best = min(sizes, key=lambda n: fit.E + fit.A / n**fit.alpha + fit.B / (flops / 6 / n) ** fit.beta)
    return best, flops / 6 / best


@pytest.mark.parametrize("fit", laws.FITS, ids=lambda fit: fit.law)
@pytest.mark.parametrize("flops", [1.2e18, 1e20, 5.76e23])
def test_the_optimum_is_where_a_search_finds_the_least_loss(fit, flops):
    assert fit.optimum(flops) == pytest.approx(least_loss_by_search(fit, flops), rel=0.003)


@pytest.mark.parametrize(
    ("flops", "printed", "source_digits", "besiroglu"),
    [
        (1.2e18, (88e6, 26), (103e6, 19), (88e6, 26)),
        (1e19, (228e6, 32), (271e6, 23), (262e6, 24)),
        (1e20, (645e6, 40), (774e6, 28), (853e6, 23)),
        (5.76e23, (32e9, 93), (40e9, 59), (72e9, 18)),
    ],
)
def test_optima_are_those_worked_out_by_hand_from_the_three_fits(flops, printed, source_digits, besiroglu):
    for fit, (size, per_parameter) in zip(laws.FITS, (printed, source_digits, besiroglu), strict=True):
        parameters, tokens = fit.optimum(flops)
        assert parameters == pytest.approx(size, rel=0.02)
        assert tokens / parameters == pytest.approx(per_parameter, rel=0.03)


def test_kaplans_law_gives_gpt2s_loss_on_web_text():
    # 85M parameters without embeddings are GPT-2 124M, whose loss on OpenWebText is about 2.85
    assert laws.kaplan_loss(8.5e7, 1e15) == pytest.approx(2.865, abs=0.001)
    assert laws.kaplan_loss(8.5e7, 9e9) == pytest.approx(2.889, abs=0.001)


@pytest.mark.parametrize(("loss", "tokens"), [(5, 9.4e4), (4, 2.7e5), (3.5, 5.1e5), (3.0, 1.07e6), (2.85, 1.36e6)])
def test_the_critical_batch_grows_as_the_loss_falls(loss, tokens):
    assert laws.critical_batch_tokens(loss) == pytest.approx(tokens, rel=0.015)


def test_a_budget_shows_every_law_and_their_spread():
    found = laws.optima(1.2e18)
    assert [one.law for one in found.optima] == ["Kaplan 2020", *(fit.law for fit in laws.FITS)]
    assert found.parameters_low == pytest.approx(1.3e9 * (1.2e18 / 8.64e19) ** 0.73)
    assert found.parameters_high == pytest.approx(103e6, rel=0.02)
    of_tokens = [one.tokens for one in found.optima]
    assert (found.tokens_low, found.tokens_high) == (min(of_tokens), max(of_tokens))
    assert found.critical_batch_tokens_low < found.critical_batch_tokens_high
    assert all(isinstance(one.beyond_fit, Absent) for one in found.optima)


def test_a_budget_beyond_the_fitted_sizes_says_so():
    small = laws.optima(1e15)
    assert small.optima[1].beyond_fit == "fitted on 44M to 16B parameters"


@pytest.mark.parametrize("flops", [0, -1.0, math.nan, math.inf])
def test_no_budget_has_no_optimum(flops):
    with pytest.raises(ValueError, match="FLOP"):
        laws.optima(flops)


def test_a_model_has_a_loss_by_every_law():
    found = {one.law: one.loss for one in laws.losses(124.5e6, 85.1e6, 10e9)}
    assert 3.0 < found["Hoffmann 2022, as printed"] < 3.1
    assert 3.0 < found["Besiroglu 2024"] < 3.1
    assert len(found) == 4


def test_three_fits_of_the_same_runs_agree_on_chinchillas_own_loss():
    # Hoffmann 2022: 70B parameters and 1.4T tokens, 1.94 by its eq. 10
    found = [one.loss for one in laws.losses(70e9, 70e9, 1.4e12)][1:]
    assert found == pytest.approx([1.937] * 3, abs=0.05)
