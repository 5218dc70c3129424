"""Where do a step's predicted seconds go, what do they rest on, and how well do published runs agree?"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import published
import published_fit
import published_score
import pytest
import set_aside
from recipes import recipe

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.model.shape import model_named
from rigbench.predict import ceilings, posterior, steptime
from rigbench.predict.record import Ceilings, LinkCeiling, ProductRate, StepTime
from rigbench.predict.terms import terms, together


def rig(text: str) -> Ceilings:
    found = ceilings.from_rig(profiles.rig_named(text))
    assert isinstance(found, Ceilings)
    return found


def predict(card: str | Ceilings = "rtx-4080", params: str = "120M", **choices: Any) -> StepTime:
    its = recipe(**{"micro_batch": 16, "compiled": True, **choices})
    return steptime.predict(model_named(params), its, rig(card) if isinstance(card, str) else card)


def of_5m(ceilings: Ceilings) -> StepTime:
    return predict(ceilings, "5M", micro_batch=1, precision="fp32", compiled=False)


@pytest.fixture(scope="module")
def data() -> list[published.Published]:
    return published.rows()[0]


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"checkpoint_every": 1, "accumulation": 4},
        {"params": "5M", "micro_batch": 1},
        {"strategy": "ddp", "ranks": 2, "card": "2xrtx-4080"},
        {"strategy": "fsdp2", "ranks": 8, "card": "eight-h200", "precision": "fp32"},
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_every_second_is_in_a_named_part(choices: dict[str, Any], compiled: bool) -> None:
    found = predict(compiled=compiled, **choices)
    assert sum(part.seconds for part in found.parts) == pytest.approx(found.seconds.value, rel=1e-12)
    assert found.tokens_per_s.value == pytest.approx(found.tokens_per_step / found.seconds.value, rel=1e-12)
    assert found.seconds.low < found.seconds.value < found.seconds.high
    assert found.tokens_per_s.low == pytest.approx(found.tokens_per_step / found.seconds.high, rel=1e-12)
    assert found.source == "predicted"


def test_two_stock_4090s_at_110_000_tokens_a_second_each_lie_inside_of_the_interval() -> None:
    """GPT-2 124M, compiled, bf16, as measured by its owner; the row is not in the fitted file."""
    found = predict("rtx-4090").tokens_per_s
    assert found.low < 110_000 < found.high
    assert abs(found.value / 110_000 - 1) < 0.12


def test_a_small_step_is_what_its_host_needs_to_hand_it_over() -> None:
    found = predict("h200", compiled=False, params="5M", micro_batch=1)
    assert found.part("launches") > 0.5 * found.seconds.value
    assert any("host cannot keep up" in note for note in found.notes)
    large = predict("h200", compiled=False, micro_batch=64)
    assert large.part("launches") < 0.01 * large.seconds.value
    assert large.seconds.high / large.seconds.low < found.seconds.high / found.seconds.low


def test_each_choice_moves_the_seconds_where_it_should() -> None:
    plain, checkpointed = predict(), predict(checkpoint_every=1)
    assert plain.part("recomputation") == 0.0
    assert 0.15 < checkpointed.part("recomputation") / plain.seconds.value < 0.35
    four, once = predict(accumulation=4), predict(accumulation=1)
    assert four.part("optimizer") == pytest.approx(once.part("optimizer"), rel=0.01)  # under a power limit
    assert four.part("matmul") == pytest.approx(4 * once.part("matmul"), rel=0.01)
    assert predict(optimizer="adamw8bit").part("optimizer") < once.part("optimizer")
    assert predict(compiled=False).part("memory traffic") > once.part("memory traffic")
    assert predict(precision="fp32").part("matmul") > 1.5 * once.part("matmul")


def test_ddp_costs_its_all_reduce_once_a_step_and_fsdp_in_every_micro_batch() -> None:
    pair = {"card": "2xrtx-4080", "ranks": 2}
    once, four = (predict(strategy="ddp", accumulation=n, **pair).part("communication exposed") for n in (1, 4))
    assert once == pytest.approx(four, rel=0.01)
    assert once > 0
    once, four = (predict(strategy="fsdp2", accumulation=n, **pair).part("communication exposed") for n in (1, 4))
    assert four == pytest.approx(4 * once, rel=0.01)
    alone = predict()
    both = predict(strategy="ddp", **pair)
    assert alone.tokens_per_s.value < both.tokens_per_s.value < 2 * alone.tokens_per_s.value


def test_a_bridge_that_may_not_be_there_is_no_link() -> None:
    staged = rig("2xrtx-3090").link
    switched = rig("eight-h200").link
    assert isinstance(staged, LinkCeiling)
    assert isinstance(switched, LinkCeiling)
    assert "PCIe" in staged.bytes_per_s.basis
    assert "NVLink" in switched.bytes_per_s.basis
    assert isinstance(rig("rtx-3090").link, Absent)


def test_more_ranks_than_cards_are_refused() -> None:
    with pytest.raises(RigbenchError, match="2 ranks on 1 of rtx-4080"):
        predict(ranks=2, strategy="ddp")


def test_a_precision_that_the_card_has_no_peak_for_is_refused_and_others_named() -> None:
    with pytest.raises(RigbenchError, match="has no bf16 ceiling"):
        predict("rtx-2080-ti")
    assert predict("rtx-2080-ti", precision="fp16").seconds.value > 0


def measured_cpu(**changes: Any) -> Ceilings:
    """A processor as its probes found it."""
    base = Ceilings(
        kind="cpu",
        name="a processor",
        count=1,
        source="measured",
        matmul_flops_per_s={"fp32": Figure(200e9, "measured", "test")},
        memory_bytes_per_s=Figure(20e9, "measured", "test"),
        launch_seconds=Figure(10e-6, "declared", "test"),
        tdp_watts=Absent("no profile"),
        feed_hertz=Absent("no profile"),
        link=Absent("one process"),
        data_tokens_per_s=Absent("not measured"),
    )
    return msgspec.structs.replace(base, **changes)


def test_on_a_processor_the_ceilings_alone_bound_the_rate() -> None:
    found = of_5m(measured_cpu())
    at_the_ceiling = 200e9 / found.model.flop_per_token
    assert 0.2 * at_the_ceiling < found.tokens_per_s.value < at_the_ceiling
    assert found.part("launches") > 0


def test_a_product_that_was_measured_slower_than_the_ceiling_takes_as_long_as_it_did() -> None:
    plain, shape = of_5m(measured_cpu()), model_named("5M").shape
    head = ProductRate(1024, shape.vocabulary, shape.width, "fp32", 50e9)
    slower = of_5m(measured_cpu(products=(head,)))
    flop = 2 * head.m * head.n * head.k
    more = slower.part("logits and loss") - plain.part("logits and loss")
    assert more == pytest.approx(steptime.CPU.peak * flop * (1 / 50e9 - 1 / 200e9), rel=1e-9)


def test_a_loader_that_is_slower_than_the_step_makes_it_wait() -> None:
    slow = measured_cpu(data_tokens_per_s=Figure(100.0, "measured", "test"))
    found = of_5m(slow)
    assert found.tokens_per_s.value == pytest.approx(100.0)
    assert found.part("data") > 0


def test_a_prediction_survives_being_stored() -> None:
    found = predict(card="2xrtx-4080", strategy="ddp", ranks=2)
    assert msgspec.json.decode(msgspec.json.encode(found), type=StepTime) == found


def test_a_prediction_needs_no_torch() -> None:
    code = """
import sys
from rigbench.model.shape import model_named
from rigbench.predict import calibrate, ceilings, steptime
from rigbench.core import profiles
from rigbench.model.recipe import Recipe
recipe = Recipe(precision="bf16", micro_batch=8, compiled=True)
steptime.predict(model_named("120M"), recipe, ceilings.from_rig(profiles.rig_named("rtx-4090")))
print({name for name in ("torch", "numpy") if name in sys.modules})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_shipped_posterior_is_what_the_published_rows_give(data: list[published.Published]) -> None:
    fitted, shipped = published_fit.fit(data).its, posterior.fitted()
    assert shipped.constants == pytest.approx(fitted.constants, abs=2e-3)
    assert shipped.levels == pytest.approx(fitted.levels, abs=2e-3)
    assert shipped.cards == pytest.approx(fitted.cards, abs=2e-3)
    assert (shipped.rows, shipped.sources, shipped.spreads) == (fitted.rows, fitted.sources, fitted.spreads)


@pytest.mark.parametrize("card", ["rtx-a5000", "a100-sxm4-80gb", "l40s"])
def test_a_card_that_was_left_out_is_predicted_inside_of_the_interval(
    card: str, data: list[published.Published]
) -> None:
    its = published_fit.fit([row for row in data if row.case.card != card])
    own = published_score.asked(its, [row for row in data if row.case.card == card])
    nothing = [it for it in own if it.known == "nothing"]
    assert np.mean([abs(it.error) <= it.half_width for it in nothing]) >= 0.8


def test_every_row_that_is_not_used_has_a_reason() -> None:
    found, why = published.rows()
    lines = sum(len(published.read(table)) for table in published.TABLES) + len(published.sweep())
    assert len(found) + sum(why.values()) == lines
    assert sorted(why) == ["no decoder", "no profile of the card", "no speed or no shape", "tensor parallel"]


def test_the_sources_set_aside_are_those_that_were_drawn() -> None:
    found, _ = published.rows()
    rows = Counter(row.source for row in found)
    assert {name for name in rows if set_aside.drawn(name) and rows[name] <= set_aside.MOST_ROWS} == {
        *set_aside.SOURCES
    }


def test_an_interval_says_how_it_was_made() -> None:
    found, its = predict().seconds, posterior.fitted()
    assert found.level == 0.9
    assert found.method.startswith(f"posterior of {its.rows} published runs of {its.sources} sources, compiled code: ")
    assert isinstance(found, Estimate)
    assert json.loads(msgspec.json.encode(found))["n"] == its.sources


def test_a_run_that_is_known_moves_the_middle_to_it_and_narrows_the_interval() -> None:
    """Most where it is of the same card and recipe, and little from another card."""
    card, model, its = rig("rtx-4090"), model_named("120M"), recipe(micro_batch=16, compiled=True)
    plain = steptime.predict(model, its, card)
    own = posterior.case(model, its, card, terms(model, its, card))
    half = posterior.Known("half as fast", own, math.log(2 * plain.seconds.value))
    told = steptime.predict(model, its, card, posterior.Told(known=(half,)))
    assert told.seconds.value > 1.8 * plain.seconds.value
    assert half_width(told) < 0.4 * half_width(plain)
    assert isinstance(plain.half_width_with_a_run, float)
    assert half_width(told) <= plain.half_width_with_a_run < 0.5 * half_width(plain)
    elsewhere = steptime.predict(model, its, rig("rtx-3090"), posterior.Told(known=(half,)))
    assert half_width(elsewhere) > 0.75 * half_width(plain)
    assert told.known == ("half as fast",)


def test_attention_by_hand_is_slower_and_its_interval_is_its_own() -> None:
    plain, naive = predict(), predict(attention="naive")
    assert naive.seconds.value > 1.5 * plain.seconds.value
    assert naive.code == "by hand"


def test_a_program_written_in_cuda_is_faster_and_another_name_changes_little() -> None:
    card, model, its = rig("rtx-4090"), model_named("120M"), recipe(micro_batch=16, compiled=True)
    plain, named, cuda = (
        steptime.predict(model, its, card, posterior.Told(program=name)) for name in ("", "nanogpt", "llm.c")
    )
    assert abs(named.seconds.value / plain.seconds.value - 1) < 0.05
    assert half_width(named) > 0.9 * half_width(plain)
    assert cuda.seconds.value < plain.seconds.value
    assert cuda.code == "hand-written CUDA"


def half_width(found: StepTime) -> float:
    return math.log(found.seconds.high / found.seconds.value)


def test_what_runs_side_by_side_takes_as_long_as_the_longest_and_nothing_takes_no_time():
    assert together(0.0, 0.0) == 0.0
    assert together(0.3, 0.0) == pytest.approx(0.3)
    assert together(0.3, 0.1) == pytest.approx((0.3**4 + 0.1**4) ** 0.25)
