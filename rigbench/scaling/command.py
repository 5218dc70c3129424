"""The commands of a series of models: training it for real, and the law of its losses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.budget.command import RECIPE_SETTINGS
from rigbench.budget.record import Budget, PriceOptions
from rigbench.command import Common, command, completed, run_ids
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.files import read_regular
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Absent
from rigbench.model.recipe import RecipeOptions
from rigbench.predict.record import ToldOptions
from rigbench.scaling.record import FitOptions, PlanOptions, RunOptions
from rigbench.work.record import WattOptions

if TYPE_CHECKING:
    from rigbench.job import Job
    from rigbench.machine.cuda_map import Cards
    from rigbench.scaling import training
    from rigbench.scaling.record import Point


@command("device")
def scaling_run(common: Common, options: RunOptions, choices: RecipeOptions) -> int:
    """Train a series of models for real, from small to large, and keep the loss of every step.

    Each number of tokens is a decay that is really trained, from one trunk at a stable rate. Checkpoints and one record
    a model stay in the home folder; what was stopped or killed goes on with --resume. On several machines: torchrun …
    -m rigbench scaling run --strategy ddp, with a home that all of them share.

        rigbench pack TEXT... -o text.bin                        ids of any text: its bytes
        rigbench scaling run --series tiny --data text.bin       minutes on a CPU
        rigbench scaling run --data web.bin --tokens 200M,800M   the series diy
        rigbench scaling run --resume RUN                        go on after a kill
    """
    from rigbench.core.progress import SILENT
    from rigbench.scaling import training
    from rigbench.work.ranks import world_from

    world = world_from(os.environ)
    if isinstance(options.resume, str) and (other := [it for it in common.typed if it not in ("--resume", "--data")]):
        raise RigbenchError(f"--resume takes no {' and no '.join(other)}: what was chosen is the run's", "leave it out")

    def asked(job: Job) -> tuple[training.Asked, Cards]:
        its = job.cards(common.device)
        its = its if world else its.alike
        if not isinstance(options.resume, Absent):
            return training.resumed(job, options.resume, options.data, not (world and world.rank)), its
        return training.plan(job, options, choices, common.device or "auto", its, world), its

    if world and world.rank:
        job = common.job()
        job.progress = SILENT
        return training.follow(job, *asked(job), world)
    return common.answer(lambda job: training.train_all(job, *asked(job), world))


@command("device", "on", "link", "p2p", "replay", "keep_disturbed", settings=RECIPE_SETTINGS)
def scaling_plan(
    common: Common,
    options: PlanOptions,
    recipe: RecipeOptions,
    told: ToldOptions,
    prices: PriceOptions,
    watts: WattOptions,
) -> int:
    """How to train a series so that its losses show a law: tokens, batches, learning rates, schedule, memory, budget.

    Hours, kWh and money are those of `rigbench budget` with these batches. Learning rate and batch are of one rule,
    DeepSeek LLM's (2024), below Kaplan's critical batch; the schedule is warm-up, stable, decay.

        rigbench scaling plan --series diy --flops 1.2e18 --on 2xrtx-4080    five models, 5M to 120M, on cards to buy
        rigbench scaling plan --params 5M,15M,30M --tokens-per-param 20      on this rig, 20 tokens a parameter
        rigbench scaling plan --series llama --tokens 10B --on h200          150M to 1B, as many tokens each
    """
    from rigbench.budget import command as budget
    from rigbench.budget import plan, training
    from rigbench.scaling import planning

    request, rigs = budget.asked(common, options, recipe, told, prices, watts)
    if len(rigs) > 1:
        raise RigbenchError(f"--on names {len(rigs)} rigs", "plan on one; `rigbench budget --on A,B` compares rigs")
    if request.kind not in plan.FORWARD:
        what = f"a series is not planned from {request.kind}"
        raise RigbenchError(what, "give --flops; `rigbench budget` says how many")
    if not isinstance(options.batch_tokens, Absent):
        raise RigbenchError("batch-tokens is what the plan chooses", "leave it out, or ask `rigbench budget`")

    def work(job: Job) -> None:
        named = rigs[0] if rigs else None
        cards = named.count if isinstance(named, RigProfile) else max(1, len(job.cards(common.device).alike.gpus))
        its = planning.ruled(request, cards)
        chosen = request._replace(batches=tuple(one.batch_tokens for one in its))
        its_cards = job.cards(common.device).alike
        short = planning.as_trained(training.short_slices(request.models, common.device), request, its, its_cards)
        budget.run(job, chosen, common.device, rigs, short)
        if isinstance(job.run.budget, Budget):
            job.keep(plan=planning.planned(request, its, job.run.budget))

    return common.answer(work)


@command()
def scaling_fit(
    common: Common,
    options: FitOptions,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|FILE]…",
            help="Runs of `scaling run`, a table of runs (CSV), logs, folders of logs.",
            autocompletion=completed(run_ids),
        ),
    ] = None,
) -> int:
    """How the loss falls with size, data and compute: exponents with intervals, R², what the next model would get.

    A table has a row a run: parameters, tokens (or FLOP), loss, and where there are several a seed and an optimizer. Of
    a training log (CSV, W&B, text, TensorBoard) the last loss on held-out text counts, and its name says the size; so
    of one file with the steps of several runs, as W&B exports a chart ("120M - val/loss" beside "_step").

        rigbench scaling fit losses.csv                     columns params, tokens, loss under any usual name
        rigbench scaling fit runs/ --tokens-per-step 65536  logs 5M.csv, 15M.csv …, or TensorBoard folders
        rigbench scaling fit RUN1 RUN2                      two series that were trained here, as with adamw8bit
    """
    return common.answer(lambda job: _fit(job, sources or [], options), measures=False)


def _fit(job: Job, sources: list[str], options: FitOptions) -> None:
    from rigbench.scaling import law, losses

    columns = losses.columns_of(options.columns)
    read: list[tuple[str, list[Point]]] = []
    notes: list[str] = []
    for source in sources or [""]:
        path = Path(source)
        if source and path.exists() and not _is_run(path):
            its, said = losses.read(path, columns, options.tokens, options.tokens_per_step)
            name = path.name
        else:
            its, said, name = _of_run(job, source)
        read.append((name, its))
        notes += said
    points, said = losses.together(read)
    job.keep(law=law.fit(", ".join(name for name, _ in read), points, options.flops, [*notes, *said]))


def _is_run(path: Path) -> bool:
    return path.suffix == ".json" and path.is_file() and b'"schema"' in read_regular(path)[:200]


def _of_run(job: Job, wanted: str) -> tuple[list[Point], list[str], str]:
    """The points of a stored run, the newest with any where none is named, and what is said of its data."""
    from rigbench import store
    from rigbench.core import units
    from rigbench.scaling.record import Trained, points

    if wanted:
        try:
            run = store.read(job.store.find(wanted))
        except RigbenchError as error:
            if any(mark in wanted for mark in "./"):
                raise RigbenchError(f"there is no file {wanted}", "give a file of losses, or a run's id") from None
            raise error from None
    else:
        stored = next(
            (run for run in job.holding("scaling") if any(getattr(it, "answers", False) for it in run.scaling)), None
        )
        if stored is None:
            cure = "`rigbench scaling run` trains one, or give a file: `rigbench scaling fit losses.csv`"
            raise RigbenchError("no series that was trained here is stored", cure, NOTHING)
        run = stored
    series = [it for it in run.scaling if isinstance(it, Trained)]
    its = [point for one in series for point in points(one)]
    if not its:
        what = f"run {run.id} trained no model to its end"
        raise RigbenchError(what, "give a run of `rigbench scaling run`", NOTHING)
    whole = sum(one.finished for one in series)
    notes = [] if whole == len(run.scaling) else [f"{whole} of {len(run.scaling)} models of {run.id} came to their end"]
    notes += [
        f"{one.model.name} saw its text {units.format_significant(one.epochs)} times, not once"
        for one in series
        if one.epochs > 1.005
    ]
    return its, notes, run.id
