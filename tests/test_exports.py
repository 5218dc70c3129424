"""Do other programs read what a run is exported as, is every number in it the run's, and nobody's name?"""

from __future__ import annotations

import csv
import errno
import io
import json
import re
import socket
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import test_first_train as variants
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pytest_benchmark.stats import Stats
from test_redacted import MORE, SECRETS, secretive

from rigbench import store, tables
from rigbench.api import StoredRun
from rigbench.core.errors import RigbenchError
from rigbench.document import NOT_ASKED, Run
from rigbench.report import exports, screen, trackers
from rigbench.work import verdict as trust
from rigbench.work.record import Disturbance

WHOLE = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
HOSTILE = "<script>alert(1)</script></style>|`x` @everyone #1 https://evil.example [a](b) =cmd|'/C calc' "
HOSTILE += "\x1b[31m\u202e\n\n# x"
__all__ = ("secretive",)


@pytest.fixture(scope="module")
def run() -> Run:
    return store.read(WHOLE)


def hostile(run: Run) -> Run:
    """Names that would be code to whoever shows them as they are."""
    slices = []
    for its in run.slices:
        model = msgspec.structs.replace(its.model, name=HOSTILE)
        device = msgspec.structs.replace(its.device, name=HOSTILE)
        slices.append(msgspec.structs.replace(its, model=model, device=device))
    rig = msgspec.structs.replace(run.rig, cpu_model=HOSTILE)
    return msgspec.structs.replace(run, slices=tuple(slices), rig=rig, label=HOSTILE, command="=1+1")


@pytest.mark.parametrize("form", exports.FORMATS)
def test_no_secret_is_in_what_leaves_the_machine(form, secretive, rigbench, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(store.encode(msgspec.structs.replace(secretive, host="rank-zero")))  # as under torchrun
    ended = 3 if form == "pytest-benchmark" else 0  # nothing was timed
    code, out, err = rigbench("report", str(path), "--format", form)
    assert code == ended
    patterns = {it: re.compile(rf"(?<![\d.]){re.escape(it)}(?![\d.])", re.IGNORECASE) for it in (*SECRETS, *MORE)}
    assert [secret for secret, pattern in patterns.items() if pattern.search(out)] == []
    assert "redacted: " in err
    code, bare, err = rigbench("report", str(path), "--format", form, "--no-redact")
    assert code == ended
    assert "not redacted: GPU UUIDs, host, user and process names" in err
    if form in ("md", "csv", "openmetrics"):
        assert len(bare) >= len(out) - 200


def test_no_secret_is_in_events_and_offline_runs(secretive, rigbench, tmp_path):
    path = tmp_path / "run.json"
    its = store.read(WHOLE)
    its = msgspec.structs.replace(its, rig=secretive.rig, warnings=secretive.warnings, topology=secretive.topology)
    path.write_bytes(store.encode(its))
    code, out, err = rigbench("report", str(path), "--tensorboard", str(tmp_path / "tb"))
    assert (code, out) == (0, "")
    assert "TensorBoard's events are in" in err
    [events] = (tmp_path / "tb").rglob("events.out.tfevents.*")
    written = events.read_bytes().lower()
    assert [secret for secret in SECRETS if secret.lower().encode() in written] == []


def test_markdown_is_a_table_a_person_can_paste(run, rigbench):
    code, out, err = rigbench("report", str(WHOLE), "--format", "md", "-q")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(
        "### rigbench run: 1.2 EFLOP on Intel(R) Xeon(R) Processor &#64; 2.50GHz, 2 threads: 108 days"
    )
    assert "| 5M | 2,500 (2,300 to 2,700) | 95 (86 to 103) | n/a | n/a |" in lines
    heads = [place for place, line in enumerate(lines) if re.fullmatch(r"\|(-+:?\|)+", line)]
    assert len(heads) == 3
    for place in heads:
        columns = lines[place].count("|")
        for row in lines[place - 1 :]:
            if not row.startswith("|"):
                break
            assert len(re.findall(r"(?<!\\)\|", row)) == columns, row
    assert out.count("<details>") == out.count("</details>") == 1
    assert exports.markdown(msgspec.structs.replace(run, slices=(), findings=())).startswith("### ")


def test_a_busy_machines_numbers_are_in_no_form_unless_they_are_kept(run, rigbench, tmp_path):
    busy = msgspec.structs.replace(
        screen.one_room(run, "matmul"),
        command="matmul",
        disturbances=(
            trust.judged(
                Disturbance(
                    room="matmul", wall_seconds=20.0, running_seconds=10.0, waiting_seconds=10.0, others_seconds=11.0
                )
            ),
        ),
    )
    (tmp_path / "busy.json").write_bytes(store.encode(busy))
    for form in ("md", "csv", "openmetrics", "pytest-benchmark"):
        code, out, err = rigbench("report", str(tmp_path / "busy.json"), "--format", form)
        assert code == (0 if form == "md" else 3)
        assert "NOT USABLE: this machine was busy: threads of the probe waited" in err
        assert "bf16" not in out
        assert ("there is no number in it" in err or "nothing in it has raw seconds" in err) == (form != "md")
        _, kept, _ = rigbench("report", str(tmp_path / "busy.json"), "--format", form, "--keep-disturbed")
        assert "bf16" in kept
        assert "NOT USABLE: this machine was busy" in StoredRun(busy)._repr_html_()
        if form == "md":
            assert out.startswith("### rigbench matmul: not usable: the machine was busy")
            assert "**NOT USABLE: this machine was busy: threads of the probe waited" in out


def test_what_was_predicted_has_rows_in_every_form_though_none_is_a_headline():
    arms = variants.on_two_4080s()
    whole = msgspec.structs.replace(store.read(WHOLE), arms=arms, slices=(), command="train-probe", look=True)
    its = screen.one_room(whole, "arms")
    rates = {row["what"]: float(row["value"]) for row in csv.DictReader(io.StringIO(exports.csv(its)))
             if row["metric"] == "tokens_per_s"}  # fmt: skip
    told = {}
    for row in (it for it in arms.rows if it.outcome == "predicted"):
        words = f"{row.recipe.words}{'' if row.recipe.compiled else ', eager'}"
        told[f"{arms.model.name} {words}, predicted"] = row.time.tokens_per_s.value
    assert rates == pytest.approx(told)
    assert len(rates) > 3
    [family] = [it for it in text_string_to_metric_families(exports.openmetrics(its))
                if it.name == "rigbench_tokens_per_second"]  # fmt: skip
    assert {it.labels["what"]: it.value for it in family.samples} == pytest.approx(told)
    assert "<details open>" in exports.markdown(its)
    assert StoredRun(its)._repr_html_().count("<td>tokens_per_s</td>") == len(told)


def test_a_prediction_names_the_rig_that_it_is_for_and_not_the_machine_that_it_was_made_on(run, tmp_path, monkeypatch):
    there = msgspec.structs.replace(
        run, arms=variants.on_two_4080s(), slices=(), budget=NOT_ASKED, command="train-probe", look=True
    )
    here = run.rig.fingerprint, str(run.rig.cpu_model), str(run.software.torch)
    kept: dict = {}
    given = lambda **its: kept.update(its) or SimpleNamespace(summary=kept, dir=str(tmp_path), finish=list)  # noqa: E731
    settings = type("Settings", (), {"model_fields": ()})
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=settings, init=given))
    monkeypatch.setattr(trackers, "curves", lambda _: ())
    trackers.wandb(there, tmp_path)
    its = screen.one_room(there, "arms")
    told = {
        "md": exports.markdown(its).splitlines()[2],
        "csv": exports.csv(its),
        "openmetrics": exports.openmetrics(its),
        "wandb": str(kept["config"]),
    }
    for form, text in told.items():
        assert there.arms.on in text, form
        assert not [it for it in here if it in text], form
    assert here[0] in exports.csv(run)  # what was measured names its own


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)


def test_hostile_names_are_text(run):
    page = exports.markdown(hostile(run))
    tags = Tags()
    tags.feed(page)
    assert tags.found == {"details", "summary"}
    for live in ("@everyone", " #1", "https://", "[a]", "\x1b", "\u202e", "\n# x"):
        assert live not in page, live
    rows = list(csv.reader(io.StringIO(exports.csv(hostile(run)))))
    assert not [cell for row in rows for cell in row if cell.startswith(exports.FORMULA) and not _is_number(cell)]
    for families in text_string_to_metric_families(exports.openmetrics(hostile(run))):
        for sample in families.samples:
            assert not any(ord(letter) < 32 for value in sample.labels.values() for letter in value)
    json.loads(exports.pytest_benchmark(hostile(run)))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_csv_has_every_number_of_the_run(run):
    rows = list(csv.DictReader(io.StringIO(exports.csv(run))))
    assert [(row["what"], float(row["value"]), float(row["low"]), row["unit"]) for row in rows] == [
        (row.what, row.value, row.low, row.unit) for row in tables.rows(run)
    ]
    assert {row["run"] for row in rows} == {run.id}
    assert len(rows) > 300


def test_one_probe_is_exported_alone(rigbench):
    code, out, _ = rigbench("report", str(WHOLE), "matmul", "--format", "csv", "-q")
    assert code == 0
    assert {row["room"] for row in csv.DictReader(io.StringIO(out))} == {"matmul"}


def test_prometheus_reads_openmetrics(run):
    text = exports.openmetrics(run)
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    rates = {sample.labels["what"]: sample.value for sample in families["rigbench_tokens_per_second"].samples}
    assert rates["120M adamw"] == run.slices[-1].items_per_s.value
    lows = {sample.labels["what"]: sample.value for sample in families["rigbench_tokens_per_second_low"].samples}
    assert lows["120M adamw"] == run.slices[-1].items_per_s.low
    assert families["rigbench_time_seconds"].unit == "seconds"
    assert families["rigbench_run"].samples[0].labels["torch"] == "2.13.0+cpu"
    headlines = {(row.what, row.metric, row.under) for row in tables.rows(run) if row.headline}
    shown = [name for name in families if not name.endswith("_low") and "_low_" not in name and "high" not in name]
    assert sum(len(families[name].samples) for name in shown) == len(headlines) + 5  # the run, its start, 3 severities


def test_pytest_benchmark_compares_two_runs(run, tmp_path):
    for name in ("one", "other"):
        (tmp_path / f"{name}.json").write_text(exports.pytest_benchmark(run))
    words = [sys.executable, "-m", "pytest_benchmark", "compare", "one.json", "other.json", "--csv=table.csv"]
    words += ["--columns=min,max,mean,stddev,median,iqr,outliers,ops,rounds,iterations", "--sort=fullname"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    timed = sum(bool(tables.samples(item.record)) for room in run.rooms() for item in tables.items(run, room))
    assert len(rows) == 2 * timed > 200
    its = next(row for row in rows if "slices[120M adamw]" in row["name"])
    assert float(its["mean"]) == pytest.approx(statistics.mean(run.slices[-1].steady_seconds))


@pytest.mark.parametrize("count", range(1, 14))
def test_its_statistics_are_pytest_benchmarks_own(count):
    its = Stats()
    seconds = [(1 + (7 * place) % 11) ** 2 / 100 for place in range(count)]
    for second in seconds:
        its.update(second)
    ours = exports.statistics_of(seconds)
    theirs = its.as_dict()
    assert {name: ours[name] for name in theirs if name != "outliers"} == pytest.approx(
        {name: theirs[name] for name in theirs if name != "outliers"}
    )
    assert ours["outliers"] == theirs["outliers"]


def test_tensorboard_reads_the_steps_back(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    target = trackers.tensorboard(run, tmp_path)
    read = EventAccumulator(str(target), size_guidance={"tensors": 0})
    read.Reload()
    tags = read.Tags()["tensors"]
    [loss] = [tag for tag in tags if "120M" in tag and tag.endswith("/loss")]
    its = run.slices[-1].steps
    assert [event.step for event in read.Tensors(loss)] == list(range(len(its.loss)))
    assert read.Tensors(loss)[0].tensor_proto.float_val[0] == pytest.approx(its.loss[0], rel=1e-6)
    assert len([tag for tag in tags if tag.startswith("headlines/")]) == len(trackers.headlines(run))


def test_wandb_is_given_an_offline_run_and_nothing_of_the_machine(run, tmp_path, monkeypatch):
    """A stand-in with the real package's signatures; the slow test below asks that itself."""
    kept: dict = {"logged": [], "summary": {}}

    class Settings:
        model_fields = dict.fromkeys(("silent", "console", "x_disable_meta", "host", "username", "program"))

        def __init__(self, **given):
            kept["settings"] = given

    def init(**given):
        kept["init"] = given
        log = lambda values, step: kept["logged"].append((step, values))  # noqa: E731
        return SimpleNamespace(
            log=log, summary=kept["summary"], dir=str(tmp_path / "offline-run-1" / "files"), finish=list
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=Settings, init=init))
    assert trackers.wandb(run, tmp_path) == tmp_path / "offline-run-1"
    assert (kept["init"]["mode"], kept["init"]["name"], kept["init"]["dir"]) == ("offline", run.id, str(tmp_path))
    assert kept["settings"] == {"silent": True, "console": "off", "x_disable_meta": True, "host": "", "username": "",
                                "program": ""}  # fmt: skip
    steps = [step for step, _ in kept["logged"]]
    assert steps == sorted(set(steps))
    loss = next(points for name, points in trackers.curves(run) if name.endswith("/loss"))
    assert {step for step, values in kept["logged"] if any(name.endswith("/loss") for name in values)} >= {
        step for step, _ in loss
    }
    assert trackers.headlines(run).items() <= kept["summary"].items()


@pytest.mark.slow
def test_wandb_keeps_an_offline_run(run, secretive, tmp_path, monkeypatch):
    """In a process of its own: its service outlives a call."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    path = tmp_path / "run.json"
    facts = {name: getattr(secretive, name) for name in ("rig", "software", "topology", "findings", "warnings")}
    path.write_bytes(store.encode(msgspec.structs.replace(run, **facts)))
    words = ["report", str(path), "--wandb", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "rigbench", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [written] = tmp_path.rglob("run-*.wandb")
    kept = written.read_bytes()
    assert run.id.encode() in kept
    assert b"120M adamw" in kept
    assert written.parent.name.startswith("offline-run-")
    for private in (socket.gethostname(), str(tmp_path), sys.executable, *SECRETS):
        assert private.lower().encode() not in kept.lower()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_one_line(rigbench, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    for module in [module for module in sys.modules if module.startswith(f"{name}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    code, out, err = rigbench("report", str(WHOLE), f"--{name}", str(tmp_path), "-q")
    assert (code, out) == (2, "")
    assert err == f"rigbench: --{name} needs the package {name}; pip install 'rigbench[{name}]'\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--format", "pdf"),
        ("--format", "csv", "--json"),
        ("--no-redact",),
        ("--format", "csv", "--list"),
        ("--tensorboard", "/proc/nowhere"),
        ("--wandb", "/proc/nowhere"),
        ("--html", "--wandb", "."),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_one_line(rigbench, words):
    code, out, err = (
        rigbench("report", str(WHOLE), *words, "-q")
        if "--json" not in words
        else rigbench("report", str(WHOLE), *words)
    )
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_wandb_that_cannot_write_is_said_in_a_line(run, tmp_path, monkeypatch):
    def full(**_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Settings(SimpleNamespace):
        model_fields = ()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=Settings, init=full))
    with pytest.raises(RigbenchError, match="no space left on device"):
        trackers.wandb(run, tmp_path)
