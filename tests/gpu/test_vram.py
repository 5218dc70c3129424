"""Does a real GPU take what was predicted? Needs a CUDA device:  pytest tests/gpu/test_vram.py -m gpu -s

Each arm trains two steps in a process of its own; the table goes to standard output, and into $RIGBENCH_TABLE if set.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from real_card import only_real
from recipes import recipe

from rigbench.machine.nvml import Nvml
from rigbench.model import shape
from rigbench.predict import cards, memory, traces

pytestmark = [
    pytest.mark.gpu,
    only_real,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MEASURE = """
import json, sys, msgspec, torch
from rigbench.model import optim
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
shape, way = msgspec.json.decode(sys.argv[1], type=tuple[Shape, Recipe])
model = Decoder(shape, way.checkpoint_every, way.loss_chunks).cuda()
if way.precision == "bf16-pure":
    model = model.bfloat16()
if way.optimizer.endswith("8bit"):
    import bitsandbytes
    kinds = {"adamw8bit": bitsandbytes.optim.AdamW8bit, "paged-adamw8bit": bitsandbytes.optim.PagedAdamW8bit}
    optimizer = kinds[way.optimizer](model.parameters())
else:
    optimizer = optim.build("adamw", model)
    for group in optimizer.param_groups:
        group.update(fused=way.optimizer == "adamw", foreach=way.optimizer == "adamw-foreach")
half = torch.autocast("cuda", torch.bfloat16, enabled=way.precision == "bf16")
for _ in range(2):
    for _ in range(way.accumulation):
        block = torch.randint(shape.vocabulary, (way.micro_batch, shape.sequence + 1), device="cuda")
        with half:
            loss = model(block[:, :-1], block[:, 1:])
        loss.backward()
        del loss, block
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
torch.cuda.synchronize()
free, total = torch.cuda.mem_get_info()
outside = total - free - torch.cuda.memory_reserved()
print(json.dumps([torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), outside, total]))
"""

WAYS = [
    {},
    {"checkpoint_every": 1},
    {"checkpoint_every": 3},
    {"loss_chunks": 8},
    {"checkpoint_every": 1, "loss_chunks": 8},
    {"accumulation": 2},
    {"optimizer": "adamw-foreach"},
    {"optimizer": "adamw8bit"},
    {"optimizer": "paged-adamw8bit"},
    {"precision": "fp32"},
    {"precision": "bf16-pure"},
]
SIZES = [("15M", "diy", 8), ("120M", "diy", 12), ("500M", "llama", 2)]


@pytest.fixture(scope="module")
def target():
    gpus = Nvml.live().gpus()
    return cards.of_gpus(gpus[:1])


def measured(model, how):
    words = [sys.executable, "-c", MEASURE, msgspec.json.encode((model.shape, how)).decode()]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])  # such as bitsandbytes without a library for this CUDA
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(("params", "series", "micro_batch"), SIZES, ids=[size[0] for size in SIZES])
@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: " ".join(f"{key}={value}" for key, value in way.items()) or "plain"
)
def test_the_prediction_is_within_3_percent_and_not_below_by_more_than_1(target, params, series, micro_batch, way):
    model, how = shape.model_named(params, series), recipe(micro_batch=micro_batch, **way)
    predicted = memory.Predictor(traces.Traces(None)).predict(model, how, target)
    allocated, reserved, outside, total = measured(model, how)
    ratios = predicted.allocated_bytes / allocated, predicted.reserved_bytes / reserved
    mib = [size / 2**20 for size in (allocated, predicted.allocated_bytes, reserved, predicted.reserved_bytes)]
    line = f"| {params} | {way} | " + " | ".join(f"{size:,.0f}" for size in mib)
    line += f" | {ratios[0]:.4f} | {ratios[1]:.4f} | {outside / 2**20:,.0f} | {predicted.outside.value / 2**20:,.0f} |"
    print(f"\n{line}")
    if table := os.environ.get("RIGBENCH_TABLE"):
        with Path(table).open("a") as file:
            file.write(line + "\n")
    assert all(0.99 <= ratio <= 1.03 for ratio in ratios), line
    assert total / 2**30 == pytest.approx(target.usable.value / 2**30, rel=0.02)


def test_the_context_lies_in_its_interval(target):
    _, _, outside, _ = measured(shape.model_named("15M"), recipe())
    assert target.context.low <= outside <= target.context.high
