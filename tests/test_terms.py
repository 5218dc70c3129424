"""Is each operation put in terms of what holds it back, at the ceiling's own rate? By hand, with round numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from recipes import recipe

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.model.record import Model
from rigbench.model.shape import model_named
from rigbench.predict import operations
from rigbench.predict.operations import Operation
from rigbench.predict.record import Ceilings, LinkCeiling, ProductRate
from rigbench.predict.terms import COLUMN, Terms, of_work, reduced_seconds, terms, together


def figure(value: float) -> Figure:
    return Figure(value, "datasheet", "test")


def ceilings(**changes: Any) -> Ceilings:
    """A graphics card: 100 TFLOP/s of bf16, 40 of fp32, 1 TB/s, 200 W; its multiprocessors are fed at 1e11 Hz."""
    base = Ceilings(
        kind="cuda",
        name="a card",
        count=1,
        source="datasheet",
        matmul_flops_per_s={"bf16": figure(100e12), "fp32": figure(40e12)},
        memory_bytes_per_s=figure(1e12),
        launch_seconds=figure(10e-6),
        tdp_watts=figure(200.0),
        feed_hertz=figure(1e11),
        link=LinkCeiling(figure(1e-3), figure(10e9)),
        data_tokens_per_s=Absent("not measured"),
        compute_capability=8.6,
    )
    return msgspec.structs.replace(base, **changes)


PRODUCT = Operation("matmul", "a product", times=2.0, flop=1e12, bytes=1e9, kernels=3.0, m=8, n=16, k=32)
ATTENTION = Operation("attention", "attention", times=1.0, flop=1e12, bytes=1e9, kernels=1.0)
SCORES = Operation("attention", operations.SCORES, times=1.0, flop=0.0, bytes=1e9, kernels=1.0)
NORM = Operation("memory traffic", "norms", times=1.0, flop=0.0, bytes=1e9, kernels=1.0)
ADAMW = Operation("optimizer", "adamw", times=1.0, flop=0.0, bytes=1e9, kernels=1.0)
MUON = Operation("optimizer", "muon", times=1.0, flop=1e12, bytes=1e9, kernels=1.0, m=8, n=16, k=32)


def of(
    *work: Operation, card: Ceilings | None = None, layers: float = 0.0, communication: float = 0.0, **choices: Any
) -> Terms:
    counted = [(operation, 1.0) for operation in work]
    return of_work(counted, recipe(**choices), card or ceilings(), layers, communication)


def seconds(operation: Operation, card: Ceilings | None = None, **choices: Any) -> dict[str, float]:
    """By constant, of a single operation, without those that are 0."""
    ((name, row),) = of(operation, card=card, **choices).parts.items()
    assert name == operation.part
    return {constant: row[place] for constant, place in COLUMN.items() if place < len(row) and row[place]}


def test_a_product_is_flop_over_the_peak_and_over_what_feeds_it_and_its_bytes() -> None:
    found = seconds(PRODUCT)  # twice 1 TFLOP and 1 GB; 1024 FLOP a clock
    assert found == pytest.approx({"peak": 2e12 / 100e12, "feeding": 2e12 / (1024 * 1e11), "traffic": 2e9 / 1e12})
    assert of(PRODUCT).data_seconds == 0.0


def test_a_product_in_fp32_is_fed_a_quarter_as_much_a_clock_and_reaches_seven_tenths_of_its_peak() -> None:
    found = seconds(PRODUCT, precision="fp32")
    assert found == pytest.approx({"peak": 2e12 / (0.7 * 40e12), "feeding": 2e12 / (256 * 1e11), "traffic": 2e9 / 1e12})


@pytest.mark.parametrize(
    ("changes", "peak"),
    [
        ({"source": "measured"}, 40e12),  # what was measured is what products reach
        ({"kind": "cpu"}, 40e12),
    ],
)
def test_only_a_datasheet_of_a_card_promises_more_than_products_reach(changes: dict[str, Any], peak: float) -> None:
    assert seconds(PRODUCT, ceilings(**changes), precision="fp32")["peak"] == pytest.approx(2e12 / peak)


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_without_tensor_cores_products_go_at_the_rate_of_fp32(precision: str) -> None:
    found = seconds(PRODUCT, precision=precision)
    assert found["peak"] == pytest.approx(2e12 / (0.7 * 40e12))
    own = ceilings(matmul_flops_per_s={precision: figure(80e12), "fp32": figure(40e12)})
    assert seconds(PRODUCT, own, precision=precision)["peak"] == pytest.approx(2e12 / 80e12)
    with pytest.raises(RigbenchError, match=f"a card has no {precision} ceiling"):
        seconds(PRODUCT, ceilings(matmul_flops_per_s={"bf16": figure(1e12)}), precision=precision)


def test_a_card_of_bf16_alone_needs_no_fp32() -> None:
    found = seconds(PRODUCT, ceilings(matmul_flops_per_s={"bf16": figure(100e12)}))
    assert found["peak"] == pytest.approx(2e12 / 100e12)


def test_bf16_is_not_taken_from_fp32() -> None:
    with pytest.raises(RigbenchError, match="a card has no bf16 ceiling; there are fp32; choose such a precision"):
        seconds(PRODUCT, ceilings(matmul_flops_per_s={"fp32": figure(40e12)}))


@pytest.mark.parametrize(
    ("capability", "column"),
    [(8.9, "feeding"), (9.0, "feeding_later"), (10.0, "feeding_later"), (11.9, "feeding_later"), (12.0, "feeding")],
)
def test_data_centre_cards_from_hopper_on_are_fed_otherwise(capability: float, column: str) -> None:
    assert set(seconds(PRODUCT, ceilings(compute_capability=capability))) == {"peak", column, "traffic"}


def test_a_card_that_does_not_say_how_it_is_fed_is_fed_at_its_peak() -> None:
    found = seconds(PRODUCT, ceilings(feed_hertz=Absent("not known")))
    assert found["feeding"] == pytest.approx(2e12 / 100e12)


@pytest.mark.parametrize("capability", [8.8, 8.9])
@pytest.mark.parametrize(("published", "rate"), [({}, 200e12), ({"fp8": figure(150e12)}, 150e12)])
def test_fp8_is_of_ada_and_later_twice_bf16_where_nothing_else_is_published(
    capability: float, published: dict[str, Figure], rate: float
) -> None:
    peaks = {"bf16": figure(100e12), **published}
    card = ceilings(compute_capability=capability, matmul_flops_per_s=peaks)
    if capability < 8.9:
        if published:  # without the cores for it, it is a rate like any other
            assert seconds(PRODUCT, card, precision="fp8")["peak"] == pytest.approx(2e12 / rate)
        else:
            with pytest.raises(RigbenchError, match="a card has no fp8 ceiling"):
                seconds(PRODUCT, card, precision="fp8")
        return
    found = seconds(PRODUCT, card, precision="fp8")
    assert found == pytest.approx({"fp8": 2e12 / rate, "feeding": 2e12 / (2 * 1024 * 1e11), "traffic": 2e9 / 1e12})
    rest = Operation(**PRODUCT._asdict() | {"part": "logits and loss"})  # the head stays in bf16
    assert seconds(rest, card, precision="fp8") == pytest.approx(seconds(rest, card))
    assert seconds(PRODUCT, card) == pytest.approx({"peak": 0.02, "feeding": 2e12 / (1024 * 1e11), "traffic": 2e-3})


def test_fp8_takes_half_the_energy_a_flop_of_its_own_products_alone() -> None:
    card = ceilings(compute_capability=8.9)
    head = Operation(**PRODUCT._asdict() | {"part": "logits and loss", "times": 1.0})
    plain, eight = (of(PRODUCT, head, card=card, precision=precision).power[0] for precision in ("bf16", "fp8"))
    assert plain == pytest.approx(1e-12 * 3e12 / 200.0)
    assert eight == pytest.approx(1e-12 * (1e12 + 1e12) / 200.0)


def test_a_product_that_was_measured_slower_is_so_and_one_that_was_faster_is_at_the_peak() -> None:
    def product(rate: float, dtype: str = "bf16") -> float:
        rates = (ProductRate(8, 16, 32, dtype, rate), ProductRate(8, 16, 33, dtype, 1e12))
        return seconds(PRODUCT, ceilings(products=rates))["peak"]

    assert product(50e12) == pytest.approx(2e12 / 50e12)
    assert product(150e12) == pytest.approx(2e12 / 100e12)
    assert product(50e12, "fp32") == pytest.approx(2e12 / 100e12)  # in another precision


def test_fused_attention_has_a_constant_of_its_own() -> None:
    found = seconds(ATTENTION)
    assert found == pytest.approx({"attention": 1e12 / 100e12, "feeding": 1e12 / (1024 * 1e11), "traffic": 1e-3})


@pytest.mark.parametrize(
    ("precision", "column"),
    [("bf16", "scores"), ("bf16-pure", "scores"), ("fp16", "scores"), ("fp32", "scores_wide"), ("tf32", "scores_wide")],
)
def test_scores_in_memory_are_bytes_of_half_or_of_whole_precision(precision: str, column: str) -> None:
    assert seconds(SCORES, precision=precision) == pytest.approx({column: 1e-3})


@pytest.mark.parametrize(("compiled", "column"), [(False, "eager_traffic"), (True, "traffic")])
def test_what_multiplies_nothing_is_bytes_over_the_bandwidth(compiled: bool, column: str) -> None:
    assert seconds(NORM, compiled=compiled) == pytest.approx({column: 1e-3})


def test_an_optimizer_is_its_bytes_and_muons_products_are_in_bf16_whatever_the_rest_is() -> None:
    assert seconds(ADAMW) == pytest.approx({"optimizer": 1e-3})
    for precision in ("bf16", "fp32"):
        assert seconds(MUON, precision=precision) == pytest.approx({"optimizer": 1e-3, "peak": 1e12 / 100e12})
    old = ceilings(matmul_flops_per_s={"fp32": figure(40e12)})  # without bf16 at the peak of what there is
    assert seconds(MUON, old, precision="fp32")["peak"] == pytest.approx(1e12 / 40e12)


@pytest.mark.parametrize(
    ("capability", "compute"),
    [
        *((0.0, True), (6.0, True), (6.1, False), (7.0, True), (7.5, False), (8.0, True), (8.6, False), (8.9, False)),
        *((9.0, True), (10.0, True), (12.0, False)),
    ],
)
def test_energy_is_picojoules_a_flop_over_the_power_limit_by_kind_of_die(capability: float, compute: bool) -> None:
    """Compute capabilities: P100 6.0, V100 7.0, A100 8.0, H100 9.0, B200 10.0; another maker's card tells none."""
    found = of(PRODUCT, card=ceilings(compute_capability=capability)).power
    assert found == pytest.approx((0.0, 0.01) if compute else (0.01, 0.0))  # 2e12 pJ over 200 W


def test_without_a_power_limit_nothing_is_held_back_by_it() -> None:
    assert of(PRODUCT, card=ceilings(tdp_watts=Absent("no profile"))).power == (0.0, 0.0)


@pytest.mark.parametrize(
    ("choices", "host"),
    [
        ({}, (8 * 10e-6, 12.0, 0.0, 0.0)),
        ({"compiled": True}, (0.35 * 8 * 10e-6, 0.0, 0.0, 12.0)),  # 35 % of eager code's, as is assumed
        ({"attention": "naive"}, (8 * 10e-6, 0.0, 12.0, 0.0)),
        ({"attention": "naive", "compiled": True}, (0.35 * 8 * 10e-6, 0.0, 12.0, 0.0)),
    ],
)
def test_the_host_hands_over_kernels_and_layers(choices: dict[str, Any], host: tuple[float, ...]) -> None:
    assert of(PRODUCT, NORM, ADAMW, layers=12.0, **choices).host == pytest.approx(host)


def test_operations_of_one_part_add_up_and_each_counts_as_often_as_it_is_done() -> None:
    once, twice = of(PRODUCT, ATTENTION), of_work([(PRODUCT, 2.0), (ATTENTION, 2.0)], recipe(), ceilings(), 0.0, 0.0)
    for name, row in once.parts.items():
        assert twice.parts[name] == pytest.approx([2 * value for value in row])
    assert (twice.power, twice.host) == (
        pytest.approx([2 * value for value in once.power]),
        pytest.approx([2 * value for value in once.host]),
    )
    both = of(PRODUCT, PRODUCT).parts["matmul"]
    assert both == pytest.approx([2 * value for value in once.parts["matmul"]])


def test_communication_is_a_part_of_its_own_where_there_is_any() -> None:
    row = of(PRODUCT, communication=0.25).parts["communication exposed"]
    assert {name: row[place] for name, place in COLUMN.items() if place < len(row) and row[place]} == {
        "communication": 0.25
    }
    assert set(of(PRODUCT).parts) == {"matmul"}


def small(**changes: Any) -> Model:
    return msgspec.structs.replace(model_named("5M"), **changes)


def communicated(model: Model, card: Ceilings | None = None, **choices: Any) -> float:
    found = terms(model, recipe(**{"ranks": 2, **choices}), card or ceilings(count=2))
    return sum(found.parts.get("communication exposed", ()))


def test_ddp_reduces_every_gradient_once_and_fsdp_gathers_twice_and_scatters_in_every_micro_step() -> None:
    """An all_reduce moves twice what a gather or a scatter of as many bytes does."""
    model = small()
    parameters, layers = model.total_parameters, model.shape.layers
    ddp = 1e-3 + 4 * parameters / 10e9
    assert communicated(model, strategy="ddp") == pytest.approx(ddp)
    assert communicated(model, strategy="ddp", accumulation=3) == pytest.approx(ddp)
    assert communicated(model, strategy="ddp", precision="bf16-pure") == pytest.approx(1e-3 + 2 * parameters / 10e9)
    gathers, scatter = 2 * (2 * parameters / 10e9 / 2), 4 * parameters / 10e9 / 2
    fsdp = 3 * layers * 1e-3 + gathers + scatter
    assert communicated(model, strategy="fsdp2") == pytest.approx(fsdp)
    assert communicated(model, strategy="fsdp2", accumulation=3) == pytest.approx(3 * fsdp)


def test_only_what_is_trained_is_reduced() -> None:
    model = small(trainable_parameters=1_000_000)
    assert communicated(model, strategy="ddp") == pytest.approx(1e-3 + 4e6 / 10e9)


def test_a_rank_alone_and_one_whose_link_is_not_known_tell_nothing_to_anybody() -> None:
    assert communicated(small(), ranks=1) == 0.0
    blind = ceilings(count=2, link=Absent("not known"))
    assert communicated(small(), blind, strategy="ddp") == communicated(small(), blind, strategy="fsdp2") == 0.0
    assert reduced_seconds(1e9, blind) == 0.0
    assert reduced_seconds(1e9, ceilings()) == pytest.approx(1e-3 + 0.1)


def test_every_micro_step_is_counted_and_the_optimizer_once() -> None:
    """Those after the first add to its gradients, and are alike."""
    model, its = small(), recipe(accumulation=4, micro_batch=2)
    one, two, four = (terms(model, msgspec.structs.replace(its, accumulation=n), ceilings()) for n in (1, 2, 4))
    for name, row in four.parts.items():
        later = [b - a for a, b in zip(one.parts[name], two.parts[name], strict=True)]
        assert row == pytest.approx([a + 3 * more for a, more in zip(one.parts[name], later, strict=True)])
    assert four.parts["optimizer"] == pytest.approx(one.parts["optimizer"])
    assert four.parts["matmul"] == pytest.approx([4 * value for value in one.parts["matmul"]])
    assert [it.host[1] for it in (one, two, four)] == [float(model.shape.layers * count) for count in (1, 2, 4)]
    first, later = (operations.micro_step(model.shape, its, first=first) for first in (True, False))
    kernels = [sum(it.times * it.kernels for it in work) for work in (first, later)]
    assert kernels[0] < kernels[1]
    assert two.host[0] - one.host[0] == pytest.approx(10e-6 * kernels[1])
    end = operations.optimizer_step(model.shape, its)
    assert one.host[0] == pytest.approx(10e-6 * (kernels[0] + sum(it.times * it.kernels for it in end)))


def test_a_loader_hands_over_the_tokens_of_one_rank() -> None:
    model = small()
    card = ceilings(count=2, data_tokens_per_s=figure(1000.0))
    found = terms(model, recipe(strategy="ddp", ranks=2, accumulation=3, micro_batch=5), card)
    assert found.data_seconds == pytest.approx(3 * 5 * model.shape.sequence / 1000.0)
    assert terms(model, recipe(), ceilings()).data_seconds == 0.0


def test_what_runs_side_by_side_is_the_fourth_root_of_fourth_powers_whatever_the_unit() -> None:
    assert together(2.0, 1.0) == pytest.approx(17**0.25)
    assert together(1.0, 1.0, 1.0) == pytest.approx(3**0.25)
    assert together(1e-300, 1e-300) == pytest.approx(2**0.25 * 1e-300)  # whose fourth powers are too small to be held
    assert together(3.0, 0.0) == 3.0
    assert together(0.0, 0.0, 0.0) == 0.0
