"""Is a training that was watched a run like any other, for tables, comparisons, known runs, back-tests and the page?"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rigbench import store, tables
from rigbench.backtest.command import _own, predicted
from rigbench.compare import sides
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding
from rigbench.core.record import Absent, Figure
from rigbench.document import Run
from rigbench.logs import stretches
from rigbench.model.shape import model_named
from rigbench.predict import known
from rigbench.predict.record import ToldOptions
from rigbench.report import exports, trackers
from rigbench.report.page import page
from rigbench.thermals.record import PowerStep, PowerSteps
from rigbench.watch.command import _tested
from rigbench.watch.record import Forecast, SeenSteps, Told, Training, program

Rigbench = Callable[..., tuple[int, str, str]]
RIG = str(Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8")
STORED = Path(__file__).parent / "runs" / "watched-two-rtx-4080-super.json"
BUDGET = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "train-probe-5M.json"
TOKENS_PER_STEP, STEP_SECONDS = 4096, 0.7  # as it was started: it slept so long each step


@pytest.fixture(scope="module")
def run() -> Run:
    return store.read(STORED)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python /a/b/train.py config/gpt2.py", "train.py"),
        ("torchrun --nproc-per-node 2 train.py --compile", "train.py"),
        ("python -m torch.distributed.run --nnodes 1 pretrain.py", "pretrain.py"),
        ("accelerate launch -m mine.train --lr 1", "mine.train"),
        ("bash run.sh", "run.sh"),
        ("/opt/bin/megatron", "megatron"),
    ],
)
def test_a_training_is_called_by_its_script(command: str, name: str) -> None:
    assert program(command.split()) == name


def test_its_rows(run: Run) -> None:
    rows = {(row.what, row.metric): row for row in tables.rows(run)}
    rate = rows["train.py", "tokens_per_s"]
    assert rate.value == pytest.approx(TOKENS_PER_STEP / STEP_SECONDS, rel=0.02)
    assert (rate.unit, rate.better, rate.headline) == ("tokens/s", "higher", True)
    assert rows["train.py", "step_seconds"].value == pytest.approx(STEP_SECONDS, rel=0.02)
    assert dict(rate.under)["device"] == "NVIDIA GeForce RTX 4080 SUPER"
    assert dict(rate.under)["count"] == "2"
    assert {what for what, metric in rows if metric == "watts"} == {"train.py GPU0", "train.py GPU1"}
    assert {row.metric for row in tables.measured(run).rows} == {"tokens_per_s", "step_seconds"}


def test_every_export_has_it(run: Run) -> None:
    written = {name: export(run) for name, export in exports.FORMATS.items()}
    assert "train.py" in written["md"]
    assert "5,84" in written["md"].splitlines()[0]
    assert [row["metric"] for row in csv.DictReader(io.StringIO(written["csv"])) if row["what"] == "train.py"] == [
        "tokens_per_s",
        "step_seconds",
    ]
    assert 'rigbench_tokens_per_second{run="' in written["openmetrics"]
    assert '"group": "watched"' in written["pytest-benchmark"]
    assert len(dict(trackers.curves(run))["watched/step_seconds"]) == 49


def test_its_page(run: Run) -> None:
    text = page.page(run).text
    assert "<h1" in text
    assert "5,843 tokens/s (5,835 to 5,851), 50 steps in" in text.split("<h1")[1].split("</h1>")[0]
    assert "Seconds a step over time" in text
    assert "train.py" not in text.split('id="raw"')[0]  # a command line is nobody's business


def test_its_page_has_forecasts_alarms_and_findings(run: Run) -> None:
    assert isinstance(run.watched, Training)
    whole = Estimate(40.0, 38.0, 42.0, 0.9, "a pace", 9)
    told = Forecast(
        told_after_seconds=8.0, done_share=0.2, rest_seconds=whole, whole_seconds=whole,
        kwh=Figure(0.5, "predicted", "watts"), money=Absent("no price"),
    )  # fmt: skip
    alarm = Told(code="stall", severity="warning", where="train.py", text="no step for 9 s", after_seconds=12.0)
    cost = Absent("not priced")
    hint = Finding("hot", "warning", "GPU0 is held down", ("GPU0",), ("92 °C",), cost, "look at its fans", (), "seen")
    full = msgspec.structs.replace(run.watched, forecasts=(told,), alarms=(alarm,), findings=(hint,))
    text = page.page(msgspec.structs.replace(run, watched=full)).text
    for words in ("40 s (38 to 42)", "no step for 9 s", "GPU0 is held down", "look at its fans"):
        assert words in text


def test_its_page_where_no_step_was_seen(run: Run) -> None:
    assert isinstance(run.watched, Training)
    blind = msgspec.structs.replace(run.watched, steps=Absent("no step was seen: it wrote nothing"), forecasts=())
    text = page.page(msgspec.structs.replace(run, watched=blind)).text
    assert "no step was seen: it wrote nothing" in text


def test_it_compares_and_says_how_it_was_started(run: Run) -> None:
    assert isinstance(run.watched, Training)
    other = msgspec.structs.replace(run, watched=msgspec.structs.replace(run.watched, command=("python", "train.py")))
    ends = [sides.Chosen(one.id, [tables.measured(one)], [one]) for one in (run, other)]
    assert list(sides.changes(*ends)) == ["command python train.py 50 0.7 → python train.py"]
    assert sides.rows(ends[0]).keys() == sides.rows(ends[1]).keys()


def test_a_prediction_takes_its_speed_and_its_cards(run: Run) -> None:
    def told(words: str) -> known.Told:
        return known.told(ToldOptions(known=words), model_named("120M"), lambda text: STORED)

    (one,) = told(f"{run.id}, gpt2-124m, bf16, eager").known
    (same,) = told("2x4080-super, gpt2-124m, bf16, eager, 5843 tokens/s").known
    assert one.case == same.case
    assert one.log_seconds == pytest.approx(same.log_seconds, abs=1e-3)
    with pytest.raises(RigbenchError, match="does not know its model"):
        told(run.id)
    assert isinstance(run.watched, Training)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"gpus": ()}, "not seen on GPUs of one known card"),
        ({"steps": Absent("no step was seen")}, "knows no tokens/s"),
    ],
)
def test_a_prediction_refuses_what_is_not_known(run: Run, tmp_path: Path, change: dict[str, object], what: str) -> None:
    assert isinstance(run.watched, Training)
    file = tmp_path / "run.json"
    file.write_bytes(store.encode(msgspec.structs.replace(run, watched=msgspec.structs.replace(run.watched, **change))))
    with pytest.raises(RigbenchError, match=what):
        known.told(ToldOptions(known=f"{run.id}, gpt2-124m"), model_named("120M"), lambda text: file)


def test_a_prediction_refuses_a_run_that_watched_nothing() -> None:
    with pytest.raises(RigbenchError, match="watched no training"):
        known.told(ToldOptions(known="20261129-060136-73e3, gpt2-124m"), model_named("120M"), lambda text: BUDGET)


def test_it_is_a_log_for_a_back_test(run: Run) -> None:
    reading = _own(run, "")
    rate = stretches.steady(stretches.between_rows(reading), "it").rate
    assert rate.value == pytest.approx(TOKENS_PER_STEP / STEP_SECONDS, rel=0.02)
    assert isinstance(run.watched, Training)
    for steps in (
        Absent("no step was seen"),
        msgspec.structs.replace(run.watched.steps, tokens_per_step=Absent("not reported")),
    ):
        blind = msgspec.structs.replace(run, watched=msgspec.structs.replace(run.watched, steps=steps))
        with pytest.raises(RigbenchError, match=r"no step was seen|how many tokens"):
            _own(blind, "")


def test_it_is_judged_for_a_card_by_its_id(run: Run, rigbench: Rigbench, tmp_path: Path) -> None:
    """A run's id stands where a log's file does, with --on as without."""
    (tmp_path / "home" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs" / f"{run.id}.json").write_bytes(store.encode(run))
    code, out, err = rigbench("backtest", "--on", "2xrtx-4080", "--model", "120M", run.id)
    assert code == 0, err
    assert "120M on 2xrtx-4080: 5,843 tokens/s is SLOW" in out
    assert rigbench("backtest", "--on", "2xrtx-4080", "--model", "120M", "nosuch")[0] == 2


def test_a_training_with_a_budget_is_a_back_test_of_it(run: Run) -> None:
    plan = store.read(BUDGET)
    model, stated, _ = predicted(plan, Absent("one alone"))
    reading = _own(run, "")
    its = _tested(plan, reading, "train.py", SimpleNamespace(run=msgspec.structs.replace(run, rig=plan.rig)))
    assert (its.run_id, its.model, its.log.name, its.log.sha256) == (plan.id, model, "train.py", run.id)
    assert its.error_share == pytest.approx(TOKENS_PER_STEP / STEP_SECONDS / stated.tokens_per_s.value - 1, rel=0.02)
    with pytest.raises(RigbenchError, match="another rig"):
        _tested(plan, reading, "train.py", SimpleNamespace(run=run))


def test_steps_that_came_in_bursts_are_drawn_once(run: Run) -> None:
    assert isinstance(run.watched, Training)
    seen = run.watched.steps
    assert isinstance(seen, SeenSteps)
    burst = msgspec.structs.replace(seen, at_seconds=(1.0, 1.0, 3.0, 3.0), step=(1, 2, 3, 4))
    assert list(tables.step_seconds(burst)) == [(3.0, 3, 2.0)]


@pytest.mark.parametrize(
    ("words", "room", "what", "metrics"),
    [
        (("capacity", "--params", "5M", "--on", "rtx-3070"), "capacity", "5M ", {"micro_batch", "peak_bytes"}),
        (("capacity", "--params", "5M", "--on", "rtx-3070", "--inference"), "capacity", "5M inference", {"peak_bytes"}),
        (("--replay", RIG, "topology"), "topology", "GPU1", {"to_host_bytes_per_s", "limit_watts", "memory_bytes"}),
    ],
    ids=["capacity", "inference", "topology"],
)
def test_other_rooms_have_rows_too(
    words: tuple[str, ...], room: str, what: str, metrics: set[str], rigbench: Rigbench, tmp_path: Path
) -> None:
    assert rigbench(*words)[0] == 0
    (file,) = (tmp_path / "home" / "runs").glob("*.json")
    rows = [row for row in tables.rows(store.read(file)) if row.room == room and row.what.startswith(what)]
    assert metrics <= {row.metric for row in rows}
    assert not any(row.headline for row in rows)  # what is read or predicted is not compared as a measurement


def test_power_steps_have_rows() -> None:
    step = PowerStep(period_seconds=0.5, seconds=9.0, pulses=18, lowest_watts=80.0, highest_watts=Absent("no sensor"))
    its = PowerSteps(
        method=1, devices=("GPU0",), planned=(0.5,), steps=(step,), ended_by="finished", ended_because="done"
    )
    (item,) = tables.PARTS[PowerSteps](its)
    assert (item.what, item.numbers["lowest_watts"], item.numbers["pulses"]) == ("power steps of 500 ms", 80.0, 18)
