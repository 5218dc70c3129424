"""Do ranks that train together make one rank's steps, and is a rank that fails named?"""

import math
from pathlib import Path

import msgspec
import pytest
import torch

from rigbench.errors import RigbenchError
from rigbench.measure import rank_steps, ranks
from rigbench.model import flops, optim
from rigbench.model.batches import Batches
from rigbench.model.gpt import Decoder
from rigbench.model.tokens import zipf_tokens
from rigbench.probes import train_ranks
from rigbench.records import Absent, Shape, Slice, Steps

SHAPE = Shape(
    style="gpt2", layers=2, width=64, heads=2, kv_heads=2, ffn_width=256, vocabulary=512, sequence=32,
    tied_head=True, biases=True,
)  # fmt: skip
MODEL = flops.describe(SHAPE, "tiny")
THREAD = {"OMP_NUM_THREADS": "1"}


def options(folder: Path, strategy: str, **changes) -> train_ranks.Options:
    return train_ranks.Options(
        model=MODEL, cache=str(folder), device="cpu", precision="fp32", micro_batch=2, seconds=0.7, strategy=strategy,
        host_name="anna", **changes,
    )  # fmt: skip


def together(folder: Path, strategy: str, **changes) -> Slice:
    asked = options(folder, strategy, **changes)
    outcome = ranks.call(
        "rigbench.probes.train_ranks", asked, Slice, world_size=2, limit_seconds=60, environment=THREAD
    )
    assert outcome.ended == "finished", outcome.reason
    first, second = outcome.results
    assert first.steps.seconds == second.steps.seconds  # both tell of all ranks
    return first


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def ddp(folder) -> Slice:
    return together(folder, "ddp", scaling=True)


def losses_of_one_rank(folder: Path, steps: int) -> list[float]:
    """The same steps written out: one process, the batches of both ranks put together."""
    torch.manual_seed(0)
    model = Decoder(SHAPE)
    optimizer = optim.build("adamw", model, learning_rate=3e-4)
    tokens, data = zipf_tokens(folder, 512)
    sources = [Batches(tokens, data.dtype, 512, 2, 32, "cpu", data.name, seed=seed) for seed in (1, 2)]
    losses = []
    for _ in range(steps):
        inputs, targets = (torch.cat(parts) for parts in zip(*(source.next() for source in sources), strict=True))
        loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_two_ranks_of_ddp_make_the_steps_of_one_rank_with_both_batches(ddp, folder):
    assert ddp.steps.loss[:4] == pytest.approx(losses_of_one_rank(folder, 4), rel=1e-5)
    assert (ddp.arm.strategy, ddp.arm.ranks, ddp.tokens_per_step) == ("ddp", 2, 2 * 2 * 32)
    steady = ddp.steps.seconds[ddp.steady_from :]
    assert ddp.tokens_per_s.value == pytest.approx(128 * len(steady) / math.fsum(steady))


def test_where_the_loss_of_rate_goes_adds_up(ddp):
    exchange = ddp.exchange
    assert exchange.hosts == ("anna", "anna")
    assert len(exchange.with_seconds) == len(exchange.without_seconds) >= 2
    differences = sorted(a - b for a, b in zip(exchange.with_seconds, exchange.without_seconds, strict=True))
    assert differences[0] <= exchange.exposed_seconds <= differences[-1]
    step, alone = ddp.step_seconds.value, exchange.alone_seconds.value
    lost = exchange.shared_seconds + exchange.imbalance_seconds + exchange.exposed_seconds
    assert alone + lost + exchange.unexplained_seconds == pytest.approx(step)
    assert exchange.efficiency == pytest.approx(alone / step)
    assert exchange.imbalance_seconds >= 0


@pytest.mark.parametrize("strategy", ["fsdp2", "accelerate", pytest.param("fsdp2-offload", marks=pytest.mark.slow)])
def test_every_strategy_makes_the_same_steps(ddp, folder, strategy):
    if strategy == "accelerate":
        pytest.importorskip("accelerate")
    result = together(folder, strategy)
    assert result.steps.loss[:4] == pytest.approx(ddp.steps.loss[:4], rel=1e-4)
    assert isinstance(result.exchange.alone_seconds, Absent)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Slice) == result


def broken(folder: Path, how: str):
    here = str(Path(__file__).parent)
    asked, environment = options(folder, "ddp"), {**THREAD, "BROKEN": how, "PYTHONPATH": here}
    return ranks.call("broken_training", asked, Slice, world_size=2, limit_seconds=60, environment=environment)


def test_a_rank_that_dies_in_mid_step_is_named(folder):
    outcome = broken(folder, "dies")
    assert (outcome.ended, outcome.dead_ranks) == ("died", (1,)), outcome.reason


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_is_refused_by_its_number(folder):
    said = r"tiny at micro-batch 2 does not fit rank 1's memory \(out of memory in the forward pass\)"
    with pytest.raises(RigbenchError, match=said) as caught:
        broken(folder, "out of memory")
    assert caught.value.exit_code == 3


def steps(seconds: tuple[float, ...], forward: tuple[float, ...], loss) -> Steps:
    none = (0.0,) * len(seconds)
    return Steps(seconds, none, forward, none, none, seconds, loss)


def test_a_step_is_that_of_its_slowest_rank():
    found = rank_steps.slowest(
        [
            steps((1.0, 3.0, 1.0), (0.1, 0.3, 0.1), (4.0, 3.0, 2.0)),
            steps((2.0, 1.0, 1.5), (0.2, 0.1, 0.15), (5.0, Absent("nan"), 3.0)),
        ]
    )
    assert found.seconds == (2.0, 3.0, 1.5)
    assert found.forward_seconds == (0.2, 0.3, 0.15)
    assert found.loss == (4.5, Absent("nan"), 2.5)
