"""Counts what a step of the user's own code does, operation by operation, as it runs on fake tensors.

What operations.py says of the decoder in closed form: an operation reads its inputs and writes its outputs once, by a
kernel. Products are what torch's counter knows; attention is taken to be a fused kernel, of which a causal half counts.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from rigbench.predict.operations import Operation

# Operations of torch that move nothing: views, and storage that nobody has written yet.
FREE = {
    *("view", "_unsafe_view", "reshape", "t", "transpose", "expand", "split", "split_with_sizes", "chunk", "unbind"),
    *("slice", "unsqueeze", "detach", "alias", "permute", "select", "as_strided", "squeeze", "diagonal", "unfold"),
    *("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "lift_fresh", "is_contiguous"),
    *("device", "sym_size", "sym_stride", "sym_numel", "is_same_size", "set_", "resize_", "view_as_real"),
}
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5  # of a fused attention kernel; backward the scores are computed again


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations that it saw, in their order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name.partition("::")[2] in FREE or name in FREE:
            return result
        ins, outs = _tensors((args, kwargs)), _tensors(result)
        moved = float(_size(ins) + _size(outs))
        if "attention" in name:
            its = Operation("attention", name, 1, _attention_flop(name, ins, args, kwargs or {}), moved, 1)
        elif func._overloadpacket in flop_registry:
            flop = float(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result))
            its = Operation("matmul", name, 1, flop, moved, 1, 1, 1, 1)
        else:
            its = Operation("memory traffic", name, 1, 0, float(_moved(name, ins, outs, moved)), 1)
        self.operations.append(its)
        return result


def _attention_flop(name: str, ins: list[Tensor], args: Any, kwargs: Any) -> float:
    backward = "backward" in name
    query, key, value = ins[1:4] if backward else ins[:3]
    causal = kwargs.get("is_causal", False) or any(it is True for it in args)
    scores = 2.0 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]) / 2
    return (BACKWARD_PRODUCTS if backward else FORWARD_PRODUCTS) * scores / (2 if causal else 1)


def _moved(name: str, ins: list[Tensor], outs: list[Tensor], moved: float) -> float:
    """A lookup reads what it returns, not its table; a loss one logarithm a row, and its label; a norm over a batch
    reads what it norms twice.
    """
    if name in ("embedding", "index", "gather", "index_select"):
        return 2 * _size(outs) + _size(ins[1:])
    if name == "nll_loss_forward":
        return 12 * ins[1].numel()
    if name == "nll_loss_backward":
        return _size(outs) + 8 * ins[2].numel()
    return moved + (_size(ins[: 1 + name.endswith("backward")]) if "batch_norm" in name else 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(found: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in found)
