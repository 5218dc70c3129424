"""Is everything beside the steps counted, each part as declared, measured or assumed, and its cost with it?"""

from __future__ import annotations

import msgspec
import pytest
from budget_slices import GPU, M5, M15, M120, NOTHING_ON_TOP, energy, plan, request, stored

from rigbench.budget import money
from rigbench.budget.forecast import hot_extra
from rigbench.budget.plan import Forecast, Machine, _judged_kwh, _per_joule, assemble, checkpoint_bytes, judgement
from rigbench.budget.record import BreakEven, Budget, CardPrice, Configuration, Due, Rate, RigPrice
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.model.counts import adapted
from rigbench.model.recipe import Recipe
from rigbench.train.record import Compile
from rigbench.work.record import Power, WattOptions

US = Price(per_kwh=0.2, currency="USD", place="somewhere", date="2026-04", source="a test")
CONFIGURATION = Configuration(GPU, Recipe(precision="bf16", compiled=True, strategy="ddp", ranks=2), "default")
PEAK = Figure(195e12, "datasheet", "2 × Some GPU, bf16")
MACHINE = Machine(
    configuration=CONFIGURATION,
    cards=2,
    card="RTX 4080",
    power=Absent("not read"),
    name="2xrtx-4080",
    peak_flops_per_s=PEAK,
    hot_extra=Estimate(0.0, 0.0, 0.0, 1.0, "", 0),
    hot_basis="hot already",
)


def estimate(value: float, down: float = 0.9, up: float = 1.25) -> Estimate:
    return Estimate(value, value * down, value * up, 0.9, "by hand", 3)


def forecast(model=M120, rate: float = 100_000.0, **more: object) -> Forecast:
    its = Rate(tokens_per_s=estimate(rate), source="predicted", rests_on=("a test",), widened_by=())
    return Forecast(model, its, 10_000, "10 × 1,000 tokens", **more)  # type: ignore[arg-type]


def ask(tokens: float = 3.6e9, **more: object) -> Budget:
    return assemble(request(tokens, (M120,), "120M", kind="tokens", **more), MACHINE, [forecast()], "now")


def hours(budget: Budget) -> dict[str, float]:
    return {one.name: one.hours.value for one in budget.overheads}


def test_every_overhead_is_worked_out_as_on_paper():
    budget = ask(
        compile_time=90.0,
        warm_up=18.0,
        eval_every=1000.0,
        eval_tokens=1e6,
        write_every=500.0,
        disk_speed=1e9,
        restarts_per_day=0.5,
        keep_checkpoints=3,
    )
    # 3.6e9 tokens at 1e5 tokens/s are 10 h and 360,000 steps: 360 evaluations, 720 checkpoints and the last
    size = 12 * 124_475_904
    found = hours(budget)
    assert budget.series_hours.value == pytest.approx(10.0)
    assert found["compile"] == pytest.approx(90 / 3600)
    assert found["warm-up"] == pytest.approx(18 / 3600)
    assert found["evaluation"] == pytest.approx(360 * 1e6 / 3 / 1e5 / 3600)
    assert found["checkpoints"] == pytest.approx(721 * size / 1e9 / 3600)
    # half a restart a day for 10 h; each starts again and repeats half of 500 steps of a tenth of a second
    assert found["restarts"] == pytest.approx(10 / 48 * (108 + 25) / 3600)
    assert found["hot steady state"] == 0
    assert budget.whole.hours.value == pytest.approx(10 + sum(found.values()))
    assert budget.written.largest_bytes == size
    assert (budget.written.kept_bytes, budget.written.count) == (3 * size, 3)
    assert "compile-time" in budget.overheads[1].hours.basis
    assert "assumed" not in " ".join(one.hours.basis for one in budget.overheads)


def test_what_is_not_declared_is_assumed_and_says_so_with_its_option():
    budget = ask()
    options = {
        "compile": "assumed (compile-time)",
        "warm-up": "assumed (warm-up)",
        "evaluation": "(assumed, eval-every, eval-tokens)",
        "checkpoints": "(assumed, checkpoint-every, disk-speed)",
        "restarts": "(assumed, restarts-per-day)",
    }
    for one in budget.overheads[1:]:
        assert options[one.name] in one.hours.basis
        assert one.hours.low <= one.hours.value <= one.hours.high
    assert hours(budget)["checkpoints"] == pytest.approx((1 + 10) * 12 * 124_475_904 / 500e6 / 3600)


def test_none_of_it_can_be_asked_for():
    assert ask(**NOTHING_ON_TOP).whole.hours.value == pytest.approx(10.0, rel=1e-9)
    assert hours(ask(**NOTHING_ON_TOP))["checkpoints"] < 1e-9


def test_eight_bit_moments_make_a_smaller_checkpoint():
    assert checkpoint_bytes(M120, Recipe()) == 12 * 124_475_904
    assert checkpoint_bytes(M120, Recipe(optimizer="adamw8bit")) == pytest.approx(6.03125 * 124_475_904, abs=1)


def test_measured_compile_and_start_up_go_before_assumptions():
    compiled = Compile(cold_seconds=40.0, warm_seconds=10.0)
    result = stored(M120, 400.0, compiled=True, compile=compiled, setup_seconds=7.0)
    budget = plan(request(1e15, (M120,), "120M"), [result])
    rows = {one.name: one.hours for one in budget.overheads}
    assert rows["compile"].value == pytest.approx(40 / 3600)
    assert rows["compile"].basis == "40.0 s a model, measured beside the short runs"
    assert rows["warm-up"].value == pytest.approx(7 / 3600)
    assert "measured with the short runs" in rows["warm-up"].basis


def test_hot_over_cold_lengthens_the_run_by_its_inverse():
    extra = hot_extra(Estimate(0.8, 0.75, 0.9, 0.9, "batch means", 9))
    assert (extra.value, extra.low, extra.high) == pytest.approx((0.25, 1 / 0.9 - 1, 1 / 3))
    declared = ask(hot_over_cold=0.8)
    assert hours(declared)["hot steady state"] == pytest.approx(2.5)
    assert declared.overheads[0].hours.basis == "hot over cold 0.8 (hot-over-cold)"
    faster = hot_extra(Estimate(1.02, 1.0, 1.05, 0.9, "", 9))
    assert (faster.value, faster.low, faster.high) == (0.0, 0.0, 0.0)  # no saving to plan with


def test_slices_of_minutes_are_not_known_to_be_hot():
    budget = plan(request(1e15, (M5,), "5M"), [stored(M5, 9000.0)])
    heat = budget.overheads[0].hours
    assert (heat.value, heat.low) == (0.0, 0.0)
    assert heat.high == pytest.approx(0.05 * budget.series_hours.high)
    assert "not measured" in heat.basis


RENT = CardPrice(1.5, "USD", "--rent")
AT_500_W = WattOptions(wall_watts=500.0)
RIG = RigPrice(Figure(2400.0, "declared", "--purchase"), "USD")


def test_rent_share_of_the_price_and_break_even_are_as_on_paper():
    lifetime = 10_000.0 * 3600
    budget = ask(**NOTHING_ON_TOP, watts=AT_500_W, price=US, rent=RENT, purchase=RIG, lifetime=lifetime)
    assert budget.rent.money.value == pytest.approx(10 * 2 * 1.5)
    assert "2 × 1.50 USD an hour" in budget.rent.money.basis
    assert budget.purchase.money.value == pytest.approx(2400 / 10_000 * 10)
    no_watts = budget.break_even
    assert isinstance(no_watts, Absent)


def test_what_breaks_even_counts_the_electricity_of_the_own_rig():
    ten = Estimate(10.0, 8.0, 11.0, 0.9, "", 1)
    rented = money.rent(ten, RENT, 2)
    bought = money.purchase(ten, RIG, Absent("not said"))
    even = money.break_even(ten, rented, bought, Power(Figure(500.0, "declared", "a test"), "wall"), US)
    assert even.hours.value == pytest.approx(2400 / (3.0 - 0.1))
    assert even.runs == pytest.approx(even.hours.value / 10)


@pytest.mark.parametrize(
    ("currency", "watts", "said"), [("EUR", 500.0, "in one currency"), ("USD", 49_500.0, "renting costs less an hour")]
)
def test_what_cannot_break_even_says_why(currency, watts, said):
    ten = Estimate(10.0, 10.0, 10.0, 0.9, "", 1)
    rented, bought = money.rent(ten, RENT, 1), money.purchase(ten, RIG, Absent("not said"))
    power, price = Power(Figure(watts, "declared", "a test"), "wall"), msgspec.structs.replace(US, currency=currency)
    even = money.break_even(ten, rented, bought, power, price)
    assert said in even.reason


def test_no_price_is_invented():
    budget = ask()
    assert budget.rent == money.NO_RENT
    assert budget.purchase == money.NO_PURCHASE
    assert budget.break_even == money.NO_RENT


def judged(flop: float, declared: float | Absent, took: Estimate) -> str:
    sentence = judgement(MACHINE, flop, 1.145 * flop, took, declared)
    return "" if isinstance(sentence, Absent) else sentence


def test_the_classic_report_is_told_what_it_comes_to():
    took = Estimate(4.2, 3.4, 7.3, 0.9, "", 1)
    # 1.2e18 / (48 · 3600) = 6.94e12, over 2 · 97.5e12
    assert judged(1.2e18, 48.0, took) == (
        "You said 48 h. This rig needs 1/11 of that: 48 h would be 6.94 TFLOP/s, 3.6 % of the 195 TFLOP/s peak of 2 "
        "RTX 4080, so the cards are not what takes the time. Next: `rigbench backtest --on 2xrtx-4080 --model SIZE LOG`"
    )


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (37.8, "This rig needs a ninth of that: 37.8 h would be"),
        (9.0, "This rig needs half of that: 9 h would be"),
        (8.0, "about what this rig needs"),
        (5.0, "about what this rig needs"),
        (3.0, "This rig needs 1.4 times that; `rigbench budget --hours 3` says what it buys"),
        (2.05, "more than such cards reach in training"),  # 6·N·D alone would be 83 % of the peak, all of it 95 %
        (1.0, "more than such cards reach in training"),
        (Absent("none"), ""),
    ],
)
def test_other_declared_hours_are_judged_in_plain_words(declared, said):
    sentence = judged(1.2e18, declared, Estimate(4.2, 3.4, 7.3, 0.9, "", 1))
    assert said in sentence
    assert bool(said) == bool(sentence)


def test_the_share_of_the_peak_and_flop_per_joule_are_of_exact_flop():
    budget = ask(**NOTHING_ON_TOP)
    assert budget.sanity.share.value == pytest.approx(budget.series_flop_exact / 36000 / 195e12)
    slices = [stored(M15, 4000.0, device=GPU, energy=energy(300.0))]
    own = plan(request(1e16, (M15,), "15M", price=US, watts=WattOptions(wall_watts=450.0)), slices)
    joules = own.whole.hours.value * 3600 * 450
    assert own.sanity.flop_per_joule.value == pytest.approx(own.series_flop_exact / joules)
    assert isinstance(own.sanity.share, Absent)


# ---- money, by hand


TEN = Estimate(10.0, 8.0, 11.0, 0.9, "", 1)
BOUGHT = money.purchase(TEN, RIG, Absent("not said"))


def even(rent: float, least: float = 400.0, middle: float = 500.0, most: float = 1000.0) -> Absent | BreakEven:
    """A rig of 2,400 USD that draws so many watts at 0.2 USD a kWh, against so much rent an hour."""
    power = Power(Figure(middle, "declared", "a test", least, most), "wall")
    return money.break_even(TEN, money.rent(TEN, CardPrice(rent, "USD", "--rent"), 1), BOUGHT, power, US)


def test_one_card_has_no_times_and_hours_have_their_ends():
    its = money.rent(TEN, RENT, 1)
    assert (its.per_hour, its.money.value, its.money.ends) == (1.5, 15.0, (12.0, 16.5))
    assert its.money.basis == "1.50 USD an hour: --rent"
    three_years = 3 * 365.25 * 24
    assert BOUGHT.money.value == pytest.approx(2400 * 10 / three_years)
    assert BOUGHT.money.ends == pytest.approx((2400 * 8 / three_years, 2400 * 11 / three_years))
    assert "3 years around the clock, assumed" in BOUGHT.money.basis


def test_what_breaks_even_reaches_from_the_least_watts_to_the_most():
    its = even(1.5)
    assert its.hours.value == pytest.approx(2400 / (1.5 - 0.1))
    assert its.hours.ends == pytest.approx((2400 / (1.5 - 0.08), 2400 / (1.5 - 0.2)))
    cheap = even(0.15)  # at 1,000 W the electricity is dearer than the rent, and nothing is saved
    assert cheap.hours.ends == pytest.approx((2400 / (0.15 - 0.08), 2400 / (0.15 - 0.1)))
    assert even(1.5, most=7500.0).hours.ends == pytest.approx((2400 / (1.5 - 0.08), 2400 / (1.5 - 0.1)))
    as_dear = Absent("renting costs less an hour than the electricity alone")
    assert even(1.5, 7500.0, 7500.0, 7500.0) == as_dear


def test_what_is_not_known_of_rent_purchase_or_electricity_is_the_reason():
    rented, power = money.rent(TEN, RENT, 1), Power(Figure(500.0, "declared", "a test"), "wall")
    known = {"rented": rented, "bought": BOUGHT, "power": power, "price": US}
    for name in known:
        its = known | {name: Absent(f"{name} is not known")}
        assert money.break_even(TEN, *its.values()) == Absent(f"{name} is not known")


# ---- overheads that are measured, assumed or said in part


def two(**more: object) -> Budget:
    """5M and 120M, each at 100,000 tokens/s for 10 h."""
    asked = request(3.6e9, (M5, M120), "two", kind="tokens", **more)
    return assemble(asked, MACHINE, [forecast(M5), forecast()], "now")


def test_what_is_assumed_of_two_models_is_worked_out_as_on_paper():
    budget = two()
    rows = {one.name: one.hours for one in budget.overheads}
    assert budget.series_hours.value == pytest.approx(20.0)
    assert (rows["compile"].low, rows["compile"].high) == pytest.approx((2 * 20 / 3600, 2 * 180 / 3600))
    assert rows["compile"].value == pytest.approx(2 * 60 / 3600)
    assert (rows["warm-up"].low, rows["warm-up"].high) == pytest.approx((2 * 10 / 3600, 2 * 120 / 3600))
    # 72 evaluations of a Mi of tokens each, at a third of what training takes
    assert rows["evaluation"].value == pytest.approx(2 * 72 * 2**20 / 3 / 1e5 / 3600)
    size = 11 * 12 * (5_375_040 + 124_475_904)  # every hour of ten, and at the end
    assert (rows["checkpoints"].low, rows["checkpoints"].high) == pytest.approx((size / 2e9 / 3600, size / 1e8 / 3600))
    # A tenth of a restart a day, none to one: half an hour of training, and 90 s (30 to 300) until it trains
    slow, fast = 10 / 0.9, 10 / 1.25
    assert rows["restarts"].value == pytest.approx(2 * 0.1 / 24 * 10 * (90 / 3600 + 0.5))
    assert (rows["restarts"].low, rows["restarts"].high) == pytest.approx((0, 2 / 24 * slow * (300 / 3600 + 0.5)))
    whole = budget.whole.hours
    assert whole.low == pytest.approx(2 * fast + sum(one.low for one in rows.values()))
    assert whole.high == pytest.approx(2 * slow + sum(one.high for one in rows.values()))
    assert (budget.written.kept_bytes, budget.written.count) == (2 * 12 * (5_375_040 + 124_475_904), 4)
    assert budget.written.largest_bytes == 12 * 124_475_904
    assert "the last 2 of each model (assumed, keep-checkpoints)" in budget.written.basis


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("evaluation", {"eval_every": 10.0}, "1.0M tokens every 10 steps, each at 1/3 of its training time (assumed, "),
        ("evaluation", {"eval_tokens": 3e6}, "3M tokens every 50M tokens, each at 1/3 of its training time (assumed, "),
        ("evaluation", {"eval_tokens": 3e6, "eval_every": 10.0}, "3M tokens every 10 steps, each at 1/3 of its"),
        ("evaluation", {"eval_every": 0.0}, "none (eval-every 0)"),
        ("checkpoints", {"write_every": 10.0}, "every 10 steps and at the end, at 500 MB/s (assumed, "),
        ("checkpoints", {"disk_speed": 1e9}, "every hour and at the end, at 1.00 GB/s (assumed, "),
        ("checkpoints", {"write_every": 10.0, "disk_speed": 1e9}, "every 10 steps and at the end, at 1.00 GB/s (c"),
        ("checkpoints", {"write_every": 0.0, "disk_speed": 1e9}, "at the end only, at 1.00 GB/s (checkpoint-every, d"),
        ("restarts", {"restarts_per_day": 2.0}, "2 a day (restarts-per-day), each loses half"),
        ("restarts", {"write_every": 0.0}, "0.1 a day (assumed, restarts-per-day; without checkpoints a run begins"),
        ("compile", {"compile_time": 90.0}, "1 min 30 s a model (compile-time)"),
        ("warm-up", {"warm_up": 20.0}, "20.0 s a start (warm-up)"),
    ],
)  # fmt: skip
def test_each_overhead_says_what_of_it_is_assumed(name, options, said):
    [words] = [one.hours.basis for one in ask(**options).overheads if one.name == name]
    assert words.startswith(said)
    assert ("assumed" in words) == ("assumed" in said)


def test_a_run_without_checkpoints_writes_one_and_a_restart_repeats_no_more_than_its_start():
    found = hours(ask(write_every=0.0, disk_speed=1e9, restarts_per_day=2.4, compile_time=60.0, warm_up=30.0))
    assert found["checkpoints"] == pytest.approx(12 * 124_475_904 / 1e9 / 3600)
    assert found["restarts"] == pytest.approx(10 / 10 * 90 / 3600)
    assert hours(ask(eval_every=0.0))["evaluation"] == 0


def test_the_least_known_rate_says_how_sure_what_hours_buy_is():
    unsure = forecast(M5)
    level = msgspec.structs.replace(unsure.rate.tokens_per_s, level=0.5)
    unsure = unsure._replace(rate=msgspec.structs.replace(unsure.rate, tokens_per_s=level))
    budget = assemble(request(10.0, (M5, M120), "two", kind="hours"), MACHINE, [unsure, forecast()], "now")
    assert budget.goal.flops.level == 0.5
    assert [row.micro_batch for row in budget.series] == [0, 0]  # not known


def test_starts_are_measured_from_the_least_to_the_most_and_declared_where_nothing_is_compiled():
    measured = [forecast(M5, compile_seconds=20.0, startup_seconds=5.0), forecast(compile_seconds=40.0)]
    budget = assemble(request(3.6e9, (M5, M120), "two", kind="tokens"), MACHINE, measured, "now")
    rows = {one.name: one.hours for one in budget.overheads}
    its = [end * 3600 for end in (rows["compile"].low, rows["compile"].value, rows["compile"].high)]
    assert its == pytest.approx([2 * 20, 2 * 30, 2 * 40])
    assert (rows["warm-up"].value * 3600, rows["warm-up"].high * 3600) == pytest.approx((2 * 5, 2 * 5))
    eager = MACHINE._replace(configuration=msgspec.structs.replace(CONFIGURATION, recipe=Recipe(precision="bf16")))
    for declared, seconds in (({}, 0.0), ({"compile_time": 90.0}, 90.0)):
        budget = assemble(request(3.6e9, (M120,), "120M", kind="tokens", **declared), eager, [forecast()], "now")
        assert hours(budget)["compile"] == pytest.approx(seconds / 3600)


def test_weights_that_are_frozen_make_an_evaluation_half_of_training_and_that_is_said():
    model = adapted(M120, Recipe(adapter="lora", adapter_rank=8))
    asked = request(3.6e9, (model,), "120M", kind="tokens", eval_every=1000.0, eval_tokens=1e6)
    its = assemble(asked, MACHINE, [forecast(model)], "now").overheads[3].hours
    assert its.value == pytest.approx(360 * 1e6 / 2 / 1e5 / 3600)
    assert "each at 1/2 of its training time" in its.basis


@pytest.mark.parametrize(("due", "surely", "likely"), [(6.9, "5M", "5M"), (7.6, "5M", "120M"), (7.7, "120M", "120M")])
def test_by_a_deadline_each_model_alone_sees_twenty_tokens_a_parameter(due, surely, likely):
    """20 · 124,475,904 tokens at 100,000 a second are 6.92 h, 7.68 at the slow end."""
    its = two(**NOTHING_ON_TOP, deadline=Due("2026-12-24 18:00", due)).deadline
    assert (its.largest_surely, its.largest_likely) == (surely, likely)
    assert its.flops.value == pytest.approx(two(**NOTHING_ON_TOP).flops * due / 20)
    assert isinstance(ask(deadline=Due("2026-12-24 18:00", 0.001)).deadline.flops, Absent)


# ---- what is declared, judged at the bounds


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (2.16, "more than such cards reach in training"),  # 1.145 · 1.2e18 FLOP at 90.6 % of the peak
        (2.19, "This rig needs 1.9 times that"),  # and at 89.4 %
        (3.39, "This rig needs 1.2 times that"),
        (3.41, "about what this rig needs"),
        (8.4, "about what this rig needs"),  # twice as long
        (8.41, "This rig needs half of that"),
        (42.0, "This rig needs a tenth of that"),
        (46.2, "This rig needs 1/11 of that"),
    ],
)
def test_declared_hours_are_judged_at_both_sides_of_every_bound(declared, said):
    assert said in judged(1.2e18, declared, Estimate(4.2, 3.4, 7.3, 0.9, "", 1))


def test_one_card_is_the_card_and_without_a_datasheet_there_is_no_peak():
    took = Estimate(4.2, 3.4, 7.3, 0.9, "", 1)
    one = judgement(MACHINE._replace(cards=1), 1.2e18, 1.3e18, took, 48.0)
    assert "of the 195 TFLOP/s peak of the RTX 4080, so" in one
    bare = judgement(MACHINE._replace(peak_flops_per_s=Absent("none"), name=Absent("here")), 1.2e18, 1.3e18, took, 48.0)
    assert bare.endswith(
        "48 h would be 6.94 TFLOP/s, so the cards are not what takes the time. Next: `rigbench doctor`"
    )


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (3.9, "You said 3.9 kWh. It takes more, 4.0 to 6.0 kWh"),
        (4.0, "You said 4 kWh. That is about what it takes, 4.0 to 6.0 kWh"),
        (6.0, "You said 6 kWh. That is about what it takes, 4.0 to 6.0 kWh"),
        (6.1, "You said 6.1 kWh. It takes less, 4.0 to 6.0 kWh"),
    ],
)
def test_declared_kwh_are_judged_by_the_interval(declared, said):
    power = Power(Figure(500.0, "declared", "a test"), "wall")
    energy = Figure(5.0, "predicted", "a test", 4.0, 6.0)
    assert _judged_kwh(energy, power, declared) == said
    only = _judged_kwh(energy, msgspec.structs.replace(power, covers="GPUs only"), declared)
    assert only == f"{said} (GPUs only)"
    for its in ((Absent("no watts"), power), (Absent("no watts"), Absent("no watts"))):
        assert _judged_kwh(*its, declared) == f"You said {declared:g} kWh. What this rig draws is n/a (no watts)"
    assert _judged_kwh(energy, power, Absent("not said")) == Absent("not said")


def test_flop_per_joule_is_most_where_the_kwh_are_fewest():
    its = _per_joule(3.6e15, Figure(5.0, "predicted", "a test", 4.0, 8.0))
    assert (its.low, its.value, its.high) == pytest.approx((1.25e8, 2e8, 2.5e8))


@pytest.mark.parametrize(
    ("per_parameter", "said"),
    [(4.99, "too little data"), (5.0, ""), (20.0, ""), (500.0, ""), (501.0, "more data than a model of that size")],
)
def test_tokens_per_parameter_are_odd_below_five_and_above_five_hundred(per_parameter, said):
    asked = request(per_parameter, (M120,), "120M", kind="tokens per parameter")
    warnings = assemble(asked, MACHINE, [forecast(rate=1e9)], "now").warnings
    assert len(warnings) == bool(said)
    assert said in "".join(warnings)


@pytest.mark.parametrize(("hours_of_it", "said"), [(8760.0, ()), (8770.0, ("that is 1.0 years of this rig",))])
def test_more_than_a_year_is_said_in_years(hours_of_it, said):
    budget = ask(hours_of_it * 3600 * 1e5, **NOTHING_ON_TOP)
    assert budget.warnings[1:] == said
