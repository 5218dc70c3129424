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


PF_DAY = 1e15 * 86400  # FLOP of a petaflop/s for a day


@pytest.mark.parametrize(("days", "parameters", "tokens"), [(1, 1.3e9, 2.0e10), (100, 3.75e10, 6.93e10)])
def test_kaplans_optimum_is_that_of_the_paper_in_pf_days(days, parameters, tokens):
    assert laws.kaplan_optimum(days * PF_DAY) == pytest.approx((parameters, tokens), rel=0.001)


@pytest.mark.parametrize(
    ("law", "edge", "flops"),
    [  # FLOP whose optimum is the smallest and the largest model that was fitted: 768 and 1.5e9, 44e6 and 16e9
        (0, "low", PF_DAY * (768 / 1.3e9) ** (1 / 0.73)),
        (0, "high", PF_DAY * (1.5 / 1.3) ** (1 / 0.73)),
        *((law, edge, None) for law in (1, 2, 3) for edge in ("low", "high")),
    ],
)
def test_an_optimum_outside_the_sizes_of_its_law_is_said_from_either_end_on(law, edge, flops):
    if flops is None:
        fit, size = laws.FITS[law - 1], {"low": 44e6, "high": 16e9}[edge]
        # where dL/dN = 0 on the line 6·N·D: alpha·A/N^alpha = beta·B/D^beta
        tokens = (fit.beta * fit.B / (fit.alpha * fit.A / size**fit.alpha)) ** (1 / fit.beta)
        flops = 6 * size * tokens
    below, above = (laws.optima(flops * factor).optima[law].beyond_fit for factor in (0.999, 1.001))
    outside, within = (below, above) if edge == "low" else (above, below)
    sizes = "768 to 1.5B" if law == 0 else "44M to 16B"
    assert outside == f"fitted on {sizes} parameters"
    assert isinstance(within, Absent)


def test_ends_are_those_of_all_laws_and_the_batch_is_of_the_highest_loss_and_of_the_lowest():
    found = laws.optima(1e20)
    for name in ("parameters", "tokens"):
        its = sorted(getattr(one, name) for one in found.optima)
        assert (getattr(found, f"{name}_low"), getattr(found, f"{name}_high")) == (its[0], its[-1])
    batches = sorted(2e8 / one.loss ** (1 / 0.21) for one in found.optima)
    assert (found.critical_batch_tokens_low, found.critical_batch_tokens_high) == pytest.approx(
        (batches[0], batches[-1])
    )
    kaplan, printed, *_ = found.optima
    assert kaplan.loss == pytest.approx(
        ((8.8e13 / kaplan.parameters) ** (0.076 / 0.095) + 5.4e13 / kaplan.tokens) ** 0.095
    )
    assert printed.loss == pytest.approx(1.69 + 406.4 / printed.parameters**0.34 + 410.7 / printed.tokens**0.28)
    assert laws.optima(0.5).flops == 0.5


def test_kaplan_counts_no_embeddings_and_the_others_all_parameters():
    kaplan, *others = laws.losses(2e8, 1e8, 1e10)
    assert kaplan.loss == laws.kaplan_loss(1e8, 1e10)
    assert [it.loss for it in others] == [fit.loss(2e8, 1e10) for fit in laws.FITS]
