"""Runs whose speed is known: read, refused where they contradict physics, and worth what they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rigbench import store
from rigbench.budget import brief
from rigbench.core.errors import RigbenchError
from rigbench.model.shape import model_named
from rigbench.predict import known
from rigbench.predict.record import ToldOptions

MODEL = model_named("120M")
ROW = "rtx-4090, gpt2-124m, bf16, compiled, micro-batch 16, 104000 tokens/s"
SLICE = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "train-probe-5M.json"


def told(row: str, **said: Any) -> Any:
    return known.told(ToldOptions(known=row, **said), MODEL, lambda text: Path(str(text)))


def test_a_row_may_be_in_any_order_and_a_file_says_the_same(tmp_path: Path) -> None:
    (one,) = told(ROW).known
    (same,) = told("104k tok/s, mb 16, RTX 4090, GPT2-124M").known
    assert same == one
    assert "104,000 tokens/s" in one.name
    file = tmp_path / "rows.csv"
    head = "gpu,gpu_count,model,precision,compile,micro_batch,tokens_per_s_per_gpu"
    file.write_text(f"{head}\nrtx-4090,1,gpt2-124m,bf16 autocast,yes,16,104000\n")
    assert told(str(file)).known == (one,)
    assert len(told(f"{ROW}; {file}").known) == 2


def test_a_row_of_several_cards_is_of_all_of_them_together() -> None:
    (both,) = told("2xrtx-4090, 120M, micro-batch 16, 208000 tokens/s").known
    (one,) = told("rtx-4090, 120M, micro-batch 16, 104000 tokens/s").known
    assert both.log_seconds == pytest.approx(one.log_seconds)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("rtx-4090, gpt2-124m, 10400000 tokens/s", "and its bf16 peak is 165 TFLOP/s"),
        ("gpt2-124m, 104000 tokens/s", "names no card"),
        ("rtx-4090, gpt2-124m, micro-batch 0, 104000 tokens/s", "micro-batch '0' is not a whole number"),
        (
            "rtx-4090, gpt2-124m, micro-batch 5000, 104000 tokens/s",
            "takes .* with all that can be offloaded, and 23.5 GiB",
        ),
        ("rtx-4090, gpt2-124m", "names no tokens/s"),
        ("rtx-4090, a smaller one, 104000 tokens/s", "'a smaller one' is neither a card, a model nor a choice"),
        ("nowhere.csv", "cannot read it"),
        (";", "names no run"),
    ],
)
def test_what_cannot_be_is_refused(row: str, says: str) -> None:
    with pytest.raises(RigbenchError, match=says) as caught:
        told(row)
    assert caught.value.exit_code == 2


def test_a_stored_run_of_a_processor_is_no_run_of_a_card() -> None:
    with pytest.raises(RigbenchError, match="no short training run that was made on a GPU"):
        told(str(SLICE))


def budget(rigbench: Any, home: Path, *words: str) -> Any:
    code, _, err = rigbench("budget", "--params", "120M", "--flops", "1e18", "--on", "rtx-4090", *words, "-q")
    assert code == 0, err
    newest = max(home.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return store.read(newest).budget


def test_a_known_run_narrows_a_budget_and_another_cards_hardly(rigbench: Any, tmp_path: Path) -> None:
    plain, near, far = (
        budget(rigbench, tmp_path, *words)
        for words in ((), ("--known", ROW), ("--known", ROW.replace("rtx-4090", "rtx-5090")))
    )
    widths = [its.series_hours.high / its.series_hours.low for its in (plain, near, far)]
    assert widths[1] < widths[0] ** 0.5
    assert widths[2] > widths[0] ** 0.7
    assert plain.next_slice.half_width_then < 0.5 * plain.next_slice.half_width_now
    assert near.next_slice.reason == "a run of it is known"
    assert "from published runs; nothing" in brief.sure(plain)
    assert "from published runs and 1 known run; nothing" in brief.sure(near)
    assert "104,000 tokens/s" in near.series[0].rate.rests_on[-1]
    assert any("another card, so used for the program" in it for it in far.assumptions)


def test_without_named_hardware_there_is_nothing_to_know(rigbench: Any) -> None:
    for words in (("--known", ROW), ("--program", "nanogpt")):
        code, _, err = rigbench("budget", *words)
        assert code == 2
        assert "add --on NAME" in err


def test_a_programs_budget_needs_no_torch(tmp_path: Path) -> None:
    code = """
import json, os, sys
from rigbench.__main__ import _run
sys.argv = ["rigbench", "budget", "--flops", "1.2e18", "--on", "2xrtx-4080", "--program", "nanogpt", "-q"]
print(json.dumps([_run(), "torch" in sys.modules]), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"RIGBENCH_HOME": str(tmp_path), "PATH": ""}
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [0, False]
