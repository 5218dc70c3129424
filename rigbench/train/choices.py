"""Which arms does the user want? Words become choices, choices their labels, and what cannot run here its reason."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.model.recipe import LOSS_CHUNKS, STRATEGIES, Recipe
from rigbench.predict.record import VramPrediction
from rigbench.train.probe import Options
from rigbench.train.record import Factor
from rigbench.work.ranks import World
from rigbench.work.record import NOTHING_DECLARED, WattOptions

Mode = Literal["usual", "one", "all"]
FIELDS: dict[Factor, str] = {
    "optimizer": "optimizer",
    "checkpointing": "checkpoint_every",
    "precision": "precision",
    "compile": "compiled",
    "loss": "loss_chunks",
    "strategy": "strategy",
    "accumulation": "accumulation",
}
# What `--arms all` and `--cross` go through, the plain choice first.
VALUES: dict[Factor, tuple[Any, ...]] = {
    "optimizer": ("adamw", "adamw8bit", "paged-adamw8bit"),
    "checkpointing": (0, 1, 2),
    "precision": ("bf16", "bf16-pure", "fp16", "fp32", "tf32"),
    "compile": (False, True),
    "loss": (1, LOSS_CHUNKS),
    "strategy": STRATEGIES,
    "accumulation": (1, 4),
}
USUAL: tuple[Factor, ...] = ("optimizer", "checkpointing")
USUAL_VALUES: dict[Factor, tuple[Any, ...]] = {"optimizer": ("adamw", "adamw8bit"), "checkpointing": (0, 1)}


@dataclass(frozen=True)
class Asked:
    """`options` are what all arms share, `base` the arm that the others are compared with."""

    options: Options
    base: Recipe
    mode: Mode = "one"
    cross: tuple[Factor, ...] = ()
    find_micro_batch: bool = False
    share: bool = False
    on: str | None = None
    strategy_given: bool = False
    world: World | None = None  # that torchrun has put this process into
    watts: WattOptions = NOTHING_DECLARED

    @property
    def several(self) -> bool:
        return self.mode != "one" or bool(self.cross) or self.find_micro_batch


def factors(text: str | None) -> tuple[Factor, ...]:
    """ "optimizer,checkpointing" of --cross.

    Raises:
        RigbenchError: none of the factors has that name, or one is named twice.
    """
    if text is None:
        return ()
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in get_args(Factor):
            raise RigbenchError(f"--cross: no factor {name!r}", f"use {_list(get_args(Factor))}, with commas between")
        if names.count(name) > 1:
            raise RigbenchError(f"--cross names {name} twice", "name each factor once")
    return cast(tuple[Factor, ...], tuple(names))


def wanted(base: Recipe, mode: Mode, cross: Sequence[Factor]) -> list[Recipe]:
    """The arms to run, the base first and none twice."""
    if cross:
        return _unique([base, *_product(base, cross, VALUES)])
    if mode == "usual":
        return _unique([base, *_product(base, USUAL, USUAL_VALUES)])
    if mode == "one":
        return [base]
    single = [replaced(base, factor, value) for factor in VALUES for value in VALUES[factor]]
    return _unique([base, *single])


def _product(base: Recipe, names: Sequence[Factor], values: dict[Factor, tuple[Any, ...]]) -> list[Recipe]:
    made = []
    for combination in itertools.product(*(values[name] for name in names)):
        arm = base
        for name, value in zip(names, combination, strict=True):
            arm = replaced(arm, name, value)
        made.append(arm)
    return made


def replaced(base: Recipe, factor: Factor, value: Any) -> Recipe:
    return msgspec.structs.replace(base, **{FIELDS[factor]: value})


def _unique(arms: Sequence[Recipe]) -> list[Recipe]:
    return list(dict.fromkeys(arms))


def label(arm: Recipe, base: Recipe) -> str:
    """In which choices an arm differs from the base arm; the base arm's own label names its choices."""
    if arm == base:
        return base.words
    same = f"micro-batch {arm.micro_batch}" if arm.micro_batch else "the same"
    return ", ".join(arm.differences(base).values()) or same


def why_not(arm: Recipe, base: Recipe, kind: str, gpus: int) -> str:
    """Why an arm cannot run on this kind of device, or with what is installed; "" where nothing speaks against it."""
    if kind == "cpu":
        if arm.precision == "fp16" != base.precision:
            return "a CPU emulates fp16, tens of times slower; `--arms one --precision fp16` measures it"
        if arm.precision == "tf32":
            return "a CPU has no tf32"
        if arm.optimizer.startswith("paged"):
            return "paged states move between a GPU and the host, and here a CPU trains"
        if arm.strategy == "data-parallel":
            return "DataParallel splits batches over GPUs, and here a CPU trains"
        if arm.compiled and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "torch.compile needs a C++ compiler on a CPU: install g++"
    elif gpus < 2 and arm.strategy in ("ddp", "fsdp2", "data-parallel", "accelerate"):
        return f"{arm.strategy} is for several GPUs, and here is one"
    if arm.optimizer.endswith("8bit") and arm.strategy.startswith("fsdp2"):
        return "bitsandbytes steps whole weights, and fsdp2 has shards"
    if arm.optimizer.endswith("8bit") and importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed: pip install bitsandbytes"
    if arm.strategy == "accelerate" and importlib.util.find_spec("accelerate") is None:
        return "accelerate is not installed: pip install 'rigbench[accelerate]'"
    return ""


def shortfall(memory: VramPrediction) -> str:
    """Why an arm that was predicted not to fit is left out."""
    short, room = (units.format_bytes(size) for size in (memory.short_bytes, memory.room_bytes))
    return f"predicted not to fit: {short} more than the {room} there, at micro-batch {memory.recipe.micro_batch}"


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
