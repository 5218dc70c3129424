"""The command that hands a log back: read it, find what was predicted for it, compare, keep."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rigbench.backtest.record import LogFacts, Options
from rigbench.command import Common, command
from rigbench.core.errors import FINE, NOTHING, RigbenchError
from rigbench.core.files import reason
from rigbench.core.record import Absent

if TYPE_CHECKING:
    from rigbench.budget.record import Rate
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.logs.trainlog import LogRow

LARGEST_LOG_BYTES = 1 << 30


@command()
def backtest(
    common: Common,
    options: Options,
    run: Annotated[str | None, typer.Argument(help="The run that predicted: an id, its start, or a file.")] = None,
    log: Annotated[
        Path | None, typer.Argument(help="What happened: CSV, text log, TensorBoard folder, or a run of rigbench's.")
    ] = None,
) -> int:
    """Predicted against what really happened: hand back a run's log. Kept per rig; the next interval learns from it."""
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
    from rigbench.logs import trainlog

    columns = trainlog.parse_columns(options.columns)
    run = store.read(job.store.find(predicting))
    if not _is_events(log) and not log.exists():
        try:
            log = job.store.find(str(log))
        except RigbenchError:
            cure = "give a file, a folder of TensorBoard events or a run"
            raise RigbenchError(f"there is no log {log}", cure) from None
    model, stated = _predicted(run, options.model)
    rows, facts, own_tokens = _read(log, options.pattern, columns, model)
    declared = options.tokens_per_step
    tokens = own_tokens if isinstance(declared, Absent) else declared
    result = verdict.compare(run.id, model, stated, rows, facts, tokens, store.now())
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


def _read(
    path: Path, pattern: str | Absent, columns: dict[str, str], model: str
) -> tuple[list[LogRow], LogFacts, float | None]:
    """The log's rows, what to call it, and its tokens a step where it is a run of rigbench's own."""
    from rigbench import store
    from rigbench.logs import trainlog

    if _is_events(path):
        return _tensorboard(path, columns)
    try:
        if path.stat().st_size > LARGEST_LOG_BYTES:
            raise RigbenchError(f"{path.name} is larger than 1 GiB", "hand back its lines about steps")
        raw = path.read_bytes()
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({reason(error)})", "give a readable log") from None
    digest = hashlib.sha256(raw).hexdigest()[:16]
    if path.suffix == ".json" and isinstance(pattern, Absent):
        rows, tokens = _own(store.read(path), model)
        return rows, _facts(path.name, digest, "a run of rigbench"), tokens
    text = raw.decode(errors="replace")
    if isinstance(pattern, Absent) and (path.suffix.lower() in (".csv", ".tsv") or columns):
        rows, kind = trainlog.from_csv(text.replace("\t", ",") if path.suffix == ".tsv" else text, columns), "CSV"
    elif isinstance(pattern, Absent):
        rows, kind = trainlog.from_lines(text.splitlines()), "text"
    else:
        rows, kind = trainlog.from_pattern(text.splitlines(), pattern), "--pattern"
    if not rows:
        cure = r"say how with --pattern 'step (?P<step>\d+) .* (?P<ms>[\d.]+) ms'"
        raise RigbenchError(f"no line of {path.name} tells a step", cure)
    return rows, _facts(path.name, digest, kind), None


def _is_events(path: Path) -> bool:
    return path.is_dir() or ".tfevents." in path.name


def _own(run: Run, model: str) -> tuple[list[LogRow], float]:
    """The steady steps of a longer slice of the same model."""
    from rigbench.logs.trainlog import LogRow
    from rigbench.train.record import Slice

    slices = [item for item in run.slices if isinstance(item, Slice) and item.model.name == model]
    if not slices:
        raise RigbenchError(f"run {run.id} has no slice of {model}", "give a run that trained it, or a log")
    longest = max(slices, key=lambda item: len(item.steps.seconds))
    ended = list(enumerate(longest.steps.ended_at_seconds))[longest.steady_from :]
    return [LogRow(step, at_seconds) for step, at_seconds in ended], float(longest.tokens_per_step)


def _tensorboard(log: Path, columns: dict[str, str]) -> tuple[list[LogRow], LogFacts, None]:
    from rigbench.logs.trainlog import NAMES, LogRow

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
    for role, tag in columns.items():
        if tag not in tags:
            raise RigbenchError(f"--columns {role}={tag}: no such scalar", "scalars: " + ", ".join(sorted(tags)[:12]))

    def values(role: str) -> dict[int, float]:
        usual = (tag for tag in tags if tag.lower() in NAMES[role] or tag.lower().rpartition("/")[2] in NAMES[role])
        tag = columns.get(role) or next(usual, None)
        return {event.step: event.value for event in events.Scalars(tag)} if tag else {}

    main = max(tags, key=lambda tag: len(events.Scalars(tag)))
    tokens, losses = values("tokens"), values("loss")
    rows = [
        LogRow(it.step, at_seconds=it.wall_time, tokens=tokens.get(it.step), loss=losses.get(it.step))
        for it in events.Scalars(main)
    ]
    digest = hashlib.sha256(msgspec.json.encode([(row.step, row.at_seconds) for row in rows])).hexdigest()[:16]
    return rows, _facts(log.name, digest, f"TensorBoard events, clock of {main}"), None


def _facts(name: str, digest: str, kind: str) -> LogFacts:
    """What is not known before the rows are compared is empty."""
    return LogFacts(name, digest, kind, rows=0, pauses=(), resets=(), non_finite_losses=(), batch_changes=())
