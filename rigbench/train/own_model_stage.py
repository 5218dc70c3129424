"""The user's own model for a command: tried in a process of its own, so that a mistake in it costs seconds."""

from __future__ import annotations

import os

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.job import Job
from rigbench.model.named import ModelOptions
from rigbench.train.own_model_probe import Options
from rigbench.train.record import OwnModel

LIMIT_SECONDS = 600.0  # a factory may load weights


def options(name: str, model: ModelOptions, device: str | None) -> Options:
    """`name` is what `named.factory(model)` gave; 0: --vocab or --seq is not given."""
    vocabulary, sequence = (0 if isinstance(it, Absent) else it for it in (model.vocabulary, model.sequence))
    return Options(name, os.getcwd(), vocabulary, sequence, device or "auto")


def tried(job: Job, options: Options) -> OwnModel:
    """
    Raises:
        Interrupted: the user said stop.
        RigbenchError: the factory or what it makes is not as the contract says, or the process that tried it died.
    """
    job.progress.stage(f"trying {options.name}", 10)
    result = job.measure("rigbench.train.own_model_probe", options, OwnModel, limit_seconds=LIMIT_SECONDS)
    if isinstance(result, Skipped):
        cure = "try it in a Python shell first"
        raise RigbenchError(f"--model {options.name}: {result.reason}", cure, exit_code=NOTHING)
    return result
