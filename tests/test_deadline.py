"""Is it said what is done by a deadline, how likely, what it draws and emits, and never of unlike parts of two rigs?"""

from __future__ import annotations

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from budget_slices import M5, M120
from recipes import recipe

from rigbench.budget import deadline, draw
from rigbench.budget.record import DUE, Due
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.predict import ceilings, steptime

TESTS = Path(__file__).parent
FOUR = Estimate(4.0, 2.0, 10.0, 0.9, "a test", 0)
ON_4080S = ("budget", "--on", "2xrtx-4080", "--flops", "1.2e18")


def asked(rigbench, *words: str) -> dict:
    code, out, err = rigbench("--json", *words)
    assert code == 0, err
    return json.loads(out)["budget"]


def judged(hours: float) -> deadline.Deadline:
    flops = Estimate(1e18, 5e17, 2e18, 0.9, "a test", 0)
    alone = {"5M": Estimate(1, 0.5, 2, 0.9, "", 0), "60M": Estimate(3, 1, 5, 0.9, "", 0), "120M": FOUR}
    return deadline.judged(Due("2026-12-24 18:00", hours), FOUR, flops, alone)


def test_a_deadline_at_an_end_of_the_interval_is_kept_as_often_as_that_end_says():
    assert [judged(hours).probability for hours in (2, 4, 10)] == pytest.approx([0.05, 0.5, 0.95])
    assert [judged(hours).verdict for hours in (1.9, 4, 10)] == ["not done", "unsure", "done"]
    exact = Estimate(4.0, 4.0, 4.0, 0.9, "declared", 0)
    assert [deadline.probability(exact, hours) for hours in (3.9, 4, 4.1)] == [0, 1, 1]


def test_the_largest_model_is_the_last_that_is_done_in_the_middle_and_at_the_slow_end():
    assert (judged(4.5).largest_surely, judged(4.5).largest_likely) == ("5M", "120M")
    assert isinstance(judged(0.4).largest_likely, Absent)


def test_a_date_is_its_end_and_a_duration_is_from_now():
    tomorrow = datetime.now() + timedelta(days=1)
    due = DUE.read(f"{tomorrow:%Y-%m-%d}", "--deadline")
    assert due.at == f"{tomorrow:%Y-%m-%d} 23:59"
    assert 23 < due.hours < 49
    assert DUE.read("48", "--deadline").hours == DUE.read("48h", "--deadline").hours == 48


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tomorrow", "is neither a duration nor a date; write it as 48h, 2026-12-24 or '2026-12-24 18:00'"),
        ("2020-01-01", "is past"),
        ("9999-12-31", "is more than 1000 years away"),
        ("5e9h", "is more than 1000 years"),
        ("0", "is"),
        ("2026-13-01", "is neither a duration nor a date"),
    ],
)
def test_what_is_no_deadline_gets_one_line(text, said):
    with pytest.raises(RigbenchError, match=said):
        DUE.read(text, "--deadline")


def test_alone_it_is_hours_backwards_and_beside_an_amount_it_is_judged(rigbench):
    by_then, hours = (
        asked(rigbench, "budget", "--on", "2xrtx-4080", "--deadline", "48h"),
        asked(rigbench, "budget", "--on", "2xrtx-4080", "--hours", "48"),
    )
    assert by_then["goal"] == hours["goal"]
    assert by_then["deadline"]["flops"] == hours["goal"]["flops"]
    budget = asked(rigbench, *ON_4080S, "--deadline", "4h")
    its, takes = budget["deadline"], budget["whole"]["hours"]
    assert (its["verdict"], takes["low"] < 4 < takes["high"]) == ("unsure", True)
    assert 0.05 < its["probability"] < 0.95
    assert its["largest_surely"] in {"30M", "60M"}
    code, out, _ = rigbench(*ON_4080S, "--deadline", "1h")
    assert code == 0
    assert "1 h: not done, under 1 % likely, as it takes" in " ".join(out.split())
    code, out, _ = rigbench("budget", "--on", "2xrtx-4080,rtx-3060", "--flops", "1.2e18", "--deadline", "2 days")
    assert " in time" in out
    assert " yes" in out
    code, _, err = rigbench("budget", "--on", "rtx-4090", "--deadline", "5h", "--hours", "5")
    assert (code, "--hours and --deadline exclude each other" in err) == (2, True)


def test_a_deadline_that_is_over_before_training_starts_buys_nothing(rigbench):
    code, out, _ = rigbench(*ON_4080S, "--deadline", "30s")
    assert code == 0
    assert "nothing (0.00833333 hours do not even cover compilation" in " ".join(out.split())


def test_carbon_is_the_places_the_declared_one_or_not_known(rigbench):
    budget = asked(rigbench, *ON_4080S, "--set", "place=us")
    assert budget["carbon"]["g_per_kwh"] == pytest.approx(0.81 * 453.6, rel=0.005)  # EIA: 0.81 pounds a kWh in 2023
    kwh, emitted = budget["whole"]["kwh"], budget["whole"]["co2_kg"]
    assert emitted["value"] == pytest.approx(kwh["value"] * 0.367)
    _, out, _ = rigbench("report")
    assert "at 367 g a kWh (United States, 2023)" in out
    assert "reason" in asked(rigbench, *ON_4080S)["whole"]["co2_kg"]
    assert asked(rigbench, *ON_4080S, "--carbon", "50")["whole"]["co2_kg"]["value"] == pytest.approx(
        kwh["value"] * 0.05
    )
    gpus_only = asked(rigbench, "budget", "--on", "3xrtx-4080", "--flops", "1e18", "--carbon", "50")
    assert "not the wall" in gpus_only["whole"]["co2_kg"]["reason"]


def test_kwh_of_the_wall_and_of_gpus_alone_are_never_beside_each_other(rigbench):
    """3 cards of this kind have no rig profile, so nothing tells their host's watts."""
    both = ("--on", "2xrtx-4080,3xrtx-4080")
    code, out, _ = rigbench("budget", *both, "--flops", "1e18")
    assert code == 0
    first, models = out.splitlines()[0], " ".join(out.split("the others with")[1].split())
    assert "kWh (GPUs only)" in first
    assert "kWh (wall)" in models
    code, out, _ = rigbench("budget", *both, "--kwh", "5")
    assert code == 0
    assert "3xrtx-4080: no answer (its watts are not known at the wall, as the others' are" in " ".join(out.split())


def drawn(model, rig: str, **choices: object) -> Estimate:
    step = steptime.predict(model, recipe(**choices), ceilings.from_rig(profiles.rig_named(rig)))
    return draw.share([(step, 1.0)])


def test_published_readings_of_cards_in_training_lie_within_what_is_modelled():
    with (TESTS / "data" / "published_training.csv").open() as file:
        watts = {row["gpu"]: float(row["power_w"]) for row in csv.DictReader(file) if row["power_w"]}
    readings = {"rtx-3090": watts["NVIDIA GeForce RTX 3090"]}
    for card in ("h100-80gb-hbm3", "h200"):  # nvidia-smi -q under load
        lines = (TESTS / "rigs" / f"{card}-driver-590.48.01" / "load.nvml.txt").read_text().splitlines()
        readings[card] = next(int(line.split()[-1]) / 1000 for line in lines if "nvmlDeviceGetPowerUsage" in line)
    for card, reading in readings.items():
        its = drawn(M120, card, micro_batch=16, compiled=True)
        assert its.low <= reading / profiles.gpu(card).power_limit_watts <= its.high + 0.03, card


def test_a_card_that_waits_for_launches_draws_less():
    busy, waiting = drawn(M120, "h200", micro_batch=32, compiled=True), drawn(M5, "h200", micro_batch=1)
    assert waiting.high < busy.value
    assert 0.1 <= waiting.low < waiting.value < waiting.high < 1
