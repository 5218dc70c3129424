"""Do predictions reach a budget as they should: what fits, in which batches, at which watts, corrected by what?"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from budget_slices import CPU, GPU, M5, M15, M30, M60, M120, plan, request, stored
from recipes import recipe

from rigbench.budget import forecast
from rigbench.budget.plan import Forecast, Machine, Request, assemble
from rigbench.budget.record import CardPrice
from rigbench.budget.slices import choose
from rigbench.core import profiles
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.document import Run
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.predict import ceilings, compiled, steptime
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Ceilings, Largest
from rigbench.predict.traces import Traces
from rigbench.thermals.record import HeatCard, HeatLoad, Thermals
from rigbench.work.record import WattOptions

US = Price(per_kwh=0.2, currency="USD", place="somewhere", date="2026-04", source="a test")


class Fits:
    """Stands in for the memory's predictor: so many sequences fit in each way."""

    def __init__(self, by_way: dict[tuple[int, int], int], on_cards: tuple[str, ...] = ()) -> None:
        self.by_way, self.on_cards, self.asked = by_way, on_cards, []

    def largest_micro_batch(self, model: Model, recipe: Recipe, target: object) -> Largest | Absent:
        self.asked.append(model.name)
        found = self.by_way.get((recipe.checkpoint_every, recipe.loss_chunks), 0)
        return Largest(found, None, Absent("not asked")) if found else Absent("not even one sequence fits")  # type: ignore[arg-type]

    def predict(self, model: Model, recipe: Recipe, target: object, program: str = "") -> object:
        made = compiled.prediction(model, recipe, target)  # type: ignore[arg-type]
        process = msgspec.structs.replace(made.process, low=1e15, high=1e15) if not self.by_way else made.process
        return msgspec.structs.replace(made, short_bytes=3 << 30, process=process)

    def fits(self, model: Model, recipe: Recipe, target: object) -> bool:
        return target.name in self.on_cards or recipe.optimizer in self.on_cards  # type: ignore[attr-defined]


def fitted(predictor: Fits, rig: str = "2xrtx-4080", **options: Any) -> Recipe:
    """Of the largest model."""
    asked = request(1.2e18, (M5, M120, M60), recipe=RecipeOptions(**options))
    return forecast.fitted(predictor, asked, profiles.rig_named(rig))[1]  # type: ignore[arg-type]


def test_each_model_is_trained_in_the_way_that_fits_the_largest_with_its_own_micro_batch():
    its = fitted(Fits({(0, 1): 13}))
    assert (its.micro_batch, its.strategy, its.ranks, its.precision) == (13, "ddp", 2, "bf16")
    three = forecast.fitted(Predictor(Traces(None)), request(1.2e18, (M5, M120, M60)), profiles.rig_named("rtx-4080"))
    assert three[0].micro_batch >= three[2].micro_batch > three[1].micro_batch >= 16
    assert len({msgspec.structs.replace(one, micro_batch=0) for one in three}) == 1
    assert fitted(Fits({(0, 1): 500}), "h200").micro_batch == 32  # more than 32,768 tokens gain little


def test_compiled_code_needs_no_recorded_step():
    class NoTraces:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for")

    predictor = Predictor(NoTraces())
    assert 14 <= fitted(predictor).micro_batch <= 20  # GPT-2 124M at 16 took 13.2 to 13.7 GB on ten published cards
    assert fitted(predictor, "h200").micro_batch == 32
    assert fitted(predictor, checkpoint_every=1).checkpoint_every == 1


def test_what_does_not_fit_plainly_is_chunked_and_then_checkpointed():
    assert fitted(Fits({(0, 8): 3})).loss_chunks == 8
    last = fitted(Fits({(1, 8): 2}))
    assert (last.checkpoint_every, last.loss_chunks, last.micro_batch) == (1, 8, 2)
    assert fitted(Fits({(0, 1): 2, (0, 8): 6})).loss_chunks == 8  # two sequences are few
    assert fitted(Fits({(0, 1): 2, (1, 8): 3})).micro_batch == 2  # and not much is gained by recomputing for a third
    assert fitted(Fits({(1, 8): 2}), checkpoint_every=0).micro_batch == 1  # may yet fit, and is not refused


def test_a_model_that_does_not_fit_is_said_with_what_would():
    with pytest.raises(RigbenchError) as refused:
        fitted(Fits({}, ("rtx-3090", "rtx-4090", "adamw8bit")))
    assert refused.value.exit_code == BAD_INPUT
    assert str(refused.value) == (
        "120M does not fit a card of 2xrtx-4080 even with checkpointing and a chunked loss: 3.0 GiB are missing at "
        "least; what would do: --on 2xrtx-3090 or --optimizer adamw8bit or a smaller model (`rigbench capacity --on "
        "2xrtx-4080` shows the largest)"
    )


@pytest.mark.parametrize(("rig", "strategy"), [("2xrtx-4080", "single"), ("h200", "ddp")])
def test_a_strategy_that_is_none_for_so_many_cards_is_refused(rig, strategy):
    with pytest.raises(RigbenchError, match=f"strategy {strategy} is none for the"):
        fitted(Fits({(0, 1): 13}), rig, strategy=strategy)


@pytest.mark.parametrize(("tokens", "micro_batch", "accumulation"), [(26_624, 13, 1), (524_288, 13, 20), (8192, 4, 1)])
def test_tokens_of_a_step_are_made_up_of_cards_micro_batches_and_accumulation(tokens, micro_batch, accumulation):
    its = forecast.batched(M120, fitted(Fits({(0, 1): 13})), tokens)
    assert (its.micro_batch, its.accumulation) == (micro_batch, accumulation)
    made = its.tokens_per_step(M120)
    assert made == pytest.approx(tokens, rel=0.05)


def elsewhere(rig: str, asked: Request) -> tuple[Machine, tuple[Forecast, ...]]:
    return forecast.elsewhere(Fits({(0, 1): 13}), asked, profiles.rig_named(rig))  # type: ignore[arg-type]


def asked(**more: Any) -> Request:
    return request(1.2e18, (M5, M120), price=US, **more)


def test_rates_of_a_rig_elsewhere_are_the_step_models_own():
    _, forecasts = elsewhere("2xrtx-4080", asked())
    limits = ceilings.from_rig(profiles.rig_named("2xrtx-4080"))
    step = steptime.predict(M120, recipe(micro_batch=13, strategy="ddp", ranks=2, compiled=True), limits)
    assert forecasts[1].rate.tokens_per_s == step.tokens_per_s
    assert forecasts[1].tokens_per_step == 2 * 13 * 1024
    assert forecasts[1].batch == "13 × 1,024 tokens × 2 cards"
    _, slower = elsewhere("2xrtx-4080", asked(recipe=RecipeOptions(compiled=False)))
    assert slower[1].rate.tokens_per_s.value < step.tokens_per_s.value


def test_two_cards_take_the_host_of_the_profile_with_the_same_cards():
    power = elsewhere("2xrtx-4080", asked())[0].power
    # shares of 2 · 320 W and the 90 W of dual-rtx-4080, behind a supply of 0.9
    shares = [(0.9 * watts - 90) / 640 for watts in (power.watts.low, power.watts.value, power.watts.high)]
    assert 0.6 < shares[0] < 0.8 < shares[1] < 0.95 < shares[2] <= 1
    assert "rig profile dual-rtx-4080, assumption" in power.split[1].watts.basis
    declared = asked(watts=WattOptions(wall_watts=729.0))
    assert elsewhere("2xrtx-4080", declared)[0].power.watts.value == 729.0


def test_without_any_known_host_the_cards_watts_are_not_called_the_bill():
    machine, forecasts = elsewhere("3xrtx-4080", asked())
    assert machine.power.covers == "GPUs only"
    budget = assemble(asked(), machine, forecasts, "now")
    assert isinstance(budget.whole.money, Absent)


def test_peak_rent_and_price_are_of_all_cards_with_their_sources():
    known, _ = elsewhere("2xrtx-4080", asked())
    assert known.peak_flops_per_s.value == pytest.approx(2 * 97.5e12)
    assert known.purchase.price.value == 2 * 1199
    assert isinstance(known.rent, Absent)  # nobody is known to rent it out
    rent = elsewhere("rtx-4090", asked())[0].rent
    assert (rent.per_hour, rent.currency) == (0.74, "USD")  # the newest of three
    assert rent.name == "RunPod, 2026-09-27, RunPod's pods page; listed from 0.34 to 0.74 (rent)"


def test_the_classic_claim_is_judged_by_the_same_rig():
    claim = asked(declared_hours=48.0)
    budget = assemble(claim, *elsewhere("2xrtx-4080", claim), "now")
    assert budget.sanity.sentence == (
        "You said 48 h. This rig needs 1/12 of that: 48 h would be 6.94 TFLOP/s, 3.6 % of the 195 TFLOP/s peak of 2 "
        "RTX 4080, so the cards are not what takes the time. Next: `rigbench backtest --on 2xrtx-4080 --model SIZE LOG`"
    )


def test_what_decides_most_of_a_rig_elsewhere_is_said_and_the_link_can_be_declared():
    machine, usual = elsewhere("2xrtx-4080", asked())
    link, batch, power = machine.decides
    # 0.3 of 16 lanes at 1.969 GB/s, which an all_reduce of two sees once
    assert link.startswith(
        "cards' link: all_reduce at 9.45 GB/s (PCIe 4.0 x16, assumed; through host memory, assumed; 30 % of it, "
        "--set link-speed=B/S); "
    )
    assert batch.startswith("micro-batch: 13, compiled, as many as fit and gain speed; 120M takes ")
    assert batch.endswith(" of 16 GiB")
    assert power.startswith("draw: a card takes ")
    assert " of its 320 W limit, modelled; published readings" in power
    declared, slower = elsewhere("2xrtx-4080", asked(link_speed=4.7e9))
    assert declared.decides[0].startswith("cards' link: all_reduce at 4.70 GB/s (link-speed); at half of that a step")
    assert slower[-1].rate.tokens_per_s.value < usual[-1].rate.tokens_per_s.value
    with pytest.raises(RigbenchError, match="link-speed is between cards, and rtx-4080 has one"):
        elsewhere("rtx-4080", asked(link_speed=4.7e9))


def test_the_next_slice_for_a_rig_elsewhere_is_a_whole_command():
    its = elsewhere("2xrtx-4080", asked())[0].next_slice
    assert its.command.startswith("rigbench train-probe --params ")
    assert its.command.endswith(" --precision bf16 --compile on --strategy ddp")
    assert its.half_width_then < its.half_width_now


def cpu_limits() -> Ceilings:
    def figure(value: float) -> Figure:
        return Figure(value, "measured", "a test")

    return Ceilings(
        kind="cpu",
        name=CPU.name,
        count=1,
        source="measured",
        matmul_flops_per_s={"bf16": figure(400e9), "fp32": figure(200e9)},
        memory_bytes_per_s=figure(20e9),
        launch_seconds=figure(10e-6),
        tdp_watts=Absent("a processor"),
        feed_hertz=Absent("a processor"),
        link=Absent("one"),
        data_tokens_per_s=Absent("not measured"),
        rests_on=("r9",),
    )


def predicted_rate(model) -> float:
    return steptime.predict(model, recipe(), cpu_limits()).tokens_per_s.value


def test_sizes_not_measured_here_are_predicted_and_corrected_by_those_that_were(monkeypatch):
    monkeypatch.setattr(ceilings, "from_runs", lambda runs, gpus: cpu_limits())
    # a rig that takes 1.3 times as long as predicted, at every size
    slices = [stored(model, predicted_rate(model) / 1.3) for model in (M5, M15, M120)]
    budget = plan(request(1e16, (M5, M15, M30, M120)), slices)
    assert [row.rate.source for row in budget.series] == ["measured", "measured", "predicted", "measured"]
    modelled = budget.series[2].rate
    assert modelled.tokens_per_s.value == pytest.approx(predicted_rate(M30) / 1.3, rel=0.05)
    assert modelled.rests_on == ("r1 5M", "r1 15M", "r1 120M")
    assert modelled.widened_by[0].startswith("model of the step: ")
    assert budget.next_slice.of == "120M"


def test_a_step_model_that_contradicts_interpolation_is_not_believed():
    slices = [stored(M15, 4000.0), stored(M60, 900.0)]
    chosen = choose((M15, M30, M60), slices)
    usual = forecast.surer(M30, chosen, None)
    far = msgspec.structs.replace(usual, tokens_per_s=Estimate(9000.0, 8900.0, 9100.0, 0.9, "a model", 2))
    assert forecast.surer(M30, chosen, far) == usual
    near = msgspec.structs.replace(usual, tokens_per_s=Estimate(1900.0, 1850.0, 1950.0, 0.9, "a model", 2))
    assert forecast.surer(M30, chosen, near) == near


def test_without_ceilings_the_next_slice_is_the_size_that_is_missing():
    slices = [stored(M15, 4000.0), stored(M60, 900.0)]
    known, _ = forecast.here(request(1e16, (M15, M30, M60)), slices)
    assert known.next_slice.command == "rigbench train-probe --params 30M --precision bf16 --variants one"
    assert known.next_slice.half_width_then == 0.05 < known.next_slice.half_width_now


def test_where_every_size_is_measured_the_next_slice_is_another_run_of_the_least_known():
    slices = [stored(M15, 4000.0), stored(M60, 900.0, within=0.2)]
    known, _ = forecast.here(request(1e16, (M15, M60)), slices)
    assert known.next_slice.command == "rigbench train-probe --params 60M --precision bf16 --variants one"
    assert isinstance(known.next_slice.half_width_then, Absent)


def test_a_gpu_of_this_rig_has_its_datasheet_beside_its_slices():
    device = msgspec.structs.replace(GPU, name="NVIDIA GeForce RTX 4090", memory_total_bytes=24564 << 20)
    slices = [stored(M120, 90_000.0, device=device, ranks=2, strategy="ddp")]
    known, _ = forecast.here(request(1e16, (M120,), "120M"), slices)
    assert known.peak_flops_per_s.value == pytest.approx(2 * 165.2e12)
    assert known.purchase.price.value == 2 * 1599
    assert known.rent.per_hour == 0.74
    budget = plan(request(1e16, (M120,), "120M", rent=CardPrice(2.0, "USD", "--rent")), slices)
    assert budget.rent.per_hour == 4.0


def blank(kind: type, **fields: object):
    """A record of which only some fields matter here."""
    return kind(**dict.fromkeys(kind.__struct_fields__, Absent("not asked")) | fields)


def soaked(name: str, *ratios: float) -> Run:
    cards = tuple(
        blank(
            HeatCard,
            load=blank(HeatLoad, device=GPU, ended_at_seconds=(), products=(), seconds=()),
            hot_over_cold=Estimate(ratio, ratio - 0.01, ratio + 0.01, 0.90, "batch means", 9),
        )
        for ratio in ratios
    )
    return blank(Run, id=name, thermals=blank(Thermals, cards=cards), slices=())


def test_heat_is_of_the_newest_soak_and_of_the_card_that_lost_most():
    newest, oldest = soaked("r8", 0.95, 0.90), soaked("r7", 0.5)
    extra, words = forecast.hot_of([newest, oldest], "cuda")
    assert (extra.value, extra.low, extra.high) == pytest.approx((1 / 0.90 - 1, 1 / 0.91 - 1, 1 / 0.89 - 1))
    assert words == "hot over cold 0.900, thermals of run r8"
    assert forecast.hot_of([newest, oldest], "cpu")[0].high == 0.05  # a soaked card says nothing of a processor
