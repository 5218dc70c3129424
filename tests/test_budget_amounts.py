"""Do FLOP, tokens, hours, kWh and money all lead to the same plan, whichever of them is asked for?"""

from __future__ import annotations

import math

import pytest
from budget_slices import DIY, M60, M120, NOTHING_ON_TOP, plan, request, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench.budget.plan import _models
from rigbench.budget.plan import request as read
from rigbench.budget.record import Budget, CardPrice, Due, Options
from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.core.record import Absent, Price
from rigbench.model.recipe import RecipeOptions
from rigbench.work.record import NOTHING_DECLARED, WattOptions

RATES = dict(zip(DIY, (9000.0, 4000.0, 2000.0, 900.0, 400.0), strict=True))
MEASURED = [stored(model, value) for model, value in RATES.items()]
US = Price(per_kwh=0.1872, currency="USD", place="US residential average", date="2026-04", source="EIA")


def ask(amount: float, **more: object) -> Budget:
    models = more.pop("models", DIY)
    fields: dict[str, object] = {"watts": WattOptions(wall_watts=500.0), "price": US, **more}
    return plan(request(amount, models, **fields), MEASURED)  # type: ignore[arg-type]


def test_equal_flop_gives_each_model_a_fifth_and_compute_optimal_the_same_tokens_per_parameter():
    equal = ask(1.2e18, split="equal FLOP").series
    assert [row.flop_6n for row in equal] == pytest.approx([0.24e18] * 5)
    optimal = ask(1.2e18, split="compute-optimal").series
    # tokens per parameter r: 6·r·ΣN² = C, with the true counts
    counts = [5_375_040, 14_523_040, 30_357_504, 61_476_480, 124_475_904]
    r = 1.2e18 / 6 / sum(n * n for n in counts)
    assert [row.tokens_per_parameter for row in optimal] == pytest.approx([r] * 5)
    assert sum(row.flop_6n for row in optimal) == pytest.approx(1.2e18)


def test_tokens_and_tokens_per_parameter_are_flop_in_other_words():
    by_tokens = ask(846.7e6, kind="tokens")
    assert by_tokens.flops == pytest.approx(6 * 846.7e6 * 236_207_968)
    assert [row.tokens for row in by_tokens.series] == [846.7e6] * 5
    twenty = ask(20.0, kind="tokens per parameter", models=(M120,))
    assert twenty.series[0].tokens == 20 * 124_475_904
    assert twenty.flops == pytest.approx(6 * 20 * 124_475_904**2)


@pytest.mark.parametrize("kind", ["hours", "kWh", "electricity", "rent"])
@pytest.mark.parametrize("split", ["equal tokens", "equal FLOP", "compute-optimal"])
def test_what_hours_kwh_or_money_buy_takes_just_that(kind, split):
    rent = CardPrice(1.5, "USD", "--rent")
    budget = ask(300.0, kind=kind, split=split, rent=rent)
    taken = {
        "hours": budget.whole.hours,
        "kWh": budget.whole.kwh,
        "electricity": budget.whole.money,
        "rent": budget.rent.money,
    }[kind]
    assert taken.value == pytest.approx(300.0, rel=1e-6)


@pytest.mark.parametrize(("kind", "end"), [("hours", "low"), ("hours", "high")])
def test_the_ends_of_what_hours_buy_are_the_flop_that_take_them_at_worst_and_at_best(kind, end):
    flop = getattr(ask(300.0, kind=kind).goal.flops, end)
    hours = ask(flop).whole.hours
    assert {"low": hours.high, "high": hours.low}[end] == pytest.approx(300.0, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.floats(min_value=10.0, max_value=1e5), st.floats(min_value=1.1, max_value=100.0))
def test_more_hours_buy_more_flop(hours: float, times: float):
    less, more = ask(hours, kind="hours").goal.flops, ask(hours * times, kind="hours").goal.flops
    assert less.value < more.value
    assert less.low <= less.value <= less.high


def test_without_overheads_a_day_buys_the_rate_times_a_day():
    budget = ask(24.0, kind="hours", models=(M120,), **NOTHING_ON_TOP)
    assert budget.series[0].tokens == pytest.approx(400 * 86400, rel=1e-6)


def test_less_than_the_fixed_part_buys_nothing_and_says_so():
    with pytest.raises(RigbenchError, match=r"0\.001 hours do not even cover compilation, warm-up") as refused:
        ask(0.001, kind="hours", warm_up=600.0)
    assert refused.value.exit_code == NOTHING


def test_kwh_and_money_without_watts_or_a_price_are_refused_with_the_option():
    with pytest.raises(RigbenchError, match="give --wall-watts W") as refused:
        ask(35.0, kind="kWh", watts=NOTHING_DECLARED)
    assert refused.value.exit_code == BAD_INPUT
    with pytest.raises(RigbenchError, match="give --price"):
        ask(35.0, kind="electricity", price=Absent("no electricity price known; give --price P"))
    with pytest.raises(RigbenchError, match="give --set rent"):
        ask(35.0, kind="rent")


def test_exact_flop_are_divided_by_the_exact_count_in_every_split():
    budget = ask(1.2e18, exact_flops=True, split="equal FLOP")
    assert [row.flop_exact for row in budget.series] == pytest.approx([0.24e18] * 5)
    assert math.isclose(budget.series_flop_exact, 1.2e18)


def test_a_smaller_batch_option_counts_more_steps_and_says_that_the_rate_is_of_another():
    row = ask(1e17, models=(M60,), batch_tokens=16384).series[0]
    assert row.steps == pytest.approx(row.tokens / 16384)
    assert row.batch == "16,384 tokens (batch-tokens; the rate is of 1,024)"


# ---- which amount is meant, and what is declared beside it


NONE, DUE = Absent("not given"), Due("2026-12-24 18:00", 12.0)


def meant(price: Price | Absent = US, **options: object) -> tuple[str, float, object, object]:
    """The kind, the amount, and the hours and kWh that were declared."""
    its = read(Options(**options), RecipeOptions(), NOTHING_DECLARED, price)
    said = [it if isinstance(it, float) else None for it in (its.declared_hours, its.declared_kwh)]
    return its.kind, its.amount, *said


@pytest.mark.parametrize(
    ("options", "kind", "amount", "hours", "kwh"),
    [
        ({}, "flops", 1.2e18, None, None),
        ({"flops": 3e18}, "flops", 3e18, None, None),
        ({"flops": 3e18, "hours": 48.0}, "flops", 3e18, 48.0, None),
        ({"flops": 3e18, "kwh": 35.0}, "flops", 3e18, None, 35.0),
        ({"flops": 3e18, "hours": 48.0, "kwh": 35.0}, "flops", 3e18, 48.0, 35.0),
        ({"tokens": 1e9, "hours": 48.0}, "tokens", 1e9, 48.0, None),
        ({"tokens_per_param": 20.0}, "tokens per parameter", 20.0, None, None),
        ({"hours": 48.0}, "hours", 48.0, None, None),
        ({"kwh": 35.0}, "kWh", 35.0, None, None),
        ({"hours": 48.0, "kwh": 35.0}, "flops", 1.2e18, 48.0, 35.0),  # a claim of the usual budget
        ({"deadline": DUE}, "hours", 12.0, None, None),
        ({"deadline": DUE, "flops": 3e18}, "flops", 3e18, None, None),
        ({"deadline": DUE, "hours": 48.0, "kwh": 35.0}, "flops", 1.2e18, 48.0, 35.0),
        ({"money": "20"}, "electricity", 20.0, None, None),
        ({"money": "20 usd"}, "electricity", 20.0, None, None),
        ({"money": "20  USD "}, "electricity", 20.0, None, None),
        ({"money": "20 EUR", "rent": CardPrice(1.5, "EUR", "rent")}, "rent", 20.0, None, None),
        ({"money": "1.5e-6"}, "electricity", 1.5e-6, None, None),
        ({"money": "1e12"}, "electricity", 1e12, None, None),
    ],
)
def test_an_amount_is_what_is_given_and_the_rest_is_a_claim(options, kind, amount, hours, kwh):
    assert meant(**options) == (kind, amount, hours, kwh)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flops": 1e18, "tokens": 1e9}, "--flops and --tokens exclude each other"),
        ({"hours": 1.0, "money": "20"}, "--hours and --money exclude each other"),
        ({"kwh": 1.0, "money": "20"}, "--kwh and --money exclude each other"),
        ({"kwh": 1.0, "hours": 1.0, "money": "20"}, "--hours and --kwh and --money exclude each other"),
        ({"deadline": DUE, "hours": 48.0}, "--hours and --deadline exclude each other"),
        ({"money": "20 EUR"}, "--money '20 EUR' is not in USD, as the electricity is"),
        ({"money": "20 USD", "rent": CardPrice(1.5, "EUR", "rent")}, "is not in EUR, as the rent is"),
        ({"money": "20 USD", "price": Absent("none")}, "is not in a known currency"),
        ({"money": "5e-7"}, "--money '5e-7'"),
        ({"money": "1.5e12"}, "--money '1.5e12'"),
        ({"flops": 1e6}, "less than one step of 1,024"),
        ({"model": "gpt2", "params": "5M"}, "--model and --params exclude each other"),
        ({"params": "5M,5M"}, "names one model twice"),
        ({"params": ","}, "is 0 models"),
        ({"params": ",".join(f"{size}M" for size in range(5, 26))}, "is 21 models"),
    ],
)
def test_amounts_that_exclude_each_other_or_are_none_are_refused(options, said):
    with pytest.raises(RigbenchError) as refused:
        meant(**options)
    assert said in str(refused.value)


def test_up_to_twenty_models_may_be_asked_for_and_a_precision_of_auto_is_none_asked_for():
    assert len(_models(Options(params=",".join(f"{size}M" for size in range(5, 100, 5))))[0]) == 19
    assert len(_models(Options(params=",".join(f"{size}M" for size in range(5, 105, 5))))[0]) == 20
    asked = read(Options(), RecipeOptions(precision="auto"), NOTHING_DECLARED, US)
    assert isinstance(asked.recipe.precision, Absent)
    assert read(Options(), RecipeOptions(precision="fp32"), NOTHING_DECLARED, US).recipe.precision == "fp32"


def test_one_step_is_a_run_and_less_is_none():
    step = 1024 * 6 * 124_475_904
    assert ask(1.0001 * step, models=(M120,)).series[0].tokens == pytest.approx(1024, rel=0.001)
    with pytest.raises(RigbenchError, match="less than one step of 1,024"):
        ask(0.9999 * step, models=(M120,))
    assert ask(1024.0, kind="tokens", models=(M120,)).series[0].steps == 1.0
    with pytest.raises(RigbenchError, match="give more"):
        ask(1023.0, kind="tokens", models=(M120,))
    with pytest.raises(RigbenchError, match="give --flops 0 or more"):
        ask(5e-324, models=(M120,))  # so little that no token is left


def test_a_step_of_a_batch_that_a_rule_chose_is_that_models_own():
    chosen = request(1e17, (M60, M120), batches=(16_384, 32_768))
    assert [chosen.batch_of(model) for model in (M60, M120)] == [16_384, 32_768]
    assert request(1e17, (M60, M120), batch_tokens=8192).batch_of(M120) == 8192


def test_what_is_bought_has_no_end_below_nothing():
    little = ask(0.003, kind="hours", models=(M120,))  # 11 s: the last checkpoint takes 3 s, and at worst 15 s
    assert little.goal.flops.low == 0.0 < little.goal.flops.value < little.goal.flops.high
    assert (little.goal.flops.n, little.goal.flops.level) == (0, 0.9)
    asked = ask(1e17).goal.flops
    assert (asked.low, asked.value, asked.high) == pytest.approx((1e17, 1e17, 1e17))
    assert (asked.level, asked.n) == (1.0, 0)
    just = NOTHING_ON_TOP | {"warm_up": 3600.0, "disk_speed": 1e300}
    with pytest.raises(RigbenchError, match="1 hours do not even cover compilation"):
        ask(1.0, kind="hours", models=(M120,), **just)
