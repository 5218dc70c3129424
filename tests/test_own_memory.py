"""Is the memory of a program of the user's predicted as that of rigbench's own, as a real step takes it, or refused?"""

import io
import json
import math
import sys
from pathlib import Path

import msgspec
import pytest
from real_memory import peaks
from test_first_screens import printed

from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model.counts import describe
from rigbench.model.recipe import Recipe
from rigbench.model.shape import model_named
from rigbench.predict import allocator, cards, ceilings, loop, own_time, screen, steptime
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Largest, OwnCapacity, OwnMemoryOptions
from rigbench.predict.traces import Traces
from rigbench.train import own_memory
from rigbench.train.own import load
from rigbench.work.process import Report

MODELS = Path(__file__).parent / "models"
PROGRAMS = """
import msgspec
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from rigbench.model.gpt import Decoder
from rigbench.model.shape import model_named

def decoder():
    made = Decoder(msgspec.structs.replace(model_named("5M").shape, layers=2, vocabulary=1024, sequence=128))
    made.vocabulary, made.sequence = 1024, 128
    return made

class Net(nn.Module):
    def __init__(self, width, asks):
        super().__init__()
        self.line, self.asks = nn.Linear(4, width), asks
    def forward(self, x):
        y = self.line(x).square().mean()
        return y if not self.asks or y.item() > -1 else -y

def asks():
    return Net(2, True), lambda n: torch.randn(n, 4)

class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(16, 16)
    def forward(self, x):
        q = self.line(x)
        return nn.functional.scaled_dot_product_attention(q, q, q, None, 0.1, True).square().mean()

def attends():
    return Attends(), lambda n: torch.randn(n, 2, 64, 16)

def huge():
    data = TensorDataset(torch.randn(64, 4))
    return Net(6_000_000, False), DataLoader(data, batch_size=2)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The name of a factory of those above, importable."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_programs.py").write_text(PROGRAMS)
    return lambda name: f"own_programs:{name}"


def predicted(name: str, folder: Path, card: str = "rtx-3060", **changes) -> OwnCapacity:
    options = {
        "name": name,
        "folder": str(folder),
        "target": cards.of_profile(profiles.gpu(card), card),
        "optimizers": ("adamw",),
        "precision": "bf16",
        **changes,
    }
    return own_memory.run(OwnMemoryOptions(**options), Report(io.BytesIO()))


def test_a_decoder_brought_as_a_program_takes_what_it_takes_by_its_name(program, tmp_path):
    found = predicted(program("decoder"), tmp_path)
    card = cards.of_profile(profiles.gpu("rtx-3060"), "rtx-3060")
    model = describe(msgspec.structs.replace(model_named("5M").shape, layers=2, vocabulary=1024, sequence=128), "small")
    named = Predictor(Traces(None)).largest_micro_batch(model, Recipe(precision="bf16", micro_batch=1), card)
    assert isinstance(named, Largest)
    assert found.unit == "tokens"
    assert found.items_per_sample == 128
    # Where its batch, which lives longer, has the backward thread's workspace cut from a large block, fewer fit.
    assert found.rows[0].micro_batch == pytest.approx(named.value, rel=0.12)
    assert found.rows[0].process.value == pytest.approx(named.prediction.process.value, rel=0.01)
    shown = words(screen.brief, found)
    assert (
        f"fits rtx-3060 with {found.rows[0].micro_batch:,} samples of 128 tokens at once [adamw, bf16, eager]" in shown
    )
    assert "n/a (measured here, not predicted" in shown


def test_a_step_on_fake_tensors_allocates_what_a_real_one_does(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = load("tiny_vision:make", str(MODELS))
    samples, weights = 16, [weight.numel() * 4 for weight in own.module.parameters()]

    def step() -> None:
        assert own.batch
        images, labels = own.batch(samples)
        own.module(images, labels).backward()

    buffers = [buffer.numel() * buffer.element_size() for buffer in own.module.buffers()]
    real = peaks(step, [*weights, *buffers])[0]
    own.module.zero_grad(set_to_none=True)
    fake = own_memory.FakeStep(own, "fp32", cuda=False)
    script = loop.compose(fake.micro_step(samples), fake.weights, Recipe(precision="fp32", micro_batch=samples))
    # The first step alone, without the optimizer's states, which begin where it ends.
    states = script.kinds.index("optimizer")
    until = script.events.index(states)
    told = allocator.replay(script.sizes, script.events[:until]).allocated_bytes
    assert told == pytest.approx(real, rel=0.005)


def test_what_asks_for_values_is_refused_in_one_line(program, tmp_path):
    with pytest.raises(RigbenchError) as refused:
        predicted(program("asks"), tmp_path)
    assert refused.value.exit_code == NOTHING
    assert "its step on fake tensors raised DataDependentOutputException" in str(refused.value)
    assert "train-probe --model own_programs:asks` measures it" in str(refused.value)


def test_a_batch_of_one_size_fits_or_not(program, tmp_path):
    found = predicted(program("huge"), tmp_path, precision="bf16-pure", card="rtx-3050")
    assert found.fixed_samples == 2
    assert isinstance(found.rows[0].next_short_bytes, Absent)
    assert "huge fits rtx-3050 with 2 samples at once" in words(screen.brief, found)
    small = predicted(program("huge"), tmp_path, target=cards.of_profile(_of_half_a_gib(), "small"))
    assert isinstance(small.rows[0].micro_batch, Absent)
    assert "huge does not fit small, not even 2 samples at once" in words(screen.brief, small)


def words(show, result) -> str:
    return " ".join(printed(show, result).split())


def _of_half_a_gib():
    return msgspec.structs.replace(profiles.gpu("rtx-3050"), memory_gib=(0.5,))


def test_the_command_answers_and_refuses_and_its_page_has_the_answer(rigbench, monkeypatch, tmp_path):
    monkeypatch.chdir(MODELS)
    for typed, said in {
        "--inference": "--inference is not for a program",
        "--compile on": "--compile on is not for a program",
        "--layers 3": "--model tiny_vision:make and --layers exclude each other",
        "--strategy ddp": "--strategy ddp needs several cards, and rtx-4080 is one",
    }.items():
        code, _, err = rigbench("capacity", "--on", "rtx-4080", "--model", "tiny_vision:make", *typed.split())
        assert code == 2
        assert said in err
    for typed in ("--program nanogpt", "--precision fp8", "--accumulation 2", "--strategy accelerate", "--compile on"):
        code, _, err = rigbench("train-probe", "--on", "rtx-4080", "--model", "tiny_vision:make", *typed.split())
        assert code == 2
        assert f"{typed.partition(' 2')[0].partition(' nano')[0]} is not for a program" in err
    choices = ("--optimizer", "adamw", "--strategy", "single")
    code, out, _ = rigbench("capacity", "--on", "2xrtx-4080", "--model", "tiny_vision:make", *choices, "--json")
    assert code == 0
    its = json.loads(out)["capacity"]
    assert its["program"] == "tiny_vision:make"
    assert its["total_parameters"] == 20234
    assert its["target"]["count"] == 1
    assert its["rows"][0]["micro_batch"] > 10_000
    code, _, _ = rigbench("report", "--html", tmp_path / "page.html")
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    assert "What fits of tiny_vision:make on 2xrtx-4080, predicted" in page
    assert f"{its['rows'][0]['micro_batch']:,}" in page
    _, out, _ = rigbench("report", "--format", "csv")
    assert "tiny_vision:make speed, samples" in out
    assert f"micro-batch {its['rows'][0]['micro_batch']}" in out
    code, out, _ = rigbench("train-probe", "--on", "rtx-4080", "--model", "tiny_vision:make", *choices, "--json")
    assert code == 0
    assert json.loads(out)["capacity"]["items_per_s"] == its["items_per_s"]


RESNET = """
from torch import nn
import torch

class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        sizes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        self.relu, self.down = nn.ReLU(inplace=True), None
        if inputs != 4 * width:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
    def forward(self, x):
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            y = norm(conv(y))
            y = self.relu(y) if number < 2 else y
        return self.relu(y + (x if self.down is None else self.down(x)))

class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, 1))
        inputs = 64
        for stage, count in enumerate((3, 4, 6, 3)):
            for number in range(count):
                layers.append(Bottleneck(inputs, 64 << stage, 2 if stage and not number else 1))
                inputs = 256 << stage
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2048, 1000)
    def forward(self, x, y):
        return nn.functional.cross_entropy(self.head(self.body(x).mean((2, 3))), y)

def make():
    return ResNet50(), lambda n: (torch.zeros(n, 3, 224, 224), torch.zeros(n, dtype=torch.int64))
"""
# NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md, one GPU: images a second; batches
# of 256, but for V100's fp32 of 112. With AMP the images' channels come last, which products like.
PUBLISHED_IMAGES = {
    ("a100-sxm4-80gb", "bf16", 256): 2470,
    ("a100-sxm4-80gb", "tf32", 256): 938,
    ("v100-sxm2-16gb", "fp16", 256): 1200,
    ("v100-sxm2-16gb", "fp32", 112): 367,
}


@pytest.mark.slow
def test_what_is_unlike_a_language_model_lies_within_its_wider_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "resnet_50.py").write_text(RESNET)
    for (card, precision, samples), published in PUBLISHED_IMAGES.items():
        step = own_memory.FakeStep(load("resnet_50:make", str(tmp_path)), precision, cuda=True)
        tensors = [(name, tuple(weight.shape)) for name, weight in step.own.module.named_parameters()]
        assert sum(math.prod(dims) for _, dims in tensors) == 25_557_032  # as torchvision says of it
        recipe, limits = Recipe(precision=precision), ceilings.from_rig(profiles.rig_named(card))
        rate = samples / own_time.predict(step.operations(samples), tensors, recipe, limits, tokens=0).seconds
        print(f"{card} {precision}: {rate.value:,.0f} ({rate.low:,.0f} to {rate.high:,.0f}), published {published:,}")
        assert rate.low < published < rate.high


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_decoder_brought_as_a_program_is_as_fast_as_by_its_name(program, tmp_path, precision):
    limits = ceilings.from_rig(profiles.rig_named("rtx-3060"))
    model = describe(msgspec.structs.replace(model_named("5M").shape, layers=2, vocabulary=1024, sequence=128), "small")
    for samples in (1, 64):
        its = {"precision": precision, "micro_batch": samples, "ceilings": limits}
        found = predicted(program("decoder"), tmp_path, card="rtx-3060", **its)
        named = steptime.predict(model, Recipe(precision=precision, micro_batch=samples), limits)
        assert found.timed_samples == samples
        assert found.items_per_s.value == pytest.approx(named.tokens_per_s.value, rel=0.03)
        its_own, by_name = (it.high / it.low for it in (found.items_per_s, named.tokens_per_s))
        assert its_own > by_name * 1.1
        assert sum(part.seconds for part in found.parts) * found.items_per_s.value == pytest.approx(128 * samples)


def test_a_step_is_at_as_many_samples_as_gain_something(program, tmp_path):
    limits = ceilings.from_rig(profiles.rig_named("2xrtx-3060"))
    target = cards.of_profile(profiles.gpu("rtx-3060"), "2xrtx-3060", 2)
    found = predicted(program("decoder"), tmp_path, target=target, ceilings=limits)
    assert found.timed_samples == 32768 // 128
    assert "communication exposed" in {part.name for part in found.parts}
    assert "samples at once a card" in words(screen.brief, found)
    shown = words(screen.brief, msgspec.structs.replace(found, asked_by="train-probe"))
    assert "train-probe: own_programs:decoder on 2xrtx-3060, predicted: " in shown
    few = predicted(program("huge"), tmp_path, card="rtx-3050", ceilings=limits)
    assert few.timed_samples == 2
    with pytest.raises(RigbenchError, match="huge makes batches of 2, and --micro-batch says 3; leave"):
        predicted(program("huge"), tmp_path, card="rtx-3050", ceilings=limits, micro_batch=3)
    assert "nothing but language models is behind the constants" in words(screen.brief, few)


def test_attention_with_dropout_is_a_fused_kernel_on_a_card(program, tmp_path):
    own = load(program("attends"), str(tmp_path))
    on_gpu, on_cpu = (own_memory.FakeStep(own, "bf16", cuda).operations(2) for cuda in (True, False))
    # Two products forward, five backward, of the causal half of 2 × 2 heads' 64 × 64 scores of 16.
    assert sum(it.flop for it in on_gpu if "attention" in it.name) == 7 * 2 * 4 * 64 * 64 * 16 / 2
    assert not any("attention" in it.name for it in on_cpu)
    assert [it.name for it in on_cpu].count("bmm") == 6
