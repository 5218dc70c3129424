"""Does the command line keep its contract: one line, the right exit code, nothing lost, whatever is typed?"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from rigbench import __main__, store
from rigbench.bandwidth import command as bandwidth
from rigbench.bandwidth.record import Options as BandwidthOptions
from rigbench.budget import command as budget
from rigbench.budget import training
from rigbench.budget.plan import request
from rigbench.budget.record import Options as BudgetOptions
from rigbench.collectives import command as collectives
from rigbench.collectives.record import Options as CollectivesOptions
from rigbench.core.progress import Bar, Silent
from rigbench.core.record import Price
from rigbench.dataloader import command as dataloader
from rigbench.dataloader.record import Options as DataloaderOptions
from rigbench.doctor import diagnosis
from rigbench.document import run_schema
from rigbench.everything.plan import Stage, measure
from rigbench.job import Job
from rigbench.machine.rig import Rig
from rigbench.matmul import command as matmul
from rigbench.matmul.record import ProbeOptions as MatmulOptions
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.p2p import command as p2p
from rigbench.p2p.record import Options as P2pOptions
from rigbench.train import record as train
from rigbench.work.record import WattOptions

TINY = Path(__file__).parent / "profiles"
RIGS = Path(__file__).parent / "rigs"


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIGBENCH_PROFILES", str(TINY))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def one_second(model: Model, **changes) -> train.Options:
    recipe = Recipe(precision="fp32", micro_batch=2)
    return train.Options(model=model, device="cpu", recipe=recipe, seconds=1.0, **changes)


def measured_home(home: Path, stages: list[Stage]) -> store.Store:
    """A home with one run in it, of stages that were measured for real."""
    job = Job(store.Store(home), Rig.live(), "run", Silent())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGBENCH_PROFILES", str(TINY))
        measure(job, stages)
        job.finish("finished")
    return job.store


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> store.Store:
    """What a budget rests on: topology, matmul, three slices of which one cannot run."""
    home = tmp_path_factory.mktemp("measured")
    watts = WattOptions(wall_watts=100.0)
    price = Price(0.25, "EUR", "declared with --price", "2026-05-01", "declared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGBENCH_PROFILES", str(TINY))
        asked = request(BudgetOptions(flops=1e12, series="tiny"), RecipeOptions(), watts, price)
    products = MatmulOptions(model=asked.models[0], device="cpu", seconds=2.0)
    small, _, large = asked.models
    slices = [one_second(small, data=str(home)), one_second(small), one_second(large)]
    stages = [
        Stage("topology", lambda job: diagnosis.examine(job, load=False)),
        Stage("matmul", lambda job: matmul.run(job, products)),
        Stage("slices", lambda job: training.train_slices(job, slices, watts)),
        Stage("budget", lambda job: budget.run(job, asked, "cpu")),
    ]
    return measured_home(home, stages)


@pytest.fixture(scope="module")
def links_measured(tmp_path_factory) -> store.Store:
    """The rest of a whole run: copies, P2P, collectives, the loader."""
    copies = BandwidthOptions(seconds=1.0, largest_bytes=1 << 20)
    groups = CollectivesOptions(seconds=1.0, device="cpu", operations=("all_reduce",), max_bytes=64 << 10)
    loader = DataloaderOptions(device="cpu", workers=(0,), seconds=0.2, sequence=64)
    stages = [
        Stage("bandwidth", lambda job: bandwidth.run(job, copies, "cpu")),
        Stage("p2p", lambda job: p2p.run(job, P2pOptions(times=1))),
        Stage("collectives", lambda job: collectives.run(job, groups, None)),
        Stage("dataloader", lambda job: dataloader.run(job, loader)),
    ]
    return measured_home(tmp_path_factory.mktemp("links"), stages)


REFUSED = {
    "train-probe --params 0": "--params '0' is zero",
    "train-probe --params -5M": "--params '-5M' is negative",
    "train-probe --params 12_apples": "unit that I do not know",
    "train-probe --params 1e30": "more than a trillion parameters",
    "train-probe --params nan": "is not a number",
    "train-probe --micro-batch 0": "--micro-batch '0' is not a whole number from 1",
    "train-probe --micro-batch 1.5": "is not a whole number",
    "train-probe --seq 3": "--seq '3' is not a whole number from 8",
    "train-probe --precision fp8": "--precision fp8 is only predicted, not trained; add --on NAME",
    "train-probe --precision fp9": "--precision 'fp9' is not one of them",
    "train-probe --checkpointing maybe": "--checkpointing 'maybe' is neither off nor on nor a number from 1",
    "train-probe --checkpointing 13": "--checkpointing '13' is not a whole number from 1 to 12",
    "train-probe --optimizer lion": "--optimizer 'lion' is not one of them; use adamw, adamw-foreach, adamw8bit,",
    "train-probe --strategy pipeline": "--strategy 'pipeline' is not one of them; use single, ddp, fsdp2",
    "train-probe --loss none": "--loss 'none' is neither plain nor chunked nor a number",
    "train-probe --accumulation 0": "--accumulation '0' is not a whole number from 1",
    "train-probe --cross optimizer,speed": "--cross: no factor 'speed'; use optimizer, checkpointing, precision",
    "train-probe --cross loss,loss": "--cross names loss twice",
    "train-probe --cross loss --variants all": "--cross and --variants all exclude each other",
    "train-probe --on rtx-9999": "no rig or GPU profile 'rtx-9999' for --on",
    "train-probe --on=": "--on is empty",
    "capacity --on=": "--on is empty",
    "train-probe --on rtx-3090 --seconds 5": "--on and --seconds exclude each other; --on predicts",
    "train-probe --on rtx-3090 --share": "--on and --share exclude each other",
    "train-probe --on rtx-3090 --device cpu": "--on and --device exclude each other",
    "train-probe --model nonsense": "nonsense",
    "train-probe --model net:make --loss chunked": "--loss is not for a program, and --model net:make is one",
    "train-probe --model net:make --micro-batch auto": "--micro-batch auto is not for a program",
    "train-probe --model net:make --params 5M": "--model net:make and --params exclude each other",
    "train-probe --seconds 0": "--seconds '0' is zero",
    "train-probe --series none": "no series 'none'",
    "train-probe --nonsense": "No such option: --nonsense",
    "budget --flops nan": "--flops 'nan' is not a number",
    "budget --flops -1": "is negative",
    "budget --flops 1e9EFLOP/s": "--flops",
    "budget --flops 1e6": "less than one step of",
    "budget --wall-watts 0": "--wall-watts '0' is zero",
    "budget --price 0.3": "names no currency",
    "budget --set place=mars": "no electricity price 'mars'",
    "report nothing": "no stored run is called 'nothing'",
    "report /nowhere/run.json": "cannot read /nowhere/run.json",
    "--replay /nowhere topology": "--replay /nowhere is not a folder",
    "--device cpu topology": "topology does not take --device",
    "topology --on h200": "topology does not take --on; `rigbench topology --help` lists its options",
    "topology --device cpu": "topology does not take --device",
    "--home /dev/null topology": "cannot keep runs in /dev/null",
    "nonsense": "No such command 'nonsense'",
    "profiles nonsense": "no profile 'nonsense'",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench(*(word.replace("_", " ") for word in typed.split()))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("rigbench: ")
    assert REFUSED[typed] in err


def test_nothing_stored_is_exit_code_3(rigbench):
    code, out, err = rigbench("report")
    assert (code, out) == (3, "")
    assert "no run is stored" in err
    assert "run `rigbench run --quick` first" in err


def test_a_missing_device_is_exit_code_3_before_anything_is_stored(rigbench, tmp_path):
    code, _, err = rigbench("matmul", "--device", "cuda:7", "--quiet")
    assert code == 3
    assert "--device cuda:7: torch sees" in err
    assert list((tmp_path / "home" / "runs").glob("*.json")) == []


@pytest.mark.parametrize("words", [("--json", "topology"), ("topology", "--json")])
def test_json_is_the_stored_document_and_nothing_else(rigbench, tmp_path, words):
    code, out, err = rigbench(*words)
    assert (code, err) == (0, "")
    stored = next((tmp_path / "home" / "runs").glob("*.json"))
    assert out == stored.read_text()
    jsonschema.validate(json.loads(out), json.loads(run_schema()))


def test_the_home_option_works_before_and_after_the_command(rigbench, tmp_path):
    assert rigbench("--home", str(tmp_path / "a"), "topology", "-q")[0] == 0
    assert rigbench("topology", "-q", "--home", str(tmp_path / "b"))[0] == 0
    assert len(list((tmp_path / "a" / "runs").iterdir())) == len(list((tmp_path / "b" / "runs").iterdir())) == 1


def test_replay_and_device_exclude_each_other(rigbench):
    code, _, err = rigbench("--device", "cpu", "--replay", str(RIGS / "dual-rtx4080s-x8x8"), "topology")
    assert code == 2
    assert "does not take --device" in err


def test_a_stored_run_is_shown_again_by_id_by_file_and_in_the_list(rigbench, tmp_path):
    rigbench("topology", "-q")
    file = next((tmp_path / "home" / "runs").glob("*.json"))
    by_id, by_file = rigbench("report", file.stem), rigbench("report", str(file))
    assert by_id == by_file
    assert by_id[0] == 0
    assert by_id[1].startswith("rigbench topology ")
    assert f"rigbench report {file.stem} topology" in by_id[1]
    assert file.stem in rigbench("report", "--list", "--all")[1]


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['rigbench', '--help']\n"
        "from rigbench.__main__ import _run; _run()\n"
        "heavy = {'torch', 'numpy', 'pandas', 'rich', 'pynvml', 'psutil', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("run", "topology", "matmul", "train-probe", "budget", "report", "profiles"):
        assert f"\n  {name} " in done.stdout


def test_help_writes_flop_as_people_do(rigbench):
    assert "[default: 1.2e18]" in " ".join(rigbench("run", "--help")[1].split())


def test_a_defect_of_ours_is_one_line_with_exit_code_4(rigbench, monkeypatch, tmp_path):
    def broken(*_):
        raise KeyError("a defect")

    monkeypatch.setattr(store.Store, "find", broken)
    code, out, err = rigbench("report")
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert "internal error, KeyError at test_cli.py" in err
    log = Path(err.split()[-1])
    assert log == tmp_path / "home" / "internal-errors.log"
    assert "Traceback" in log.read_text()


def test_a_whole_run_measures_trains_and_budgets_in_one_record(measured, rigbench):
    code, out, _ = rigbench("report", "--json", "--home", str(measured.home))
    document = json.loads(out)
    jsonschema.validate(document, json.loads(run_schema()))
    assert (code, document["status"]) == (0, "finished")
    skipped, *slices = document["slices"]
    assert skipped["type"] == "skipped"
    assert "is a directory" in skipped["reason"]
    budget = document["budget"]
    assert [row["rate"]["source"] for row in budget["series"]] == ["measured", "predicted", "measured"]
    tokens = 1e12 / sum(6 * row["total_parameters"] for row in budget["series"])
    for result in slices:
        row = next(row for row in budget["series"] if row["model"] == result["model"]["name"])
        assert row["tokens"] == pytest.approx(tokens)
        assert row["hours"]["value"] == pytest.approx(tokens / result["items_per_s"]["value"] / 3600)
    hours = sum(row["hours"]["value"] for row in budget["series"])
    assert budget["series_kwh"]["value"] == pytest.approx(hours * 0.1)
    assert budget["series_money"]["value"] == pytest.approx(hours * 0.1 * 0.25)


def test_a_whole_run_is_shown_with_every_room(measured, links_measured, rigbench):
    homes = [str(home.home) for home in (measured, links_measured)]
    shown = "".join(rigbench("report", "-v", "--home", home)[1] for home in homes)
    rooms = ("PCI tree", "matmul: ", "small on cpu", "train skipped", "overheads", "EUR")
    rooms += ("memory copies at", "P2P", "all_reduce", "dataloader: ")
    for words in rooms:
        assert words in shown


def test_the_budget_uses_what_is_stored_and_says_so(measured, rigbench):
    words = ("budget", "-v", "--flops", "1e12", "--params", "tiny", "--device", "cpu", "--home", str(measured.home))
    run_id = measured.find(None).stem
    code, out, err = rigbench(*words)
    assert code == 0, err
    assert f"{run_id} small" in out
    assert "--wall-watts" in out
    kept = store.read(measured.find(err.split()[3].rstrip(";")))
    assert kept.slices == ()


def test_another_rigs_slices_are_not_used(measured, tmp_path):
    home = store.Store(tmp_path)
    run = store.read(measured.paths()[-1])
    stranger = msgspec.structs.replace(run, rig=msgspec.structs.replace(run.rig, fingerprint="0" * 12))
    home.save(stranger)
    assert Job(home, Rig.live(), "budget", Silent()).slices() == []
    home.save(run)
    assert len(Job(home, Rig.live(), "budget", Silent()).slices()) == 2


TELLING_OFTEN = """
from rigbench import __main__
from rigbench.core import progress
progress.FIRST_LINE_SECONDS = progress.LINE_EVERY_SECONDS = 0.2
__main__.main()
"""


def test_ctrl_c_during_a_slice_keeps_what_was_measured(tmp_path):
    words = ["train-probe", "--params", "0.8M", "--series", "tiny", "--precision", "fp32", "--variants", "one"]
    process = subprocess.Popen(
        [sys.executable, "-c", TELLING_OFTEN, *words, "--seconds", "10min", "--home", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RIGBENCH_PROFILES": str(TINY)},
    )
    assert process.stderr
    assert any(", step " in line for line in process.stderr)  # the worker trains
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; what was measured is saved as" in err
    assert "Traceback" not in err
    assert " tokens" in out
    document = json.loads(next((tmp_path / "runs").glob("*.json")).read_text())
    assert document["status"] == "interrupted"
    assert document["slices"][0]["ended_by"] == "interrupted"
    assert len(document["slices"][0]["steps"]["seconds"]) >= 1


def test_an_answer_that_does_not_fit_the_disk_is_one_line():
    code = (
        "import sys; from rigbench import __main__ as it; it._run = lambda: 0 * sys.stdout.write('answer'); it.main()"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "rigbench: cannot write the answer (No space left on device); free space, or write it elsewhere\n",
    )


def test_a_bar_takes_words_that_look_like_markup():
    bar = Bar()
    bar.stage("model [/red].py", 10)
    bar.update(0.5, "a [/b]")
    bar.close()


def test_nothing_foreign_reaches_the_terminal_raw(rigbench, capsys):
    from rich.table import Table
    from rich.text import Text

    from rigbench.command import Common

    console = Common("topology", {}).console()
    table = Table(title="a \x1b title")
    table.add_row("card \x1b]0;title\x07")
    console.print("plain \x1b[31mred", Text("text \u202egnp.exe"), table)
    shown = capsys.readouterr().out
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert "plain \ufffd[31mred" in shown
