"""Is a budget's first screen its answer, whole at every width, and are several rigs comparable?"""

from __future__ import annotations

import msgspec
from budget_slices import M5, M30, M120, plan, request, stored
from test_budget_screen import AT_95_W, US, card
from test_first_screens import holds, printed

from rigbench.budget.record import CardPrice, Refused
from rigbench.budget.screen import brief
from rigbench.work import power as cost

HERE = """\
ok    budget: 1.2 EFLOP on Some CPU, 2 threads: 44 days (40 to 53), 101 kWh, 19 USD
 model      tokens/s                 days              kWh            USD  known from
 5M            9,000  1.09 (1.03 to 1.15)             2.48           0.46  trained here 30 s
 15M           3,800     2.6 (2.1 to 3.2)              5.9            1.1  between 5M and 30M
 30M           2,000     4.9 (4.7 to 5.2)             11.2           2.09  trained here 30 s
 60M             890         11 (9 to 14)               25            4.7  between 30M and 120M
 120M            400  24.5 (23.3 to 25.8)               56           10.5  trained here 30 s
 overheads                    0.29 to 3.9                                  mostly assumed
 in all                     44 (40 to 53)  101 (91 to 121)  19 (17 to 23)
  models    5M to 120M with 846.7M tokens each; adamw, bf16, eager
  overhead  warm-up 5 s, evaluation 7 h 23 min, checkpoints 37 min 41 s, restarts 2 h 12 min; mostly
            assumed
  assumed   hot steady state: not measured: 0 to 5 % more is assumed (`rigbench thermals` measures
            it, or hot-over-cold)
  price     0.1872 USD/kWh, US residential average, 2026-04 (EIA)
  note  left out 1 short run of 5M: measured on cpu (Some CPU, 2 threads), adamw, fp32
  how sure  90 % intervals; 3 of 5 sizes measured. Halve it: rigbench train-probe --params 60M
            --precision bf16 --variants one (1 min) takes 60M from ±22 % to about ±5.0 %
  more      rigbench report RUN --verbose: each overhead, watts, scaling laws, every assumption.
            next: rigbench backtest RUN train.log, once it has run
"""
ELSEWHERE = """\
note  budget: 1.2 EFLOP on 2 × Some Card (ddp): 4.5 h (4.1 to 5.8), 3.4 kWh, 0.6 USD
  warn  You said 48 h. This rig needs 1/11 of that: 48 h would be 6.94 TFLOP/s, 3.5 % of the 200
        TFLOP/s peak of 2 Some Card, so the cards are not what takes the time. Next: `rigbench
        backtest --on 2xsome-card --model SIZE LOG`
 rig                          h               kWh               USD          rent USD  of peak
 2xsome-card   4.5 (4.1 to 5.8)  3.4 (2.6 to 5.0)  0.6 (0.5 to 0.9)  4.5 (4.1 to 5.8)     43 %
 some-card    8.7 (7.9 to 11.1)  3.7 (2.9 to 5.3)  0.7 (0.5 to 1.0)               n/a     44 %
 rent USD n/a (no rent is known of such a card; give --set rent='1.50 USD'): some-card
 tiny-card: no answer (120M does not fit)
2 × Some Card (ddp); the others with `--on NAME`:
 model      tokens/s                 h               kWh               USD
 120M        100,000  4.5 (4.1 to 5.6)               3.4               0.6
 overheads               0.049 to 0.24
 in all               4.5 (4.1 to 5.8)  3.4 (2.6 to 5.0)  0.6 (0.5 to 0.9)
  models    120M with 1.6B tokens; adamw, bf16, compiled, ddp on 2
  overhead  compile 1 min, warm-up 30 s, evaluation 1 min 52 s, checkpoints 16 s, restarts 35 s;
            mostly assumed
  assumed   restarts: 0.1 a day (assumed, restarts-per-day), each loses half of what lies between
            checkpoints
  price     0.1872 USD/kWh, US residential average, 2026-04 (EIA)
  how sure  90 % intervals, from published runs; nothing was measured there. Halve it: rigbench
            train-probe --params 120M (1 min there), or --known with a published run of it, takes
            120M from ±30 % to about ±6.0 %
  more      rigbench report RUN --verbose: each overhead, watts, scaling laws, every assumption.
            next: rigbench capacity --on 2xsome-card
"""


def test_the_first_screen_of_this_rig():
    slices = [
        stored(M5, 9000.0),
        stored(M30, 2000.0, "r2"),
        stored(M120, 400.0, "r3"),
        stored(M5, 5.0, precision="fp32"),
    ]
    holds(brief, plan(request(1.2e18, watts=AT_95_W, price=US), slices), HERE)


def test_the_first_screen_of_rigs_elsewhere_side_by_side():
    rent = CardPrice(0.5, "USD", "a provider, 2026-09-01 (--rent)")
    budget = msgspec.structs.replace(
        card("2xsome-card", 100_000.0, 2, rent),
        others=(card("some-card", 52_000.0, 1),),
        refused=(Refused("tiny-card", "120M does not fit"),),
    )
    holds(brief, budget, ELSEWHERE)


def test_wall_watts_are_never_beside_gpu_watts():
    wall, other = card("2xsome-card", 100_000.0, 2), card("some-card", 52_000.0, 1)
    gpus = next(part.watts for part in other.power.split if part.name == cost.GPUS)
    power = msgspec.structs.replace(other.power, watts=gpus, covers="GPUs only", split=())
    kwh = cost.kwh(other.whole.hours, power)
    lacking = msgspec.structs.replace(other.whole, kwh=kwh, money=cost.money(kwh, power, US))
    other = msgspec.structs.replace(other, power=power, whole=lacking)
    lines = printed(brief, msgspec.structs.replace(wall, others=(other,)), quiet=True).splitlines()
    heading = next(line for line in lines if line.split()[:1] == ["rig"])
    rows = {line.split()[0]: line.split() for line in lines if line.endswith(" %")}
    assert "kWh (GPUs only)" in heading
    # 600 W over 4.53 h and 300 W over 8.7 h: the same work by cards that draw alike
    assert rows["2xsome-card"][5:6] == ["2.7"]
    assert rows["some-card"][5:6] == ["2.6"]
    assert "USD n/a (the watts cover GPUs only, not the wall; " in " ".join(lines)


def test_what_was_asked_for_is_said_as_it_was_asked_for():
    asked = request(48.0, (M120,), "120M", kind="hours", watts=AT_95_W)
    lines = printed(brief, plan(asked, [stored(M120, 400.0)])).splitlines()
    assert lines[0].startswith("ok    budget: 48 h on Some CPU, 2 threads buy ")
    assert next(line for line in lines if line.startswith(" in all")).split()[2] == "48.0"


def test_declared_kwh_are_judged_beside_declared_hours():
    asked = request(1.2e18, (M120,), "120M", watts=AT_95_W, declared_hours=48.0, declared_kwh=35.0)
    text = printed(brief, plan(asked, [stored(M120, 400.0)]), 200)
    assert "  warn  You said 48 h. This rig needs " in text
    assert "  note  You said 35 kWh. It takes more, " in text


def test_twelve_rigs_are_one_screen():
    others = tuple(card(f"rig-{number}", 50_000.0 + number, 1) for number in range(11))
    shown = printed(brief, msgspec.structs.replace(card("2xsome-card", 100_000.0, 2), others=others))
    assert len(shown.splitlines()) <= 40
    assert "rig-10" in shown
    assert " model " not in shown
