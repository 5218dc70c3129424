"""Are the arms of a model compared fairly, planned by prediction, and kept whatever happens to one of them?"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import msgspec
import pytest
from budget_slices import GPU, M5, stored, whole
from recipes import recipe

from rigbench import store
from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Lines, Silent
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine.record import GpuProcess
from rigbench.machine.rig import Rig
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.predict.cards import of_profile
from rigbench.predict.memory import Predictor
from rigbench.predict.traces import Traces
from rigbench.train import arms, micro_batch, plan, verdict
from rigbench.train import slices as runs
from rigbench.train.record import PARTS, ArmRow, Arms, Compile, Exchange, Options, ProbeOptions, Vram

GIB = 2**30
BASE = Recipe(precision="bf16", micro_batch=1)
SHAPE = """
style = "gpt2"
layers = 2
width = 64
heads = 2
vocabulary = 512
sequence = 32
"""


@pytest.fixture
def job(tmp_path):
    return Job(store.Store(tmp_path / "home"), Rig.live(), "train-probe", Silent())


def estimate(value: float, within: float = 0.01) -> Estimate:
    return Estimate(value, value * (1 - within), value * (1 + within), 0.9, "batch means", 4)


def memory(process_gib: float) -> Vram:
    gone = Absent("a CPU")
    return Vram(gone, gone, int(process_gib * GIB), gone, gone, gone, deciding="process, in host memory")


def slice_of(rate: float, gib: float = 1.0, model=M5, **changes):
    known = {"memory": memory(gib), "step_share": {"data": 0.01, "forward": 0.3}}
    return whole(model, rate, **{**known, **changes})


def asked(mode: plan.Mode = "usual", base: Recipe = BASE, **changes) -> plan.Plan:
    return plan.Plan(options=Options(model=M5, device="cpu"), base=base, mode=mode, **changes)


# ---- which arms there are


def test_the_usual_arms_answer_the_usual_question():
    labels = [plan.label(arm, BASE) for arm in plan.recipes(BASE, "usual", ())]
    assert labels == ["adamw, bf16", "checkpointing", "adamw8bit", "adamw8bit, checkpointing"]


def test_all_arms_vary_one_choice_at_a_time_and_none_comes_twice():
    found = plan.recipes(BASE, "all", ())
    assert [plan.label(arm, BASE) for arm in found] == [
        "adamw, bf16", "adamw8bit", "paged-adamw8bit", "muon", "checkpointing", "checkpointing every 2nd", "bf16-pure",
        "fp16", "fp32", "tf32", "compiled", "loss in 8 chunks", "ddp", "fsdp2", "fsdp2-offload", "data-parallel",
        "accelerate", "accumulation 4",
    ]  # fmt: skip
    fields = BASE.__struct_fields__
    assert all(sum(getattr(arm, name) != getattr(BASE, name) for name in fields) == 1 for arm in found[1:])


def test_a_cross_takes_every_combination():
    found = plan.recipes(BASE, "one", ("compile", "loss"))
    assert {(arm.compiled, arm.loss_chunks) for arm in found} == {(False, 1), (False, 8), (True, 1), (True, 8)}


def test_a_base_arm_that_is_not_plain_is_varied_back_to_plain():
    base = msgspec.structs.replace(BASE, checkpoint_every=3, compiled=True)
    labels = [plan.label(arm, base) for arm in plan.recipes(base, "all", ())]
    assert labels[0] == "adamw, bf16, checkpointing every 3rd, compiled"
    assert {"no checkpointing", "checkpointing", "checkpointing every 2nd", "eager"} <= set(labels)


@pytest.mark.parametrize(
    ("changed", "kind", "gpus", "reason"),
    [
        ({"precision": "tf32"}, "cpu", 0, "a CPU has no tf32"),
        ({"precision": "fp16"}, "cpu", 0, "a CPU emulates fp16, tens of times slower"),
        ({"optimizer": "paged-adamw8bit"}, "cpu", 0, "paged states move between a GPU and the host"),
        ({"strategy": "data-parallel"}, "cpu", 0, "DataParallel splits batches over GPUs"),
        ({"strategy": "ddp"}, "cuda", 1, "ddp is for several GPUs, and here is one"),
        ({"strategy": "fsdp2-offload"}, "cuda", 1, ""),
        ({"strategy": "ddp"}, "cuda", 2, ""),
        ({"strategy": "ddp"}, "cpu", 0, ""),
        ({"strategy": "data-parallel", "compiled": True}, "cuda", 2, "nn.DataParallel copies modules in each step"),
    ],
)
def test_what_cannot_run_here_is_known_before_anything_is_busy(changed, kind, gpus, reason):
    arm = msgspec.structs.replace(BASE, **changed)
    assert plan.why_not(arm, BASE, kind, gpus).startswith(reason)
    assert bool(plan.why_not(arm, BASE, kind, gpus)) == bool(reason)


def test_without_bitsandbytes_or_a_compiler_their_arms_are_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    eight = msgspec.structs.replace(BASE, optimizer="adamw8bit")
    compiled = msgspec.structs.replace(BASE, compiled=True)
    assert plan.why_not(eight, BASE, "cpu", 0) == "bitsandbytes is not installed: pip install bitsandbytes"
    assert plan.why_not(compiled, BASE, "cpu", 0).endswith("apt install g++")
    assert plan.why_not(compiled, BASE, "cuda", 1) == (
        "torch.compile needs a C compiler (gcc, clang or $CC), and finds none: apt install gcc"
    )


def test_a_compiler_without_pythons_header_is_not_enough(monkeypatch, tmp_path):
    compiled = msgspec.structs.replace(BASE, compiled=True)
    monkeypatch.setattr("shutil.which", lambda name: name if name in ("clang", "/opt/cc") else None)
    assert plan.why_not(compiled, BASE, "cuda", 1) == ""
    monkeypatch.setenv("CC", "/opt/gone")
    assert "a C compiler" in plan.why_not(compiled, BASE, "cuda", 1)
    monkeypatch.setenv("CC", "/opt/cc")
    monkeypatch.setattr("sysconfig.get_path", lambda *_words: str(tmp_path))
    said = plan.why_not(compiled, BASE, "cuda", 1)
    assert re.fullmatch(r"torch.compile needs Python.h, and finds none: apt install python3.\d+-dev", said)


# ---- how they compare


def table(rows: dict[str, tuple[Recipe, object]], control: float = 1.0) -> tuple[Arms, list]:
    slices, made = [], []
    for label, (choice, result) in rows.items():
        if isinstance(result, str):
            row = ArmRow(label=label, recipe=choice, outcome="skipped", slice=Absent("skipped"), reason=result)
            made.append(row)
            continue
        slices.append(result)
        peak = result.peak
        made.append(ArmRow(label=label, recipe=choice, outcome="measured", slice=len(slices) - 1, peak_bytes=peak))
    arms_table = Arms(
        method=1, started_at="2026-05-01T00:00:00Z", seconds=1.0, model=M5, on="here", rows=tuple(made),
        control=control, planned_steps=Figure(1000.0, "predicted", "20 tokens a parameter"),
    )  # fmt: skip
    return verdict.compared(arms_table, slices), slices


def changed(**changes) -> Recipe:
    return msgspec.structs.replace(BASE, **changes)


def test_a_speedup_allows_for_both_arms_and_for_what_the_control_differed_by():
    found = verdict.speedup(estimate(120, 0.03), estimate(100, 0.04), control=1.12)
    assert found.value == pytest.approx(1.2)
    down = math.hypot(math.log(0.97), math.log(1.04), math.log(1.12))
    up = math.hypot(math.log(1.03), math.log(0.96), math.log(1.12))
    assert (found.low, found.high) == pytest.approx((1.2 * math.exp(-down), 1.2 * math.exp(up)))


def test_the_best_and_the_front_are_named():
    found, _ = table(
        {
            "base": (BASE, slice_of(1000, 4.0)),
            "checkpointing": (changed(checkpoint_every=1), slice_of(800, 2.0)),
            "worse in both": (changed(precision="fp32"), slice_of(500, 3.0)),
            "gone": (changed(precision="tf32"), "a CPU has no tf32"),
        }
    )
    assert (found.fastest, found.least_memory) == ("base", "checkpointing")
    assert found.pareto == ("base", "checkpointing")
    assert [row.speedup.value for row in found.rows[:3]] == [1.0, 0.8, 0.5]
    assert isinstance(found.rows[3].speedup, Absent)


def test_the_peak_that_decides_is_the_devices_own():
    on_gpu = stored(M5, 1.0, device=GPU, memory=Vram(5, 7 * GIB, 9 * GIB, GIB, 0, 2, deciding="reserved plus context"))
    assert on_gpu.slice.peak.value == 8 * GIB
    assert slice_of(1.0, 3.0).peak.value == 3 * GIB


def test_a_gpus_table_shows_its_memory_four_ways_with_what_runs_out_first():
    from io import StringIO

    from rich.console import Console

    from rigbench.train import arms_screen as screen

    memory_of_gpu = Vram(5 * GIB, 6 * GIB, 2 * GIB, GIB // 2, 0, 3, deciding="reserved plus context, on the device")
    result = slice_of(1000, device=GPU, memory=memory_of_gpu, step_share=dict.fromkeys(PARTS, 0.25))
    found, slices = table({"base": (BASE, result)})
    out = StringIO()
    screen.show(found, slices, Console(file=out, width=120))
    shown = [line.rstrip() for line in out.getvalue().splitlines()]
    start = shown.index("memory, four ways")
    assert shown[start + 1 : start + 3] == [
        " variant  allocated  reserved  context  process                   what runs out first",
        " base         5 GiB     6 GiB  512 MiB    2 GiB  reserved plus context, on the device",
    ]
    assert any(line.startswith(" base     1.02 s") and line.endswith("3") for line in shown)  # the retries


# ---- planned, run and kept


def scripted(monkeypatch, job, outcomes):
    """`slices.run` answers from a list: a slice to keep, or what it raises."""
    answers = iter(outcomes)
    ran = []

    def run(job, options, watts=None, world=None, its=None):
        ran.append(options)
        answer = next(answers)
        if isinstance(answer, tuple):  # a slice so far, and then Ctrl-C
            job.keep(slices=(*job.run.slices, answer[0]))
            raise Interrupted
        if isinstance(answer, Exception):
            raise answer
        job.keep(slices=(*job.run.slices, answer))
        return answer

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(arms, "target_of", lambda job, its: Absent("not asked"))
    return ran


def test_every_arm_runs_in_turn_and_the_base_arm_again_at_the_end(job, monkeypatch):
    ran = scripted(monkeypatch, job, [slice_of(1000), slice_of(800), slice_of(900), slice_of(700), slice_of(970)])
    arms.run(job, asked())
    assert [(one.recipe.optimizer, one.recipe.checkpoint_every) for one in ran] == [
        ("adamw", 0), ("adamw", 1), ("adamw8bit", 0), ("adamw8bit", 1), ("adamw", 0),
    ]  # fmt: skip
    assert job.run.arms.control == pytest.approx(0.97)
    assert [row.outcome for row in job.run.arms.rows] == ["measured"] * 4
    assert len(job.run.slices) == 5


def test_what_the_base_arm_chose_for_itself_holds_for_all(job, monkeypatch):
    base = slice_of(1000, precision="fp32", micro_batch=2)
    ran = scripted(monkeypatch, job, [base, slice_of(800), slice_of(900), slice_of(700), base])
    arms.run(job, asked(base=msgspec.structs.replace(BASE, precision="auto", micro_batch=0)))
    assert [one.recipe.precision for one in ran] == ["auto", "fp32", "fp32", "fp32", "fp32"]
    assert [one.recipe.micro_batch for one in ran] == [1, 2, 2, 2, 2]


def two_cards(tmp_path, monkeypatch, outcomes):
    """A rig of two alike cards, and a list of what was trained: strategy, ranks, indices of the cards."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    rig = Rig.replay(Path(__file__).parent / "rigs/dual-rtx4080s-x8x8")
    job, ran = Job(store.Store(tmp_path / "home"), rig, "train-probe", Silent()), []
    scripted(monkeypatch, job, outcomes)
    script = runs.run

    def run(job, options, watts=None, world=None, its=None):
        ran.append((options.recipe.strategy, options.recipe.micro_batch, its and its.indices, options.alone))
        return script(job, options, watts, world, its)

    monkeypatch.setattr(runs, "run", run)
    return job, ran


def test_alike_cards_train_together_by_themselves_with_one_alone_as_a_row(tmp_path, monkeypatch):
    job, ran = two_cards(tmp_path, monkeypatch, [slice_of(rate) for rate in (1900, 1500, 1800, 1400, 1000, 1890)])
    arms.run(job, plan.Plan(options=Options(model=M5), base=BASE, mode="usual"))
    together, table = ("ddp", 1, (0, 1), plan.NOT_IN_A_TABLE), job.run.arms
    assert ran == [together, together, together, together, ("single", 1, (0,), plan.NOT_IN_A_TABLE), together]
    assert table.rows[0].label == "adamw, bf16, ddp on 2"
    assert (table.rows[-1].label, table.rows[-1].recipe.ranks) == ("single", 1)


@pytest.mark.parametrize(
    ("changes", "device", "strategy", "indices"),
    [
        ({}, "auto", "ddp", (0, 1)),
        ({}, "cuda:1", "single", None),
        ({}, "cpu", "single", None),
        ({"choices": RecipeOptions(strategy="single")}, "auto", "single", None),
    ],
)
def test_one_variant_too_trains_on_all_alike_cards_and_times_one_rank_alone(
    tmp_path, monkeypatch, changes, device, strategy, indices
):
    job, ran = two_cards(tmp_path, monkeypatch, [slice_of(1900)])
    base = msgspec.structs.replace(BASE, micro_batch=0)
    arms.run(job, plan.Plan(options=Options(model=M5, device=device), base=base, mode="one", **changes))
    assert ran == [(strategy, 8 if strategy == "ddp" else 0, indices, True)]


def test_out_of_memory_in_one_arm_is_its_row_and_the_others_run(job, monkeypatch):
    full = RigbenchError(
        "5M at micro-batch 1 does not fit this device's memory (out of memory in the step)", "", NOTHING
    )
    scripted(monkeypatch, job, [slice_of(1000), full, slice_of(900), full, slice_of(1000)])
    arms.run(job, asked())
    assert [row.outcome for row in job.run.arms.rows] == ["measured", "skipped", "measured", "skipped"]
    assert "out of memory in the step" in job.run.arms.rows[1].reason


def test_an_arm_whose_process_dies_is_said_and_the_others_run(job, monkeypatch):
    died = Skipped("train", "the worker died with signal 9")
    scripted(monkeypatch, job, [slice_of(1000), died, slice_of(900), slice_of(700), slice_of(1000)])
    arms.run(job, asked())
    assert job.run.arms.rows[1].reason == "the worker died with signal 9"
    assert job.run.arms.rows[2].slice == 2


def test_ctrl_c_inside_an_arm_keeps_the_table_so_far(job, monkeypatch):
    scripted(monkeypatch, job, [slice_of(1000), (slice_of(800, ended_by="interrupted"),)])
    with pytest.raises(Interrupted):
        arms.run(job, asked())
    kept = store.read(job.store.find(job.run.id))
    assert [row.outcome for row in kept.arms.rows] == ["measured", "measured"]
    assert kept.slices[1].ended_by == "interrupted"


def test_progress_says_whose_memory_is_predicted_before_the_first_slice(job, monkeypatch, capsys):
    for name in ("FIRST_LINE_SECONDS", "LINE_EVERY_SECONDS"):
        monkeypatch.setattr(f"rigbench.core.progress.{name}", -1.0)
    scripted(monkeypatch, job, [slice_of(1000)] * 5)
    job.progress = Lines()
    arms.run(job, asked())
    began, predicting = capsys.readouterr().err.splitlines()[:2]
    assert re.fullmatch(r"train-probe \S+, memory predicted …", began)
    assert predicting.startswith(f"{began.removesuffix(' …')}: 0%, predicting memory: adamw")


def test_bad_input_ends_the_table_at_once(job, monkeypatch):
    scripted(monkeypatch, job, [RigbenchError("x.bin holds an odd number of bytes")])
    with pytest.raises(RigbenchError, match="odd number") as caught:
        arms.run(job, asked())
    assert caught.value.exit_code == 2


def test_where_no_arm_could_be_measured_nothing_was_answered(job, monkeypatch):
    full = RigbenchError("it does not fit", "", NOTHING)
    scripted(monkeypatch, job, [full] * 4)
    with pytest.raises(RigbenchError, match="not one variant could be measured: it does not fit") as caught:
        arms.run(job, asked())
    assert caught.value.exit_code == NOTHING


def test_an_arm_that_is_predicted_not_to_fit_is_left_out_with_its_shortfall(job, monkeypatch):
    """A card with room for the chunked loss and not for the plain one."""
    predictor, card = Predictor(Traces(None)), of_profile(profiles.gpu("rtx-3060"), "rtx-3060")
    plain, chunked = (predictor.predict(M5, recipe(loss_chunks=n), card).process.value for n in (1, 8))
    tight = msgspec.structs.replace(card, usable=Figure((plain + chunked) / 2, "declared", "test"))
    ran = scripted(monkeypatch, job, [slice_of(900)])
    monkeypatch.setattr(arms, "target_of", lambda job, its: tight)
    monkeypatch.setattr(arms.capacity, "predictor_of", lambda job: predictor)
    arms.run(job, asked("one", cross=("loss",)))
    first, second = job.run.arms.rows
    assert (first.outcome, second.outcome) == ("skipped", "measured")
    assert re.fullmatch(r"predicted not to fit: .* more than the .* there, at micro-batch 1", first.reason)
    assert [one.recipe.loss_chunks for one in ran] == [8]


def test_a_gpu_in_use_is_refused_with_the_process_named(job, monkeypatch):
    card = next(iter(Rig.replay(Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8").nvml.gpus()))
    busy = msgspec.structs.replace(card, processes=(GpuProcess(4242, "compute", "python", GIB),))
    monkeypatch.setattr(Job, "gpus", (busy,))
    with pytest.raises(RigbenchError) as caught:
        arms.refuse_busy(job.cards())
    assert str(caught.value) == (
        "GPU0 is in use by python (pid 4242); wait for it or end it, or measure beside it with --share"
    )
    arms.refuse_busy(job.cards("cpu"))


# ---- the micro-batch


def sized(rates: dict[int, float], gib_each: float = 0.5):
    def measure(size: int):
        if size not in rates:
            raise RigbenchError("it does not fit", "", NOTHING)
        step = 1024 * size / rates[size]
        return slice_of(
            rates[size], 1 + gib_each * size, micro_batch=size, device=GPU,
            memory=Vram(1, int((1 + gib_each * size) * GIB), GIB, 0, 0, 0, deciding="reserved"),
            step_seconds=estimate(step),
        )  # fmt: skip

    return measure


def search(rates: dict[int, float]):
    card = of_profile(profiles.gpu("rtx-3090"), "rtx-3090")
    return micro_batch.find(M5, recipe(), Predictor(Traces(None)), card, sized(rates))[0]


def test_what_no_size_can_cure_is_said_and_not_taken_for_memory():
    tried = []

    def measure(size: int):
        tried.append(size)
        raise RigbenchError("torch.compile needs a C compiler (gcc, clang or $CC), and finds none", "", NOTHING)

    card = of_profile(profiles.gpu("rtx-3090"), "rtx-3090")
    with pytest.raises(RigbenchError, match="needs a C compiler"):
        micro_batch.find(M5, recipe(), Predictor(Traces(None)), card, measure)
    assert tried == [1]


def test_the_fastest_micro_batch_is_often_not_the_largest():
    rates = {1: 1000.0, 2: 1800.0, 4: 2500.0, 8: 2505.0, 16: 2490.0}
    found = search({**rates, **dict.fromkeys(range(17, 200), 2400.0)})
    assert found.chosen == 4
    assert found.largest == found.largest_predicted
    assert found.why.startswith(
        "4 at 2,500 tokens/s (within 1 % of 8), and larger ones bring no more (8: +0.2%, 16: -0.4%"
    )
    assert isinstance(found.line, type(found.line))
    assert found.line.measured_slope_bytes == pytest.approx(GIB / 2)
    assert found.line.measured_intercept_bytes == pytest.approx(GIB, rel=1e-6)


def test_the_largest_that_was_predicted_is_run_and_where_it_fails_smaller_ones_are():
    found = search({1: 1000.0, 2: 1100.0, 4: 1200.0, 8: 1300.0, 16: 1400.0})
    assert found.largest_predicted > 16
    assert found.largest == 16
    assert [one.micro_batch for one in found.tries if isinstance(one.tokens_per_s, Absent)]


# ---- what is found


def codes(found: Arms, slices) -> dict[str, verdict.Finding]:
    return {item.code: item for item in verdict.diagnose(found, slices)}


def test_a_loss_that_is_not_a_number_is_named_with_its_step():
    plain = slice_of(1000)
    steps = msgspec.structs.replace(plain.steps, loss=(10.0, 9.0, Absent("nan"), Absent("nan"), Absent("nan")))
    found, slices = table({"base": (BASE, msgspec.structs.replace(plain, steps=steps))})
    assert codes(found, slices)["loss-not-finite"].evidence == ("first at step 2, in 3 of 5 steps",)


def test_a_step_that_waits_for_data_is_named_with_what_it_costs():
    waiting = msgspec.structs.replace(slice_of(1000), step_share={"data": 0.2, "forward": 0.3})
    found, slices = table({"base": (BASE, waiting)})
    cost = codes(found, slices)["data-bound"].cost
    assert (cost.now.value, cost.possible.value, cost.unit) == (1000, pytest.approx(1250), "tokens/s")
    assert "data-bound" not in codes(*table({"base": (BASE, slice_of(1000))}))


@pytest.mark.parametrize("batches", [1, 4])
def test_a_host_that_is_busy_all_of_a_pass_is_launch_bound(batches):
    plain, recipe = slice_of(1000), msgspec.structs.replace(BASE, accumulation=batches)
    last = len(plain.steps.seconds) - 1
    passes = (plain.steps.forward_seconds[last] + plain.steps.backward_seconds[last]) / batches

    def found(share: float, step: int = last):
        steps = msgspec.structs.replace(plain.steps, enqueue_steps=(step,), enqueue_seconds=(share * passes,))
        return codes(*table({"base": (recipe, msgspec.structs.replace(plain, recipe=recipe, steps=steps))}))

    assert "launch-bound" in found(0.95)
    assert "launch-bound" not in found(0.3)
    assert "launch-bound" not in found(0.95, step=0)  # which warms up
    assert "launch-bound" not in codes(*table({"base": (BASE, plain)}))


def test_communication_that_nothing_hides_is_named():
    none = Absent("not timed alone")
    waits = Exchange(
        method="in turn", hosts=("anna", "bert"), exposed=estimate(0.512, 0.1), alone_seconds=none, shared_seconds=none,
        imbalance_seconds=0.0, unexplained_seconds=0.0, efficiency=none, steps_by_rank=(), with_samples=(),
        without_samples=(), alone_samples=(),
    )  # fmt: skip
    found, slices = table({"base": (BASE, msgspec.structs.replace(slice_of(1000), exchange=waits))})
    finding = codes(found, slices)["communication-bound"]
    assert finding.cost.possible.value == pytest.approx(2000)  # a step of 1.024 s, half of it exposed
    assert finding.evidence[0] == "512 ms of a step of 1.02 s (50 %)"
    assert finding.evidence[1].startswith(
        "it crosses between the hosts anna and bert: 20.5 MiB of gradients, 42.0 MB/s"
    )


@pytest.mark.parametrize(
    ("eager", "compiled", "cold", "said"),
    [
        (1000, 1250, 60.0, "break-even after 293 steps"),  # steps of 1.024 and 0.8192 s: 60 / 0.2048
        (1000, 1250, 600.0, "it does not pay over the 1,000 steps"),
        (1000, 990, 60.0, "its steps are no shorter, so it does not pay"),
    ],
)
def test_compiling_pays_after_so_many_steps(eager, compiled, cold, said):
    fast = msgspec.structs.replace(slice_of(compiled), compile=Compile(cold, 5.0))
    found, slices = table({"base": (BASE, slice_of(eager)), "compiled": (changed(compiled=True), fast)})
    assert said in " ".join(codes(found, slices)["compile-pays"].evidence)


def test_checkpointing_says_what_it_takes_and_gives():
    rows = {"base": (BASE, slice_of(1000, 4.0)), "checkpointing": (changed(checkpoint_every=1), slice_of(800, 3.0))}
    cost = codes(*table(rows))["checkpointing-trades"].cost
    assert cost.sentence == "20 % of the speed for 1 GiB"
    unclear = codes(*table(rows, control=1.5))["checkpointing-trades"].cost
    assert unclear == Absent("no difference in speed that noise leaves to be seen, for 1 GiB")


@pytest.fixture(scope="module")
def on_4080(tmp_path_factory) -> Arms:
    """120M on two cards that are not here; the traces are made once for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        job = Job(store.Store(tmp_path_factory.mktemp("runs")), Rig.live(), "train-probe", Silent())
        eager = RecipeOptions(compiled=False)
        arms.run(job, plan.of(ModelOptions(), eager, ProbeOptions(arms="usual"), on="2xrtx-4080"))
        return job.run


def test_arms_of_a_rig_that_is_not_here_are_all_predicted_and_say_so(on_4080):
    rows = on_4080.arms.rows
    assert {row.outcome for row in rows} == {"predicted"}
    assert on_4080.slices == ()
    assert rows[0].recipe.strategy == "ddp"  # two cards
    assert all(row.memory.fits and row.time.source == "predicted" for row in rows)
    saved = rows[0].memory.breakdown.optimizer_bytes - rows[2].memory.breakdown.optimizer_bytes
    assert saved / 2**20 == pytest.approx(708, abs=4)  # fp32 states less real bitsandbytes ones, 124M: PREDICTION.md


def test_what_fills_the_memory_and_what_8_bit_states_save_is_told(on_4080):
    found = {item.code: item for item in on_4080.findings}
    assert "logits over 50,304 tokens" in found["logits-dominate"].evidence[0]
    assert "of the peak" in found["eight-bit-saves-little"].evidence[0]


# ---- for real


def test_arms_really_run_compare_and_are_shown_again(rigbench, tmp_path):
    """Two arms and the control on this CPU, with a model small enough for a second each."""
    shape = tmp_path / "small.toml"
    shape.write_text(SHAPE)
    words = ("train-probe", "--model", str(shape), "--cross", "loss", "--precision", "fp32", "--micro-batch", "4")
    code, out, err = rigbench(*words, "--seconds", "0.7s")
    assert code == 0, err
    said = " ".join(out.split())  # where its lines end depends on how many steps there were
    for words in ("train-probe: small: ", "baseline", "loss in 8 chunks", "the baseline run again differed by"):
        assert words in said
    document = json.loads(next((tmp_path / "home" / "runs").glob("*.json")).read_text())
    rows = document["arms"]["rows"]
    assert [row["outcome"] for row in rows] == ["measured", "measured"]
    assert len(document["slices"]) == 3
    measured = [document["slices"][row["slice"]]["items_per_s"]["value"] for row in rows]
    assert rows[1]["speedup"]["value"] == pytest.approx(measured[1] / measured[0])
    assert rows[0]["memory"]["process"]["value"] > 0
    code, again, _ = rigbench("report", "-v")
    assert (code, "where each step goes" in again) == (0, True)


@pytest.mark.parametrize("more", [(), ("--arms", "one")])
def test_data_that_is_not_there_leaves_no_run_behind(rigbench, tmp_path, more):
    words = ("train-probe", "--params", "5M", "--device", "cpu", "--data", str(tmp_path / "none.bin"), "--quiet")
    code, out, err = rigbench(*words, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not list((tmp_path / "home" / "runs").glob("*.json"))


def test_a_model_too_large_for_the_card_is_said_with_what_would_do(rigbench):
    code, _, err = rigbench("train-probe", "--params", "7B", "--series", "llama", "--on", "rtx-3060", "--arms", "one")
    assert code == 3
    assert re.search(
        r"no variant of .* on rtx-3060: predicted not to fit: .*; `rigbench capacity --on rtx-3060` shows", err
    )
