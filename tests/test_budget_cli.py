"""Does `rigbench budget` keep its contract: contradictions refused in one line, rigs beside each other, no torch?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from budget_slices import energy, whole
from scripted_sensors import series, telemetry

from rigbench import __main__, store
from rigbench.budget import command, plan
from rigbench.budget.record import Options, PriceOptions
from rigbench.command import choices_of, read
from rigbench.core.record import Absent
from rigbench.document import run_schema
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.model.recipe import RecipeOptions
from rigbench.model.record import Model
from rigbench.work.record import NOTHING_DECLARED

PROFILES = Path(__file__).parent / "profiles"


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Path:
    """A cache of recorded steps that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys, traced):
    """Run a command in this process: (exit code, standard output, standard error)."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(traced)
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIGBENCH_PROFILES", str(PROFILES))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


REFUSED = {
    "--flops 1e18 --tokens 1B": "--flops and --tokens exclude each other",
    "--tokens 1B --tokens-per-param 20": "--tokens and --tokens-per-param exclude each other",
    "--kwh 35 --money 10": "--kwh and --money exclude each other",
    "--hours 48 --money 35": "--hours and --money exclude each other",
    "--flops nan": "--flops 'nan' is not a number",
    "--flops 0": "--flops '0' is zero",
    "--flops -1": "is negative",
    "--flops inf": "--flops",
    "--hours 0": "--hours '0h' is zero",
    "--hours -3": "is negative",
    "--kwh 0": "--kwh '0' is zero",
    "--tokens 0": "--tokens '0' is zero",
    "--tokens-per-param -20": "is negative",
    "--money -5": "is negative",
    "--money 10_CHF --on h200": "--money '10 CHF' is not in EUR, as the electricity is",
    "--price 0_EUR": "--price '0' is zero",
    "--price -0.3_EUR": "is negative",
    "--set rent=0_USD": "--set rent '0' is zero",
    "--set rent=-1_USD": "is negative",
    "--set rent=1.5": "--set rent '1.5' names no currency",
    "--set purchase=0_USD": "--set purchase '0' is zero",
    "--set purchase=2400": "names no currency; write it as '2400 USD'",
    "--set lifetime=0": "--set lifetime '0' is zero",
    "--params 5M,5M": "names one model twice",
    "--params ,": "is 0 models",
    "--params 12apples": "unit that I do not know",
    "--split equal-flops --params 5M": "--split shares a budget out, and this is about one model",
    "--split equal-tokens --tokens 1B": "--split shares a budget out, and this is about models whose tokens are given",
    "--split half": "--split 'half' is not one of them; use equal-tokens, equal-flops or compute-optimal",
    "--on nonesuch": "no rig or GPU profile 'nonesuch' for --on",
    "--on ,": "names 0 rigs",
    "--on h200,h200": "names a rig twice",
    "--on h200,rtx-3090 --wall-watts 500": "--wall-watts is of one rig, and --on names 2",
    "--on h200,rtx-3090 --set purchase=2400USD": "purchase is of one rig",
    "--on h200 --device cpu": "--on and --device exclude each other",
    "--wall-watts 0": "--wall-watts '0' is zero",
    "--wall-watts nan": "--wall-watts 'nan' is not a number",
    "--set host-watts=-5": "--set host-watts '-5' is negative",
    "--wall-watts 1 --set host-watts=60": "give --wall-watts or host-watts, not both",
    "--set psu-efficiency=92": "--set psu-efficiency '92' is above the sensible range",
    "--set rig-profile=nonesuch": "no rig or GPU profile 'nonesuch' for --set rig-profile",
    "--optimizer sgd": "--optimizer 'sgd' is not one of them; use adamw, adamw-foreach",
    "--set precision=fp4": "use auto, bf16, bf16-pure",
    "--set strategy=pipeline": "use single, ddp",
    "--set strategy=data-parallel --on 2xh200": "strategy data-parallel is only measured, not predicted",
    "--set strategy=accelerate --on 2xh200": "strategy accelerate is only measured, not predicted",
    "--set checkpointing=900 --on h200": "--checkpointing '900' is not a whole number from 1 to 4; use off, on, or K",
    "--set checkpointing=13 --params 120M": "--checkpointing '13' is not a whole number from 1 to 12",
    "--set eval-every=-1": "--set eval-every '-1' is negative",
    "--set restarts-per-day=1000": "above the sensible range",
    "--set keep-checkpoints=0": "--set keep-checkpoints '0' is not a whole number",
    "--set hot-over-cold=1.2": "above the sensible range",
    "--set disk-speed=fast": "--set disk-speed",
    "--set batch-tokens=0": "--set batch-tokens '0' is zero",
    "--on 2xrtx-4080 --set series=tiny --set batch-tokens=32": "is less than a sequence for each card; give 64 or more",
    "--on rtx-4080 --set series=tiny --flops 1e6": "less than one step of",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench("budget", "--quiet", *(word.replace("_", " ") for word in typed.split()))
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert REFUSED[typed] in err


def typed(**words: str) -> plan.Request:
    """What the command makes of its options as typed."""
    options = read(Options, list(choices_of(Options)), words)
    return plan.request(options, RecipeOptions(), NOTHING_DECLARED, PriceOptions().electricity)


def test_a_rent_may_be_written_by_the_hour_and_sizes_swept():
    asked = typed(rent="1.5USD/h", params="5M,60M", money="10")
    assert (asked.options.rent.per_hour, asked.options.rent.currency) == (1.5, "USD")
    assert (asked.kind, asked.amount) == ("rent", 10.0)
    assert ([model.name for model in asked.models], asked.name) == (["5M", "60M"], "5M, 60M")


@pytest.mark.parametrize(("text", "hours"), [("48", 48.0), ("48h", 48.0), ("2 days", 48.0), ("90min", 1.5)])
def test_hours_alone_are_the_budget_and_beside_flop_they_are_judged(text, hours):
    alone = typed(hours=text)
    assert (alone.kind, alone.amount) == ("hours", hours)
    beside = typed(hours=text, flops="1.2e18")
    assert (beside.kind, beside.amount, beside.declared_hours) == ("flops", 1.2e18, hours)


def test_everyday_names_of_cards_are_understood():
    rigs = command._rigs("h200, 2x4080,dual-rtx-3090,here,RTX A6000", Options(), NOTHING_DECLARED)
    assert [None if isinstance(rig, Absent) else (rig.name, rig.count) for rig in rigs] == [
        ("h200", 1),
        ("2xrtx-4080", 2),
        ("dual-rtx-3090", 2),
        None,
        ("rtx-a6000", 1),
    ]


def test_rigs_stand_beside_each_other_in_the_order_asked(rigbench):
    code, out, err = rigbench(
        "budget", "-q", "--flops", "1e13", "--set", "series=tiny", "--on", "rtx-3090,2xrtx-4080,h200", "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    jsonschema.validate(document, json.loads(run_schema()))
    budget = document["budget"]
    rigs = [budget, *budget["others"]]
    assert [one["rig"] for one in rigs] == ["rtx-3090", "2xrtx-4080", "h200"]
    for one in rigs:
        assert {row["rate"]["source"] for row in one["series"]} == {"predicted"}
        tokens = 1e13 / sum(row["flop_6n"] / row["tokens"] for row in one["series"])
        hours = sum(tokens / row["rate"]["tokens_per_s"]["value"] / 3600 for row in one["series"])
        assert one["series_hours"]["value"] == pytest.approx(hours)
        on_top = sum(row["hours"]["value"] for row in one["overheads"])
        assert one["whole"]["hours"]["value"] == pytest.approx(hours + on_top)
        watts = one["power"]["watts"]["value"]
        assert one["whole"]["kwh"]["value"] == pytest.approx((hours + on_top) * watts / 1000)
    # a share of 350 W and the 80 W of the profile with the same card, behind a supply of 0.9
    assert 0.75 < (0.9 * budget["power"]["watts"]["value"] - 80) / 350 < 0.95
    assert "assumed" in budget["power"]["split"][0]["watts"]["basis"]
    code, out, _ = rigbench("report")
    assert "RTX 3090; the others with `--on NAME`" in out


def test_a_rig_that_cannot_answer_does_not_hide_the_others(rigbench):
    words = ("budget", "-q", "--flops", "1e13", "--set", "series=tiny", "--compile", "off", "--on", "here,rtx-4090")
    code, out, _ = rigbench(*words)
    assert code == 0
    assert "this rig: no answer (no short training run of this rig is stored; run rigbench train-probe" in out
    assert out.startswith("note  budget: 10 TFLOP on RTX 4090: ")


def test_without_any_answer_the_first_reason_is_told_with_exit_code_3(rigbench):
    code, out, err = rigbench("budget", "-q", "--flops", "1e13", "--set", "series=tiny", "--on", "here")
    assert (code, out) == (3, "")
    assert "no short training run of this rig is stored" in err


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_said_with_what_would(rigbench):
    code, out, err = rigbench("budget", "-q", "--params", "1B", "--set", "series=llama", "--on", "rtx-4080")
    assert (code, out) == (2, "")
    assert "does not fit a card of rtx-4080 even with checkpointing and a chunked loss" in err
    assert "what would do: --on rtx-a4500 or --optimizer adamw8bit or a smaller model" in err  # 20 GiB


def test_a_rig_elsewhere_is_answered_without_torch_where_its_models_surely_fit(rigbench):
    words = ["budget", "-q", "--on", "2xrtx-4080"]
    code = (
        f"import sys; sys.argv = ['rigbench', *{words!r}]\n"
        "from rigbench.__main__ import _run; assert _run() == 0\n"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "1.2 EFLOP on 2 × RTX 4080 (ddp): " in done.stdout


def tiny_models() -> tuple[Model, ...]:
    return typed(series="tiny", flops="1e13").models


class Silent:
    def stage(self, text: str, weight_seconds: float) -> None: ...
    def update(self, share: float, text: str) -> None: ...
    def close(self) -> None: ...


def keep(home: store.Store, slices: tuple, stranger: bool = False) -> None:
    job = Job(home, Rig.live(), "train-probe", Silent())
    if stranger:
        job.run = msgspec.structs.replace(job.run, rig=msgspec.structs.replace(job.run.rig, fingerprint="0" * 12))
    job.keep(slices=slices)
    job.finish("finished")


def test_slices_of_another_rig_and_of_another_method_are_refused_and_said(rigbench, tmp_path, monkeypatch):
    home = store.Store(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setenv("RIGBENCH_PROFILES", str(PROFILES))
        _, middle, large = tiny_models()
    keep(home, (whole(middle, 9e5), whole(large, 1e5, method=0)))
    keep(home, (whole(large, 5e4),), stranger=True)
    code, out, err = rigbench("budget", "-v", "--flops", "1e13", "--set", "series=tiny", "--on", "here")
    flat = " ".join(out.split())
    assert code == 0, err
    assert "1 short run of large: measured another way (METHOD 0, the newest is 1)" in flat
    assert "1 short run of another rig" in flat


def test_the_supplys_peak_is_read_from_the_slices_own_file_and_warned_of_once(rigbench, tmp_path):
    ticks = telemetry((0.0, 1.0), series("CPU", power_watts=(50.0, 80.0)))
    small = tiny_models()[0]
    keep(store.Store(tmp_path / "home"), (whole(small, 9e5, telemetry=ticks, energy=energy(60.0, "CPU package only")),))
    keep(store.Store(tmp_path / "home"), (whole(tiny_models()[2], 5e4),))
    words = (
        "budget",
        "-q",
        "--flops",
        "1e13",
        "--set",
        "series=tiny",
        "--on",
        "here",
        "--set",
        "psu-watts=85",
        "--json",
    )
    code, out, err = rigbench(*words)
    assert code == 0, err
    budget = json.loads(out)["budget"]
    assert budget["power"]["psu"]["peak_watts"]["value"] == 80.0
    assert len([line for line in budget["warnings"] if "the power supply's 85.0 W" in line]) == 1


def test_only_another_rigs_slices_are_no_answer_and_said(rigbench, tmp_path, monkeypatch):
    home = store.Store(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setenv("RIGBENCH_PROFILES", str(PROFILES))
        keep(home, (whole(tiny_models()[0], 9e5),), stranger=True)
    code, out, err = rigbench("budget", "-q", "--flops", "1e13", "--set", "series=tiny", "--on", "here")
    assert (code, out) == (3, "")
    assert "no short training run of this rig is stored (1 short run of another rig)" in err
