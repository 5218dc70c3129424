"""What did the user ask of train-probe? Words become one arm or several, checked before anything is busy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rigbench.core import on as profiles_on
from rigbench.core.errors import RigbenchError
from rigbench.model import named
from rigbench.model.named import ModelOptions
from rigbench.model.tokens import AskedDtype
from rigbench.train import choices as arm_choices
from rigbench.train import own_stage as train_own
from rigbench.train import ranks_stage as train_ranks
from rigbench.train import stage as train
from rigbench.train.choices import Asked
from rigbench.train.record import Precision
from rigbench.work import wall
from rigbench.work.ranks import World


def asked(
    model: ModelOptions,
    *,
    arms: Literal["auto", "usual", "one", "all"],
    cross: str | None,
    optimizer: str | None,
    checkpointing: str | None,
    precision: Literal["auto"] | Precision,
    compiled: bool | None,
    loss: str | None,
    strategy: str | None,
    accumulation: str | None,
    micro_batch: str | None,
    seconds: str | None,
    data: Path | None,
    data_dtype: AskedDtype,
    device: str | None,
    on: str | None,
    share: bool,
    host: wall.Host,
    wall_watts: float | None,
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
        precision=precision,
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
            "--checkpointing": checkpointing,
            "--loss": loss,
            "--strategy": strategy,
            "--micro-batch auto": find,
            "--on": on,
            "--wall-watts": wall_watts,
            "--host-watts": host.watts,
        }
        base = arm_choices.choice(
            optimizer=optimizer,
            checkpointing=None,
            precision=precision,
            compiled=bool(compiled),
            loss=None,
            strategy=None,
            accumulation=accumulation,
            micro_batch=shared.micro_batch,
            layers=1,
        )
        shared = msgspec.structs.replace(
            shared, optimizer=base.optimizer, compiled=base.compiled, accumulation=base.accumulation
        )
        return train_own.asked(program, model, shared, decided)
    shape = named.choose(model)
    base = arm_choices.choice(
        optimizer=optimizer,
        checkpointing=checkpointing,
        precision=precision,
        compiled=bool(compiled),
        loss=loss,
        strategy=strategy,
        accumulation=accumulation,
        micro_batch=shared.micro_batch,
        layers=shape.shape.layers,
    )
    if world is not None:
        if arms not in ("auto", "one") or cross is not None or find or on is not None:
            raise RigbenchError("under torchrun one arm is trained at a time", "give --arms one and a --strategy")
        train_ranks.check(base.strategy)
    named_choices = (optimizer, checkpointing, compiled, loss, strategy)
    guessed: arm_choices.Mode = "one" if find or any(word is not None for word in named_choices) else "usual"
    return Asked(
        options=train.options(shape, shared),
        base=base,
        mode=guessed if arms == "auto" else arms,
        cross=arm_choices.factors(cross),
        find_micro_batch=find,
        share=share,
        on=on,
        strategy_given=strategy is not None,
        world=world,
        host=host,
        wall_watts=wall_watts,
    )


def _only_measured(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise RigbenchError(f"--on and {option} exclude each other", "--on predicts; nothing is measured")
