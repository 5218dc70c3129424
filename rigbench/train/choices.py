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
from rigbench.model import optim
from rigbench.model.record import Model
from rigbench.predict.record import Training, VramPrediction
from rigbench.train.probe import Options
from rigbench.train.record import Choice, Factor, Precision
from rigbench.work import power as cost
from rigbench.work import wall
from rigbench.work.ranks import World

Mode = Literal["usual", "one", "all"]
STRATEGIES = ("single", "ddp", "fsdp2", "fsdp2-offload", "data-parallel", "accelerate")
LOSS_CHUNKS = 8  # of the chunked loss, unless a number is given
MOST_CHUNKS, MOST_ACCUMULATION = 1 << 10, 1 << 16
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
    base: Choice
    mode: Mode = "one"
    cross: tuple[Factor, ...] = ()
    find_micro_batch: bool = False
    share: bool = False
    on: str | None = None
    strategy_given: bool = False
    world: World | None = None  # that torchrun has put this process into
    host: wall.Host = cost.NO_HOST
    wall_watts: float | None = None

    @property
    def several(self) -> bool:
        return self.mode != "one" or bool(self.cross) or self.find_micro_batch


def choice(
    *,
    optimizer: str | None,
    checkpointing: str | None,
    precision: str,
    compiled: bool,
    loss: str | None,
    strategy: str | None,
    accumulation: str | None,
    micro_batch: int,
    layers: int,
) -> Choice:
    """The base arm.

    Raises:
        RigbenchError: a word is not what its option takes.
    """
    if optimizer is not None and optimizer not in optim.NAMES:
        raise RigbenchError(f"--optimizer {optimizer!r} is not one of them", f"use {_list(optim.NAMES)}")
    if strategy is not None and strategy not in STRATEGIES:
        raise RigbenchError(f"--strategy {strategy!r} is not one of them", f"use {_list(STRATEGIES)}")
    return Choice(
        optimizer=optimizer or "adamw",
        checkpoint_every=_checkpoint_every(checkpointing, layers),
        precision=cast(Precision, precision),
        compiled=compiled,
        loss_chunks=_chunks(loss),
        strategy=strategy or "single",
        accumulation=units.parse_whole(accumulation, "--accumulation", 1, MOST_ACCUMULATION) if accumulation else 1,
        micro_batch=micro_batch,
    )


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


def wanted(base: Choice, mode: Mode, cross: Sequence[Factor]) -> list[Choice]:
    """The arms to run, the base first and none twice."""
    if cross:
        return _unique([base, *_product(base, cross, VALUES)])
    if mode == "usual":
        return _unique([base, *_product(base, USUAL, USUAL_VALUES)])
    if mode == "one":
        return [base]
    single = [replaced(base, factor, value) for factor in VALUES for value in VALUES[factor]]
    return _unique([base, *single])


def _product(base: Choice, names: Sequence[Factor], values: dict[Factor, tuple[Any, ...]]) -> list[Choice]:
    made = []
    for combination in itertools.product(*(values[name] for name in names)):
        arm = base
        for name, value in zip(names, combination, strict=True):
            arm = replaced(arm, name, value)
        made.append(arm)
    return made


def replaced(base: Choice, factor: Factor, value: Any) -> Choice:
    return msgspec.structs.replace(base, **{FIELDS[factor]: value})


def _unique(arms: Sequence[Choice]) -> list[Choice]:
    return list(dict.fromkeys(arms))


def label(arm: Choice, base: Choice) -> str:
    """In which choices an arm differs from the base arm; the base arm's own label names its choices."""
    if arm == base:
        return words(base)
    told = {
        "optimizer": arm.optimizer,
        "checkpointing": checkpoint_words(arm.checkpoint_every),
        "precision": arm.precision,
        "compile": "compiled" if arm.compiled else "eager",
        "loss": f"loss in {arm.loss_chunks} chunks" if arm.loss_chunks > 1 else "plain loss",
        "strategy": arm.strategy,
        "accumulation": f"accumulation {arm.accumulation}",
    }
    return ", ".join(
        told[factor] for factor, field in FIELDS.items() if getattr(arm, field) != getattr(base, field)
    ) or (f"micro-batch {arm.micro_batch}" if arm.micro_batch else "the same")


def words(base: Choice) -> str:
    """ "adamw, bf16": a base arm's choices, the plain ones unsaid."""
    said = [base.optimizer, base.precision]
    said += [checkpoint_words(base.checkpoint_every)] if base.checkpoint_every else []
    said += ["compiled"] if base.compiled else []
    said += [f"loss in {base.loss_chunks} chunks"] if base.loss_chunks > 1 else []
    said += [base.strategy] if base.strategy != "single" else []
    said += [f"accumulation {base.accumulation}"] if base.accumulation > 1 else []
    return ", ".join(said)


def checkpoint_words(every: int) -> str:
    if every < 2:
        return "checkpointing" if every else "no checkpointing"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(every % 10 if every % 100 not in (11, 12, 13) else 0, "th")
    return f"checkpointing every {every}{ending}"


def why_not(arm: Choice, base: Choice, kind: str, gpus: int) -> str:
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
    return f"predicted not to fit: {short} more than the {room} there, at micro-batch {memory.training.micro_batch}"


def training(arm: Choice, model: Model, micro_batch: int, precision: Precision, ranks: int) -> Training:
    """As predictions take it. DataParallel and Accelerate are predicted as DDP, whose memory is alike on each card."""
    strategy = {"data-parallel": "ddp", "accelerate": "ddp"}.get(arm.strategy, arm.strategy)
    return Training(
        model=model,
        micro_batch=micro_batch,
        accumulation=arm.accumulation,
        optimizer=cast(Any, arm.optimizer),
        checkpoint_every=arm.checkpoint_every,
        precision=precision,
        loss_chunks=arm.loss_chunks,
        strategy=cast(Any, strategy),
        ranks=ranks,
    )


def _checkpoint_every(text: str | None, layers: int) -> int:
    if text in (None, "off"):
        return 0
    if text == "on":
        return 1
    try:
        return units.parse_whole(str(text), "--checkpointing", 1, layers)
    except RigbenchError as error:
        raise RigbenchError(error.what_happened, f"use off, on, or K of 2 to {layers} for every K-th block") from None


def _chunks(text: str | None) -> int:
    if text in (None, "plain"):
        return 1
    if text == "chunked":
        return LOSS_CHUNKS
    try:
        return units.parse_whole(str(text), "--loss", 1, MOST_CHUNKS)
    except RigbenchError as error:
        raise RigbenchError(error.what_happened, "use plain, chunked, or a number of chunks") from None


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
