"""Does the plan's arithmetic hold from FLOP to hours, kWh and money, and does it say what it does not know?"""

from __future__ import annotations

import msgspec
import pytest
from budget_slices import DIY, GPU, M5, M15, M30, M60, M120, energy, plan, request, stored, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench.budget.plan import Request, _exactly
from rigbench.budget.plan import request as read
from rigbench.budget.record import Budget, Options
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price, SensorSeries, Telemetry
from rigbench.model.recipe import RecipeOptions
from rigbench.train.record import Slice, StoredSlice
from rigbench.work import power as cost
from rigbench.work.record import NO_RATING, NOTHING_DECLARED, Power, WattOptions

RATES = {M5: 9000.0, M15: 4000.0, M30: 2000.0, M60: 900.0, M120: 400.0}
MEASURED = [stored(model, value) for model, value in RATES.items()]
US = Price(per_kwh=0.1872, currency="USD", place="US residential average", date="2026-04", source="EIA")
# 12·L·d² + 13·L·d + 2·d + 50304·d + 1024·d, worked out on paper
TRUE_COUNTS = {M5: 5_375_040, M15: 14_523_040, M30: 30_357_504, M60: 61_476_480, M120: 124_475_904}


def ask(flops: float = 1.2e18, **more: object) -> Budget:
    return plan(request(flops, **more), MEASURED)


def test_the_diy_series_shares_the_flop_so_that_every_model_sees_the_same_tokens():
    budget = ask()
    tokens = 1.2e18 / (6 * 236_207_968)
    assert {model: model.total_parameters for model in DIY} == TRUE_COUNTS
    assert [row.tokens for row in budget.series] == pytest.approx([tokens] * 5)
    assert budget.series_flop_6n == pytest.approx(1.2e18)
    assert [row.hours.value for row in budget.series] == pytest.approx([tokens / r / 3600 for r in RATES.values()])
    assert budget.series_hours.value == pytest.approx(sum(tokens / r / 3600 for r in RATES.values()))
    assert budget.series_hours.high == pytest.approx(sum(row.hours.high for row in budget.series))


def test_both_flop_counts_are_given_and_differ_by_fifteen_per_cent_at_120m():
    row = ask().series[-1]
    assert row.flop_6n == pytest.approx(row.tokens * 6 * 124_475_904)
    # 6 · (12·12·768² + 50304·768) + 12·12·768·1024
    assert row.flop_exact == pytest.approx(row.tokens * (6 * 123_568_128 + 113_246_208))
    assert row.flop_exact / row.flop_6n == pytest.approx(1.145, abs=0.005)


def test_exact_flop_divide_the_budget_by_the_exact_count():
    budget = ask(exact_flops=True)
    assert budget.assumptions[0] == "FLOP are counted as exact FLOP (attention in full)"
    assert budget.series_flop_exact == pytest.approx(1.2e18)
    assert budget.series[0].tokens < ask().series[0].tokens


def test_each_model_alone_spends_all_of_it():
    row = ask().alone[-1]
    assert row.tokens == pytest.approx(1.2e18 / 6 / 124_475_904)
    assert row.tokens_per_parameter == pytest.approx(12.9, abs=0.05)


def test_hours_run_from_the_fastest_rate_to_the_slowest():
    row = ask().series[0]
    assert row.hours.low == pytest.approx(row.tokens / row.rate.tokens_per_s.high / 3600)
    assert row.hours.high == pytest.approx(row.tokens / row.rate.tokens_per_s.low / 3600)


def test_the_sanity_line_is_exact_flop_over_the_whole_time():
    budget = ask()
    assert budget.series_model_flops_per_s.value == pytest.approx(
        budget.series_flop_exact / (budget.series_hours.value * 3600)
    )


@settings(deadline=None, max_examples=50)
@given(st.floats(min_value=1e15, max_value=1e24), st.floats(min_value=1.0, max_value=1e4))
def test_more_flop_take_more_hours_and_intervals_hold_their_values(flops: float, times: float):
    less, more = ask(flops), ask(flops * times)
    assert more.series_hours.value >= less.series_hours.value
    for hours in (less.series_hours, *(row.hours for row in (*less.series, *less.alone))):
        assert hours.low <= hours.value <= hours.high


def test_a_plan_survives_its_file():
    budget = ask(watts=WattOptions(wall_watts=100.0), price=US)
    assert msgspec.json.decode(msgspec.json.encode(budget), type=Budget) == budget


def test_less_than_one_step_is_refused_with_what_would_do():
    with pytest.raises(RigbenchError, match=r"0\.7 tokens .* less than one step of 1,024; give --flops 1\.5e\+12"):
        ask(1e9)
    assert ask(1.5e12).series[0].tokens >= 1024


def test_odd_plans_are_said_in_a_sentence():
    warnings = ask(1.2e18).warnings
    assert any("5M alone would see 6,920 tokens per parameter, 15M 948: more data" in text for text in warnings)
    assert any("years of this rig" in text for text in ask(1e21).warnings)
    assert any("120M alone would see 3.23 tokens per parameter: too little" in text for text in ask(3e17).warnings)


def test_a_predicted_model_is_said_with_the_slice_that_would_narrow_it():
    budget = plan(request(1.2e18), [stored(m, RATES[m]) for m in (M5, M15, M60, M120)])
    assert [row.rate.source for row in budget.series] == ["measured", "measured", "predicted", "measured", "measured"]
    assert budget.next_slice.command == "rigbench train-probe --params 30M --precision bf16 --variants one"
    assert [row.rate.known_from for row in budget.series][1:4] == [
        "trained here 30 s",
        "between 15M and 60M",
        "trained here 30 s",
    ]


HOST_60 = WattOptions(host_watts=60.0)
HOURS = Estimate(value=10.0, low=9.0, high=12.0, level=0.90, method="", n=1)


def slices_at(*watts: float, covers: str = "GPUs only"):
    return [whole(M120, 400.0, device=GPU, energy=energy(w, covers)) for w in watts]


def test_declared_wall_watts_are_the_bill():
    power = cost.power([], WattOptions(wall_watts=729.0))
    kwh = cost.kwh(HOURS, power)
    assert isinstance(kwh, Figure)
    assert (kwh.low, kwh.value, kwh.high) == pytest.approx((9 * 0.729, 7.29, 12 * 0.729))
    money = cost.money(kwh, power, US)
    assert isinstance(money, Figure)
    assert (money.low, money.value) == pytest.approx((9 * 0.729 * 0.1872, 7.29 * 0.1872))
    assert money.basis == "0.1872 USD/kWh, US residential average, 2026-04"


def test_gpu_watts_alone_are_kwh_but_not_the_bill():
    power = cost.power(slices_at(280.0, 320.0))
    assert power == Power(
        watts=Figure(value=300.0, source="measured", basis="GPUs read beside 2 short runs", low=280.0, high=320.0),
        covers="GPUs only",
    )
    kwh = cost.kwh(HOURS, power)
    assert isinstance(kwh, Figure)
    assert (kwh.low, kwh.value, kwh.high) == pytest.approx((9 * 0.28, 3.0, 12 * 0.32))
    assert kwh.basis == "hours × 300 W measured, GPUs only, not the bill"
    assert cost.money(kwh, power, US) == Absent(
        "the watts cover GPUs only, not the wall; give --set host-watts=W or --wall-watts W"
    )


def test_watts_are_those_of_the_hours():
    """Of 5M at 200 W and 120M at 300 W, with 30M in between, nearer to 120M: nearly all hours are of the larger."""
    models, slices = (M5, M30, M120), [stored(M5, 4000.0, device=GPU), stored(M120, 400.0, device=GPU)]
    watts = {"5M": 200.0, "120M": 300.0}

    def read(its: StoredSlice) -> Slice:
        return whole(its.slice.model, 1.0, device=GPU, energy=energy(watts[its.slice.model.name]))

    its = plan(request(1e18, models), slices, whole=read)
    hours = [row.hours.value for row in its.series]
    assert isinstance(its.power, Power)
    assert its.power.watts.value == pytest.approx((hours[0] * 200.0 + sum(hours[1:]) * 300.0) / sum(hours))
    assert (its.power.watts.low, its.power.watts.high) == (200.0, 300.0)
    assert its.power.watts.basis == "GPUs read beside 2 short runs, by the hours that each stands for"


def test_host_watts_and_the_power_supply_take_readings_to_the_wall():
    power = cost.power(slices_at(300.0), HOST_60)
    assert isinstance(power, Power)
    assert power.covers == "wall"
    assert power.watts.value == pytest.approx(400.0)
    assert power.watts.basis == "(GPUs + host) / 0.90, the parts below"
    assert {part.name: round(part.watts.value, 6) for part in power.split} == {
        "GPUs": 300.0,
        "host": 60.0,
        "power supply": 40.0,
    }
    assert [part.watts.source for part in power.split] == ["measured", "declared", "predicted"]
    assert power.psu == NO_RATING


def watched(*watts: float):
    """A slice of two GPUs whose draw at each tick is known."""
    nothing = Absent("not asked")
    columns = dict.fromkeys(SensorSeries.__struct_fields__, nothing)
    columns |= {"uuid": nothing, "power_watts": watts, "throttle_share": {}}
    series = tuple(SensorSeries(**columns | {"device": name}) for name in ("GPU0", "GPU1"))
    at = tuple(float(tick) for tick in range(len(watts)))
    telemetry = Telemetry(period_seconds=1.0, at_seconds=at, series=series)
    return whole(M120, 400.0, device=GPU, energy=energy(300.0), telemetry=telemetry)


@pytest.mark.parametrize(
    ("rating", "said"), [(1000.0, ""), (700.0, "94 % of the power supply's 700 W"), (600.0, "more than")]
)
def test_a_power_supply_without_a_tenth_of_headroom_at_the_sampled_peak_is_warned_of(rating, said):
    declared = WattOptions(host_watts=60.0, psu_watts=rating, psu_efficiency=0.92)
    power = cost.power([watched(250.0, 300.0, 280.0)], declared)
    assert power.psu.peak_watts.value == 2 * 300 + 60  # both cards at the same tick, and the host
    assert power.watts.value == pytest.approx((300 + 60) / 0.92)
    assert len(power.warnings) == bool(said)
    assert said in "".join(power.warnings)


def test_without_watts_or_without_a_price_nothing_is_invented():
    assert cost.power(slices_at()) == cost.NO_WATTS
    assert cost.power([], HOST_60) == cost.HOST_ALONE
    assert cost.kwh(HOURS, cost.NO_WATTS) == cost.NO_WATTS
    budget = ask(watts=WattOptions(wall_watts=100.0))
    assert isinstance(budget.series_kwh, Figure)
    assert budget.series_money == cost.NO_PRICE


def asked(every: int = 0, **options: object) -> Request:
    recipe = RecipeOptions(checkpoint_every=every)
    return read(Options(**options), recipe, NOTHING_DECLARED, cost.NO_PRICE)


def test_what_is_asked_for_is_by_default_the_diy_series_on_its_usual_budget():
    made = asked()
    assert (made.amount, made.kind, made.name, len(made.models)) == (1.2e18, "flops", "diy", 5)
    assert asked(params="llama").name == "llama"
    assert msgspec.structs.astuple(_exactly(2.0)) == (2.0, 2.0, 2.0, 1.0, "declared", 0)  # no sample is behind it
    assert [model.name for model in asked(params="5M, 15M").models] == ["5M", "15M"]


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ({"params": "120M"}, "one model"),
        ({"params": "5M,120M", "tokens": 1e9}, "models whose tokens are given"),
        ({"params": "5M,120M", "tokens_per_param": 20.0}, "models whose tokens are given"),
    ],
)
def test_a_split_shares_out_a_budget_of_several_models(options, about):
    with pytest.raises(RigbenchError, match=f"this is about {about}"):
        asked(**options, split="equal FLOP")
    assert asked(params="5M,120M", split="equal FLOP").split == "equal FLOP"


def test_blocks_are_kept_of_every_model_or_the_shallowest_is_named():
    with pytest.raises(RigbenchError, match="not a whole number from 1 to 4"):
        asked(5, params="5M,15M")
