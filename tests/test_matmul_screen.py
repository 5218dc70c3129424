"""Does a matmul result show what its owner needs to know, on a wide screen and on one 40 columns wide?"""

import io

import msgspec
import pytest
from rich.console import Console

from rigbench.core import screen as bars
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, Figure
from rigbench.matmul import screen as render
from rigbench.matmul.record import (
    Ceiling,
    GemmStep,
    Matmul,
    MatmulCheck,
    MatmulFleet,
    MatmulLane,
    MatmulLook,
    MatmulPhase,
    MatmulShape,
)
from rigbench.model import shape

GOOD = MatmulCheck(rows=8, columns=512, largest_error_over_bound=0.1, correct=True)
WRONG = MatmulCheck(rows=8, columns=512, largest_error_over_bound=40.0, correct=False)
CARD = Device(kind="cuda", name="NVIDIA GeForce RTX 4090", uuid="GPU-1", threads=1, memory_total_bytes=24 << 30)


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value * (1 - half), high=value * (1 + half), level=0.95, method="test", n=20)


def look(size: int, flops_per_s: float, n: int = 0) -> MatmulLook:
    return MatmulLook(size, n or size, size, (2 * size * (n or size) * size / flops_per_s,))


def phase(start: float, end: float, flops_per_s: float, celsius: float) -> MatmulPhase:
    return MatmulPhase(
        from_seconds=start,
        to_seconds=end,
        flops_per_s=estimate(flops_per_s),
        temperature_celsius=celsius,
        power_watts=430.0,
        sm_clock_hertz=2.52e9,
    )


def ceiling(dtype: str, peak: float, checks=(GOOD, GOOD), share: float | Absent = 0.93) -> Ceiling:
    return Ceiling(
        dtype=dtype,
        accumulate="fp32",
        m=8192,
        n=8448,
        k=8192,
        looks=(look(256, 0.02 * peak), look(1024, 0.41 * peak), look(4096, 0.9 * peak), look(8192, 1.02 * peak, 8448)),
        search_seconds=5.6,
        search_ended_by="time limit",
        rest_seconds=4.0,
        began_at_seconds=100.0,
        products_per_sample=60,
        seconds=(0.1,) * 200,
        burst=phase(0.0, 2.0, 1.05 * peak, 41.0),
        hot=phase(13.3, 20.0, peak, 72.0),
        hot_over_burst=estimate(1 / 1.05, 0.014),
        share_of_datasheet=share,
        checks=checks,
    )


def product(dtype: str, layer: str, kind: str, flops_per_s: float, check: MatmulCheck = GOOD) -> MatmulShape:
    flop = 2 * 8192 * 3072 * 768
    timing = Timing(
        warmup_seconds=(),
        seconds=(flop / flops_per_s,) * 20,
        estimate=estimate(flop / flops_per_s),
        target_half_width=0.01,
        ended_by="interval",
        outliers=0,
        drift_per_minute=Absent("no different from noise"),
    )
    return MatmulShape(
        m=8192,
        n=3072,
        k=768,
        dtype=dtype,
        purpose=layer,
        timing=timing,
        flops_per_s=estimate(flops_per_s),
        check=check,
        product=kind,
        layout="nt",
        times_per_step=12,
    )


def lane(index: int, alone: float, together: float) -> MatmulLane:
    return MatmulLane(
        device=CARD,
        name=f"cuda:{index}",
        products_per_sample=60,
        alone_seconds=(0.1,),
        together_seconds=(0.1,),
        alone_flops_per_s=estimate(alone),
        together_flops_per_s=estimate(together),
        check=GOOD,
    )


RESULT = Matmul(
    method=2,
    started_at="2026-01-01T00:00:00Z",
    seconds=90.0,
    device=CARD,
    datasheet_flops_per_s={
        "bf16": Figure(165.2e12, "datasheet", "NVIDIA GeForce RTX 4090, published, dense, fp32 accumulate")
    },
    shapes=(
        *(product("bf16", "mlp up", kind, 120e12) for kind in ("forward", "data gradient", "weight gradient")),
        product("bf16", "head", "forward", 140e12, WRONG),
    ),
    best_flops_per_s={"bf16": estimate(153.6e12), "fp32": estimate(60e12)},
    ended_by="finished",
    telemetry=Absent("none"),
    not_run=(
        "fp8: needs compute capability 8.9, this GPU has 8.6",
        "2 of the model's 15 products in bf16: ran out of time",
    ),
    model=shape.model_named("120M"),
    ceilings=(
        ceiling("bf16", 153.6e12),
        ceiling("fp32", 60e12, (GOOD, WRONG), Absent("no datasheet peak for this device and dtype")),
    ),
    steps=(GemmStep(dtype="bf16", micro_batch=8, sequence=1024, flop=10**12, seconds=Absent("2 were not measured")),),
    fleet=MatmulFleet(
        dtype="bf16",
        m=8192,
        n=8448,
        k=8192,
        lanes=(lane(0, 153e12, 150e12), lane(1, 152e12, 135e12)),
    ),
)


def screen(result: Matmul, width: int) -> str:
    out = io.StringIO()
    render.show(result, Console(file=out, width=width, highlight=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


WIDE = """\
matmul on cuda (NVIDIA GeForce RTX 4090)
  bf16  153.6 TFLOP/s (152.1 to 155.1)  correct
    clock      93 % of the 165 TFLOP/s that it can do at 2,520 MHz
    datasheet  93 % of 165 TFLOP/s (NVIDIA GeForce RTX 4090, published, dense, fp32 accumulate)
    hot        the last 6.70 s of 20.0 s of load; 72 °C, 430 W, 2,520 MHz
    burst      161.3 TFLOP/s (159.7 to 162.9), the first 2.00 s after 4.00 s of rest; 41 °C, 430 W,
               2,520 MHz
    ratio      sustained ÷ first 2.00 s: 0.952 (0.939 to 0.966)
    shape      8192×8448×8192, fp32 accumulate; the best of 4 shapes in 4 tries over 5.60 s (time
               limit), then measured anew
  fp32  60.0 TFLOP/s (59.4 to 60.6)  WRONG RESULT
    clock      73 % of the 82.6 TFLOP/s that it can do at 2,520 MHz
    datasheet  unknown (no datasheet peak for this device and dtype)
    hot        the last 6.70 s of 20.0 s of load; 72 °C, 430 W, 2,520 MHz
    burst      63.0 TFLOP/s (62.4 to 63.6), the first 2.00 s after 4.00 s of rest; 41 °C, 430 W,
               2,520 MHz
    ratio      sustained ÷ first 2.00 s: 0.952 (0.939 to 0.966)
    shape      8192×8448×8192, fp32 accumulate; the best of 4 shapes in 4 tries over 5.60 s (time
               limit), then measured anew
efficiency over size (cubes, share of the fastest)
        bf16                            fp32
   256  ▌                        2.0 %  ▌                        2.0 %
  1024  █████████▉                41 %  █████████▉                41 %
  4096  █████████████████████▋    90 %  █████████████████████▋    90 %
120M's own products in bf16, micro-batch 8 × 1,024 tokens
 layer   m×n×k forward  times      forward  data gradient  weight gradient   a step
 mlp up  8192×3072×768     12  120 TFLOP/s    120 TFLOP/s      120 TFLOP/s  11.6 ms
 head    8192×3072×768     12        WRONG            n/a              n/a      n/a
  all     n/a (2 were not measured)
all 2 GPUs on bf16 8192×8448×8192
  cuda:0  alone 153.0 TFLOP/s (151.5 to 154.5), all at once 150.0 TFLOP/s (148.5 to 151.5), 98 % of
          alone; correct
  cuda:1  alone 152.0 TFLOP/s (150.5 to 153.5), all at once 135.0 TFLOP/s (133.7 to 136.3), 89 % of
          alone; correct
  all     285 TFLOP/s; cuda:1 is the slowest, 10 % behind the others, and sets the pace
  not run  fp8: needs compute capability 8.9, this GPU has 8.6
  not run  2 of the model's 15 products in bf16: ran out of time
"""

NARROW = """\
matmul on cuda (NVIDIA GeForce RTX 4090)
  bf16  153.6 TFLOP/s (152.1 to 155.1)
correct
    clock      93 % of the 165 TFLOP/s
               that it can do at 2,520
               MHz
    datasheet  93 % of 165 TFLOP/s
               (NVIDIA GeForce RTX 4090,
               published, dense, fp32
               accumulate)
    hot        the last 6.70 s of 20.0 s
               of load; 72 °C, 430 W,
               2,520 MHz
    burst      161.3 TFLOP/s (159.7 to
               162.9), the first 2.00 s
               after 4.00 s of rest; 41
               °C, 430 W, 2,520 MHz
    ratio      sustained ÷ first 2.00 s:
               0.952 (0.939 to 0.966)
    shape      8192×8448×8192, fp32
               accumulate; the best of 4
               shapes in 4 tries over
               5.60 s (time limit), then
               measured anew
  fp32  60.0 TFLOP/s (59.4 to 60.6)
WRONG RESULT
    clock      73 % of the 82.6 TFLOP/s
               that it can do at 2,520
               MHz
    datasheet  unknown (no datasheet
               peak for this device and
               dtype)
    hot        the last 6.70 s of 20.0 s
               of load; 72 °C, 430 W,
               2,520 MHz
    burst      63.0 TFLOP/s (62.4 to
               63.6), the first 2.00 s
               after 4.00 s of rest; 41
               °C, 430 W, 2,520 MHz
    ratio      sustained ÷ first 2.00 s:
               0.952 (0.939 to 0.966)
    shape      8192×8448×8192, fp32
               accumulate; the best of 4
               shapes in 4 tries over
               5.60 s (time limit), then
               measured anew
efficiency over size (cubes, share of
the fastest)
        bf16             fp32
   256  ▏         2.0 %  ▏         2.0 %
  1024  ███▊       41 %  ███▊       41 %
  4096  ████████▏  90 %  ████████▏  90 %
120M's own products in bf16, micro-batch
8 × 1,024 tokens
  mlp up  8192×3072×768 ×12, forward 120
          TFLOP/s, data gradient 120
          TFLOP/s, weight gradient 120
          TFLOP/s; 11.6 ms a step
  head    8192×3072×768 ×12, forward
          WRONG
  all     n/a (2 were not measured)
all 2 GPUs on bf16 8192×8448×8192
  cuda:0  alone 153.0 TFLOP/s (151.5 to
          154.5), all at once 150.0
          TFLOP/s (148.5 to 151.5), 98 %
          of alone; correct
  cuda:1  alone 152.0 TFLOP/s (150.5 to
          153.5), all at once 135.0
          TFLOP/s (133.7 to 136.3), 89 %
          of alone; correct
  all     285 TFLOP/s; cuda:1 is the
          slowest, 10 % behind the
          others, and sets the pace
  not run  fp8: needs compute capability
           8.9, this GPU has 8.6
  not run  2 of the model's 15 products
           in bf16: ran out of time
"""


@pytest.mark.parametrize(("width", "expected"), [(100, WIDE), (40, NARROW)])
def test_everything_is_on_the_screen_and_fits(width, expected):
    shown = screen(RESULT, width)
    assert shown == expected
    assert max(len(line) for line in shown.splitlines()) <= width


def test_a_ceiling_that_a_product_beats_clearly_says_so_unless_its_clock_tells_why():
    unread = msgspec.structs.replace(phase(13.3, 20.0, 153.6e12, 72.0), sm_clock_hertz=Absent("not read"))
    no_clock = (msgspec.structs.replace(RESULT.ceilings[0], hot=unread),)
    faster = msgspec.structs.replace(RESULT, shapes=(product("bf16", "mlp up", "forward", 160e12),))
    assert "was faster" not in screen(faster, 100)
    faster = msgspec.structs.replace(faster, ceilings=no_clock)
    assert "mlp up forward was faster than that, 160 TFLOP/s" in screen(faster, 100)
    assert "was faster" not in screen(RESULT, 100)
    slow = msgspec.structs.replace(phase(13.3, 20.0, 90e12, 72.0))
    slowed = msgspec.structs.replace(RESULT.ceilings[0], hot=slow)
    shown = screen(msgspec.structs.replace(RESULT, ceilings=(slowed,), shapes=()), 100)
    assert "this shape in the search was faster than that, 157 TFLOP/s" in shown


def test_a_whole_step_is_told_with_its_interval_and_its_share_of_the_ceiling():
    step = GemmStep(dtype="bf16", micro_batch=8, sequence=1024, flop=10**12, seconds=estimate(0.01, 0.02))
    shown = screen(msgspec.structs.replace(RESULT, steps=(step,)), 120)
    assert "all     10.0 ms (9.8 to 10.2) a step expected for 1 TFLOP: 100 TFLOP/s, 65 % of the ceiling" in shown


def test_a_ceiling_that_was_not_found_says_so_and_a_product_stands_for_it_where_there_is_one():
    short = Absent("not found: ran out of time; 3 shapes tried")
    cut = msgspec.structs.replace(RESULT.ceilings[0], hot=short, burst=short, hot_over_burst=short)
    alone = msgspec.structs.replace(RESULT, ceilings=(cut,), shapes=(), steps=(), best_flops_per_s={})
    assert "bf16  n/a (not found: ran out of time; 3 shapes tried)" in screen(alone, 100)
    named = {"bf16": "mlp up forward, 8192×3072×768"}
    result = msgspec.structs.replace(alone, best_flops_per_s={"bf16": estimate(120e12)}, best_product=named)
    lines = [line.strip() for line in screen(result, 100).splitlines()]
    assert "bf16  120.0 TFLOP/s (118.8 to 121.2)" in lines
    assert "found by  mlp up forward, 8192×3072×768, in a short test" in lines
    assert "hot       n/a (not found: ran out of time; 3 shapes tried)" in lines


def test_an_interrupted_load_claims_nothing():
    cut = msgspec.structs.replace(
        RESULT.ceilings[0],
        hot=Absent("interrupted after 3.0 of 20.0 s of load"),
        hot_over_burst=Absent("interrupted after 3.0 of 20.0 s of load"),
        share_of_datasheet=Absent("no datasheet peak for this device and dtype"),
    )
    shown = screen(msgspec.structs.replace(RESULT, ceilings=(cut,), shapes=(), steps=()), 100)
    assert "bf16  n/a (interrupted after 3.0 of 20.0 s of load)" in shown
    assert "efficiency over size" not in shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "    "), (0.001, "▏   "), (0.5, "██  "), (0.53, "██▏ "), (1.0, "████"), (1.7, "████")],
)
def test_a_bar_is_drawn_in_eighths_and_never_overflows(share, shown):
    assert bars.bar(share, 4) == shown


@pytest.mark.parametrize(
    ("together", "said"),
    [
        (135e12, "90 % of alone; correct"),
        (149.5e12, "as fast as alone; correct"),  # within what both are sure to
        (160e12, "faster than alone, which was disturbed; correct"),
    ],
)
def test_a_card_beside_the_others_is_held_against_itself_alone(together: float, said: str):
    fleet = msgspec.structs.replace(RESULT.fleet, lanes=(lane(0, 150e12, together), lane(1, 150e12, 150e12)))
    shown = " ".join(screen(msgspec.structs.replace(RESULT, fleet=fleet), 100).split())
    assert f"all at once {together / 1e12:.1f} TFLOP/s" in shown
    assert said in shown


@pytest.mark.parametrize(
    ("sizes", "said"), [((4, 4), "4 shapes"), ((5, 2), "2 to 5 shapes (by dtype)"), ((), "0 shapes")]
)
def test_how_many_shapes_were_tried_is_a_number_or_a_range(sizes: tuple[int, ...], said: str):
    made = [
        msgspec.structs.replace(its, looks=(look(512, 1e12), *its.looks)[-size:])
        for its, size in zip(RESULT.ceilings, sizes, strict=False)
    ]
    console = Console(file=io.StringIO(), width=200)
    render.brief(msgspec.structs.replace(RESULT, ceilings=tuple(made), best_flops_per_s={}), console)
    assert f"the fastest of {said}" in console.file.getvalue()
