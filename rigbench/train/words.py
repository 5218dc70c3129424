"""What did the user ask of train-probe? Words become one arm or several, checked before anything is busy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rigbench.core import on as profiles_on
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model import named
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.model.tokens import AskedDtype
from rigbench.train import choices as arm_choices
from rigbench.train import own_stage as train_own
from rigbench.train import ranks_stage as train_ranks
from rigbench.train import stage as train
from rigbench.train.choices import Asked
from rigbench.work.ranks import World
from rigbench.work.record import WattOptions


def asked(
    model: ModelOptions,
    *,
    arms: Literal["auto", "usual", "one", "all"],
    cross: str | None,
    choices: RecipeOptions,
    micro_batch: str | None,
    seconds: str | None,
    data: Path | None,
    data_dtype: AskedDtype,
    device: str | None,
    on: str | None,
    share: bool,
    watts: WattOptions,
    world: World | None = None,
) -> Asked | train_own.Asked:
    """One arm or several of a decoder, or a slice of a program of the user's.

    Raises:
        RigbenchError: any of the words is not what its option takes, or two contradict each other.
    """
    if cross is not None and arms != "auto":
        raise RigbenchError(f"--cross and --arms {arms} exclude each other", "give one of them")
    if on is not None:
        profiles_on.rig(on)
        _only_measured({"--seconds": seconds, "--data": data, "--share": share or None})
    find = micro_batch is not None and micro_batch.strip().lower() == "auto"
    shared = train.shared(
        micro_batch=None if find else micro_batch,
        recipe=choices.over(Recipe()),
        seconds=seconds,
        data=data,
        data_dtype=data_dtype,
        device=device,
    )
    program = named.factory(model)
    if program is not None:
        decided = {
            "--arms": None if arms in ("auto", "one") else arms,
            "--cross": cross,
            "--checkpointing": choices.said.get("checkpoint_every"),
            "--loss": choices.said.get("loss_chunks"),
            "--strategy": choices.said.get("strategy"),
            "--micro-batch auto": find,
            "--on": on,
            "--wall-watts": None if isinstance(watts.wall_watts, Absent) else watts.wall_watts,
            "--host-watts": None if isinstance(watts.host, Absent) else watts.host,
        }
        return train_own.asked(program, model, shared, decided)
    shape = named.choose(model)
    base = shared.recipe
    layers = shape.shape.layers
    if base.checkpoint_every > layers:
        raise RigbenchError(
            f"--checkpointing '{base.checkpoint_every}' is not a whole number from 1 to {layers}",
            f"use off, on, or K of 2 to {layers} for every K-th block",
        )
    if world is not None:
        if arms not in ("auto", "one") or cross is not None or find or on is not None:
            raise RigbenchError("under torchrun one arm is trained at a time", "give --arms one and a --strategy")
        train_ranks.check(base.strategy)
    named_choices = choices.said.keys() - {"precision", "accumulation"}
    guessed: arm_choices.Mode = "one" if find or named_choices else "usual"
    return Asked(
        options=train.options(shape, shared),
        base=base,
        mode=guessed if arms == "auto" else arms,
        cross=arm_choices.factors(cross),
        find_micro_batch=find,
        share=share,
        on=on,
        strategy_given="strategy" in choices.said,
        world=world,
        watts=watts,
    )


def _only_measured(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise RigbenchError(f"--on and {option} exclude each other", "--on predicts; nothing is measured")
