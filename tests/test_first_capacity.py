"""Is the first screen of capacity its one answer, with what fills the memory and what "slow" means beside it?"""

from __future__ import annotations

import io

import msgspec
from budget_slices import M120
from rich.console import Console
from test_first_screens import holds, printed

from rigbench.core import profiles, units
from rigbench.core.record import Absent, Figure
from rigbench.model.recipe import Recipe
from rigbench.predict import cards
from rigbench.predict.record import NOT_ASKED, Breakdown, Capacity, CapacityRow, InferenceRow, Largest, VramPrediction
from rigbench.predict.screen import brief, chart

GIB, MIB = 1 << 30, 1 << 20
TARGET = cards.of_profile(profiles.gpu("rtx-4080"), "2xrtx-4080", 2)
TRAINING = """\
ok    capacity: 120M fits each card of 2xrtx-4080 with 13 sequences of 1,024 tokens [adamw, bf16,
ddp on 2, eager]
 optimizer  checkpointing  loss         micro-batch of 120M  its longest sequence  largest of diy
 adamw      off            plain                         13                13,568          617.4M
 adamw      off            in 8 chunks                   29                13,568          617.4M
 adamw      on             in 8 chunks              96 slow           13,568 slow     617.4M slow
 adamw8bit  off            plain                         13                13,568            1.0B
  on       2 cards, each 16 GiB, 15.7 GiB usable (published totals of 16 GB cards), less 453 MiB for
           CUDA context and NCCL
  memory   14.7 GiB (14.6 to 15.2) at micro-batch 13: logits 7.48 GiB; activations 4.18 GiB;
           optimizer states 950 MiB; weights, and their 16-bit copies 711 MiB; gradient buckets,
           gathered shards 475 MiB; rounding and cached blocks 475 MiB; CUDA context and NCCL 453
           MiB. One more lacks 530 MiB
  per row  longest sequence and largest model: at micro-batch 1
  note  slow: it fits only while torch gives cached memory back again and again
  how sure  predicted: a replica of torch's allocator; eager, so an upper bound for compiled runs
  more      rigbench report RUN --verbose.  next: rigbench budget --on 2xrtx-4080
"""
GENERATING = """\
ok    capacity: 120M generates on each card of 2xrtx-4080 with 78 sequences of 4,096 tokens at once,
weights in bf16
 weights in  weights    cache  prompt    total  sequences at once  longest context  largest of diy
 bf16        237 MiB  144 MiB  86 MiB  801 MiB                 78          215,296          124.5M
  on      2 cards, each 16 GiB, 15.7 GiB usable (published totals of 16 GB cards), less 453 MiB for
          CUDA context and NCCL
  note  beyond the 1,024 positions that this model learns
  how sure  predicted: weights, cache, one block reading the whole prompt
  more      rigbench report RUN --verbose.  next: rigbench capacity --on 2xrtx-4080 (training)
"""
FITS_NOT = """\
warn  capacity: 120M does not fit each card of 2xrtx-4080 with any of these choices
 optimizer  checkpointing  loss   micro-batch of 120M  its longest sequence  largest of diy
 adamw      off            plain         does not fit                  none            none
  on      2 cards, each 16 GiB, 15.7 GiB usable (published totals of 16 GB cards), less 453 MiB for
          CUDA context and NCCL
  note  one sequence takes 2 GiB at least, with adamw
  note  it would fit with --strategy fsdp2 --on 2xrtx-4080
  how sure  predicted
  more      rigbench report RUN --verbose.  next: rigbench budget --on 2xrtx-4080
"""


def largest(value: int, retries: int = 0, **choices: object) -> Largest:
    """Composed: the parts are a card's, the numbers nobody's."""
    recipe = Recipe(precision="bf16", strategy="ddp", ranks=2, micro_batch=value, **choices)  # type: ignore[arg-type]
    parts = Breakdown(711 * MIB, 0, 950 * MIB, 4280 * MIB, 7660 * MIB, 16 * MIB, 475 * MIB, 475 * MIB, 453 * MIB)
    total = float(sum(parts.parts().values()))
    prediction = VramPrediction(
        method=1, basis="a replica of torch's allocator; eager, so an upper bound for compiled runs", target=TARGET,
        model=M120, recipe=recipe, allocated_bytes=14 * GIB, reserved_bytes=14 * GIB,
        outside=Figure(453.0 * MIB, "predicted", "a test"),
        process=Figure(total, "predicted", "a test", total - 100 * MIB, total + 500 * MIB), host_bytes=0,
        breakdown=parts, room_bytes=15 * GIB, fits=True, short_bytes=0, allocator_retries=retries,
        deciding="reserved and context, on the device",
    )  # fmt: skip
    return Largest(value, prediction, 530 * MIB)


def capacity(**known: object) -> Capacity:
    return Capacity(
        method=1, started_at="2026-05-01T00:00:00Z", seconds=1.0, target=TARGET, series="diy", model=M120, **known
    )


def row(micro_batch: Largest | Absent, model: int, retries: int = 0, **choices: object) -> CapacityRow:
    sequence = largest(1, retries, **choices)
    return CapacityRow(
        recipe=sequence.prediction.recipe,
        micro_batch=micro_batch,
        sequence=msgspec.structs.replace(sequence, value=13_568),
        model=msgspec.structs.replace(sequence, value=model),
    )


def test_what_trains_on_two_cards():
    rows = (
        row(largest(13), 617_400_000),
        row(largest(29, loss_chunks=8), 617_400_000, loss_chunks=8),
        row(largest(96, 3, loss_chunks=8, checkpoint_every=1), 617_400_000, 3, loss_chunks=8, checkpoint_every=1),
        row(largest(13, optimizer="adamw8bit"), 1_010_000_000, optimizer="adamw8bit"),
    )
    holds(brief, capacity(rows=rows), TRAINING)


def test_what_generates():
    sizes = {"weights_bytes": 237 * MIB, "cache_bytes": 144 * MIB, "working_bytes": 86 * MIB, "fits": True}
    process = Figure(801.0 * MIB, "predicted", "weights, cache, one block reading the whole prompt")
    kept = InferenceRow(
        weights="bf16", **sizes, process=process, short_bytes=0, largest_batch=78, longest_context=215_296,
        largest_model=M120,
    )  # fmt: skip
    notes = ("beyond the 1,024 positions that this model learns",)
    holds(brief, capacity(inference=(kept,), context_tokens=4096, notes=notes), GENERATING)


def test_what_fits_not_says_what_would():
    none = Absent("not even one sequence fits")
    rows = (msgspec.structs.replace(row(none, 0), sequence=none, model=none),)
    would = ("one sequence takes 2 GiB at least, with adamw", "it would fit with --strategy fsdp2 --on 2xrtx-4080")
    holds(brief, capacity(rows=rows, would_fit=would), FITS_NOT)


def test_a_way_that_is_not_the_first_is_a_warning_and_one_sequence_is_one():
    none = Absent("not even one sequence fits")
    rows = (row(none, 1), row(largest(1, 2, checkpoint_every=1), 1, checkpoint_every=1))
    first = printed(brief, capacity(rows=rows), 200).splitlines()[0]
    fits = "120M fits each card of 2xrtx-4080 with 1 sequence of 1,024 tokens, which is slow"
    assert first == f"warn  capacity: {fits} [adamw, bf16, checkpointing, ddp on 2, eager]"


def test_of_one_model_alone_no_largest_of_the_series_is_told():
    its = msgspec.structs.replace(row(largest(13), 617_400_000), model=NOT_ASKED)
    shown = printed(brief, capacity(rows=(its,)))
    assert "largest" not in shown
    assert "per row  longest sequence: at micro-batch 1" in shown


def test_the_chart_of_what_fills_the_memory_cuts_no_number_on_a_narrow_terminal():
    its = largest(13).prediction
    for width in (50, 60, 80, 200):
        out = io.StringIO()
        chart(its, Console(file=out, width=width))
        assert "…" not in out.getvalue()
        for size in its.breakdown.parts().values():
            assert not size or units.format_bytes(size) in out.getvalue()
