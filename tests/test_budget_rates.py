"""Do the rates behind a budget follow from the slices by the stated arithmetic, and is nothing mixed silently?"""

from __future__ import annotations

import math

import msgspec
import pytest
from budget_slices import CPU, DIY, GPU, M5, M15, M30, M60, M120, gpt2, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from rigbench.budget.rates import of_slices, rate
from rigbench.budget.record import Rate
from rigbench.budget.slices import choose
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.model.recipe import RecipeOptions
from rigbench.model.record import Model
from rigbench.train.record import Steps, StoredSlice


def rate_of(model: Model, *slices: StoredSlice) -> Rate:
    return rate(model, choose(DIY, slices))


def log_sides(its: Rate) -> tuple[float, float]:
    estimate = its.tokens_per_s
    return math.log(estimate.value / estimate.low), math.log(estimate.high / estimate.value)


def test_one_slice_is_widened_by_an_assumed_spread_between_processes():
    its = rate_of(M120, stored(M120, 400.0, within=0.02))
    assert its.source == "measured"
    assert its.rests_on == ("r1 120M",)
    assert its.tokens_per_s.value == pytest.approx(400.0)
    assert its.tokens_per_s.low == pytest.approx(400.0 * math.exp(-math.hypot(math.log(1 / 0.98), 0.05)))
    assert its.tokens_per_s.high == pytest.approx(400.0 * math.exp(math.hypot(math.log(1.02), 0.05)))
    assert its.widened_by == ("±5.0 % between processes is assumed (1 run stored)",)


def test_two_runs_far_apart_widen_it_to_hold_both():
    its = rate_of(M120, stored(M120, 300.0, "a"), stored(M120, 400.0, "b"))
    assert its.tokens_per_s.value == pytest.approx(math.sqrt(300.0 * 400.0))
    assert its.tokens_per_s.low < 300.0
    assert its.tokens_per_s.high > 400.0
    assert its.widened_by == ("±14 %: two runs were 29 % apart",)


def test_three_runs_give_their_own_spread_by_student_t():
    rates = (380.0, 400.0, 420.0)
    its = rate_of(M120, *(stored(M120, value, run) for value, run in zip(rates, "abc", strict=True)))
    logs = [math.log(value) for value in rates]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2)
    half = 2.919986 * deviation * math.sqrt(4 / 3)  # t(0.95) with 2 degrees of freedom, for one more run
    assert its.tokens_per_s.value == pytest.approx(math.exp(mean))
    assert log_sides(its) == pytest.approx((half, half), rel=1e-5)
    assert its.widened_by == ("±17 % between 3 runs (Student t, for one more run)",)


def test_three_equal_runs_are_no_tighter_than_the_noise_within_them():
    its = rate_of(M120, *(stored(M120, 400.0, run, within=0.03) for run in "abc"))
    assert log_sides(its)[0] == pytest.approx(math.log(1 / 0.97) / math.sqrt(3))


def test_slices_of_one_run_count_as_one_run():
    its = rate_of(M120, stored(M120, 380.0, "a"), stored(M120, 400.0, "a"), stored(M120, 420.0, "a"))
    assert its.widened_by == ("±5.0 % between processes is assumed (1 run stored)",)
    assert len(its.rests_on) == 3


def test_a_slice_of_one_step_has_no_interval_of_its_own_so_one_is_assumed():
    one_step = Estimate(value=400.0, low=400.0, high=400.0, level=0.0, method="one sample", n=1)
    its = rate_of(M120, stored(M120, 400.0, items_per_s=one_step))
    assert log_sides(its) == pytest.approx((math.hypot(0.05, 0.30),) * 2)
    assert its.widened_by[1] == "±30 % within a run too short for an interval is assumed"


def test_an_interval_that_reaches_zero_still_has_a_low():
    assert rate_of(M120, stored(M120, 400.0, within=1.2)).tokens_per_s.low > 0


def test_a_size_between_two_is_interpolated_on_effective_flops():
    its = rate_of(M30, stored(M15, 3000.0, within=0.0), stored(M120, 400.0, within=0.0))
    small, size, large = M15.flop_per_token, M30.flop_per_token, M120.flop_per_token
    weight = math.log(size / small) / math.log(large / small)
    effective = (3000.0 * small) ** (1 - weight) * (400.0 * large) ** weight
    assert its.source == "predicted"
    assert its.rests_on == ("r1 15M", "r1 120M")
    assert its.tokens_per_s.value == pytest.approx(effective / size)
    assert log_sides(its) == pytest.approx((math.hypot(0.05, 0.15),) * 2)
    assert its.widened_by[0] == "±15 % between sizes is assumed (2 measured)"


def test_three_sizes_say_themselves_how_well_they_interpolate():
    slices = [stored(M15, 3000.0, within=0.0), stored(M60, 1000.0, within=0.0), stored(M120, 400.0, within=0.0)]
    its = rate_of(M30, *slices)
    weight = math.log(M60.flop_per_token / M15.flop_per_token) / math.log(M120.flop_per_token / M15.flop_per_token)
    guess = (3000.0 * M15.flop_per_token) ** (1 - weight) * (400.0 * M120.flop_per_token) ** weight
    left_out = abs(math.log(guess / (1000.0 * M60.flop_per_token)))
    assert left_out > 0.05
    assert log_sides(its)[0] == pytest.approx(math.hypot(0.05, left_out))


def test_sizes_on_a_straight_line_still_keep_fifteen_per_cent_for_the_interpolation():
    slices = [stored(m, 1e11 / m.flop_per_token, within=0.0) for m in (M15, M60, M120)]
    assert log_sides(rate_of(M30, *slices))[0] == pytest.approx(math.hypot(0.05, 0.15))


def test_beyond_the_measured_sizes_the_nearest_efficiency_is_held_and_widened_with_the_trend():
    smaller = rate_of(M15, stored(M30, 1000.0, within=0.0))
    factors_of_4 = math.log(M30.flop_per_token / M15.flop_per_token) / math.log(4)
    assert smaller.tokens_per_s.value == pytest.approx(1000.0 * M30.flop_per_token / M15.flop_per_token)
    down, up = log_sides(smaller)
    assert down == pytest.approx(math.hypot(0.05, 0.15 + 0.50 * factors_of_4))
    assert up == pytest.approx(math.hypot(0.05, 0.15 + 0.25 * factors_of_4))
    larger = log_sides(rate_of(M60, stored(M30, 1000.0)))
    assert larger[1] > larger[0]
    assert smaller.widened_by[0].endswith("2.1 times smaller than 30M, the nearest measured size")


def test_a_gpu_s_small_models_are_given_more_room_than_a_cpu_s():
    on_gpu = rate_of(M15, stored(M30, 1000.0, device=GPU))
    assert log_sides(on_gpu)[0] > log_sides(rate_of(M15, stored(M30, 1000.0)))[0]


def test_more_than_sixteen_times_away_is_refused_with_the_cure():
    assert M120.flop_per_token / M5.flop_per_token > 16
    with pytest.raises(RigbenchError, match="run rigbench train-probe --params 5M") as refused:
        rate_of(M5, stored(M120, 400.0))
    assert refused.value.exit_code == NOTHING


@settings(deadline=None, max_examples=50)
@given(st.integers(min_value=1, max_value=60), st.integers(min_value=1, max_value=60))
def test_the_further_outside_the_wider(a: int, b: int):
    near, far = (gpt2(f"{n} layers", n, 768) for n in sorted((12 + a, 12 + b)))
    narrow, wide = (log_sides(rate_of(model, stored(M120, 400.0))) for model in (near, far))
    assert narrow[0] <= wide[0] * (1 + 1e-9)
    assert narrow[1] <= wide[1] * (1 + 1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(min_value=1.0, max_value=1e6), min_size=1, max_size=6), st.floats(0.0, 0.9))
def test_an_interval_holds_its_value(values: list[float], within: float):
    slices = [stored(M60, value, f"run{i}", within) for i, value in enumerate(values)]
    for model in (M60, M30, M120):
        estimate = rate_of(model, *slices).tokens_per_s
        assert 0 < estimate.low <= estimate.value <= estimate.high


def test_the_configuration_that_covers_most_sizes_is_taken_and_the_other_named():
    chosen = choose(
        DIY, [stored(M5, 9000.0), stored(M30, 1500.0), stored(M120, 900.0, "later", precision="fp32", started_at="9")]
    )
    assert chosen.configuration.recipe.precision == "bf16"
    assert chosen.left_out == ("1 short run of 120M: measured on cpu (Some CPU, 2 threads), adamw, fp32",)


def test_of_two_that_cover_as_many_sizes_the_latest_is_taken():
    slices = [
        stored(M5, 5000.0, started_at="2026-05-02", precision="fp32"),
        stored(M5, 9000.0, started_at="2026-05-01"),
    ]
    assert choose(DIY, slices).configuration.recipe.precision == "fp32"


def test_a_gpu_goes_before_the_cpu_unless_asked_otherwise():
    slices = [stored(M5, 9000.0), stored(M15, 3000.0), stored(M120, 90000.0, device=GPU)]
    assert choose(DIY, slices).configuration.device == GPU
    assert choose(DIY, slices[:2]).configuration.device == CPU


def test_what_was_asked_for_wins_over_coverage():
    slices = [stored(M5, 9000.0), stored(M30, 1500.0), stored(M5, 4000.0, checkpoint_every=1)]
    chosen = choose(DIY, slices, RecipeOptions(checkpoint_every=1))
    assert [s.slice.tokens_per_s.value for s in chosen.slices] == [4000.0]
    assert chosen.left_out == tuple(
        f"1 short run of {name}: not what was asked for, measured on cpu (Some CPU, 2 threads), adamw, bf16"
        for name in ("30M", "5M")
    )


def test_other_thread_counts_are_another_configuration():
    one_thread = CPU.__class__(**{f: getattr(CPU, f) for f in CPU.__struct_fields__} | {"threads": 1})
    chosen = choose(DIY, [stored(M5, 9000.0), stored(M15, 3000.0), stored(M5, 5000.0, device=one_thread)])
    assert len(chosen.slices) == 2
    assert ", 1 threads" not in chosen.left_out[0]
    assert ", 1 thread" in chosen.left_out[0]


def test_slices_cut_short_diverged_or_measured_another_way_are_left_out_and_said():
    short = Steps(*([(1.0,) * 3] * 6), loss=(9.0,) * 3)
    diverged = Steps(*([(1.0,) * 5] * 6), loss=(9.0, 9.0, 9.0, Absent("not finite (nan)"), 9.0))
    chosen = choose(
        DIY,
        [
            stored(M5, 9000.0, method=2),
            stored(M5, 8000.0, method=1),
            stored(M5, 1.0, method=2, ended_by="interrupted", steps=short),
            stored(M5, 2.0, method=2, steps=diverged),
            stored(gpt2("5M", 4, 96, sequence=256), 3.0, method=2),
        ],
    )
    assert [s.slice.tokens_per_s.value for s in chosen.slices] == [9000.0]
    assert chosen.left_out == (
        "1 short run of 5M: another style, vocabulary or sequence length",
        "1 short run of 5M: interrupted with too few steady steps (fewer than 3)",
        "1 short run of 5M: its loss was not finite",
        "1 short run of 5M: measured another way (METHOD 1, the newest is 2)",
    )


def test_a_loss_that_was_not_finite_in_the_warm_up_alone_is_no_reason():
    steps = Steps(*([(1.0,) * 5] * 6), loss=(Absent("not finite (nan)"), 9.0, 9.0, 9.0, 9.0))
    assert len(choose(DIY, [stored(M5, 9000.0, steps=steps)]).slices) == 1


def test_of_two_micro_batches_the_faster_is_taken():
    chosen = choose(DIY, [stored(M5, 9000.0), stored(M5, 12000.0, micro_batch=4)])
    assert [s.slice.recipe.micro_batch for s in chosen.slices] == [4]
    assert chosen.left_out == ("1 short run of 5M: micro-batch 1 was slower than micro-batch 4",)


def test_lines_about_what_was_left_out_are_bounded():
    slices = [stored(M5, 9000.0)] + [stored(M5, 9000.0, method=-n) for n in range(20)]
    chosen = choose(DIY, slices)
    assert len(chosen.left_out) == 8
    assert chosen.left_out[-1] == "and 13 more kinds of short runs"


def test_with_nothing_stored_the_cure_is_a_slice_within_reach_of_all():
    with pytest.raises(
        RigbenchError, match="no short training run of this rig is stored; run rigbench train-probe --params 30M"
    ):
        choose(DIY, [])


@pytest.mark.parametrize(
    "other",
    [
        {"ranks": 2, "strategy": "ddp"},
        {"loss_chunks": 8},
        {"checkpoint_every": 2},
        {"precision": "bf16-pure"},
        {"optimizer": "adamw8bit"},
    ],
)
def test_slices_that_were_trained_another_way_are_another_configuration(other):
    plain = [stored(M5, 9000.0), stored(M120, 400.0)]
    chosen = choose((M5, M30, M120), [*plain, stored(M30, 5000.0, "r2", **other)])
    assert [one.slice.model.name for one in chosen.slices] == ["5M", "120M"]
    assert len(chosen.left_out) == 1
    assert chosen.left_out[0].startswith("1 short run of 30M: measured on cpu")


def test_a_configuration_says_what_is_not_the_plain_loop():
    ways = {"ranks": 4, "strategy": "fsdp2", "loss_chunks": 8, "checkpoint_every": 2}
    slices = [stored(M5, 9000.0, device=GPU, compiled=True, **ways)]
    assert choose((M5,), slices).configuration.words == (
        "cuda (4 × Some GPU), adamw, bf16, checkpointing every 2nd, compiled, loss in 8 chunks, fsdp2 on 4"
    )


def test_one_process_that_splits_its_batches_is_of_all_its_cards():
    both, four = (
        stored(M5, rate, run, device=GPU, strategy="data-parallel", split_over=cards)
        for rate, run, cards in ((9000.0, "r1", 2), (15000.0, "r22", 4))
    )
    chosen = choose((M5,), [both, four])
    assert chosen.configuration.words == "cuda (4 × Some GPU), adamw, bf16, data-parallel on 4"
    assert chosen.slices == (four,)


def test_ways_said_in_full_are_the_same_plain_way():
    chosen = choose((M5, M120), [stored(M5, 9000.0), stored(M120, 400.0, "r2", loss_chunks=1, ranks=1)])
    assert len(chosen.slices) == 2


def test_a_method_that_is_not_the_tools_is_refused_even_where_it_is_all_there_is():
    with pytest.raises(RigbenchError, match=r"measured another way \(METHOD 1, the newest is 2\)"):
        choose((M5,), [stored(M5, 9000.0)], method=2)


def known(model: Model, *slices: StoredSlice, **changes: object) -> Rate:
    """Of slices that are taken as they are."""
    its = choose((M5, M15, M30, M60, M120), [stored(M15, 4000.0)])
    return rate(model, its._replace(slices=tuple(msgspec.structs.replace(it, **changes) for it in slices)))


def known_near(model: Model, *slices: StoredSlice) -> Rate:
    return rate(model, choose((M60,), slices)._replace(slices=slices))


def like(model: Model, flop_per_token: float) -> Model:
    """Another shape with so many FLOP per token."""
    other = gpt2("another", model.shape.layers + 1, model.shape.width)
    return msgspec.structs.replace(other, flop_per_token=flop_per_token)


def test_two_slices_of_a_run_and_two_runs_are_means_and_errors_of_means():
    widths = [math.log(1 / (1 - within)) for within in (0.02, 0.08)]
    one_run = rate_of(M120, *(stored(M120, 400.0, "a", within) for within in (0.02, 0.08)))
    assert log_sides(one_run)[0] == pytest.approx(math.hypot(math.hypot(*widths) / 2, 0.05))
    two_runs = rate_of(M120, stored(M120, 400.0, "a", 0.02), stored(M120, 400.0, "b", 0.08))
    assert log_sides(two_runs)[0] == pytest.approx(math.hypot(math.hypot(*widths) / 2, 0.05))
    assert two_runs.widened_by == ("±5.0 % between processes is assumed (2 runs stored)",)
    assert two_runs.known_from == "trained here 1 min"
    equal = rate_of(M120, *(stored(M120, 400.0, run, within=0.03) for run in "abc"))
    assert log_sides(equal)[1] == pytest.approx(math.log(1.03) / math.sqrt(3))
    one = of_slices([stored(M120, 400.0, within=0.02)])
    assert (one.value, one.n) == (pytest.approx(400.0), 1)


@pytest.mark.parametrize(
    ("apart", "said"), [(0.0998, "is assumed (2 runs stored)"), (0.1002, "two runs were 10 % apart")]
)
def test_two_runs_more_than_the_assumed_spread_apart_say_their_own(apart, said):
    its = rate_of(M120, stored(M120, 400.0, "a"), stored(M120, 400.0 * math.exp(apart), "b"))
    assert said in its.widened_by[0]


@pytest.mark.parametrize(("seconds", "words"), [(59.4, "59 s"), (59.5, "1 min"), (61.0, "1 min 1 s")])
def test_what_was_trained_is_said_in_seconds_up_to_a_minute(seconds, words):
    whole_slice = stored(M120, 400.0, seconds=seconds)
    assert rate_of(M120, whole_slice).known_from == f"trained here {words}"


def test_a_rate_of_three_steady_steps_has_a_middle_and_of_two_none():
    assert known(M120, stored(M120, 400.0), steady_steps=3).has_middle
    assert not known(M120, stored(M120, 400.0), steady_steps=2).has_middle


def test_an_interval_that_reaches_zero_is_ten_times_below():
    its = rate_of(M120, stored(M120, 400.0, within=1.2))
    assert log_sides(its) == pytest.approx((math.hypot(math.log(10), 0.05), math.hypot(math.log(2.2), 0.05)))


@pytest.mark.parametrize("model", [M30, M60])
def test_either_gap_of_three_sizes_is_interpolated_from_its_own_neighbours(model):
    slices = [stored(M15, 4000.0), stored(like(M30, math.sqrt(M30.flop_per_token * M60.flop_per_token)), 1500.0)]
    its = rate_of(model, *slices, stored(M120, 400.0))
    ends = {M30: ("15M", "another"), M60: ("another", "120M")}[model]
    assert its.known_from == "between {} and {}".format(*ends)
    assert its.rests_on == tuple(f"r1 {name}" for name in ends)
    assert its.tokens_per_s.n == 2


def test_the_worst_of_the_sizes_left_out_is_what_interpolation_is_off_by():
    rates = {M5: 10_000.0, M15: 4000.0, M60: 1500.0, M120: 400.0}
    its = rate_of(M30, *(stored(model, value, within=0.0) for model, value in rates.items()))
    off = []
    for below, left_out, above in ((M5, M15, M60), (M15, M60, M120)):
        x, y = zip(
            *((math.log(m.flop_per_token), math.log(rates[m] * m.flop_per_token)) for m in (below, above)), strict=True
        )
        slope = (y[1] - y[0]) / (x[1] - x[0])
        guess = y[0] + slope * (math.log(left_out.flop_per_token) - x[0])
        off.append(abs(guess - math.log(rates[left_out] * left_out.flop_per_token)))
    assert max(off) > 2 * min(off) > 0
    assert log_sides(its) == pytest.approx((math.hypot(0.05, max(off)),) * 2)


def test_between_two_sizes_their_widths_are_mixed_as_their_values_are():
    its = rate_of(M30, stored(M15, 3000.0, within=0.02), stored(M120, 400.0, within=0.3))
    weight = math.log(M30.flop_per_token / M15.flop_per_token) / math.log(M120.flop_per_token / M15.flop_per_token)
    sides = [tuple(math.hypot(0.05, abs(math.log(1 + way * within))) for within in (0.02, 0.3)) for way in (-1, 1)]
    mixed = [(1 - weight) * small + weight * large for small, large in sides]
    assert log_sides(its) == pytest.approx(tuple(math.hypot(0.15, side) for side in mixed))


def test_a_size_of_as_many_flop_per_token_is_as_fast_with_what_sizes_differ_by_on_top():
    its = rate_of(M30, stored(like(M30, M30.flop_per_token), 2000.0, within=0.0))
    assert (its.source, its.tokens_per_s.value) == ("predicted", pytest.approx(2000.0))
    assert log_sides(its) == pytest.approx((math.hypot(0.05, 0.15),) * 2)
    assert its.known_from == "carried over from another"
    own = rate_of(M30, stored(M30, 1900.0), stored(like(M30, M30.flop_per_token), 2000.0))
    assert (own.source, own.tokens_per_s.value) == ("measured", pytest.approx(1900.0))


@pytest.mark.parametrize(("device", "along"), [(CPU, 0.5), (GPU, 1.0)])
def test_beyond_the_sizes_it_is_widened_by_so_much_a_factor_of_four(device, along):
    measured = stored(M60, 1000.0, within=0.0, device=device)
    for factor, sides in (
        (16 / 1.001, (0.15 + 0.25 * 2, 0.15 + along * 2)),
        (1.001 / 16, (0.15 + along * 2, 0.15 + 0.25 * 2)),
    ):
        its = known_near(like(M60, M60.flop_per_token * factor), measured)
        assert its.tokens_per_s.value == pytest.approx(1000.0 / factor)
        assert log_sides(its) == pytest.approx(tuple(math.hypot(0.05, side) for side in sides), rel=0.002)
        with pytest.raises(RigbenchError, match="too far to carry its efficiency"):
            known_near(like(M60, M60.flop_per_token * factor**1.001), measured)


def known_on(device: object, model: Model, *slices: StoredSlice) -> Rate:
    return rate(model, choose((M60,), slices)._replace(slices=slices))


def test_the_nearest_size_is_carried_over_from_either_end():
    three = [stored(M15, 4000.0), stored(M30, 2000.0), stored(M60, 900.0)]
    assert rate_of(M120, *three).known_from == "carried over from 60M"
    assert rate_of(M5, *three).known_from == "carried over from 15M"
