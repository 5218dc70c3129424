"""Are products judged by what a card can do at the clock they ran at, and is a low clock told by its cause?

By a quick run of a healthy H200, which its power limit of 700 W held at 1,230 to 1,350 of 1,980 MHz.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from rigbench import store
from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.doctor import diagnosis
from rigbench.doctor.contradictions import contradictions
from rigbench.document import Run
from rigbench.matmul import clock as clocks
from rigbench.matmul import screen
from rigbench.matmul.record import NOT_READ, Ceiling, Matmul
from rigbench.predict import ceilings
from rigbench.report import screen as report_screen
from rigbench.report.page import rig
from rigbench.topology.record import Topology
from rigbench.train import slices
from rigbench.train.record import Slice

H200 = store.read(Path(__file__).parent / "runs/h200/run-quick.json")
CPU = store.read(Path(__file__).parents[1] / "reports/amd-epyc-2-cores/run-quick.json")
replace = msgspec.structs.replace
assert isinstance(H200.matmul, Matmul)
MATMUL = H200.matmul


def shown(render, *args: object, **options: object) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    render(*args, console, **options)
    return " ".join(console.file.getvalue().split())


def found(matmul: Matmul = MATMUL, run: Run = H200) -> dict[str, list]:
    """Findings of products, by code."""
    codes: dict[str, list] = {}
    for item in diagnosis.diagnosed(replace(run, matmul=matmul)).findings:
        codes.setdefault(item.code, []).append(item)
    return {code: items for code, items in codes.items() if code in ("matmul-low", "power-bound", "throttled")}


def slowed(rate: float = 1.0, clock: float | Absent = NOT_READ, bits: int | None = None) -> Matmul:
    """Every load at a share of its rate and at another clock, with other reasons of the driver."""

    def changed(its: Ceiling) -> Ceiling:
        if isinstance(its.hot, Absent) or not isinstance(its.share_of_datasheet, float):
            return its
        hot = replace(its.hot, flops_per_s=its.hot.flops_per_s * rate, sm_clock_hertz=clock)
        return replace(its, hot=hot, share_of_datasheet=its.share_of_datasheet * rate)

    sensors = MATMUL.telemetry
    if bits is not None:
        first, *others = sensors.series
        first = replace(first, throttle_bits=tuple(bits for _ in sensors.at_seconds))
        sensors = replace(sensors, series=(first, *others))
    return replace(MATMUL, ceilings=tuple(changed(it) for it in MATMUL.ceilings), telemetry=sensors)


# FLOP a clock and multiprocessor, dense, fp32 sums: NVIDIA's whitepapers of V100 (table 1: 640 tensor cores of 64 FMA),
# GA100 (256 FMA for each of 4 tensor cores), GH100 (512 each), GA102 and AD102 (fp32 sums at half rate on GeForce).
WHITEPAPERS = [
    ("v100-sxm2-16gb", "fp16", 1024),
    ("a100-sxm4-80gb", "bf16", 2048),
    ("a100-sxm4-80gb", "tf32", 1024),
    ("h100-80gb-hbm3", "bf16", 4096),
    ("h100-pcie", "bf16", 4096),
    ("h100-nvl", "fp8", 8192),
    ("h200", "fp8", 8192),
    ("h200", "fp32", 256),
    ("rtx-3090", "bf16", 512),
    ("rtx-3090", "fp16-acc16", 1024),
    ("rtx-4090", "bf16", 512),
    ("rtx-6000-ada-generation", "bf16", 1024),
]


@pytest.mark.parametrize(("card", "dtype", "each"), WHITEPAPERS)
def test_a_card_does_a_clock_what_its_makers_whitepaper_says(card: str, dtype: str, each: int) -> None:
    assert profiles.flop_per_clock(card)[dtype] == each * profiles.gpu(card).multiprocessors


def test_every_card_with_a_clock_has_it_for_each_of_its_peaks() -> None:
    for gpu in profiles.gpus():
        known = isinstance(gpu.boost_clock_mhz, float | int) and isinstance(gpu.multiprocessors, int)
        assert profiles.flop_per_clock(gpu.id).keys() == (profiles.peaks(gpu.id).keys() if known else set()), gpu.id


def test_a_card_whose_peak_fits_no_power_of_two_is_held_against_its_datasheet(monkeypatch) -> None:
    odd = replace(profiles.gpu("h200"), multiprocessors=100)
    monkeypatch.setattr(profiles, "gpu", lambda _: odd)
    assert "bf16" not in profiles.flop_per_clock("h200")


# What 4,096 FLOP a clock on 132 multiprocessors (8,192 in fp8, 2,048 in tf32) come to at the clock that was read.
@pytest.mark.parametrize(
    ("dtype", "share"), [("bf16", 644.76 / 717.76), ("fp16", 593.14 / 665.05), ("fp8", 1158.25 / 1403.09)]
)
def test_a_load_is_held_against_its_own_clock(dtype: str, share: float) -> None:
    [its] = [it for it in MATMUL.ceilings if it.dtype == dtype]
    figure = clocks.share_of_clock(its, clocks.flop_per_clock(MATMUL.device))
    assert figure.value == pytest.approx(share, rel=1e-3)


def test_a_healthy_card_at_its_power_limit_has_no_warning_on_its_first_screen() -> None:
    run = diagnosis.diagnosed(H200)
    assert not [item.code for item in run.findings if item.severity != "information"]
    text = shown(report_screen.show, run, whole=False)
    assert "ok verdict: no fault found" in text
    assert (
        "ok matmul bf16 640 TFLOP/s (580 to 720) sustained at 1,328 MHz, 90 % of what that clock allows, 65 % of the "
        "datasheet; 798 TFLOP/s in a short test"
    ) in text
    assert "warn" not in text


def test_what_holds_it_is_information_and_says_what_its_clock_would_give() -> None:
    codes = found()
    assert codes.keys() == {"power-bound"}
    [its] = codes["power-bound"]
    assert (its.severity, its.where) == ("information", ("GPU0",))
    assert its.evidence[0] == (
        "fp16: 593 TFLOP/s sustained, 89 % of the 665 TFLOP/s that it can do at 1,230 MHz, at 638 W"
    )
    assert its.cost.reason == "1.16 PFLOP/s in fp8; 1.63 PFLOP/s at the datasheet's clock"


def test_a_lowered_limit_is_the_finding_of_that_limit_alone() -> None:
    assert isinstance(H200.topology, Topology)
    gpu = replace(H200.topology.gpus[0], power_limit_watts=500.0)
    run = replace(H200, topology=replace(H200.topology, gpus=(gpu,)))
    assert "power-limit" in {item.code for item in diagnosis.diagnosed(run).findings}
    assert found(run=run) == {}


def test_products_that_are_slow_at_a_full_clock_are_a_warning() -> None:
    low = {item.detail.partition(",")[0]: item for item in found(slowed(0.8, 1.83e9, 0))["matmul-low"]}
    assert sorted(low) == ["bf16", "fp16", "fp8", "tf32"]
    its = low["bf16"]
    assert its.severity == "warning"
    assert its.detail == "bf16, 52 % of the 989 TFLOP/s that it can do at 1,830 MHz"
    assert "it is not the clock" in its.evidence[1]
    assert len(found(slowed(0.5, 1.2e9, 4))["matmul-low"]) == 4  # whatever else holds the clock


def test_a_locked_clock_is_told() -> None:
    codes = found(slowed(0.75, 1.005e9, 0))
    assert codes.keys() == {"matmul-low"}
    [its] = codes["matmul-low"]
    assert (its.severity, its.where, its.detail) == ("warning", ("GPU0",), "1,005 MHz under load")
    assert its.what == "GPU0 with a clock that is held down"
    assert "neither the power limit nor heat" in its.evidence[-1]
    assert its.do.endswith("nvidia-smi -rgc")


@pytest.mark.parametrize("bits", [0x20, 0x24, 0x40, 0x8, 0x80])
def test_a_clock_that_heat_or_the_hardware_holds_is_slowed_down(bits: int) -> None:
    codes = found(slowed(0.75, 1.005e9, bits))
    assert codes.keys() == {"throttled"}
    assert codes["throttled"][0].severity == "warning"


def test_without_a_clock_the_datasheet_is_what_counts() -> None:
    low = {item.detail for item in found(slowed())["matmul-low"]}
    assert low == {"fp16, 60 % of the datasheet", "fp8, 59 % of the datasheet"}
    unread = slowed(1.0, 1.3e9)
    first, *others = unread.telemetry.series
    silent = replace(first, throttle_bits=Absent("not supported"))
    codes = found(replace(unread, telemetry=replace(unread.telemetry, series=(silent, *others))))
    assert codes.keys() == {"matmul-low"}  # nothing says what holds it


def test_a_clock_that_was_read_too_seldom_is_none() -> None:
    [its, *_] = slowed(1.0, 1.0e9).ceilings
    assert clocks.share_of_clock(its, clocks.flop_per_clock(MATMUL.device)) is None


# ---- Short and sustained


def test_sustained_stands_beside_a_sustained_rate_alone() -> None:
    whole = shown(screen.show, MATMUL)
    assert (
        "bf16 640 TFLOP/s (580 to 720) sustained correct short 798.3 TFLOP/s (797.6 to 798.8) in a short test" in whole
    )
    assert "its clock was at least 1,477 MHz" in whole  # 798.3 over 132 × 4,096
    brief = shown(screen.brief, MATMUL)
    assert "dtype TFLOP/s 90 % interval short test datasheet" in brief
    assert "bf16 640 580 to 720 798 65 %" in brief
    assert "fp32 n/a 53.9 –" in brief
    for text in (whole, brief):
        assert "798.3 TFLOP/s (797.6 to 798.8) sustained" not in text
    assert "bf16 923 GFLOP/s (911 to 935) sustained" in shown(screen.brief, CPU.matmul)
    rows = [list(row) for row in rig._products(MATMUL, [], None).rows]
    assert [row[:2] + row[3:] for row in rows[:2]] == [
        ["bf16 ceiling", "head weight gradient, 50304×768×8192", "798 TFLOP/s", "81 %"],
        ["bf16 sustained", "under sustained load", "645 TFLOP/s", "65 %"],
    ]


def test_hours_are_predicted_by_what_is_sustained() -> None:
    its = ceilings.from_runs([H200])
    assert its.matmul_flops_per_s["bf16"].value == MATMUL.ceilings[0].hot.flops_per_s.value
    assert its.matmul_flops_per_s["bf16"].basis.startswith("sustained ceiling")
    assert its.matmul_flops_per_s["fp32"].basis.startswith("fastest product")  # none was loaded


def test_a_load_that_a_product_belies_is_not_what_hours_are_held_against() -> None:
    first, *others = MATMUL.ceilings
    held_up = replace(first, hot=replace(first.hot, flops_per_s=first.hot.flops_per_s * 0.4))
    matmul = replace(MATMUL, ceilings=(held_up, *others))
    assert "bf16" not in matmul.sustained_flops_per_s
    its = ceilings.from_runs([replace(H200, matmul=matmul)])
    assert its.matmul_flops_per_s["bf16"].value == MATMUL.best_flops_per_s["bf16"].value
    assert ("above-its-ceiling", "warning") in {
        (item.code, item.severity) for item in contradictions(replace(H200, matmul=matmul))
    }


def test_a_short_test_is_held_against_a_short_test() -> None:
    assert contradictions(H200) == ()
    shapes = tuple(replace(it, flops_per_s=it.flops_per_s * 1.2) if it.dtype == "bf16" else it for it in MATMUL.shapes)
    [its] = contradictions(replace(H200, matmul=replace(MATMUL, shapes=shapes)))
    assert (its.code, its.severity, its.where) == ("search-missed", "information", ("matmul bf16",))
    assert "in a short test" in its.evidence[0]
    assert "in a short test" in its.evidence[1]


def test_a_training_is_a_share_of_what_is_sustained() -> None:
    its = H200.slices[0]
    assert isinstance(its, Slice)
    share = slices._of_matmul(SimpleNamespace(holding=lambda _: [H200]), its)
    assert share.value == its.model_flops_per_s / MATMUL.sustained_flops_per_s["bf16"].value
    assert share.basis == f"of the sustained bf16 matmul of run {H200.id}"
    cut = tuple(replace(it, hot=Absent("not found")) for it in MATMUL.ceilings)
    run = replace(H200, matmul=replace(MATMUL, ceilings=cut))
    share = slices._of_matmul(SimpleNamespace(holding=lambda _: [run]), its)
    assert share.value == its.model_flops_per_s / MATMUL.best_flops_per_s["bf16"].value
    assert share.basis == f"of the fastest bf16 matmul of run {H200.id}"
