"""Reads TensorBoard's scalars as a log: a row a step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason
from rigbench.logs.scan import Item, Raw, Row


class Event(NamedTuple):
    step: int
    wall_time: float
    value: float


def is_events(path: Path) -> bool:
    return path.is_dir() or ".tfevents." in path.name


def scalars(log: Path) -> Mapping[str, list[Event]]:
    """Of each tag its events, in the order in which they were written; TensorFlow 2 and Keras keep them as tensors.

    Raises:
        RigbenchError: the package tensorboard is missing, or there are none.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        what = "reading TensorBoard events needs the package tensorboard"
        raise RigbenchError(what, "pip install 'rigbench[tensorboard]'") from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of steps that are written anew
    events = EventAccumulator(str(log), size_guidance={"scalars": 0, "tensors": 0})
    try:
        if odd := [
            it for it in (log.iterdir() if log.is_dir() else [log]) if ".tfevents." in it.name and not it.is_file()
        ]:
            raise OSError(0, f"{odd[0].name} is not a regular file")  # a pipe would be waited for
        events.Reload()
    except OSError as error:
        raise RigbenchError(f"cannot read {log} ({reason(error)})", "give the folder of the run's events") from None
    tags = events.Tags()
    told = {tag: [Event(it.step, it.wall_time, it.value) for it in events.Scalars(tag)] for tag in tags["scalars"]}
    of_scalars = events.PluginTagToContent("scalars") if tags["tensors"] else {}
    for tag in (it for it in tags["tensors"] if it in of_scalars):
        its = [(it, make_ndarray(it.tensor_proto)) for it in events.Tensors(tag)]
        told[tag] = [Event(it.step, it.wall_time, float(value)) for it, value in its if value.size == 1]
    if not any(told.values()):
        raise RigbenchError(f"{log} holds no scalars", "give the folder of the run's events")
    return told


def read(log: Path) -> tuple[Raw, str]:
    """A row a step, with the clock at which its first scalar was written; and a digest of both."""
    tags = scalars(log)
    # A step's clock from the tag that is written most often: others come later in the step, or seldom.
    main = max(tags, key=lambda tag: (len(tags[tag]), not tag.startswith(("eval", "val"))))
    told: dict[int, dict[str, Item]] = {}
    for tag, events in tags.items():
        for event in events:
            told.setdefault(event.step, {})[tag.lower()] = Item(event.value)
    rows = [
        Row({**told[event.step], "step": Item(event.step)}, Item(event.wall_time, "s", 1e-3), None, "", False)
        for event in tags[main]
    ]
    digest = hashlib.sha256(msgspec.json.encode([(row.items["step"].value, row.clock) for row in rows])).hexdigest()
    return Raw("TensorBoard events", rows, {}, {}), digest[:16]
