"""The command that hands a log back: read it, find what was predicted for it, compare, keep."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rigbench.backtest.record import Cause, LogFacts, Options
from rigbench.command import Common, command, completed, run_ids, say
from rigbench.core import units
from rigbench.core.errors import FINE, NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import RecipeOptions

if TYPE_CHECKING:
    from rigbench.budget.record import Rate
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.logs.stretches import Reading


@command("on")
def backtest(
    common: Common,
    options: Options,
    run: Annotated[
        str | None,
        typer.Argument(help="The run that predicted: an id, its start, or a file.", autocompletion=completed(run_ids)),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Argument(help="What happened: CSV, text log (- is standard input), TensorBoard folder, a run."),
    ] = None,
) -> int:
    """Predicted against what really happened: hand back a run's log. Kept per rig; the next interval learns from it.

    rigbench backtest RUN train.log    a budget or short run against the log of the real run
    rigbench backtest --summary        all of this rig
    rigbench backtest --forget RUN     a back-test that was a mistake counts no more, and its run is deleted
    rigbench backtest --on rtx-4090 --model 120M train.log    no run: is that good for this card? also of a pasted line
    rigbench explain formats           which logs are read, and what of them
    """
    if not isinstance(options.forget, Absent):
        if run or log or options.summary or common.on:
            raise RigbenchError("--forget names all it takes", "leave the rest out")
        return _forget(common, options.forget)
    if options.summary:
        if run or log:
            raise RigbenchError("--summary takes no run and no log", "leave them out")
        return _summary(common)
    if common.on is not None:
        if not run or log:
            raise RigbenchError("--on takes a log alone", "rigbench backtest --on NAME --model 120M LOG")
        on, source = common.on, run
        return common.answer(lambda job: _reach(job, on, source, options))
    if not run or not log:
        raise RigbenchError("a back-test needs a run and a log", "rigbench backtest RUN LOG, or --summary")
    return common.answer(lambda job: _compare(job, run, log, options), measures=False)


def _forget(common: Common, wanted: str) -> int:
    """Delete the runs of that back-test, or of all of that prediction, so that no interval rests on them."""
    job = common.job(measures=False)
    job.progress.close()
    stored = [(its.id, its.backtest) for its in job.index.entries() if its.backtest is not None]
    found = [(run, its) for run, its in stored if wanted and (run.startswith(wanted) or its.run_id.startswith(wanted))]
    if len({its.run_id for _, its in found}) > 1:
        raise RigbenchError(f"--forget {wanted[:40]!r} begins several runs", "give more of one's id")
    if not found:
        what = f"no back-test is stored that is, or is of, run {wanted[:40]!r}"
        raise RigbenchError(what, "`rigbench backtest --summary` shows them")
    job.store.delete(run for run, _ in found)
    if common.json:
        sys.stdout.write(msgspec.json.encode([run for run, _ in found]).decode() + "\n")
    else:
        for run, its in found:
            say(f"forgotten: {run}, the back-test of run {its.run_id} by {its.log.name}")
    return FINE


def _summary(common: Common) -> int:
    from rigbench import store
    from rigbench.backtest import screen
    from rigbench.budget import rates
    from rigbench.core import profiles

    job = common.job(measures=False)
    job.progress.close()
    rig = profiles.rig_named(common.on).name if common.on else ""
    tests = rates.backtests(job.earlier, rig)
    if not tests:
        others = sorted({its.backtest.rig for its in job.earlier if its.backtest is not None} - {rig, ""})
        what = f"no back-test of a prediction for {rig} is stored" if rig else "no back-test of this rig is stored"
        its = (
            f"`rigbench backtest --summary --on {others[0]}` shows those for {others[0]}" if others and not rig else ""
        )
        raise RigbenchError(what, its or "rigbench backtest RUN LOG makes one", NOTHING)
    coverage = rates.coverage(tests)
    if common.json:
        sys.stdout.write(store.encode(coverage).decode())
    else:
        screen.show_all(tests, coverage, common.console())
    return FINE


def _compare(job: Job, predicting: str, log: Path, options: Options) -> None:
    """One log against one stored run's prediction, kept under that run's rig."""
    from rigbench import store
    from rigbench.backtest import verdict
    from rigbench.budget.record import Budget
    from rigbench.logs import events

    run = store.read(job.store.find(predicting))
    if not events.is_events(log) and not log.exists():
        try:
            log = job.store.find(str(log))
        except RigbenchError:
            cure = "give a file, a folder of TensorBoard events or a run"
            raise RigbenchError(f"there is no log {log}", cure) from None
    model, stated, cards = predicted(run, options.model)
    reading, facts = _read(log, options, model)
    named = run.budget.rig if isinstance(run.budget, Budget) and isinstance(run.budget.rig, str) else ""
    result = verdict.compare(run.id, model, stated, reading, facts, store.now(), cards, named)
    job.run = msgspec.structs.replace(job.run, rig=run.rig, software=run.software)
    job.keep(backtest=result)


# What is done otherwise most often, and how a request says it.
OTHERWISE = {
    "without torch.compile": RecipeOptions(compiled=False),
    "in fp32, compiled": RecipeOptions(precision="fp32"),
    "in fp32, without torch.compile": RecipeOptions(precision="fp32", compiled=False),
    "in tf32, without torch.compile": RecipeOptions(precision="tf32", compiled=False),
    "recomputing every block": RecipeOptions(checkpoint_every=1),
    "recomputing every block, without torch.compile": RecipeOptions(checkpoint_every=1, compiled=False),
}


def _reach(job: Job, rig_name: str, log: str, options: Options) -> None:
    """A log against what is predicted for named hardware."""
    from rigbench import store
    from rigbench.backtest import verdict
    from rigbench.budget import forecast, plan
    from rigbench.budget.record import Options as BudgetOptions
    from rigbench.core import profiles
    from rigbench.predict.capacity import predictor_of
    from rigbench.work.record import WattOptions

    rig = profiles.rig_named(rig_name)
    path = Path(log)
    if log != "-" and not path.exists() and not _is_pasted(path):
        with contextlib.suppress(RigbenchError):  # a training that was watched
            path = job.store.find(log)
    reading, facts = _read(path, options, "")
    model = options.model
    if isinstance(model, Absent):
        if reading.parameters is None:
            raise RigbenchError("the log does not say which model it is of", "say its size, as --model 120M")
        model = str(reading.parameters)
    predictor = predictor_of(job)
    try:
        units.parse_parameters(model, "--model")
        of = BudgetOptions(params=model, tokens=1e12)
    except RigbenchError:  # no size: a published model, or its file
        of = BudgetOptions(model=model, tokens=1e12)

    def forecast_of(recipe: RecipeOptions) -> tuple[str, str, Rate]:
        asked = plan.request(of, recipe, WattOptions(), Absent("not asked"))
        machine, forecasts = forecast.elsewhere(predictor, asked, rig)
        return asked.models[0].name, machine.configuration.recipe.words, forecasts[0].rate

    def variants() -> list[Cause]:
        made = []
        for what, recipe in OTHERWISE.items():
            with contextlib.suppress(RigbenchError):  # does not fit, or no such peak
                made.append(Cause(what, forecast_of(recipe)[-1].tokens_per_s))
        return made

    name, words, expected = forecast_of(RecipeOptions())
    job.keep(backtest=verdict.reach(rig, name, words, expected, variants, reading, facts, store.now()))


def predicted(run: Run, model: str | Absent) -> tuple[str, Rate, int]:
    """The rate that this run stated for a model, in its budget, else as its own slices would state it; of how many."""
    from rigbench.budget.rates import rate
    from rigbench.budget.record import Budget
    from rigbench.budget.slices import choose
    from rigbench.train.record import Slice, StoredSlice

    rates: dict[str, Rate] = {}
    cards = 1
    slices = [StoredSlice.of(run.id, item) for item in run.slices if isinstance(item, Slice)]
    if slices:
        models = {stored.slice.model.name: stored.slice.model for stored in slices}
        chosen = choose(tuple(models.values()), slices)
        rates = {name: rate(its, chosen) for name, its in models.items()}
        cards = chosen.configuration.recipe.ranks
    if isinstance(run.budget, Budget):
        rates |= {row.model: row.rate for row in run.budget.series}
        cards = run.budget.configuration.recipe.ranks
    if not rates:
        raise RigbenchError(f"run {run.id} predicts nothing", "name a run of budget, run or train-probe", NOTHING)
    if isinstance(model, Absent):
        if len(rates) == 1:
            return *next(iter(rates.items())), cards
        raise RigbenchError(f"run {run.id} predicts {', '.join(rates)}", "say which with --model NAME")
    if model not in rates:
        raise RigbenchError(f"run {run.id} predicts {', '.join(rates)}, not {model}", "say which with --model NAME")
    return model, rates[model], cards


def _read(log: Path, options: Options, model: str) -> tuple[Reading, LogFacts]:
    """The log as it is understood, and what to call it."""
    from rigbench import store
    from rigbench.logs import events, rules, scan, source

    columns = rules.parse_columns(options.columns)
    declared = None if isinstance(options.tokens_per_step, Absent) else options.tokens_per_step
    name = log.name if log.exists() or not _is_pasted(log) else "a pasted line"
    if str(log) == "-":
        name, text = "standard input", sys.stdin.read(source.LARGEST_TEXT_BYTES)
        text, digest = source.pasted(text)
    elif events.is_events(log):
        raw, digest = events.read(log)
    else:
        text, digest = source.pasted(str(log)) if name == "a pasted line" else source.read(log)
    if not events.is_events(log):
        if not isinstance(options.pattern, Absent):
            raw, roles = rules.by_pattern(text, options.pattern)
            columns = roles | columns
        elif _is_run(text):
            own = store.read(log)
            return _own(own, model), _facts(name, own.id, "a run of rigbench")
        else:
            raw = scan.scan(text, name)
    reading = rules.read(raw, columns, declared, name)
    return reading, _facts(name, digest, reading.format)


def _is_pasted(log: Path) -> bool:
    """A line of a log itself, which no file's name looks like."""
    return len(str(log).split()) > 2 and any(mark.isdigit() for mark in str(log))


def _is_run(text: str) -> bool:
    return text.lstrip().startswith("{") and '"schema"' in text[:200]


def _own(run: Run, model: str) -> Reading:
    """The steps of a training that was watched, or the steady ones of a longer slice of the same model."""
    from rigbench.logs.stretches import LogRow, Reading
    from rigbench.train.record import Slice
    from rigbench.watch.record import Training

    if isinstance(run.watched, Training):
        seen = run.watched.steps
        if isinstance(seen, Absent) or isinstance(seen.tokens_per_step, Absent):
            why = seen.reason if isinstance(seen, Absent) else "nothing says how many tokens a step had"
            raise RigbenchError(f"run {run.id}: {why}", "watch it with --tokens-per-step N", NOTHING)
        rows = [LogRow(step, at) for at, step in zip(seen.at_seconds, seen.step, strict=True)]
        return Reading("a training that was watched", rows, seen.tokens_per_step)
    slices = [item for item in run.slices if isinstance(item, Slice) and item.model.name == model]
    if not slices:
        raise RigbenchError(
            f"run {run.id} has no short training run of {model}", "give a run that trained it, or a log"
        )
    longest = max(slices, key=lambda item: len(item.steps.seconds))
    ended = list(enumerate(longest.steps.ended_at_seconds))[longest.steady_from :]
    return Reading("a run of rigbench", [LogRow(*it) for it in ended], float(longest.tokens_per_step))


def _facts(name: str, digest: str, kind: str) -> LogFacts:
    """What is not known before the rows are compared is empty."""
    return LogFacts(name, digest, kind, rows=0, pauses=(), resets=(), non_finite_losses=(), batch_changes=())
