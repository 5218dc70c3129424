"""Does a budget count the cards that a full run would use, and say where it counts fewer or measured others?"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from budget_slices import M5, M60, M120, energy, plan, request, stored, whole

from rigbench.budget import command, training
from rigbench.budget.brief import _facts, scaling_words
from rigbench.budget.record import Scaling
from rigbench.budget.slices import Wanted
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device, Figure, Skipped
from rigbench.job import Job
from rigbench.machine import cuda_map
from rigbench.machine.rig import Rig
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.p2p import arms as p2p_arms
from rigbench.p2p.record import P2p, P2pAdvice
from rigbench.predict import ceilings
from rigbench.store import Store
from rigbench.train import slices as train
from rigbench.train.record import Options, StoredSlice
from rigbench.work.process import Outcome
from rigbench.work.record import NOTHING_DECLARED

RIGS = Path(__file__).parent / "rigs"
CARD = "NVIDIA GeForce RTX 4080 SUPER"
ON_CARD = Device("cuda", CARD, "GPU-00000000-0000-0000-0000-000000000000", 1, 17171480576)


def job_on(folder: Path, rig: str = "dual-rtx4080s-x8x8") -> Job:
    return Job(Store(folder), Rig.replay(RIGS / rig), "budget", Silent())


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return job_on(tmp_path)


def single(model, rate: float, **changes):
    return stored(model, rate, device=ON_CARD, micro_batch=8, **changes)


def on_two(model, rate: float, **changes):
    return single(model, rate, strategy="ddp", ranks=2, **changes)


# ---- which cards, and how


@pytest.mark.parametrize(
    ("device", "recipe", "shown", "strategy", "indices", "remark"),
    [
        (None, {}, None, "ddp", (0, 1), ""),
        ("cuda", {}, None, "ddp", (0, 1), ""),
        (None, {"strategy": "fsdp2"}, None, "fsdp2", (0, 1), ""),
        (None, {"strategy": "single"}, None, "single", (0,), "one of 2 cards: one card was asked for"),
        ("cuda:1", {}, None, "single", (1,), "one of 2 cards: --device cuda:1 is one of 2 GPUs"),
        (None, {}, "1", "single", (1,), "one of 2 cards: CUDA_VISIBLE_DEVICES=1 leaves 1 of 2 GPUs"),
        ("cpu", {}, None, "single", (), ""),
    ],
)
def test_a_full_run_takes_all_alike_cards_unless_fewer_are_asked_for(
    job, monkeypatch, device, recipe, shown, strategy, indices, remark
):
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    its = training.wanted(job, device, RecipeOptions(**recipe))
    assert (its.strategy, its.cards.indices, its.remark) == (strategy, indices, remark)


def test_of_unlike_cards_the_others_are_named_with_why(job, monkeypatch):
    third = msgspec.structs.replace(
        job.gpus[0], index=2, name="NVIDIA GeForce RTX 3090", profile="rtx-3090", memory_total_bytes=24 << 30
    )
    monkeypatch.setitem(job.__dict__, "gpus", (*job.gpus, third))
    its = training.wanted(job, None, RecipeOptions())
    assert its.cards.indices == (0, 1)
    assert its.remark.startswith("2 of 3 cards: 1 × NVIDIA GeForce RTX 3090 left out: ranks wait for the slowest")


def test_a_strategy_of_several_cards_is_refused_where_one_is_visible(job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(RigbenchError, match="strategy ddp is for several GPUs, and CUDA_VISIBLE_DEVICES=0 leaves 1"):
        training.wanted(job, None, RecipeOptions(strategy="ddp"))


# ---- which slices are trained


class Trained:
    """Stands for the training of slices: keeps a slice of what was asked, or what `fails` says of it."""

    def __init__(self, job: Job, fails: str = "", kind: str = "cuda") -> None:
        self.job, self.fails, self.asked, self.kind = job, fails, [], kind

    def run(self, job, options, watts, its=None):
        recipe = options.recipe
        ranks = len(its.gpus) if its and recipe.strategy != "single" else 1
        self.asked.append((options.model.name, recipe.strategy, its.indices if its else (), recipe.micro_batch))
        if self.fails and recipe.strategy != "single":
            raise RigbenchError(self.fails, "")
        device = ON_CARD if self.kind == "cuda" else msgspec.structs.replace(ON_CARD, kind="cpu", name="Some CPU")
        recipe = msgspec.structs.replace(recipe, precision="bf16", micro_batch=recipe.micro_batch or 8, ranks=ranks)
        made = whole(options.model, 1000.0 * ranks, device=device)
        made = msgspec.structs.replace(made, recipe=recipe)
        job.keep(slices=(*job.run.slices, made))
        return made


@pytest.fixture
def trained(job, monkeypatch):
    def script(**how):
        its = Trained(job, **how)
        monkeypatch.setattr(training.train, "run", its.run)
        return its

    return script


SHORT = tuple(Options(model=model, seconds=15.0) for model in (M5, M60, M120))


def test_every_slice_trains_on_all_cards_and_the_largest_once_more_on_one(job, trained):
    its = trained()
    training.train_slices(job, SHORT, NOTHING_DECLARED)
    assert [asked[:3] for asked in its.asked] == [
        ("5M", "ddp", (0, 1)),
        ("60M", "ddp", (0, 1)),
        ("120M", "ddp", (0, 1)),
        ("120M", "single", (0,)),
    ]
    assert job.run.warnings == ()
    assert training.did_not_train(job, training.wanted(job, None, RecipeOptions())) == ""


def test_ranks_that_do_not_train_leave_one_card_and_that_is_said(job, trained):
    its = trained(fails="this torch has no NCCL")
    training.train_slices(job, SHORT, NOTHING_DECLARED)
    assert [asked[:3] for asked in its.asked] == [
        ("5M", "ddp", (0, 1)),
        ("5M", "single", (0,)),
        ("60M", "single", (0,)),
        ("120M", "single", (0,)),
    ]
    why = "ddp on 2 cards did not train (this torch has no NCCL)"
    assert job.run.warnings == (f"one of 2 cards alone was measured: {why}",)
    assert job.run.slices[0] == Skipped("train, ddp on 2", "this torch has no NCCL")
    job.finish("finished")
    later = job_on(job.store.home)  # a budget of the next day knows it too
    again = training.did_not_train(later, training.wanted(later, None, RecipeOptions()))
    assert again == f"ddp on 2 cards did not train in run {job.run.id} (this torch has no NCCL)"
    command.run(later, request(1e16, (M5, M60, M120)), None)
    assert later.run.budget.remark == f"one of 2 cards: {again}"
    assert later.run.budget.configuration.recipe.ranks == 1


def test_a_torch_that_sees_no_gpu_measures_the_cpu_and_says_so(job, trained):
    trained(fails="rank 0 has no GPU: torch sees 0 CUDA devices", kind="cpu")
    training.train_slices(job, SHORT, NOTHING_DECLARED)
    (warning,) = job.run.warnings
    assert warning.startswith("the CPU was measured: ddp on 2 cards did not train (rank 0 has no GPU")


def test_what_is_said_of_the_recipe_is_trained(job, trained):
    its = trained()
    training.train_slices(job, SHORT[:1], NOTHING_DECLARED, RecipeOptions(strategy="single", optimizer="adamw8bit"))
    training.train_slices(job, SHORT[:1], NOTHING_DECLARED, RecipeOptions(strategy="fsdp2"))
    assert [asked[:3] for asked in its.asked] == [("5M", "single", (0,)), ("5M", "fsdp2", (0, 1))]
    assert job.run.slices[0].recipe.optimizer == "adamw8bit"


def test_ranks_get_what_p2p_advises_on_this_rig_and_slice_and_budget_say_so(job, monkeypatch):
    for name in p2p_arms.BEARING:
        monkeypatch.delenv(name, raising=False)
    off = {"NCCL_P2P_DISABLE": "1"}
    job.keep(p2p=P2p(devices=("GPU0", "GPU1"), device_names=(CARD, CARD), advice=P2pAdvice(off, "a test", ())))
    trained_with = []

    def started(options, environment, *_):
        trained_with.append(environment)
        made = whole(M5, 2000.0, device=ON_CARD, strategy="ddp", ranks=2, micro_batch=8)
        return Outcome((made, made), "finished")

    monkeypatch.setattr(train, "started", started)
    its = training.wanted(job, None, RecipeOptions())
    result = train.run(job, Options(model=M5, recipe=Recipe(strategy="ddp")), its=its.cards)
    assert (trained_with, result.exports) == ([off], off)
    budget = plan(request(1e16, (M5,)), [StoredSlice.of("r1", result)], its=its)
    assert budget.configuration.words.endswith("ddp on 2, with NCCL_P2P_DISABLE=1")
    assert dict(_facts(budget))["export"].startswith("NCCL_P2P_DISABLE=1 before the run, as its short runs had")
    monkeypatch.setenv("NCCL_P2P_LEVEL", "SYS")  # whoever sets any of them decides
    assert train.advised(job) == {}


# ---- what a budget rests on


@pytest.fixture
def both(job) -> Wanted:
    return training.wanted(job, None, RecipeOptions())


def test_slices_on_all_cards_go_before_those_on_one_and_scaling_is_shown(both):
    slices = [single(M120, 45_000.0, run="r9"), on_two(M120, 81_000.0), on_two(M5, 900_000.0)]
    budget = plan(request(1e16, (M5, M120)), slices, its=both)
    assert budget.configuration.words == f"cuda (2 × {CARD}), adamw, bf16, ddp on 2"
    assert [row.rate.source for row in budget.series] == ["measured", "measured"]
    assert budget.remark == ""
    assert isinstance(budget.scaling, Scaling)
    assert (budget.scaling.model, budget.scaling.cards) == ("120M", 2)
    assert budget.scaling.efficiency.value == pytest.approx(0.9)
    assert budget.scaling.rests_on == ("r1", "r9")
    assert any("1 short run of 120M: measured on cuda" in line for line in budget.left_out)
    assert budget.purchase.price.value == 2 * 999


def scaling_of(both, *slices):
    budget = plan(request(1e16, (M120,)), slices, its=both)
    return budget.scaling, scaling_words(budget.scaling)


def test_scaling_is_a_number_only_where_both_slices_tell_one(both):
    its, words = scaling_of(both, single(M120, 45_000.0), on_two(M120, 81_000.0))
    assert words == "120M: 45,000 tokens/s on one card, 81,000 tokens/s on 2, 90 % (84 to 97) of 2 times one"
    assert (its.efficiency.low, its.efficiency.high) == pytest.approx((0.84, 0.97), abs=0.006)  # ±5 % between processes
    wide, words = scaling_of(both, single(M120, 45_000.0, within=0.6), on_two(M120, 81_000.0))
    assert not wide.has_middle
    assert (
        words
        == "120M: 18,000 to 72,000 tokens/s on one card, 77,000 to 85,000 tokens/s on 2, 56 to 100 % of 2 times one"
    )
    runs = [single(M120, rate, run=run) for rate, run in ((30_000.0, "r3"), (60_000.0, "r4"))]
    _, words = scaling_of(both, *runs, on_two(M120, 81_000.0))
    assert words.endswith("81,000 tokens/s on 2, 95 % (67 to 100) of 2 times one")


@pytest.mark.parametrize(
    ("alone", "why"),
    [
        ({"disturbed": "40 % of the CPU"}, "120M on one card was disturbed: 40 % of the CPU"),
        ({"steady_steps": 2}, "120M on one card made fewer than 3 steady steps"),
        ({"is_finite": False}, "120M on one card came to a loss that is not finite"),
        (None, "no model was trained on one card and on all"),
    ],
)
def test_scaling_of_a_slice_that_tells_nothing_has_a_reason_instead(both, alone, why):
    slices = [] if alone is None else [msgspec.structs.replace(single(M120, 45_000.0), **alone)]
    its, words = scaling_of(both, *slices, on_two(M120, 81_000.0))
    assert (its, words) == (Absent(why), f"n/a ({why})")


def test_cards_that_gain_by_being_several_are_not_believed(both):
    its, _ = scaling_of(both, single(M120, 30_000.0), on_two(M120, 81_000.0))
    assert its == Absent("2 cards were 2.70 times as fast as one, so that something held the one up")


def limits(runs, gpus):
    """Measured ceilings of so many of these cards, and a link over which 120M's gradients take 50 ms."""

    def figure(value: float) -> Figure:
        return Figure(value, "measured", "test", value, value)

    link = ceilings.LinkCeiling(figure(30e-6), figure(4 * M120.total_parameters / 50e-3))
    return ceilings.Ceilings(
        kind="cuda",
        name=CARD,
        count=max(1, len(gpus)),
        source="measured",
        matmul_flops_per_s={"bf16": figure(90e12)},
        memory_bytes_per_s=figure(680e9),
        launch_seconds=figure(10e-6),
        tdp_watts=Absent("a test"),
        feed_hertz=Absent("a test"),
        link=link if len(gpus) > 1 else Absent("one card"),
        data_tokens_per_s=Absent("not measured"),
        rests_on=("r9",),
    )


def test_slices_on_one_card_are_carried_over_by_the_step_model_and_said(both, monkeypatch):
    monkeypatch.setattr(ceilings, "from_runs", limits)
    slices = [single(M120, 45_000.0, energy=energy(300.0)), single(M5, 500_000.0, energy=energy(280.0))]
    one = plan(request(1e16, (M5, M120)), slices)
    two = plan(request(1e16, (M5, M120)), slices, its=both)
    assert two.remark == (
        "predicted for ddp on 2 cards from short runs on one card; "
        "`rigbench train-probe --params 120M --strategy ddp` measures it"
    )
    assert [row.rate.source for row in two.series] == ["predicted", "predicted"]
    assert two.configuration.words == f"cuda (2 × {CARD}), adamw, bf16, ddp on 2"
    alone, together = one.series[1].rate.tokens_per_s, two.series[1].rate.tokens_per_s
    assert 1.2 * alone.value < together.value < 2 * alone.value
    assert together.high / together.low > alone.high / alone.low  # sync was never measured here
    assert "gradient sync of ddp on 2: from none to twice what is predicted" in two.series[1].rate.widened_by
    assert two.power.watts.value == pytest.approx(
        2 * one.power.watts.value, rel=0.01
    )  # hours share out a little differently
    assert two.series[1].tokens_per_step == 2 * one.series[1].tokens_per_step
    assert two.sanity.peak_flops_per_s.value == pytest.approx(2 * one.sanity.peak_flops_per_s.value)


def test_slices_on_two_cards_are_carried_over_to_one_that_is_asked_for(job, monkeypatch):
    monkeypatch.setattr(ceilings, "from_runs", limits)
    alone = training.wanted(job, "cuda:1", RecipeOptions())
    slices = [on_two(M120, 81_000.0), on_two(M5, 900_000.0)]
    budget = plan(request(1e16, (M5, M120)), slices, its=alone)
    assert budget.configuration.words == f"cuda ({CARD}), adamw, bf16"
    assert budget.remark == (
        "one of 2 cards: --device cuda:1 is one of 2 GPUs; predicted for one card from short runs on 2 cards; "
        "`rigbench train-probe --params 120M --strategy single` measures it"
    )
    assert 40_500.0 < budget.series[1].rate.tokens_per_s.value < 81_000.0


def test_without_ceilings_slices_on_one_card_are_no_answer_for_two(both):
    with pytest.raises(RigbenchError) as caught:
        plan(request(1e16, (M120,)), [single(M120, 45_000.0)], its=both)
    assert caught.value.exit_code == 3
    assert "trained on one card and a full run on 2" in str(caught.value)


def test_slices_of_other_cards_are_no_answer_for_these(both):
    other = msgspec.structs.replace(ON_CARD, name="NVIDIA GeForce RTX 3090")
    with pytest.raises(RigbenchError, match="no short training run of 2 × NVIDIA GeForce RTX 4080 SUPER is"):
        plan(request(1e16, (M120,)), [stored(M120, 30_000.0, device=other)], its=both)


def test_a_cpus_slices_on_a_rig_with_gpus_say_so(both):
    budget = plan(request(1e15, (M5,)), [stored(M5, 1000.0)], its=both)
    assert budget.remark == f"the CPU alone: no short run of 2 × {CARD} is stored"


def test_no_cards_known_leaves_everything_as_the_slices_say():
    budget = plan(request(1e15, (M5,)), [stored(M5, 1000.0)], its=Wanted(cuda_map.Cards()))
    assert (budget.remark, budget.scaling) == ("", Absent("one card"))


# ---- where the machine was busy whenever it was measured


def only_disturbed(job: Job, monkeypatch, profile: str | Absent) -> None:
    gpus = tuple(msgspec.structs.replace(gpu, profile=profile) for gpu in job.gpus)
    monkeypatch.setitem(job.__dict__, "gpus", gpus)
    busy = msgspec.structs.replace(on_two(M120, 100_000.0), disturbed="threads of the probe waited 80 % of the time")
    monkeypatch.setattr(job, "slices", lambda: [busy])


def test_where_every_slice_was_disturbed_the_datasheet_answers_and_it_is_said(job, monkeypatch):
    only_disturbed(job, monkeypatch, "rtx-4080-super")
    monkeypatch.setattr(training, "train_slices", lambda *asked: pytest.fail("trained anew"))
    command.run(job, request(1.2e18, (M120,)), None, (), (Options(model=M120),))
    assert job.run.budget.rig == "2xrtx-4080-super"
    assert {row.rate.source for row in job.run.budget.series} == {"predicted"}
    (said,) = job.run.budget.left_out
    assert "the machine was busy meanwhile (threads of the probe waited 80 % of the time)" in said
    assert "predicted from the datasheet instead" in said
    assert said in job.run.warnings


def test_where_nothing_is_published_of_the_rig_slices_are_trained_anew_and_it_is_said(job, monkeypatch):
    only_disturbed(job, monkeypatch, Absent("no profile"))
    trained = []
    monkeypatch.setattr(training, "train_slices", lambda *asked: trained.append(asked))
    with pytest.raises(RigbenchError):
        command.run(job, request(1.2e18, (M120,)), None, (), (Options(model=M120),))
    assert len(trained) == 1
    assert "trained anew" in job.run.warnings[0]
