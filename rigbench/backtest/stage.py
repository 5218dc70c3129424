"""How is a log handed back: read it, find what was predicted for it, compare, keep?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rigbench import store
from rigbench.backtest import verdict as backtest
from rigbench.backtest.record import Backtest, LogFacts
from rigbench.budget.comparable import StoredSlice, choose
from rigbench.budget.rates import rate
from rigbench.budget.record import Budget, Rate
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.document import Run
from rigbench.job import Job
from rigbench.logs import trainlog
from rigbench.logs.trainlog import LogRow
from rigbench.train.record import Slice

LARGEST_LOG_BYTES = 1 << 30


def run(
    job: Job,
    wanted_run: str,
    log: Path,
    model: str | None,
    tokens_per_step: float | None,
    pattern: str | None,
    columns: str | None,
) -> Backtest:
    """One log against one stored run's prediction, kept under that run's rig.

    Raises:
        RigbenchError: no such run or model, or a log that tells too little.
    """
    roles = trainlog.parse_columns(columns)
    predicting = store.read(job.store.find(wanted_run))
    if not _is_events(log) and not log.exists():
        log = _stored(job, log)
    name, stated = _predicted(predicting, model)
    rows, facts, own_tokens = _read(log, pattern, roles, name)
    result = backtest.compare(predicting.id, name, stated, rows, facts, tokens_per_step or own_tokens, store.now())
    job.run = msgspec.structs.replace(job.run, rig=predicting.rig, software=predicting.software)
    job.keep(backtest=result)
    return result


def _predicted(run: Run, model: str | None) -> tuple[str, Rate]:
    """The rate that this run stated for a model: in its budget, else as its own slices would state it."""
    rates: dict[str, Rate] = {}
    slices = [StoredSlice(run.id, item) for item in run.slices if isinstance(item, Slice)]
    if slices:
        models = {stored.slice.model.name: stored.slice.model for stored in slices}
        chosen = choose(tuple(models.values()), slices)
        rates = {name: rate(its, chosen) for name, its in models.items()}
    if isinstance(run.budget, Budget):
        rates |= {row.model: row.rate for row in run.budget.series}
    if not rates:
        raise RigbenchError(f"run {run.id} predicts nothing", "name a run of budget, run or train-probe", NOTHING)
    if model is None and len(rates) == 1:
        return next(iter(rates.items()))
    if model not in rates:
        what = f"run {run.id} predicts {', '.join(rates)}"
        raise RigbenchError(what if model is None else f"{what}, not {model}", "say which with --model NAME")
    return model, rates[model]


def _read(
    path: Path, pattern: str | None, columns: dict[str, str], model: str
) -> tuple[list[LogRow], LogFacts, float | None]:
    """The log's rows, what to call it, and its tokens a step where it is a run of rigbench's own."""
    if _is_events(path):
        return _tensorboard(path, columns)
    raw = _bytes(path)
    digest = hashlib.sha256(raw).hexdigest()[:16]
    if path.suffix == ".json" and pattern is None:
        rows, tokens = _own(store.read(path), model)
        return rows, _facts(path.name, digest, "a run of rigbench"), tokens
    text = raw.decode(errors="replace")
    if pattern is None and (path.suffix.lower() in (".csv", ".tsv") or columns):
        rows, kind = trainlog.from_csv(text.replace("\t", ",") if path.suffix == ".tsv" else text, columns), "CSV"
    else:
        rows, kind = trainlog.from_lines(text.splitlines(), pattern), "--pattern" if pattern else "text"
    if not rows:
        raise RigbenchError(
            f"no line of {path.name} tells a step", r"say how with --pattern 'step (?P<step>\d+) .* (?P<ms>[\d.]+) ms'"
        )
    return rows, _facts(path.name, digest, kind), None


def _is_events(path: Path) -> bool:
    return path.is_dir() or ".tfevents." in path.name


def _stored(job: Job, log: Path) -> Path:
    try:
        return job.store.find(str(log))
    except RigbenchError:
        raise RigbenchError(f"there is no log {log}", "give a file, a folder of TensorBoard events or a run") from None


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_LOG_BYTES:
            raise RigbenchError(f"{path.name} is larger than 1 GiB", "hand back its lines about steps")
        return path.read_bytes()
    except OSError as error:
        raise RigbenchError(f"cannot read {path} ({store.reason(error)})", "give a readable log") from None


def _own(run: Run, model: str) -> tuple[list[LogRow], float]:
    """The steady steps of a longer slice of the same model."""
    slices = [item for item in run.slices if isinstance(item, Slice) and item.model.name == model]
    if not slices:
        raise RigbenchError(f"run {run.id} has no slice of {model}", "give a run that trained it, or a log")
    longest = max(slices, key=lambda item: len(item.steps.seconds))
    rows = [
        LogRow(step=step, at_seconds=ended)
        for step, ended in enumerate(longest.steps.ended_at_seconds)
        if step >= longest.steady_from
    ]
    return rows, float(longest.tokens_per_step)


def _tensorboard(log: Path, columns: dict[str, str]) -> tuple[list[LogRow], LogFacts, None]:
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
    chosen = {role: columns.get(role) or _usual(tags, names) for role, names in trainlog.NAMES.items()}
    main = max(tags, key=lambda tag: len(events.Scalars(tag)))
    values = {
        role: {event.step: event.value for event in events.Scalars(tag)}
        for role, tag in chosen.items()
        if tag and role in ("tokens", "loss")
    }
    rows = [
        LogRow(
            step=event.step,
            at_seconds=event.wall_time,
            tokens=values.get("tokens", {}).get(event.step),
            loss=values.get("loss", {}).get(event.step),
        )
        for event in events.Scalars(main)
    ]
    digest = hashlib.sha256(msgspec.json.encode([(row.step, row.at_seconds) for row in rows])).hexdigest()[:16]
    return rows, _facts(log.name, digest, f"TensorBoard events, clock of {main}"), None


def _usual(tags: list[str], names: tuple[str, ...]) -> str | None:
    return next((tag for tag in tags if tag.lower().rpartition("/")[2] in names or tag.lower() in names), None)


def _facts(name: str, digest: str, kind: str) -> LogFacts:
    return LogFacts(
        name=name,
        sha256=digest,
        format=kind,
        rows=0,
        pauses=(),
        resets=(),
        non_finite_losses=(),
        batch_changes=(),
    )
