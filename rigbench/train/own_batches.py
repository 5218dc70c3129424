"""What does the user's own model eat? Batches made by their function, checked, and on their way to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.dataloader.factory import raised
from rigbench.dataloader.sources import tensors_in
from rigbench.model.batches import AHEAD
from rigbench.train.training import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from rigbench.train.own_model import Own

FIRST = "make the first dimension of a batch's first tensor the number of samples asked for"


class OwnBatches:
    """The user's batches on the device, each in a tuple of its own, as `Own.losses` takes it.

    For a GPU a thread makes the next ones, in pinned memory; on a CPU they are made when asked for, as their own making
    would take the cores that train. `floats` is what floating-point tensors are cast to. Close it (or use `with`) to
    end the thread.
    """

    def __init__(
        self, own: Own, micro_batch: int, device: str, *, floats: torch.dtype | None = None, ahead: bool | None = None
    ) -> None:
        self.own, self.micro_batch, self.device, self.floats = own, micro_batch, device, floats
        self._on_gpu = device != "cpu"
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[Any]] = deque()
        if self._on_gpu if ahead is None else ahead:
            self._pool = ThreadPoolExecutor(1, "own-batches", initializer=self._choose_device)
            self._ahead.extend(self._pool.submit(self._made) for _ in range(AHEAD))

    def __enter__(self) -> OwnBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, if there is one; there is no next batch after this."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> tuple[Any]:
        """The next batch, on its way to the device.

        Raises:
            RigbenchError: the user's function raises, or gives anything but that many samples.
        """
        if self._pool is None:
            batch = self._made()
        else:
            batch = self._ahead.popleft().result()
            self._ahead.append(self._pool.submit(self._made))
        return (each(batch, lambda tensor: tensor.to(self.device, non_blocking=True)),)

    def _made(self) -> Any:
        """In host memory; on a GPU's rig pinned, which torch frees only when the copy out of it is done."""
        batch = drawn(self.own, self.micro_batch)
        if self.floats is not None:
            batch = each(batch, lambda tensor: tensor.to(self.floats) if tensor.is_floating_point() else tensor)
        return each(batch, lambda tensor: tensor.pin_memory()) if self._on_gpu else batch

    def _choose_device(self) -> None:
        """Pinning makes a context on the thread's own device, which is the first unless said."""
        import torch

        if self._on_gpu:
            torch.cuda.set_device(self.device)


def drawn(own: Own, samples: int) -> Any:
    """A batch of the user's, on the CPU.

    Raises:
        RigbenchError: their function raises, or gives anything but that many samples.
    """
    if own.batch is None:
        raise ValueError("a language model is fed by Batches")
    with blamed(own.name, own.folder, f"batch({samples})", "mend the function"):
        batch = own.batch(samples)
    where = f"--model {own.name}: batch({samples}) returned"
    tensors = list(tensors_in(batch))
    if not tensors:
        raise RigbenchError(f"{where} {what(batch)}, with no tensor in it", "return tensors: one, or a tuple or dict")
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere:
        raise RigbenchError(f"{where} a tensor on {elsewhere}", "return tensors on the CPU; they are moved for you")
    if not tensors[0].dim() or len(tensors[0]) != samples:
        raise RigbenchError(f"{where} a first tensor of {shape_words(tensors[0])}, not {samples} samples", FIRST)
    return batch


def each(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same batch with every tensor changed."""
    import torch

    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: each(value, change) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(each(value, change) for value in batch)
    return batch


@contextmanager
def blamed(name: str, folder: str, doing: str, cure: str) -> Iterator[None]:
    """What the user's own code raises here, in one line."""
    try:
        yield
    except RigbenchError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
        if is_out_of_memory(error):
            raise RigbenchError(
                f"--model {name}: {doing} ran out of memory", "try a smaller model", exit_code=NOTHING
            ) from None
        raise RigbenchError(f"--model {name}: {doing} raised {raised(error, folder)}", cure) from None


def shape_words(tensor: torch.Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {'×'.join(map(str, tensor.shape)) or 'of one number'}"


def what(thing: object) -> str:
    import torch

    if thing is None:
        return "nothing (None)"
    if isinstance(thing, torch.Tensor):
        return f"a tensor, {shape_words(thing)}"
    if isinstance(thing, (tuple, list)):
        kinds = ", ".join(type(item).__name__ for item in thing[:4])
        return f"a {type(thing).__name__} of {len(thing)} ({kinds})" if thing else f"an empty {type(thing).__name__}"
    article = "an" if type(thing).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(thing).__name__}"
