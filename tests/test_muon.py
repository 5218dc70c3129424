"""Does Muon step what it should, hold what is predicted, and multiply as often as is counted?"""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rigbench.core import profiles
from rigbench.core.errors import NOTHING
from rigbench.model import muon, optim
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.model.shape import model_named
from rigbench.predict import ceilings, operations, steptime
from rigbench.predict.cards import of_profile
from rigbench.predict.loop import device_bytes, weights_of
from rigbench.predict.memory import Predictor
from rigbench.predict.traces import Traces
from rigbench.train.plan import why_not

SHAPE = Shape("gpt2", 2, 64, 2, 2, 256, 300, 32, tied_head=False, biases=True)


def stepped(model=None):
    model = model or Decoder(SHAPE)
    optimizer = optim.build("muon", model)
    tokens = torch.randint(0, SHAPE.vocabulary, (2, 33))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    optimizer.step()
    return model, optimizer


def states(optimizer):
    return [tensor for part in optimizer.parts for state in part.state.values() for tensor in state.values()]


def test_matrices_inside_have_one_moment_and_all_else_two():
    model, optimizer = stepped()
    inner, outer = optimizer.parts
    names = {id(weight): name for name, weight in model.named_parameters()}
    its = {names[id(weight)] for weight in inner.state}
    assert its == {
        name for name, weight in model.named_parameters() if name.startswith("blocks.") and weight.dim() == 2
    }
    assert {names[id(weight)] for weight in outer.state} == set(names.values()) - its
    assert {"tokens.weight", "positions.weight", "head.weight"}.isdisjoint(its)


def test_its_states_are_those_that_are_predicted():
    _, optimizer = stepped()
    real = sum(tensor.numel() * tensor.element_size() for tensor in states(optimizer))
    assert real == device_bytes("muon", weights_of(SHAPE, 4))
    inner = 2 * (3 * 64 * 64 + 64 * 64 + 2 * 256 * 64)  # two layers: qkv, out, up, down
    total = sum(weight.elements for weight in weights_of(SHAPE, 4))
    tensors = len(weights_of(SHAPE, 4)) - 8
    assert real == 4 * inner + 8 * (total - inner) + 4 * tensors


def test_its_products_are_those_that_torch_counts():
    model, optimizer = stepped()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    counted = sum(it.flop for it in operations.optimizer_step(SHAPE, Recipe(optimizer="muon", precision="bf16")))
    assert counter.get_total_flops() == counted
    assert model.tokens.weight.isfinite().all()


@pytest.mark.parametrize("dims", [(96, 64), (64, 96), (64, 64)])
def test_the_own_one_is_as_torchs(dims):
    torch.manual_seed(1)
    start, gradient = torch.randn(dims), torch.randn(dims)
    results = []
    for kind in (torch.optim.Muon, muon.OwnMuon):
        weight = nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        for _ in range(2):
            weight.grad = gradient.clone()
            optimizer.step()
        results.append(weight.detach())
    assert torch.allclose(*results, rtol=0, atol=2e-3)
    assert not torch.allclose(results[0], start, atol=1e-2)
    values = torch.linalg.svdvals(muon.orthogonal(gradient).float())
    assert 0.3 < values.min() < values.max() < 1.6


def test_it_lowers_the_loss():
    torch.manual_seed(0)
    model = Decoder(SHAPE)
    optimizer = optim.build("muon", model, learning_rate=3e-3)
    tokens = torch.randint(0, SHAPE.vocabulary, (2, 33))
    losses = []
    for _ in range(6):
        loss = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3
    assert all(group["lr"] == 3e-3 for group in optimizer.param_groups)


def test_a_model_without_matrices_inside_is_adamws_alone():
    model = nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4))
    assert len(optim.build("muon", model).parts) == 1


def test_it_takes_less_memory_and_more_time_than_adamw_by_prediction():
    model, limits = model_named("120M"), ceilings.from_rig(profiles.rig_named("rtx-4090"))
    ways = {name: Recipe(optimizer=name, precision="bf16", compiled=True, micro_batch=8) for name in ("adamw", "muon")}
    seconds = {name: steptime.predict(model, way, limits) for name, way in ways.items()}
    products = 5 * 12 * (4 * 768**2 * (2304 + 768 + 2 * 3072) + 4 * 2 * 768**3)
    assert seconds["muon"].part("optimizer") > products / 165.2e12
    assert seconds["muon"].part("matmul") == pytest.approx(seconds["adamw"].part("matmul"), rel=0.05)
    predictor, card = Predictor(Traces(None)), of_profile(profiles.gpu("rtx-4090"), "rtx-4090")
    small = model_named("5M")
    peaks = {
        name: predictor.predict(small, Recipe(optimizer=name, precision="bf16", micro_batch=2), card) for name in ways
    }
    saved = peaks["adamw"].breakdown.optimizer_bytes - peaks["muon"].breakdown.optimizer_bytes
    inner = sum(weight.elements for weight in weights_of(small.shape, 4) if weight.inner)
    assert saved == pytest.approx(4 * inner, rel=0.05)


@pytest.mark.parametrize(
    "command",
    [
        "capacity --optimizer muon --strategy fsdp2",
        "train-probe --optimizer muon --strategy fsdp2",
        "budget --flops 1e18 --optimizer muon --set strategy=fsdp2",
    ],
)
def test_no_command_predicts_what_none_can_train(command, rigbench):
    code, _, err = rigbench(*command.split(), "--on", "2xrtx-4090")
    assert code == NOTHING
    assert "muon steps whole matrices, and fsdp2 has shards" in err


def test_a_table_of_shards_has_no_rows_in_8_bits(rigbench):
    line = "capacity --params 5M --on 2xrtx-4090 --strategy fsdp2 --attention naive --json"
    rows = json.loads(rigbench(*line.split())[1])["capacity"]["rows"]
    assert [row["recipe"]["optimizer"] for row in rows] == ["adamw"] * 4
    assert {row["recipe"]["attention"] for row in rows} == {"naive"}


def test_shards_are_no_matrices_to_it():
    arm = Recipe(optimizer="muon", strategy="fsdp2")
    assert why_not(arm, Recipe(), "cuda", 2) == "muon steps whole matrices, and fsdp2 has shards"
