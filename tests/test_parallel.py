"""Does every way of wrapping a model make the same steps, and can each leave out its exchange and nothing else?"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import strategies
import torch

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.train import parallel
from rigbench.work import ranks

NAMES = ("ddp", "fsdp2", "fsdp2-offload", "accelerate")
PATHS = os.pathsep.join([str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(":")


@pytest.fixture(scope="module")
def both():
    """Two ranks' accounts of all strategies."""
    outcome = ranks.call(
        "strategies",
        strategies.Options(strategies=NAMES),
        strategies.Account,
        world_size=2,
        limit_seconds=60,
        environment={"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS},
    )
    assert outcome.ended == "finished", outcome.reason
    return outcome.results


@pytest.fixture(scope="module")
def one_rank():
    """The losses of one process that is given both ranks' batches: of each half by itself, and together."""
    model, optimizer = strategies.built("single")
    source = zip(strategies.batches(0), strategies.batches(1), strict=True)
    halves = []
    for _ in range(3):
        both_parts = next(source)
        with torch.no_grad():
            halves.append([float(model.module(part[:, :-1], part[:, 1:])) for part in both_parts])
        strategies.step(model, optimizer, torch.cat(both_parts))
    return list(zip(*halves, strict=True))


@pytest.mark.parametrize("strategy", NAMES)
def test_ranks_make_the_steps_of_one_process_with_all_their_batches(strategy, both, one_rank):
    for account, losses in zip(both, one_rank, strict=True):
        assert account.losses[strategy] == pytest.approx(losses, rel=1e-4)
        assert account.accumulated[strategy] == pytest.approx(losses, rel=1e-4)


def test_a_rank_apart_does_all_of_its_own_work_and_waits_for_nobody(both):
    """More steps on rank 0 than on rank 1 came to an end; each moved every weight, with a scaled loss too."""
    for account in both:
        assert account.moved_apart == dict.fromkeys(NAMES, 1.0)
        assert {name: all(finite) for name, finite in account.scaled.items()} == dict.fromkeys(NAMES, True)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="several GPUs")
def test_data_parallel_needs_several_gpus():
    with pytest.raises(RigbenchError, match="DataParallel needs several GPUs in one process") as caught:
        parallel.wrap(torch.nn.Linear(2, 2), "data-parallel", "cpu", 1.0)
    assert caught.value.exit_code == NOTHING


def test_accelerate_that_is_not_installed_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(RigbenchError, match=r"accelerate is not installed; pip install 'rigbench\[accelerate\]'"):
        parallel.wrap(torch.nn.Linear(2, 2), "accelerate", "cpu", 1.0)


class TwoCards(torch.nn.Module):
    """As `nn.DataParallel` on two cards: the batch in parts, a loss each."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *batch):
        parts = list(zip(*(tensor.chunk(2) for tensor in batch), strict=True))
        losses = [self.module(*part) for part in parts]
        return torch.stack(losses) if len(parts) > 1 else losses[0]


@pytest.mark.parametrize("sequences", [1, 3, 4])
def test_data_parallel_makes_the_step_of_the_whole_batch_however_it_is_split(sequences, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.nn, "DataParallel", TwoCards)
    module = strategies.built("single")[0].module
    loss = parallel.wrap(module, "data-parallel", "cpu", 1.0).called(module)
    ids = next(strategies.batches(0))[:sequences]
    whole = module(ids[:, :-1], ids[:, 1:])
    assert float(loss(ids[:, :-1], ids[:, 1:]).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_accelerate_that_refuses_a_rig_is_quoted_and_is_no_fault(monkeypatch):
    class Accelerator:
        def __init__(self, **_named) -> None:
            raise NotImplementedError("Using RTX 4000 series doesn't support faster communication via P2P or IB.\n…")

    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(Accelerator=Accelerator))
    said = r"accelerate refuses this rig \(Using RTX 4000 series .* P2P or IB\.\); update the driver, or use --strategy"
    with pytest.raises(RigbenchError, match=said) as caught:
        parallel.wrap(torch.nn.Linear(1, 1), "accelerate", "cuda:0", 1.0)
    assert caught.value.exit_code == NOTHING
