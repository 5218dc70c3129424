"""Reads TensorBoard's scalars as a log: a row a step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.logs.scan import Item, Raw, Row


class Event(NamedTuple):
    step: int
    wall_time: float
    value: float


def is_events(path: Path) -> bool:
    return path.is_dir() or ".tfevents." in path.name


def scalars(log: Path) -> Mapping[str, list[Event]]:
    """Of each tag its events, in the order in which they were written.

    Raises:
        RigbenchError: the package tensorboard is missing, or there are none.
    """
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
    return {tag: [Event(it.step, it.wall_time, it.value) for it in events.Scalars(tag)] for tag in tags}


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
