"""Do FLOP, tokens, hours, kWh and money all lead to the same plan, whichever of them is asked for?"""

from __future__ import annotations

import math

import pytest
from budget_slices import DIY, M60, M120, NOTHING_ON_TOP, plan, request, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench.budget.record import Budget, CardPrice
from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.core.record import Absent, Price
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
