"""Does a budget's screen say the answer first, everything it rests on, and nothing that is not in the record?"""

from __future__ import annotations

import io

import pytest
from budget_slices import CPU, DIY, GPU, M5, M15, M30, M60, M120, energy, stored
from rich.console import Console

from rigbench.budget.plan import Question, plan
from rigbench.records import Budget, Price
from rigbench.render.budget import show

US = Price(per_kwh=0.1872, currency="USD", place="US residential average", date="2026-04", source="EIA")
SCREEN = """\
1.2 EFLOP for the series diy with equal tokens (846.7M tokens each): 1,060 h
(956 to 1,180 h), 100 kWh (90.8 to 112 kWh), 18.8 USD (17.0 to 20.9 USD)
on cpu (Some CPU, 2 threads), adamw, bf16

model  params      tokens/s                 hours   kWh    USD  source
5M       5.4M  9,000 ±5.1 %   26.1 (24.8 to 27.5)  2.48  0.465  measured
15M     14.5M   3,780 ±22 %   62.2 (49.9 to 77.7)  5.91   1.11  predicted
30M     30.4M  2,000 ±5.1 %      118 (112 to 124)  11.2   2.09  measured
60M     61.5M     894 ±22 %      263 (211 to 328)  25.0   4.68  predicted
120M   124.5M    400 ±5.1 %      588 (559 to 619)  55.9   10.5  measured
all                          1,060 (956 to 1,180)   100   18.8

each model alone with all of 1.2 EFLOP
model  params  tokens  per parameter                   hours   kWh   USD
5M       5.4M   37.2B          6,920  1,150 (1,090 to 1,210)   109  20.4
15M     14.5M   13.8B            948    1,010 (811 to 1,260)  96.2  18.0
30M     30.4M    6.6B            217        915 (870 to 963)  86.9  16.3
60M     61.5M    3.3B           52.9    1,010 (810 to 1,260)  96.0  18.0
120M   124.5M    1.6B           12.9  1,120 (1,060 to 1,170)   106  19.8

achieved  360 GFLOP/s (324 GFLOP/s to 399 GFLOP/s) over the series: 1.37 EFLOP
          counted exactly, 1.2 EFLOP as 6·N·D
rests on  r1 5M, r2 30M, r3 120M
widened   5M, 15M, 30M, 60M, 120M: ±5.0 % between processes is assumed (1 run
          stored)
          15M, 60M: ±22 % between sizes (measured sizes left out one at a time
          were at most 22 % off)
power     95.0 W (wall), declared: --wall-watts
price     0.1872 USD/kWh, US residential average, 2026-04 (EIA)
assumed   FLOP are counted as 6·N·D, N all parameters, tied weights once
          hours are training steps alone: compile, evaluation, checkpoints and
          restarts are not included
          thermal steady state not measured: the slices were minutes long, and a
          hot device may be slower
          errors are shared by the models of one rig: the series' interval is
          the sum of the rows' lows and highs
left out  1 slice of 5M: measured on cpu (Some CPU, 2 threads), adamw, fp32
warning   5M alone would see 6,920 tokens per parameter, 15M 948: more data than
          a model of that size can use (about 20 is compute-optimal)
          2 of 5 models are predicted, not measured; rigbench train-probe
          --params 60M would narrow this most"""


def screen(budget: Budget, width: int = 80) -> str:
    out = io.StringIO()
    show(budget, Console(file=out, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_whole_screen():
    slices = [
        stored(M5, 9000.0),
        stored(M30, 2000.0, "r2"),
        stored(M120, 400.0, "r3"),
        stored(M5, 5.0, precision="fp32"),
    ]
    budget = plan(Question(1.2e18, "diy", DIY, wall_watts=95.0, price=US), slices, "2026-05-02T00:00:00Z")
    assert screen(budget) == SCREEN


def test_without_watts_the_reason_is_said_once_and_there_is_no_column():
    text = screen(plan(Question(1.2e18, "diy", DIY), [stored(M30, 2000.0)], "now"), 200)
    assert text.count("n/a") == 1
    assert "kWh, money  n/a (no watt reading on this machine and none declared; give --wall-watts W)" in text
    assert text.count("kWh") == 1


def test_gpu_watts_are_shown_as_not_the_bill():
    slices = [stored(M60, 90000.0, device=GPU, energy=energy(300.0))]
    text = screen(plan(Question(1.2e18, "60M", (M60,), price=US), slices, "now"), 200)
    assert text.startswith("1.2 EFLOP for 60M (")
    assert text.splitlines()[0].endswith(" kWh GPUs only)")
    assert "power     300 W (GPUs only), measured: GPUs read beside 1 slice" in text
    assert "money     n/a (the watts cover GPUs only, not the wall; give --host-watts W or --wall-watts W)" in text
    assert "each model alone" not in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_narrow_terminal_eats_no_digit(width: int):
    budget = plan(
        Question(1.2e18, "diy", DIY, wall_watts=95.0, price=US), [stored(M15, 4000.0), stored(M60, 900.0)], "now"
    )
    assert "…" not in screen(budget, width)


def test_names_with_brackets_are_shown_as_they_are():
    device = type(CPU)(kind="cpu", name="CPU [/bold] [red]", uuid=CPU.uuid, threads=2, memory_total_bytes=1)
    assert "CPU [/bold] [red]" in screen(plan(Question(1.2e18, "diy", DIY), [stored(M30, 9.0, device=device)], "now"))
