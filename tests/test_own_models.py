"""Does a user's own model train as its contract says, and is every mistake in it one line that names its place?"""

import resource
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from rigbench import store
from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.dataloader.sources import find_factory
from rigbench.job import Job
from rigbench.machine import host
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import RecipeOptions
from rigbench.train import plan, slices
from rigbench.train.own import OOM_SCORE, OwnBatches, drawn, load, tried, within_free_memory
from rigbench.train.record import OwnModel, ProbeOptions, TrialOptions

MODELS = Path(__file__).parent / "models"
HEAD = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 1)
    def forward(self, x):
        return self.line(x).square().mean()
def batch(n):
    return torch.ones(n, 4)
def make():
    return Net(), batch
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's with the lines above and these; gives its factory's name."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source="", name="make"):
        stem = f"own_{abs(hash(source))}"
        (tmp_path / f"{stem}.py").write_text(HEAD + source)
        return f"{stem}:{name}"

    return write


@pytest.fixture
def loaded(module, tmp_path):
    return lambda source="": load(module(source), str(tmp_path))


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name: load(name, str(MODELS))


def test_a_vision_model_is_counted_as_by_hand(example):
    own = example("tiny_vision:make")
    found = tried(own, "cpu", 2)
    # A k x k convolution from a to b channels over p pixels: 2·k²·a·b·p forward, as much for the weights' gradient,
    # and for the input's, which an image does not need.
    first, second, head = 2 * 9 * 3 * 32 * 32**2, 2 * 9 * 32 * 64 * 16**2, 2 * 64 * 10
    assert found.flop_per_item == 2 * first + 3 * second + 3 * head
    assert found.total_parameters == (27 * 32 + 32) + 2 * 32 + (9 * 32 * 64 + 64) + 2 * 64 + (64 * 10 + 10)
    assert (found.unit, found.items_per_sample, found.unused_parameters) == ("samples", 1, 0)
    assert found.batch == "float32 2×3×32×32, int64 2"
    assert "counted by torch" in found.flop_basis


def test_a_few_shot_model_eats_episodes_by_name_and_returns_a_dict(example):
    own = example("few_shot:make")
    found = tried(own, "cpu", 2)
    # 5 x 2 shots and 5 x 3 queries through 64 -> 128 -> 32; the first layer's input needs no gradient.
    assert found.flop_per_item == 25 * (2 * 2 * 64 * 128 + 3 * 2 * 128 * 32)
    with OwnBatches(own, 3, "cpu") as source:
        loss = own.losses(own.module)(*source.next())
    loss.backward()
    assert loss.dim() == 0


def test_a_language_model_says_its_vocabulary_and_ties_count_once(example):
    own = example("tiny_words:make")
    found = tried(own, "cpu", 2)
    assert (own.vocabulary, own.sequence, own.batch) == (300, 16, None)
    assert found.total_parameters == 300 * 8
    assert found.flop_per_item == 3 * 2 * 8 * 300  # a token's head; a look-up multiplies nothing
    assert (found.unit, found.items_per_sample, found.vocabulary) == ("tokens", 16, 300)
    assert msgspec.json.decode(msgspec.json.encode(found), type=OwnModel) == found


def test_attention_is_counted_though_its_fused_kernel_is_not(loaded):
    own = loaded(
        "class Attend(nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.w = nn.Linear(8, 8, bias=False)\n"
        "    def forward(self, x):\n"
        "        q = self.w(x)[:, None]\n"
        "        return nn.functional.scaled_dot_product_attention(q, q, q).sum()\n"
        "def make(): return Attend(), lambda n: torch.randn(n, 16, 8)\n"
    )
    # 2·8·8 a token forward, once more for the weights; two products of 2·16·8 a token forward, twice that backward.
    assert tried(own, "cpu", 2).flop_per_item == 16 * (2 * 2 * 8 * 8 + 3 * 2 * 2 * 16 * 8)


def test_training_a_users_model_lowers_its_loss(example):
    own = example("tiny_words:make")
    tokens = torch.arange(17).repeat(2, 1)
    optimizer = torch.optim.AdamW(own.module.parameters(), lr=0.1)
    called = own.losses(own.module)
    losses = []
    for _ in range(5):
        loss = called(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1


GOOD = {
    "a tensor, one by one": "",
    "a list of tensors": "class Two(Net):\n def forward(self, x, y): return (self.line(x) - y).mean()\n"
    "def make(): return Two(), lambda n: [torch.ones(n, 4), torch.ones(n, 1)]",
    "an object with a loss": "import types\nclass Says(Net):\n"
    " def forward(self, x): return types.SimpleNamespace(loss=super(Says, self).forward(x), logits=x)\n"
    "def make(): return Says(), batch",
    "a list and not a tuple": "def make(): return [Net(), batch]",
    "a class that is its own pair of arguments": "def make(width=4): return Net(), batch",
    "a batch function with more arguments": "def make(): return Net(), lambda n, seed=0, *more: batch(n)",
    "numbers beside the tensors": "class Scaled(Net):\n def forward(self, x, by): return self.line(x).mean() * by\n"
    "def make(): return Scaled(), lambda n: (torch.ones(n, 4), 2.0)",
    "a size of its own": "def make(): return Net(), lambda n: torch.ones(3, 4)",
    "frozen parts": "def make():\n net = Net(); net.line.bias.requires_grad_(False); return net, batch",
}


@pytest.mark.parametrize("source", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("ahead", [False, True])
def test_what_the_contract_allows_trains(loaded, source, ahead):
    own = loaded(source)
    tried(own, "cpu", 2)
    assert all(weight.grad is None for weight in own.module.parameters())
    with OwnBatches(own, 3, "cpu", ahead=ahead) as batches:
        for _ in range(5):
            own.losses(own.module)(*batches.next()).backward()
    assert own.module.line.weight.grad is not None


BAD = {
    "import nowhere": r"ModuleNotFoundError: No module named 'nowhere' \(own_\d+\.py, line 14\); mend it",
    "1 / 0": r"ZeroDivisionError: division by zero \(own_\d+\.py, line 14\)",
    "def make(:": r"SyntaxError: .*\(own_\d+\.py, line 14\)",
    "make = 3": "has no function make",
    "make = Net()": "is a module, not a function that makes one",
    "del make\ndef maker(): pass": r"has no function make; did you mean maker\?",
    "def make(width, depth=2): return Net()": r"needs arguments \(width\); a factory takes none: give them defaults",
    "def make(*, width): return Net()": r"needs arguments \(width\)",
    "def inner(): raise ValueError('bad width')\ndef make():\n    inner()":
        r"it raised ValueError: bad width \(own_\d+\.py, line 14\); fix the factory",
    "def make(): torch.ones(2) @ torch.ones(3)": r"it raised RuntimeError: .* \(own_\d+\.py, line 14\)",
    "def make(): raise SystemExit(3)": "it raised SystemExit: 3",
    "def make(): return None": r"the factory returned nothing \(None\); return \(module, batch\), or a language model",
    "def make(): return 42": "the factory returned an int",
    "def make(): return Net": "the factory returned a type",
    "def make(): return (Net(),)": r"the factory returned a tuple of 1 \(Net\)",
    "def make(): return Net(), batch, 3": r"the factory returned a tuple of 3 \(Net, function, int\)",
    "def make(): return Net(), 7": r"the factory returned a tuple of 2 \(Net, int\)",
    "def make(): return Net()": r"a language model, and its vocabulary is not known; give --vocab, set",
    "def make():\n net = Net(); net.vocabulary = 9; return net": "its sequence is not known; give --seq",
    "def make():\n net = Net(); net.requires_grad_(False); return net, batch": "no parameter that can be trained",
    "def make(): return nn.Sequential(nn.ReLU()), batch": "no parameter that can be trained",
    "def make(): return nn.LazyLinear(2), batch": "it has lazy layers, whose weights do not exist yet; call the module",
    "def make(): return Net(), lambda: batch(2)": "batch must take one number; write def batch",
    "def make(): return Net(), lambda n, m: batch(n)": "batch must take one number",
    "def make():\n def b(n): raise OSError('no disk')\n return Net(), b":
        r"batch\(2\) raised OSError: no disk \(own_\d+\.py, line 15\); fix the function",
    "def make(): return Net(), lambda n: None": r"batch\(2\) returned nothing \(None\), with no tensor in it",
    "def make(): return Net(), lambda n: 'text'": "returned a str, with no tensor",
    "def make(): return Net(), lambda n: []": "returned an empty list, with no tensor",
    "sizes = [2, 3, 5, 7, 9]\ndef make(): return Net(), lambda n: torch.ones(sizes.pop(), 4)":
        r"asked for 2, 3 and 2 samples, its batches' first tensors are of 7, 5 and 3 \(float32 7×4\); make the first",
    "def make(): return Net(), lambda n: torch.tensor(1.0)": "a first tensor of float32 of one number, not 2 samples",
    "def make(): return Net(), lambda n: torch.ones(n, 4, device='meta')": "returned a tensor on meta; return",
    "def make(): return Net(), lambda n: torch.ones(n, 5)":
        r"its forward pass raised RuntimeError: .*\(own_\d+\.py, line 9\); fix the model",
    "def make(): return Net(), lambda n: (batch(n), batch(n))": "its forward pass raised TypeError: .*takes 2",
    "def make(): return nn.Linear(4, 1), batch": "returned a loss of float32 2×1, not one number; take its mean",
    "class Bare(Net):\n def forward(self, x): return 0.5\ndef make(): return Bare(), batch":
        "its forward pass returned a float, and no loss; return the loss, a tensor of one number, or an object",
    "class Bare(Net):\n def forward(self, x): return None\ndef make(): return Bare(), batch":
        r"its forward pass returned nothing \(None\), and no loss",
    "class Pair(Net):\n def forward(self, x): return x, x.mean()\ndef make(): return Pair(), batch":
        r"its forward pass returned a tuple of 2 \(Tensor, Tensor\), and no loss",
    "class Named(Net):\n def forward(self, x): return {'logits': x}\ndef make(): return Named(), batch":
        "returned a dict, and no loss",
    "class Named(Net):\n def forward(self, x): return {'loss': 0.5}\ndef make(): return Named(), batch":
        "returned a dict, whose loss is a float, and no loss",
    "class Cut(Net):\n def forward(self, x): return super().forward(x).detach()\ndef make(): return Cut(), batch":
        "a loss that no gradient flows from; do not detach it",
    "class Nan(Net):\n def forward(self, x): return super().forward(x) * float('nan')\ndef make(): return Nan(), batch":
        "a loss of nan before any step",
    "class Back(torch.autograd.Function):\n"
    " @staticmethod\n def forward(ctx, x): return x.clone()\n"
    " @staticmethod\n def backward(ctx, g): raise RuntimeError('no way back')\n"
    "class Hard(Net):\n def forward(self, x): return Back.apply(super().forward(x))\ndef make(): return Hard(), batch":
        r"its backward pass raised RuntimeError: no way back \(own_\d+\.py, line 18\)",
}  # fmt: skip


@pytest.mark.parametrize("source", BAD)
def test_a_bad_model_is_one_line_with_its_place_and_cure(loaded, source):
    with pytest.raises(RigbenchError, match=BAD[source]) as caught:
        tried(loaded(source), "cpu", 2)
    assert caught.value.exit_code == BAD_INPUT
    assert caught.value.what_to_do
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_told_from_one_that_imports_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("no_such_net:make", "no_such_package.net:make"):
        with pytest.raises(RigbenchError, match=r"ModuleNotFoundError: .*; run rigbench in the folder that holds it"):
            load(name, str(tmp_path))
    with pytest.raises(RigbenchError, match=r"--model 'net' is not package.module:factory; write it as mynet:make"):
        find_factory("net", str(tmp_path), "--model")


def test_vocabulary_and_sequence_may_be_given_but_not_beyond_the_model_nor_to_what_makes_its_own(module, tmp_path):
    words = (
        "class Lm(Net):\n def forward(self, tokens, targets): return self.line.weight.mean()\ndef make():\n return Lm()"
    )
    own = load(module(words), str(tmp_path), vocabulary=50, sequence=8)
    assert (own.vocabulary, own.sequence, own.unit, own.items_per_sample) == (50, 8, "tokens", 8)
    said = words.replace("return Lm()", "net = Lm(); net.vocabulary, net.sequence = 50, 8; return net")
    assert load(module(said), str(tmp_path), sequence=4).sequence == 4
    with pytest.raises(RigbenchError, match=r"TypeError: .*; fix the model, which is called with tokens and targets"):
        tried(load(module("def make(): return Net()"), str(tmp_path), 50, 8), "cpu", 2)
    with pytest.raises(RigbenchError, match="--vocab 51 is beyond the model's vocabulary of 50"):
        load(module(said), str(tmp_path), vocabulary=51)
    with pytest.raises(RigbenchError, match=r"--seq: own_\d*:make makes batches of its own; leave --seq out"):
        load(module(""), str(tmp_path), sequence=8)


def test_running_out_of_memory_is_no_fault_of_the_code(loaded):
    source = "def make(): return Net(), lambda n: torch.empty(n, 1 << 50)"
    with pytest.raises(RigbenchError, match=r"batch\(2\) ran out of memory") as caught:
        tried(loaded(source), "cpu", 2)
    assert caught.value.exit_code == NOTHING


def test_a_program_that_takes_all_memory_is_stopped_before_the_machine_is(loaded, monkeypatch):
    memory = msgspec.structs.replace(host.memory(Sysfs()), usable_bytes=1 << 28)
    monkeypatch.setattr(host, "memory", lambda sysfs: memory)
    source = "def make():\n    kept = []\n    while len(kept) < 99: kept.append(torch.empty(1 << 24))"
    before = resource.getrlimit(resource.RLIMIT_DATA), OOM_SCORE.read_text()
    with within_free_memory("cpu"):
        assert OOM_SCORE.read_text().strip() == "1000"
        with pytest.raises(RigbenchError, match="it ran out of memory; let it take") as caught:
            loaded(source)
    assert caught.value.exit_code == NOTHING
    assert (resource.getrlimit(resource.RLIMIT_DATA), OOM_SCORE.read_text()) == before
    with within_free_memory("cuda:0"):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before[0]


def test_a_loader_of_as_many_samples_as_the_trial_is_one_of_a_fixed_size(loaded):
    source = """
def make():
    data = torch.utils.data.TensorDataset(torch.ones(8, 4))
    return Net(), torch.utils.data.DataLoader(data, batch_size=2)
"""
    assert tried(loaded(source), "cpu", 2).fixed_samples == 2


def test_a_batch_that_goes_wrong_later_is_one_line_from_a_thread_too(loaded):
    source = "left = [2, 2, 1]\ndef make(): return Net(), lambda n: torch.ones(left.pop(0), 4)"
    for ahead in (False, True):
        with OwnBatches(loaded(source + f"  # {ahead}"), 2, "cpu", ahead=ahead) as batches:
            batches.next()
            batches.next()
            with pytest.raises(RigbenchError, match="a first tensor of float32 1×4, not 2 samples"):
                batches.next()


def test_floating_point_batches_are_cast_for_weights_of_another_type(loaded):
    with OwnBatches(loaded(), 2, "cpu", floats=torch.bfloat16) as batches:
        assert batches.next()[0].dtype == torch.bfloat16


def test_flop_that_torch_does_not_count_are_absent_with_the_reason(loaded):
    recurrent = "class Lstm(Net):\n def __init__(self): super().__init__(); self.cell = nn.LSTM(4, 4)\n"
    recurrent += " def forward(self, x): return self.cell(x)[0].mean()\ndef make(): return Lstm(), batch"
    own = loaded(recurrent)
    found = tried(own, "cpu", 2)
    assert found.flop_per_item == Absent("torch's counter does not see nn.LSTM")
    assert found.unused_parameters == 5  # the line that Net has and this one does not use
    plain = (
        "class Dot(Net):\n def forward(self, x): return (self.line.weight * x).mean()\ndef make(): return Dot(), batch"
    )
    own = loaded(plain)
    assert isinstance(tried(own, "cpu", 2).flop_per_item, Absent)


def test_what_a_step_raised_later_is_explained_with_its_place(loaded):
    own = loaded("class Odd(Net):\n def forward(self, x): raise KeyError('mask')\ndef make(): return Odd(), batch")
    with pytest.raises(KeyError) as caught:
        own.losses(own.module)(drawn(own, 1))
    explained = str(own.explained("the forward pass", caught.value))
    stem = own.name.removesuffix(":make")
    assert (
        explained == f"--model {own.name}: the forward pass raised KeyError: 'mask' ({stem}.py, line 15); fix the model"
    )


def test_a_wrapped_module_gives_its_loss_in_the_same_way(example):
    own = example("few_shot:make")
    wrapped = nn.Sequential()
    wrapped.forward = own.module.forward
    torch.manual_seed(0)
    batch = drawn(own, 2)
    assert own.losses(wrapped)(batch) == own.losses(own.module)(batch)


class Progress:
    def stage(self, text, seconds):
        self.said = text

    def update(self, share, text): ...


@pytest.fixture
def job(tmp_path):
    return Job(store.Store(tmp_path / "home"), Rig.live(), "train-probe", Progress())


@pytest.mark.slow
def test_a_model_is_tried_in_a_process_of_its_own(monkeypatch, job):
    monkeypatch.chdir(MODELS)
    made = plan.of(ModelOptions(model="tiny_vision:make"), RecipeOptions(), ProbeOptions(), device="cpu")
    found = slices.tried(job, made.trial)
    assert job.progress.said == "trying tiny_vision:make"
    assert (found.name, found.total_parameters) == ("tiny_vision:make", 20_234)


def test_a_death_in_that_process_is_one_line(monkeypatch, module, tmp_path, job):
    monkeypatch.chdir(tmp_path)
    name = module("import os\ndef make(): os._exit(7)")
    with pytest.raises(RigbenchError, match=r"--model own_\d+:make: .*; try it in a Python shell first") as caught:
        slices.tried(job, TrialOptions(name, str(tmp_path), device="cpu"))
    assert caught.value.exit_code == NOTHING
