"""Does a budget's screen say the answer first, everything it rests on, and nothing that is not in the record?"""

from __future__ import annotations

import io

import msgspec
import pytest
from budget_slices import CPU, GPU, M5, M15, M30, M60, M120, NOTHING_ON_TOP, energy, plan, request, stored
from rich.console import Console

from rigbench.budget import money
from rigbench.budget.plan import Forecast, Machine, assemble
from rigbench.budget.record import Budget, CardPrice, Configuration, NextSlice, Rate, Refused, RigPrice
from rigbench.budget.screen import show
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.model.recipe import Recipe
from rigbench.work import power as cost
from rigbench.work.record import PowerPart, WattOptions

AT_95_W, AT_100_W = WattOptions(wall_watts=95.0), WattOptions(wall_watts=100.0)
US = Price(per_kwh=0.1872, currency="USD", place="US residential average", date="2026-04", source="EIA")
HERE = """\
1.2 EFLOP on Some CPU, 2 threads: 44 days (40 to 53), 101 kWh, 19 USD
5M to 120M with 846.7M tokens each
on cpu (Some CPU, 2 threads), adamw, bf16

 model  params                tokens/s   steps                 days   kWh    USD  source
 5M       5.4M  9,000 (8,600 to 9,500)  826.9K  1.09 (1.03 to 1.15)  2.48  0.465  measured
 15M     14.5M  3,800 (3,000 to 4,700)  826.9K     2.6 (2.1 to 3.2)  5.91   1.11  predicted
 30M     30.4M  2,000 (1,900 to 2,100)  826.9K     4.9 (4.7 to 5.2)  11.2   2.09  measured
 60M     61.5M      890 (720 to 1,120)  826.9K         11 (9 to 14)  25.0   4.68  predicted
 120M   124.5M        400 (380 to 420)  826.9K  24.5 (23.3 to 25.8)  55.9   10.5  measured
 all                                                  44 (40 to 49)   100   18.8

 overheads                       time  based on
 hot steady state       0 to 2.4 days  not measured: 0 to 5 % more is assumed (`rigbench thermals`
                                       measures it, or hot-over-cold)
 compile                          0 s  not compiled
 warm-up                       5.00 s  1.00 s a start until the pace is steady, measured with the
                                       short runs
 evaluation        7.4 h (6.7 to 8.2)  1.0M tokens every 50M tokens, each at 1/3 of its training
                                       time (assumed, eval-every, eval-tokens)
 checkpoints           9.4 to 190 min  every hour and at the end, at 500 MB/s (assumed,
                                       checkpoint-every, disk-speed)
 restarts                   0 to 25 h  0.1 a day (assumed, restarts-per-day), each loses half of
                                       what lies between checkpoints
 whole run         44 days (40 to 53)

if one model got all of 1.2 EFLOP, training steps only
 model  params  tokens  per parameter                 days   kWh   USD
 5M       5.4M   37.2B          6,920        48 (45 to 50)   109  20.4
 15M     14.5M   13.8B            948        42 (34 to 53)  96.2  18.0
 30M     30.4M    6.6B            217  38.1 (36.2 to 40.1)  86.9  16.3
 60M     61.5M    3.3B           52.9        42 (34 to 53)  96.0  18.0
 120M   124.5M    1.6B           12.9        46 (44 to 49)   106  19.8

achieved    360 GFLOP/s (320 to 400) over the series: 1.37 EFLOP counted exactly, 1.2 EFLOP as 6·N·D
            3.76 GFLOP per joule (exact FLOP, whole run)
to measure  rigbench train-probe --params 60M --precision bf16 --variants one on this rig would take
            60M from ±22 % to about ±5.0 %
step        1,024 tokens, as the short runs had
disk        a checkpoint of the largest takes 1.39 GiB, 5.28 GiB for the 10 that are kept: weights
            and AdamW's two moments in fp32; the last 2 of each model (assumed, keep-checkpoints)
based on    r1 5M, r2 30M, r3 120M
why wide    5M, 15M, 30M, 60M, 120M: ±5.0 % between processes is assumed (1 run stored)
            15M, 60M: ±22 % between sizes (measured sizes left out one at a time were at most 22 %
            off)
power       95.0 W (wall), declared: wall-watts
price       0.1872 USD/kWh, US residential average, 2026-04 (EIA)
CO₂         n/a (no CO₂ of a kWh is known of that place; give --carbon G)
optimum     by scaling laws, 1.2 EFLOP on one model: 57.3M to 102.8M parameters, 1.9B to 6.3B tokens
            (Kaplan 2020, Hoffmann 2022, as printed, Hoffmann 2022, source digits, Besiroglu 2024)
            120M would come to a loss of 3.06 to 3.71 nats a token by them: losses are of the laws'
            own data and tokenizer (MassiveText, WebText2); another data set is off by a constant
            that only a run on it can show
            critical batch at the end, by Kaplan 2020: 524.2K to 1.1M tokens a step; more buys
            little
assumed     FLOP are counted as 6·N·D, N all parameters, tied weights once
            a model's hours are training steps alone; the whole run has the overheads in it, at the
            watts of training
            errors are shared by the models of one rig: a sum's interval is the sum of the rows'
            lows and highs
left out    1 short run of 5M: measured on cpu (Some CPU, 2 threads), adamw, fp32
warning     5M alone would see 6,920 tokens per parameter, 15M 948: more data than a model of that
            size can use (about 20 is compute-optimal)"""
ELSEWHERE = """\
1.2 EFLOP on 2 × Some Card (ddp): 4.5 h (4.1 to 5.8), 3.4 kWh, 0.6 USD
120M with 1.6B tokens
You said 48 h. This rig needs 1/11 of that: 48 h would be 6.94 TFLOP/s, 3.5 % of the 200 TFLOP/s
peak of 2 Some Card, so the cards are not what takes the time. Next: `rigbench backtest --on
2xsome-card --model SIZE LOG`
on 2xsome-card: cuda (2 × Some Card), adamw, bf16, compiled, ddp on 2; nothing was measured there:
every figure is predicted

 rig                          h               kWh               USD          rent USD  of peak
 2xsome-card   4.5 (4.1 to 5.8)  3.4 (2.6 to 5.0)  0.6 (0.5 to 0.9)  4.5 (4.1 to 5.8)     43 %
 some-card    8.7 (7.9 to 11.1)  3.7 (2.9 to 5.3)  0.7 (0.5 to 1.0)               n/a     44 %
rent USD n/a (no rent is known of such a card; give --set rent='1.50 USD'): some-card
tiny-card: no answer (120M does not fit)

2xsome-card in detail; the others with `--on NAME`

 model  params                     tokens/s   steps                 h   kWh    USD
 120M   124.5M  100,000 (80,000 to 110,000)  98,067  4.5 (4.1 to 5.6)  3.37  0.631

 overheads                         time  based on
 hot steady state                   0 s  already included: the published runs behind the speed were
                                         hot
 compile                          1 min  1 min a model (compile-time)
 warm-up                    10 to 120 s  30.0 s a start, assumed (warm-up)
 evaluation        1.9 min (1.7 to 2.3)  1.0M tokens every 50M tokens, each at 1/3 of its training
                                         time (assumed, eval-every, eval-tokens)
 checkpoints                4.1 to 82 s  every hour and at the end, at 500 MB/s (assumed,
                                         checkpoint-every, disk-speed)
 restarts                  0 to 7.7 min  0.1 a day (assumed, restarts-per-day), each loses half of
                                         what lies between checkpoints
 whole run           4.5 h (4.1 to 5.8)

achieved    85 TFLOP/s (68 to 94): 1.37 EFLOP counted exactly, 1.2 EFLOP as 6·N·D
            43 % (34 to 47) of the peak, 200 TFLOP/s (2 × Some Card, bf16)
            111 GFLOP per joule (exact FLOP, whole run)
to measure  rigbench train-probe --params 120M on 2xsome-card would take 120M from ±30 % to about
            ±6.0 %
step        16 × 1,024 tokens
disk        a checkpoint of the largest takes 1.39 GiB, 2.78 GiB for the 2 that are kept: weights
            and AdamW's two moments in fp32; the last 2 of each model (assumed, keep-checkpoints)
based on    datasheet of 2xsome-card, published training runs
interval    90 %: of published runs
power       756 W (wall), predicted: (GPUs + host) / 0.90, the parts below
            GPUs 600 W, predicted: a test's word
            host 80.0 W, declared: host-watts
            power supply 75.6 W, predicted: 0.90 efficiency, assumed: 80 PLUS Gold at half load, 115
            V
price       0.1872 USD/kWh, US residential average, 2026-04 (EIA)
CO₂         n/a (no CO₂ of a kWh is known of that place; give --carbon G)
rented      4.5 USD (4.1 to 5.8): 2 × 0.50 USD an hour: a provider, 2026-09-01 (--rent)
purchase    0.41 USD (0.37 to 0.53) of 2,400 USD (1,200 USD MSRP a card) over 3 years around the
            clock, assumed (lifetime)
break-even  bought is cheaper than rented after 2,800 h (2,730 to 2,860), 617 such runs: 0.141 USD
            of electricity an hour against the rent
optimum     by scaling laws, 1.2 EFLOP on one model: 57.3M to 102.8M parameters, 1.9B to 6.3B tokens
            (Kaplan 2020, Hoffmann 2022, as printed, Hoffmann 2022, source digits, Besiroglu 2024)
            120M would come to a loss of 2.98 to 3.49 nats a token by them: losses are of the laws'
            own data and tokenizer (MassiveText, WebText2); another data set is off by a constant
            that only a run on it can show
            critical batch at the end, by Kaplan 2020: 524.2K to 1.1M tokens a step; more buys
            little
assumed     FLOP are counted as 6·N·D, N all parameters, tied weights once
            a model's hours are training steps alone; the whole run has the overheads in it, at the
            watts of training
            errors are shared by the models of one rig: a sum's interval is the sum of the rows'
            lows and highs
            data is taken to keep up"""


def screen(budget: Budget, width: int = 100) -> str:
    out = io.StringIO()
    show(budget, Console(file=out, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_whole_screen_of_this_rig():
    slices = [
        stored(M5, 9000.0),
        stored(M30, 2000.0, "r2"),
        stored(M120, 400.0, "r3"),
        stored(M5, 5.0, precision="fp32"),
    ]
    budget = plan(request(1.2e18, watts=AT_95_W, price=US), slices)
    assert screen(budget) == HERE


def card(name: str, its_rate: float, cards: int, rent: CardPrice | Absent = money.NO_RENT) -> Budget:
    """A rig that does 120M at so many tokens a second, 20 % less to 10 % more, and draws 300 W a card and 100 W."""
    configuration = Configuration(
        device=msgspec.structs.replace(GPU, name="Some Card"),
        recipe=Recipe(precision="bf16", compiled=True, strategy="ddp" if cards > 1 else "single", ranks=cards),
        host_allocator="default",
    )
    watts = Figure(300.0 * cards, "predicted", "a test's word", 250.0 * cards, 350.0 * cards)
    machine = Machine(
        configuration=configuration,
        cards=cards,
        card="Some Card",
        power=cost.at_wall([PowerPart("GPUs", watts)], WattOptions(host_watts=80.0)),
        name=name,
        peak_flops_per_s=Figure(100e12 * cards, "datasheet", f"{cards} × Some Card, bf16"),
        hot_extra=Estimate(0.0, 0.0, 0.0, 1.0, "", 0),
        hot_basis="already included: the published runs behind the speed were hot",
        rent=rent,
        purchase=RigPrice(Figure(1200.0 * cards, "datasheet", "1,200 USD MSRP a card"), "USD"),
        notes=("data is taken to keep up",),
        next_slice=NextSlice("rigbench train-probe --params 120M", "120M", 0.3, 0.06, "a test"),
    )
    estimate = Estimate(its_rate, 0.8 * its_rate, 1.1 * its_rate, 0.9, "", 14)
    rate = Rate(estimate, "predicted", (f"datasheet of {name}", "published training runs"), ("of published runs",))
    its = Forecast(M120, rate, 16384, "16 × 1,024 tokens")
    asked = request(1.2e18, (M120,), "120M", price=US, declared_hours=48.0, compile_time=60.0)
    return assemble(asked, machine, [its], "2026-05-02T00:00:00Z")


def test_the_whole_screen_of_rigs_elsewhere_side_by_side():
    rent = CardPrice(0.5, "USD", "a provider, 2026-09-01 (--rent)")
    budget = msgspec.structs.replace(
        card("2xsome-card", 100_000.0, 2, rent),
        others=(card("some-card", 52_000.0, 1),),
        refused=(Refused("tiny-card", "120M does not fit"),),
    )
    assert screen(budget) == ELSEWHERE


def test_what_hours_buy_is_said_as_flop_and_tokens_and_not_as_hours():
    asked = request(48.0, (M120,), "120M", kind="hours", watts=AT_100_W, **NOTHING_ON_TOP, hot_over_cold=1.0)
    first = screen(plan(asked, [stored(M120, 400.0)]), 200).splitlines()[0]
    # 48 h at 400 tokens/s are 69.12M tokens, and 6 · 124,475,904 of that 51.6 PFLOP
    assert first == "48 h on Some CPU, 2 threads buy 52 PFLOP (49 to 54), 4.8 kWh"


def test_where_hours_are_all_that_is_known_nothing_is_promised_after_them():
    asked = request(48.0, (M120,), "120M", kind="hours")
    first = screen(plan(asked, [stored(M120, 400.0)]), 200).splitlines()[0]
    assert first == "48 h on Some CPU, 2 threads buy 51 PFLOP (45 to 54)"


def test_money_that_is_asked_for_is_not_answered_with_money():
    asked = request(10.0, (M120,), "120M", kind="electricity", watts=AT_100_W, price=US)
    first = screen(plan(asked, [stored(M120, 400.0)]), 200).splitlines()[0]
    assert first.startswith("10.00 USD of electricity on Some CPU, 2 threads buy ")
    assert first.count("USD") == 1


def test_models_with_unlike_tokens_have_a_column_of_them():
    budget = plan(request(1.2e18, split="compute-optimal"), [stored(M30, 2000.0)])
    lines = screen(budget).splitlines()
    assert lines[1] == "5M to 120M with 52.6M to 1.2B tokens, in proportion to size"
    assert next(line for line in lines if line.split()[:1] == ["model"]).split()[:3] == ["model", "params", "tokens"]


def test_without_watts_the_reason_is_said_once_and_there_is_no_column():
    text = screen(plan(request(1.2e18), [stored(M30, 2000.0)]), 200)
    assert text.count("n/a") == 1
    assert "kWh, money  n/a (no watt reading on this machine and none declared; give --wall-watts W)" in text
    assert text.count("kWh") == 1


def test_gpu_watts_are_shown_as_not_the_bill():
    slices = [stored(M60, 90000.0, device=GPU, energy=energy(300.0))]
    text = screen(plan(request(1.2e18, (M60,), "60M", price=US), slices), 200)
    assert text.splitlines()[0].startswith("1.2 EFLOP on Some GPU: ")
    assert text.splitlines()[0].endswith(" kWh (GPUs only)")
    assert "power       300 W (GPUs only), measured: GPUs read beside 1 short run" in text
    assert (
        "money       n/a (the watts cover GPUs only, not the wall; give --set host-watts=W or --wall-watts W)" in text
    )
    assert "each model alone" not in text


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_narrow_terminal_eats_no_digit(width: int):
    budget = plan(
        request(1.2e18, watts=AT_95_W, price=US),
        [stored(M15, 4000.0), stored(M60, 900.0)],
    )
    assert "…" not in screen(budget, width)


def test_names_with_brackets_are_shown_as_they_are():
    device = type(CPU)(kind="cpu", name="CPU [/bold] [red]", uuid=CPU.uuid, threads=2, memory_total_bytes=1)
    assert "CPU [/bold] [red]" in screen(plan(request(1.2e18), [stored(M30, 9.0, device=device)]))


def test_a_budget_survives_its_file():
    budget = plan(request(1.2e18, watts=AT_95_W, price=US), [stored(M30, 2000.0)])
    assert msgspec.json.decode(msgspec.json.encode(budget), type=Budget) == budget


def test_hot_over_cold_declared_is_on_its_own_line():
    asked = request(1e17, (M120,), "120M", hot_over_cold=0.9)
    assert "hot over cold 0.9 (hot-over-cold)" in screen(plan(asked, [stored(M120, 400.0)]))
