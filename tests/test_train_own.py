"""Is a program of the user's trained in rigbench's own loop, in its own unit, and its mistakes told in one line?"""

import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from recipes import changed

from rigbench import __main__
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import Recipe
from rigbench.train import own
from rigbench.train import probe as train
from rigbench.train.record import Options, TrialOptions
from rigbench.work.process import Report

MODELS = Path(__file__).parent / "models"
BREAKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.weight, self.calls, self.after = nn.Parameter(torch.ones(4)), 0, after
    def forward(self, x):
        self.calls += 1
        if self.calls == self.after:
            raise ValueError("the labels ran out")
        loss = (x @ self.weight).mean()
        return loss * float("nan") if self.calls == -self.after else loss

def batch(n):
    return torch.randn(n, 4)

def breaks():
    return Net(3), batch

def turns_nan():
    return Net(-3), batch
"""


def options(name: str, folder: Path, **changes) -> Options:
    tried = own.run(TrialOptions(name, str(folder), device="cpu"), Report(io.BytesIO()))
    told = Options(model=tried, folder=str(folder), cache=str(folder), device="cpu", seconds=0.5)
    return changed(told, **changes)


def trained(name: str, folder: Path, **changes):
    return train.run(options(name, folder, **changes), Report(io.BytesIO()))


def test_a_vision_net_is_counted_in_samples():
    found = trained("tiny_vision:make", MODELS, micro_batch=3, accumulation=2)
    steady = found.steps.seconds[found.steady_from :]
    assert found.items_per_step == 6
    assert found.items_per_s.value == pytest.approx(6 * len(steady) / math.fsum(steady))
    assert found.model_flops_per_s == pytest.approx(found.items_per_s.value * found.model.flop_per_item)
    assert found.model.total_parameters == sum(weight.numel() for weight in reference().parameters())
    assert found.steps.loss[-1] < 3.0  # ten classes at random: ln 10 = 2.3


def reference() -> torch.nn.Module:
    sys.path.insert(0, str(MODELS))
    try:
        import tiny_vision
    finally:
        sys.path.remove(str(MODELS))
    return tiny_vision.Net()


def test_a_language_model_alone_eats_rigbenchs_tokens(tmp_path):
    tried = own.run(TrialOptions("tiny_words:make", str(MODELS), device="cpu"), Report(io.BytesIO()))
    asked = Options(
        model=tried, folder=str(MODELS), cache=str(tmp_path), device="cpu", seconds=0.5, recipe=Recipe(micro_batch=2)
    )
    found = train.run(asked, Report(io.BytesIO()))
    assert found.model.unit == "tokens"
    assert found.items_per_step == 2 * tried.items_per_sample


def test_what_the_users_code_raises_in_a_step_is_one_line_with_its_place(tmp_path):
    (tmp_path / "mine.py").write_text(BREAKS)
    with pytest.raises(RigbenchError) as caught:
        trained("mine:breaks", tmp_path)
    said = (
        "--model mine:breaks: the forward pass raised ValueError: the labels ran out (mine.py, line 12); fix the model"
    )
    assert str(caught.value) == said


def test_a_loss_that_turns_nan_is_an_event_with_its_step(tmp_path):
    (tmp_path / "other.py").write_text(BREAKS)
    found = trained("other:turns_nan", tmp_path)
    assert found.events[0].startswith("the loss was nan at step ")
    assert any(isinstance(loss, Absent) for loss in found.steps.loss)


def test_the_command_tries_trains_stores_and_shows(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(MODELS)
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["rigbench", "train-probe", "--model", "few_shot:make", "--seconds", "0.5s"])
    assert __main__._run() == 0
    shown = capsys.readouterr().out
    assert "train-probe: few_shot:make: " in shown.splitlines()[0]
    assert " samples/s" in shown.splitlines()[0]
    document = json.loads(next((tmp_path / "runs").glob("*.json")).read_text())
    assert document["slices"][0]["model"]["name"] == "few_shot:make"
