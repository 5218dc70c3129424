"""Is a published config.json read as the model that its authors count, and is every other refused in one line?"""

import json

import pytest

from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model import named
from rigbench.model.counts import active_parameters, parameter_tensors, total_parameters
from rigbench.model.named import ModelOptions
from rigbench.model.record import Shape


def config(kind, layers, width, heads, kv, ffn, vocabulary, positions, **more):
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
    } | more


GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
NEOX = {k: v for k, v in config("gpt_neox", 6, 512, 8, 0, 2048, 50304, 2048).items() if k != "num_key_value_heads"}
QWEN3_MOE = config(
    "qwen3_moe", 48, 2048, 32, 4, 6144, 151936, 40960, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768
)
QWEN2_MOE = config(
    "qwen2_moe",
    24,
    2048,
    16,
    16,
    5632,
    151936,
    8192,
    num_experts=60,
    num_experts_per_tok=4,
    moe_intermediate_size=1408,
    shared_expert_intermediate_size=5632,
)
# Configurations and totals as the model cards on the Hugging Face hub have them (the totals of their weight files).
PUBLISHED = {
    "gpt2": (GPT2, 124_439_808),
    "pythia-70m": (NEOX, 70_426_624),
    "Llama-3.2-1B": (
        config("llama", 16, 2048, 32, 8, 8192, 128256, 131072, head_dim=64, tie_word_embeddings=True),
        1_235_814_400,
    ),
    "Llama-3.1-8B": (config("llama", 32, 4096, 32, 8, 14336, 128256, 131072), 8_030_261_248),
    "Mistral-7B-v0.1": (config("mistral", 32, 4096, 32, 8, 14336, 32000, 32768, sliding_window=4096), 7_241_732_096),
    "Qwen2.5-0.5B": (config("qwen2", 24, 896, 14, 2, 4864, 151936, 32768, tie_word_embeddings=True), 494_032_768),
    "Qwen2.5-7B": (config("qwen2", 28, 3584, 28, 4, 18944, 152064, 131072), 7_615_616_512),
    "Qwen3-0.6B": (
        config("qwen3", 28, 1024, 16, 8, 3072, 151936, 40960, head_dim=128, tie_word_embeddings=True),
        596_049_920,
    ),
    "Qwen3-8B": (config("qwen3", 36, 4096, 32, 8, 12288, 151936, 40960, head_dim=128), 8_190_735_360),
    "gemma-2b": (config("gemma", 18, 2048, 8, 1, 16384, 256000, 8192, head_dim=256), 2_506_172_416),
    "gemma-7b": (config("gemma", 28, 3072, 16, 16, 24576, 256000, 8192, head_dim=256), 8_537_680_896),
    "gemma-2-2b": (config("gemma2", 26, 2304, 8, 4, 9216, 256000, 8192, head_dim=256), 2_614_341_888),
    "gemma-3-1b": (config("gemma3_text", 26, 1152, 4, 1, 6912, 262144, 32768, head_dim=256), 999_885_952),
    "Mixtral-8x7B": (
        config("mixtral", 32, 4096, 32, 8, 14336, 32000, 32768, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Qwen1.5-MoE-A2.7B": (QWEN2_MOE, 14_315_784_192),
    "Qwen3-30B-A3B": (QWEN3_MOE, 30_532_122_624),
}


@pytest.fixture
def read(tmp_path):
    def read(content, name="mine", **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return named.choose(ModelOptions(model=str(folder / "config.json"), **changes))

    return read


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_has_its_authors_count_to_the_last_parameter(read, name):
    written, total = PUBLISHED[name]
    model = read(written, name)
    assert model.total_parameters == total
    assert model.name == name or model.shape.experts
    assert model.shape.sequence <= 4096


# Active parameters as the authors round them: Mistral's announcement of Mixtral; Qwen's model cards.
@pytest.mark.parametrize(
    ("name", "active", "words"),
    [
        ("Mixtral-8x7B", 12.9, "Mixtral-8x7B (12.9B active of 46.7B)"),
        ("Qwen1.5-MoE-A2.7B", 2.7, "Qwen1.5-MoE-A2.7B (2.7B active of 14.3B)"),
        ("Qwen3-30B-A3B", 3.3, "Qwen3-30B-A3B (3.4B active of 30.5B)"),
    ],
)
def test_a_mixture_says_what_a_token_meets_and_what_there_is(read, name, active, words):
    model = read(PUBLISHED[name][0], name)
    assert model.name == words
    assert model.active_parameters / 1e9 == pytest.approx(active, abs=0.06)
    assert model.flop_per_token_6n == 6 * model.active_parameters
    with pytest.raises(RigbenchError, match="does not train") as refusal:
        named.refuse_to_train((model,))
    assert refusal.value.exit_code == NOTHING


def test_a_dense_model_is_active_as_a_whole(read):
    assert isinstance(read(GPT2).active_parameters, Absent)
    named.refuse_to_train((read(GPT2),))


def test_the_text_of_a_model_with_eyes_is_what_counts(read):
    written, total = PUBLISHED["gemma-3-1b"]
    assert read({"model_type": "gemma3", "text_config": written, "vision_config": {}}).total_parameters == total


def test_sliding_windows_are_predicted_and_not_trained(read):
    mistral = read(PUBLISHED["Mistral-7B-v0.1"][0])
    assert (mistral.shape.window, mistral.shape.windowed_layers) == (4096, 32)
    named.refuse_to_train((mistral,))
    assert read(PUBLISHED["Llama-3.1-8B"][0]).shape.windowed_layers == 0
    wide = read(PUBLISHED["gemma-3-1b"][0] | {"sliding_window": 512})
    assert (wide.shape.window, wide.shape.windowed_layers) == (512, 22)
    with pytest.raises(RigbenchError, match="give --seq of at most 512"):
        named.refuse_to_train((wide,))


def test_options_beside_it_change_it(read):
    model = read(PUBLISHED["Qwen2.5-0.5B"][0], "q", sequence=8192)
    assert (model.shape.sequence, model.name) == (8192, "q")
    assert read(PUBLISHED["Qwen2.5-0.5B"][0], layers=12).shape.qkv_biases


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (config("mamba2", 1, 2, 1, 1, 2, 2, 8), "model_type 'mamba2' is not known (gpt2, gpt_neox, llama"),
        ({"model_type": "bloom", "n_layer": 3}, "as a Llama it would lack num_hidden_layers, hidden_size"),
        (config("foo", 4, 64, 4, 4, 96, 256, 64), "it has a Llama's fields; write its shape as a FILE.toml"),
        (config("llama", 4, 64, 4, 4, None, 256, 64), "intermediate_size missing or no whole number"),
        (config("llama", 4, 64, 4, 4, True, 256, 64), "intermediate_size missing or no whole number"),
        (config("llama", 4, 64, 4, 4, 96, 256, 64, attention_bias=True), "attention_bias = True is not what"),
        (config("llama", 4, 64, 5, 5, 96, 256, 64), "heads = 5 does not divide the width of 64"),
        (config("llama", 4, 64, 4, 3, 96, 256, 64), "kv_heads = 3 does not divide the 4 heads"),
        (config("llama", 4, 64, 0, 0, 96, 256, 64), ": heads = 0 is not within"),
        (config("llama", 0, 64, 4, 4, 96, 256, 64), "layers = 0 is not within"),
        (QWEN3_MOE | {"num_experts_per_tok": 200}, "200 of 128 experts see each token"),
        (QWEN2_MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not what"),
        ({"architectures": ["X"]}, "names no model_type"),
        ("[1, 2]", "names no model_type"),
        ("{", "is not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_missing(read, content, complaint):
    with pytest.raises(RigbenchError) as refusal:
        read(content)
    assert complaint in str(refusal.value)
    assert refusal.value.exit_code == BAD_INPUT


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(RigbenchError, match="cannot read it"):
        named.choose(ModelOptions(model=str(tmp_path / "config.json")))


SMALL = Shape("llama", 2, 64, 4, 2, 96, 256, 32, tied_head=True, biases=False)
KINDS = {
    "qkv biases": {"qkv_biases": True},
    "norms of queries and keys, wide heads": {"qk_norms": True, "head_dim": 24},
    "four norms": {"post_norms": True},
    "experts": {"experts": 8, "active_experts": 2},
    "a shared expert": {"experts": 6, "active_experts": 4, "shared_width": 80, "qkv_biases": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_that_is_built_has_the_tensors_that_are_counted(kind):
    import msgspec
    import torch

    from rigbench.model.gpt import Decoder

    shape = msgspec.structs.replace(SMALL, **KINDS[kind])
    model = Decoder(shape)
    assert [(name, tuple(its.shape)) for name, its in model.named_parameters()] == list(parameter_tensors(shape))
    tokens = torch.randint(0, 256, (2, 33))
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_flop_are_those_that_torch_counts(kind):
    import msgspec
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from rigbench.model.counts import flop_per_token, step_gemms
    from rigbench.model.gpt import Decoder

    shape = msgspec.structs.replace(SMALL, **KINDS[kind])
    model, tokens = Decoder(shape), torch.randint(0, 256, (3, 33))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens[:, :-1], tokens[:, 1:]).backward()
    assert counter.get_total_flops() == flop_per_token(shape) * 96
    products = sum(gemm.flop * gemm.times for gemm in step_gemms(shape, 3))
    assert products == (flop_per_token(shape) - 12 * shape.layers * shape.query_width * shape.sequence) * 96
    assert total_parameters(shape) - active_parameters(shape) == (
        shape.layers * (shape.experts - shape.active_experts) * 3 * 96 * 64
    )
