"""Is what a series came to shown whole: page, tables, TensorBoard; and does a budget tell when its training ends?"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from rich.console import Console
from test_first_screens import STORED

from rigbench import store, tables
from rigbench.core.errors import FAULT, NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.progress import SILENT
from rigbench.core.record import Absent, Device, Skipped
from rigbench.document import Run
from rigbench.machine.cuda_map import Cards
from rigbench.model import shape
from rigbench.model.recipe import Recipe
from rigbench.report import trackers
from rigbench.report.page import page
from rigbench.scaling import ends, law, screen, training
from rigbench.scaling.kept import RECORD
from rigbench.scaling.record import (
    Branch,
    Checkpoint,
    Conditions,
    Evaluation,
    Options,
    Plan,
    Schedule,
    Trained,
    points,
)
from rigbench.store import Store
from rigbench.train.record import Data
from rigbench.train.record import Options as SliceOptions
from rigbench.work import process, ranks
from rigbench.work.ranks import World

BUDGET = STORED.parent / "budget.json"
MODELS = tuple(it.model for it in shape.series("tiny").models)
OFF = {"10k": 1.0, "24k": 1.006, "50k": 0.997, "100k": 0.996, "280k": 1.003}
CPU = Device(kind="cpu", name="AMD EPYC", threads=2, uuid=Absent("a CPU"), memory_total_bytes=1 << 34)


def trained(model, seed: int = 0) -> Trained:
    """Of 200 and 400 steps of 2,048 tokens; losses near 6·N^-0.06, each a bit off, falling with the tokens."""
    end = 6 * model.total_parameters**-0.06 * OFF[model.name]

    def at(step: int) -> float:
        return end * (1 + 2 / step**0.6)

    def branch(steps: int) -> Branch:
        own = range(steps * 4 // 5 + 1, steps + 1)
        return Branch(
            from_step=own.start - 1, tokens=steps * 2048, steps=steps, training_loss=tuple(at(it) for it in own),
            step_seconds=(0.05,) * len(own), loss=at(steps) * 0.98, evaluation_seconds=0.2,
        )  # fmt: skip

    return Trained(
        started_at="2026-01-01T00:00:00Z", seconds=30.0, device=CPU, model=model, seed=seed,
        recipe=Recipe(precision="fp32", micro_batch=16),
        data=Data(kind="file", name="text.bin", dtype="uint16", tokens=5_000_000, distribution="as it is"),
        conditions=Conditions(torch="2.13.0", device="AMD EPYC", threads=2, ranks=1, data_sha256="ab" * 32),
        training_tokens=4_900_000, held_out_tokens=65_536, clip_norm=1.0, tokens_per_step=2048,
        schedule=Schedule(learning_rate=4e-3, warm_up_steps=20, steps=(200, 400)),
        training_loss=tuple(at(it) for it in range(1, 321)), step_seconds=(0.05,) * 320,
        evaluations=(Evaluation(step=320, tokens=320 * 2048, loss=at(320), seconds=0.2),),
        branches=(branch(200), branch(400)),
        checkpoints=(Checkpoint(folder="weights-400", step=400, branch=1, sha256={}, bytes=1, seconds=0.1),),
        checkpoint_seconds=0.4,
    )  # fmt: skip


def series() -> dict[str, object]:
    """The rooms of a run of all five models, and the law of what they came to."""
    its = tuple(map(trained, MODELS))
    fitted = law.fit("this run", [point for it in its for point in points(it)], Absent("not asked for"))
    return {"scaling": its, "law": fitted}


def run_of(**rooms: object) -> Run:
    whole = store.read(STORED)
    empty = {name: () if isinstance(getattr(whole, name), tuple) else Absent("not asked for") for name in whole.rooms()}
    return msgspec.structs.replace(whole, command="scaling run", findings=(), unchecked=(), **(empty | rooms))


def test_trackers_are_given_every_loss_at_its_step():
    its = trained(MODELS[0])
    curves = {
        name.removeprefix("scaling/10k adamw seed 0/"): at for name, at in trackers.curves(run_of(scaling=(its,)))
    }
    assert curves["trunk/loss"] == list(enumerate(its.training_loss, 1))
    assert curves["decay to 400/loss"] == list(zip(range(321, 401), its.branches[1].training_loss, strict=True))
    assert curves["held_out_loss"] == [(200, its.branches[0].loss), (400, its.branches[1].loss)]
    assert curves["trunk/held_out_loss"] == [(320, its.evaluations[0].loss)]
    assert curves["decay to 200/tokens_per_s"][0] == (161, 2048 / 0.05)


def test_tables_have_each_loss_and_the_exponents():
    run = run_of(**series())
    rows = {(row.room, row.what, row.metric): row for row in tables.rows(run)}
    loss = rows["scaling", "10k adamw seed 0, 819.2K tokens", "loss"]
    assert (loss.value, loss.unit, loss.better) == (run.scaling[0].branches[1].loss, "nats a token", "lower")
    assert rows["scaling", "10k adamw seed 0", "tokens_per_s"].value == pytest.approx(2048 / 0.05)
    assert rows["law", "L(N)", "exponent"].value == run.law.lines[0].exponent.value
    assert len(rows) == 5 * 3 + len(run.law.lines)


def test_the_page_has_a_chart_of_the_series_and_what_was_not_trained():
    stopped = msgspec.structs.replace(trained(MODELS[1]), branches=(), stopped="the loss is not finite (nan) at step 9")
    run = run_of(scaling=(trained(MODELS[0]), stopped, Skipped("50k, adamw", "too little memory")))
    text = page.page(run).text
    for said in (
        "1 of 3 models trained to their end in 1 min",
        "Loss over tokens: adamw, seed 0",
        "Training loss of 2 models over tokens, and 2 held-out losses",
        f"{trained(MODELS[0]).branches[1].loss:.4f}",
        "24k: the loss is not finite (nan) at step 9",
        "50k, adamw: too little memory",
    ):
        assert said in text, said


def test_two_optimizers_are_a_row_a_model_and_one_difference():
    """Of two seeds each; 8 bits are worse by 0.01 nats a token, and hold the states of tensors from 4,096 values on."""
    its = []
    for optimizer, more in (("adamw", 0.0), ("adamw8bit", 0.01)):
        for seed in (0, 1):
            for model in MODELS:
                one = trained(model, seed)
                branch = one.branches[1]
                branch = msgspec.structs.replace(branch, loss=branch.loss + more + (0.002 if seed and more else 0.0))
                recipe = msgspec.structs.replace(one.recipe, optimizer=optimizer)
                its.append(msgspec.structs.replace(one, recipe=recipe, branches=(one.branches[0], branch)))
    fitted = law.fit("this run", [point for one in its for point in points(one)], Absent("not asked for"))
    console = Console(width=100, record=True, file=io.StringIO())
    screen.brief_run(run_of(scaling=tuple(its), law=fitted), console, quiet=False)
    shown = console.export_text().splitlines()
    end = its[0].branches[1].loss
    assert shown[1].split("  ")[-3].strip() == "adamw, mean of 2 seeds"
    assert shown[2].split()[:6] == ["10k", "9,472", "819.2K", "400", f"{end:.4f}", f"{end + 0.011:.4f}"]
    assert len([line for line in shown if line.startswith(" 2")]) == 2, "24k and 280k have a row each"
    whole = " ".join(" ".join(shown).split())
    # as bitsandbytes 0.50.2 has them in uint8 after a step of real models
    assert "8 bits hold the states of 43 % of 10k, 26 % of 24k, 73 % of 50k, 91 % of 100k, 99 % of 280k;" in whole
    assert "adamw8bit less adamw: +0.0110 nats a token (+0.0104 to +0.0116), " in whole
    assert len(shown) <= 40


def test_ends_are_told_by_the_own_rate_and_by_the_budget(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 1_000_000_000.0  # 01:46:40
    monkeypatch.setattr(ends.time, "time", lambda: now)
    told = [Estimate(it, it * 0.9, it * 1.2, 0.9, "a test", 9) for it in (1_000.0, 3_000.0)]
    its, alone = ends.Ends([1.0, 3.0], told), ends.Ends([1.0, 3.0])
    # 0.9 and 1.2 times 1,000 · 0.5 + 3,000 s
    budget = f"{clock(now + 3150)} to {clock(now + 4200)}"
    assert its.words(0, 0.5) == f", budget {budget}"
    assert alone.words(0, 0.5) == ""
    now += 1_000
    own = clock(now + 6000)  # an eighth of the FLOP in 1,000 s, and three quarters are left
    assert its.words(1, 0.0) == f", all end {own}, budget {budget}"
    assert alone.words(1, 0.0) == f", all end {own}"
    soon = ends.Ends([1.0], [Estimate(20.0, 19.0, 21.0, 0.9, "a test", 9)])
    assert soon.words(0, 0.0) == f", budget {clock(now + 20)}"
    assert ends._clock(now, 2 * 86_400.0) == "Tue 11 Sep 02:03"


def clock(at: float) -> str:
    return time.strftime("%H:%M", time.gmtime(at))


def asked(name: str, **changes: object) -> Options:
    model = next(it.model for it in shape.series("diy").models if it.name == name)
    recipe = msgspec.structs.replace(store.read(BUDGET).budget.configuration.recipe, micro_batch=4, accumulation=2)
    recipe = msgspec.structs.replace(recipe, **changes)
    schedule = Schedule(learning_rate=1e-3, warm_up_steps=2, steps=(20, 40))
    return Options(slice=SliceOptions(model=model, recipe=recipe), schedule=schedule, folder="", data_sha256="",
                   held_out_tokens=1)  # fmt: skip


def test_a_budget_tells_the_seconds_of_what_it_has_a_rate_for():
    run = store.read(BUDGET)
    rows = tuple(msgspec.structs.replace(row, micro_batch=4) for row in run.budget.series)  # as it trains them below
    run = msgspec.structs.replace(run, budget=msgspec.structs.replace(run.budget, series=rows))
    elsewhere = msgspec.structs.replace(run, budget=msgspec.structs.replace(run.budget, rig="2xrtx-4080"))
    job = SimpleNamespace(holding=lambda room: iter([elsewhere, run]))
    kind = run.budget.configuration.device.kind
    said, told = ends.budgeted(job, [asked("5M"), asked("15M")], kind)
    assert said.startswith(f"budget {run.id}: ")
    row = next(it for it in run.budget.series if it.model == "5M")
    tokens = (32 + 4 + 8) * 8 * asked("5M").slice.model.shape.sequence  # the trunk, and a decay of a fifth of each
    assert told[0].value == pytest.approx(tokens / row.rate.tokens_per_s.value)
    others = [([asked("5M", **its)], kind) for its in ({"optimizer": "muon"}, {"micro_batch": 8})]
    others.append(([asked("5M")], "cuda" if kind == "cpu" else "cpu"))
    for trainings, on in others:
        said, told = ends.budgeted(job, trainings, on)
        assert (said.partition(":")[0], told) == (
            "no stored budget of this rig has these models trained in this way (`rigbench scaling plan` makes one)", [],
        )  # fmt: skip


def test_a_rank_beside_goes_on_with_the_next_model_as_the_first_one_does(monkeypatch, tmp_path):
    job = SimpleNamespace(store=Store(tmp_path), run=SimpleNamespace(id="20260101-000000-abcd"))
    plan = Plan(trainings=tuple(map(asked, ("5M", "15M", "30M"))), data="text.bin")
    ended = [SimpleNamespace(ended="died"), RigbenchError("does not fit", "less", NOTHING), None]
    places = []

    def started(_job, options, its, world, heard, place):
        places.append(place)
        if isinstance(ended[place], RigbenchError):
            raise ended[place]
        return ended[place]

    monkeypatch.setattr(training, "_started", started)
    world = World(1, 2, 1, "127.0.0.1", 29500)
    follow = lambda: training.follow(job, training.Asked(plan), None, world)  # noqa: E731
    for last, code in (("finished", FAULT), ("interrupted", 130)):
        ended[2] = SimpleNamespace(ended=last)
        assert follow() == code
    assert places == [0, 1, 2] * 2
    for place, code in ((2, 2), (0, NOTHING)):  # of the first model: then nothing can be trained
        ended[place] = RigbenchError("bad data", "other data", exit_code=code)
        with pytest.raises(RigbenchError, match="bad data"):
            follow()


def test_a_model_whose_loss_is_no_number_or_that_dies_does_not_stop_the_others(monkeypatch, tmp_path):
    stopped = msgspec.structs.replace(trained(MODELS[0]), branches=(), stopped="the loss is not finite (nan) at step 9")
    outcomes = [
        process.Outcome((stopped,), "finished", "", ()),
        process.Outcome((), "died", "killed by signal 9", ()),
        *(process.Outcome((trained(model),), "finished", "", ()) for model in MODELS[2:]),
    ]
    monkeypatch.setattr(training, "_started", lambda job, options, its, world, heard, place: outcomes[place])
    job = SimpleNamespace(store=Store(tmp_path), run=run_of(), progress=SILENT, faults=[], warn=lambda line: None)
    job.keep = lambda **rooms: setattr(job, "run", msgspec.structs.replace(job.run, **rooms))
    job.holding = lambda room: iter(())
    plan = Plan(trainings=tuple(map(asked, ("5M", "15M", "30M", "60M", "120M"))), data="text.bin")
    training.train_all(job, training.Asked(plan), Cards(), None)
    assert job.run.scaling == (stopped, Skipped("15M", "killed by signal 9"), *map(trained, MODELS[2:]))
    assert job.faults == [f"15M: killed by signal 9; `rigbench scaling run --resume {job.run.id}` goes on"]
    assert [point.model for point in job.run.law.points] == ["50k", "50k", "100k", "100k", "280k", "280k"]


THREE = """
name = "three"
about = "for tests"
source = "rigbench's tests"
shape = { style = "gpt2", vocabulary = 257, sequence = 32, tied_head = true, biases = true }
models = [
    { name = "10k", layers = 1, width = 16, heads = 1 },
    { name = "24k", layers = 1, width = 24, heads = 1 },
    { name = "50k", layers = 1, width = 32, heads = 1 },
]
"""


class Killed(BaseException):
    pass


@pytest.fixture
def three(monkeypatch, tmp_path, rigbench):
    """Of `scaling run` of three models, each of which comes to what is given for it: exit code, output, errors."""
    (tmp_path / "three.toml").write_text(THREE)
    np.frombuffer(Path(os.__file__).read_bytes(), np.uint8).astype("<u2").tofile(tmp_path / "text.bin")

    def call(*ends, words=()):
        def started(job, options, its, world, heard, place):
            end = ends[place]
            if isinstance(end, BaseException):
                raise end
            if end and end[0].finished:
                Path(options.folder).mkdir(exist_ok=True)
                (Path(options.folder) / RECORD).write_bytes(msgspec.json.encode(end[0]))
            return process.Outcome(end, "finished" if end else "interrupted", "", ())

        monkeypatch.setattr(training, "_started", started)
        fresh = ("--series", tmp_path / "three.toml", "--data", tmp_path / "text.bin", "--tokens", "1k,2k")
        return rigbench("scaling", "run", *(words or fresh), "--device", "cpu")

    return call


ENDED = [(trained(model),) for model in MODELS[:3]]
NOT_A_NUMBER = msgspec.structs.replace(ENDED[0][0], branches=(), stopped="the loss is not finite (nan) at step 9")


def killed(three, *ends, words=()) -> None:
    """And with the frames of what was killed its lock is gone, as with a process."""
    try:
        three(*ends, words=words)
    except Killed as error:
        error.__traceback__ = None
        return
    raise AssertionError("it was not killed")


def stored(tmp_path) -> Run:
    [path] = (tmp_path / "home" / "runs").glob("*.json")
    return store.read(path)


def test_a_run_that_is_killed_with_its_first_model_can_be_named_and_gone_on_with(three, tmp_path, rigbench):
    killed(three, Killed())
    run = stored(tmp_path)
    assert run.status == "running"
    assert [it.probe for it in run.scaling] == ["10k", "24k", "50k"]
    assert [it.reason for it in run.scaling] == [training.UNDER_WAY, "not begun", "not begun"]
    assert "10k skipped: under way, or killed" in rigbench("report", run.id)[1]
    code, out, err = three(*ENDED, words=("--resume", run.id))
    assert (code, out.split("\n")[0][:44]) == (0, "ok    scaling run: 3 of 3 models trained to ")
    assert f"run {run.id}: `rigbench scaling run --resume {run.id}` goes on" in err
    assert stored(tmp_path).scaling == tuple(its for (its,) in ENDED)


def test_models_that_were_not_begun_are_counted(three, tmp_path, rigbench):
    code, out, _ = three(ENDED[0], ())
    assert code == 130
    assert "scaling run: 1 of 3 models trained to their end" in out
    assert "24k skipped: interrupted" in out
    assert "50k" not in out
    run = stored(tmp_path)
    killed(three, Killed(), Killed(), words=("--resume", run.id))  # what was known stays known
    assert stored(tmp_path).scaling[0] == ENDED[0][0]
    out = rigbench("scaling", "fit", run.id)[1]
    assert f"read     1 of 3 models of {run.id} came to their end" in out


def test_what_is_refused_on_going_on_leaves_the_stored_run_as_it_was(three, tmp_path):
    assert three(*ENDED)[0] == 0
    before = stored(tmp_path)
    other = tmp_path / "other.bin"
    other.write_bytes((tmp_path / "text.bin").read_bytes()[2:])
    words = ("--resume", before.id, "--data", other)
    code, out, err = three(*ENDED, words=words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "other.bin holds other tokens than when run" in err
    assert stored(tmp_path) == before
    plan = tmp_path / "home" / training.FOLDER / before.id / training.PLAN
    with training._alone(plan, "it"):
        code, out, err = three(*ENDED, words=("--resume", before.id))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"run {before.id} is being trained by another process" in err
    assert stored(tmp_path) == before
    code, out, err = three(words=("--resume", before.id))
    assert (code, out.count("ok    scaling run: 3 of 3")) == (0, 1)
    assert "all of its models are trained to their end" in err
    assert "budget" not in err


def test_a_checkpoint_that_is_refused_costs_no_other_record(three, tmp_path):
    killed(three, ENDED[0], Killed())
    code, _, err = three((), RigbenchError("bad checkpoint", "mend it"), words=("--resume", stored(tmp_path).id))
    assert (code, "bad checkpoint; mend it" in err) == (2, True)
    run = stored(tmp_path)
    assert (run.status, run.scaling[0], run.scaling[2]) == ("refused", ENDED[0][0], Skipped("50k", "not begun"))
    [record] = (tmp_path / "home" / training.FOLDER / run.id).glob(f"10k*/{RECORD}")
    record.write_bytes(record.read_bytes()[:500])
    code, _, err = three(words=("--resume", run.id))
    assert (code, "record.json cannot be read (Input data was truncated)" in err) == (2, True)
    assert stored(tmp_path).scaling[0] == ENDED[0][0]


def test_what_the_first_model_is_refused_for_leaves_nothing_in_the_store(three, tmp_path):
    code, out, err = three(RigbenchError("bad data", "other data"))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "rigbench: bad data; other data"
    assert "saved" not in err
    assert list((tmp_path / "home" / "runs").iterdir()) == list((tmp_path / "home" / training.FOLDER).iterdir()) == []


def test_epochs_are_said_in_as_few_digits_as_tell_something(three, tmp_path):
    fresh = ("--series", tmp_path / "three.toml", "--data", tmp_path / "text.bin", "--micro-batch", 1, "--tokens")
    for tokens, said in (("100k", " epochs of text.bin"), ("1e12", "M epochs of text.bin")):
        err = three(RigbenchError("that will do", "stop"), words=(*fresh, tokens))[2]
        assert re.search(r" tokens are [0-9.]{1,4}" + said, err), err


def test_a_series_without_any_loss_has_no_answer(three):
    stopped = [(NOT_A_NUMBER,)] * 3
    code, out, _ = three(*stopped)
    assert (code, "0 of 3 models trained to their end" in out) == (3, True)
    code, out, _ = three(stopped[0], ENDED[1], ENDED[2])
    assert (code, "2 of 3 models trained to their end" in out) == (0, True)
    assert "the loss is not finite (nan) at step 9" in out


def test_two_models_of_one_name_are_refused(three, tmp_path):
    (tmp_path / "three.toml").write_text(THREE.replace('"24k"', '"10k"'))
    code, out, err = three()
    assert (code, out, "two models have the same name" in err) == (2, "", True)


def test_conditions_and_seeds_that_differ_from_model_to_model_are_said():
    first, second = (trained(model, seed) for seed, model in enumerate(MODELS[:2]))
    changed = msgspec.structs.replace(second, conditions=msgspec.structs.replace(second.conditions, torch="2.14.0"))
    facts = dict(screen.facts([first, changed]))
    assert facts["differs"] == "torch, from model to model: 2.13.0, 2.14.0"
    assert facts["how"].endswith("seed 0, 1")
    assert "differs" not in dict(screen.facts([first, second]))


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_training_has_the_workspace_that_cublas_needs_for_it(deterministic, monkeypatch):
    """As torch's notes on reproducibility have it: else its products raise with use_deterministic_algorithms."""
    given = {}
    monkeypatch.setattr(training.slices, "prepared", lambda job, options: (options, {"KEPT": "1"}))
    monkeypatch.setattr(process, "call", lambda *a, environment, **b: given.update(environment))
    one = msgspec.structs.replace(asked("5M"), deterministic=deterministic)
    training._started(SimpleNamespace(), one, Cards(), None, lambda share, text: None, 0)
    assert given == {"KEPT": "1"} | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic else {})


@pytest.mark.parametrize(("agent", "port", "at"), [("True", 29500, 29500), ("", 29500, 29502), ("", 65535, 65533)])
def test_each_group_of_the_same_processes_meets_at_a_place_of_its_own(agent, port, at, monkeypatch):
    given = {}
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", agent)
    monkeypatch.setattr(ranks, "Child", lambda probe, options, environment, server: given.update(environment))
    monkeypatch.setattr(ranks, "attend", lambda *a, **b: process.Outcome((None,), "finished", "", ()))
    ranks.call_as("p", None, Trained, World(1, 2, 1, "127.0.0.1", port), limit_seconds=1.0, meeting=2)
    assert (given["MASTER_PORT"], given["RIGBENCH_MEETING"]) == (str(at), "2")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("by_agent", [True, False])
def test_torchruns_ranks_train_several_models_after_each_other(by_agent, tmp_path):
    """As torchrun sets them, and with ranks that find each other at a port alone, as under srun."""
    text = tmp_path / "text.txt"
    text.write_text(Path(os.__file__).read_text() * 8)
    environment = {**os.environ, "RIGBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "rigbench"]
    subprocess.run([*program, "pack", text, "-o", tmp_path / "text.bin"], env=environment, check=True)
    words = f"scaling run --series tiny --data {tmp_path}/text.bin --tokens 20480 --batch 8 --device cpu --json".split()
    if by_agent:
        own = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "rigbench", *words]
        out = subprocess.run(own, env=environment, check=True, capture_output=True).stdout
    else:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
        started = [
            subprocess.Popen([*program, *words], env={**environment, **place, "RANK": rank, "LOCAL_RANK": rank},
                             stdout=subprocess.PIPE) for rank in "01"
        ]  # fmt: skip
        out, _ = (its.communicate() for its in started)
        assert [its.returncode for its in started] == [0, 0]
        out = out[0]
    run = msgspec.json.decode(out, type=Run)
    assert [it.finished and it.conditions.ranks for it in run.scaling] == [2] * 5
