"""Do the closed forms agree with torch's own counters, and with the field's arithmetic?"""

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rigbench.model import counts, optim
from rigbench.model.gpt import Decoder
from rigbench.model.record import Shape
from rigbench.predict.loop import device_bytes, weights_of


def a_shape(style="gpt2", layers=2, width=64, heads=2, kv_heads=None, ffn=None, tied=True, biases=None, sequence=48):
    return Shape(
        style=style,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads or heads,
        ffn_width=ffn or 4 * width,
        vocabulary=131,
        sequence=sequence,
        tied_head=tied,
        biases=style != "llama" if biases is None else biases,
    )


SHAPES = [
    a_shape(),
    a_shape(layers=5, width=96, heads=3, tied=False, biases=False, sequence=17),
    a_shape("neox", layers=3, width=128, heads=2, tied=False),
    a_shape("llama", width=64, heads=2, ffn=176),
    a_shape("llama", layers=4, width=96, heads=6, kv_heads=2, ffn=256, tied=False, sequence=33),
    a_shape("llama", layers=1, width=128, heads=4, kv_heads=1, ffn=352),
]
GPT2_124M = Shape("gpt2", 12, 768, 12, 12, 3072, 50304, 1024, tied_head=True, biases=False)


def counted(shape, checkpointing, precision=torch.float32, sequences=3, loss_chunks=1):
    """FLOP of one forward and one backward pass, by torch's counter."""
    model = Decoder(shape, checkpointing, loss_chunks)
    tokens = torch.randint(shape.vocabulary, (sequences, shape.sequence))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = model(tokens, tokens)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_equal_torchs_counter_to_the_last_flop(shape):
    forward, backward = counted(shape, checkpointing=False)
    tokens = 3 * shape.sequence
    assert forward == tokens * counts.forward_flop_per_token(shape)
    assert backward == 2 * forward
    assert forward + backward == tokens * counts.flop_per_token(shape) == tokens * counts.hardware_flop_per_token(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpointing_repeats_the_blocks_but_for_their_last_product(shape):
    forward, backward = counted(shape, checkpointing=True)
    tokens = 3 * shape.sequence
    assert forward == tokens * counts.forward_flop_per_token(shape)
    assert forward + backward == tokens * counts.hardware_flop_per_token(shape, checkpoint_every=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("every", "chunks"), [(2, 1), (3, 1), (0, 4), (2, 4)])
def test_every_kth_block_and_a_chunked_loss_repeat_what_they_did_not_keep(shape, every, chunks):
    forward, backward = counted(shape, every, loss_chunks=chunks)
    tokens = 3 * shape.sequence
    assert forward == tokens * counts.forward_flop_per_token(shape)
    assert forward + backward == tokens * counts.hardware_flop_per_token(shape, every, chunks)


def test_bf16_does_the_same_operations():
    assert counted(SHAPES[0], False, torch.bfloat16) == counted(SHAPES[0], False)


def test_the_count_is_palms_formula_in_words_of_its_own():
    described = counts.describe(GPT2_124M, "124M")
    assert described.flop_per_token == 6 * described.matmul_parameters + 12 * 12 * 768 * 1024
    assert described.flop_per_token_6n == 6 * described.total_parameters


# Exact and 6·N_total MFLOP per token of eight shapes, worked out apart from this code (V = 50304, tied, no biases).
BY_HAND = [
    (4, 128, 512, 46.5, 43.7),
    (6, 192, 1024, 88.0, 75.1),
    (6, 384, 1024, 207.9, 182.0),
    (8, 512, 1024, 355.9, 308.7),
    (10, 640, 1024, 566.7, 492),
    (12, 768, 1024, 854.7, 746.1),
    (12, 768, 2048, 967.9, 750.8),
    (24, 1024, 1024, 2423, 2127),
]


@pytest.mark.parametrize(("layers", "width", "sequence", "exact", "by_6n"), BY_HAND)
def test_the_count_agrees_with_a_table_made_by_hand(layers, width, sequence, exact, by_6n):
    shape = msgspec.structs.replace(
        GPT2_124M, layers=layers, width=width, heads=2, kv_heads=2, ffn_width=4 * width, sequence=sequence
    )
    described = counts.describe(shape, "")
    assert described.flop_per_token / 1e6 == pytest.approx(exact, rel=2e-3)
    assert described.flop_per_token_6n / 1e6 == pytest.approx(by_6n, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_equal_those_of_real_weights_and_states(shape):
    model = Decoder(shape)
    optimizer = optim.build("adamw", model)
    tokens = torch.randint(shape.vocabulary, (1, shape.sequence))
    model(tokens, tokens).backward()
    optimizer.step()
    weights = weights_of(shape, 4)
    assert sum(weight.size_bytes for weight in weights) == sum(weight.nbytes for weight in model.parameters())
    states = (value for state in optimizer.state.values() for value in state.values())
    assert device_bytes("adamw", weights) == sum(value.nbytes for value in states)


def test_matrices_and_tables_decay_and_nothing_else():
    optimizer = optim.build("adamw", Decoder(SHAPES[0]), learning_rate=1e-3, weight_decay=0.2)
    decayed, rest = optimizer.param_groups
    assert {weight.dim() for weight in decayed["params"]} == {2}
    assert {weight.dim() for weight in rest["params"]} == {1}
    assert (decayed["weight_decay"], rest["weight_decay"], rest["lr"], rest["fused"]) == (0.2, 0.0, 1e-3, True)


def test_an_unknown_optimizer_is_refused():
    from rigbench.core.errors import RigbenchError

    with pytest.raises(RigbenchError, match="no optimizer 'lion'; use one of adamw, adamw-foreach"):
        optim.build("lion", Decoder(SHAPES[0]))
