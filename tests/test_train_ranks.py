"""Do ranks that train together make one rank's steps, and is a rank that fails named?"""

import contextlib
import math
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from recipes import changed
from scripted_sensors import series, telemetry

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device
from rigbench.job import Job
from rigbench.machine.accelerator import CudaAccelerator
from rigbench.machine.rig import Rig
from rigbench.model import counts, optim
from rigbench.model.batches import Batches
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.model.tokens import zipf_tokens
from rigbench.train import parallel
from rigbench.train import probe as train
from rigbench.train import slices as stage
from rigbench.train import verdict as findings
from rigbench.train.record import Options, Slice, Steps
from rigbench.work import process, ranks, watch
from rigbench.work.process import Outcome

SHAPE = Shape(
    style="gpt2", layers=2, width=64, heads=2, kv_heads=2, ffn_width=256, vocabulary=512, sequence=32,
    tied_head=True, biases=True,
)  # fmt: skip
MODEL = counts.describe(SHAPE, "tiny")
THREAD = {"OMP_NUM_THREADS": "1"}


def options(folder: Path, strategy: str, **changes) -> Options:
    recipe = Recipe(precision="fp32", micro_batch=2, strategy=strategy)
    asked = Options(model=MODEL, cache=str(folder), device="cpu", recipe=recipe, seconds=0.7, host_name="anna")
    return changed(asked, **changes)


def together(folder: Path, strategy: str, **changes) -> Slice:
    asked = options(folder, strategy, **changes)
    outcome = ranks.call("rigbench.train.probe", asked, Slice, world_size=2, limit_seconds=60, environment=THREAD)
    assert outcome.ended == "finished", outcome.reason
    first, second = outcome.results
    assert first.steps.seconds == second.steps.seconds  # both tell of all ranks
    return first


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def ddp(folder) -> Slice:
    return together(folder, "ddp", alone=True)


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
    seen = ddp.steps.loss[:4]  # a busy machine comes to fewer
    assert len(seen) >= 2
    assert seen == pytest.approx(losses_of_one_rank(folder, len(seen)), rel=1e-5)
    assert (ddp.recipe.strategy, ddp.recipe.ranks, ddp.tokens_per_step) == ("ddp", 2, 2 * 2 * 32)
    steady = ddp.steps.seconds[ddp.steady_from :]
    assert ddp.tokens_per_s.value == pytest.approx(128 * len(steady) / math.fsum(steady))


def test_where_the_loss_of_rate_goes_adds_up(ddp):
    exchange = ddp.exchange
    assert exchange.hosts == ("anna", "anna")
    with_it, without = (list(map(max, *by)) for by in (exchange.with_samples, exchange.without_samples))
    assert len(with_it) == len(without) >= 3
    assert ddp.steps.seconds == tuple(map(max, *exchange.steps_by_rank))
    assert len(exchange.alone_samples) == 4
    differences = sorted(a - b for a, b in zip(with_it, without, strict=True))
    assert differences[0] <= exchange.exposed.value <= differences[-1]
    step, alone = ddp.step_seconds.value, exchange.alone_seconds.value
    lost = exchange.shared_seconds + exchange.imbalance_seconds + exchange.exposed.value
    assert alone + lost + exchange.unexplained_seconds == pytest.approx(step)
    assert exchange.efficiency == pytest.approx(alone / step)
    assert exchange.imbalance_seconds >= 0


@pytest.mark.parametrize(
    ("strategy", "scaling"),
    [
        ("fsdp2", True),
        pytest.param("fsdp2-offload", False, marks=pytest.mark.slow),
        pytest.param("accelerate", False, marks=pytest.mark.slow),  # its steps are in test_parallel
    ],
)
def test_every_strategy_makes_the_same_steps(ddp, folder, strategy, scaling):
    result = together(folder, strategy, alone=scaling or Absent("not here"))
    both = min(4, len(result.steps.loss), len(ddp.steps.loss))
    assert both >= 2
    assert result.steps.loss[:both] == pytest.approx(ddp.steps.loss[:both], rel=1e-4)
    assert isinstance(result.exchange.alone_seconds, Absent) is not scaling
    assert msgspec.json.decode(msgspec.json.encode(result), type=Slice) == result


def broken(folder: Path, how: str):
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    asked, environment = options(folder, "ddp"), {**THREAD, "BROKEN": how, "PYTHONPATH": here}
    limit = 25 if how == "hangs" else 60
    return ranks.call("broken_training", asked, Slice, world_size=2, limit_seconds=limit, environment=environment)


def test_a_rank_that_dies_in_mid_step_is_named(folder):
    outcome = broken(folder, "dies")
    assert (outcome.ended, outcome.dead_ranks) == ("died", (1,)), outcome.reason


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_of_them_and_no_other_is_blamed(folder):
    """In the middle of a step nobody can tell which rank the others wait for: all have made as many."""
    outcome = broken(folder, "hangs")
    assert (outcome.ended, outcome.dead_ranks) == ("hung", ()), outcome.reason
    assert "all of them had come to step 3" in outcome.reason


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
    found = parallel.slowest(
        [
            steps((1.0, 3.0, 1.0), (0.1, 0.3, 0.1), (4.0, 3.0, 2.0)),
            steps((2.0, 1.0, 1.5), (0.2, 0.1, 0.15), (5.0, Absent("nan"), 3.0)),
        ]
    )
    assert found.seconds == (2.0, 3.0, 1.5)
    assert found.forward_seconds == (0.2, 0.3, 0.15)
    assert found.loss == (4.5, Absent("nan"), 2.5)


def test_a_step_of_all_ranks_is_taken_apart_and_its_parts_add_up():
    """By hand: differences 0.3, 0.5, 0.4; ranks alone with their work 1.0, 1.0, 1.2; one of them alone 0.9."""
    without = [(1.0, 1.0, 1.0), (1.0, 1.1, 1.0), (1.2, 1.1, 1.2)]
    together = [(1.5, 1.6, 1.5), (1.4, 1.5, 1.6), (1.5, 1.5, 1.4)]
    found = parallel.split(1.7, ("a", "b", "c"), (), together, without, (0.8, 0.9, 1.0, 0.9))
    assert (found.exposed.low, found.exposed.high) == pytest.approx((0.3, 0.5))
    parts = (0.9, 0.1, 0.2, 0.4, 0.1)
    assert parts == pytest.approx(
        (
            found.alone_seconds.value,
            found.shared_seconds,
            found.imbalance_seconds,
            found.exposed.value,
            found.unexplained_seconds,
        )
    )
    assert found.efficiency == pytest.approx(0.9 / sum(parts))


def test_a_host_without_memory_for_its_ranks_says_so_before_they_meet(folder, monkeypatch):
    memory = train.host.memory(train.Sysfs())
    little = msgspec.structs.replace(memory, usable_bytes=3_000_000)
    monkeypatch.setattr(train.host, "memory", lambda sysfs: little)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    said = r"tiny over 2 ranks of this host needs at least 0\.0 GiB .* has 0\.0 GiB to give; .*--strategy fsdp2"
    with pytest.raises(RigbenchError, match=said) as caught:
        train.refuse_beyond_memory(options(folder, "ddp"), "cpu", ranks.World(0, 2, 0, "", 1))
    assert caught.value.exit_code == 3
    assert 16 * MODEL.total_parameters < 3_000_000 < 2 * 16 * MODEL.total_parameters
    train.refuse_beyond_memory(options(folder, "fsdp2"), "cpu", ranks.World(0, 2, 0, "", 1))  # shards fit
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # the other rank is elsewhere
    train.refuse_beyond_memory(options(folder, "ddp"), "cpu", ranks.World(0, 2, 0, "", 1))


@pytest.fixture
def four_cards(tmp_path, monkeypatch, ddp):
    """A job on four recorded cards, of which two are visible, and ranks that bring the slice as if from there."""
    job = Job(store.Store(tmp_path), Rig.replay(Path(__file__).parent / "rigs" / "epyc7502-4x4090"), "", Silent())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    cards = [gpu.uuid for gpu in job.gpus]
    device = Device(kind="cuda", name=job.gpus[0].name, uuid=cards[0], threads=1, memory_total_bytes=24 << 30)
    steps = ddp.steps
    at = tuple(steps.ended_at_seconds[0] - steps.seconds[0] - 1 + 0.05 * tick for tick in range(600))
    watts = (100.0, 120.0, 10.0, 10.0)
    read = [
        msgspec.structs.replace(series(f"GPU{index}", power_watts=(watts[index],) * len(at)), uuid=cards[index])
        for index in range(4)
    ]

    class Sampler:
        def __init__(self, rig) -> None: ...

        def start(self) -> None: ...

        def record(self):
            return telemetry(at, *read)

        stop = record

    monkeypatch.setattr(watch, "Sampler", Sampler)
    on_cards = msgspec.structs.replace(ddp, device=device)
    outcome = Outcome((on_cards, on_cards), "finished")
    monkeypatch.setattr(stage, "started", lambda *asked: outcome)
    return job


def test_joules_are_those_of_every_card_that_a_rank_worked_on(four_cards, folder):
    found = stage.run(four_cards, msgspec.structs.replace(options(folder, "ddp"), device="auto"))
    assert found.energy.watts == pytest.approx(220.0)
    assert found.joules_per_item == pytest.approx(220.0 / found.tokens_per_s.value)
    assert {draw.name: draw.watts for draw in found.draws} == pytest.approx({"GPUs": 220.0, "other GPUs": 20.0})


def test_joules_and_peaks_of_one_process_are_those_of_every_card_that_it_splits_batches_over(
    four_cards, folder, ddp, monkeypatch
):
    recipe = msgspec.structs.replace(ddp.recipe, strategy="data-parallel", ranks=1, precision="bf16")
    cards = four_cards.gpus
    device = Device(kind="cuda", name=cards[0].name, uuid=cards[0].uuid, threads=1, memory_total_bytes=24 << 30)
    split = msgspec.structs.replace(ddp, recipe=recipe, split_over=2, device=device, exchange=Absent("one rank"))
    monkeypatch.setattr(process, "call", lambda *_words, **_named: Outcome((split,), "finished"))
    found = stage.run(four_cards, msgspec.structs.replace(options(folder, "data-parallel"), device="auto"))
    assert found.energy.watts == pytest.approx(220.0)
    assert {draw.name: draw.watts for draw in found.draws} == pytest.approx({"GPUs": 220.0, "other GPUs": 20.0})
    alone = msgspec.structs.replace(found, split_over=1)
    assert found.mfu.value == pytest.approx(stage.completed(four_cards, alone, stage.NOTHING_DECLARED).mfu.value / 2)
    assert found.mfu.basis.startswith("of 2 cards, each NVIDIA GeForce RTX 4090")


# A card of 100 bytes: 30 are a desktop's, 20 this process's context and libraries, 40 its allocator's.
CARD = SimpleNamespace(cuda=SimpleNamespace(mem_get_info=lambda _: (10, 100), memory_reserved=lambda _: 40))


@pytest.mark.parametrize(
    ("before", "context"),
    [
        (70, 20),
        (Absent("the driver is silent"), Absent("the driver is silent")),
        (45, Absent("another process has given memory back meanwhile")),
    ],
)
def test_what_a_process_holds_beside_the_allocator_is_not_what_others_hold(before, context):
    card = CudaAccelerator.__new__(CudaAccelerator)
    card._torch, card.torch_device = CARD, "cuda:1"
    assert card.used_outside_allocator_bytes(before) == context


@pytest.mark.parametrize(
    ("without", "precision", "by"),
    [
        ([[], []], "bf16", "the device multiplies bf16 natively"),
        ([[], ["NVIDIA GeForce RTX 2080 Ti"]], "fp32", "NVIDIA GeForce RTX 2080 Ti does not multiply bf16"),
    ],
)
def test_all_ranks_choose_the_precision_that_every_card_has(monkeypatch, without, precision, by):
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(parallel, "gathered", lambda own: [own, *without[1:]])
    here = train.Slicing.__new__(train.Slicing)
    here.kind, here.device, here.world, here.events = "cuda", "cuda:0", ranks.World(0, 2, 0, "", 1), []
    assert here._precision(Recipe(strategy="ddp")) == (precision, by)
    assert here._precision(Recipe(strategy="ddp", precision="bf16")) == ("bf16", "--precision")
    assert here.events == [f"{name}: no bf16 of its own, emulated" for own in without for name in own]


def test_one_hosts_joules_are_not_told_of_several_hosts_tokens(four_cards, folder, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    found = stage.run(four_cards, options(folder, "ddp"), world=ranks.World(0, 2, 0, "10.0.0.1", 29400))
    assert found.energy == Absent("the sensors of this host alone were read, and ranks ran on others too")
    assert (found.joules_per_item, found.draws, found.power) == (found.energy, (), found.energy)


def test_a_following_rank_keeps_its_memory_as_the_reporting_one_does(folder, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]:
        monkeypatch.delenv(name)
    told = []

    def started(options, environment, *rest):
        told.append((options.host_allocator, options.cache, environment))
        return Outcome((None, None), "finished")

    monkeypatch.setattr(stage, "started", started)
    assert stage.follow(options(folder, "ddp"), ranks.World(1, 2, 0, "10.0.0.1", 29400), tmp_path) == 0
    assert told == [("keeps memory", str(tmp_path / "cache"), process.KEEP_MEMORY)]


def test_eight_bit_states_of_shards_are_refused_before_anything_starts(four_cards, folder):
    asked = options(folder, "fsdp2", optimizer="adamw8bit")
    with pytest.raises(RigbenchError, match="bitsandbytes steps whole weights, and fsdp2 has shards") as caught:
        stage.run(four_cards, asked)
    assert caught.value.exit_code == 3


def test_what_is_compiled_is_not_replicated_and_refused_before_anything_starts(four_cards, folder):
    asked = options(folder, "data-parallel", compiled=True)
    with pytest.raises(RigbenchError, match=r"cannot copy what torch\.compile has made; use --strategy ddp") as caught:
        stage.run(four_cards, asked)
    assert caught.value.exit_code == 3


def test_an_exchange_that_cannot_be_told_from_none_is_not_called_a_bottleneck(ddp):
    step = ddp.step_seconds.value
    for low, codes in ((0.2 * step, ["communication-bound"]), (-0.1 * step, [])):
        exposed = msgspec.structs.replace(ddp.exchange.exposed, value=0.5 * step, low=low, high=0.8 * step)
        waits = msgspec.structs.replace(ddp.exchange, exposed=exposed)
        found = findings.exchange_bound(msgspec.structs.replace(ddp, exchange=waits), "ddp")
        assert [one.code for one in found] == codes
