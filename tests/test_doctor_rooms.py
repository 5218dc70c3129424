"""Is what each probe found wrong in doctor's one list, with its price, and nothing of a run that is well?"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from rigbench import store
from rigbench.bandwidth import verdict as bandwidth
from rigbench.bandwidth.record import Bandwidth, Judged
from rigbench.collectives.record import Collectives, OddHost
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, Lost
from rigbench.core.record import Absent, Device, Figure
from rigbench.dataloader.record import Dataloader
from rigbench.doctor import diagnosis
from rigbench.document import Run
from rigbench.matmul.record import Matmul
from rigbench.train.record import Slice

REPORTS = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores"
WELL = store.read(REPORTS / "run-quick-every-probe.json")
replace = msgspec.structs.replace


def found(code: str, **rooms: object) -> Finding:
    findings = diagnosis.diagnosed(replace(WELL, **rooms)).findings
    [its] = [item for item in findings if item.code == code]
    return its


def test_a_run_that_is_well_has_no_finding_and_is_priced_by_its_own_budget() -> None:
    diagnosed = diagnosis.diagnosed(WELL)
    assert diagnosed.findings == ()
    assert diagnosed.examined.training == f"1.2 EFLOP on diy, the budget of run {WELL.id}"
    assert diagnosed.examined.hours == WELL.budget.whole.hours
    assert [item.what for item in diagnosed.unchecked][:1] == ["heat"]


def test_products_far_below_the_datasheet_cost_what_the_step_model_says() -> None:
    assert isinstance(WELL.matmul, Matmul)
    ceiling = WELL.matmul.ceilings[0]
    peak = Figure(4 * ceiling.hot.flops_per_s.value, "datasheet", "a datasheet")
    slow = replace(ceiling, share_of_datasheet=0.25)
    others = WELL.matmul.ceilings[1:]
    its = found(
        "matmul-low",
        matmul=replace(WELL.matmul, ceilings=(slow, *others), datasheet_flops_per_s={ceiling.dtype: peak}),
    )
    assert its.detail == f"{ceiling.dtype}, 25 % of the datasheet"
    assert isinstance(its.lost, Lost)
    whole = WELL.budget.whole.hours.value
    assert 0 < its.lost.hours.value < (1 - 0.25 / 0.85) * whole  # as if a step were products alone


def test_a_wrong_product_and_a_wrong_copy_are_faults() -> None:
    assert isinstance(WELL.matmul, Matmul)
    assert isinstance(WELL.bandwidth, Bandwidth)
    first, *others = WELL.matmul.shapes
    wrong = replace(first, check=replace(first.check, correct=False, largest_error_over_bound=9.0))
    assert found("matmul-wrong", matmul=replace(WELL.matmul, shapes=(wrong, *others))).counts
    part, *parts = WELL.bandwidth.parts
    row, *rows = part.transfers
    row = replace(row, check=replace(row.check, wrong=1, wrong_values=3))
    part = replace(part, transfers=(row, *rows))
    assert found("copies-wrong", bandwidth=replace(WELL.bandwidth, parts=(part, *parts))).counts


def test_a_collective_that_died_is_a_fault_and_a_slow_host_a_warning() -> None:
    assert isinstance(WELL.collectives, Collectives)
    died = replace(WELL.collectives, verdict="died", reason="rank 1 ended")
    assert found("collectives-wrong", collectives=died).evidence == ("collectives: rank 1 ended",)
    odd = replace(WELL.collectives, odd_hosts=(OddHost(0, "sending", 1e9, 4e9),))
    its = found("odd-host", collectives=odd)
    assert its.severity == "warning"
    assert "1.00 GB/s sending, the others 4.00 GB/s" in its.evidence[0]


def test_a_loader_slower_than_training_is_found() -> None:
    assert isinstance(WELL.dataloader, Dataloader)
    half = Estimate(0.5, 0.45, 0.55, 0.9, "a test", 5)
    slow = replace(WELL.dataloader.headrooms[0], times=half, io_bound="yes")
    its = found("loader-too-slow", dataloader=replace(WELL.dataloader, headrooms=(slow,)))
    assert its.where == ("memory map",)
    assert its.cost.possible.value == pytest.approx(2 * its.cost.now.value)


def test_a_slice_that_waits_for_data_costs_its_models_share_of_the_hours() -> None:
    slices = list(WELL.slices)
    place = next(n for n, it in enumerate(slices) if isinstance(it, Slice) and it.model.name == "120M")
    slices[place] = replace(slices[place], step_share={**slices[place].step_share, "data": 0.3})
    its = found("data-bound", slices=tuple(slices))
    assert its.where == ("training 120M",)
    rows = {row.model: row.hours.value for row in WELL.budget.series}
    assert isinstance(its.lost, Lost)
    part = rows["120M"] / sum(rows.values())
    assert its.lost.hours.value == pytest.approx(0.3 * part * WELL.budget.whole.hours.value)


def test_a_slice_on_a_card_that_more_fits_on_is_told_with_what_it_would_save() -> None:
    its = next(it for it in WELL.slices if isinstance(it, Slice) and it.model.name == "120M")
    device = Device("cuda", "NVIDIA GeForce RTX 4090", Absent("none"), 1, 24 << 30)
    recipe = replace(its.recipe, precision="bf16", compiled=True, micro_batch=2, accumulation=1)
    small = found("micro-batch-small", slices=(replace(its, device=device, recipe=recipe),))
    assert small.where == ("training 120M",)
    assert re.fullmatch(r"2 sequences at once, and at least \d+ fit", small.evidence[0])
    assert small.cost.possible.value > 8
    assert small.commands[0].startswith("rigbench train-probe --params 120M --micro-batch ")


def test_a_slice_that_is_eager_on_a_card_is_told_what_compiled_steps_would_save() -> None:
    """By the step model: of a 4090's eager 120M at 2 sequences, more than half; 90 % intervals leave some of it."""
    its = next(it for it in WELL.slices if isinstance(it, Slice) and it.model.name == "120M")
    device = Device("cuda", "NVIDIA GeForce RTX 4090", Absent("none"), 1, 24 << 30)
    eager = replace(its, device=device, recipe=replace(its.recipe, precision="bf16", micro_batch=2, accumulation=1))
    told = found("not-compiled", slices=(eager,))
    assert re.fullmatch(r"eager, 2 sequences at once; compiled, at least \d+ fit", told.evidence[0])
    assert told.commands[0].endswith(f" --micro-batch {told.cost.possible.value:.0f} --compile on")
    # With a larger model of which fewer fit it is one finding still, priced once and by what fits of each; and what was
    # trained with more than surely fits is told no less.
    wide = replace(eager, recipe=replace(eager.recipe, micro_batch=64))
    other = replace(wide, model=replace(wide.model, name="another"))
    both = found("not-compiled", slices=(eager, wide, other, other))
    assert (both.lost, both.where, len(both.commands)) == (told.lost, (*told.where, "training another"), 2)
    assert found("not-compiled", slices=(wide,)).evidence == ("eager, 64 sequences at once; compiled, at least 64 fit",)
    compiled = replace(eager, recipe=replace(eager.recipe, compiled=True))
    for other in (compiled, replace(eager, device=replace(device, kind="cpu"))):
        codes = {it.code for it in diagnosis.diagnosed(replace(WELL, slices=(other,))).findings}
        assert "not-compiled" not in codes


def test_copies_below_what_a_link_gives_are_found_by_card(monkeypatch: pytest.MonkeyPatch) -> None:
    low = bandwidth.judge(6e9, 31.5e9, bandwidth.HOST_LINK)
    ways = (Judged("host to GPU0, pinned", 1 << 28, 6e9, low), Judged("copy in GPU0", 1 << 28, 6e9, low))
    monkeypatch.setattr(bandwidth, "judged", lambda result: ways)
    link, memory = (it for it in diagnosis.diagnosed(WELL).findings if it.code == "bandwidth-low")
    assert link.where == memory.where == ("GPU0",)
    assert link.detail == "host to GPU0, pinned: 6.00 GB/s where 23.6 GB/s to 29.0 GB/s are expected"
    assert isinstance(memory.cost, Absent)


def test_what_is_accepted_does_not_count() -> None:
    assert isinstance(WELL.collectives, Collectives)
    died = replace(WELL, collectives=replace(WELL.collectives, verdict="died", reason="rank 1 ended"))
    diagnosed: Run = diagnosis.diagnosed(died)
    assert [it.code for it in diagnosed.findings if it.counts] == ["collectives-wrong"]
    accepted = diagnosis.diagnosed(died, reasons={"collectives-wrong": "a test"})
    assert not any(it.counts for it in accepted.findings)
