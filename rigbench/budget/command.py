"""The command that says what a run would take: budget."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rigbench.command import Common, command
from rigbench.core.typer_options import Place, Price, Series
from rigbench.work.record import NOTHING_DECLARED, WattOptions

if TYPE_CHECKING:
    from rigbench.job import Job

Text = str | None


class Split(StrEnum):
    equal_tokens = "equal-tokens"
    equal_flops = "equal-flops"
    compute_optimal = "compute-optimal"


class Checkpointing(StrEnum):
    off = "off"
    on = "on"


def _option(metavar: str, words: str) -> Any:
    return typer.Option(metavar=metavar, help=words, show_default=False)


@command("device", "on")
def budget(
    common: Common,
    flops: Annotated[Text, _option("C", "The budget in FLOP, as 1.2e18 or 1.2EFLOP. Default: 1.2e18.")] = None,
    params: Annotated[
        Text, _option("SIZES", "One model or a sweep, as 120M or 5M,15M,60M. Default: all of --series.")
    ] = None,
    series: Series = "diy",
    tokens: Annotated[Text, _option("D", "Instead of --flops: tokens for every model, as 2.5B.")] = None,
    tokens_per_param: Annotated[
        Text, _option("N", "Instead of --flops: tokens for every parameter, as 20 (about compute-optimal).")
    ] = None,
    hours: Annotated[
        Text, _option("T", "Backwards: what so many hours buy. With FLOP or tokens: what you were told it takes.")
    ] = None,
    kwh: Annotated[Text, _option("E", "Backwards: what so many kWh buy.")] = None,
    money: Annotated[
        Text, _option("M", "Backwards: what so much electricity buys, or so much rent where --rent is given.")
    ] = None,
    split: Annotated[Split | None, typer.Option(help="How models share a budget. Default: equal-tokens.")] = None,
    exact_flops: Annotated[
        bool, typer.Option("--exact-flops", help="Count attention and matmuls exactly instead of 6·N·D.")
    ] = False,
    batch_tokens: Annotated[
        Text, _option("N", "Tokens in a step. Default: as the slices had, or a micro-batch on each card.")
    ] = None,
    optimizer: Annotated[Text, _option("NAME", "Only slices with it; --on: train with it. Default: adamw.")] = None,
    precision: Annotated[Text, _option("NAME", "Only slices in it; --on: train in it. Default: bf16.")] = None,
    strategy: Annotated[Text, _option("NAME", "Only slices with it; --on: train with it. Default: ddp.")] = None,
    checkpointing: Annotated[
        Checkpointing | None, typer.Option(help="Likewise. Default with --on: where nothing else fits.")
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Likewise. Default with --on: compiled.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Also say which slice would narrow the interval most.")] = False,
    price: Price = None,
    place: Place = None,
    rent: Annotated[Text, _option("'1.50 USD'", "Rent of one card for an hour. Default: of prices.toml.")] = None,
    purchase: Annotated[Text, _option("'2400 USD'", "What the rig cost. Default: the cards' launch price.")] = None,
    lifetime: Annotated[Text, _option("T", "How long the rig will work in all. Default: 3 years.")] = None,
    compile_time: Annotated[Text, _option("T", "Of each model. Default: as measured, else 60 s.")] = None,
    warm_up: Annotated[Text, _option("T", "From a start to a steady pace. Default: as measured, else 30 s.")] = None,
    eval_every: Annotated[Text, _option("STEPS", "Evaluate so often; 0: never. Default: every 50M tokens.")] = None,
    eval_tokens: Annotated[Text, _option("N", "Tokens of an evaluation. Default: 1048576.")] = None,
    checkpoint_every: Annotated[Text, _option("STEPS", "Write so often; 0: at the end. Default: every hour.")] = None,
    keep_checkpoints: Annotated[Text, _option("N", "Of each model, on disk. Default: 2.")] = None,
    disk_speed: Annotated[Text, _option("B/S", "To which checkpoints go, as 500MB. Default: 500MB.")] = None,
    restarts_per_day: Annotated[Text, _option("N", "Crashes to expect. Default: 0.1.")] = None,
    hot_over_cold: Annotated[
        Text, _option("SHARE", "Throughput once hot, as 0.97. Default: as `thermals` measured it.")
    ] = None,
    watts: WattOptions = NOTHING_DECLARED,
) -> int:
    """Hours, kWh and money of a training run, with intervals: on this rig, or --on others (several: A,B,C).

    On this rig from slices measured here; where none is stored, short ones are run first. --on predicts.
    """
    from rigbench.budget import asking, plans, runner

    words = {name: value for name, value in locals().items() if name in asking.WORDS}
    words |= {"split": split and split.value, "checkpointing": checkpointing and checkpointing.value, "on": common.on}
    question, rigs = asking.budget(asking.Words(**words), watts)

    def work(job: Job) -> None:
        runner.budget(job, question, plans.short_slices(question.models, common.device), common.device, rigs)

    return common.answer(work)
