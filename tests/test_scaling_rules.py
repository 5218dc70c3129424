"""Learning rate, batch and schedule of a model, against what the rule's authors trained with."""

from __future__ import annotations

import itertools

import pytest

from rigbench.core.errors import RigbenchError
from rigbench.model.counts import describe
from rigbench.model.record import Shape
from rigbench.model.shape import series
from rigbench.scaling import rules

DIY = [it.model for it in series("diy").models]


# Table 2 of arXiv 2401.02954: layers, width, sequences of 4096 in a step, learning rate; both on 2e12 tokens.
@pytest.mark.parametrize(("layers", "width", "sequences", "rate"), [(30, 4096, 2304, 4.2e-4), (95, 8192, 4608, 3.2e-4)])
def test_the_rule_gives_what_its_authors_trained_with(layers, width, sequences, rate):
    kv, ffn = (width // 128, 11008) if layers == 30 else (8, 22016)
    shape = Shape("llama", layers, width, width // 128, kv, ffn, 102400, 4096, False, False)
    its = rules.rules(describe(shape, "theirs"), 2e12)
    assert its.learning_rate == pytest.approx(rate, rel=0.03)
    batch = min(rules.BATCH * (rate / rules.RATE) ** (rules.BATCH_POWER / rules.RATE_POWER), its.critical_batch_tokens)
    assert rules.BATCH * (its.learning_rate / rules.RATE) ** (rules.BATCH_POWER / rules.RATE_POWER) == pytest.approx(
        sequences * 4096, rel=0.08
    )
    assert 0.7 < its.batch_tokens / batch < 1.42, "to the nearest power of two"


@pytest.mark.parametrize("model", DIY, ids=lambda model: model.name)
def test_a_batch_stays_below_the_critical_one_and_is_whole_sequences_of_every_rank(model):
    its = rules.rules(model, 8.5e8, multiple=3)
    assert its.batch_tokens % (3 * model.shape.sequence) == 0
    assert its.batch_tokens < its.critical_batch_tokens
    assert its.steps == int(8.5e8 // its.batch_tokens)
    below = model.name in ("5M", "15M", "30M")
    assert ("fitted on 1e17 to 2e19 FLOP" in its.beyond_fit) == below
    assert (its.learning_rate == pytest.approx(0.3118 * 1e17**-0.125)) == below  # 2.3e-3, held at the end of the fit


def test_a_rate_rises_stays_and_falls_to_almost_nothing():
    shares = [rules.share_of_rate(step, 100, 5, rules.decay_of(100)) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(shares[4:80]) == {1.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(shares[80:]))
    assert 0 < shares[99] < 0.03


@pytest.mark.parametrize(("tokens", "says"), [(9000.0, "give"), (0.0, "give more"), (-1.0, "give more")])
def test_too_few_tokens_for_a_schedule_are_refused(tokens, says):
    with pytest.raises(RigbenchError, match="tokens are") as refusal:
        rules.rules(DIY[0], tokens)
    assert says in str(refusal.value.what_to_do)
