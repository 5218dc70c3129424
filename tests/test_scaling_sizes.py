"""Are a series' sizes those that end in time by the rates measured at the start, and told by what was measured?"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.progress import SILENT
from rigbench.core.record import Absent
from rigbench.job import Interrupted
from rigbench.machine.cuda_map import Cards
from rigbench.model import shape
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.scaling import sizes, training
from rigbench.scaling.kept import RECORD
from rigbench.scaling.record import Options, RunOptions, Schedule, Sized, Trained, Tried
from rigbench.train import plan
from rigbench.train.record import Options as SliceOptions
from rigbench.work import process

TRAINED = Path(__file__).parent.parent / "reports/intel-xeon-2-cores/scaling-tiny.json"
MODELS = tuple(it.model for it in shape.series("tiny").models)


def rate(value: float) -> Estimate:
    return Estimate(value, value * 0.9, value * 1.1, 0.9, "a test", 9)


def sized(first: float, last: float, within_seconds: float = 1200.0) -> Sized:
    """Of a machine that trains the smallest and the largest at so many tokens/s."""
    tried = tuple(
        Tried(model=it.name, flop_per_token=it.flop_per_token, tokens_per_s=rate(speed), step_seconds=(1.0,))
        for it, speed in ((MODELS[0], first), (MODELS[-1], last))
    )
    return Sized(within_seconds=within_seconds, tried=tried, start_seconds=3.0, as_written_seconds=0.0, share=1.0,
                 expected_seconds=0.0)  # fmt: skip


def trainings(models) -> list[Options]:
    """Of 20 tokens a parameter of the middle model, in steps of 8 sequences of 128."""
    steps = 20 * models[len(models) // 2].total_parameters // 1024
    return [
        Options(
            slice=SliceOptions(model=it, recipe=Recipe(precision="fp32", micro_batch=8)), folder="", data_sha256="",
            schedule=Schedule(learning_rate=2e-3, warm_up_steps=1, steps=(steps // 4, steps // 2, steps)),
            held_out_tokens=65_536,
        )
        for it in models
    ]  # fmt: skip


def test_what_a_series_really_took_is_about_what_its_first_and_last_model_tell():
    """The stored run: seconds of its steps and evaluations, which it kept of each, and none of a process's start.

    Others used that machine while its middle sizes were trained.
    """
    run = [it for it in store.read(TRAINED).scaling if isinstance(it, Trained)]
    took = sum(
        sum(it.step_seconds) + sum(one.seconds for one in it.evaluations)
        + sum(sum(one.step_seconds) + one.evaluation_seconds for one in it.branches)
        for it in run
    )  # fmt: skip
    rates = [it.tokens_per_s.value for it in run]
    told = msgspec.structs.replace(sized(rates[0], rates[-1]), start_seconds=0.0)
    its = [
        msgspec.structs.replace(one, schedule=it.schedule, held_out_tokens=it.held_out_tokens)
        for one, it in zip(trainings(MODELS), run, strict=True)
    ]
    assert 1 / 1.5 < sizes.seconds(its, told) / took < 1.5


def test_a_machine_that_is_fast_enough_keeps_the_sizes_as_written():
    models, its = sizes.chosen(MODELS, trainings, sized(100_000, 17_000))
    assert models == MODELS
    assert (its.share, its.expected_seconds) == (1.0, its.as_written_seconds)
    assert 120 < its.expected_seconds < 400  # the stored run took 260
    assert sizes.words(its, models).startswith("sizes as written: measured 10k at 100K tokens/s and 280k at 17,000")


@pytest.mark.parametrize("slower", [8, 10, 20])
def test_a_slow_machine_gets_narrower_ones_that_end_in_time(slower):
    models, its = sizes.chosen(MODELS, trainings, sized(100_000 / slower, 17_000 / slower))
    assert its.as_written_seconds > 1200 >= its.expected_seconds == sizes.seconds(trainings(models), its)
    wider = sizes.narrowed(MODELS, sizes.SHARES[sizes.SHARES.index(its.share) - 1])
    assert sizes.seconds(trainings(wider), its) > 1200, "they are no narrower than they must be"
    assert f"sizes narrowed to 10k to {models[-1].name}, about 1" in sizes.words(its, models)


def test_the_narrowest_are_taken_where_none_end_in_time():
    models, its = sizes.chosen(MODELS, trainings, sized(1_000, 170))
    assert (its.share, models) == (sizes.SHARES[-1], sizes.narrowed(MODELS, sizes.SHARES[-1]))
    assert its.expected_seconds > 1200
    assert "; even so about " in sizes.words(its, models)


@pytest.mark.parametrize("share", sizes.SHARES)
def test_narrowed_sizes_begin_with_the_smallest_and_rise(share):
    its = sizes.narrowed(MODELS, share)
    counts = [it.total_parameters for it in its]
    assert its[0] == MODELS[0]
    assert counts == sorted(set(counts))
    assert counts[-1] > 4 * counts[0]
    for it, was in zip(its, MODELS, strict=True):
        assert it.total_parameters <= was.total_parameters
        assert it.shape.width % (2 * it.shape.heads) == 0
        assert (it.shape.layers, it.shape.ffn_width) == (was.shape.layers, 4 * it.shape.width)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """`training.plan` of the series tiny on text, each model's trial answered by `answers`."""
    data = tmp_path / "text.bin"
    np.frombuffer(Path(os.__file__).read_bytes() * 10, np.uint8).astype("<u2").tofile(data)
    said: list[str] = []
    progress = SimpleNamespace(stage=SILENT.stage, update=SILENT.update, line=said.append)
    monkeypatch.setattr(training.slices, "prepared", lambda job, options: (options, {}))

    def plan(answers, *words: str, **changes):
        def call(probe, options, *_rest, **_named):
            assert options.seconds == sizes.TRIED_SECONDS
            return answers(options)

        monkeypatch.setattr(process, "call", call)
        options = msgspec.structs.replace(RunOptions(series="tiny", data=str(data), tokens=(300_000,)), **changes)
        made = training.plan(SimpleNamespace(progress=progress), options, RecipeOptions(), "cpu", Cards(), None)
        return made.plan.trainings, said

    return plan


def outcome(options: SliceOptions, speed: float) -> SimpleNamespace:
    steps = SimpleNamespace(seconds=(0.1,) * 5)
    its = SimpleNamespace(tokens_per_s=rate(speed), steps=steps, model=options.model, tokens_per_step=1024)
    return SimpleNamespace(result=its, ended="finished", reason="")


def test_each_training_keeps_by_what_its_size_was_chosen(asked):
    speeds = {"10k": 3_000.0, "280k": 500.0}
    its, said = asked(lambda options: outcome(options, speeds[options.model.name]), seeds=2, against="adamw8bit")
    assert len(its) == 20
    assert {one.sizes.share for one in its} == {its[0].sizes.share}
    assert its[0].sizes.share < 1
    assert [one.slice.model.name for one in its[:5]] == [one.slice.model.name for one in its[15:]]
    assert its[4].slice.model.total_parameters < MODELS[-1].total_parameters
    assert said == [sizes.words(its[0].sizes, [one.slice.model for one in its[:5]])]


def test_where_no_rate_was_measured_the_sizes_are_as_written_and_that_is_said(asked):
    its, said = asked(lambda options: SimpleNamespace(result=None, ended="died", reason="killed by signal 9"))
    assert [one.slice.model for one in its] == list(MODELS)
    assert said == ["sizes as written: 10k could not be tried (killed by signal 9)"]
    assert its[0].sizes == Absent("10k could not be tried (killed by signal 9)")
    with pytest.raises(Interrupted):
        asked(lambda options: SimpleNamespace(result=None, ended="interrupted", reason=""))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_narrows_a_series_and_goes_on_with_the_sizes_that_it_chose(rigbench, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text, series = tmp_path / "text.txt", tmp_path / "short.toml"
    text.write_text(Path(os.__file__).read_text() * 8)
    written = (Path(__file__).parent.parent / "profiles/series/tiny.toml").read_text()
    series.write_text(written.replace("within_minutes = 20", "within_minutes = 0.1").replace('"tiny"', '"short"'))
    rigbench("pack", text, "-o", tmp_path / "text.bin")
    words = ("--series", series, "--data", tmp_path / "text.bin", "--tokens", "20480", "--batch", "8")
    code, out, err = rigbench("scaling", "run", *words, "--device", "cpu")
    assert code == 0
    assert "sizes narrowed to 10k to " in err
    assert "chosen" in out
    run = next((tmp_path / "home" / "runs").glob("*.json")).stem
    first = store.read(tmp_path / "home" / "runs" / f"{run}.json").scaling
    largest = tmp_path / "home" / "scaling" / run / f"{first[-1].model.name}-adamw-0"
    (largest / RECORD).unlink()  # as if it had not begun
    code, _, err = rigbench("scaling", "run", "--resume", run)
    second = store.read(tmp_path / "home" / "runs" / f"{run}.json").scaling
    assert code == 0
    assert "how fast" not in err, "the recorded sizes are gone on with"
    assert [(it.model, it.sizes) for it in second] == [(it.model, it.sizes) for it in first]


def test_what_the_first_model_is_refused_for_is_said_before_any_is_trained(asked, monkeypatch):
    def refused(options):
        raise RigbenchError("muon here is no more", "use adamw")

    with pytest.raises(RigbenchError, match="muon here is no more"):
        asked(refused)
    with pytest.raises(RigbenchError, match="--against paged-adamw8bit: paged states move between a GPU and the host"):
        asked(refused, against="paged-adamw8bit")
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RigbenchError, match="--against adamw8bit: bitsandbytes is not installed: pip install"):
        asked(refused, against="adamw8bit")
