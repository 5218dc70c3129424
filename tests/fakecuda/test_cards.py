"""Does a budget train its slices on all alike cards that are visible, and on one where one is asked for?"""

from rigbench.budget.record import Budget, Scaling

BUDGET = ["budget", "--flops", "1e13", "--params", "5M"]
SECOND = "GPU-00000000-0000-0000-0000-000000000001"


def test_a_budget_trains_on_both_cards_and_on_one_beside_them_then_answers_from_those(rig):
    run = rig.run(*BUDGET, small=True).ended(0).run
    assert [(it.recipe.strategy, it.recipe.ranks) for it in run.slices] == [("ddp", 2), ("single", 1)]
    assert run.slices[0].device.name in run.budget.configuration.words
    assert run.budget.configuration.words.startswith("cuda (2 × NVIDIA GeForce RTX 4080 SUPER), ")
    assert isinstance(run.budget.scaling, Scaling)
    assert run.budget.remark == ""
    again = rig.run(*BUDGET, small=True).ended(0).run
    assert (again.slices, again.budget.scaling) == ((), run.budget.scaling)


def test_a_card_that_is_asked_for_trains_alone_and_the_other_is_named(rig):
    done = rig.run(*BUDGET, "--device", "cuda:1", small=True).ended(0)
    (alone,) = done.run.slices
    assert (alone.recipe.strategy, alone.device.uuid) == ("single", SECOND)
    assert isinstance(done.run.budget, Budget)
    assert done.run.budget.remark == "one of 2 cards: --device cuda:1 is one of 2 GPUs"
    assert done.run.budget.remark in " ".join(done.out.split())
