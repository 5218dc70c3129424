"""The command that hands a log back: read it, find what was predicted for it, compare, keep."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rigbench.backtest.record import LogFacts, Options
from rigbench.command import Common, command, completed, run_ids
from rigbench.core.errors import FINE, NOTHING, RigbenchError
from rigbench.core.record import Absent

if TYPE_CHECKING:
    from rigbench.budget.record import Rate
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.logs.scan import Raw
    from rigbench.logs.stretches import Reading


@command()
def backtest(
    common: Common,
    options: Options,
    run: Annotated[
        str | None,
        typer.Argument(help="The run that predicted: an id, its start, or a file.", autocompletion=completed(run_ids)),
    ] = None,
    log: Annotated[
        Path | None, typer.Argument(help="What happened: CSV, text log, TensorBoard folder, or a run of rigbench's.")
    ] = None,
) -> int:
    """Predicted against what really happened: hand back a run's log. Kept per rig; the next interval learns from it.

    rigbench backtest RUN train.log    a budget or slice against the log of the real run
    rigbench backtest --summary        all of this rig
    rigbench report --list             which runs predicted something
    """
    if options.summary:
        if run or log:
            raise RigbenchError("--summary takes no run and no log", "leave them out")
        return _summary(common)
    if not run or not log:
        raise RigbenchError("a back-test needs a run and a log", "rigbench backtest RUN LOG, or --summary")
    return common.answer(lambda job: _compare(job, run, log, options))


def _summary(common: Common) -> int:
    from rigbench import store
    from rigbench.backtest import screen
    from rigbench.budget import rates

    job = common.job()
    job.progress.close()
    tests = rates.backtests(job.earlier)
    if not tests:
        raise RigbenchError("no back-test of this rig is stored", "rigbench backtest RUN LOG makes one", NOTHING)
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

    run = store.read(job.store.find(predicting))
    if not _is_events(log) and not log.exists():
        try:
            log = job.store.find(str(log))
        except RigbenchError:
            cure = "give a file, a folder of TensorBoard events or a run"
            raise RigbenchError(f"there is no log {log}", cure) from None
    model, stated = _predicted(run, options.model)
    reading, facts = _read(log, options, model)
    result = verdict.compare(run.id, model, stated, reading, facts, store.now())
    job.run = msgspec.structs.replace(job.run, rig=run.rig, software=run.software)
    job.keep(backtest=result)


def _predicted(run: Run, model: str | Absent) -> tuple[str, Rate]:
    """The rate that this run stated for a model: in its budget, else as its own slices would state it."""
    from rigbench.budget.rates import rate
    from rigbench.budget.record import Budget
    from rigbench.budget.slices import choose
    from rigbench.train.record import Slice, StoredSlice

    rates: dict[str, Rate] = {}
    slices = [StoredSlice.of(run.id, item) for item in run.slices if isinstance(item, Slice)]
    if slices:
        models = {stored.slice.model.name: stored.slice.model for stored in slices}
        chosen = choose(tuple(models.values()), slices)
        rates = {name: rate(its, chosen) for name, its in models.items()}
    if isinstance(run.budget, Budget):
        rates |= {row.model: row.rate for row in run.budget.series}
    if not rates:
        raise RigbenchError(f"run {run.id} predicts nothing", "name a run of budget, run or train-probe", NOTHING)
    if isinstance(model, Absent):
        if len(rates) == 1:
            return next(iter(rates.items()))
        raise RigbenchError(f"run {run.id} predicts {', '.join(rates)}", "say which with --model NAME")
    if model not in rates:
        raise RigbenchError(f"run {run.id} predicts {', '.join(rates)}, not {model}", "say which with --model NAME")
    return model, rates[model]


def _read(log: Path, options: Options, model: str) -> tuple[Reading, LogFacts]:
    """The log as it is understood, and what to call it."""
    from rigbench import store
    from rigbench.logs import rules, scan, source

    columns = rules.parse_columns(options.columns)
    declared = None if isinstance(options.tokens_per_step, Absent) else options.tokens_per_step
    if _is_events(log):
        raw, digest = _events(log)
    else:
        text, digest = source.read(log)
        if not isinstance(options.pattern, Absent):
            raw, roles = rules.by_pattern(text, options.pattern)
            columns = roles | columns
        elif _is_run(text):
            return _own(store.read(log), model), _facts(log.name, digest, "a run of rigbench")
        else:
            raw = scan.scan(text, log.name)
    reading = rules.read(raw, columns, declared, log.name)
    return reading, _facts(log.name, digest, reading.format)


def _is_run(text: str) -> bool:
    return text.lstrip().startswith("{") and '"schema"' in text[:200]


def _is_events(path: Path) -> bool:
    return path.is_dir() or ".tfevents." in path.name


def _own(run: Run, model: str) -> Reading:
    """The steady steps of a longer slice of the same model."""
    from rigbench.logs.stretches import LogRow, Reading
    from rigbench.train.record import Slice

    slices = [item for item in run.slices if isinstance(item, Slice) and item.model.name == model]
    if not slices:
        raise RigbenchError(f"run {run.id} has no slice of {model}", "give a run that trained it, or a log")
    longest = max(slices, key=lambda item: len(item.steps.seconds))
    ended = list(enumerate(longest.steps.ended_at_seconds))[longest.steady_from :]
    return Reading("a run of rigbench", [LogRow(*it) for it in ended], float(longest.tokens_per_step))


def _events(log: Path) -> tuple[Raw, str]:
    """TensorBoard's scalars: a row a step, with the clock at which its first was written."""
    from rigbench.logs.scan import Item, Raw, Row

    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise RigbenchError(
            "reading TensorBoard events needs the package tensorboard", "pip install 'rigbench[tensorboard]'"
        ) from None
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    if not tags:
        raise RigbenchError(f"{log} holds no scalars", "give the folder of the run's events")
    # A step's clock from the tag that is written most often: others come later in the step, or seldom.
    main = max(tags, key=lambda tag: (len(events.Scalars(tag)), not tag.startswith(("eval", "val"))))
    told: dict[int, dict[str, Item]] = {}
    for tag in tags:
        for event in events.Scalars(tag):
            told.setdefault(event.step, {})[tag.lower()] = Item(event.value)
    rows = [
        Row({**told[event.step], "step": Item(event.step)}, Item(event.wall_time, "s", 1e-3), None, "", False)
        for event in events.Scalars(main)
    ]
    digest = hashlib.sha256(msgspec.json.encode([(row.items["step"].value, row.clock) for row in rows])).hexdigest()
    return Raw("TensorBoard events", rows, {}, {}), digest[:16]


def _facts(name: str, digest: str, kind: str) -> LogFacts:
    """What is not known before the rows are compared is empty."""
    return LogFacts(name, digest, kind, rows=0, pauses=(), resets=(), non_finite_losses=(), batch_changes=())
