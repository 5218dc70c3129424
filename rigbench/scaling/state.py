"""Takes all that a training step changes, and keeps it in a folder by torch.distributed.checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_into
from torch.distributed.checkpoint.state_dict_saver import save as save_to

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.scaling.record import Checkpoint
from rigbench.train.steps import Trained

State = dict[str, Tensor]
NUMBER = torch.float64  # of what is no tensor, as bitsandbytes' count of steps; nothing else is
WEIGHT, OPTIMIZER, SCALER = "weight", "optimizer", "scaler"


def held(trained: Trained) -> State:
    """Weights, optimizer states and the loss scale, each by a name; the tensors themselves, not copies."""
    state: State = {}
    for name, weight in _named(trained).items():
        state[f"{WEIGHT}/{name}"] = weight.detach()
        for key, value in _own(trained.optimizer, weight).items():
            state[f"{OPTIMIZER}/{name}/{key}"] = value if isinstance(value, Tensor) else _number(value)
    for key, value in (trained.scaler.state_dict() if trained.scaler else {}).items():
        state[f"{SCALER}/{key}"] = _number(value)
    return state


def _named(trained: Trained) -> dict[str, Tensor]:
    """The weights by name; of shards the shards, which after an evaluation stand back for what was gathered."""
    module = trained.wrapped.module
    for part in module.modules():
        sharded: Any = part
        if hasattr(sharded, "reshard"):
            sharded.reshard()
    return dict(module.named_parameters())


def weights(trained: Trained) -> State:
    """Those alone."""
    return {name: value for name, value in held(trained).items() if name.startswith(WEIGHT)}


def copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


def restore(trained: Trained, state: State) -> None:
    """Put what was held in its place; an optimizer that has made no step is given its states."""
    named = _named(trained)
    scale: dict[str, Any] = {}
    with torch.no_grad():
        for place, value in state.items():
            kind, _, rest = place.partition("/")
            name, _, key = rest.rpartition("/")
            if kind == WEIGHT:
                named[rest].copy_(value)
            elif kind == SCALER:
                scale[rest] = _plain(value)
            else:
                own = _own(trained.optimizer, named[name])
                if isinstance(own.get(key), Tensor):
                    own[key].copy_(value)
                else:
                    own[key] = _plain(value) if value.dtype == NUMBER else value.clone()
    if trained.scaler and scale:
        trained.scaler.load_state_dict(scale)


def _number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=NUMBER)


def _plain(value: Tensor) -> float:
    number = float(value)
    return int(number) if number.is_integer() else number


def _own(optimizer: Any, weight: Tensor) -> dict[str, Any]:
    """A weight's states, of whichever part steps it; a new place for them where it has none."""
    parts = getattr(optimizer, "parts", [optimizer])
    part = next(part for part in parts for group in part.param_groups if any(it is weight for it in group["params"]))
    own: dict[str, Any] = part.state[weight]
    return own


def save(state: State, folder: Path, step: int, branch: int | Absent) -> Checkpoint:
    """Write a new folder, sync it, rename it to its name and hash its files; of several ranks, all together.

    Raises:
        OSError: the disk would not take it; nothing is left of it.
    """
    began, leads = time.perf_counter(), not dist.is_initialized() or dist.get_rank() == 0
    unfinished = folder.with_name(f".{folder.name}")
    if leads:
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        save_to(state, checkpoint_id=unfinished)
    except (OSError, RuntimeError, CheckpointException) as error:  # torch's writer raises RuntimeError
        free, size = shutil.disk_usage(folder.parent).free, sum(it.numel() * it.element_size() for it in state.values())
        if leads:
            shutil.rmtree(unfinished, ignore_errors=True)
        # Of a full disk torch's writer tells where in its file it stood.
        full = f"no space left on device: {units.format_bytes(size)} are to be written"
        raise OSError(full if free < size and not isinstance(error, OSError) else _why(error)) from None
    hashes: dict[str, str] = {}
    if leads:
        hashes = hashes_of(unfinished)
        _sync(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        _sync(folder.parent)
    return Checkpoint(
        folder=folder.name,
        step=step,
        branch=branch,
        sha256=hashes,
        bytes=sum((folder / name).stat().st_size for name in hashes),
        seconds=time.perf_counter() - began,
    )


def _why(error: BaseException) -> str:
    """The system's own words, which lie below torch's: the first error of an OSError's kind, else the first line."""
    below = list(getattr(error, "failures", {}).values())
    for one in (error, *(its[0] if isinstance(its, tuple) else its for its in below)):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror.lower()
    return (str(below[0][0] if below else error).strip().splitlines() or ["unknown"])[0]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hashes_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file; what is none, as a pipe, is passed over."""
    hashes = {}
    for path in filter(Path.is_file, sorted(folder.iterdir())):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def load(trained: Trained, checkpoint: Checkpoint, parent: Path) -> None:
    """Put a checkpoint's state into a module and its optimizer, which may be new.

    Its metadata is a pickle, which may run anything: nothing is read of a folder that is not what was written.

    Raises:
        RigbenchError: it is gone, or not what was written.
    """
    folder = parent / checkpoint.folder
    cure = f"restore it from a copy, or remove {parent} to train this model from its beginning"
    try:
        there = hashes_of(folder)
    except OSError:
        raise RigbenchError(f"the checkpoint {folder} is gone", cure) from None
    if there != checkpoint.sha256:
        odd = sorted(
            name for name in there.keys() | checkpoint.sha256 if there.get(name) != checkpoint.sha256.get(name)
        )
        raise RigbenchError(f"the checkpoint {folder} is not what was written ({', '.join(odd)} differs)", cure)
    state = _empty(trained, folder)
    load_into(state, checkpoint_id=folder)
    restore(trained, state)


def _empty(trained: Trained, folder: Path) -> State:
    """Tensors to load into, sharded as the weights that they belong to."""
    named = _named(trained)
    fused = any(group.get("fused") for group in trained.optimizer.param_groups)
    state: State = {}
    for place, its in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        kind, _, rest = place.partition("/")
        weight = named.get(rest if kind == WEIGHT else rest.rpartition("/")[0])
        size: Any = getattr(its, "size")  # noqa: B009, there are tensors alone
        dtype = getattr(its, "properties").dtype  # noqa: B009
        if weight is not None and size and size == weight.shape:
            state[place] = torch.empty_like(weight, dtype=dtype, requires_grad=False)
        else:
            on_device = weight is not None and dtype != NUMBER and (bool(size) or fused)
            state[place] = torch.empty(
                size, dtype=dtype, device=weight.device if on_device and weight is not None else "cpu"
            )
    return state


def remove(folder: Path) -> None:
    """A checkpoint that is needed no longer; out of the way first, so that none is found half removed."""
    away = folder.with_name(f".{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)
