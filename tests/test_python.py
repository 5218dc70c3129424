"""Does Python see every stored number as a table, with its unit and its interval, at no cost on import?"""

from __future__ import annotations

import doctest
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import test_bandwidth_command as bandwidths

import rigbench
from rigbench import api, store, tables
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.work.record import Disturbance

RUN = Path(__file__).parent / "runs" / "schema-1.json"
WHOLE = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
HEAVY = ("pandas", "numpy", "torch", "rich", "typer", "msgspec", "matplotlib", "psutil", "pynvml")


@pytest.fixture
def home(tmp_path, monkeypatch) -> store.Store:
    """That of the environment, with one run."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path))
    made = store.Store(tmp_path)
    made.save(msgspec.structs.replace(store.read(RUN), id="20260101-000000-aaaa"))
    return made


def test_an_import_loads_nothing_heavy():
    code = f"import sys, rigbench; rigbench.__version__; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_no_public_function_bears_the_name_of_a_module():
    modules = {module.name for module in pkgutil.iter_modules(rigbench.__path__)}
    assert not modules & set(rigbench.__all__)
    public = {
        name
        for name, it in vars(api).items()
        if inspect.isfunction(it) and it.__module__ == api.__name__ and name[0] != "_"
    }
    assert public == set(rigbench.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'budgets'"):
        _ = rigbench.budgets


def test_what_the_documentation_shows_is_so(home):
    result = doctest.testmod(api)
    assert (result.failed, result.attempted) == (0, 11)


def test_a_table_has_a_row_a_slice_with_units_and_interval():
    table, document = rigbench.load(WHOLE).table("slices"), store.read(WHOLE)
    assert len(table) == len(document.slices) == 3
    for row, its in zip(table.to_dict("records"), document.slices, strict=True):
        ends = row["items_per_s_low"], row["items_per_s"], row["items_per_s_high"]
        assert ends == (its.items_per_s.low, its.items_per_s.value, its.items_per_s.high)
        assert (row["run"], row["rig"], row["model_name"]) == (document.id, document.rig.fingerprint, its.model.name)
    assert table["mfu"].isna().all()  # absent, not zero
    assert "steps_seconds" not in table.columns  # raw samples stay in the document


@pytest.mark.parametrize("room", ["bandwidth", "collectives", "matmul", "dataloader", "budget"])
def test_every_number_of_the_tidy_table_is_in_the_document(room):
    its = rigbench.load(WHOLE)
    held = set(_numbers(json.loads(WHOLE.read_text())[room]))
    numbers = its.numbers()
    numbers = numbers[numbers["room"] == room]
    assert len(numbers) >= 5
    for column in ("value", "low", "high"):
        assert set(numbers[column]) <= held
    assert set(numbers["better"]) <= {"higher", "lower", ""}
    assert (numbers["unit"] != "").all()
    assert len(its.table(room)) >= 5


def _numbers(document):
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        return (number for it in document for number in _numbers(it))
    return [document] if isinstance(document, int | float) else []


def test_the_headlines_of_all_runs_come_from_the_index_alone(home, monkeypatch):
    first = rigbench.runs().numbers()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was opened"))
    again = rigbench.runs().numbers()
    assert first.equals(again)
    assert set(again["metric"]) == {"items_per_s", "peak_bytes"}


def test_what_was_disturbed_or_skipped_is_no_headline():
    run = store.read(RUN)
    assert len(tables.measured(run).rows) == 6
    busy = Disturbance(room="slices", place=1, evidence=("this process waited",))
    disturbed = tables.measured(msgspec.structs.replace(run, disturbances=(busy,))).rows
    kept = tables.measured(msgspec.structs.replace(run, disturbances=(busy,)), keep_disturbed=True).rows
    assert kept == tables.measured(run).rows
    assert {row.what for row in tables.measured(run).rows} - {row.what for row in disturbed} == {"30M adamw"}
    skipped = msgspec.structs.replace(run, matmul=Skipped("matmul", "no time"), slices=())
    assert tables.measured(skipped).rows == ()
    assert not any(row.room == "matmul" for row in tables.rows(skipped))


def test_what_is_not_there_is_said(home, tmp_path):
    with pytest.raises(RigbenchError, match="no probe is called 'slicess'"):
        rigbench.runs().table("slicess")
    with pytest.raises(RigbenchError, match="holds no thermals; it holds topology, matmul, slices, budget"):
        rigbench.load("2026").table("thermals")
    with pytest.raises(RigbenchError, match="no stored run is called '1999'"):
        rigbench.load("1999")
    empty = rigbench.runs(tmp_path / "nowhere")
    assert (len(empty), len(empty.table("slices")), len(empty.numbers())) == (0, 0, 0)


def test_a_notebook_shows_runs_and_forecasts_and_executes_nothing_in_them(home):
    hostile = msgspec.structs.replace(store.read(RUN), id="20260102-000000-bbbb", label="<script>alert(1)</script>")
    home.save(msgspec.structs.replace(hostile, command="<img src=x onerror=alert(1)>"))
    listed = rigbench.runs()
    for its in (listed, *listed, rigbench.forecast(on="rtx-4090")):
        page = its._repr_html_()
        assert "<table" in page
        assert "<script" not in page
        assert "<img" not in page


def test_a_forecast_is_the_commands(home):
    its = rigbench.forecast(flops="1.2 EFLOP", on="2xrtx-4080")
    assert isinstance(its.document.rig, str)
    assert its.hours == its.document.whole.hours
    assert isinstance(its.kwh, Absent) or its.kwh.source == "predicted"
    assert len(list(home.runs.iterdir())) == 1  # nothing was stored
    with pytest.raises(RigbenchError):
        rigbench.forecast(on="rtx-9999")


def test_copies_of_gpus_are_named_by_their_way_and_the_large_pinned_ones_stand_for_them(tmp_path, monkeypatch):
    job = bandwidths.scripted_job(tmp_path / "home", monkeypatch)
    bandwidths.run_script(job, tmp_path / "script.json", monkeypatch)
    rows = [row for row in tables.rows(job.run) if row.metric == "bytes_per_s"]
    heads = {row.what for row in rows if row.headline}
    assert {"copy host to GPU0, pinned, 256 MiB", "copy GPU0 to GPU1 and back, peer access on, 256 MiB"} <= heads
    assert not [what for what in heads if "pageable" in what]
    assert {dict(row.under)["device"].split(",")[0] for row in rows} == {"cuda NVIDIA GeForce RTX 4080 SUPER"}
