"""Records what a training step allocates, and when: the real model code, run once on fake tensors.

Nothing is computed and no memory is taken: fake tensors know only their shapes, and every storage that an operation
makes is written down, as is its end. They live on the CPU, since fakes of a GPU need a GPU build of torch; where a
GPU's kernels take memory differently, a stand-in takes theirs (see `cuda` below). Eager code is what is recorded.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rigbench.model import lora
from rigbench.model.counts import NF4_BLOCK, nf4_bytes
from rigbench.model.gpt import Block, Decoder, rope_tables
from rigbench.predict.traces import BIASED, OF_THREADS, PRODUCTS, Piece, Step, Trace, in_order

OUTSIDE = -1  # the layer of what belongs to none
WORKSPACES = {  # which of a thread's workspaces a product takes
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::baddbmm"), (PRODUCTS,)),
    "aten::addmm": (PRODUCTS, BIASED),
}
FLASH_BACKWARD = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
# FlashAttention-2's backward pass adds up dq in fp32, rows in tiles of 128, columns in steps of 32 (csrc/flash_attn).
FLASH_ROWS, FLASH_COLUMNS = 128, 32


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every storage's birth and end, piece by piece. `vocabulary` tells logits from other activations."""

    def __init__(self, vocabulary: int, flash_workspace: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces: list[Piece] = []
        self._vocabulary, self._flash_workspace = vocabulary, flash_workspace
        self._live: dict[int, tuple[int, int]] = {}  # (piece, number) by storage
        self._weights = set[int]()
        self._workspaces = set[int]()  # that were made
        self._sum = 0, 0  # the storages of the newest sum of two gradients, and of the first of them
        self._closed = False

    def begin(self, phase: str, layer: int = OUTSIDE) -> None:
        """What follows belongs to this piece."""
        self.pieces.append(Piece(phase, layer, [], [], []))

    def end(self) -> None:
        """Nothing is written down from here on."""
        self._closed = True
        for piece in self.pieces:
            piece.events[:] = in_order(piece.events)

    def keep(self, tensor: Tensor) -> None:
        """A weight or buffer, made before recording began."""
        self._see(tensor, "weights")
        self._weights.add(tensor.untyped_storage()._cdata)

    def rename(self, tensor: Tensor, kind: str) -> None:
        piece, number = self._live[tensor.untyped_storage()._cdata]
        self.pieces[piece].kinds[number] = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        result = func(*args, **(kwargs or {}))
        cast_of_weight = name == "aten::_to_copy" and args[0].untyped_storage()._cdata in self._weights
        for tensor in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor, "weights" if cast_of_weight else self._kind(tensor))
        if name == "aten::add" and self._in_backward and not torch.is_grad_enabled() and args[0]._base is None:
            self._sum = result.untyped_storage()._cdata, args[0].untyped_storage()._cdata
        for born in self._flash_temporaries(args[1]) if self._flash_workspace and name == FLASH_BACKWARD else ():
            self._write(born, freed=True)
        for workspace in WORKSPACES.get(name, ()):  # after its result, and for good
            number = workspace + self._in_backward
            if number not in self._workspaces:
                self._workspaces.add(number)
                self._write((OF_THREADS, number), freed=False)
        return result

    @property
    def _in_backward(self) -> bool:
        """Whether torch's thread for the backward pass is at work."""
        return " backward" in self.pieces[-1].phase

    def _kind(self, tensor: Tensor) -> str:
        at_the_head = self.pieces[-1].phase.endswith(("forward end", "backward start"))
        wide = tensor.dim() >= 2 and tensor.shape[-1] == self._vocabulary
        return "logits" if at_the_head and wide else "activations"

    def _see(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live or storage.nbytes() == 0:
            return
        self._live[key] = self._born(storage.nbytes(), kind)
        weakref.finalize(storage, self._gone, key).atexit = False

    def _born(self, size: int, kind: str) -> tuple[int, int]:
        piece = self.pieces[-1]
        piece.sizes.append(size)
        piece.kinds.append(kind)
        born = len(self.pieces) - 1, len(piece.sizes) - 1
        self._write(born, freed=False)
        return born

    def _gone(self, key: int) -> None:
        born = self._live.pop(key)
        self._weights.discard(key)
        if not self._closed and not self._added_to(key, born):
            self._write(born, freed=True)

    def _added_to(self, key: int, born: tuple[int, int]) -> bool:
        """Whether a storage goes on as the sum just made. Autograd adds a gradient to one that nobody else holds in
        place (torch/csrc/autograd/input_buffer.cpp), but under a mode such as this one makes a third of both."""
        (total, first), piece = self._sum, self.pieces[-1]
        newest = len(self.pieces) - 1, len(piece.sizes) - 1
        if key != first or self._live.get(total) != newest or piece.sizes[-1] != self.pieces[born[0]].sizes[born[1]]:
            return False
        piece.sizes.pop()
        piece.kinds.pop()
        piece.events.remove((*newest, False))
        self._live[total] = born
        return True

    def _write(self, born: tuple[int, int], freed: bool) -> None:
        self.pieces[-1].events.append((*born, freed))

    def _flash_temporaries(self, query: Tensor) -> list[tuple[int, int]]:
        B, H, T, D = query.shape
        rows = -(-T // FLASH_ROWS) * FLASH_ROWS
        columns = -(-D // FLASH_COLUMNS) * FLASH_COLUMNS
        return [self._born(4 * B * H * rows * width, "workspace") for width in (1, columns)]  # Σ do·o and dq, fp32


def record(step: Step, micro_batch: int) -> Trace:
    """One micro-step of the decoder, or two where gradients accumulate: forward, loss, backward.

    For a GPU stand-ins take what it takes otherwise than a CPU: flash attention's backward workspace (in half
    precision, where that kernel is used), and a fused RMSNorm.
    """
    recorder = Recorder(step.shape.vocabulary, flash_workspace=step.cuda and step.precision != "fp32")
    with FakeTensorMode():
        model = Decoder(step.shape, checkpointing=step.checkpoint_every, loss_chunks=step.loss_chunks)
        if step.precision == "bf16-pure":
            _make_bf16(model)
        if step.recipe.adapted:
            lora.adapt(model, step.recipe, FourBits if step.adapter == "qlora" else None)
        if step.cuda:
            _fuse_norms(model)
        _mark_blocks(model.blocks, recorder)
        with recorder:
            _keep_weights(model, recorder)
            for name in ("first", "later") if step.accumulating else ("first",):
                _micro_step(model, step, micro_batch, name, recorder)
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    recorder.rename(weight.grad, "gradients" if name.startswith("blocks.") else "gradients outside")
        recorder.end()
    return Trace(recorder.pieces)


def _make_bf16(model: nn.Module) -> None:
    """What `model.to(bfloat16)` does, which fake parameters refuse."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(weight.detach().to(torch.bfloat16)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(torch.bfloat16))


def _keep_weights(model: nn.Module, recorder: Recorder) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        words = name.split(".")
        if words[0] == "blocks":
            if recorder.pieces[-1].layer != int(words[1]):
                recorder.begin("weights", int(words[1]))
        else:
            recorder.begin(f"weights {name}")
        recorder.keep(tensor)


def _micro_step(model: nn.Module, step: Step, micro_batch: int, name: str, recorder: Recorder) -> None:
    recorder.begin(f"{name} batch")
    block = torch.zeros((micro_batch, step.shape.sequence + 1), dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16, enabled=step.precision == "bf16"):
        loss = model(block[:, :-1], block[:, 1:])
    recorder.begin(f"{name} backward start")
    loss.backward()
    recorder.begin(f"{name} end")


def _mark_blocks(blocks: Sequence[nn.Module] | nn.ModuleList, recorder: Recorder) -> None:
    """Let each block begin a piece, forward and backward. Recomputation belongs to its block's backward piece."""

    def in_forward() -> bool:
        return " backward" not in recorder.pieces[-1].phase

    def entered(layer: int, module: nn.Module, inputs: Any) -> None:
        if in_forward():
            recorder.begin(f"{_name(recorder)} forward", layer)

    def left(layer: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not in_forward():
            return
        name = _name(recorder)
        output.register_hook(lambda gradient: recorder.begin(f"{name} backward", layer))  # type: ignore[no-untyped-call]
        if layer == len(blocks) - 1:
            recorder.begin(f"{name} forward end")

    for layer, block in enumerate(blocks):
        block.register_forward_pre_hook(partial(entered, layer))
        block.register_forward_hook(partial(left, layer))


def _name(recorder: Recorder) -> str:
    return recorder.pieces[-1].phase.partition(" ")[0]


class FusedRmsNorm(torch.autograd.Function):
    """What torch's fused RMSNorm for CUDA takes: its output and a factor per row. On a CPU it falls apart instead."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        factors = x.new_empty(x.shape[:-1], dtype=torch.float32)
        context.save_for_backward(x, weight, factors)
        return torch.empty_like(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = context.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _fuse_norms(model: nn.Module) -> None:
    def fused(weight: Tensor, x: Tensor) -> Tensor:
        return FusedRmsNorm.apply(x, weight)  # type: ignore[no-any-return, no-untyped-call]

    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.forward = partial(fused, module.weight)  # type: ignore[method-assign]


class FourBits(nn.Module):
    """What bitsandbytes' Linear4bit takes: its weight unpacked for a product, forward and again backward."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.dims, self.bias = linear.weight.shape, linear.bias
        packed, scales, *rest = nf4_bytes(linear.weight.numel())
        for name, size in zip("abcdef", (packed, scales, *rest), strict=False):
            self.register_buffer(name, torch.empty(size, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Unpacked.apply(x, *self.dims)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class Unpacked(torch.autograd.Function):
    """A product with a weight that is made for it, after its scales in fp32."""

    @staticmethod
    def forward(context: Any, x: Tensor, outputs: int, inputs: int) -> Tensor:
        context.dims = outputs, inputs
        x.new_empty(outputs * inputs // NF4_BLOCK, dtype=torch.float32)
        return x @ x.new_empty(outputs, inputs).t()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient.new_empty(prod(context.dims) // NF4_BLOCK, dtype=torch.float32)
        return gradient @ gradient.new_empty(context.dims), None, None


def record_block(step: Step, micro_batch: int) -> Trace:
    """One block reading a prompt in bf16 without gradients, as inference does layer by layer."""
    shape = step.shape
    recorder = Recorder(shape.vocabulary, flash_workspace=False)
    with FakeTensorMode(), torch.no_grad():
        block = Block(shape)
        _make_bf16(block)
        _fuse_norms(block)
        tables = [table[: shape.sequence].to(torch.bfloat16) for table in rope_tables(shape)]
        with recorder:
            recorder.begin("block")
            x = torch.zeros((micro_batch, shape.sequence, shape.width), dtype=torch.bfloat16)
            x = block(x, None if shape.style == "gpt2" else (tables[0], tables[1]))
            del x
        recorder.end()
    return Trace(recorder.pieces)
