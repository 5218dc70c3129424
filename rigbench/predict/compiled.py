"""The peak memory of a compiled step, and of one with attention by hand, from a handful of counted bytes.

torch.compile keeps other tensors than eager code, and fewer: what AOTAutograd's partitioner keeps of a block for the
backward pass was counted by storage, and the bytes a logit are those of published peaks. A step's peak is the larger of
two moments, both at the turn from forward to backward:

    the first micro-step ever    weights and their half-precision copies, no gradients and states yet, FIRST a logit
    every later one              with gradients and states, STEADY a logit

The logits' bytes, the context and the bytes a score are fitted: on 40 published rows of one program and on a sweep of
batch sizes (tests/test_compiled_memory.py judges them on the others). So the interval is narrow for such a program
alone.
"""

from __future__ import annotations

import bisect
import functools

import msgspec

from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.model.counts import adapted_layers
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model, Shape
from rigbench.predict import cards
from rigbench.predict.loop import device_bytes, weights_with
from rigbench.predict.record import Breakdown, Target, VramPrediction

METHOD = 1
MIB = 1 << 20
FIRST, STEADY, ALLOCATED = 8.0, 6.1, 3.0  # bytes a logit of half precision; the last as torch counts allocations
UNFUSED_LOSS = 14.0  # where the loss is outside of what is compiled, as programs with attention by hand have it
SCORE = {"half": 10.25, "pure": 5.0, "wide": 12.0}  # bytes kept of one attention score, compiled
EAGER_SCORE = 1.3  # times as much
LAST = 6  # bytes x width a token: the last norm's
CONTEXT_MIB, CONTEXT_MIB_PER_MULTIPROCESSOR, MULTIPROCESSORS = 223.0, 3.4, 80
PLAIN_SPREAD, SPREAD, SHARDED_SPREAD = 0.06, 0.25, 0.35
# The one peak of rigbench's own compiled code that was read on a card (an H200, torch 2.11) was 0.69 of what is told:
# no fp32 copy of the logits was left, as in the published programs' older code. Only the low end follows one point.
LEANER = 0.65
# What is expected to fit takes so much less than there is. Of other code than was fitted on, the least at which none of
# the sweep's nine borders is promised a sequence too many.
MARGIN, OTHERS_MARGIN = 1.02, 1.053
GATHERED_BLOCKS = 3  # of weights in half precision that FSDP holds at once
BASIS = "counted bytes of compiled code, its logits' fitted on published peaks"
DECIDING = "reserved and context, on the device"


def covers(recipe: Recipe, target: Target) -> bool:
    """Whether the counted bytes answer, rather than a recorded step."""
    ways = recipe.compiled or recipe.attention == "naive"
    return target.kind == "cuda" and recipe.strategy != "fsdp2-offload" and ways


def prediction(
    model: Model, recipe: Recipe, target: Target, held_bytes: float = 0.0, program: str = ""
) -> VramPrediction:
    """`held_bytes` is what a program keeps on the card beside weights and states, such as masks; of an unnamed one the
    interval is rigbench's own code's.
    """
    sizes, later = _peak(model, recipe, held_bytes)
    reserved, outside = sum(sizes.values()), _outside(target)
    process, spread = reserved + outside.value, PLAIN_SPREAD if plain(model, recipe, program) else SPREAD
    spread = SHARDED_SPREAD if recipe.sharded else spread
    low, high = process * (1 - spread), process * (1 + spread)
    if recipe.compiled and not program and not recipe.sharded:
        low = min(low, process * LEANER)
    usable, surely = target.usable.value, recipe.micro_batch

    def high_of(sequences: int) -> float:
        its, _ = _peak(model, msgspec.structs.replace(recipe, micro_batch=sequences), held_bytes)
        return (sum(its.values()) + outside.value) * (1 + spread)

    if process <= usable < high:
        surely = bisect.bisect_right(range(1, surely + 1), usable, key=high_of)
    logits = later["logits"] / STEADY * ALLOCATED if later["logits"] else 0.0
    return VramPrediction(
        method=METHOD,
        basis=f"{BASIS}; {recipe.words}",
        target=target,
        model=model,
        recipe=recipe,
        allocated_bytes=round(sum(later.values()) - later["logits"] + logits + held_bytes),
        reserved_bytes=reserved,
        outside=outside,
        process=Figure(process, "predicted", BASIS, low, high),
        host_bytes=0,
        breakdown=Breakdown(
            **{f"{name}_bytes": size for name, size in sizes.items()},
            workspace_bytes=0,
            cache_bytes=0,
            outside_bytes=round(outside.value),
        ),
        room_bytes=max(0, round(usable - outside.value)),
        fits=low <= usable,
        short_bytes=max(0, round(low - usable)),
        allocator_retries=0,
        deciding=DECIDING,
        tight=high > usable,
        surely=surely,
    )


def expected_bytes(model: Model, recipe: Recipe, target: Target, held_bytes: float = 0.0) -> float:
    """The middle of the prediction and a little more, since too many at once is the worse mistake; for less than the
    usual way takes, no more than for that.
    """
    ways = {name: getattr(recipe, name) for name in ("strategy", "ranks", "micro_batch")}
    usual = Recipe(precision="bf16", compiled=True, **ways)
    size, most = (prediction(model, its, target, held_bytes).process.value for its in (recipe, usual))
    told = (MARGIN if plain(model, recipe) else OTHERS_MARGIN) * size
    return min(told, MARGIN * most) if size <= most and plain(model, usual) else told


def expected(model: Model, recipe: Recipe, target: Target, held_bytes: float = 0.0) -> bool:
    """Whether a step is expected to fit."""
    return expected_bytes(model, recipe, target, held_bytes) <= target.usable.value


def plain(model: Model, recipe: Recipe, program: str = "") -> bool:
    """Whether this is code as the bytes were fitted on; of an unnamed program, whether rigbench's own is. States of 8
    bits are counted, and are less: two eager steps with them, read on an H200, were told within 0.1 %.
    """
    if program not in ("", "nanogpt"):
        return False
    usual = Recipe(precision="bf16", compiled=True, strategy=recipe.strategy, ranks=recipe.ranks)
    optimizer = usual.optimizer if recipe.optimizer.endswith("8bit") else recipe.optimizer
    its = msgspec.structs.replace(recipe, micro_batch=0, accumulation=1, optimizer=optimizer)
    return model.shape.style == "gpt2" and its == usual and recipe.strategy in ("single", "ddp")


def kept_bytes(model: Model, recipe: Recipe) -> float:
    """Of one token and one layer, over the width: what the partitioner keeps for the backward pass."""
    s = model.shape
    half = 4 if recipe.precision in ("fp32", "tf32") else 2
    residual = 2 if recipe.precision == "bf16-pure" or s.style == "neox" else 4
    kv, ffn = s.kv_heads / s.heads, s.ffn_width * max(1, s.active_experts) / s.width
    norms = 2 * residual + 2 * half
    attention = half * (1 + 2 * kv) + half
    if s.style == "neox" or s.qk_norms:
        attention += half * (1 + kv)  # before and after the norm of q and k
    return norms + attention + half * ffn * (3 if s.style == "llama" else 2)


def _peak(model: Model, recipe: Recipe, held_bytes: float) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by what holds them at the peak, and at a later micro-step's."""
    first, later = _moment(model, recipe, first=True), _moment(model, recipe, first=False)
    sizes = max(first, later, key=lambda moment: sum(moment.values()))
    sizes["activations"] += round(held_bytes)
    return sizes, later


def _moment(model: Model, recipe: Recipe, first: bool) -> dict[str, int]:
    """Bytes by what holds them, at the peak of the first micro-step or of a later one."""
    s = model.shape
    n, trained, weights, states = _held(s, msgspec.structs.replace(recipe, micro_batch=0))
    tokens, naive = recipe.micro_batch * s.sequence, recipe.attention == "naive"
    wide, pure = recipe.precision in ("fp32", "tf32"), recipe.precision == "bf16-pure"
    own = recipe.weight_bytes
    buckets = trained * own if recipe.replicated and recipe.ranks > 1 else 0
    weights, gradients = weights + (0 if wide or pure else 2 * n), trained * own
    if recipe.sharded:
        block = (n - s.vocabulary * s.width) / s.layers
        buckets = round(2 * (GATHERED_BLOCKS * block + 2 * s.vocabulary * s.width))
        weights, gradients, states = n * own // recipe.ranks, gradients // recipe.ranks, states // recipe.ranks
    kept = kept_bytes(model, recipe)
    if recipe.adapted:  # what A leaves for B
        kept += (4 if wide else 2) * recipe.adapter_rank * len(adapted_layers(s, recipe)) / s.width
    layers = tokens * s.layers * s.width * kept * _share(model, recipe)
    score = SCORE["wide" if wide else "pure" if pure else "half"]
    score *= 1.0 if recipe.compiled or wide or pure else EAGER_SCORE
    scores = score * recipe.micro_batch * s.layers * s.heads * s.sequence**2 if naive else 0.0
    logit = UNFUSED_LOSS if naive else FIRST if first else STEADY
    return {
        "weights": weights,
        "gradients": 0 if first else gradients,
        "optimizer": 0 if first else states,
        "activations": round(layers + tokens * s.width * LAST + scores),
        "logits": round(tokens * s.vocabulary * logit * (2 if wide else 1) / recipe.loss_chunks),
        "communication": 0 if first and not recipe.sharded else buckets,
    }


@functools.lru_cache(maxsize=4096)
def _held(shape: Shape, recipe: Recipe) -> tuple[int, int, int, int]:
    """Whatever the micro-batch: how many weights there are and are trained, their bytes, and those of their states."""
    every = weights_with(shape, recipe)
    n, trained = (sum(its.elements for its in every if its.trained or frozen) for frozen in (True, False))
    return n, trained, sum(its.size_bytes for its in every), device_bytes(recipe.optimizer, every)


def _share(model: Model, recipe: Recipe) -> float:
    """Of the layers' bytes under checkpointing: each block's input, and one block at work."""
    every = recipe.checkpoint_every
    if not every:
        return 1.0
    residual = 2 if recipe.precision == "bf16-pure" else 4
    return (residual / kept_bytes(model, recipe) + 1 / model.shape.layers) / every + (1 - 1 / every)


def _outside(target: Target) -> Figure:
    """Context, with the kernels that a compiled program loads, and NCCL."""
    gpu = None if isinstance(target.gpu, Absent) else profiles.gpu(target.gpu)
    count = gpu.multiprocessors if gpu and isinstance(gpu.multiprocessors, int) else MULTIPROCESSORS
    size = MIB * (CONTEXT_MIB + CONTEXT_MIB_PER_MULTIPROCESSOR * count)
    spread = cards.CONTEXT_SPREAD * size
    low, high = target.communication.ends
    basis = f"CUDA context of published compiled runs, {CONTEXT_MIB:g} + {CONTEXT_MIB_PER_MULTIPROCESSOR:g} MiB a SM"
    return Figure(size + target.communication.value, "predicted", basis, size - spread + low, size + spread + high)
