"""Are FLOP, products and an adapter's bytes those that one counts layer by layer, without building the model?"""

from __future__ import annotations

import msgspec
import pytest

from rigbench.model import counts
from rigbench.model.recipe import Recipe
from rigbench.model.record import ALL_ACTIVE, Shape

DENSE = {
    "gpt2": Shape("gpt2", 3, 48, 4, 4, 200, 101, 32, True, True),
    "neox": Shape("neox", 2, 48, 4, 4, 192, 101, 32, False, True),
    "llama": Shape("llama", 5, 48, 6, 2, 120, 101, 32, False, False, head_dim=16),
}
EXPERTS = Shape("llama", 2, 48, 4, 2, 24, 101, 32, False, False, experts=8, active_experts=2, shared_width=56)
NO_SHARED = msgspec.structs.replace(EXPERTS, shared_width=0)
SHAPES = {**DENSE, "experts": EXPERTS, "experts alone": NO_SHARED}
EVERY = pytest.mark.parametrize("name", SHAPES)


def linears(shape: Shape) -> list[tuple[str, int, int]]:
    """Of one block: name, outputs and inputs; experts are left to `experts`."""
    d, head = shape.width, shape.head_dim or shape.width // shape.heads
    found = [
        ("attention.qkv", shape.heads * head + 2 * shape.kv_heads * head, d),
        ("attention.out", d, shape.heads * head),
    ]
    if not shape.experts:
        return [
            *found,
            ("mlp.up", (2 if shape.style == "llama" else 1) * shape.ffn_width, d),
            ("mlp.down", d, shape.ffn_width),
        ]
    found.append(("mlp.router", shape.experts, d))
    if shape.shared_width:
        found += [("shared up", 2 * shape.shared_width, d), ("shared down", d, shape.shared_width), ("mlp.gate", 1, d)]
    return found


def products(shape: Shape) -> int:
    """Multiplications of a token with one block's weights."""
    expert = 2 * shape.ffn_width * shape.width + shape.width * shape.ffn_width
    return sum(outputs * inputs for _, outputs, inputs in linears(shape)) + shape.active_experts * expert


def attention(shape: Shape) -> int:
    """FLOP of a token's scores and weighted values in one layer, over all positions."""
    head = shape.head_dim or shape.width // shape.heads
    return 2 * shape.heads * (2 * head * shape.sequence)


@EVERY
def test_a_token_meets_each_block_and_the_head_once_forward_and_twice_backward(name):
    shape = SHAPES[name]
    met = shape.layers * products(shape) + 101 * 48
    assert counts.block_matmul_parameters(shape) == products(shape)
    assert counts.matmul_parameters(shape) == met
    forward = 2 * met + shape.layers * attention(shape)
    assert counts.forward_flop_per_token(shape) == forward
    assert counts.flop_per_token(shape) == 3 * forward


@EVERY
@pytest.mark.parametrize(("every", "again"), [(1, 1.0), (2, 0.5), (3, 1 / 3)])
def test_checkpointed_blocks_run_once_more_but_for_their_last_product(name, every, again):
    shape = SHAPES[name]
    last = 48 * (2 * 24 + shape.shared_width if shape.experts else shape.ffn_width)
    blocks = sum(1 for layer in range(shape.layers) if layer % every == 0)
    repeated = blocks * (2 * (products(shape) - last) + attention(shape))
    plain = counts.flop_per_token(shape)
    assert counts.hardware_flop_per_token(shape) == plain
    assert counts.hardware_flop_per_token(shape, every) == plain + repeated
    assert counts.hardware_flop_per_token(shape, every, 2) == plain + repeated + 2 * 101 * 48


def test_of_experts_those_that_are_not_chosen_are_counted_and_not_met():
    for shape in (EXPERTS, NO_SHARED):
        one = 3 * 24 * 48
        assert counts.total_parameters(shape) - counts.active_parameters(shape) == 2 * (8 - 2) * one
        described = counts.describe(shape, "it")
        assert (described.name, described.active_parameters) == ("it", counts.active_parameters(shape))
        assert described.flop_per_token_6n == 6 * counts.active_parameters(shape)
    assert counts.describe(DENSE["gpt2"], "").active_parameters == ALL_ACTIVE


@EVERY
def test_every_weight_is_multiplied_forward_for_the_data_and_for_itself(name):
    """Three products of a weight, of the same three lengths; together 6 FLOP a weight that a token meets."""
    shape, rows = SHAPES[name], 4 * 32
    found = counts.step_gemms(shape, 4)
    assert sum(it.times * it.flop for it in found) == 6 * rows * counts.matmul_parameters(shape)
    for forward, data, weight in zip(found[::3], found[1::3], found[2::3], strict=True):
        m, n, k = forward.m, forward.n, forward.k
        share = rows * 2 // 8 if forward.layer.startswith("experts") else rows
        assert m == share
        assert forward == counts.Gemm(forward.layer, "forward", m, n, k, "nt", forward.times)
        assert data == counts.Gemm(forward.layer, "data gradient", m, k, n, "nn", forward.times)
        assert weight == counts.Gemm(forward.layer, "weight gradient", n, k, m, "tn", forward.times)


def test_products_have_their_names_and_those_of_one_size_are_one():
    def listed(shape: Shape) -> dict[str, tuple[int, int, int]]:
        return {it.layer: (it.n, it.k, it.times) for it in counts.step_gemms(shape, 1)[::3]}

    assert listed(DENSE["llama"]) == {
        "qkv": (160, 48, 5),
        "attention out": (48, 96, 5),
        "mlp up": (240, 48, 5),
        "mlp down": (48, 120, 5),
        "head": (101, 48, 1),
    }
    assert listed(EXPERTS) == {
        "qkv": (96, 48, 2),
        "attention out": (48, 48, 2),
        "mlp up": (112, 48, 2),
        "mlp down": (48, 56, 2),
        "router": (8, 48, 2),
        "gate": (1, 48, 2),
        "head": (101, 48, 1),
        "experts up": (48, 48, 16),
        "experts down": (48, 24, 16),
    }
    assert "mlp up" not in listed(NO_SHARED)
    assert "gate" not in listed(NO_SHARED)
    square = Shape("gpt2", 3, 48, 4, 4, 144, 144, 32, True, True)
    assert listed(square)["qkv, mlp up, head"] == (144, 48, 7)
    few = msgspec.structs.replace(EXPERTS, sequence=3)  # of 3 tokens no expert gets a whole one
    assert next(it.m for it in counts.step_gemms(few, 1) if it.layer == "experts up") == 1


FIRST = {  # of a block: nothing before these is trained, so nobody asks for their inputs' gradient
    ("gpt2", "all"): {"attention.qkv"},
    ("gpt2", "attention"): {"attention.qkv"},
    ("llama", "all"): {"attention.qkv"},
    ("llama", "attention"): {"attention.qkv"},
    ("neox", "all"): {"attention.qkv", "mlp.up"},  # whose MLP runs beside its attention
    ("neox", "attention"): {"attention.qkv", "mlp.up", "mlp.down"},
}


@pytest.mark.parametrize(("style", "targets"), FIRST)
def test_an_adapters_flop_are_those_of_each_layer_and_pass(style, targets):
    shape, rank = DENSE[style], 6
    recipe = Recipe(adapter="lora", adapter_rank=rank, adapter_targets=targets)
    flop, trained = 0, {}
    for layer in range(shape.layers):
        flop += 3 * attention(shape)
        for name, outputs, inputs in linears(shape):
            unasked = layer == 0 and name in FIRST[style, targets]
            flop += 2 * outputs * inputs * (1 if unasked else 2)
            if targets == "all" or name.startswith("attention"):
                flop += 2 * rank * (inputs + outputs) * 2  # forward, and for the weights
                flop += 2 * rank * (outputs if unasked else inputs + outputs)  # for the data
                trained[f"blocks.{layer}.{name}.a"] = (rank, inputs)
                trained[f"blocks.{layer}.{name}.b"] = (outputs, rank)
    flop += 2 * 2 * 101 * 48  # of the head, which is frozen
    assert counts.adapted_flop_per_token(shape, recipe) == flop
    assert dict(counts.adapter_tensors(shape, recipe)) == trained
    assert counts.adapted_hardware_flop_per_token(shape, recipe) == flop
    chunked = msgspec.structs.replace(recipe, loss_chunks=2)
    assert counts.adapted_hardware_flop_per_token(shape, chunked) == flop + 2 * 101 * 48
    model = counts.adapted(counts.describe(shape, ""), recipe)
    count = sum(one * other for one, other in trained.values())
    assert model.trainable_parameters == count
    assert model.total_parameters == counts.total_parameters(shape) + count
    assert (model.flop_per_token, model.flop_per_token_6n) == (flop, 4 * counts.total_parameters(shape) + 6 * count)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(("style", "targets"), FIRST)
def test_a_checkpointed_block_with_adapters_runs_again_up_to_the_last_that_saved_something(style, targets, every):
    """That is the product before B of the last adapter, or, where the MLP has none, before the frozen MLP's last."""
    shape, rank = DENSE[style], 6
    recipe = Recipe(adapter="lora", adapter_rank=rank, adapter_targets=targets, checkpoint_every=every)
    again = 0
    for layer in range(0, shape.layers, every):
        again += attention(shape)
        untrained = layer == 0 and (style, targets) == (
            "neox",
            "attention",
        )  # before its MLP, so that this saves nothing
        for name, outputs, inputs in linears(shape):
            its = targets == "all" or name.startswith("attention")
            of_adapter = rank * (inputs + outputs) if its else 0
            if name == "mlp.down":
                again += 2 * (outputs * inputs + rank * inputs) if its else 0
            elif name == "attention.out" and untrained:
                again += 2 * (outputs * inputs + rank * inputs)
            elif name != "mlp.up" or not untrained:
                again += 2 * (outputs * inputs + of_adapter)
    extra = counts.adapted_hardware_flop_per_token(shape, recipe) - counts.adapted_flop_per_token(shape, recipe)
    assert extra == again


@pytest.mark.parametrize(
    ("elements", "weights", "scales", "scales_own"),
    [(2, 1, 1, 4), (3, 2, 1, 4), (64, 32, 1, 4), (65, 33, 2, 4), (16_384, 8_192, 256, 4), (16_385, 8_193, 257, 8)],
)
def test_four_bits_have_a_scale_for_64_weights_and_these_one_for_256(elements, weights, scales, scales_own):
    books = 16 * 4, 256 * 4, 4  # two code books and an offset, in fp32
    assert counts.nf4_bytes(elements) == (weights, scales, scales_own, *books)
