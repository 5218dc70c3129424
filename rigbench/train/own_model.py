"""What is the user's own model? Its factory found and called, its batches fed, and what is wrong said in one line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.dataloader.factory import find_factory, raised
from rigbench.dataloader.sources import tensors_in
from rigbench.train.own_batches import blamed, drawn, each, shape_words, what

if TYPE_CHECKING:
    import torch
    from torch import nn

RETURNS = "return (module, batch), or a language model alone: a module called with tokens and targets"
LOSS = "return the loss, a tensor of one number, or an object or a dict that has it as loss"


class Own(NamedTuple):
    """The user's module on the CPU, and how batches for it are made.

    With `batch`, a function of theirs, its unit is a sample. Without, it is a language model: it eats rigbench's own
    token data, ids below `vocabulary` in sequences of `sequence`.
    """

    name: str
    folder: str
    module: nn.Module
    batch: Callable[[int], Any] | None
    vocabulary: int
    sequence: int

    @property
    def unit(self) -> Literal["tokens", "samples"]:
        return "samples" if self.batch else "tokens"

    @property
    def items_per_sample(self) -> int:
        return 1 if self.batch else self.sequence

    def losses(self, module: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        """The module, as it is or wrapped for ranks or compiled, as a function from what its source gives to the loss.

        Its source is an `OwnBatches`, or for a language model a `Batches`.
        """
        if not self.batch:
            return lambda tokens, targets: loss_of(module(tokens, targets))
        return lambda batch: loss_of(_called(module, batch))

    def explained(self, doing: str, error: BaseException) -> RigbenchError:
        """What the user's code raised, in one line with its place. Not for what ran out of memory."""
        return RigbenchError(f"--model {self.name}: {doing} raised {raised(error, self.folder)}", "mend the model")


def load(name: str, folder: str, vocabulary: int = 0, sequence: int = 0) -> Own:
    """Call the user's factory, `package.module:factory`, importable from the folder the command was typed in.

    It takes no arguments and returns a pair: a `torch.nn.Module`, and a function that makes n samples as a tensor, a
    tuple, list or dict of tensors, on the CPU, whose first tensor is n long. The module is called with them (a dict's
    by name) and returns the loss, or what has it as `loss`. A module alone is a language model: it is called with
    tokens and targets, int64 [B, T], and has `vocabulary` and `sequence`, or is given them.

    Raises:
        RigbenchError: it is not there, raises, or returns anything else.
    """
    from torch import nn

    factory: Any = find_factory(name, folder, "--model")
    if isinstance(factory, nn.Module):
        raise RigbenchError(f"--model {name} is a module, not a function that makes one", "write def make(): return it")
    needed = _unmet(factory, 0)
    if needed:
        raise RigbenchError(f"--model {name} needs arguments ({needed})", "a factory takes none: give them defaults")
    with blamed(name, folder, "it", "mend the factory"):
        made = factory()
    if isinstance(made, nn.Module):
        own = _language_model(name, folder, made, vocabulary, sequence)
    elif isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1]):
        if vocabulary or sequence:
            option = "--vocab" if vocabulary else "--seq"
            raise RigbenchError(f"{option}: {name} makes batches of its own", f"leave {option} out")
        own = Own(name, folder, made[0], made[1], 0, 0)
        if _unmet(own.batch, 1):
            raise RigbenchError(f"--model {name}: batch must take one number", "write def batch(n): return n samples")
    else:
        raise RigbenchError(f"--model {name}: the factory returned {what(made)}", RETURNS)
    _check_parameters(own)
    return own


class Trial(NamedTuple):
    """One forward and backward pass of an untrained model, in the precision of its weights."""

    samples: int
    loss: float
    flop: int  # as torch counts them: matrix products, convolutions and attention
    unused_parameters: int  # that can be trained, and got no gradient
    batch: str  # the shapes and types of what it ate


def trial(own: Own, device: str, samples: int) -> Trial:
    """Try a micro-step, its attention taken apart into products, as torch's counter sees those and misses fused ones.

    Raises:
        RigbenchError: anything that would not train, said in one line.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with blamed(own.name, own.folder, f"moving the module to {device}", "mend the model"):
        own.module.to(device)
    if own.batch:
        batch: tuple[Any, ...] = (each(drawn(own, samples), lambda tensor: tensor.to(device)),)
    else:
        ids = torch.randint(own.vocabulary, (samples, own.sequence + 1), device=device)
        batch = (ids[:, :-1], ids[:, 1:])
    taken: list[Any] = []
    cure = "mend the model" if own.batch else "mend the model, which is called with tokens and targets"

    def keep(*parts: Any, **named: Any) -> Any:
        taken.append(own.module(*parts, **named))
        return taken[-1]

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with blamed(own.name, own.folder, "its forward pass", cure):
            loss = own.losses(keep)(*batch)
            value = _checked_loss(own.name, taken[-1], loss)  # a GPU's errors come to light here
        with blamed(own.name, own.folder, "its backward pass", "mend the model"):
            loss.backward()  # type: ignore[no-untyped-call]
            if device != "cpu":
                torch.cuda.synchronize(device)
    unused = sum(weight.numel() for weight in own.module.parameters() if weight.requires_grad and weight.grad is None)
    own.module.zero_grad(set_to_none=True)
    words = ", ".join(shape_words(tensor) for tensor in tensors_in(batch))
    return Trial(samples, value, int(counter.get_total_flops()), unused, words)


def loss_of(output: Any) -> Any:
    """The loss in what a module returned: itself, its `loss`, or its entry of that name; None where it has none."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    return output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)


def _called(module: Callable[..., Any], batch: Any) -> Any:
    if isinstance(batch, dict):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)


def _language_model(name: str, folder: str, module: nn.Module, vocabulary: int, sequence: int) -> Own:
    said = {"vocabulary": vocabulary, "sequence": sequence}
    for field, option in (("vocabulary", "--vocab"), ("sequence", "--seq")):
        own = getattr(module, field, None)
        known = own if isinstance(own, int) and own > 1 else 0
        if said[field] > known > 0:
            raise RigbenchError(f"{option} {said[field]:,} is beyond the model's {field} of {known:,}", "give no more")
        said[field] = said[field] or known
        if not said[field]:
            raise RigbenchError(
                f"--model {name} returned a module alone, a language model, and its {field} is not known",
                f"give {option}, set module.{field}, or return (module, batch)",
            )
    return Own(name, folder, module, None, said["vocabulary"], said["sequence"])


def _check_parameters(own: Own) -> None:
    from torch.nn.parameter import is_lazy

    weights = list(own.module.parameters())
    if any(is_lazy(weight) for weight in weights):
        raise RigbenchError(
            f"--model {own.name}: it has lazy layers, whose weights do not exist yet",
            "call the module once on a batch before the factory returns it",
        )
    if not any(weight.requires_grad for weight in weights):
        raise RigbenchError(f"--model {own.name}: it has no parameter that can be trained", "unfreeze some")


def _checked_loss(name: str, output: Any, loss: Any) -> float:
    import torch

    where = f"--model {name}: its forward pass returned"
    if not isinstance(loss, torch.Tensor):
        extra = f", whose loss is {what(loss)}" if loss is not None else ""
        raise RigbenchError(f"{where} {what(output)}{extra}, and no loss", LOSS)
    if loss.dim():
        raise RigbenchError(f"{where} a loss of {shape_words(loss)}, not one number", "take its mean()")
    if not loss.requires_grad:
        raise RigbenchError(
            f"{where} a loss that no gradient flows from", "do not detach it, take .item() of it or use no_grad"
        )
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RigbenchError(f"{where} a loss of {value} before any step", "mend the model, or its batches")
    return value


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
        names = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in kinds
        ]
        return ", ".join(names[given:]) or str(error)
    return ""
