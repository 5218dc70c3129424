"""Are the closed forms of a step's operations what the real model code does?"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import pytest
import torch
from recipes import recipe
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rigbench.model import optim
from rigbench.model.counts import total_parameters
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Shape
from rigbench.predict import operations

# Operations of torch that move nothing: views, and storage that nobody has written yet.
FREE = {
    *("device", "is_contiguous", "view", "_unsafe_view", "t", "transpose", "expand", "split", "split_with_sizes"),
    *("slice", "unsqueeze", "detach", "alias", "permute", "select", "as_strided", "squeeze"),
    *("empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "lift_fresh"),
}
MODES = [("bf16", 0, 1), ("fp32", 0, 1), ("bf16-pure", 0, 1), ("bf16", 1, 1), ("bf16", 2, 1), ("bf16", 0, 4)]


class Traffic(TorchDispatchMode):
    """Bytes of every operation: all tensors in, all tensors out. A lookup reads what it returns, not its table."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attention = self.rest = 0
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name.split("::")[-1] in FREE:
            return result
        ins, outs = tensors((args, kwargs)), tensors(result)
        moved = size(ins) + size(outs)
        if name == "embedding":
            moved = 2 * size(outs) + size(ins[1:])
        if name == "nll_loss_forward":  # one logarithm a token, and its label
            moved = 12 * ins[1].numel()
        if name == "nll_loss_backward":
            moved = size(outs) + 8 * ins[2].numel()
        self.kernels += 1
        if name in ("mm", "addmm"):
            self.products += moved
        elif "attention" in name:
            self.attention += moved
        else:
            self.rest += moved
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def size(found: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in found)


def shape(style: str, layers: int = 3, tied: bool = True, vocabulary: int = 3000) -> Shape:
    llama = style == "llama"
    return Shape(
        style=style,
        layers=layers,
        width=128,
        heads=4,
        kv_heads=2 if llama else 4,
        ffn_width=352 if llama else 512,
        vocabulary=vocabulary,
        sequence=64,
        tied_head=tied,
        biases=not llama,
    )


def counted(of: Shape, how: Recipe, first: bool) -> Traffic:
    """One micro-batch of the real decoder on fake tensors."""
    with FakeTensorMode():
        model = Decoder(of, how.checkpoint_every, how.loss_chunks)
        as_on_a_gpu(model, how.precision == "bf16-pure")
        if not first:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
        tokens = torch.zeros((2, 64), dtype=torch.int64)
        with Traffic() as traffic:
            with torch.autocast("cpu", torch.bfloat16, enabled=how.precision == "bf16"):
                loss = model(tokens, tokens)
            loss.backward()
    return traffic


def as_on_a_gpu(model: nn.Module, pure: bool) -> None:
    """RMSNorm is one kernel there, as LayerNorm is here; fake parameters refuse `model.to`."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(module, name, nn.LayerNorm(child.weight.shape, bias=False))
    for module in model.modules() if pure else ():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(weight.detach().to(torch.bfloat16)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(torch.bfloat16))


def moved(found: Iterable[operations.Operation], kind: str) -> float:
    def is_kind(it: operations.Operation) -> bool:
        own = "products" if it.k else "attention" if it.name.startswith("attention") else "rest"
        return own == kind

    return sum(it.times * it.bytes for it in found if is_kind(it))


@pytest.mark.parametrize("style", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize(("precision", "every", "chunks"), MODES)
def test_eager_bytes_and_kernels_are_those_of_the_real_decoder(
    style: str, precision: str, every: int, chunks: int
) -> None:
    of, how = shape(style), recipe(micro_batch=2, precision=precision, checkpoint_every=every, loss_chunks=chunks)
    real, found = counted(of, how, first=False), operations.micro_step(of, how, first=False)
    assert moved(found, "products") == pytest.approx(real.products, rel=2e-3)
    assert moved(found, "attention") == real.attention
    assert moved(found, "rest") == pytest.approx(real.rest, rel=2e-3)
    assert sum(it.times * it.kernels for it in found) == pytest.approx(real.kernels, rel=0.12 if chunks > 1 else 0.03)


def test_the_first_micro_batch_adds_no_gradients_up() -> None:
    of, how = shape("gpt2"), recipe(micro_batch=2)
    real, found = counted(of, how, first=True), operations.micro_step(of, how, first=True)
    assert moved(found, "rest") == pytest.approx(real.rest, rel=2e-3)
    later = operations.micro_step(of, how, first=False)
    assert moved(later, "rest") - moved(found, "rest") == 3 * 4 * total_parameters(of)


def test_an_untied_head_has_no_joined_gradients() -> None:
    of, how = shape("gpt2", tied=False), recipe(micro_batch=2)
    real, found = counted(of, how, first=False), operations.micro_step(of, how, first=False)
    assert moved(found, "rest") == pytest.approx(real.rest, rel=2e-3)


@pytest.mark.parametrize("style", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("every", [0, 1, 2])
def test_flop_is_that_of_torchs_counter_but_for_what_a_fused_causal_kernel_saves(style: str, every: int) -> None:
    """The counter multiplies all scores and 4 times backward; a fused kernel the causal half, and 5 times."""
    of, how = shape(style, vocabulary=1000), recipe(micro_batch=2, checkpoint_every=every)
    model = Decoder(of, every)
    tokens = torch.zeros((2, 64), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens, tokens).backward()
    found = operations.micro_step(of, how)
    products = sum(it.times * it.flop for it in found if it.k)
    attention = sum(it.times * it.flop for it in found if not it.k)
    recomputed = sum(it.times * it.flop for it in found if it.part == "recomputation" and not it.k)
    full = (attention - recomputed) * 12 / 7 + recomputed * 2
    assert products + full == pytest.approx(counter.get_total_flops(), rel=1e-12)


def test_compiling_moves_fewer_bytes_and_multiplies_the_same() -> None:
    of = shape("llama")
    eager, compiled = (operations.micro_step(of, recipe(micro_batch=2, compiled=it)) for it in (False, True))
    assert sum(it.times * it.flop for it in eager) == sum(it.times * it.flop for it in compiled)
    assert moved(compiled, "rest") < 0.6 * moved(eager, "rest")
    assert sum(it.times * it.kernels for it in compiled) < 0.6 * sum(it.times * it.kernels for it in eager)


def test_a_fused_adamw_moves_seven_passes_and_eight_bits_fewer_bytes() -> None:
    of, how = shape("gpt2"), recipe(micro_batch=2)
    with FakeTensorMode():
        model = Decoder(of)
        optimizer = optim.build("adamw", model)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()  # makes the moments
        seen: list[int] = []

        class Lists(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if "fused_adamw" in func._schema.name:
                    weights, gradients, first, second = args[:4]
                    seen.append(2 * size(weights) + size(gradients) + 2 * size(first) + 2 * size(second))
                return func(*args, **(kwargs or {}))

        with Lists():
            optimizer.step()
    clipping, adamw = operations.optimizer_step(of, how)
    assert adamw.bytes == sum(seen) == 7 * 4 * total_parameters(of)
    assert clipping.bytes == 3 * 4 * total_parameters(of)  # read for the norm; read and written when scaled
    eight = operations.optimizer_step(of, recipe(micro_batch=2, optimizer="adamw8bit"))[1]
    assert eight.bytes < 0.6 * adamw.bytes


def test_foreach_adamw_moves_what_its_eight_kernels_read_and_write() -> None:
    of, how = shape("gpt2"), recipe(micro_batch=2, optimizer="adamw-foreach")
    moved_by = dict[str, int]()

    class Lists(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func._schema.name.removeprefix("aten::")
            lists = [its for its in args if isinstance(its, list) and isinstance(its[0], Tensor)]
            if name.startswith("_foreach") and any(its[0].dim() for its in lists):  # not the step counters
                once = {id(its[0]): its for its in lists}.values()  # a gradient that is squared is read once
                written = lists[0] if name.endswith("_") else tensors(result)
                moved_by[name] = moved_by.get(name, 0) + sum(map(size, once)) + size(written)
            return result

    with FakeTensorMode():
        model = Decoder(of)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()  # makes the moments
        with Lists():
            optimizer.step()
    assert operations.optimizer_step(of, how)[1].bytes == sum(moved_by.values()), moved_by


def test_a_shard_of_the_weights_is_a_share_of_the_optimizers_work() -> None:
    whole, half = (operations.optimizer_step(shape("gpt2"), recipe(strategy="fsdp2", ranks=n))[1] for n in (1, 2))
    assert half.bytes == whole.bytes / 2


def test_products_of_one_layer_are_as_wide_as_their_weights() -> None:
    of, how = shape("llama"), recipe(micro_batch=2)
    found = [it for it in operations.micro_step(of, how) if "qkv" in it.name and "forward" in it.name]
    assert [(it.m, it.n, it.k, it.times) for it in found] == [(128, (4 + 2 * 2) * 32, 128, 3)]
    assert prod((2, 128, 256, 128)) == found[0].flop
