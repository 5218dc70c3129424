"""A stored run for TensorBoard and Weights & Biases: steps and sensors over time, headlines, what it was of."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rigbench import tables
from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason
from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.document import Run
from rigbench.report import exports
from rigbench.scaling.record import Trained
from rigbench.train.record import AnySlice
from rigbench.watch.record import Training

SENSORS = ("temperature_celsius", "power_watts", "sm_clock_hertz", "utilisation_share", "fan_share")


def curves(run: Run) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """By name what changed over steps or over sensors' ticks: (step, value)."""
    for place, its in enumerate(it for it in run.slices if isinstance(it, AnySlice)):
        stem = f"slices/{place} {its.model.name}"
        rates = [(step, its.items_per_step / took) for step, took in enumerate(its.steps.seconds) if took > 0]
        yield f"{stem}/{its.unit}_per_s", rates
        yield f"{stem}/step_seconds", list(enumerate(its.steps.seconds))
        yield f"{stem}/loss", [(step, it) for step, it in enumerate(its.steps.loss) if isinstance(it, float)]
        yield from _sensors(stem, its.telemetry)
    for one in run.scaling:
        if isinstance(one, Trained):
            yield from _trained(one)
    if isinstance(run.watched, Training) and not isinstance(run.watched.steps, Absent):
        yield "watched/step_seconds", [(step, took) for _, step, took in tables.step_seconds(run.watched.steps)]
    for room in run.rooms():
        if room != "slices":
            yield from _sensors(room, getattr(getattr(run, room), "telemetry", None))


def _trained(its: Trained) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Of the trunk and of each decay, over the steps that were made since the model's first."""
    stem = f"scaling/{its.model.name} {its.recipe.optimizer} seed {its.seed}"
    parts = [("trunk", 0, its.training_loss, its.step_seconds)]
    parts += [(f"decay to {it.steps}", it.from_step, it.training_loss, it.step_seconds) for it in its.branches]
    for name, before, losses, seconds in parts:
        yield f"{stem}/{name}/loss", [(at, it) for at, it in enumerate(losses, before + 1) if isinstance(it, float)]
        rates = [(at, its.tokens_per_step / it) for at, it in enumerate(seconds, before + 1) if it > 0]
        yield f"{stem}/{name}/tokens_per_s", rates
    on_the_way = [(it.step, it.loss) for it in its.evaluations if isinstance(it.loss, float)]
    yield f"{stem}/trunk/held_out_loss", on_the_way
    yield f"{stem}/held_out_loss", [(it.steps, it.loss) for it in its.branches if isinstance(it.loss, float)]


def _sensors(stem: str, its: object) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    for series in its.series if isinstance(its, Telemetry) else ():
        for name in SENSORS:
            yield f"{stem}/{series.device}/{name}", _column(series, name)


def _column(series: SensorSeries, name: str) -> list[tuple[int, float]]:
    column = getattr(series, name)
    return [] if isinstance(column, Absent) else [(t, it) for t, it in enumerate(column) if not isinstance(it, Absent)]


def headlines(run: Run) -> dict[str, float]:
    return {f"{row.room}/{row.what} {row.metric}": row.value for row in tables.headlines(run)}


def tensorboard(run: Run, folder: Path) -> Path:
    """Write an events file into a folder of the run's own below `folder`.

    Raises:
        RigbenchError: tensorboard is not installed, or the folder cannot be written.
    """
    summary = _package("tensorboard.summary", "tensorboard")
    target = folder / run.id
    try:
        target.mkdir(parents=True, exist_ok=True)
        writer = summary.Writer(str(target))
        for name, points in curves(run):
            for step, value in points:
                writer.add_scalar(name, value, step)
        for name, value in headlines(run).items():
            writer.add_scalar(f"headlines/{name}", value, 0)
        writer.close()
    except OSError as error:
        raise RigbenchError(f"cannot write to {target} ({reason(error)})", "choose another folder") from None
    return target


def wandb(run: Run, folder: Path) -> Path:
    """Write an offline run below `folder`, which `wandb sync` sends; nothing is sent here.

    Raises:
        RigbenchError: wandb is not installed, or the folder cannot be written.
    """
    try:  # wandb itself would take the system's temporary folder
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RigbenchError(f"cannot write to {folder} ({reason(error)})", "choose another folder") from None
    package = _package("wandb", "wandb")
    (rig, machine), software = tables.on(run), msgspec.to_builtins(run.software)
    config = {
        "rig": rig,
        "machine": machine,
        "command": run.command,
        "label": run.label,
        "software": {key: it for key, it in software.items() if isinstance(it, str) and not tables.elsewhere(run)},
    }
    # Nothing of this machine but what is in the run: not who, where, with which command, in which repository.
    named = package.Settings.model_fields
    quiet: dict[str, object] = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_git": True,
        "disable_code": True,
    }
    private: dict[str, object] = dict.fromkeys(("x_disable_meta", "x_disable_stats", "x_disable_machine_info"), True)
    private |= dict.fromkeys(("host", "username", "email", "program", "program_abspath", "program_relpath"), "")
    settings = package.Settings(**{key: value for key, value in {**quiet, **private}.items() if key in named})
    by_step: dict[int, dict[str, float]] = {}
    for name, points in curves(run):
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    try:
        str(folder).encode()
        where: dict[str, Any] = {"project": "rigbench", "name": run.id, "dir": str(folder), "mode": "offline"}
        its: Any = package.init(**where, config=config, settings=settings)
        for step in sorted(by_step):
            its.log(by_step[step], step=step)
        its.summary.update({"report": exports.markdown(run), **headlines(run)})
        written = Path(its.dir).parent
        its.finish()
    except OSError as error:
        raise RigbenchError(f"cannot write to {folder} ({reason(error)})", "choose another folder") from None
    except UnicodeEncodeError:
        raise RigbenchError(f"cannot write to {folder} (its name is not UTF-8)", "choose another folder") from None
    return written


def _package(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RigbenchError(f"--{name} needs the package {name}", f"pip install 'rigbench[{name}]'") from None
