"""Is the first screen of short training runs its answer, with one advice and nothing claimed inside noise?"""

from __future__ import annotations

import msgspec
from budget_slices import M120
from test_arms import BASE, changed, estimate, slice_of, table
from test_first_screens import STORED, holds, printed

from rigbench import store
from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.document import Run
from rigbench.model.recipe import Recipe
from rigbench.predict import ceilings, steptime
from rigbench.train import verdict
from rigbench.train.record import ArmRow, Arms
from rigbench.train.screen import brief_run

MEASURED = """\
ok    train-probe: 5M: 1,000 tokens/s (990 to 1,010), 4 GiB of 16 GiB [adamw, bf16, eager]
 variant                           tokens/s            vs baseline  peak memory
 adamw, bf16, eager    1,000 (990 to 1,010)               baseline        4 GiB
 checkpointing             800 (792 to 808)  0.80 × (0.77 to 0.83)        2 GiB
 adamw8bit           1,010 (1,000 to 1,020)          no difference      3.9 GiB
  advice  keep the baseline (adamw, bf16): no variant is faster by more than noise
  on      cpu (Some CPU, 2 threads)
  step    1.02 s: data 1.0 %, forward 30 %; micro-batch 1 × 1,024 tokens (default)
  energy  n/a (no sensor)
  note  What activation checkpointing takes and gives here (checkpointing): 2 GiB instead of 4 GiB
        (measured); costs: 20 % of the speed for 2 GiB
  note  not run: tf32 (a CPU has no tf32)
  how sure  90 % interval over 4 steady steps of 5; one process, one moment; the baseline run again
            differed by 3.0 %, allowed for
  more      rigbench report 20261121-074413-f877 --verbose: each part of a step, memory, energy.
            next: rigbench budget
"""
PREDICTED = """\
note  train-probe: 120M on 2xrtx-4080, predicted: 49,000 to 140,000 tokens/s, 11.2 GiB [adamw, bf16,
ddp on 2, eager]
 variant                                          tokens/s    vs baseline  peak memory
 adamw, bf16, ddp on 2, eager            49,000 to 140,000       baseline     11.2 GiB
 adamw8bit                               50,000 to 150,000  no difference     10.6 GiB
 compiled                      110,000 (80,000 to 170,000)          1.4 ×     11.2 GiB
 loss in 8 chunks                        42,000 to 120,000         0.85 ×      6.3 GiB
  advice   take compiled: 1.4 times the baseline's speed; compiling makes a short run longer
  assumed  micro-batch 8, eager; data is taken to keep up
  how sure  90 % intervals, from published runs; two predictions less than 10 % apart are no
            difference (assumed)
  more      rigbench report 20261121-074413-f877 --verbose: each part of a step, memory, energy.
            next: rigbench budget --on 2xrtx-4080
"""
SLICES = """\
ok    train-probe: 120M: 191 tokens/s (183 to 200), 3.5 GiB of 23.5 GiB [adamw, fp32, eager]
 model                tokens/s    step  peak memory  MFU  trained with
 5M     2,490 (2,320 to 2,690)  408 ms     1.68 GiB  n/a  adamw, fp32, eager
 30M          650 (630 to 680)  1.53 s     2.25 GiB  n/a  adamw, fp32, eager
 120M         191 (183 to 200)  5.29 s      3.5 GiB  n/a  adamw, fp32, eager
  on      cpu (Intel(R) Xeon(R) Processor @ 2.50GHz, 2 threads)
  step    5.29 s: data <0.01 %, forward 35 %, backward 62 %, optimizer 3.5 %; micro-batch 1 × 1,024
          tokens (default on cpu)
  memory  what runs out first: process, in host memory
  energy  n/a (CPU: no package energy counter)
  how sure  90 % interval over 8 steady steps of 10; ended by: time limit; one process, one moment
  more      rigbench report 20261121-074413-f877 --verbose: each part of a step, memory, energy.
            next: rigbench budget --params 120M
"""


def run_of(arms: Arms, slices: object = ()) -> Run:
    findings = verdict.diagnose(arms, slices)
    run = store.read(STORED)
    return msgspec.structs.replace(run, command="train-probe", arms=arms, slices=tuple(slices), findings=findings)


def test_variants_that_were_measured():
    rows = {
        "adamw, bf16": (BASE, slice_of(1000, 4.0)),
        "checkpointing": (changed(checkpoint_every=1), slice_of(800, 2.0)),
        "adamw8bit": (changed(optimizer="adamw8bit"), slice_of(1010, 3.9)),
        "tf32": (changed(precision="tf32"), "a CPU has no tf32"),
    }
    holds(brief_run, run_of(*table(rows, control=1.03)), MEASURED)


def predicted(recipe: Recipe, label: str, gib: float) -> ArmRow:
    limits = ceilings.from_rig(profiles.rig_named("2xrtx-4080"))
    time = steptime.predict(M120, recipe, limits)
    size = Figure(gib * 2**30, "predicted", "a test")
    return ArmRow(
        label=label, recipe=recipe, outcome="predicted", slice=Absent("predicted"), peak_bytes=size, time=time
    )


def on_two_4080s() -> Arms:
    base = Recipe(precision="bf16", micro_batch=8, strategy="ddp", ranks=2)
    rows = (
        predicted(base, base.words, 11.2),
        predicted(msgspec.structs.replace(base, optimizer="adamw8bit"), "adamw8bit", 10.6),
        predicted(msgspec.structs.replace(base, compiled=True), "compiled", 11.2),
        predicted(msgspec.structs.replace(base, loss_chunks=8), "loss in 8 chunks", 6.3),
    )
    arms = Arms(method=1, started_at="2026-05-01T00:00:00Z", seconds=1.0, model=M120, on="2xrtx-4080", rows=rows)
    return verdict.compared(arms, ())


def test_variants_that_are_predicted_say_eager_and_whether_a_budget_takes_the_same():
    holds(brief_run, run_of(on_two_4080s()), PREDICTED)
    usual = printed(brief_run, run_of(msgspec.structs.replace(on_two_4080s(), usual=True)))
    assert "micro-batch 8, eager, as `rigbench budget` and `capacity --on 2xrtx-4080` take it" in usual


def test_a_precision_that_the_card_has_not_stands_in_the_first_line():
    arms = on_two_4080s()
    rows = tuple(msgspec.structs.replace(row, time=Absent("2xrtx-4080 has no fp8")) for row in arms.rows)
    text = printed(brief_run, run_of(msgspec.structs.replace(arms, rows=rows)))
    assert text.startswith(
        "warn  train-probe: 120M on 2xrtx-4080, predicted: no speed (2xrtx-4080 has no fp8), 11.2 GiB"
    )


def test_slices_of_a_whole_run():
    run = msgspec.structs.replace(store.read(STORED), arms=Absent("not asked for"))
    holds(brief_run, run, SLICES)


def test_inside_noise_there_is_no_fastest_and_the_baseline_is_kept():
    """The control 24 % apart, as two processes on a busy machine were: 10 % says nothing."""
    rows = {
        "adamw, bf16": (BASE, slice_of(1000, 4.0)),
        "adamw8bit": (changed(optimizer="adamw8bit"), slice_of(1100, 3.9)),
        "compiled": (changed(compiled=True), slice_of(1095, 4.0)),
    }
    found, slices = table(rows, control=1.24)
    assert found.fastest == Absent("noise leaves no difference between adamw8bit; adamw, bf16; compiled")
    assert not any(row.differs for row in found.rows)
    assert found.advice == "keep the baseline (adamw, bf16): no variant is faster by more than noise"
    assert "fastest" not in printed(brief_run, run_of(found, slices))
    quiet, _ = table(rows, control=1.001)
    assert [row.differs for row in quiet.rows] == [False, True, True]
    assert quiet.fastest == Absent("noise leaves no difference between adamw8bit; compiled")


def test_the_advice_is_a_variant_that_is_faster_or_smaller_by_more_than_noise():
    rows = {
        "adamw, bf16": (BASE, slice_of(1000, 4.0)),
        "compiled": (changed(compiled=True), slice_of(1500, 4.0)),
        "loss in 8 chunks": (changed(loss_chunks=8), slice_of(1001, 3.0)),
    }
    advice = table(rows)[0].advice
    assert advice.startswith(
        "take compiled: 1.50 times (1.48 to 1.52) the baseline's speed; compiling makes a short run longer"
    )
    del rows["compiled"]
    assert table(rows)[0].advice.endswith("; loss in 8 chunks takes 1 GiB less at no visible loss")


def test_of_one_sample_nothing_is_ahead():
    one = msgspec.structs.replace(estimate(2000.0, 0.0), level=0.0, n=1)
    assert not verdict.is_ahead(one, estimate(1000.0), table({"base": (BASE, slice_of(1000))})[0])
