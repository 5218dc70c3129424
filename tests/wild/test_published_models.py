"""Do the models that people have train as they are, each with a factory of at most six lines?"""

import inspect
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from rigbench.core.errors import RigbenchError
from rigbench.doctor import topics
from rigbench.model.batches import Batches
from rigbench.train.own import OwnBatches, load, tried

MODELS = Path(__file__).parents[1] / "models"
LONGEST_FACTORY = 6  # lines
CHANCE = math.log(300)


@pytest.fixture
def factories(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(MODELS), *sys.path])
    import factories

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield factories
    torch.set_num_threads(threads)


def step(own, known, micro_batch):
    """The loss of one training step on what the program would be given."""
    if own.batch:
        own = own._replace(sequence=known.items_per_sample if known.unit == "tokens" else 0)
        source = OwnBatches(own, micro_batch, "cpu")
    else:
        tokens = np.random.default_rng(0).integers(0, own.vocabulary, 5000).astype("<u2")
        source = Batches(tokens, "uint16", own.vocabulary, micro_batch, own.sequence, "cpu", "ids")
    with source:
        for _ in range(
            15 if known.fixed_samples else 2
        ):  # beyond the end of a loader of 13 batches, the last of them short
            loss = own.losses(own.module)(*source.next())
    loss.backward()
    return loss.item()


LOSS_IS_SECOND = "the loss is item 2 of the 2 that it returns: the one number with a gradient"


@pytest.mark.parametrize(
    ("name", "unit", "items", "fixed", "chance", "note"),
    [
        ("nanogpt", "tokens", 32, 0, CHANCE, LOSS_IS_SECOND),
        ("nanochat", "tokens", 32, 0, CHANCE, "sequence 32, as config.sequence_len is 32"),
        ("transformers_alone", "tokens", 1024, 0, CHANCE, "sequence 1,024, as config.max_position_embeddings is 4,096"),
        ("transformers_batch", "tokens", 64, 0, CHANCE, "a sample is 64 tokens, as its batches begin with ids"),
        ("transformers_trainer", "tokens", 64, 8, CHANCE, "its batches are always of 8 samples"),
        ("x_transformers", "tokens", 33, 0, CHANCE, "a sample is 33 tokens"),
        ("timm", "samples", 1, 0, math.log(10), None),
        ("loader", "samples", 1, 8, math.log(10), "its batches are always of 8 samples, which is the micro-batch"),
        ("dataset", "samples", 1, 0, math.log(10), None),
        ("lstm", "tokens", 35, 0, CHANCE, "the loss is item 1 of the 2"),
    ],
)
def test_a_published_model_trains_with_a_short_factory(factories, name, unit, items, fixed, chance, note):
    torch.manual_seed(0)
    factory = getattr(factories, name)
    assert len(inspect.getsource(factory).split("\n")) - 2 <= LONGEST_FACTORY
    own = load(f"factories:{name}", str(MODELS))
    known = tried(own, "cpu", 2)
    assert (known.unit, known.items_per_sample, known.fixed_samples) == (unit, items, fixed)
    assert known.loss == pytest.approx(chance, rel=0.2)
    assert note is None or any(line.startswith(note) for line in known.notes), known.notes
    assert step(own, known, fixed or 3) == pytest.approx(chance, rel=0.2)


def test_three_of_the_factories_are_in_the_topic_about_models(factories):
    text = topics.topic("models").text
    shown = [
        name
        for name, it in inspect.getmembers(factories, inspect.isfunction)
        if it.__module__ == "factories" and "\n".join(f"    {line}" for line in body(it)) in text
    ]
    assert shown == ["nanogpt", "timm", "transformers_alone"]


def body(function):
    """Without the lines that are blank in an indented text."""
    return inspect.getsource(function).rstrip().split("\n")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("logits, logits.mean(), logits.sum()", r"returned a tuple of 3 .*, and no loss"),  # which of the two?
        ("logits, 3.5", r"returned a tuple of 2 \(Tensor, float\), and no loss"),
        ("logits, logits.mean().detach()", r"returned a tuple of 2 \(Tensor, Tensor\), and no loss"),
    ],
)
def test_a_tuple_with_no_loss_or_two_is_refused(tmp_path, monkeypatch, returned, said):
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"pair_{abs(hash(returned))}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n        logits = super().forward(x)\n"
        f"        return {returned}\ndef make(): return Net(4, 2), lambda n: torch.ones(n, 4)\n"
    )
    with pytest.raises(RigbenchError, match=said):
        tried(load(f"{name}:make", str(tmp_path)), "cpu", 2)


class Lengths(IterableDataset):
    """Padded to another length each time."""

    def __iter__(self):
        yield from (torch.zeros(2, 8 + number, dtype=torch.int64) for number in range(10))


IDS = "torch.zeros(2, 8, dtype=torch.int64)"


@pytest.mark.parametrize(
    ("source", "unit", "said"),
    [
        ("torch.utils.data.DataLoader(Lengths(), batch_size=None)", "samples", None),
        (f"[{IDS}] * 3 + [{IDS.replace('8', '9')}]", "tokens", "int64 2×9, not 2 samples of 8 tokens; make every"),
        ("[torch.zeros(2, 8)] * 4 + [torch.zeros(3, 8)]", "samples", r"3×8, not 2 samples; make every batch of one"),
        ("iter([])", None, "the loader gave no whole batch"),
    ],
)
def test_lengths_that_change_are_no_tokens_and_never_a_wrong_rate(tmp_path, monkeypatch, source, unit, said):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    name = f"lengths_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom test_published_models import Lengths\nclass Net(torch.nn.Linear):\n"
        f"    def forward(self, x): return (x.sum() * self.weight).mean()\ndef make(): return Net(4, 2), {source}\n"
    )
    own = load(f"{name}:make", str(tmp_path))

    def draws():
        known = tried(own, "cpu", 2)
        assert known.unit == unit
        sequence = known.items_per_sample if unit == "tokens" else 0
        with OwnBatches(own._replace(sequence=sequence), 2, "cpu") as batches:
            for _ in range(4):
                batches.next()

    if said is None:
        draws()
        return
    with pytest.raises(RigbenchError, match=said):
        draws()


def test_a_dataset_gives_as_many_samples_as_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(MODELS), *sys.path])
    own = load("factories:dataset", str(MODELS))
    for samples in (2, 5, 2):
        assert len(own.batch(samples)[0]) == samples
