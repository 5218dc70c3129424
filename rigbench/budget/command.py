"""The command that says what a training run would take: budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rigbench.budget.record import THIS_RIG, Budget, Options, PriceOptions, Refused
from rigbench.command import Common, command
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.model import named
from rigbench.model.recipe import RecipeOptions
from rigbench.predict.record import ToldOptions
from rigbench.train.record import METHOD, Slice, StoredSlice
from rigbench.train.record import Options as SliceOptions
from rigbench.usable import BUSY
from rigbench.work.record import Power, WattOptions

if TYPE_CHECKING:
    from rigbench.budget.plan import Request
    from rigbench.core.profiles import RigProfile
    from rigbench.job import Job

HERE, MOST_RIGS = "here", 12


# Of the recipe, what few set; the command line has --optimizer and --compile.
RECIPE_SETTINGS = ("precision", "strategy", "checkpointing", "loss", "accumulation", "rank", "targets")


@command("device", "on", "link", "p2p", "replay", "keep_disturbed", settings=RECIPE_SETTINGS)
def budget(
    common: Common,
    options: Options,
    recipe: RecipeOptions,
    told: ToldOptions,
    prices: PriceOptions,
    watts: WattOptions,
) -> int:
    """Hours, kWh and money of a training run, with intervals: on this rig, or --on others (several: A,B,C).

    On this rig from short training runs; where none is stored, they are trained first. --on predicts. What is said
    of the recipe (--optimizer, --compile, precision, strategy …) leaves only those trained so; --on trains so, and
    else with adamw in bf16, compiled, by ddp on several cards, and with checkpointing where nothing else fits.

        rigbench budget --flops 1.2e18                what a series of models takes on this rig
        rigbench budget --on 2xrtx-4080 --hours 48    what 48 hours buy on cards that you do not own
        rigbench budget --params 120M --tokens-per-param 20 --price '0.30 EUR'
    """
    from rigbench.budget.training import short_slices

    request, rigs = asked(common, options, recipe, told, prices, watts)
    short = short_slices(request.models, common.device)
    return common.answer(lambda job: run(job, request, common.device, rigs, short))


def asked(
    common: Common,
    options: Options,
    recipe: RecipeOptions,
    told: ToldOptions,
    prices: PriceOptions,
    watts: WattOptions,
) -> tuple[Request, tuple[RigProfile | Absent, ...]]:
    """What is asked for, and of which rigs: THIS_RIG stands for this one, and no rig for this one alone."""
    from rigbench.budget import plan
    from rigbench.predict import known
    from rigbench.predict.recorded import rig_asked

    rigs = _rigs(rig_asked(common.on, common.replay), options, watts)
    if not rigs or THIS_RIG in rigs:
        recipe.refuse_unmeasured()
    if not rigs:
        known.refuse_alone(told)
    request = plan.request(options, recipe, watts, prices.electricity)
    if not rigs or THIS_RIG in rigs:
        named.refuse_to_train(request.models)
    largest = max(request.models, key=lambda model: model.total_parameters)
    return request._replace(told=known.told(told, largest, common.store().find)), rigs


def _rigs(names: str | None, options: Options, watts: WattOptions) -> tuple[RigProfile | Absent, ...]:
    """In the order asked; THIS_RIG stands for this one, and no rig for this one alone."""
    from rigbench.core import profiles

    if names is None:
        return ()
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not 1 <= len(listed) <= MOST_RIGS:
        raise RigbenchError(f"--on {names[:40]!r} names {len(listed)} rigs", f"name 1 to {MOST_RIGS}")
    if len(set(listed)) < len(listed):
        raise RigbenchError(f"--on {names[:60]!r} names a rig twice", "name each once")
    of_one = {
        "--wall-watts": watts.wall_watts,
        "host-watts": watts.host_watts,
        "purchase": options.purchase,
        "rig-profile": watts.rig_profile,
    }
    for option, value in of_one.items():
        if len(listed) > 1 and not isinstance(value, Absent):
            raise RigbenchError(f"{option} is of one rig, and --on names {len(listed)}", "ask about one at a time")
    return tuple(THIS_RIG if name == HERE else profiles.rig_named(name) for name in listed)


def run(
    job: Job,
    request: Request,
    device: str | None,
    rigs: Sequence[RigProfile | Absent] = (),
    slices_first: Sequence[SliceOptions] = (),
) -> None:
    """The answer for this rig, from its stored slices; or for the rigs named, of which THIS_RIG is this one.

    Of several rigs those that have no answer are kept with their reason. Where this rig's stored slices do not answer,
    `slices_first` are run.
    """
    from rigbench.budget.training import train_slices

    answers: list[Budget] = []
    refused: list[Refused] = []
    for rig in rigs or (THIS_RIG,):
        try:
            if isinstance(rig, Absent):
                answers.append(here(job, request, device))
                continue
            job.progress.stage(f"budget on {rig.name}", 5)
            answers.append(elsewhere(job, request, rig))
        except RigbenchError as error:
            if len(rigs) > 1:
                refused.append(Refused(rig.reason if isinstance(rig, Absent) else rig.name, str(error)))
            elif error.exit_code == NOTHING and slices_first and not rigs:
                if (predicted := _all_disturbed(job, request, device, error)) is not None:
                    answers.append(predicted)
                    continue
                train_slices(
                    job, slices_first, request.watts, request.recipe
                )  # nothing stored is near enough to answer from
                if job.has_no_answer:
                    job.keep(budget=Skipped("budget", BUSY))
                    return
                answers.append(here(job, request, device))
            else:
                raise
    if request.kind == "kWh" and any(_at_wall(one) for one in answers):
        why = "its watts are not known at the wall, as the others' are; give --set host-watts=W"
        refused += [
            Refused(one.rig if isinstance(one.rig, str) else "this rig", why) for one in answers if not _at_wall(one)
        ]
        answers = [one for one in answers if _at_wall(one)]
    if not answers:
        raise RigbenchError("none of these rigs has an answer", refused[0].reason, exit_code=NOTHING)
    first, *others = answers
    job.keep(budget=msgspec.structs.replace(first, others=tuple(others), refused=tuple(refused)))


def _at_wall(budget: Budget) -> bool:
    return isinstance(budget.power, Power) and budget.power.covers == "wall"


def _all_disturbed(job: Job, request: Request, device: str | None, why: RigbenchError) -> Budget | None:
    """Where this rig's slices are all left out since the machine was busy: what its datasheet lets expect, saying so.

    None where a slice is none the better for it: none is stored, or nothing is published of this rig, as of a CPU.
    """
    from rigbench.budget import forecast
    from rigbench.budget.plan import assemble
    from rigbench.core import profiles
    from rigbench.predict.capacity import predictor_of
    from rigbench.store import now

    stored = job.slices()
    if not stored or not all(it.disturbed for it in stored):
        return None
    cards = job.cards(device).alike.gpus
    kinds = {gpu.profile for gpu in cards if isinstance(gpu.profile, str)}
    if len(kinds) != 1:
        job.warn(f"{why.what_happened}: short runs are trained anew, since no datasheet lets predict this machine")
        return None
    count = 1 if request.recipe.strategy == "single" else len(cards)
    rig = profiles.rig_named(f"{count}x{kinds.pop()}")
    machine, forecasts = forecast.elsewhere(predictor_of(job), request, rig)
    told = f"{why.what_happened}: predicted from the datasheet instead; {why.what_to_do} when nothing else runs"
    job.warn(told)
    return assemble(request, machine._replace(left_out=(told,)), forecasts, now())


def elsewhere(job: Job, request: Request, rig: RigProfile) -> Budget:
    """Predicted, and corrected by what back-tests on that rig said."""
    from rigbench.budget import forecast, rates
    from rigbench.budget.plan import assemble
    from rigbench.predict.capacity import predictor_of
    from rigbench.store import now

    machine, forecasts = forecast.elsewhere(predictor_of(job), request, rig)
    if tests := rates.backtests(job.earlier, rig.name):
        history = rates.coverage(tests)
        forecasts = tuple(it._replace(rate=rates.corrected(it.rate, history)) for it in forecasts)
    return assemble(request, machine, forecasts, now())


def here(job: Job, request: Request, device: str | None) -> Budget:
    """From this run's own slices and those of earlier runs of this rig; of one kind of device where it was named."""
    from rigbench.budget import forecast, rates, training
    from rigbench.budget.plan import assemble
    from rigbench.predict import ceilings
    from rigbench.store import now

    its = training.wanted(job, device, request.recipe)
    why = training.did_not_train(job, its) if isinstance(request.recipe.strategy, Absent) else ""
    for line in job.index.unreadable():
        job.warn(f"not used: {line}")
    versions = {entry.torch for entry in job.earlier if entry.slices} - {str(job.run.software.torch)}
    if versions:
        job.warn(f"some stored short runs were measured with torch {', '.join(sorted(versions))}")
    kind = None if device in (None, "auto") else str(device).partition(":")[0]
    slices = [stored for stored in job.slices() if kind in (None, stored.slice.device.kind)]
    count = job.index.slices_of_other_rigs(job.run.rig.fingerprint)
    strangers = f"{count} short run{'' if count == 1 else 's'} of another rig"
    tests = rates.backtests(job.earlier)
    try:
        machine, forecasts = forecast.here(
            request,
            slices,
            job.newest(*ceilings.ROOMS),
            job.holding("thermals"),
            rates.coverage(tests) if tests else None,
            METHOD,
            lambda stored: stored.slice if isinstance(request.watts.supply, Absent) else _whole(job, stored),
            its.on_one(why) if why else its,
        )
    except RigbenchError as error:
        if error.exit_code != NOTHING or slices or not count:
            raise
        raise RigbenchError(
            f"no short training run of this rig is stored ({strangers})", error.what_to_do, NOTHING
        ) from None
    if count:
        machine = machine._replace(left_out=(*machine.left_out, strangers))
    return assemble(request, machine, forecasts, now())


def _whole(job: Job, stored: StoredSlice) -> Slice:
    run = job.run if stored.run_id == job.run.id else job.store.load(stored.run_id)
    alike = (it for it in run.slices if isinstance(it, Slice) and StoredSlice.of(run.id, it).slice == stored.slice)
    return next(alike, stored.slice)
