"""Loads a program of the user's, feeds it batches, and tries one micro-step; every mistake in it is one line."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.flop_counter import FlopCounterMode

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory
from rigbench.core.record import Absent
from rigbench.dataloader.sources import TOKEN_KEYS, find_factory, raised, tensors_in
from rigbench.machine import host
from rigbench.machine.accelerator import choose_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model.batches import AHEAD
from rigbench.train.record import OwnModel
from rigbench.train.record import TrialOptions as Options
from rigbench.work.process import Report

TRIAL_SAMPLES = 2  # one would do, but a norm over a batch of one has nothing to divide by
SHARE_OF_FREE = 0.95  # of the host's memory that is free, for a program
OOM_SCORE = Path("/proc/self/oom_score_adj")  # 1000: the first that Linux ends where memory runs out
BASIS = (
    "counted by torch in a forward and backward pass of {samples} samples, what is recomputed too, attention unfused"
)


def run(options: Options, report: Report) -> OwnModel:
    """Load it and try it, before anything is measured with it.

    Raises:
        RigbenchError: the factory or what it makes is not as the contract says (exit 2), or it ran out of memory (3).
    """
    torch.manual_seed(options.seed)
    device = choose_device(options.device)
    if device != "cpu":
        torch.cuda.set_device(device)
    report.progress(0.3, f"calling {options.name}")
    with within_free_memory(device):
        own = load(options.name, options.folder, options.vocabulary, options.sequence)
        report.check()
        report.progress(0.6, "one trial step")
        return tried(own, device, TRIAL_SAMPLES)


@contextmanager
def within_free_memory(device: str) -> Iterator[None]:
    """Let this process, in which the user's own code runs, not take the machine with it: on a CPU it is refused more
    than is free now, and where memory runs out all the same it is the first to go.

    A GPU's driver maps more than it takes, so there nothing is refused.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        yield
        return
    score, limits = "", resource.getrlimit(resource.RLIMIT_DATA)
    free, taken = host.memory(Sysfs()).usable_bytes, host.process_bytes(Sysfs(), "VmData")
    with contextlib.suppress(OSError):
        score = OOM_SCORE.read_text()
        OOM_SCORE.write_text("1000")
    if device == "cpu" and isinstance(free, int) and isinstance(taken, int):
        most = taken + int(SHARE_OF_FREE * free)
        resource.setrlimit(resource.RLIMIT_DATA, (most if limits[0] < 0 else min(most, limits[0]), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        with contextlib.suppress(OSError):
            OOM_SCORE.write_text(score or "0")


class Own(NamedTuple):
    """The user's module on the CPU, and how batches for it are made."""

    name: str
    folder: str
    module: nn.Module
    batch: Callable[[int], Any] | None  # theirs; None: a language model, which eats rigbench's own token data
    vocabulary: int  # its ids are below this
    sequence: int  # tokens of a sample; 0: its samples are no tokens
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> Literal["tokens", "samples"]:
        return "tokens" if self.sequence else "samples"

    @property
    def items_per_sample(self) -> int:
        return self.sequence or 1

    def losses(self, module: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        """The module, as it is or wrapped for ranks or compiled, as a function from what its source gives to the loss.

        Its source is an `OwnBatches`, or for a language model a `Batches`.
        """
        if not self.batch and _names_labels(self.module):
            # transformers' models move the labels themselves, so they are the tokens.
            return lambda tokens, targets: loss_of(module(input_ids=tokens, labels=tokens))
        if not self.batch:
            return lambda tokens, targets: loss_of(module(tokens, targets))

        def called(batch: Any) -> Any:
            if isinstance(batch, Mapping):
                return loss_of(module(**batch))
            return loss_of(module(*batch) if isinstance(batch, (tuple, list)) else module(batch))

        return called

    def explained(self, doing: str, error: BaseException, cure: str = "fix the model") -> RigbenchError:
        """What the user's own code raised, in one line with its place."""
        if is_out_of_memory(error):
            cure = "let it take less, or free some; on a CPU it is given what is free"
            return RigbenchError(f"--model {self.name}: {doing} ran out of memory", cure, NOTHING)
        return RigbenchError(f"--model {self.name}: {doing} raised {raised(error, self.folder)}", cure)

    @contextmanager
    def blamed(self, doing: str, cure: str = "fix the model") -> Iterator[None]:
        """What the user's own code raises in here is explained."""
        try:
            yield
        except RigbenchError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
            raise self.explained(doing, error, cure) from None


def load(name: str, folder: str, vocabulary: int = 0, sequence: int = 0) -> Own:
    """Call the user's factory, `package.module:factory`, importable from the folder the command was typed in.

    It takes no arguments and returns a pair: a `torch.nn.Module`, and a function that makes n samples as a tensor, a
    tuple, list or dict of tensors, on the CPU, whose first tensor is n long; or in its place a Dataset, a DataLoader or
    another iterable of batches. The module is called with them (a dict's by name) and returns the loss, what has it as
    `loss`, or a tuple with it; with a third thing, a function, the loss is that of the module's output and the batch's
    last tensor. What has a `model` and `get_train_dataloader()`, as transformers' Trainer, is such a pair. A module
    alone is a language model: it is called with tokens and targets, int64 [B, T], or with input_ids and labels where
    its forward names them, and has `vocabulary` and `sequence`, or a `config` that tells, or is given them.

    Raises:
        RigbenchError: it is not there, raises, or returns anything else.
    """
    factory: Any = find_factory(name, folder, "--model")
    if isinstance(factory, nn.Module):
        raise RigbenchError(f"--model {name} is a module, not a function that makes one", "write def make(): return it")
    needed = _unmet(factory, 0)
    if needed:
        raise RigbenchError(f"--model {name} needs arguments ({needed})", "a factory takes none: give them defaults")
    own = Own(name, folder, nn.Module(), None, 0, 0)
    with own.blamed("it", "fix the factory"):
        made = factory()
        if isinstance(getattr(made, "model", None), nn.Module) and hasattr(made, "get_train_dataloader"):
            made = (made.model, made.get_train_dataloader())
    if isinstance(made, (tuple, list)) and len(made) == 3 and isinstance(made[0], nn.Module) and callable(made[2]):
        made = (_WithLoss(made[0], made[2]), made[1])
    if isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(made[1], Iterable | Dataset):
        made = (made[0], made[1] if callable(made[1]) else _Drawn(made[1]))
    if isinstance(made, nn.Module):
        own = _language_model(own._replace(module=made), vocabulary, sequence)
    elif isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1]):
        if vocabulary or sequence:
            option = "--vocab" if vocabulary else "--seq"
            raise RigbenchError(f"{option}: {name} makes batches of its own", f"leave {option} out")
        own = own._replace(module=made[0], batch=made[1])
        if _unmet(own.batch, 1):
            raise RigbenchError(f"--model {name}: batch must take one number", "write def batch(n): return n samples")
    else:
        cure = "return (module, batch), or a language model alone: a module called with tokens and targets"
        raise RigbenchError(f"--model {name}: the factory returned {what(made)}", cure)
    weights = list(own.module.parameters())
    if any(is_lazy(weight) for weight in weights):
        raise RigbenchError(
            f"--model {own.name}: it has lazy layers, whose weights do not exist yet",
            "call the module once on a batch before the factory returns it",
        )
    if not any(weight.requires_grad for weight in weights):
        raise RigbenchError(f"--model {own.name}: it has no parameter that can be trained", "unfreeze some")
    return own


class _WithLoss(nn.Module):
    """A net and its loss: called with a batch, whose last tensor is what the output is compared with."""

    def __init__(self, net: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, *batch: Any) -> Any:
        return self.loss(self.net(*batch[:-1]), batch[-1])


class _Drawn:
    """Batches out of a Dataset, of as many samples as asked for, or of a loader, as it comes, over and over."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._iterator: Iterator[Any] | None = None
        self._samples = 0

    def __call__(self, samples: int) -> Any:
        source = self.source
        if isinstance(source, Dataset):
            if samples != self._samples:
                self._iterator, self._samples = None, samples
            ordered = isinstance(source, IterableDataset)
            source = DataLoader(source, batch_size=samples, shuffle=None if ordered else True, drop_last=True)
        for _ in range(2):
            self._iterator = iter(source) if self._iterator is None else self._iterator
            batch = next(self._iterator, None)
            if batch is not None and self._whole(batch):
                return each(batch, lambda tensor: tensor.cpu())
            self._iterator = None
        raise RigbenchError("the loader gave no whole batch", "give it more samples than one batch")

    def _whole(self, batch: Any) -> bool:
        """Not the last one of an epoch, which may be shorter."""
        first = next(tensors_in(batch), None)
        size = getattr(self.source, "batch_size", None)
        return not (isinstance(size, int) and first is not None and first.dim() and len(first) < size)


def _tokens_of_a_sample(own: Own) -> int:
    """How many, where a batch begins with ids, int64 [n, T], that always have one length; else 0."""
    lengths = set()
    for _ in range(2):
        batch = drawn(own, TRIAL_SAMPLES)
        named = next((batch[key] for key in TOKEN_KEYS if key in batch), batch) if isinstance(batch, Mapping) else batch
        first = next(tensors_in(named), None)
        if first is None or first.dtype not in (torch.int64, torch.int32) or first.dim() != 2 or first.shape[1] < 2:
            return 0
        lengths.add(int(first.shape[1]))
    return lengths.pop() if len(lengths) == 1 else 0


def _names_labels(module: nn.Module) -> bool:
    try:
        return {"input_ids", "labels"} <= inspect.signature(module.forward).parameters.keys()
    except (TypeError, ValueError):
        return False


CONFIG_NAMES = {
    "vocabulary": ("vocab_size", "padded_vocab_size", "n_vocab"),
    "sequence": (
        "block_size",
        "sequence_len",
        "n_positions",
        "max_position_embeddings",
        "max_seq_len",
    ),
}
LONGEST_UNASKED = 1024  # tokens of a sequence where a model could take more and --seq says nothing


def _language_model(own: Own, vocabulary: int, sequence: int) -> Own:
    sizes = {"vocabulary": vocabulary, "sequence": sequence}
    notes = []
    for field, option in (("vocabulary", "--vocab"), ("sequence", "--seq")):
        known, source = _size_of(own.module, field)
        if sizes[field] > known > 0:
            raise RigbenchError(f"{option} {sizes[field]:,} is beyond the model's {field} of {known:,}", "give no more")
        if source and not sizes[field]:
            cut = field == "sequence" and known > LONGEST_UNASKED
            notes.append(f"{field} {min(known, LONGEST_UNASKED) if cut else known:,}, as config.{source} is {known:,}")
            known = LONGEST_UNASKED if cut else known
        sizes[field] = sizes[field] or known
        if not sizes[field]:
            raise RigbenchError(
                f"--model {own.name} returned a module alone, a language model, and its {field} is not known",
                f"give {option}, set module.{field}, or return (module, batch)",
            )
    return own._replace(vocabulary=sizes["vocabulary"], sequence=sizes["sequence"], notes=tuple(notes))


def _size_of(module: nn.Module, field: str) -> tuple[int, str]:
    """A module's own vocabulary or sequence, and the name in its config that tells; 0 where nothing does."""
    has = getattr(module, field, None)
    if isinstance(has, int) and has > 1:
        return has, ""
    config = getattr(module, "config", None)
    for name in CONFIG_NAMES[field]:
        value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(value, int) and value > 1:
            return value, name
    return 0, ""


def _unmet(function: Any, given: int) -> str:
    """What keeps a function from being called with so many values, in words; empty where it can be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not tell
        return ""
    try:
        signature.bind(*[0] * given)
    except TypeError as error:
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = signature.parameters.items()
        names = [name for name, it in parameters if it.default is it.empty and it.kind not in kinds]
        return ", ".join(names[given:]) or str(error)
    return ""


def tried(own: Own, device: str, samples: int) -> OwnModel:
    """One micro-step of the untrained model in the precision of its weights, and what it explains.

    Attention is taken apart into products, as torch's counter sees those and misses fused kernels.

    Raises:
        RigbenchError: anything that would not train, said in one line.
    """
    with own.blamed(f"moving the module to {device}"):
        own.module.to(device)
    fixed = 0
    if own.batch:
        own = own._replace(sequence=_tokens_of_a_sample(own))
        made = drawn(own, samples)
        samples, fixed = _size_that_it_chose(own, made, samples)
        batch: tuple[Any, ...] = (each(made, lambda tensor: tensor.to(device)),)
    else:
        ids = torch.randint(own.vocabulary, (samples, own.sequence + 1), device=device)
        batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    outputs: list[Any] = []

    def keep(*parts: Any, **named: Any) -> Any:
        outputs.append(own.module(*parts, **named))
        return outputs[-1]

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with own.blamed(
            "its forward pass",
            "fix the model" if own.batch else "fix the model, which is called with tokens and targets",
        ):
            loss = own.losses(keep)(*batch)
            value = _checked_loss(own.name, outputs[-1], loss)  # a GPU's errors come to light here
        with own.blamed("its backward pass"):
            loss.backward()  # type: ignore[no-untyped-call]
            if device != "cpu":
                torch.cuda.synchronize(device)
    weights = list(own.module.parameters())
    trainable = [weight for weight in weights if weight.requires_grad]
    unused = sum(weight.numel() for weight in trainable if weight.grad is None)
    own.module.zero_grad(set_to_none=True)
    # torch's counter passes over fused recurrent layers, as over kernels of the user's.
    recurrent = next((type(part).__name__ for part in own.module.modules() if isinstance(part, nn.RNNBase)), None)
    flop: float | Absent = counter.get_total_flops() / (samples * own.items_per_sample)
    if recurrent:
        flop = Absent(f"torch's counter does not see nn.{recurrent}")
    return OwnModel(
        name=own.name,
        unit=own.unit,
        items_per_sample=own.items_per_sample,
        vocabulary=own.vocabulary or Absent("it makes its own batches"),
        batch=", ".join(shape_words(tensor) for tensor in tensors_in(batch)),
        total_parameters=sum(weight.numel() for weight in weights),
        trainable_parameters=sum(weight.numel() for weight in trainable),
        unused_parameters=unused,
        flop_per_item=flop or Absent("torch's counter saw no product and no convolution"),
        flop_basis=BASIS.format(samples=samples),
        trial_samples=samples,
        loss=value,
        fixed_samples=fixed,
        notes=(*own.notes, *_notes(own, outputs[-1], fixed)),
    )


def _size_that_it_chose(own: Own, batch: Any, asked: int) -> tuple[int, int]:
    """(the samples of a batch, that number again where the program makes no other): a loader has a size of its own.

    Raises:
        RigbenchError: the size is not the one asked for, and not always the same.
    """
    here, more, again = (len(next(tensors_in(its))) for its in (batch, drawn(own, asked + 1), drawn(own, asked)))
    if (here, more, again) == (asked, asked + 1, asked):
        return asked, 0
    if not here == more == again:
        raise RigbenchError(
            f"--model {own.name}: asked for {asked}, {asked + 1} and {asked} samples, its batches' first tensors are "
            f"of {here}, {more} and {again} ({shape_words(next(tensors_in(batch)))})",
            "make the first dimension of a batch's first tensor the number of samples asked for, or always the same",
        )
    return here, here


def _notes(own: Own, output: Any, fixed: int) -> Iterator[str]:
    if fixed:
        yield f"its batches are always of {fixed} samples, which is the micro-batch"
    if own.batch and own.sequence:
        yield f"a sample is {own.sequence:,} tokens, as its batches begin with ids"
    if isinstance(output, (tuple, list)):
        place = next(number for number, item in enumerate(output, 1) if item is loss_of(output))
        yield f"the loss is item {place} of the {len(output)} that it returns: the one number with a gradient"
    if not own.batch and _names_labels(own.module):
        yield "called with input_ids and labels, both the tokens: it moves the labels itself"


def loss_of(output: Any) -> Any:
    """The loss in what a module returned; None where it has none.

    Itself, its `loss`, its entry of that name, or the one item of a tuple that is a number with a gradient.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, (tuple, list)) and not hasattr(output, "loss"):
        losses = [item for item in output if isinstance(item, torch.Tensor) and not item.dim() and item.requires_grad]
        return losses[0] if len(losses) == 1 else None
    return getattr(output, "loss", None)


def _checked_loss(name: str, output: Any, loss: Any) -> float:
    where = f"--model {name}: its forward pass returned"
    if not isinstance(loss, torch.Tensor):
        extra = f", whose loss is {what(loss)}" if loss is not None else ""
        cure = "return the loss, a tensor of one number, or an object or a dict that has it as loss"
        raise RigbenchError(f"{where} {what(output)}{extra}, and no loss", cure)
    if loss.dim():
        raise RigbenchError(f"{where} a loss of {shape_words(loss)}, not one number", "take its mean()")
    if not loss.requires_grad:
        raise RigbenchError(
            f"{where} a loss that no gradient flows from", "do not detach it, take .item() of it or use no_grad"
        )
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RigbenchError(f"{where} a loss of {value} before any step", "fix the model, or its batches")
    return value


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
            # Pinning makes a context on the thread's own device, which is the first unless said.
            chosen: dict[str, Any] = {"initializer": torch.cuda.set_device, "initargs": (device,)}
            self._pool = ThreadPoolExecutor(1, "own-batches", **(chosen if self._on_gpu else {}))
            self._ahead.extend(self._pool.submit(self._made) for _ in range(AHEAD))

    def __enter__(self) -> OwnBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        first = next(tensors_in(batch))
        if len(first) != self.micro_batch or (self.own.sequence and first.shape[-1] != self.own.sequence):
            wanted = f"{self.micro_batch} samples" + (f" of {self.own.sequence:,} tokens" if self.own.sequence else "")
            raise RigbenchError(
                f"--model {self.own.name}: batch({self.micro_batch}) returned a first tensor of {shape_words(first)}, "
                f"not {wanted}",
                "make every batch of one size, as with drop_last=True",
            )
        if self.floats is not None:
            batch = each(batch, lambda tensor: tensor.to(self.floats) if tensor.is_floating_point() else tensor)
        return each(batch, lambda tensor: tensor.pin_memory()) if self._on_gpu else batch


def refuse_other_size(name: str, fixed: int, micro_batch: int) -> None:
    """Of a program that makes batches of one size, 0 of any other."""
    if fixed and micro_batch not in (0, fixed):
        what = f"{name} makes batches of {fixed}, and --micro-batch says {micro_batch}"
        raise RigbenchError(what, "leave --micro-batch out, or give its loader that size")


def drawn(own: Own, samples: int) -> Any:
    """A batch of the user's, on the CPU.

    Raises:
        RigbenchError: their function raises, or gives no tensors, or some that are elsewhere.
    """
    assert own.batch is not None
    with own.blamed(f"batch({samples})", "fix the function"):
        batch = own.batch(samples)
    where = f"--model {own.name}: batch({samples}) returned"
    tensors = list(tensors_in(batch))
    if not tensors:
        raise RigbenchError(f"{where} {what(batch)}, with no tensor in it", "return tensors: one, or a tuple or dict")
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere:
        raise RigbenchError(f"{where} a tensor on {elsewhere}", "return tensors on the CPU; they are moved for you")
    if not tensors[0].dim():
        first = "make the first dimension of a batch's first tensor the number of samples asked for"
        raise RigbenchError(f"{where} a first tensor of {shape_words(tensors[0])}, not {samples} samples", first)
    return batch


def each(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same batch with every tensor changed."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: each(value, change) for key, value in batch.items()}
    return tuple(each(value, change) for value in batch) if isinstance(batch, (tuple, list)) else batch


def shape_words(tensor: torch.Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {'×'.join(map(str, tensor.shape)) or 'of one number'}"


def what(thing: object) -> str:
    if thing is None:
        return "nothing (None)"
    if isinstance(thing, torch.Tensor):
        return f"a tensor, {shape_words(thing)}"
    if isinstance(thing, (tuple, list)):
        kinds = ", ".join(type(item).__name__ for item in thing[:4])
        return f"a {type(thing).__name__} of {len(thing)} ({kinds})" if thing else f"an empty {type(thing).__name__}"
    article = "an" if type(thing).__name__[0].lower() in "aeiou" else "a"
    return f"{article} {type(thing).__name__}"
