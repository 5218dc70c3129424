"""Does what surely fits, by its closed form, really fit by the recorded steps, and is it not far below them?"""

from __future__ import annotations

import pytest
from recipes import recipe

from rigbench.budget.forecast import micro_batch_that_surely_fits
from rigbench.core import profiles
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.model.shape import series
from rigbench.predict import cards
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Largest, Target
from rigbench.predict.traces import Traces


def model(of: str, name: str) -> Model:
    return next(it.model for it in series(of).models if it.name == name)


def target(words: str) -> Target:
    rig = profiles.rig_named(words)
    return cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)


def on_cards(count: int, **more: str) -> Recipe:
    return recipe(strategy="ddp" if count > 1 else "single", ranks=count, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "name"),
    [*(("diy", name) for name in ("5M", "15M", "60M", "120M")), *(("llama", name) for name in ("150M", "350M", "1B"))],
)
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_what_surely_fits_does_and_is_not_far_from_the_most(of, name, optimizer):
    predictor = Predictor(Traces(None))
    for words, count in (("rtx-3060", 1), ("2xrtx-4080", 2), ("rtx-4090", 1), ("h200", 1)):
        its = model(of, name), on_cards(count, optimizer=optimizer)
        sure = micro_batch_that_surely_fits(predictor, *its, target(words))
        found = predictor.largest_micro_batch(*its, target(words))
        most = found.value if isinstance(found, Largest) else 0
        assert 0.8 * most - 1 <= sure <= most, words


def test_what_surely_fits_on_two_4080s_is_a_little_less_than_the_recorded_steps_say():
    two = target("2xrtx-4080")
    sure = micro_batch_that_surely_fits(Predictor(Traces(None)), model("diy", "120M"), on_cards(2), two)
    # the recorded step with DDP gives 13 sequences of the diy 120M on each card
    assert 10 <= sure <= 13


@pytest.mark.parametrize("way", [{"precision": "fp32"}, {"strategy": "fsdp2"}])
def test_where_the_closed_form_is_not_known_to_hold_it_says_nothing(way):
    its = model("diy", "5M"), recipe(**way)
    assert micro_batch_that_surely_fits(Predictor(Traces(None)), *its, target("h200")) == 0
