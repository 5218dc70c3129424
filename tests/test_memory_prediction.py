"""Does the predicted peak equal the one of the same step really run? On this CPU, under torch's profiler."""

import itertools

import msgspec
import pytest
import real_memory
import torch
from recipes import recipe

from rigbench.model.gpt import Decoder
from rigbench.model.record import Shape
from rigbench.predict import allocator, loop
from rigbench.predict.traces import Step, Traces

GPT2 = Shape(
    style="gpt2",
    layers=2,
    width=96,
    heads=3,
    kv_heads=3,
    ffn_width=384,
    vocabulary=1000,
    sequence=64,
    tied_head=True,
    biases=True,
)
LLAMA = msgspec.structs.replace(GPT2, style="llama", ffn_width=256, biases=False)
NEOX = msgspec.structs.replace(GPT2, style="neox", tied_head=False)
SEQUENCES = 4
TRACES = Traces(None)


def simulated(shape, precision, optimizer="adamw", checkpointing=0, chunks=1, accumulation=1, **strategy):
    step = Step(shape, precision, checkpointing, chunks, accumulating=accumulation > 1, cuda=False)
    if strategy.get("strategy") == "fsdp2":
        step = msgspec.structs.replace(step, accumulating=False)
    weights = loop.weights_of(shape, 2 if precision == "bf16-pure" else 4)
    how = recipe(optimizer=optimizer, accumulation=accumulation, **strategy)
    script = loop.compose(TRACES.at(step, SEQUENCES), weights, how)
    return allocator.replay(script.sizes, script.events)


STEPS = [
    *itertools.product((GPT2, LLAMA), ("fp32", "bf16"), ("adamw",), (0, 1), (1, 2), (1,)),
    *itertools.product((GPT2, LLAMA), ("fp32", "bf16"), ("adamw-foreach",), (0,), (1,), (2,)),
    (GPT2, "bf16-pure", "adamw", 1, 1, 1),
    (LLAMA, "bf16-pure", "adamw-foreach", 0, 4, 2),
    (GPT2, "bf16", "adamw", 2, 1, 2),
    (msgspec.structs.replace(LLAMA, layers=3), "fp32", "adamw", 2, 4, 2),
    (NEOX, "bf16", "adamw", 1, 1, 2),
    (NEOX, "fp32", "adamw-foreach", 0, 4, 1),
]


@pytest.mark.parametrize(
    ("shape", "precision", "optimizer", "checkpointing", "chunks", "accumulation"),
    STEPS,
    ids=lambda value: value.style if isinstance(value, Shape) else str(value),
)
def test_the_predicted_peak_is_the_real_one(shape, precision, optimizer, checkpointing, chunks, accumulation):
    def work():
        model = Decoder(shape, checkpointing, chunks)
        if precision == "bf16-pure":
            model.to(torch.bfloat16)
        real_memory.train(model, SEQUENCES, shape, precision, accumulation, foreach=optimizer == "adamw-foreach")

    real, _ = real_memory.peaks(work)
    predicted = simulated(shape, precision, optimizer, checkpointing, chunks, accumulation)
    assert predicted.allocated_bytes == pytest.approx(real, rel=0.005)


def test_that_was_two_dozen_different_steps():
    assert len(set(STEPS)) == len(STEPS) >= 24


@pytest.fixture
def process_group(request):
    """One rank of two whose peer is a fake, as far as memory goes; or one rank alone, which DDP's reducer needs."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if request.param == "fake":
        distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    else:
        distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield
    distributed.destroy_process_group()


WIDE = msgspec.structs.replace(LLAMA, width=192, heads=6, kv_heads=6, ffn_width=768)
WAYS = pytest.mark.parametrize(
    ("shape", "precision", "checkpointing", "chunks", "accumulation"),
    [(GPT2, "fp32", 0, 1, 1), (WIDE, "bf16", 1, 4, 1), (WIDE, "bf16", 0, 1, 2)],
    ids=["plain", "checkpointing", "accumulation"],
)


@pytest.mark.parametrize("process_group", ["gloo"], indirect=True)
def test_ddp_takes_the_buckets_that_are_predicted(process_group):
    from torch.nn.parallel import DistributedDataParallel

    def work():
        real_memory.train(DistributedDataParallel(Decoder(WIDE, 1, 4)), SEQUENCES, WIDE, "bf16")

    real = min(real_memory.peaks(work)[0] for _ in range(2))  # gloo's threads may hold the first bucket a bit longer
    predicted = simulated(WIDE, "bf16", checkpointing=1, chunks=4, strategy="ddp", ranks=2)
    assert predicted.allocated_bytes == pytest.approx(real, rel=0.005)


@WAYS
@pytest.mark.parametrize("process_group", ["fake"], indirect=True)
def test_fsdp2_takes_the_shards_that_are_predicted(
    process_group, shape, precision, checkpointing, chunks, accumulation
):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    model = Decoder(shape, checkpointing, chunks)
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    shards = [weight.to_local().numel() * 4 for weight in model.parameters()]
    real, _ = real_memory.peaks(
        lambda: real_memory.train(model, SEQUENCES, shape, precision, accumulation, optimizer=optimizer), shards
    )
    predicted = simulated(
        shape,
        precision,
        checkpointing=checkpointing,
        chunks=chunks,
        accumulation=accumulation,
        strategy="fsdp2",
        ranks=2,
    )
    assert predicted.allocated_bytes == pytest.approx(real, rel=0.005)
