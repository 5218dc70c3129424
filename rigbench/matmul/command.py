"""The command matmul."""

from __future__ import annotations

from typing import Annotated

import typer

from rigbench.command import Common, command
from rigbench.model.named import ModelOptions


@command("device")
def matmul(
    common: Common,
    model: ModelOptions,
    dtypes: Annotated[
        str | None,
        typer.Option(
            metavar="bf16,fp32",
            help="all, or some of bf16, fp16, fp16-acc16 (fp16 sums too), tf32, fp32, fp8, fp8-fast. "
            "Default: bf16,fp32 on a CPU; bf16,fp16,tf32,fp32,fp8 on a GPU.",
        ),
    ] = None,
    micro_batch: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Sequences a step, for the model's own products. Default: 1 on a CPU, 8 on a GPU."
        ),
    ] = None,
    seconds: Annotated[
        str | None, typer.Option(metavar="TIME", help="For everything. Default: 42s a dtype on a CPU, 36s on a GPU.")
    ] = None,
    hot_seconds: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Sustained load of each dtype's fastest shape. Default: 10s, 20s on a GPU."),
    ] = None,
) -> int:
    """How fast this device multiplies matrices: the ceiling, cold and hot, and the model's own products.

    Checked against float64, next to the datasheet.
    """
    from rigbench.matmul import stage
    from rigbench.model import named

    options = stage.options(
        model=named.choose(model),
        dtypes=dtypes,
        micro_batch=micro_batch,
        seconds=seconds,
        hot_seconds=hot_seconds,
        device=common.device,
    )
    return common.answer(lambda job: stage.run(job, options))
