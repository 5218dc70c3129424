"""What does the user's own dataset give? Its factory found, called, and anything wrong with it said in one line."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from rigbench.core.errors import RigbenchError
from rigbench.dataloader.datasets import loader_of
from rigbench.dataloader.sources import last_line


class Factory(Protocol):
    def __call__(self) -> Any: ...


EXAMPLES = {"--dataset": "mydata.loading:make", "--model": "mynet:make"}


def find_factory(name: str, folder: str, option: str = "--dataset") -> Factory:
    """`package.module:factory`, importable from the folder the command was typed in, as with `python -m`.

    Raises:
        RigbenchError: not such a name, no such module or function, or the module raises.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name.isidentifier():
        raise RigbenchError(f"{option} {name!r} is not package.module:factory", f"write it as {EXAMPLES[option]}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        cure = "mend it, or check the name"
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            cure = "run rigbench in the folder that holds it, or check the name"
        raise RigbenchError(f"{option} {name}: {raised(error, folder)}", cure) from None
    factory = getattr(module, function_name, None)
    if not callable(factory):
        there = [each for each in vars(module) if callable(getattr(module, each)) and not each.startswith("_")]
        near = difflib.get_close_matches(function_name, there, n=2)
        cure = f"did you mean {' or '.join(near)}?" if near else "check the name"
        raise RigbenchError(f"{option} {name}: {module_name} has no function {function_name}", cure)
    return cast(Factory, factory)


def raised(error: BaseException, folder: str) -> str:
    """What the user's code raised, in one line, with the innermost place of theirs that led to it, where there is one.

    "ValueError: bad width (shop/net.py, line 12)".
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_a_library(frame.filename)]
    if not frames:
        return last_line(error)
    path, line = frames[-1].filename, frames[-1].lineno
    if Path(path).is_relative_to(folder):
        path = os.path.relpath(path, folder)
    return f"{last_line(error)} ({path}, line {line})"


def _of_a_library(path: str) -> bool:
    """Python's own files, installed packages, and rigbench."""
    own = str(Path(__file__).parents[1])
    installed = any(f"{os.sep}{name}{os.sep}" in path for name in ("site-packages", "dist-packages"))
    return installed or path.startswith(("<", own, sysconfig.get_paths()["stdlib"]))


class FactoryBatches(NamedTuple):
    """What a factory gave: batches for a number of workers; `workers` is that number where it is not ours to choose."""

    loader: Callable[[int, bool], Iterable[Any]]
    workers: int | None


def open_factory(name: str, folder: str, micro_batch: int) -> FactoryBatches:
    """Call the user's factory, with no arguments.

    It returns a torch Dataset or IterableDataset of samples, which is put into a DataLoader, or an iterable of whole
    batches, such as a DataLoader of the user's own, which is taken as it comes. A sample or batch is a tensor of ids,
    or a tuple, list or mapping that begins with one (or has it as input_ids, tokens, inputs or x).

    Raises:
        RigbenchError: it raises, or returns nothing that batches can be taken from.
    """
    factory = find_factory(name, folder)
    from torch.utils.data import Dataset

    try:
        made = factory()
        samples = len(made) if hasattr(made, "__len__") else -1
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        raise RigbenchError(f"--dataset {name}: it raised {last_line(error)}", "mend the factory") from None
    cure = "return a torch Dataset, an IterableDataset, or an iterable of batches"
    if made is None:
        raise RigbenchError(f"--dataset {name}: the factory returned nothing", cure)
    by_index = samples >= 0 and hasattr(made, "__getitem__") and not isinstance(made, (list, tuple, dict, str, bytes))
    if isinstance(made, Dataset) or by_index:
        if not samples:
            raise RigbenchError(f"--dataset {name}: the dataset is empty", "give it samples")
        return FactoryBatches(lambda workers, pinned: loader_of(made, micro_batch, workers, pinned, own=False), None)
    if not isinstance(made, Iterable) or isinstance(made, (str, bytes)):
        raise RigbenchError(f"--dataset {name}: the factory returned {type(made).__name__}", cure)
    return FactoryBatches(lambda workers, pinned: made, getattr(made, "num_workers", 0))
