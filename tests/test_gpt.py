"""Does the decoder compute what its style says, on either precision, with and without checkpointing?"""

import copy
import math

import msgspec
import pytest
import torch
import torch.nn.functional as F

from rigbench.model.gpt import Decoder
from rigbench.model.record import Shape

SMALL = Shape(
    style="gpt2",
    layers=2,
    width=64,
    heads=4,
    kv_heads=4,
    ffn_width=256,
    vocabulary=97,
    sequence=32,
    tied_head=True,
    biases=True,
)
LLAMA = msgspec.structs.replace(SMALL, style="llama", kv_heads=2, ffn_width=160, biases=False)
NEOX = msgspec.structs.replace(SMALL, style="neox", tied_head=False)
STYLES = pytest.mark.parametrize("shape", [SMALL, LLAMA, NEOX], ids=lambda shape: shape.style)


def a_batch(shape, sequences=2):
    block = torch.randint(shape.vocabulary, (sequences, shape.sequence + 1), generator=torch.manual_seed(0))
    return block[:, :-1], block[:, 1:]


def a_decoder(shape, checkpointing=False):
    torch.manual_seed(1)
    return Decoder(shape, checkpointing)


@STYLES
def test_an_untrained_model_knows_nothing(shape):
    assert a_decoder(shape)(*a_batch(shape)).item() == pytest.approx(math.log(shape.vocabulary), rel=0.02)


@STYLES
def test_a_model_learns_one_batch_by_heart(shape):
    model, batch = a_decoder(shape), a_batch(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


@STYLES
def test_no_token_sees_the_future(shape):
    model = a_decoder(shape)
    tokens, targets = a_batch(shape, sequences=1)
    half = shape.sequence // 2
    changed = torch.cat((tokens[:, :half], (tokens[:, half:] + 1) % shape.vocabulary), dim=1)
    one, other = (hidden_states(model, batch, targets) for batch in (tokens, changed))
    torch.testing.assert_close(one[:, :half], other[:, :half])
    assert not torch.allclose(one[:, half:], other[:, half:])


def hidden_states(model, tokens, targets):
    seen = []
    handle = model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(tokens, targets)
    handle.remove()
    return seen[0]


@STYLES
def test_checkpointing_changes_memory_but_neither_loss_nor_gradients(shape):
    results = []
    for checkpointing in (False, True):
        model = a_decoder(shape, checkpointing)
        loss = model(*a_batch(shape))
        loss.backward()
        results.append([loss, *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(results[0], results[1])


@STYLES
@pytest.mark.parametrize(("checkpointing", "chunks"), [(2, 1), (0, 4), (1, 5), (0, 64)])
def test_a_loss_in_chunks_and_every_second_block_recomputed_change_neither_loss_nor_gradients(
    shape, checkpointing, chunks
):
    results = []
    for options in ((0, 1), (checkpointing, chunks)):
        torch.manual_seed(1)
        model = Decoder(shape, *options)
        loss = model(*a_batch(shape))
        loss.backward()
        results.append([loss, *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(results[0], results[1])


def test_a_loss_in_chunks_adds_up_the_heads_gradient_in_fp32_under_autocast():
    exact, errors = None, []
    for chunks, precision in ((1, torch.float64), (1, torch.bfloat16), (8, torch.bfloat16)):
        torch.manual_seed(1)
        model = Decoder(SMALL, loss_chunks=chunks)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            (model.double() if exact is None else model)(*a_batch(SMALL)).backward()
        gradient = model.tokens.weight.grad.double()
        exact = gradient if exact is None else exact
        errors.append(((gradient - exact).norm() / exact.norm()).item())
    assert errors[2] < 1.1 * errors[1] < 0.02


@STYLES
def test_bf16_autocast_keeps_the_loss_and_the_residual_stream_in_fp32(shape):
    model, batch = a_decoder(shape), a_batch(shape)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*batch)
        states = hidden_states(model, *batch)
    loss.backward()
    assert loss.dtype == states.dtype == torch.float32
    assert {weight.grad.dtype for weight in model.parameters()} == {torch.float32}
    assert loss.item() == pytest.approx(model(*batch).item(), rel=5e-3)


def test_gpt2_equals_a_plain_transcription_of_its_formulas():
    model, (tokens, targets) = a_decoder(SMALL).double(), a_batch(SMALL)
    weight = dict(model.named_parameters())
    T, d, heads = SMALL.sequence, SMALL.width, SMALL.heads
    x = weight["tokens.weight"][tokens] + weight["positions.weight"]
    future = torch.ones(T, T).triu(1).bool()
    for layer in range(SMALL.layers):
        at = {name.removeprefix(f"blocks.{layer}."): value for name, value in weight.items()}
        y = F.layer_norm(x, (d,), at["norm1.weight"], at["norm1.bias"])
        q, k, v = (y @ at["attention.qkv.weight"].T + at["attention.qkv.bias"]).split(d, dim=-1)
        parts = []
        for head in torch.arange(d).split(d // heads):
            scores = q[..., head] @ k[..., head].mT / math.sqrt(d // heads)
            parts.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[..., head])
        x = x + torch.cat(parts, dim=-1) @ at["attention.out.weight"].T + at["attention.out.bias"]
        y = F.layer_norm(x, (d,), at["norm2.weight"], at["norm2.bias"])
        y = y @ at["mlp.up.weight"].T + at["mlp.up.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))  # Hendrycks 2016
        x = x + y @ at["mlp.down.weight"].T + at["mlp.down.bias"]
    logits = F.layer_norm(x, (d,), weight["norm.weight"], weight["norm.bias"]) @ weight["tokens.weight"].T
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(model(tokens, targets).double(), expected, rtol=1e-6, atol=0)


def test_rotary_scores_depend_on_the_distance_alone():
    from rigbench.model.gpt import rope_tables, rotate

    rope = rope_tables(LLAMA)
    q, k = (torch.randn(1, 1, 1, 16, generator=torch.manual_seed(seed)) for seed in (1, 2))
    turned_q, turned_k = (rotate(x.expand(1, LLAMA.sequence, 1, 16), rope)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(LLAMA.sequence - 3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned_q[0], q.flatten())
    assert scores.diagonal(3)[0] != scores.diagonal(4)[0]


def test_shared_key_value_heads_equal_full_heads_with_repeated_weights():
    grouped = a_decoder(LLAMA)
    full = Decoder(msgspec.structs.replace(LLAMA, kv_heads=LLAMA.heads))
    state = copy.deepcopy(grouped.state_dict())
    D = LLAMA.width // LLAMA.heads
    for name in [name for name in state if name.endswith("qkv.weight")]:
        q, k, v = state[name].split([LLAMA.heads * D, LLAMA.kv_heads * D, LLAMA.kv_heads * D])
        repeated = [x.view(LLAMA.kv_heads, D, -1).repeat_interleave(2, dim=0).flatten(0, 1) for x in (k, v)]
        state[name] = torch.cat((q, *repeated))
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(*a_batch(LLAMA)), full(*a_batch(LLAMA)))


def test_weights_start_as_gpt2_does():
    shape = msgspec.structs.replace(SMALL, width=256, ffn_width=1024, vocabulary=2000, layers=3)
    for name, weight in a_decoder(shape).named_parameters():
        residual = name.endswith(("out.weight", "down.weight"))
        expected = 0.02 / math.sqrt(2 * 3) if residual else 0.02
        if weight.dim() == 2:
            assert weight.std().item() == pytest.approx(expected, rel=0.03), name
        else:
            assert weight.eq(1.0 if "norm" in name and name.endswith("weight") else 0.0).all(), name
