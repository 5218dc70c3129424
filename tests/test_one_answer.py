"""Do capacity, train-probe and budget say the same of one model on one rig: recipe, micro-batch, memory, speed?"""

from __future__ import annotations

import json

import pytest

from rigbench import store
from rigbench.budget import command, plan
from rigbench.budget.record import Options as BudgetOptions
from rigbench.core.errors import RigbenchError
from rigbench.core.options import NOT_GIVEN
from rigbench.core.profiles import rig_named
from rigbench.core.progress import Silent
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import RecipeOptions
from rigbench.model.shape import series, series_names
from rigbench.predict import capacity
from rigbench.predict.record import Options as CapacityOptions
from rigbench.train import arms
from rigbench.train import plan as train_plan
from rigbench.train.record import ProbeOptions
from rigbench.work.record import WattOptions

FIRST = ("2xrtx-4080", "t4")  # the others take as long again, each
RIGS = ("rtx-3060", "2xrtx-4080", "rtx-4090", "4xrtx-3090", "t4", "8xh100-80gb-hbm3")


def asked(tmp_path, on: str, of: str, size: str, **said: object) -> dict[str, dict]:
    """What each of the three answers, as its JSON has it; the one line of those that do not."""
    names = ("optimizer", "precision", "compiled", "strategy")
    model = next(entry.model for entry in series(of).models if entry.name == size)
    told = RecipeOptions(**said)
    budget_options = BudgetOptions(params=size, series=of, tokens=1e12)

    def of_capacity(job: Job) -> None:
        its = {name: value for name in names if (value := getattr(told, name)) is not NOT_GIVEN}
        capacity.predicted(job, model, series(of), CapacityOptions(**its), on, of_series=False)

    def of_slices(job: Job) -> None:
        made = train_plan.of(
            ModelOptions(params=model.total_parameters, series=of), told, ProbeOptions(arms="one"), on=on
        )
        assert made.model.shape == model.shape
        arms.run(job, made)

    def of_budget(job: Job) -> None:
        request = plan.request(budget_options, told, WattOptions(), NOT_GIVEN)
        command.run(job, request, None, (rig_named(on),))

    answers = {}
    for name, ask in (("capacity", of_capacity), ("train-probe", of_slices), ("budget", of_budget)):
        job = Job(store.Store(tmp_path), Rig.live(), name, Silent())
        try:
            ask(job)
        except RigbenchError as error:
            answers[name] = {"refused": str(error)}
            continue
        answers[name] = json.loads(store.encode(job.run))
    return answers


def told_by_each(answers: dict[str, dict]) -> dict[str, tuple]:
    """(compiled, precision, strategy, loss, checkpointing, micro-batch, bytes, tokens/s)"""
    its = answers["capacity"]["capacity"]["usual"]
    row = answers["train-probe"]["arms"]["rows"][0]
    budget = answers["budget"]["budget"]
    series_row = budget["series"][0]

    def way(recipe: dict) -> tuple:
        return tuple(
            recipe.get(name) for name in ("compiled", "precision", "strategy", "loss_chunks", "checkpoint_every")
        )

    return {
        "capacity": (way(its["recipe"]), its["recipe"]["micro_batch"], its["memory"]["process"]["value"],
                     its["tokens_per_s"]["value"]),
        "train-probe": (way(row["recipe"]), row["recipe"]["micro_batch"], row["memory"]["process"]["value"],
                        row["time"]["tokens_per_s"]["value"]),
        "budget": (way(budget["configuration"]["recipe"]), series_row["micro_batch"], series_row["memory"]["value"],
                   series_row["rate"]["tokens_per_s"]["value"]),
    }  # fmt: skip


@pytest.mark.parametrize("on", [on if on in FIRST else pytest.param(on, marks=pytest.mark.slow) for on in RIGS])
def test_one_question_has_one_answer_of_every_model_of_the_series(tmp_path, on):
    answered = 0
    for of in series_names():
        for entry in series(of).models:
            answers = asked(tmp_path, on, of, entry.name)
            if "refused" in answers["budget"]:  # then train-probe has none that fits, and capacity none as usual
                assert "does not fit" in answers["budget"]["refused"]
                assert "reason" in answers["capacity"]["capacity"]["usual"]
                assert "refused" in answers["train-probe"]
                continue
            one, *others = told_by_each(answers).values()
            assert all(other == one for other in others), (entry.name, one, others)
            answered += 1
    assert answered >= 5
