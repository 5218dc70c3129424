"""Trains the models of a series for real, one after the other; each keeps its own record as it goes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from msgspec.structs import replace

from rigbench.core import units
from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.files import read_regular, reason, write_whole
from rigbench.core.profiles import read_toml
from rigbench.core.record import Absent, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine import host
from rigbench.machine.cuda_map import Cards
from rigbench.machine.sysfs import Sysfs
from rigbench.model import named, shape, shards, tokens
from rigbench.model.recipe import Optimizer, Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.scaling import law, sizes
from rigbench.scaling.ends import Ends, budgeted
from rigbench.scaling.kept import read
from rigbench.scaling.record import (
    AS_WRITTEN,
    NOT_BEGUN,
    Options,
    Plan,
    RunOptions,
    Schedule,
    Sized,
    Trained,
    Tried,
    points,
)
from rigbench.scaling.rules import FEWEST_STEPS, ON_CPU, at_once, decay_of, held_out_tokens, rules
from rigbench.train import record as train
from rigbench.train import slices
from rigbench.train.plan import why_not
from rigbench.work import process, ranks
from rigbench.work.process import Outcome
from rigbench.work.ranks import World, interface

PROBE, FOLDER, PLAN = "rigbench.scaling.probe", "scaling", "plan.json"
FOREVER_SECONDS = 1e9
UNDER_WAY = "under way, or killed: its own record is beside its checkpoints"
TOKENS_A_PARAMETER = 20  # Hoffmann 2022 (arXiv 2203.15556), table 3: about compute-optimal
SHARES = (0.25, 0.5, 1.0)  # of the largest number of tokens, where none is given


class Asked(NamedTuple):
    """What is to be trained, and whether the folder holds the beginning of it."""

    plan: Plan
    run: str = ""  # the run that is gone on with
    notes: tuple[str, ...] = ()
    alone: IO[bytes] | None = None  # held open while it trains, so that no second process goes on with it


def models_of(name: str) -> tuple[tuple[Model, ...], float]:
    """Of a series by its name, or of a file of one, from small to large; and within how many seconds it is to end.

    Raises:
        RigbenchError: there is none, or one of them is not trained by rigbench.
    """
    if name.lower().endswith(".toml"):
        cure = "write it as `rigbench profiles` shows a series"
        series = read_toml(Path(name), shape.SeriesFile, f"--series {name}", "give a readable file", cure).series()
    else:
        series = shape.series(name)
    models = tuple(sorted((it.model for it in series.models), key=lambda it: it.total_parameters))
    named.refuse_to_train(models)
    return models, 60 * series.within_minutes


def plan(job: Job, options: RunOptions, choices: RecipeOptions, device: str, its: Cards, world: World | None) -> Asked:
    """A training for each optimizer, seed and model, by the rules.

    Raises:
        Interrupted: the user said stop while the rate was measured.
        RigbenchError: no or bad data, too few tokens, or a recipe that cannot be had here.
    """
    choices.refuse_unmeasured()
    if choices.adapter_kind != "none":
        raise RigbenchError("laws are of models trained from the start, and adapters are not", "leave --adapter out")
    models, within_seconds = models_of(options.series)
    data, digest, found = _data(options, models)
    base, size = _recipe(choices, its, world)
    if not isinstance(options.against, Absent):  # now, and not when the whole series has been trained by the first
        other = replace(base, optimizer=options.against)
        other.refuse_contradiction()
        if why := why_not(other, other, "cuda" if its.gpus else "cpu", 2):  # the strategy is judged elsewhere
            raise RigbenchError(f"--against {options.against}: {why}", "name another, or leave it out", NOTHING)

    def once(models: Sequence[Model], optimizer: Optimizer = base.optimizer, seed: int = 0) -> list[Options]:
        counts = options.tokens
        if isinstance(counts, Absent):
            most = TOKENS_A_PARAMETER * models[len(models) // 2].total_parameters
            counts = tuple(round(most * share) for share in SHARES)
        made = []
        for model in models:
            choices.refuse_beyond(model.shape)
            recipe = replace(base, optimizer=optimizer)
            recipe, schedule = _scheduled(model, recipe, counts, options, size)
            made.append(
                Options(
                    slice=train.Options(
                        model=model,
                        recipe=recipe,
                        micro_batch_by="--micro-batch" if isinstance(options.micro_batch, int) else "the rule",
                        device=device,
                        data=data,
                        data_dtype=options.data_dtype,
                        learning_rate=schedule.learning_rate,
                        seed=seed,
                    ),
                    schedule=schedule,
                    folder="",
                    data_sha256=digest,
                    held_out_tokens=held_out_tokens(counts[-1], found),
                    checkpoint_seconds=options.save_every,
                    deterministic=options.deterministic,
                )
            )
        return made

    sized: Sized | Absent = AS_WRITTEN
    if within_seconds:
        sized = Absent("several ranks train, of which each would choose its own")
        if base.strategy in slices.ONE_PROCESS:
            sized = _tried(job, once(models), within_seconds, its)
        if isinstance(sized, Sized):
            models, sized = sizes.chosen(models, once, sized)
        job.progress.line(sizes.words(sized, models))
    optimizers = [base.optimizer, *([] if isinstance(options.against, Absent) else [options.against])]
    trainings = [
        replace(one, sizes=sized)
        for optimizer in dict.fromkeys(optimizers)
        for seed in range(options.seeds)
        for one in once(models, optimizer, seed)
    ]
    one = trainings[0]  # all of them see as many
    assert isinstance(one.slice.model, Model)
    seen = one.schedule.steps[-1] * one.slice.recipe.tokens_per_step(one.slice.model)
    epochs = seen / (found - one.held_out_tokens)
    times = units.format_count(epochs) if epochs >= 1000 else f"{epochs:.1f}"
    notes = [f"{seen:,} tokens are {times} epochs of {Path(data).name}: loss falls less on what was seen"]
    return Asked(Plan(trainings=tuple(trainings), data=data), notes=tuple(notes if epochs > 1 else ()))


def _tried(job: Job, trainings: Sequence[Options], within_seconds: float, its: Cards) -> Sized | Absent:
    """The rates of the smallest and the largest, each in a process of its own; Absent where one had none.

    Raises:
        Interrupted: the user said stop.
        RigbenchError: they cannot be trained as asked.
    """
    tried, starts = [], []
    for options in (trainings[0], trainings[-1]):
        name = options.slice.model.name
        job.progress.stage(f"how fast {name} trains", sizes.TRIED_SECONDS + 5)
        own, environment = _on_cards(job, replace(options.slice, seconds=sizes.TRIED_SECONDS), its)
        began = time.perf_counter()
        outcome = process.call(
            slices.PROBE,
            own,
            train.Slice,
            limit_seconds=sizes.TRIED_SECONDS + slices.MARGIN_SECONDS,
            on_progress=job.progress.update,
            environment=environment,
        )
        took = time.perf_counter() - began
        if outcome.ended == "interrupted":
            raise Interrupted
        if outcome.result is None:
            return Absent(f"{name} could not be tried ({outcome.reason or 'it came to no step'})")
        result = outcome.result
        rate, every = result.tokens_per_s, result.steps.seconds
        model = result.model
        tried.append(
            Tried(model=model.name, flop_per_token=model.flop_per_token, tokens_per_s=rate, step_seconds=every)
        )
        starts.append(max(0.0, took - len(every) * result.tokens_per_step / rate.value))
    return Sized(
        within_seconds=within_seconds,
        tried=tuple(tried),
        start_seconds=sum(starts) / len(starts),
        as_written_seconds=0.0,
        share=1.0,
        expected_seconds=0.0,
    )


def _data(options: RunOptions, models: tuple[Model, ...]) -> tuple[str, str, int]:
    """Its path, the SHA-256 of all its ids, and how many they are."""
    if not options.data:
        cure = "`rigbench pack TEXT -o FILE.bin` makes one of any text, of bytes for the series tiny"
        raise RigbenchError("--data FILE is missing: what shall they be trained on", cure)
    given = Path(options.data).absolute()
    shape_ = models[0].shape
    found = tokens.open_all(given, options.data_dtype, shape_.vocabulary, shape_.sequence)[1].tokens
    return str(given), digest_of(given), found


def digest_of(given: Path) -> str:
    whole = hashlib.sha256()
    try:
        for path in shards.find(given):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise RigbenchError(f"cannot read {given} ({reason(error)})", "give --data a readable file") from None
    return whole.hexdigest()


def _recipe(choices: RecipeOptions, its: Cards, world: World | None) -> tuple[Recipe, int]:
    """As it was said, by ddp where there are several cards; in fp32 on a CPU, where a measured choice could differ
    from one model to the next. And how many ranks train."""
    on_gpu = bool(its.gpus)
    base = choices.over(Recipe())
    if "strategy" not in choices.said and (world or len(its.gpus) > 1):
        base = replace(base, strategy="ddp")
    if base.strategy in slices.ONE_PROCESS and world:
        what = f"--strategy {base.strategy} is one process's, and torchrun has started several"
        raise RigbenchError(what, "use --strategy ddp or fsdp2", exit_code=NOTHING)
    if not world:
        slices.refuse_one_card(base.strategy, its)
    if base.precision == "auto" and not on_gpu:
        base = replace(base, precision=ON_CPU)
    size = 1 if base.strategy in slices.ONE_PROCESS else world.size if world else slices.rank_count(its)
    return replace(base, ranks=size), size


def _scheduled(
    model: Model, recipe: Recipe, counts: tuple[int, ...], options: RunOptions, size: int
) -> tuple[Recipe, Schedule]:
    """Batch, learning rate and the steps at which the branches end."""
    its = rules(model, counts[-1], size)
    sequences = its.batch_tokens // model.shape.sequence
    if isinstance(options.batch, int):
        sequences = options.batch
        if sequences % size:
            raise RigbenchError(
                f"--batch {sequences} is not the same for each of {size} ranks", f"give a multiple of {size}"
            )
    own, parts = sequences // size, recipe.accumulation
    if own % parts:
        what = f"--accumulation {parts}: a step of {model.name} is {own} sequences a rank"
        cure = f"give a --batch that is a multiple of {parts * size}, or leave --accumulation out"
        raise RigbenchError(what, cure)
    given = options.micro_batch if isinstance(options.micro_batch, int) else None if parts == 1 else own // parts
    micro = at_once(own, model.shape.sequence, given)
    recipe = replace(recipe, micro_batch=micro, accumulation=own // micro)
    per_step = sequences * model.shape.sequence
    steps = tuple(dict.fromkeys(int(count // per_step) for count in counts))
    if steps[0] < FEWEST_STEPS:
        what = f"--tokens {counts[0]:,} are {steps[0]} steps of {per_step:,} for {model.name}"
        raise RigbenchError(what, f"give {FEWEST_STEPS * per_step:,} or more, or a smaller --batch")
    rate = its.learning_rate if isinstance(options.learning_rate, Absent) else options.learning_rate
    warm_up = min(its.warm_up_steps, steps[0] - decay_of(steps[0]))
    return recipe, Schedule(learning_rate=rate, warm_up_steps=warm_up, steps=steps)


def resumed(job: Job, run_id: str, data: str, leads: bool = True) -> Asked:
    """The plan of a run that was stopped or killed, whose place in the store this job takes when all is well.

    Raises:
        RigbenchError: there is no such run, another process trains it, or its data is not what it was.
    """
    if (found := job.store.find(run_id)).parent.resolve() != job.store.runs.resolve():
        raise RigbenchError(f"{run_id} is not among the runs in {job.store.runs}", "give the id of one that is")
    run = job.store.load(found.stem)
    path = job.store.home / FOLDER / run.id / PLAN
    try:
        plan = msgspec.json.decode(read_regular(path), type=Plan)
    except (OSError, ValueError, RecursionError):
        what = f"run {run.id} has no {path}: it trained no series, or was moved without that folder"
        raise RigbenchError(what, "give the id of a `scaling run`") from None
    alone = _alone(path, run.id) if leads else None
    where = str(Path(data).absolute()) if data else plan.data
    digest = digest_of(Path(where))
    if any(it.data_sha256 != digest for it in plan.trainings):
        what = f"{Path(where).name} holds other tokens than when run {run.id} began"
        raise RigbenchError(what, "give the file that it began with (--data), or begin a new run")
    trainings = tuple(replace(it, slice=replace(it.slice, data=where)) for it in plan.trainings)
    job.run = replace(run, status="running", warnings=tuple(it for it in run.warnings if "--resume" not in it))
    return Asked(replace(plan, trainings=trainings, data=where), run=run.id, alone=alone)


def _alone(plan: Path, run_id: str) -> IO[bytes]:
    """The plan, locked for as long as it is open; of a folder that knows no locks, open alone."""
    file = plan.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RigbenchError(f"run {run_id} is being trained by another process", "stop that one first") from None
    except OSError:
        pass
    return file


def train_all(job: Job, asked: Asked, its: Cards, world: World | None) -> None:
    """One after the other, each kept when it has ended; what stops one does not stop the others.

    Raises:
        Interrupted: the user said stop; all of them can be gone on with.
        RigbenchError: bad data, or a checkpoint that is not what was written.
    """
    trainings = _placed(job, asked)
    if not asked.run:
        plan = _write_plan(job.store.home / FOLDER / job.run.id, asked.plan)
        asked = asked._replace(alone=_alone(plan, job.run.id))
        for note in asked.notes:
            job.progress.line(note)
            job.warn(note)
    with asked.alone or contextlib.nullcontext():
        names = _names(trainings)
        # In the store from now on, so that a run that is killed can be named.
        stored: dict[tuple[str, str, int], Trained] = {
            (it.model.name, it.recipe.optimizer, it.seed): it for it in job.run.scaling if isinstance(it, Trained)
        }
        job.keep(scaling=tuple(_so_far(it, name, stored) for it, name in zip(trainings, names, strict=True)))
        job.progress.line(
            f"run {job.run.id}: `rigbench scaling run --resume {job.run.id}` goes on with it after a kill"
        )
        if all(isinstance(it, Trained) and it.finished for it in job.run.scaling):
            job.progress.line("all of its models are trained to their end")
        else:
            said, told = budgeted(job, trainings, "cuda" if its.gpus else "cpu")
            job.progress.line(said)
            _train(job, asked, trainings, its, world, names, told)
    _law(job)


def _names(trainings: Sequence[Options]) -> list[str]:
    """Of each training its model, and its optimizer and seed where the others differ in them."""
    own = [it.slice for it in trainings]
    optimizers, seeds = {it.recipe.optimizer for it in own}, {it.seed for it in own}
    return [
        it.model.name
        + (f", {it.recipe.optimizer}" if len(optimizers) > 1 else "")
        + (f", seed {it.seed}" if len(seeds) > 1 else "")
        for it in own
    ]


def _so_far(options: Options, name: str, stored: Mapping[tuple[str, str, int], Trained]) -> Trained | Skipped:
    """By its own record, or by that of the run where that is whole or is all there is."""
    known, own = stored.get((options.slice.model.name, options.slice.recipe.optimizer, options.slice.seed)), None
    with contextlib.suppress(RigbenchError):  # of a record that cannot be read it is said when its turn comes
        own = read(Path(options.folder))
    return (known if known and known.finished else own or known) or Skipped(name, NOT_BEGUN)


def _train(
    job: Job,
    asked: Asked,
    trainings: Sequence[Options],
    its: Cards,
    world: World | None,
    names: Sequence[str],
    told: Sequence[Estimate],
) -> None:
    ends = Ends([sizes.work_of(it)[1] for it in trainings], told)
    for place, (options, name) in enumerate(zip(trainings, names, strict=True)):
        job.progress.stage(f"{place + 1} of {len(trainings)}: {name}", 60)
        done = read(Path(options.folder))
        if done is not None and done.finished:
            continue

        def heard(share: float, text: str, place: int = place) -> None:
            loss, comma, rest = text.partition(", ")
            then = ends.words(place, share) if text.startswith("loss") else ""
            job.progress.update(share, f"{loss}{then}{comma}{rest}")

        before = job.run.scaling[place]
        if isinstance(before, Skipped):
            _keep(job, place, Skipped(name, UNDER_WAY))
        try:
            outcome = _started(job, options, its, world, heard, place)
        except RigbenchError as error:
            if not place and not asked.run:  # nor can any larger one be trained
                job.forget()
                shutil.rmtree(job.store.home / FOLDER / job.run.id, ignore_errors=True)
                raise
            _keep(job, place, _without(before, name, str(error)))
            if error.exit_code != NOTHING:
                raise
            continue
        interrupted = outcome.ended == "interrupted"
        why = "interrupted" if interrupted else outcome.reason
        result = outcome.result or _without(before, name, why or "stopped before its first step")
        if outcome.ended in ("died", "hung"):
            job.faults.append(f"{name}: {why}; `rigbench scaling run --resume {job.run.id}` goes on")
            if isinstance(result, Trained):
                result = replace(result, stopped=why)
        _keep(job, place, result)
        if interrupted or (isinstance(result, Trained) and result.stopped == "interrupted"):
            job.warn(f"`rigbench scaling run --resume {job.run.id}` goes on where it was stopped")
            raise Interrupted


def _keep(job: Job, place: int, result: Trained | Skipped) -> None:
    job.keep(scaling=(*job.run.scaling[:place], result, *job.run.scaling[place + 1 :]))


def _without(before: Trained | Skipped, name: str, reason: str) -> Trained | Skipped:
    """Of a training that gave nothing this time: what is known from before, and why it ended."""
    return replace(before, stopped=reason) if isinstance(before, Trained) else Skipped(name, reason)


def _law(job: Job) -> None:
    """Of what came to its end; none where that is too little."""
    ends = [point for it in job.run.scaling if isinstance(it, Trained) for point in points(it)]
    with contextlib.suppress(RigbenchError):
        if len({it.params for it in ends}) > 1:
            job.keep(law=law.fit("this run", ends, Absent("not asked for")))


def _placed(job: Job, asked: Asked) -> list[Options]:
    """Each with its folder."""
    home, placed = job.store.home / FOLDER / job.run.id, []
    for options in asked.plan.trainings:
        name = f"{options.slice.model.name}-{options.slice.recipe.optimizer}-{options.slice.seed}".replace(os.sep, "_")
        placed.append(replace(options, folder=str(home / name)))
    return placed


def _write_plan(home: Path, plan: Plan) -> Path:
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / PLAN, msgspec.json.encode(plan))
        return home / PLAN
    except OSError as error:
        raise RigbenchError(f"cannot keep checkpoints in {home} ({reason(error)})", "choose --home DIR") from None


def _on_cards(job: Job, options: train.Options, its: Cards | None) -> tuple[train.Options, Mapping[str, str]]:
    own, environment = slices.prepared(job, options)
    if its and its.environment:
        own, environment = replace(own, device="cuda:0"), {**environment, **its.environment}
    return own, environment


def _started(
    job: Job, options: Options, its: Cards, world: World | None, heard: process.OnProgress, place: int
) -> Outcome[Trained]:
    """The series' training at that place: in one process, in ranks of this machine, or as one of torchrun's."""
    own, environment = _on_cards(job, options.slice, its if not world else None)
    strategy = own.recipe.strategy
    if options.deterministic:
        environment = {**environment, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    options = replace(options, slice=own)
    if strategy in slices.ONE_PROCESS:
        return process.call(
            PROBE, options, Trained, limit_seconds=FOREVER_SECONDS, on_progress=heard, environment=environment
        )
    if world:
        environment = {**environment, **interface(world)}
        return ranks.call_as(
            PROBE,
            options,
            Trained,
            world,
            limit_seconds=FOREVER_SECONDS,
            on_progress=heard,
            environment=environment,
            meeting=place,
        )
    count = own.recipe.ranks
    if "OMP_NUM_THREADS" not in os.environ:
        cores = host.cpu(Sysfs()).usable_cpus
        usable = int((os.cpu_count() or 1) if isinstance(cores, Absent) else cores)
        environment = {**environment, "OMP_NUM_THREADS": str(max(1, usable // count))}
    exports: Mapping[str, str] = slices.advised(job) if its.gpus else {}
    return ranks.call(
        PROBE,
        options,
        Trained,
        world_size=count,
        limit_seconds=FOREVER_SECONDS,
        on_progress=heard,
        environment={**environment, **exports},
    )


def follow(job: Job, asked: Asked, its: Cards, world: World) -> int:
    """A rank beside the one that reports: the same work, nothing said and nothing stored. Returns the exit code.

    It goes on with the next model wherever the first rank does: whoever ends early is waited for by all others.
    """
    code = FINE
    for place, options in enumerate(_placed(job, asked)):
        done = read(Path(options.folder))
        if done is not None and done.finished:
            continue
        try:
            outcome = _started(job, options, its, world, lambda share, text: None, place)
        except RigbenchError as error:
            if not place or error.exit_code != NOTHING:
                raise
            continue
        if outcome.ended == "interrupted":
            return INTERRUPTED
        if outcome.ended in ("died", "hung"):
            code = FAULT
    return code
