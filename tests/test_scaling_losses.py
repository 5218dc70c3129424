"""A user's own losses: tables under any usual column name, logs a model, and one clear line for each fault."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from rigbench import __main__
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.scaling import losses

NO = Absent("not given")


def read(path, columns="", tokens=NO, tokens_per_step=NO):
    return losses.read(path, losses.columns_of(columns), tokens, tokens_per_step)


# Four models of Cerebras-GPT as their authors print them, in the spellings of as many tools.
TABLES = {
    "plain": "params,tokens,loss\n111e6,2.22e9,2.566\n256M,5.12B,2.299\n",
    "capitals": "Model,N,D,L\na,111000000,2220000000,2.566\nb,256000000,5120000000,2.299\n",
    "wandb runs": '"Name","State","num_params","tokens_seen","val/loss","train/loss"\n'
    '"a","finished","111000000","2220000000","2.566","2.6"\n"b","finished","256000000","5120000000","2.299","2.3"\n',
    "semicolons": "size;training tokens;final loss\n111M;2.22B;2,566\n256M;5.12B;2,299\n",
    "FLOP for tokens": "params,flops,eval_loss\n111M,1.47852e18,2.566\n256M,7.86432e18,2.299\n",
    "FLOP for params": "compute,tokens,test loss\n1.47852e18,2.22B,2.566\n7.86432e18,5.12B,2.299\n",
    "size in a name": "run,tokens,val_loss\ncerebras-111M,2.22B,2.566\ncerebras-256M-b,5.12B,2.299\n",
    "perplexity": "params,tokens,val_ppl\n111M,2.22B,13.01368\n256M,5.12B,9.96421\n",
    "JSON": '[{"n": 111e6, "tokens": 2.22e9, "loss": 2.566}, {"x": null, "n": 256e6, "tokens": 5.12e9, "loss": 2.299}]',
    "JSON lines": '{"n": 111e6, "tokens": 2.22e9, "loss": 2.566}\n{"n": 256e6, "tokens": 5.12e9, "loss": 2.299}\n',
    "tabs and remarks": "# theirs\nparams\ttokens\tloss\n\n111M\t2.22B\t2.566\n256M\t5.12B\t2.299\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_a_table_of_runs_is_read_whatever_its_columns_are_called(tmp_path, text):
    (tmp_path / "runs.csv").write_text(text)
    points, _ = read(tmp_path / "runs.csv")
    assert [it.params for it in points] == pytest.approx([111e6, 256e6], rel=1e-6)
    assert [it.tokens for it in points] == pytest.approx([2.22e9, 5.12e9], rel=1e-6)
    assert [it.loss for it in points] == pytest.approx([2.566, 2.299], rel=1e-5)
    assert points[0].flops == pytest.approx(6 * 111e6 * 2.22e9)


def test_seeds_optimizers_and_embeddings_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(
        "params,tokens,loss,seed,optimizer,embedding_params\n5M,1B,4,1,AdamW,1M\n5M,1B,4.1,2,adamw8bit,1M\n"
    )
    points, _ = read(tmp_path / "a.csv")
    assert [(it.seed, it.optimizer, it.embedding_params) for it in points] == [
        (1, "adamw", 1_000_000),
        (2, "adamw8bit", 1_000_000),
    ]


def test_columns_tokens_and_notes(tmp_path):
    (tmp_path / "a.csv").write_text("how big,train_loss,flops\n5M,4.0,1e17\n10M,3.9,1e18\n")
    points, notes = read(tmp_path / "a.csv", "params=How Big", 1e9)
    assert [it.tokens for it in points] == [10**9, 10**9]
    assert notes == [
        "train_loss of a.csv is a training loss: of text that a model has seen it may be too low",
        "FLOP of a.csv are up to 1,567 % from 6·N·D, which L(C) is of",
    ]
    (tmp_path / "b.csv").write_text("params,tokens,loss\n5M,1B,4.0\n5M,1B,4.1\n")
    points, notes = read(tmp_path / "b.csv")
    assert [it.seed for it in points] == [0, 1]
    assert notes == ["2 runs of b.csv differ in nothing but their loss: they are taken for seeds"]


FAULTS = {
    "params,tokens,val\n5M,1B,4\n": "no column of losses; there are params, tokens, val; say which is which",
    "width,tokens,loss\n5,1B,4\n": "no column of parameters; there are width, tokens, loss; say which",
    "params,loss\n5M,4\n": "no column of tokens and none of FLOP; say them with --tokens 2.5B",
    "params,tokens,loss\n5M,1B,-0.3\n": "line 2 of a.csv: loss is -0.3; a loss in nats a token is above 0",
    "params,tokens,loss\n5M,1B,4\n9M,1B,nan\n": "line 3 of a.csv: loss is nan; a run that diverged has no loss",
    "params,tokens,loss\n5M,1B,\n": "line 2 of a.csv: loss is empty; mend the row",
    "params,tokens,loss\n5M,1B,four\n": "line 2 of a.csv: loss is 'four', no number",
    "params,tokens,loss\n5M,1B,4000\n": "loss 4000 is no loss in nats a token",
    "params,tokens,ppl\n5M,1B,0.9\n": "ppl 0.9 is no perplexity",
    "params,tokens,loss\n-5M,1B,4\n": "line 2 of a.csv: params '-5M' is negative",
    "params,tokens,loss\n5M,,4\n": "line 2 of a.csv does not say its tokens",
    "params,tokens,loss\n5M,1B,4\n5M,1B,4\n": "line 2 and line 3 of a.csv are the same run (5M, 1B tokens",
    "params,tokens,loss,seed\n5M,1B,4,7\n9M,1B,3,7\n5M,1B,4.1,7\n": "line 2 and line 4 of a.csv are the same run (5M",
    "params,tokens,loss,seed\n5M,1B,4,x\n": "line 2 of a.csv: seed is 'x', no whole number",
    "params,tokens,loss\n": "a.csv has no rows; give a row a run",
    "params,tokens,loss,seed\n5M,1B,4,1.7\n": "line 2 of a.csv: seed is '1.7', no whole number",
    "params,tokens,loss\n5M,1B,3,5\n9M,1B,3,2\n": "line 2 of a.csv has 4 cells for 3 columns; write 3.14, or",
    "params,tokens,loss\n5M,1B,3.5\n9M,1B,3.2,7\n": "line 3 of a.csv has 4 cells for 3 columns",
    "params,tokens,loss,loss\n5M,1B,3.5,9\n": "2 columns are called 'loss'; give each a name of its own",
    '_step,"5M - val/loss","9M - val/loss"\n100,3,5,3,2\n': "line 2 of a.csv has 5 cells for 3 columns",
    "": "a.csv is empty",
}


def test_cells_that_are_empty_beyond_the_columns_are_no_fault(tmp_path):
    (tmp_path / "a.csv").write_text("params,tokens,loss\n5M,1B,3.5,\n9M,1B,3.2,,\n")
    assert [it.loss for it in read(tmp_path / "a.csv")[0]] == [3.5, 3.2]


def test_a_perplexity_on_held_out_text_counts_before_a_training_loss(tmp_path):
    (tmp_path / "a.csv").write_text("params,tokens,train_loss,val_ppl\n5M,1B,3.6,30\n9M,1B,3.3,25\n")
    points, notes = read(tmp_path / "a.csv")
    assert [it.loss for it in points] == pytest.approx([math.log(30), math.log(25)])
    assert notes == ["losses are the logarithms of val_ppl"]
    assert read(tmp_path / "a.csv", "loss=train_loss")[0][0].loss == 3.6


@pytest.mark.parametrize("text", FAULTS, ids=FAULTS.values())
def test_a_bad_table_gets_one_line_that_says_where_and_what_to_do(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RigbenchError) as refusal:
        read(tmp_path / "a.csv")
    assert FAULTS[text] in f"{refusal.value.what_happened}; {refusal.value.what_to_do}"


@pytest.mark.parametrize("columns", ["loss", "colour=red", "loss=", "loss=nope"])
def test_bad_columns_are_refused_and_those_there_named(tmp_path, columns):
    (tmp_path / "a.csv").write_text("params,tokens,loss\n5M,1B,4\n")
    with pytest.raises(RigbenchError, match=r"no column is called|is not ROLE=NAME") as refusal:
        read(tmp_path / "a.csv", columns)
    assert "loss" in str(refusal.value.what_to_do)


# ------------------------------------------------------------------------------------------------- logs


def test_a_folder_of_logs_is_a_point_a_log(tmp_path):
    (tmp_path / "gpt-5M.csv").write_text("step,train/loss,val/loss\n100,4.4,\n100,,4.5\n200,4.1,\n200,,4.2\n300,3.9,\n")
    (tmp_path / "gpt-15M.log").write_text("step 100 loss 4.0 tokens 6553600\nstep 200 loss 3.8 tokens 13107200\n")
    (tmp_path / "notes.md").write_text("no log")
    points, notes = read(tmp_path, "", NO, 65536)
    assert [(it.params, it.tokens, it.loss) for it in points] == [
        (15_000_000, 13_107_200, 3.8),
        (5_000_000, 200 * 65536, 4.2),
    ]
    assert notes[1] == "gpt-5M.csv: the last val/loss, after 13.1M tokens"
    assert notes[0].endswith("a training loss: of text that a model has seen it may be too low")


def test_tensorboard_events_of_several_models_are_a_point_each(tmp_path):
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for size, last in (("5M", 4.25), ("15M", 3.75)):
        writer = EventFileWriter(str(tmp_path / "runs" / size))
        for step, tag, value in ((10, "train/loss", 4.5), (10, "tokens", 1e6), (12, "val/loss", last)):
            summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(event_pb2.Event(wall_time=1.0, step=step, summary=summary))
        writer.close()
    points, notes = read(tmp_path / "runs")
    assert sorted((it.params, it.tokens, it.loss) for it in points) == [
        (5_000_000, 1_000_000, 4.25),
        (15_000_000, 1_000_000, 3.75),
    ]
    assert read(tmp_path / "runs" / "5M")[0][0].loss == 4.25
    assert all("the last val/loss, after 1M tokens" in note for note in notes)


LOG = "step,loss\n100,4.4\n200,4.1\n"


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("run.csv", "", "run.csv does not say which model it is of"),
        ("5M.csv", "", "5M.csv does not say how many tokens were seen"),
        ("5M.csv", "tokens=seen", "5M.csv has no 'seen'"),
        ("5M.csv", "loss=perplexity", "5M.csv has no 'perplexity'"),
    ],
)
def test_a_log_that_does_not_say_enough_is_refused(tmp_path, name, columns, says):
    (tmp_path / name).write_text(LOG)
    with pytest.raises(RigbenchError, match=says):
        read(tmp_path / name, columns)


BESIDE = """"_step","5M-a - train/loss","5M-a - val/loss","5M-a - val/loss__MIN","15M - train/loss","15M - val/loss"
0,,10.8,10.8,,10.8
500,4.0,4.1,4.1,3.8,3.9
1000,,3.6,3.6,,
1100,3.5,,,3.4,
"""
BELOW = """run,_step,val_loss,train_loss
gpt-5M,0,10.8,
gpt-5M,1000,3.6,3.6
gpt-5M,1100,,3.5
gpt-15M,0,10.8,
gpt-15M,500,3.9,
"""


@pytest.mark.parametrize("text", [BESIDE, BELOW], ids=["beside each other", "below each other"])
def test_the_last_held_out_loss_of_each_run_in_one_file_counts(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    points, notes = read(path, tokens_per_step=65_536.0)
    assert [(it.params, it.tokens, it.loss) for it in points] == [
        (5_000_000, 65_536_000, 3.6), (15_000_000, 32_768_000, 3.9),
    ]  # fmt: skip
    assert any("history.csv: the last " in note for note in notes)
    assert [it.tokens for it in read(path, tokens=1e9)[0]] == [10**9] * 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BESIDE, "line 4 of x.csv does not say how many tokens 5M-a saw; say --tokens-per-step N or --tokens N"),
        (BELOW, "x.csv does not say how many tokens were seen; say --tokens-per-step N or --tokens N"),
        (BESIDE.replace("5M-a", "small"), "x.csv does not say how large small is; rename it in the first line"),
        (BESIDE.replace("3.6,3.6", "NaN,NaN"), "line 4 of x.csv: 5M-a - val/loss is NaN; a run that diverged"),
        (BESIDE.replace(",10.8\n", ",\n").replace("3.9\n", "\n"), "x.csv has no loss of 15M; take its column out"),
        (BESIDE.replace("_step", "tokens").replace("1000", "-1000"), "line 4 of x.csv: tokens"),
    ],
)
def test_a_file_of_several_runs_that_does_not_say_enough_is_refused(tmp_path, text, says):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(RigbenchError) as error:
        read(path, tokens=1e9 if "val/loss is NaN" in says or "no loss" in says else NO)
    assert str(error.value).startswith(says)


def test_a_column_of_tokens_and_a_chosen_loss_of_several_runs(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(BESIDE.replace("_step", "tokens"))
    points, notes = read(path, "loss=train/loss")
    assert [(it.tokens, it.loss) for it in points] == [(1100, 3.5), (1100, 3.4)]
    assert all("a training loss" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5M - loss,15M - loss,_step\n4,3.9,1\n3.5,3.1\n", "line 3 of x.csv does not say how many tokens 5M saw"),
        ("5M - loss,15M - loss,tokens\n4,3.9,1\n3.5,3.1\n", "line 3 of x.csv does not say how many tokens 5M saw"),
        ("run,loss,step\n5M,4,1\n15M,3.9,1\n15M,3.3\n", "line 4 of x.csv does not say how many tokens were seen"),
    ],
)
def test_the_last_row_of_a_run_may_be_cut_short(tmp_path, text, says):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(RigbenchError) as error:
        read(path, tokens_per_step=1000.0)
    assert str(error.value).startswith(says)


def test_a_table_of_runs_with_steps_stays_a_row_a_run(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("params,tokens,step,loss\n5M,1e8,100,4\n5M,2e8,200,3.8\n15M,1e8,100,3.7\n15M,2e8,200,3.5\n")
    assert len(read(path)[0]) == 4


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RigbenchError, match="holds no logs"):
        read(tmp_path)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *map(str, words)])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_file_is_fitted_stored_and_shown_again(rigbench, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n5M,1B,4.3\n10M,1B,4.0\n20M,1B,3.8\n40M,1B,3.55\n")
    code, out, err = rigbench("scaling", "fit", path)
    assert (code, "saved as" in err) == (0, True)
    slope = np.polyfit(np.log([5, 10, 20, 40]), np.log([4.3, 4.0, 3.8, 3.55]), 1)[0]
    assert re.match(
        rf"ok    law: L\(N\) ∝ N\^{slope:.3f} \(-0\.1\d\d to -0\.0\d\d\), R² 0.99\d, 4 points of 5M to 40M\n", out
    )
    assert "L(N) ∝ N^-0.07" in out
    assert "80M on 1B tokens: " in out
    assert "missing  L(D) needs a model on two numbers of tokens" in out
    again = rigbench("report")[1]
    assert out.splitlines()[1:12] == again.splitlines()[2:13]
    assert "5M" in rigbench("report", "--verbose")[1]
    whole = json.loads(rigbench("--json", "scaling", "fit", path)[1])
    assert [point["loss"] for point in whole["law"]["points"]] == [4.3, 4.0, 3.8, 3.55]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 3, "no series that was trained here is stored"),
        (["nowhere.csv"], 2, "there is no file nowhere.csv; give a file of losses, or a run's id"),
        (["20990101"], 2, "no stored run is called '20990101'"),
        (["one.csv"], 3, "one model with one number of tokens gives no law"),
        (["runs.csv", "--columns", "loss=x"], 2, "no column is called 'x'; there are params, tokens, loss"),
        (["runs.csv", "--flops", "zero"], 2, "--flops 'zero'"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_line(rigbench, tmp_path, monkeypatch, words, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text("params,tokens,loss\n5M,1B,4.3\n")
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n5M,1B,4.3\n9M,1B,4.1\n")
    its, out, err = rigbench("scaling", "fit", *words)
    assert (its, out) == (code, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_stored_run_that_has_no_series_is_refused(rigbench, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n5M,1B,4.3\n9M,1B,4.1\n")
    assert rigbench("scaling", "fit", path)[0] == 0
    run = next((tmp_path / "home" / "runs").glob("*.json"))
    for words in (run.stem, run):
        code, _, err = rigbench("scaling", "fit", words)
        assert (code, "trained no model to its end" in err) == (3, True)


def test_the_page_draws_the_laws_and_has_their_numbers(rigbench, tmp_path):
    path = Path(__file__).parent / "data" / "losses.csv"
    assert rigbench("-q", "scaling", "fit", path)[0] == 0
    assert rigbench("report", "--html", tmp_path / "law.html")[0] == 0
    text = (tmp_path / "law.html").read_text()
    section = text[text.index('<section id="law"') :].partition("</section>")[0]
    assert section.count("<svg") == 3
    for words in ("L(N) ∝ N^-0.115", "L(D) ∝ D^-0.119", "L(C) ∝ C^-0.105", "adamw8bit", "Besiroglu 2024", "N ∝ C^a"):
        assert words in section, words
    assert rigbench("scaling", "fit", "--verbose", path)[1].count("logarithmic") == 6  # three charts of each optimizer


def test_logs_of_a_folder_that_are_of_one_size_are_seeds_and_the_same_twice_is_refused(tmp_path):
    for name, loss in {"5M-a": 3.5, "5M-b": 3.6, "9M": 3.2}.items():
        (tmp_path / f"{name}.csv").write_text(f"step,val_loss\n50,4\n100,{loss}\n")
    points, notes = read(tmp_path, tokens_per_step=1000.0)
    assert [(it.params, it.seed, it.loss) for it in points] == [(5e6, 0, 3.5), (5e6, 1, 3.6), (9e6, 0, 3.2)]
    assert notes[-1].startswith("2 runs of ")
    (tmp_path / "5M-b.csv").write_text("step,val_loss\n50,4\n100,3,6\n")
    with pytest.raises(RigbenchError, match=r"line 3 of 5M-b.csv has 3 cells for 2 columns"):
        read(tmp_path, tokens_per_step=1000.0)
    (tmp_path / "5M-b.csv").write_text("step,val_loss\n50,4\n100,3.5\n")
    with pytest.raises(RigbenchError, match=r"5M-a.csv and 5M-b.csv of .* are the same run \(5M-a, 100K tokens\)"):
        read(tmp_path, tokens_per_step=1000.0)


def test_the_same_run_of_two_files_is_refused_and_alike_ones_are_seeds(rigbench, tmp_path):
    first, again, other = (tmp_path / f"{name}.csv" for name in ("first", "again", "other"))
    for path, last in ((first, 3.0), (again, 3.0), (other, 3.1)):
        path.write_text(f"params,tokens,loss\n5M,1B,{last + 0.5}\n9M,1B,{last + 0.3}\n30M,1B,{last}\n")
    code, out, err = rigbench("scaling", "fit", first, again)
    assert (code, out) == (2, "")
    assert "first.csv and again.csv hold the same run (5M, 1B tokens, seed 0, loss 3.5000); give it once" in err
    assert rigbench("scaling", "fit", first, first)[0] == 2
    code, out, _ = rigbench("scaling", "fit", first, other, "--json")
    assert code == 0
    document = json.loads(out)["law"]
    assert [it["seed"] for it in document["points"]] == [0, 0, 0, 1, 1, 1]
    assert document["notes"] == ["3 runs of other.csv differ in nothing but their loss: they are taken for seeds"]


def test_tensorboard_scalars_that_are_kept_as_tensors_are_read(tmp_path):
    """As TensorFlow 2, Keras and rigbench's own export write them."""
    writer_of = pytest.importorskip("tensorboard.summary")
    for name, loss in {"5M": 3.5, "9M": 3.25}.items():
        writer = writer_of.Writer(str(tmp_path / name))
        for step, value in ((50, 4.0), (100, loss)):
            writer.add_scalar("val_loss", value, step)
        writer.close()
    points, _ = read(tmp_path, tokens_per_step=1000.0)
    assert [(it.params, it.tokens, it.loss) for it in points] == [(5e6, 1e5, 3.5), (9e6, 1e5, 3.25)]
