"""Slices and models for the budget's tests, with parameter and FLOP counts written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rigbench.budget import forecast
from rigbench.budget.plan import Request, assemble
from rigbench.budget.record import Budget, Options
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Energy
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model, Shape
from rigbench.train.record import Data, Slice, Steps, StoredSlice, Vram

V, T = 50304, 1024
CPU = Device(kind="cpu", name="Some CPU", uuid=Absent("a CPU has none"), threads=2, memory_total_bytes=2**34)
GPU = Device(kind="cuda", name="Some GPU", uuid="GPU-1", threads=1, memory_total_bytes=2**34)
RECIPE = Recipe(precision="bf16", micro_batch=1)


def gpt2(name: str, layers: int, width: int, sequence: int = T) -> Model:
    """GPT-2 style with biases and a tied head: 12·L·d² weights in matmuls, 13·L·d biases and norms, 2·d at the end."""
    shape = Shape(
        style="gpt2",
        layers=layers,
        width=width,
        heads=width // 32,
        kv_heads=width // 32,
        ffn_width=4 * width,
        vocabulary=V,
        sequence=sequence,
        tied_head=True,
        biases=True,
    )
    blocks = layers * (12 * width**2 + 13 * width) + 2 * width
    matmul = 12 * layers * width**2 + V * width
    total = blocks + V * width + sequence * width
    return Model(
        name=name,
        shape=shape,
        total_parameters=total,
        non_embedding_parameters=blocks,
        matmul_parameters=matmul,
        flop_per_token=6.0 * matmul + 12.0 * layers * width * sequence,
        flop_per_token_6n=6.0 * total,
    )


M5, M15, M30, M60, M120 = DIY = (
    gpt2("5M", 4, 96),
    gpt2("15M", 5, 224),
    gpt2("30M", 6, 384),
    gpt2("60M", 8, 576),
    gpt2("120M", 12, 768),
)


def stored(model: Model, rate: float, run: str = "r1", within: float = 0.01, **changes: object) -> StoredSlice:
    return StoredSlice.of(run, whole(model, rate, run, within, **changes))


def whole(model: Model, rate: float, run: str = "r1", within: float = 0.01, **changes: object) -> Slice:
    """A slice of five steps, the first one warm-up, its rate known to ±`within`. Fields of its recipe may be given."""
    recipe = {key: changes.pop(key) for key in list(changes) if key in Recipe.__struct_fields__}
    step = T / rate
    estimate = Estimate(
        value=rate, low=rate * (1 - within), high=rate * (1 + within), level=0.90, method="batch means", n=4
    )
    fields: dict[str, object] = {
        "method": 1,
        "started_at": f"2026-05-01T00:00:{len(run):02d}Z",
        "seconds": 30.0,
        "device": CPU,
        "model": model,
        "recipe": msgspec.structs.replace(RECIPE, **recipe),
        "precision_chosen_by": "measured",
        "micro_batch_chosen_by": "default",
        "host_allocator": "default",
        "data": Data(kind="generated", name="zipf", tokens=10**6, dtype="uint16", distribution="Zipf"),
        "precision_trials": (),
        "steps": Steps(*([(step,) * 5] * 5), ended_at_seconds=(1.0, 2.0, 3.0, 4.0, 5.0), loss=(10.0,) * 5),
        "steady_from": 1,
        "ended_by": "interval",
        "target_half_width": 0.01,
        "items_per_step": T,
        "items_per_s": estimate,
        "step_seconds": Estimate(value=step, low=step, high=step, level=0.9, method="median", n=4),
        "outliers": 0,
        "step_share": {},
        "model_flops_per_s": rate * model.flop_per_token,
        "hardware_flops_per_s": rate * model.flop_per_token,
        "mfu": Absent("no datasheet"),
        "share_of_measured_matmul": Absent("not measured"),
        "setup_seconds": 1.0,
        "memory": Vram(*[Absent("not read")] * 6, deciding="process"),
        "energy": Absent("no sensor"),
        "telemetry": Absent("no sensor"),
    }
    return Slice(**{**fields, **changes})  # type: ignore[arg-type]


def energy(watts: float, covers: str = "GPUs only") -> Energy:
    return Energy(joules=watts * 10, window_seconds=10.0, covers=covers, method="counter")  # type: ignore[arg-type]


def request(amount: float, models: tuple[Model, ...] = DIY, name: str = "diy", **more: object) -> Request:
    """`more` are fields of the request, or of its options."""
    fields = {key: more.pop(key) for key in list(more) if key in Request._fields}
    return Request(models, name, amount, options=Options(**more), **fields)  # type: ignore[arg-type]


def plan(asked: Request, slices: Sequence[StoredSlice], **known: Any) -> Budget:
    """The budget of this rig; `known` is what else is stored of it."""
    return assemble(asked, *forecast.here(asked, slices, **known), "2026-05-02T00:00:00Z")


NOTHING_ON_TOP: dict[str, Any] = {
    "compile_time": 0.0,
    "warm_up": 0.0,
    "eval_every": 0.0,
    "write_every": 0.0,
    "disk_speed": 1e18,
    "restarts_per_day": 0.0,
}
