"""Predicts what fits for generating text: weights in so many bits, and a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rigbench.core.record import Absent, Figure
from rigbench.model.counts import parameter_tensors
from rigbench.model.record import Model, Shape
from rigbench.predict import allocator, cards
from rigbench.predict.loop import Script
from rigbench.predict.memory import most
from rigbench.predict.record import InferenceRow, Target, WeightFormat
from rigbench.predict.traces import Traces

BASIS = "weights, cache, one block reading the whole prompt, logits of its last token; a replica of torch's allocator"
MOST_SEQUENCES, MOST_TOKENS, TOKENS_STEP = 1 << 16, 1 << 24, 128

# bitsandbytes 0.50: LLM.int8 keeps a byte per weight and an fp32 scale per output row; NF4 half a byte, an fp32 scale
# per block of 64 and a code of 16 fp32 values per tensor. Matrices of the blocks are quantized; the tables, the norms,
# the biases and the head stay in bf16, as `load_in_8bit` and `load_in_4bit` leave them.
BF16, ROW_SCALE, NF4_BLOCK, NF4_CODE = 2, 4, 64, 64


def weight_bytes(weights: WeightFormat, name: str, dims: tuple[int, ...]) -> int:
    """One parameter as it is kept in the device's memory."""
    elements = prod(dims)
    if weights == "bf16" or len(dims) < 2 or not name.startswith("blocks."):
        return BF16 * elements
    if weights == "8-bit":
        return elements + ROW_SCALE * dims[0]
    return -(-elements // 2) + 4 * -(-elements // NF4_BLOCK) + NF4_CODE


def cache_bytes(shape: Shape, tokens: int) -> int:
    """One sequence's keys and values over all layers, in bf16."""
    return 2 * shape.layers * shape.kv_heads * shape.head_width * tokens * BF16


def row(
    model: Model, target: Target, weights: WeightFormat, tokens: int, traces: Traces, sizes: Sequence[Model]
) -> InferenceRow:
    """A model with its weights kept in one way, and what fits. `sizes` are those of its series, smallest first."""
    shape, room = model.shape, cards.room_bytes(target)

    def working_bytes(shape: Shape, length: int) -> int:
        """Prompts are read one after another; the last token's logits are kept in fp32."""
        return traces.block(shape, length) + 4 * shape.vocabulary

    def needed(shape: Shape, sequences: int, length: int) -> int:
        script = Script()
        for name, dims in parameter_tensors(shape):
            script.allocate(weight_bytes(weights, name, dims), "weights")
        for _ in range(2 * shape.layers):
            script.allocate(sequences * cache_bytes(shape, length) // (2 * shape.layers), "cache")
        if target.workspace_bytes:
            script.allocate(target.workspace_bytes, "workspace")
        script.allocate(working_bytes(shape, length), "activations")
        if target.kind == "cpu":
            return sum(script.sizes)
        return allocator.replay(script.sizes, script.events).reserved_bytes

    reserved, outside = needed(shape, 1, tokens), cards.outside(target)
    largest = most(lambda n: needed(sizes[n - 1].shape, 1, tokens) <= room, len(sizes))
    steps = most(lambda n: needed(shape, 1, n * TOKENS_STEP) <= room, MOST_TOKENS // TOKENS_STEP)
    return InferenceRow(
        weights=weights,
        weights_bytes=sum(weight_bytes(weights, name, dims) for name, dims in parameter_tensors(shape)),
        cache_bytes=cache_bytes(shape, tokens),
        working_bytes=working_bytes(shape, tokens),
        process=Figure(reserved + outside.value, "predicted", BASIS, *(reserved + end for end in outside.ends)),
        fits=reserved <= room,
        short_bytes=max(0, reserved - room),
        largest_batch=most(lambda n: needed(shape, n, tokens) <= room, MOST_SEQUENCES),
        longest_context=TOKENS_STEP * steps,
        largest_model=sizes[largest - 1] if largest else Absent("not even the smallest of the series"),
    )
