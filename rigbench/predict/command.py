"""The command that says what fits: capacity."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rigbench.command import Common, command
from rigbench.model.named import SeriesOptions


class Optimizer(StrEnum):
    adamw = "adamw"
    adamw_foreach = "adamw-foreach"
    adamw8bit = "adamw8bit"
    paged_adamw8bit = "paged-adamw8bit"


class Precision(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"
    bf16_pure = "bf16-pure"
    fp32 = "fp32"
    tf32 = "tf32"


class Strategy(StrEnum):
    auto = "auto"
    single = "single"
    ddp = "ddp"
    fsdp2 = "fsdp2"
    fsdp2_offload = "fsdp2-offload"


@command("on")
def capacity(
    common: Common,
    model: SeriesOptions,
    optimizer: Annotated[
        Optimizer | None, typer.Option(help="Only this one. Default: adamw and adamw8bit.", show_default=False)
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 autocast, or what the card has instead.")
    ] = Precision.auto,
    strategy: Annotated[Strategy, typer.Option(help="auto: DDP on several cards.")] = Strategy.auto,
    inference: Annotated[
        bool, typer.Option("--inference", help="Generating text instead: weights in bf16, 8-bit and 4-bit.")
    ] = False,
    cache_tokens: Annotated[
        str | None, typer.Option("--context", metavar="N", help="Tokens in the cache, with --inference. Default: 4096.")
    ] = None,
) -> int:
    """What fits: the largest model, micro-batch and sequence, and what fills the memory. Predicted, no GPU needed.

    Micro-batch and sequence are those of one model, --params or --model; the largest model is of the series.
    """
    from rigbench.core.errors import RigbenchError
    from rigbench.predict import capacity as fitting

    if cache_tokens is not None and not inference:
        raise RigbenchError("--context is the length of an inference's cache", "add --inference, or give --seq")
    question = fitting.question(
        model,
        common.on,
        optimizer.value if optimizer else None,
        precision.value,
        strategy.value,
        (cache_tokens or "4096") if inference else None,
    )
    return common.answer(lambda job: fitting.capacity(job, question))
