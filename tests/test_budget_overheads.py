"""Is everything beside the steps counted, each part as declared, measured or assumed, and its cost with it?"""

from __future__ import annotations

import msgspec
import pytest
from budget_slices import GPU, M5, M15, M120, NOTHING_ON_TOP, energy, plan, request, stored

from rigbench.budget import money
from rigbench.budget.forecast import hot_extra
from rigbench.budget.plan import Forecast, Machine, assemble, checkpoint_bytes, judgement
from rigbench.budget.record import Budget, CardPrice, Configuration, Rate, RigPrice
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
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
