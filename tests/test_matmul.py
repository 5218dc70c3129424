"""Are matrix products timed, checked, divided over the time and compared, and is a wrong one caught?"""

import io
import itertools
import json
import math
import os
import statistics
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rigbench import __main__, store
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device, Figure, SensorSeries, Telemetry
from rigbench.job import Job
from rigbench.machine import accelerator
from rigbench.machine.accelerator import CpuAccelerator
from rigbench.machine.rig import Rig
from rigbench.matmul import command, search, verdict
from rigbench.matmul import probe as matmul
from rigbench.matmul.probe import Lane, alone_and_together
from rigbench.matmul.record import (
    DTYPES,
    Ceiling,
    Matmul,
    MatmulCheck,
    MatmulDims,
    MatmulFleet,
    MatmulLook,
    MatmulPhase,
    ProbeOptions,
    Times,
    read_dtypes,
)
from rigbench.model import counts, shape
from rigbench.model import counts as gemms
from rigbench.model.gpt import Decoder
from rigbench.work import products
from rigbench.work.process import Report
from rigbench.work.products import ARITHMETIC, Operands

TESTS = Path(__file__).parent
GOOD = MatmulCheck(rows=8, columns=512, largest_error_over_bound=0.1, correct=True)
PASSES = ("forward", "data gradient", "weight gradient")


@pytest.fixture
def small(monkeypatch):
    """Options for a model of 2 M parameters, dimensions up to 256, and short samples: everything in two seconds."""
    monkeypatch.setattr(products, "SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(matmul._Probe, "_out_of_reach", lambda *_: "")  # however slow the machine is just now
    monkeypatch.setattr(search.Search, "_short_of", lambda *_: "")
    monkeypatch.setattr(accelerator, "CPU_FLUSH_BYTES", 1 << 20)
    monkeypatch.setattr(accelerator, "MOST_CACHE_BYTES_PER_THREAD", 1 << 20)
    monkeypatch.setitem(matmul.UNIT, "cpu", 64)
    monkeypatch.setitem(matmul.LIMIT, "cpu", 256)
    model = shape.model_named("1.7M")
    model = msgspec.structs.replace(model, shape=msgspec.structs.replace(model.shape, sequence=32, vocabulary=512))
    return matmul.Options(model=model, device="cpu", seconds=2.0, hot_seconds=0.4)


class Heard(Report):
    """A report that keeps what it is told, and says stop once a text comes by."""

    def __init__(self, stop_at: str = "never") -> None:
        super().__init__(io.BytesIO())
        self.stop_at, self.said, self.partials = stop_at, [], []

    def progress(self, share: float, text: str) -> None:
        self.said.append((share, text))
        if self.stop_at in text:
            self._stop.set()

    def partial(self, record) -> None:
        self.partials.append(record)


# --- the whole probe ---


def test_each_dtype_has_a_ceiling_that_was_measured_anew_and_the_models_own_products(small):
    report = Heard()
    result = matmul.run(small, report)
    assert (result.method, result.ended_by, list(result.best_flops_per_s)) == (4, "finished", ["bf16", "fp32"])
    for ceiling in result.ceilings:
        work = 2 * ceiling.m * ceiling.n * ceiling.k * ceiling.products_per_sample
        total = sum(ceiling.seconds)
        assert total >= 0.4 * 0.99
        ends = [sum(ceiling.seconds[: i + 1]) for i in range(len(ceiling.seconds))]
        hot = [s for s, end in zip(ceiling.seconds, ends, strict=True) if end - s >= 2 / 3 * total - 1e-9]
        hot = hot if len(hot) >= 3 else ceiling.seconds[-3:]
        assert ceiling.hot.flops_per_s.value == pytest.approx(work * len(hot) / sum(hot))
        assert result.best_flops_per_s[ceiling.dtype] == ceiling.hot.flops_per_s
        assert [check.correct for check in ceiling.checks] == [True, True]
        assert (ceiling.m, ceiling.n, ceiling.k) in {(look.m, look.n, look.k) for look in ceiling.looks}
    for step in result.steps:
        own = [it for it in result.shapes if it.dtype == step.dtype]
        assert [(it.purpose, it.product) for it in own] == [
            (layer, kind) for layer in ("qkv", "attention out", "mlp up", "mlp down", "head") for kind in PASSES
        ]
        assert all(it.check.correct for it in own)
        assert step.seconds.value == pytest.approx(sum(it.times_per_step * it.timing.estimate.value for it in own))
        assert step.flop == 32 * 6 * counts.describe(small.model.shape, "").matmul_parameters
    assert result.fleet == Absent("one device was asked for")
    assert msgspec.json.decode(msgspec.json.encode(result), type=Matmul) == result
    assert report.partials
    assert {text.split(":")[0] for _, text in report.said} >= {"opening the device", "bf16", "fp32"}


def test_a_search_that_ran_out_of_time_has_no_ceiling_and_no_load_unless_products_give_one(small, monkeypatch):
    monkeypatch.setattr(search.Search, "_short_of", lambda *_: "3 shapes tried")
    monkeypatch.setattr(search.Search, "_ladder", out_of_time)
    report = Heard()
    result = matmul.run(small, report)
    assert {it.hot for it in result.ceilings} == {Absent("not found: ran out of time; 3 shapes tried")}
    assert not any("of load" in text for _, text in report.said)
    assert result.best_flops_per_s == {}
    mended = verdict.mended(result)
    for ceiling in mended.ceilings:
        rates = [it.flops_per_s for it in result.shapes if it.dtype == ceiling.dtype]
        own = ceiling.flop / statistics.median(ceiling.searched_seconds)
        best = mended.best_flops_per_s[ceiling.dtype]
        assert best.value == pytest.approx(max(own, *(it.value for it in rates)))
        assert best.low <= best.value <= best.high
        product = next((it for it in result.shapes if it.flops_per_s == best), None)
        named = f"{product.purpose} {product.product}, " if product else f"{ceiling.words}, the fastest of "
        assert mended.best_product[ceiling.dtype].startswith(named)
    assert verdict.mended(mended) == mended
    assert verdict.mended(msgspec.structs.replace(result, shapes=())).best_flops_per_s == {}


def out_of_time(self) -> None:
    self._look(1, 1, 1)
    raise search._Over


def test_stopped_in_a_load_it_keeps_what_was_measured_and_claims_no_ceiling(small):
    result = matmul.run(small, Heard(stop_at="s of load"))
    (ceiling,) = result.ceilings
    assert result.ended_by == "interrupted"
    assert ceiling.looks
    assert ceiling.seconds
    assert ceiling.hot.reason.startswith("interrupted after ")
    assert ceiling.hot_over_burst == ceiling.hot
    assert (result.best_flops_per_s, result.shapes) == ({}, ())


def test_stopped_in_the_models_products_it_keeps_the_ceiling_and_the_products_so_far(small):
    result = matmul.run(small, Heard(stop_at="bf16: qkv forward"))
    assert result.ended_by == "interrupted"
    assert list(result.best_flops_per_s) == ["bf16"]
    assert 0 < len(result.shapes) < 15
    (step,) = result.steps
    assert step.seconds == Absent(f"{15 - len(result.shapes)} of its 15 products were not measured")


def test_what_there_is_no_time_for_is_said(small, monkeypatch):
    monkeypatch.setattr(matmul._Probe, "_out_of_reach", lambda *_: "ran out of time")
    result = matmul.run(small, Heard())
    assert result.shapes == ()
    assert result.not_run == tuple(f"15 of the model's 15 products in {it}: ran out of time" for it in ("bf16", "fp32"))


def test_a_dtype_that_the_device_lacks_is_said_and_the_others_go_on(small):
    options = msgspec.structs.replace(small, dtypes=("fp8", "tf32", "fp32"), seconds=1.0)
    result = matmul.run(options, Heard())
    assert [it.dtype for it in result.ceilings] == ["fp32"]
    assert result.not_run == tuple(f"{it}: a CPU has no such arithmetic in torch" for it in ("fp8", "tf32"))


def test_nothing_but_what_the_device_lacks_is_exit_code_3(small):
    with pytest.raises(RigbenchError, match="nothing to multiply; fp8: a CPU has no such arithmetic") as refused:
        matmul.run(msgspec.structs.replace(small, dtypes=("fp8",)), Heard())
    assert refused.value.exit_code == 3


# --- how the time is divided ---


def times(seconds: float, hot_seconds: float, kind: str, dtypes: int) -> Times:
    given = {"seconds": seconds, "hot_seconds": hot_seconds}
    model = shape.model_named("5M")
    return ProbeOptions(model=model, **{name: value for name, value in given.items() if value}).times(kind, dtypes)


def test_without_wishes_the_defaults_hold():
    assert times(0, 0, "cpu", 2) == (84.0, 10.0, 2.0)
    assert times(0, 0, "cuda", 5) == (180.0, 20.0, 4.0)


def test_a_longer_load_makes_the_whole_longer_and_a_shorter_whole_makes_the_load_shorter():
    assert times(0, 300, "cuda", 1).total == 316.0
    assert times(18, 0, "cpu", 2) == (18.0, 2.25, 0.45)


def test_loads_that_do_not_fit_are_refused_with_what_would():
    with pytest.raises(RigbenchError, match="--hot-seconds 30 for 2 dtypes does not fit into --seconds 60; give"):
        times(60, 30, "cpu", 2)


# --- the model's own products ---

SHAPES = [
    msgspec.structs.replace(shape.model_named("5M").shape, vocabulary=300, sequence=16),
    msgspec.structs.replace(shape.model_named("30M", "llama").shape, vocabulary=300, sequence=16, tied_head=False),
]
SHAPES.append(msgspec.structs.replace(SHAPES[1], kv_heads=SHAPES[1].heads // 2))
SHAPES.append(msgspec.structs.replace(SHAPES[0], style="neox", ffn_width=SHAPES[0].width))  # mlp and out: one size


class Seen(TorchDispatchMode):
    """Every matrix product that torch really does: its m, n, k and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[int, int, int], int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            key = (a.shape[0], b.shape[1], a.shape[1])
            self.counts[key] = self.counts.get(key, 0) + 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("own", SHAPES)
def test_the_list_is_what_torch_multiplies_in_a_real_step(own):
    tokens = torch.randint(own.vocabulary, (3, own.sequence))
    model = Decoder(own)
    with Seen() as seen:
        model(tokens, tokens).backward()
    counts: dict[tuple[int, int, int], int] = {}
    for it in gemms.step_gemms(own, 3):
        counts[it.m, it.n, it.k] = counts.get((it.m, it.n, it.k), 0) + it.times
    assert counts == seen.counts


@pytest.mark.parametrize("own", SHAPES)
def test_each_shape_is_listed_once_and_all_sum_to_6n(own):
    found = gemms.step_gemms(own, 2)
    assert len({(it.m, it.n, it.k, it.layout) for it in found}) == len(found)
    tokens = 2 * own.sequence
    assert sum(it.flop * it.times for it in found) == tokens * 6 * counts.describe(own, "").matmul_parameters


def test_layouts_are_the_memory_order_of_torchs_own():
    """A step's transposed operands, as strides: the weight [out, in] forward, the gradient [rows, out] last."""
    operands = Operands("fp32", "cpu")
    strides = {
        layout: [matrix.is_contiguous() for matrix in operands.product(8, 24, 16, layout).sets[0]]
        for layout in ("nn", "nt", "tn")
    }
    assert strides == {"nn": [True, True], "nt": [True, False], "tn": [False, True]}


# --- products and their check ---


@pytest.mark.parametrize("layout", ["nn", "nt", "tn"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp8"])
def test_a_product_is_done_right_in_every_layout_and_its_operands_rotate(dtype, layout):
    product = Operands(dtype, "cpu").product(
        32, 48, 64, layout, rotate_bytes=5 * ARITHMETIC["fp32"].least_capability[0]
    )
    assert len(product.sets) == 1
    several = Operands(dtype, "cpu").product(32, 48, 64, layout, rotate_bytes=50_000)
    assert len(several.sets) >= 3
    for index, (a, b) in enumerate(several.sets):
        assert (tuple(a.shape), tuple(b.shape)) == ((32, 64), (64, 48))
        several.work(index)
        assert products.check(a, b, several.out, dtype).correct
    first, second = (several.sets[i][0].float() for i in (0, 1))
    assert not torch.equal(first, second)
    assert abs(float(first.std()) - 1) < 0.1  # random normal, not zeros


def emulated(dtype: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What a device would give in an arithmetic that this CPU lacks, from its definition."""
    if dtype == "tf32":  # inputs cut to 10 bits of mantissa, not even rounded
        cut = [(it.view(torch.int32) & ~0x1FFF).view(torch.float32) for it in (a.contiguous(), b.contiguous())]
        return cut[0] @ cut[1]
    if dtype == "fp16-acc16":  # every eight products, the sum is rounded to fp16
        total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float16)
        for start in range(0, a.shape[1], 8):
            block = a[:, start : start + 8].double() @ b[start : start + 8].double()
            total = (total.double() + block).half()
        return total
    return (a.double() @ b.double()).to(getattr(torch, ARITHMETIC[dtype].output))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [16, 1000, 4096])
def test_right_products_pass_and_wrong_ones_are_caught(dtype, k):
    torch.manual_seed(k)
    kind = getattr(torch, ARITHMETIC[dtype].tensor)
    a, b = torch.randn(8, k).to(kind), torch.randn(k, 64).to(kind)
    right = emulated(dtype, a, b)
    assert products.check(a, b, right, dtype).correct
    spread = k**0.5
    shifted = right.clone()
    shifted[:, 3] += (1.0 if dtype == "fp16-acc16" else 0.2) * spread
    nothing = torch.full_like(right, float("nan"))
    for wrong in (right + 0.5 * spread, shifted, nothing, torch.zeros_like(right)):
        assert not products.check(a, b, wrong, dtype).correct


# --- a sustained load, and what its seconds say ---


class Scripted:
    """An accelerator whose marks are readings of a clock that only work moves; waiting for a mark is written down."""

    def __init__(self) -> None:
        self.now, self.waited = 0.0, []

    def mark(self) -> float:
        return self.now

    def work(self, _: int) -> None:
        self.now += 0.05

    def seconds_between(self, start: float, end: float) -> float:
        self.waited.append((self.now, end))
        return end - start

    def synchronize(self) -> None:
        self.waited.append("everything")


def test_a_load_has_no_gap_and_the_next_sample_is_queued_before_one_is_awaited():
    device = Scripted()
    seconds = products.sustain(device, device.work, 2, 1.0, lambda: device.now)
    assert seconds == pytest.approx([0.1] * 10)
    assert all(queued > awaited for queued, awaited in device.waited[:-2])
    assert device.waited[-2] == "everything"


def load(seconds, planned: float, dims=(100, 100, 50), per_sample: int = 10) -> Ceiling:
    ceiling = Ceiling(
        *dims,
        dtype="bf16",
        accumulate="fp32",
        looks=(MatmulLook(*dims, (1.0,)),),
        search_seconds=5.0,
        search_ended_by="finished",
        rest_seconds=2.0,
        began_at_seconds=100.0,
        products_per_sample=per_sample,
        checks=(GOOD, GOOD),
    )
    return verdict.loaded(ceiling, seconds, planned)


def test_burst_is_the_first_two_seconds_hot_the_last_third_and_their_ratio_has_an_interval():
    """15 s of 0.1 s, then 15 s of 0.125 s: a tenth of a million FLOP each, 1e7 a sample."""
    ceiling = load([0.1] * 150 + [0.125] * 120, 30.0)
    burst, hot = ceiling.burst, ceiling.hot
    assert (burst.from_seconds, burst.to_seconds) == (0.0, pytest.approx(2.0))
    assert (hot.from_seconds, hot.to_seconds) == (pytest.approx(20.0), pytest.approx(30.0))
    assert burst.flops_per_s.value == pytest.approx(1e7 / 0.1)
    assert hot.flops_per_s.value == pytest.approx(1e7 / 0.125)
    assert ceiling.hot_over_burst.value == pytest.approx(0.8)


def test_the_ratios_interval_holds_the_truth_and_is_no_narrower_than_its_parts():
    import random

    held = 0
    for seed in range(200):
        draw = random.Random(seed)
        seconds = [0.1 * (1 + 0.03 * draw.gauss(0, 1)) for _ in range(200)]
        seconds += [0.11 * (1 + 0.03 * draw.gauss(0, 1)) for _ in range(200)]
        ratio = load(seconds, sum(seconds)).hot_over_burst
        held += ratio.low <= 0.1 / 0.11 <= ratio.high
    assert 170 <= held <= 195  # 90 %, give or take


def test_an_interrupted_load_has_a_burst_and_no_hot_part():
    ceiling = load([0.1] * 50, 10.0)
    assert ceiling.burst.flops_per_s.value == pytest.approx(1e8)
    assert ceiling.hot == Absent("interrupted after 5.0 of 10.0 s of load")
    assert load([0.1], 10.0).burst == Absent("1 samples of a load are too few")


def test_two_devices_are_loaded_in_turn_then_together_and_the_slowest_is_named():
    accelerator = [CpuAccelerator("a", Absent("-"), Absent("-")) for _ in range(2)]
    threads, moments = [], []

    def opener(index: int):
        def open_lane() -> Lane:
            threads.append(threading.get_ident())
            product = Operands("fp32", "cpu").product(64 * (index + 1), 64, 64)

            def work(i: int) -> None:
                moments.append(index)
                product.work(i)

            flop, check = product.flop, lambda: products.check(*product.sets[0], product.out, "fp32")
            return Lane(accelerator[index], work, flop, 4, check)

        return open_lane

    lanes, failed = alone_and_together({"cpu:0": opener(0), "cpu:1": opener(1)}, 0.1, 0.2)
    assert failed == {}
    assert len(set(threads)) == 2
    alone = moments[: moments.index(1)]
    assert set(alone) == {0}  # the second had not begun
    assert all(lane.check.correct and lane.alone_seconds and lane.together_seconds for lane in lanes)
    flops = [2 * 64**3, 2 * 128 * 64**2]
    means = [sum(lane.together_seconds) / len(lane.together_seconds) for lane in lanes]
    rates = [4 * flop / mean for flop, mean in zip(flops, means, strict=True)]
    assert [it.together_flops_per_s.value for it in lanes] == pytest.approx(rates)
    fleet = MatmulFleet(dtype="fp32", m=64, n=64, k=64, lanes=lanes)
    assert fleet.slowest.name == f"cpu:{rates.index(min(rates))}"


class Cards:
    """CUDA cards that are really this processor, in all that a load of all asks of them; unlike, as they are told."""

    def __init__(self, monkeypatch, **cards) -> None:
        """By name: (capability, free bytes, what its work raises from which call on)."""
        self.cards = {name.replace("_", ":"): facts for name, facts in cards.items()}
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: self.cards[name][0])
        monkeypatch.setattr(matmul, "no_kernels", lambda index: self.refusal(f"cuda:{index}"))
        monkeypatch.setattr(matmul, "open_device", self.open)
        monkeypatch.setattr(matmul, "FLEET_ALONE_SECONDS", 0.05)
        monkeypatch.setattr(matmul, "FLEET_TOGETHER_SECONDS", 0.05)
        monkeypatch.setattr(matmul, "MEMORY_SHARE", 1.0)
        monkeypatch.setattr(products, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(products, "cache_bytes", lambda *_: 0)
        monkeypatch.setattr(matmul, "Operands", lambda dtype, name: Operands(dtype, "cpu"))

    def refusal(self, name) -> str:
        return f"{name} is too old for this torch" if self.cards[name][0] < (7, 5) else ""

    def open(self, name):
        _, free, trouble = self.cards[name]
        card = CpuAccelerator(name, Absent("-"), Absent("-"))
        card.free_bytes, timed, calls = lambda: free, card.timed, itertools.count()

        def check():  # twice for a glance, then after the warm-up and the end of each load
            if trouble and next(calls) >= trouble[0]:
                raise trouble[1]

        card.timed, card.synchronize = lambda *words, **named: (check(), timed(*words, **named))[1], check
        return card


def on_all(cards, dtypes=("bf16", "fp16", "fp32")):
    """What `all_devices` makes of ceilings of 128×128×128 that the first card reached."""
    probe = matmul._Probe.__new__(matmul._Probe)
    probe.options, probe.report, probe.kind = matmul.Options(model=shape.model_named("5M")), Heard(), "cuda"
    probe.dtypes, probe.failures, probe.l3_bytes = dtypes, [], Absent("-")
    probe.started, probe.times = 0.0, Times(1.0, 1.0, 0.0)
    phase = MatmulPhase(from_seconds=0.0, to_seconds=1.0, flops_per_s=Estimate(1e12, 1e12, 1e12, 0.9, "-", 3))
    facts = {"accumulate": "fp32", "looks": (), "search_seconds": 1.0, "search_ended_by": "interval", "hot": phase}
    probe.ceilings = [Ceiling(128, 128, 128, dtype=dtype, **facts) for dtype in dtypes]
    probe.fleet = Absent("not reached")
    probe.all_devices()
    return probe.fleet, probe.failures


ROOM = 1 << 20
OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of …")


def test_unlike_cards_are_loaded_in_the_first_arithmetic_that_all_of_them_have(monkeypatch):
    cards = Cards(monkeypatch, cuda_0=((8, 9), ROOM, None), cuda_1=((7, 5), ROOM, None))
    fleet, failures = on_all(cards)
    assert (fleet.dtype, [lane.name for lane in fleet.lanes], fleet.left_out) == ("fp16", ["cuda:0", "cuda:1"], ())
    assert failures == []
    fleet, _ = on_all(cards, dtypes=("bf16",))
    assert fleet == Absent("cuda:1: bf16 needs compute capability 8.0, this GPU has 7.5")


def test_each_card_takes_the_shape_that_its_own_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(matmul, "LEAST_DIMENSION", 64)
    small, none = 3 * 64 * 128 * 4, 1000
    cards = Cards(monkeypatch, cuda_0=((9, 0), ROOM, None), cuda_1=((9, 0), small, None), cuda_2=((9, 0), none, None))
    fleet, failures = on_all(cards)
    assert [lane.shape for lane in fleet.lanes] == [Absent("that of all"), MatmulDims(64, 64, 128)]
    assert fleet.left_out == ("cuda:2: no memory for its matrices; end the program that holds it",)
    assert failures == []


@pytest.mark.parametrize("call", [0, 2, 4, 5])  # opened, loaded alone, before and after all begin
def test_a_card_that_runs_out_of_memory_is_left_out_wherever_it_does(monkeypatch, call):
    cards = Cards(
        monkeypatch, cuda_0=((9, 0), ROOM, None), cuda_1=((9, 0), ROOM, (call, OOM)), cuda_2=((9, 0), ROOM, None)
    )
    fleet, failures = on_all(cards)
    assert [lane.name for lane in fleet.lanes] == ["cuda:0", "cuda:2"]
    assert (fleet.left_out, failures) == (("cuda:1: no memory for its matrices",), [])


def test_a_card_that_breaks_beside_the_others_is_a_fault_and_leaves_the_rest_of_the_answer(monkeypatch):
    broken = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    cards = Cards(monkeypatch, cuda_0=((9, 0), ROOM, None), cuda_1=((9, 0), ROOM, (5, broken)))
    fleet, failures = on_all(cards)
    assert fleet == Absent("cuda:1: CUDA error: unspecified launch failure")
    assert failures == ["cuda:1, under the load of all: CUDA error: unspecified launch failure"]


def test_a_card_without_kernels_is_left_out(monkeypatch):
    cards = Cards(monkeypatch, cuda_0=((6, 1), ROOM, None), cuda_1=((9, 0), ROOM, None), cuda_2=((9, 0), ROOM, None))
    fleet, failures = on_all(cards)
    assert [lane.name for lane in fleet.lanes] == ["cuda:1", "cuda:2"]
    assert (fleet.left_out, failures) == (("cuda:0: is too old for this torch",), [])


# --- the command, the datasheet and the sensors ---


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


REFUSED = {
    "--dtypes int4": "--dtypes knows no 'int4'; use all, or some of bf16, fp16, fp16-acc16, tf32, fp32, fp8, fp8-fast",
    "--dtypes ,": "--dtypes ',' names none",
    "--micro-batch 0": "--micro-batch '0' is not a whole number from 1",
    "--seconds 0": "--seconds '0' is zero",
    "--seconds soon": "--seconds 'soon' is not a duration",
    "--hot-seconds -3": "--hot-seconds '-3' is negative",
    "--hot-seconds 60 --seconds 60": "--hot-seconds 60 for 2 dtypes does not fit into --seconds 60; give --seconds 240",
    "--params 12_apples": "unit that I do not know",
    "--series none": "no series 'none'",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2_before_anything_is_busy(rigbench, typed):
    code, out, err = rigbench("matmul", "--device", "cpu", *(word.replace("_", " ") for word in typed.split()))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert REFUSED[typed] in err


def test_dtypes_come_in_the_order_typed_and_once():
    assert read_dtypes("FP32, bf16,fp32", "--dtypes") == ("fp32", "bf16")
    assert read_dtypes("all", "--dtypes") == DTYPES


def test_a_device_that_multiplies_wrongly_is_a_fault_of_the_whole_command(rigbench, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PROBE", "wrong_products")
    words = ("matmul", "--device", "cpu", "--params", "1.7M", "--dtypes", "fp32", "--seconds", "3", "--json")
    code, out, err = rigbench(*words)
    assert code == 1
    assert "fault: matmul fp32 " in err
    assert "gave a wrong result" in err
    (stored,) = (tmp_path / "home" / "runs").glob("*.json")
    assert out == stored.read_text()
    ceiling = json.loads(out)["matmul"]["ceilings"][0]
    assert [check["correct"] for check in ceiling["checks"]] == [False, False]
    assert {line.split(" gave")[0] for line in err.splitlines()} >= {
        f"rigbench: fault: matmul fp32 {ceiling['m']}×{ceiling['n']}×{ceiling['k']} before the load"
    }


@pytest.fixture
def on_a_4080(tmp_path):
    """A job on a recorded rig of two, and a load on its second card: 40 s that began at 100 s of the clock."""
    job = Job(store.Store(tmp_path), Rig.replay(TESTS / "rigs" / "dual-rtx4080s-x8x8"), "matmul", Silent())
    uuid = str(job.gpus[1].uuid)
    device = Device(kind="cuda", name="RTX 4080 SUPER", uuid=uuid, threads=1, memory_total_bytes=1 << 34)
    bf16 = load([0.1] * 400, 40.0, (10_000, 10_000, 5_000))
    result = Matmul(
        method=2,
        started_at="2026-01-01T00:00:00Z",
        seconds=60.0,
        device=device,
        datasheet_flops_per_s={},
        model=shape.model_named("120M"),
        shapes=(),
        steps=(),
        best_flops_per_s={"bf16": bf16.hot.flops_per_s},
        ended_by="finished",
        telemetry=Absent("none"),
        ceilings=tuple(
            msgspec.structs.replace(bf16, dtype=name) for name in ("bf16", "fp16-acc16", "fp8-fast", "int4")
        ),
        fleet=Absent("one device"),
    )
    return job, result


def test_a_ceiling_is_held_against_the_datasheet_of_its_own_arithmetic(on_a_4080):
    job, result = on_a_4080
    beside = verdict.beside_datasheet(result, job.datasheet(result.device))
    rate = 1e13 / 0.1
    shares = {it.dtype: it.share_of_datasheet for it in beside.ceilings}
    assert shares["bf16"] == pytest.approx(rate / 104.4e12)
    assert shares["fp16-acc16"] == pytest.approx(rate / 208.9e12)
    assert shares["fp8-fast"] == pytest.approx(rate / 208.9e12, rel=1e-3)
    assert shares["int4"] == Absent("no datasheet peak for this device and dtype")
    assert beside.datasheet_flops_per_s["bf16"].basis.endswith("dense, fp32 accumulate")


def test_no_share_of_a_peak_is_above_it(on_a_4080):
    _, result = on_a_4080
    low = {"bf16": Figure(50e12, "datasheet", "the sheet")}
    share = verdict.beside_datasheet(result, low).ceilings[0].share_of_datasheet
    assert share == Absent("faster than the sheet: it clocks higher than published, or one of the two is wrong")


def test_an_unknown_card_has_no_share_rather_than_a_guess(on_a_4080):
    job, result = on_a_4080
    stranger = msgspec.structs.replace(result, device=msgspec.structs.replace(result.device, uuid="GPU-elsewhere"))
    beside = verdict.beside_datasheet(stranger, job.datasheet(stranger.device))
    assert all(isinstance(it.share_of_datasheet, Absent) for it in beside.ceilings)
    assert beside.datasheet_flops_per_s == {}


def test_burst_and_hot_carry_the_working_cards_own_sensors_over_their_own_seconds(on_a_4080):
    _, result = on_a_4080
    at = tuple(90.0 + 0.5 * tick for tick in range(120))
    nothing = dict.fromkeys(SensorSeries.__struct_fields__, Absent("not asked"))

    def series(device: str, uuid: str, offset: float) -> SensorSeries:
        warm = tuple(offset + min(40.0, max(0.0, moment - 100.0)) for moment in at)
        columns = {"device": device, "uuid": uuid, "temperature_celsius": warm, "throttle_share": {}}
        columns["power_watts"] = (Absent("no answer"),) * 119 + (300.0,)
        return SensorSeries(**(nothing | columns))

    sensors = Telemetry(0.5, at, (series("GPU0", "GPU-other", 0.0), series("GPU1", str(result.device.uuid), 40.0)))
    first = verdict.beside_sensors(msgspec.structs.replace(result, telemetry=sensors)).ceilings[0]
    assert first.burst.temperature_celsius == pytest.approx(41.0)  # the mean over seconds 0 to 2
    hot = first.hot
    assert hot.temperature_celsius == pytest.approx(40 + (hot.from_seconds + hot.to_seconds) / 2, abs=0.3)
    assert hot.power_watts == Absent("no reading fell into it")
    assert hot.sm_clock_hertz == Absent("not asked")
    assert math.isclose(hot.to_seconds, 40.0)
