"""What does the user's own dataset give? Its factory found, called, and anything wrong with it said in one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, cast

from rigbench.errors import RigbenchError
from rigbench.measure.datasets import loader_of
from rigbench.measure.sources import last_line


class Factory(Protocol):
    def __call__(self) -> Any: ...


def find_factory(name: str, folder: str) -> Factory:
    """`package.module:factory`, importable from the folder the command was typed in, as with `python -m`.

    Raises:
        RigbenchError: not such a name, no such module or function, or the module raises.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name.isidentifier():
        raise RigbenchError(f"--dataset {name!r} is not package.module:factory", "write it as mydata.loading:make")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module_name), function_name, None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        raise RigbenchError(f"--dataset {name}: {last_line(error)}", "mend it, or check the name") from None
    if not callable(factory):
        raise RigbenchError(f"--dataset {name}: {module_name} has no function {function_name}", "check the name")
    return cast(Factory, factory)


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
