"""A plan of a series is its budget with the batches of one rule; what is not planned forwards is refused."""

from __future__ import annotations

import json
import re
import sys

import msgspec
import pytest
from budget_slices import DIY, request, stored

from rigbench import __main__
from rigbench.budget import forecast
from rigbench.budget.training import short_slices
from rigbench.core.record import Absent
from rigbench.machine.cuda_map import Cards
from rigbench.model.shape import series
from rigbench.scaling import planning, rules


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *map(str, words)])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize(
    ("name", "words", "held_out", "tried"),
    [
        ("diy", ("--flops", "1.2e18", "--on", "2xrtx-4080"), 1 << 20, 0),
        ("tiny", ("--tokens", "1M", "--on", "rtx-4080"), 62_500, 2),  # two of them are tried first, two seconds each
    ],
)
def test_a_plan_is_the_budget_with_the_batches_of_the_rule(rigbench, name, words, held_out, tried):
    code, out, _ = rigbench("--json", "scaling", "plan", "--series", name, *words)
    run = json.loads(out)
    plain = json.loads(rigbench("--json", "budget", "--set", f"series={name}", *words)[1])
    assert code == 0
    models = [entry.model for entry in series(name).models]
    for model, its, row, other in zip(
        models, run["plan"]["models"], run["budget"]["series"], plain["budget"]["series"], strict=True
    ):
        rule = rules.rules(model, row["tokens"], 2 if name == "diy" else 1)
        assert (its["batch_tokens"], row["tokens_per_step"]) == (rule.batch_tokens, rule.batch_tokens)
        assert its["learning_rate"] == rule.learning_rate
        assert its["memory"] == row["memory"]
        assert row["tokens"] == pytest.approx(other["tokens"])
        assert row["hours"]["value"] == pytest.approx(other["hours"]["value"], rel=0.2) or name == "tiny"
    steps = sum(row["hours"]["value"] for row in run["budget"]["series"])  # of them a fifth of a quarter and of a half
    others = sum(row["hours"]["value"] for row in run["budget"]["overheads"] if row["name"] != "evaluation")
    # Each is evaluated five times and after each of three decays, at a third of the tokens' training time, in a process
    # that takes two seconds to start.
    rates = [row["rate"]["tokens_per_s"]["value"] for row in run["budget"]["series"]]
    seconds = sum(8 / 3 * held_out / rate + 2.0 for rate in rates) + tried * (2.0 + 2.0)
    assert run["plan"]["hours"]["value"] == pytest.approx(steps * 1.15 + others + seconds / 3600)


def test_the_screen_says_the_rules_and_what_to_run_next(rigbench):
    code, out, _ = rigbench("scaling", "plan", "--tokens", "800M", "--on", "rtx-3060", "--params", "5M,15M")
    assert code == 0
    assert "note  plan: 2 models, 5M to 15M: learning rate 2.3e-03" in out
    assert "stretched  5M, 15M: fitted on 1e17 to 2e19 FLOP" in out
    assert "DeepSeek LLM 2024" in out
    assert re.search(r"15 % more steps in all \d.*h \(.* to .*\) with those, the evaluations", " ".join(out.split()))
    assert "rigbench scaling run" not in out, "of models that are no series it has none"
    _, out, err = rigbench("scaling", "plan", "--tokens", "800M", "--on", "rtx-3060")
    assert "rigbench scaling run --series diy --data FILE.bin --tokens 2e8,4e8,8e8" in " ".join(out.split())
    run = err.partition("saved as ")[2].partition(";")[0]
    assert "plan" in rigbench("report", run)[1]
    assert "plan: 5 models, 5M to 120M" in rigbench("report", run, "--verbose")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--hours", "48"], "a series is not planned from hours; give --flops"),
        (["--tokens", "1B", "--set", "batch-tokens=65536"], "batch-tokens is what the plan chooses"),
        (["--tokens", "1B", "--on", "rtx-3060,rtx-3090"], "--on names 2 rigs; plan on one"),
        (["--tokens", "10K"], "tokens are"),
    ],
)
def test_what_is_not_planned_is_refused_in_one_line(rigbench, words, says):
    words = words if "--on" in words else [*words, "--on", "rtx-3060"]
    code, out, err = rigbench("scaling", "plan", *words)
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]


def test_on_this_rig_the_rate_is_the_slices_and_the_batch_the_rules():
    asked = request(1.2e18)
    its = planning.ruled(asked, 1)
    chosen = asked._replace(batches=tuple(one.batch_tokens for one in its))
    slices = [stored(model, rate=1e10 / model.flop_per_token) for model in DIY]
    _, rows = forecast.here(chosen, slices)
    _, plain = forecast.here(asked, slices)
    assert [row.tokens_per_step for row in rows] == [one.batch_tokens for one in its]
    assert [row.rate for row in rows] == [row.rate for row in plain]
    assert all("by the rule; the rate is of" in row.batch for row in rows)


def test_memory_that_is_not_known_is_said():
    from rich.console import Console

    from rigbench.scaling import plan_screen
    from rigbench.scaling.record import PlannedModel, SeriesPlan

    one = PlannedModel(
        model="5M", parameters=5_000_000, tokens=1e9, learning_rate=1e-3, batch_tokens=65536,
        critical_batch_tokens=2e5, steps=15258, warm_up_steps=300, decay_steps=3052, micro_batch=0,
        memory=Absent("no short run of it is stored"),
    )  # fmt: skip
    its = SeriesPlan(series="mine", models=(one,), sources=("a rule",), branches=(0.5,), branches_share=0.1)
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    plan_screen.show(its, console)
    shown = console.export_text()
    assert "note  plan: 5M: learning rate 1.0e-03" in shown
    assert "n/a (no short run of it is stored)" in shown
    assert "stretched" not in shown
    assert msgspec.json.decode(msgspec.json.encode(its), type=SeriesPlan) == its


@pytest.mark.parametrize(("gpus", "precision"), [((), "fp32"), (("a", "b"), "auto")])
def test_the_slices_of_a_plan_are_trained_as_the_series_will_be(gpus, precision):
    asked = request(1.2e18)
    its = planning.ruled(asked, max(1, len(gpus)))
    [first, _, last] = planning.as_trained(short_slices(asked.models, None), asked, its, Cards(gpus))
    sequences = its[0].batch_tokens // first.model.shape.sequence // max(1, len(gpus))
    assert sequences % first.recipe.micro_batch == 0
    assert first.recipe.micro_batch * first.model.shape.sequence <= 8192
    assert (first.recipe.precision, first.micro_batch_by) == (precision, "the rule")
    assert last.recipe.micro_batch == (8 if gpus else 1), "a CPU would not come to five steps of 120M with eight"
