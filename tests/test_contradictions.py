"""Are two results of one run that cannot both be true found, and results that agree left alone?"""

from pathlib import Path

import msgspec
import pytest
from budget_slices import M15, M30, M120, whole

from rigbench import store
from rigbench.core.estimate import Estimate
from rigbench.core.record import Skipped
from rigbench.doctor import diagnosis
from rigbench.doctor.contradictions import contradictions
from rigbench.document import Run
from rigbench.matmul import verdict
from rigbench.matmul.record import Matmul, MatmulFleet, MatmulLane
from rigbench.work.record import Disturbance

REPORTS = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores"
QUICK = store.read(REPORTS / "run-quick-every-probe.json")
replace = msgspec.structs.replace


def near(value: float, within: float = 0.01) -> Estimate:
    return Estimate(value, value * (1 - within), value * (1 + within), 0.90, "of a test", 5)


def codes(run: Run) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.code, item.where) for item in contradictions(run)]


def with_slice(run: Run, name: str, **changes: object) -> Run:
    changed = (replace(its, **changes) if its.model.name == name else its for its in run.slices)
    return replace(run, slices=tuple(changed))


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_runs_that_were_really_made_on_a_quiet_machine_contradict_nothing(path):
    assert codes(store.read(path)) == []


def test_a_step_many_times_longer_than_its_own_products_is_found():
    """As it was seen: 1.1 s of products a step, and a step of 16 to 23 s."""
    slow = with_slice(QUICK, "120M", step_seconds=Estimate(23.0, 19.2, 23.3, 0.75, "median", 3))
    assert ("step-against-products", ("training 120M",)) in codes(slow)
    found = next(item for item in contradictions(slow) if item.code == "step-against-products")
    assert found.evidence == ("a step takes 23.0 s", "its matrix products alone were timed at 4.78 s in all")
    fast = with_slice(QUICK, "120M", step_seconds=near(3.0))
    assert ("step-against-products", ("training 120M",)) in codes(fast)


def test_another_precision_batch_or_device_is_no_contradiction():
    slow = with_slice(QUICK, "120M", step_seconds=near(23.0))
    its = slow.slices[2]
    for other in (
        replace(its, recipe=replace(its.recipe, precision="bf16-pure")),
        replace(its, recipe=replace(its.recipe, micro_batch=4)),
        replace(its, device=replace(its.device, threads=1)),
    ):
        assert "step-against-products" not in dict(codes(replace(slow, slices=(*slow.slices[:2], other))))


def test_a_larger_model_that_computes_less_well_is_found():
    """As it was seen: 276 GFLOP/s at 30M, and 49.5 tokens/s at 120M."""
    run = replace(
        QUICK,
        matmul=Skipped("matmul", "not of this test"),
        slices=(whole(M15, 2900.0), whole(M30, 1000.0), whole(M120, 49.5, within=0.3)),
    )
    assert codes(run) == [("efficiency-falls", ("training 120M",))]
    other_recipe = replace(run, slices=(*run.slices[:2], whole(M120, 49.5, optimizer="adamw8bit")))
    assert codes(other_recipe) == []


def rows(run: Run, **rates: float) -> Run:
    """With other rates of one thread's copies: from memory, at the end of the curve, at its fastest point."""
    [part] = run.bandwidth.parts
    sizes = {"memory": (149946368, False), "end": (268435456, True), "fastest": (16384, True)}
    changed = []
    for row in part.transfers:
        name = next((name for name, its in sizes.items() if its == (row.size_bytes, row.warm)), "")
        alike = row.operation == "copy" and row.threads == 1 and name in rates
        changed.append(replace(row, bytes_per_s=near(rates[name] * 1e9)) if alike else row)
    return replace(run, bandwidth=replace(run.bandwidth, parts=(replace(part, transfers=tuple(changed)),)))


@pytest.mark.parametrize("rates", [{"memory": 4.6}, {"memory": 25.0}, {"end": 3.0}])
def test_memory_that_does_not_fit_the_curve_is_found(rates):
    assert codes(rows(QUICK, **rates)) == [("memory-against-caches", ("CPU",))]


def test_memory_faster_than_every_cache_is_found():
    assert codes(rows(QUICK, memory=200.0, end=190.0)) == [("memory-against-caches", ("CPU",))]


def test_repeats_that_spread_over_more_than_half_are_found_the_widest_first():
    run = with_slice(QUICK, "120M", items_per_s=near(190.0, within=0.68))
    first, *others = QUICK.matmul.shapes
    wide = Estimate(1.7e9, 2e8, 3e10, 0.9, "median", 9)  # as it was seen: "fp32 1.73 GFLOP/s ±835 %"
    run = replace(run, matmul=replace(run.matmul, shapes=(replace(first, flops_per_s=wide), *others)))
    found = {item.where: item.evidence for item in contradictions(run) if item.code == "repeats-apart"}
    assert found == {
        ("matmul",): (f"{first.dtype} {first.purpose} {first.product}: ±876 %",),
        ("slices",): ("training 3, 120M: ±68 %",),
    }


def beaten(run: Run) -> Matmul:
    """As it was seen: a ceiling of 92 GFLOP/s beside a product at 1.24 TFLOP/s."""
    place = next(i for i, it in enumerate(run.matmul.shapes) if it.dtype == "bf16")
    shapes = list(run.matmul.shapes)
    shapes[place] = replace(shapes[place], flops_per_s=near(1.24e12))
    return replace(run.matmul, shapes=tuple(shapes))


def test_a_ceiling_below_a_product_of_the_run_is_that_product_and_is_found():
    matmul = beaten(QUICK)
    first = next(it for it in matmul.shapes if it.dtype == "bf16")
    mended = verdict.mended(matmul)
    assert mended.best_flops_per_s["bf16"] == first.flops_per_s
    assert mended.best_product == {"bf16": f"{first.purpose} {first.product}, {first.words}"}
    assert mended.best_flops_per_s["fp32"] == matmul.best_flops_per_s["fp32"]
    assert codes(replace(QUICK, matmul=mended)) == [("above-its-ceiling", ("matmul bf16",))]


def test_a_product_a_little_above_the_searched_one_is_the_ceiling_and_no_warning():
    """As 1024x3072x768 was on two cores of an EPYC, 5 % above the searched shape under load, in two runs of two."""
    load = QUICK.matmul.ceilings[0]
    first = next(it for it in QUICK.matmul.shapes if it.dtype == load.dtype)
    little = replace(first, flops_per_s=near(1.05 * load.hot.flops_per_s.high))
    shapes = tuple(little if it is first else it for it in QUICK.matmul.shapes)
    mended = verdict.mended(replace(QUICK.matmul, shapes=shapes))
    assert mended.best_flops_per_s[load.dtype] == little.flops_per_s
    assert codes(replace(QUICK, matmul=mended)) == []


def test_a_wrong_product_is_no_ceiling():
    matmul = beaten(QUICK)
    wrong = tuple(replace(it, check=replace(it.check, correct=False)) for it in matmul.shapes)
    assert verdict.mended(replace(matmul, shapes=wrong)).best_flops_per_s == matmul.best_flops_per_s


def test_a_slice_above_the_ceiling_is_found():
    """As it was seen: "299 % of the fastest bf16 matmul"."""
    its = next(its for its in QUICK.slices if its.model.name == "30M")
    faster = near(3 * QUICK.matmul.best_flops_per_s["fp32"].value / its.model.flop_per_token)
    assert ("above-its-ceiling", ("matmul fp32",)) in codes(with_slice(QUICK, "30M", items_per_s=faster))


def test_one_slice_measured_twice_with_two_results_is_found():
    run = replace(QUICK, matmul=Skipped("matmul", "not of this test"))
    its = run.slices[1]
    half = replace(its, items_per_s=near(its.items_per_s.value / 2))
    assert codes(replace(run, slices=(*run.slices, half))) == [("measured-twice", ("training 30M",))]
    close = replace(its, items_per_s=near(its.items_per_s.value * 0.97))
    assert codes(replace(run, slices=(*run.slices, close))) == []


def test_one_product_under_the_same_load_twice_is_found():
    ceiling = QUICK.matmul.ceilings[0]
    device, check = QUICK.matmul.device, ceiling.checks[0]
    alone = near(ceiling.hot.flops_per_s.value / 2)
    lane = MatmulLane(
        device=device,
        name="cuda:0",
        products_per_sample=1,
        alone_seconds=(1.0,),
        together_seconds=(1.0,),
        alone_flops_per_s=alone,
        together_flops_per_s=alone,
        check=check,
    )
    fleet = MatmulFleet(*ceiling.dims, dtype=ceiling.dtype, lanes=(lane, lane))
    assert codes(replace(QUICK, matmul=replace(QUICK.matmul, fleet=fleet))) == [
        ("measured-twice", (f"matmul {ceiling.dtype}",))
    ]


def test_what_is_known_to_be_disturbed_is_not_held_against_the_rest():
    slow = with_slice(QUICK, "120M", step_seconds=near(23.0))
    assert "step-against-products" in {item.code for item in diagnosis.diagnosed(slow).findings}
    disturbed = replace(slow, disturbances=(Disturbance(room="slices", place=2, evidence=("it waited",)),))
    assert "step-against-products" not in {item.code for item in diagnosis.diagnosed(disturbed).findings}


def test_doctor_tells_of_a_stored_run_what_contradicts_itself(rigbench, tmp_path):
    store.Store(tmp_path / "home").save(with_slice(QUICK, "120M", step_seconds=near(23.0)))
    code, out, _ = rigbench("doctor", QUICK.id)
    assert code == 0
    assert "training 120M contradicts its own matrix products" in out
